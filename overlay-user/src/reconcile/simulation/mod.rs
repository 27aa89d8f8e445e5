//! The control loop against a registry and a kernel that misbehave, thousands of times.
//!
//! A simulation is the real loop on one thread with a clock that stands still while anybody has something to
//! do. All chance comes from one seed: the same seed gives the same run, to the last event. A host and its
//! registry go through some dozens of random events; invariants are checked all the while, and after a calm of
//! a few minutes the kernel must be what the registry says, row by row ([ADR
//! 24](../../../../docs/adr/0024-simulation.md)).
//!
//! `OVERLAY_SIMULATION_SEED=N cargo test -p overlay-user simulation` replays one seed and prints what
//! happens; `OVERLAY_SIMULATION_SEEDS=COUNT` tries more of them.

use std::{
    env,
    io::{Write as _, stderr},
    panic, process,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use tokio::{
    runtime::{Builder, Runtime},
    time::{sleep, timeout},
};

mod faulty_writes;
mod host;
mod invariants;
mod kernel;
mod losses;
mod names;
mod objects;
mod rng;
mod run;
mod store;
mod wish;

use self::{kernel::Faults, names::name, run::Simulation};
use super::watchdog::Part;
use crate::model::EndpointState;

/// How many seeds are tried.
const SEEDS: u64 = 3000;
/// How many things happen in each.
const EVENTS: usize = 40;
/// How long one may take. It takes milliseconds, but a loop that never waits for anything stops the
/// simulation's clock for good.
const SETTLE_TIMEOUT: Duration = Duration::from_mins(1);

/// What came of one seed.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    violations: Vec<String>,
    trace: Vec<String>,
}

/// Ends the process with the seed's number, unless what it gives is dropped in time.
fn watch(seed: u64) -> Sender<()> {
    let (watched, over) = mpsc::channel();
    thread::spawn(move || {
        if over.recv_timeout(SETTLE_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            // Not by a macro: those print what a test says only once it has ended.
            let line = format!("OVERLAY_SIMULATION_SEED={seed} turns and turns without a pause");
            let _ = writeln!(stderr(), "{line}");
            process::exit(1);
        }
    });
    watched
}

/// One thread, with a clock that stands still while anybody has something to do.
fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

/// Lives through one seed.
fn simulate(seed: u64, is_traced: bool) -> Outcome {
    let _watched = watch(seed);
    runtime().block_on(async {
        let mut simulation = Simulation::new(seed, is_traced);
        simulation.live(EVENTS).await;
        simulation.judge().await;
        simulation.end().await
    })
}

fn number_from(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number")),
    )
}

#[test]
fn whatever_happens_the_kernel_becomes_what_the_registry_says() {
    if let Some(seed) = number_from("OVERLAY_SIMULATION_SEED") {
        let Outcome { violations, trace } = simulate(seed, true);
        println!("{}", trace.join("\n"));
        assert!(
            violations.is_empty(),
            "seed {seed}:\n{}",
            violations.join("\n")
        );
        return;
    }
    let seeds = number_from("OVERLAY_SIMULATION_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let failed: Vec<(u64, Vec<String>)> = thread::scope(|scope| {
        let work = || {
            let mut failed = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds {
                    return failed;
                }
                let outcome = panic::catch_unwind(|| simulate(seed, false));
                let violations = match outcome {
                    Ok(outcome) => outcome.violations,
                    Err(_) => vec!["it panicked, see above".to_owned()],
                };
                if !violations.is_empty() {
                    failed.push((seed, violations));
                }
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    });
    let lines = failed.iter().take(5).map(|(seed, violations)| {
        format!(
            "OVERLAY_SIMULATION_SEED={seed}\n  {}",
            violations.join("\n  ")
        )
    });
    assert!(
        failed.is_empty(),
        "{} of {seeds} seeds went wrong:\n{}",
        failed.len(),
        lines.collect::<Vec<_>>().join("\n")
    );
}

#[test]
fn a_kernel_that_does_not_answer_is_noticed_from_outside_of_the_loop() {
    runtime().block_on(async {
        let simulation = Simulation::new(1, false);
        let stalled = || {
            let stalled = simulation.observer.watchdog().stalled();
            stalled.iter().map(|one| one.part).collect::<Vec<_>>()
        };
        sleep(Duration::from_mins(5)).await;
        assert_eq!(stalled(), []);
        simulation.host.set_faults(Faults {
            hangs: true,
            ..Faults::default()
        });
        sleep(Duration::from_mins(1)).await;
        assert!(stalled().contains(&Part::Loop), "{:?}", stalled());
        // The view is readable all the same.
        let view = timeout(Duration::from_secs(1), simulation.observer.view()).await;
        drop(view.unwrap());
        simulation.host.set_faults(Faults::default());
        sleep(Duration::from_mins(1)).await;
        assert_eq!(stalled(), []);
    });
}

#[test]
fn an_interface_that_takes_for_ever_holds_no_other_up() {
    runtime().block_on(async {
        let simulation = Simulation::new(1, false);
        simulation.host.set_faults(Faults {
            held: Some("held"),
            ..Faults::default()
        });
        simulation.add_local_endpoint("held", 1);
        sleep(Duration::from_mins(1)).await;
        for last in 2..6 {
            let other = format!("other{last}");
            simulation.add_local_endpoint(&other, last);
            sleep(Duration::from_secs(2)).await;
            let view = simulation.observer.view().await;
            assert_eq!(view.state_of(&name(&other)), EndpointState::Ready);
            assert_eq!(view.state_of(&name("held")), EndpointState::Pending);
        }
        assert_eq!(simulation.observer.watchdog().stalled().len(), 0);
        simulation.host.set_faults(Faults::default());
        sleep(Duration::from_secs(1)).await;
        let view = simulation.observer.view().await;
        assert_eq!(view.state_of(&name("held")), EndpointState::Ready);
    });
}

#[test]
fn a_seed_gives_the_same_run_each_time() {
    for seed in 0..20 {
        assert_eq!(simulate(seed, true), simulate(seed, true), "seed {seed}");
    }
}
