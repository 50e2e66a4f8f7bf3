//! Who may do what with a LUN: reservations of both kinds (SPC-2, 5.5; SPC-4, 5.13) and the unit
//! attentions that their changes leave.

use std::collections::{BTreeMap, BTreeSet};

use crate::scsi::persistent::{
    Key, PersistentReserve, Registration, ReservationType, Reservations,
};

/// Hosts that can be registered with a LUN; VMware's limit of hosts on a volume is 64.
const MAX_REGISTRATIONS: usize = 128;
/// Hosts that attentions are kept for: one that is gone for good never asks for its own.
const MAX_WAITING: usize = 128;

/// One way from a host to the LUN.
///
/// Persistent reservations outlive it and go by the initiator's name, so that a host that comes
/// back is known again; RESERVE(6) belongs to the port and ends with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nexus {
    /// The host's initiator name.
    pub initiator: String,
    /// Tells apart ways of one host, and lives of one way. Not zero.
    pub port: u64,
}

/// What a command needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// It reads blocks.
    Read,
    /// It changes blocks, or makes changes durable.
    Write,
}

/// Why an array doesn't carry out a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// RESERVATION CONFLICT.
    Conflict,
    /// CHECK CONDITION: the command makes no sense now, for this reason.
    Invalid(&'static str),
}

/// What another host's command, or a reset, did to this host (a SCSI unit attention).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Attention {
    /// RESERVATIONS PREEMPTED: all registrations were cleared.
    ReservationsPreempted,
    /// RESERVATIONS RELEASED: the reservation that this host had a share in is gone or another.
    ReservationsReleased,
    /// REGISTRATIONS PREEMPTED: this host was fenced.
    RegistrationsPreempted,
    /// BUS DEVICE RESET FUNCTION OCCURRED: the LUN was reset.
    Reset,
}

/// A persistent reservation.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Held {
    kind: ReservationType,
    /// The initiator that holds it; nobody in particular if all registrants do.
    holder: Option<String>,
}

/// The state of a LUN's reservations, with every change that a command can make to it.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct ReservationState {
    /// Port that has the LUN by RESERVE(6). Not kept: it ends with its port.
    #[serde(skip)]
    reserved: Option<u64>,
    /// Ports that a reset took their reservation from, and which don't know it yet.
    #[serde(skip)]
    lost: BTreeSet<u64>,
    generation: u32,
    registrations: BTreeMap<String, Key>,
    reservation: Option<Held>,
    attentions: BTreeMap<String, BTreeSet<Attention>>,
}

impl ReservationType {
    /// Whether hosts that aren't registered may not even read.
    fn excludes_readers(self) -> bool {
        matches!(
            self,
            Self::ExclusiveAccess
                | Self::ExclusiveAccessRegistrantsOnly
                | Self::ExclusiveAccessAllRegistrants
        )
    }

    /// Whether being registered is enough.
    fn admits_registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Whether all registrants hold it together.
    fn belongs_to_all(self) -> bool {
        matches!(
            self,
            Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants
        )
    }
}

impl ReservationState {
    /// Whether a command of `nexus` that needs `demand` may run.
    pub fn check(&self, nexus: &Nexus, demand: Demand) -> Result<(), Refusal> {
        if self.reserved.is_some_and(|port| port != nexus.port) {
            return Err(Refusal::Conflict);
        }
        let Some(held) = &self.reservation else {
            return Ok(());
        };
        let open = demand == Demand::Read && !held.kind.excludes_readers();
        let registered = self.registrations.contains_key(&nexus.initiator);
        if open || self.is_holder(&nexus.initiator) || registered && held.kind.admits_registrants()
        {
            return Ok(());
        }
        Err(Refusal::Conflict)
    }

    /// RESERVE(6).
    pub fn reserve(&mut self, nexus: &Nexus) -> Result<(), Refusal> {
        // The two methods don't mix: SPC-4, 5.13.3, without the compatible handling.
        if !self.registrations.is_empty() || self.reserved.is_some_and(|port| port != nexus.port) {
            return Err(Refusal::Conflict);
        }
        self.reserved = Some(nexus.port);
        Ok(())
    }

    /// RELEASE(6): nothing happens if another port has the LUN.
    pub fn release(&mut self, nexus: &Nexus) -> Result<(), Refusal> {
        if !self.registrations.is_empty() {
            return Err(Refusal::Conflict);
        }
        if self.reserved == Some(nexus.port) {
            self.reserved = None;
        }
        Ok(())
    }

