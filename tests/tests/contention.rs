//! Hosts as real processes on one image, or one LUN of an iSCSI target, for some seconds; `contention` does it for longer.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use vmfs_core::cluster::LockMethod;
use vmfs_core::format::Family;
use vmfs_tests::contention::ground::Ground;
use vmfs_tests::contention::run::{Plan, Program};
use vmfs_tests::contention::{fence, verdict};
use vmfs_tests::random::setting;

const PROGRAM: &str = env!("CARGO_BIN_EXE_contention");

fn plan(hosts: usize, family: Family, lock: LockMethod) -> Plan {
    let fresh = u64::from(std::process::id());
    Plan {
        hosts,
        family,
        lock,
        time: Duration::from_secs(setting("VMFS_CONTENTION_SECONDS", 4)),
        kills: true,
        stops: true,
        seed: setting("VMFS_CONTENTION_SEED", fresh),
        heartbeat: 150,
        lease: 2000,
        pause: 0,
        fuse: None,
    }
}

/// Whatever happens to some of the hosts, names, contents and structure are exact afterwards, and no host
/// has used a command of the other way to lock.
fn contend(hosts: usize, family: Family, lock: LockMethod) {
    let plan = plan(hosts, family, lock);
    let folder = tempfile::tempdir().expect("a folder");
    let ground = Ground::make(folder.path(), &plan);
    judge(folder, &ground, &plan);
}

fn judge(folder: TempDir, ground: &Ground, plan: &Plan) {
    let program = Program {
        path: PROGRAM.into(),
        arguments: vec!["host".to_owned()],
    };
    verdict::must_hold(&program, folder, ground, plan);
}

#[test]
fn two_hosts_that_lock_by_ats() {
    contend(2, Family::Vmfs6, LockMethod::Ats);
}

#[test]
fn two_hosts_that_lock_by_reservations() {
    contend(2, Family::Vmfs5, LockMethod::Scsi2);
}

#[test]
fn eight_hosts_that_lock_by_ats() {
    contend(8, Family::Vmfs5, LockMethod::Ats);
}

#[test]
fn eight_hosts_that_lock_by_reservations() {
    contend(8, Family::Vmfs6, LockMethod::Scsi2);
}

/// The same with links that are cut and a target that is killed and started anew.
#[test]
fn four_hosts_on_an_iscsi_target() {
    let mut plan = plan(4, Family::Vmfs6, LockMethod::Scsi2);
    (plan.heartbeat, plan.lease) = (500, 10_000);
    let folder = tempfile::tempdir().expect("a folder");
    if let Some(ground) = Ground::over_iscsi(folder.path(), &plan) {
        judge(folder, &ground, &plan);
    }
}

/// Nothing that a host writes lands after another one has taken over from it, wherever it was stopped.
#[test]
fn stopped_hosts_write_nothing_more() {
    for (family, lock) in [
        (Family::Vmfs6, LockMethod::Ats),
        (Family::Vmfs5, LockMethod::Scsi2),
    ] {
        let mut plan = plan(2, family, lock);
        (plan.heartbeat, plan.lease) = (40, 600);
        let folder = tempfile::tempdir().expect("a folder");
        let ground = Ground::make(folder.path(), &plan);
        let found = fence::run(Path::new(PROGRAM), &ground, &plan, 10);
        let found = found.unwrap_or_else(|error| panic!("{plan:?}: {error}"));
        println!("{family} by {lock}: {:?}", found.takeovers);
        assert_eq!(found.trials, 10);
    }
}
