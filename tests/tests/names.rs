//! Names: listing from any position, finding what is listed and nothing else, paths through
//! symbolic links as Linux takes them.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use vmfs_core::format::{Family, FdAddr};
use vmfs_core::fs::{DirEntry, FileSystem, Inode};
use vmfs_fixtures::mkfs_vmfs::Options;
use vmfs_fixtures::{Content, Fixture, FixtureBuilder, Kind, colliding_names, names_in_one_slot};
use vmfs_tests::images::esxi_volume;
use vmfs_tests::random::Random;
use vmfs_tests::walk::{open, walk};

/// Up to `most` entries from position `from` on.
fn list(fs: &FileSystem, directory: &Inode, from: u64, most: usize) -> Vec<DirEntry> {
    let mut entries = Vec::new();
    let visit = |entry| {
        entries.push(entry);
        assert!(entries.len() <= most, "visited after it was told to stop");
        entries.len() < most
    };
    fs.read_dir(directory, from, visit).expect("list");
    entries
}

/// Every directory of a volume, the root first.
fn directories(fs: &FileSystem) -> Vec<(String, Arc<Inode>)> {
    let mut found = vec![("/".to_owned(), fs.root().expect("root"))];
    let errors = walk(fs, usize::MAX, &mut |path, inode| {
        if inode.is_directory() {
            found.push((path.to_owned(), Arc::clone(inode)));
        }
    });
    assert!(errors.is_empty(), "{errors:?}");
    found
}

/// A listing can be taken up behind any of its entries: behind every one in small directories,
/// behind some in large ones.
fn check_positions(fs: &FileSystem, directory: &Inode, what: &str) -> usize {
    let all = list(fs, directory, 0, usize::MAX);
    let mut names: Vec<_> = all.iter().map(|entry| &entry.name).collect();
    names.sort_unstable();
    assert!(
        names.windows(2).all(|pair| pair[0] != pair[1]),
        "{what}: a name twice"
    );
    assert!(
        all.windows(2).all(|pair| pair[0].next < pair[1].next),
        "{what}: positions don't rise"
    );
    let mut random = Random::new(all.len() as u64);
    let positions: Vec<usize> = if all.len() <= 400 {
        (0..all.len()).collect()
    } else {
        let ends = [0, 1, all.len() - 2, all.len() - 1];
        let some = (0..300).map(|_| random.below(all.len() as u64) as usize);
        some.chain(ends).collect()
    };
    for index in positions {
        let from = all[index].next;
        let rest = &all[index + 1..];
        for most in [1, 1 + random.below(700) as usize] {
            let found = list(fs, directory, from, most);
            assert_eq!(
                found,
                rest[..most.min(rest.len())],
                "{what}: from position {from}, after entry {index}"
            );
        }
    }
    for behind in [u64::MAX, u64::MAX - 1, 1 << 63, 1 << 40] {
        assert_eq!(list(fs, directory, behind, 1), [], "{what}: from {behind}");
    }
    // In portions, as readdir(3) does.
    let portion = 1 + random.below(97) as usize;
    let (mut from, mut again) = (0, Vec::new());
    loop {
        let part = list(fs, directory, from, portion);
        let Some(last) = part.last() else { break };
        from = last.next;
        again.extend(part);
    }
    assert_eq!(again, all, "{what}: in portions of {portion}");
    all.len()
}

/// Names near `name` that a careless search would take for it.
fn near(name: &[u8]) -> Vec<Vec<u8>> {
    let mut near = vec![
        [name, b"x"].concat(),
        [name, b" "].concat(),
        [name, b"\0"].concat(),
        [b"x", name].concat(),
        name[..name.len() - 1].to_vec(),
        name.to_ascii_uppercase(),
        name.to_ascii_lowercase(),
        name.iter().rev().copied().collect(),
    ];
    let mut changed = name.to_vec();
    changed[0] ^= 1;
    near.push(changed);
    let mut changed = name.to_vec();
    changed[name.len() - 1] ^= 1;
    near.push(changed);
    near
}

