//! `vmfs lun`.

mod target;

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;
use vmfs_core::scsi::{
    Access, Capabilities, FileLun, HostStatus, IscsiUrl, Key, Lun, PersistentReserve, Personality,
    Registration, Reservations, SharedStatus,
};

use crate::Common;
use crate::error::Error;
use crate::output::{human, is_terminal, json, shown, timestamp};

const AFTER_HELP: &str = "\
Hosts that open an image file for writing share it as a LUN of an array: processes on this machine, which meet in
IMAGE.array.hosts. What the array can do is its personality, vaai or legacy (mkfs.vmfs --array).

Counted are the commands of all hosts since IMAGE.array.hosts was made, also of those that have left. Hosts show theirs
ten times a second, so the last ones may be missing. Errors include conflicts, and a COMPARE AND WRITE that found other
bytes than it expected is none.

A disk's reservations can't be told: use sg_persist(8). Of an iSCSI LUN is told what the target knows, not what hosts have
sent: each logs that when it unmounts (vmfs-fuse -v).

Examples:
  vmfs lun datastore.img                         who has it open, who has reserved it, what has been done to it
  vmfs lun iscsi://192.0.2.7/iqn.x:disk/1        a LUN of an iSCSI target
  vmfs lun --json datastore.img | jq .shared.counters.reserves
  vmfs lun --reset datastore.img                 take it from a host that was stopped while it had it reserved
  vmfs lun --clear-registrations datastore.img   let in a host that was fenced, once it is known to be harmless";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// An image file, a block device or an iSCSI LUN
    #[arg(value_name = "DEVICE")]
    device: PathBuf,
    /// Take the LUN from the host that has reserved it (RESERVE), if one has
    ///
    /// That host's next command fails, and nothing that it has sent before lands afterwards.
    #[arg(long, group = "action")]
    release: bool,
    /// Reset the LUN: as --release, and all hosts are told. Persistent reservations stay
    #[arg(long, group = "action")]
    reset: bool,
    /// Take away the persistent reservation and all registrations
    ///
    /// Nothing keeps a host out any more that was fenced because it seemed dead: make sure that it is.
    #[arg(long, group = "action")]
    clear_registrations: bool,
}

