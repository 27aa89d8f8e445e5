//! Answers what endpoints ask DHCP servers and routers, with the registry's addresses.
//!
//! A task of its own: it reads what the reconciler knows, and where that is busy what it knew a moment ago. It remembers
//! nothing of clients, and so nothing is lost with it.

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv6Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use self::{
    advertiser::{Advertiser, Endpoint},
    frames::{ALL_NODES, Question},
    served::{Networks, Served},
};
use crate::{
    agent::api::GATEWAY_MAC,
    datapath::Datapath,
    model::{Mac, Punt, Vni},
    reconcile::{Observer, View, desired::Local},
};

mod advertiser;
mod frames;
mod ra;
mod served;
mod v4;
mod v6;

/// How often it is looked who is to hear of its router.
const TICK: Duration = Duration::from_secs(1);
/// How long an endpoint that was never seen waits for what the reconciler knows.
const PATIENCE: Duration = Duration::from_millis(200);
/// Questions that are answered before all else is looked at again.
const AT_ONCE: usize = 64;

/// The programs' counter of questions that found no room on their way here.
const LOST: &str = "punts_lost";

/// What was sent to endpoints, or heard from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Kind {
    /// DHCPv4: an address is offered.
    Offer,
    /// DHCPv4: it is the endpoint's.
    Ack,
    /// DHCPv4: another one is.
    Nak,
    /// DHCPv4: a client gives its address back, which it keeps.
    Release,
    /// DHCPv4: a client says that its address is somebody else's.
    Decline,
    /// DHCPv6: addresses are offered.
    Advertise,
    /// DHCPv6: all other answers.
    Reply,
    /// A router advertisement, asked for or not.
    RouterAdvertisement,
    /// A question that was malformed, or for somebody else.
    Ignored,
}

impl Kind {
    /// Every one of them.
    const ALL: [Self; 9] = [
        Self::Offer,
        Self::Ack,
        Self::Nak,
        Self::Release,
        Self::Decline,
        Self::Advertise,
        Self::Reply,
        Self::RouterAdvertisement,
        Self::Ignored,
    ];

    /// The name that the metrics use.
    const fn name(self) -> &'static str {
        match self {
            Self::Offer => "offer",
            Self::Ack => "ack",
            Self::Nak => "nak",
            Self::Release => "release",
            Self::Decline => "decline",
            Self::Advertise => "advertise",
            Self::Reply => "reply",
            Self::RouterAdvertisement => "router_advertisement",
            Self::Ignored => "ignored",
        }
    }
}

/// Counts what was answered, since the agent's start.
#[derive(Debug, Default)]
pub(super) struct Answers {
    kinds: [AtomicU64; Kind::ALL.len()],
    /// Questions that were lost before, while no agent ran.
    lost_before: AtomicU64,
}

