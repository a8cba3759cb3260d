//! The end: whether everything is done, and whether it is right.

use std::collections::BTreeSet;

use microlambda_wire::ChainClass;

use super::Site;
use crate::sim::disk::Disk;
use crate::sim::fault::FaultKind;
use crate::sim::invariants::{self, Checked, Violation};

impl Site {
    /// What is not done yet, if anything.
    pub(super) fn unfinished(&self) -> Option<String> {
        for slot in &self.cameras {
            let camera = &slot.camera;
            if !camera.has_ended() {
                return Some(format!("{} still takes pictures", camera.name));
            }
            let mut first = None;
            for node in &self.nodes {
                if !node.is_up() || node.paused_until.is_some() {
                    return Some(format!("{} is not there", node.name));
                }
                let media = node.media();
                let Some(chain) = media.disk.chains.get(&camera.chain) else {
                    return (camera.next() > 0).then(|| format!("{} does not know {}", node.name, camera.chain));
                };
                if chain.boundary.version.sequence < camera.next() {
                    let at = chain.head.version;
                    return Some(format!("{} is at {at} of {} {}", node.name, camera.next(), camera.chain));
                }
                if *first.get_or_insert(chain.head) != chain.head {
                    return Some(format!("the nodes do not agree on {}", camera.chain));
                }
                if camera.class == ChainClass::Batch && !chain.done {
                    return Some(format!("{} has not noticed the end of {}", node.name, camera.chain));
                }
                if let Some(event) = media.disk.events.values().find(|event| !event.on_bus && !event.superseded) {
                    return Some(format!("{} still wants to see event {} on the bus", node.name, event.note.id));
                }
            }
        }
        None
    }

    pub(super) fn at_the_end(&self) -> Checked {
        for slot in &self.cameras {
            let camera = &slot.camera;
            for node in &self.nodes {
                let media = node.media();
                let Some(chain) = media.disk.chains.get(&camera.chain) else { continue };
                invariants::events_are_those_of_the_records(&camera.chain, chain, &media.disk)?;
                self.every_event_was_published(&media.disk)?;
                if chain.head.set_aside == 0 && self.exact {
                    let (head, events) =
                        invariants::single_run(&camera.chain, &slot.records, camera.index, self.options.seed);
                    let rows = media.disk.events.values().filter(|event| event.note.chain == camera.chain);
                    let rows: BTreeSet<String> =
                        rows.filter(|event| !event.superseded).map(|event| event.note.id.to_string()).collect();
                    if (head.digest, &events) != (chain.head.digest, &rows) {
                        let what = format!("{}: {:?} instead of {head:?}", camera.chain, chain.head);
                        return Err(Violation { invariant: "the result is that of a single run", what });
                    }
                }
                if chain.head.set_aside > 0 && !self.poison && self.nodes.len() > 1 {
                    let what = format!("{} units of {}", chain.head.set_aside, camera.chain);
                    // A worker that hangs, or takes twelve times as long, is killed as out of hand. One accident sets no unit aside.
                    let of_worker = |kind: &FaultKind| {
                        matches!(
                            kind,
                            FaultKind::WorkerDies
                                | FaultKind::WorkerGarbage
                                | FaultKind::WorkerHangs
                                | FaultKind::WorkerSlow
                                | FaultKind::Kill
                                | FaultKind::PowerCut
                        )
                    };
                    let faults = self.outcome.faults.iter().filter(|((kind, _), _)| of_worker(kind));
                    if faults.map(|(_, times)| *times).sum::<u64>() < 2 {
                        return Err(Violation { invariant: "only what fails is set aside", what });
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn every_event_was_published(&self, disk: &Disk) -> Checked {
        let missing =
            disk.events.values().find(|event| !event.superseded && !self.on_bus.contains(event.note.id.as_str()));
        match missing {
            None => Ok(()),
            Some(event) => {
                let what = format!("event {} of {}", event.note.id, event.note.chain);
                Err(Violation { invariant: "every event was on the bus", what })
            }
        }
    }
}
