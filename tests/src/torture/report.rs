//! What a run was and came to, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use super::Error;
use super::brokers::BrokerKind;
use super::fault::Fault;
use super::ground::Ground;
use super::proxy::Counts;
use super::site::{GRACE_MS, R_LIMIT_MS, Site};
use super::strike::Torturer;
use super::verdict::Findings;

/// A run.
pub struct Report<'a> {
    /// Decided everything but the machine's own timing.
    pub seed: u64,
    /// Which broker.
    pub broker: BrokerKind,
    /// How long faults were injected, s.
    pub faults_s: u64,
    /// When they began.
    pub began: Instant,
    /// What the system gave.
    pub ground: &'a Ground,
    /// Pictures of the finite job.
    pub job_frames: usize,
    /// The outcome, or what is wrong.
    pub outcome: &'a Result<Findings, String>,
}

/// The p-th percentile by the nearest rank, of sorted values.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0.0)
}

impl Report<'_> {
    /// Everything as JSON.
    pub fn json(&self, site: &Site, torturer: &Torturer) -> Value {
        let watch = &site.watch;
        let mut proxies = Counts::default();
        site.members.iter().for_each(|member| proxies += member.proxy.counts());
        let mut recoveries = watch.recoveries_ms.clone();
        recoveries.sort_by(f64::total_cmp);
        let bound_ms = (R_LIMIT_MS + GRACE_MS) as f64;
        let within = recoveries.iter().filter(|ms| **ms <= bound_ms).count();
        let struck: BTreeMap<_, _> =
            Fault::ALL.iter().map(|f| (f, torturer.struck.get(f).copied().unwrap_or(0))).collect();
        let spared: Vec<Value> = torturer
            .spared
            .iter()
            .map(|((fault, why), times)| json!({ "fault": fault, "why": why, "times": times }))
            .collect();
        let ran = |found: &Result<(), String>| match found {
            Ok(()) => json!({ "ran": true }),
            Err(why) => json!({ "ran": false, "why": why }),
        };
        let ground = self.ground;
        let restarts: u64 = site.members.iter().map(|member| member.restarts).sum();
        json!({
            "seed": self.seed, "broker": self.broker, "faults_s": self.faults_s, "job_frames": self.job_frames,
            "job_done_s": watch.job_done_at.map(|at| at.saturating_duration_since(self.began).as_secs()),
            "sound": self.outcome.is_ok(), "wrong": self.outcome.as_ref().err(), "findings": self.outcome.as_ref().ok(),
            "isolation": {
                "networks": ran(&ground.networks), "disks": ran(&ground.disks), "clocks": ran(&ground.clocks),
                "tbf": ran(&ground.shaping), "netem": ran(&ground.netem),
            },
            "faults": struck, "faults_not_possible_at_the_time": spared, "messages": proxies,
            "restarts_after_a_full_disk": restarts,
            "steps": watch.steps, "steps_run_twice": watch.run_twice, "takeovers": watch.takeovers,
            "observer": { "connection_lost": watch.lost, "events": watch.events.len(), "refused": watch.refused },
            "overrun_us_max": watch.overrun_us_max,
            "recovery_ms": {
                "count": recoveries.len(), "median": percentile(&recoveries, 50), "p99": percentile(&recoveries, 99),
                "largest": recoveries.last().copied().unwrap_or(0.0), "r_limit_and_grace": bound_ms, "within_it": within,
            },
            "counted_by_nodes": counters(site), "counted_by_cameras": watch.sources(),
            "troubles_told": watch.troubles().collect::<Vec<_>>(),
        })
    }
}

/// Counters of nodes that tell what happened to them.
fn counters(site: &Site) -> BTreeMap<&'static str, u64> {
    let names = [
        "steps",
        "kills",
        "worker-restarts",
        "steps-without-input",
        "steps-run-twice",
        "takeovers",
        "unit-failures",
        "units-set-aside",
        "suffixes-replaced",
        "forks-too-deep",
        "deltas-refused",
        "fetches",
        "sync-answers",
        "events-rescued",
        "event-repeats",
        "name-clashes",
        "chains-refused",
        "bus-messages-dropped",
    ];
    names.into_iter().map(|name| (name, site.watch.counter(name))).collect()
}

/// The report as text.
pub fn text(report: &Value) -> String {
    let mut text = String::new();
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let _ = writeln!(
        text,
        "torture: seed {}, {}, {} s of faults: {}",
        report["seed"],
        report["broker"].as_str().unwrap_or("?"),
        report["faults_s"],
        report["wrong"].as_str().unwrap_or("nothing lost, nothing twice")
    );
    let findings = &report["findings"];
    if findings.is_object() {
        let _ = writeln!(
            text,
            "{} chains and {} events, the same on every node; {} live records; all done {} ms after the last fault",
            findings["chains"], findings["events"], findings["live_records"], findings["calm_ms"]
        );
    }
    let _ = writeln!(
        text,
        "a job of {} frames, done {} s after the first fault",
        report["job_frames"], report["job_done_s"]
    );
    let _ = writeln!(
        text,
        "{} steps, {} of them run twice, {} taken over",
        report["steps"], report["steps_run_twice"], report["takeovers"]
    );
    let recovery = &report["recovery_ms"];
    let ms = |key: &str| recovery[key].as_f64().unwrap_or(0.0);
    let _ = writeln!(
        text,
        "work goes on after {} strikes on a claim: median {:.0} ms, p99 {:.0} ms, largest {:.0} ms; {} within r_limit + grace ({:.0} ms)",
        recovery["count"],
        ms("median"),
        ms("p99"),
        ms("largest"),
        recovery["within_it"],
        ms("r_limit_and_grace")
    );
    let messages = &report["messages"];
    let _ = writeln!(
        text,
        "{} messages: {} lost, {} repeated, {} late; {} connections, {} cut",
        messages["messages"],
        messages["lost"],
        messages["repeated"],
        messages["late"],
        messages["connections"],
        messages["cut"]
    );
    let _ = writeln!(text, "faults:");
    for fault in Fault::ALL {
        let key = serde_json::to_value(fault).ok().and_then(|key| key.as_str().map(str::to_owned)).unwrap_or_default();
        let _ = writeln!(text, "  {:>4}  {}", number(&report["faults"][&key]), fault.title());
    }
    let _ = writeln!(text, "isolation:");
    for (what, found) in report["isolation"].as_object().into_iter().flatten() {
        let _ = match found["why"].as_str() {
            None => writeln!(text, "  {what}: ran"),
            Some(why) => writeln!(text, "  {what}: did not run: {why}"),
        };
    }
    text
}

/// Writes both forms into `dir`.
///
/// # Errors
/// They cannot be written.
pub fn write(dir: &Path, report: &Value) -> Result<(), Error> {
    fs::write(dir.join("report.json"), serde_json::to_string_pretty(report)? + "\n")?;
    fs::write(dir.join("report.txt"), text(report))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_nearest_ranks() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!((percentile(&values, 50), percentile(&values, 99), percentile(&values, 100)), (100.0, 198.0, 200.0));
        assert_eq!((percentile(&[], 50), percentile(&[7.0], 99)), (0.0, 7.0));
    }
}
