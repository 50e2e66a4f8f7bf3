//! Entries of a directory, each by itself.

use vmfs_core::format::{
    At, DirBlockHeader, DirEntry6, FdAddr, NameHash, name_hash, system_file_hash,
};
use zerocopy::{FromBytes, IntoBytes};

use super::{Placed, Scan, slot_offset};
use crate::code::Code;
use crate::content::Content;
use crate::finding::Finding;
use crate::passes::directories::entry::{Entry, Names, Verdict, judge};
use crate::plan::Stage;
use crate::round::Round;

/// The entry in slot `slot` of a block.
pub(super) fn in_block(raw: &[u8], slot: u32) -> Option<DirEntry6> {
    let start = (DirBlockHeader::SIZE + u64::from(slot) * DirEntry6::SIZE) as usize;
    let (entry, _) = DirEntry6::read_from_prefix(raw.get(start..)?).ok()?;
    Some(entry)
}

/// The entry at its place in the directory.
pub(super) fn at(
    round: &Round<'_, '_>,
    content: &Content,
    scan: &Scan,
    place: &Placed,
) -> Option<DirEntry6> {
    let mut entry: DirEntry6 = zerocopy::FromZeros::new_zeroed();
    let offset = slot_offset(scan.md, place.block, place.slot, DirEntry6::SIZE);
    content.read(round, offset, entry.as_mut_bytes()).ok()?;
    Some(entry)
}

/// The hash fields that an entry of this name has.
fn stored_hash(name: &[u8], in_root: bool, hash: NameHash) -> (u16, u16) {
    if in_root && system_file_hash(name).is_some() {
        (0, 0)
    } else {
        (hash.lo, hash.hi)
    }
}

/// Whether an entry says that it lies where it does and has the hash of its name.
pub(super) fn knows_itself(entry: &DirEntry6, scan: &Scan, block: u32, slot: u32) -> bool {
    let name = entry.name();
    let hash = name_hash(name, scan.in_root);
    !name.is_empty()
        && entry.offset.get() == slot_offset(scan.md, block, slot, DirEntry6::SIZE)
        && (entry.hash_lo.get(), entry.hash_hi.get()) == stored_hash(name, scan.in_root, hash)
}

/// Whether an entry that is marked free is the only name of a file that is in use.
pub(super) fn is_lost(round: &Round<'_, '_>, entry: &DirEntry6) -> bool {
    let Some(fd) = FdAddr::from_raw(entry.fd.get()) else {
        return false;
    };
    let Some(seen) = round.files.get(&fd) else {
        return false;
    };
    seen.generation == entry.generation.get()
        && seen.kind as u32 == entry.kind.get()
        && seen.names < seen.links
        && !(seen.is_directory && seen.found_in.is_some())
}

/// Judges an entry in use and does what was decided.
pub(super) fn take_in(
    round: &mut Round<'_, '_>,
    content: &mut Content,
    scan: &mut Scan,
    (block, slot, raw): (u32, u32, &DirEntry6),
    names: &mut Names,
) {
    let offset = slot_offset(scan.md, block, slot, DirEntry6::SIZE);
    let name = raw.name();
    let entry = Entry {
        name,
        kind: raw.kind.get(),
        fd: raw.fd.get(),
        generation: raw.generation.get(),
        offset,
        damage: (name.len() >= raw.name.len()).then(|| "its name doesn't end".to_owned()),
    };
    let verdict = judge(round, content, &entry, names);
    if verdict == Verdict::Remove {
        if let Some(fd) = FdAddr::from_raw(entry.fd) {
            round.remember_name(fd, name);
        }
        scan.cleared.push((block, slot));
        return;
    }
    let hash = name_hash(name, scan.in_root);
    let mut fixed = raw.clone();
    let stored = stored_hash(name, scan.in_root, hash);
    let own = (raw.offset.get(), (raw.hash_lo.get(), raw.hash_hi.get()));
    if own != (offset, stored) {
        let finding = Finding::new(
            Code::EntryDamaged,
            format!(
                "entry {:?} of directory {}",
                String::from_utf8_lossy(name),
                content.fd
            ),
            format!(
                "its own offset is {:#x} and its hash {:#x}, {:#x}, expected {offset:#x} and {:#x}, {:#x}",
                raw.offset, raw.hash_lo, raw.hash_hi, stored.0, stored.1
            ),
        )
        .at(At::File {
            fd: content.fd.raw(),
            offset,
        })
        .repair("write offset and hash of the name")
        .loses("the right name, if it is the name that was damaged");
        if round.found(finding) {
            fixed.offset = offset.into();
            fixed.hash_lo = stored.0.into();
            fixed.hash_hi = stored.1.into();
        }
    }
    if let Verdict::Fix(kind, generation) = verdict {
        fixed.kind = (kind as u32).into();
        fixed.generation = generation.into();
    }
    if fixed.as_bytes() != raw.as_bytes() {
        // It was read from there.
        let _ = content.write(round, Stage::Refer, offset, fixed.as_bytes());
    }
    scan.entries.push(Placed {
        block,
        slot,
        hash_slot: hash.slot,
        hash_hi: hash.hi,
    });
}
