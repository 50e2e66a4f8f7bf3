//! An array's reservations against a model of their rules that shares nothing with them, and the
//! array in memory that several hosts use.

use std::collections::BTreeMap;

use proptest::prelude::*;
use vmfs_core::scsi::{
    Attention, Comparison, Demand, DeviceOffset, Key, Lun, LunError, MemoryArray, Nexus,
    PersistentReserve, Personality, Refusal, ReservationState, ReservationType,
};

const HOSTS: usize = 4;
const TYPES: [ReservationType; 6] = [
    ReservationType::WriteExclusive,
    ReservationType::ExclusiveAccess,
    ReservationType::WriteExclusiveRegistrantsOnly,
    ReservationType::ExclusiveAccessRegistrantsOnly,
    ReservationType::WriteExclusiveAllRegistrants,
    ReservationType::ExclusiveAccessAllRegistrants,
];

/// What one host does.
#[derive(Debug, Clone)]
enum Step {
    Reserve,
    Release,
    Persistent(PersistentReserve),
    Reset,
    Disconnect,
}

/// The model: a row for each host, and the tables of the standard.
#[derive(Debug, Default)]
struct Model {
    key: [u64; HOSTS],
    /// Holder and row of [`TYPES`]; the holder of the last two is nobody.
    persistent: Option<(usize, usize)>,
    reserved: Option<usize>,
    generation: u32,
    told: BTreeMap<usize, Vec<Attention>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Good,
    Conflict,
    Invalid,
}

impl Model {
    fn registered(&self, host: usize) -> bool {
        self.key[host] != 0
    }

    fn holds(&self, host: usize) -> bool {
        match self.persistent {
            Some((_, 4 | 5)) => self.registered(host),
            Some((holder, _)) => holder == host,
            None => false,
        }
    }

    /// SPC-4, table 50: by type, whether a host may read and write that holds the reservation, is
    /// registered, or neither.
    fn allows(&self, host: usize, write: bool) -> bool {
        const TABLE: [[[bool; 2]; 3]; 6] = [
            [[true, true], [true, false], [true, false]],
            [[true, true], [false, false], [false, false]],
            [[true, true], [true, true], [true, false]],
            [[true, true], [true, true], [false, false]],
            [[true, true], [true, true], [true, false]],
            [[true, true], [true, true], [false, false]],
        ];
        if self.reserved.is_some_and(|holder| holder != host) {
            return false;
        }
        let Some((_, kind)) = self.persistent else {
            return true;
        };
        let row = match (self.holds(host), self.registered(host)) {
            (true, _) => 0,
            (_, true) => 1,
            _ => 2,
        };
        TABLE[kind][row][usize::from(write)]
    }

    fn tell_registered(&mut self, except: usize, what: Attention) {
        for host in 0..HOSTS {
            if host != except && self.registered(host) {
                self.tell(host, what);
            }
        }
    }

    fn tell(&mut self, host: usize, what: Attention) {
        let told = self.told.entry(host).or_default();
        if !told.contains(&what) {
            told.push(what);
        }
    }

    fn step(&mut self, host: usize, step: &Step) -> Answer {
        match step {
            Step::Reserve | Step::Release if self.key != [0; HOSTS] => Answer::Conflict,
            Step::Reserve if self.reserved.is_some_and(|holder| holder != host) => Answer::Conflict,
            Step::Reserve => {
                self.reserved = Some(host);
                Answer::Good
            }
            Step::Release | Step::Disconnect => {
                self.reserved = self.reserved.filter(|&holder| holder != host);
                Answer::Good
            }
            Step::Reset => {
                self.reserved = None;
                for other in (0..HOSTS).filter(|&other| other != host) {
                    self.tell(other, Attention::Reset);
                }
                Answer::Good
            }
            Step::Persistent(_) if self.reserved.is_some() => Answer::Conflict,
            Step::Persistent(action) => self.persistent(host, *action),
        }
    }

