//! Command descriptor blocks (SPC-4, SBC-3).

/// A command: its name, its descriptor block, and what may be done when its answer is lost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Command {
    pub(super) name: &'static str,
    pub(super) repeat: Repeat,
    bytes: [u8; 16],
    len: usize,
    /// It may take the target much longer than moving its data.
    pub(super) slow: bool,
}

/// What may be done with a command that has no answer because the connection was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It changes nothing.
    Always,
    /// It changes blocks, and does the same once more; but not long after it was given, when
    /// this host may have lost the right to.
    Soon,
    /// Whoever gave it has to find out.
    Never,
}

/// The code of a vital product data page.
pub(super) const SUPPORTED_PAGES: u8 = 0x00;
/// Designators of the LUN.
pub(super) const IDENTIFICATION: u8 = 0x83;
/// Limits of commands.
pub(super) const BLOCK_LIMITS: u8 = 0xb0;
/// Thin provisioning.
pub(super) const PROVISIONING: u8 = 0xb2;

/// Service actions of PERSISTENT RESERVE IN.
pub(super) const READ_KEYS: u8 = 0;
pub(super) const READ_RESERVATION: u8 = 1;
pub(super) const READ_FULL_STATUS: u8 = 3;

/// The sense code INVALID COMMAND OPERATION CODE.
pub(super) const UNKNOWN_COMMAND: u16 = 0x2000;

/// Operation codes that a target is asked for.
pub(super) const COMPARE_AND_WRITE: u8 = 0x89;
pub(super) const RESERVE: u8 = 0x16;
pub(super) const UNMAP: u8 = 0x42;
pub(super) const WRITE_SAME: u8 = 0x93;

impl Command {
    fn new(name: &'static str, repeat: Repeat, bytes: &[u8]) -> Self {
        let mut block = [0; 16];
        block[..bytes.len()].copy_from_slice(bytes);
        Self {
            name,
            repeat,
            bytes: block,
            len: bytes.len(),
            slow: false,
        }
    }

    fn slow(mut self) -> Self {
        self.slow = true;
        self
    }

