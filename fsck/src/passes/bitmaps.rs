//! The bitmaps on disk against those that the references make: docs/fsck/bitmaps.md.

mod gather;
mod large;

use std::sync::Arc;

use vmfs_core::format::{At, ClusterHeader, ClusterImage, Family, LockKind, ResourceKind};
use vmfs_core::lvm::VolumeOffset;
use vmfs_core::resource::ResourceFile;

use super::locks;
use crate::code::Code;
use crate::finding::{Finding, ResourceCount};
use crate::plan::Stage;
use crate::round::Round;

/// State bit of a large file block: broken up into small ones.
pub(crate) const CONVERTED: u32 = 0x4;

/// Compares every cluster of every resource file.
pub(crate) fn run(round: &mut Round<'_, '_>) {
    round.check.report.resources.clear();
    if round.check.lost_map {
        gather::run(round);
    }
    let resources = Arc::clone(&round.resources);
    for file in resources.iter() {
        let mut count = ResourceCount {
            kind: file.kind(),
            compared: 0,
            used: 0,
            differing: 0,
            unconverted_clusters: 0,
        };
        let nested = file.header().is_nested();
        let mut parent = large::Parent::new();
        for cluster in 0..file.header().clusters() {
            if nested && !parent.is_converted(round, cluster) {
                count.unconverted_clusters += 1;
                continue;
            }
            compare_cluster(round, file, cluster, &mut count);
        }
        round.check.report.resources.push(count);
    }
}

fn compare_cluster(
    round: &mut Round<'_, '_>,
    file: &ResourceFile,
    cluster: u64,
    count: &mut ResourceCount,
) {
    let kind = file.kind();
    let layout = Arc::clone(&round.layout);
    let name = || format!("{kind} cluster {cluster}");
    let place = match file.cluster_place(&round.reader, cluster) {
        Ok(place) => place,
        Err(error) => {
            let finding = Finding::new(Code::ClusterUnreadable, name(), error.to_string());
            round.found(finding);
            lost_marks(round, file, cluster);
            round
                .check
                .refuse(&format!("{} can't be found ({error})", name()));
            return;
        }
    };
    let mut bytes = vec![0; layout.cluster_header_size() as usize];
    if let Err(error) = round.volume.read(place, &mut bytes) {
        let finding = Finding::new(Code::ClusterUnreadable, name(), error.to_string());
        round.found(finding.at_volume(place.0));
        lost_marks(round, file, cluster);
        return;
    }
    locks::examine(round, &mut bytes, LockKind::of_cluster(kind), place, &name);
    let shape = file.shape(cluster);
    let at = At::Volume(place.0);
    let parsed = ClusterHeader::parse(&bytes, cluster, &file.header(), &layout, at);
    let image = ClusterImage::from_bytes(&layout, shape, bytes);
    let header = match parsed {
        Ok(header) if header.total == shape.total => header,
        parsed => {
            let detail = match parsed {
                Err(error) => format!(
                    "{} is {}, expected {}",
                    error.field, error.found, error.expected
                ),
                Ok(header) => format!("resources is {}, expected {}", header.total, shape.total),
            };
            let finding = Finding::new(Code::ClusterUnreadable, name(), detail)
                .at_volume(place.0)
                .repair("write it anew, with what is referred to marked as used");
            if round.contested.contains(&file.fd()) {
                let file = file.fd();
                round.check.refuse(&format!(
                    "at {place}, where {} should be, is something else, and another file claims blocks of file {file} as well",
                    name()
                ));
            }
            lost_marks(round, file, cluster);
            if round.found(finding) {
                anew(round, file, cluster, place);
            }
            return;
        }
    };
    counts(round, &header, &image, &name, place, cluster);
    differences(round, file, (cluster, place), &header, &image, count);
}

/// Notes, where a map is tried, that the bitmap of a cluster doesn't tell what is in use.
fn lost_marks(round: &mut Round<'_, '_>, file: &ResourceFile, cluster: u64) {
    let per_cluster = u64::from(file.header().resources_per_cluster.get());
    let first = cluster.saturating_mul(per_cluster);
    if let Some(account) = &mut round.check.account {
        let numbers = first..first.saturating_add(per_cluster);
        account.lost(file.kind(), numbers, &round.layout);
    }
}

/// Free count and bits behind the end.
fn counts(
    round: &mut Round<'_, '_>,
    header: &ClusterHeader,
    image: &ClusterImage,
    name: &dyn Fn() -> String,
    place: VolumeOffset,
    cluster: u64,
) {
    let counted = header.count_free();
    let mut mend = false;
    if counted != header.free {
        let finding = Finding::new(
            Code::FreeCountWrong,
            name(),
            format!("it says {} are free, its bitmap {counted}", header.free),
        )
        .at_volume(place.0)
        .repair("count them");
        mend |= round.found(finding);
    }
    if image.has_tail() {
        let finding = Finding::new(
            Code::BitmapTailWrong,
            name(),
            "bits behind the last resource are set",
        )
        .at_volume(place.0)
        .repair("clear them");
        mend |= round.found(finding);
    }
    if mend {
        let mut image = image.clone();
        image.mend(cluster);
        save(round, place, &mut image, Stage::Mark);
    }
}

