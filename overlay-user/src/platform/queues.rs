//! What queues the host's interfaces have.

use std::collections::BTreeSet;

use netlink_packet_core::NlasIterator;
use netlink_packet_route::{RouteNetlinkMessage, tc::TcMessage};

use super::{Context as _, Linux, PlatformError};

/// The queue that holds packets until they are to leave.
const FAIR_QUEUE: &[u8] = b"fq\0";
/// `TCA_KIND` of `linux/rtnetlink.h`.
const KIND: u16 = 1;
/// Where `struct tcmsg` has the interface, and how long it is.
const IFINDEX: usize = 4;
const HEADER: usize = 20;

impl Linux {
    /// Indexes of the interfaces with an `fq` queue, by itself or below another (tc-mq).
    pub async fn fair_queues(&self) -> Result<BTreeSet<u32>, PlatformError> {
        let host = self.open_host().await?;
        let question = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
        let listed = host.list(question).await;
        let listed = listed.context(|| "listing queues".to_owned())?;
        let fair = listed.iter().filter_map(|queue| fair_queue(queue));
        Ok(fair.collect())
    }
}

/// The interface of a queue if that is an `fq`.
fn fair_queue(queue: &[u8]) -> Option<u32> {
    let ifindex = queue.get(IFINDEX..)?.first_chunk()?;
    let attributes = NlasIterator::new(queue.get(HEADER..)?);
    let mut kinds = attributes.flatten().filter(|it| it.kind() == KIND);
    let is_fair = kinds.any(|kind| kind.value() == FAIR_QUEUE);
    is_fair.then(|| u32::from_ne_bytes(*ifindex))
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable as _;
    use netlink_packet_route::tc::TcAttribute;

    use super::*;

    fn queue(index: i32, kind: &str) -> Vec<u8> {
        let mut queue = TcMessage::default();
        queue.header.index = index;
        queue.attributes = vec![TcAttribute::Chain(3), TcAttribute::Kind(kind.to_owned())];
        let mut bytes = vec![0; queue.buffer_len()];
        queue.emit(&mut bytes);
        bytes
    }

    #[test]
    fn only_an_fq_holds_packets_back() {
        assert_eq!(fair_queue(&queue(7, "fq")), Some(7));
        for kind in ["fq_codel", "pfifo_fast", "mq", "f", ""] {
            assert_eq!(fair_queue(&queue(7, kind)), None, "{kind}");
        }
        assert_eq!(fair_queue(&queue(7, "fq")[..HEADER]), None);
        assert_eq!(fair_queue(&[]), None);
    }
}
