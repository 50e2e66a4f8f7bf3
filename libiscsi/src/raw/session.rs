//! A session of libiscsi, used by one thread.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_int, c_uint, c_void};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::time::Duration;

use rustix::event::PollFlags;

use super::bindings as c;
use super::loan::{Direction, Loan};
use super::opaque::{iscsi_context, scsi_sense, scsi_task};
use crate::answer::{Answer, Sense, Status};
use crate::settings::Settings;

/// A session with a target, or an attempt at one.
///
/// Everything that libiscsi gets a pointer to lives in a [`Note`] until libiscsi has let go of
/// it: until a command is answered and none of its data is waiting to be sent any more, or until
/// the context is gone.
#[derive(Debug)]
pub(crate) struct Session {
    context: NonNull<iscsi_context>,
    lun: u16,
    login: NonNull<Note>,
    notes: HashMap<u64, NonNull<Note>>,
    /// Tokens of commands that have ended, in the order of their ends; callbacks write it.
    ended: NonNull<RefCell<Vec<u64>>>,
    /// Tokens of commands that have ended while data was waiting to be sent.
    lingering: Vec<u64>,
}

/// What libiscsi knows a command by.
#[derive(Debug)]
struct Note {
    token: u64,
    status: Cell<Option<c_uint>>,
    /// What a task management function came to.
    response: Cell<u32>,
    /// Null for what isn't a SCSI command.
    task: *mut scsi_task,
    loan: Option<Loan>,
    ended: NonNull<RefCell<Vec<u64>>>,
}

/// How far a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Connecting or logging in.
    Connecting,
    /// It takes commands.
    Ready,
    /// It never will.
    Failed,
}

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    /// What it was submitted with.
    pub(crate) token: u64,
    /// The answer; `None` if the session is broken.
    pub(crate) answer: Option<Answer>,
    /// The memory that went with it.
    pub(crate) loan: Option<Loan>,
}

/// The callback of everything that this module starts.
///
/// # Safety
/// `private` is a `Note` of a session that exists, and `data` what libiscsi's documentation
/// says of it.
unsafe extern "C" fn note_end(
    _: *mut iscsi_context,
    status: c_int,
    data: *mut c_void,
    private: *mut c_void,
) {
    // SAFETY: notes are freed when libiscsi has called back, or after the context.
    let note = unsafe { &*private.cast::<Note>() };
    if note.status.get().is_some() {
        return;
    }
    note.status.set(Some(status.cast_unsigned()));
    if note.task.is_null() && note.loan.is_some() && !data.is_null() {
        // SAFETY: the data of a task management response is its number.
        note.response.set(unsafe { data.cast::<u32>().read() });
    }
    // SAFETY: freed after all notes. Nobody else has it borrowed: it is only ever borrowed for
    // a moment, outside of calls of libiscsi.
    unsafe { note.ended.as_ref() }.borrow_mut().push(note.token);
}

