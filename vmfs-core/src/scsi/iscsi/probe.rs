//! Finding out what a LUN is and can do, without changing anything.

use std::io;
use std::thread;
use std::time::Duration;

use vmfs_iscsi::{Data, Moment};

use super::command::{self, Command, UNKNOWN_COMMAND};
use super::nexus::{Failure, Nexus};
use super::pages::{self, CAPACITY_ROOM, Capacity, Limits, PAGE_ROOM, STANDARD_ROOM};
use super::persistent;
use super::quirks::Quirks;
use crate::scsi::array::LunIdentity;
use crate::scsi::lun::Capabilities;

/// How long another host's reservation is waited for: with SCSI-2 locking they are short.
const CONFLICTS: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// What a LUN is and can do.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) capacity: Capacity,
    pub(super) identity: Option<LunIdentity>,
    pub(super) limits: Limits,
    pub(super) capabilities: Capabilities,
    pub(super) zeroing: Zeroing,
}

/// How zeros are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Zeroing {
    /// As bytes.
    Write,
    /// By WRITE SAME.
    Same,
    /// By WRITE SAME that unmaps the blocks, which then read as zeros.
    Unmap,
}

/// Asks for everything.
pub(super) fn probe(nexus: &Nexus) -> Result<Found, Failure> {
    let standard = Command::inquiry(STANDARD_ROOM as u16);
    let quirks = Quirks::of(&ask(nexus, &standard, STANDARD_ROOM)?);
    nexus.know(quirks);
    let room = ask(
        nexus,
        &Command::read_capacity(CAPACITY_ROOM as u32),
        CAPACITY_ROOM,
    )?;
    let capacity = Capacity::parse(&room).filter(|capacity| matches!(capacity.block, 512 | 4096));
    let capacity = capacity.ok_or_else(|| {
        let text = "it has no size, or blocks of neither 512 nor 4096 bytes";
        Failure::Io(io::Error::new(io::ErrorKind::InvalidData, text))
    })?;
    let list = page(nexus, command::SUPPORTED_PAGES)?.unwrap_or_default();
    let pages = pages::supported_pages(&list);
    let page_if_there = |code: u8| {
        if pages.contains(&code) {
            page(nexus, code)
        } else {
            Ok(None)
        }
    };
    let identity = page_if_there(command::IDENTIFICATION)?;
    let limits = page_if_there(command::BLOCK_LIMITS)?;
    let limits = limits.map_or_else(Limits::default, |page| Limits::parse(&page));
    let provisioning = page_if_there(command::PROVISIONING)?;
    let (unmap, same_unmaps) =
        provisioning.map_or((false, false), |page| pages::provisioning(&page));
    let zeroing = if !may_have(nexus, command::WRITE_SAME)? {
        Zeroing::Write
    } else if same_unmaps && capacity.unmapped_is_zero {
        Zeroing::Unmap
    } else {
        Zeroing::Same
    };
    let capabilities = Capabilities {
        compare_and_write: quirks.knows_itself
            && limits.compare > 0
            && has_compare_and_write(nexus)?,
        // RELEASE of what isn't reserved does nothing.
        reserve: may_have(nexus, command::RESERVE)?
            && knows(nexus, &Command::release(), Data::None)?,
        persistent_reserve: has_persistent_reservations(nexus)?,
        unmap: may_have(nexus, command::UNMAP)? && (unmap || limits.unmap.is_some()),
    };
    Ok(Found {
        capacity,
        identity: identity.and_then(|page| pages::identity(&page)),
        limits,
        capabilities,
        zeroing,
    })
}

/// A target that says that it has COMPARE AND WRITE, or doesn't say, is given one of no blocks, which
/// compares and writes nothing: what a target says of itself is not enough. An array that says that
/// it lacks the command never sees one.
fn has_compare_and_write(nexus: &Nexus) -> Result<bool, Failure> {
    Ok(may_have(nexus, command::COMPARE_AND_WRITE)?
        && knows(nexus, &Command::compare_and_write(0, 0), Data::None)?)
}

fn has_persistent_reservations(nexus: &Nexus) -> Result<bool, Failure> {
    let mut room = vec![0; persistent::ROOM.into()];
    let command = Command::persistent_in(command::READ_KEYS, persistent::ROOM);
    knows(nexus, &command, Data::In(&mut room))
}

/// Whether the target knows a command, which is given to it.
fn knows(nexus: &Nexus, command: &Command, data: Data<'_>) -> Result<bool, Failure> {
    match nexus.run(command, data) {
        Err(Failure::Illegal(sense)) => Ok(sense.code != UNKNOWN_COMMAND),
        Ok(_) | Err(Failure::Conflict | Failure::Miscompare) => Ok(true),
        Err(failure) => Err(failure),
    }
}

/// Whether the target doesn't say that it lacks a command.
fn may_have(nexus: &Nexus, code: u8) -> Result<bool, Failure> {
    const ROOM: usize = 64;
    let command = Command::report_operation_code(code, ROOM as u32);
    match ask(nexus, &command, ROOM) {
        Ok(bytes) => Ok(pages::is_supported(&bytes).unwrap_or(true)),
        Err(Failure::Illegal(_)) => Ok(true),
        Err(failure) => Err(failure),
    }
}

/// A vital product data page; nothing if the target doesn't have it.
fn page(nexus: &Nexus, code: u8) -> Result<Option<Vec<u8>>, Failure> {
    match ask(
        nexus,
        &Command::inquire_page(code, PAGE_ROOM as u16),
        PAGE_ROOM,
    ) {
        Ok(bytes) if bytes.get(1) == Some(&code) => Ok(Some(bytes)),
        Ok(_) | Err(Failure::Illegal(_)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// A command that gives up to `room` bytes. Waits while the LUN is reserved, in which not every
/// target lets others even ask.
fn ask(nexus: &Nexus, command: &Command, room: usize) -> Result<Vec<u8>, Failure> {
    let start = Moment::now();
    let mut bytes = vec![0; room];
    loop {
        match nexus.run(command, Data::In(&mut bytes)) {
            Ok((missing, _)) => {
                bytes.truncate(room.saturating_sub(missing));
                return Ok(bytes);
            }
            Err(Failure::Conflict) if start.elapsed() < CONFLICTS => thread::sleep(PAUSE),
            Err(failure) => return Err(failure),
        }
    }
}
