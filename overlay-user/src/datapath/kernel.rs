//! The datapath in the running kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CString,
    io,
    net::IpAddr,
    ops::Bound,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aya::{Ebpf, programs::SchedClassifier};
use nix::{errno::Errno, net::if_::if_indextoname};
use overlay_ebpf::abi::{Counter, ECHOES, PUNTS, map, program};
use tokio::sync::mpsc;

use super::{
    AttachMode, Before, Datapath, DatapathError, DatapathSettings,
    attach::{self, Hook},
    calls::Calls,
    echo,
    features::{self, DecapFlags, classifier},
    inject::{self, inject},
    log, map_handle,
    maps::Maps,
    migrate::OlderVersion,
    misses, object,
    pins::{Pins, unpin},
    punts, query, reply,
    restore::{self, PinnedMaps},
    table::Table,
    tables::ResizedTables,
};
use crate::model::{
    DroppedFrame, Echo, EchoRequest, FdbKey, FdbRow, Mac, MapUsage, Miss, NeighborKey, NeighborRow,
    PortCounts, ProbeRequest, Punt, Tables, Traffic, Vni, Wanted,
};

/// How many endpoints' interfaces are asked for their programs at a time: some two microseconds each.
const GLANCE: usize = 512;

/// Programs, maps and links of one instance.
pub struct Kernel {
    pub(super) settings: DatapathSettings,
    pub(super) pins: Pins,
    pub(super) hook: Hook,
    /// What this kernel can do beside what every one can.
    pub(super) decap: DecapFlags,
    /// Misses that came out of the ring and found no place in their network's queue.
    lost_misses: Arc<AtomicU64>,
    /// Frames for the agent, likewise.
    lost_punts: Arc<AtomicU64>,
    /// The program `inject`, by a handle that no lock is needed for.
    injector: SchedClassifier,
    state: Mutex<State>,
}

/// What changes while the agent runs.
pub(super) struct State {
    pub(super) ebpf: Ebpf,
    pub(super) maps: Maps,
    pinned: PinnedMaps,
    calls: Calls,
    /// Interfaces that have this version's `endpoint_ingress`.
    attached: BTreeSet<u32>,
    /// The VXLAN devices that have `external_ingress`.
    external: BTreeSet<u32>,
    /// The one of them that does what the programs can't.
    slow_path: Option<u32>,
    /// The underlay device, if it has this version's `underlay_ingress`.
    underlay: Option<u32>,
    /// The uplink, if it is another one and has this version's `uplink_ingress`.
    pub(super) uplink: Option<u32>,
    /// The interfaces that have this version's `pace`; `None`: it is not known.
    pub(super) paced: Option<BTreeSet<u32>>,
    /// The last endpoint's interface that [`Datapath::detached`] looked at.
    seen: u32,
}

impl Kernel {
    /// Loads this version's programs beside whatever runs, over the maps that are pinned, and
    /// attaches nothing yet: fill the maps first.
    ///
    /// A map whose capacity changed is made anew with the old one's rows; the old programs keep
    /// the old one until they are replaced.
    pub fn load(settings: DatapathSettings) -> Result<Self, DatapathError> {
        features::require()?;
        let decap = features::probe(&mut object::parse_for_probes()?)?;
        let pins = Pins::create(&settings.pins)?;
        let older = OlderVersion::find(&pins)?;
        for older in &older {
            older.hand_over(&pins)?;
        }
        for name in map::ALL {
            map_handle::check_shape(&pins, name)?;
        }
        let resized = ResizedTables::take(&pins, &settings)?;
        let mut ebpf = object::open(&settings, &pins, decap)?;
        let mut maps = Maps::take(&mut ebpf)?;
        maps.open_edition()?;
        maps.adopt(&resized)?;
        maps.restore_numbering()?;
        for older in &older {
            older.copy_rows(&mut maps)?;
        }
        if !older.is_empty() {
            // What an earlier version left has no numbers yet.
            maps.restore_numbering()?;
        }
        maps.close_edition()?;
        let pinned = PinnedMaps::open(&pins)?;
        let calls = Calls::load(&mut ebpf, &pins)?;
        for name in restore::PROGRAMS {
            object::load_and_pin(&mut ebpf, &pins, name)?;
        }
        for name in [program::INJECT, program::INJECT_ECHO, program::NAT_SWEEP] {
            object::load(&mut ebpf, name)?;
        }
        let injector = inject::handle(&mut ebpf)?;
        if settings.log_drops {
            log::forward(&mut ebpf)?;
        }
        let hook = Hook::probe(&settings.underlay, &settings.pins)?;
        let state = Mutex::new(State {
            ebpf,
            maps,
            pinned,
            calls,
            attached: BTreeSet::new(),
            external: BTreeSet::new(),
            slow_path: None,
            underlay: None,
            uplink: None,
            paced: None,
            seen: 0,
        });
        Ok(Self {
            settings,
            pins,
            hook,
            decap,
            lost_misses: Arc::default(),
            lost_punts: Arc::default(),
            injector,
            state,
        })
    }

