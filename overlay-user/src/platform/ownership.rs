//! Tells our links from others: by names that follow from the instance, and by an alias.
//!
//! Names are not proof of ownership; the alias is. The kernel takes no alias while it makes a link:
//! [`super::state_dir`] covers the moment between the two.

use std::hash::Hasher;

use fnv::FnvHasher;
use netlink_packet_route::link::InfoKind;

use super::link::Link;
use crate::model::Name;

/// A link in the host's namespace that the platform makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Device<'a> {
    /// The host side of an endpoint's veth.
    Port(&'a Name),
    /// The VXLAN device in external mode.
    Vxlan,
    /// The VXLAN device that is never up and asks for head-room.
    Headroom,
    /// The bridge that hands the head-room on.
    Bridge,
}

impl Device<'_> {
    /// The link's name: 15 characters, the same after every restart.
    pub(super) fn name(self, instance: &Name) -> String {
        let (prefix, endpoint) = match self {
            Self::Port(endpoint) => ("ovl", endpoint.as_str()),
            Self::Vxlan => ("ovx", ""),
            Self::Headroom => ("ovh", ""),
            Self::Bridge => ("ovb", ""),
        };
        format!("{prefix}{:012x}", hash(instance, endpoint) >> 16)
    }

    /// The link's kind.
    pub(super) fn kind(self) -> InfoKind {
        match self {
            Self::Port(_) => InfoKind::Veth,
            Self::Vxlan | Self::Headroom => InfoKind::Vxlan,
            Self::Bridge => InfoKind::Bridge,
        }
    }

    /// The link's alias, `overlay:<instance>[:<endpoint>]`.
    pub(super) fn alias(self, instance: &Name) -> String {
        match self {
            Self::Port(endpoint) => format!("overlay:{instance}:{endpoint}"),
            Self::Vxlan | Self::Headroom | Self::Bridge => format!("overlay:{instance}"),
        }
    }
}

/// Two different pairs never make one text: a [`Name`] holds no colon.
fn hash(instance: &Name, endpoint: &str) -> u64 {
    let mut hasher = FnvHasher::default();
    hasher.write(format!("{instance}:{endpoint}").as_bytes());
    hasher.finish()
}

/// The kinds of links that host sides of ports may be.
const KINDS: [InfoKind; 1] = [InfoKind::Veth];

/// Whether `link` is of a kind that a port's host side may be.
pub(super) fn is_port(link: &Link) -> bool {
    link.kind.as_ref().is_some_and(|kind| KINDS.contains(kind))
}

/// The VNI of the instance's device that asks for head-room. The kernel allows no two alike.
pub(super) fn vni_of(instance: &Name) -> u32 {
    let [_, a, b, c, ..] = hash(instance, "").to_be_bytes();
    u32::from_be_bytes([0, a, b, c])
}

/// The endpoint that `link` was marked for by `instance`.
pub(super) fn endpoint_of(link: &Link, instance: &Name) -> Option<Name> {
    let (owner, endpoint) = link
        .alias
        .as_deref()?
        .strip_prefix("overlay:")?
        .split_once(':')?;
    (owner == instance.as_str())
        .then(|| endpoint.parse().ok())
        .flatten()
}

/// The instance that marked `link`, this one or another.
pub(super) fn instance_of(link: &Link) -> Option<&str> {
    let marked = link.alias.as_deref()?.strip_prefix("overlay:")?;
    let instance = marked
        .split_once(':')
        .map_or(marked, |(instance, _)| instance);
    (!instance.is_empty()).then_some(instance)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn device_names_fit_the_kernel_and_never_change() {
        let (blue, default) = (name("blue"), name("default"));
        for (device, expected) in [
            (Device::Port(&blue), "ovl"),
            (Device::Vxlan, "ovx"),
            (Device::Headroom, "ovh"),
            (Device::Bridge, "ovb"),
        ] {
            let text = device.name(&default);
            assert_eq!(text.len(), 15);
            assert!(text.starts_with(expected));
        }
        assert_eq!(Device::Port(&blue).name(&default), "ovl83f21644423b");
    }

    #[test]
    fn device_names_differ_by_instance_and_by_endpoint() {
        let (a, b) = (name("a"), name("b"));
        let names = [
            Device::Port(&a).name(&a),
            Device::Port(&b).name(&a),
            Device::Port(&a).name(&b),
            Device::Vxlan.name(&a),
            Device::Vxlan.name(&b),
            Device::Headroom.name(&a),
        ];
        for (index, one) in names.iter().enumerate() {
            assert!(!names[index + 1..].contains(one), "{one}");
        }
    }

    #[test]
    fn an_alias_names_its_instance_to_every_other() {
        let (blue, other) = (name("blue"), name("other"));
        let of = |alias: &str| {
            let alias = Some(alias.to_owned());
            let link = Link {
                alias,
                ..Link::default()
            };
            instance_of(&link).map(str::to_owned)
        };
        assert_eq!(of(&Device::Port(&blue).alias(&other)), Some("other".into()));
        assert_eq!(of(&Device::Vxlan.alias(&other)), Some("other".into()));
        for alias in ["overlay:", "uplink", ""] {
            assert_eq!(of(alias), None, "{alias}");
        }
    }

    #[test]
    fn an_alias_names_the_endpoint_to_its_own_instance_only() {
        let (blue, default) = (name("blue"), name("default"));
        let mut link = Link {
            alias: Some(Device::Port(&blue).alias(&default)),
            ..Link::default()
        };
        assert_eq!(endpoint_of(&link, &default), Some(blue));
        assert_eq!(endpoint_of(&link, &name("other")), None);
        for alias in ["overlay:default", "overlay:default:", "uplink", ""] {
            link.alias = Some(alias.to_owned());
            assert_eq!(endpoint_of(&link, &default), None, "{alias}");
        }
    }
}
