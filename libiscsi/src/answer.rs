//! What goes with a command, and what comes back.

/// Bytes that go with a command.
#[derive(Debug)]
pub enum Data<'a> {
    /// None.
    None,
    /// What the target sends.
    In(&'a mut [u8]),
    /// What the target gets.
    Out(&'a [u8]),
}

impl Data<'_> {
    /// The same bytes, for one of several attempts.
    pub fn again(&mut self) -> Data<'_> {
        match self {
            Self::None => Data::None,
            Self::In(buf) => Data::In(buf),
            Self::Out(data) => Data::Out(data),
        }
    }
}

/// What a target said to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// How it ended.
    pub status: Status,
    /// Bytes that were expected and didn't move.
    pub missing: usize,
}

/// How a command ended (SAM-5, 5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It was carried out.
    Good,
    /// It was not, or not quite; the sense data says why.
    CheckCondition(Sense),
    /// Another host has reserved the LUN.
    ReservationConflict,
    /// The LUN has too much to do: later perhaps.
    Busy,
    /// It was ended by another host's command or a reset.
    TaskAborted,
    /// Something that this house has no use for.
    Other(u32),
}

/// Why a command was not carried out (SPC-4, 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sense {
    /// The sense key, a number below 16.
    pub key: u8,
    /// Additional sense code and its qualifier.
    pub code: u16,
}

impl std::fmt::Display for Sense {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const KEYS: [&str; 16] = [
            "NO SENSE",
            "RECOVERED ERROR",
            "NOT READY",
            "MEDIUM ERROR",
            "HARDWARE ERROR",
            "ILLEGAL REQUEST",
            "UNIT ATTENTION",
            "DATA PROTECT",
            "BLANK CHECK",
            "VENDOR SPECIFIC",
            "COPY ABORTED",
            "ABORTED COMMAND",
            "OBSOLETE",
            "VOLUME OVERFLOW",
            "MISCOMPARE",
            "COMPLETED",
        ];
        let key = KEYS[usize::from(self.key & 15)];
        let [code, qualifier] = self.code.to_be_bytes();
        write!(f, "{key}, {code:02x}/{qualifier:02x}")
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Good => f.write_str("GOOD"),
            Self::CheckCondition(sense) => write!(f, "CHECK CONDITION ({sense})"),
            Self::ReservationConflict => f.write_str("RESERVATION CONFLICT"),
            Self::Busy => f.write_str("BUSY"),
            Self::TaskAborted => f.write_str("TASK ABORTED"),
            Self::Other(status) => write!(f, "status {status:#x}"),
        }
    }
}
