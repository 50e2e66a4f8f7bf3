//! `vmfs lvm`.

mod grow;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use serde::Serialize;
use vmfs_core::format::{Uuid, text};
use vmfs_core::lvm::{Device, LvmError, NewSignature, Origin, resignature, unwrap_partition};
use vmfs_core::scsi::{self, Access, ArrayState, Lun, LunIdentity, Personality};

use crate::Common;
use crate::error::Error;
use crate::output::{human, json};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists devices and the volumes that they belong to
    List {
        /// Devices of any volumes
        #[arg(required = true)]
        devices: Vec<PathBuf>,
    },
    /// Lists devices that are snapshots or replicas of another LUN
    Snapshots {
        /// Devices of any volumes
        #[arg(required = true)]
        devices: Vec<PathBuf>,
    },
    /// Makes a copy of a volume a volume of its own: new UUIDs, label snap-xxxxxxxx-OLD
    ///
    /// Give all devices of one copy. If it is interrupted, running it again completes it.
    Resignature {
        /// All devices of one copy
        #[arg(required = true)]
        devices: Vec<PathBuf>,
    },
    /// Adds devices to a volume, and grows its file system
    ///
    /// What the new devices hold is lost. If it is interrupted, running it again completes it.
    Extend {
        /// All devices of the volume
        #[arg(required = true)]
        devices: Vec<PathBuf>,
        /// A device or image file to add; may be given more than once
        #[arg(long = "add", value_name = "NEWDEVICE", required = true, num_args = 1..)]
        add: Vec<PathBuf>,
        /// Overwrite what a new device holds; change a volume that a host seems to have mounted
        #[arg(long)]
        force: bool,
    },
    /// Grows a volume, and its file system, after its last device has become larger
    ///
    /// If it is interrupted, running it again completes it.
    Grow {
        /// All devices of the volume
        #[arg(required = true)]
        devices: Vec<PathBuf>,
        /// Change a volume that a host seems to have mounted
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Serialize)]
struct Row {
    device: String,
    size: u64,
    lvm_version: String,
    volume: Option<String>,
    name: Option<String>,
    first_extent: Option<u64>,
    last_extent: Option<u64>,
    volume_devices: Option<u32>,
    /// Devices of the volume that are not among those listed.
    missing_devices: usize,
    stored_identity: String,
    own_identity: Option<String>,
    origin: Origin,
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<(), Error> {
    match &args.command {
        Command::List { devices } => list(devices, common, |_| true),
        Command::Snapshots { devices } => {
            list(devices, common, |row| row.origin == Origin::Snapshot)
        }
        Command::Resignature { devices } => sign(devices, common),
        Command::Extend {
            devices,
            add,
            force,
        } => grow::extend_volume(devices, add, *force, common),
        Command::Grow { devices, force } => grow::grow_volume(devices, *force, common),
    }
}

fn open(path: &Path, access: Access) -> Result<Arc<dyn Lun>, Error> {
    let open =
        || -> Result<Arc<dyn Lun>, LvmError> { unwrap_partition(scsi::open(path, access, None)?) };
    open().map_err(|error| Error::Open(error.to_string()))
}

fn list(devices: &[PathBuf], common: &Common, wanted: impl Fn(&Row) -> bool) -> Result<(), Error> {
    let mut rows = Vec::new();
    for path in devices {
        let device = Device::open(open(path, Access::ReadOnly)?)
            .map_err(|error| Error::Open(error.to_string()))?;
        rows.push(row(&device));
    }
    for index in 0..rows.len() {
        let row = &rows[index];
        let here = rows
            .iter()
            .filter(|other| other.volume == row.volume)
            .count();
        let all = row.volume_devices.unwrap_or(0) as usize;
        rows[index].missing_devices = all.saturating_sub(here);
    }
    rows.retain(wanted);
    if common.json {
        return json(&rows);
    }
    let mut out = io::stdout().lock();
    for row in &rows {
        writeln!(out, "{}", row.device)?;
        writeln!(out, "  LVM {}, {}", row.lvm_version, human(row.size))?;
        if let Some(volume) = &row.volume {
            let name = row.name.as_ref().filter(|name| *name != volume);
            let name = name.map(|name| format!(" ({name})")).unwrap_or_default();
            writeln!(
                out,
                "  volume {volume}{name}: extents {} to {}, {} device(s) in all",
                row.first_extent.unwrap_or(0),
                row.last_extent.unwrap_or(0),
                row.volume_devices.unwrap_or(0)
            )?;
            if row.missing_devices > 0 {
                writeln!(
                    out,
                    "  MISSING {} other device(s) of it",
                    row.missing_devices
                )?;
            }
        }
        let own = row.own_identity.as_deref().unwrap_or("unknown");
        match row.origin {
            Origin::Original => writeln!(out, "  identity {own}")?,
            Origin::Unknown if row.stored_identity.is_empty() => {
                writeln!(out, "  identity not recorded")?;
            }
            Origin::Unknown => writeln!(out, "  written on {}", row.stored_identity)?,
            Origin::Snapshot => {
                writeln!(
                    out,
                    "  SNAPSHOT: written on {}, this is {own}",
                    row.stored_identity
                )?;
            }
        }
    }
    Ok(())
}

fn row(device: &Device) -> Row {
    let entry = device.volumes().first();
    let metadata = device.metadata();
    Row {
        device: device.name().to_owned(),
        size: metadata.total_bytes.get(),
        lvm_version: format!("{}.{}", metadata.major_version, metadata.minor_version),
        volume: entry.map(|entry| entry.uuid.to_string()),
        name: entry.map(|entry| String::from_utf8_lossy(text(&entry.name)).into_owned()),
        first_extent: entry.map(|entry| entry.first_pe.get()),
        last_extent: entry.map(|entry| entry.last_pe.get()),
        volume_devices: entry.map(|entry| entry.devices.get()),
        missing_devices: 0,
        stored_identity: device.stored_identity(),
        own_identity: device.lun().identity().map(ToString::to_string),
        origin: device.origin(),
    }
}

fn sign(devices: &[PathBuf], common: &Common) -> Result<(), Error> {
    let mut random = Random::open()?;
    for path in devices {
        let device = Device::open(open(path, Access::ReadOnly)?)
            .map_err(|error| Error::Open(error.to_string()))?;
        // From here on the copy is a LUN that will be known again, moved or not.
        let is_copy = device.origin() == Origin::Snapshot;
        if is_copy && path.is_file() && ArrayState::load(path)?.is_none() {
            let identity = LunIdentity::new(&format!("naa.6{:015x}", random.next()? >> 4));
            ArrayState::create(path, identity, Personality::default())?;
        }
    }
    let luns = devices
        .iter()
        .map(|path| open(path, Access::ReadWrite))
        .collect::<Result<Vec<_>, _>>()?;
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let new = NewSignature {
        volume: new_uuid(&mut random)?,
        file_system: new_uuid(&mut random)?,
        time_us: since_1970.as_micros() as u64,
    };
    let done = resignature(luns, new)?;
    if common.json {
        return json(&done);
    }
    let mut out = io::stdout().lock();
    let what = if done.completed {
        "completed an interrupted resignature:"
    } else {
        "resignatured:"
    };
    let label = done.label.as_deref().unwrap_or("no file system");
    writeln!(out, "{what} volume {}, label {label}", done.volume)?;
    Ok(())
}

/// A UUID made now.
fn new_uuid(random: &mut Random) -> Result<Uuid, Error> {
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let (high, low) = (random.next()?, random.next()?);
    let mut mac = [0; 6];
    mac.copy_from_slice(&low.to_le_bytes()[..6]);
    // Locally administered: no vendor's address.
    mac[0] = mac[0] & 0xfc | 0x02;
    Ok(Uuid {
        time_lo: (since_1970.as_secs() as u32).into(),
        time_hi: (high as u32).into(),
        random: ((high >> 32) as u16).into(),
        mac,
    })
}

/// The system's randomness.
struct Random(std::fs::File);

impl Random {
    fn open() -> io::Result<Self> {
        std::fs::File::open("/dev/urandom").map(Self)
    }

    fn next(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        io::Read::read_exact(&mut self.0, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}
