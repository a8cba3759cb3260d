//! The chain on one node: what it does, told as sentences.

use std::collections::VecDeque;

use microlambda::placement::{Peer, Spread, Stay};
use microlambda::{
    Attempt, Chain, ChainConfig, Claim, Commit, Context, Digest, Effect, Event, Head, Phase, REASON_BYTES_MAX, StepEnd,
    StepMode, TimerReason, Version,
};

const R_LIMIT_US: u64 = 1_000_000;
const GRACE_US: u64 = 500_000;
const SLOT_US: u64 = 40_000;

/// A chain with its surroundings, and a store that always succeeds.
struct Bench {
    chain: Chain,
    now_us: u64,
    worker_free: bool,
    peers: Vec<Peer>,
}

fn head(sequence: u64) -> Head {
    Head { version: Version::at(sequence), digest: Digest::of(&sequence.to_le_bytes()), set_aside: 0 }
}

/// The same length on another branch.
fn other_head(sequence: u64) -> Head {
    Head { digest: Digest::of(b"another analysis"), ..head(sequence) }
}

fn config(node: &str, spread: bool) -> ChainConfig {
    ChainConfig {
        node: node.into(),
        chain: "door-1".into(),
        r_limit_us: R_LIMIT_US,
        grace_us: GRACE_US,
        announce_us: 2_000_000,
        slot_us: SLOT_US,
        fetch_us: 1_000_000,
        refusal_us: 10_000_000,
        placement: if spread { Box::new(Spread) } else { Box::new(Stay) },
    }
}

impl Bench {
    fn open(vanished: Option<Attempt>) -> Self {
        Self::on("a", vanished)
    }

    fn on(node: &str, vanished: Option<Attempt>) -> Self {
        let peers = ["a", "b"].map(|node| Peer { node: node.into(), load_permille: 0 }).to_vec();
        let chain = Chain::open(config(node, false), head(0), false, vanished, 0);
        Self { chain, now_us: 0, worker_free: true, peers }
    }

    fn new() -> Self {
        Self::open(None)
    }

    /// Feeds an event; persists are answered by a store that takes everything. Returns all effects in order.
    fn feed(&mut self, event: Event) -> Vec<Effect> {
        let mut all = Vec::new();
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let ctx = Context { now_us: self.now_us, worker_free: self.worker_free, peers: &self.peers };
            for effect in self.chain.handle(event, &ctx) {
                if let Effect::Persist(commit) = &effect {
                    events.push(self.store(commit));
                }
                all.push(effect);
            }
        }
        all
    }

    fn store(&self, commit: &Commit) -> Event {
        let (head, attempt, holder) = match commit {
            Commit::Attempt(attempt) => (self.chain.head(), Some(*attempt), self.chain.holder()),
            Commit::Result { result, then, .. } => (*result, *then, Some("a")),
            Commit::Adopt { from, head, then } => (*head, *then, Some(from.as_str())),
            Commit::Withdraw | Commit::Failure { .. } => (self.chain.head(), None, self.chain.holder()),
            Commit::SetAside { at, .. } => (next_unit(at), None, Some("a")),
        };
        Event::Committed { head, attempt, done: false, holder: holder.map(str::to_owned) }
    }

    fn at(&mut self, now_us: u64) -> Vec<Effect> {
        self.now_us = now_us;
        self.feed(Event::Tick)
    }

    fn claim_of_b(&mut self, sequence: u64, epoch: u32) -> Vec<Effect> {
        let claim = Claim { step: Version::at(sequence), epoch, node: "b".into(), lease_ms: 1_500 };
        self.feed(Event::ClaimSeen(claim))
    }

    fn ended(&mut self, result: Head, end: StepEnd) -> Vec<Effect> {
        self.feed(Event::StepEnded { result, end })
    }
}

fn next_unit(at: &Head) -> Head {
    let version = Version { unit: at.version.unit + 1, ..at.version };
    Head { version, digest: Digest::of(format!("{version}").as_bytes()), set_aside: at.set_aside + 1 }
}

fn started(effects: &[Effect]) -> Option<Attempt> {
    effects.iter().find_map(|effect| if let Effect::Start(attempt) = effect { Some(*attempt) } else { None })
}

fn claimed(effects: &[Effect]) -> Option<Claim> {
    effects.iter().find_map(|effect| if let Effect::PublishClaim(claim) = effect { Some(claim.clone()) } else { None })
}

