//! The system's table of mounts.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use vmfs_core::scsi;

/// A line of the table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// `major:minor`, which tells the mount from others at the same place.
    pub(crate) device: String,
    /// Where it is mounted.
    pub(crate) path: PathBuf,
    /// What is mounted, as the file system calls it.
    pub(crate) source: PathBuf,
}

/// The mounts that this process sees, a later one on top of an earlier one at the same place;
/// `None` when the system doesn't tell.
pub(crate) fn read() -> Option<Vec<Entry>> {
    let table = fs::read("/proc/self/mountinfo").ok()?;
    let lines = table.split(|&byte| byte == b'\n');
    Some(lines.filter_map(parse).collect())
}

/// What the table calls `device`: its real path, or an `iscsi://` URL without its secret.
pub(crate) fn source(device: &Path) -> PathBuf {
    let name = scsi::name_of(device).unwrap_or_default();
    name.canonicalize().unwrap_or(name)
}

fn parse(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
    let path = unescape(fields.nth(1)?);
    // Behind the options come fields of any number, a dash, the type and the source.
    let source = unescape(fields.skip_while(|&field| field != b"-").nth(2)?);
    Some(Entry {
        device,
        path,
        source,
    })
}

/// A path of the mount table, where odd characters are three octal digits behind a backslash.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let code = after
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        path.push(code.unwrap_or(byte));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_table_escapes_spaces() {
        assert_eq!(unescape(br"/mnt/a\040b\134c"), PathBuf::from(r"/mnt/a b\c"));
        assert_eq!(unescape(br"/mnt/a\9"), PathBuf::from(r"/mnt/a\9"));
    }

    #[test]
    fn a_line_has_fields_of_any_number_before_the_dash() {
        for optional in ["", "shared:7 ", "shared:7 master:1 "] {
            let line =
                format!(r"36 35 0:52 / /mnt/x rw,nosuid {optional}- fuse.vmfs /a\040b.img rw");
            let entry = Entry {
                device: "0:52".to_owned(),
                path: "/mnt/x".into(),
                source: "/a b.img".into(),
            };
            assert_eq!(parse(line.as_bytes()), Some(entry));
        }
        assert_eq!(parse(b""), None);
    }
}
