//! A LUN that several processes share: an image file, and beside it a file in which they meet.
//!
//! docs/SHARED-LUN.md says what is promised; here is how. Each open LUN has a *seat*, which the
//! kernel frees when its process dies, and each of its commands a *lane*, a word in memory that all
//! processes have mapped. A command announces itself in its lane, looks whether it clashes with
//! another one (`queue`), sees whether reservations let it run, does its work, and clears its lane:
//! no system call but the work itself.
//!
//! Who waits long for a command *revokes* it (`revoke`): its process may be stopped. From then on
//! the others take the command for not begun. If it was to write, its blocks are *moved*: their
//! content goes on beside the image, so that a late write lands where nobody reads. Once its process
//! wakes it finds its command revoked and begins it anew. Moved blocks come back when no late write
//! can come any more.
//!
//! Reservations by RESERVE(6) are one word, the holder's port. All else is in a small *record*
//! (`record`) whose version every command compares with the one that it last saw.
//!
//! Nothing here waits for another process without end, and nothing is locked that a stopped process
//! could keep locked; what it does when it goes on, it does to a word that has changed.

mod blocks;
mod lane;
mod locks;
mod memory;
mod queue;
mod record;
mod reserve;
mod revoke;
mod status;
#[cfg(test)]
mod tests;

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock};

use self::lane::MAX_CAPACITY;
use self::locks::Mode;
use self::memory::{LANES, MAX_NAME, Memory, SEATS, Word};
use self::record::{Moved, Record, Version};
use super::rules::{Demand, Nexus, Refusal, ReservationState};
use crate::scsi::counters::Snapshot;
use crate::scsi::holder::Holder;
use crate::scsi::lun::Access;

use self::blocks::TooLate;
pub(in crate::scsi) use self::blocks::zero_file;
pub use self::status::{HostStatus, SharedStatus};

