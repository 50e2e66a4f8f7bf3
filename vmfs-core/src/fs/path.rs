use std::sync::Arc;

use super::error::FsError;
use super::file_system::FileSystem;
use crate::file::{Directory, Inode};
use crate::format::FileKind;

/// Symbolic links that a path may lead through, as on Linux.
const MAX_LINKS: u32 = 40;

impl FileSystem {
    /// The file at `path`, counted from the root whether it starts with a slash or not.
    ///
    /// Symbolic links on the way are followed; one at the end only if `follow` or a slash comes
    /// behind it. What has a name, `.`, `..` or a slash behind it must be a directory. A link to
    /// `/vmfs/volumes/NAME/…`, as ESXi writes them, leads back to this volume if NAME is its label
    /// or UUID.
    pub fn resolve(&self, path: &[u8], follow: bool) -> Result<Arc<Inode>, FsError> {
        let mut links = 0;
        let mut parents = vec![self.root()?];
        let mut left = components(path);
        while let Some(name) = left.pop() {
            let Some(directory) = parents.last() else {
                break;
            };
            if name == b"." || name == b".." {
                Directory::new(self.store(), directory)?;
                if name == b".." && parents.len() > 1 {
                    parents.pop();
                }
                continue;
            }
            let inode = self.lookup(directory, &name)?;
            let is_link = inode.kind() == FileKind::Symlink && (follow || !left.is_empty());
            if !is_link {
                parents.push(inode);
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(FsError::Loop {
                    path: path.to_vec(),
                });
            }
            let target = self.read_link(&inode)?;
            if target.starts_with(b"/") {
                parents.truncate(1);
            }
            left.extend(components(self.strip_volume(&target)));
        }
        parents.pop().map_or_else(|| self.root(), Ok)
    }

    /// What is left of an absolute target inside this volume.
    fn strip_volume<'a>(&self, target: &'a [u8]) -> &'a [u8] {
        let Some(rest) = target.strip_prefix(b"/vmfs/volumes/") else {
            return target;
        };
        let end = rest
            .iter()
            .position(|&byte| byte == b'/')
            .unwrap_or(rest.len());
        let (volume, inside) = rest.split_at(end);
        let fsd = self.descriptor();
        let is_this = volume == fsd.label().as_bytes() || volume == fsd.uuid.to_string().as_bytes();
        if is_this { inside } else { target }
    }
}

/// The names in a path, last first; a slash at the end counts as `.`, which it means.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let end: &[u8] = if path.ends_with(b"/") { b"." } else { b"" };
    path.split(|&byte| byte == b'/')
        .chain([end])
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .rev()
        .collect()
}
