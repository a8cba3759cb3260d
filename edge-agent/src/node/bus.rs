//! What arrives from the bus: read, checked, handed to the chain concerned.

use microlambda::sabotage::{self, Sabotage};
use microlambda::{Claim, Event, Head};
use microlambda_faces::content::{ContentError, Delta};
use microlambda_faces::fold::event_id;
use microlambda_wire::{
    AheadNote, Blob, CameraHead, ClaimNote, Continuation, DoneNote, EventNote, FaceNote, GapReason, Name, NodeStatus,
    Payload, Record, RecordNote, SyncHave, SyncWant, Topic, UNPUBLISHED_LEN_MAX, from_payload, strip_frame_meta,
};

use super::chain_run::ChainRun;
use super::status::PeerView;
use super::{ASKED_US, Node, NodeError, PEERS_MAX, World};
use crate::store::Store;

/// Encoded entries in one answer to a sync request, bytes.
const SYNC_BYTES_MAX: usize = 256 << 10;

/// Records of a branch kept until it beats the local head, at most: some 10 MB.
const STAGED_ENTRIES_MAX: usize = 10_000;

impl<S: Store, W: World> Node<S, W> {
    /// Handles a message; one that is not ours is counted and changes nothing.
    ///
    /// # Errors
    /// As for [`Node::on_connected`].
    pub fn on_message(&mut self, topic: &str, payload: &[u8], retain: bool) -> Result<(), NodeError> {
        let topic = match Topic::parse(&self.prefix, topic) {
            Ok(topic) => topic,
            Err(error) => {
                self.refuse(topic, &error);
                return Ok(());
            }
        };
        match topic {
            // Taken off the broker, by who had said it or by a person.
            Topic::Done { .. } | Topic::Face { .. } if payload.is_empty() => Ok(()),
            Topic::CameraHead { camera } if payload.is_empty() => {
                self.camera_removed(&camera);
                Ok(())
            }
            Topic::NodeStatus { node } if payload.is_empty() => self.peer_removed(&node),
            Topic::CameraHead { camera } => self
                .read_of("camera head", &camera, payload, |head: &CameraHead| &head.camera)
                .map_or(Ok(()), |head| self.camera_head(head)),
            Topic::CameraFrame { camera, .. } => self.frame(&camera, payload),
            Topic::CameraRecord { camera, .. } => {
                let note = self.read::<RecordNote>(&topic_name("record", &camera), payload);
                note.map_or(Ok(()), |note| self.record(&note.chain, note.sequence, note.record, Vec::new()))
            }
            Topic::Continuation { chain } => self
                .read_of("continuation", &chain, payload, |note: &Continuation| &note.chain)
                .map_or(Ok(()), |note| self.continuation(note)),
            Topic::Claim { chain } => self
                .read_of("claim", &chain, payload, |note: &ClaimNote| &note.chain)
                .map_or(Ok(()), |note| self.claim(note)),
            Topic::Ahead { chain } => self
                .read_of("ahead", &chain, payload, |note: &AheadNote| &note.chain)
                .map_or(Ok(()), |note| self.ahead(note)),
            Topic::Done { chain } => {
                let done = self.read::<DoneNote>(&topic_name("done", &chain), payload);
                if let (Some(run), Some(note)) = (self.chains.get_mut(&chain), done) {
                    run.done_on_bus |= note.head == run.chain.head();
                }
                Ok(())
            }
            Topic::SyncWant { .. } => {
                self.read::<SyncWant>("sync want", payload).map_or(Ok(()), |want| self.sync_want(&want))
            }
            Topic::SyncHave { .. } => {
                self.read::<SyncHave>("sync have", payload).map_or(Ok(()), |have| self.sync_have(have))
            }
            Topic::Event => {
                if let Some(event) = self.read::<EventNote>("event", payload) {
                    self.event_on_bus(&event);
                }
                Ok(())
            }
            Topic::Face { face } => {
                let note = self.read::<FaceNote>(&topic_name("face", &face), payload);
                let note = note.filter(|note| self.chains.contains_key(&note.chain));
                note.map_or(Ok(()), |note| self.face_note(face, note))
            }
            Topic::NodeStatus { node } => self
                .read_of("status", &node, payload, |status: &NodeStatus| &status.node)
                .map_or(Ok(()), |status| self.peer_status(status, retain)),
            Topic::CameraStatus { .. } | Topic::CameraWant { .. } | Topic::CameraImage { .. } => Ok(()),
        }
    }