/// Why a command failed.
#[derive(Debug)]
pub(in crate::scsi) enum Fault {
    /// Reservations don't let it run, or it makes no sense.
    Refused(Refusal),
    /// This host's RESERVE(6) was taken away.
    Lost,
    /// The host has lost its right to write.
    TooLate,
    /// The system said so.
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        if error
            .get_ref()
            .is_some_and(<dyn std::error::Error + Send + Sync>::is::<TooLate>)
        {
            return Self::TooLate;
        }
        Self::Io(error)
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A host's way to a LUN that it shares with other processes.
#[derive(Debug)]
pub(in crate::scsi) struct SharedLun {
    image: Arc<File>,
    memory: Memory,
    /// None if this process may only look on: then its reads don't wait for anybody.
    seat: Option<Seat>,
    nexus: Nexus,
    /// Version of the view, and three bits: whether this host may read and write, and
    /// whether any blocks were moved.
    cached: AtomicU64,
    view: RwLock<Arc<View>>,
    /// Whether this host has reserved the LUN, as far as it knows.
    held: AtomicBool,
    /// Which of its threads.
    holder: Holder,
    reserving: Mutex<()>,
    /// Held while this host changes the record.
    changing: Mutex<()>,
    /// Held while lanes of a dead process are cleared.
    clearing: Mutex<()>,
    /// Whether the image may be written to.
    access: Access,
}

/// What the record said when it was last looked at.
#[derive(Debug, Default)]
struct View {
    version: u64,
    reservations: ReservationState,
    moved: Vec<Moved>,
}

/// A place among the hosts of the LUN.
#[derive(Debug)]
struct Seat {
    index: usize,
    /// Lanes that threads of this process use.
    busy: AtomicU32,
}

const MAY_READ: u64 = 1;
const MAY_WRITE: u64 = 2;
const HAS_MOVED: u64 = 4;
const FLAGS: u32 = 3;

/// The seat of a port.
fn port_seat(port: u64) -> usize {
    (port % 256) as usize % SEATS
}

fn port(incarnation: u64, seat: usize) -> u64 {
    incarnation << 8 | seat as u64
}

impl SharedLun {
    /// Joins the hosts of the image at `path`; `None` if it can't be shared from here, or, for
    /// who only reads, if nobody shares it yet.
    ///
    /// Without a name the host is called after its machine and process.
    pub(in crate::scsi) fn open(
        path: &Path,
        image: &Arc<File>,
        metadata: &Metadata,
        access: Access,
        initiator: Option<&str>,
    ) -> io::Result<Option<Self>> {
        let memory = if metadata.len() > MAX_CAPACITY {
            None
        } else {
            Memory::open(path, metadata, access)?
        };
        let Some(memory) = memory else {
            if access == Access::ReadWrite {
                memory::claim_alone(image)?;
            }
            return Ok(None);
        };
        if let Some(name) = initiator
            && (name.is_empty() || name.len() > MAX_NAME)
        {
            let problem = format!("an initiator name has 1 to {MAX_NAME} bytes: {name:?}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let (seat, nexus) = if memory.is_writable() {
            memory.announce(image)?;
            let (seat, nexus) = take_seat(&memory, initiator)?;
            (Some(seat), nexus)
        } else {
            let initiator = initiator.unwrap_or("onlooker").to_owned();
            (None, Nexus { initiator, port: 0 })
        };
        let lun = Self {
            image: Arc::clone(image),
            memory,
            seat,
            nexus,
            cached: AtomicU64::new(u64::MAX),
            view: RwLock::default(),
            held: AtomicBool::new(false),
            holder: Holder::default(),
            reserving: Mutex::default(),
            changing: Mutex::default(),
            clearing: Mutex::default(),
            access,
        };
        lun.refresh()?;
        if let Some(seat) = &lun.seat {
            lun.sit_down(seat.index)?;
        }
        Ok(Some(lun))
    }

    /// Name of this host.
    pub(in crate::scsi) fn initiator(&self) -> &str {
        &self.nexus.initiator
    }

    /// Whether this host takes part in what needs the file to be written to.
    pub(in crate::scsi) fn has_seat(&self) -> bool {
        self.seat.is_some()
    }

    /// Whether the image has all that the LUN holds: no blocks are moved at the moment.
    pub(in crate::scsi) fn is_all_in_image(&self) -> bool {
        self.view().moved.is_empty()
    }

    /// Shows other processes what this one has counted.
    pub(in crate::scsi) fn publish_counters(&self, counters: &Snapshot) {
        if let Some(seat) = &self.seat {
            for (index, number) in counters.to_words().into_iter().enumerate() {
                let word = self.memory.word(Word::SeatCounter(seat.index, index));
                word.store(number, SeqCst);
            }
        }
    }

    /// Whether reservations let a command of this host run that needs `demand`; if so, whether
    /// any blocks were moved.
    ///
    /// Asked after the command was announced: whoever reserves the LUN or changes the record
    /// afterwards finds the command in its lane.
    fn check(&self, demand: Demand) -> Result<bool, Fault> {
        let Version(version) = record::version(&self.memory);
        let mut cached = self.cached.load(SeqCst);
        if cached >> FLAGS != version {
            cached = self.refresh()?;
        }
        let reserved = self.memory.word(Word::Reserved).load(SeqCst);
        if reserved != self.nexus.port && (reserved != 0 || self.held.load(SeqCst)) {
            self.check_reserved(reserved)?;
        }
        let needed = match demand {
            Demand::Read => MAY_READ,
            Demand::Write => MAY_WRITE,
        };
        if cached & needed == 0 {
            return Err(Refusal::Conflict.into());
        }
        Ok(cached & HAS_MOVED != 0)
    }

    /// What [`SharedLun::check`] does when somebody else than this host has reserved the LUN, or
    /// nobody though this host had.
    fn check_reserved(&self, reserved: u64) -> Result<(), Fault> {
        if self.holder.is_this_thread() && self.held.swap(false, SeqCst) {
            return Err(Fault::Lost);
        }
        if reserved == 0 {
            return Ok(());
        }
        if self.is_alive(reserved)? {
            return Err(Refusal::Conflict.into());
        }
        self.forget_reservation(reserved);
        Ok(())
    }

    /// Clears the reservation of a port that is gone.
    fn forget_reservation(&self, port: u64) {
        if self.seat.is_some() {
            let word = self.memory.word(Word::Reserved);
            // Another process may have been first.
            let _ = word.compare_exchange(port, 0, SeqCst, SeqCst);
        }
    }

    /// Looks at the record again; gives what is then in `cached`.
    fn refresh(&self) -> io::Result<u64> {
        let (Version(version), record) = record::load(&self.memory)?;
        let may = |demand, flag| match record.reservations.check(&self.nexus, demand) {
            Ok(()) => flag,
            Err(_) => 0,
        };
        let moved = if record.moved.is_empty() {
            0
        } else {
            HAS_MOVED
        };
        let flags = may(Demand::Read, MAY_READ) | may(Demand::Write, MAY_WRITE) | moved;
        let cached = version << FLAGS | flags;
        let mut view = self.view.write();
        let before = self.cached.load(SeqCst);
        if before == u64::MAX || view.version < version {
            if before != u64::MAX && before & MAY_WRITE != 0 && flags & MAY_WRITE == 0 {
                tracing::warn!(
                    host = self.nexus.initiator,
                    "a persistent reservation of another host keeps this one from writing"
                );
            }
            *view = Arc::new(View {
                version,
                reservations: record.reservations,
                moved: record.moved,
            });
            self.cached.store(cached, SeqCst);
        }
        Ok(self.cached.load(SeqCst))
    }

    /// Changes the record by `edit`, which is called again if another host was faster; nothing
    /// happens to the record if it fails.
    fn change<T, E: From<io::Error>>(
        &self,
        mut edit: impl FnMut(&mut Record) -> Result<T, E>,
    ) -> Result<T, E> {
        let Some(seat) = &self.seat else {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied).into());
        };
        let _alone = self.changing.lock();
        loop {
            let (version, before) = record::load(&self.memory)?;
            let mut after = before.clone();
            let result = edit(&mut after)?;
            if after == before || record::publish(&self.memory, seat.index, version, &after)? {
                return Ok(result);
            }
        }
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read())
    }

    /// Whether the process that has a port is there, be it stopped or not.
    fn is_alive(&self, port: u64) -> io::Result<bool> {
        let seat = port_seat(port);
        if port == self.nexus.port {
            return Ok(true);
        }
        let incarnation = self.memory.word(Word::SeatIncarnation(seat)).load(SeqCst);
        let is_own = self.seat.as_ref().is_some_and(|own| own.index == seat);
        if self::port(incarnation, seat) != port || is_own {
            return Ok(false);
        }
        locks::is_locked(self.memory.file(), Memory::seat_lock(seat), Mode::Shared)
    }

    /// Seats that are or were in use.
    fn seats(&self) -> usize {
        let seats = self.memory.word(Word::Seats).load(SeqCst);
        (seats as usize).min(SEATS)
    }

    /// Lanes of a seat that are or were in use.
    fn lanes(&self, seat: usize) -> usize {
        let lanes = self.memory.word(Word::LanesOf(seat)).load(SeqCst);
        (lanes as usize).min(LANES)
    }
}

