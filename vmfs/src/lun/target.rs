//! `vmfs lun` on a LUN of an iSCSI target, which tells what it knows itself.

use std::io::{self, Write};
use std::sync::Arc;

use serde::Serialize;
use vmfs_core::scsi::{
    self, Access, Capabilities, DeviceOffset, Lun, LunError, Registration, Reservations,
};

use super::{Args, clear_registrations, name, offered, print_registrations, print_shape};
use crate::Common;
use crate::error::Error;
use crate::output::json;

/// Everything that `lun` tells of a target's LUN.
#[derive(Debug, Serialize)]
struct LunInfo {
    device: String,
    identity: Option<String>,
    size: u64,
    block_size: u32,
    capabilities: Capabilities,
    /// Whether another host has it by RESERVE(6) or a persistent reservation for itself; which one
    /// no target tells.
    reserved_by_other: bool,
    /// Nothing if the target has no persistent reservations, or doesn't tell them now.
    reservations: Option<Reservations>,
}

pub(super) fn run(args: &Args, common: &Common) -> Result<(), Error> {
    let opened = scsi::open(&args.device, Access::ReadOnly, None);
    let lun = opened.map_err(|error| Error::Open(error.to_string()))?;
    act(args, &lun)?;
    let mut block = vec![0; lun.block_size() as usize];
    let reserved_by_other = match lun.read(DeviceOffset(0), &mut block) {
        Err(LunError::ReservationConflict { .. }) => true,
        done => {
            done?;
            false
        }
    };
    let info = LunInfo {
        device: lun.name().to_owned(),
        identity: lun.identity().map(ToString::to_string),
        size: lun.capacity(),
        block_size: lun.block_size(),
        capabilities: lun.capabilities(),
        reserved_by_other,
        reservations: reservations(&*lun)?,
    };
    if common.json {
        return json(&info);
    }
    print(&mut io::stdout().lock(), &info)
}

fn reservations(lun: &dyn Lun) -> Result<Option<Reservations>, Error> {
    if !lun.capabilities().persistent_reserve {
        return Ok(None);
    }
    match lun.reservations() {
        Err(LunError::ReservationConflict { .. }) => Ok(None),
        told => Ok(Some(told?)),
    }
}

fn act(args: &Args, lun: &Arc<dyn Lun>) -> Result<(), Error> {
    if args.release {
        let text = "a target takes a reservation from another host by a reset only: use --reset";
        return Err(Error::Usage(text.to_owned()));
    }
    if args.clear_registrations {
        let known = reservations(&**lun)?.unwrap_or_default();
        return clear_registrations(&**lun, &known.registrations);
    }
    if args.reset {
        eprintln!(
            "vmfs: warning: whoever has it reserved loses what it was in the middle of, if it is alive"
        );
        lun.reset()?;
    }
    Ok(())
}

fn print(out: &mut dyn Write, info: &LunInfo) -> Result<(), Error> {
    writeln!(out, "LUN            {}", info.device)?;
    print_shape(out, info.identity.as_deref(), (info.size, info.block_size))?;
    writeln!(out, "  array        {}", offered(info.capabilities))?;
    let holder = if info.reserved_by_other {
        "another host; the target doesn't say which"
    } else {
        "nobody"
    };
    writeln!(out, "reserved by    {holder}")?;
    match &info.reservations {
        Some(reservations) => print_registrations(out, reservations),
        None => Ok(writeln!(out, "registrations  the target doesn't tell")?),
    }
}

/// What a registration's host is called, if the target tells.
pub(super) fn host(registration: &Registration) -> String {
    match registration.initiator.as_str() {
        "" => "a host that the target doesn't name".to_owned(),
        initiator => name(initiator),
    }
}
