use std::fmt;
use std::ops::{Add, Range};

use super::array::{Attention, LunIdentity};
use super::counters::Counters;
use super::error::LunError;
use super::persistent::{PersistentReserve, Reservations};

/// A byte offset on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct DeviceOffset(pub u64);

impl Add<u64> for DeviceOffset {
    type Output = Self;

    fn add(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }
}

impl fmt::Display for DeviceOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Whether a LUN is opened for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The file is opened `O_RDONLY`; writes fail without reaching it.
    ReadOnly,
    /// Reads and writes.
    ReadWrite,
}

/// What a LUN answers beyond reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Capabilities {
    /// COMPARE AND WRITE, with which hosts lock by ATS.
    pub compare_and_write: bool,
    /// RESERVE(6) and RELEASE(6), with which hosts lock by SCSI-2.
    pub reserve: bool,
    /// PERSISTENT RESERVE IN and OUT, with which a host fences another.
    pub persistent_reserve: bool,
    /// UNMAP.
    pub unmap: bool,
}

/// What COMPARE AND WRITE came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// The blocks were as expected and are written.
    Written,
    /// They were not, and are as before.
    Miscompare {
        /// The first byte that differs.
        at: usize,
    },
}

impl Comparison {
    /// What it comes to where `found` was found, as long as what was expected.
    pub(super) fn of(expected: &[u8], found: &[u8]) -> Self {
        let mut pairs = expected.iter().zip(found);
        let differs = pairs.position(|(expected, found)| expected != found);
        differs.map_or(Self::Written, |at| Self::Miscompare { at })
    }
}

/// A logical unit: an array of blocks that answers commands.
///
/// Commands may come from any thread. Offsets and lengths are bytes and need no alignment; an
/// implementation that needs one does the rounding itself.
pub trait Lun: Send + Sync + fmt::Debug {
    /// What a message calls the LUN: the path it was opened by.
    fn name(&self) -> &str;

    /// Size in bytes.
    fn capacity(&self) -> u64;

    /// Bytes of a logical block: 512 or 4096.
    fn block_size(&self) -> u32;

    /// Whether writes are refused.
    fn access(&self) -> Access;

    /// What the LUN says it is; `None` when it can't tell.
    fn identity(&self) -> Option<&LunIdentity> {
        None
    }

    /// Fills `buf` with the bytes at `offset`.
    fn read(&self, offset: DeviceOffset, buf: &mut [u8]) -> Result<(), LunError>;

    /// The next bytes from `offset` on that may hold something, as GET LBA STATUS tells: those before them
    /// are behind no block of the array's (a hole in a file, blocks that were unmapped) and hold nothing.
    /// More may follow on what is returned; `None` if nothing does up to the end.
    ///
    /// A LUN that can't tell has something everywhere.
    fn next_mapped(&self, offset: DeviceOffset) -> Result<Option<Range<u64>>, LunError> {
        Ok(Some(offset.0..self.capacity()).filter(|rest| !rest.is_empty()))
    }

    /// Stores `data` at `offset`; durable only after [`Lun::flush`].
    fn write(&self, offset: DeviceOffset, data: &[u8]) -> Result<(), LunError>;

    /// Stores `length` zero bytes at `offset`, as WRITE SAME does; durable only after
    /// [`Lun::flush`].
    fn write_zeros(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        const CHUNK: u64 = 1 << 20;
        let zeros = vec![0; length.min(CHUNK) as usize];
        for start in (0..length).step_by(CHUNK as usize) {
            let part = CHUNK.min(length - start) as usize;
            self.write(offset + start, &zeros[..part])?;
        }
        Ok(())
    }

    /// [`Lun::write`], unless `may` says no: asked when nothing comes between its answer and the
    /// write any more but what the array puts there itself. A host that stops in between doesn't
    /// write later, when it goes on.
    ///
    /// # Errors
    /// [`LunError::Fenced`] if `may` says no.
    fn write_if(
        &self,
        offset: DeviceOffset,
        data: &[u8],
        may: &dyn Fn() -> bool,
    ) -> Result<(), LunError> {
        if may() {
            return self.write(offset, data);
        }
        Err(LunError::fenced(self.name()))
    }

    /// [`Lun::write_zeros`], unless `may` says no, as for [`Lun::write_if`].
    fn write_zeros_if(
        &self,
        offset: DeviceOffset,
        length: u64,
        may: &dyn Fn() -> bool,
    ) -> Result<(), LunError> {
        if may() {
            return self.write_zeros(offset, length);
        }
        Err(LunError::fenced(self.name()))
    }

    /// Returns once every write that was answered before is durable.
    fn flush(&self) -> Result<(), LunError>;

