//! Runs frames through programs that tell what they look up and decide, on the maps of the running datapath.
//!
//! The programs are those of the object that is attached, built once more with the telling in them. They are loaded for
//! the occasion and attached nowhere: the kernel runs them on a frame of the agent's (`BPF_PROG_TEST_RUN`), and what they
//! would send goes nowhere. The pinned maps are shared, so what is decided is what would be; and what a frame leaves in
//! them, this one leaves too: a counted drop, a new mapping of address translation.

use aya::{
    Ebpf,
    maps::{Array, Map, MapData},
    programs::{TestRun as _, TestRunOptions},
};
use bytemuck::Zeroable as _;
use overlay_ebpf::abi::{Call, DropReason, TRACE, Table, TraceStep, program};

use super::{
    DatapathError, Kernel, calls,
    features::{self, classifier},
    map_handle::{failed, typed},
    object,
};
use crate::model::{Ingress, Traced, TracedStep, TracedVerdict};

mod rows;

/// Of `linux/pkt_cls.h`.
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;
/// The longest frame that a run gives back: far longer than any of the agent's.
const LONGEST: usize = 2048;

/// Where frames can be traced.
pub trait Tracer: Send + Sync + 'static {
    /// Loads the programs that tell. They are gone when the value is dropped.
    fn tracing(&self) -> Result<Tracing, DatapathError>;
}

/// Programs that tell, loaded.
pub struct Tracing {
    ebpf: Ebpf,
    steps: Array<MapData, TraceStep>,
    /// Empty once nobody holds it.
    _calls: Map,
    underlay: u32,
}

impl Tracer for Kernel {
    fn tracing(&self) -> Result<Tracing, DatapathError> {
        let mut ebpf = object::open_traced(&self.settings, &self.pins, self.decap)?;
        let calls = calls::load(&mut ebpf)?;
        for name in [program::ENDPOINT_INGRESS, program::UNDERLAY_INGRESS] {
            object::load(&mut ebpf, name)?;
        }
        Ok(Tracing {
            steps: typed(&mut ebpf, TRACE)?,
            ebpf,
            _calls: calls,
            underlay: self.settings.underlay_ifindex,
        })
    }
}

impl Tracing {
    /// Runs a frame through the programs.
    pub fn run(&mut self, ingress: Ingress, frame: &[u8]) -> Result<Traced, DatapathError> {
        let (first, ifindex) = match ingress {
            Ingress::Endpoint(ifindex) => (program::ENDPOINT_INGRESS, ifindex),
            Ingress::Underlay => (program::UNDERLAY_INGRESS, self.underlay),
        };
        self.steps
            .set(0, TraceStep::zeroed(), 0)
            .map_err(|error| failed("write to", TRACE, &error))?;
        // `struct __sk_buff` up to and with `ifindex`, its eleventh word.
        let words = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ifindex];
        let context = words.map(u32::to_ne_bytes).concat();
        let mut output = vec![0; LONGEST];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut output),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let result = classifier(&mut self.ebpf, first)?
            .test_run(options)
            .map_err(|error| features::failed("run", first, &error))?;
        let len = usize::try_from(result.data_size_out).unwrap_or(LONGEST);
        output.truncate(len);
        Ok(Traced {
            steps: self.steps(first)?,
            verdict: match result.return_value {
                TC_ACT_REDIRECT => TracedVerdict::Redirect,
                TC_ACT_SHOT => TracedVerdict::Drop,
                _ => TracedVerdict::Pass,
            },
            frame: output,
        })
    }

    fn steps(&self, first: &'static str) -> Result<Vec<TracedStep>, DatapathError> {
        let step = |slot: u32| {
            self.steps
                .get(&slot, 0)
                .map_err(|error| failed("read", TRACE, &error))
        };
        let count = step(0)?.kind.min(TraceStep::SLOTS - 1);
        let mut steps = vec![TracedStep::Program(first)];
        for slot in 1..=count {
            steps.extend(told(&step(slot)?));
        }
        Ok(steps)
    }
}

/// `None`: it is of another version.
fn told(step: &TraceStep) -> Option<TracedStep> {
    match step.kind {
        TraceStep::FOUND | TraceStep::MISSING => {
            let (table, name) = Table::of_number(step.what)?;
            let is_found = step.kind == TraceStep::FOUND;
            let described = rows::describe(table, &step.key, &step.value)?;
            Some(TracedStep::Looked {
                table: name,
                key: described.key,
                row: is_found.then_some(described.row),
                forward: described.forward.filter(|_| is_found),
            })
        }
        TraceStep::CALLED => Call::program_of_slot(step.what).map(TracedStep::Program),
        TraceStep::DROPPED => {
            let reason = DropReason::of_number(step.what)?;
            Some(TracedStep::Dropped(reason.name(), reason.describe()))
        }
        _ => None,
    }
}
