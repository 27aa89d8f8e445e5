//! What happens to ports: what the kernel tells of links and addresses on the host and in the
//! namespaces that ports lead into, and the names of namespaces that come and go.
//!
//! One socket hears all namespaces (`NETLINK_LISTEN_ALL_NSID`, `net/netlink/af_netlink.c`): the kernel
//! walks through every listener of the whole machine at each event, and a socket in each namespace would
//! keep it alive. Whoever owns a namespace can make much noise in it, so all but what contradicts a
//! port's spec is passed over here, and costs no more than its reading.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, IoSliceMut},
    os::fd::AsRawFd as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use netlink_packet_core::NetlinkBuffer;
use netlink_packet_route::{address::AddressHeader, link::LinkHeader};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::{
    cmsg_space,
    errno::Errno,
    sys::{
        socket::{
            ControlMessageOwned, MsgFlags, NetlinkAddr, recvmsg, setsockopt,
            sockopt::{RcvBufForce, ReceiveTimeout},
        },
        time::TimeVal,
    },
};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use rtnetlink::MulticastGroup;
use tokio::sync::mpsc::{self, error::TrySendError};

use super::{
    Port, PortChange,
    link::Link,
    netlink::Address,
    netlink_socket::KERNEL,
    netns::{self, Netns},
    netns_port::NetnsPort,
};
use crate::model::{IfName, Mac, Name};

const GROUPS: [MulticastGroup; 3] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
];

/// include/uapi/linux/netlink.h; the libc crate has no name for it.
const NETLINK_LISTEN_ALL_NSID: libc::c_int = 8;

/// Bytes that wait to be read at most: some ten thousand events. Beyond that all ports are looked at.
const RECEIVE_BUFFER: usize = 16 << 20;

/// Bytes of the longest event: a link may have 64 KiB of names that its namespace's owner gave it.
const LONGEST_EVENT: usize = 128 << 10;

/// How many events are read before what they say is passed on.
const AT_ONCE: usize = 256;

/// How often it is asked whether anybody still wants events when there are none, seconds.
const IS_WANTED_S: i64 = 10;

/// Between two looks at all ports at least: one namespace's owner can have events lost as often as he likes.
const LOST: Duration = Duration::from_secs(10);

/// Until what finds no room with its hearer is passed on again.
const ROOM: Duration = Duration::from_millis(10);

/// A link as its namespace knows it: the namespace's number on the host, `None` for the host's own, and
/// its index.
pub(super) type LinkId = (Option<i32>, u32);

/// The ports that events may be about.
#[derive(Debug, Default)]
pub(super) struct WatchedPorts(Mutex<Index>);

#[derive(Debug, Default)]
struct Index {
    ports: BTreeMap<Name, Watched>,
    by_link: BTreeMap<LinkId, Name>,
}

#[derive(Debug)]
struct Watched {
    host_side: LinkId,
    container_side: LinkId,
    host_ifname: String,
    ifname: IfName,
    mac: Mac,
    mtu: u32,
    addresses: Vec<IpNet>,
    has_xdp: bool,
}

impl WatchedPorts {
    fn lock(&self) -> MutexGuard<'_, Index> {
        // Each change is a whole one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on events are held against `spec`.
    pub(super) fn insert(&self, spec: &NetnsPort<'_>, port: &Port, container_side: LinkId) {
        let watched = Watched {
            host_side: (None, port.host_ifindex),
            container_side,
            host_ifname: port.host_ifname.clone(),
            ifname: spec.ifname.clone(),
            mac: spec.mac,
            mtu: spec.mtu,
            addresses: spec.addresses.to_vec(),
            has_xdp: port.has_xdp,
        };
        let mut index = self.lock();
        index.remove(spec.endpoint);
        for id in [watched.host_side, watched.container_side] {
            index.by_link.insert(id, spec.endpoint.clone());
        }
        index.ports.insert(spec.endpoint.clone(), watched);
    }

    /// Nothing is to be heard of the endpoint's port any more.
    pub(super) fn remove(&self, endpoint: &Name) {
        self.lock().remove(endpoint);
    }