    /// PERSISTENT RESERVE IN: READ FULL STATUS.
    pub fn report(&self) -> Result<Reservations, Refusal> {
        if self.reserved.is_some() {
            return Err(Refusal::Conflict);
        }
        Ok(self.persistent_status())
    }

    /// What [`ReservationState::report`] tells, whether or not RESERVE(6) forbids asking.
    pub fn persistent_status(&self) -> Reservations {
        let registrations = self.registrations.iter();
        Reservations {
            generation: self.generation,
            registrations: registrations
                .map(|(initiator, &key)| Registration {
                    key,
                    initiator: initiator.clone(),
                    holder: self.is_holder(initiator),
                })
                .collect(),
            kind: self.reservation.as_ref().map(|held| held.kind),
        }
    }

    /// PERSISTENT RESERVE OUT. Gives the initiators whose registrations it took away: their
    /// commands that still run are to be waited for before the command is answered.
    pub fn persistent(
        &mut self,
        nexus: &Nexus,
        action: PersistentReserve,
    ) -> Result<Vec<String>, Refusal> {
        // SPC-2, 5.5.1: whoever has reserved the LUN.
        if self.reserved.is_some() {
            return Err(Refusal::Conflict);
        }
        let me = &nexus.initiator;
        match action {
            PersistentReserve::Register { key } => self.register(me, key).map(|()| Vec::new()),
            PersistentReserve::Reserve { key, kind } => {
                self.authorise(me, key)?;
                self.hold(me, kind).map(|()| Vec::new())
            }
            PersistentReserve::Release { key, kind } => {
                self.authorise(me, key)?;
                self.let_go(me, kind).map(|()| Vec::new())
            }
            PersistentReserve::Clear { key } => {
                self.authorise(me, key)?;
                Ok(self.clear(me))
            }
            PersistentReserve::Preempt { key, victim, kind } => {
                self.authorise(me, key)?;
                self.preempt(me, victim, kind)
            }
        }
    }

    /// LOGICAL UNIT RESET: takes away RESERVE(6), and tells `initiators`. Persistent
    /// reservations stay.
    pub fn reset(&mut self, initiators: impl IntoIterator<Item = String>) {
        if let Some(port) = self.reserved.take() {
            self.lost.insert(port);
        }
        for initiator in initiators {
            self.tell(&initiator, Attention::Reset);
        }
    }

    /// The port is gone (I_T nexus loss): so is its RESERVE(6).
    pub fn disconnect(&mut self, port: u64) {
        self.lost.remove(&port);
        if self.reserved == Some(port) {
            self.reserved = None;
        }
    }

    /// Whether `port` has just learned that its reservation was taken away; told once.
    pub fn has_lost(&mut self, port: u64) -> bool {
        self.lost.remove(&port)
    }

    /// Whether there are attentions for `initiator`.
    pub fn has_attentions(&self, initiator: &str) -> bool {
        self.attentions.contains_key(initiator)
    }

    /// The attentions for `initiator`, which are then forgotten.
    pub fn take_attentions(&mut self, initiator: &str) -> Vec<Attention> {
        let taken = self.attentions.remove(initiator);
        taken.unwrap_or_default().into_iter().collect()
    }

    /// The port that has the LUN by RESERVE(6).
    pub fn reserved(&self) -> Option<u64> {
        self.reserved
    }

    /// This state with RESERVE(6) held by `port`, for who keeps that elsewhere.
    #[must_use]
    pub fn with_reserved(mut self, port: Option<u64>) -> Self {
        self.reserved = port;
        self
    }

    /// Whether anybody is registered.
    pub fn has_registrations(&self) -> bool {
        !self.registrations.is_empty()
    }

    fn is_holder(&self, initiator: &str) -> bool {
        self.reservation.as_ref().is_some_and(|held| {
            if held.kind.belongs_to_all() {
                self.registrations.contains_key(initiator)
            } else {
                held.holder.as_deref() == Some(initiator)
            }
        })
    }

    /// A host that isn't registered, or not with this key, changes nothing.
    fn authorise(&self, initiator: &str, key: Key) -> Result<(), Refusal> {
        if self.registrations.get(initiator) == Some(&key) {
            Ok(())
        } else {
            Err(Refusal::Conflict)
        }
    }

