use std::net::SocketAddr;

/// Why there is no session with a target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The settings make no sense.
    #[error("{0}")]
    Settings(&'static str),
    /// Nobody answers at an address, or not in time.
    #[error("{portal} doesn't answer: {reason}")]
    Unreachable {
        /// The address.
        portal: SocketAddr,
        /// What libiscsi or the system said.
        reason: String,
    },
    /// The target refused the session.
    #[error("{portal} refused the login: {}", kind.describe(reason))]
    Login {
        /// The address.
        portal: SocketAddr,
        /// Why, as far as it is known.
        kind: LoginError,
        /// What libiscsi said.
        reason: String,
    },
    /// The session was there and ended.
    #[error("the connection to {portal} was lost: {reason}")]
    Cut {
        /// The address.
        portal: SocketAddr,
        /// What libiscsi said, or what was waited for.
        reason: String,
    },
    /// This process can't have a connection at all.
    #[error("{0}")]
    System(String),
}

/// Why a target refuses a session (RFC 7143, 11.13.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginError {
    /// CHAP name or secret are missing or wrong.
    Authentication,
    /// This host's name may not use the target.
    Authorization,
    /// There is no such target.
    NoTarget,
    /// Anything else.
    Other,
}

impl LoginError {
    /// What libiscsi's message means; it has the status' number at its end.
    pub(crate) fn of(message: &str) -> Self {
        let number = message.rsplit_once('(').map(|(_, rest)| rest);
        match number.and_then(|rest| rest.trim_end().strip_suffix(')')) {
            Some("513") => Self::Authentication,
            Some("514") => Self::Authorization,
            Some("515" | "516") => Self::NoTarget,
            _ if message.contains("CHAP") || message.contains("uthentication") => {
                Self::Authentication
            }
            _ => Self::Other,
        }
    }

    fn describe(self, reason: &str) -> &str {
        match self {
            Self::Authentication => "the CHAP name or secret is missing or wrong",
            Self::Authorization => "this host's initiator name has no access to the target",
            Self::NoTarget => "it has no such target, or none that this host may see",
            Self::Other => reason,
        }
    }
}

/// A command went without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswered {
    /// It never left this host.
    NotSent,
    /// It may or may not have been carried out; it will not be any more once there is a new
    /// session.
    Lost,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_why_a_login_failed() {
        for (message, kind) in [
            (
                "Failed to log in to target. Status: Authentication failure(513)",
                LoginError::Authentication,
            ),
            (
                "Failed to log in to target. Status: Target not found(515)",
                LoginError::NoTarget,
            ),
            (
                "Failed to log in to target. Wrong CHAP targetname received: x",
                LoginError::Authentication,
            ),
            ("Out-of-memory", LoginError::Other),
        ] {
            assert_eq!(LoginError::of(message), kind, "{message}");
        }
    }
}
