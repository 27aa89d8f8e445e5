//! What can go wrong with etcd, in one line each that says what to do. No line holds a secret: none
//! repeats what was sent.

use std::{error::Error as _, path::PathBuf};

use etcd_client::Error;

use super::super::RegistryError;

/// Why a piece of work on etcd ended early.
#[derive(Debug)]
pub(super) enum StoreError {
    /// The final word already.
    Said(RegistryError),
    /// A key or value that the model refuses: somebody else wrote it.
    Row(String),
    /// The revision that was asked for is no longer there.
    Compacted,
    /// The lease has expired.
    LeaseGone,
    /// No member has carried it out as far as is known.
    Away {
        /// What each of them said.
        members: Vec<(String, String)>,
        /// What to do about it.
        advice: String,
    },
    /// etcd has reached its quota.
    Full,
    /// The user may not do this.
    Denied,
    /// A user and a password are asked for, and none are given.
    NoLogin,
    /// User or password are wrong; the file that holds the password.
    Login(Option<PathBuf>),
    /// Anything else that etcd refuses, in its words.
    Refused(String),
}

impl From<RegistryError> for StoreError {
    fn from(error: RegistryError) -> Self {
        Self::Said(error)
    }
}

impl StoreError {
    /// The line for the user.
    pub(super) fn explain(self, url: &str) -> RegistryError {
        RegistryError::Unavailable(match self {
            Self::Said(error) => return error,
            Self::Row(what) => format!(
                "registry {url} holds what no agent wrote: {what}; correct it with etcdctl, or see `overlay registry check`"
            ),
            Self::Compacted => format!(
                "registry {url} compacted its history while it was read: try again, and let it keep more (etcd's --auto-compaction-retention)"
            ),
            Self::LeaseGone => format!(
                "registry {url} let a lease expire before it was used: it answers too slowly; look at its disk and its load"
            ),
            Self::Away { members, advice } => {
                let members: Vec<String> = members
                    .into_iter()
                    .map(|(member, why)| format!("{member}: {why}"))
                    .collect();
                format!(
                    "registry {url} is out of reach ({}): {advice}",
                    members.join("; ")
                )
            }
            Self::Full => format!(
                "registry {url} is full: etcd has reached its quota; compact and defragment it or raise --quota-backend-bytes, then `etcdctl alarm disarm`"
            ),
            Self::Denied => format!(
                "registry {url} does not let this user do that: grant it readwrite to the prefix /overlay/"
            ),
            Self::NoLogin => {
                format!("registry {url} asks for a user: give --etcd-user and --etcd-password-file")
            }
            Self::Login(Some(file)) => format!(
                "registry {url} refuses the login: check --etcd-user and the password in {}",
                file.display()
            ),
            Self::Login(None) => format!("registry {url} refuses the login: check --etcd-user"),
            Self::Refused(why) => format!("registry {url} refuses it ({why}): see etcd's log"),
        })
    }
}

/// What to do about an error.
#[derive(Debug)]
pub(super) enum CallError {
    /// Another member, or the same one a moment later, may do better. Why this one did not.
    Passing(String),
    /// What this client is logged in with is no longer good, or is not good at all.
    Login,
    /// It is not going to be any better.
    Final(StoreError),
}

/// etcd's errors have no numbers: their texts are their identity (etcd's api/v3rpc/rpctypes/error.go).
pub(super) fn classify(error: &Error) -> CallError {
    let Error::GRpcStatus(status) = error else {
        return match error {
            Error::LeaseKeepAliveError(_) => CallError::Final(StoreError::LeaseGone),
            Error::TransportError(error) => CallError::Passing(innermost(error)),
            other => CallError::Passing(innermost(other)),
        };
    };
    let text = status.message();
    let says = |part: &str| text.contains(part);
    if says("database space exceeded") {
        CallError::Final(StoreError::Full)
    } else if says("has been compacted") {
        CallError::Final(StoreError::Compacted)
    } else if says("requested lease not found") {
        CallError::Final(StoreError::LeaseGone)
    } else if says("permission denied") {
        CallError::Final(StoreError::Denied)
    } else if says("user name is empty")
        || says("invalid auth token")
        || says("invalid user ID or password")
        || says("revision of auth store is old")
        || asks_for_no_login(error)
    {
        CallError::Login
    } else if is_passing(text) || status.source().is_some() {
        // With a source it is not etcd's word but the connection's.
        CallError::Passing(status.source().map_or_else(|| plain(text), innermost))
    } else {
        match status.code() as i32 {
            // DEADLINE_EXCEEDED, ABORTED, INTERNAL, UNAVAILABLE and CANCELLED: gRPC's own.
            1 | 4 | 10 | 13 | 14 => CallError::Passing(plain(text)),
            _ => CallError::Final(StoreError::Refused(plain(text))),
        }
    }
}

/// Whether a login was refused because the cluster knows none.
pub(super) fn asks_for_no_login(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status) if status.message().contains("authentication is not enabled"))
}

fn is_passing(text: &str) -> bool {
    [
        "no leader",
        "leader changed",
        "request timed out",
        "too many requests",
        "server stopped",
        "not capable",
    ]
    .iter()
    .any(|passing| text.contains(passing))
}

/// etcd's text without its own name in front.
fn plain(text: &str) -> String {
    text.trim_start_matches("etcdserver: ").replace('\n', " ")
}

/// The cause of the cause: what the system said.
pub(super) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string().replace('\n', " ")
}
