//! An object: desired state beside networks, nodes and endpoints, whatever its kind.
//!
//! The registry looks at what an object claims and refers to, and not into its body. Whoever writes it says
//! both, so that a binary holds the rules of kinds that it has never heard of.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Key, Kind, Mac, Name, Revision, Vni};

/// Names an object: its kind, and which of that kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectId {
    /// What it is.
    pub kind: Kind,
    /// Which one it is. It names who has something; what it has are its claims.
    pub key: Key,
}

impl ObjectId {
    /// As one word; it has a `/`, which no endpoint's name has.
    #[must_use]
    pub fn to_word(&self) -> String {
        format!("{}/{}", self.kind, self.key)
    }

    /// From such a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        let (kind, key) = word.split_once('/')?;
        Some(Self {
            kind: kind.parse().ok()?,
            key: key.parse().ok()?,
        })
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.key)
    }
}

/// Something of which there is one, and that one object has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Claim {
    /// An address of a network, as endpoints have theirs. Once given up it is in quarantine like theirs.
    Ip {
        /// The network. The object has to refer to it.
        vni: Vni,
        /// The address.
        ip: IpAddr,
    },
    /// A MAC of a network, as endpoints have theirs. Once given up it is in quarantine like theirs.
    Mac {
        /// The network. The object has to refer to it.
        vni: Vni,
        /// The MAC.
        mac: Mac,
    },
    /// A value of some space.
    Unique {
        /// The space, for example `block`.
        space: Key,
        /// The value.
        value: Key,
        /// How long others can't claim it once it is given up, seconds.
        #[serde(default, skip_serializing_if = "is_zero")]
        quarantine_s: u32,
    },
    /// A prefix that overlaps no other of some space.
    Disjoint {
        /// The space, for example `router/r1`.
        space: Key,
        /// The prefix.
        prefix: IpNet,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Where a claim is noted: one object has each.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot {
    /// The network that it is of, if it is of one.
    pub vni: Option<Vni>,
    /// `ip`, `mac`, `unique/SPACE` or `disjoint/SPACE`.
    pub space: String,
    /// The value in there.
    pub value: String,
}

impl Slot {
    /// The network's number; 0: it is of none.
    #[must_use]
    pub fn network(&self) -> u32 {
        self.vni.map_or(0, Vni::get)
    }
}

impl Claim {
    /// Where it is noted.
    #[must_use]
    pub fn slot(&self) -> Slot {
        let (vni, space, value) = match self {
            Self::Ip { vni, ip } => (Some(*vni), "ip".to_owned(), ip.to_string()),
            Self::Mac { vni, mac } => (Some(*vni), "mac".to_owned(), mac.to_string()),
            Self::Unique { space, value, .. } => {
                (None, format!("unique/{space}"), value.to_string())
            }
            Self::Disjoint { space, prefix } => {
                (None, format!("disjoint/{space}"), prefix.to_string())
            }
        };
        Slot { vni, space, value }
    }

    /// What is claimed, and its value, for people.
    #[must_use]
    pub fn called(&self) -> (&'static str, String) {
        match self {
            Self::Ip { ip, .. } => ("IP", ip.to_string()),
            Self::Mac { mac, .. } => ("MAC", mac.to_string()),
            Self::Unique { space, value, .. } => ("claim", format!("{space} {value}")),
            Self::Disjoint { space, prefix } => ("prefix", format!("{prefix} ({space})")),
        }
    }
}

/// What becomes of an object when what it refers to is to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRemoval {
    /// The other stays as long as this object does.
    Restrict,
    /// This object goes with it.
    Cascade,
}

impl OnRemoval {
    /// As one word.
    #[must_use]
    pub const fn to_word(self) -> &'static str {
        match self {
            Self::Restrict => "restrict",
            Self::Cascade => "cascade",
        }
    }

    /// From such a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        let mut all = [Self::Restrict, Self::Cascade].into_iter();
        all.find(|one| one.to_word() == word)
    }
}

/// Something that has to exist for an object to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// What it is. A network's key is its VNI, a node's and an endpoint's its name.
    #[serde(flatten)]
    pub target: ObjectId,
    /// What becomes of the object when that is to be removed.
    pub on_removal: OnRemoval,
}

/// What a reference is to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A network.
    Network(Vni),
    /// A node.
    Node(Name),
    /// An endpoint.
    Endpoint(Name),
    /// Another object.
    Object(ObjectId),
    /// A network, node or endpoint whose key no such thing can have.
    Nothing,
}

