use std::collections::BTreeMap;
use std::sync::Arc;

use vmfs_core::format::{FdAddr, FileKind};
use vmfs_core::fs::{FileSystem, Inode, Place};

use super::image::STALE;
use super::model::{Durable, Log, Node, NodeId, Others, Tree};

/// Bytes compared at a time.
const CHUNK: u64 = 256 << 10;

/// A file as it was found.
#[derive(Debug)]
struct FoundFile {
    inode: Arc<Inode>,
    target: Vec<u8>,
    entries: BTreeMap<Vec<u8>, FdAddr>,
    parent: Option<FdAddr>,
}

/// Everything that was found on a volume; system files are left out.
#[derive(Debug)]
pub struct Found {
    files: BTreeMap<FdAddr, FoundFile>,
}

/// Says what is wrong, and where.
type Difference = String;

impl Found {
    /// Reads all names and attributes.
    pub fn read(fs: &FileSystem) -> Result<Self, Difference> {
        let failed = |fd: FdAddr| move |error| format!("can't read {fd:?}: {error}");
        let mut files = BTreeMap::new();
        let mut left = vec![FdAddr::ROOT];
        while let Some(fd) = left.pop() {
            let inode = fs.inode(fd).map_err(failed(fd))?;
            let mut file = FoundFile {
                inode: Arc::clone(&inode),
                target: Vec::new(),
                entries: BTreeMap::new(),
                parent: None,
            };
            if inode.is_directory() {
                file.parent = Some(fs.parent(&inode).map_err(failed(fd))?);
                let mut twice = None;
                fs.read_dir(&inode, 0, |entry| {
                    if entry.kind != FileKind::System
                        && file.entries.insert(entry.name.clone(), entry.fd).is_some()
                    {
                        twice = Some(entry.name);
                    }
                    true
                })
                .map_err(failed(fd))?;
                if let Some(name) = twice {
                    return Err(format!("{} is there twice in {fd:?}", text(&name)));
                }
                for (name, &below) in &file.entries {
                    let found = fs.lookup(&inode, name).map_err(failed(below))?;
                    if found.fd() != below {
                        return Err(format!(
                            "{} is {below:?} by listing and {:?} by lookup",
                            text(name),
                            found.fd()
                        ));
                    }
                    if !files.contains_key(&below) {
                        left.push(below);
                    }
                }
            } else if inode.kind() == FileKind::Symlink {
                file.target = fs.read_link(&inode).map_err(failed(fd))?;
            }
            files.insert(fd, file);
        }
        Ok(Self { files })
    }

    /// Compares all names and attributes with `tree`, of the root's names those with `prefix`. The
    /// lengths of files in `loose` don't count.
    fn has(&self, tree: &Tree, prefix: &str, loose: &[NodeId]) -> Result<(), Difference> {
        let mut left = vec![(Tree::ROOT, FdAddr::ROOT, String::new())];
        while let Some((id, parent, path)) = left.pop() {
            let node = tree.node(id);
            let Some(file) = self.files.get(&node.fd) else {
                return Err(format!("{path}: {:?} isn't there", node.fd));
            };
            if id != Tree::ROOT {
                let length = loose
                    .contains(&id)
                    .then(|| file.inode.length())
                    .or((node.kind == FileKind::Regular).then(|| node.content.length()));
                same(&path, node, length, file)?;
            }
            if !node.is_directory() {
                continue;
            }
            if file.parent != Some(parent) {
                return Err(format!("{path}: its parent is {:?}", file.parent));
            }
            let own = |name: &[u8]| id != Tree::ROOT || name.starts_with(prefix.as_bytes());
            if let Some((name, fd)) = file
                .entries
                .iter()
                .find(|(name, _)| own(name) && !node.entries.contains_key(*name))
            {
                return Err(format!("{path}/{}: {fd:?} is there", text(name)));
            }
            for (name, &below) in &node.entries {
                let path = format!("{path}/{}", text(name));
                let expected = tree.node(below).fd;
                match file.entries.get(name) {
                    None => return Err(format!("{path}: missing, was {expected:?}")),
                    Some(&fd) if fd != expected => {
                        return Err(format!("{path}: {fd:?} instead of {expected:?}"));
                    }
                    Some(_) => left.push((below, node.fd, path)),
                }
            }
        }
        Ok(())
    }

    /// Whether another look at the volume found the same names and attributes.
    pub fn same_as(&self, other: &Self) -> Result<(), Difference> {
        if self.files.len() != other.files.len() {
            return Err(format!(
                "{} files, then {}",
                self.files.len(),
                other.files.len()
            ));
        }
        for (fd, file) in &self.files {
            let again = other.files.get(fd);
            let same = again.is_some_and(|again| {
                let fields = |file: &FoundFile| {
                    let meta = file.inode.meta();
                    let numbers = (meta.links.get(), meta.mode.get(), meta.generation.get());
                    (file.inode.kind(), file.inode.length(), numbers)
                };
                fields(file) == fields(again)
                    && file.target == again.target
                    && file.entries == again.entries
            });
            if !same {
                return Err(format!("{fd:?}: {file:?}, then {again:?}"));
            }
        }
        Ok(())
    }
}

fn text(name: &[u8]) -> String {
    let short = &name[..name.len().min(24)];
    let more = if name.len() > 24 { "…" } else { "" };
    format!("{}{more}", short.escape_ascii())
}

