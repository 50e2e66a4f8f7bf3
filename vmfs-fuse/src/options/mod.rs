//! Mount options: the list behind `-o`.

mod values;

use std::path::PathBuf;
use std::time::Duration;

use fuser::MountOption;
use vmfs_core::cluster::LockMethod;

use values::{host_name, interval, lock, number, permissions, seconds, split, threads};

/// Who may use the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Users {
    /// The user who mounted.
    #[default]
    Owner,
    /// That user and root.
    OwnerAndRoot,
    /// All, as the files' modes say.
    All,
}

/// What the mount may do to the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Writing {
    /// Write, unless the devices are write-protected.
    #[default]
    IfPossible,
    /// Write, or don't mount.
    Required,
    /// Read.
    Never,
    /// Read, also what a host's journal would have to be replayed on first.
    NeverByForce,
}

impl Writing {
    /// Whether the mount is read-only whatever the devices are.
    pub(crate) fn is_never(self) -> bool {
        matches!(self, Self::Never | Self::NeverByForce)
    }
}

/// How the host shows itself to others on a volume that it writes to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct HostOptions {
    /// Its name; the machine's by default.
    pub(crate) name: Option<String>,
    /// Time between two heartbeats.
    pub(crate) heartbeat: Option<Duration>,
    /// Time after which a heartbeat that stood still is that of a dead host.
    pub(crate) lease: Option<Duration>,
    /// Time after which a change is durable without anyone asking.
    pub(crate) commit: Option<Duration>,
    /// How it locks; what suits the LUN by default.
    pub(crate) lock: Option<LockMethod>,
}

/// What `-o` asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Options {
    /// Who may use the mount.
    pub(crate) users: Users,
    /// Whether the mount writes to the volume.
    pub(crate) writing: Writing,
    /// How the host shows itself.
    pub(crate) host: HostOptions,
    /// Everything is durable when the call that did it returns.
    pub(crate) sync: bool,
    /// The same for what changes names.
    pub(crate) dirsync: bool,
    /// Writes go to the volume at once, not when the kernel's cache is written back.
    pub(crate) write_through: bool,
    /// The kernel checks modes even if only the owner may use the mount.
    pub(crate) default_permissions: bool,
    /// Flags that the kernel understands.
    pub(crate) flags: Vec<MountOption>,
    /// What the mount table calls the device.
    pub(crate) fsname: Option<String>,
    /// What the mount table adds to the type `fuse`.
    pub(crate) subtype: Option<String>,
    /// Owner of all files in place of the stored one.
    pub(crate) uid: Option<u32>,
    /// Group of all files in place of the stored one.
    pub(crate) gid: Option<u32>,
    /// Permissions of files in place of the stored ones.
    pub(crate) file_permissions: Option<u16>,
    /// Permissions of directories in place of the stored ones.
    pub(crate) directory_permissions: Option<u16>,
    /// How long the kernel may keep attributes.
    pub(crate) attr_timeout: Option<Duration>,
    /// How long the kernel may keep names, those that aren't there included.
    pub(crate) entry_timeout: Option<Duration>,
    /// Threads that answer requests.
    pub(crate) threads: Option<usize>,
    /// How far the kernel reads ahead, in KiB.
    pub(crate) readahead: Option<u32>,
    /// Files that programs on several hosts may write to at a time, by their paths in the volume.
    pub(crate) multi_writer: Vec<String>,
    /// Further devices of the volume.
    pub(crate) extents: Vec<PathBuf>,
}

/// An option that can't be honoured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OptionError {
    #[error("unknown mount option '{0}'; `vmfs-fuse --help` lists those there are")]
    Unknown(String),
    #[error("mount option '{name}': '{value}' is not {expected}")]
    Value {
        name: String,
        value: String,
        expected: &'static str,
    },
    #[error("mount option '{0}' needs a value: {0}=…")]
    NoValue(String),
    #[error("mount option '{0}' takes no value")]
    NeedlessValue(String),
    #[error(
        "a FUSE mount can't be remounted, so not made read-only either; unmount it and mount it again with the new options"
    )]
    Remount,
}