/// A bench whose chain runs the first step.
fn running() -> Bench {
    let mut bench = Bench::new();
    bench.feed(Event::InputSeen { oldest: 0, next: 100 });
    let effects = bench.at(2 * SLOT_US);
    assert!(started(&effects).is_some(), "{effects:?}");
    bench
}

#[test]
fn nothing_is_started_without_input() {
    assert_eq!(started(&Bench::new().at(10 * SLOT_US)), None);
}

#[test]
fn a_start_is_claimed_then_made_durable_then_done() {
    let mut bench = Bench::new();
    bench.feed(Event::InputSeen { oldest: 0, next: 1 });
    let effects = bench.at(2 * SLOT_US);
    let order: Vec<&str> = effects
        .iter()
        .map(|effect| match effect {
            Effect::PublishClaim(_) => "claim",
            Effect::Persist(Commit::Attempt(_)) => "commit",
            Effect::Start(_) => "start",
            _ => "other",
        })
        .collect();
    assert_eq!(order, ["claim", "commit", "start"]);
}

#[test]
fn a_claim_of_a_peer_prevents_a_start_until_its_lease_ends() {
    let mut bench = Bench::new();
    bench.claim_of_b(0, 0);
    assert_eq!(started(&bench.feed(Event::InputSeen { oldest: 0, next: 100 })), None);
    assert_eq!(started(&bench.at(R_LIMIT_US + GRACE_US - 1)), None);
    let effects = bench.at(R_LIMIT_US + GRACE_US + SLOT_US);
    let claim = claimed(&effects).expect("expired lease is claimable by a peer");
    assert_eq!(claim.epoch, 1, "with a higher epoch");
    assert_eq!(claim.lease_ms, 3_000, "and a lease twice as long");
    assert!(effects.contains(&Effect::CountTakeover { from: "b".into() }));
}

#[test]
fn a_lease_of_less_than_a_millisecond_does_not_give_the_step_up() {
    let mut bench = Bench::new();
    let config = ChainConfig { r_limit_us: 300, grace_us: 200, ..config("a", false) };
    bench.chain = Chain::open(config, head(0), false, None, 0);
    bench.feed(Event::InputSeen { oldest: 0, next: 100 });
    assert_eq!(claimed(&bench.at(2 * SLOT_US)).map(|claim| claim.lease_ms), Some(1));
}

#[test]
fn a_step_taken_over_runs_one_unit_at_a_time() {
    let mut bench = Bench::new();
    bench.feed(Event::InputSeen { oldest: 0, next: 100 });
    bench.claim_of_b(0, 0);
    let effects = bench.at(R_LIMIT_US + GRACE_US + SLOT_US);
    assert_eq!(started(&effects).map(|attempt| attempt.mode), Some(StepMode::OneUnit));
}

#[test]
fn nobody_waits_for_the_turn_of_the_node_whose_claim_ran_out() {
    // Placement draws b first for some of these steps, and b counts as live until it has been silent for long.
    for sequence in 0..20 {
        let mut bench = Bench::new();
        bench.chain = Chain::open(config("a", true), head(sequence), false, None, 0);
        bench.claim_of_b(sequence, 0);
        bench.feed(Event::InputSeen { oldest: 0, next: 100 });
        let effects = bench.at(R_LIMIT_US + GRACE_US);
        assert!(started(&effects).is_some(), "step {sequence}: {effects:?}");
    }
}

#[test]
fn a_claim_never_stops_a_run() {
    let mut bench = running();
    assert_eq!(bench.claim_of_b(0, 7), []);
    assert!(matches!(bench.chain.phase(), Phase::Running(_)));
    let effects = bench.ended(head(3), StepEnd::Finished);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::PublishHead { .. })));
}

#[test]
fn a_claim_with_a_past_epoch_is_ignored() {
    let mut bench = Bench::new();
    bench.feed(Event::InputSeen { oldest: 0, next: 100 });
    bench.claim_of_b(0, 2);
    bench.worker_free = false;
    bench.at(R_LIMIT_US + GRACE_US + 1);
    bench.claim_of_b(0, 2);
    assert_eq!(bench.chain.leased_to(), None, "epoch 2 has expired here");
    bench.claim_of_b(0, 3);
    assert_eq!(bench.chain.leased_to(), Some("b"));
}

