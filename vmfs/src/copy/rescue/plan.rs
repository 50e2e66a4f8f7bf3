use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use vmfs_core::format::{FdAddr, FileKind};
use vmfs_core::fs::rescue::{Item, Tree};

use crate::error::Error;
use crate::target::Target;

/// A path on the volume and where the file goes.
#[derive(Debug)]
pub(super) struct Planned<'a> {
    /// The file; `None` when only its name is left.
    pub(super) found: Option<&'a Item>,
    pub(super) path: &'a [Vec<u8>],
    pub(super) fd: FdAddr,
    pub(super) kind: FileKind,
    pub(super) destination: PathBuf,
}

impl Planned<'_> {
    /// The path on the volume.
    pub(super) fn shown(&self) -> String {
        let names = self.path.iter().map(|name| String::from_utf8_lossy(name));
        names.fold(String::new(), |path, name| path + "/" + &name)
    }
}

/// What of `tree` lies at or below the path of `source`, in order, and where it goes.
pub(super) fn plan<'a>(
    tree: &'a Tree,
    source: &Target,
    destination: &Path,
    system: bool,
) -> Result<Vec<Planned<'a>>, Error> {
    let wanted: Vec<&[u8]> = source
        .path
        .as_bytes()
        .split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .collect();
    if wanted.contains(&b"..".as_slice()) {
        let message = "a path to rescue is written without ..";
        return Err(Error::Usage(message.to_owned()));
    }
    // The last name of the wanted path stays, as with cp(1).
    let cut = wanted.len().saturating_sub(1);
    let is_wanted = |path: &[Vec<u8>]| {
        path.len() >= wanted.len() && path.iter().zip(&wanted).all(|(a, b)| a == b)
    };
    let found = tree.items.iter().map(|item| {
        let kind = item.kind;
        (&item.path, item.fd, kind, Some(item))
    });
    let gone = tree
        .gone
        .iter()
        .map(|gone| (&gone.path, gone.fd, gone.kind, None));
    let planned: Vec<_> = found
        .chain(gone)
        .filter(|(path, _, kind, _)| is_wanted(path) && (system || *kind != FileKind::System))
        .filter_map(|(path, fd, kind, found)| {
            Some(Planned {
                found,
                path,
                fd,
                kind,
                destination: destination_of(destination, &path[cut..])?,
            })
        })
        .collect();
    if planned.is_empty() && !wanted.is_empty() {
        let path = &source.path;
        return Err(Error::Usage(format!(
            "{path}: no such name was found; without a path everything is rescued"
        )));
    }
    Ok(with_orphans_folder(planned, destination))
}

/// Adds names to `top`; `None` for names that could lead elsewhere.
fn destination_of(top: &Path, names: &[Vec<u8>]) -> Option<PathBuf> {
    let mut path = top.to_owned();
    for name in names {
        let name = Path::new(OsStr::from_bytes(name));
        if name.components().count() != 1 || name.file_name() != Some(name.as_os_str()) {
            return None;
        }
        path.push(name);
    }
    Some(path)
}

/// Orphans are in a folder that is on no volume.
fn with_orphans_folder<'a>(mut planned: Vec<Planned<'a>>, destination: &Path) -> Vec<Planned<'a>> {
    let folder = destination.join(OsStr::from_bytes(Tree::ORPHANS));
    let is_there = |item: &Planned<'_>| item.destination == folder;
    let has_orphans = planned
        .iter()
        .any(|item| item.found.is_some_and(|found| found.is_orphan));
    if has_orphans && !planned.iter().any(is_there) {
        // Made where the first orphan is copied.
        let _ = std::fs::create_dir_all(&folder);
    }
    planned.shrink_to_fit();
    planned
}
