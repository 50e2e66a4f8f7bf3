use std::fmt;

use vmfs_core::format::Uuid;

/// Makes the UUIDs of a volume from a time and a seed, the same ones each time.
#[derive(Clone)]
pub struct Identity {
    time_us: u64,
    state: u64,
    mac: [u8; 6],
}

impl Identity {
    /// A source of UUIDs at `time_us` microseconds since 1970.
    pub fn new(time_us: u64, seed: u64) -> Self {
        let mut source = Self {
            time_us,
            state: seed,
            mac: [0; 6],
        };
        let random = source.random().to_le_bytes();
        source.mac.copy_from_slice(&random[..6]);
        // A locally administered unicast address: no vendor's.
        source.mac[0] = source.mac[0] & 0xfc | 0x02;
        source
    }

    /// The next UUID.
    pub fn uuid(&mut self) -> Uuid {
        let random = self.random();
        Uuid {
            time_lo: ((self.time_us / 1_000_000) as u32).into(),
            time_hi: ((random >> 32) as u32).into(),
            random: (random as u16).into(),
            mac: self.mac,
        }
    }

    /// Sixty-four more random bits (SplitMix64).
    pub fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("time_us", &self.time_us)
            .finish_non_exhaustive()
    }
}
