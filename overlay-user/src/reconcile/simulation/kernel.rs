//! What the simulated kernel has, and what goes wrong with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use crate::model::{Attachment, FdbKey, IfName, Mac, Miss, Name, NeighborKey, Tables, Vni, Wanted};

/// What the kernel has.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    pub(super) tables: Tables,
    /// Interfaces of ours, by endpoint: index, namespace, name.
    pub(super) ports: BTreeMap<Name, (u32, Name, IfName)>,
    /// Endpoints for which one was tried to be made at any time.
    pub(super) ever_ours: BTreeSet<Name>,
    /// Interfaces of another owner, in the same namespaces.
    pub(super) foreign: BTreeSet<(Name, IfName)>,
    pub(super) attached: BTreeSet<u32>,
    /// Interfaces that are up.
    pub(super) up: BTreeSet<u32>,
    /// Interfaces whose endpoints can send.
    pub(super) open: BTreeSet<u32>,
    /// Interfaces that had a row at some time: one whose endpoint goes has none for a moment.
    pub(super) had_row: BTreeSet<u32>,
    /// Whether a write ever failed: rows may be missing then.
    pub(super) has_failed_writing: bool,
    pub(super) is_underlay_attached: bool,
    pub(super) lease: Option<Instant>,
    /// When frames used rows that age.
    pub(super) used: BTreeMap<FdbKey, Instant>,
    /// Until when addresses raise no miss.
    pub(super) negative: BTreeMap<(Vni, Wanted), Instant>,
    /// Answers to frames that asked for an address.
    pub(super) answers: Vec<(Miss, Mac)>,
    /// What was last announced of an address.
    pub(super) announced: BTreeMap<NeighborKey, Mac>,
    /// Rows that were lost or changed behind the agent's back.
    pub(super) tampered: BTreeSet<FdbKey>,
    /// Rows that were put there behind its back.
    pub(super) littered: BTreeSet<NeighborKey>,
    /// Counts what the agent does.
    pub(super) activity: u64,
    /// What must never happen, and did.
    pub(super) violations: Vec<String>,
}

impl Kernel {
    /// Looks for the row that a frame wants, as the programs do: whether it is there, and whether a miss is raised.
    pub(super) fn look_for(&mut self, miss: &Miss) -> (bool, bool) {
        let now = Instant::now();
        let found = match miss.wanted {
            Wanted::Mac(mac) => {
                let key = FdbKey { vni: miss.vni, mac };
                let found = self.tables.fdb.contains_key(&key);
                if found {
                    self.used.insert(key, now);
                }
                found
            }
            Wanted::Ip(ip) => self
                .tables
                .neighbors
                .contains_key(&NeighborKey { vni: miss.vni, ip }),
        };
        let network = self.tables.networks.get(&miss.vni);
        let is_on_demand = network.is_some_and(|row| row.on_demand);
        let key = (miss.vni, miss.wanted);
        let is_negative = self.negative.get(&key).is_some_and(|until| *until > now);
        let raises = !found && is_on_demand && !is_negative;
        if raises {
            self.negative.insert(key, now + Duration::from_secs(1));
        }
        (found, raises)
    }

    /// To be called when rows were written.
    pub(super) fn note_rows(&mut self) {
        self.had_row.extend(self.tables.endpoints.keys());
    }

    /// A look at an interface whose host side is up lets its endpoint send: what that sends first must find
    /// its program and its row.
    pub(super) fn open_if_up(&mut self, ifindex: u32) {
        if !self.up.contains(&ifindex) || !self.open.insert(ifindex) {
            return;
        }
        let rows = [
            self.tables.endpoints.contains_key(&ifindex),
            self.had_row.contains(&ifindex),
        ];
        let has_row = rows.contains(&true) || self.has_failed_writing;
        let has_program = self.attached.contains(&ifindex);
        if !has_row || !has_program {
            let violation = format!(
                "interface {ifindex} can send: it has a row: {has_row}, a program: {has_program}"
            );
            self.violations.push(violation);
        }
    }
}

/// What goes wrong, and how often.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    /// Writes that fail half-way, of 256.
    pub(super) writes: u8,
    /// Looks at tables that fail, of 256.
    pub(super) looks: u8,
    /// Changes of interfaces that fail, of 256.
    pub(super) ports: u8,
    /// Programs that can't be attached, of 256.
    pub(super) attachments: u8,
    /// Whether the question for all interfaces is not answered.
    pub(super) hangs: bool,
    /// An endpoint whose interface the kernel does not get done with.
    pub(super) held: Option<&'static str>,
    /// How long changes of interfaces take at most.
    pub(super) lateness: Duration,
}

/// The namespace and the interface in it, where an endpoint is in one.
pub(super) fn place_of(attachment: &Attachment) -> Option<(Name, IfName)> {
    let (netns, ifname) = (attachment.netns()?, attachment.ifname()?);
    Some((netns.clone(), ifname.clone()))
}
