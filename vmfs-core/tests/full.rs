//! A volume without a free block: it can be mounted, freed and written to again, also after a host
//! died on it.

mod common;

use common::{Host, fsck, mount, volume_of};
use mkfs_vmfs::Options;
use vmfs_core::format::{Family, FdAddr};
use vmfs_core::fs::{Changes, Creator, FileSystem, FsError};

const CREATOR: Creator = Creator {
    mode: 0o644,
    uid: 0,
    gid: 0,
};

/// Writes until nothing is left; the files that came of it.
fn fill(fs: &FileSystem) -> usize {
    let part = vec![0xf1; 1 << 20];
    for number in 0.. {
        let name = format!("fill{number}");
        let file = fs.create(FdAddr::ROOT, name.as_bytes(), CREATOR);
        let file = file.expect("a descriptor").fd();
        for offset in 0..256 {
            if let Err(error) = fs.write(file, offset << 20, &part) {
                assert_eq!(error.errno(), rustix::io::Errno::NOSPC, "{error}");
                return number + 1;
            }
        }
    }
    0
}

#[test]
fn a_full_volume_is_mounted_after_an_unmount_and_after_a_death() {
    for family in [Family::Vmfs5, Family::Vmfs6] {
        let lun = volume_of(Options::new(family, &[2 << 30]));
        let fs = mount(&lun, &Host::new(1));
        let free = fs.space().free_blocks;
        let files = fill(&fs);
        fs.sync().expect("sync");
        assert_eq!(fs.space().free_blocks, 0, "{family}");
        drop(fs);
        // It died; the next one fills what its journal leaves, and dies as well.
        let fs = mount(&lun, &Host::new(2));
        let _ = fs.write(
            fs.resolve(b"/fill0", true).expect("file").fd(),
            300 << 20,
            &[1; 4096],
        );
        fs.sync().expect("sync");
        drop(fs);
        fsck(&lun);
        let fs = mount(&lun, &Host::new(3));
        let refused = fs.write(FdAddr::ROOT, 0, b"x").expect_err("a directory");
        assert!(matches!(refused, FsError::IsDirectory { .. }), "{refused}");
        for number in 0..files {
            fs.unlink(FdAddr::ROOT, format!("fill{number}").as_bytes())
                .expect("unlink");
        }
        fs.sync().expect("sync");
        assert_eq!(fs.space().free_blocks, free, "{family}");
        fs.close().expect("close");
        fsck(&lun);
    }
}

/// A file's length and bytes, as far as they are no holes.
fn content(fs: &FileSystem, name: &str) -> (u64, Vec<u8>) {
    let inode = fs.resolve(name.as_bytes(), true).expect(name);
    let mut bytes = vec![0; inode.length().min(2 << 20) as usize];
    fs.read(&inode, 0, &mut bytes).expect(name);
    (inode.length(), bytes)
}

/// Allocates file blocks until `left` are free.
fn fill_up(fs: &FileSystem, name: &[u8], left: u64) {
    let file = fs.create(FdAddr::ROOT, name, CREATOR).expect("create").fd();
    let how = vmfs_core::fs::Allocate::Reserve;
    let length = (fs.space().free_blocks - left) << 20;
    fs.allocate(file, 0, length, how, true).expect("fill");
    assert_eq!(fs.space().free_blocks, left);
}

/// Has a call fail for want of space: nothing of it may have happened.
fn fails<T>(fs: &FileSystem, what: &str, call: impl FnOnce() -> Result<T, FsError>) {
    let (before, names) = (fs.space(), ["/blocks", "/empty", "/small", "/sub", "/far"]);
    let contents = names.map(|name| content(fs, name));
    let error = call().err().expect(what);
    assert_eq!(error.errno(), rustix::io::Errno::NOSPC, "{what}: {error}");
    assert_eq!(fs.space(), before, "{what}");
    assert!(names.map(|name| content(fs, name)) == contents, "{what}");
}

#[test]
fn what_is_missing_fails_a_call_before_anything_of_it_is_done() {
    for family in [Family::Vmfs5, Family::Vmfs6] {
        let (descriptors, sub_blocks, span) = if family == Family::Vmfs6 {
            (4096, 2048, 8 << 30)
        } else {
            (330, 290, 1 << 30)
        };
        let mut options = Options::new(family, &[2 << 30]);
        options.file_descriptors = Some(descriptors);
        options.sub_blocks = Some(sub_blocks);
        let lun = volume_of(options);
        let fs = mount(&lun, &Host::new(1));
        let create = |name: &str| fs.create(FdAddr::ROOT, name.as_bytes(), CREATOR);
        let file = |name, length: usize| {
            let fd = create(name).expect(name).fd();
            fs.write(fd, 0, &vec![7; length]).expect(name);
            fd
        };
        let (blocks, empty) = (file("blocks", 3 << 19), file("empty", 0));
        let (small, sub, far) = (file("small", 900), file("sub", 5000), file("far", 3 << 19));
        fs.write(far, span, b"x").expect("a pointer block");

        // File blocks.
        fill_up(&fs, b"fill", 0);
        fails(&fs, "file block", || fs.write(blocks, 2 << 20, &[1; 4096]));
        fails(&fs, "second block", || {
            fs.write(blocks, (2 << 20) - 9, &[1; 4096])
        });
        fails(&fs, "block of a pointer block", || {
            fs.write(far, span + (5 << 20), b"x")
        });
        fails(&fs, "new map", || fs.write(sub, 1 << 20, b"x"));
        let how = vmfs_core::fs::Allocate::Reserve;
        fails(&fs, "reserve", || {
            fs.allocate(blocks, 0, 50 << 20, how, false)
        });

        // Sub-blocks and descriptors: whichever runs out first, all do in the end.
        let mut made = Vec::new();
        let mut without = 0;
        loop {
            let name = format!("more{}", made.len());
            let Ok(inode) = create(&name) else { break };
            made.push(name);
            without += u32::from(fs.write(inode.fd(), 0, &[3; 5000]).is_err());
        }
        assert!(without > 0 && made.len() > 200, "{without} {}", made.len());
        fails(&fs, "descriptor", || create("one more"));
        fails(&fs, "descriptor of a directory", || {
            fs.make_directory(FdAddr::ROOT, b"one more", CREATOR)
        });
        fails(&fs, "sub-block", || fs.write(empty, 0, &[1; 5000]));
        fails(&fs, "sub-block of data that was in the descriptor", || {
            fs.write(small, 0, &[1; 5000])
        });

        // One file block is there, but no pointer block, and no room for more of these. VMFS5 has
        // more of them than file blocks.
        if family == Family::Vmfs6 {
            let size = Changes {
                size: Some(1 << 20),
                ..Changes::default()
            };
            fs.set_attributes(blocks, &size).expect("cut");
            assert_eq!(fs.space().free_blocks, 1);
            fails(&fs, "pointer block", || fs.write(far, 2000 * span, b"x"));
            fs.write(blocks, 1 << 20, b"x").expect("the last block");
        }

        // Freeing works, and what was freed is there for the next.
        for name in &made[..20] {
            fs.unlink(FdAddr::ROOT, name.as_bytes()).expect("unlink");
        }
        fs.write(empty, 0, &[1; 5000]).expect("a sub-block");
        create("one more").expect("a descriptor");
        fs.unlink(FdAddr::ROOT, b"fill").expect("unlink");
        fs.write(blocks, 2 << 20, &[1; 4096]).expect("a block");
        fs.close().expect("close");
        fsck(&lun);
    }
}
