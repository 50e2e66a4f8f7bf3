//! Values of mount options.

use std::time::Duration;

use vmfs_core::cluster::LockMethod;

use super::OptionError;

/// Threads that `threads=` may ask for.
const MAX_THREADS: usize = 256;

/// Longest time between heartbeats or commits that may be asked for.
const MAX_INTERVAL: Duration = Duration::from_secs(3600);

/// The words between commas, with escapes taken away.
pub(super) fn split(list: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut characters = list.chars();
    while let Some(character) = characters.next() {
        let literal = match character {
            ',' => {
                words.push(String::new());
                continue;
            }
            '\\' => characters.next().unwrap_or('\\'),
            other => other,
        };
        if let Some(word) = words.last_mut() {
            word.push(literal);
        }
    }
    words
}

fn bad(name: &str, value: &str, expected: &'static str) -> OptionError {
    OptionError::Value {
        name: name.to_owned(),
        value: value.to_owned(),
        expected,
    }
}

pub(super) fn number<N: std::str::FromStr>(
    name: &str,
    value: &str,
    expected: &'static str,
) -> Result<N, OptionError> {
    value.parse().map_err(|_| bad(name, value, expected))
}

pub(super) fn threads(name: &str, value: &str) -> Result<usize, OptionError> {
    let expected = "a number from 1 to 256";
    let threads = number(name, value, expected)?;
    if !(1..=MAX_THREADS).contains(&threads) {
        return Err(bad(name, value, expected));
    }
    Ok(threads)
}

/// The permissions that a mask leaves, as libfuse reads `umask=`.
pub(super) fn permissions(name: &str, value: &str) -> Result<u16, OptionError> {
    match u16::from_str_radix(value, 8) {
        Ok(mask) if mask <= 0o777 => Ok(0o777 & !mask),
        _ => Err(bad(name, value, "an octal number up to 777")),
    }
}

pub(super) fn interval(name: &str, value: &str) -> Result<Duration, OptionError> {
    let interval = seconds(name, value)?;
    if interval < Duration::from_millis(1) || interval > MAX_INTERVAL {
        return Err(bad(name, value, "a number of seconds, from 0.001 to 3600"));
    }
    Ok(interval)
}

pub(super) fn host_name(name: &str, value: &str) -> Result<String, OptionError> {
    if value.is_empty() || value.contains(char::is_control) {
        return Err(bad(name, value, "a name"));
    }
    Ok(value.to_owned())
}

/// How hosts lock each other out.
pub(super) fn lock(name: &str, value: &str) -> Result<Option<LockMethod>, OptionError> {
    match value {
        "auto" => Ok(None),
        "ats" => Ok(Some(LockMethod::Ats)),
        "scsi2" => Ok(Some(LockMethod::Scsi2)),
        _ => Err(bad(name, value, "one of auto, ats, scsi2")),
    }
}

pub(super) fn seconds(name: &str, value: &str) -> Result<Duration, OptionError> {
    let seconds = value.parse::<f64>().ok();
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| bad(name, value, "a number of seconds"))
}
