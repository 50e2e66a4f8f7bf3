//! Reservations of a shared LUN.

use std::sync::atomic::Ordering::SeqCst;

use super::memory::Word;
use super::{Fault, SharedLun};
use crate::scsi::array::rules::{Attention, Refusal};
use crate::scsi::persistent::{PersistentReserve, Reservations};

impl SharedLun {
    /// RESERVE(6).
    pub(in crate::scsi) fn reserve(&self) -> Result<(), Fault> {
        let _alone = self.reserving.lock();
        let word = self.memory.word(Word::Reserved);
        loop {
            let reserved = word.load(SeqCst);
            if reserved == self.nexus.port {
                return Ok(());
            }
            if self.held.swap(false, SeqCst) {
                return Err(Fault::Lost);
            }
            if reserved != 0 {
                self.check_reserved(reserved)?;
                continue;
            }
            self.refresh()?;
            let mut state = self.view().reservations.clone();
            state.reserve(&self.nexus)?;
            if word
                .compare_exchange(0, self.nexus.port, SeqCst, SeqCst)
                .is_ok()
            {
                break;
            }
        }
        self.holder.set();
        self.held.store(true, SeqCst);
        // From here on commands of others are refused; those that run already are waited for.
        let drained = self.drain(|_| true);
        self.refresh()?;
        if drained.is_err() || self.view().reservations.has_registrations() {
            self.held.store(false, SeqCst);
            self.forget_reservation(self.nexus.port);
            drained?;
            return Err(Refusal::Conflict.into());
        }
        // A reset may have come while this was waiting.
        self.check_held()
    }

    fn check_held(&self) -> Result<(), Fault> {
        let reserved = self.memory.word(Word::Reserved).load(SeqCst);
        if reserved != self.nexus.port && self.held.swap(false, SeqCst) {
            return Err(Fault::Lost);
        }
        Ok(())
    }

    /// RELEASE(6).
    pub(in crate::scsi) fn release(&self) -> Result<(), Fault> {
        let _alone = self.reserving.lock();
        self.refresh()?;
        let mut state = self.view().reservations.clone();
        state.release(&self.nexus)?;
        if !self.held.swap(false, SeqCst) {
            return Ok(());
        }
        let word = self.memory.word(Word::Reserved);
        match word.compare_exchange(self.nexus.port, 0, SeqCst, SeqCst) {
            Ok(_) => Ok(()),
            Err(_) => Err(Fault::Lost),
        }
    }

    /// Takes the LUN from who has reserved it.
    pub(in crate::scsi) fn break_reservation(&self) -> Result<(), Fault> {
        let had = self.memory.word(Word::Reserved).swap(0, SeqCst);
        if had == self.nexus.port {
            self.held.store(false, SeqCst);
        }
        Ok(self.drain(|_| true)?)
    }

    /// LOGICAL UNIT RESET.
    pub(in crate::scsi) fn reset(&self) -> Result<(), Fault> {
        self.break_reservation()?;
        let mut others = Vec::new();
        for seat in 0..self.seats() {
            let name = self.name_if_alive(seat)?;
            others.extend(name.filter(|name| *name != self.nexus.initiator));
        }
        self.change(|record| {
            record.reservations.reset(others.iter().cloned());
            Ok(())
        })
    }

    /// PERSISTENT RESERVE OUT.
    pub(in crate::scsi) fn persistent(&self, action: PersistentReserve) -> Result<(), Fault> {
        self.refuse_if_reserved()?;
        self.change(|record| {
            let reservations = &mut record.reservations;
            reservations.persistent(&self.nexus, action)?;
            Ok::<_, Fault>(())
        })?;
        // RESERVE(6) looks for registrations after it has taken the LUN, and this the other way
        // round: at least one of the two gives way. Only a first registration can find the LUN
        // taken here, as RESERVE(6) is refused once there is one.
        if let Err(fault) = self.refuse_if_reserved() {
            let nothing = PersistentReserve::Register { key: None };
            self.change(|record| {
                let reservations = &mut record.reservations;
                reservations.persistent(&self.nexus, nothing)?;
                Ok::<_, Fault>(())
            })?;
            return Err(fault);
        }
        self.refresh()?;
        match action {
            // Who may write less than before: what runs already would come too late.
            PersistentReserve::Reserve { .. } | PersistentReserve::Preempt { .. } => {
                Ok(self.drain(|_| true)?)
            }
            PersistentReserve::Register { .. }
            | PersistentReserve::Release { .. }
            | PersistentReserve::Clear { .. } => Ok(()),
        }
    }

    /// The two kinds of reservations don't mix.
    fn refuse_if_reserved(&self) -> Result<(), Fault> {
        let reserved = self.memory.word(Word::Reserved).load(SeqCst);
        if reserved == 0 {
            return Ok(());
        }
        if self.is_alive(reserved)? {
            return Err(Refusal::Conflict.into());
        }
        self.forget_reservation(reserved);
        Ok(())
    }

    /// PERSISTENT RESERVE IN.
    pub(in crate::scsi) fn persistent_status(&self) -> Result<Reservations, Fault> {
        self.refuse_if_reserved()?;
        self.refresh()?;
        Ok(self.view().reservations.report()?)
    }

    /// Unit attentions for this host.
    pub(in crate::scsi) fn attentions(&self) -> Vec<Attention> {
        let initiator = &self.nexus.initiator;
        let take = || {
            self.refresh()?;
            if self.seat.is_none() || !self.view().reservations.has_attentions(initiator) {
                return Ok::<_, std::io::Error>(Vec::new());
            }
            self.change(|record| Ok(record.reservations.take_attentions(initiator)))
        };
        // They stay for the next time if they can't be had now.
        take().unwrap_or_default()
    }
}
