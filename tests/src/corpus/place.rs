mod find;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use vmfs_core::fs::FileSystem;
use vmfs_core::lvm::open_paths;
use vmfs_core::scsi::Access;

use super::base::Base;
use super::recipe::Damage;

/// A structure on a device: which, where, and the names of its fields.
struct Found {
    device: usize,
    at: u64,
    fields: Vec<(&'static str, u64, u64)>,
    /// Bytes of an element, where fields are numbered.
    element: u64,
}

/// A base that is looked at to find structures.
pub struct Places<'a> {
    base: &'a Base,
    fs: FileSystem,
}

impl<'a> Places<'a> {
    /// Opens the undamaged base.
    ///
    /// # Errors
    /// It can't be opened.
    pub fn new(base: &'a Base) -> Result<Self> {
        let volume = open_paths(&base.devices, Access::ReadOnly)?;
        let fs = FileSystem::open(volume)?;
        Ok(Self { base, fs })
    }

    /// The changes that `damage` makes: device, offset on it, new bytes. Values that are computed are
    /// computed from the files of `devices`, a copy of the base that may be damaged already.
    ///
    /// # Errors
    /// There is no such structure or field.
    pub fn change(&self, damage: &Damage, devices: &[PathBuf]) -> Result<(usize, u64, Vec<u8>)> {
        let found = self.find(&damage.structure)?;
        let (at, size) = found.field(damage.field.as_deref())?;
        let at = at + damage.at;
        let read = |device: usize, at: u64, length: u64| -> Result<Vec<u8>> {
            let mut bytes = vec![0; length as usize];
            File::open(&devices[device])?.read_exact_at(&mut bytes, at)?;
            Ok(bytes)
        };
        let number = |change: &dyn Fn(u64) -> u64| -> Result<Vec<u8>> {
            ensure!(
                (1..=8).contains(&size),
                "a number needs a field of at most 8 bytes"
            );
            let old = read(found.device, at, size)?;
            let old = old
                .iter()
                .rev()
                .fold(0, |value, &byte| value << 8 | u64::from(byte));
            Ok(change(old).to_le_bytes()[..size as usize].to_vec())
        };
        let bytes = if let Some(value) = damage.set {
            number(&|_| value)?
        } else if let Some(more) = damage.add {
            number(&|old| old.wrapping_add_signed(more))?
        } else if let Some(bits) = damage.flip {
            number(&|old| old ^ bits)?
        } else if let Some(text) = &damage.text {
            text.clone().into_bytes()
        } else if let Some(hex) = &damage.bytes {
            hex.split_whitespace()
                .map(|byte| Ok(u8::from_str_radix(byte, 16)?))
                .collect::<Result<_>>()?
        } else if let Some(length) = damage.zeros {
            vec![0; length as usize]
        } else if let Some(length) = damage.ones {
            vec![0xff; length as usize]
        } else if let Some(from) = &damage.copy {
            let other = self.find(from)?;
            let field = damage.from.as_deref().or(damage.field.as_deref());
            let (from, size) = other.field(field)?;
            read(other.device, from, damage.length.unwrap_or(size))?
        } else {
            bail!("{damage:?} says nothing of what to change");
        };
        Ok((found.device, at, bytes))
    }
}

impl Found {
    /// Offset on the device, and size.
    fn field(&self, name: Option<&str>) -> Result<(u64, u64)> {
        match name {
            None if self.fields.len() == 1 => Ok((self.at, self.fields[0].2)),
            None => Ok((self.at, self.element)),
            Some(name) => {
                let field = self.fields.iter().find(|(own, ..)| *own == name);
                let (_, offset, size) = field.with_context(|| {
                    let names: Vec<_> = self.fields.iter().map(|(name, ..)| *name).collect();
                    format!("no field {name}; there are {}", names.join(", "))
                })?;
                Ok((self.at + offset, *size))
            }
        }
    }
}
