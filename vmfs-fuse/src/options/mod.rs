//! Mount options: the list behind `-o`.

use std::path::PathBuf;
use std::time::Duration;

use fuser::MountOption;

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

/// What `-o` asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Options {
    /// Who may use the mount.
    pub(crate) users: Users,
    /// `rw` was the last word about writing.
    pub(crate) writable: bool,
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
    #[error("a mounted volume can't be remounted; unmount it and mount it again")]
    Remount,
}

/// Threads that `threads=` may ask for.
const MAX_THREADS: usize = 256;

/// Options that mount(8), systemd or automounters act upon, and those about writing and access
/// times, which say nothing about a read-only mount.
const FOR_OTHERS: &str = " async atime auto comment defaults diratime dirsync fail group iversion \
    lazytime loud mand noatime noauto nodiratime nofail nogroup noiversion nolazytime nomand \
    noowner norelatime nostrictatime nouser nousers owner relatime silent strictatime sync user \
    users _netdev _rnetdev ";

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
    fn read_valued(&mut self, name: &str, value: Option<&str>) -> Result<bool, OptionError> {
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
            "extent" => self.extents.push(required()?.into()),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn read_plain(&mut self, name: &str) -> Result<(), OptionError> {
        match name {
            "ro" => self.writable = false,
            "rw" => self.writable = true,
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

/// The words between commas, with escapes taken away.
fn split(list: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut characters = list.chars();
    while let Some(character) = characters.next() {
        let literal = match character {
            ',' => {
                words.push(String::new());
                continue;
            }
            '\\' => characters.next().unwrap_or('\\'),
            other => other,
        };
        if let Some(word) = words.last_mut() {
            word.push(literal);
        }
    }
    words
}

fn bad(name: &str, value: &str, expected: &'static str) -> OptionError {
    OptionError::Value {
        name: name.to_owned(),
        value: value.to_owned(),
        expected,
    }
}

fn number<N: std::str::FromStr>(
    name: &str,
    value: &str,
    expected: &'static str,
) -> Result<N, OptionError> {
    value.parse().map_err(|_| bad(name, value, expected))
}

fn threads(name: &str, value: &str) -> Result<usize, OptionError> {
    let expected = "a number from 1 to 256";
    let threads = number(name, value, expected)?;
    if !(1..=MAX_THREADS).contains(&threads) {
        return Err(bad(name, value, expected));
    }
    Ok(threads)
}

/// The permissions that a mask leaves, as libfuse reads `umask=`.
fn permissions(name: &str, value: &str) -> Result<u16, OptionError> {
    match u16::from_str_radix(value, 8) {
        Ok(mask) if mask <= 0o777 => Ok(0o777 & !mask),
        _ => Err(bad(name, value, "an octal number up to 777")),
    }
}

fn seconds(name: &str, value: &str) -> Result<Duration, OptionError> {
    let seconds = value.parse::<f64>().ok();
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| bad(name, value, "a number of seconds"))
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
        assert!(!options.writable);
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
            ("remount", "unmount it"),
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