    /// A thread that panicked while it held the lock left at worst a table half written, which the
    /// next reconciliation finds.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the program arrays of earlier starts once each hook runs this one's programs.
    fn retire_calls(&self, state: &mut State) -> Result<(), DatapathError> {
        if state.underlay.is_none() || !state.calls.has_others() {
            return Ok(());
        }
        let endpoints = state.maps.small_tables()?.endpoints.into_keys();
        let mut running = endpoints.filter(|ifindex| !is_gone(*ifindex));
        if running.all(|ifindex| state.attached.contains(&ifindex)) {
            state.calls.retire_others(&self.pins)?;
        }
        Ok(())
    }

    fn guard_external(&self, state: &mut State) -> Result<(), DatapathError> {
        let program = classifier(&mut state.ebpf, program::EXTERNAL_INGRESS)?;
        let mut result = Ok(());
        for &ifindex in &state.external {
            // One that went is made anew, and guarded then.
            if is_gone(ifindex) {
                continue;
            }
            let pin = self.pins.external_link(ifindex);
            let attached =
                interface_name(ifindex).and_then(|name| self.hook.attach(program, &name, &pin));
            // One that fails keeps none of the others.
            result = result.and(attached);
        }
        result
    }
}

impl State {
    /// Writes rows. What the programs remember of the old ones ends before, and they remember nothing in between.
    fn in_new_edition(
        &mut self,
        write: impl FnOnce(&mut Maps) -> Result<(), DatapathError>,
    ) -> Result<(), DatapathError> {
        let opened = self.maps.open_edition();
        let written = write(&mut self.maps);
        // A row that was not written is no reason to remember: the others are.
        opened.and(written).and(self.maps.close_edition())
    }
}

impl Datapath for Kernel {
    fn tables(&self) -> Result<Tables, DatapathError> {
        self.state().maps.tables()
    }

    fn small_tables(&self) -> Result<Tables, DatapathError> {
        self.state().maps.small_tables()
    }

    fn write(&self, put: &Tables, remove: &Tables) -> Result<(), DatapathError> {
        self.state().in_new_edition(|maps| maps.write(put, remove))
    }

    fn add(
        &self,
        fdb: &BTreeMap<FdbKey, FdbRow>,
        neighbors: &BTreeMap<NeighborKey, NeighborRow>,
    ) -> Result<(), DatapathError> {
        self.state().in_new_edition(|maps| maps.add(fdb, neighbors))
    }

    fn for_each_fdb(&self, visit: &mut dyn FnMut(FdbKey, FdbRow)) -> Result<(), DatapathError> {
        let numbering = self.state().maps.numbering();
        Table::<FdbRow>::pinned(&self.pins)?.for_each(&numbering, visit)
    }

    fn for_each_neighbor(
        &self,
        visit: &mut dyn FnMut(NeighborKey, NeighborRow),
    ) -> Result<(), DatapathError> {
        let numbering = self.state().maps.numbering();
        Table::<NeighborRow>::pinned(&self.pins)?.for_each(&numbering, visit)
    }

    fn used(&self, key: &FdbKey) -> Result<Option<Duration>, DatapathError> {
        self.state().maps.used(key)
    }

    fn misses(&self) -> Result<mpsc::Receiver<Miss>, DatapathError> {
        let ring = self.state().maps.misses();
        ring.map(|ring| misses::listen(ring, Arc::clone(&self.lost_misses)))
            .ok_or_else(|| DatapathError::Kernel {
                what: "can't listen to misses".to_owned(),
                cause: "somebody does already".to_owned(),
            })
    }

