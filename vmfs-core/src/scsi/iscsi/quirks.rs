//! Targets that don't do what the standards say.

/// What a target does otherwise than others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quirks {
    /// A login that takes the place of another session comes to its end only when all commands of
    /// that session have (RFC 7143, 6.3.5); a LUN reset leaves commands without an answer.
    pub(super) is_by_the_book: bool,
    /// What it says of the commands that it knows may be true.
    pub(super) knows_itself: bool,
}

impl Quirks {
    /// What the target is known for that gives `inquiry` as its standard INQUIRY data.
    pub(super) fn of(inquiry: &[u8]) -> Self {
        /// tgt. Its disk threads go on with a write whose session is gone, and may come to it
        /// when the next session has written something newer to the same blocks already. A LUN
        /// reset waits for them, and all commands of all hosts are answered. And it claims all
        /// commands that it has ever heard of.
        const TGT: &[u8] = b"IET     ";
        let is_tgt = inquiry.get(8..16) == Some(TGT);
        Self {
            is_by_the_book: !is_tgt,
            knows_itself: !is_tgt,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_known_by_its_vendor() {
        let mut inquiry = [0; 36];
        inquiry[8..16].copy_from_slice(b"IET     ");
        assert!(!Quirks::of(&inquiry).is_by_the_book);
        inquiry[8..16].copy_from_slice(b"LIO-ORG ");
        assert!(Quirks::of(&inquiry).is_by_the_book);
        assert!(Quirks::of(&[0; 5]).is_by_the_book);
    }
}
