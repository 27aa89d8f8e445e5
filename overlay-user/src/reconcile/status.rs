//! The endpoints of this host: one state each, found by name and by interface.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Attachment, Name};

/// The state of an endpoint of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortState {
    /// It has its interface, its rows and its program.
    Ready {
        /// The host side's interface index.
        ifindex: u32,
    },
    /// It has its interface, and may lack rows or its program.
    Degraded {
        /// The host side's interface index.
        ifindex: u32,
        /// Why, in a line.
        reason: String,
    },
    /// Its interface can't be made or looked at.
    Failed {
        /// Why, in a line.
        reason: String,
    },
}

impl PortState {
    /// Why it is not ready, in a line.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Ready { .. } => None,
            Self::Degraded { reason, .. } | Self::Failed { reason } => Some(reason),
        }
    }
}

/// What somebody changed on this host, and the agent put back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Repair {
    /// The endpoint that it was of, if of one.
    pub(super) endpoint: Option<Name>,
    /// What it was, in a line.
    pub(super) what: String,
}

/// The host side of an endpoint's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HostSide {
    ifindex: u32,
    /// Whether a native XDP program is attached inside the endpoint.
    has_xdp: bool,
}

/// Whatever is known of one endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct LocalEndpoint {
    host_side: Option<HostSide>,
    attachment: Option<Attachment>,
    failed: Option<String>,
    degraded: Option<String>,
}

/// Endpoints of this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalEndpoints {
    by_name: BTreeMap<Name, LocalEndpoint>,
    by_ifindex: BTreeMap<u32, Name>,
    /// Those that have failed or are degraded.
    unwell: BTreeSet<Name>,
    /// Those whose state may have changed since it was last drained.
    changed: BTreeSet<Name>,
}

impl LocalEndpoints {
    /// The host side's index of an endpoint's interface.
    #[must_use]
    pub fn ifindex(&self, name: &Name) -> Option<u32> {
        let host_side = self.by_name.get(name)?.host_side?;
        Some(host_side.ifindex)
    }

    /// The endpoint with this host side's index.
    #[must_use]
    pub fn at(&self, ifindex: u32) -> Option<&Name> {
        self.by_ifindex.get(&ifindex)
    }

    /// The endpoints that have an interface, by name, and the host side's index.
    pub fn interfaces(&self) -> impl Iterator<Item = (&Name, u32)> {
        let all = self.by_name.iter();
        all.filter_map(|(name, endpoint)| Some((name, endpoint.host_side?.ifindex)))
    }

    /// Host sides' indexes.
    #[must_use]
    pub fn ifindexes(&self) -> BTreeSet<u32> {
        self.by_ifindex.keys().copied().collect()
    }

    /// Whether a native XDP program is attached inside the endpoint with this interface.
    #[must_use]
    pub fn has_xdp(&self, ifindex: u32) -> bool {
        let endpoint = self.at(ifindex).and_then(|name| self.by_name.get(name));
        endpoint.is_some_and(|endpoint| endpoint.host_side.is_some_and(|side| side.has_xdp))
    }

    /// How an endpoint is connected, as far as that is known.
    #[must_use]
    pub fn attachment(&self, name: &Name) -> Option<&Attachment> {
        self.by_name.get(name)?.attachment.as_ref()
    }

    /// The state of an endpoint. `None`: nothing became of it yet.
    #[must_use]
    pub fn state(&self, name: &Name) -> Option<PortState> {
        let endpoint = self.by_name.get(name)?;
        let ifindex = endpoint.host_side.map(|side| side.ifindex);
        match (&endpoint.failed, &endpoint.degraded, ifindex) {
            (None, None, ifindex) => ifindex.map(|ifindex| PortState::Ready { ifindex }),
            (None, Some(reason), Some(ifindex)) => Some(PortState::Degraded {
                ifindex,
                reason: reason.clone(),
            }),
            (Some(reason), ..) | (None, Some(reason), None) => Some(PortState::Failed {
                reason: reason.clone(),
            }),
        }
    }

    /// Whether making or looking at the interface failed.
    #[must_use]
    pub fn has_failed(&self, name: &Name) -> bool {
        let endpoint = self.by_name.get(name);
        endpoint.is_some_and(|endpoint| endpoint.failed.is_some())
    }

    /// The endpoints that have failed or are degraded.
    #[must_use]
    pub fn unwell(&self) -> &BTreeSet<Name> {
        &self.unwell
    }

    /// The endpoint has an interface. The kernel gives an index again once its interface is gone: another endpoint
    /// that had it keeps it until that is known.
    pub fn set_interface(&mut self, name: &Name, ifindex: u32, has_xdp: bool) {
        self.remove_interface(name);
        self.by_ifindex.insert(ifindex, name.clone());
        let host_side = HostSide { ifindex, has_xdp };
        self.change(name, |endpoint| endpoint.host_side = Some(host_side));
    }

