//! What a job did, gathered from the bus: pure, fed with messages in the order of their receipt.

use std::collections::{BTreeMap, BTreeSet};

use microlambda::{Digest, Head, Version};
use microlambda_wire::{
    CameraHead, CameraStatus, ClaimNote, Continuation, DoneNote, EventKind, EventNote, FaceNote, FrameSummary, Name,
    NodeStatus, SourceCounters, StepTiming,
};

use crate::observer::{Note, Seen};
use crate::unit_limit::{UnitLimit, counter};

/// One step whose result was announced.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Counted from 1 in the order seen.
    pub number: u64,
    /// The node that ran the step.
    pub node: Name,
    /// The state that the step made.
    pub head: Head,
    /// What the step took, by its parts.
    pub timing: StepTiming,
    /// Frames that were finished in the step.
    pub frames: Vec<FrameSummary>,
    /// True if the step before ran on another node.
    pub moved: bool,
}

/// A bid for a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimSeen {
    /// The node that bids.
    pub node: Name,
    /// The state the step starts from.
    pub step: Version,
    /// How many claims for this step expired before.
    pub epoch: u32,
    /// When it was seen, µs of the monotonic clock.
    pub at_us: u64,
}

/// Something worth a line.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// The camera's chain is known.
    Chain(CameraHead),
    /// The camera says where its input ends: so many records.
    InputEnds(u64),
    /// A step's result is durable.
    Step(Box<Step>),
    /// A node bids for a step whose claim by another node expired.
    TakeOver {
        /// The bid of the other node.
        claim: ClaimSeen,
        /// The node whose claim expired.
        from: Name,
    },
    /// A node tried a step and failed.
    Failed {
        /// The node that failed.
        node: Name,
        /// The state that the step starts from.
        step: Version,
        /// What happened, for people.
        why: String,
    },
    /// Somebody new, or somebody again.
    Event(EventNote),
    /// So many pictures could not be taken in so far.
    PassedOver(u64),
    /// A node came, or came back.
    NodeUp(Name),
    /// A node is gone.
    NodeDown(Name),
    /// An agent says that something is wrong, and what to do.
    Trouble {
        /// The name of the camera or node.
        who: Name,
        /// What is wrong and what to do, for people.
        what: String,
    },
    /// The chain is finished.
    Done(DoneNote),
}

/// All that is known of one site's only chain.
#[derive(Debug, Default)]
pub struct Tally {
    /// The camera's newest word on its spool.
    pub camera: Option<CameraHead>,
    /// All steps, in the order seen.
    pub steps: Vec<Step>,
    /// The newest bid for a step that was not given up.
    pub claim: Option<ClaimSeen>,
    /// Bids for steps whose former claim was another node's.
    pub takeovers: u64,
    /// The newest head that each node announced.
    pub heads: BTreeMap<Name, Head>,
    /// The newest status of each node.
    pub nodes: BTreeMap<Name, NodeStatus>,
    /// Every face announced, by its id.
    pub faces: BTreeMap<Name, FaceNote>,
    /// Every event, by id.
    pub events: BTreeMap<Name, EventNote>,
    /// The chain's output.
    pub done: Option<DoneNote>,
    troubles: BTreeMap<Name, String>,
    limits: BTreeMap<Name, UnitLimit>,
    sources: BTreeMap<(Name, Name), SourceCounters>,
    kills: BTreeMap<(Name, Name), u64>,
    /// The longest time beyond the limit that a node's status has told, that of killed workers included, µs.
    overrun_max_us: u64,
    announced: BTreeSet<(Name, Name, Version)>,
}