    fn persistent(&mut self, host: usize, action: PersistentReserve) -> Answer {
        let row = |kind| TYPES.iter().position(|&one| one == kind).expect("a type");
        let claimed = match action {
            PersistentReserve::Register { .. } => None,
            PersistentReserve::Reserve { key, .. }
            | PersistentReserve::Release { key, .. }
            | PersistentReserve::Clear { key }
            | PersistentReserve::Preempt { key, .. } => Some(key.0),
        };
        if claimed.is_some_and(|key| !self.registered(host) || self.key[host] != key) {
            return Answer::Conflict;
        }
        match action {
            PersistentReserve::Register { key } => {
                let held = self.holds(host);
                self.key[host] = key.map_or(0, |key| key.0);
                if held && !self.registered(host) {
                    self.unheld_by(host);
                }
                self.generation += 1;
            }
            PersistentReserve::Reserve { kind, .. } => match self.persistent {
                None => self.persistent = Some((host, row(kind))),
                Some((_, held)) if held == row(kind) && self.holds(host) => {}
                Some(_) => return Answer::Conflict,
            },
            PersistentReserve::Release { kind, .. } => {
                if self.holds(host) {
                    if self.persistent.is_some_and(|(_, held)| held != row(kind)) {
                        return Answer::Invalid;
                    }
                    self.persistent = None;
                    if row(kind) >= 2 {
                        self.tell_registered(host, Attention::ReservationsReleased);
                    }
                }
            }
            PersistentReserve::Clear { .. } => {
                self.tell_registered(host, Attention::ReservationsPreempted);
                self.key = [0; HOSTS];
                self.persistent = None;
                self.generation += 1;
            }
            PersistentReserve::Preempt { victim, kind, .. } => {
                return self.preempt(host, victim.0, row(kind));
            }
        }
        Answer::Good
    }

    /// The last paragraph of what unregistering the holder does.
    fn unheld_by(&mut self, host: usize) {
        match self.persistent {
            Some((_, 4 | 5)) if self.key != [0; HOSTS] => {}
            Some((_, kind)) => {
                self.persistent = None;
                if kind >= 2 {
                    self.tell_registered(host, Attention::ReservationsReleased);
                }
            }
            None => {}
        }
    }

    fn preempt(&mut self, host: usize, victim: u64, kind: usize) -> Answer {
        let old = self.persistent;
        let taking = match old {
            None => false,
            Some((_, 4 | 5)) => victim == 0,
            Some((holder, _)) => self.key[holder] == victim,
        };
        if victim == 0 && !taking {
            return Answer::Invalid;
        }
        let mut any = false;
        for other in 0..HOSTS {
            let hit = self.registered(other) && (victim == 0 || self.key[other] == victim);
            if hit && !(taking && other == host) {
                any = true;
                self.key[other] = 0;
                if other != host {
                    self.tell(other, Attention::RegistrationsPreempted);
                }
            }
        }
        if !any && !taking {
            return Answer::Conflict;
        }
        if taking {
            self.persistent = Some((host, kind));
            if old.is_some_and(|(_, before)| before != kind) {
                self.tell_registered(host, Attention::ReservationsReleased);
            }
        } else if self.key == [0; HOSTS] {
            self.persistent = None;
        }
        self.generation += 1;
        Answer::Good
    }
}

fn step() -> impl Strategy<Value = Step> {
    // Few keys and few types, so that hosts often share some and often name the right ones.
    let key = (0_u64..4).prop_map(Key);
    let kind = prop::sample::select(&TYPES[..]);
    let register =
        prop::option::of(key.clone()).prop_map(|key| PersistentReserve::Register { key });
    let with_kind =
        (key.clone(), key.clone(), kind, 0..3).prop_map(|(key, victim, kind, which)| match which {
            0 => PersistentReserve::Reserve { key, kind },
            1 => PersistentReserve::Release { key, kind },
            _ => PersistentReserve::Preempt { key, victim, kind },
        });
    let clear = key.prop_map(|key| PersistentReserve::Clear { key });
    prop_oneof![
        4 => register.prop_map(Step::Persistent),
        12 => with_kind.prop_map(Step::Persistent),
        1 => clear.prop_map(Step::Persistent),
        2 => Just(Step::Reserve),
        2 => Just(Step::Release),
        1 => Just(Step::Reset),
        1 => Just(Step::Disconnect),
    ]
}

