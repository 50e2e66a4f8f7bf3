//! The identity of a LUN. For an image file it is kept in a file beside it, so that a copy of the
//! image is a replica and not the same LUN.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::scsi::lun::Capabilities;

/// Ending of the file beside an image.
const SUFFIX: &str = ".array";
/// Longest identifier that a device header has room for.
pub const MAX_IDENTITY: usize = 44;

/// What a LUN answers when asked who it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct LunIdentity(String);

impl LunIdentity {
    /// An identifier of at most [`MAX_IDENTITY`] bytes; longer ones are cut.
    pub fn new(text: &str) -> Self {
        let end = text.char_indices().map(|(at, c)| at + c.len_utf8());
        let end = end
            .take_while(|&end| end <= MAX_IDENTITY)
            .last()
            .unwrap_or(0);
        Self(text[..end].to_owned())
    }

    /// The identifier as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for LunIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The state of the array that an image file emulates.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ArrayState {
    /// The LUN's identity.
    pub identity: LunIdentity,
    /// Inode of the image that the state belongs to: a state that was copied along with its
    /// image doesn't make the copy the same LUN.
    pub inode: u64,
    /// What the array can do.
    pub personality: Personality,
}

/// What an emulated array can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Personality {
    /// COMPARE AND WRITE and the other offloads.
    #[default]
    Vaai,
    /// SCSI-2 reservations only.
    Legacy,
}

impl Personality {
    /// The commands beyond reads and writes that such an array has.
    pub fn capabilities(self) -> Capabilities {
        let vaai = self == Self::Vaai;
        Capabilities {
            compare_and_write: vaai,
            reserve: true,
            persistent_reserve: vaai,
            unmap: vaai,
        }
    }
}

impl ArrayState {
    /// The file that holds the state of `image`'s array.
    pub fn path(image: &Path) -> PathBuf {
        let mut name = image.file_name().unwrap_or_default().to_owned();
        name.push(SUFFIX);
        image.with_file_name(name)
    }

    /// The state of `image`'s array; `None` when none was ever kept, or it is of another image.
    pub fn load(image: &Path) -> io::Result<Option<Self>> {
        let text = match fs::read(Self::path(image)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let state: Self = serde_json::from_slice(&text).map_err(io::Error::other)?;
        Ok(Some(state).filter(|state| fs::metadata(image).is_ok_and(|m| m.ino() == state.inode)))
    }

    /// Keeps a new state for `image`, which may be there already or not.
    pub fn create(
        image: &Path,
        identity: LunIdentity,
        personality: Personality,
    ) -> io::Result<Self> {
        let state = Self {
            identity,
            inode: fs::metadata(image)?.ino(),
            personality,
        };
        let path = Self::path(image);
        let mut unfinished = path.clone().into_os_string();
        unfinished.push(".new");
        // Renamed into place, so that no process ever sees half of it.
        fs::write(
            &unfinished,
            serde_json::to_vec_pretty(&state).map_err(io::Error::other)?,
        )?;
        fs::rename(&unfinished, &path)?;
        Ok(state)
    }
}

/// The identity of the image or device at `path`.
///
/// An image without a kept state is known by its place in the file system, so a copy of it is
/// another LUN; a block device by what the system has from it.
pub(in crate::scsi) fn identity_of(path: &Path, is_device: bool) -> Option<LunIdentity> {
    let metadata = fs::metadata(path).ok()?;
    if is_device {
        return device_identity(metadata.rdev());
    }
    let kept = ArrayState::load(path).ok().flatten();
    kept.map(|state| state.identity).or_else(|| {
        Some(LunIdentity::new(&format!(
            "image {:x}:{:x}",
            metadata.dev(),
            metadata.ino()
        )))
    })
}

/// What the array of the image at `path` can do.
pub(in crate::scsi) fn personality_of(path: &Path) -> io::Result<Personality> {
    let kept = ArrayState::load(path)?;
    Ok(kept.map_or_else(Personality::default, |state| state.personality))
}

/// What sysfs has of the device that a number stands for, or of the disk that it is a part of.
fn device_identity(rdev: u64) -> Option<LunIdentity> {
    let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    let device = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let disks = [Some(device.as_path()), device.parent()];
    disks.into_iter().flatten().find_map(|disk| {
        let names = ["device/wwid", "wwid", "device/serial", "serial"];
        let text = names
            .iter()
            .find_map(|name| fs::read_to_string(disk.join(name)).ok())?;
        Some(LunIdentity::new(text.trim())).filter(|identity| !identity.as_str().is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_an_image_is_another_lun_even_with_its_state() {
        let folder = tempfile::tempdir().expect("folder");
        let image = folder.path().join("a.img");
        fs::write(&image, b"x").expect("image");
        let identity = LunIdentity::new("naa.6000");
        ArrayState::create(&image, identity.clone(), Personality::Vaai).expect("state");
        assert_eq!(identity_of(&image, false), Some(identity.clone()));

        let copy = folder.path().join("b.img");
        fs::copy(&image, &copy).expect("copy");
        assert_ne!(identity_of(&copy, false), Some(identity.clone()));
        fs::copy(ArrayState::path(&image), ArrayState::path(&copy)).expect("copy state");
        assert_ne!(identity_of(&copy, false), Some(identity.clone()));

        let moved = folder.path().join("c.img");
        fs::rename(&image, &moved).expect("move");
        fs::rename(ArrayState::path(&image), ArrayState::path(&moved)).expect("move state");
        assert_eq!(identity_of(&moved, false), Some(identity));
    }

    #[test]
    fn a_long_identifier_is_cut_between_characters() {
        let identity = LunIdentity::new(&"é".repeat(40));
        assert_eq!(identity.as_str().len(), 44);
    }
}
