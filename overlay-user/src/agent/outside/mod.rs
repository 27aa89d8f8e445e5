//! Keeps the way out: the uplink, the blocks of ports of this host's endpoints, and the memory of what is over.

mod blocks;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    net::Ipv4Addr,
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

pub(in crate::agent) use blocks::{Host, Known, NoBlock};

use crate::{
    datapath::Translator,
    model::{
        Block, BlockKey, BlockUse, Change, Float, IfName, Mac, Name, Pool, Resource as _,
        SharedAddress, Uplink, Vni,
    },
    platform::{self, Linux, Platform as _},
    reconcile::{Observer, View, mirror::Mirror, writer::on_kernel},
    registry::{Registry, RegistryError},
};

/// How often it looks.
const TURN: Duration = Duration::from_millis(500);
/// How long the routes may take to settle after one of them changed.
const ROUTES_SETTLE: Duration = Duration::from_millis(10);
/// How often what is over is swept.
const SWEEP: Duration = Duration::from_secs(5);
/// How long the registry may take over a claim.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one look at the uplink may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a block that somebody else has, or had until a moment ago, is not tried again.
const REFUSED_FOR: Duration = Duration::from_mins(1);
/// Most claims of one turn.
const CLAIMS: usize = 64;
/// How long an endpoint's last block is unused before it goes back.
const IDLE_FOR: Duration = Duration::from_mins(10);

/// The way out as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::agent) struct WayOut {
    /// The uplink; `None`: it can't be used.
    pub uplink: Option<Uplink>,
    /// Why not, in a line.
    pub problem: Option<String>,
    /// Endpoints that should have a block and have none, and why.
    pub without_block: BTreeMap<Name, String>,
}

/// Keeps it.
pub(in crate::agent) struct Keeper {
    pub platform: Arc<Linux>,
    pub translator: Arc<dyn Translator>,
    pub registry: Arc<dyn Registry>,
    pub observer: Observer,
    pub node: Name,
    pub uplink: IfName,
    pub ports: RangeInclusive<u16>,
    pub way_out: watch::Sender<WayOut>,
}

/// Blocks that endpoints of all hosts have of each pool, and that there are.
pub(in crate::agent) fn pools(mirror: &Mirror) -> BTreeMap<Name, [u64; 2]> {
    let pools = mirror.objects().filter_map(Pool::known);
    let mut pools: BTreeMap<Name, [u64; 2]> = pools
        .map(|pool| (pool.name.clone(), [0, pool.blocks()]))
        .collect();
    let blocks = mirror.objects().filter_map(Block::known);
    for pool in blocks.filter_map(|block| block.pool) {
        if let Some([used, _]) = pools.get_mut(&pool) {
            *used += 1;
        }
    }
    pools
}

/// What it remembers between its turns.
#[derive(Default)]
struct Memory {
    refused: BTreeMap<BlockKey, Instant>,
    /// Since when the last block of an endpoint is not used.
    idle: BTreeMap<BlockKey, Instant>,
    /// Floats that are here and were told of.
    announced: BTreeSet<Ipv4Addr>,
    /// Where they were told of: the uplink's index and MAC.
    device: Option<(u32, Mac)>,
    swept: Option<Instant>,
    /// The blocks that endpoints of this host had at the last look.
    held: BTreeMap<BlockKey, Block>,
    has_reserved: bool,
}

impl Keeper {
    /// Runs as long as the agent.
    pub(in crate::agent) async fn run(self) {
        tokio::join!(self.follow_uplink(), self.keep());
    }

    /// Looks at the uplink from time to time, and when routes change. What else is kept may wait for the registry; this may
    /// not, since packets go the way that it finds.
    async fn follow_uplink(&self) {
        let mut turns = interval(TURN);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changes = None;
        loop {
            if changes.is_none() {
                changes = self.platform.route_changes().await.ok();
            }
            tokio::select! {
                _ = turns.tick() => {}
                // Otherwise the kernel is asked for each packet, and there is no hurry.
                is_heard = heard(&mut changes), if self.knows_way() => if is_heard {
                    // Many come at once.
                    sleep(ROUTES_SETTLE).await;
                },
            }
            self.look_at_uplink().await;
        }
    }

