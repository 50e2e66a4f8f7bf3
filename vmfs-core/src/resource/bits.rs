/// Most resources that a cluster of any version has.
const MAX: usize = 512;

/// Which resources of a cluster may be taken, in memory.
#[derive(Debug, Clone)]
pub(super) struct Bits {
    words: [u64; MAX / 64],
}

impl Bits {
    /// A cluster of `total` resources of which `is_free` tells the free ones.
    pub(super) fn new(total: u32, is_free: impl Fn(u32) -> bool) -> Self {
        let mut bits = Self {
            words: [0; MAX / 64],
        };
        for resource in (0..total.min(MAX as u32)).filter(|&resource| is_free(resource)) {
            bits.give(resource);
        }
        bits
    }

    pub(super) fn is_free(&self, resource: u32) -> bool {
        self.words
            .get(resource as usize / 64)
            .is_some_and(|word| word >> (resource % 64) & 1 != 0)
    }

    /// Takes `resource`; whether it was there to take.
    pub(super) fn take(&mut self, resource: u32) -> bool {
        let free = self.is_free(resource);
        if free {
            self.words[resource as usize / 64] &= !(1 << (resource % 64));
        }
        free
    }

    pub(super) fn give(&mut self, resource: u32) {
        if !self.is_free(resource)
            && let Some(word) = self.words.get_mut(resource as usize / 64)
        {
            *word |= 1 << (resource % 64);
        }
    }

    /// The first free resource from `from` on.
    pub(super) fn next_free(&self, from: u32) -> Option<u32> {
        let mut index = from as usize / 64;
        let mut word = self.words.get(index)? & (!0 << (from % 64));
        while word == 0 {
            index += 1;
            word = *self.words.get(index)?;
        }
        Some(index as u32 * 64 + word.trailing_zeros())
    }

    /// Whether `count` resources from `first` on are all free.
    pub(super) fn is_run_free(&self, first: u32, count: u32) -> bool {
        (first..first + count).all(|resource| self.is_free(resource))
    }

    /// Takes `first`, which is free, and what follows it in one run, at most `want`; how many.
    pub(super) fn take_run(&mut self, first: u32, want: u64) -> u32 {
        let mut count = 0;
        while u64::from(count) < want && self.take(first + count) {
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_end_at_what_is_taken_and_at_the_end() {
        let mut bits = Bits::new(200, |resource| resource != 70);
        assert_eq!(bits.next_free(70), Some(71));
        assert_eq!(bits.take_run(60, 100), 10);
        assert_eq!(bits.next_free(60), Some(71));
        assert_eq!(bits.take_run(150, 1000), 50);
        assert_eq!(bits.next_free(150), None);
        bits.give(199);
        assert_eq!(bits.next_free(150), Some(199));
    }
}
