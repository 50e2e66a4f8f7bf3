//! What a host left in the journal that its heartbeat names.

use vmfs_core::cluster::Host;
use vmfs_core::format::Layout;
use vmfs_core::journal::{JournalError, JournalHeader, is_unused};
use vmfs_core::lvm::{LvmError, Volume};

use crate::code::Code;
use crate::finding::Finding;

/// What is in a journal.
#[derive(Debug)]
pub(crate) enum Journal {
    /// Nothing of this host's.
    Nothing,
    /// What an OpenVMFS host wrote, which can be replayed.
    Ours(JournalHeader),
    /// Changes that only ESXi can replay.
    Foreign,
    /// Something that nobody can replay, and why.
    Damaged(String),
}

/// The journal of `host`.
///
/// # Errors
/// The device can't be read there.
pub(crate) fn of(volume: &Volume, layout: &Layout, host: &Host) -> Result<Journal, LvmError> {
    if host.journal_addr == 0 {
        return Ok(Journal::Nothing);
    }
    if host.journal.0.saturating_add(layout.md_block) > volume.size() {
        return Ok(Journal::Damaged(format!(
            "it is said to lie at {}, behind the end of the volume",
            host.journal
        )));
    }
    if let Some(header) = JournalHeader::read(volume, host.journal)? {
        // A host that died before it wrote its own may leave the one of an earlier use.
        let own = header.is_of(host.host, host.generation);
        return Ok(if own {
            Journal::Ours(header)
        } else {
            Journal::Nothing
        });
    }
    if is_unused(volume, layout, host.journal)? {
        return Ok(Journal::Nothing);
    }
    if host.method.is_none() {
        return Ok(Journal::Foreign);
    }
    if host.taken_by != (0, 0) {
        // Given back by the host that took over, and perhaps in use for something else.
        return Ok(Journal::Nothing);
    }
    Ok(Journal::Damaged(format!(
        "at {} there is no header of a journal",
        host.journal
    )))
}

/// Whether a replay failed because of what is in the journal, not because of the device.
pub(crate) fn is_damage(error: &JournalError) -> bool {
    !matches!(error, JournalError::Volume(LvmError::Lun(_)))
}

/// The finding about a journal that can't be replayed.
pub(crate) fn damaged(host: &Host, why: String) -> Finding {
    let structure = format!("journal of heartbeat slot {}", host.slot);
    Finding::new(Code::JournalDamaged, structure, why)
        .at_volume(host.offset.0)
        .repair("give up what is in it, and free the slot")
        .loses("the host's changes of its last moments that aren't in place")
}
