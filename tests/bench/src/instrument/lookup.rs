//! Times the agent's pinned program by `BPF_PROG_TEST_RUN` over the agent's own maps.
//!
//! Each run is of one frame: a second one in the same run would meet what the first one left, a frame
//! with outer headers. Prints a line a run: `same`, where the destination is always the same, or
//! `other`, where it is each time another of the network's, and nanoseconds by the kernel's clock.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use aya::maps::{HashMap, Map, MapData};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use overlay_ebpf::abi::{ABI_VERSION, EndpointEntry, map, program};

use super::dataset;

/// Takes the time of the program for frames to endpoints that the agent knows.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the agent keeps its pins.
    #[arg(long)]
    pins: PathBuf,
    /// Networks over which the endpoints are spread; there is a local one on the first.
    #[arg(long)]
    networks: u32,
    /// Endpoints of all networks.
    #[arg(long)]
    endpoints: u32,
    /// Runs of each kind.
    #[arg(long)]
    count: u32,
}

/// `TC_ACT_REDIRECT`.
const REDIRECT: u32 = 7;
/// Where `struct __sk_buff` has `ifindex`, and its length up to there.
const IFINDEX: std::ops::Range<usize> = 40..44;

pub(super) fn run(args: &Args) -> Result<()> {
    let version = args.pins.join(format!("v{ABI_VERSION}"));
    let pinned = version.join("programs").join(program::ENDPOINT_INGRESS);
    let program = SchedClassifier::from_pin(&pinned)
        .with_context(|| format!("opening the agent's program {}", pinned.display()))?;
    let data = MapData::from_pin(version.join("maps").join(map::ENDPOINTS))
        .context("opening the agent's endpoints")?;
    let endpoints: HashMap<_, u32, EndpointEntry> = HashMap::try_from(Map::HashMap(data))
        .context("the endpoints are not of this build's shape")?;
    let (ifindex, sender) = endpoints
        .iter()
        .filter_map(Result::ok)
        .find(|(_, endpoint)| endpoint.vni == dataset::FIRST_VNI)
        .context("the agent has no endpoint of its own on the first network")?;
    let mut context = [0; IFINDEX.end];
    context
        .get_mut(IFINDEX)
        .context("a context has room for an index")?
        .copy_from_slice(&ifindex.to_ne_bytes());

    let in_network = args.endpoints / args.networks;
    for (kind, is_same) in [("same", true), ("other", false)] {
        for _ in 0..args.count {
            let nth = if is_same {
                0
            } else {
                fastrand::u32(..in_network)
            };
            let frame = frame(&sender, dataset::ip(nth * args.networks));
            let result = program.test_run(TestRunOptions {
                data_in: Some(&frame),
                ctx_in: Some(&context),
                ..TestRunOptions::default()
            })?;
            if result.return_value != REDIRECT {
                bail!("a frame was not sent on: verdict {}", result.return_value);
            }
            println!("{kind} {}", result.duration.as_nanos());
        }
    }
    Ok(())
}

/// A UDP datagram of 64 bytes on the wire.
fn frame(sender: &EndpointEntry, to: Ipv4Addr) -> [u8; 60] {
    let [a, b, c, d] = to.octets();
    let mut frame = [0; 60];
    let parts: [&[u8]; 9] = [
        &[0x02, 0x42, a, b, c, d],
        &sender.mac,
        // IPv4 with a header of 20 bytes, 46 in all, TTL 64, UDP; nobody checks the sum.
        &[0x08, 0x00, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0],
        &sender.ipv4,
        &[a, b, c, d],
        // From port 40000 to 9, 26 bytes, no sum.
        &[0x9c, 0x40],
        &[0, 9],
        &[0, 26],
        &[0, 0],
    ];
    for (slot, byte) in frame.iter_mut().zip(parts.into_iter().flatten()) {
        *slot = *byte;
    }
    frame
}
