//! Heartbeat slots and the journals that they name: docs/fsck/hosts.md.

use vmfs_core::cluster::{self, Host};
use vmfs_core::format::{At, BlockAddr, HeartbeatState, Layout, view};
use vmfs_core::journal::replay;
use vmfs_core::lvm::{Volume, VolumeOffset};

use crate::check::Check;
use crate::code::Code;
use crate::finding::Finding;
use crate::journals::{self, Journal};
use crate::plan::Stage;
use crate::round::Round;
use crate::usage::Marked;

/// Looks at every slot, shows what hosts have in their journals; returns the hosts.
pub(crate) fn run(check: &mut Check<'_>, volume: &Volume, layout: &Layout) -> Vec<Host> {
    let found = match cluster::hosts(volume, layout) {
        Ok(hosts) => hosts,
        Err(error) => {
            check.found(Finding::new(
                Code::HeartbeatsUnreadable,
                "heartbeat slots",
                error.to_string(),
            ));
            return Vec::new();
        }
    };
    misplaced(check, volume, layout);
    let mut hosts = Vec::new();
    for host in found {
        if let HeartbeatState::Unknown(state) = host.state {
            let finding = Finding::new(
                Code::HeartbeatDamaged,
                format!("heartbeat slot {}", host.slot),
                format!("its state is {state:#x}, expected 0xabcdef01 or 0xabcdef02"),
            )
            .at_volume(host.offset.0)
            .repair("mark the slot free");
            if check.found(finding) {
                clear(check, volume, &host);
            }
            continue;
        }
        check.found(
            Finding::new(
                Code::HostPresent,
                format!("heartbeat slot {}", host.slot),
                format!(
                    "host {} has the volume mounted or didn't unmount it",
                    host.shown()
                ),
            )
            .at_volume(host.offset.0),
        );
        if !check.replayed {
            show_journal(check, volume, layout, &host);
        }
        hosts.push(host);
    }
    check.replayed = true;
    hosts
}

pub(crate) fn clear(check: &mut Check<'_>, volume: &Volume, host: &Host) {
    check.plan.set_stage(Stage::Refer);
    // A slot that was read can be written.
    let _ = cluster::clear_slot(volume, host.offset);
}

/// Free slots that say they lie elsewhere.
fn misplaced(check: &mut Check<'_>, volume: &Volume, layout: &Layout) {
    const CHUNK: u64 = 64;
    let size = layout.heartbeat_size;
    for first in (0..layout.heartbeat_slots).step_by(CHUNK as usize) {
        let start = layout.heartbeats + first * size;
        let mut bytes = vec![0; (CHUNK.min(layout.heartbeat_slots - first) * size) as usize];
        if volume.read(VolumeOffset(start), &mut bytes).is_err() {
            continue;
        }
        for (index, slot) in (0..).zip(bytes.chunks_exact(size as usize)) {
            let offset = start + index * size;
            let Ok(slot) =
                view::<vmfs_core::format::Heartbeat>(slot, "heartbeat", At::Volume(offset))
            else {
                continue;
            };
            let address = slot.address.get();
            // A slot of zeros was never written.
            if address == offset || address == 0 && slot.state.get() == 0 {
                continue;
            }
            if matches!(slot.state(), HeartbeatState::Unknown(_)) {
                continue;
            }
            let finding = Finding::new(
                Code::HeartbeatDamaged,
                format!("heartbeat slot {}", first + index),
                format!("its own address is {address:#x}, expected {offset:#x}"),
            )
            .at_volume(offset)
            .repair("write its address");
            if check.found(finding) {
                check.plan.set_stage(Stage::Refer);
                let field = std::mem::offset_of!(vmfs_core::format::Heartbeat, address) as u64;
                let _ = volume.write(VolumeOffset(offset + field), &offset.to_le_bytes());
            }
        }
    }
}

/// Shows the volume as a replay of a host's journal would leave it.
fn show_journal(check: &mut Check<'_>, volume: &Volume, layout: &Layout, host: &Host) {
    let left = match journals::of(volume, layout, host) {
        Ok(left) => left,
        Err(error) => {
            let structure = format!("journal of heartbeat slot {}", host.slot);
            let finding = Finding::new(Code::JournalDamaged, structure, error.to_string());
            check.found(finding.at_volume(host.journal.0));
            return;
        }
    };
    match left {
        Journal::Nothing => {}
        Journal::Ours(header) => {
            check.plan.set_stage(Stage::New);
            match replay(volume, host.journal, &header) {
                Ok(replayed) if replayed.transactions > 0 => {
                    tracing::debug!(host = %host.host, replayed.transactions, "shown from the journal");
                }
                Ok(_) => {}
                Err(error) => {
                    check.found(journals::damaged(host, error.to_string()));
                }
            }
        }
        Journal::Foreign => {
            let finding = Finding::new(
                Code::JournalForeign,
                format!("journal of heartbeat slot {}", host.slot),
                "it isn't empty, and only ESXi can replay it: nothing is repaired before a host has mounted and unmounted the volume",
            );
            check.found(finding.at_volume(host.journal.0));
        }
        Journal::Damaged(why) => {
            check.found(journals::damaged(host, why));
        }
    }
}

/// Journal blocks belong to no file: the heartbeats in use name them.
pub(crate) fn mark_journals(round: &mut Round<'_, '_>) {
    for host in round.hosts.clone() {
        if host.journal_addr == 0 {
            continue;
        }
        let addr = BlockAddr::decode(host.journal_addr.into(), &round.layout);
        round.check.report.addresses += 1;
        let code = match round.usage.mark(addr) {
            Marked::First => continue,
            Marked::Again => Code::Duplicate,
            Marked::OutOfRange => Code::OutOfRange,
        };
        let finding = Finding::new(
            code,
            format!("heartbeat slot {}", host.slot),
            format!("its journal is {}", super::maps::shown(addr)),
        );
        round.found(finding.at_volume(host.offset.0));
    }
}
