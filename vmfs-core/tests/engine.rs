//! The write engine against a model: random operations, then the structure is checked and
//! everything read back, also after an unmount that never happened.

mod common;

use std::collections::BTreeMap;

use common::{Host, MIB, Random, fsck, mount, volume};
use vmfs_core::format::{Family, FdAddr};
use vmfs_core::fs::{Allocate, Changes, Creator, FileSystem, FsError, Rename};

const CREATOR: Creator = Creator {
    mode: 0o644,
    uid: 7,
    gid: 8,
};

fn create(fs: &FileSystem, name: &str) -> FdAddr {
    let made = fs.create(FdAddr::ROOT, name.as_bytes(), CREATOR);
    made.expect("create").fd()
}

fn content(fs: &FileSystem, fd: FdAddr) -> Vec<u8> {
    let inode = fs.inode(fd).expect("inode");
    let mut bytes = vec![0xee; inode.length() as usize];
    assert_eq!(fs.read(&inode, 0, &mut bytes).expect("read"), bytes.len());
    bytes
}

#[test]
fn files_grow_through_every_kind_of_map() {
    for family in [Family::Vmfs5, Family::Vmfs6] {
        let lun = volume(family);
        let fs = mount(&lun, &Host::new(1));
        let fd = create(&fs, "growing");
        let mut model = Vec::new();
        let mut random = Random::new(3);
        for length in [10, 900, 3000, 7000, 60_000, 200_000, 5 << 20, 6 << 20] {
            let at = model.len();
            model.resize(length, 0);
            random.fill(&mut model[at..]);
            fs.write(fd, at as u64, &model[at..]).expect("write");
            assert!(content(&fs, fd) == model, "{family} {length}");
        }
        // Far out: pointer blocks, then pointer blocks of them.
        for offset in [400 * MIB, 3 << 40, 60 << 40] {
            fs.write(fd, offset, b"far").expect("write");
            let inode = fs.inode(fd).expect("inode");
            let mut back = [1; 8];
            fs.read(&inode, offset - 5, &mut back).expect("read");
            assert_eq!(&back, b"\0\0\0\0\0far", "{family} {offset:#x}");
        }
        fs.sync().expect("sync");
        fs.close().expect("close");
        fsck(&lun);
        let fs = mount(&lun, &Host::new(2));
        let inode = fs.resolve(b"/growing", true).expect("file");
        assert_eq!(inode.length(), (60 << 40) + 3);
        let mut bytes = vec![0; model.len()];
        fs.read(&inode, 0, &mut bytes).expect("read");
        assert!(bytes == model);
        let before = fs.space();
        let cut = Changes {
            size: Some(100),
            ..Changes::default()
        };
        fs.set_attributes(fd, &cut).expect("truncate");
        assert_eq!(content(&fs, fd), model[..100]);
        fs.unlink(FdAddr::ROOT, b"growing").expect("unlink");
        assert!(fs.space().free_blocks > before.free_blocks);
        fs.close().expect("close");
        fsck(&lun);
    }
}

/// One file as it should be.
#[derive(Clone, Default)]
struct Model {
    bytes: Vec<u8>,
}

/// Changes what is allocated for a part of a file, and what that does to its content.
fn allocate(
    fs: &FileSystem,
    fd: FdAddr,
    model: &mut Model,
    random: &mut Random,
    keep_size_too: bool,
) {
    let (offset, length) = (random.size(), random.size().max(1));
    let how = [Allocate::Reserve, Allocate::Zero, Allocate::PunchHole];
    let how = how[random.below(3) as usize];
    let keep_size = keep_size_too && random.below(2) == 0;
    fs.allocate(fd, offset, length, how, keep_size)
        .expect("allocate");
    let end = (offset + length) as usize;
    if how != Allocate::Reserve {
        let stop = end.min(model.bytes.len());
        let start = (offset as usize).min(stop);
        model.bytes[start..stop].fill(0);
    }
    if !keep_size && how != Allocate::PunchHole && end > model.bytes.len() {
        model.bytes.resize(end, 0);
    }
}

