//! How much of the volume is free.

use std::time::Duration;

use super::file_system::FileSystem;
use crate::journal::MetaReader;
use crate::resource::{Resources, Space};

/// What was counted last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count {
    space: Space,
    /// Uptime when it was.
    at: Duration,
    /// Other hosts changed the volume meanwhile.
    shared: bool,
}

impl FileSystem {
    /// Sizes and free counts.
    ///
    /// The first call reads every cluster header. What this host takes and gives back is known from then on; while
    /// other hosts are there it is counted anew when a heartbeat interval has passed.
    pub fn space(&self) -> Space {
        let Some(engine) = &self.engine else {
            let mut count = self.space.lock();
            let count = count.get_or_insert_with(|| Count {
                space: Space::count(self.store().reader(), self.store().resources()),
                at: Duration::ZERO,
                shared: false,
            });
            return count.space;
        };
        let mut count = self.space.lock();
        let (at, shared) = (engine.host.clock.uptime(), self.is_shared());
        let good = count.filter(|count| {
            count.shared == shared && (!shared || at < count.at + engine.host.heartbeat)
        });
        let count = match good {
            Some(count) => count,
            // What was counted is as of now, changes are counted from the mount on.
            None => *count.insert(Count {
                space: engine.allocator.adjust(self.count_space(shared), -1),
                at,
                shared,
            }),
        };
        engine.allocator.adjust(count.space, 1)
    }

    /// Counts past the cache if other hosts change what is there. They also make resource files grow.
    fn count_space(&self, shared: bool) -> Space {
        let (reader, resources) = (self.store().reader(), self.store().resources());
        if shared {
            let fresh = MetaReader::new(reader.volume().clone(), reader.layout().clone());
            match Resources::open(&fresh, self.descriptor()) {
                Ok(resources) => return Space::count(&fresh, &resources),
                Err(error) => tracing::debug!("resource files can't be read again: {error}"),
            }
        }
        Space::count(reader, resources)
    }
}