const NETWORK: Kind = Kind::new("network");
const NODE: Kind = Kind::new("node");
const ENDPOINT: Kind = Kind::new("endpoint");

impl ObjectId {
    /// Names a network as the target of a reference.
    #[must_use]
    pub fn of_network(vni: Vni) -> Self {
        Self {
            kind: NETWORK,
            key: vni.into(),
        }
    }

    /// Names a node as the target of a reference.
    #[must_use]
    pub fn of_node(name: &Name) -> Self {
        Self {
            kind: NODE,
            key: name.into(),
        }
    }

    /// Names an endpoint as the target of a reference.
    #[must_use]
    pub fn of_endpoint(name: &Name) -> Self {
        Self {
            kind: ENDPOINT,
            key: name.into(),
        }
    }

    /// What it names as the target of a reference.
    #[must_use]
    pub fn target(&self) -> Target {
        let key = self.key.as_str();
        let name = |of: fn(Name) -> Target| key.parse().map_or(Target::Nothing, of);
        match &self.kind {
            kind if *kind == NETWORK => key.parse().map_or(Target::Nothing, Target::Network),
            kind if *kind == NODE => name(Target::Node),
            kind if *kind == ENDPOINT => name(Target::Endpoint),
            _ => Target::Object(self.clone()),
        }
    }
}

impl Reference {
    /// A reference that keeps its target from being removed.
    #[must_use]
    pub const fn restrict(target: ObjectId) -> Self {
        Self {
            target,
            on_removal: OnRemoval::Restrict,
        }
    }

    /// A reference whose object goes with its target.
    #[must_use]
    pub const fn cascade(target: ObjectId) -> Self {
        Self {
            target,
            on_removal: OnRemoval::Cascade,
        }
    }
}

/// Desired state of some kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// What it is and which one.
    #[serde(flatten)]
    pub id: ObjectId,
    /// All else that its kind says, in that kind's words.
    pub body: Map<String, Value>,
    /// What it alone has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<Claim>,
    /// What has to exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<Reference>,
    /// The registry's revision at the commit that made it so; 0 before it.
    #[serde(default)]
    pub revision: Revision,
}

impl Object {
    /// Whether both say the same, whatever their revisions.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let Self {
            id,
            body,
            claims,
            references,
            revision: _,
        } = self;
        (id, body, claims, references) == (&other.id, &other.body, &other.claims, &other.references)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_reads_as_it_was_written() {
        let text = r#"{"kind":"router-port","key":"42","body":{"color":"red","router":"r1"},"claims":[{"ip":{"vni":42,"ip":"7.7.0.1"}},{"unique":{"space":"block","value":"203.0.113.7/12","quarantine_s":120}},{"disjoint":{"space":"router/r1","prefix":"7.7.0.0/16"}}],"references":[{"kind":"network","key":"42","on_removal":"restrict"},{"kind":"router","key":"r1","on_removal":"cascade"}],"revision":7}"#;
        let object: Object = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&object).unwrap(), text);
        let targets: Vec<_> = object
            .references
            .iter()
            .map(|it| it.target.target())
            .collect();
        let router = object.references[1].target.clone();
        assert_eq!(
            targets,
            [
                Target::Network("42".parse().unwrap()),
                Target::Object(router)
            ]
        );
        let unknown = text.replace("disjoint", "nearby");
        assert!(serde_json::from_str::<Object>(&unknown).is_err());
    }

    #[test]
    fn a_target_and_its_name_are_the_same() {
        for word in [
            "network/42",
            "node/h1",
            "endpoint/web",
            "route/r1/10.0.0.0/8",
        ] {
            let id = ObjectId::from_word(word).unwrap();
            assert_eq!(id.to_word(), word);
            let back = match id.target() {
                Target::Network(vni) => ObjectId::of_network(vni),
                Target::Node(name) => ObjectId::of_node(&name),
                Target::Endpoint(name) => ObjectId::of_endpoint(&name),
                Target::Object(id) => id,
                Target::Nothing => panic!("{word}"),
            };
            assert_eq!(back, id);
        }
        for word in ["network/0", "network/a", "endpoint/a:b"] {
            let id = ObjectId::from_word(word).unwrap();
            assert_eq!(id.target(), Target::Nothing, "{word}");
        }
        assert_eq!(ObjectId::from_word("web"), None);
    }
}
