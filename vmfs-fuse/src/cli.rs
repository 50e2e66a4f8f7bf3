//! The command lines of `vmfs-fuse` and `mount.vmfs`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Parser;
use clap::error::ErrorKind;

use crate::log::Target;
use crate::mount::{self, Request};
use crate::options::{Options, Writing};

const OPTIONS_HELP: &str = "\
Options for -o (separated by commas; a backslash before a comma makes it part of a value):
  rw                       read-write or not at all; the default is read-write, or read-only if
                           the devices are write-protected
  ro                       read-only
  force_ro                 read-only, even if a host died and left a journal to replay
  allow_other              let all users in, as far as the files' modes let them
  allow_root               let root in, if another user mounts
  default_permissions      check the files' modes (always on with allow_other, and when an
                           ordinary user mounts read-write)
  uid=N, gid=N             show all files as owned by this user, this group
  umask=M, fmask=M, dmask=M  show files and directories with the permissions that M leaves
  extent=DEVICE            a further extent of the volume; may be repeated
  attr_timeout=S, entry_timeout=S  seconds that the kernel may keep attributes and names
                           (default: a day; 1 second if another host has the volume mounted)
  sync, dirsync            everything, or what changes names, is durable when the call returns
  no_writeback_cache       write at once, not when the kernel writes its cache back
  commit=S                 seconds after which a change is durable without fsync (default 5)
  host=NAME                what other hosts see as this one's name (default: the machine's)
  heartbeat=S, lease=S     seconds between heartbeats, and after which a host without them is
                           dead (default 3 and 16; the same on all hosts)
  lock=auto                how hosts lock each other out: ats, scsi2, or what suits
                           the LUN and the hosts that are there
  multi_writer=PATH        a file of the volume, by its path in it, that programs on several hosts
                           may have open for writing at a time; may be repeated
  threads=N                threads that answer requests (default: twice the CPUs, 8 to 16)
  readahead=KIB            how far the kernel reads ahead (root only; default 4096)
  fsname=NAME, subtype=NAME  what the mount table shows; an empty subtype leaves `fuse`
  exec, noexec, suid, nosuid, dev, nodev  as in mount(8); nosuid and nodev are the default
What mount(8) and systemd act upon themselves (defaults, nofail, _netdev, x-…) is accepted.";

const VMFS_FUSE_EXAMPLES: &str = "\
Examples:
  vmfs-fuse /dev/sdb /mnt                       a LUN, a disk with a VMFS partition, or an image
  vmfs-fuse /dev/sdb /mnt -o ro                 the same, read-only
  vmfs-fuse /dev/sdb /dev/sdc /mnt -o allow_other  a volume on two extents, for all users
  vmfs-fuse -f -v vmfs.img ~/mnt                stay in the foreground and tell what happens
  fusermount3 -u ~/mnt                          unmount (as root: umount /mnt)

Exit status: 0 the mount is up (with --foreground: it ended well), 1 it failed, 2 wrong usage.

";

const MOUNT_VMFS_EXAMPLES: &str = "\
Called by mount(8):
  mount -t vmfs /dev/sdb /mnt -o allow_other
  mount -t vmfs /dev/sdb /mnt -o extent=/dev/sdc

/etc/fstab:
  /dev/disk/by-id/…  /srv/vms  vmfs  rw,allow_other,nofail  0 0
  /dev/disk/by-id/…  /srv/big  vmfs  ro,noauto,x-systemd.automount,extent=/dev/disk/by-id/…  0 0

systemd, srv-vms.mount:
  [Mount]
  What=/dev/disk/by-id/…
  Where=/srv/vms
  Type=vmfs
  Options=rw,allow_other

Exit status, as mount(8) wants: 0 the mount is up, 1 wrong usage, 32 it failed.

";

