//! Mounts in each other's way, which are killed and stopped at random, for some seconds; `contention run --mounts` does it
//! for longer.

use std::path::PathBuf;
use std::time::Duration;

use vmfs_core::cluster::LockMethod;
use vmfs_core::format::Family;
use vmfs_tests::contention::ground::Ground;
use vmfs_tests::contention::host::{self, Settings};
use vmfs_tests::contention::run::{Plan, Program};
use vmfs_tests::contention::verdict;
use vmfs_tests::random::setting;

/// Whatever happens to the mounts, names, contents and structure are exact afterwards.
fn contend(family: Family, lock: LockMethod) {
    let plan = Plan {
        hosts: 2,
        family,
        lock,
        time: Duration::from_secs(setting("VMFS_CONTENTION_SECONDS", 6)),
        kills: true,
        stops: true,
        seed: setting("VMFS_CONTENTION_SEED", u64::from(std::process::id())),
        heartbeat: 300,
        lease: 4000,
        pause: 0,
        fuse: Some(PathBuf::from(env!("CARGO_BIN_EXE_vmfs-fuse"))),
    };
    let worker = ["works_on_a_mount", "--exact", "--ignored", "--nocapture"];
    let program = Program {
        path: std::env::current_exe().expect("this test"),
        arguments: worker.map(str::to_owned).to_vec(),
    };
    let folder = tempfile::tempdir().expect("a folder");
    let ground = Ground::make(folder.path(), &plan);
    verdict::must_hold(&program, folder, &ground, &plan);
}

#[test]
fn two_mounts_that_lock_by_ats() {
    contend(Family::Vmfs6, LockMethod::Ats);
}

#[test]
fn two_mounts_that_lock_by_reservations() {
    contend(Family::Vmfs5, LockMethod::Scsi2);
}

/// Not a test: the process that works on a mount.
#[test]
#[ignore = "started by the others"]
fn works_on_a_mount() {
    if let Some(settings) = Settings::from_environment() {
        std::process::exit(host::run(&settings).code().into());
    }
}
