//! What commands go over a connection.

/// Follows the bytes of an iSCSI connection from a host to its target (RFC 7143, 11.2), which has no
/// digests.
#[derive(Debug, Default)]
pub(super) struct Commands {
    header: Vec<u8>,
    /// Bytes of data until the next header.
    skip: usize,
}

impl Commands {
    /// Takes the next bytes; gives the operation codes of the commands that they complete the
    /// headers of.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        const HEADER: usize = 48;
        const SCSI_COMMAND: u8 = 1;
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let (part, rest) = bytes.split_at(bytes.len().min(HEADER - self.header.len()));
            self.header.extend(part);
            bytes = rest;
            if self.header.len() == HEADER {
                let header = std::mem::take(&mut self.header);
                if header[0] & 0x3f == SCSI_COMMAND {
                    found.push(header[32]);
                }
                let data = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
                self.skip = usize::from(header[4]) * 4 + data.next_multiple_of(4);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_commands_between_data() {
        let mut stream = Vec::new();
        for (kind, code, data) in [(0x43, 0, 5u8), (1, 0x8a, 9), (5, 0, 1), (0x41, 0x16, 0)] {
            let mut header = [0; 48];
            (header[0], header[7], header[32]) = (kind, data, code);
            stream.extend(header);
            stream.extend(vec![0xff; usize::from(data).next_multiple_of(4)]);
        }
        for part in 1..60 {
            let mut commands = Commands::default();
            let found: Vec<_> = stream
                .chunks(part)
                .flat_map(|part| commands.follow(part))
                .collect();
            assert_eq!(found, [0x8a, 0x16], "{part} bytes at a time");
        }
    }
}
