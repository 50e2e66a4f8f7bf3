//! `vmfs cp` where something goes wrong or is in the way.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use vmfs_core::format::{BlockAddr, FdAddr, FdImage};
use vmfs_core::fs::FileSystem;
use vmfs_core::lvm::open_paths;
use vmfs_core::scsi::Access;
use vmfs_fixtures::{Blocks, Content, Fixture};

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

#[test]
fn what_is_no_part_file_is_left_alone() {
    let (folder, image, _fixture) = volume(|builder| {
        let root = builder.root();
        let content = Content::Resident(b"of the volume".to_vec());
        builder.add_file(root, "disk", content).expect("file");
    });
    let victim = folder.path().join("victim");
    fs::write(&victim, "mine").expect("victim");
    let out = folder.path().join("out");
    fs::create_dir(&out).expect("folder");
    let (from, to) = (on(&image, "/disk"), out.display().to_string());
    let put: [fn(&Path, &Path) -> std::io::Result<()>; 4] = [
        |victim, name| symlink(victim, name),
        |_, name| symlink("../new", name),
        |victim, name| fs::hard_link(victim, name),
        |_, name| fs::create_dir(name),
    ];
    for name in ["disk.vmfs-part", "disk.vmfs-lost"] {
        for (kind, put) in put.iter().enumerate() {
            let in_the_way = out.join(name);
            put(&victim, &in_the_way).expect(name);
            for how in [&["cp"][..], &["cp", "--resume"]] {
                let output = vmfs(&[how, &[&from, &to]].concat());
                let told = stderr(&output);
                assert_eq!(output.status.code(), Some(1), "{name} {kind}: {told}");
                assert!(told.contains("in the way"), "{name} {kind}: {told}");
                assert_eq!(fs::read(&victim).expect("victim"), b"mine");
                assert!(!folder.path().join("new").exists());
                assert!(!out.join("disk").exists());
                assert!(fs::symlink_metadata(&in_the_way).is_ok(), "{name} {kind}");
            }
            fs::remove_dir_all(&out).expect("remove");
            fs::create_dir(&out).expect("folder");
        }
    }
}

#[test]
fn a_name_of_the_volume_is_no_part_file() {
    let content = |text: &str| Content::Resident(text.into());
    let (folder, image, _fixture) = volume(|builder| {
        let root = builder.root();
        let link = builder.add_symlink(root, "disk.vmfs-part", "../victim");
        link.expect("link");
        builder.add_file(root, "disk", content("1")).expect("file");
        let file = builder.add_file(root, "a.vmfs-part", content("2"));
        file.expect("file");
        builder.add_file(root, "a", content("3")).expect("file");
    });
    let victim = folder.path().join("victim");
    fs::write(&victim, "mine").expect("victim");
    let out = folder.path().join("out");
    let (from, to) = (on(&image, "/"), out.display().to_string());
    for _ in 0..2 {
        let output = vmfs(&["cp", "-r", &from, &to]);
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("/disk: left out"), "{told}");
        assert!(told.contains("/a: left out"), "{told}");
        assert_eq!(fs::read(&victim).expect("victim"), b"mine");
        let kept = fs::read(out.join("a.vmfs-part")).expect("copied");
        assert_eq!(kept, b"2");
    }
}

#[test]
fn directories_that_were_there_keep_their_attributes() {
    let (folder, image, _fixture) = volume(|builder| {
        let root = builder.root();
        let content = || Content::Resident(b"content".to_vec());
        for name in ["new", "old", "file"] {
            let directory = builder.add_dir(root, name).expect("directory");
            builder.add_file(directory, "a", content()).expect("file");
        }
        builder
            .change_fd(root, |descriptor| descriptor.metadata().mode = 0o777.into())
            .expect("mode");
    });
    let out = folder.path().join("out");
    let attributes = |path: &Path| {
        let found = fs::metadata(path).expect("metadata");
        (found.mode() & 0o7777, found.mtime() == 0)
    };
    for resume in [false, true] {
        for (path, mode) in [(out.clone(), 0o750), (out.join("old"), 0o700)] {
            fs::create_dir(&path).expect("directory");
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("mode");
        }
        fs::write(out.join("file"), "mine").expect("file");
        fs::set_permissions(out.join("file"), Permissions::from_mode(0o640)).expect("mode");
        let (from, to) = (on(&image, "/"), out.display().to_string());
        let mut args = vec!["cp", "-r", &from, &to];
        args.extend(resume.then_some("--resume"));
        let output = vmfs(&args);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        // All files of the volume are from the first second of 1970.
        assert_eq!(attributes(&out), (0o750, false));
        assert_eq!(attributes(&out.join("new")), (0o755, true));
        // An interrupted copy has left it so, perhaps.
        let old = if resume {
            (0o755, true)
        } else {
            (0o700, false)
        };
        assert_eq!(attributes(&out.join("old")), old);
        assert_eq!(attributes(&out.join("file")), (0o640, false));
        assert_eq!(fs::read(out.join("old/a")).expect("copy"), b"content");
        fs::remove_dir_all(&out).expect("remove");
    }
}

#[test]
fn links_to_directories_lead_nowhere() {
    let (folder, image, _fixture) = volume(|builder| {
        let root = builder.root();
        let below = builder.add_dir(root, "below").expect("directory");
        let content = Content::Resident(b"content".to_vec());
        builder.add_file(below, "a", content).expect("file");
    });
    let (elsewhere, out) = (folder.path().join("elsewhere"), folder.path().join("out"));
    fs::create_dir(&elsewhere).expect("directory");
    fs::create_dir(&out).expect("directory");
    symlink(&elsewhere, out.join("below")).expect("link");
    for path in ["/", "/below"] {
        let output = vmfs(&["cp", "-r", &on(&image, path), &out.display().to_string()]);
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{path}: {told}");
        assert!(told.contains("symbolic link"), "{path}: {told}");
        assert_eq!(fs::read_dir(&elsewhere).expect("directory").count(), 0);
    }
    // The directory that the user names may be one.
    let link = folder.path().join("link");
    symlink(&elsewhere, &link).expect("link");
    stdout(&["cp", "-r", &on(&image, "/"), &link.display().to_string()]);
    assert!(elsewhere.join("below/a").exists());
}