/// Mounts a VMFS volume.
///
/// The program goes into the background once the mount is up; SIGTERM unmounts. Several hosts can
/// mount a volume read-write at a time if it lies on an image file or an iSCSI LUN.
#[derive(Debug, Parser)]
#[command(name = "vmfs-fuse", version, override_usage = "vmfs-fuse [OPTIONS] DEVICE [DEVICE…] MOUNTPOINT", after_help = format!("{VMFS_FUSE_EXAMPLES}{OPTIONS_HELP}"))]
struct VmfsFuse {
    /// The volume's devices, in any order, and the directory to mount it on.
    #[arg(required = true, num_args = 2.., value_names = ["DEVICE", "MOUNTPOINT"])]
    paths: Vec<PathBuf>,
    /// Mount options, see below.
    #[arg(short, long, value_name = "LIST")]
    options: Vec<String>,
    /// Read-only, even if a host died and left a journal to replay; as -o force_ro.
    #[arg(long)]
    force_ro: bool,
    /// How hosts lock each other out: auto, ats or scsi2; as -o lock=.
    #[arg(long, value_name = "MODE")]
    lock: Option<String>,
    /// What other hosts see as this one's name; as -o host=.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Stay in the foreground and log to standard error.
    #[arg(short, long)]
    foreground: bool,
    /// Log to this file; in the background, the default is the system log.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Tell more.
    #[arg(short, long)]
    verbose: bool,
}

/// Mounts a VMFS volume for mount(8).
#[derive(Debug, Parser)]
#[command(name = "mount.vmfs", version, override_usage = "mount.vmfs DEVICE MOUNTPOINT [-sfnvrw] [-o LIST]", after_help = format!("{MOUNT_VMFS_EXAMPLES}{OPTIONS_HELP}"))]
struct MountVmfs {
    /// The volume's device; further ones go into `-o extent=`.
    device: PathBuf,
    /// The directory to mount it on.
    mountpoint: PathBuf,
    /// Mount options, see below.
    #[arg(short, value_name = "LIST")]
    options: Vec<String>,
    /// Pass over options that aren't known.
    #[arg(short)]
    sloppy: bool,
    /// Do everything but mount.
    #[arg(short)]
    fake: bool,
    /// Accepted: there is no mount table to write.
    #[arg(short)]
    no_mtab: bool,
    /// Tell more.
    #[arg(short)]
    verbose: bool,
    /// Read-only.
    #[arg(short, overrides_with = "writable")]
    read_only: bool,
    /// Read-write or not at all.
    #[arg(short)]
    writable: bool,
    /// The mount namespace, which mount(8) has entered already.
    #[arg(short = 'N', value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The type as mount(8) was given it.
    #[arg(short = 't', value_name = "TYPE")]
    kind: Option<String>,
}

/// Runs `vmfs-fuse` with the process's arguments.
pub fn vmfs_fuse() -> ExitCode {
    let arguments = match VmfsFuse::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error, 2),
    };
    let result = arguments.request().and_then(|request| mount::run(&request));
    finish("vmfs-fuse", 1, result)
}

/// Runs `mount.vmfs` with the process's arguments.
pub fn mount_vmfs() -> ExitCode {
    let arguments = match MountVmfs::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error, 1),
    };
    let request = match arguments.request() {
        Ok(request) => request,
        Err(error) => return finish("mount.vmfs", 1, Err(error)),
    };
    finish("mount.vmfs", 32, mount::run(&request))
}

impl VmfsFuse {
    fn request(self) -> anyhow::Result<Request> {
        let mut options = Options::default();
        for list in &self.options {
            options.read(list, false)?;
        }
        if let Some(lock) = &self.lock {
            options.read_valued("lock", Some(lock))?;
        }
        if let Some(host) = &self.host {
            options.read_valued("host", Some(host))?;
        }
        if self.force_ro {
            options.writing = Writing::NeverByForce;
        }
        let mut devices = self.paths;
        let Some(mountpoint) = devices.pop() else {
            bail!("no mountpoint given");
        };
        devices.append(&mut options.extents);
        let background_log = self.log.clone().map_or(Target::System, Target::File);
        let foreground_log = self.log.map_or(Target::StderrOnly, Target::File);
        Ok(Request {
            devices,
            mountpoint,
            options,
            log: if self.foreground {
                foreground_log
            } else {
                background_log
            },
            background: !self.foreground,
            verbose: self.verbose,
            fake: false,
        })
    }
}