impl Drop for SharedLun {
    fn drop(&mut self) {
        let Some(seat) = &self.seat else {
            return;
        };
        // Does nothing if this host doesn't have it.
        self.forget_reservation(self.nexus.port);
        if !self.view().moved.is_empty() {
            self.bring_back();
        }
        if let Ok((_, record)) = record::load(&self.memory) {
            self.give_room_back(seat.index, &record);
        }
        retire_counters(&self.memory, seat.index);
        let incarnation = self.memory.word(Word::SeatIncarnation(seat.index));
        incarnation.store(0, SeqCst);
    }
}

/// What [`SharedLun::open`] does with a seat that it has taken.
impl SharedLun {
    /// Puts in order what whoever sat here before has left, and makes the host known.
    fn sit_down(&self, seat: usize) -> io::Result<()> {
        self.clear_lanes(seat)?;
        self.memory.word(Word::LanesOf(seat)).store(0, SeqCst);
        let incarnation = self.nexus.port >> 8;
        let word = self.memory.word(Word::SeatIncarnation(seat));
        word.store(incarnation, SeqCst);
        let seats = self.memory.word(Word::Seats);
        seats.fetch_max(seat as u64 + 1, SeqCst);
        if !self.view().moved.is_empty() {
            self.bring_back();
        }
        Ok(())
    }
}

/// Takes a free seat, under a name made for it if none is given.
fn take_seat(memory: &Memory, initiator: Option<&str>) -> io::Result<(Seat, Nexus)> {
    let mut index = 0;
    while !locks::try_lock(memory.file(), Memory::seat_lock(index), Mode::Exclusive)? {
        index += 1;
        if index == SEATS {
            let problem = format!("{SEATS} processes have it open already");
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, problem));
        }
    }
    memory.word(Word::SeatIncarnation(index)).store(0, SeqCst);
    retire_counters(memory, index);
    let incarnation = memory.word(Word::Incarnation).fetch_add(1, SeqCst) + 1;
    let process = std::process::id();
    let initiator = initiator.map_or_else(
        || {
            let system = rustix::system::uname();
            let machine = system.nodename().to_string_lossy();
            format!("{machine}:{process}:{incarnation}")
        },
        str::to_owned,
    );
    memory.set_name(index, &initiator)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs());
    memory.word(Word::SeatTime(index)).store(now, SeqCst);
    let word = memory.word(Word::SeatProcess(index));
    word.store(process.into(), SeqCst);
    let nexus = Nexus {
        initiator,
        port: port(incarnation, index),
    };
    let busy = AtomicU32::new(0);
    Ok((Seat { index, busy }, nexus))
}

/// Adds what a seat's last host has counted to what those before it have.
fn retire_counters(memory: &Memory, seat: usize) {
    for counter in 0..Snapshot::WORDS {
        let number = memory
            .word(Word::SeatCounter(seat, counter))
            .swap(0, SeqCst);
        memory
            .word(Word::Retired(counter))
            .fetch_add(number, SeqCst);
    }
}
