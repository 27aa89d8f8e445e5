//! A netlink socket: a request, and the kernel's whole answer to it, as bytes.
//!
//! Nothing in here understands what it carries, so nothing that a namespace's owner can make the
//! kernel say keeps an answer from coming to its end. `Documentation/userspace-api/netlink/intro.rst`
//! is the protocol.

use std::{
    io,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP,
    NLMSG_OVERRUN, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

/// How long the kernel may take for each part of an answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The netlink port that the kernel sends from. Every other is a process's: one that may administer the
/// namespace can send to any socket in it, and make what it sends look like an answer or an event.
pub(super) const KERNEL: u32 = 0;

/// How often a listing is begun again because what it lists changed meanwhile.
const LISTINGS: usize = 20;

/// A route netlink socket that waits for each answer.
#[derive(Debug)]
pub(super) struct NetlinkSocket {
    socket: Socket,
    sequence: u32,
}

/// A message of an answer, in the form of the wire: the fixed part of its kind, then attributes.
pub(super) type Payload = Vec<u8>;

/// What an answer has come to.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    More,
    Done,
}

/// The messages of an answer so far.
#[derive(Debug, Default)]
struct Answer {
    messages: Vec<Payload>,
    /// `NLM_F_DUMP_INTR`: what is listed changed meanwhile, something may be missing.
    is_interrupted: bool,
}

impl NetlinkSocket {
    /// Opens one in the calling thread's namespace.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Asks for one thing, or has one changed; `flags` are those beyond `NLM_F_REQUEST`.
    pub(super) fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<Payload>> {
        Ok(self.exchange(message, flags | NLM_F_ACK)?.messages)
    }

    /// Asks for all of a kind. What it gives is complete: a listing that a change came into is begun
    /// again, and fails with `EINTR` if there is no end to that.
    pub(super) fn list(&mut self, message: &RouteNetlinkMessage) -> io::Result<Vec<Payload>> {
        for _ in 0..LISTINGS {
            let answer = self.exchange(message.clone(), NLM_F_DUMP)?;
            if !answer.is_interrupted {
                return Ok(answer.messages);
            }
        }
        Err(Errno::EINTR.into())
    }

    /// The same of those alone that the message's fixed part names. Kernels before 4.20 list all.
    pub(super) fn list_some(&mut self, message: &RouteNetlinkMessage) -> io::Result<Vec<Payload>> {
        // Refused where it is not known. Other questions are put in ways that it would not pass.
        let _ = self.socket.set_netlink_get_strict_chk(true);
        let listed = self.list(message);
        let _ = self.socket.set_netlink_get_strict_chk(false);
        listed
    }

    /// Asks for all of a kind, if that is no more than so many; `None`: it is more, or changes just now. The kernel still has
    /// the others to give then: the socket lists nothing else.
    pub(super) fn list_at_most(
        &mut self,
        message: &RouteNetlinkMessage,
        most: usize,
    ) -> io::Result<Option<Vec<Payload>>> {
        let answer = self.exchange_up_to(message.clone(), NLM_F_DUMP, most)?;
        let is_whole = answer.messages.len() <= most && !answer.is_interrupted;
        Ok(is_whole.then_some(answer.messages))
    }

    fn exchange(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Answer> {
        self.exchange_up_to(message, flags, usize::MAX)
    }

    /// Gives up with more messages than `most`.
    fn exchange_up_to(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        most: usize,
    ) -> io::Result<Answer> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags | NLM_F_REQUEST;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut request = vec![0; message.buffer_len()];
        message.serialize(&mut request);
        self.socket
            .send_to(&request, &SocketAddr::new(KERNEL, 0), 0)?;
        let mut answer = Answer::default();
        loop {
            let datagram = self.receive(Instant::now() + ANSWER_TIMEOUT)?;
            let progress = answer.take(&datagram, self.sequence)?;
            if progress == Progress::Done || answer.messages.len() > most {
                return Ok(answer);
            }
        }
    }

    /// Waits for what the kernel sends next. What others send is passed over, and buys no time.
    fn receive(&self, deadline: Instant) -> io::Result<Vec<u8>> {
        loop {
            self.wait(deadline)?;
            let (datagram, sender) = self.socket.recv_from_full()?;
            if sender.port_number() == KERNEL {
                return Ok(datagram);
            }
        }
    }

