//! Which chains a node has open: all that are under way, and of the finished ones those that were last spoken of. Those
//! that are closed are announced by turns.

use microlambda::{Chain, ChainConfig, Phase, Version};
use microlambda_faces::fold::FoldState;
use microlambda_wire::{ChainClass, Name};

use super::chain_run::ChainRun;
use super::{Node, NodeError, World};
use crate::store::{CHAINS_OPEN_MAX, Store, StoredChain};

/// How long a claim needs to be heard by all, µs; from round trips of 0.3 ms on loopback and some 10 ms on Wi-Fi.
const SLOT_US: u64 = 40_000;
/// A chain is taken for left by its camera if that has not announced it for so long, µs: cameras do every few seconds.
const LEFT_US: u64 = 600_000_000;
/// State that was asked for is asked for again after this, µs.
const FETCH_US: u64 = 1_000_000;
/// A node whose worker is too slow for a unit tries again after this, µs.
const REFUSAL_US: u64 = 2_000_000;

/// Whose turn it is of the finished chains that are closed: open ones announce themselves.
#[derive(Default)]
pub(super) struct ClosedTurn {
    /// The one before.
    last: Option<Name>,
    /// When the next one is announced, µs; `u64::MAX` while there is none.
    at_us: u64,
}

impl ClosedTurn {
    /// When [`Node::announce_closed`] has something to do while the bus is connected, µs.
    pub fn deadline_us(&self) -> u64 {
        self.at_us
    }
}

impl<S: Store, W: World> Node<S, W> {
    /// Opens the chains that are under way, and the newest of the others.
    pub(super) fn open_chains(&mut self, now_us: u64) -> Result<(), NodeError> {
        for stored in self.store.newest_chains(CHAINS_OPEN_MAX)? {
            self.open_chain(stored, now_us)?;
        }
        Ok(())
    }

    /// Adds a chain that the store holds.
    fn open_chain(&mut self, stored: StoredChain, now_us: u64) -> Result<(), NodeError> {
        if stored.lambda != self.lambda {
            log::warn!(chain:% = stored.name;
                "the stored chain was folded with other [faces] settings or another version: it is kept as it is");
            self.counters.chains_refused += 1;
            return Ok(());
        }
        let settings = &self.config.chain;
        let config = ChainConfig {
            node: self.name.to_string(),
            chain: stored.name.to_string(),
            r_limit_us: settings.r_limit_us(),
            grace_us: settings.grace_ms * 1_000,
            announce_us: self.announce_us(),
            slot_us: SLOT_US,
            fetch_us: FETCH_US,
            refusal_us: REFUSAL_US,
            placement: settings.placement.build(),
        };
        let mut chain = Chain::open(config, stored.head, stored.done, stored.attempt, now_us);
        if let Some((times, why)) = &stored.failure {
            chain.restore_failures(*times, why.clone());
        }
        if stored.attempt.is_some()
            && let Some((times, why)) = chain.own_failure()
        {
            // The next start takes the vanished one's place in the store, and may vanish as well.
            self.store.fail(&stored.name, &stored.head, times, why)?;
        }
        let fold = FoldState::restore(self.params, stored.boundary, stored.gallery);
        let run = ChainRun::new(chain, stored.camera, stored.class, fold, stored.partial, now_us);
        self.chains.insert(stored.name, run);
        Ok(())
    }

    /// A chain that a camera or a peer speaks of, opened at its genesis if it is new; false if there is no room.
    pub(super) fn chain_of(&mut self, chain: &Name, camera: &Name, class: ChainClass) -> Result<bool, NodeError> {
        if self.chains.contains_key(chain) {
            return Ok(true);
        }
        if !self.make_room() {
            return Ok(false);
        }
        let now_us = self.world.now_us();
        if let Some(stored) = self.store.chain(chain)? {
            self.open_chain(stored, now_us)?;
            return Ok(self.chains.contains_key(chain));
        }
        let genesis = FoldState::genesis(self.params).head();
        self.open_chain(StoredChain::at_genesis(chain.clone(), camera.clone(), class, genesis), now_us)?;
        let Some(run) = self.chains.get_mut(chain) else { return Ok(false) };
        run.is_stored = false;
        Ok(true)
    }

