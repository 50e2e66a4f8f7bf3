//! A volume with files of every kind, and what of it isn't as it was.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use vmfs_core::cluster::HostConfig;
use vmfs_core::format::{FdAddr, Uuid};
use vmfs_core::fs::{Creator, FileSystem, Inode};
use vmfs_core::lvm::open_paths;
use vmfs_core::scsi::Access;
use vmfs_fixtures::What;
use vmfs_tests::corpus::base::{self, Base};
use vmfs_tests::corpus::trial::copy_sparse;
use vmfs_tests::crash::volume::TestClock;

/// More than the first cluster has descriptors.
const FILES: u32 = 300;
const CREATOR: Creator = Creator {
    mode: 0o644,
    uid: 0,
    gid: 0,
};

/// The volume.
pub(crate) struct Volume {
    pub(crate) base: Base,
    pub(crate) image: PathBuf,
}

impl Volume {
    /// Makes it in `folder`.
    pub(crate) fn make(name: &str, folder: &Path) -> Self {
        let base = base::build(name, folder).expect("base");
        let uuid = Uuid {
            time_lo: 77.into(),
            ..Uuid::default()
        };
        let mut host = HostConfig::new(uuid, "host77");
        host.clock = Arc::new(TestClock::default());
        let volume = open_paths(&base.devices, Access::ReadWrite).expect("volume");
        let fs = FileSystem::open_for_writing(volume, host).expect("file system");
        let directory = fs.make_directory(FdAddr::ROOT, b"late", CREATOR);
        let directory = directory.expect("directory").fd();
        for number in 0..FILES {
            let file = fs.create(directory, format!("{number}").as_bytes(), CREATOR);
            let file = file.expect("file").fd();
            fs.write(file, 0, &number.to_le_bytes()).expect("write");
        }
        fs.sync().expect("sync");
        drop(fs);
        // This process still counts as one that has the first.
        let image = folder.join("settled.img");
        copy_sparse(&base.devices[0], &image).expect("copy");
        let settled = super::repair(&image).expect("a run");
        assert_eq!(settled.exit_code(), 1, "the host's journal");
        let volume = Self { base, image };
        let lost = volume.lost(&volume.image, None);
        assert!(lost.is_empty(), "{lost:?}");
        volume
    }

    pub(crate) fn open(&self) -> FileSystem {
        let volume = open_paths(&[&self.image], Access::ReadOnly).expect("volume");
        FileSystem::open(volume).expect("file system")
    }

    /// What on `image` isn't as on this volume; the length of the file `shortened` may be another.
    pub(crate) fn lost(&self, image: &Path, shortened: Option<&str>) -> Vec<String> {
        let volume = open_paths(&[image], Access::ReadOnly).map_err(|error| error.to_string());
        let fs = volume.and_then(|it| FileSystem::open(it).map_err(|error| error.to_string()));
        let fs = match fs {
            Ok(fs) => fs,
            Err(error) => return vec![error],
        };
        let mut lost = Vec::new();
        for known in &self.base.manifest {
            let same = match fs.resolve(known.path.as_bytes(), false) {
                Ok(inode) => {
                    let shortened = shortened == Some(known.path.as_str());
                    is_same(&fs, &inode, &known.what, shortened)
                }
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = same {
                lost.push(format!("{}: {error}", known.path));
            }
        }
        for number in 0..FILES {
            let path = format!("/late/{number}");
            let mut found = [0; 4];
            let read = fs
                .resolve(path.as_bytes(), false)
                .and_then(|inode| fs.read(&inode, 0, &mut found).map(|_| ()));
            if read.is_err() || found != number.to_le_bytes() {
                lost.push(path);
            }
        }
        let more = lost.len().saturating_sub(3);
        lost.truncate(3);
        if more > 0 {
            lost.push(format!("{more} more"));
        }
        lost
    }
}

/// Whether a file is what it was made.
fn is_same(fs: &FileSystem, inode: &Inode, what: &What, shortened: bool) -> Result<(), String> {
    let expect = |right: bool, wrong: &str| right.then_some(()).ok_or_else(|| wrong.to_owned());
    match what {
        What::File(content) => {
            let (found, length) = (inode.length(), content.length());
            expect(
                found == length || shortened,
                &format!("it has {found:#x} bytes, had {length:#x}"),
            )?;
            let mut bytes = vec![0; found.min(length) as usize];
            fs.read(inode, 0, &mut bytes)
                .map_err(|error| error.to_string())?;
            let wanted = content.expected(0..bytes.len() as u64, fs.layout().file_block_size());
            expect(bytes == wanted, "its content is another")
        }
        What::Directory => expect(inode.is_directory(), "it is no directory"),
        What::Symlink(target) => {
            let found = fs.read_link(inode).map_err(|error| error.to_string())?;
            let is_part = shortened && target.as_bytes().starts_with(&found);
            expect(
                found == target.as_bytes() || is_part,
                "its target is another",
            )
        }
        What::Rdm(length) => {
            expect(inode.rdm().is_some(), "it names no disk")?;
            expect(
                inode.length() == *length || shortened,
                "its disk is another",
            )
        }
        What::Link => Ok(()),
    }
}
