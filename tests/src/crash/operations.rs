//! What workers do.

use std::ops::Range;
use std::sync::Arc;

use vmfs_core::format::FileKind;
use vmfs_core::fs::{Allocate, Changes, Creator};

use super::content::{Content, Source};
use super::model::{NodeId, Syncs, Tree};
use super::worker::{Effect, Worker};

/// Who makes all files.
pub(super) const CREATOR: Creator = Creator {
    mode: 0o640,
    uid: 7,
    gid: 8,
};
/// Bytes of a write that come whole or not at all.
const WHOLE: u64 = 8 << 20;

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

impl Worker<'_> {
    /// Does one thing, chosen by the seed; more names than `crowd` become fewer.
    pub fn act(&mut self, crowd: usize) -> Result<(), String> {
        let names = self.tree.names().len();
        if names > crowd {
            return self.remove();
        }
        match self.random.below(100) {
            _ if names < 3 => self.create(),
            0..=11 => self.create(),
            12..=37 => self.write(),
            38..=46 => self.truncate(),
            47..=54 => self.allocate(),
            55..=58 => self.make_directory(),
            59..=66 => self.rename(),
            67..=70 => self.link(),
            71..=77 => self.remove(),
            78..=80 => self.hold(),
            81..=82 => self.release(),
            83..=84 => self.make_symlink(),
            85..=87 => self.attributes(),
            88..=91 => self.copy(),
            92..=96 => self.sync_file(),
            _ => self.sync(),
        }
    }

    fn size(&mut self) -> u64 {
        let most = [100, 1024, 3584, 8192, 65536, 300_000, MIB, 3 * MIB];
        let most = *self.random.one_of(&most);
        if self.random.below(5) == 0 {
            most
        } else {
            self.random.below(most)
        }
    }

    fn any_directory(&mut self) -> NodeId {
        let all = self.tree.directories();
        let all: Vec<_> = all
            .into_iter()
            .filter(|&id| self.tree.node(id).links > 0)
            .collect();
        *self.random.one_of(&all)
    }

    pub(super) fn any_name(
        &mut self,
        wanted: impl Fn(FileKind) -> bool,
    ) -> Option<(NodeId, Vec<u8>, NodeId)> {
        let mut all = self.tree.names();
        all.retain(|(_, _, id)| wanted(self.tree.node(*id).kind));
        (!all.is_empty()).then(|| self.random.one_of(&all).clone())
    }

    /// A regular file, perhaps one that is open and has no name.
    fn any_file(&mut self) -> Option<NodeId> {
        let files = self.tree.iter();
        let files: Vec<NodeId> = files
            .filter(|(_, node)| node.kind == FileKind::Regular)
            .map(|(id, _)| id)
            .collect();
        (!files.is_empty()).then(|| *self.random.one_of(&files))
    }

    /// A place for a name: mostly one that nobody has.
    pub(super) fn new_name(&mut self) -> (NodeId, Vec<u8>) {
        let directory = self.any_directory();
        let mut name = if directory == Tree::ROOT {
            self.prefix.clone().into_bytes()
        } else {
            Vec::new()
        };
        name.extend(format!("n{}", self.random.below(60)).bytes());
        let max = self.fs.layout().max_name();
        match self.random.below(12) {
            0 => name.resize(max, b'x'),
            1 => {
                let length = name.len() + self.random.below((max - name.len()) as u64) as usize;
                name.resize_with(length, || b'a' + self.random.below(26) as u8);
            }
            _ => {}
        }
        (directory, name)
    }

    fn free_name(&mut self) -> Option<(NodeId, Vec<u8>)> {
        let (directory, name) = self.new_name();
        let is_free = self.tree.find(directory, &name).is_none();
        is_free.then_some((directory, name))
    }

    pub(super) fn say(&self, (directory, name): (NodeId, &[u8])) -> String {
        let short = &name[..name.len().min(12)];
        format!("{directory}/{}", short.escape_ascii())
    }

    fn create(&mut self) -> Result<(), String> {
        let Some((directory, name)) = self.free_name() else {
            return Ok(());
        };
        let parent = self.tree.node(directory).fd;
        let what = format!("create {}", self.say((directory, &name)));
        self.call(
            what,
            Effect::default(),
            |fs| fs.create(parent, &name, CREATOR),
            |worker, made| {
                let place = (directory, name.as_slice());
                worker.add(FileKind::Regular, made.fd(), CREATOR.mode, place);
            },
        )?;
        Ok(())
    }

    fn make_directory(&mut self) -> Result<(), String> {
        let Some((directory, name)) = self.free_name() else {
            return Ok(());
        };
        let parent = self.tree.node(directory).fd;
        let what = format!("mkdir {}", self.say((directory, &name)));
        self.call(
            what,
            Effect::default(),
            |fs| fs.make_directory(parent, &name, CREATOR),
            |worker, made| {
                let place = (directory, name.as_slice());
                worker.add(FileKind::Directory, made.fd(), CREATOR.mode, place);
            },
        )?;
        Ok(())
    }

    fn make_symlink(&mut self) -> Result<(), String> {
        let Some((directory, name)) = self.free_name() else {
            return Ok(());
        };
        let parent = self.tree.node(directory).fd;
        let length = [5, 60, 1100, 4000][self.random.below(4) as usize];
        let seed = self.stage.seed();
        let target: Vec<u8> = format!("{seed}/").bytes().cycle().take(length).collect();
        let what = format!("symlink {} of {length}", self.say((directory, &name)));
        self.call(
            what,
            Effect::default(),
            |fs| fs.make_symlink(parent, &name, &target, CREATOR),
            |worker, made| {
                let place = (directory, name.as_slice());
                let id = worker.add(FileKind::Symlink, made.fd(), CREATOR.mode, place);
                worker.tree.node_mut(id).target.clone_from(&target);
            },
        )?;
        Ok(())
    }

    fn write(&mut self) -> Result<(), String> {
        let Some(id) = self.any_file() else {
            return Ok(());
        };
        let old = self.tree.node(id).content.length();
        let kind = self.random.below(40);
        let length = self.size().max(1);
        let (offset, length) = match kind {
            0 => (400 * MIB + self.random.below(MIB), length.min(8192)),
            1 => (3 * TIB + self.random.below(MIB), length.min(8192)),
            2 => (self.random.below(MIB), 9 * MIB + length),
            3..=15 => (old, length.min(100_000)),
            16..=28 if old > 0 => (self.random.below(old), length.min(70_000)),
            _ => (self.size(), length),
        };
        self.write_to(id, offset..offset + length)
    }

    /// Writes to a file, as many steps as it may come down to.
    fn write_to(&mut self, id: NodeId, range: Range<u64>) -> Result<(), String> {
        let source = Source::new(self.stage.seed());
        let node = self.tree.node(id);
        let (fd, old) = (node.fd, node.content.length());
        let mut data = vec![0; (range.end - range.start) as usize];
        source.fill(range.start, &mut data);
        let what = format!("write {id} at {:#x}, {:#x}", range.start, data.len());
        let starts = (range.start..range.end).step_by(WHOLE as usize);
        let pieces: Vec<_> = starts
            .map(|start| start..range.end.min(start + WHOLE))
            .collect();
        let started = self.stage.moment();
        let written = self.fs.write(fd, range.start, &data);
        let ended = self.stage.moment();
        let done = match written {
            Ok(()) => true,
            Err(error) if error.errno() == rustix::io::Errno::NOSPC => false,
            Err(error) => return Err(format!("{what}: {error}")),
        };
        for piece in &pieces {
            let touched = old.min(piece.start)..piece.end;
            let mut effect = Effect::touches(id, touched);
            if done {
                self.tree.content_mut(id).write(piece.clone(), source);
            } else if pieces.len() > 1 {
                effect.loose = Some(id);
            }
            let space = if done { "" } else { ": no space" };
            self.note(format!("{what}{space}"), effect, started, ended, done);
        }
        if !done && pieces.len() > 1 {
            self.set_length(id, 0)?;
        }
        Ok(())
    }

    fn truncate(&mut self) -> Result<(), String> {
        let Some(id) = self.any_file() else {
            return Ok(());
        };
        let old = self.tree.node(id).content.length();
        let size = self.size();
        let length = match self.random.below(10) {
            0 | 1 => 0,
            2..=5 => self.random.below(old.max(1)),
            6 => self.random.below(old.max(1)).next_multiple_of(MIB).min(old),
            7 => old + size,
            _ => size,
        };
        self.set_length(id, length)
    }

    fn set_length(&mut self, id: NodeId, length: u64) -> Result<(), String> {
        let node = self.tree.node(id);
        let (fd, old) = (node.fd, node.content.length());
        let changes = Changes {
            size: Some(length),
            ..Changes::default()
        };
        let effect = Effect::touches(id, old..length.max(old));
        self.call(
            format!("truncate {id} from {old:#x} to {length:#x}"),
            effect,
            |fs| fs.set_attributes(fd, &changes),
            |worker, _| worker.tree.content_mut(id).set_length(length),
        )?;
        Ok(())
    }

    fn allocate(&mut self) -> Result<(), String> {
        let Some(id) = self.any_file() else {
            return Ok(());
        };
        let node = self.tree.node(id);
        let (fd, old) = (node.fd, node.content.length());
        let mut range = self.size()..0;
        range.end = range.start + self.size().max(1);
        if self.random.below(3) == 0 {
            range = range.start / MIB * MIB..range.end.next_multiple_of(MIB);
        }
        let all = [Allocate::Reserve, Allocate::Zero, Allocate::PunchHole];
        let how = *self.random.one_of(&all);
        let keep_size = self.random.below(2) == 0;
        let grows = how != Allocate::PunchHole && !keep_size && range.end > old;
        let what = format!("allocate {id} {how:?} {range:x?}, keep size {keep_size}");
        let started = self.stage.moment();
        let length = range.end - range.start;
        let result = self.fs.allocate(fd, range.start, length, how, keep_size);
        let ended = self.stage.moment();
        let done = match result {
            Ok(()) => true,
            Err(error) if error.errno() == rustix::io::Errno::NOSPC => false,
            Err(error) => return Err(format!("{what}: {error}")),
        };
        if how != Allocate::Reserve {
            let mut effect = Effect::touches(id, range.clone());
            if done {
                self.tree.content_mut(id).zero(range.clone());
            } else {
                effect.loose = Some(id);
            }
            self.note(what.clone(), effect, started, ended, done);
        }
        if grows && done {
            self.tree.content_mut(id).set_length(range.end);
        }
        let effect = Effect::touches(id, old..range.end.max(old));
        self.note(what, effect, started, ended, true);
        if !done && how != Allocate::Reserve {
            // It may be zeros already, or not.
            self.set_length(id, 0)?;
        }
        Ok(())
    }

    fn copy(&mut self) -> Result<(), String> {
        let (Some(from), Some(to)) = (self.any_file(), self.any_file()) else {
            return Ok(());
        };
        let source = Arc::clone(&self.tree.node(from).content);
        let start = self.random.below(source.length().max(1));
        let length = self.size().clamp(1, 400_000);
        let range = start..(start + length).min(source.length());
        let target = self.size();
        let copied = range.end.saturating_sub(range.start);
        if copied == 0 || from == to && target < range.end && range.start < target + copied {
            return Ok(());
        }
        let (from_fd, to_fd) = (self.tree.node(from).fd, self.tree.node(to).fd);
        let old = self.tree.node(to).content.length();
        let mut effect = Effect::touches(to, old.min(target)..target + copied);
        effect.loose = Some(to);
        let mut counted = Ok(());
        let done = self.call(
            format!("copy {from} {range:x?} to {to} at {target:#x}"),
            effect,
            |fs| fs.copy_range(from_fd, range.start, to_fd, target, length),
            |worker, bytes| {
                if bytes != copied {
                    counted = Err(format!("copied {bytes} bytes instead of {copied}"));
                }
                let content: &mut Content = worker.tree.content_mut(to);
                content.copy(&source, range.clone(), target);
            },
        )?;
        counted?;
        if !done {
            self.set_length(to, 0)?;
        }
        Ok(())
    }

    fn attributes(&mut self) -> Result<(), String> {
        let Some((_, _, id)) = self.any_name(|_| true) else {
            return Ok(());
        };
        let node = self.tree.node(id);
        let fd = node.fd;
        let mode = self.random.below(0o1000) as u32;
        let (uid, gid) = (self.random.below(9) as u32, self.random.below(9) as u32);
        let changes = Changes {
            mode: Some(mode),
            uid: Some(uid),
            gid: Some(gid),
            ..Changes::default()
        };
        self.call(
            format!("attributes of {id}: {mode:o}, {uid}, {gid}"),
            Effect::default(),
            |fs| fs.set_attributes(fd, &changes),
            |worker, _| {
                let node = worker.tree.node_mut(id);
                (node.mode, node.uid, node.gid) = (mode, uid, gid);
            },
        )?;
        Ok(())
    }

    fn sync_file(&mut self) -> Result<(), String> {
        let Some(id) = self.any_file() else {
            return Ok(());
        };
        let fd = self.tree.node(id).fd;
        self.call(
            format!("sync file {id}"),
            syncing(Syncs::File(id)),
            |fs| fs.sync_file(fd),
            |_, ()| {},
        )?;
        Ok(())
    }

    pub(super) fn sync(&mut self) -> Result<(), String> {
        let effect = syncing(Syncs::All);
        self.call("sync".to_owned(), effect, |fs| fs.sync(), |_, ()| {})?;
        Ok(())
    }
}

pub(super) fn syncing(syncs: Syncs) -> Effect {
    Effect {
        syncs: Some(syncs),
        ..Effect::default()
    }
}
