//! Journal blocks belong to no file: the heartbeats in use name them.

use vmfs_core::format::BlockAddr;

use crate::usage::Marked;
use crate::{Check, Code};

/// Marks the journal block of every heartbeat in use.
pub fn run(check: &mut Check<'_>) {
    let hosts = match check.fs.hosts() {
        Ok(hosts) => hosts,
        Err(error) => {
            return check
                .report
                .add(Code::HeartbeatsUnreadable, error.to_string());
        }
    };
    for host in hosts {
        let addr = BlockAddr::decode(host.journal_addr.into(), check.fs.layout());
        check.report.addresses += 1;
        let code = match check.usage.mark(addr) {
            Marked::First => continue,
            Marked::Again => Code::Duplicate,
            Marked::OutOfRange => Code::OutOfRange,
        };
        check.report.add(
            code,
            format!("{addr:?}, journal of heartbeat {}", host.slot),
        );
    }
}
