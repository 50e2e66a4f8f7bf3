//! Who this host is to a target: its iSCSI name, and its CHAP name and secret where they don't
//! stand in the URL.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use vmfs_iscsi::Chap;

use super::url::IscsiUrl;

/// Where Linux hosts keep their iSCSI name.
const INITIATOR_NAME: &str = "/etc/iscsi/initiatorname.iscsi";
/// What the name of a host without one begins with.
const PREFIX: &str = "iqn.2026-01.io.github.openvmfs:";
/// A CHAP name, and its secret: libiscsi's own variables.
const USER: &str = "LIBISCSI_CHAP_USERNAME";
const SECRET: &str = "LIBISCSI_CHAP_PASSWORD";
/// Another place for the file of secrets.
const SECRETS: &str = "VMFS_ISCSI_SECRETS";
/// The file of secrets.
const SECRETS_FILE: &str = "/etc/vmfs/iscsi-secrets";

/// The iSCSI name of the host `name`; of this machine if it has none.
///
/// A name that isn't an iSCSI name already is made a part of one.
pub(super) fn initiator(name: Option<&str>) -> String {
    match name {
        Some(name) if is_iscsi_name(name) => name.to_owned(),
        Some(name) => format!("{PREFIX}{}", tidy(name)),
        None => configured().unwrap_or_else(|| {
            let system = rustix::system::uname();
            format!("{PREFIX}{}", tidy(&system.nodename().to_string_lossy()))
        }),
    }
}

/// RFC 7143, 4.2.7.2.
fn is_iscsi_name(name: &str) -> bool {
    ["iqn.", "eui.", "naa."]
        .iter()
        .any(|kind| name.starts_with(kind))
}

/// `name` in characters that an iSCSI name may have.
fn tidy(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':');
    name.chars()
        .map(|c| {
            if allowed(c) {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .take(vmfs_iscsi::MAX_NAME - PREFIX.len())
        .collect()
}

fn configured() -> Option<String> {
    let text = fs::read_to_string(INITIATOR_NAME).ok()?;
    let name = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("InitiatorName="))?;
    Some(name.trim().to_owned()).filter(|name| is_iscsi_name(name))
}

/// What a target wants to know, and what it must know.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) host: Option<Chap>,
    pub(super) target: Option<Chap>,
}

/// The credentials for `url`: its own, those of the environment, or those of the file of secrets.
///
/// # Errors
/// When there is such a file and it can't be used.
pub(super) fn of(url: &IscsiUrl) -> io::Result<Credentials> {
    let host = match (&url.user, &url.secret) {
        (Some(name), Some(secret)) => Some((name.clone(), secret.clone())),
        (user, _) => match (user.clone().or_else(|| variable(USER)), variable(SECRET)) {
            (Some(name), Some(secret)) => Some((name, secret)),
            _ => None,
        },
    };
    if let Some((name, secret)) = host {
        return Ok(Credentials {
            host: Some(Chap { name, secret }),
            target: None,
        });
    }
    let path = variable(SECRETS).map_or_else(|| PathBuf::from(SECRETS_FILE), PathBuf::from);
    match read_secrets(&path) {
        Ok(text) => Ok(look_up(&text, url)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Credentials::default()),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("can't use the iSCSI secrets in {}: {error}", path.display()),
        )),
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn read_secrets(path: &Path) -> io::Result<String> {
    const LONGEST: u64 = 1 << 20;
    let file = File::open(path)?;
    if file.metadata()?.mode() & 0o077 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "others than its owner can read it; chmod 600",
        ));
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// Finds the line for `url` in a file of lines `TARGET NAME SECRET [TARGET-NAME TARGET-SECRET]`,
/// where `*` stands for any target.
fn look_up(text: &str, url: &IscsiUrl) -> Credentials {
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'));
    for line in lines {
        let mut words = line.split_whitespace();
        let (Some(target), Some(name), Some(secret)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let meant = target == "*" || target == url.target;
        if !meant || url.user.as_deref().is_some_and(|user| user != name) {
            continue;
        }
        let chap = |name: &str, secret: &str| Chap {
            name: name.to_owned(),
            secret: secret.to_owned(),
        };
        let its = words.next().zip(words.next());
        return Credentials {
            host: Some(chap(name, secret)),
            target: its.map(|(name, secret)| chap(name, secret)),
        };
    }
    Credentials::default()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_host_name_becomes_an_iscsi_name() {
        assert_eq!(initiator(Some("iqn.x:host")), "iqn.x:host");
        assert_eq!(
            initiator(Some("Host 1_ä")),
            "iqn.2026-01.io.github.openvmfs:host-1--"
        );
        assert!(initiator(Some(&"x".repeat(500))).len() <= vmfs_iscsi::MAX_NAME);
        assert!(is_iscsi_name(&initiator(None)));
    }

    #[test]
    fn the_file_of_secrets_goes_by_target_and_name() {
        let text = "# a comment\n\niqn.a  me  secret-of-a\niqn.a you other\n* all for-all it its\n";
        let find = |url: &str| look_up(text, &url.parse().expect("valid"));
        let host = |url: &str| find(url).host.map(|chap| chap.secret);
        assert_eq!(host("iscsi://h/iqn.a/1").as_deref(), Some("secret-of-a"));
        assert_eq!(host("iscsi://you@h/iqn.a/1").as_deref(), Some("other"));
        assert_eq!(host("iscsi://nobody@h/iqn.a/1"), None);
        let both = find("iscsi://h/iqn.b/1");
        assert_eq!(both.target.map(|chap| chap.secret).as_deref(), Some("its"));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("file");
        fs::write(file.path(), "* me secret").expect("write");
        let allow = |mode| {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).expect("mode");
        };
        allow(0o640);
        let error = read_secrets(file.path()).expect_err("readable by the group");
        assert!(error.to_string().contains("chmod 600"), "{error}");
        allow(0o600);
        assert_eq!(read_secrets(file.path()).expect("readable"), "* me secret");
    }
}