impl Answers {
    fn count(&self, kind: Kind) {
        if let Some(counter) = self.kinds.get(kind as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Each kind's name, and how many there were.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counters = self.kinds.iter();
        let counters = counters.map(|counter| counter.load(Ordering::Relaxed));
        Kind::ALL.iter().map(|kind| kind.name()).zip(counters)
    }

    /// How many questions found no room on their way to this agent, by the programs' counters.
    pub(super) fn lost(&self, counters: &BTreeMap<&'static str, u64>) -> u64 {
        let lost = counters.get(LOST).copied().unwrap_or_default();
        lost.saturating_sub(self.lost_before.load(Ordering::Relaxed))
    }
}

/// What answers.
pub(super) struct Server {
    datapath: Arc<dyn Datapath>,
    observer: Observer,
    local: Local,
    answers: Arc<Answers>,
    networks: Networks,
    /// What endpoints were told last, for while the reconciler changes what it knows.
    known: HashMap<(Vni, Mac), Arc<Served>>,
    advertiser: Advertiser,
    /// The MAC that DHCPv6 clients know the server by.
    id: Mac,
}

impl Server {
    pub(super) fn new(
        datapath: Arc<dyn Datapath>,
        observer: Observer,
        local: Local,
        answers: Arc<Answers>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            datapath,
            observer,
            local,
            answers,
            networks: Networks::default(),
            known: HashMap::new(),
            advertiser: Advertiser::default(),
            id: Mac::try_from(GATEWAY_MAC)?,
        })
    }

    /// Ends with the datapath.
    pub(super) async fn run(mut self) {
        let mut punts = match self.datapath.punts() {
            Ok(punts) => punts,
            Err(error) => return tracing::warn!(%error, "DHCP is not answered"),
        };
        let counters = self.datapath.counters().unwrap_or_default();
        let lost = counters.get(LOST).copied().unwrap_or_default();
        self.answers.lost_before.store(lost, Ordering::Relaxed);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut waiting = Vec::with_capacity(AT_ONCE);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    self.look().await;
                    self.advertise(Instant::now());
                }
                count = punts.recv_many(&mut waiting, AT_ONCE) => {
                    if count == 0 {
                        return;
                    }
                    for punt in waiting.drain(..) {
                        self.answer(&punt).await;
                    }
                }
            }
        }
    }

    /// Takes in who is to hear of its router. The reconciler's own work goes first.
    async fn look(&mut self) {
        let Ok(view) = timeout(PATIENCE, self.observer.view()).await else {
            return;
        };
        let now = Instant::now();
        let mut endpoints = HashMap::new();
        for known in view.mirror.local_endpoints() {
            let Some(ifindex) = view.interface(known.name()) else {
                continue;
            };
            let served = self.networks.served(&view.mirror, &known, &self.local);
            if let Some(served) = served.filter(|served| served.ipv6().next().is_some()) {
                endpoints.insert(ifindex, Endpoint::new(known.vni(), Arc::new(served)));
            }
        }
        let is_here = |vni, mac| view.mirror.by_mac(vni, mac).is_some_and(|it| it.is_local());
        self.known.retain(|(vni, mac), _| is_here(*vni, *mac));
        let left = self.advertiser.follow(endpoints, now, is_here);
        drop(view);
        for (ifindex, served) in left {
            self.send_advertisement(ifindex, &served, ALL_NODES, true);
        }
    }

    /// Sends what is due.
    fn advertise(&mut self, now: Instant) {
        for (ifindex, served) in self.advertiser.due(now) {
            self.send_advertisement(ifindex, &served, ALL_NODES, false);
        }
    }

    fn send_advertisement(&self, ifindex: u32, served: &Served, to: Ipv6Addr, is_last: bool) {
        let (head, rest) = ra::advertisement(served, is_last);
        let to = (served.mac, to);
        let frame = frames::advertisement(served.told.mac, to, (head, &rest));
        self.send(ifindex, Kind::RouterAdvertisement, frame.ok());
    }

    async fn answer(&mut self, punt: &Punt) {
        let Some(question) = Question::parse(&punt.frame) else {
            return self.answers.count(Kind::Ignored);
        };
        let Some(served) = self.served(punt).await else {
            return self.answers.count(Kind::Ignored);
        };
        let (ifindex, mac) = (punt.ifindex, served.told.mac);
        match question {
            Question::V4 { message } => match v4::answer(message, &served) {
                v4::Outcome::Answer(answer) => {
                    let to = (served.mac, answer.to);
                    let frame = frames::v4((mac, served.server), to, &answer.message);
                    self.send(ifindex, answer.kind, frame.ok());
                }
                v4::Outcome::Noted(kind) => self.answers.count(kind),
                v4::Outcome::Ignored => self.answers.count(Kind::Ignored),
            },
            Question::V6 { message, source } => match v6::answer(message, &served, self.id) {
                v6::Outcome::Answer(kind, message) => {
                    let frame = frames::v6(mac, (served.mac, source), &message);
                    self.send(ifindex, kind, frame.ok());
                }
                v6::Outcome::Ignored => self.answers.count(Kind::Ignored),
            },
            Question::Router { source } => {
                let endpoint = Endpoint::new(punt.vni, Arc::clone(&served));
                let is_heard = served.ipv6().next().is_some()
                    && self.advertiser.solicited(ifindex, endpoint, Instant::now());
                if is_heard {
                    let to = if source.is_unspecified() {
                        ALL_NODES
                    } else {
                        source
                    };
                    self.send_advertisement(ifindex, &served, to, false);
                } else {
                    self.answers.count(Kind::Ignored);
                }
            }
        }
    }

    fn send(&self, ifindex: u32, kind: Kind, frame: Option<Vec<u8>>) {
        let Some(frame) = frame else {
            return self.answers.count(Kind::Ignored);
        };
        match self.datapath.send_frame(ifindex, &frame) {
            Ok(()) => self.answers.count(kind),
            // Its interface has gone, or is down: it asks again.
            Err(error) => {
                tracing::debug!(%error, ifindex, kind = kind.name(), "an answer was not sent");
                self.answers.count(Kind::Ignored);
            }
        }
    }

    /// What the endpoint is told that a frame comes from.
    async fn served(&mut self, punt: &Punt) -> Option<Arc<Served>> {
        let key = (punt.vni, punt.mac);
        if let Some(view) = self.observer.try_view() {
            let (networks, known) = (&mut self.networks, &mut self.known);
            return note(networks, known, &view, &self.local, key);
        }
        if let Some(known) = self.known.get(&key) {
            return Some(Arc::clone(known));
        }
        let view = timeout(PATIENCE, self.observer.view()).await.ok()?;
        let (networks, known) = (&mut self.networks, &mut self.known);
        note(networks, known, &view, &self.local, key)
    }
}

/// What an endpoint is told by what is known now.
fn note(
    networks: &mut Networks,
    known: &mut HashMap<(Vni, Mac), Arc<Served>>,
    view: &View,
    local: &Local,
    (vni, mac): (Vni, Mac),
) -> Option<Arc<Served>> {
    let endpoint = view
        .mirror
        .by_mac(vni, mac)
        .filter(crate::reconcile::mirror::EndpointRef::is_local);
    let served = endpoint.and_then(|it| networks.served(&view.mirror, &it, local));
    let Some(served) = served else {
        known.remove(&(vni, mac));
        return None;
    };
    let served = Arc::new(served);
    known.insert((vni, mac), Arc::clone(&served));
    Some(served)
}
