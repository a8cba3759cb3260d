//! The site in virtual time, over many seeds. Replay one with `cargo run -p microlambda-tests --bin simulate -- replay SEED`.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use microlambda_tests::sim::{FaultKind, Options, Outcome, Phase, run};

/// Seeds of one run of this test.
const SEEDS: u64 = 2_000;
/// Every kind of fault hits every phase at least so often over [`SEEDS`].
const HITS_MIN: u64 = 50;
/// Events of a seed, in the mean.
const EVENTS_MEAN_MIN: u64 = 1_000;

/// Frames analysed ahead of their chain's steps, and of these folded, over [`SEEDS`].
const AHEAD_MIN: (u64, u64) = (2_000, 1_000);

/// How often each kind of fault hit each phase.
type Hits = BTreeMap<(FaultKind, Phase), u64>;

/// Runs seeds on all cores until `stop` says so, in no particular order.
fn over_seeds(seeds: std::ops::Range<u64>, look: impl Fn(u64) -> bool + Sync) {
    let next = AtomicU64::new(seeds.start);
    let threads = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || !look(seed) {
                        next.store(seeds.end, Ordering::Relaxed);
                        return;
                    }
                }
            });
        }
    });
}

#[test]
fn every_invariant_holds_over_two_thousand_seeds_whatever_fails() {
    let sum: Mutex<(u64, Hits)> = Mutex::default();
    let ahead: Mutex<(u64, u64)> = Mutex::default();
    let broken: Mutex<Vec<(u64, Outcome)>> = Mutex::default();
    over_seeds(0..SEEDS, |seed| {
        let outcome = run(Options::seed(seed));
        let mut sum = sum.lock().expect("no thread panics here");
        sum.0 += outcome.events;
        for (place, count) in &outcome.faults {
            *sum.1.entry(*place).or_default() += count;
        }
        drop(sum);
        let mut ahead = ahead.lock().expect("no thread panics here");
        outcome.ahead.values().for_each(|(made, used)| *ahead = (ahead.0 + made, ahead.1 + used));
        let sound = outcome.violation.is_none();
        if !sound {
            broken.lock().expect("no thread panics here").push((seed, outcome));
        }
        sound
    });
    let broken = broken.into_inner().expect("no thread panics here");
    let told: Vec<String> =
        broken.iter().map(|(seed, outcome)| format!("seed {seed}: {:?}", outcome.violation)).collect();
    assert!(
        told.is_empty(),
        "{}\nreplay: cargo run -p microlambda-tests --bin simulate -- replay SEED",
        told.join("\n")
    );
    let (events, faults) = sum.into_inner().expect("no thread panics here");
    let (made, used) = ahead.into_inner().expect("no thread panics here");
    println!("{made} frames analysed ahead, {used} folded");
    assert!(made >= AHEAD_MIN.0 && used >= AHEAD_MIN.1, "{made} frames analysed ahead, {used} of them folded");
    assert!(events / SEEDS >= EVENTS_MEAN_MIN, "{} events a seed", events / SEEDS);
    for kind in FaultKind::ALL {
        for phase in Phase::ALL {
            let hits = faults.get(&(kind, phase)).copied().unwrap_or(0);
            assert!(hits >= HITS_MIN, "{kind:?} hit {phase:?} only {hits} times");
        }
    }
}

#[test]
fn a_seed_decides_everything() {
    let (once, again) =
        (run(Options { log: true, ..Options::seed(7) }), run(Options { log: true, ..Options::seed(7) }));
    assert!(once.events > 0);
    assert_eq!(once.log, again.log);
}

/// Each fault that is built in must be found; by which invariant is for the record.
#[cfg(feature = "sabotage")]
#[test]
fn every_sabotage_of_the_protocol_is_found_within_two_thousand_seeds() {
    use microlambda_tests::sim::Sabotage;
    let all = [
        Sabotage::PublishBeforeCommit,
        Sabotage::UnsyncedCommits,
        Sabotage::WallClockLease,
        Sabotage::AnnouncedHeadIsMerged,
        Sabotage::AdoptAnything,
        Sabotage::YieldToHigherClaim,
        Sabotage::EventsNotRescued,
        Sabotage::ReleasedIsGap,
        Sabotage::GapOverSent,
        Sabotage::ReuseNumbers,
        Sabotage::ReportAhead,
        Sabotage::FreeOnOne,
    ];
    for sabotage in all {
        let found: Mutex<Option<(u64, String)>> = Mutex::default();
        over_seeds(0..SEEDS, |seed| {
            let outcome = run(Options { sabotage: Some(sabotage), ..Options::seed(seed) });
            let Some(violation) = outcome.violation else { return true };
            let mut found = found.lock().expect("no thread panics here");
            found.get_or_insert((seed, violation.invariant.to_owned()));
            false
        });
        let found = found.into_inner().expect("no thread panics here");
        let (seed, invariant) = found.unwrap_or_else(|| panic!("{sabotage:?} was not found in {SEEDS} seeds"));
        println!("{sabotage:?}: seed {seed}, {invariant}");
    }
}