fn check_lookups(fs: &FileSystem, directory: &Inode, what: &str) -> usize {
    let all = list(fs, directory, 0, usize::MAX);
    let by_name: HashMap<&[u8], FdAddr> = all
        .iter()
        .map(|entry| (&entry.name[..], entry.fd))
        .collect();
    let longest = fs.layout().max_name();
    let mut absent = vec![
        Vec::new(),
        b"/".to_vec(),
        b"no/such".to_vec(),
        b"\0".to_vec(),
        b"...".to_vec(),
        vec![b'z'; longest],
    ];
    let step = 1 + all.len() / 20_000;
    for entry in all.iter().step_by(step) {
        let found = fs.lookup(directory, &entry.name);
        let found = found.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(
            found.fd(),
            entry.fd,
            "{what}: {}",
            entry.name.escape_ascii()
        );
        absent.extend(near(&entry.name));
    }
    let mut missed = 0;
    for name in absent {
        if by_name.contains_key(&name[..]) || name == b"." || name == b".." {
            continue;
        }
        let error = fs.lookup(directory, &name).expect_err(what);
        let expected = if name.len() > longest {
            Errno::NAMETOOLONG
        } else {
            Errno::NOENT
        };
        assert_eq!(error.errno(), expected, "{what}: {}", name.escape_ascii());
        missed += 1;
    }
    let this = fs.lookup(directory, b".").expect("itself");
    assert_eq!(this.fd(), directory.fd(), "{what}");
    all.len() + missed
}

fn check_volume(fs: &FileSystem, what: &str) {
    let (mut positions, mut lookups) = (0, 0);
    for (path, directory) in directories(fs) {
        let what = format!("{what}:{path}");
        positions += check_positions(fs, &directory, &what);
        lookups += check_lookups(fs, &directory, &what);
        for entry in list(fs, &directory, 0, usize::MAX) {
            // `..` leads back, but from the system data directory, which has none.
            let inode = fs.inode(entry.fd).expect("inode");
            if inode.is_directory() && entry.name != b".sdd.sf" {
                let up = fs.lookup(&inode, b"..").expect("parent");
                assert_eq!(up.fd(), directory.fd(), "{what}");
            }
        }
    }
    println!("{what}: {positions} entries, {lookups} names looked up");
}

#[test]
fn names_on_esxi_volumes_are_found_and_listed_from_anywhere() {
    for name in ["vmfs5", "vmfs6", "vmfs5-span", "vmfs6-span"] {
        if let Some(devices) = esxi_volume(name) {
            check_volume(&open(&devices), name);
        }
    }
}

#[test]
fn names_on_made_volumes_are_found_and_listed_from_anywhere() {
    for kind in [
        Kind::Vmfs3,
        Kind::Vmfs5,
        Kind::Upgraded,
        Kind::Vmfs6,
        Kind::VmfsL,
    ] {
        let fixture = kind.build().expect("fixture");
        check_volume(&open(&fixture.paths()), &format!("{kind:?}"));
    }
}

#[test]
fn names_in_directories_of_100000_are_found_and_listed_from_anywhere() {
    for kind in [Kind::HugeDir5, Kind::HugeDir6, Kind::WideMap] {
        let fixture = kind.build().expect("fixture");
        let fs = open(&fixture.paths());
        check_volume(&fs, &format!("{kind:?}"));
        let huge = fs.resolve(b"/huge", false).expect("directory");
        let names = list(&fs, &huge, 0, usize::MAX).len();
        assert!(names >= 100_000, "{kind:?}: {names} names");
    }
}