fn same(path: &str, node: &Node, length: Option<u64>, file: &FoundFile) -> Result<(), Difference> {
    let meta = file.inode.meta();
    let found = (
        file.inode.kind(),
        meta.mode.get() & 0o7777,
        (meta.uid.get(), meta.gid.get()),
        meta.links.get(),
        length.map(|_| file.inode.length()),
        file.target.as_slice(),
    );
    let expected = (
        node.kind,
        node.mode,
        (node.uid, node.gid),
        node.links,
        length,
        node.target.as_slice(),
    );
    if found == expected {
        return Ok(());
    }
    Err(format!(
        "{path}: kind, mode, owner, links, length, target are {found:?} instead of {expected:?}"
    ))
}

/// Compares everything with `tree`, which allows nothing else.
pub fn exact(fs: &FileSystem, found: &Found, tree: &Tree, prefix: &str) -> Result<(), Difference> {
    found.has(tree, prefix, &[])?;
    for (id, node) in tree.iter().filter(|(_, node)| node.links > 0) {
        content_is(fs, node).map_err(|difference| format!("file {id}: {difference}"))?;
    }
    Ok(())
}

/// Compares a file's content with what it should be.
pub fn content_is(fs: &FileSystem, node: &Node) -> Result<(), Difference> {
    content(fs, node, &Others::default())
}

/// Finds the state that a cut left, one of those that may be left: names, sizes and attributes are
/// those of one state, and no byte is one that couldn't be there.
pub fn find_state(
    fs: &FileSystem,
    found: &Found,
    log: &Log,
    durable: &Durable<'_>,
    newest: usize,
    prefix: &str,
) -> Result<usize, Difference> {
    let mut closest: Option<(bool, Difference)> = None;
    for state in (durable.names..=newest).rev() {
        let next = log.step(state + 1).filter(|_| state < newest);
        let last = log.step(state).filter(|step| !step.done);
        let loose: Vec<NodeId> = [next, last]
            .into_iter()
            .flatten()
            .filter_map(|step| step.loose)
            .collect();
        let tree = log.state(state);
        let names = found.has(tree, prefix, &loose);
        let is_named = names.is_ok();
        let result = names.and_then(|()| {
            for (id, node) in tree.iter().filter(|(_, node)| node.links > 0) {
                let others = if loose.contains(&id) {
                    Others::anything()
                } else {
                    durable.others(id, state, newest)
                };
                content(fs, node, &others)
                    .map_err(|difference| format!("{:?}, file {id}: {difference}", node.fd))?;
            }
            Ok(())
        });
        let Err(difference) = result else {
            return Ok(state);
        };
        let what = log.step(state).map_or("the start", |step| &step.what);
        let difference = format!("not the state after step {state} ({what}): {difference}");
        // A state whose names fit says more than the others.
        if closest.as_ref().is_none_or(|(named, _)| is_named && !named) {
            closest = Some((is_named, difference));
        }
    }
    let (_, difference) = closest.unwrap_or((false, "no state is possible".to_owned()));
    let steps = (durable.names..=newest).filter_map(|state| {
        let step = log.step(state)?;
        Some(format!("\n  {state}: {}", step.what))
    });
    let steps: String = steps.collect();
    Err(format!(
        "none of the states {} to {newest}; {difference}; the steps since then:{steps}",
        durable.names
    ))
}

/// Compares a file's content with that of `node` and what `others` allow. Bytes that nobody wrote
/// since the volume was made are never allowed.
fn content(fs: &FileSystem, node: &Node, others: &Others) -> Result<(), Difference> {
    if node.kind != FileKind::Regular {
        return Ok(());
    }
    let failed = |error| format!("can't read: {error}");
    let inode = fs.inode(node.fd).map_err(failed)?;
    let (mut buffer, mut expected) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < inode.length() {
        let run = fs.run_at(&inode, at, inode.length()).map_err(failed)?;
        let end = (at + run.length).min(inode.length());
        if !matches!(run.place, Place::Data(_)) {
            while let Some(written) = node.content.first_written(&(at..end)) {
                // The rest of the range says nothing that its start doesn't.
                let length = (written.end - written.start).min(CHUNK) as usize;
                expected.resize(length, 0);
                node.content.expected(written.start, &mut expected);
                let zeros = vec![0; length];
                if let Some(at) = others.first_wrong(written.start, &zeros, &expected) {
                    let offset = written.start + at as u64;
                    return Err(format!("a hole at {offset:#x}, inside {written:x?}"));
                }
                at = written.end;
            }
            at = end;
            continue;
        }
        while at < end {
            let length = (end - at).min(CHUNK) as usize;
            buffer.resize(length, 0);
            expected.resize(length, 0);
            let read = fs.read(&inode, at, &mut buffer).map_err(failed)?;
            if read != length {
                return Err(format!("{read} bytes of {length} at {at:#x}"));
            }
            node.content.expected(at, &mut expected);
            if buffer != expected {
                differing(at, &buffer, &expected, others)?;
            }
            at += length as u64;
        }
    }
    Ok(())
}

fn differing(start: u64, found: &[u8], expected: &[u8], others: &Others) -> Result<(), Difference> {
    let mut words = found.windows(STALE.len());
    if let Some(at) = words.position(|word| word == STALE) {
        let offset = start + at as u64;
        return Err(format!("bytes of a former owner at {offset:#x}"));
    }
    let Some(index) = others.first_wrong(start, found, expected) else {
        return Ok(());
    };
    let around = |bytes: &[u8]| bytes[index..bytes.len().min(index + 16)].to_vec();
    Err(format!(
        "at {:#x} {:02x?} instead of {:02x?}",
        start + index as u64,
        around(found),
        around(expected)
    ))
}
