//! What the bus says while a site is tortured. It is a hint for where to strike and what to count; the verdict is taken from the
//! databases alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use microlambda::{Claim, Version};
use microlambda_demo::{Note, Observer, Report, Seen, monotonic_us};
use microlambda_wire::{CameraHead, ChainClass, Continuation, Name, NodeStatus, SourceCounters};

/// What is known of one chain.
#[derive(Default)]
pub struct ChainSeen {
    /// The camera's newest word.
    pub camera: Option<CameraHead>,
    /// The furthest version that anybody announced.
    pub front: Version,
    /// The newest bid.
    pub claim: Option<Claim>,
    /// Steps announced, by the version they started from: by which starts of which nodes.
    runs: BTreeMap<Version, BTreeSet<(Name, Name)>>,
}

impl ChainSeen {
    /// Whether there are records that nobody has folded.
    pub fn has_work(&self) -> bool {
        self.camera.as_ref().is_some_and(|head| self.front.sequence < head.next)
    }

    /// The node that works on the next step, as far as is known.
    pub fn worker(&self) -> Option<&str> {
        self.claim.as_ref().filter(|claim| claim.step >= self.front).map(|claim| claim.node.as_str())
    }
}

/// A strike on a node that held a claim, until somebody works on that chain again.
struct Wounded {
    chain: Name,
    node: String,
    step: Version,
    at_us: u64,
    other: bool,
}

/// All that was seen.
pub struct Watch {
    observer: Observer,
    /// By chain.
    pub chains: BTreeMap<Name, ChainSeen>,
    /// The chain that the live camera spoke of last.
    pub live_chain: Option<Name>,
    /// Ids of the events that were published.
    pub events: BTreeSet<Name>,
    /// When the finite job was first said to be done.
    pub job_done_at: Option<Instant>,
    /// Steps that were announced.
    pub steps: u64,
    /// Steps that were announced by two nodes, or by two starts of one.
    pub run_twice: u64,
    /// Bids for a step whose former claim was another node's.
    pub takeovers: u64,
    /// The largest time by which a step went beyond its limit, µs.
    pub overrun_us_max: u64,
    /// From a strike to the next bid or result, ms.
    pub recoveries_ms: Vec<f64>,
    /// Messages on our topics that were not ours.
    pub refused: u64,
    /// Times this client's own connection was lost: what was published then it cannot know.
    pub lost: u64,
    wounded: Vec<Wounded>,
    counters: BTreeMap<(Name, Name), BTreeMap<String, u64>>,
    sources: BTreeMap<(Name, Name), SourceCounters>,
    troubles: BTreeSet<String>,
}

impl Watch {
    /// Begins to watch.
    pub fn new(observer: Observer) -> Self {
        Self {
            observer,
            chains: BTreeMap::new(),
            live_chain: None,
            events: BTreeSet::new(),
            job_done_at: None,
            steps: 0,
            run_twice: 0,
            takeovers: 0,
            overrun_us_max: 0,
            recoveries_ms: Vec::new(),
            refused: 0,
            lost: 0,
            wounded: Vec::new(),
            counters: BTreeMap::new(),
            sources: BTreeMap::new(),
            troubles: BTreeSet::new(),
        }
    }