    fn register(&mut self, me: &str, key: Option<Key>) -> Result<(), Refusal> {
        if let Some(key) = key.filter(|key| key.0 != 0) {
            let full = self.registrations.len() >= MAX_REGISTRATIONS;
            if full && !self.registrations.contains_key(me) {
                return Err(Refusal::Invalid("the LUN has no room for a registration"));
            }
            self.registrations.insert(me.to_owned(), key);
        } else {
            let was_holder = self.is_holder(me);
            if self.registrations.remove(me).is_some() && was_holder {
                self.drop_holder(me);
            }
        }
        self.generation = self.generation.wrapping_add(1);
        Ok(())
    }

    /// `me`, who isn't registered any more, was the holder.
    fn drop_holder(&mut self, me: &str) {
        let Some(held) = &self.reservation else {
            return;
        };
        let kind = held.kind;
        if kind.belongs_to_all() && !self.registrations.is_empty() {
            return;
        }
        self.reservation = None;
        if kind.admits_registrants() {
            self.tell_others(me, Attention::ReservationsReleased);
        }
    }

    fn hold(&mut self, me: &str, kind: ReservationType) -> Result<(), Refusal> {
        match &self.reservation {
            Some(held) if held.kind == kind && self.is_holder(me) => Ok(()),
            Some(_) => Err(Refusal::Conflict),
            None => {
                self.reservation = Some(Held::by(me, kind));
                Ok(())
            }
        }
    }

    fn let_go(&mut self, me: &str, kind: ReservationType) -> Result<(), Refusal> {
        let Some(held) = &self.reservation else {
            return Ok(());
        };
        if !self.is_holder(me) {
            return Ok(());
        }
        if held.kind != kind {
            return Err(Refusal::Invalid("the reservation is of another type"));
        }
        self.reservation = None;
        if kind.admits_registrants() {
            self.tell_others(me, Attention::ReservationsReleased);
        }
        Ok(())
    }

    fn clear(&mut self, me: &str) -> Vec<String> {
        self.tell_others(me, Attention::ReservationsPreempted);
        self.reservation = None;
        self.generation = self.generation.wrapping_add(1);
        let all = std::mem::take(&mut self.registrations).into_keys();
        all.filter(|initiator| initiator != me).collect()
    }

    fn preempt(
        &mut self,
        me: &str,
        victim: Key,
        kind: ReservationType,
    ) -> Result<Vec<String>, Refusal> {
        let takes_over = match &self.reservation {
            None => false,
            Some(held) if held.kind.belongs_to_all() => victim.0 == 0,
            Some(held) => {
                let holder = held.holder.as_ref();
                holder.and_then(|holder| self.registrations.get(holder)) == Some(&victim)
            }
        };
        let all = takes_over && victim.0 == 0;
        if victim.0 == 0 && !all {
            return Err(Refusal::Invalid("zero is no host's key"));
        }
        let removed: Vec<String> = self
            .registrations
            .iter()
            .filter(|&(initiator, &key)| {
                // Who takes the reservation over stays registered.
                (all || key == victim) && !(takes_over && initiator == me)
            })
            .map(|(initiator, _)| initiator.clone())
            .collect();
        if removed.is_empty() && !takes_over {
            return Err(Refusal::Conflict);
        }
        for initiator in &removed {
            self.registrations.remove(initiator);
            if initiator != me {
                self.tell(initiator, Attention::RegistrationsPreempted);
            }
        }
        if takes_over {
            let before = self.reservation.replace(Held::by(me, kind));
            if before.is_some_and(|before| before.kind != kind) {
                self.tell_others(me, Attention::ReservationsReleased);
            }
        } else if self.registrations.is_empty() {
            // Only reservations of all registrants can lose their last holder like this.
            self.reservation = None;
        }
        self.generation = self.generation.wrapping_add(1);
        Ok(removed)
    }

    /// Leaves an attention for every registered host but `me`.
    fn tell_others(&mut self, me: &str, attention: Attention) {
        let others: Vec<String> = self
            .registrations
            .keys()
            .filter(|initiator| *initiator != me)
            .cloned()
            .collect();
        for initiator in others {
            self.tell(&initiator, attention);
        }
    }

    fn tell(&mut self, initiator: &str, attention: Attention) {
        if self.attentions.len() < MAX_WAITING || self.attentions.contains_key(initiator) {
            let waiting = self.attentions.entry(initiator.to_owned()).or_default();
            waiting.insert(attention);
        }
    }
}

impl Held {
    fn by(initiator: &str, kind: ReservationType) -> Self {
        Self {
            kind,
            holder: (!kind.belongs_to_all()).then(|| initiator.to_owned()),
        }
    }
}
