use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use mkfs_vmfs::Target;
use vmfs_core::cluster::hosts;
use vmfs_core::format::HeartbeatState;
use vmfs_core::fs::FileSystem;
use vmfs_core::lvm::{Device, open_luns};
use vmfs_core::scsi::{
    self, Access, ArrayState, DeviceOffset, FileLun, IscsiUrl, Lun, LunIdentity, Personality,
    look_through,
};

use super::signatures;

/// Where a volume's blocks go.
#[derive(Debug)]
pub(crate) enum Backing {
    /// A file or a block device.
    File(File),
    /// A LUN of an iSCSI target.
    Lun(Arc<dyn Lun>),
}

impl Target for Backing {
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => Target::write(file, offset, bytes),
            Self::Lun(lun) => Target::write(lun, offset, bytes),
        }
    }

    fn zero(&self, offset: u64, length: u64) -> io::Result<()> {
        match self {
            Self::File(file) => Target::zero(file, offset, length),
            Self::Lun(lun) => Target::zero(lun, offset, length),
        }
    }

    fn flush(&self) -> io::Result<()> {
        match self {
            Self::File(file) => Target::flush(file),
            Self::Lun(lun) => Target::flush(lun),
        }
    }
}

/// A device, an image file or an iSCSI LUN that a volume shall be made on.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The path, or a URL without its secret.
    path: PathBuf,
    /// Open for writing; `None` for a file that isn't there in a dry run.
    backing: Option<Backing>,
    metadata: Option<Metadata>,
    /// Size that the volume may use.
    pub(crate) size: u64,
    /// A block device's logical sector size.
    pub(crate) sector_size: Option<u32>,
    /// The file was made here and goes again unless the volume is made.
    discard: bool,
}

impl Drop for Opened {
    fn drop(&mut self) {
        if self.discard {
            // Best effort: what is left is an empty file that this process made.
            let _ = std::fs::remove_file(&self.path);
            let _ = std::fs::remove_file(ArrayState::path(&self.path));
        }
    }
}