/// A name that shares all of its hash with one that is there isn't there.
#[test]
fn a_name_that_collides_with_another_is_not_the_other() {
    let (here, away) = colliding_names("c").expect("a pair");
    let crowd = names_in_one_slot("s", 60);
    let mut builder =
        FixtureBuilder::in_memory(Options::new(Family::Vmfs6, &[3 << 30])).expect("a plan");
    let directory = builder.add_dir(builder.root(), "d").expect("directory");
    let mut expected = BTreeMap::new();
    for name in crowd.iter().take(40).chain([&here]) {
        let fd = builder.add_file(directory, name, Content::Empty);
        expected.insert(name.clone(), fd.expect("file"));
    }
    let fixture = builder.finish().expect("volume");
    let fs = open(&fixture.paths());
    let directory = fs.inode(directory).expect("directory");
    for name in crowd.iter().chain([&here, &away]) {
        let found = fs.lookup(&directory, name.as_bytes());
        match expected.get(name) {
            Some(&fd) => assert_eq!(found.expect("there").fd(), fd, "{name}"),
            None => assert_eq!(found.expect_err("absent").errno(), Errno::NOENT, "{name}"),
        }
    }
}

/// A directory tree, made alike on a VMFS volume and in a folder of Linux'.
enum Made {
    Directory,
    File,
    Link(String),
}

fn tree() -> Vec<(String, Made)> {
    let mut tree: Vec<(String, Made)> = ["a", "a/b", "a/b/c", "d", "a/b/e"]
        .map(|path| (path.to_owned(), Made::Directory))
        .into();
    for path in ["file", "a/file", "a/b/c/file", "d/file"] {
        tree.push((path.to_owned(), Made::File));
    }
    let links = [
        ("up", ".."),
        ("here", "."),
        ("a/up", ".."),
        ("a/b/up", "../.."),
        ("a/b/over", "../../../../../a/b"),
        ("to-b", "a/b"),
        ("a/abs", "/d"),
        ("a/b/abs", "/a/b/../file"),
        ("a/b/slash", "c/"),
        ("a/b/c/far", "../../../d/../to-b/c"),
        ("d/file-slash", "file/"),
        ("d/file-up", "file/.."),
        ("d/odd", ".//../././/a///b/"),
        ("dangling", "nowhere"),
        ("a/dangling", "/no/where"),
        ("self", "self"),
        ("one", "a/two"),
        ("a/two", "../one"),
        ("d/through", "../to-b/up/d/file"),
        ("root", "/"),
    ];
    tree.extend(links.map(|(path, target)| (path.to_owned(), Made::Link(target.to_owned()))));
    // A chain longer than Linux follows.
    tree.push(("l0".to_owned(), Made::Link("d".to_owned())));
    for number in 1..44 {
        let target = format!("l{}", number - 1);
        tree.push((format!("l{number}"), Made::Link(target)));
    }
    tree
}

fn make_here(tree: &[(String, Made)], family: Family) -> (Fixture, HashMap<FdAddr, String>) {
    let mut builder = FixtureBuilder::in_memory(Options::new(family, &[3 << 30])).expect("a plan");
    let mut fds = HashMap::from([(String::new(), builder.root())]);
    for (path, made) in tree {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let above = fds[above];
        let fd = match made {
            Made::Directory => builder.add_dir(above, name),
            Made::File => builder.add_file(above, name, Content::Empty),
            Made::Link(target) => builder.add_symlink(above, name, target),
        };
        fds.insert(path.clone(), fd.expect("an entry"));
    }
    let paths = fds.into_iter().map(|(path, fd)| (fd, path)).collect();
    (builder.finish().expect("a volume"), paths)
}

fn make_there(tree: &[(String, Made)], root: &Path) -> HashMap<u64, String> {
    let inode = |path: &str| {
        let metadata = std::fs::symlink_metadata(root.join(path));
        metadata.expect("what was made").ino()
    };
    let mut paths = HashMap::from([(inode(""), String::new())]);
    for (path, made) in tree {
        let there = root.join(path);
        match made {
            Made::Directory => std::fs::create_dir(&there),
            Made::File => std::fs::write(&there, ""),
            Made::Link(target) => symlink(target, &there),
        }
        .expect("an entry");
        paths.insert(inode(path), path.clone());
    }
    paths
}

