//! One run: hosts, faults, and a look at what is left.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use vmfs_core::fs::FileSystem;
use vmfs_core::scsi::{Demand, Nexus};

use super::array::Array;
use super::checker::{self, Outcome};
use super::client::Client;
use super::disk::Disk;
use super::faults;
use super::host;
use super::scheduler::Baton;
use super::settings::Settings;
use super::world::{Counts, World};
use crate::random::Random;

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Report {
    pub settings: Settings,
    /// The same for the same seed.
    pub trace: u64,
    pub counts: Counts,
    /// For each host that was taken over from, the time from its last heartbeat until that was done.
    pub takeovers: Vec<Duration>,
    /// Time that has passed in the run.
    pub time: Duration,
    /// There were too many orders of the calls to try all.
    pub is_undecided: bool,
    pub failure: Option<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.settings;
        let failure = self.failure.as_deref().unwrap_or("nothing is wrong");
        write!(
            f,
            "seed {}: {} hosts with {} clients on {} ({:?}, {:?}), {:.1} s: {failure}",
            settings.seed,
            settings.hosts,
            settings.clients,
            settings.base.family,
            settings.personality,
            settings.transport,
            self.time.as_secs_f32(),
        )
    }
}

/// Longest that hosts may take to unmount when all is calm: a lease and two for a lock, and that of
/// whoever died last.
const CALM: Duration = Duration::from_secs(240);

/// Runs what `settings` say.
pub fn run(settings: Settings) -> Report {
    let disk = Disk::over(Arc::clone(&settings.base.pages));
    let array = Array::new(settings.personality, disk);
    let random = Random::new(settings.seed);
    let baton = Baton::new(World::new(settings.clone(), array, random));
    let conductor = Arc::clone(&baton);
    baton.spawn(None, move || conduct(&conductor));
    baton.run();
    let mut world = baton.world();
    let mut is_undecided = false;
    if world.failure().is_none() {
        match checker::check(&world.history.told()) {
            Outcome::Fine => {}
            Outcome::Wrong(story) => world.fail(story),
            Outcome::Undecided => is_undecided = true,
        }
    }
    if world.failure().is_none() {
        let disk = std::mem::take(&mut world.array.disk);
        if let Err(found) = super::check::fsck(disk, settings.base.size) {
            world.fail(found);
        }
    }
    Report {
        trace: world.turns.trace(),
        counts: world.counts,
        takeovers: world.takeovers.clone(),
        time: world.turns.now,
        is_undecided,
        failure: world.failure().cloned(),
        settings,
    }
}

fn conduct(baton: &Arc<Baton>) {
    let (hosts, until) = {
        let mut world = baton.world();
        faults::plan(&mut world);
        (world.settings.hosts, world.settings.work_until)
    };
    for host in 0..hosts {
        let its = Arc::clone(baton);
        baton.spawn(Some(host), move || host::live(&its, host));
    }
    let stranger = baton.world().array.connect("stranger");
    while baton.world().turns.now < until {
        storm(baton, &stranger);
        baton.sleep(Duration::from_millis(100));
    }
    let (start, hosts) = {
        let mut world = baton.world();
        world.ending = true;
        world.array.disconnect(&stranger);
        (world.turns.now, world.settings.hosts)
    };
    while baton.world().done.len() < hosts {
        baton.sleep(Duration::from_millis(100));
        let mut world = baton.world();
        if world.turns.now > start + CALM {
            let done = world.done.clone();
            let (busy, threads) = (world.busy.clone(), world.turns.shown());
            world.fail(format!(
                "only hosts {done:?} have come to an end; mounts with clients: {busy:?}; threads: {threads}"
            ));
            return;
        }
    }
    let its = Arc::clone(baton);
    baton.spawn(Some(0), move || look(&its));
}

/// The last host mounts, and finds all in order.
fn look(baton: &Arc<Baton>) {
    let (mount, opened) = host::mount(baton, 0);
    let fs = match opened {
        Ok(fs) => Arc::new(fs),
        Err(error) => {
            baton
                .world()
                .fail(format!("the last mount failed: {error}"));
            return;
        }
    };
    // Of those that died while they shared it finds out by and by.
    let mut hosts = fs.hosts();
    for _ in 0..30 {
        let (wait, result) = fs.keep_up();
        hosts = fs.hosts();
        if matches!(&hosts, Ok(hosts) if hosts.len() == 1) {
            break;
        }
        if let Err(error) = result {
            baton
                .world()
                .fail(format!("the last host has trouble: {error}"));
            return;
        }
        baton.sleep(wait);
    }
    if !matches!(&hosts, Ok(hosts) if hosts.len() == 1) {
        let text = format!("the last host isn't alone: {hosts:?}");
        baton.world().fail(text);
        return;
    }
    match Client::new(Arc::clone(baton), mount, Arc::clone(&fs)) {
        Some(mut client) => client.look_at_all(),
        None => baton
            .world()
            .fail("the last host can't read the volume".to_owned()),
    }
    if let Err(error) = FileSystem::close(&fs) {
        baton
            .world()
            .fail(format!("the last unmount failed: {error}"));
    }
}

/// A stranger takes the LUN, for some moments each time.
fn storm(baton: &Arc<Baton>, stranger: &Nexus) {
    loop {
        let (hold, pause) = {
            let mut world = baton.world();
            if world.storm_until <= world.turns.now {
                return;
            }
            let reserved = world.array.reservations.reserve(stranger).is_ok();
            debug_assert!(
                !reserved
                    || world
                        .array
                        .reservations
                        .check(stranger, Demand::Write)
                        .is_ok()
            );
            let hold = world.between(Duration::from_micros(100), Duration::from_millis(60));
            let pause = world.between(Duration::from_micros(100), Duration::from_millis(10));
            (hold, pause)
        };
        baton.sleep(hold);
        let _ = baton.world().array.reservations.release(stranger);
        baton.sleep(pause);
    }
}
