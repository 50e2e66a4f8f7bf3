use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use vmfs_core::cluster::HostConfig;
use vmfs_core::format::{Family, FdAddr, Layout, Uuid};
use vmfs_core::fs::{Creator, FileSystem};
use vmfs_core::lvm::open_paths;
use vmfs_core::scsi::{Access, FileLun, Lun};
use vmfs_fixtures::mkfs_vmfs::Options;
use vmfs_fixtures::{
    Blocks, Content, FixtureBuilder, Known, Levels, What, names_in_one_slot, pattern,
};

use crate::crash::volume::TestClock;

const MIB: u64 = 1 << 20;
/// Whose the dead host's files are.
const CREATOR: Creator = Creator {
    mode: 0o644,
    uid: 0,
    gid: 0,
};

/// A volume in files, undamaged.
#[derive(Debug)]
pub struct Base {
    /// Its name.
    pub name: String,
    /// Its devices' files.
    pub devices: Vec<PathBuf>,
    /// The geometry.
    pub layout: Layout,
    /// What is on it.
    pub manifest: Vec<Known>,
}

/// The bases by name.
pub const NAMES: [&str; 6] = [
    "vmfs6",
    "vmfs5",
    "vmfs6-span",
    "vmfs5-span",
    "vmfs6-dead",
    "vmfs5-dead",
];

fn options(name: &str) -> Result<Options> {
    let small6 = [17 * MIB + 1280 * MIB];
    let small5 = [17 * MIB + 1024 * MIB];
    let mut options = match name {
        "vmfs6" | "vmfs6-dead" => Options::new(Family::Vmfs6, &small6),
        "vmfs5" | "vmfs5-dead" => Options::new(Family::Vmfs5, &small5),
        "vmfs6-span" => Options::new(
            Family::Vmfs6,
            &[17 * MIB + 1280 * MIB, 17 * MIB + 512 * MIB],
        ),
        "vmfs5-span" => Options::new(
            Family::Vmfs5,
            &[17 * MIB + 1024 * MIB, 17 * MIB + 512 * MIB],
        ),
        other => bail!("no base is called {other}; there are {}", NAMES.join(", ")),
    };
    options.time_us = 1_751_284_800_000_000;
    options.seed = 77;
    "corpus".clone_into(&mut options.label);
    Ok(options)
}

/// Makes the base `name` in `folder`.
///
/// # Errors
/// There is no such base, or it can't be written.
pub fn build(name: &str, folder: &Path) -> Result<Base> {
    let mut options = options(name)?;
    let mut devices = Vec::new();
    let mut files = Vec::new();
    for device in &mut options.devices {
        let path = folder.join(format!("{name}-{}.img", devices.len()));
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        // Else tools would take the volume for a snapshot of one on another LUN.
        let lun = FileLun::open(&path, Access::ReadOnly)?;
        let identity = lun.identity().map(|id| id.as_str().as_bytes().to_vec());
        device.disk_id = identity.unwrap_or_default();
        devices.push(path);
        files.push(file);
    }
    let mut builder = FixtureBuilder::create(options, files)?;
    fill(&mut builder)?;
    let fixture = builder.finish()?;
    let mut base = Base {
        name: name.to_owned(),
        devices,
        layout: fixture.plan().layout().clone(),
        manifest: fixture.manifest().to_vec(),
    };
    if name.ends_with("-dead") {
        die(&mut base)?;
    }
    Ok(base)
}

/// A host mounts the volume, writes files, and dies when they are durable, in its journal only.
fn die(base: &mut Base) -> Result<()> {
    let uuid = Uuid {
        time_lo: 77.into(),
        random: 7.into(),
        ..Uuid::default()
    };
    let mut host = HostConfig::new(uuid, "host77");
    host.clock = Arc::new(TestClock::default());
    let volume = open_paths(&base.devices, Access::ReadWrite)?;
    let fs = FileSystem::open_for_writing(volume, host)?;
    let folder = fs.make_directory(FdAddr::ROOT, b"late", CREATOR)?.fd();
    for number in 0..10 {
        let file = fs.create(folder, format!("file-{number}").as_bytes(), CREATOR)?;
        let content = pattern(40 + number, 300 * (1 + number as usize));
        fs.write(file.fd(), 0, &content)?;
        base.manifest.push(Known {
            path: format!("/late/file-{number}"),
            fd: file.fd(),
            what: What::File(Content::Resident(content)),
        });
    }
    fs.sync()?;
    drop(fs);
    Ok(())
}

/// A file of every kind that recipes name.
fn fill(builder: &mut FixtureBuilder) -> Result<()> {
    let layout = builder.fixture().plan().layout().clone();
    let block = layout.file_block_size();
    let root = builder.root();
    let files = builder.add_dir(root, "files")?;
    builder.add_file(files, "resident", Content::Resident(pattern(1, 400)))?;
    builder.add_file(files, "sub-block", Content::SubBlocks(pattern(2, 3000)))?;
    builder.add_file(files, "block", pattern(3, MIB as usize))?;
    builder.add_file(files, "blocks", pattern(4, (3 * MIB) as usize + 99))?;
    builder.add_file(files, "other", pattern(5, (2 * MIB) as usize))?;
    let zeroed = Blocks {
        length: 6 * block,
        data: vec![(0, pattern(6, 100)), (4 * block, pattern(7, 100))],
        to_be_zeroed: std::iter::once(block..3 * block).collect(),
        ..Blocks::default()
    };
    builder.add_file(files, "zeroed", zeroed)?;
    let pointers = Blocks::sparse(9 * block)
        .with_data(0, pattern(8, 1000))
        .with_data(5 * block, pattern(9, 1000))
        .with_levels(Levels::One);
    builder.add_file(files, "pointers", pointers)?;
    let pointers = Blocks::sparse(4 * block)
        .with_data(block, pattern(10, 1000))
        .with_levels(Levels::One);
    builder.add_file(files, "pointers-2", pointers)?;
    let double = Blocks::sparse(7 * block)
        .with_data(2 * block, pattern(11, 1000))
        .with_levels(Levels::Two);
    builder.add_file(files, "double", double)?;
    let names = builder.add_dir(root, "names")?;
    let linked = builder.add_file(names, "first", Content::SubBlocks(pattern(12, 500)))?;
    builder.add_link(names, "second", linked)?;
    builder.add_symlink(names, "link", "../files/block")?;
    builder.add_rdm(names, "raw", 1 << 40, b"QM00015             QEMU HARDDISK")?;
    let a = builder.add_dir(root, "a")?;
    let b = builder.add_dir(a, "b")?;
    let c = builder.add_dir(b, "c")?;
    builder.add_file(c, "deep", Content::SubBlocks(pattern(13, 70)))?;
    builder.add_dir(root, "empty")?;
    let chain = builder.add_dir(root, "chain")?;
    // Two link groups of twelve.
    for name in names_in_one_slot("s", 15) {
        builder.add_file(chain, &name, Content::Resident(name.clone().into_bytes()))?;
    }
    let many = builder.add_dir(root, "many")?;
    for number in 0..60 {
        let content = Content::Resident(format!("content of {number}\n").into_bytes());
        builder.add_file(many, &format!("file-{number:02}"), content)?;
    }
    Ok(())
}
