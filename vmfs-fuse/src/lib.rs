//! Mounts VMFS volumes through FUSE: the library behind `vmfs-fuse` and `mount.vmfs`.
//!
//! `vmfs-fuse DEVICE [DEVICE…] MOUNTPOINT [-o OPTIONS]` mounts a volume. `mount.vmfs` is what
//! mount(8) calls for `mount -t vmfs`, so that `/etc/fstab` and systemd's mount units work:
//!
//! ```text
//! # /etc/fstab: one extent, and a volume of two that is mounted when it is first used
//! /dev/disk/by-id/scsi-36…01  /srv/vms   vmfs  rw,allow_other,nofail                  0 0
//! /dev/disk/by-id/scsi-36…02  /srv/span  vmfs  ro,noauto,x-systemd.automount,extent=/dev/disk/by-id/scsi-36…03  0 0
//! ```
//!
//! ```text
//! # /etc/systemd/system/srv-vms.mount
//! [Mount]
//! What=/dev/disk/by-id/scsi-36…01
//! Where=/srv/vms
//! Type=vmfs
//! Options=rw,allow_other
//! ```
//!
//! - [`cli`]: the command lines of the two programs.
//! - `options`: what stands behind `-o`.
//! - `mount`: from devices and a mountpoint to a mount that is served until it ends.
//! - `volume`: opening the devices to be read, or written as well; `claim` keeps other programs
//!   from writing to them, `host` is who this host is to others.
//! - `upkeep`: what a host that writes has to do from time to time.
//! - `mountpoint`: leaving the mountpoint; `mount_table`: what is mounted where.
//! - `daemon`: going into the background, with an exit code that tells whether the mount is up.
//! - `caching`: how long the kernel may keep things, by whether another host may be writing.
//! - `fuse`: FUSE's calls as calls to [`vmfs_core::fs::FileSystem`].

pub mod cli;

mod attributes;
mod caching;
mod claim;
mod complaints;
mod daemon;
mod fuse;
mod host;
mod log;
mod mount;
mod mount_table;
mod mountpoint;
mod options;
mod space;
mod upkeep;
mod volume;
