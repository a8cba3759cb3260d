//! Frames: asked for with credit, kept until folded, reported as committed so that the camera can free them.

use microlambda::Phase;
use microlambda_faces::content::Entry;
use microlambda_wire::{ChainClass, Name, Record, Topic, Want};

use super::chain_run::OpenWant;
use super::{Node, NodeError, World};
use crate::store::Store;

/// Records asked for at once, at least and at most.
const CREDIT: std::ops::RangeInclusive<u64> = 2..=32;
/// Records asked for while a commit is on its way: what a step begins with. All of its frames would keep disk, bus and processor from the commit.
const CREDIT_AHEAD: u64 = 2;
/// What was asked for and did not come is asked for again after this, µs, or after twice as long as frames took lately …
const STALL_US: u64 = 300_000;
/// … at most after this: a frame that was lost on the way is not waited for longer.
const STALL_US_MAX: u64 = 5_000_000;
/// No want is open for longer, µs: a camera keeps none beyond that, as it does not send to a node that is gone.
const WANT_US_MAX: u64 = 60_000_000;
/// Progress is reported to the camera at most this often by a node that asks for no frames, µs.
const REPORT_US: u64 = 200_000;
/// A report that had no effect on what the camera holds is repeated at most this often, µs.
const REPORT_AGAIN_US: u64 = 2_000_000;

impl<S: Store, W: World> Node<S, W> {
    /// A record arrived from a camera.
    pub(super) fn record(
        &mut self,
        chain: &Name,
        sequence: u64,
        record: Record,
        jpeg: Vec<u8>,
    ) -> Result<(), NodeError> {
        let now_us = self.world.now_us();
        let next = sequence.saturating_add(record.span());
        if self.restarted(chain, sequence, &record)? {
            return Ok(());
        }
        let Some(run) = self.chains.get_mut(chain) else { return Ok(()) };
        run.arrived(sequence, now_us);
        if !run.buffer_insert(sequence, record, jpeg) {
            self.counters.frames_unused += 1;
            return Ok(());
        }
        self.drive(chain, microlambda::Event::RecordSeen { next })?;
        let event = self.pump(chain)?;
        self.drive_some(chain, event)?;
        self.pump_ahead(chain)
    }

    /// Takes a restart in the middle of whose numbers this node is: what it holds of them is of a generation that is over, and the camera has
    /// nothing else for it. False if it is no such record.
    fn restarted(&mut self, chain: &Name, sequence: u64, record: &Record) -> Result<bool, NodeError> {
        let (Some(run), Record::Restart { generation, .. }) = (self.chains.get(chain), record) else {
            return Ok(false);
        };
        let (boundary, end) = (run.boundary(), sequence.saturating_add(record.span()));
        let is_within = sequence < boundary && boundary < end && end <= run.chain.input_next();
        // It replaces what is folded: only as the answer to what is to follow that.
        let was_asked = run.want.is_some_and(|want| want.reaches(boundary));
        if !is_within || !was_asked || *generation <= run.chain.head().version.generation {
            return Ok(false);
        }
        let Some(base) = self.store.boundary(chain, sequence)? else { return Ok(false) };
        let entry = Entry { sequence, record: record.clone(), analysis: None, engine: String::new() };
        if self.fold_own(chain, base, vec![entry], None)?.is_some() {
            let own = self.name.to_string();
            // What waits for a copy is asked for again by whatever needs a frame here.
            let Some(event) = self.commit_pending(chain, &own, None)? else { return Ok(true) };
            self.drive(chain, event)?;
            self.drop_pending(chain);
            if self.worker.step_of() == Some(chain) {
                // It has nothing more to come to.
                self.stop_running_step();
            }
        }
        Ok(true)
    }

    /// Asks the camera for what runs here, or will run soon, needs.
    pub(super) fn want_frames(&mut self, chain: &Name, now_us: u64) {
        let from = self.chains.get(chain).map_or(0, super::chain_run::ChainRun::next_needed);
        self.want_frames_from(chain, from, now_us, *CREDIT.end());
    }

    /// Asks for the first frames of a step that follows content on its way to the disk: they travel meanwhile.
    pub(super) fn want_ahead(&mut self, chain: &Name) {
        let pending = self.chains.get(chain).and_then(|run| run.pending.as_ref());
        if let Some(from) = pending.map(|pending| pending.fold.head().version.sequence) {
            self.want_frames_from(chain, from, self.world.now_us(), CREDIT_AHEAD);
        }
    }