    /// The endpoint whose port is not any more what its spec says, by this event.
    fn contradicted(&self, nsid: Option<i32>, kind: u16, payload: &[u8]) -> Option<Name> {
        let index = self.lock();
        match kind {
            libc::RTM_NEWLINK | libc::RTM_DELLINK => {
                let header = LinkHeader::parse(payload).ok()?;
                let id = (nsid, header.index);
                let endpoint = index.by_link.get(&id)?;
                let watched = index.ports.get(endpoint)?;
                let is_gone = kind == libc::RTM_DELLINK;
                // What does not parse has to be looked at.
                let is_right = Link::of(payload).is_ok_and(|link| watched.agrees(id, &link));
                (is_gone || !is_right).then(|| endpoint.clone())
            }
            libc::RTM_DELADDR => {
                let header = AddressHeader::parse(payload).ok()?;
                let endpoint = index.by_link.get(&(nsid, header.index))?;
                let watched = index.ports.get(endpoint)?;
                let address = Address::of(payload).ok()??;
                watched
                    .addresses
                    .contains(&address.net)
                    .then(|| endpoint.clone())
            }
            _ => None,
        }
    }
}

impl Index {
    fn remove(&mut self, endpoint: &Name) {
        let Some(previous) = self.ports.remove(endpoint) else {
            return;
        };
        for id in [previous.host_side, previous.container_side] {
            // An index that is free may be another port's by now.
            if self.by_link.get(&id) == Some(endpoint) {
                self.by_link.remove(&id);
            }
        }
    }
}

impl Watched {
    /// Whether `link`, which is one of the port's two, is as it was made.
    fn agrees(&self, id: LinkId, link: &Link) -> bool {
        let is_host_side = id == self.host_side;
        let name = if is_host_side {
            &self.host_ifname
        } else {
            self.ifname.as_ref()
        };
        // Of a host side that is right the kernel tells too when an XDP program comes or goes inside, which
        // changes what the pair can take, and of nothing else that would be often.
        !is_host_side
            && link.is_up()
            && link.mtu == self.mtu
            && link.name == *name
            && link.has_xdp == self.has_xdp
            && link.address == self.mac.octets()
    }
}

/// See [`super::Platform::port_changes`].
pub(super) async fn changes(
    host: &Netns,
    watched: Arc<WatchedPorts>,
) -> io::Result<mpsc::Receiver<PortChange>> {
    let socket = host.run(open).await?;
    let (sender, receiver) = mpsc::channel(64);
    let names = watch_names(sender.clone())
        .inspect_err(|error| {
            tracing::warn!(%error, "namespaces that come and go are noticed late: no inotify watch");
        })
        .ok();
    thread::Builder::new()
        .name("port changes".to_owned())
        .spawn(move || {
            let _kept = names;
            if let Err(error) = listen(&socket, &watched, &sender) {
                tracing::error!(%error, "ports are looked at from time to time, and not listened to");
            }
        })?;
    Ok(receiver)
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER)?;
    socket.set_listen_all_namespaces(true)?;
    for group in GROUPS {
        socket.add_membership(group as u32)?;
    }
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(IS_WANTED_S, 0))?;
    Ok(socket)
}

/// Reads events until nobody wants them any more.
fn listen(
    socket: &Socket,
    watched: &WatchedPorts,
    sender: &mpsc::Sender<PortChange>,
) -> io::Result<()> {
    let mut buffer = vec![0; LONGEST_EVENT];
    let mut heard = Heard::default();
    while !sender.is_closed() {
        let mut flags = if heard.is_pending() {
            MsgFlags::MSG_DONTWAIT
        } else {
            MsgFlags::empty()
        };
        let mut is_idle = true;
        for _ in 0..AT_ONCE {
            match receive(socket, &mut buffer, flags) {
                Ok(Some((nsid, len))) => {
                    let events = buffer.get(..len).unwrap_or_default();
                    let event = NetlinkBuffer::new_checked(events);
                    // Each comes alone.
                    let change = event.ok().and_then(|event| {
                        watched.contradicted(nsid, event.message_type(), event.payload())
                    });
                    heard.changes.extend(change.map(PortChange::Endpoint));
                }
                Err(Errno::EAGAIN) => break,
                // Not the kernel's.
                Ok(None) | Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => heard.are_lost = true,
                Err(error) => return Err(error.into()),
            }
            // Only the first is waited for.
            (flags, is_idle) = (MsgFlags::MSG_DONTWAIT, false);
        }
        heard.make_up(Instant::now());
        // A busy consumer does not keep events from being read.
        heard.changes.retain(|change| {
            let told = sender.try_send(change.clone());
            matches!(told, Err(TrySendError::Full(_)))
        });
        if is_idle && heard.is_pending() {
            thread::sleep(ROOM);
        }
    }
    Ok(())
}