impl Tally {
    /// Takes one message and says what of it is news.
    pub fn take(&mut self, seen: &Seen) -> Vec<News> {
        match &seen.note {
            Note::CameraHead(head) => self.camera_head(head),
            Note::CameraStatus(status) => self.camera_status(status),
            Note::Continuation(continuation) => self.continuation(continuation),
            Note::Claim(note) => self.claim(note, seen.at_us),
            Note::Done(done) => {
                let news = self.done.is_none();
                self.done = Some(done.clone());
                if news { vec![News::Done(done.clone())] } else { Vec::new() }
            }
            Note::Event(event) => match self.events.insert(event.id.clone(), event.clone()) {
                Some(_) => Vec::new(),
                None => vec![News::Event(event.clone())],
            },
            Note::Face(face) => {
                self.faces.insert(face.face.clone(), face.clone());
                Vec::new()
            }
            Note::NodeStatus(status) => self.node_status(status),
            Note::Want(_) | Note::Record(_) | Note::SyncWant(_) | Note::SyncHave(_) | Note::Ahead(_) => Vec::new(),
            Note::Picture(_) | Note::Cleared => Vec::new(),
        }
    }

    /// The state that the job has come to, as far as anybody announced.
    pub fn front(&self) -> Version {
        self.heads.values().map(|head| head.version).max().unwrap_or_default()
    }

    /// Steps of each node.
    pub fn steps_per_node(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for step in &self.steps {
            *counts.entry(step.node.to_string()).or_insert(0) += 1;
        }
        counts
    }

    /// How often a step ran on another node than the one before it.
    pub fn migrations(&self) -> u64 {
        self.steps.iter().filter(|step| step.moved).count() as u64
    }

    /// How many steps exceeded their limit, and by how much at most, µs: those announced, and those whose worker was killed for it.
    pub fn overruns(&self) -> (u64, u64) {
        let over = |step: &Step| step.timing.used_us.saturating_sub(step.timing.r_limit_us);
        let announced = self.steps.iter().map(over).filter(|&us| us > 0);
        let (count, max_us) = announced.fold((0, 0), |(count, max_us), us| (count + 1, us.max(max_us)));
        match self.worker_kills() {
            0 => (count, max_us),
            kills => (count + kills, max_us.max(self.overrun_max_us)),
        }
    }

    /// CPU time of all workers, µs: each node's own count, which begins again with a new worker.
    ///
    /// What a worker used after its last announced step, or in a step that was killed, is not in it.
    pub fn worker_cpu_us(&self) -> u64 {
        let mut last: BTreeMap<&Name, u64> = BTreeMap::new();
        let mut sum_us = 0;
        for step in &self.steps {
            let now_us = step.timing.worker_cpu_us;
            let before_us = last.insert(&step.node, now_us).unwrap_or(0);
            sum_us += if now_us >= before_us { now_us - before_us } else { now_us };
        }
        sum_us
    }

    /// Workers that were killed because they ran beyond the limit, as far as the nodes' statuses (every few seconds) tell.
    pub fn worker_kills(&self) -> u64 {
        self.kills.values().sum()
    }

    /// Pictures that the camera could not take in: no picture, damaged, too large. They have no number in the chain.
    pub fn passed_over(&self) -> u64 {
        self.sources.values().map(|counters| counters.unreadable).sum()
    }

    /// Frames that the camera encoded anew, because they were no JPEG or too long.
    pub fn reencoded(&self) -> u64 {
        self.sources.values().map(|counters| counters.reencoded).sum()
    }

    /// What agents say is wrong at the moment, and what to do.
    pub fn troubles(&self) -> impl Iterator<Item = (&Name, &str)> {
        self.troubles.iter().filter(|(_, what)| !what.is_empty()).map(|(who, what)| (who, what.as_str()))
    }

    /// Whether a node has found a unit too long for its limit, and has ended none since.
    pub fn is_limit_too_short(&self, node: &Name) -> bool {
        self.limits.get(node).is_some_and(UnitLimit::is_too_short)
    }

