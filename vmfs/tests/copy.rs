//! `vmfs cp` where something goes wrong or is in the way.

mod common;

use std::fs;
use std::path::Path;

use vmfs_core::format::{BlockAddr, FdAddr, FdImage};
use vmfs_core::fs::FileSystem;
use vmfs_core::lvm::open_paths;
use vmfs_core::scsi::Access;
use vmfs_fixtures::{Blocks, Fixture};

use common::{on, stderr, stdout, vmfs, volume};

/// Puts `raw` into the address array of `file`; returns what was there.
fn change_address(image: &Path, fixture: &Fixture, file: FdAddr, index: u64, raw: u64) -> u64 {
    let volume = open_paths(&[image], Access::ReadOnly).expect("volume");
    let fs = FileSystem::open(volume).expect("file system");
    let place = fs.inode(file).expect("inode").offset().0;
    let layout = fixture.plan().layout();
    let bytes = fixture.read(place, layout.fd_size as usize).expect("bytes");
    let mut descriptor = FdImage::from_bytes(layout, bytes);
    let before = descriptor.address(index as usize);
    descriptor.set_address(index as usize, raw);
    fixture.write(place, descriptor.bytes()).expect("write");
    before
}

#[test]
fn a_resumed_copy_tries_again_what_could_not_be_read() {
    const MIB: u64 = 1 << 20;
    let block = |byte| vec![byte; MIB as usize];
    // What comes last is so far away that a resumed copy would go on behind what was lost.
    let blocks = Blocks::sparse(300 * MIB)
        .with_data(0, block(1))
        .with_data(10 * MIB, block(2))
        .with_data(299 * MIB, block(3));
    let expected = blocks.expected(0..300 * MIB, MIB);
    let (folder, image, fixture) = volume(|builder| {
        let root = builder.root();
        builder.add_file(root, "disk", blocks).expect("file");
    });
    let file = fixture.manifest()[0].fd;
    let nowhere = BlockAddr::FileBlock {
        block: 1 << 30,
        tbz: 0,
        cow: false,
    };
    let nowhere = nowhere.encode(fixture.plan().layout());
    let out = folder.path().join("out");
    fs::create_dir(&out).expect("folder");
    let (from, to) = (on(&image, "/disk"), out.display().to_string());
    let part = || fs::read(out.join("disk.vmfs-part")).expect("part");
    // The first block is among those by which a part file is recognised.
    for (lost, range) in [(10, "(0xa00000-0xafffff)"), (0, "(0x0-0xfffff)")] {
        for how_to_go_on in [&["cp", "--resume"][..], &["cp"]] {
            let right = change_address(&image, &fixture, file, lost, nowhere);
            for args in [&["cp"][..], &["cp", "--resume"], &["cp", "--resume"]] {
                let output = vmfs(&[args, &[&from, &to]].concat());
                let told = stderr(&output);
                assert_eq!(output.status.code(), Some(1), "{lost} {args:?}: {told}");
                assert!(told.contains(range), "{lost} {args:?}: {told}");
                assert!(!out.join("disk").exists());
                assert!(part().ends_with(&block(3)), "the rest is kept");
            }
            change_address(&image, &fixture, file, lost, right);
            stdout(&[how_to_go_on, &["--verify", &from, &to]].concat());
            assert!(fs::read(out.join("disk")).expect("copy") == expected);
            fs::remove_file(out.join("disk")).expect("remove");
            assert_eq!(fs::read_dir(&out).expect("folder").count(), 0);
        }
    }
}
