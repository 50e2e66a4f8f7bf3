//! What a volume holds, without the zeros.

use std::collections::BTreeMap;

use vmfs_core::format::{FdAddr, FileKind};
use vmfs_core::fs::{FileSystem, Inode, Place};

use crate::common::MIB;

const PAGE: u64 = 4096;

/// What a file holds: its length, and its pages that aren't all zeros.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) length: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

/// What a volume holds: directories have no content.
pub(crate) type State = BTreeMap<String, Option<Content>>;

impl Content {
    pub(crate) fn set_length(&mut self, length: u64) {
        self.put(
            length.min(self.length),
            self.length.saturating_sub(length),
            None,
        );
        self.length = length;
    }

    /// Puts data, or zeros, into a range; the length stays.
    pub(crate) fn put(&mut self, at: u64, length: u64, data: Option<&[u8]>) {
        let mut done = 0;
        while done < length {
            let (number, inside) = ((at + done) / PAGE, (at + done) % PAGE);
            let part = (PAGE - inside).min(length - done);
            let page = self
                .pages
                .entry(number)
                .or_insert_with(|| vec![0; PAGE as usize]);
            let target = &mut page[inside as usize..(inside + part) as usize];
            match data {
                Some(data) => target.copy_from_slice(&data[done as usize..(done + part) as usize]),
                None => target.fill(0),
            }
            if page.iter().all(|&byte| byte == 0) {
                self.pages.remove(&number);
            }
            done += part;
        }
    }

    pub(crate) fn write(&mut self, at: u64, data: &[u8]) {
        self.length = self.length.max(at + data.len() as u64);
        self.put(at, data.len() as u64, Some(data));
    }

    pub(crate) fn bytes(&self, at: u64, length: u64) -> Vec<u8> {
        let byte = |at: u64| {
            self.pages
                .get(&(at / PAGE))
                .map_or(0, |page| page[(at % PAGE) as usize])
        };
        (at..at + length).map(byte).collect()
    }

    /// Every byte is that of `old` or that of `new`, and the length between theirs.
    pub(crate) fn is_between(&self, old: &Self, new: &Self, what: &str) {
        let bounds = old.length.min(new.length)..=old.length.max(new.length);
        assert!(bounds.contains(&self.length), "{what}: length");
        let pages = [&self.pages, &old.pages, &new.pages];
        for &number in pages.iter().flat_map(|pages| pages.keys()) {
            let zeros = vec![0; PAGE as usize];
            let [page, old, new] = pages.map(|pages| pages.get(&number).unwrap_or(&zeros));
            if page != old && page != new {
                let mut bytes = page.iter().zip(old.iter().zip(new));
                let fits = bytes.all(|(byte, (old, new))| byte == old || byte == new);
                assert!(fits, "{what}: page {number}");
            }
        }
    }
}

/// All names and contents.
pub(crate) fn observe(fs: &FileSystem) -> State {
    let mut state = State::new();
    let mut todo = vec![(String::new(), FdAddr::ROOT)];
    while let Some((path, fd)) = todo.pop() {
        let directory = fs.inode(fd).expect("directory");
        let mut entries = Vec::new();
        fs.read_dir(&directory, 0, |entry| {
            entries.push(entry);
            true
        })
        .expect("list");
        for entry in entries {
            let name = format!("{path}{}", String::from_utf8(entry.name).expect("UTF-8"));
            let content = match entry.kind {
                FileKind::Directory => {
                    todo.push((format!("{name}/"), entry.fd));
                    None
                }
                FileKind::Regular => {
                    let inode = fs.inode(entry.fd).expect("inode");
                    Some(read(fs, &inode))
                }
                _ => continue,
            };
            state.insert(name, content);
        }
    }
    state
}

fn read(fs: &FileSystem, inode: &Inode) -> Content {
    let mut content = Content {
        length: inode.length(),
        ..Content::default()
    };
    let mut at = 0;
    while at < inode.length() {
        let run = fs.run_at(inode, at, at + MIB).expect("run");
        let end = run.end().min(at + MIB);
        if run.place != Place::Hole {
            let mut bytes = vec![0; (end - at) as usize];
            assert_eq!(fs.read(inode, at, &mut bytes).expect("read"), bytes.len());
            content.put(at, end - at, Some(&bytes));
        }
        at = end;
    }
    content
}