/// Found by the model checker.
#[test]
fn a_claim_that_ran_out_is_not_believed_again_after_another_branch_of_the_same_length_won() {
    let mut bench = Bench::new();
    bench.feed(Event::InputSeen { oldest: 0, next: 100 });
    bench.worker_free = false;
    let (better, worse) =
        if head(1).beats(&other_head(1)) { (head(1), other_head(1)) } else { (other_head(1), head(1)) };
    bench.feed(Event::HeadSeen { from: "b".into(), head: worse, content_applies: true });
    bench.claim_of_b(1, 0);
    bench.at(R_LIMIT_US + GRACE_US + 1);
    bench.feed(Event::HeadSeen { from: "b".into(), head: better, content_applies: true });
    assert_eq!(bench.chain.head(), better);
    bench.claim_of_b(1, 0);
    assert_eq!(bench.chain.leased_to(), None, "a repetition of a claim that has run out here");
}

#[test]
fn a_claim_for_another_step_that_ran_out_leaves_the_epoch_of_this_one_alone() {
    let mut bench = Bench::new();
    bench.feed(Event::InputSeen { oldest: 0, next: 100 });
    bench.claim_of_b(7, 0);
    let claim = claimed(&bench.at(R_LIMIT_US + GRACE_US + SLOT_US));
    assert_eq!(claim.map(|claim| (claim.step.sequence, claim.epoch)), Some((0, 0)));
}

#[test]
fn a_result_is_durable_before_it_is_published_and_the_next_start_costs_no_commit_of_its_own() {
    let mut bench = running();
    let effects = bench.ended(head(3), StepEnd::Finished);
    let kinds: Vec<&str> = effects
        .iter()
        .map(|effect| match effect {
            Effect::Persist(Commit::Result { then: Some(_), .. }) => "commit with next start",
            Effect::PublishHead { .. } => "publish",
            Effect::PublishClaim(_) => "claim",
            Effect::Start(_) => "start",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["commit with next start", "start", "publish", "claim"]);
    assert_eq!(bench.chain.head(), head(3));
}

#[test]
fn a_step_that_ends_where_the_worker_is_wanted_elsewhere_is_not_continued() {
    let mut bench = running();
    bench.worker_free = false;
    let effects = bench.ended(head(3), StepEnd::Finished);
    assert_eq!(started(&effects), None);
    assert_eq!(*bench.chain.phase(), Phase::Idle);
}

#[test]
fn content_that_continues_the_head_is_adopted_and_older_content_is_not() {
    let mut bench = Bench::new();
    bench.feed(Event::InputSeen { oldest: 0, next: 100 });
    bench.claim_of_b(0, 0);
    bench.feed(Event::HeadSeen { from: "b".into(), head: head(4), content_applies: true });
    assert_eq!(bench.chain.head(), head(4));
    let effects = bench.feed(Event::HeadSeen { from: "b".into(), head: head(2), content_applies: true });
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Persist(Commit::Adopt { .. }))));
    assert_eq!(bench.chain.head(), head(4));
}

#[test]
fn an_announced_head_without_content_is_only_asked_for() {
    let mut bench = Bench::new();
    let effects = bench.feed(Event::HeadSeen { from: "b".into(), head: head(9), content_applies: false });
    assert_eq!(effects, [Effect::Fetch { from: "b".into() }]);
    assert_eq!(bench.chain.head(), head(0), "a hint is not a state");
    let again = bench.feed(Event::HeadSeen { from: "b".into(), head: head(9), content_applies: false });
    assert_eq!(again, [], "and is not asked for twice at once");
    bench.at(1_000_001);
    let later = bench.feed(Event::HeadSeen { from: "b".into(), head: head(9), content_applies: false });
    assert_eq!(later, [Effect::Fetch { from: "b".into() }], "a hint that nobody serves expires");
}

#[test]
fn a_step_that_another_node_finished_first_is_counted_and_changes_nothing() {
    let mut bench = running();
    bench.feed(Event::HeadSeen { from: "b".into(), head: head(5), content_applies: true });
    assert_eq!(bench.chain.head(), head(5));
    let effects = bench.ended(head(3), StepEnd::Finished);
    assert!(effects.contains(&Effect::CountRunTwice));
    assert_eq!(bench.chain.head(), head(5));
}

#[test]
fn an_attempt_found_at_the_head_after_a_restart_is_retried_one_unit_at_a_time() {
    let attempt = Attempt { step: head(0), epoch: 0, mode: StepMode::Normal };
    let mut bench = Bench::open(Some(attempt));
    bench.feed(Event::InputSeen { oldest: 0, next: 100 });
    let effects = bench.at(2 * SLOT_US);
    assert_eq!(started(&effects).map(|attempt| attempt.mode), Some(StepMode::OneUnit));
}

