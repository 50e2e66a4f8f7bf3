//! `iscsi://[USER[%SECRET]@]HOST[:PORT]/TARGET/LUN`, as QEMU and libiscsi write it.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// What every such URL begins with.
const SCHEME: &str = "iscsi://";
/// The port that stands for itself (RFC 7143, 14).
const PORT: u16 = 3260;

/// Where a LUN is. Its text has no secret in it, whatever it was made from.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IscsiUrl {
    /// Name or address of the target's portal.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The target's iSCSI name.
    pub target: String,
    /// The LUN's number.
    pub lun: u16,
    /// The CHAP name.
    pub user: Option<String>,
    /// The CHAP secret.
    pub secret: Option<String>,
}

impl IscsiUrl {
    /// Whether `location` is meant to be such a URL.
    pub fn is_one(location: &Path) -> bool {
        let text = location.as_os_str().as_encoded_bytes();
        text.get(..SCHEME.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(SCHEME.as_bytes()))
    }

    /// Length of the URL at the start of `text`, which something else follows: a path of the
    /// volume or another device. Nothing if it isn't one.
    ///
    /// It ends with the digits of the LUN.
    pub fn length_in(text: &str) -> Option<usize> {
        if !Self::is_one(Path::new(text)) {
            return None;
        }
        let host = SCHEME.len();
        let target = host + text.get(host..)?.find('/')? + 1;
        let lun = target + text.get(target..)?.find('/')? + 1;
        let digits = text.get(lun..)?.bytes().take_while(u8::is_ascii_digit);
        Some(lun + digits.count())
    }
}

impl FromStr for IscsiUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !Self::is_one(Path::new(text)) {
            return Err("it doesn't begin with iscsi://");
        }
        let (authority, rest) = text[SCHEME.len()..]
            .split_once('/')
            .ok_or("the target's name is missing")?;
        let (target, lun) = rest.split_once('/').ok_or("the LUN's number is missing")?;
        let lun = lun
            .parse()
            .ok()
            .filter(|lun| *lun < 0x4000)
            .ok_or("what follows the target's name must be a LUN's number, 0 to 16383")?;
        let (login, portal) = match authority.rsplit_once('@') {
            Some((login, portal)) => (Some(login), portal),
            None => (None, authority),
        };
        let (user, secret) = match login.map(|login| login.split_once('%')) {
            Some(Some((user, secret))) => (Some(user), Some(secret)),
            Some(None) => (login, None),
            None => (None, None),
        };
        if user.is_some_and(str::is_empty) {
            return Err("there is no name before the @");
        }
        let (host, port) = split_port(portal)?;
        let target = decode(target)?;
        if target.is_empty() || host.is_empty() {
            return Err("the host or the target's name is missing");
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            target,
            lun,
            user: user.map(str::to_owned),
            secret: secret.map(str::to_owned),
        })
    }
}

/// Splits `HOST`, `HOST:PORT`, `[ADDRESS]` or `[ADDRESS]:PORT`.
fn split_port(portal: &str) -> Result<(&str, u16), &'static str> {
    let (host, port) = match portal.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("a [ without its ]")?;
            (host, rest.strip_prefix(':'))
        }
        None => match portal.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            Some(_) => return Err("an IPv6 address stands between [ and ]"),
            None => (portal, None),
        },
    };
    let port = match port {
        None => PORT,
        Some(port) => port.parse().map_err(|_| "the port is no number")?,
    };
    Ok((host, port))
}

/// Undoes `%3A` and the like.
fn decode(text: &str) -> Result<String, &'static str> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part
            .get(..2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(digits.ok_or("a % in the target's name needs two hexadecimal digits")?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).map_err(|_| "the target's name isn't UTF-8")
}

impl fmt::Display for IscsiUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCHEME)?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        if self.port != PORT {
            write!(f, ":{}", self.port)?;
        }
        write!(f, "/{}/{}", self.target, self.lun)
    }
}

impl fmt::Debug for IscsiUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> IscsiUrl {
        text.parse().expect("valid")
    }

    #[test]
    fn reads_what_qemu_writes() {
        let url = parse("iscsi://192.0.2.7/iqn.2001-04.com.example:disk1/5");
        assert_eq!(
            (url.host.as_str(), url.port, url.target.as_str(), url.lun),
            ("192.0.2.7", 3260, "iqn.2001-04.com.example:disk1", 5)
        );
        let url = parse("iscsi://me%se%c@ret@host:99/iqn.x%3Ay/0");
        assert_eq!(url.user.as_deref(), Some("me"));
        assert_eq!(url.secret.as_deref(), Some("se%c@ret"));
        assert_eq!((url.port, url.target.as_str()), (99, "iqn.x:y"));
        let url = parse("iscsi://[2001:db8::1]:3261/iqn.x/1");
        assert_eq!((url.host.as_str(), url.port), ("2001:db8::1", 3261));
        assert_eq!(url.to_string(), "iscsi://[2001:db8::1]:3261/iqn.x/1");
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, problem) in [
            ("/dev/sda", "begin"),
            ("iscsi://host", "target's name"),
            ("iscsi://host/iqn.x", "LUN"),
            ("iscsi://host/iqn.x/a", "LUN"),
            ("iscsi://host/iqn.x/70000", "LUN"),
            ("iscsi://host:x/iqn.x/1", "port"),
            ("iscsi://2001:db8::1/iqn.x/1", "IPv6"),
            ("iscsi://host/iqn%4/1", "hexadecimal"),
            ("iscsi://@host/iqn/1", "@"),
            ("iscsi:///iqn/1", "host"),
        ] {
            let error = text.parse::<IscsiUrl>().expect_err(text);
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn shows_no_secret() {
        let url = parse("iscsi://me%secret@host/iqn.x/1");
        for shown in [format!("{url}"), format!("{url:?}")] {
            assert_eq!(shown, "iscsi://me@host/iqn.x/1");
        }
    }

    #[test]
    fn finds_where_it_ends() {
        let text = "iscsi://me@[::1]:3261/iqn.x:y,z/12:/vm/a";
        assert_eq!(
            IscsiUrl::length_in(text).map(|end| &text[end..]),
            Some(":/vm/a")
        );
        assert_eq!(IscsiUrl::length_in("/dev/sdb:/vm"), None);
    }
}