/// Everything that `lun` tells.
#[derive(Debug, Serialize)]
struct LunInfo {
    device: String,
    identity: Option<String>,
    size: u64,
    block_size: u32,
    /// What kind of array an image emulates; a device's isn't known.
    personality: Option<Personality>,
    capabilities: Capabilities,
    /// Nothing if no host has opened the image for writing yet, or it is a device.
    shared: Option<SharedStatus>,
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<(), Error> {
    if IscsiUrl::is_one(&args.device) {
        return target::run(args, common);
    }
    let lun = FileLun::open(&args.device, Access::ReadOnly)
        .map_err(|error| Error::Open(error.to_string()))?;
    act(args, &lun)?;
    let personality = lun.personality();
    let info = LunInfo {
        device: lun.name().to_owned(),
        identity: lun.identity().map(ToString::to_string),
        size: lun.capacity(),
        block_size: lun.block_size(),
        personality,
        capabilities: personality
            .map(Personality::capabilities)
            .unwrap_or_default(),
        shared: lun.status()?,
    };
    if common.json {
        return json(&info);
    }
    print(&mut io::stdout().lock(), &info)
}

/// Does what an option asks for.
fn act(args: &Args, lun: &FileLun) -> Result<(), Error> {
    if !(args.release || args.reset || args.clear_registrations) {
        return Ok(());
    }
    let Some(status) = lun.status()? else {
        let name = lun.name();
        return Err(Error::Usage(format!(
            "{name}: no host shares it, so there is nothing to take away"
        )));
    };
    let holder = status
        .reserved_by
        .as_ref()
        .map(|host| name(&host.initiator));
    if args.clear_registrations {
        return clear_registrations(lun, &status.reservations.registrations);
    }
    eprintln!(
        "vmfs: warning: {} had it reserved; if that host is alive it loses what it was in the middle of",
        holder.unwrap_or_else(|| "nobody".to_owned())
    );
    if args.reset {
        lun.reset()?;
    } else {
        lun.break_reservation()?;
    }
    Ok(())
}

fn clear_registrations(lun: &dyn Lun, known: &[Registration]) -> Result<(), Error> {
    let names: Vec<_> = known.iter().map(target::host).collect();
    eprintln!(
        "vmfs: warning: registered are {}; hosts that were fenced may write again",
        listed(&names)
    );
    // Who isn't registered may not clear.
    let key = Key(u64::from_be_bytes(*b"vmfs-lun"));
    let register = PersistentReserve::Register { key: Some(key) };
    lun.persistent_reserve(register)?;
    lun.persistent_reserve(PersistentReserve::Clear { key })?;
    Ok(())
}

/// Identity, bytes, and bytes of a block.
fn print_shape(
    out: &mut dyn Write,
    identity: Option<&str>,
    (size, block): (u64, u32),
) -> Result<(), Error> {
    writeln!(out, "  identity     {}", identity.unwrap_or("unknown"))?;
    writeln!(out, "  size         {} ({size} bytes)", human(size))?;
    writeln!(out, "  block        {block} bytes")?;
    Ok(())
}

fn print(out: &mut dyn Write, info: &LunInfo) -> Result<(), Error> {
    writeln!(out, "device         {}", info.device)?;
    print_shape(out, info.identity.as_deref(), (info.size, info.block_size))?;
    if info.personality.is_none() {
        writeln!(
            out,
            "  array        its own: no commands for locks reach it through the kernel, so for one host"
        )?;
    }
    if let Some(personality) = info.personality {
        let name = match personality {
            Personality::Vaai => "vaai",
            Personality::Legacy => "legacy",
        };
        writeln!(out, "  array        {name}: {}", offered(info.capabilities))?;
    }
    let Some(shared) = &info.shared else {
        if info.personality.is_some() {
            writeln!(out, "  shared       by nobody yet")?;
        }
        return Ok(());
    };
    writeln!(out, "  hosts meet in {}", shared.file.display())?;
    if shared.moved_bytes > 0 {
        writeln!(
            out,
            "  MOVED        {} are kept there: a stopped process may still write to their place",
            human(shared.moved_bytes)
        )?;
    }
    let holder = shared.reserved_by.as_ref().map_or_else(
        || "nobody".to_owned(),
        |host| format!("{}, process {}", name(&host.initiator), host.process),
    );
    writeln!(out, "reserved by    {holder}")?;
    print_registrations(out, &shared.reservations)?;
    writeln!(out, "hosts          {}", shared.hosts.len())?;
    for host in &shared.hosts {
        print_host(out, host)?;
    }
    print_counters(out, shared)
}

fn print_registrations(out: &mut dyn Write, reservations: &Reservations) -> Result<(), Error> {
    writeln!(
        out,
        "registrations  {} (generation {})",
        reservations.registrations.len(),
        reservations.generation
    )?;
    for host in &reservations.registrations {
        let holder = if host.holder {
            "  holds the reservation"
        } else {
            ""
        };
        writeln!(out, "  {}  {}{holder}", host.key, target::host(host))?;
    }
    if let Some(kind) = reservations.kind {
        let kind = serde_json::to_value(kind)?;
        writeln!(out, "  reservation  {}", kind.as_str().unwrap_or_default())?;
    }
    Ok(())
}

fn print_host(out: &mut dyn Write, host: &HostStatus) -> Result<(), Error> {
    writeln!(
        out,
        "  {}  process {}, since {} UTC; {} reads, {} writes, {} conflicts",
        name(&host.initiator),
        host.process,
        timestamp(host.opened),
        host.counters.reads.commands,
        host.counters.writes.commands,
        host.counters.conflicts
    )?;
    Ok(())
}

fn print_counters(out: &mut dyn Write, shared: &SharedStatus) -> Result<(), Error> {
    let all = &shared.counters;
    writeln!(
        out,
        "{:<28}{:>12}{:>10}{:>12}{:>12}",
        "commands of all hosts", "count", "errors", "bytes", "mean µs"
    )?;
    for (name, op) in all.by_name() {
        let mean = op.nanos as f64 / 1000.0 / op.commands.max(1) as f64;
        writeln!(
            out,
            "  {name:<26}{:>12}{:>10}{:>12}{mean:>12.1}",
            op.commands,
            op.errors,
            human(op.bytes)
        )?;
    }
    writeln!(out, "  {:<26}{:>12}", "miscompares", all.miscompares)?;
    writeln!(out, "  {:<26}{:>12}", "conflicts", all.conflicts)?;
    Ok(())
}

/// The commands that an array has beyond READ and WRITE.
fn offered(capabilities: Capabilities) -> String {
    let commands = [
        (capabilities.compare_and_write, "COMPARE AND WRITE"),
        (capabilities.reserve, "RESERVE"),
        (capabilities.persistent_reserve, "PERSISTENT RESERVE"),
        (capabilities.unmap, "UNMAP"),
    ];
    let has = commands.into_iter().filter(|(has, _)| *has);
    listed(&has.map(|(_, name)| name.to_owned()).collect::<Vec<_>>())
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

/// A name that another process gave itself.
fn name(initiator: &str) -> String {
    shown(initiator.as_bytes(), is_terminal())
}