    /// A face as somebody published it: its picture is kept, or added if only this node has it.
    fn face_note(&mut self, face: Name, note: FaceNote) -> Result<(), NodeError> {
        match (note.thumbnail.0.is_empty(), self.store.thumbnail(face.as_str())?) {
            (false, None) => self.book.keep_thumbnail(face.as_str(), &note.thumbnail.0, self.world.now_us()),
            (true, Some(jpeg)) if self.knows(&note) => {
                let note = FaceNote { thumbnail: Blob(jpeg), ..note };
                self.publish(&Topic::Face { face }, &note, true);
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether that person is compared with, and not forgotten.
    fn knows(&self, note: &FaceNote) -> bool {
        let Some(run) = self.chains.get(&note.chain) else { return false };
        let id = |first: (u64, u32)| event_id(note.chain.as_str(), first.0, first.1);
        let mut people = run.fold.gallery().people.iter().filter(|person| person.first_sequence == note.first_sequence);
        people.any(|person| id(person.first()) == note.face.as_str())
    }

    fn read<T: Payload>(&mut self, what: &str, payload: &[u8]) -> Option<T> {
        from_payload(payload).map_err(|error| self.refuse(what, &error)).ok()
    }

    /// The same of a note that has to name what its topic names.
    fn read_of<T: Payload>(
        &mut self,
        what: &str,
        name: &Name,
        payload: &[u8],
        named: impl FnOnce(&T) -> &Name,
    ) -> Option<T> {
        let note = self.read::<T>(&topic_name(what, name), payload)?;
        let other = Some(named(&note)).filter(|named| *named != name);
        if let Some(other) = other {
            self.counters.refused_messages += 1;
            log::debug!(topic:% = topic_name(what, name), named:% = other; "message refused: it names another");
            return None;
        }
        Some(note)
    }

    pub(super) fn refuse(&mut self, what: &str, error: &dyn std::fmt::Display) {
        self.counters.refused_messages += 1;
        if self.refusals.is_due(self.world.now_us()) {
            log::warn!(topic:% = what; "message refused: {error}; see who publishes on MicroLambda's topics");
        } else {
            log::debug!(topic:% = what; "message refused: {error}");
        }
    }

    fn camera_head(&mut self, head: CameraHead) -> Result<(), NodeError> {
        self.leave_former_chains(&head)?;
        if !self.chain_of(&head.chain, &head.camera, head.class)? {
            return Ok(());
        }
        let (chain, oldest, next) = (head.chain.clone(), head.oldest, head.next);
        let now_us = self.world.now_us();
        let Some(run) = self.chains.get_mut(&chain) else { return Ok(()) };
        run.touched_us = now_us;
        run.is_left = false;
        run.camera_holds(oldest, now_us);
        run.input_grows(next, now_us);
        let boundary = run.boundary();
        if sabotage::is_chosen(Sabotage::ReleasedIsGap) && oldest > boundary {
            let gap = Record::Gap { count: oldest - boundary, reason: GapReason::SpoolFull };
            run.buffer_insert(boundary, gap, Vec::new());
            return self.drive(&chain, Event::InputSeen { oldest: 0, next });
        }
        self.drive(&chain, Event::InputSeen { oldest, next })
    }

    /// A camera that has begun another chain has no frames of its former ones any more: they end where they are, and nobody tries to go on.
    fn leave_former_chains(&mut self, head: &CameraHead) -> Result<(), NodeError> {
        let is_former =
            |(name, run): &(&Name, &mut ChainRun)| **name != head.chain && run.camera == head.camera && !run.is_left;
        let former = self.chains.iter_mut().filter(is_former).map(|(name, run)| {
            run.is_left = true;
            (name.clone(), run.chain.head().version.sequence)
        });
        let former: Vec<(Name, u64)> = former.collect();
        for (name, next) in former {
            self.drive(&name, Event::InputSeen { oldest: 0, next })?;
        }
        Ok(())
    }

    /// A camera that was taken off the site is silent from now on.
    fn camera_removed(&mut self, camera: &Name) {
        self.chains.values_mut().filter(|run| run.camera == *camera).for_each(|run| run.touched_us = 0);
    }

    fn frame(&mut self, camera: &Name, payload: &[u8]) -> Result<(), NodeError> {
        match strip_frame_meta(payload) {
            Ok((meta, jpeg)) if meta.camera == *camera => {
                let (chain, sequence) = (meta.chain.clone(), meta.sequence);
                self.record(&chain, sequence, meta.into_record(), jpeg)
            }
            Ok((meta, _)) => {
                self.refuse(&topic_name("frame", camera), &format!("it names the camera {}", meta.camera));
                Ok(())
            }
            Err(error) => {
                self.refuse(&topic_name("frame", camera), &error);
                Ok(())
            }
        }
    }

    fn continuation(&mut self, note: Continuation) -> Result<(), NodeError> {
        let now_us = self.world.now_us();
        if note.node == self.name && note.boot != self.boot {
            self.counters.name_clashes += 1;
            self.name_clashed_at_us = Some(now_us);
            if self.name_clashes.is_due(now_us) {
                log::error!(node:% = note.node; "another node uses this node's name: give each its own `node`");
            }
        }
        if note.node == self.name {
            return Ok(());
        }
        if let Some(peer) = self.peers.get_mut(&note.node) {
            peer.heard_at_us = now_us;
            peer.other_lambda = note.lambda != self.lambda;
        }
        if note.lambda != self.lambda {
            self.counters.other_lambda += 1;
            if self.other_lambdas.is_due(now_us) {
                log::warn!(node:% = note.node, chain:% = note.chain;
                    "a node with other [faces] settings or another version works on this chain: make them equal");
            }
            return Ok(());
        }
        match &note.origin {
            // The disk that knew the chain may have been lost, and its camera may never speak of it again.
            Some(origin) => {
                self.chain_of(&note.chain, &origin.camera, origin.class)?;
            }
            None => self.reopen(&note.chain)?,
        }
        let applies = self.try_content(&note.chain, note.head, note.delta.map(|blob| blob.0))?;
        let event = Event::HeadSeen { from: note.node.to_string(), head: note.head, content_applies: applies };
        self.drive(&note.chain, event)?;
        self.drop_pending(&note.chain);
        Ok(())
    }

    /// Folds the content of an announcement on trial, if it continues the local state.
    fn try_content(&mut self, chain: &Name, head: Head, bytes: Option<Vec<u8>>) -> Result<bool, NodeError> {
        let Some(run) = self.chains.get(chain) else { return Ok(false) };
        let Some(bytes) = bytes.filter(|_| head.beats(&run.chain.head())) else { return Ok(false) };
        match Delta::from_bytes(&bytes) {
            Ok(delta) if delta.head != head || delta.parent.version.sequence != run.boundary() => Ok(false),
            Ok(delta) => self.fold_on_trial(chain, delta),
            Err(error) => {
                self.refuse(&topic_name("continuation", chain), &error);
                Ok(false)
            }
        }
    }

    fn claim(&mut self, note: ClaimNote) -> Result<(), NodeError> {
        let node = Name::new(note.claim.node.clone());
        let Some(node) = node.ok().filter(|node| *node != self.name) else { return Ok(()) };
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.heard_at_us = self.world.now_us();
            if peer.other_lambda {
                // Its steps lead to nothing that this node could take.
                return Ok(());
            }
        }
        if sabotage::is_chosen(Sabotage::YieldToHigherClaim)
            && self.worker.step_of() == Some(&note.chain)
            && note.claim.epoch > 0
        {
            self.world.kill_worker();
        }
        let event = match note.failed {
            Some(failed) => {
                Event::FailureSeen { node: node.into(), at: failed.version, times: failed.times, why: failed.why }
            }
            None => Event::ClaimSeen(note.claim),
        };
        self.drive(&note.chain, event)
    }

    fn peer_status(&mut self, status: NodeStatus, retained: bool) -> Result<(), NodeError> {
        if status.node == self.name {
            return Ok(());
        }
        let now_us = self.world.now_us();
        let known = self.peers.get(&status.node);
        let came = status.online && known.is_none_or(|peer| !peer.online || peer.boot != status.boot);
        let gone = !status.online && known.is_some_and(|peer| peer.online && peer.boot == status.boot);
        // The will of a former incarnation may arrive after the birth of the next one.
        if !status.online && known.is_some_and(|peer| peer.boot != status.boot) && !retained {
            return Ok(());
        }
        if known.is_none() && self.peers.len() >= PEERS_MAX {
            self.counters.peers_refused += 1;
            return Ok(());
        }
        let other_lambda = known.is_some_and(|peer| peer.boot == status.boot && peer.other_lambda);
        let peer = PeerView {
            boot: status.boot,
            online: status.online,
            load_permille: status.load_permille,
            heard_at_us: now_us,
            other_lambda,
        };
        self.peers.insert(status.node.clone(), peer);
        if gone {
            self.peer_is_gone(&status.node)?;
        }
        if came {
            self.repeat_claims();
        }
        Ok(())
    }

    /// A person took a node off the site for good.
    fn peer_removed(&mut self, node: &Name) -> Result<(), NodeError> {
        match self.peers.remove(node) {
            Some(peer) if peer.online => self.peer_is_gone(node),
            _ => Ok(()),
        }
    }

    fn peer_is_gone(&mut self, node: &Name) -> Result<(), NodeError> {
        log::info!(node:%; "a node is gone");
        self.forget_ahead_of(node);
        let names: Vec<Name> = self.chains.keys().cloned().collect();
        for chain in names {
            self.drive(&chain, Event::PeerGone { node: node.to_string() })?;
        }
        Ok(())
    }

    /// Tells a node that came, or all when this one came back, which steps run here, and for how long: else they would start them too.
    pub(super) fn repeat_claims(&mut self) {
        let now_us = self.world.now_us();
        let left = |(name, run): (&Name, &ChainRun)| {
            let (claim, step) = (run.chain.running_claim()?, run.step.as_ref()?);
            let spent_ms = u32::try_from(now_us.saturating_sub(step.began_us) / 1_000).unwrap_or(u32::MAX);
            // A claim without a lease would give the step up.
            let lease_ms = claim.lease_ms.checked_sub(spent_ms).filter(|left_ms| *left_ms > 0)?;
            Some((name.clone(), Claim { lease_ms, ..claim }))
        };
        let claims: Vec<(Name, Claim)> = self.chains.iter().filter_map(left).collect();
        for (chain, claim) in claims {
            self.publish_claim(&chain, claim, None);
        }
    }

    /// Asks a peer for what this node lacks of a chain.
    pub(super) fn fetch(&mut self, chain: &Name, from: &str) -> Result<(), NodeError> {
        let Ok(peer) = Name::new(from) else { return Ok(()) };
        let mut locator = self.store.locator(chain)?;
        // What follows the beginning of a branch that is already here.
        let staged = self.chains.get(chain).and_then(|run| run.staged.as_ref());
        locator.splice(..0, staged.map(|delta| (delta.head.version.sequence, delta.head.digest)));
        let want = SyncWant { node: self.name.clone(), chain: chain.clone(), locator };
        self.counters.fetches += 1;
        self.publish(&Topic::SyncWant { node: peer }, &want, false);
        Ok(())
    }

    fn sync_want(&mut self, want: &SyncWant) -> Result<(), NodeError> {
        self.reopen(&want.chain)?;
        let Some(run) = self.chains.get(&want.chain) else { return Ok(()) };
        let newest = run.chain.head();
        let partial = run.partial.clone();
        let boundary = run.fold.head();
        let mut base = None;
        for (sequence, digest) in &want.locator {
            let held = self.store.boundary(&want.chain, *sequence)?;
            if let Some(held) = held.filter(|held| held.digest == *digest) {
                base = Some(held);
                break;
            }
        }
        let Some(base) = base else {
            self.counters.other_lambda += 1;
            return Ok(());
        };
        let (entries, behind) = self.store.entries(&want.chain, base.version.sequence, SYNC_BYTES_MAX)?;
        let reached = behind.unwrap_or(base);
        let (partial, head) = if reached == boundary { (partial, newest) } else { (None, reached) };
        let unpublished = self.book.unpublished(&want.chain, base.version.sequence..reached.version.sequence);
        let unpublished = unpublished.take(UNPUBLISHED_LEN_MAX).collect();
        let mut delta = Delta { parent: base, entries, partial, head };
        let mut bytes = delta.to_bytes();
        if matches!(bytes, Err(ContentError::TooLong { .. })) && delta.partial.take().is_some() {
            // What is begun of a picture of a crowd goes along with the next answer.
            delta.head = reached;
            bytes = delta.to_bytes();
        }
        let have_all = delta.head == newest;
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(error) => {
                log::error!(chain:% = want.chain; "cannot answer a sync request: {error}");
                return Ok(());
            }
        };
        let have = SyncHave {
            node: self.name.clone(),
            chain: want.chain.clone(),
            lambda: self.lambda,
            base: (base.version.sequence, base.digest),
            newest,
            delta: Blob(bytes),
            unpublished,
        };
        self.counters.sync_answers += 1;
        self.publish(&Topic::SyncHave { node: want.node.clone() }, &have, false);
        if have_all {
            self.owed.remove(want.node.as_str());
        } else {
            self.owed_until_us = self.world.now_us().saturating_add(ASKED_US);
        }
        Ok(())
    }

    fn sync_have(&mut self, have: SyncHave) -> Result<(), NodeError> {
        let delta = match Delta::from_bytes(&have.delta.0) {
            Ok(delta) => delta,
            Err(error) => {
                self.refuse("sync have", &error);
                return Ok(());
            }
        };
        let Some(run) = self.chains.get_mut(&have.chain) else { return Ok(()) };
        if have.lambda != self.lambda {
            return Ok(());
        }
        // What was said of the events in the beginning of a branch is not kept.
        let mut is_whole = true;
        let delta = match run.staged.take() {
            Some(staged) if staged.head == delta.parent => {
                is_whole = false;
                joined(staged, delta)
            }
            // An answer that came twice. One with other records says that the branch has become another: it is begun anew.
            Some(staged) if staged.holds(&delta) => {
                run.staged = Some(staged);
                return Ok(());
            }
            Some(_) | None => delta,
        };
        if !delta.head.beats(&run.chain.head()) {
            return self.stage(&have, delta);
        }
        if !self.fold_on_trial(&have.chain, delta)? {
            self.drop_pending(&have.chain);
            return Ok(());
        }
        if let Some(pending) = self.chains.get_mut(&have.chain).and_then(|run| run.pending.as_mut()) {
            pending.unpublished = is_whole.then_some(have.unpublished);
        }
        let event = self.commit_pending(&have.chain, have.node.as_str(), None)?;
        self.drive_some(&have.chain, event)?;
        let behind = self.chains.get(&have.chain).is_some_and(|run| have.newest.beats(&run.chain.head()));
        if behind { self.fetch(&have.chain, have.node.as_str()) } else { Ok(()) }
    }

    /// Content that does not beat the local head yet. If what follows it does, the branch left ours far back: its beginning is
    /// kept until enough of it has come to take its place.
    fn stage(&mut self, have: &SyncHave, delta: Delta) -> Result<(), NodeError> {
        let Some(run) = self.chains.get_mut(&have.chain) else { return Ok(()) };
        if !have.newest.beats(&run.chain.head()) || delta.entries.is_empty() {
            return Ok(());
        }
        if delta.entries.len() > STAGED_ENTRIES_MAX {
            self.counters.forks_too_deep += 1;
            log::error!(chain:% = have.chain, node:% = have.node;
                "this node's branch lost long ago: stop it, move its database away and start it again, so that it takes the other branch");
            return Ok(());
        }
        run.staged = Some(delta);
        self.fetch(&have.chain, have.node.as_str())
    }
}

/// Two deltas of which the second follows the first.
fn joined(mut first: Delta, second: Delta) -> Delta {
    first.entries.extend(second.entries);
    Delta { parent: first.parent, entries: first.entries, partial: second.partial, head: second.head }
}

fn topic_name(what: &str, name: &Name) -> String {
    format!("{what} of {name}")
}
