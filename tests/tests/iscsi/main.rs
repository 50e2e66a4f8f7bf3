//! LUNs of an iSCSI target, Debian's tgtd: commands, reservations, logging in, and connections
//! that are cut or stall.

mod commands;
mod cuts;
mod reservations;

use std::thread;
use std::time::{Duration, Instant};

use vmfs_core::scsi::{
    DeviceOffset, IscsiLun, IscsiTimeouts, Key, Lun, LunError, PersistentReserve, ReservationType,
};
use vmfs_tests::tgt::Target;

/// Short, since no test shall wait long, but long enough for a busy machine.
const TIMEOUTS: IscsiTimeouts = IscsiTimeouts {
    command: Duration::from_secs(2),
    total: Duration::from_secs(8),
    change: Duration::from_secs(6),
};
const SIZE: u64 = 64 << 20;
const SHARED: ReservationType = ReservationType::WriteExclusiveRegistrantsOnly;

fn open(target: &Target, initiator: &str) -> IscsiLun {
    target.open(initiator, TIMEOUTS).expect("the LUN opens")
}

fn at(offset: u64) -> DeviceOffset {
    DeviceOffset(offset)
}

fn write(lun: &IscsiLun, byte: u8) -> Result<(), LunError> {
    lun.write(at(0), &[byte; 512])
}

fn first_byte(lun: &IscsiLun) -> u8 {
    let mut buf = [0; 512];
    lun.read(at(0), &mut buf).expect("read");
    buf[0]
}

fn is_conflict<T>(result: &Result<T, LunError>) -> bool {
    matches!(result, Err(LunError::ReservationConflict { .. }))
}

fn is_lost<T>(result: &Result<T, LunError>) -> bool {
    matches!(result, Err(LunError::ReservationLost { .. }))
}

/// Waits for what doesn't take long.
fn eventually(what: &str, happens: impl FnMut() -> bool) {
    within(Duration::from_secs(20), what, happens);
}

fn within(time: Duration, what: &str, mut happens: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happens() {
        assert!(start.elapsed() < time, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn register(lun: &IscsiLun, key: u64) {
    let key = Some(Key(key));
    let action = PersistentReserve::Register { key };
    lun.persistent_reserve(action).expect("register");
}

fn reserve(lun: &IscsiLun, key: u64) -> Result<(), LunError> {
    lun.persistent_reserve(PersistentReserve::Reserve {
        key: Key(key),
        kind: SHARED,
    })
}

fn preempt(lun: &IscsiLun, key: u64, victim: u64) -> Result<(), LunError> {
    lun.persistent_reserve(PersistentReserve::Preempt {
        key: Key(key),
        victim: Key(victim),
        kind: SHARED,
    })
}