impl Session {
    /// Begins to connect to `portal`.
    ///
    /// # Errors
    /// What libiscsi said.
    pub(crate) fn connect(settings: &Settings, portal: SocketAddr) -> Result<Self, String> {
        let text = |text: &str| CString::new(text).map_err(|error| error.to_string());
        let initiator = text(&settings.initiator)?;
        let target = text(&settings.target)?;
        let address = text(&portal.to_string())?;
        // SAFETY: the name ends with a zero byte, and is copied.
        let context = unsafe { c::iscsi_create_context(initiator.as_ptr()) };
        let context = NonNull::new(context).ok_or("libiscsi has no memory for a session")?;
        let ended = leak(RefCell::new(Vec::new()));
        let session = Self {
            context,
            lun: settings.lun_field(),
            login: leak(Note::new(0, None, ended)),
            notes: HashMap::new(),
            ended,
            lingering: Vec::new(),
        };
        let iscsi = session.context.as_ptr();
        let milliseconds = c_int::try_from(settings.silence.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the context is this session's, and names are copied.
        unsafe {
            c::iscsi_set_targetname(iscsi, target.as_ptr());
            c::iscsi_set_session_type(iscsi, c::ISCSI_SESSION_NORMAL);
            let [a, b, high @ ..] = settings.session.to_be_bytes();
            let number = u32::from_be_bytes([0, 0, a, b]);
            let qualifier = u32::from_be_bytes([0, 0, high[0], high[1]]);
            c::iscsi_set_isid_random(iscsi, number, qualifier);
            // Reconnecting is this crate's, which keeps the session's number.
            c::iscsi_set_noautoreconnect(iscsi, 1);
            c::iscsi_set_tcp_user_timeout(iscsi, milliseconds);
        }
        if let Some(chap) = &settings.chap {
            let (name, secret) = (text(&chap.name)?, text(&chap.secret)?);
            // SAFETY: both end with a zero byte, and are copied.
            unsafe {
                c::iscsi_set_initiator_username_pwd(iscsi, name.as_ptr(), secret.as_ptr());
            }
        }
        if let Some(chap) = &settings.target_chap {
            let (name, secret) = (text(&chap.name)?, text(&chap.secret)?);
            // SAFETY: both end with a zero byte, and are copied.
            unsafe { c::iscsi_set_target_username_pwd(iscsi, name.as_ptr(), secret.as_ptr()) };
        }
        // SAFETY: the address is copied and the note outlives the context. A LUN of -1 leaves
        // out libiscsi's own question whether the LUN is ready, which hides unit attentions.
        let begun = unsafe {
            let private = session.login.as_ptr().cast();
            c::iscsi_full_connect_async(iscsi, address.as_ptr(), -1, Some(note_end), private)
        };
        if begun != 0 {
            return Err(session.error());
        }
        if let Some(socket) = session.socket() {
            // What this host has not sent yet when it gives up, or dies, is never sent: closing
            // cuts the connection.
            rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO))
                .map_err(|errno| errno.to_string())?;
        }
        Ok(session)
    }

    /// How far it is.
    pub(crate) fn stage(&self) -> Stage {
        // SAFETY: the note lives as long as the session.
        match unsafe { self.login.as_ref() }.status.get() {
            None => Stage::Connecting,
            Some(c::SCSI_STATUS_GOOD) => Stage::Ready,
            Some(_) => Stage::Failed,
        }
    }

    /// What libiscsi last complained of.
    pub(crate) fn error(&self) -> String {
        // SAFETY: the context is this session's; its message is copied before anything changes
        // it.
        let message = unsafe {
            let message = c::iscsi_get_error(self.context.as_ptr());
            (!message.is_null()).then(|| CStr::from_ptr(message).to_string_lossy().into_owned())
        };
        message.unwrap_or_default().trim().to_owned()
    }

    /// The socket, once there is one.
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the context is this session's.
        let fd = unsafe { c::iscsi_get_fd(self.context.as_ptr()) };
        // SAFETY: libiscsi closes it only in calls that need the session for themselves.
        (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// What libiscsi waits for on the socket.
    pub(crate) fn interest(&self) -> PollFlags {
        PollFlags::from_bits_truncate(u16::try_from(self.events()).unwrap_or(0))
    }

    fn events(&self) -> c_int {
        // SAFETY: the context is this session's.
        unsafe { c::iscsi_which_events(self.context.as_ptr()) }
    }

    /// Lets libiscsi send and receive what the socket is `ready` for.
    ///
    /// # Errors
    /// The session is over.
    pub(crate) fn service(&mut self, ready: PollFlags) -> Result<(), String> {
        // SAFETY: the context is this session's, and all that it has pointers to is alive.
        let code = unsafe { c::iscsi_service(self.context.as_ptr(), ready.bits().into()) };
        if code == 0 { Ok(()) } else { Err(self.error()) }
    }

    /// Sends a command; it ends with [`Session::finished`], or with the session.
    ///
    /// # Errors
    /// The session is broken; the loan is given back without an answer, now or with the session.
    pub(crate) fn submit(&mut self, token: u64, cdb: &[u8], loan: Loan) -> Result<(), String> {
        let mut bytes = [0; 16];
        let command = bytes
            .get_mut(..cdb.len())
            .ok_or("the command is too long")?;
        command.copy_from_slice(cdb);
        let len = loan.len().ok_or("too many bytes for a command")?;
        let size = c_int::try_from(cdb.len()).map_err(|error| error.to_string())?;
        let (direction, memory) = (loan.direction(), loan.memory());
        let way = match direction {
            Direction::None => c::SCSI_XFER_NONE,
            Direction::In => c::SCSI_XFER_READ,
            Direction::Out => c::SCSI_XFER_WRITE,
        };
        // SAFETY: there are `size` bytes, which are copied.
        let task = unsafe { c::scsi_create_task(size, bytes.as_mut_ptr(), way.cast_signed(), len) };
        if task.is_null() {
            return Err("libiscsi has no memory for a command".to_owned());
        }
        let note = self.keep(Note {
            task,
            ..Note::new(token, Some(loan), self.ended)
        });
        // SAFETY: the task is new, and the memory has `len` bytes, to be written to if the
        // direction is in. Both stay until libiscsi has let go of them.
        let begun = unsafe {
            let added = match direction {
                Direction::None => 0,
                Direction::In => c::scsi_task_add_data_in_buffer(task, len, memory),
                Direction::Out => c::scsi_task_add_data_out_buffer(task, len, memory),
            };
            let (iscsi, lun) = (self.context.as_ptr(), self.lun.into());
            let private = note.as_ptr().cast();
            match added {
                0 => c::iscsi_scsi_command_async(
                    iscsi,
                    lun,
                    task,
                    Some(note_end),
                    ptr::null_mut(),
                    private,
                ),
                error => error,
            }
        };
        if begun == 0 {
            Ok(())
        } else {
            // The note stays until the session ends: it isn't said what libiscsi has kept.
            Err(self.error())
        }
    }

    /// Asks the target whether it is there.
    ///
    /// # Errors
    /// The session is broken.
    pub(crate) fn ping(&mut self, token: u64) -> Result<(), String> {
        let note = self.keep(Note::new(token, None, self.ended));
        // SAFETY: there is no data, and the note stays until libiscsi has let go of it.
        let begun = unsafe {
            let (iscsi, private) = (self.context.as_ptr(), note.as_ptr().cast());
            c::iscsi_nop_out_async(iscsi, Some(note_end), ptr::null_mut(), 0, private)
        };
        if begun == 0 {
            Ok(())
        } else {
            Err(self.error())
        }
    }

    /// Sends LOGICAL UNIT RESET; answered with GOOD, or [`Status::Other`] and its number.
    ///
    /// # Errors
    /// The session is broken.
    pub(crate) fn reset_lun(&mut self, token: u64, loan: Loan) -> Result<(), String> {
        let note = self.keep(Note::new(token, Some(loan), self.ended));
        // SAFETY: the note stays until libiscsi has let go of it.
        let begun = unsafe {
            let (iscsi, private) = (self.context.as_ptr(), note.as_ptr().cast());
            let (lun, none) = (self.lun.into(), u32::MAX);
            c::iscsi_task_mgmt_async(
                iscsi,
                lun,
                c::ISCSI_TM_LUN_RESET,
                none,
                0,
                Some(note_end),
                private,
            )
        };
        if begun == 0 {
            Ok(())
        } else {
            Err(self.error())
        }
    }

    /// Begins to log out.
    ///
    /// # Errors
    /// The session is broken.
    pub(crate) fn log_out(&mut self, token: u64) -> Result<(), String> {
        let note = self.keep(Note::new(token, None, self.ended));
        // SAFETY: the note stays until libiscsi has let go of it.
        let begun = unsafe {
            let (iscsi, private) = (self.context.as_ptr(), note.as_ptr().cast());
            c::iscsi_logout_async(iscsi, Some(note_end), private)
        };
        if begun == 0 {
            Ok(())
        } else {
            Err(self.error())
        }
    }

    /// What has ended since the last call.
    pub(crate) fn finished(&mut self) -> Vec<Finished> {
        // SAFETY: it lives as long as the session, and no callback runs meanwhile.
        let ended = unsafe { self.ended.as_ref() }.take();
        if ended.is_empty() && self.lingering.is_empty() {
            return Vec::new();
        }
        // A target may answer before it has all the data, which then still waits to be sent
        // from the caller's memory.
        let (done, lingering) = if self.is_sending() {
            let (out, rest) = ended.into_iter().partition(|token| {
                // SAFETY: notes live as long as they are in the map.
                let note = self.notes.get(token).map(|note| unsafe { note.as_ref() });
                note.and_then(|note| note.loan.as_ref())
                    .is_some_and(|loan| loan.direction() == Direction::Out)
            });
            (rest, out)
        } else {
            let mut done = std::mem::take(&mut self.lingering);
            done.extend(ended);
            (done, Vec::new())
        };
        self.lingering.extend(lingering);
        done.into_iter()
            .filter_map(|token| self.retire(token))
            .collect()
    }

    /// Whether libiscsi has anything left to send.
    fn is_sending(&self) -> bool {
        let queued = || {
            // SAFETY: the context is this session's.
            unsafe { c::iscsi_out_queue_length(self.context.as_ptr()) != 0 }
        };
        self.interest().contains(PollFlags::OUT) || queued()
    }

    fn keep(&mut self, note: Note) -> NonNull<Note> {
        let token = note.token;
        let note = leak(note);
        let before = self.notes.insert(token, note);
        assert!(before.is_none(), "a token is used once");
        note
    }

    /// Takes a command that has ended, which libiscsi has let go of.
    fn retire(&mut self, token: u64) -> Option<Finished> {
        let note = self.notes.remove(&token)?;
        // SAFETY: it came from `leak`, is out of the map, and libiscsi calls back only once.
        let note = unsafe { Box::from_raw(note.as_ptr()) };
        let answer = note.answer();
        Some(Finished {
            token,
            answer,
            loan: note.dismantle(),
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: the context is this session's and isn't used again. Callbacks of what is
        // still open come now; their notes are freed below.
        unsafe { c::iscsi_destroy_context(self.context.as_ptr()) };
        for (_, note) in self.notes.drain() {
            // SAFETY: it came from `leak`, and nobody else has it any more.
            let note = unsafe { Box::from_raw(note.as_ptr()) };
            drop(note.dismantle());
        }
        // SAFETY: both came from `leak`, and nobody else has them any more.
        unsafe {
            drop(Box::from_raw(self.login.as_ptr()));
            drop(Box::from_raw(self.ended.as_ptr()));
        }
    }
}

impl Note {
    fn new(token: u64, loan: Option<Loan>, ended: NonNull<RefCell<Vec<u64>>>) -> Self {
        Self {
            token,
            status: Cell::new(None),
            response: Cell::new(0),
            task: ptr::null_mut(),
            loan,
            ended,
        }
    }

    fn answer(&self) -> Option<Answer> {
        let status = match self.status.get()? {
            c::SCSI_STATUS_CANCELLED | c::SCSI_STATUS_ERROR | c::SCSI_STATUS_TIMEOUT => {
                return None;
            }
            c::SCSI_STATUS_GOOD if self.response.get() != 0 => Status::Other(self.response.get()),
            c::SCSI_STATUS_GOOD | c::SCSI_STATUS_CONDITION_MET => Status::Good,
            c::SCSI_STATUS_CHECK_CONDITION => Status::CheckCondition(self.sense()),
            c::SCSI_STATUS_RESERVATION_CONFLICT => Status::ReservationConflict,
            c::SCSI_STATUS_BUSY | c::SCSI_STATUS_TASK_SET_FULL => Status::Busy,
            c::SCSI_STATUS_TASK_ABORTED => Status::TaskAborted,
            other => Status::Other(other),
        };
        // SAFETY: the task, if there is one, lives as long as the note.
        let missing = unsafe { self.task.as_ref() }.map_or(0, |task| {
            if task.residual_status == c::SCSI_RESIDUAL_UNDERFLOW.cast_signed() {
                task.residual
            } else {
                0
            }
        });
        Some(Answer { status, missing })
    }

    fn sense(&self) -> Sense {
        let mut sense = scsi_sense::default();
        if !self.task.is_null() {
            // SAFETY: the task lives as long as the note, and there is room for any version's
            // sense data.
            unsafe { c::scsi_task_get_status(self.task, &raw mut sense) };
        }
        Sense {
            key: u8::try_from(sense.key & 15).unwrap_or(0),
            code: u16::try_from(sense.ascq & 0xffff).unwrap_or(0),
        }
    }

    /// Frees what libiscsi allocated, before the memory that it pointed to is given back.
    fn dismantle(self) -> Option<Loan> {
        if !self.task.is_null() {
            // SAFETY: it came from `scsi_create_task`, and libiscsi has let go of it.
            unsafe { c::scsi_free_scsi_task(self.task) };
        }
        self.loan
    }
}

/// Puts `value` where it stays until `Box::from_raw`.
fn leak<T>(value: T) -> NonNull<T> {
    NonNull::from(Box::leak(Box::new(value)))
}
