//! The parameter data of PERSISTENT RESERVE IN and OUT (SPC-4, 6.15 and 6.16).

use super::command::Command;
use crate::scsi::persistent::{
    Key, PersistentReserve, Registration, ReservationType, Reservations,
};

/// Room for what PERSISTENT RESERVE IN tells: several hundred hosts.
pub(super) const ROOM: u16 = 32 << 10;

/// The command for `action` and its parameter list.
pub(super) fn out(action: PersistentReserve) -> (Command, [u8; 24]) {
    let (code, kind, key, other) = match action {
        PersistentReserve::Register { key } => (6, 0, None, key),
        PersistentReserve::Reserve { key, kind } => (1, kind_code(kind), Some(key), None),
        PersistentReserve::Release { key, kind } => (2, kind_code(kind), Some(key), None),
        PersistentReserve::Clear { key } => (3, 0, Some(key), None),
        PersistentReserve::Preempt { key, victim, kind } => {
            (5, kind_code(kind), Some(key), Some(victim))
        }
    };
    request(code, kind, key, other)
}

/// PREEMPT, which leaves the victim's commands alone.
pub(super) fn preempt(key: Key, victim: Key, kind: ReservationType) -> (Command, [u8; 24]) {
    request(4, kind_code(kind), Some(key), Some(victim))
}

/// REGISTER: a host that is registered with `key` registers with it again; any other is refused.
pub(super) fn confirm(key: Key) -> (Command, [u8; 24]) {
    request(0, 0, Some(key), Some(key))
}

fn request(code: u8, kind: u8, key: Option<Key>, other: Option<Key>) -> (Command, [u8; 24]) {
    let mut list = [0; 24];
    let number = |key: Option<Key>| key.map_or(0, |key| key.0).to_be_bytes();
    list[..8].copy_from_slice(&number(key));
    list[8..16].copy_from_slice(&number(other));
    (Command::persistent_out(code, kind, 24), list)
}

fn kind_code(kind: ReservationType) -> u8 {
    match kind {
        ReservationType::WriteExclusive => 1,
        ReservationType::ExclusiveAccess => 3,
        ReservationType::WriteExclusiveRegistrantsOnly => 5,
        ReservationType::ExclusiveAccessRegistrantsOnly => 6,
        ReservationType::WriteExclusiveAllRegistrants => 7,
        ReservationType::ExclusiveAccessAllRegistrants => 8,
    }
}

fn kind_of(code: u8) -> Option<ReservationType> {
    Some(match code & 15 {
        1 => ReservationType::WriteExclusive,
        3 => ReservationType::ExclusiveAccess,
        5 => ReservationType::WriteExclusiveRegistrantsOnly,
        6 => ReservationType::ExclusiveAccessRegistrantsOnly,
        7 => ReservationType::WriteExclusiveAllRegistrants,
        8 => ReservationType::ExclusiveAccessAllRegistrants,
        _ => return None,
    })
}