    fn want_frames_from(&mut self, chain: &Name, from: u64, now_us: u64, credit_max: u64) {
        let lease_us = self.lease_us();
        let Some(run) = self.chains.get(chain) else { return };
        let missing = run.first_missing(from);
        let open = run.want.filter(|want| want.expires_at_us > now_us && want.reaches(missing));
        let stalled = open.is_some() && run.stalls_at_us(lease_us, now_us).is_some_and(|at_us| at_us <= now_us);
        let credit = (run.frames_per_step_x16 / 8).clamp(*CREDIT.start(), *CREDIT.end());
        let room = run.room_at(missing);
        let credit = credit.min(room).min(credit_max);
        // A want that continues the former one asks only for what that one did not cover.
        if open.is_some_and(|want| want.has_run_out()) && !stalled {
            return;
        }
        let cursor = open.filter(|_| !stalled).map_or(missing, |want| want.end);
        let end = run.needed_end(missing, lease_us, now_us);
        // What is here and not used yet counts: asking on as it arrives would fill the buffer, which drops what is too much.
        let ahead = cursor.saturating_sub(from);
        let enough = (ahead > credit / 2 && !stalled) || cursor.saturating_sub(missing) >= room;
        let ended = run.class == ChainClass::Batch && missing >= run.chain.input_next();
        if enough || ended || cursor >= end {
            return;
        }
        let credit = credit.saturating_sub(ahead).max(1).min(end - cursor).min(room - (cursor - missing));
        self.send_want(chain, cursor, credit, now_us, lease_us);
    }

    /// Asks for the one record at the head.
    pub(super) fn want_record(&mut self, chain: &Name) {
        let cursor = self.chains.get(chain).map_or(0, super::chain_run::ChainRun::boundary);
        self.send_want(chain, cursor, 1, self.world.now_us(), self.lease_us());
    }

    fn send_want(&mut self, chain: &Name, cursor: u64, credit: u64, now_us: u64, lease_us: u64) {
        let Some(run) = self.chains.get_mut(chain) else { return };
        let committed = run.committed();
        // Over a slow link the camera comes to the last of them late.
        let lifetime_us = lease_us.max(2 * run.frame_us * (credit + 1)).min(WANT_US_MAX);
        let want = Want {
            node: self.name.clone(),
            boot: self.boot.clone(),
            chain: chain.clone(),
            cursor,
            credit: u32::try_from(credit).unwrap_or(u32::MAX),
            committed,
            expires_ms: u32::try_from(lifetime_us / 1_000).unwrap_or(u32::MAX),
        };
        if credit > 0 {
            let end = cursor.saturating_add(credit);
            let former = run.want.filter(|want| want.expires_at_us > now_us && want.reaches(cursor));
            let start = former.map_or(cursor, |want| want.start);
            let missing = run.next_missing();
            let waits = former.filter(|want| missing < want.end);
            let waits_since_us = waits.map_or(now_us, |want| want.waits_since_us);
            // Asking for more behind it does not ask for it again.
            let asked_at_us = waits.filter(|want| cursor >= want.end).map_or(now_us, |want| want.asked_at_us);
            let expires_at_us = now_us.saturating_add(lifetime_us);
            run.want = Some(OpenWant { start, end, waits_since_us, asked_at_us, expires_at_us });
        } else {
            run.want = None;
        }
        run.reported = Some((committed, now_us));
        let camera = run.camera.clone();
        self.publish(&Topic::CameraWant { camera }, &want, false);
    }

    /// Renews what ran out, asks again for what was lost, and reports progress.
    pub(super) fn feed_tick(&mut self, chain: &Name) -> Result<(), NodeError> {
        let now_us = self.world.now_us();
        let connected = self.world.is_connected();
        let Some(run) = self.chains.get_mut(chain) else { return Ok(()) };
        run.expire_want(now_us);
        if !connected {
            return Ok(());
        }
        if run.is_active() || self.awaits_next_frame(chain) {
            self.want_frames(chain, now_us);
        }
        let Some(run) = self.chains.get(chain) else { return Ok(()) };
        let due = match run.reported {
            None => run.boundary() > 0 || run.chain.is_behind_input(),
            Some((committed, at_us)) => committed < run.boundary() && at_us.saturating_add(REPORT_US) <= now_us,
        };
        if due {
            // A want replaces the former one: an open one is carried on by a record, so that the report does not end it.
            let missing = run.next_missing();
            let open = run.want.filter(|want| want.expires_at_us > now_us && want.reaches(missing));
            let credit = open.map_or(0, |want| want.end.saturating_sub(missing));
            let cursor = if credit > 0 { open.map_or(missing, |want| want.end) } else { missing };
            let end_credit = if credit > 0 { 1 } else { 0 };
            self.send_want(chain, cursor, end_credit, now_us, self.lease_us());
        }
        Ok(())
    }

    /// The node that has caught up with a live camera keeps its want open, so that the next frame comes in one hop.
    fn awaits_next_frame(&self, chain: &Name) -> bool {
        self.chains.get(chain).is_some_and(|run| {
            let holder = run.chain.holder().is_none_or(|holder| holder == self.name.as_str());
            let live = run.class == ChainClass::Live && !run.is_left;
            live && holder && run.chain.leased_to().is_none() && !self.stopping
        })
    }

    pub(super) fn lag(&self, chain: &Name) -> u64 {
        self.chains.get(chain).map_or(0, |run| run.chain.input_next().saturating_sub(run.boundary()))
    }
}

