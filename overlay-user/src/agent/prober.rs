//! Sends echoes to all other hosts: a few a minute, and at once on demand.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use nix::time::{ClockId, clock_gettime};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{
    api::PathState,
    paths::{self, Host, Path, Paths},
    sightings::{Ids, Sightings},
};
use crate::{
    datapath::Datapath,
    model::{Echo, EchoKind, EchoRequest, Name, Node, VtepAddr},
    reconcile::{Observer, writer::on_kernel},
};
use overlay_ebpf::abi::DropReason;

/// How often it is looked what is due.
const TICK: Duration = Duration::from_millis(250);
/// Ticks between two looks at which hosts there are.
const HOSTS: u32 = 4;

/// What tries the paths.
pub(super) struct Prober {
    pub paths: Arc<Paths>,
    pub sightings: Arc<Sightings>,
    pub datapath: Arc<dyn Datapath>,
    pub observer: Observer,
    pub node: Name,
    /// MTU of this host's underlay, bytes.
    pub mtu: u32,
}

impl Prober {
    /// Does not end.
    pub(super) async fn run(self) {
        let mut echoes = match self.datapath.echoes() {
            Ok(echoes) => echoes,
            Err(error) => return tracing::warn!(%error, "the ways to other hosts are not tried"),
        };
        let mut ids = Ids::default();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut until_hosts = 0;
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    if until_hosts == 0 {
                        self.note_hosts(&mut ids).await;
                        until_hosts = HOSTS;
                    }
                    until_hosts -= 1;
                    self.send_due(&mut ids);
                }
                () = self.paths.asked.notified() => self.send_due(&mut ids),
                echo = echoes.recv() => match echo {
                    Some(echo) => self.take(echo, &mut echoes, &mut ids),
                    None => return,
                },
            }
        }
    }

    /// Takes hosts in that came, and forgets those that went.
    async fn note_hosts(&self, ids: &mut Ids) {
        let view = self.observer.view().await;
        let hosts: BTreeMap<VtepAddr, Host> = view
            .mirror
            .nodes()
            .filter_map(|node| self.host(node))
            .collect();
        drop(view);
        self.paths.set_hosts(&hosts, now(), || ids.next());
    }

    /// A node whose program answers, by its address.
    fn host(&self, node: &Node) -> Option<(VtepAddr, Host)> {
        // Echoes go over IPv4 alone.
        let ip = node.vtep.ip;
        let is_peer = node.agent && node.name != self.node && ip.ipv4().is_some();
        let host = || Host {
            port: node.vtep.port,
            longest: paths::longest(self.mtu, node.underlay_mtu()),
        };
        is_peer.then(|| (ip, host()))
    }

    fn send_due(&self, ids: &mut Ids) {
        let due = self.paths.due(now(), || ids.next(), log_change);
        for (ip, id, len) in due {
            self.send(ip, id, len);
        }
    }

    fn send(&self, vtep: VtepAddr, id: u64, len: u16) {
        let Some(port) = self.paths.lock().get(&vtep).map(Path::port) else {
            return;
        };
        let request = EchoRequest {
            id,
            vtep,
            port,
            len,
            target: None,
        };
        if let Err(error) = on_kernel(|| self.datapath.send_echo(&request)) {
            tracing::debug!(%error, %vtep, "an echo was not sent");
            if let Some(path) = self.paths.lock().get_mut(&vtep) {
                path.unsent(id, now());
            }
        }
    }

    /// Takes in what was heard, and all that waits behind it.
    fn take(&self, first: Echo, echoes: &mut mpsc::Receiver<Echo>, ids: &mut Ids) {
        let mut next = Vec::new();
        let mut heard = Some(first);
        while let Some(echo) = heard {
            self.sightings.note(echo);
            if let Some(path) = self.paths.lock().get_mut(&echo.vtep) {
                let before = path.state();
                match echo.kind {
                    EchoKind::Theirs => path.hear(echo.at),
                    EchoKind::Dropped(reason) if reason == DropReason::EchoDamaged.name() => {
                        path.hear_damaged(echo.at);
                    }
                    EchoKind::Left => path.left(echo.id, echo.at),
                    EchoKind::Dropped(_) => {}
                    EchoKind::Ours => {
                        if let Some(len) = path.answered(echo.id, echo.at) {
                            let id = ids.next();
                            path.note(id, len, now());
                            next.push((echo.vtep, id, len));
                        }
                    }
                }
                log_change(echo.vtep, before, path.state());
            }
            heard = echoes.try_recv().ok();
        }
        for (vtep, id, len) in next {
            self.send(vtep, id, len);
        }
    }
}

fn log_change(vtep: VtepAddr, before: PathState, after: PathState) {
    match after {
        _ if before == after => {}
        PathState::Ok => tracing::info!(%vtep, "tunnel packets get there and back"),
        PathState::OneWay => {
            tracing::warn!(%vtep, "tunnel packets come from there and do not get there");
        }
        PathState::Lost => tracing::warn!(%vtep, "no tunnel packet comes from there"),
        PathState::Damaged => {
            tracing::warn!(%vtep, "tunnel packets from there are changed on the way");
        }
        PathState::Unknown => {}
    }
}

/// As the programs tell when an echo came.
pub(super) fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}