    /// Which of the commands below it answers; a LUN of one host needs none.
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    /// Stores `new` at `offset` if the bytes there are `expected`, as one step that no other
    /// command on these blocks comes between. Both are whole blocks and as long as each other;
    /// durable only after [`Lun::flush`].
    fn compare_and_write(
        &self,
        offset: DeviceOffset,
        expected: &[u8],
        new: &[u8],
    ) -> Result<Comparison, LunError> {
        let _ = (offset, expected, new);
        Err(LunError::unsupported(self.name(), "COMPARE AND WRITE"))
    }

    /// Takes the LUN for this host alone: other hosts' commands fail with
    /// [`LunError::ReservationConflict`] until [`Lun::release`], or until the host is gone.
    ///
    /// The host's threads have it together, and the first release gives it back. If it is lost,
    /// the next command of the thread that took it, and of no other, fails with
    /// [`LunError::ReservationLost`] and isn't carried out.
    fn reserve(&self) -> Result<(), LunError> {
        Err(LunError::unsupported(self.name(), "RESERVE"))
    }

    /// Gives the LUN back; nothing happens if this host doesn't have it.
    fn release(&self) -> Result<(), LunError> {
        Err(LunError::unsupported(self.name(), "RELEASE"))
    }

    /// Changes registrations and the persistent reservation.
    fn persistent_reserve(&self, action: PersistentReserve) -> Result<(), LunError> {
        let _ = action;
        Err(LunError::unsupported(self.name(), "PERSISTENT RESERVE OUT"))
    }

    /// The registrations and the persistent reservation.
    fn reservations(&self) -> Result<Reservations, LunError> {
        Err(LunError::unsupported(self.name(), "PERSISTENT RESERVE IN"))
    }

    /// Tells the array that nobody needs these bytes any more; they may read as anything.
    fn unmap(&self, offset: DeviceOffset, length: u64) -> Result<(), LunError> {
        let _ = (offset, length);
        Err(LunError::unsupported(self.name(), "UNMAP"))
    }

    /// LOGICAL UNIT RESET: takes the LUN from whoever has reserved it, whose next command fails
    /// with [`LunError::ReservationLost`]; none of that host's commands that were sent before
    /// lands after this has returned. Persistent reservations stay.
    fn reset(&self) -> Result<(), LunError> {
        Err(LunError::unsupported(self.name(), "LOGICAL UNIT RESET"))
    }

    /// From now on whoever uses the LUN waits itself while other hosts have it reserved: what did that below ends,
    /// so that nobody waits for somebody that waits already.
    fn end_patience(&self) {}

    /// What other hosts have done to this one since the last call, as far as the LUN has told
    /// with the commands in between (SCSI unit attentions). No command fails for it.
    fn attentions(&self) -> Vec<Attention> {
        Vec::new()
    }

    /// Commands that reached the LUN so far.
    fn counters(&self) -> &Counters;
}

impl<L: Lun + ?Sized> Lun for std::sync::Arc<L> {
    crate::forward_lun!(as_ref(): name capacity block_size access identity read next_mapped write write_zeros write_if
        write_zeros_if flush capabilities compare_and_write reserve release persistent_reserve reservations
        unmap reset end_patience attentions counters);
}

/// Longest COMPARE AND WRITE, in blocks: the command has a byte for it.
const MAX_COMPARED_BLOCKS: usize = 255;

/// Checks the arguments of a COMPARE AND WRITE.
pub(super) fn check_comparison(
    lun: &dyn Lun,
    offset: DeviceOffset,
    expected: &[u8],
    new: &[u8],
) -> Result<(), LunError> {
    let block = lun.block_size() as usize;
    let reason = if expected.len() != new.len() {
        "what is expected and what is new must be as long as each other"
    } else if !new.len().is_multiple_of(block) || !offset.0.is_multiple_of(block as u64) {
        "it works on whole blocks"
    } else if new.len() > MAX_COMPARED_BLOCKS * block {
        "it works on 255 blocks at most"
    } else {
        return check_range(lun, offset, new.len());
    };
    Err(LunError::Invalid {
        lun: lun.name().to_owned(),
        command: "COMPARE AND WRITE",
        reason,
    })
}

/// Checks that `len` bytes at `offset` lie inside a LUN of `capacity` bytes.
pub(super) fn check_range(lun: &dyn Lun, offset: DeviceOffset, len: usize) -> Result<(), LunError> {
    match offset.0.checked_add(len as u64) {
        Some(end) if end <= lun.capacity() => Ok(()),
        _ => Err(LunError::PastEnd {
            lun: lun.name().to_owned(),
            offset,
            length: len,
            capacity: lun.capacity(),
        }),
    }
}
