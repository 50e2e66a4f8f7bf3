//! Who this host is to others on the volume.

use std::fs;

use anyhow::{Context, bail};
use vmfs_core::cluster::{Clock, HostConfig, SystemClock};
use vmfs_core::format::Uuid;

use crate::options::HostOptions;

/// This machine as a host of a volume, for one mount.
///
/// # Errors
/// When the intervals don't fit each other, or the system has no random numbers.
pub(crate) fn config(options: &HostOptions) -> anyhow::Result<HostConfig> {
    let name = options.name.clone().unwrap_or_else(machine_name);
    let mut host = HostConfig::new(new_uuid()?, &name);
    if let Some(heartbeat) = options.heartbeat {
        host.heartbeat = heartbeat;
    }
    if let Some(lease) = options.lease {
        host.lease = lease;
    }
    if let Some(commit) = options.commit {
        host.commit = commit;
    }
    host.lock = options.lock;
    if host.lease < 2 * host.heartbeat {
        bail!(
            "a lease of {:?} with a heartbeat every {:?}: one late heartbeat and other hosts would take this one for dead; the lease must be at least twice as long",
            host.lease,
            host.heartbeat
        );
    }
    Ok(host)
}

fn machine_name() -> String {
    let system = rustix::system::uname();
    system.nodename().to_string_lossy().into_owned()
}

/// An identifier as VMware's hosts make them: the time, random bits and a network address.
fn new_uuid() -> anyhow::Result<Uuid> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).context("the system has no random numbers")?;
    let [low, high, mac @ ..] = random;
    let now = SystemClock.now();
    Ok(Uuid {
        time_lo: u32::try_from(now.as_secs()).unwrap_or(u32::MAX).into(),
        time_hi: now.subsec_nanos().into(),
        random: u16::from_le_bytes([low, high]).into(),
        mac: network_address().unwrap_or_else(|| made_up_address(mac)),
    })
}

/// The address of the first network interface that has one.
fn network_address() -> Option<[u8; 6]> {
    let interfaces = fs::read_dir("/sys/class/net").ok()?;
    let mut paths: Vec<_> = interfaces
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    paths.sort();
    paths.iter().find_map(|path| {
        let text = fs::read_to_string(path.join("address")).ok()?;
        parse_address(&text).filter(|mac| *mac != [0; 6])
    })
}

fn parse_address(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text
        .trim()
        .split(':')
        .map(|digits| u8::from_str_radix(digits, 16).ok())
        .collect();
    bytes?.try_into().ok()
}

/// Random bytes as an address that no manufacturer gives out and that isn't a group's.
fn made_up_address(mut random: [u8; 6]) -> [u8; 6] {
    random[0] = random[0] & 0xfc | 0x02;
    random
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn two_mounts_are_two_hosts() {
        let options = HostOptions {
            name: Some("here".to_owned()),
            ..HostOptions::default()
        };
        let [first, second] = [(); 2].map(|()| config(&options).expect("valid"));
        assert_ne!(first.uuid, second.uuid);
        assert_eq!(first.name, "here");
        assert_ne!(first.uuid.mac, [0; 6]);
    }

    #[test]
    fn a_lease_leaves_time_for_a_late_heartbeat() {
        let mut options = HostOptions {
            lease: Some(Duration::from_secs(5)),
            ..HostOptions::default()
        };
        assert!(config(&options).is_err());
        options.heartbeat = Some(Duration::from_secs(1));
        assert_eq!(
            config(&options).expect("valid").lease,
            Duration::from_secs(5)
        );
    }

    #[test]
    fn only_addresses_of_six_bytes_count() {
        let expected = Some([0x02, 0x42, 0xac, 0x11, 0, 0xff]);
        assert_eq!(parse_address("02:42:ac:11:00:ff\n"), expected);
        assert_eq!(parse_address(""), None);
        assert_eq!(parse_address("80:00:00:00:fe:80:00:00"), None);
        assert_eq!(made_up_address([0xff; 6])[0], 0xfe);
    }
}
