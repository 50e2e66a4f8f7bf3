//! Every file descriptor that is marked used is decoded and its block map followed.

use std::collections::HashMap;

use vmfs_core::file::{FileError, Inode};
use vmfs_core::format::{BlockAddr, FdAddr, FileKind, ResourceKind};
use vmfs_core::resource::MetaError;

use crate::usage::Marked;
use crate::{Check, Code};

/// What the directory pass needs to know of a file descriptor.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// What the file is.
    pub kind: FileKind,
    /// Whether it is a directory, as a system file may be.
    pub is_directory: bool,
    /// Its generation.
    pub generation: u32,
    /// How many names it says it has.
    pub links: u32,
}

/// The file descriptors in use.
pub type Found = HashMap<FdAddr, Seen>;

/// Looks at every file descriptor cluster.
pub fn run(check: &mut Check<'_>) -> Found {
    let mut found = Found::new();
    let store = check.fs.store();
    let file = &store.resources().file_descriptors;
    for cluster in 0..file.header().clusters() {
        // The bitmap pass reports a header that can't be read.
        let Ok((header, _)) = file.cluster(store.reader(), cluster) else {
            continue;
        };
        for resource in (0..header.total).filter(|&resource| !header.is_free(resource)) {
            let fd = FdAddr::new(cluster as u32, resource);
            match store.inode(fd) {
                Ok(inode) => {
                    check.report.descriptors += 1;
                    found.insert(fd, seen(&inode));
                    follow(check, &inode);
                }
                Err(error) => check
                    .report
                    .add(Code::DescriptorUnreadable, format!("{fd}: {error}")),
            }
        }
    }
    found
}

fn seen(inode: &Inode) -> Seen {
    Seen {
        kind: inode.kind(),
        is_directory: inode.is_directory(),
        generation: inode.meta().generation.get(),
        links: inode.meta().links.get(),
    }
}

/// Marks everything that the file's block map names.
fn follow(check: &mut Check<'_>, inode: &Inode) {
    let store = check.fs.store();
    let fd = inode.fd();
    let mut blocks = 0;
    let mut last_large = None;
    let (usage, report) = (&mut check.usage, &mut check.report);
    let result = inode.map().for_each_address(
        store.reader(),
        &store.resources().sources,
        &mut |addr, depth| -> Result<(), MetaError> {
            report.addresses += 1;
            // Blocks are counted as the map has them: a large one in each slot that it covers.
            blocks += u64::from(depth == 0);
            // A large block's address stands in every slot that it covers.
            if let BlockAddr::LargeFileBlock { block, .. } = addr
                && last_large.replace(block) == Some(block)
            {
                return Ok(());
            }
            match usage.mark(addr) {
                Marked::First => {}
                Marked::Again => {
                    report.add(Code::Duplicate, format!("{addr:?}, again in file {fd}"));
                }
                Marked::OutOfRange => {
                    report.add(Code::OutOfRange, format!("{addr:?} in file {fd}"));
                }
            }
            Ok(())
        },
    );
    if let Err(error) = result {
        let error = FileError::from(error);
        report.add(Code::BlockMapUnreadable, format!("file {fd}: {error}"));
        return;
    }
    let stored = inode.meta().blocks.get();
    if blocks != stored && inode.kind() != FileKind::Rdm {
        let detail = format!("file {fd} has {blocks} blocks, its descriptor says {stored}");
        report.add(Code::BlockCountWrong, detail);
    }
}

/// The address under which a file descriptor is itself a resource.
pub(crate) fn as_resource(fd: FdAddr) -> BlockAddr {
    BlockAddr::Resource {
        kind: ResourceKind::FileDescriptor,
        cluster: fd.cluster().into(),
        resource: fd.resource(),
        cow: false,
    }
}