#[test]
fn an_attempt_for_another_state_says_nothing() {
    let attempt = Attempt { step: head(7), epoch: 0, mode: StepMode::OneUnit };
    let mut bench = Bench::open(Some(attempt));
    bench.feed(Event::InputSeen { oldest: 0, next: 100 });
    assert_eq!(started(&bench.at(2 * SLOT_US)).map(|attempt| attempt.mode), Some(StepMode::Normal));
}

#[test]
fn a_unit_that_fails_on_two_nodes_is_set_aside_and_the_chain_goes_on() {
    let mut bench = running();
    let effects = bench.ended(head(0), StepEnd::Died { why: "abort".into() });
    assert!(effects.iter().any(|effect| matches!(effect, Effect::PublishFailure { times: 1, .. })));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Persist(Commit::SetAside { .. }))));
    let failure =
        Event::FailureSeen { node: "b".into(), at: bench.chain.head().version, times: 1, why: "abort".into() };
    let effects = bench.feed(failure);
    let why = effects.iter().find_map(|effect| match effect {
        Effect::Persist(Commit::SetAside { why, .. }) => Some(why.clone()),
        _ => None,
    });
    assert_eq!(why.as_deref(), Some("a: 1 × abort; b: 1 × abort"));
    assert_eq!(bench.chain.head().version.unit, 1);
}

#[test]
fn the_reason_of_a_unit_set_aside_is_bounded_whatever_peers_say() {
    let mut bench = running();
    for node in 0..80 {
        let (node, why) = (format!("stranger-{node}"), "ü".repeat(500));
        bench.feed(Event::FailureSeen { node, at: Version::at(0), times: 1, why });
    }
    let effects = bench.ended(head(0), StepEnd::Died { why: "it ended".into() });
    let why = effects.iter().find_map(|effect| match effect {
        Effect::Persist(Commit::SetAside { why, .. }) => Some(why.clone()),
        _ => None,
    });
    let why = why.expect("a unit set aside");
    let full = REASON_BYTES_MAX - 24..=REASON_BYTES_MAX;
    assert!(why.starts_with("a: 1 × it ended; ") && full.contains(&why.len()), "{}: {why}", why.len());
}

#[test]
fn a_start_that_was_committed_with_the_chains_end_is_withdrawn() {
    // A camera that speaks of records behind its own end is wrong: nothing will come of them.
    let mut bench = running();
    let ctx = Context { now_us: bench.now_us, worker_free: true, peers: &bench.peers };
    let effects = bench.chain.handle(Event::StepEnded { result: head(1), end: StepEnd::Finished }, &ctx);
    let Some(Effect::Persist(Commit::Result { result, then: Some(then), .. })) = effects.last() else {
        panic!("{effects:?}");
    };
    let committed = Event::Committed { head: *result, attempt: Some(*then), done: true, holder: Some("a".into()) };
    let effects = bench.chain.handle(committed, &ctx);
    assert_eq!(started(&effects), None);
    assert_eq!(effects.last(), Some(&Effect::Persist(Commit::Withdraw)));
    assert_eq!(*bench.chain.phase(), Phase::Idle);
}

#[test]
fn a_unit_that_fails_on_the_only_node_is_set_aside_after_three_tries() {
    let mut bench = running();
    bench.peers.truncate(1);
    let mut tries = 1;
    while bench.chain.head() == head(0) {
        assert!(tries < 10);
        bench.ended(head(0), StepEnd::Died { why: "abort".into() });
        if bench.chain.head() == head(0) {
            assert!(matches!(bench.chain.phase(), Phase::Running(_)), "tried again at once");
            tries += 1;
        }
    }
    assert_eq!(tries, 3);
}

#[test]
fn a_unit_whose_record_is_missing_is_set_aside_seldom_while_its_camera_is_away() {
    let mut bench = Bench::new();
    bench.peers.truncate(1);
    bench.chain.restore_failures(3, "abort".into());
    let mut tries_ms = Vec::new();
    let mut event = Event::InputSeen { oldest: 0, next: 100 };
    for ms in 0..60_000 {
        bench.now_us = ms * 1_000;
        let ctx = Context { now_us: bench.now_us, worker_free: true, peers: &bench.peers };
        let effects = bench.chain.handle(std::mem::replace(&mut event, Event::Tick), &ctx);
        if matches!(effects.last(), Some(Effect::Persist(Commit::SetAside { .. }))) {
            tries_ms.push(ms);
            let unchanged = Event::Committed { head: bench.chain.head(), attempt: None, done: false, holder: None };
            bench.chain.handle(unchanged, &ctx);
        }
    }
    assert_eq!(tries_ms, [0, 40, 10_040, 20_040, 30_040, 40_040, 50_040]);
}