/// Options that mount(8), systemd or automounters act upon, and those about access times, which
/// reading never changes here.
const FOR_OTHERS: &str = " atime auto comment defaults diratime fail group iversion lazytime loud \
    mand noatime noauto nodiratime nofail nogroup noiversion nolazytime nomand noowner norelatime \
    nostrictatime nouser nousers owner relatime silent strictatime user users _netdev _rnetdev ";

impl Options {
    /// Reads one comma-separated list into `self`; later words win. With `sloppy`, words that
    /// mean nothing here are passed over, as mount(8)'s `-s` wants.
    ///
    /// A backslash takes away a comma's meaning.
    pub(crate) fn read(&mut self, list: &str, sloppy: bool) -> Result<(), OptionError> {
        for word in split(list) {
            match self.read_word(&word) {
                Err(OptionError::Unknown(_)) if sloppy => {}
                result => result?,
            }
        }
        Ok(())
    }

    fn read_word(&mut self, word: &str) -> Result<(), OptionError> {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        if is_for_others(name) || self.read_valued(name, value)? {
            return Ok(());
        }
        if value.is_none() {
            return self.read_plain(name);
        }
        let is_known = Self::default().read_plain(name).is_ok();
        let name = name.to_owned();
        Err(if is_known {
            OptionError::NeedlessValue(name)
        } else {
            OptionError::Unknown(name)
        })
    }