impl Opened {
    /// Opens the device, or makes the image file if `size` is given; in a `dry_run` nothing is
    /// made.
    pub(crate) fn open(path: &Path, size: Option<u64>, dry_run: bool) -> anyhow::Result<Self> {
        if IscsiUrl::is_one(path) {
            return Self::open_iscsi(path, size, dry_run);
        }
        let name = path.display();
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("can't look at {name}")),
        };
        let Some(metadata) = metadata else {
            let Some(size) = size else {
                bail!("{name} isn't there; give --size to make an image file");
            };
            return Self::create(path, size, dry_run);
        };
        let is_block = metadata.file_type().is_block_device();
        if !is_block && !metadata.is_file() {
            bail!("{name} is neither a block device nor a file");
        }
        if is_block && size.is_some() {
            bail!("{name} is a block device: its size can't be set; leave --size away");
        }
        let mut options = OpenOptions::new();
        options.read(true).write(!dry_run);
        if is_block {
            // Fails while anything is mounted from the device or built on it.
            options.custom_flags(rustix::fs::OFlags::EXCL.bits().cast_signed());
        }
        let mut file = match options.open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                bail!("{name} is in use: unmount it, or remove what is built on it, first");
            }
            Err(error) => return Err(error).with_context(|| format!("can't open {name}")),
        };
        let sector_size = is_block
            .then(|| rustix::fs::ioctl_blksszget(&file))
            .transpose();
        let sector_size = sector_size.with_context(|| format!("sector size of {name}"))?;
        let length = file
            .seek(SeekFrom::End(0))
            .with_context(|| format!("size of {name}"))?;
        Ok(Self {
            path: path.to_owned(),
            backing: Some(Backing::File(file)),
            metadata: Some(metadata),
            size: size.unwrap_or(length),
            sector_size,
            discard: false,
        })
    }

    fn open_iscsi(url: &Path, size: Option<u64>, dry_run: bool) -> anyhow::Result<Self> {
        let path = scsi::name_of(url)?;
        if size.is_some() {
            bail!(
                "{} is a LUN: its size can't be set; leave --size away",
                path.display()
            );
        }
        let access = if dry_run {
            Access::ReadOnly
        } else {
            Access::ReadWrite
        };
        let lun = scsi::open(url, access, None)?;
        Ok(Self {
            path,
            size: lun.capacity(),
            sector_size: Some(lun.block_size()),
            backing: Some(Backing::Lun(lun)),
            metadata: None,
            discard: false,
        })
    }

    fn create(path: &Path, size: u64, dry_run: bool) -> anyhow::Result<Self> {
        let mut opened = Self {
            path: path.to_owned(),
            backing: None,
            metadata: None,
            size,
            sector_size: None,
            discard: false,
        };
        if !dry_run {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(path);
            let file = file.with_context(|| format!("can't make {}", path.display()))?;
            opened.metadata = Some(file.metadata()?);
            opened.backing = Some(Backing::File(file));
            opened.discard = true;
        }
        Ok(opened)
    }

    /// What messages call the device.
    pub(crate) fn name(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// Where its blocks go.
    pub(crate) fn take_backing(&mut self) -> Option<Backing> {
        self.backing.take()
    }

    /// Whether `other` is the same device or file.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (&self.metadata, &other.metadata) {
            (Some(one), Some(two)) if one.file_type().is_block_device() => {
                two.file_type().is_block_device() && one.rdev() == two.rdev()
            }
            (Some(one), Some(two)) => (one.dev(), one.ino()) == (two.dev(), two.ino()),
            _ => self.path == other.path,
        }
    }

    fn is_image(&self) -> bool {
        !matches!(self.backing, Some(Backing::Lun(_)))
            && self.metadata.as_ref().is_none_or(Metadata::is_file)
    }

    /// Gives an image file its size, its old contents gone.
    pub(crate) fn prepare(&mut self) -> anyhow::Result<()> {
        if let (Some(Backing::File(file)), true) = (&self.backing, self.is_image()) {
            let name = self.name();
            // First longer, then empty: a file system without room for the size says so before
            // anything is lost.
            let longest = self.size.max(file.metadata()?.len());
            let too_long = || format!("can't make {name} {longest} bytes long");
            file.set_len(longest).with_context(too_long)?;
            file.set_len(0)
                .with_context(|| format!("can't empty {name}"))?;
            file.set_len(self.size).with_context(too_long)?;
        }
        self.discard = false;
        Ok(())
    }

    /// The identifier that the volume's header shall have: the one by which the LUN will be known
    /// when it is opened. With `personality`, an image file gets an array's record beside it.
    pub(crate) fn identity(
        &self,
        personality: Option<Personality>,
        dry_run: bool,
    ) -> anyhow::Result<Vec<u8>> {
        let bytes = |lun: &dyn Lun| {
            let identity = lun.identity();
            identity.map_or_else(Vec::new, |identity| identity.as_str().as_bytes().to_vec())
        };
        match &self.backing {
            None => return Ok(Vec::new()),
            Some(Backing::Lun(_)) if personality.is_some() => bail!(
                "{} is a LUN, whose array can do what it can; leave --array away",
                self.name()
            ),
            Some(Backing::Lun(lun)) => return Ok(bytes(lun)),
            Some(Backing::File(_)) => {}
        }
        if let (Some(personality), false, true) = (personality, dry_run, self.is_image()) {
            let metadata = std::fs::metadata(&self.path)?;
            let kept = ArrayState::load(&self.path)?.map(|state| state.identity);
            let identity = kept.unwrap_or_else(|| {
                LunIdentity::new(&format!("image {:x}:{:x}", metadata.dev(), metadata.ino()))
            });
            ArrayState::create(&self.path, identity, personality)
                .with_context(|| format!("can't record the array of {}", self.name()))?;
        }
        let lun = FileLun::open(&self.path, Access::ReadOnly);
        Ok(lun.map_or_else(|_| Vec::new(), |lun| bytes(&lun)))
    }

    /// What the device holds that someone may still want, in words; `None` when nothing is known.
    pub(crate) fn contents(&self) -> anyhow::Result<Option<String>> {
        let file = match &self.backing {
            None => return Ok(None),
            Some(Backing::Lun(lun)) => {
                let length = lun.capacity().min(signatures::LOOKED_AT as u64);
                let mut start = vec![0; length as usize];
                lun.read(DeviceOffset(0), &mut start)?;
                return Ok(self.found(&start));
            }
            Some(Backing::File(file)) => file,
        };
        let mut start = vec![0; signatures::LOOKED_AT];
        let mut filled = 0;
        while filled < start.len() {
            match file.read_at(&mut start[filled..], filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) => {
                    return Err(error).with_context(|| format!("can't read {}", self.name()));
                }
            }
        }
        start.truncate(filled);
        Ok(self.found(&start))
    }

    fn found(&self, start: &[u8]) -> Option<String> {
        let found = signatures::find(start)?;
        Some(self.vmfs().unwrap_or_else(|| found.to_owned()))
    }

    /// More about a VMFS volume, if it is one: its name, its other extents, who has it mounted.
    fn vmfs(&self) -> Option<String> {
        let whole: Arc<dyn Lun> = match self.backing.as_ref()? {
            Backing::Lun(lun) => Arc::clone(lun),
            Backing::File(_) => Arc::new(FileLun::open(&self.path, Access::ReadOnly).ok()?),
        };
        let lun = Arc::clone(&whole);
        let parts = look_through(&lun);
        let lun = match parts.into_iter().next() {
            Some(part) => Arc::new(part),
            None => lun,
        };
        if let Ok(device) = Device::open(lun)
            && let Some(entry) = device.volumes().first()
            && entry.devices.get() > 1
        {
            return Some(format!(
                "extents {} to {} of the VMFS volume {}, which has {} devices",
                entry.first_pe, entry.last_pe, entry.uuid, entry.devices
            ));
        }
        let volume = open_luns(vec![whole]).ok()?;
        let fs = FileSystem::open(volume).ok()?;
        let descriptor = fs.descriptor();
        let mut text = format!(
            "the VMFS volume '{}' ({})",
            descriptor.label(),
            descriptor.uuid
        );
        let mounted = hosts(fs.volume(), fs.layout()).unwrap_or_default();
        let mounted: Vec<String> = mounted
            .iter()
            .filter(|host| host.state == HeartbeatState::InUse)
            .map(|host| format!("{} {}", host.host, host.ip).trim_end().to_owned())
            .collect();
        if !mounted.is_empty() {
            text += " that these hosts have mounted, or had when they died: ";
            text += &mounted.join(", ");
        }
        Some(text)
    }
}