    /// The descriptor block.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(super) fn test_unit_ready() -> Self {
        Self::new("TEST UNIT READY", Repeat::Always, &[0; 6])
    }

    /// INQUIRY for the standard data.
    pub(super) fn inquiry(room: u16) -> Self {
        let [high, low] = room.to_be_bytes();
        Self::new("INQUIRY", Repeat::Always, &[0x12, 0, 0, high, low, 0])
    }

    /// INQUIRY for a vital product data page.
    pub(super) fn inquire_page(page: u8, room: u16) -> Self {
        let [high, low] = room.to_be_bytes();
        Self::new("INQUIRY", Repeat::Always, &[0x12, 1, page, high, low, 0])
    }

    /// READ CAPACITY(16).
    pub(super) fn read_capacity(room: u32) -> Self {
        let mut bytes = [0; 16];
        (bytes[0], bytes[1]) = (0x9e, 0x10);
        bytes[10..14].copy_from_slice(&room.to_be_bytes());
        Self::new("READ CAPACITY", Repeat::Always, &bytes)
    }

    /// GET LBA STATUS from `block` on.
    pub(super) fn lba_status(block: u64, room: u32) -> Self {
        let mut command = Self::blocks("GET LBA STATUS", Repeat::Always, 0x9e, block, room);
        command.bytes[1] = 0x12;
        command
    }

    /// REPORT SUPPORTED OPERATION CODES for one operation code without service actions.
    pub(super) fn report_operation_code(code: u8, room: u32) -> Self {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&[0xa3, 0x0c, 1, code]);
        bytes[6..10].copy_from_slice(&room.to_be_bytes());
        Self::new("REPORT SUPPORTED OPERATION CODES", Repeat::Always, &bytes)
    }

    pub(super) fn read(block: u64, blocks: u32) -> Self {
        Self::blocks("READ", Repeat::Always, 0x88, block, blocks)
    }

    pub(super) fn write(block: u64, blocks: u32) -> Self {
        Self::blocks("WRITE", Repeat::Soon, 0x8a, block, blocks)
    }

    /// WRITE SAME(16), which may `unmap` blocks that then read as zeros.
    pub(super) fn write_same(block: u64, blocks: u32, unmap: bool) -> Self {
        let mut command = Self::blocks("WRITE SAME", Repeat::Soon, WRITE_SAME, block, blocks);
        command.bytes[1] = u8::from(unmap) << 3;
        command.slow()
    }

    /// COMPARE AND WRITE of `blocks` blocks; of none it does nothing.
    pub(super) fn compare_and_write(block: u64, blocks: u8) -> Self {
        let mut bytes = [0; 16];
        bytes[0] = COMPARE_AND_WRITE;
        bytes[2..10].copy_from_slice(&block.to_be_bytes());
        bytes[13] = blocks;
        Self::new("COMPARE AND WRITE", Repeat::Never, &bytes)
    }

    /// SYNCHRONIZE CACHE(16) of the whole LUN.
    pub(super) fn flush() -> Self {
        Self::blocks("SYNCHRONIZE CACHE", Repeat::Always, 0x91, 0, 0).slow()
    }

    /// SYNCHRONIZE CACHE(10) of the whole LUN.
    pub(super) fn flush10() -> Self {
        let bytes = [0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        Self::new("SYNCHRONIZE CACHE", Repeat::Always, &bytes).slow()
    }

    /// UNMAP with a parameter list of `len` bytes.
    pub(super) fn unmap(len: u16) -> Self {
        let [high, low] = len.to_be_bytes();
        let bytes = [UNMAP, 0, 0, 0, 0, 0, 0, high, low, 0];
        Self::new("UNMAP", Repeat::Soon, &bytes).slow()
    }

    /// RESERVE(6). The connection's loss ends what it did, so that it can be sent again.
    pub(super) fn reserve() -> Self {
        Self::new("RESERVE", Repeat::Always, &[RESERVE, 0, 0, 0, 0, 0])
    }

    /// RELEASE(6). The connection's loss does the same.
    pub(super) fn release() -> Self {
        Self::new("RELEASE", Repeat::Always, &[0x17, 0, 0, 0, 0, 0])
    }

    /// PERSISTENT RESERVE IN.
    pub(super) fn persistent_in(action: u8, room: u16) -> Self {
        let [high, low] = room.to_be_bytes();
        let bytes = [0x5e, action, 0, 0, 0, 0, 0, high, low, 0];
        Self::new("PERSISTENT RESERVE IN", Repeat::Always, &bytes)
    }

    /// PERSISTENT RESERVE OUT, of the whole LUN.
    pub(super) fn persistent_out(action: u8, kind: u8, len: u8) -> Self {
        let bytes = [0x5f, action, kind, 0, 0, 0, 0, 0, len, 0];
        Self::new("PERSISTENT RESERVE OUT", Repeat::Never, &bytes).slow()
    }

    /// A command of 16 bytes with the address and the number of blocks in their usual places.
    fn blocks(name: &'static str, repeat: Repeat, code: u8, block: u64, blocks: u32) -> Self {
        let mut bytes = [0; 16];
        bytes[0] = code;
        bytes[2..10].copy_from_slice(&block.to_be_bytes());
        bytes[10..14].copy_from_slice(&blocks.to_be_bytes());
        Self::new(name, repeat, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_counts_stand_where_the_standard_has_them() {
        let read = Command::read(0x0102_0304_0506_0708, 0x0a0b_0c0d);
        assert_eq!(
            read.bytes(),
            [
                0x88, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0x0a, 0x0b, 0x0c, 0x0d, 0, 0
            ]
        );
        let compare = Command::compare_and_write(5, 8);
        assert_eq!(
            compare.bytes(),
            [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0]
        );
        assert_eq!(Command::write_same(0, 1, true).bytes()[1], 8);
        assert_eq!(
            Command::inquire_page(0x83, 0x1234).bytes(),
            [0x12, 1, 0x83, 0x12, 0x34, 0]
        );
        assert_eq!(
            Command::report_operation_code(0x89, 0x20).bytes(),
            [0xa3, 0x0c, 1, 0x89, 0, 0, 0, 0, 0, 0x20, 0, 0]
        );
        assert_eq!(
            Command::persistent_out(6, 5, 24).bytes(),
            [0x5f, 6, 5, 0, 0, 0, 0, 0, 24, 0]
        );
    }
}