    async fn keep(&self) {
        let mut memory = Memory::default();
        let mut turns = interval(TURN);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            self.keep_blocks(&mut memory).await;
            self.announce(&mut memory).await;
            if memory.swept.is_none_or(|swept| swept.elapsed() >= SWEEP) {
                memory.swept = Some(Instant::now());
                if let Err(error) = on_kernel(|| self.translator.sweep()) {
                    tracing::warn!(%error, "external ports whose time is over are not freed");
                }
            }
        }
    }

    async fn look_at_uplink(&self) {
        let looked = timeout(LOOK_TIMEOUT, self.platform.uplink(&self.uplink)).await;
        let found = match looked {
            Ok(Ok(uplink)) => {
                let attached = on_kernel(|| self.translator.set_uplink(Some(&uplink)));
                attached.map(|()| uplink).map_err(|error| error.to_string())
            }
            Ok(Err(error @ platform::PlatformError::Refused(_))) => {
                let closed = on_kernel(|| self.translator.set_uplink(None));
                Err(closed
                    .err()
                    .map_or(error.to_string(), |error| error.to_string()))
            }
            Ok(Err(error)) => Err(self.doubt_way(error.to_string())),
            Err(_) => {
                Err(self.doubt_way(format!("no answer of the kernel within {LOOK_TIMEOUT:?}")))
            }
        };
        self.way_out.send_if_modified(|held| {
            let (uplink, problem) = match &found {
                Ok(uplink) => (Some(*uplink), None),
                Err(problem) => (None, Some(problem.clone())),
            };
            let changed = held.uplink != uplink || held.problem != problem;
            if changed && let Some(problem) = &problem {
                tracing::warn!(problem, "there is no way out");
            }
            (held.uplink, held.problem) = (uplink, problem);
            changed
        });
    }

    /// Whether the programs know the way out by heart.
    fn knows_way(&self) -> bool {
        let uplink = self.way_out.borrow().uplink;
        uplink.is_some_and(|uplink| uplink.way.is_some())
    }

    /// A look that failed says nothing about the interface. Where packets go that leave by it, the kernel is asked for each
    /// from now on.
    fn doubt_way(&self, problem: String) -> String {
        let held = self.way_out.borrow().uplink;
        if let Some(uplink) = held.filter(|uplink| uplink.way.is_some()) {
            let doubted = Uplink {
                way: None,
                ..uplink
            };
            if let Err(error) = on_kernel(|| self.translator.set_uplink(Some(&doubted))) {
                tracing::warn!(%error, "the way that packets leave by may be another one by now");
            }
        }
        problem
    }

    fn host(&self) -> Host {
        let address = self
            .way_out
            .borrow()
            .uplink
            .and_then(|uplink| uplink.address);
        Host {
            node: self.node.clone(),
            address: address.map(|address| address.addr()),
            ports: self.ports.clone(),
        }
    }

    /// Gives endpoints of this host the blocks that their networks offer, and takes back what they don't.
    async fn keep_blocks(&self, memory: &mut Memory) {
        let wanted = {
            let view = self.observer.view().await;
            if view.lost.is_some() || view.applied == 0 {
                return;
            }
            let known = Known::of(&view.mirror);
            if known.is_empty() {
                drop(view);
                self.reserve(memory, false).await;
                return;
            }
            let uses = on_kernel(|| self.translator.block_uses()).unwrap_or_else(|error| {
                tracing::warn!(%error, "it is not known which ports are in use");
                Vec::new()
            });
            self.wanted(&view, &known, &uses, memory)
        };
        // The host's own sockets keep off its ports before anybody has them.
        self.reserve(memory, wanted.shares_host).await;
        self.way_out.send_if_modified(|held| {
            let changed = held.without_block != wanted.without_block;
            held.without_block.clone_from(&wanted.without_block);
            changed
        });
        for (key, changes) in wanted.changes {
            let outcome = timeout(COMMIT_TIMEOUT, self.registry.commit(&changes)).await;
            match (outcome, key) {
                (Ok(Ok(_)), _) => {}
                (
                    Ok(Err(RegistryError::Conflict { .. } | RegistryError::Quarantined { .. })),
                    Some(key),
                ) => drop(memory.refused.insert(key, Instant::now())),
                (Ok(Err(error)), _) => {
                    tracing::warn!(%error, "blocks of ports stay as they are");
                    return;
                }
                (Err(_), _) => return,
            }
        }
    }

    fn wanted(&self, view: &View, known: &Known, uses: &[BlockUse], memory: &mut Memory) -> Wanted {
        memory
            .refused
            .retain(|_, since| since.elapsed() < REFUSED_FOR);
        let refused: BTreeSet<BlockKey> = memory.refused.keys().copied().collect();
        let host = self.host();
        let uses: BTreeMap<BlockKey, &BlockUse> = uses.iter().map(|it| (it.key, it)).collect();
        let mut wanted = Wanted::default();
        for (name, _, vni) in blocks::endpoints(view) {
            wanted.shares_host |= known.shares_host(vni);
            if wanted.changes.len() >= CLAIMS {
                continue;
            }
            let (good, stale): (Vec<&Block>, Vec<&Block>) = known
                .blocks_of(name)
                .partition(|block| known.is_wanted(block, vni, &host));
            if !stale.is_empty() {
                let removals = stale.into_iter().map(remove);
                wanted.changes.push((None, removals.collect()));
                continue;
            }
            if let Some(last) = idle_block(&good, &uses, memory) {
                wanted.changes.push((None, vec![remove(last)]));
                continue;
            }
            let is_short = good.iter().all(|block| {
                let found = uses.get(&key_of(block));
                found.is_some_and(|found| found.is_short())
            });
            if good.is_empty() || is_short {
                wanted.claim(known, name, vni, &host, &refused, good.is_empty());
            }
        }
        let held = known.blocks_on(&self.node);
        let held: BTreeMap<BlockKey, Block> = held.map(|it| (key_of(it), it.clone())).collect();
        for (key, block) in std::mem::replace(&mut memory.held, held) {
            if !memory.held.contains_key(&key)
                && let Some(ended) = known.end(&block)
            {
                wanted.changes.push((None, vec![ended]));
            }
        }
        for address in known.idle_addresses(&self.node) {
            // One that an endpoint is about to get a block of is not idle: the claim has it in its transaction.
            let key = SharedAddress::key_of(address.ip, &address.node, address.pool.is_none());
            let removal = Change::RemoveObject(SharedAddress::id(key));
            if wanted.changes.is_empty() {
                wanted.changes.push((None, vec![removal]));
            }
        }
        wanted
    }

    /// Keeps the host's own sockets off the ports that endpoints share, as long as any does.
    async fn reserve(&self, memory: &mut Memory, shares_host: bool) {
        let outcome = match (shares_host, memory.has_reserved) {
            (true, _) => platform::reserve_ports(&self.ports).await,
            (false, true) => platform::release_ports(&self.ports).await,
            (false, false) => return,
        };
        match outcome {
            Ok(_) => memory.has_reserved = shares_host,
            Err(error) => tracing::warn!(%error, "the host's own sockets may use endpoints' ports"),
        }
    }

    /// Tells the uplink's link of floats that have come here.
    async fn announce(&self, memory: &mut Memory) {
        let found = self.way_out.borrow().uplink;
        let device = found.map(|uplink| (uplink.ifindex, uplink.mac));
        if memory.device != device {
            memory.device = device;
            memory.announced.clear();
        }
        let Some(uplink) = found else {
            return;
        };
        let here: BTreeSet<Ipv4Addr> = {
            let view = self.observer.view().await;
            let floats = view.mirror.objects().filter_map(Float::known);
            let local = floats.filter(|float| view.ifindex(&float.endpoint).is_some());
            local.map(|float| float.ip).collect()
        };
        for ip in here.difference(&memory.announced) {
            if let Err(error) = on_kernel(|| self.translator.announce_outside(&uplink, *ip)) {
                tracing::warn!(%error, %ip, "the uplink's neighbours learn late that it is here");
            }
        }
        memory.announced = here;
    }
}