impl ReservationType {
    /// Whether all registered hosts hold it together.
    fn is_shared(self) -> bool {
        matches!(
            self,
            Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants
        )
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn key_at(bytes: &[u8], at: usize) -> Option<Key> {
    number(bytes, at).map(u64::from_be_bytes).map(Key)
}

/// The generation, and what follows the head as far as it is there.
fn split(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let generation = u32::from_be_bytes(number(bytes, 0)?);
    let length = u32::from_be_bytes(number(bytes, 4)?) as usize;
    let rest = &bytes[8..];
    Some((generation, rest.get(..length).unwrap_or(rest)))
}

/// READ KEYS: every registration's key; a host may have several.
pub(super) fn keys(bytes: &[u8]) -> Option<(u32, Vec<Key>)> {
    let (generation, rest) = split(bytes)?;
    let keys = rest.chunks_exact(8).filter_map(|key| key_at(key, 0));
    Some((generation, keys.collect()))
}

/// READ KEYS and READ RESERVATION, of a target that doesn't tell the hosts' names.
pub(super) fn nameless(keys_bytes: &[u8], reservation: &[u8]) -> Option<Reservations> {
    let (generation, keys) = keys(keys_bytes)?;
    let (_, rest) = split(reservation)?;
    let kind = rest.get(13).and_then(|code| kind_of(*code));
    let holder = key_at(rest, 0);
    Some(Reservations {
        generation,
        registrations: keys
            .into_iter()
            .map(|key| Registration {
                key,
                initiator: String::new(),
                holder: kind.is_some_and(|kind| kind.is_shared() || holder == Some(key)),
            })
            .collect(),
        kind,
    })
}

/// READ FULL STATUS.
pub(super) fn full_status(bytes: &[u8]) -> Option<Reservations> {
    let (generation, mut rest) = split(bytes)?;
    let mut all = Reservations {
        generation,
        ..Reservations::default()
    };
    while let Some((head, tail)) = rest.split_first_chunk::<24>() {
        let length = u32::from_be_bytes(number(head, 20)?) as usize;
        let (transport, next) = tail.split_at_checked(length)?;
        rest = next;
        let holder = head[12] & 1 != 0;
        if holder {
            all.kind = kind_of(head[13]);
        }
        all.registrations.push(Registration {
            key: key_at(head, 0)?,
            initiator: initiator(transport),
            holder,
        });
    }
    Some(all)
}

/// The iSCSI name in a TransportID (SPC-4, 7.6.4.6), without the session's number.
fn initiator(transport: &[u8]) -> String {
    const ISCSI: u8 = 5;
    let is_iscsi = transport.first().is_some_and(|first| first & 15 == ISCSI);
    let name = transport.get(4..).filter(|_| is_iscsi).unwrap_or_default();
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = String::from_utf8_lossy(name);
    name.split(",i,").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_list_has_the_hosts_own_key_first() {
        let (command, list) = out(PersistentReserve::Preempt {
            key: Key(1),
            victim: Key(2),
            kind: ReservationType::WriteExclusiveRegistrantsOnly,
        });
        assert_eq!(command.bytes()[1..3], [5, 5]);
        assert_eq!((list[7], list[15]), (1, 2));
        let (command, list) = out(PersistentReserve::Register { key: Some(Key(3)) });
        assert_eq!(command.bytes()[1], 6);
        assert_eq!((list[7], list[15]), (0, 3));
    }

    #[test]
    fn reads_keys_and_a_reservation() {
        let mut keys = vec![0, 0, 0, 9, 0, 0, 0, 16];
        keys.extend(1u64.to_be_bytes());
        keys.extend(2u64.to_be_bytes());
        // Whatever is in the room behind them.
        keys.extend([0xff; 16]);
        let mut reservation = vec![0, 0, 0, 9, 0, 0, 0, 16];
        reservation.extend(2u64.to_be_bytes());
        reservation.extend([0, 0, 0, 0, 0, 5, 0, 0]);
        let all = nameless(&keys, &reservation).expect("valid");
        assert_eq!(all.generation, 9);
        assert_eq!(
            all.kind,
            Some(ReservationType::WriteExclusiveRegistrantsOnly)
        );
        let holders: Vec<_> = all
            .registrations
            .iter()
            .map(|one| (one.key.0, one.holder))
            .collect();
        assert_eq!(holders, [(1, false), (2, true)]);
        let none = nameless(&keys, &[0, 0, 0, 9, 0, 0, 0, 0]).expect("valid");
        assert_eq!((none.kind, none.registrations[1].holder), (None, false));
        assert!(nameless(&keys[..5], &[]).is_none());
    }

    #[test]
    fn reads_the_full_status_of_an_iscsi_host() {
        let name = b"iqn.x:a,i,0x800000000001\0\0\0\0";
        let mut bytes = vec![0, 0, 0, 1, 0, 0, 0, 0];
        bytes.extend(7u64.to_be_bytes());
        bytes.extend([0, 0, 0, 0, 1, 5, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
        bytes.push(u8::try_from(4 + name.len()).expect("short"));
        bytes.extend([0x45, 0, 0, 28]);
        bytes.extend(name);
        bytes[7] = u8::try_from(bytes.len() - 8).expect("short");
        let all = full_status(&bytes).expect("valid");
        let [one] = all.registrations.as_slice() else {
            panic!("one host: {all:?}");
        };
        assert_eq!(
            (one.key, one.initiator.as_str(), one.holder),
            (Key(7), "iqn.x:a", true)
        );
        // A length that leads past the end.
        bytes[8 + 20] = 0xff;
        assert!(full_status(&bytes).is_none());
    }
}