fn save(round: &mut Round<'_, '_>, place: VolumeOffset, image: &mut ClusterImage, stage: Stage) {
    let md = round.layout.md_block;
    let bytes = image.bytes()[md as usize..].to_vec();
    round.put(stage, place + md, &bytes);
}

/// Writes the header of a cluster that has lost its own.
fn anew(round: &mut Round<'_, '_>, file: &ResourceFile, cluster: u64, place: VolumeOffset) {
    let kind = file.kind();
    let layout = Arc::clone(&round.layout);
    let mut image = ClusterImage::new(&layout, file.shape(cluster), cluster, place.0);
    let first = cluster * u64::from(file.header().resources_per_cluster.get());
    for resource in 0..image.total() {
        let number = first + u64::from(resource);
        if kind == ResourceKind::LargeFileBlock
            && (round.usage.has_parts_in_use(kind, number) || large::holds_a_header(round, number))
        {
            image.set_converted(resource);
            continue;
        }
        if round.usage.is_used(kind, number) {
            image.take(resource);
        }
    }
    image.mend(cluster);
    if kind == ResourceKind::FileDescriptor {
        let own = round.files.iter();
        let own = own.filter(|(fd, _)| u64::from(fd.cluster()) == cluster && cluster > 0);
        let last = own.map(|(_, seen)| seen.generation).max().unwrap_or(0);
        image.set_last_generation(last);
    }
    save(round, place, &mut image, Stage::Mark);
}

/// Each resource's bit against the references to it.
fn differences(
    round: &mut Round<'_, '_>,
    file: &ResourceFile,
    (cluster, place): (u64, VolumeOffset),
    header: &ClusterHeader,
    before: &ClusterImage,
    count: &mut ResourceCount,
) {
    let (kind, layout) = (file.kind(), Arc::clone(&round.layout));
    let first = cluster * u64::from(file.header().resources_per_cluster.get());
    // Most clusters stay as they are.
    let mut marked: Option<ClusterImage> = None;
    let mut released = None;
    for resource in 0..header.total {
        let number = first + u64::from(resource);
        let referenced = round.usage.is_used(kind, number);
        let free = header.is_free(resource);
        count.compared += 1;
        if kind == ResourceKind::LargeFileBlock {
            let state = large::State {
                number,
                resource,
                referenced,
                free,
                converted: header.state(resource) & CONVERTED != 0,
            };
            let mut image = marked.clone().unwrap_or_else(|| before.clone());
            if large::compare(round, &state, (cluster, place), &mut image) {
                lost_marks(round, file, cluster);
                marked = Some(image);
                count.differing += 1;
                continue;
            }
            if state.converted {
                count.used += 1;
                continue;
            }
        }
        if referenced != free {
            count.used += u64::from(referenced);
            continue;
        }
        count.differing += 1;
        if let Some(account) = &mut round.check.account {
            if referenced && !round.usage.is_taken(kind, number) {
                account.contested(kind, number, &layout);
            } else if !referenced && !round.usage.is_given(kind, number) {
                account.unreferenced(kind, number, &layout);
            }
        }
        if referenced {
            if round.usage.is_taken(kind, number) {
                marked.get_or_insert_with(|| before.clone()).take(resource);
                continue;
            }
            let finding = Finding::new(
                Code::ReferencedButFree,
                format!("{kind} {resource} of cluster {cluster}"),
                "it is referred to and marked free",
            )
            .at_volume(place.0)
            .repair("mark it used");
            if round.found(finding) {
                marked.get_or_insert_with(|| before.clone()).take(resource);
            }
            continue;
        }
        if round.usage.is_given(kind, number) {
            released.get_or_insert_with(Vec::new).push(resource);
            continue;
        }
        let mut finding = Finding::new(
            Code::Unreferenced,
            format!("{kind} {resource} of cluster {cluster}"),
            "nothing refers to it and it is marked used",
        )
        .at_volume(place.0)
        .repair("mark it free");
        if round.check.lost_map || !round.broken.is_empty() {
            finding = finding
                .uncertain()
                .loses("its content, if a damaged file had it");
        }
        if round.found(finding) {
            released.get_or_insert_with(Vec::new).push(resource);
        }
    }
    if let Some(marked) = &mut marked {
        marked.mend(cluster);
        save(round, place, marked, Stage::Mark);
    }
    if let Some(released) = released {
        let mut marked = marked.unwrap_or_else(|| before.clone());
        for resource in released {
            marked.give_back(resource);
            if round.layout.family == Family::Vmfs6 {
                marked.set_owner(resource, None);
            }
        }
        marked.mend(cluster);
        save(round, place, &mut marked, Stage::Release);
    }
}