/// Waits for a change of routes. `false`: the kernel stopped telling.
async fn heard(changes: &mut Option<mpsc::Receiver<()>>) -> bool {
    let Some(receiver) = changes else {
        return pending().await;
    };
    let is_change = receiver.recv().await.is_some();
    if !is_change {
        *changes = None;
    }
    is_change
}

/// What is to be changed in the registry.
#[derive(Default)]
struct Wanted {
    /// Each is committed by itself; the key of the block that it claims.
    changes: Vec<(Option<BlockKey>, Vec<Change>)>,
    without_block: BTreeMap<Name, String>,
    shares_host: bool,
}

impl Wanted {
    fn claim(
        &mut self,
        known: &Known,
        name: &Name,
        vni: Vni,
        host: &Host,
        refused: &BTreeSet<BlockKey>,
        is_first: bool,
    ) {
        match known.claim(name, vni, host, refused) {
            Ok((block, changes)) => self.changes.push((Some(key_of(&block)), changes)),
            Err(reason) => {
                if let Some(reason) = reason.describe().filter(|_| is_first) {
                    self.without_block.insert(name.clone(), reason.to_owned());
                }
            }
        }
    }
}

impl NoBlock {
    /// A line for people; `None`: nothing is wrong.
    pub(in crate::agent) const fn describe(self) -> Option<&'static str> {
        match self {
            Self::NotWanted | Self::HasAll => None,
            Self::Exhausted => Some("all blocks of ports are taken: give the pool more addresses"),
            Self::NoAddress => Some("the uplink has no IPv4 address that endpoints could share"),
        }
    }
}

fn key_of(block: &Block) -> BlockKey {
    BlockKey {
        ip: block.ip,
        number: block.number,
    }
}

fn remove(block: &Block) -> Change {
    Change::RemoveObject(Block::id(Block::key_of(&block.endpoint, block.index)))
}

/// The endpoint's last block if none of its ports has been in use for long, and it is not the only one.
fn idle_block<'a>(
    blocks: &[&'a Block],
    uses: &BTreeMap<BlockKey, &BlockUse>,
    memory: &mut Memory,
) -> Option<&'a Block> {
    let [_, .., last] = blocks else {
        return None;
    };
    let key = key_of(last);
    let is_unused = uses.get(&key).is_some_and(|found| found.used == [0; 3]);
    if !is_unused {
        memory.idle.remove(&key);
        return None;
    }
    let since = memory.idle.entry(key).or_insert_with(Instant::now);
    (since.elapsed() >= IDLE_FOR).then_some(*last)
}