/// What was heard and is not yet passed on.
#[derive(Debug, Default)]
struct Heard {
    changes: BTreeSet<PortChange>,
    /// Whether events were lost that nothing has made up for.
    are_lost: bool,
    /// When all ports were last to be looked at.
    made_up: Option<Instant>,
}

impl Heard {
    /// Whether there is something to do though no event comes.
    fn is_pending(&self) -> bool {
        self.are_lost || !self.changes.is_empty()
    }

    /// Has all ports looked at if events were lost, but not again and again.
    fn make_up(&mut self, now: Instant) {
        let is_due = self.made_up.is_none_or(|last| now >= last + LOST);
        if self.are_lost && is_due {
            self.changes.insert(PortChange::All);
            (self.are_lost, self.made_up) = (false, Some(now));
        }
    }
}

/// Reads one event: whose namespace it is from, and how many bytes it has. `None`: it is no event of the
/// kernel's. Whoever may administer a namespace can send to the groups in it.
fn receive(
    socket: &Socket,
    buffer: &mut [u8],
    flags: MsgFlags,
) -> nix::Result<Option<(Option<i32>, usize)>> {
    let mut control = cmsg_space!(libc::c_int);
    let mut parts = [IoSliceMut::new(buffer)];
    let received =
        recvmsg::<NetlinkAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    if received.address.is_none_or(|sender| sender.pid() != KERNEL) {
        return Ok(None);
    }
    let nsid = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Unknown(message)
            if message.cmsg_header.cmsg_level == libc::SOL_NETLINK
                && message.cmsg_header.cmsg_type == NETLINK_LISTEN_ALL_NSID =>
        {
            message.data_bytes.first_chunk().copied()
        }
        _ => None,
    });
    Ok(Some((nsid.map(i32::from_ne_bytes), received.bytes)))
}