    fn set_negative(
        &self,
        vni: Vni,
        wanted: Wanted,
        nobody_for: Option<Duration>,
    ) -> Result<(), DatapathError> {
        let key = misses::key(vni, wanted);
        self.state().maps.set_negative(&key, nobody_for)
    }

    fn answer(&self, miss: &Miss, mac: Mac) -> Result<(), DatapathError> {
        match reply::frame(miss, mac) {
            Some(frame) => inject(
                &mut self.state().ebpf,
                program::INJECT,
                &frame,
                miss.ifindex,
                0,
            ),
            None => Ok(()),
        }
    }

    fn announce(&self, ifindex: u32, ip: IpAddr, mac: Mac) -> Result<(), DatapathError> {
        match reply::announcement(ip, mac) {
            Some(frame) => inject(&mut self.state().ebpf, program::INJECT, &frame, ifindex, 0),
            None => Ok(()),
        }
    }

    fn send_echo(&self, request: &EchoRequest) -> Result<(), DatapathError> {
        let mut state = self.state();
        let failed = |cause: &str| DatapathError::Kernel {
            what: format!("can't send an echo to {}", request.vtep),
            cause: cause.to_owned(),
        };
        let device = state
            .slow_path
            .ok_or_else(|| failed("the VXLAN device is missing"))?;
        let frame = echo::request(self.settings.vtep_ip, request)
            .ok_or_else(|| failed("it would be too long"))?;
        let len = echo::frame_len(request.len);
        inject(&mut state.ebpf, program::INJECT_ECHO, &frame, device, len)
    }

    fn send_probe(&self, request: &ProbeRequest) -> Result<(), DatapathError> {
        let frame = echo::probe(request);
        let len = echo::frame_len(request.len.max(ProbeRequest::SHORTEST));
        inject(
            &mut self.state().ebpf,
            program::INJECT_ECHO,
            &frame,
            request.ifindex,
            len,
        )
    }

    fn echoes(&self) -> Result<mpsc::Receiver<Echo>, DatapathError> {
        let ring = self.state().ebpf.take_map(ECHOES);
        let ring = ring.and_then(|ring| ring.try_into().ok());
        ring.map(echo::listen).ok_or_else(|| DatapathError::Kernel {
            what: "can't listen to echoes".to_owned(),
            cause: "somebody does already".to_owned(),
        })
    }

    fn punts(&self) -> Result<mpsc::Receiver<Punt>, DatapathError> {
        let ring = self.state().ebpf.take_map(PUNTS);
        let ring = ring.and_then(|ring| ring.try_into().ok());
        ring.map(|ring| punts::listen(ring, Arc::clone(&self.lost_punts)))
            .ok_or_else(|| DatapathError::Kernel {
                what: "can't listen to what endpoints ask".to_owned(),
                cause: "somebody does already".to_owned(),
            })
    }

    fn send_frame(&self, ifindex: u32, frame: &[u8]) -> Result<(), DatapathError> {
        inject::send(&self.injector, program::INJECT, frame, ifindex, 0)
    }