    /// Writes the row of a chain before anything else is written of it: not as soon as its name is heard, for whoever is
    /// on the bus can say any number of names, and a row is kept for ever.
    pub(super) fn store_chain(&mut self, name: &Name) -> Result<(), NodeError> {
        let Some(run) = self.chains.get_mut(name).filter(|run| !run.is_stored) else { return Ok(()) };
        let genesis = FoldState::genesis(self.params).head();
        self.store.add_chain(name, &run.camera, run.class, genesis)?;
        run.is_stored = true;
        Ok(())
    }

    /// Announces the finished chain whose turn it is of those that are closed: a node that missed more of them than may be
    /// open at once hears of all in time.
    pub(super) fn announce_closed(&mut self, now_us: u64) -> Result<(), NodeError> {
        if self.closed.at_us > now_us || !self.world.is_connected() || !self.is_settled() {
            return Ok(());
        }
        self.closed.at_us = u64::MAX;
        // All that are open may come first, and the end of the round.
        for _ in 0..CHAINS_OPEN_MAX + 2 {
            let next = self.store.finished_chain(self.closed.last.as_ref(), &self.lambda)?;
            self.closed.last = next.as_ref().map(|next| next.name.clone());
            let Some(next) = next.filter(|next| !self.chains.contains_key(&next.name)) else { continue };
            self.closed.at_us = now_us.saturating_add(self.announce_us());
            self.announce_unopened(next);
            return Ok(());
        }
        Ok(())
    }

    fn announce_us(&self) -> u64 {
        self.config.chain.announce_ms.saturating_mul(1_000)
    }

    /// Opens a chain again that somebody speaks of, if the store holds it.
    pub(super) fn reopen(&mut self, name: &Name) -> Result<(), NodeError> {
        if self.chains.contains_key(name) {
            return Ok(());
        }
        match self.store.chain(name)? {
            Some(stored) if self.make_room() => self.open_chain(stored, self.world.now_us()),
            Some(_) | None => Ok(()),
        }
    }

    /// Makes room for one more chain than may be open by closing the one that was not spoken of for longest: a finished one, one of which
    /// nothing is known but that a camera announced it, or one whose camera has long been silent. Each is opened again when it is needed.
    fn make_room(&mut self) -> bool {
        if self.chains.len() < CHAINS_OPEN_MAX {
            self.crowded.clear();
            return true;
        }
        let now_us = self.world.now_us();
        let is_left = |run: &ChainRun| run.touched_us.saturating_add(LEFT_US) <= now_us;
        let closable = |run: &ChainRun| {
            let needless = run.chain.is_done() || run.chain.head().version == Version::default() || is_left(run);
            *run.chain.phase() == Phase::Idle && run.ahead.run.is_none() && needless
        };
        let oldest = self.chains.iter().filter(|(_, run)| closable(run));
        let oldest = oldest.min_by_key(|(_, run)| (!run.chain.is_done(), run.touched_us)).map(|(name, _)| name.clone());
        let Some(name) = oldest else {
            self.counters.chains_refused += 1;
            if self.crowded.is_empty() {
                self.crowded = format!(
                    "{CHAINS_OPEN_MAX} chains are under way, and no further camera or job is taken: stop some cameras, which makes room \
                     within ten minutes"
                );
                log::error!("{}", self.crowded);
            }
            return false;
        };
        log::debug!(chain:% = name; "closed for another one");
        self.chains.remove(&name);
        self.closed.at_us = self.closed.at_us.min(now_us.saturating_add(self.announce_us()));
        self.crowded.clear();
        true
    }
}
