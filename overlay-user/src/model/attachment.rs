//! An attachment: how an endpoint is connected to its host.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::{Value, json};

use super::{IfName, Name};

/// How an endpoint is connected to its host.
///
/// In a record a veth is the fields `netns` and `ifname`, as it was before there were other kinds. What else is said of it
/// is in the field `attachment`, with `veth` in `kind`, which earlier versions pass over. Every other kind is an object in the field `attachment` with its name in `kind`: a version that does not know it keeps
/// it, passes it on and still sends to the endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Attachment {
    /// A pair of veth devices with one end in a namespace.
    Veth(InNetns),
    /// Of a kind that this version does not know.
    Unknown(UnknownAttachment),
}

/// An interface in a network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InNetns {
    /// The namespace's name under `/run/netns`. One that was named by a process or a path has one too.
    pub netns: Name,
    /// The interface's name in there.
    pub ifname: IfName,
    /// Whether a DHCP client in there sets the addresses, and the agent none.
    pub dhcp: bool,
}

/// An attachment as a newer version wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct UnknownAttachment {
    kind: String,
    value: Value,
}

impl Attachment {
    /// A veth whose end `ifname` is in namespace `netns`.
    #[must_use]
    pub const fn veth(netns: Name, ifname: IfName) -> Self {
        Self::Veth(InNetns {
            netns,
            ifname,
            dhcp: false,
        })
    }

    /// The same; a DHCP client in the endpoint sets its addresses, or not.
    #[must_use]
    pub fn with_dhcp(self, dhcp: bool) -> Self {
        match self {
            Self::Veth(veth) => Self::Veth(InNetns { dhcp, ..veth }),
            Self::Unknown(_) => self,
        }
    }

    /// Whether a DHCP client in the endpoint sets its addresses.
    #[must_use]
    pub const fn dhcp(&self) -> bool {
        match self {
            Self::Veth(veth) => veth.dhcp,
            Self::Unknown(_) => false,
        }
    }

    /// The namespace that the endpoint's interface is in, where it is in one.
    #[must_use]
    pub const fn netns(&self) -> Option<&Name> {
        match self {
            Self::Veth(veth) => Some(&veth.netns),
            Self::Unknown(_) => None,
        }
    }

    /// The name of the endpoint's interface in that namespace.
    #[must_use]
    pub const fn ifname(&self) -> Option<&IfName> {
        match self {
            Self::Veth(veth) => Some(&veth.ifname),
            Self::Unknown(_) => None,
        }
    }
}

/// The kind of what is said of a veth beside its namespace and interface.
const VETH: &str = "veth";
/// Whether a DHCP client sets its addresses.
const DHCP: &str = "dhcp";

impl UnknownAttachment {
    /// The kind's name.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// What is said of a veth beside its namespace and interface. `None`: nothing.
    fn of_veth(veth: &InNetns) -> Option<Self> {
        veth.dhcp.then(|| Self {
            kind: VETH.to_owned(),
            value: json!({"kind": VETH, DHCP: true}),
        })
    }

    /// Whether it says of a veth that a DHCP client sets its addresses.
    fn is_veth_with_dhcp(&self) -> bool {
        self.kind == VETH && self.value.get(DHCP).and_then(Value::as_bool) == Some(true)
    }
}

impl TryFrom<Value> for UnknownAttachment {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        let kind = value.get("kind").and_then(Value::as_str);
        let kind = kind.ok_or("an attachment has no kind")?.to_owned();
        Ok(Self { kind, value })
    }
}

impl From<UnknownAttachment> for Value {
    fn from(attachment: UnknownAttachment) -> Self {
        attachment.value
    }
}

/// The fields that an attachment is in a record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentFields {
    /// The namespace's name.
    #[serde(default)]
    pub netns: Option<Name>,
    /// The interface's name in it.
    #[serde(default)]
    pub ifname: Option<IfName>,
    /// Every other kind.
    #[serde(
        default,
        rename = "attachment",
        skip_serializing_if = "Option::is_none"
    )]
    pub other: Option<UnknownAttachment>,
}

