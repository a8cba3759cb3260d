//! State that a node lacks, asked of its peers part by part, and given to them.

use microlambda_faces::content::{ContentError, Delta};
use microlambda_wire::{Blob, Name, SyncHave, SyncWant, Topic, UNPUBLISHED_LEN_MAX};

use super::{ASKED_US, Node, NodeError, World};
use crate::store::Store;

/// Encoded entries in one answer to a sync request, bytes.
const SYNC_BYTES_MAX: usize = 256 << 10;

/// Records of a branch kept until it beats the local head, at most: some 10 MB …
const STAGED_ENTRIES_MAX: usize = 10_000;
/// … and of frames of crowds, which take up to 140 KB each, bytes.
const STAGED_BYTES_MAX: usize = 32 << 20;

/// The beginning of a branch that beats ours only further on, as far as it has come.
pub(super) struct Staged {
    delta: Delta,
    /// Its size as it came, bytes: about what it takes in memory.
    bytes: usize,
}

impl Staged {
    /// With what follows it.
    fn joined(self, next: Self) -> Self {
        let Delta { parent, mut entries, .. } = self.delta;
        let Delta { entries: more, partial, head, .. } = next.delta;
        entries.extend(more);
        Self { delta: Delta { parent, entries, partial, head }, bytes: self.bytes.saturating_add(next.bytes) }
    }
}

impl<S: Store, W: World> Node<S, W> {
    /// Asks a peer for what this node lacks of a chain.
    pub(super) fn fetch(&mut self, chain: &Name, from: &str) -> Result<(), NodeError> {
        let (Ok(peer), Some(run)) = (Name::new(from), self.chains.get(chain)) else { return Ok(()) };
        let mut locator = if run.is_stored { self.store.locator(chain)? } else { vec![(0, self.lambda)] };
        // What follows the beginning of a branch that is already here.
        let staged = run.staged.as_ref().map(|staged| staged.delta.head);
        locator.splice(..0, staged.map(|head| (head.version.sequence, head.digest)));
        let want = SyncWant { node: self.name.clone(), chain: chain.clone(), locator };
        self.counters.fetches += 1;
        self.publish(&Topic::SyncWant { node: peer }, &want, false);
        Ok(())
    }

    /// A peer asks for what it lacks.
    pub(super) fn sync_want(&mut self, want: &SyncWant) -> Result<(), NodeError> {
        self.reopen(&want.chain)?;
        // Of a chain that is known by name only there is nothing to give.
        let Some(run) = self.chains.get(&want.chain).filter(|run| run.is_stored) else { return Ok(()) };
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

    /// A peer gives what this node lacks, or a part of it.
    pub(super) fn sync_have(&mut self, have: SyncHave) -> Result<(), NodeError> {
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
        let come = Staged { delta, bytes: have.delta.0.len() };
        // What was said of the events in the beginning of a branch is not kept.
        let mut is_whole = true;
        let come = match run.staged.take() {
            Some(staged) if staged.delta.head == come.delta.parent => {
                is_whole = false;
                staged.joined(come)
            }
            // An answer that came twice. One with other records says that the branch has become another: it is begun anew.
            Some(staged) if staged.delta.holds(&come.delta) => {
                run.staged = Some(staged);
                return Ok(());
            }
            Some(_) | None => come,
        };
        if !come.delta.head.beats(&run.chain.head()) {
            return self.stage(&have, come);
        }
        if !self.fold_on_trial(&have.chain, come.delta)? {
            self.drop_pending(&have.chain);
            return Ok(());
        }
        if let Some(pending) = self.chains.get_mut(&have.chain).and_then(|run| run.pending.as_mut()) {
            pending.unpublished = is_whole.then_some(have.unpublished);
        }
        // What waits for a copy is asked for again with the next announcement.
        let Some(event) = self.commit_pending(&have.chain, have.node.as_str(), None)? else { return Ok(()) };
        self.drive(&have.chain, event)?;
        let behind = self.chains.get(&have.chain).is_some_and(|run| have.newest.beats(&run.chain.head()));
        if behind { self.fetch(&have.chain, have.node.as_str()) } else { Ok(()) }
    }

    /// Content that does not beat the local head yet. If what follows it does, the branch left ours far back: its beginning is
    /// kept until enough of it has come to take its place.
    fn stage(&mut self, have: &SyncHave, come: Staged) -> Result<(), NodeError> {
        let Some(run) = self.chains.get_mut(&have.chain) else { return Ok(()) };
        if !have.newest.beats(&run.chain.head()) || come.delta.entries.is_empty() {
            return Ok(());
        }
        if come.delta.entries.len() > STAGED_ENTRIES_MAX || come.bytes > STAGED_BYTES_MAX {
            self.counters.forks_too_deep += 1;
            log::error!(chain:% = have.chain, node:% = have.node;
                "this node's branch lost long ago: stop it, move its database away and start it again, so that it takes the other branch");
            return Ok(());
        }
        run.staged = Some(come);
        self.fetch(&have.chain, have.node.as_str())
    }
}
