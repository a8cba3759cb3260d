//! What arrives from the bus: read, checked, handed to the chain concerned.

use microlambda::sabotage::{self, Sabotage};
use microlambda::{Claim, Event, Head};
use microlambda_faces::content::Delta;
use microlambda_faces::fold::event_id;
use microlambda_wire::{
    AheadNote, Blob, CameraHead, ClaimNote, Continuation, DoneNote, EventNote, FaceNote, GapReason, Name, NodeStatus,
    Payload, Record, RecordNote, SyncHave, SyncWant, Topic, from_payload, strip_frame_meta,
};

use super::chain_run::ChainRun;
use super::status::PeerView;
use super::{Node, NodeError, PEERS_MAX, World};
use crate::store::Store;

impl<S: Store, W: World> Node<S, W> {
    /// Handles a message; one that is not ours is counted and changes nothing.
    ///
    /// # Errors
    /// As for [`Node::on_connected`].
    pub fn on_message(&mut self, topic: &str, payload: &[u8], retain: bool) -> Result<(), NodeError> {
        if retain {
            self.own_name.echo.on_retained(self.world.now_us());
        }
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
                note.map_or(Ok(()), |note| self.record_of(&camera, "record", note, Vec::new()))
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
            (false, None) => {
                let is_kept = self.book.keep_thumbnail(face.as_str(), &note.thumbnail.0, self.world.now_us());
                self.counters.pictures_dropped += u64::from(!is_kept);
            }
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
        let mut people = run.fold.gallery().people.iter().filter(|person| person.first.sequence == note.first_sequence);
        people.any(|person| event_id(note.chain.as_str(), person.first) == note.face.as_str())
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
        let owner = match self.chains.get(&head.chain) {
            Some(run) => Some(run.camera.clone()),
            None => self.store.chain_summary(&head.chain)?.map(|held| held.camera),
        };
        if !self.is_own_chain(&head.camera, "camera head", owner) {
            return Ok(());
        }
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
                self.record_of(camera, "frame", RecordNote { chain, sequence, record: meta.into_record() }, jpeg)
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

    /// A record, with its picture if it is a frame, from a camera's topic.
    fn record_of(&mut self, camera: &Name, what: &str, note: RecordNote, jpeg: Vec<u8>) -> Result<(), NodeError> {
        let owner = self.chains.get(&note.chain).map(|run| run.camera.clone());
        if !self.is_own_chain(camera, what, owner) {
            return Ok(());
        }
        self.record(&note.chain, note.sequence, note.record, jpeg)
    }

    /// Whether the chain that a camera speaks of is its own, as far as its owner is known: no other camera says what is
    /// in it, or that it ends.
    fn is_own_chain(&mut self, camera: &Name, what: &str, owner: Option<Name>) -> bool {
        let Some(owner) = owner.filter(|owner| owner != camera) else { return true };
        self.refuse(&topic_name(what, camera), &format!("it is of a chain of camera {owner}"));
        false
    }

    fn continuation(&mut self, note: Continuation) -> Result<(), NodeError> {
        let now_us = self.world.now_us();
        if note.node == self.name {
            if note.boot != self.boot {
                self.name_clash();
            }
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
        if self.has_finished(&note)? {
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

    /// Whether an announcement only says what the store holds of a finished chain that is closed: to open it would close
    /// another one, perhaps one that the announcer lacks.
    fn has_finished(&self, note: &Continuation) -> Result<bool, NodeError> {
        if self.chains.contains_key(&note.chain) {
            return Ok(false);
        }
        let held = self.store.chain_summary(&note.chain)?;
        Ok(held.is_some_and(|held| held.done && held.head == note.head))
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
            self.own_status(&status, retained);
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
        let other_lambda = known.is_some_and(|peer| peer.boot == status.boot && peer.other_lambda);
        let is_new = known.is_none();
        // The broker keeps the last word of every node that there ever was.
        if is_new && !status.online {
            return Ok(());
        }
        if is_new && !self.make_room_for_peer() {
            self.counters.peers_refused += 1;
            return Ok(());
        }
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

    /// Makes room for one more node by forgetting one that is not counted on: one that is gone, or was not heard for
    /// longest. False if all are there.
    fn make_room_for_peer(&mut self) -> bool {
        if self.peers.len() < PEERS_MAX {
            return true;
        }
        let live = self.live_peers();
        let idle = self.peers.iter().filter(|(node, _)| live.iter().all(|peer| peer.node != node.as_str()));
        let oldest = idle.min_by_key(|(_, peer)| (peer.online, peer.heard_at_us)).map(|(node, _)| node.clone());
        oldest.is_some_and(|node| self.peers.remove(&node).is_some())
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
            let spent_ms = u32::try_from(now_us.saturating_sub(step.invocation.began_us) / 1_000).unwrap_or(u32::MAX);
            // A claim without a lease would give the step up.
            let lease_ms = claim.lease_ms.checked_sub(spent_ms).filter(|left_ms| *left_ms > 0)?;
            Some((name.clone(), Claim { lease_ms, ..claim }))
        };
        let claims: Vec<(Name, Claim)> = self.chains.iter().filter_map(left).collect();
        for (chain, claim) in claims {
            self.publish_claim(&chain, claim, None);
        }
    }
}

fn topic_name(what: &str, name: &Name) -> String {
    format!("{what} of {name}")
}
