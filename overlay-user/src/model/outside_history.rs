//! Who had an external address, or a block of its ports: what abuse reports are answered from (RFC 7422 section 3).

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{Block, Float, Key, Kind, Name, Object, Resource, SharedAddress, Vni};

/// How many owners are remembered: the last ones.
const OWNERS: usize = 64;

/// Who had it, the last one last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutsideHistory {
    /// What they had: a float's address, or a block's and its number.
    pub of: Key,
    /// Who.
    pub owners: Vec<Owner>,
}

/// Who had it for a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The endpoint.
    pub endpoint: Name,
    /// Its network.
    pub vni: Vni,
    /// Its node; `None`: it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Name>,
    /// Since when, seconds since 1970.
    pub from: u64,
    /// Until when, likewise; `None`: nobody has said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

impl Resource for OutsideHistory {
    const KIND: Kind = Kind::new("outside-history");

    fn key(&self) -> Key {
        self.of.clone()
    }
}

impl OutsideHistory {
    /// What is remembered of a float by.
    #[must_use]
    pub fn key_of_float(ip: Ipv4Addr) -> Key {
        Key::new("float").join(&IpAddr::V4(ip).into())
    }

    /// What is remembered of a block by.
    #[must_use]
    pub fn key_of_block(block: &Block) -> Key {
        let address = SharedAddress::key_of(block.ip, &block.node, block.pool.is_none());
        Key::new("block")
            .join(&address)
            .join(&u32::from(block.number).into())
    }

    /// What is remembered of the block that a port of a shared address is of.
    #[must_use]
    pub fn key_of_port(shared: &SharedAddress, port: u16) -> Key {
        let number = port.checked_div(shared.block).unwrap_or(0);
        Key::new("block")
            .join(&shared.key())
            .join(&u32::from(number).into())
    }

    /// The history of this key with another owner from now on; `there` is what is known of it.
    pub fn begun(of: &Key, owner: Owner, there: Option<&Object>) -> Result<Object, String> {
        Self::changed(of, there, |history, now| {
            history.end(now);
            history.owners.push(Owner {
                from: now,
                until: None,
                ..owner
            });
            let surplus = history.owners.len().saturating_sub(OWNERS);
            history.owners.drain(..surplus);
        })
    }

    /// The history of this key, whose owner has it no more. `None`: nothing is known of it.
    pub fn ended(of: &Key, there: Option<&Object>) -> Option<Result<Object, String>> {
        there?;
        Some(Self::changed(of, there, Self::end))
    }

    fn changed(
        of: &Key,
        there: Option<&Object>,
        change: impl FnOnce(&mut Self, u64),
    ) -> Result<Object, String> {
        let empty = || Self {
            of: of.clone(),
            owners: Vec::new(),
        };
        let mut history = there.and_then(|it| Self::of(it).ok()).unwrap_or_else(empty);
        change(&mut history, now());
        match there {
            Some(there) => history.update(there),
            None => history.to_object(),
        }
    }

    fn end(&mut self, now: u64) {
        if let Some(last) = self.owners.last_mut() {
            last.until.get_or_insert(now);
        }
    }

    /// Who had it at a time, seconds since 1970.
    #[must_use]
    pub fn at(&self, time: u64) -> Option<&Owner> {
        let mut owners = self.owners.iter().rev();
        owners.find(|owner| owner.from <= time && owner.until.is_none_or(|until| time <= until))
    }
}

impl From<&Block> for Owner {
    fn from(block: &Block) -> Self {
        Self {
            endpoint: block.endpoint.clone(),
            vni: block.vni,
            node: Some(block.node.clone()),
            from: 0,
            until: None,
        }
    }
}

impl From<&Float> for Owner {
    fn from(float: &Float) -> Self {
        Self {
            endpoint: float.endpoint.clone(),
            vni: float.vni,
            node: None,
            from: 0,
            until: None,
        }
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(endpoint: &str) -> Owner {
        Owner {
            endpoint: endpoint.parse().unwrap(),
            vni: "42".parse().unwrap(),
            node: None,
            from: 0,
            until: None,
        }
    }

    #[test]
    fn a_history_knows_who_had_it_when() {
        let key = || OutsideHistory::key_of_float("203.0.113.5".parse().unwrap());
        let first = OutsideHistory::begun(&key(), owner("web"), None).unwrap();
        assert_eq!(first.id.to_word(), "outside-history/float/203.0.113.5");
        let second = OutsideHistory::begun(&key(), owner("db"), Some(&first)).unwrap();
        let mut history = OutsideHistory::of(&second).unwrap();
        (history.owners[0].from, history.owners[0].until) = (100, Some(200));
        history.owners[1].from = 200;
        let at = |time| history.at(time).map(|owner| owner.endpoint.as_str());
        assert_eq!(at(99), None);
        assert_eq!(at(150), Some("web"));
        assert_eq!(at(200), Some("db"));
        assert_eq!(at(u64::MAX), Some("db"));
        assert_eq!(OutsideHistory::ended(&key(), None), None);
        let ended = OutsideHistory::ended(&key(), Some(&second))
            .unwrap()
            .unwrap();
        assert!(OutsideHistory::of(&ended).unwrap().at(u64::MAX).is_none());
    }

    #[test]
    fn only_the_last_owners_are_remembered() {
        let key = || OutsideHistory::key_of_float("203.0.113.5".parse().unwrap());
        let mut there = None;
        for number in 0..OWNERS + 3 {
            let name = format!("e{number}");
            let next = OutsideHistory::begun(&key(), owner(&name), there.as_ref()).unwrap();
            there = Some(next);
        }
        let history = OutsideHistory::of(&there.unwrap()).unwrap();
        assert_eq!(history.owners.len(), OWNERS);
        assert_eq!(history.owners[0].endpoint.as_str(), "e3");
    }
}
