use std::fmt;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// VMware's 16-byte identifier: two time words, a random word and a MAC address.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
    Default,
)]
#[repr(C)]
pub struct Uuid {
    /// Seconds since 1970 when the identifier was made.
    pub time_lo: U32,
    /// High-resolution clock of the host when it was made.
    pub time_hi: U32,
    /// Random part.
    pub random: U16,
    /// MAC address of the host.
    pub mac: [u8; 6],
}

const _: () = assert!(size_of::<Uuid>() == 16);

impl Uuid {
    /// Whether every byte is zero, which the format uses for "nobody".
    pub fn is_zero(&self) -> bool {
        self.as_bytes().iter().all(|&b| b == 0)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:08x}-{:08x}-{:04x}-",
            self.time_lo, self.time_hi, self.random
        )?;
        self.mac.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_as_esxi_writes_it() {
        let bytes = [
            0xfc, 0x6e, 0x62, 0x68, 0x00, 0xf1, 0xe4, 0x2b, 0x35, 0x06, 0xbc, 0x24, 0x11, 0xb1,
            0x7e, 0x28,
        ];
        let uuid = Uuid::read_from_bytes(&bytes).expect("16 bytes");
        assert_eq!(uuid.to_string(), "68626efc-2be4f100-0635-bc2411b17e28");
        assert!(!uuid.is_zero());
    }
}
