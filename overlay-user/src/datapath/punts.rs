//! Brings frames that the agent answers from the programs to it, and sends its answers.

use std::{
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use aya::maps::{MapData, RingBuf};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use overlay_ebpf::abi::PuntHeader;
use tokio::sync::mpsc;

use crate::model::{Mac, Punt, Vni};

/// Frames that wait for the agent. More are lost, and their senders ask again.
const BACKLOG: usize = 1024;

/// Reads the ring for as long as somebody listens, on a thread of its own. What finds no place is counted in `lost`.
pub(super) fn listen(mut ring: RingBuf<MapData>, lost: Arc<AtomicU64>) -> mpsc::Receiver<Punt> {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    thread::spawn(move || {
        while !sender.is_closed() {
            while let Some(record) = ring.next() {
                if let Some(punt) = parse(&record)
                    && sender.try_send(punt).is_err()
                {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            let mut readable = [PollFd::new(ring.as_fd(), PollFlags::POLLIN)];
            match poll(&mut readable, PollTimeout::from(u16::MAX)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return tracing::warn!(%errno, "DHCP is not answered any more"),
            }
        }
    });
    receiver
}

/// `None`: no record that this version's programs make.
fn parse(record: &[u8]) -> Option<Punt> {
    let (header, frame) = record.split_at_checked(size_of::<PuntHeader>())?;
    let header: PuntHeader = bytemuck::try_pod_read_unaligned(header).ok()?;
    Some(Punt {
        ifindex: header.ifindex,
        vni: Vni::try_from(header.vni).ok()?,
        mac: Mac::try_from(header.mac).ok()?,
        frame: frame.get(..usize::from(header.len))?.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use overlay_ebpf::abi;

    use super::*;

    #[test]
    fn a_record_is_read_as_the_programs_write_it() {
        let header = PuntHeader {
            ifindex: 7,
            vni: 42,
            mac: [2, 0x42, 7, 7, 7, 2],
            len: 3,
        };
        let mut record = bytemuck::bytes_of(&header).to_vec();
        record.extend([1, 2, 3, 4]);
        record.resize(size_of::<abi::Punt>(), 0);
        let punt = parse(&record).unwrap();
        assert_eq!((punt.ifindex, punt.vni.get()), (7, 42));
        assert_eq!(punt.frame, [1, 2, 3]);
        for (at, byte) in [(14, 0xff), (15, 0xff), (5, 0xff)] {
            let mut bad = record.clone();
            bad[at] = byte;
            bad[7] = 0xff;
            assert_eq!(parse(&bad), None);
        }
        assert_eq!(parse(&record[..15]), None);
    }
}