/// Tells of names that come and go where iproute2 keeps them.
fn watch_names(sender: mpsc::Sender<PortChange>) -> notify::Result<RecommendedWatcher> {
    let folder = netns::make_dir()?;
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        let Some(event) = event.ok().filter(|event| !event.need_rescan()) else {
            let _ = sender.blocking_send(PortChange::All);
            return;
        };
        if !matches!(event.kind, EventKind::Create(_) | EventKind::Remove(_)) {
            return;
        }
        for path in event.paths {
            let name = path.file_name().and_then(|name| name.to_str());
            if let Some(name) = name.and_then(|name| name.parse().ok()) {
                let _ = sender.blocking_send(PortChange::Netns(name));
            }
        }
    })?;
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{DefaultNla, Emitable as _};

    use super::*;

    const NSID: i32 = 3;
    const OUTSIDE: u32 = 11;
    const INSIDE: u32 = 7;

    fn blue() -> Name {
        "blue".parse().unwrap()
    }

    fn mac() -> Mac {
        "02:42:07:07:07:02".parse().unwrap()
    }

    fn watched() -> WatchedPorts {
        let ports = WatchedPorts::default();
        let port = Port {
            endpoint: blue(),
            host_ifindex: OUTSIDE,
            host_ifname: "ovl1".to_owned(),
            is_up: true,
            is_open: true,
            has_xdp: false,
            mended: Vec::new(),
        };
        let spec = NetnsPort {
            endpoint: &blue(),
            netns: &blue(),
            ifname: &"eth0".parse().unwrap(),
            mac: mac(),
            addresses: &["7.7.7.2/24".parse().unwrap()],
            mtu: 1450,
            gateways: &[],
            local_ports: None,
        };
        ports.insert(&spec, &port, (Some(NSID), INSIDE));
        ports
    }

    fn link(index: u32, flags: u32, name: &str, mtu: u32, mac: [u8; 6]) -> Vec<u8> {
        let mut payload = vec![0; 16];
        payload[4..8].copy_from_slice(&index.to_ne_bytes());
        payload[8..12].copy_from_slice(&flags.to_ne_bytes());
        let attributes = [
            DefaultNla::new(libc::IFLA_IFNAME, [name.as_bytes(), b"\0"].concat()),
            DefaultNla::new(libc::IFLA_MTU, mtu.to_ne_bytes().to_vec()),
            DefaultNla::new(libc::IFLA_ADDRESS, mac.to_vec()),
        ];
        let mut tail = vec![0; attributes.as_slice().buffer_len()];
        attributes.as_slice().emit(&mut tail);
        payload.extend(tail);
        payload
    }

    fn address(index: u32, ip: [u8; 4], prefix_len: u8) -> Vec<u8> {
        let mut payload = vec![2, prefix_len, 0, 0];
        payload.extend(index.to_ne_bytes());
        let attributes = [DefaultNla::new(libc::IFA_LOCAL, ip.to_vec())];
        let mut tail = vec![0; attributes.as_slice().buffer_len()];
        attributes.as_slice().emit(&mut tail);
        payload.extend(tail);
        payload
    }

    #[test]
    fn a_change_that_contradicts_the_spec_names_the_endpoint() {
        let ports = watched();
        let mac = mac().octets();
        let right = link(INSIDE, 1, "eth0", 1450, mac);
        let told = |kind, payload: &[u8]| ports.contradicted(Some(NSID), kind, payload);
        assert_eq!(told(libc::RTM_NEWLINK, &right), None);
        assert_eq!(
            told(libc::RTM_DELLINK, &right),
            Some("blue".parse().unwrap())
        );
        for wrong in [
            link(INSIDE, 0, "eth0", 1450, mac),
            link(INSIDE, 1, "eth1", 1450, mac),
            link(INSIDE, 1, "eth0", 1400, mac),
            link(INSIDE, 1, "eth0", 1450, [2, 0, 0, 0, 0, 9]),
        ] {
            assert!(told(libc::RTM_NEWLINK, &wrong).is_some());
        }
        assert!(told(libc::RTM_DELADDR, &address(INSIDE, [7, 7, 7, 2], 24)).is_some());
    }

    #[test]
    fn events_that_are_lost_again_and_again_have_all_ports_looked_at_now_and_then() {
        let start = Instant::now();
        let mut heard = Heard::default();
        heard.make_up(start);
        assert!(heard.changes.is_empty());
        let mut count = 0;
        for second in 0..30 {
            heard.are_lost = true;
            heard.make_up(start + Duration::from_secs(second));
            count += usize::from(heard.changes.pop_first() == Some(PortChange::All));
        }
        assert_eq!(count, 3);
        // The last ones are made up for too, though nothing is lost any more.
        heard.make_up(start + Duration::from_secs(31));
        assert_eq!(heard.changes.len(), 1);
    }

    #[test]
    fn noise_of_others_is_passed_over() {
        let ports = watched();
        let mac = mac().octets();
        let down = link(INSIDE, 0, "eth0", 1450, mac);
        assert_eq!(
            ports.contradicted(Some(NSID + 1), libc::RTM_NEWLINK, &down),
            None
        );
        assert_eq!(ports.contradicted(None, libc::RTM_NEWLINK, &down), None);
        for foreign in [
            address(INSIDE, [7, 7, 7, 3], 24),
            address(INSIDE, [7, 7, 7, 2], 16),
            address(INSIDE + 1, [7, 7, 7, 2], 24),
        ] {
            assert_eq!(
                ports.contradicted(Some(NSID), libc::RTM_DELADDR, &foreign),
                None
            );
        }
        assert_eq!(
            ports.contradicted(Some(NSID), libc::RTM_NEWLINK, b"cut"),
            None
        );
        ports.remove(&blue());
        assert_eq!(
            ports.contradicted(Some(NSID), libc::RTM_DELLINK, &down),
            None
        );
    }
}
