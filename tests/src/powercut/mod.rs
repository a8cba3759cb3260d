//! What a disk may hold after a power cut.
//!
//! A [`tap`] notes what a program does to a folder: files made, written, truncated, renamed, removed, and what it syncs. A
//! [`disk::Replay`] of these notes says, for every moment, what the disk holds for certain, and what it may or may not hold: each
//! write since the last sync of its file may be there, be missing, or be there in some of its sectors; each name made, renamed or
//! removed since the last sync of its folder may be as before or as after. [`disk::Replay::draw`] picks one such disk.
//!
//! Nothing here intercepts anything: `tests/power_cut/interpose.rs` does, and tells the tap.

pub mod disk;
pub mod tap;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::path::Path;

use disk::{Event, Fate, Image, Replay, materialise};

use crate::sim::random::Random;

/// How many disks were looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Covered {
    /// Moments at which the power was cut.
    pub moments: usize,
    /// Disks drawn for them.
    pub disks: usize,
    /// Disks among them that differed from those before, and were opened and checked.
    pub checked: usize,
}

/// Cuts the power at every moment of a recording and hands each disk that may be left to `check`, as a new folder with the number of
/// events that had happened. A disk that was seen before at the same `stage` is not checked again.
///
/// # Errors
/// What `check` says is wrong with the first disk that it does not accept, and which that is.
pub fn cut_everywhere(
    start: &Image,
    events: &[Event],
    mixed_disks: u64,
    random: &mut Random,
    stage: impl Fn(usize) -> usize,
    mut check: impl FnMut(usize, &Path) -> Result<(), String>,
) -> Result<Covered, String> {
    let mut replay = Replay::of(start);
    let mut covered = Covered::default();
    let mut seen = HashSet::new();
    for at in 0..=events.len() {
        if at > 0 {
            replay.advance(&events[at - 1]);
        }
        covered.moments += 1;
        let mixed = if replay.uncertain() > 0 { mixed_disks } else { 0 };
        let fates = [Fate::Lost, Fate::Kept].into_iter().chain((0..mixed).map(|_| Fate::Mixed));
        for fate in fates {
            covered.disks += 1;
            let image = replay.draw(fate, random);
            let mut hasher = DefaultHasher::new();
            (stage(at), &image).hash(&mut hasher);
            if !seen.insert(hasher.finish()) {
                continue;
            }
            covered.checked += 1;
            let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
            materialise(&image, folder.path()).map_err(|error| error.to_string())?;
            check(at, folder.path()).map_err(|why| format!("after event {at} of {}, {fate:?}: {why}", events.len()))?;
        }
    }
    Ok(covered)
}
