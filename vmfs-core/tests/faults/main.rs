//! Commands of the LUN fail, one at a time and for a while: the call that needs them fails, has
//! happened wholly or not at all, and everything goes on.

#[path = "../common/mod.rs"]
mod common;
mod content;
mod deletions;
mod lossy;
mod script;

use std::env;
use std::sync::Arc;

use common::{Host, fsck, volume};
use rustix::io::Errno;
use vmfs_core::format::Family;
use vmfs_core::fs::FileSystem;
use vmfs_core::lvm::open_luns;
use vmfs_core::scsi::{FaultLun, Faults, Lun, MemoryLun};

use content::observe;
use lossy::LossyLun;
use script::{Call, Run, script};

/// Commands of the script that fail in a test of CI: every so manieth.
const STRIDE: usize = 9;

fn mount(lun: Arc<dyn Lun>, host: u32) -> FileSystem {
    let volume = open_luns(vec![lun]).expect("volume");
    FileSystem::open_for_writing(volume, Host::new(host).0).expect("mount")
}

/// Runs the script; commands fail from number `good` on, `bad` of them. Returns how many commands
/// there were and how many calls failed.
fn run(fresh: &MemoryLun, good: u64, bad: u64, reads: bool) -> (u64, usize) {
    let lun = Arc::new(fresh.replica("volume"));
    let faults = Arc::new(Faults::none(reads, true));
    let fs = mount(
        Arc::new(FaultLun::new(Arc::clone(&lun), Arc::clone(&faults))),
        1,
    );
    let before = faults.seen();
    faults.set(good, bad);
    let mut run = Run::new(fs, faults);
    let script = script();
    let failed = script.iter().filter(|call| !run.step(call)).count();
    let commands = run.faults.seen() - before;
    run.faults.set(u64::MAX, 0);
    run.compare("at the end");
    run.fs.sync().expect("the LUN is back");
    // One host leaves, another one dies.
    if good.is_multiple_of(2) {
        run.fs.close().expect("close");
        fsck(&lun);
    }
    run.fs = mount(Arc::clone(&lun) as Arc<dyn Lun>, 2);
    run.compare("mounted again");
    run.fs.close().expect("close");
    fsck(&lun);
    (commands, failed)
}

fn run_all(family: Family) {
    let fresh = volume(family);
    let all = env::var_os("VMFS_ALL_FAULTS").is_some();
    for reads in [false, true] {
        let (commands, failed) = run(&fresh, u64::MAX, 0, reads);
        assert_eq!(failed, 0);
        let mut failures = 0;
        let mut runs = 0;
        for good in (0..commands).step_by(if all { 1 } else { STRIDE }) {
            for bad in [1, 4] {
                failures += run(&fresh, good, bad, reads).1;
                runs += 1;
            }
        }
        println!("{family}: {commands} commands, {runs} runs, {failures} calls failed");
        assert!(failures > runs / 2, "what fails must be told");
    }
}

#[test]
fn a_command_that_fails_on_vmfs5_fails_one_call() {
    run_all(Family::Vmfs5);
}

#[test]
fn a_command_that_fails_on_vmfs6_fails_one_call() {
    run_all(Family::Vmfs6);
}

/// Runs the script on a LUN whose flush number `bad` loses what it was to make durable; returns how
/// many files were told to be lost.
fn run_and_lose(fresh: &MemoryLun, bad: u64) -> usize {
    let lun = Arc::new(fresh.replica("volume"));
    let lossy = Arc::new(LossyLun::new(Arc::clone(&lun)));
    let fs = mount(Arc::clone(&lossy) as Arc<dyn Lun>, 1);
    lossy.lose(bad);
    let faults = Arc::new(Faults::none(false, false));
    let mut run = Run::new(fs, faults);
    for call in script() {
        // What is copied may be lost already.
        if matches!(call, Call::Copy(..)) {
            continue;
        }
        let result = run.make_and_note(&call);
        if let Err(error) = result {
            assert_eq!(error.errno(), Errno::IO, "{call:?}: {error}");
            assert!(
                matches!(call, Call::Sync | Call::KeepUp),
                "{call:?}: {error}"
            );
        }
    }
    lossy.lose(u64::MAX);
    // What nobody was told of must be there, in memory and on the volume.
    let mut lost = Vec::new();
    for (name, content) in run.state() {
        if content.is_some() && run.fs.sync_file(run.fd(&name).expect("file")).is_err() {
            lost.push(name.clone());
            run.fs
                .sync_file(run.fd(&name).expect("file"))
                .expect("told once");
        }
    }
    let expected = run.state();
    drop(run);
    let fs = mount(Arc::clone(&lun) as Arc<dyn Lun>, 2);
    let found = observe(&fs);
    assert!(found.keys().eq(expected.keys()), "flush {bad}: names");
    for (name, content) in &expected {
        let right = lost.contains(name) || found[name] == *content;
        assert!(right, "flush {bad}: {name} is lost, and nobody was told");
    }
    fs.close().expect("close");
    fsck(&lun);
    lost.len()
}

#[test]
fn what_a_failed_flush_loses_is_told_and_metadata_is_written_again() {
    for family in [Family::Vmfs5, Family::Vmfs6] {
        let fresh = volume(family);
        let lost: usize = (0..12).map(|bad| run_and_lose(&fresh, bad)).sum();
        assert!(lost > 3, "{family}: {lost} files");
    }
}