    /// Reads an option that has a value; false if `name` isn't one.
    pub(crate) fn read_valued(
        &mut self,
        name: &str,
        value: Option<&str>,
    ) -> Result<bool, OptionError> {
        let required = || value.ok_or_else(|| OptionError::NoValue(name.to_owned()));
        match name {
            "fsname" => self.fsname = Some(required()?.to_owned()),
            "subtype" => self.subtype = Some(required()?.to_owned()),
            "uid" => self.uid = Some(number(name, required()?, "a user number")?),
            "gid" => self.gid = Some(number(name, required()?, "a group number")?),
            "umask" => {
                let permissions = permissions(name, required()?)?;
                self.file_permissions = Some(permissions);
                self.directory_permissions = Some(permissions);
            }
            "fmask" => self.file_permissions = Some(permissions(name, required()?)?),
            "dmask" => self.directory_permissions = Some(permissions(name, required()?)?),
            "attr_timeout" => self.attr_timeout = Some(seconds(name, required()?)?),
            "entry_timeout" => self.entry_timeout = Some(seconds(name, required()?)?),
            "threads" => self.threads = Some(threads(name, required()?)?),
            "readahead" => self.readahead = Some(number(name, required()?, "a number of KiB")?),
            "multi_writer" => self.multi_writer.push(required()?.to_owned()),
            "extent" => self.extents.push(required()?.into()),
            "host" => self.host.name = Some(host_name(name, required()?)?),
            "heartbeat" => self.host.heartbeat = Some(interval(name, required()?)?),
            "lease" => self.host.lease = Some(interval(name, required()?)?),
            "commit" => self.host.commit = Some(interval(name, required()?)?),
            "lock" => self.host.lock = lock(name, required()?)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn read_plain(&mut self, name: &str) -> Result<(), OptionError> {
        match name {
            "ro" => self.writing = Writing::Never,
            "rw" => self.writing = Writing::Required,
            "force_ro" => self.writing = Writing::NeverByForce,
            "sync" => {
                self.sync = true;
                self.set(MountOption::Sync, &MountOption::Async);
            }
            "async" => {
                self.sync = false;
                self.set(MountOption::Async, &MountOption::Sync);
            }
            "dirsync" => {
                self.dirsync = true;
                self.set(MountOption::DirSync, &MountOption::Async);
            }
            "writeback_cache" => self.write_through = false,
            "no_writeback_cache" => self.write_through = true,
            "allow_other" => self.users = Users::All,
            "allow_root" => self.users = Users::OwnerAndRoot,
            "default_permissions" => self.default_permissions = true,
            "dev" => self.set(MountOption::Dev, &MountOption::NoDev),
            "nodev" => self.set(MountOption::NoDev, &MountOption::Dev),
            "suid" => self.set(MountOption::Suid, &MountOption::NoSuid),
            "nosuid" => self.set(MountOption::NoSuid, &MountOption::Suid),
            "exec" => self.set(MountOption::Exec, &MountOption::NoExec),
            "noexec" => self.set(MountOption::NoExec, &MountOption::Exec),
            "remount" => return Err(OptionError::Remount),
            _ => return Err(OptionError::Unknown(name.to_owned())),
        }
        Ok(())
    }

    fn set(&mut self, flag: MountOption, opposite: &MountOption) {
        self.flags
            .retain(|other| other != opposite && *other != flag);
        self.flags.push(flag);
    }
}

fn is_for_others(name: &str) -> bool {
    name.is_empty()
        || name.starts_with("x-")
        || name.starts_with("X-")
        || FOR_OTHERS.split_ascii_whitespace().any(|word| word == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(list: &str) -> Result<Options, OptionError> {
        let mut options = Options::default();
        options.read(list, false).map(|()| options)
    }

    #[test]
    fn the_last_of_opposite_words_wins() {
        let options = read("rw,noexec,suid,exec,ro,nosuid").expect("valid");
        assert_eq!(options.writing, Writing::Never);
        assert_eq!(options.flags, [MountOption::Exec, MountOption::NoSuid]);
    }

    #[test]
    fn a_comma_in_a_path_is_escaped() {
        let options = read(r"extent=/tmp/a\,b.img,extent=/dev/sdc").expect("valid");
        let expected: Vec<PathBuf> = vec!["/tmp/a,b.img".into(), "/dev/sdc".into()];
        assert_eq!(options.extents, expected);
    }

    #[test]
    fn a_mask_names_the_permissions_to_leave_out() {
        let options = read("umask=027,fmask=137").expect("valid");
        assert_eq!(options.directory_permissions, Some(0o750));
        assert_eq!(options.file_permissions, Some(0o640));
    }

    #[test]
    fn what_the_host_shows_is_read() {
        let options = read("rw,host=here,heartbeat=0.05,lease=2,commit=1.5").expect("valid");
        assert_eq!(options.writing, Writing::Required);
        let host = HostOptions {
            name: Some("here".to_owned()),
            heartbeat: Some(Duration::from_millis(50)),
            lease: Some(Duration::from_secs(2)),
            commit: Some(Duration::from_millis(1500)),
            lock: None,
        };
        assert_eq!(options.host, host);
        assert_eq!(read("lock=auto"), Ok(Options::default()));
    }

    #[test]
    fn words_for_mount_and_systemd_are_dropped() {
        let list = "defaults,_netdev,nofail,x-systemd.automount,x-systemd.idle-timeout=10,user=joe";
        assert_eq!(read(list), Ok(Options::default()));
    }

    #[test]
    fn an_error_names_the_option() {
        for (list, part) in [
            ("ro,frobnicate", "'frobnicate'"),
            ("frob=1", "'frob'"),
            ("threads=0", "'threads': '0'"),
            ("threads", "'threads' needs a value"),
            ("ro=1", "'ro' takes no value"),
            ("umask=888", "octal"),
            ("attr_timeout=-1", "seconds"),
            ("remount,ro", "unmount it"),
            ("commit=0", "from 0.001"),
            ("lease=1e9", "to 3600"),
            ("host=", "'host'"),
            ("lock=yes", "one of auto"),
        ] {
            let error = read(list).expect_err(list).to_string();
            assert!(error.contains(part), "{list}: {error}");
        }
    }

    #[test]
    fn sloppy_passes_over_unknown_words_but_not_bad_values() {
        let mut options = Options::default();
        assert_eq!(options.read("frobnicate,ro", true), Ok(()));
        assert!(options.read("threads=none", true).is_err());
    }
}
