//! `DEVICE[,DEVICE…][:/PATH]`: a volume and a path on it.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use vmfs_core::fs::{FileSystem, Inode};
use vmfs_core::lvm::{Volume, open_paths};
use vmfs_core::scsi::{Access, IscsiUrl};

use crate::Common;
use crate::error::Error;

/// A volume and a path on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The volume's devices.
    pub(crate) devices: Vec<PathBuf>,
    /// The path; the root if none was given.
    pub(crate) path: String,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut devices = Vec::new();
        let mut rest = text;
        // A file that is really called like that is a device.
        if Path::new(text).exists() {
            devices.push(PathBuf::from(text));
            rest = "";
        }
        while !rest.is_empty() && !rest.starts_with(":/") {
            let (device, after) = rest.split_at(device_length(rest));
            if !device.is_empty() {
                devices.push(PathBuf::from(device));
            }
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        let path = rest.strip_prefix(':').unwrap_or("/");
        if devices.is_empty() {
            return Err("it names no device: write DEVICE:/PATH".to_owned());
        }
        Ok(Self {
            devices,
            path: path.to_owned(),
        })
    }
}

/// Length of the device that `text` begins with.
fn device_length(text: &str) -> usize {
    if let Some(length) = IscsiUrl::length_in(text) {
        let rest = &text[length..];
        if rest.is_empty() || rest.starts_with(',') || rest.starts_with(":/") {
            return length;
        }
    }
    let path = text.find(":/").unwrap_or(text.len());
    text[..path].find(',').unwrap_or(path)
}

impl Target {
    /// Opens the volume.
    pub(crate) fn open(&self, common: &Common) -> Result<FileSystem, Error> {
        let volume = open_volume(&self.devices, common)?;
        FileSystem::open(volume).map_err(|error| Error::Open(error.to_string()))
    }

    /// The file at the path; a symbolic link at its end is followed only if `follow`.
    pub(crate) fn resolve(&self, fs: &FileSystem, follow: bool) -> Result<Arc<Inode>, Error> {
        fs.resolve(self.path.as_bytes(), follow)
            .map_err(|source| Error::Path {
                path: self.path.clone(),
                source: Box::new(source),
            })
    }
}

/// Opens the volume that `devices` and those of `-d` make up; says what is missing of it.
pub(crate) fn open_volume(devices: &[PathBuf], common: &Common) -> Result<Volume, Error> {
    let all: Vec<_> = devices.iter().chain(&common.devices).collect();
    let volume =
        open_paths(&all, Access::ReadOnly).map_err(|error| Error::Open(error.to_string()))?;
    let missing = volume.missing_devices();
    if missing > 0 {
        let names = volume.missing_names().join(", ");
        let names = if names.is_empty() {
            names
        } else {
            format!(": {names}")
        };
        eprintln!("vmfs: {missing} device(s) of the volume missing{names}");
    }
    Ok(volume)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_devices_from_the_path() {
        let target: Target = "/dev/sdb,/dev/sdc:/vm/a:b".parse().expect("valid");
        assert_eq!(
            target.devices,
            [PathBuf::from("/dev/sdb"), PathBuf::from("/dev/sdc")]
        );
        assert_eq!(target.path, "/vm/a:b");
        let target: Target = "a.img".parse().expect("valid");
        assert_eq!((target.devices.len(), target.path.as_str()), (1, "/"));
        assert!(":/x".parse::<Target>().is_err());
        assert!(",".parse::<Target>().is_err());
    }

    #[test]
    fn splits_urls_from_the_path() {
        let one = "iscsi://me%a,b:c@[::1]:3261/iqn.x:y,z/12";
        let target: Target = format!("{one},b.img,iscsi://h/iqn.x/0:/vm/a,b")
            .parse()
            .expect("valid");
        let expected = [one, "b.img", "iscsi://h/iqn.x/0"].map(PathBuf::from);
        assert_eq!(target.devices, expected);
        assert_eq!(target.path, "/vm/a,b");
        let target: Target = "iscsi://h/iqn.x/0".parse().expect("valid");
        assert_eq!((target.devices.len(), target.path.as_str()), (1, "/"));
        // No URL: the error comes when it is opened.
        let target: Target = "iscsi://h/iqn.x/a:/vm".parse().expect("valid");
        assert_eq!(target.devices.len(), 1);
    }
}