    fn usage(&self) -> Result<BTreeMap<&'static str, MapUsage>, DatapathError> {
        Ok(self.state().maps.usage())
    }

    fn counters(&self) -> Result<BTreeMap<&'static str, u64>, DatapathError> {
        let mut counters = self.state().maps.counts.counters()?;
        // To whoever waits for it, a miss is lost in either queue.
        let lost = counters.entry(Counter::MissesLost.name()).or_default();
        *lost += self.lost_misses.load(Ordering::Relaxed);
        let lost = counters.entry(Counter::PuntsLost.name()).or_default();
        *lost += self.lost_punts.load(Ordering::Relaxed);
        Ok(counters)
    }

    fn traffic(&self) -> Result<BTreeMap<Vni, Traffic>, DatapathError> {
        self.state().maps.traffic()
    }

    fn attach_endpoints(&self, ifindexes: &BTreeSet<u32>) -> Result<(), DatapathError> {
        let mut state = self.state();
        let State { ebpf, attached, .. } = &mut *state;
        let program = classifier(ebpf, program::ENDPOINT_INGRESS)?;
        let mut first_error = None;
        let missing: Vec<u32> = ifindexes.difference(attached).copied().collect();
        for ifindex in missing {
            let done = interface_name(ifindex).and_then(|name| {
                self.hook
                    .attach(program, &name, &self.pins.endpoint_link(ifindex))
            });
            match done {
                Ok(()) => drop(attached.insert(ifindex)),
                // Its removal is reported, and holds up none of the others.
                Err(_) if is_gone(ifindex) => {}
                Err(error) => drop(first_error.get_or_insert(error)),
            }
        }
        // A link whose interface is gone has gone with it: what is left is the pin.
        let pinned = self.pins.endpoint_links()?.into_iter().collect();
        let others: Vec<u32> = attached.union(&pinned).copied().collect();
        for ifindex in others {
            if !ifindexes.contains(&ifindex) && is_gone(ifindex) {
                match unpin(&self.pins.endpoint_link(ifindex)) {
                    Ok(()) => drop(attached.remove(&ifindex)),
                    Err(error) => drop(first_error.get_or_insert(error)),
                }
            }
        }
        first_error.map_or_else(|| self.retire_calls(&mut state), Err)
    }

    fn is_attached(&self, ifindex: u32) -> Option<bool> {
        if self.state().attached.contains(&ifindex) {
            return Some(true);
        }
        let pin = self.pins.endpoint_link(ifindex);
        let asked = interface_name(ifindex).and_then(|name| self.hook.is_attached(&name, &pin));
        asked.unwrap_or_else(|error| {
            tracing::debug!(%error, "it is not known whether it has its program");
            None
        })
    }

    fn detached(&self) -> Result<BTreeSet<u32>, DatapathError> {
        let mut state = self.state();
        if self.hook.mode() == AttachMode::Clsact {
            return Ok(BTreeSet::new());
        }
        let seen = state.seen;
        let following = state
            .attached
            .range((Bound::Excluded(seen), Bound::Unbounded));
        let endpoints: Vec<u32> = following.take(GLANCE).copied().collect();
        state.seen = match endpoints.last() {
            Some(last) if endpoints.len() == GLANCE => *last,
            _ => 0,
        };
        let underlay = state.underlay;
        let of_endpoints = object::program_id(&mut state.ebpf, program::ENDPOINT_INGRESS)?;
        let of_underlay = object::program_id(&mut state.ebpf, program::UNDERLAY_INGRESS)?;
        let of_external = object::program_id(&mut state.ebpf, program::EXTERNAL_INGRESS)?;
        let external = state.external.clone().into_iter();
        drop(state);
        let external = external.map(|ifindex| (ifindex, of_external));
        let endpoints = endpoints.into_iter().map(|ifindex| (ifindex, of_endpoints));
        let underlay = underlay.map(|ifindex| (ifindex, of_underlay));
        let mut detached = BTreeSet::new();
        for (ifindex, id) in endpoints.chain(underlay).chain(external) {
            let has = query::has_program(ifindex, id).map_err(|error| DatapathError::Kernel {
                what: format!("can't ask for the BPF programs on interface {ifindex}"),
                cause: error.to_string(),
            })?;
            if has == Some(false) {
                detached.insert(ifindex);
            }
        }
        Ok(detached)
    }

    fn others_before(&self) -> Result<Vec<Before>, DatapathError> {
        let mut state = self.state();
        let mut interfaces = vec![(self.settings.underlay_ifindex, program::UNDERLAY_INGRESS)];
        let endpoints = state.attached.iter();
        interfaces.extend(endpoints.map(|ifindex| (*ifindex, program::ENDPOINT_INGRESS)));
        let mut found = Vec::new();
        for (ifindex, program) in interfaces {
            let own = object::program_id(&mut state.ebpf, program)?;
            // An endpoint that has just gone is nobody's trouble.
            let Ok(name) = interface_name(ifindex) else {
                continue;
            };
            let before = self.hook.others_before(&name, own)?;
            found.extend(before.filter(|it| !it.programs.is_empty() || !it.is_attached));
        }
        Ok(found)
    }

    fn recheck_attachments(&self) {
        let mut state = self.state();
        state.attached.clear();
        state.underlay = None;
        state.uplink = None;
        state.paced = None;
    }

    fn attach_underlay(&self) -> Result<(), DatapathError> {
        let mut state = self.state();
        let program = classifier(&mut state.ebpf, program::UNDERLAY_INGRESS)?;
        let index = self.settings.underlay_ifindex;
        let pin = self.pins.underlay_link(index);
        self.hook.attach(program, &self.settings.underlay, &pin)?;
        state.underlay = Some(index);
        // What another version, or an agent with another --iface, left. The endpoints have theirs
        // already.
        self.pins.retire_others()?;
        self.retire_calls(&mut state)?;
        for older in self.pins.underlay_links()? {
            if older != index {
                unpin(&self.pins.underlay_link(older))?;
            }
        }
        match self.hook.mode() {
            AttachMode::Tcx => Ok(()),
            AttachMode::Clsact => {
                let endpoints = state.maps.small_tables()?.endpoints;
                detach_where(&self.settings.pins, |interface| {
                    let is_ours = interface == index
                        || state.uplink == Some(interface)
                        || state.external.contains(&interface);
                    !is_ours && !endpoints.contains_key(&interface)
                })
            }
        }
    }

    fn attach_external(&self, ifindexes: &BTreeSet<u32>) -> Result<(), DatapathError> {
        let mut state = self.state();
        state.external.retain(|ifindex| !is_gone(*ifindex));
        state.external.extend(ifindexes);
        self.guard_external(&mut state)?;
        for older in self.pins.external_links()? {
            if is_gone(older) {
                unpin(&self.pins.external_link(older))?;
            }
        }
        Ok(())
    }

    fn set_slow_path(&self, ifindex: Option<u32>) -> Result<(), DatapathError> {
        let mut state = self.state();
        state.slow_path = ifindex;
        state.maps.set_external(ifindex)
    }

    fn restore_pins(&self) -> Result<(), DatapathError> {
        let mut state = self.state();
        Pins::create(&self.settings.pins)?;
        state.pinned.restore(&self.pins)?;
        state.calls.restore()?;
        restore::restore_programs(&mut state.ebpf, &self.pins)?;
        self.guard_external(&mut state)
    }

    fn renew_lease(&self, valid: Duration) -> Result<(), DatapathError> {
        self.state().maps.renew_lease(valid)
    }

    fn drops(&self) -> Result<BTreeMap<&'static str, u64>, DatapathError> {
        self.state().maps.counts.drops()
    }

    fn dropped_frames(&self, reasons: &BTreeSet<&str>) -> Result<Vec<DroppedFrame>, DatapathError> {
        self.state().maps.counts.dropped.frames(reasons)
    }

    fn port_counts(&self, only: Option<u32>) -> Result<BTreeMap<u32, PortCounts>, DatapathError> {
        self.state().maps.port_counts(only)
    }

    fn attach_mode(&self) -> AttachMode {
        self.hook.mode()
    }
}

