//! From a URL to a connection, and what to do when there is none.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use vmfs_iscsi::{ConnectError, Connection, LoginError, Settings};

use super::credentials;
use super::url::IscsiUrl;

/// Connects to the target of `url` as the host called `initiator`, if it is called anything.
pub(super) fn connect(
    url: &IscsiUrl,
    initiator: Option<&str>,
    silence: Duration,
) -> io::Result<Connection> {
    let credentials = credentials::of(url)?;
    let has_secret = credentials.host.is_some();
    let initiator = credentials::initiator(initiator);
    let settings = Settings {
        initiator: initiator.clone(),
        session: session_number()?,
        target: url.target.clone(),
        lun: url.lun,
        portals: resolve(url)?,
        chap: credentials.host,
        target_chap: credentials.target,
        silence,
    };
    Connection::open(settings).map_err(|error| explain(&error, url, &initiator, has_secret))
}

/// A number that no other session of this host has.
fn session_number() -> io::Result<u32> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(u32::from_ne_bytes(bytes))
}

fn resolve(url: &IscsiUrl) -> io::Result<Vec<SocketAddr>> {
    let found = (url.host.as_str(), url.port).to_socket_addrs();
    let portals: Vec<_> = found
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", url.host)))?
        .collect();
    if portals.is_empty() {
        let text = format!("{} has no address", url.host);
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    Ok(portals)
}

/// The error with what can be done about it.
fn explain(error: &ConnectError, url: &IscsiUrl, initiator: &str, has_secret: bool) -> io::Error {
    let target = &url.target;
    let (kind, advice) = match error {
        ConnectError::Login { kind, .. } => match kind {
            LoginError::Authentication if has_secret => (
                io::ErrorKind::PermissionDenied,
                "compare them with the account that the target has for this host".to_owned(),
            ),
            LoginError::Authentication => (
                io::ErrorKind::PermissionDenied,
                "give them as LIBISCSI_CHAP_USERNAME and LIBISCSI_CHAP_PASSWORD, in \
                 /etc/vmfs/iscsi-secrets, or as iscsi://NAME%SECRET@HOST/…"
                    .to_owned(),
            ),
            LoginError::Authorization => (
                io::ErrorKind::PermissionDenied,
                format!("allow {initiator} to use {target} at the target"),
            ),
            LoginError::NoTarget => (
                io::ErrorKind::NotFound,
                format!(
                    "compare {target} with the names that `iscsi-ls iscsi://{}:{}` lists, and allow {initiator} to use it",
                    url.host, url.port
                ),
            ),
            LoginError::Other => (io::ErrorKind::Other, "ask the target's log".to_owned()),
        },
        ConnectError::Unreachable { .. } | ConnectError::Cut { .. } => (
            io::ErrorKind::NotConnected,
            "is the address right, and the target running?".to_owned(),
        ),
        ConnectError::Settings(_) => (io::ErrorKind::InvalidInput, String::new()),
        ConnectError::System(_) => (io::ErrorKind::Other, String::new()),
    };
    let text = error.to_string();
    let text = if advice.is_empty() {
        text
    } else {
        format!("{text}; {advice}")
    };
    io::Error::new(kind, text)
}
