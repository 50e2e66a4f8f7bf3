//! How numbers, times and names are written.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::error::Error;

/// A size as people write it: `1.5 GiB`.
pub(crate) fn human(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// A time in UTC: `2025-06-30 11:04:12`.
pub(crate) fn timestamp(seconds: u64) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| time.format(&format).ok())
        .unwrap_or_else(|| seconds.to_string())
}

/// A mode as ls(1) writes it: `-rw-r--r--`.
pub(crate) fn mode_text(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        _ => '-',
    };
    let special = |bit: u32, plain: char, set: (char, char)| {
        if mode & bit == 0 {
            plain
        } else if plain == 'x' {
            set.0
        } else {
            set.1
        }
    };
    let mut text = String::from(kind);
    for (shift, bit, set) in [
        (6, 0o4000, ('s', 'S')),
        (3, 0o2000, ('s', 'S')),
        (0, 0o1000, ('t', 'T')),
    ] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(special(bit, if bits & 1 != 0 { 'x' } else { '-' }, set));
    }
    text
}

/// A name for the screen: control characters could do anything to a terminal.
pub(crate) fn shown(name: &[u8], out_is_terminal: bool) -> String {
    let text = String::from_utf8_lossy(name);
    if out_is_terminal && text.chars().any(char::is_control) {
        return format!("'{}'", text.escape_debug());
    }
    text.into_owned()
}

/// Whether standard output is a terminal.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Prints one JSON document.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_read_as_in_ls() {
        assert_eq!(mode_text(0o040_755), "drwxr-xr-x");
        assert_eq!(mode_text(0o101_755), "-rwxr-xr-t");
        assert_eq!(mode_text(0o106_640), "-rwSr-S---");
        assert_eq!(mode_text(0o120_777), "lrwxrwxrwx");
    }

    #[test]
    fn times_are_in_utc() {
        assert_eq!(timestamp(1_751_281_452), "2025-06-30 11:04:12");
        assert_eq!(timestamp(u64::MAX), u64::MAX.to_string());
    }

    #[test]
    fn a_terminal_gets_no_control_characters() {
        assert_eq!(shown(b"a\x1b[2Jb", true), r"'a\u{1b}[2Jb'");
        assert_eq!(shown(b"a\nb", false), "a\nb");
    }
}