    /// The endpoint has no interface any more.
    pub fn remove_interface(&mut self, name: &Name) {
        if let Some(ifindex) = self.ifindex(name) {
            if self.at(ifindex) == Some(name) {
                self.by_ifindex.remove(&ifindex);
            }
            self.change(name, |endpoint| endpoint.host_side = None);
        }
    }

    /// Notes how it is connected.
    pub fn set_attachment(&mut self, name: &Name, attachment: Attachment) {
        self.change(name, |endpoint| endpoint.attachment = Some(attachment));
    }

    /// It is not known any more where its interface leads.
    pub fn remove_attachment(&mut self, name: &Name) {
        self.change(name, |endpoint| endpoint.attachment = None);
    }

    /// Making or looking at the interface failed. `true`: for another reason than before.
    pub fn set_failed(&mut self, name: &Name, reason: &str) -> bool {
        self.mark_changed(name.clone());
        let mut is_new = false;
        self.change(name, |endpoint| {
            is_new = endpoint.failed.as_deref() != Some(reason);
            endpoint.failed = Some(reason.to_owned());
        });
        is_new
    }

    /// Its interface is made. `true`: that had failed before.
    pub fn clear_failed(&mut self, name: &Name) -> bool {
        let mut had_failed = false;
        self.change(name, |endpoint| {
            had_failed = endpoint.failed.take().is_some();
        });
        had_failed
    }

    /// It may lack rows or its program.
    pub fn set_degraded(&mut self, name: &Name, reason: &str) {
        self.mark_changed(name.clone());
        self.change(name, |endpoint| endpoint.degraded = Some(reason.to_owned()));
    }

    /// It has its rows and its program.
    pub fn clear_degraded(&mut self, name: &Name) {
        self.change(name, |endpoint| endpoint.degraded = None);
    }

    /// All have their rows and programs.
    pub fn clear_all_degraded(&mut self) {
        for name in self.unwell.clone() {
            self.clear_degraded(&name);
            self.mark_changed(name);
        }
    }

    /// Its state may have changed.
    pub fn mark_changed(&mut self, name: Name) {
        self.changed.insert(name);
    }

    /// The endpoints whose state may have changed since the last call.
    pub fn drain_changes(&mut self) -> BTreeSet<Name> {
        std::mem::take(&mut self.changed)
    }

    /// Changes what is known of an endpoint; one of which nothing is known takes no memory.
    fn change(&mut self, name: &Name, change: impl FnOnce(&mut LocalEndpoint)) {
        let mut endpoint = self.by_name.remove(name).unwrap_or_default();
        change(&mut endpoint);
        if endpoint.failed.is_some() || endpoint.degraded.is_some() {
            self.unwell.insert(name.clone());
        } else {
            self.unwell.remove(name);
        }
        if endpoint != LocalEndpoint::default() {
            self.by_name.insert(name.clone(), endpoint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn an_endpoint_is_ready_until_it_is_degraded_or_has_failed() {
        let (mut endpoints, blue) = (LocalEndpoints::default(), name("blue"));
        assert_eq!(endpoints.state(&blue), None);
        endpoints.set_interface(&blue, 7, false);
        assert_eq!(
            endpoints.state(&blue),
            Some(PortState::Ready { ifindex: 7 })
        );
        endpoints.set_degraded(&blue, "a map is full");
        let state = endpoints.state(&blue).unwrap();
        assert_eq!(state.reason(), Some("a map is full"));
        assert!(matches!(state, PortState::Degraded { ifindex: 7, .. }));
        assert!(endpoints.set_failed(&blue, "no namespace"));
        assert!(!endpoints.set_failed(&blue, "no namespace"));
        let state = endpoints.state(&blue).unwrap();
        assert_eq!(state.reason(), Some("no namespace"));
        assert!(endpoints.clear_failed(&blue));
        endpoints.clear_all_degraded();
        assert_eq!(
            endpoints.state(&blue),
            Some(PortState::Ready { ifindex: 7 })
        );
        assert_eq!(endpoints.drain_changes(), BTreeSet::from([blue]));
        assert!(endpoints.drain_changes().is_empty());
    }

    #[test]
    fn an_interface_has_one_endpoint_and_an_endpoint_one_interface() {
        let mut endpoints = LocalEndpoints::default();
        let (blue, green) = (name("blue"), name("green"));
        endpoints.set_interface(&blue, 7, true);
        assert!(endpoints.has_xdp(7));
        endpoints.set_interface(&blue, 8, false);
        assert_eq!((endpoints.at(7), endpoints.at(8)), (None, Some(&blue)));
        assert!(!endpoints.has_xdp(7) && !endpoints.has_xdp(8));
        endpoints.set_interface(&green, 8, false);
        endpoints.remove_interface(&blue);
        assert_eq!(endpoints.at(8), Some(&green));
        endpoints.remove_interface(&green);
        assert_eq!(endpoints, LocalEndpoints::default());
    }
}