    /// The digest that all of `nodes` announce for the finished chain; `None` until they do.
    pub fn agreed<'a>(&self, nodes: impl IntoIterator<Item = &'a Name>) -> Option<Digest> {
        let done = self.done.as_ref()?.head;
        nodes.into_iter().all(|node| self.heads.get(node) == Some(&done)).then_some(done.digest)
    }

    /// Ids of the faces that events announced as new.
    pub fn new_faces(&self) -> BTreeSet<Name> {
        self.events.values().filter(|event| event.kind == EventKind::NewFace).map(|event| event.face.clone()).collect()
    }

    fn camera_head(&mut self, head: &CameraHead) -> Vec<News> {
        let mut news = Vec::new();
        let before = self.camera.replace(head.clone());
        if before.as_ref().is_none_or(|before| before.chain != head.chain) {
            news.push(News::Chain(head.clone()));
        }
        if let (Some(end), None) = (head.end, before.and_then(|before| before.end)) {
            news.push(News::InputEnds(end.count));
        }
        news
    }

    fn continuation(&mut self, note: &Continuation) -> Vec<News> {
        self.heads.insert(note.node.clone(), note.head);
        let Some(timing) = note.timing.filter(|_| !note.again) else {
            return Vec::new();
        };
        // QoS 1 may deliver a message twice; the same step twice under one boot id is the same step.
        if !self.announced.insert((note.node.clone(), note.boot.clone(), note.head.version)) {
            return Vec::new();
        }
        let step = Step {
            number: self.steps.len() as u64 + 1,
            node: note.node.clone(),
            head: note.head,
            timing,
            frames: note.frames.clone(),
            moved: self.steps.last().is_some_and(|last| last.node != note.node),
        };
        self.steps.push(step.clone());
        vec![News::Step(Box::new(step))]
    }

    fn claim(&mut self, note: &ClaimNote, at_us: u64) -> Vec<News> {
        let Ok(node) = Name::new(note.claim.node.clone()) else {
            return Vec::new();
        };
        let step = note.claim.step;
        if let Some(failure) = &note.failed {
            return vec![News::Failed { node, step, why: failure.why.clone() }];
        }
        // A lease of 0 gives a step up.
        if note.claim.lease_ms == 0 {
            if self.claim.as_ref().is_some_and(|claim| claim.node == node) {
                self.claim = None;
            }
            return Vec::new();
        }
        let claim = ClaimSeen { node, step, epoch: note.claim.epoch, at_us };
        let before = self.claim.replace(claim.clone());
        match before {
            Some(before) if before.step == step && before.node != claim.node && claim.epoch > before.epoch => {
                self.takeovers += 1;
                vec![News::TakeOver { claim, from: before.node }]
            }
            _ => Vec::new(),
        }
    }

    fn node_status(&mut self, status: &NodeStatus) -> Vec<News> {
        if let Some(kills) = counter(status, "kills") {
            self.kills.insert((status.node.clone(), status.boot.clone()), kills);
        }
        self.overrun_max_us = self.overrun_max_us.max(counter(status, "overrun-max-us").unwrap_or(0));
        let former = self.limits.remove(&status.node);
        if let Some(limit) = UnitLimit::of(status, former.as_ref()) {
            self.limits.insert(status.node.clone(), limit);
        }
        let before = self.nodes.insert(status.node.clone(), status.clone());
        let was_online = before.as_ref().is_some_and(|before| before.online && before.boot == status.boot);
        let mut news = match (was_online, status.online) {
            (false, true) => vec![News::NodeUp(status.node.clone())],
            (true, false) => vec![News::NodeDown(status.node.clone())],
            (true, true) | (false, false) => Vec::new(),
        };
        news.extend(self.trouble(&status.node, &status.trouble));
        news
    }

    fn camera_status(&mut self, status: &CameraStatus) -> Vec<News> {
        let before = self.passed_over();
        // Each start of the agent counts anew, and its last will counts nothing.
        let counters = self.sources.entry((status.camera.clone(), status.boot.clone())).or_default();
        counters.unreadable = counters.unreadable.max(status.counters.unreadable);
        counters.reencoded = counters.reencoded.max(status.counters.reencoded);
        let mut news = self.trouble(&status.camera, &status.trouble);
        let now = self.passed_over();
        if now > before {
            news.push(News::PassedOver(now));
        }
        news
    }

    fn trouble(&mut self, who: &Name, what: &str) -> Vec<News> {
        let before = self.troubles.insert(who.clone(), what.to_string()).unwrap_or_default();
        // The same trouble with other numbers is no news.
        let words = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
        if what.is_empty() || words(&before) == words(what) {
            return Vec::new();
        }
        vec![News::Trouble { who: who.clone(), what: what.to_string() }]
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use microlambda::Claim;
    use microlambda_wire::{ChainClass, Topic};

    use super::*;

    pub(crate) fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    pub(crate) fn seen(note: Note) -> Seen {
        Seen { at_us: 1_000, retained: false, topic: Topic::Event, note }
    }

    pub(crate) fn head(sequence: u64) -> Head {
        Head { version: Version::at(sequence), digest: Digest::of(&sequence.to_le_bytes()), set_aside: 0 }
    }

    pub(crate) fn step(node: &str, sequence: u64, used_us: u64, worker_cpu_us: u64) -> Continuation {
        Continuation {
            chain: name("c"),
            node: name(node),
            boot: name("b"),
            lambda: Digest::default(),
            origin: None,
            parent: head(sequence - 1),
            head: head(sequence),
            delta: None,
            again: false,
            timing: Some(StepTiming { r_limit_us: 400_000, used_us, worker_cpu_us, ..StepTiming::default() }),
            frames: Vec::new(),
        }
    }

    pub(crate) fn done(sequence: u64, people: &[&str]) -> DoneNote {
        DoneNote {
            chain: name("c"),
            camera: name("folder"),
            head: head(sequence),
            frames: sequence,
            unreadable: 0,
            faces_seen: 3,
            people: people.iter().map(|id| name(id)).collect(),
        }
    }

    fn take(tally: &mut Tally, continuation: Continuation) -> Vec<News> {
        tally.take(&seen(Note::Continuation(Box::new(continuation))))
    }

    #[test]
    fn steps_migrations_overruns_and_cpu_are_counted_once_each() {
        let mut tally = Tally::default();
        for (node, sequence, used_us, cpu_us) in
            [("a", 1, 100, 50), ("b", 2, 400_001, 70), ("b", 3, 400_000, 90), ("a", 4, 403_000, 20)]
        {
            let note = step(node, sequence, used_us, cpu_us);
            assert_eq!(take(&mut tally, note.clone()).len(), 1);
            assert!(take(&mut tally, note.clone()).is_empty(), "delivered twice");
            assert!(take(&mut tally, Continuation { again: true, ..note }).is_empty(), "announced again");
        }
        assert_eq!(tally.steps.len(), 4);
        assert_eq!(tally.migrations(), 2);
        assert_eq!(tally.overruns(), (2, 3_000));
        assert_eq!(tally.steps_per_node(), [("a".to_string(), 2), ("b".to_string(), 2)].into());
        assert_eq!(tally.worker_cpu_us(), 50 + 20 + 90, "node a's second count is a new worker's");
        assert_eq!(tally.front(), Version::at(4));
    }

    #[test]
    fn nodes_agree_only_when_each_announces_the_finished_head() {
        let (a, b) = (name("a"), name("b"));
        let mut tally = Tally::default();
        take(&mut tally, step("a", 5, 1, 1));
        take(&mut tally, step("b", 5, 1, 1));
        assert_eq!(tally.agreed([&a, &b]), None, "not done");
        assert!(matches!(tally.take(&seen(Note::Done(done(5, &[]))))[..], [News::Done(_)]));
        assert!(tally.take(&seen(Note::Done(done(5, &[])))).is_empty(), "retained again");
        assert_eq!(tally.agreed([&a, &b]), Some(head(5).digest));
        take(&mut tally, step("b", 4, 1, 1));
        assert_eq!(tally.agreed([&a, &b]), None, "b fell behind");
        assert_eq!(tally.agreed([&a]), Some(head(5).digest));
        let other = Head { digest: Digest::default(), ..head(5) };
        take(&mut tally, Continuation { head: other, ..step("b", 5, 1, 1) });
        assert_eq!(tally.agreed([&a, &b]), None, "b forked");
    }

    #[test]
    fn a_take_over_is_a_later_bid_of_another_node_for_the_same_step() {
        let mut tally = Tally::default();
        let mut claim = |node: &str, sequence: u64, epoch: u32, lease_ms: u32| {
            let claim = Claim { step: Version::at(sequence), epoch, node: node.into(), lease_ms };
            tally.take(&seen(Note::Claim(ClaimNote { chain: name("c"), boot: name("b"), claim, failed: None })))
        };
        assert!(claim("a", 1, 0, 900).is_empty());
        assert!(claim("b", 2, 0, 900).is_empty(), "another step");
        assert!(claim("b", 2, 1, 900).is_empty(), "its own claim again");
        assert!(matches!(claim("a", 2, 2, 900)[..], [News::TakeOver { ref from, .. }] if *from == name("b")));
        assert!(claim("a", 2, 2, 0).is_empty());
        assert_eq!(tally.claim, None, "given up");
        assert_eq!(tally.takeovers, 1);
    }

    #[test]
    fn a_camera_s_chain_and_end_are_news_once() {
        let mut tally = Tally::default();
        let mut spool = CameraHead {
            camera: name("folder"),
            chain: name("c"),
            class: ChainClass::Batch,
            oldest: 0,
            next: 3,
            end: None,
        };
        assert!(matches!(tally.take(&seen(Note::CameraHead(spool.clone())))[..], [News::Chain(_)]));
        spool.end = Some(microlambda_wire::EndMark { count: 7, manifest: Digest::default() });
        assert_eq!(tally.take(&seen(Note::CameraHead(spool.clone()))), [News::InputEnds(7)]);
        assert!(tally.take(&seen(Note::CameraHead(spool))).is_empty());
    }

    #[test]
    fn what_a_camera_passes_over_is_counted_over_its_starts() {
        let mut tally = Tally::default();
        let mut status = |boot: &str, online: bool, unreadable: u64| {
            let counters = SourceCounters { unreadable, reencoded: unreadable / 2, ..SourceCounters::default() };
            let (source, trouble) = (String::new(), String::new());
            let status = CameraStatus { camera: name("folder"), boot: name(boot), online, source, trouble, counters };
            tally.take(&seen(Note::CameraStatus(status)))
        };
        assert!(status("b1", true, 0).is_empty());
        assert_eq!(status("b1", true, 3), [News::PassedOver(3)]);
        assert!(status("b1", true, 3).is_empty() && status("b1", false, 0).is_empty());
        assert_eq!(status("b2", true, 2), [News::PassedOver(5)]);
        assert_eq!((tally.passed_over(), tally.reencoded()), (5, 2));
    }

    #[test]
    fn a_node_s_coming_going_and_trouble_are_news_once() {
        let mut tally = Tally::default();
        let status = |tally: &mut Tally, boot: &str, online: bool, trouble: &str| {
            let json = format!(
                r#"{{"v":1,"node":"a","boot":"{boot}","online":{online},"trouble":"{trouble}","counters":[["kills",2],["overrun-max-us",7000]]}}"#
            );
            let note: NodeStatus = microlambda_wire::from_payload(json.as_bytes()).unwrap();
            tally.take(&seen(Note::NodeStatus(note)))
        };
        assert_eq!(status(&mut tally, "b1", true, ""), [News::NodeUp(name("a"))]);
        assert!(status(&mut tally, "b1", true, "").is_empty());
        assert_eq!(status(&mut tally, "b1", true, "disk full").len(), 1);
        assert!(status(&mut tally, "b1", true, "disk full").is_empty());
        assert_eq!(status(&mut tally, "b1", true, "a unit takes 90 ms").len(), 1);
        assert!(status(&mut tally, "b1", true, "a unit takes 107 ms").is_empty(), "the same trouble");
        assert_eq!(status(&mut tally, "b1", false, ""), [News::NodeDown(name("a"))]);
        assert_eq!(status(&mut tally, "b2", true, ""), [News::NodeUp(name("a"))]);
        status(&mut tally, "b2", true, "worker missing");
        assert_eq!(tally.troubles().collect::<Vec<_>>(), [(&name("a"), "worker missing")]);
        assert_eq!(tally.worker_kills(), 4, "each start of a node counts anew");
        assert_eq!(tally.overruns(), (4, 7_000), "a step without a result is over its limit as well");
    }
}