/// Takes the programs of the instance with this folder of pins off the interfaces of this network
/// namespace. Links go with their pins; filters of a clsact qdisc have to be looked for.
pub fn detach_filters(root: &Path) -> Result<(), DatapathError> {
    detach_where(root, |_| true)
}

/// The same for the interfaces whose indexes are wanted.
fn detach_where(root: &Path, is_wanted: impl Fn(u32) -> bool) -> Result<(), DatapathError> {
    let interfaces = nix::net::if_::if_nameindex().map_err(|errno| DatapathError::Kernel {
        what: "can't list the interfaces".to_owned(),
        cause: errno.to_string(),
    })?;
    for interface in &interfaces {
        match interface.name().to_str() {
            Ok(name) if is_wanted(interface.index()) => attach::detach_filters(name, root)?,
            _ => {}
        }
    }
    Ok(())
}

/// Whether the kernel says that it has no interface with this index.
fn is_gone(ifindex: u32) -> bool {
    matches!(name_of(ifindex), Err(Errno::ENXIO | Errno::ENODEV))
}

/// The interface's name. nix 0.31 takes the null pointer of `if_indextoname` for an empty name, and leaves
/// the error where the C library put it.
fn name_of(ifindex: u32) -> Result<CString, Errno> {
    match if_indextoname(ifindex)? {
        name if name.is_empty() => Err(Errno::last()),
        name => Ok(name),
    }
}

pub(super) fn interface_name(ifindex: u32) -> Result<String, DatapathError> {
    name_of(ifindex)
        .map_err(io::Error::from)
        .map(|name| name.to_string_lossy().into_owned())
        .map_err(|error| DatapathError::Kernel {
            what: format!("can't find the interface with index {ifindex}"),
            cause: error.to_string(),
        })
}
