//! What workers do with names.

use vmfs_core::format::FileKind;
use vmfs_core::fs::Rename;

use super::model::NodeId;
use super::worker::{Effect, Worker};

impl Worker<'_> {
    pub(super) fn rename(&mut self) -> Result<(), String> {
        let Some((directory, name, id)) = self.any_name(|_| true) else {
            return Ok(());
        };
        let is_directory = self.tree.node(id).is_directory();
        if self.random.below(4) == 0 {
            return self.exchange((directory, name, id));
        }
        // Often over a name that is there.
        let target = if self.random.below(2) == 0 {
            let same = |kind| (kind == FileKind::Directory) == is_directory;
            self.any_name(same).map(|(at, name, _)| (at, name))
        } else {
            None
        };
        let (to, new_name) = match target {
            Some(target) => target,
            None => self.new_name(),
        };
        let replaced = self.tree.find(to, &new_name);
        let impossible = replaced.is_some_and(|other| {
            let other_node = self.tree.node(other);
            other == id
                || other_node.is_directory() != is_directory
                || !other_node.entries.is_empty()
        });
        if impossible || is_directory && self.tree.is_below(to, id) {
            return Ok(());
        }
        let what = format!(
            "rename {} to {}",
            self.say((directory, &name)),
            self.say((to, &new_name))
        );
        let (from_fd, to_fd) = (self.tree.node(directory).fd, self.tree.node(to).fd);
        self.call(
            what,
            Effect::default(),
            |fs| fs.rename(from_fd, &name, to_fd, &new_name, Rename::Replace),
            |worker, ()| {
                worker.tree.rename((directory, &name), (to, &new_name));
                worker.forget_nameless();
            },
        )?;
        Ok(())
    }

    fn exchange(&mut self, one: (NodeId, Vec<u8>, NodeId)) -> Result<(), String> {
        let Some(other) = self.any_name(|_| true) else {
            return Ok(());
        };
        let below = |file: NodeId, directory: NodeId| {
            self.tree.node(file).is_directory() && self.tree.is_below(directory, file)
        };
        if one.2 == other.2 || below(one.2, other.0) || below(other.2, one.0) {
            return Ok(());
        }
        let what = format!(
            "exchange {} and {}",
            self.say((one.0, &one.1)),
            self.say((other.0, &other.1))
        );
        let (first, second) = (self.tree.node(one.0).fd, self.tree.node(other.0).fd);
        self.call(
            what,
            Effect::default(),
            |fs| fs.rename(first, &one.1, second, &other.1, Rename::Exchange),
            |worker, ()| worker.tree.exchange((one.0, &one.1), (other.0, &other.1)),
        )?;
        Ok(())
    }

    pub(super) fn link(&mut self) -> Result<(), String> {
        let Some((_, _, id)) = self.any_name(|kind| kind != FileKind::Directory) else {
            return Ok(());
        };
        let (directory, name) = self.new_name();
        if self.tree.find(directory, &name).is_some() {
            return Ok(());
        }
        let what = format!("link {id} as {}", self.say((directory, &name)));
        let (fd, parent) = (self.tree.node(id).fd, self.tree.node(directory).fd);
        self.call(
            what,
            Effect::default(),
            |fs| fs.link(fd, parent, &name),
            |worker, _| worker.tree.link(id, directory, &name),
        )?;
        Ok(())
    }

    /// Removes a file or an empty directory.
    pub(super) fn remove(&mut self) -> Result<(), String> {
        let Some((directory, name, id)) = self.any_name(|_| true) else {
            return Ok(());
        };
        let is_directory = self.tree.node(id).is_directory();
        if !self.tree.node(id).entries.is_empty() {
            return Ok(());
        }
        let what = format!("remove {}", self.say((directory, &name)));
        let parent = self.tree.node(directory).fd;
        self.call(
            what,
            Effect::default(),
            |fs| {
                if is_directory {
                    fs.remove_directory(parent, &name)
                } else {
                    fs.unlink(parent, &name)
                }
            },
            |worker, ()| {
                worker.tree.unlink(directory, &name);
                worker.forget_nameless();
            },
        )?;
        Ok(())
    }

    /// Opens a file, which then outlives its names.
    pub(super) fn hold(&mut self) -> Result<(), String> {
        let Some((_, _, id)) = self.any_name(|kind| kind == FileKind::Regular) else {
            return Ok(());
        };
        if !self.held.contains(&id) {
            self.fs.hold(self.tree.node(id).fd);
            self.held.push(id);
        }
        // Mostly to be unlinked.
        self.remove()
    }

    pub(super) fn release(&mut self) -> Result<(), String> {
        if self.held.is_empty() {
            return Ok(());
        }
        let index = self.random.below(self.held.len() as u64) as usize;
        let id = self.held.swap_remove(index);
        let fd = self.tree.node(id).fd;
        self.call(
            format!("release {id}"),
            Effect::default(),
            |fs| {
                fs.release(fd, 1);
                Ok(())
            },
            |worker, ()| worker.forget_nameless(),
        )?;
        Ok(())
    }
}