#[test]
fn a_start_that_ended_without_a_unit_is_withdrawn() {
    for end in [StepEnd::NoInput, StepEnd::Prepared, StepEnd::TooLarge, StepEnd::Overran, StepEnd::Abandoned] {
        let effects = running().ended(head(0), end);
        assert!(
            effects.contains(&Effect::Persist(Commit::Withdraw)),
            "else a later power cut is blamed on it: {effects:?}"
        );
    }
    let died = running().ended(head(0), StepEnd::Died { why: "abort".into() });
    assert!(!died.contains(&Effect::Persist(Commit::Withdraw)), "a failure is noted instead: {died:?}");
}

#[test]
fn a_step_that_only_prepared_is_followed_by_one_here_at_once_but_not_for_ever() {
    let mut bench = running();
    bench.ended(head(0), StepEnd::Prepared);
    bench.at(bench.now_us + SLOT_US);
    assert!(matches!(bench.chain.phase(), Phase::Running(_)));
    let mut starts = 0;
    for ms in 200..10_000 {
        if matches!(bench.chain.phase(), Phase::Running(_)) {
            bench.ended(head(0), StepEnd::Prepared);
            starts += 1;
        }
        bench.at(ms * 1_000);
    }
    assert!((5..20).contains(&starts), "{starts} starts in 10 s");
}

#[test]
fn a_unit_that_is_too_large_once_it_is_prepared_is_tried_again_a_slot_later() {
    let mut bench = running();
    for _ in 0..4 {
        bench.ended(head(0), StepEnd::Prepared);
        bench.at(bench.now_us + SLOT_US);
    }
    bench.ended(head(0), StepEnd::TooLarge);
    assert_eq!(*bench.chain.phase(), Phase::Idle);
    bench.at(bench.now_us + 2 * SLOT_US);
    assert!(matches!(bench.chain.phase(), Phase::Running(_)), "it was refused for the first time");
}

#[test]
fn a_unit_killed_at_the_limit_is_slow_and_never_set_aside() {
    let mut bench = running();
    for round in 1..20 {
        let effects = bench.ended(head(0), StepEnd::Overran);
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Persist(Commit::SetAside { .. }))));
        assert_eq!(claimed(&effects).map(|claim| claim.lease_ms), Some(0), "the step is given up for others");
        bench.at(round * 41_000_000);
        assert!(matches!(bench.chain.phase(), Phase::Running(_)), "and tried again later");
    }
}

#[test]
fn the_report_that_a_claimer_is_gone_shortens_its_lease() {
    let mut bench = Bench::new();
    bench.feed(Event::InputSeen { oldest: 0, next: 100 });
    bench.claim_of_b(0, 0);
    bench.feed(Event::PeerGone { node: "b".into() });
    assert_eq!(started(&bench.at(50_000)), None);
    assert!(started(&bench.at(100_000 + SLOT_US)).is_some());
}

#[test]
fn a_stopping_node_gives_its_step_up_and_starts_no_other() {
    let mut bench = running();
    bench.feed(Event::Stopping);
    let effects = bench.ended(head(0), StepEnd::Abandoned);
    assert_eq!(claimed(&effects).map(|claim| claim.lease_ms), Some(0));
    assert_eq!(started(&bench.at(60_000_000)), None);
}

#[test]
fn a_hostile_lease_cannot_silence_a_node_for_ever() {
    let mut bench = Bench::new();
    bench.feed(Event::InputSeen { oldest: 0, next: 100 });
    let claim = Claim { step: Version::at(u64::MAX), epoch: u32::MAX, node: "x".into(), lease_ms: u32::MAX };
    bench.feed(Event::ClaimSeen(claim));
    let effects = bench.at(16 * (R_LIMIT_US + GRACE_US) + 2 * SLOT_US);
    assert!(started(&effects).is_some(), "{effects:?}");
}

#[test]
fn a_node_whose_next_frames_were_released_asks_instead_of_bidding() {
    let mut bench = Bench::new();
    let effects = bench.feed(Event::InputSeen { oldest: 7, next: 100 });
    assert_eq!(effects, [Effect::Reannounce], "its old head makes the others speak");
    assert_eq!(started(&bench.at(10 * SLOT_US)), None);
    bench.feed(Event::HeadSeen { from: "b".into(), head: head(8), content_applies: true });
    assert!(started(&bench.at(20 * SLOT_US)).is_some());
}

