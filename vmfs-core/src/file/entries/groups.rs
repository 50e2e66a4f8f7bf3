//! Link groups: the names of one hash slot once there are several.

use zerocopy::{FromZeros, IntoBytes};

use super::content::{self, DirContent, number};
use super::flat::DirHint;
use super::hashed::{Blocks, table_offset};
use crate::file::error::FileError;
use crate::format::{
    At, Damage, DirBlockKind, DirEntry6, DirLinkGroup, LINKS_PER_GROUP, Location, NameHash,
};

/// Link groups that are followed for one hash slot.
const MAX_GROUPS: u32 = 65_536;

/// A link group and where it lies.
#[derive(Clone)]
pub(super) struct Group {
    pub(super) place: (u32, u32),
    pub(super) links: DirLinkGroup,
}

impl Group {
    /// Sets how many links are in use, which are the first ones.
    fn set_used(&mut self, used: usize) {
        self.links.free = self.links.total.saturating_sub(used as u8);
        self.links.next_free = used as u8;
    }
}

impl Blocks<'_> {
    /// Links `entry`, which has the hash `hash`, to its hash slot.
    pub(super) fn link(
        &self,
        content: &mut dyn DirContent,
        hash: NameHash,
        entry: Location,
        hint: &mut DirHint,
    ) -> Result<(), FileError> {
        let table = table_offset(hash.slot);
        let first = Location::from_raw(number(content, table)?);
        if first == Location::Empty {
            return content.write(table, &entry.raw().to_le_bytes());
        }
        if let Location::Entry { block, slot } = first {
            // The second name of the slot: the first becomes a link as well.
            let other: DirEntry6 =
                content::read(content, self.slot_offset(block, slot, DirEntry6::SIZE))?;
            let links = [(first, other.hash_hi.get()), (entry, hash.hi)];
            let place = self.new_group(content, hash.slot, &links, hint)?;
            return content.write(table, &place.raw().to_le_bytes());
        }
        let groups = self.groups(content, hash.slot)?;
        for group in &groups {
            let mut group = group.clone();
            let used = usize::from(group.links.total.saturating_sub(group.links.free));
            if group.links.free > 0
                && let Some(link) = group.links.links.get_mut(used)
            {
                link.location = entry.raw().into();
                link.hash_hi = hash.hi.into();
                group.set_used(used + 1);
                return self.write_group(content, &group);
            }
        }
        let place = self.new_group(content, hash.slot, &[(entry, hash.hi)], hint)?;
        let Some(last) = groups.into_iter().next_back() else {
            return content.write(table, &place.raw().to_le_bytes());
        };
        let mut last = last;
        last.links.next = place.raw().into();
        self.write_group(content, &last)
    }

    /// Takes the link to `entry` out of a hash slot; groups that become empty go.
    pub(super) fn unlink(
        &self,
        content: &mut dyn DirContent,
        hash_slot: u32,
        entry: Location,
        hint: &mut DirHint,
    ) -> Result<(), FileError> {
        let table = table_offset(hash_slot);
        if Location::from_raw(number(content, table)?) == entry {
            return content.write(table, &[0; 4]);
        }
        let mut groups = self.groups(content, hash_slot)?;
        for index in 0..groups.len() {
            let group = &mut groups[index];
            let used = usize::from(group.links.total.saturating_sub(group.links.free));
            let used = used.min(LINKS_PER_GROUP);
            let links = &mut group.links.links;
            let found = links[..used]
                .iter()
                .position(|link| link.location.get() == entry.raw());
            let Some(found) = found else {
                continue;
            };
            // The order in which the names were made stays.
            links[found..used].rotate_left(1);
            links[used - 1] = FromZeros::new_zeroed();
            group.set_used(used - 1);
            if used > 1 {
                return self.write_group(content, &groups[index]);
            }
            let (place, next) = (groups[index].place, groups[index].links.next);
            if index == 0 {
                content.write(table, &next.get().to_le_bytes())?;
            } else {
                groups[index - 1].links.next = next;
                self.write_group(content, &groups[index - 1])?;
            }
            return self.free_slot(content, DirBlockKind::Links, place, hint);
        }
        Ok(())
    }

    /// The groups of a hash slot, in the order of their chain.
    pub(super) fn groups(
        &self,
        content: &dyn DirContent,
        hash_slot: u32,
    ) -> Result<Vec<Group>, FileError> {
        let mut groups = Vec::new();
        let mut at = Location::from_raw(number(content, table_offset(hash_slot))?);
        while let Location::Links { block, slot } = at {
            self.check_slot(content, DirBlockKind::Links, block, slot)?;
            let offset = self.slot_offset(block, slot, DirLinkGroup::SIZE);
            let links: DirLinkGroup = content::read(content, offset)?;
            if groups.len() as u32 >= MAX_GROUPS
                || u32::from(links.hash_slot.get()) != hash_slot
                || usize::from(links.total) > LINKS_PER_GROUP
            {
                let at = At::File { fd: 0, offset };
                let found = links.hash_slot.get();
                let expected = format!("a group of hash slot {hash_slot} in a chain that ends");
                return Err(Damage::new("link group", at, "hash slot", found, expected).into());
            }
            at = Location::from_raw(links.next.get());
            groups.push(Group {
                place: (block, slot),
                links,
            });
        }
        Ok(groups)
    }

    fn new_group(
        &self,
        content: &mut dyn DirContent,
        hash_slot: u32,
        links: &[(Location, u16)],
        hint: &mut DirHint,
    ) -> Result<Location, FileError> {
        let place = self.take_slot(content, DirBlockKind::Links, hint)?;
        let mut group = Group {
            place,
            links: DirLinkGroup::new_zeroed(),
        };
        group.links.hash_slot = (hash_slot as u16).into();
        group.links.total = LINKS_PER_GROUP as u8;
        for (link, &(location, hash)) in group.links.links.iter_mut().zip(links) {
            link.location = location.raw().into();
            link.hash_hi = hash.into();
        }
        group.set_used(links.len());
        self.write_group(content, &group)?;
        let (block, slot) = place;
        Ok(Location::Links { block, slot })
    }

    fn write_group(&self, content: &mut dyn DirContent, group: &Group) -> Result<(), FileError> {
        let (block, slot) = group.place;
        let offset = self.slot_offset(block, slot, DirLinkGroup::SIZE);
        content.write(offset, group.links.as_bytes())
    }
}