fn random_operations(family: Family, seed: u64, steps: u32, keep_size_too: bool) {
    let lun = volume(family);
    let mut host = 1;
    let mut fs = mount(&lun, &Host::new(host));
    let mut random = Random::new(seed);
    let mut files: BTreeMap<String, Model> = BTreeMap::new();
    for step in 0..steps {
        let name = format!("f{}", random.below(12));
        let there = files.contains_key(&name);
        let lookup = |fs: &FileSystem| fs.resolve(name.as_bytes(), true).expect("file").fd();
        match random.below(20) {
            _ if !there => {
                create(&fs, &name);
                files.insert(name, Model::default());
            }
            0 => {
                fs.unlink(FdAddr::ROOT, name.as_bytes()).expect("unlink");
                files.remove(&name);
            }
            1 => {
                let other = format!("f{}", random.below(12));
                fs.rename(
                    FdAddr::ROOT,
                    name.as_bytes(),
                    FdAddr::ROOT,
                    other.as_bytes(),
                    Rename::Replace,
                )
                .expect("rename");
                let model = files.remove(&name).expect("there");
                files.insert(other, model);
            }
            2..=4 => {
                let size = random.size();
                let fd = lookup(&fs);
                let cut = Changes {
                    size: Some(size),
                    ..Changes::default()
                };
                fs.set_attributes(fd, &cut).expect("truncate");
                let model = files.get_mut(&name).expect("there");
                model.bytes.resize(size as usize, 0);
            }
            5..=8 => {
                let fd = lookup(&fs);
                let model = files.get_mut(&name).expect("there");
                allocate(&fs, fd, model, &mut random, keep_size_too);
            }
            9 => fs.sync().expect("sync"),
            10 if random.below(4) == 0 => {
                // The host dies, or goes in peace.
                fs.sync().expect("sync");
                if random.below(2) == 0 {
                    fs.close().expect("close");
                    fsck(&lun);
                }
                host += 1;
                fs = mount(&lun, &Host::new(host));
            }
            _ => {
                let mut data = vec![0; random.size().max(1) as usize];
                random.fill(&mut data);
                let offset = random.size();
                let fd = lookup(&fs);
                fs.write(fd, offset, &data).expect("write");
                let model = files.get_mut(&name).expect("there");
                let end = offset as usize + data.len();
                if end > model.bytes.len() {
                    model.bytes.resize(end, 0);
                }
                model.bytes[offset as usize..end].copy_from_slice(&data);
            }
        }
        let name = format!("f{}", random.below(12));
        if let Some(model) = files.get(&name) {
            let fd = fs.resolve(name.as_bytes(), true).expect("file").fd();
            assert!(
                content(&fs, fd) == model.bytes,
                "seed {seed} step {step} {name}"
            );
        }
    }
    fs.close().expect("close");
    fsck(&lun);
    let fs = mount(&lun, &Host::new(1000));
    for (name, model) in &files {
        let fd = fs.resolve(name.as_bytes(), true).expect("file").fd();
        assert!(content(&fs, fd) == model.bytes, "seed {seed} {name}");
    }
    for name in files.keys() {
        fs.unlink(FdAddr::ROOT, name.as_bytes()).expect("unlink");
    }
    fs.close().expect("close");
    fsck(&lun);
}

#[test]
fn random_operations_on_vmfs5() {
    (0..4).for_each(|seed| random_operations(Family::Vmfs5, seed, 400, seed % 2 == 1));
}

#[test]
fn random_operations_on_vmfs6() {
    (0..4).for_each(|seed| random_operations(Family::Vmfs6, seed, 400, seed % 2 == 1));
}

#[test]
fn a_file_lives_while_it_is_held() {
    let lun = volume(Family::Vmfs5);
    let fs = mount(&lun, &Host::new(1));
    let fd = create(&fs, "open");
    fs.write(fd, 0, &vec![5; 3 << 20]).expect("write");
    fs.hold(fd);
    fs.unlink(FdAddr::ROOT, b"open").expect("unlink");
    assert!(matches!(
        fs.resolve(b"/open", true),
        Err(FsError::NotFound { .. })
    ));
    assert!(content(&fs, fd).iter().all(|&byte| byte == 5));
    fs.sync().expect("sync");
    // The host dies; the next one deletes what has no name.
    let fs = mount(&lun, &Host::new(2));
    fs.close().expect("close");
    fsck(&lun);
}