#[test]
fn what_a_stranger_said_of_the_input_holds_until_the_camera_speaks() {
    let mut bench = Bench::new();
    bench.feed(Event::InputSeen { oldest: 1_000_000, next: u64::MAX });
    assert_eq!(started(&bench.at(10 * SLOT_US)), None);
    bench.feed(Event::InputSeen { oldest: 0, next: 3 });
    bench.at(20 * SLOT_US);
    assert!(matches!(bench.chain.phase(), Phase::Running(_)));
    assert_eq!(bench.chain.input_next(), 3);
}

#[test]
fn a_step_whose_frames_do_not_come_is_tried_ever_less_often_until_the_camera_is_heard() {
    let mut bench = running();
    let mut starts = 1;
    for ms in 1..20_000 {
        if matches!(bench.chain.phase(), Phase::Running(_)) {
            bench.ended(head(0), StepEnd::NoInput);
        }
        starts += u32::from(started(&bench.at(ms * 1_000)).is_some());
    }
    assert!((8..20).contains(&starts), "{starts} starts in 20 s");
    bench.ended(head(0), StepEnd::NoInput);
    assert!(!bench.chain.wants_worker(bench.now_us), "a chain of a lower class may have it meanwhile");
    bench.feed(Event::InputSeen { oldest: 0, next: 100 });
    bench.at(bench.now_us + 2 * SLOT_US);
    assert!(matches!(bench.chain.phase(), Phase::Running(_)), "at once when the camera is there again");
}

#[test]
fn two_nodes_that_lack_a_steps_frames_do_not_wake_each_other() {
    let mut nodes = ["a", "b"].map(|node| Bench::on(node, None));
    let mut said = VecDeque::new();
    for (at, bench) in nodes.iter_mut().enumerate() {
        said.push_back((at, bench.feed(Event::InputSeen { oldest: 0, next: 100 })));
    }
    let (mut starts, mut began_ms) = (0, [None; 2]);
    for ms in 0..60_000 {
        for (at, bench) in nodes.iter_mut().enumerate() {
            said.push_back((at, bench.at(ms * 1_000)));
            if began_ms[at].take_if(|began_ms| *began_ms + 400 <= ms).is_some() {
                said.push_back((at, bench.ended(head(0), StepEnd::NoInput)));
            }
        }
        while let Some((at, effects)) = said.pop_front() {
            if started(&effects).is_some() {
                (starts, began_ms[at]) = (starts + 1, Some(ms));
            }
            let claims = effects.into_iter().filter_map(|effect| match effect {
                Effect::PublishClaim(claim) => Some(claim),
                _ => None,
            });
            said.extend(claims.map(|claim| (1 - at, nodes[1 - at].feed(Event::ClaimSeen(claim)))).collect::<Vec<_>>());
        }
    }
    assert!((10..50).contains(&starts), "{starts} starts in 60 s, each with two transactions");
}

#[test]
fn a_node_that_hears_a_claim_for_an_old_step_tells_the_claimer_its_head() {
    let mut bench = running();
    bench.ended(head(3), StepEnd::Finished);
    bench.claim_of_b(1, 0);
    assert!(bench.at(4 * SLOT_US).contains(&Effect::Reannounce));
}

#[test]
fn a_head_is_repeated_a_hundred_times_a_second_at_most() {
    let mut bench = Bench::new();
    let config = ChainConfig { announce_us: 0, ..config("a", false) };
    bench.chain = Chain::open(config, head(3), false, None, 0);
    let mut said = 0;
    for ms in 0..1_000 {
        said += bench.at(ms * 1_000).iter().filter(|effect| **effect == Effect::Reannounce).count();
        let ctx = Context { now_us: bench.now_us, worker_free: true, peers: &bench.peers };
        assert!(bench.chain.next_timer(&ctx).0 > bench.now_us, "a timer that is always due");
    }
    assert_eq!(said, 100);
}

#[test]
fn an_idle_chain_says_what_it_waits_for() {
    let mut bench = Bench::new();
    bench.feed(Event::InputSeen { oldest: 0, next: 100 });
    bench.claim_of_b(0, 0);
    let ctx = Context { now_us: 0, worker_free: true, peers: &bench.peers };
    assert_eq!(bench.chain.next_timer(&ctx), (R_LIMIT_US + GRACE_US, TimerReason::Lease));
}