impl From<Option<Attachment>> for AttachmentFields {
    fn from(attachment: Option<Attachment>) -> Self {
        match attachment {
            Some(Attachment::Veth(veth)) => Self {
                other: UnknownAttachment::of_veth(&veth),
                netns: Some(veth.netns),
                ifname: Some(veth.ifname),
            },
            Some(Attachment::Unknown(other)) => Self {
                other: Some(other),
                ..Self::default()
            },
            None => Self::default(),
        }
    }
}

impl TryFrom<AttachmentFields> for Option<Attachment> {
    type Error = &'static str;

    fn try_from(fields: AttachmentFields) -> Result<Self, Self::Error> {
        match (fields.netns, fields.ifname, fields.other) {
            (None, None, None) => Ok(None),
            // Beside another kind they are newer: an agent that knows veths alone moved the endpoint.
            (Some(netns), Some(ifname), other) => {
                let dhcp = other.is_some_and(|other| other.is_veth_with_dhcp());
                Ok(Some(Attachment::veth(netns, ifname).with_dhcp(dhcp)))
            }
            (None, None, Some(other)) => Ok(Some(Attachment::Unknown(other))),
            _ => Err("a namespace and an interface go together: one of them is missing"),
        }
    }
}

#[expect(clippy::ref_option, reason = "serde hands it over so")]
/// Writes an attachment as the fields of the record that it is in.
pub(super) fn serialize<S: Serializer>(
    attachment: &Option<Attachment>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    AttachmentFields::from(attachment.clone()).serialize(serializer)
}

/// Reads an attachment from the fields of the record that it is in.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Attachment>, D::Error> {
    let fields = AttachmentFields::deserialize(deserializer)?;
    fields.try_into().map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(record: Value) -> Result<Option<Attachment>, String> {
        let fields: AttachmentFields =
            serde_json::from_value(record).map_err(|error| error.to_string())?;
        fields.try_into().map_err(str::to_owned)
    }

    #[test]
    fn a_veth_is_the_fields_that_it_always_was() {
        let record = json!({"netns": "web", "ifname": "eth0"});
        let attachment = read(record.clone()).unwrap();
        let expected = Attachment::veth("web".parse().unwrap(), "eth0".parse().unwrap());
        assert_eq!(attachment, Some(expected));
        let written = serde_json::to_value(AttachmentFields::from(attachment)).unwrap();
        assert_eq!(written, record);
        assert_eq!(read(json!({"netns": null, "ifname": null})), Ok(None));
        assert_eq!(read(json!({})), Ok(None));
    }

    #[test]
    fn a_veth_whose_addresses_a_client_sets_says_so_where_earlier_versions_pass_it_over() {
        let record = json!({
            "netns": "web", "ifname": "eth0", "attachment": {"kind": "veth", "dhcp": true}
        });
        let attachment = read(record.clone()).unwrap();
        let expected = Attachment::veth("web".parse().unwrap(), "eth0".parse().unwrap());
        assert_eq!(attachment, Some(expected.with_dhcp(true)));
        let written = serde_json::to_value(AttachmentFields::from(attachment)).unwrap();
        assert_eq!(written, record);
    }

    #[test]
    fn a_kind_of_a_newer_version_is_passed_on_as_it_is() {
        let record = json!({"attachment": {"kind": "tap", "name": "vm1", "queues": 4}});
        let attachment = read(record.clone()).unwrap();
        assert!(
            matches!(&attachment, Some(Attachment::Unknown(other)) if other.kind() == "tap"),
            "{attachment:?}"
        );
        let written = serde_json::to_value(AttachmentFields::from(attachment)).unwrap();
        assert_eq!(written["attachment"], record["attachment"]);
    }

    #[test]
    fn a_namespace_counts_more_than_another_kind_beside_it() {
        let record = json!({"netns": "web", "ifname": "eth0", "attachment": {"kind": "tap"}});
        let expected = Attachment::veth("web".parse().unwrap(), "eth0".parse().unwrap());
        assert_eq!(read(record), Ok(Some(expected)));
    }

    #[test]
    fn half_an_attachment_is_an_error() {
        for record in [
            json!({"netns": "web"}),
            json!({"ifname": "eth0"}),
            json!({"netns": "web", "attachment": {"kind": "tap"}}),
            json!({"attachment": {"name": "vm1"}}),
            json!({"attachment": "tap"}),
            json!({"netns": "/", "ifname": "eth0"}),
        ] {
            assert!(read(record.clone()).is_err(), "{record}");
        }
    }
}