#[test]
fn a_cut_of_a_file_without_names_leaves_it_to_be_deleted() {
    const GIB: u64 = 1 << 30;
    let lun = volume(Family::Vmfs5);
    let mut host = Host::new(1);
    // So small that giving back so many pointer blocks is more than one transaction.
    host.0.journal = 96 << 10;
    let fs = mount(&lun, &host);
    let free = fs.space();
    let fd = create(&fs, "open");
    for block in 0..500 {
        fs.write(fd, block * GIB, b"far apart").expect("write");
    }
    fs.sync().expect("sync");
    fs.hold(fd);
    fs.unlink(FdAddr::ROOT, b"open").expect("unlink");
    let shorter = Changes {
        size: Some(3 * GIB),
        ..Changes::default()
    };
    fs.set_attributes(fd, &shorter).expect("cut");
    fs.sync().expect("sync");
    // The host dies; it had noted that the file is to be deleted, and no cut takes that back.
    drop(fs);
    let fs = mount(&lun, &Host::new(2));
    assert_eq!(fs.space().free_blocks, free.free_blocks);
    fs.close().expect("close");
    fsck(&lun);
}

#[test]
fn readers_see_what_a_dead_host_left_in_its_journal() {
    let lun = volume(Family::Vmfs5);
    let fs = mount(&lun, &Host::new(1));
    let fd = create(&fs, "new");
    fs.write(fd, 0, b"resident").expect("write");
    fs.sync().expect("sync");
    drop(fs);
    let read = || {
        let volume = vmfs_core::lvm::open_luns(vec![lun.clone()]).expect("volume");
        FileSystem::open(volume).expect("open")
    };
    let reader = read();
    let inode = reader.resolve(b"/new", true).expect("file");
    assert_eq!(content(&reader, inode.fd()), b"resident");
    fsck(&lun);
    mount(&lun, &Host::new(2)).close().expect("close");
    reader.forget();
    assert_eq!(content(&reader, inode.fd()), b"resident");
    assert_eq!(content(&read(), inode.fd()), b"resident");
}

#[test]
fn threads_change_files_side_by_side() {
    for family in [Family::Vmfs5, Family::Vmfs6] {
        let lun = volume(family);
        let fs = mount(&lun, &Host::new(1));
        let directory = fs
            .make_directory(FdAddr::ROOT, b"shared", CREATOR)
            .expect("directory")
            .fd();
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let fs = &fs;
                scope.spawn(move || work(fs, directory, thread));
            }
        });
        fs.close().expect("close");
        fsck(&lun);
        let fs = mount(&lun, &Host::new(2));
        for thread in 0..4_u8 {
            let path = format!("/shared/kept{thread}");
            let inode = fs.resolve(path.as_bytes(), true).expect("file");
            assert!(
                content(&fs, inode.fd())
                    .iter()
                    .all(|&byte| byte == thread + 1)
            );
        }
        let directory = fs.inode(directory).expect("directory");
        let mut names = 0;
        fs.read_dir(&directory, 0, |_| {
            names += 1;
            true
        })
        .expect("list");
        assert_eq!(names, 4);
    }
}

/// Makes, fills, renames, cuts and removes files in a directory that others use as well.
fn work(fs: &FileSystem, directory: FdAddr, thread: u64) {
    let mut random = Random::new(thread);
    let kept = format!("kept{thread}");
    let kept = fs.create(directory, kept.as_bytes(), CREATOR);
    let kept = kept.expect("create").fd();
    let fill = vec![thread as u8 + 1; 300_000];
    for round in 0..60 {
        let name = format!("t{thread}r{round}");
        let made = fs.create(directory, name.as_bytes(), CREATOR);
        let fd = made.expect("create").fd();
        let size = random.size().max(1) as usize % fill.len();
        fs.write(fd, 0, &fill[..=size]).expect("write");
        let back = content(fs, fd);
        assert!(back == fill[..=size], "{thread} {round}");
        let offset = fs.inode(kept).expect("inode").length();
        fs.write(kept, offset, &fill[..=size]).expect("append");
        if round % 7 == 0 {
            fs.sync_file(kept).expect("sync");
        }
        let renamed = format!("renamed{thread}");
        fs.rename(
            directory,
            name.as_bytes(),
            directory,
            renamed.as_bytes(),
            Rename::Replace,
        )
        .expect("rename");
        if round % 3 == 0 {
            fs.unlink(directory, renamed.as_bytes()).expect("unlink");
        }
    }
    let renamed = format!("renamed{thread}");
    let _ = fs.unlink(directory, renamed.as_bytes());
}