    /// Waits until there is something to receive.
    fn wait(&self, deadline: Instant) -> io::Result<()> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // A sender that keeps it busy does not get past the deadline.
            if left.is_zero() {
                return Err(Errno::ETIMEDOUT.into());
            }
            let timeout = PollTimeout::try_from(left).map_err(io::Error::other)?;
            let mut socket = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut socket, timeout) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Answer {
    /// Takes in what came in one go. Answers to earlier requests, which nobody waits for any more, are
    /// passed over.
    fn take(&mut self, mut datagram: &[u8], sequence: u32) -> io::Result<Progress> {
        while !datagram.is_empty() {
            let message = NetlinkBuffer::new_checked(datagram).map_err(io::Error::other)?;
            let len = usize::try_from(message.length()).unwrap_or(usize::MAX);
            let payload = message.payload();
            let next = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
            datagram = next;
            if message.sequence_number() != sequence {
                continue;
            }
            self.is_interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
            match message.message_type() {
                NLMSG_NOOP => {}
                NLMSG_OVERRUN => return Err(Errno::EOVERFLOW.into()),
                // Both begin with a negative error number, or zero. Before Linux 2.6.25 the second had
                // none.
                NLMSG_ERROR | NLMSG_DONE => {
                    let code = payload
                        .first_chunk()
                        .map_or(0, |code| i32::from_ne_bytes(*code));
                    return match code {
                        0 => Ok(Progress::Done),
                        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                    };
                }
                _ => self.messages.push(payload.to_vec()),
            }
        }
        Ok(Progress::More)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use netlink_packet_route::link::LinkMessage;
    use nix::{
        sched::{CloneFlags, unshare},
        unistd::geteuid,
    };

    use super::*;

    /// Runs `test` in a namespace of its own, with a socket and another one that forges for it.
    fn beside_a_forger(test: impl FnOnce(NetlinkSocket, Forger) + Send + 'static) {
        if !geteuid().is_root() {
            println!("only root can forge what the kernel says");
            return;
        }
        let test = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let socket = NetlinkSocket::open().unwrap();
            let mut victim = SocketAddr::new(0, 0);
            socket.socket.get_address(&mut victim).unwrap();
            let mut forger = Socket::new(NETLINK_ROUTE).unwrap();
            forger.bind_auto().unwrap();
            test(socket, Forger { forger, victim });
        });
        test.join().unwrap();
    }

    struct Forger {
        forger: Socket,
        victim: SocketAddr,
    }

    impl Forger {
        fn sends(&self, message: &[u8]) {
            self.forger.send_to(message, &self.victim, 0).unwrap();
        }
    }

    /// The question for the loopback device, which every namespace has.
    fn loopback() -> RouteNetlinkMessage {
        let mut question = LinkMessage::default();
        question.header.index = 1;
        RouteNetlinkMessage::GetLink(question)
    }

    #[test]
    fn what_other_processes_send_is_no_answer() {
        beside_a_forger(|mut socket, forger| {
            forger.sends(&message(NLMSG_ERROR, 0, 1, &(-libc::ENODEV).to_ne_bytes()));
            forger.sends(&message(NLMSG_ERROR, 0, 1, &0_i32.to_ne_bytes()));
            // What does not even parse.
            forger.sends(&message(16, 0, 1, b"forged")[..18]);
            assert_eq!(socket.request(loopback(), 0).unwrap().len(), 1);
            forger.sends(&message(NLMSG_DONE, 2, 2, &0_i32.to_ne_bytes()));
            assert_eq!(socket.list(&loopback()).unwrap().len(), 1);
        });
    }

    #[test]
    fn what_other_processes_send_buys_the_kernel_no_time() {
        beside_a_forger(|socket, forger| {
            const LIMIT: Duration = Duration::from_millis(300);
            let started = Instant::now();
            let forging = thread::spawn(move || {
                while started.elapsed() < 10 * LIMIT {
                    // Refused where the receiver is gone.
                    let _ = forger.forger.send_to(
                        &message(NLMSG_ERROR, 0, 1, &0_i32.to_ne_bytes()),
                        &forger.victim,
                        0,
                    );
                    thread::sleep(LIMIT / 100);
                }
            });
            let error = socket.receive(started + LIMIT).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
            assert!(started.elapsed() < 5 * LIMIT, "{:?}", started.elapsed());
            drop(socket);
            forging.join().unwrap();
        });
    }

    /// A message as the kernel sends it, padded.
    fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(16 + payload.len()).unwrap();
        let mut bytes = len.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn an_answer_ends_with_its_acknowledgement_and_holds_what_came_before() {
        let mut answer = Answer::default();
        let first = [message(16, 2, 7, b"abc"), message(16, 2, 7, b"\xff")].concat();
        assert_eq!(answer.take(&first, 7).unwrap(), Progress::More);
        let end = message(NLMSG_DONE, 2, 7, &0_i32.to_ne_bytes());
        assert_eq!(answer.take(&end, 7).unwrap(), Progress::Done);
        assert_eq!(answer.messages, [&b"abc"[..], b"\xff"]);
    }

    #[test]
    fn an_error_of_the_kernel_is_the_answers() {
        for kind in [NLMSG_ERROR, NLMSG_DONE] {
            let refusal = message(kind, 0, 7, &(-libc::ENODEV).to_ne_bytes());
            let error = Answer::default().take(&refusal, 7).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        }
    }

    #[test]
    fn answers_to_earlier_requests_are_passed_over() {
        let mut answer = Answer::default();
        let late = message(NLMSG_ERROR, 0, 6, &(-1_i32).to_ne_bytes());
        assert_eq!(answer.take(&late, 7).unwrap(), Progress::More);
    }

    #[test]
    fn a_listing_that_a_change_came_into_is_known_for_it() {
        let mut answer = Answer::default();
        answer
            .take(&message(16, 2 | NLM_F_DUMP_INTR, 7, b""), 7)
            .unwrap();
        assert!(answer.is_interrupted);
    }

    #[test]
    fn what_is_cut_off_is_an_error_and_no_end() {
        let mut whole = message(16, 2, 7, b"abcd");
        whole.truncate(18);
        assert!(Answer::default().take(&whole, 7).is_err());
    }
}