/// What Linux finds at `path` with `root` as its root.
fn linux(root: &OwnedFd, path: &str, follow: bool) -> Result<u64, Errno> {
    let mut flags = OFlags::PATH;
    flags.set(OFlags::NOFOLLOW, !follow);
    let found = rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
    Ok(rustix::fs::fstat(&found)?.st_ino)
}

#[test]
fn paths_lead_where_linux_takes_them() {
    let tree = tree();
    let folder = tempfile::tempdir().expect("folder");
    let there = make_there(&tree, folder.path());
    let root = rustix::fs::open(folder.path(), OFlags::PATH, Mode::empty()).expect("folder");
    let mut parts: Vec<&str> = tree
        .iter()
        .filter_map(|(path, _)| path.rsplit('/').next())
        .filter(|name| !name.starts_with('l'))
        .collect();
    parts.extend([
        "..", "..", "..", ".", "", "absent", "l0", "l38", "l39", "l40", "l43",
    ]);
    let mut random = Random::new(5);
    let paths: Vec<String> = (0..30_000)
        .map(|_| {
            let count = 1 + random.below(7);
            let names: Vec<_> = (0..count).map(|_| *random.one_of(&parts)).collect();
            format!("/{}", names.join("/"))
        })
        .collect();
    for family in [Family::Vmfs5, Family::Vmfs6] {
        let (fixture, here) = make_here(&tree, family);
        let fs = open(&fixture.paths());
        let mut tally: BTreeMap<i32, u32> = BTreeMap::new();
        for path in &paths {
            for follow in [true, false] {
                let expected = linux(&root, path, follow).map(|inode| &there[&inode]);
                let found = fs
                    .resolve(path.as_bytes(), follow)
                    .map(|inode| &here[&inode.fd()])
                    .map_err(|error| error.errno());
                assert_eq!(found, expected, "{family} {path}, follow: {follow}");
                *tally
                    .entry(expected.map_or_else(Errno::raw_os_error, |_| 0))
                    .or_default() += 1;
            }
        }
        println!("{family}: paths by error number {tally:?}");
        for errno in [
            0,
            Errno::NOENT.raw_os_error(),
            Errno::NOTDIR.raw_os_error(),
            Errno::LOOP.raw_os_error(),
        ] {
            assert!(
                tally.get(&errno).is_some_and(|&count| count > 1000),
                "{errno}: {tally:?}"
            );
        }
    }
}

/// Links that ESXi writes start at its folder of volumes.
#[test]
fn links_by_the_volume_name_stay_on_the_volume() {
    let mut options = Options::new(Family::Vmfs6, &[3 << 30]);
    "store 1".clone_into(&mut options.label);
    let mut builder = FixtureBuilder::in_memory(options).expect("a plan");
    let uuid = builder.fixture().plan().uuid().to_string();
    let root = builder.root();
    let directory = builder.add_dir(root, "d").expect("directory");
    let file = builder
        .add_file(directory, "f", Content::Empty)
        .expect("file");
    for (name, target) in [
        ("label", "/vmfs/volumes/store 1/d/f".to_owned()),
        ("uuid", format!("/vmfs/volumes/{uuid}/d/f")),
        ("volume", "/vmfs/volumes/store 1".to_owned()),
        ("other", "/vmfs/volumes/store 10/d/f".to_owned()),
        ("none", "/vmfs/volumes".to_owned()),
    ] {
        builder.add_symlink(directory, name, &target).expect("link");
    }
    let fixture = builder.finish().expect("volume");
    let fs = open(&fixture.paths());
    let resolve = |path: &str| fs.resolve(path.as_bytes(), true).map(|inode| inode.fd());
    assert_eq!(resolve("/d/label").expect("by label"), file);
    assert_eq!(resolve("/d/uuid").expect("by UUID"), file);
    assert_eq!(resolve("/d/volume").expect("the root"), FdAddr::ROOT);
    for path in ["/d/other", "/d/none"] {
        assert_eq!(resolve(path).expect_err(path).errno(), Errno::NOENT);
    }
}