    /// Takes what comes until then.
    pub fn listen_until(&mut self, until: Instant) {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.observer.next(left) {
                Some(Report::Seen(seen)) => self.take(&seen),
                Some(Report::Refused { .. }) => self.refused += 1,
                Some(Report::Lost(_)) => self.lost += 1,
                Some(Report::Connected | Report::Denied(_)) => {}
                None if left.is_zero() => return,
                None => {}
            }
            if left.is_zero() {
                return;
            }
        }
    }

    /// Notes a strike on a node; recovery is measured for each chain that it holds a claim of. With `other`, somebody else has to
    /// go on.
    pub fn struck(&mut self, node: &str, other: bool) {
        let at_us = monotonic_us();
        for (name, chain) in &self.chains {
            if chain.worker() == Some(node) && chain.has_work() {
                let step = chain.claim.as_ref().map_or(chain.front, |claim| claim.step);
                self.wounded.push(Wounded { chain: name.clone(), node: node.to_owned(), step, at_us, other });
            }
        }
    }

    /// Whether an event was seen on the bus.
    pub fn has_seen(&self, event: &str) -> bool {
        self.events.iter().any(|seen| seen.as_str() == event)
    }

    /// Whatever nodes count, summed over all their starts as far as their statuses (every five seconds) told.
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.values().filter_map(|counters| counters.get(name)).sum()
    }

    /// What cameras count, summed over all their starts.
    pub fn sources(&self) -> SourceCounters {
        self.sources.values().fold(SourceCounters::default(), |sum, one| SourceCounters {
            frames: sum.frames + one.frames,
            dropped: sum.dropped + one.dropped,
            freed_on_one: sum.freed_on_one + one.freed_on_one,
            unreadable: sum.unreadable + one.unreadable,
            still: sum.still + one.still,
            reencoded: sum.reencoded + one.reencoded,
            reopened: sum.reopened + one.reopened,
            refused_messages: sum.refused_messages + one.refused_messages,
            bus_connections: sum.bus_connections + one.bus_connections,
            begun_anew: sum.begun_anew + one.begun_anew,
            lost: sum.lost + one.lost,
            spools_kept_aside: sum.spools_kept_aside + one.spools_kept_aside,
        })
    }

    /// What agents said was wrong, each once, without its numbers.
    pub fn troubles(&self) -> impl Iterator<Item = &str> {
        self.troubles.iter().map(String::as_str)
    }

    fn take(&mut self, seen: &Seen) {
        match &seen.note {
            Note::CameraHead(head) if !seen.retained => {
                if head.class == ChainClass::Live {
                    self.live_chain = Some(head.chain.clone());
                }
                self.chains.entry(head.chain.clone()).or_default().camera = Some(head.clone());
            }
            Note::CameraStatus(status) => {
                self.trouble(&status.trouble);
                if status.online {
                    self.sources.insert((status.camera.clone(), status.boot.clone()), status.counters);
                }
            }
            Note::Continuation(note) => self.continuation(note, seen.at_us),
            Note::Claim(note) if note.failed.is_none() => {
                let chain = self.chains.entry(note.chain.clone()).or_default();
                let claim = &note.claim;
                if claim.lease_ms == 0 {
                    chain.claim = chain.claim.take().filter(|held| held.node != claim.node);
                    return;
                }
                let before = chain.claim.replace(claim.clone());
                self.takeovers += u64::from(before.is_some_and(|before| {
                    before.step == claim.step && before.node != claim.node && claim.epoch > before.epoch
                }));
                let (step, node) = (claim.step, claim.node.clone());
                self.healed(&note.chain, seen.at_us, |wounded| {
                    step >= wounded.step && (!wounded.other || node != wounded.node)
                });
            }
            Note::Done(_) => {
                self.job_done_at.get_or_insert(Instant::now());
            }
            Note::Event(event) => {
                self.events.insert(event.id.clone());
            }
            Note::NodeStatus(status) => self.status(status),
            _ => {}
        }
    }

    fn continuation(&mut self, note: &Continuation, at_us: u64) {
        let chain = self.chains.entry(note.chain.clone()).or_default();
        let went_on = note.head.version > chain.front;
        chain.front = chain.front.max(note.head.version);
        let front = chain.front;
        if let Some(timing) = note.timing.filter(|_| !note.again) {
            let runs = chain.runs.entry(note.parent.version).or_default();
            if runs.insert((note.node.clone(), note.boot.clone())) {
                self.steps += 1;
                self.run_twice += u64::from(runs.len() > 1);
                self.overrun_us_max = self.overrun_us_max.max(timing.used_us.saturating_sub(timing.r_limit_us));
            }
        }
        if went_on {
            self.healed(&note.chain, at_us, |wounded| front > wounded.step);
        }
    }

    fn status(&mut self, status: &NodeStatus) {
        self.trouble(&status.trouble);
        if status.online {
            let counters = status.counters.iter().cloned().collect();
            self.counters.insert((status.node.clone(), status.boot.clone()), counters);
        }
    }

    fn trouble(&mut self, what: &str) {
        if !what.is_empty() && self.troubles.len() < 64 {
            self.troubles.insert(what.replace(|c: char| c.is_ascii_digit(), "#"));
        }
    }

    fn healed(&mut self, chain: &Name, at_us: u64, is: impl Fn(&Wounded) -> bool) {
        let recoveries = &mut self.recoveries_ms;
        self.wounded.retain(|wounded| {
            let healed = wounded.chain == *chain && at_us > wounded.at_us && is(wounded);
            if healed {
                recoveries.push((at_us - wounded.at_us) as f64 / 1_000.0);
            }
            !healed
        });
    }

    /// As [`Watch::listen_until`], for so long.
    pub fn listen(&mut self, patience: Duration) {
        self.listen_until(Instant::now() + patience);
    }
}