impl super::chain_run::ChainRun {
    /// The camera says what it holds. If that is more than it needs to, our report was lost, or the camera has restarted and knows
    /// of nobody: it is told again, lest a full spool waits for ever. If it is less than this node needs, the camera is to know that too:
    /// when nobody has what was released, it begins a new generation.
    pub(super) fn camera_holds(&mut self, oldest: u64, now_us: u64) {
        let due = |(_, at_us): (u64, u64)| at_us.saturating_add(REPORT_AGAIN_US) <= now_us;
        if oldest != self.boundary() && self.reported.is_some_and(due) {
            self.reported = None;
        }
    }

    /// A record came, whether it is of use or not: its camera is heard, and others follow it. Of one that was known and asked for it says how long
    /// the way takes: on a slow link, asking again before that would only send everything twice.
    fn arrived(&mut self, sequence: u64, now_us: u64) {
        let is_known = sequence < self.chain.input_next();
        let Some(want) = self.want.as_mut().filter(|want| (want.start..want.end).contains(&sequence)) else { return };
        if is_known {
            // From when it was first asked for: which of several answers this is, nobody knows. A camera that was away is no slow link.
            let took_us = now_us.saturating_sub(want.waits_since_us).min(STALL_US_MAX / 2);
            self.frame_us = took_us.max(self.frame_us - self.frame_us / 8);
        }
        (want.waits_since_us, want.asked_at_us) = (now_us, now_us);
        if want.has_run_out() {
            // Whether the camera came to what follows it before its time was over, nobody knows.
            self.want = None;
        }
    }

    /// A want that has run out is over, but for what is on its way since.
    fn expire_want(&mut self, now_us: u64) {
        let Some(want) = self.want.filter(|want| want.expires_at_us <= now_us) else { return };
        let end = want.end.min(self.chain.input_next());
        let is_on_its_way = (want.start..end).contains(&self.next_missing());
        self.want = is_on_its_way.then_some(OpenWant { end, expires_at_us: OpenWant::RUN_OUT, ..want });
    }

    /// The camera has more: what was asked for before it existed is on its way from now on.
    pub(super) fn input_grows(&mut self, next: u64, now_us: u64) {
        let known = self.chain.input_next();
        let waits_for_nothing = next > known && self.next_missing() >= known;
        if let Some(want) = self.want.as_mut().filter(|_| waits_for_nothing) {
            (want.waits_since_us, want.asked_at_us) = (now_us, now_us);
        }
    }

    /// Whether frames are needed for something that runs here.
    fn is_active(&self) -> bool {
        *self.chain.phase() != Phase::Idle || self.ahead.run.is_some()
    }

    /// The next record that the worker is to get.
    fn next_needed(&self) -> u64 {
        match (&self.ahead.run, &self.step) {
            (Some(ahead), _) => ahead.invocation.next_feed,
            (None, Some(step)) => step.invocation.next_feed,
            (None, None) => self.boundary(),
        }
    }

    /// One more than the last record from `missing` on that is of use to what runs here.
    fn needed_end(&self, missing: u64, lease_us: u64, now_us: u64) -> u64 {
        if let Some(ahead) = &self.ahead.run {
            return ahead.records.end;
        }
        let others = |at: &u64| self.ahead.holds(*at) || self.is_left_to_peer(*at, lease_us, now_us);
        (missing..missing.saturating_add(*CREDIT.end())).find(others).unwrap_or(u64::MAX)
    }

    /// The first record that a step here would lack.
    fn next_missing(&self) -> u64 {
        self.first_missing(self.next_needed())
    }

    /// When a record that was asked for, and exists, counts as lost, µs.
    fn stalls_at_us(&self, lease_us: u64, now_us: u64) -> Option<u64> {
        let missing = self.next_missing();
        let end = self.needed_end(missing, lease_us, now_us).min(self.chain.input_next());
        let waits =
            |want: &OpenWant| want.reaches(missing) && want.end > missing && missing < end && self.room_at(missing) > 0;
        self.want.filter(waits).map(|want| {
            // As long again as it was waited for before the last time.
            let waited_us = want.asked_at_us.saturating_sub(want.waits_since_us);
            let patience_us = waited_us.max(2 * self.frame_us).clamp(STALL_US, STALL_US_MAX);
            want.asked_at_us.saturating_add(patience_us)
        })
    }

    /// When [`Node::feed_tick`] has something to do while the bus is connected, µs.
    pub(super) fn feed_deadline_us(&self, lease_us: u64, now_us: u64) -> u64 {
        let stall_us = self.stalls_at_us(lease_us, now_us).filter(|_| self.is_active()).unwrap_or(u64::MAX);
        let want_us = self.want.map_or(u64::MAX, |want| want.expires_at_us.min(stall_us));
        let report_us = match self.reported {
            Some((committed, at_us)) if committed < self.boundary() => at_us.saturating_add(REPORT_US),
            _ => u64::MAX,
        };
        let input_us = self.step.as_ref().and_then(|step| step.invocation.input_deadline_us());
        want_us.min(report_us).min(input_us.unwrap_or(u64::MAX))
    }
}
