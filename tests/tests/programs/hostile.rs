//! Frames that something broke on the way, or somebody with intent. [`Datapath::run`] holds every
//! one to a counted drop, a redirect or an untouched pass.

use overlay_ebpf::abi::{
    DropReason,
    program::{ENDPOINT_INGRESS, UNDERLAY_INGRESS},
};

use crate::{
    datapath::{Datapath, Outcome, Settings, dump},
    frames::{INNER, OVERHEAD, VXLAN, valid_from_endpoint, valid_from_tunnel},
};

/// The shortest frame that a network device hands up.
const SHORTEST: usize = 14;
/// Bytes that hold every header of a valid frame.
const HEADERS: usize = 100;
const RANDOM_FRAMES: usize = 20_000;
const MOST_FLIPS: usize = 16;
/// Written here so that a failure comes again.
const SEED: u64 = 0x7348_0042;

/// Valid frames of one program, and what else is true of any outcome.
struct Subject {
    program: &'static str,
    frames: Vec<(&'static str, Vec<u8>)>,
    datapath: Datapath,
}

fn known() -> Datapath {
    Datapath::load(Settings::default())
}

fn subjects() -> [Subject; 3] {
    [
        (ENDPOINT_INGRESS, valid_from_endpoint(), known as fn() -> _),
        (UNDERLAY_INGRESS, valid_from_tunnel(), known),
        (ENDPOINT_INGRESS, valid_from_endpoint(), Datapath::on_demand),
    ]
    .map(|(program, frames, load)| Subject {
        program,
        frames,
        datapath: load(),
    })
}

impl Subject {
    /// Runs a frame and fails with all of it in sight.
    fn run(&mut self, name: &str, frame: &[u8]) -> Outcome {
        let outcome = self.datapath.run(self.program, frame, 0);
        let outcome = outcome.and_then(|outcome| sensible(self.program, frame, outcome));
        self.datapath.raised();
        match outcome {
            Ok(outcome) => outcome,
            Err(error) => panic!("{}: {name}: {error}\n{}", self.program, dump(frame)),
        }
    }
}

/// What a redirected frame can be, whatever it was made of.
fn sensible(program: &str, frame: &[u8], outcome: Outcome) -> Result<Outcome, String> {
    let Outcome::Redirect(output) = &outcome else {
        return if program == ENDPOINT_INGRESS && outcome == Outcome::Pass {
            Err("an endpoint's frame went past the datapath".to_owned())
        } else {
            Ok(outcome)
        };
    };
    let is_sensible = if program == UNDERLAY_INGRESS {
        output.len() + OVERHEAD == frame.len()
    } else {
        let wrapped = output.len() == frame.len() + OVERHEAD && output[OVERHEAD..] == *frame;
        let delivered = output == frame;
        // ARP keeps its length; an advertisement has one length.
        let answered = output.len() == frame.len() || output.len() == 86;
        wrapped || delivered || answered
    };
    if is_sensible {
        Ok(outcome)
    } else {
        Err(format!("redirected as\n{}", dump(output)))
    }
}

#[test]
fn every_truncation_of_an_endpoints_frames_is_dropped_or_carried() {
    let [mut subject, ..] = subjects();
    for (name, frame) in subject.frames.clone() {
        for len in SHORTEST..frame.len() {
            let outcome = subject.run(name, &frame[..len]);
            let is_expected = matches!(
                outcome,
                Outcome::Drop(DropReason::Truncated) | Outcome::Redirect(_) | Outcome::NotMade
            );
            assert!(is_expected, "{name}, {len} bytes: {outcome}");
        }
    }
}

/// A tunnel packet says how long it is, so the program knows what it is looking at.
#[test]
fn every_truncation_of_a_tunnel_packet_is_known_for_one() {
    let [_, mut subject, _] = subjects();
    for (name, frame) in subject.frames.clone() {
        for len in SHORTEST..frame.len() {
            let expected = match len {
                ..VXLAN => Outcome::Pass,
                VXLAN..=INNER_HEADER_END => Outcome::Drop(DropReason::Truncated),
                _ => Outcome::Drop(DropReason::OuterMalformed),
            };
            let outcome = subject.run(name, &frame[..len]);
            assert!(
                outcome == expected || outcome == Outcome::NotMade,
                "{name}, {len} bytes: {outcome}"
            );
        }
    }
}

/// The last length at which the inner Ethernet header is not whole.
const INNER_HEADER_END: usize = INNER + 14 - 1;

#[test]
fn every_flipped_bit_of_the_headers_is_survived() {
    for mut subject in subjects() {
        for (name, frame) in subject.frames.clone() {
            for bit in 0..frame.len().min(HEADERS) * 8 {
                let mut frame = frame.clone();
                flip(&mut frame, bit);
                subject.run(&format!("{name}, bit {bit}"), &frame);
            }
        }
    }
}

#[test]
fn many_flipped_bits_are_survived() {
    for mut subject in subjects() {
        let mut random = fastrand::Rng::with_seed(SEED);
        for round in 0..RANDOM_FRAMES / 2 {
            let (name, mut frame) = subject.frames[random.usize(..subject.frames.len())].clone();
            let bits = frame.len().min(HEADERS) * 8;
            for _ in 0..random.usize(2..=MOST_FLIPS) {
                flip(&mut frame, random.usize(..bits));
            }
            frame.truncate(random.usize(SHORTEST..=frame.len() * 2).max(SHORTEST));
            subject.run(&format!("{name}, round {round}"), &frame);
        }
    }
}

fn flip(frame: &mut [u8], bit: usize) {
    frame[bit / 8] ^= 1 << (bit % 8);
}
