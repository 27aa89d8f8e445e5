//! Follows another registry, or one that has lost rows.

use serde::{Deserialize, Serialize};

use crate::{Method, Name, Operation, RegistryId};

/// Follows the registry as it is now, or tells what that would remove on this host.
///
/// An agent holds what it has while the registry is another one than before, was emptied, or has lost more than half
/// of what the host knows. This ends that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AdoptRegistry {
    /// Whether to follow it; otherwise nothing is changed.
    #[serde(default)]
    pub confirmed: bool,
    /// The identity that was answered before. Refused is another one that is found by now.
    #[serde(default)]
    pub identity: Option<RegistryId>,
}

impl Operation for AdoptRegistry {
    type Answer = AdoptView;
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/registry/adopt";
    const VERB: &'static str = "registry adopt";
}

/// The losses of following the registry as it is now, on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AdoptView {
    /// Whether it is followed from now on.
    pub adopted: bool,
    /// The identity of the registry that is there; null: it has none, as if it was emptied.
    pub identity: Option<RegistryId>,
    /// The identity of the registry that was followed so far; null: it had none.
    pub former: Option<RegistryId>,
    /// This host's endpoints that it does not have, or has on other hosts: they go with their interfaces and namespaces.
    pub endpoints: Vec<Name>,
    /// Endpoints of other hosts that it does not have; null: an agent that waits at its start knows neither these nor
    /// networks and nodes.
    pub remote_endpoints: Option<usize>,
    /// Networks that it does not have.
    pub networks: Vec<Name>,
    /// Nodes that it does not have.
    pub nodes: Vec<Name>,
}

impl AdoptView {
    /// Whether the registry is the one that is followed, and following it removes nothing.
    #[must_use]
    pub fn is_needless(&self) -> bool {
        !self.adopted
            && self.identity.is_some()
            && self.identity == self.former
            && self.endpoints.is_empty()
            && self.remote_endpoints == Some(0)
            && self.networks.is_empty()
            && self.nodes.is_empty()
    }
}
