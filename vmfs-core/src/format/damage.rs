use std::fmt;

/// Where a structure lies, so that a message can name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Byte offset on a device (below the volume layer).
    Device(u64),
    /// Byte offset on the logical volume.
    Volume(u64),
    /// Byte offset in the file with this file descriptor address.
    File {
        /// Raw file descriptor address.
        fd: u32,
        /// Byte offset in that file.
        offset: u64,
    },
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(offset) => write!(f, "device offset {offset:#x}"),
            Self::Volume(offset) => write!(f, "volume offset {offset:#x}"),
            Self::File { fd, offset } => write!(f, "offset {offset:#x} of file {fd:#010x}"),
        }
    }
}

/// A structure on disk holds a value that the format does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{structure} at {at}: {field} is {found}, expected {expected}")]
pub struct Damage {
    /// The structure, in the words of `docs/FORMAT.md`.
    pub structure: &'static str,
    /// Where it lies.
    pub at: At,
    /// The field that is wrong.
    pub field: &'static str,
    /// What the field holds.
    pub found: String,
    /// What it may hold.
    pub expected: String,
}

impl Damage {
    /// A finding about `field` of `structure`.
    pub fn new(
        structure: &'static str,
        at: At,
        field: &'static str,
        found: impl fmt::Display,
        expected: impl Into<String>,
    ) -> Self {
        Self {
            structure,
            at,
            field,
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    /// A finding whose value reads best in hexadecimal.
    pub fn hex(
        structure: &'static str,
        at: At,
        field: &'static str,
        found: u64,
        expected: impl Into<String>,
    ) -> Self {
        Self::new(structure, at, field, format_args!("{found:#x}"), expected)
    }
}
