use super::error::FileError;
use crate::file::DirEntry;
use crate::format::{DirEntry5, FdAddr, FileKind, Layout};
use zerocopy::{FromBytes, FromZeros, IntoBytes};
pub(crate) trait DirContent {
    fn length(&self) -> u64;
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), FileError>;
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), FileError>;
    fn set_length(&mut self, length: u64) -> Result<(), FileError>;
}
#[derive(Debug, Default)]
pub struct DirHint;
pub(crate) struct NewEntry<'a> {
    pub name: &'a [u8],
    pub kind: FileKind,
    pub fd: FdAddr,
    pub generation: u32,
}
fn get(c: &dyn DirContent, i: u64) -> Result<DirEntry5, FileError> {
    let mut b = [0; 140];
    c.read(i * 140, &mut b)?;
    Ok(DirEntry5::read_from_bytes(&b).unwrap())
}
fn put(
    c: &mut dyn DirContent,
    i: u64,
    n: &[u8],
    k: FileKind,
    f: u32,
    g: u32,
) -> Result<(), FileError> {
    let mut e = DirEntry5::new_zeroed();
    e.kind = (k as u32).into();
    e.fd = f.into();
    e.generation = g.into();
    e.name[..n.len()].copy_from_slice(n);
    c.write(i * 140, e.as_bytes())
}
fn find(c: &dyn DirContent, n: &[u8]) -> Result<Option<(u64, DirEntry5)>, FileError> {
    for i in 0..c.length() / 140 {
        let e = get(c, i)?;
        if e.fd.get() != 0 && e.name() == n {
            return Ok(Some((i, e)));
        }
    }
    Ok(None)
}
pub(crate) fn initialise(
    c: &mut dyn DirContent,
    _: &Layout,
    t: (FdAddr, u32),
    p: (FdAddr, u32),
) -> Result<(), FileError> {
    c.set_length(280)?;
    put(c, 0, b".", FileKind::Directory, t.0.raw(), t.1)?;
    put(c, 1, b"..", FileKind::Directory, p.0.raw(), p.1)
}
pub(crate) fn set_parent(
    c: &mut dyn DirContent,
    _: &Layout,
    p: (FdAddr, u32),
) -> Result<(), FileError> {
    put(c, 1, b"..", FileKind::Directory, p.0.raw(), p.1)
}
pub(crate) fn add(
    c: &mut dyn DirContent,
    _: &Layout,
    _: bool,
    e: &NewEntry<'_>,
    _: &mut DirHint,
) -> Result<(), FileError> {
    let mut i = 0;
    while i < c.length() / 140 {
        if get(c, i)?.fd.get() == 0 {
            break;
        }
        i += 1
    }
    if i == c.length() / 140 {
        c.set_length((i + 1) * 140)?
    }
    put(c, i, e.name, e.kind, e.fd.raw(), e.generation)
}
pub(crate) fn remove(
    c: &mut dyn DirContent,
    _: &Layout,
    _: bool,
    n: &[u8],
    _: &mut DirHint,
) -> Result<(), FileError> {
    if let Some((i, _)) = find(c, n)? {
        c.write(i * 140, &[0; 140])?
    }
    Ok(())
}
pub(crate) fn replace(
    c: &mut dyn DirContent,
    _: &Layout,
    _: bool,
    n: &[u8],
    new: (FdAddr, FileKind, u32),
    _: &mut DirHint,
) -> Result<(), FileError> {
    if let Some((i, _)) = find(c, n)? {
        put(c, i, n, new.1, new.0.raw(), new.2)?
    }
    Ok(())
}
pub(crate) fn lookup(
    c: &dyn DirContent,
    _: &Layout,
    _: bool,
    n: &[u8],
    _: &mut DirHint,
) -> Result<Option<DirEntry>, FileError> {
    Ok(find(c, n)?.map(|(i, e)| DirEntry {
        name: n.to_vec(),
        fd: FdAddr::from_raw(e.fd.get()).unwrap(),
        kind: FileKind::from_raw(e.kind.get()).unwrap(),
        generation: e.generation.get(),
        next: i + 1,
    }))
}