impl MountVmfs {
    fn request(self) -> anyhow::Result<Request> {
        let mut options = Options::default();
        for list in &self.options {
            options.read(list, self.sloppy)?;
        }
        // mount(8) says rw whenever the user didn't say ro, so it means little.
        if options.writing == Writing::Required && !self.writable {
            options.writing = Writing::IfPossible;
        }
        if self.read_only && !options.writing.is_never() {
            options.writing = Writing::Never;
        }
        let mut devices = vec![self.device];
        devices.append(&mut options.extents);
        Ok(Request {
            devices,
            mountpoint: self.mountpoint,
            options,
            log: Target::System,
            background: !self.fake,
            verbose: self.verbose,
            fake: self.fake,
        })
    }
}

/// Prints clap's message; asking for help is no error.
fn usage(error: &clap::Error, code: u8) -> ExitCode {
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(code),
    }
}

fn finish(program: &str, failure: u8, result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("{program}: {error:#}");
        ExitCode::from(failure)
    })
}

#[cfg(test)]
mod tests {
    use vmfs_core::cluster::LockMethod;

    use super::*;

    #[test]
    fn command_lines_are_consistent() {
        use clap::CommandFactory;
        VmfsFuse::command().debug_assert();
        MountVmfs::command().debug_assert();
    }

    #[test]
    fn mount_calls_the_helper_like_this() {
        let line = "mount.vmfs /dev/sdb /mnt -s -n -v -o rw,nofail,extent=/dev/sdc -t vmfs";
        let arguments = MountVmfs::try_parse_from(line.split(' ')).expect("parses");
        let request = arguments.request().expect("valid");
        let devices: Vec<PathBuf> = vec!["/dev/sdb".into(), "/dev/sdc".into()];
        assert_eq!(request.devices, devices);
        assert!(request.background && request.verbose);
    }

    #[test]
    fn the_last_path_is_the_mountpoint() {
        let line = "vmfs-fuse a b mnt -o ro -f -o allow_other";
        let request = VmfsFuse::try_parse_from(line.split(' '))
            .expect("parses")
            .request()
            .expect("valid");
        assert_eq!(request.mountpoint, PathBuf::from("mnt"));
        assert_eq!(request.devices.len(), 2);
        assert!(!request.background);
    }

    #[test]
    fn rw_of_the_user_and_rw_of_mount_differ() {
        for (line, writing) in [
            ("vmfs-fuse a mnt", Writing::IfPossible),
            ("vmfs-fuse a mnt -o rw", Writing::Required),
            ("vmfs-fuse a mnt -o ro", Writing::Never),
            ("vmfs-fuse a mnt --force-ro -o rw", Writing::NeverByForce),
        ] {
            let arguments = VmfsFuse::try_parse_from(line.split(' ')).expect(line);
            let request = arguments.request().expect(line);
            assert_eq!(request.options.writing, writing, "{line}");
        }
        for (line, writing) in [
            ("mount.vmfs a mnt -o rw", Writing::IfPossible),
            ("mount.vmfs a mnt -w -o rw", Writing::Required),
            ("mount.vmfs a mnt -r", Writing::Never),
            ("mount.vmfs a mnt -r -o rw,force_ro", Writing::NeverByForce),
        ] {
            let arguments = MountVmfs::try_parse_from(line.split(' ')).expect(line);
            let request = arguments.request().expect(line);
            assert_eq!(request.options.writing, writing, "{line}");
        }
    }

    #[test]
    fn host_and_lock_can_be_given_as_flags() {
        let line = "vmfs-fuse a mnt --host here --lock auto";
        let arguments = VmfsFuse::try_parse_from(line.split(' ')).expect("parses");
        let request = arguments.request().expect("valid");
        assert_eq!(request.options.host.name.as_deref(), Some("here"));
        let line = "vmfs-fuse a mnt --lock ats";
        let arguments = VmfsFuse::try_parse_from(line.split(' ')).expect("parses");
        let request = arguments.request().expect("valid");
        assert_eq!(request.options.host.lock, Some(LockMethod::Ats));
    }
}
