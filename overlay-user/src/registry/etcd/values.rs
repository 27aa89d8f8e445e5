//! Values of the keys: JSON, without what the key says already. Fields that a binary does not know
//! are left alone, so a newer one may add some.

use ipnet::IpNet;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::store_error::StoreError;
use crate::model::{
    Attachment, AttachmentFields, Endpoint, IfName, Mac, Name, Node, ObjectId, Revision,
    UnknownAttachment, Vni, Vtep, replace,
};

/// A node, without its name and its liveliness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NodeValue {
    pub(super) vtep: Vtep,
    pub(super) agent: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    abi: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
}

impl From<&Node> for NodeValue {
    fn from(node: &Node) -> Self {
        Self {
            vtep: node.vtep,
            agent: node.agent,
            version: node.version.clone(),
            abi: node.abi,
            mtu: node.mtu,
        }
    }
}

impl NodeValue {
    pub(super) fn into_node(self, name: Name) -> Node {
        Node {
            version: self.version,
            abi: self.abi,
            mtu: self.mtu,
            ..Node::new(name, self.vtep, self.agent)
        }
    }
}

/// An endpoint, without its VNI and name; its generation is the key's revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "EndpointFields", into = "EndpointFields")]
pub(super) struct EndpointValue {
    pub(super) mac: Mac,
    pub(super) addresses: Vec<IpNet>,
    pub(super) node: Name,
    pub(super) attachment: Option<Attachment>,
}

/// The fields of an endpoint's value. Not flattened: a million values are read at a start.
#[derive(Serialize, Deserialize)]
struct EndpointFields {
    mac: Mac,
    #[serde(rename = "ips")]
    addresses: Vec<IpNet>,
    node: Name,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    netns: Option<Name>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ifname: Option<IfName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attachment: Option<UnknownAttachment>,
}

impl TryFrom<EndpointFields> for EndpointValue {
    type Error = &'static str;

    fn try_from(fields: EndpointFields) -> Result<Self, Self::Error> {
        let attachment = AttachmentFields {
            netns: fields.netns,
            ifname: fields.ifname,
            other: fields.attachment,
        };
        Ok(Self {
            mac: fields.mac,
            addresses: fields.addresses,
            node: fields.node,
            attachment: attachment.try_into()?,
        })
    }
}

impl From<EndpointValue> for EndpointFields {
    fn from(value: EndpointValue) -> Self {
        let AttachmentFields {
            netns,
            ifname,
            other: attachment,
        } = value.attachment.into();
        Self {
            mac: value.mac,
            addresses: value.addresses,
            node: value.node,
            netns,
            ifname,
            attachment,
        }
    }
}

impl From<&Endpoint> for EndpointValue {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            mac: endpoint.mac,
            addresses: endpoint.addresses.clone(),
            node: endpoint.node.clone(),
            attachment: endpoint.attachment.clone(),
        }
    }
}

impl EndpointValue {
    pub(super) fn into_endpoint(self, vni: Vni, name: Name, generation: Revision) -> Endpoint {
        Endpoint {
            name,
            vni,
            mac: self.mac,
            addresses: self.addresses,
            node: self.node,
            attachment: self.attachment,
            generation,
        }
    }
}

/// The value's bytes.
pub(super) fn write(value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| StoreError::Row(error.to_string()))
}

/// The value of `key`.
pub(super) fn read<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(value).map_err(|error| bad(key, &error))
}

/// The bytes of `new` in the place of `previous`, which was read from `value`: fields that this binary does not
/// know stay.
pub(super) fn rewrite<T: Serialize>(
    value: &[u8],
    previous: &T,
    new: &T,
) -> Result<Vec<u8>, StoreError> {
    let fields = |value: &T| match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => Ok(fields),
        _ => Err(StoreError::Row("it is no structure".to_owned())),
    };
    let mut all: Map<String, Value> =
        serde_json::from_slice(value).map_err(|error| StoreError::Row(error.to_string()))?;
    replace(&mut all, &fields(previous)?, fields(new)?);
    write(&all)
}

/// The value of `key`, if it is one word.
pub(super) fn word<T: std::str::FromStr<Err: std::fmt::Display>>(
    key: &[u8],
    value: &[u8],
) -> Result<T, StoreError> {
    str::from_utf8(value)
        .map_err(|error| bad(key, &error))?
        .parse()
        .map_err(|error| bad(key, &error))
}

/// The object that a claim's value names. `None`: an endpoint has it.
pub(super) fn owner(value: &[u8]) -> Option<ObjectId> {
    ObjectId::from_word(str::from_utf8(value).ok()?)
}

fn bad(key: &[u8], error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Row(format!("{}: {error}", String::from_utf8_lossy(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_reads_as_it_was_written_and_unknown_fields_are_no_error() {
        let text = r#"{"mac":"02:42:07:07:07:02","ips":["7.7.7.2/24","fd00::2/64"],"node":"h1","netns":"blue","ifname":"eth0","color":"red"}"#;
        let value: EndpointValue = read(b"k", text.as_bytes()).unwrap();
        let endpoint =
            value
                .clone()
                .into_endpoint("42".parse().unwrap(), "blue".parse().unwrap(), 7);
        assert_eq!(endpoint.generation, 7);
        assert_eq!(EndpointValue::from(&endpoint), value);
        let written = String::from_utf8(write(&value).unwrap()).unwrap();
        assert_eq!(written, text.replace(r#","color":"red""#, ""));
        let moved = EndpointValue {
            node: "h2".parse().unwrap(),
            attachment: None,
            ..value.clone()
        };
        let rewritten = rewrite(text.as_bytes(), &value, &moved).unwrap();
        assert_eq!(read::<EndpointValue>(b"k", &rewritten).unwrap(), moved);
        let rewritten: Map<String, Value> = read(b"k", &rewritten).unwrap();
        assert_eq!(rewritten.get("color"), Some(&"red".into()));
    }

    #[test]
    fn a_value_that_no_agent_wrote_is_reported_with_its_key() {
        let failure = read::<EndpointValue>(b"/overlay/v1/state/endpoint/x", b"{}").unwrap_err();
        let line = failure.explain("etcd://h:1").to_string();
        assert!(
            line.contains("/overlay/v1/state/endpoint/x: missing field"),
            "{line}"
        );
    }
}
