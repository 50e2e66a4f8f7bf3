//! Blocks that may hold data of a file whose descriptor or map is lost: files in /lost+found.

use std::sync::Arc;

use vmfs_core::format::{BlockAddr, FdImage, FileKind, ResourceKind, ZeroLevel};

use super::large;
use crate::code::Code;
use crate::content::Content;
use crate::finding::Finding;
use crate::lost_found;
use crate::plan::Stage;
use crate::round::Round;

/// Runs through what is marked used and isn't referred to, in the order of the volume.
pub(super) fn run(round: &mut Round<'_, '_>) {
    for kind in [ResourceKind::FileBlock, ResourceKind::SubBlock] {
        loop {
            let lost = lost(round, kind);
            if lost.is_empty() || !keep(round, kind, &lost) {
                break;
            }
        }
    }
}

/// The first lost resources of a kind, as many as one file's address array holds.
fn lost(round: &Round<'_, '_>, kind: ResourceKind) -> Vec<u64> {
    let resources = Arc::clone(&round.resources);
    let Some(file) = resources.file(kind) else {
        return Vec::new();
    };
    let per_cluster = u64::from(file.header().resources_per_cluster.get());
    let nested = file.header().is_nested();
    let mut parent = large::Parent::new();
    let mut found = Vec::new();
    for cluster in 0..file.header().clusters() {
        if nested && !parent.is_converted(round, cluster) {
            continue;
        }
        let Ok((header, _)) = file.cluster(&round.reader, cluster) else {
            continue;
        };
        for resource in (0..header.total).filter(|&resource| !header.is_free(resource)) {
            let number = cluster * per_cluster + u64::from(resource);
            if number < round.usage.count(kind)
                && !round.usage.is_used(kind, number)
                && !round.usage.is_given(kind, number)
            {
                found.push(number);
                if found.len() as u64 == round.layout.fd_address_count {
                    return found;
                }
            }
        }
    }
    found
}

/// Makes a file of lost resources; whether there may be more.
fn keep(round: &mut Round<'_, '_>, kind: ResourceKind, lost: &[u64]) -> bool {
    let (Some(&first), Some(&last)) = (lost.first(), lost.last()) else {
        return false;
    };
    if let Some(account) = &mut round.check.account {
        for &number in lost {
            account.unreferenced(kind, number, &round.layout);
        }
    }
    let name = format!("#{}s-{first}-{last}", kind.to_string().replace(' ', "-"));
    let finding = Finding::new(
        Code::LostData,
        format!("{} {kind}s from {first} to {last}", lost.len()),
        "nothing refers to them, they are marked used, and descriptors or maps were lost",
    )
    .repair(format!("make the file /lost+found/{name} of them"));
    if !round.found(finding) {
        return false;
    }
    let made = make(round, kind, lost, &name);
    if let Err(error) = &made {
        tracing::warn!(error, "lost blocks stay as they are");
    }
    made.is_ok()
}

fn make(
    round: &mut Round<'_, '_>,
    kind: ResourceKind,
    lost: &[u64],
    name: &str,
) -> Result<(), String> {
    let layout = Arc::clone(&round.layout);
    let per_cluster = round.resources.file(kind).map_or(1, |file| {
        u64::from(file.header().resources_per_cluster.get().max(1))
    });
    let (level, shift) = match kind {
        ResourceKind::SubBlock => (ZeroLevel::SubBlock, layout.sub_block_shift),
        _ => (ZeroLevel::FileBlock, layout.file_block_shift),
    };
    let (fd, generation) = lost_found::make(round, FileKind::Regular, |_| {})?;
    let mut content = Content::open(round, fd)?;
    let mut image = FdImage::from_bytes(&layout, content.image.bytes().to_vec());
    for (index, &number) in lost.iter().enumerate() {
        let addr = match kind {
            ResourceKind::SubBlock => BlockAddr::Resource {
                kind,
                cluster: number / per_cluster,
                resource: (number % per_cluster) as u32,
                cow: false,
            },
            _ => BlockAddr::FileBlock {
                block: number,
                tbz: 0,
                cow: false,
            },
        };
        image.set_address(index, addr.encode(&layout));
        round.usage.mark(addr);
    }
    image.set_block_shift(shift);
    image.set_blocks(lost.len() as u64);
    let meta = image.metadata();
    meta.zero_level = level.raw().into();
    meta.length = ((lost.len() as u64) << shift).into();
    content.image = image;
    content
        .save(round, Stage::New)
        .map_err(|error| error.to_string())?;
    let seen = crate::round::Seen {
        kind: FileKind::Regular,
        is_directory: false,
        generation,
        links: 1,
        parent: 0,
        names: 0,
        subdirectories: 0,
        found_in: None,
        named_in: None,
    };
    round.files.insert(fd, seen);
    lost_found::attach(round, fd, name.as_bytes())
}