fn nexus(host: usize) -> Nexus {
    Nexus {
        initiator: format!("host-{host}"),
        port: host as u64 + 1,
    }
}

fn answer<T>(result: &Result<T, Refusal>) -> Answer {
    match result {
        Ok(_) => Answer::Good,
        Err(Refusal::Conflict) => Answer::Conflict,
        Err(Refusal::Invalid(_)) => Answer::Invalid,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_state_machine_does_as_the_model(steps in prop::collection::vec((0..HOSTS, step()), 1..60)) {
        let mut model = Model::default();
        let mut state = ReservationState::default();
        for (host, step) in steps {
            let nexus = nexus(host);
            let got = match &step {
                Step::Reserve => answer(&state.reserve(&nexus)),
                Step::Release => answer(&state.release(&nexus)),
                Step::Persistent(action) => answer(&state.persistent(&nexus, *action)),
                Step::Reset => {
                    let others = (0..HOSTS).filter(|&other| other != host);
                    state.reset(others.map(|other| format!("host-{other}")));
                    Answer::Good
                }
                Step::Disconnect => {
                    state.disconnect(nexus.port);
                    Answer::Good
                }
            };
            prop_assert_eq!(got, model.step(host, &step), "{:?} by {}", step, host);
            for host in 0..HOSTS {
                for (demand, write) in [(Demand::Read, false), (Demand::Write, true)] {
                    let allowed = state.check(&self::nexus(host), demand).is_ok();
                    prop_assert_eq!(allowed, model.allows(host, write), "{} {:?}", host, demand);
                }
            }
            let report = state.persistent_status();
            prop_assert_eq!(report.generation, model.generation);
            prop_assert_eq!(report.kind, model.persistent.map(|(_, kind)| TYPES[kind]));
            let keys = report.registrations.iter().map(|r| (r.initiator.clone(), r.key.0, r.holder));
            let expected = (0..HOSTS).filter(|&host| model.registered(host));
            let expected = expected.map(|host| (format!("host-{host}"), model.key[host], model.holds(host)));
            prop_assert!(keys.eq(expected));
        }
        for host in 0..HOSTS {
            let mut told = model.told.remove(&host).unwrap_or_default();
            told.sort();
            prop_assert_eq!(state.take_attentions(&format!("host-{host}")), told);
        }
    }
}

#[test]
fn the_persistent_part_survives_being_kept() {
    let mut state = ReservationState::default();
    let key = Some(Key(0xabc));
    let register = PersistentReserve::Register { key };
    state.persistent(&nexus(0), register).expect("register");
    let kind = ReservationType::WriteExclusiveRegistrantsOnly;
    let reserve = PersistentReserve::Reserve {
        key: Key(0xabc),
        kind,
    };
    state.persistent(&nexus(0), reserve).expect("reserve");
    let kept = serde_json::to_vec(&state).expect("json");
    let back: ReservationState = serde_json::from_slice(&kept).expect("json");
    assert_eq!(back, state);
    assert_eq!(back.check(&nexus(1), Demand::Write), Err(Refusal::Conflict));
}

fn is_conflict<T>(result: &Result<T, LunError>) -> bool {
    matches!(result, Err(LunError::ReservationConflict { .. }))
}

#[test]
fn a_reservation_in_memory_keeps_others_out_until_its_host_is_gone() {
    let array = MemoryArray::new("array", 1 << 20, Personality::Legacy);
    let (a, b) = (array.port("a"), array.port("b"));
    a.reserve().expect("reserve");
    a.reserve().expect("again");
    assert_eq!(array.reserved_by().as_deref(), Some("a"));
    a.write(DeviceOffset(0), &[1; 512]).expect("own write");
    assert!(is_conflict(&b.read(DeviceOffset(0), &mut [0; 512])));
    assert!(is_conflict(&b.flush()));
    assert!(is_conflict(&b.reserve()));
    b.release().expect("nothing to release is no error");
    assert!(is_conflict(&b.write(DeviceOffset(0), &[2; 512])));
    assert_eq!(b.counters().snapshot().conflicts, 4);
    assert_eq!(array.counters().snapshot().reserves.commands, 3);
    drop(a);
    b.reserve().expect("reserve");
    array.disconnect("b");
    let c = array.port("c");
    c.reserve().expect("b has lost its nexus");
    assert!(matches!(
        b.write(DeviceOffset(0), &[2; 512]),
        Err(LunError::ReservationLost { .. })
    ));
    assert!(is_conflict(&b.write(DeviceOffset(0), &[2; 512])));
}

#[test]
fn a_reset_in_memory_takes_the_reservation_away_and_says_so_once() {
    let array = MemoryArray::new("array", 1 << 20, Personality::Vaai);
    let (a, b) = (array.port("a"), array.port("b"));
    a.reserve().expect("reserve");
    b.reset().expect("reset");
    b.write(DeviceOffset(0), &[2; 512]).expect("free");
    assert!(matches!(
        a.write(DeviceOffset(0), &[1; 512]),
        Err(LunError::ReservationLost { .. })
    ));
    a.write(DeviceOffset(0), &[1; 512]).expect("free again");
    assert_eq!(a.attentions(), [Attention::Reset]);
    assert_eq!(a.attentions(), []);
    assert_eq!(b.attentions(), []);
}

#[test]
fn a_legacy_array_in_memory_writes_zeros_without_write_same() {
    let array = MemoryArray::new("array", 1 << 20, Personality::Legacy);
    let port = array.port("a");
    port.write(DeviceOffset(0), &[7; 8192]).expect("write");
    port.write_zeros(DeviceOffset(512), 4096).expect("zeros");
    let mut bytes = [1; 8192];
    port.read(DeviceOffset(0), &mut bytes).expect("read");
    assert!(bytes[512..4608].iter().all(|&byte| byte == 0) && bytes[4608] == 7);
    assert_eq!(port.counters().snapshot().zeroings.commands, 0);
    let unsupported = |result| matches!(result, Err(LunError::Unsupported { .. }));
    let caw = port.compare_and_write(DeviceOffset(0), &[0; 512], &[0; 512]);
    assert!(unsupported(caw.map(|_| ())));
    assert!(unsupported(port.unmap(DeviceOffset(0), 512)));
    assert!(unsupported(port.reservations().map(|_| ())));
    assert!(!port.capabilities().compare_and_write && port.capabilities().reserve);
}

#[test]
fn compare_and_write_in_memory_tells_where_bytes_differ() {
    let array = MemoryArray::new("array", 1 << 20, Personality::Vaai);
    let port = array.port("a");
    let mut expected = [0; 1024];
    let done = port.compare_and_write(DeviceOffset(512), &expected, &[3; 1024]);
    assert_eq!(done.expect("command"), Comparison::Written);
    expected.fill(3);
    expected[700] = 4;
    let done = port.compare_and_write(DeviceOffset(512), &expected, &[9; 1024]);
    assert_eq!(done.expect("command"), Comparison::Miscompare { at: 700 });
    assert_eq!(port.counters().snapshot().miscompares, 1);
    for (offset, length) in [(100, 512), (0, 100), (0, 256 * 512)] {
        let bytes = vec![0; length];
        let refused = port.compare_and_write(DeviceOffset(offset), &bytes, &bytes);
        assert!(
            matches!(refused, Err(LunError::Invalid { .. })),
            "{offset} {length}"
        );
    }
}
