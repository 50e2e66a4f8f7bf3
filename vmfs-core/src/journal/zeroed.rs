use std::collections::BTreeMap;
use std::ops::Range;

/// New metadata that was made zeros straight on the volume, and isn't durable yet.
///
/// A flush that fails may lose the zeros. So what reads there sees them whatever the volume holds,
/// and they are written again before the transaction that needs them is.
#[derive(Debug, Default, Clone)]
pub(super) struct Zeroed {
    /// Start and end.
    ranges: BTreeMap<u64, u64>,
    /// Flushes that had failed before the first of them was written.
    failures: u64,
}

impl Zeroed {
    /// Notes a range that was zeroed when `failures` flushes had failed.
    pub(super) fn add(&mut self, range: Range<u64>, failures: u64) {
        if self.ranges.is_empty() || failures < self.failures {
            self.failures = failures;
        }
        let end = self.ranges.entry(range.start).or_default();
        *end = range.end.max(*end);
    }

    /// Adds all that `other` has.
    pub(super) fn merge(&mut self, other: &Self) {
        for (&start, &end) in &other.ranges {
            self.add(start..end, other.failures);
        }
    }

    /// The ranges that may be lost, after so many flushes that failed.
    pub(super) fn lost(&self, failures: u64) -> impl Iterator<Item = Range<u64>> {
        let ranges = self.ranges.iter().filter(move |_| failures > self.failures);
        ranges.map(|(&start, &end)| start..end)
    }

    /// Makes zeros of what `bytes`, which are from `offset`, have of the ranges.
    pub(super) fn apply(&self, offset: u64, bytes: &mut [u8]) {
        let end = offset + bytes.len() as u64;
        // Ranges are blocks, so none lies over another: the last ones before the end are those.
        for (&from, &to) in self.ranges.range(..end).rev() {
            let (from, to) = (from.max(offset), to.min(end));
            if from >= to {
                break;
            }
            bytes[(from - offset) as usize..(to - offset) as usize].fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_zeroed_reads_as_zeros() {
        let mut zeroed = Zeroed::default();
        zeroed.add(10..20, 3);
        zeroed.add(20..24, 2);
        zeroed.add(40..50, 4);
        let mut bytes = [1; 40];
        zeroed.apply(12, &mut bytes);
        let expected: Vec<u8> = (12..52)
            .map(|at| u8::from(!(10..24).contains(&at) && !(40..50).contains(&at)))
            .collect();
        assert_eq!(bytes[..], expected);
        assert_eq!(zeroed.lost(2).count(), 0);
        assert_eq!(zeroed.lost(3).count(), 3);
    }
}
