//! Several processes that share one image file, each a host of its own (docs/SHARED-LUN.md).

mod atomic;
mod files;
mod host;
mod persistent;
mod reserved;
mod stopped;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use vmfs_core::scsi::{ArrayState, LunIdentity, Personality};

/// An image file in a folder of its own.
struct Image {
    folder: tempfile::TempDir,
}

impl Image {
    /// Bytes of an image.
    const SIZE: u64 = 8 << 20;

    fn new() -> Self {
        Self::with(Personality::Vaai)
    }

    fn with(personality: Personality) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let image = Self { folder };
        let file = File::create(image.path()).expect("image");
        file.set_len(Self::SIZE).expect("size");
        let identity = LunIdentity::new("naa.60000000000000000000000000000001");
        ArrayState::create(&image.path(), identity, personality).expect("array");
        image
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("lun.img")
    }

    /// The file in which the hosts meet.
    fn hosts(&self) -> PathBuf {
        self.folder.path().join("lun.img.array.hosts")
    }

    /// Its bytes, whatever hosts say.
    fn bytes(&self) -> Vec<u8> {
        fs::read(self.path()).expect("image")
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }
}
