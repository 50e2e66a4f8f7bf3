//! How long the kernel may keep what it was told, by whether another host may be writing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use vmfs_core::cluster::Host;
use vmfs_core::format::HeartbeatState;
use vmfs_core::fs::{FileSystem, FsError};

use crate::options::Options;

/// How long the kernel may keep what it knows of a volume that nobody writes to.
const QUIET: Duration = Duration::from_secs(24 * 60 * 60);
/// The same of a volume that only this host writes to.
const MEMBER: Duration = Duration::from_secs(3);
/// The same if a host may be writing.
const SHARED: Duration = Duration::from_secs(1);
/// Time between two looks at the heartbeats. A host renews its own every three seconds, so one
/// that stands still for this long is that of a host that died.
const WATCH: Duration = Duration::from_secs(8);

/// The same of a file that is open for writing, whose number of blocks changes behind the kernel's
/// back when it writes its cache back.
const BEING_WRITTEN: Duration = Duration::from_secs(1);

/// How long the kernel may keep things.
#[derive(Debug)]
pub(crate) struct Caching {
    attributes: Option<Duration>,
    names: Option<Duration>,
    /// Nobody had the volume mounted at first: opens need no request.
    free_opens: bool,
    shared: Arc<AtomicBool>,
    /// The file system, if it is open for writing.
    member: Option<Arc<FileSystem>>,
}

/// How long the kernel may keep anything of a volume that `options` have mounted for writing.
/// Another host that wants to come waits for as long.
pub(crate) fn longest_kept(options: &Options) -> Duration {
    let asked = options.attr_timeout.max(options.entry_timeout);
    asked.map_or(MEMBER, |asked| asked.max(MEMBER))
}

/// What a heartbeat slot showed: the host, and what it changes when it renews.
type Seen = HashMap<u64, (Host, u64, u64)>;

impl Caching {
    /// For a host that writes to the volume: what changes, changes through the kernel, but for
    /// what other hosts change, who tell before they begin.
    pub(crate) fn writing(fs: &Arc<FileSystem>, options: &Options) -> Self {
        Self {
            attributes: options.attr_timeout,
            names: options.entry_timeout,
            free_opens: false,
            shared: Arc::default(),
            member: Some(Arc::clone(fs)),
        }
    }

    /// Looks at the volume's heartbeats, and goes on doing so in the background.
    pub(crate) fn watch(fs: &Arc<FileSystem>, options: &Options) -> Self {
        let first = look(fs)
            .inspect_err(|error| tracing::warn!("can't tell which hosts use the volume: {error}"))
            .ok();
        let alone = first.as_ref().is_some_and(Seen::is_empty);
        let shared = Arc::new(AtomicBool::new(!alone));
        let (watched, known) = (Arc::clone(fs), Arc::clone(&shared));
        let thread = thread::Builder::new().name("heartbeats".to_owned());
        let started = thread.spawn(move || watch(&watched, first, &known));
        if let Err(error) = started {
            tracing::warn!("can't watch for other hosts: {error}");
        }
        Self {
            attributes: options.attr_timeout,
            names: options.entry_timeout,
            free_opens: alone,
            shared,
            member: None,
        }
    }

    /// For attributes.
    pub(crate) fn attributes(&self) -> Duration {
        self.limited(self.attributes)
    }

    /// As long as the options say, but not at all while other hosts write.
    fn limited(&self, asked: Option<Duration>) -> Duration {
        match &self.member {
            Some(fs) if fs.is_shared() => Duration::ZERO,
            _ => asked.unwrap_or_else(|| self.default()),
        }
    }

    /// For attributes of a file that is open for writing.
    pub(crate) fn attributes_being_written(&self) -> Duration {
        self.attributes().min(BEING_WRITTEN)
    }

    /// For names, those that aren't there included.
    pub(crate) fn names(&self) -> Duration {
        self.limited(self.names)
    }

    /// Whether the kernel needn't ask at opens, and keeps contents from one to the next.
    pub(crate) fn opens_are_free(&self) -> bool {
        self.free_opens
    }

    /// Whether another host may be writing.
    pub(crate) fn is_shared(&self) -> bool {
        match &self.member {
            Some(fs) => fs.is_shared(),
            None => self.shared.load(Relaxed),
        }
    }

    fn default(&self) -> Duration {
        if self.member.is_some() {
            MEMBER
        } else if self.is_shared() {
            SHARED
        } else {
            QUIET
        }
    }
}

/// Keeps `shared` true to the heartbeats, and what is cached fresh while it is.
fn watch(fs: &FileSystem, mut before: Option<Seen>, shared: &AtomicBool) {
    let mut live = HashMap::new();
    loop {
        for _ in 0..WATCH.as_secs() {
            thread::sleep(SHARED);
            if shared.load(Relaxed) {
                fs.forget();
            }
        }
        let now = match look(fs) {
            Ok(now) => now,
            Err(error) => {
                tracing::debug!("can't look at the heartbeats: {error}");
                continue;
            }
        };
        let Some(earlier) = before.replace(now.clone()) else {
            continue;
        };
        let moving: HashMap<_, _> = now
            .iter()
            .filter(|(slot, seen)| !is_same(earlier.get(slot), seen))
            .map(|(_, (host, ..))| (host.host.to_string(), host.ip.clone()))
            .collect();
        for (host, ip) in &moving {
            if !live.contains_key(host) {
                tracing::warn!(
                    "host {host} ({ip}) has the volume mounted: what it writes from now on is seen here a second late, what it wrote before perhaps not at all"
                );
            }
        }
        shared.store(!moving.is_empty(), Relaxed);
        live = moving;
    }
}

fn is_same(before: Option<&(Host, u64, u64)>, now: &(Host, u64, u64)) -> bool {
    before.is_some_and(|before| (before.1, before.2) == (now.1, now.2))
}

/// The slots in use.
fn look(fs: &FileSystem) -> Result<Seen, FsError> {
    let in_use = |host: &Host| host.state == HeartbeatState::InUse;
    let seen = |host: Host| {
        let (generation, stamp) = (host.generation, host.stamp_us);
        (host.slot, (host, generation, stamp))
    };
    Ok(fs.hosts()?.into_iter().filter(in_use).map(seen).collect())
}
