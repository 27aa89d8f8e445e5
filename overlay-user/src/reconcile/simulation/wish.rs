//! What users want of endpoints, and whether the registry's rules allow it.

use std::collections::BTreeSet;

use super::store::State;
use crate::model::{Endpoint, Name, Wanted};

/// What a user wants of an endpoint.
pub(super) enum Wish {
    Put(Endpoint),
    Remove(Name),
}

impl Wish {
    /// Makes it so, if the registry's rules allow it.
    pub(super) fn fulfil(self, state: &mut State, touched: &mut BTreeSet<Name>) {
        let endpoint = match self {
            Self::Remove(name) => {
                if state.endpoints.remove(&name).is_some() {
                    touched.insert(name);
                }
                return;
            }
            Self::Put(endpoint) => endpoint,
        };
        let is_free = |wanted| {
            let owner = state.owner(endpoint.vni, wanted);
            owner.is_none_or(|owner| owner.name == endpoint.name)
        };
        let has_addresses = endpoint.ips().map(Wanted::Ip).all(is_free);
        let mut others = state
            .endpoints
            .values()
            .filter(|other| other.name != endpoint.name);
        let has_place =
            others.all(|other| (&other.node, other.netns()) != (&endpoint.node, endpoint.netns()));
        if has_place
            && state.networks.contains_key(&endpoint.vni)
            && state.nodes.contains_key(&endpoint.node)
            && is_free(Wanted::Mac(endpoint.mac))
            && has_addresses
        {
            touched.insert(endpoint.name.clone());
            state.endpoints.insert(endpoint.name.clone(), endpoint);
        }
    }
}
