//! One trial: when it began and ended, and where its time went.

use serde::{Deserialize, Serialize};

use crate::{StepSeen, ms};

/// The parts of a trial's time, in the order of [`Trial::parts_ms`]; together they are all of it.
pub const PARTS: [&str; 8] = ["start", "units", "idle", "load", "claim", "commit", "publish", "finish"];

/// What one trial came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// False if it was cut off: it would not have ended.
    pub finished: bool,
    /// From the receipt of the camera's head to the receipt of the job's output, which is said once the final state is durable, ms;
    /// or until it was cut off.
    pub total_ms: f64,
    /// Invocations: the steps that were announced, or for one that is killed its starts.
    pub invocations: u32,
    /// Units of all announced steps.
    pub units: u32,
    /// Where the time went, ms; all 0 for one that was cut off.
    pub parts_ms: [f64; PARTS.len()],
    /// Digest of the final state, shortened; empty for one that was cut off.
    pub digest: String,
}

/// Divides the time from `head_at_us` to `done_at_us` among its parts; `None` if no step was announced.
///
/// *Start* ends with the first unit and *finish* begins after the last one. Between them an invocation is *units* and *idle*, the
/// time between units. From one to the next: *commit* of the result, *claim* (the attempt, waiting, frames), *load*, the worker's
/// time from receipt of the state to its first unit, and *publish*, the rest: the worker's last word, folding, the bus.
pub fn parts_ms(head_at_us: u64, steps: &[StepSeen], done_at_us: u64) -> Option<[f64; PARTS.len()]> {
    let mut timings: Vec<_> = steps.iter().map(|step| step.timing).collect();
    timings.sort_by_key(|timing| timing.first_unit_at_us);
    let (first, last) = (timings.first()?, timings.last()?);
    let span = |from_us: u64, until_us: u64| ms(until_us) - ms(from_us);
    let units: f64 = timings.iter().map(|timing| ms(timing.busy_us)).sum();
    let ran: f64 = timings.iter().map(|timing| span(timing.first_unit_at_us, timing.last_unit_at_us)).sum();
    let (mut load, mut claim, mut commit, mut publish) = (0.0, 0.0, 0.0, 0.0);
    for (before, next) in timings.iter().zip(timings.iter().skip(1)) {
        let gap = span(before.last_unit_at_us, next.first_unit_at_us);
        let loading = ms(next.used_us) - span(next.first_unit_at_us, next.last_unit_at_us);
        let claiming = ms(next.claim_us) - loading;
        load += loading;
        claim += claiming;
        commit += ms(before.commit_us);
        publish += gap - loading - claiming - ms(before.commit_us);
    }
    let (start, finish) = (span(head_at_us, first.first_unit_at_us), span(last.last_unit_at_us, done_at_us));
    Some([start, units, ran - units, load, claim, commit, publish, finish])
}

#[cfg(test)]
mod tests {
    use microlambda::{Digest, Head, Version};
    use microlambda_wire::{Name, StepTiming};

    use super::*;

    fn step(first_unit_at_us: u64, last_unit_at_us: u64, busy_us: u64) -> StepSeen {
        let head = Head { version: Version::at(first_unit_at_us), digest: Digest::of(b""), set_aside: 0 };
        let timing = StepTiming {
            r_limit_us: 100_000,
            used_us: last_unit_at_us - first_unit_at_us + 1_000,
            busy_us,
            units: 3,
            claim_us: 3_000,
            commit_us: 4_000,
            first_unit_at_us,
            last_unit_at_us,
            worker_cpu_us: 0,
        };
        StepSeen { node: Name::new("a").expect("a name"), parent: head, head, timing, by_value: true }
    }

    #[test]
    fn the_parts_of_a_trial_are_all_of_its_time() {
        let steps = [step(120_000, 200_000, 78_000), step(20_000, 110_000, 88_000)];
        let parts = parts_ms(10_000, &steps, 206_000).expect("steps");
        assert_eq!(parts, [10.0, 166.0, 4.0, 1.0, 2.0, 4.0, 3.0, 6.0]);
        assert!((parts.iter().sum::<f64>() - 196.0).abs() < 1e-9);
    }

    #[test]
    fn a_single_invocation_has_nothing_between_invocations() {
        let parts = parts_ms(10_000, &[step(20_000, 110_000, 88_000)], 115_000).expect("a step");
        assert_eq!(parts, [10.0, 88.0, 2.0, 0.0, 0.0, 0.0, 0.0, 5.0]);
        assert_eq!(parts_ms(0, &[], 1), None);
    }
}
