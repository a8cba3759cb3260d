//! What a node keeps of a generation that is over: when a camera's chain began anew without this node's records, what
//! follows takes their place. A copy of the database is made first. The node does not wait for it: the content is put
//! off, and comes again with the next announcement or the camera's next answer.

use std::collections::BTreeMap;
use std::path::Path;

use microlambda_faces::content::{Delta, Entry};
use microlambda_wire::{Name, Record};

use super::{Node, World};
use crate::store::{Copying, Store};

/// The copies of the store.
#[derive(Default)]
pub(super) struct Copies {
    /// How many are kept.
    pub kept: u32,
    /// Up to which record the last one has each chain that was open when it was begun, and not replaced since.
    had: BTreeMap<Name, u64>,
    /// The same of one that is under way.
    begun: Option<BTreeMap<Name, u64>>,
    /// That records were replaced of which there is no copy, for people; empty if none were.
    pub refused: String,
}

impl Copies {
    /// Whether the last one has a chain up to this record.
    fn has(&self, chain: &Name, end: u64) -> bool {
        self.had.get(chain).is_some_and(|had| *had >= end)
    }

    /// Records of this chain were replaced: copies have the former ones.
    pub fn forget(&mut self, chain: &Name) {
        self.had.remove(chain);
        if let Some(begun) = &mut self.begun {
            begun.remove(chain);
        }
    }

    /// That copies are kept, for people; nothing if none is.
    pub fn told(&self, state_dir: &Path) -> String {
        if self.kept == 0 {
            return String::new();
        }
        format!(
            "{} former database(s) kept in {}, from before a camera's chain began anew: docs/operating.md says how to \
             read them; remove the folders `replaced-…` that nobody needs",
            self.kept,
            state_dir.display()
        )
    }
}

impl<S: Store, W: World> Node<S, W> {
    /// Whether content has to wait that takes the place of this chain's records up to `boundary`: until a copy has
    /// them, or there can be none.
    pub(super) fn waits_for_copy(&mut self, chain: &Name, boundary: u64, delta: &Delta) -> bool {
        // What was found behind the restart is found again, in the same frames.
        let restarts = delta.entries.iter().filter(|entry| matches!(entry.record, Record::Restart { .. }));
        let end = restarts.map(Entry::next_sequence).max().unwrap_or(u64::MAX).min(boundary);
        !self.copies.has(chain, end) && self.copy_is_missing(chain, end)
    }

    /// Begins a copy or asks how it is getting on; false once it has the chain up to `end`, or there can be none.
    fn copy_is_missing(&mut self, chain: &Name, end: u64) -> bool {
        let begun = self.copies.begun.take().unwrap_or_else(|| {
            log::info!(chain:% = chain; "its camera began anew: before that replaces records, the database is copied");
            self.chains.iter().map(|(name, run)| (name.clone(), run.boundary())).collect()
        });
        match self.store.keep_copy() {
            Copying::UnderWay => {
                self.copies.begun = Some(begun);
                true
            }
            Copying::Made(folder) => {
                self.copies.had = begun;
                self.copies.kept += 1;
                self.counters.databases_kept_aside += 1;
                log::warn!(folder:% = folder.display(), chain:% = chain;
                    "a camera's chain began anew, and what this node had found in it before is replaced: a copy of the \
                     database is kept in this folder. docs/operating.md says how to read it; remove what nobody needs");
                !self.copies.has(chain, end)
            }
            Copying::Refused(why) => {
                self.copies.refused =
                    format!("records of chain {chain} were replaced as it began anew, and no copy is kept: {why}");
                log::error!("{}", self.copies.refused);
                false
            }
        }
    }
}
