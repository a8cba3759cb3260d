//! One face against galleries of many people.

use std::sync::Arc;
use std::time::Instant;

use microlambda_faces::fold::{Exemplar, FoldState, Gallery, Person};
use microlambda_faces::{Encoding, FaceAt, FaceParams};
use serde::Serialize;

use super::people;
use crate::random::Random;
use crate::stats::Stats;
use crate::{Error, since};

/// Views of somebody known are about so far from the middle of all views.
const VIEW_FAR: f32 = 0.25;

/// One gallery, and what a face costs in it.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// People in it.
    pub people: usize,
    /// Encodings kept of each.
    pub encodings: usize,
    /// `Gallery::nearest` for a face of somebody in it.
    pub known_ms: Stats,
    /// The same for somebody who is not.
    pub stranger_ms: Stats,
    /// Copying the state, as a node does before it folds on trial, and folding a frame with a known face.
    pub fold_ms: Stats,
}

/// Measures one gallery with `faces` faces of each sort.
///
/// # Errors
/// The fold does not take the frame, or finds another person than it must.
pub fn measure(people: usize, encodings: usize, faces: usize) -> Result<Row, Error> {
    let mut random = Random::new(people as u64);
    let centres: Vec<Encoding> = (0..people).map(|_| people::somebody(&mut random)).collect();
    let gallery = gallery(&centres, encodings, &mut random);
    let params = FaceParams::default();
    let state = FoldState::restore(params, FoldState::genesis(params).head(), gallery);
    let (mut known_ms, mut stranger_ms, mut fold_ms) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..faces {
        let person = random.below(people as u64) as usize;
        let face = people::view(&centres[person], VIEW_FAR, &mut random);
        let start = Instant::now();
        let nearest = state.gallery().nearest(&face);
        known_ms.push(since(start));
        if nearest.is_none_or(|(found, _)| found != person) {
            return Err(format!("{person} is taken for {nearest:?}").into());
        }
        let stranger = people::somebody(&mut random);
        let start = Instant::now();
        std::hint::black_box(state.gallery().nearest(&stranger));
        stranger_ms.push(since(start));
        let entry = people::frame_of(0, face);
        let start = Instant::now();
        let mut trial = state.clone();
        let folded = trial.fold(&entry)?;
        fold_ms.push(since(start));
        if folded.sightings.first().is_none_or(|sighting| sighting.person != person) {
            return Err(format!("{person} was folded as {:?}", folded.sightings).into());
        }
    }
    let stats = |values| Stats::of(values).ok_or("no faces");
    Ok(Row {
        people,
        encodings,
        known_ms: stats(known_ms)?,
        stranger_ms: stats(stranger_ms)?,
        fold_ms: stats(fold_ms)?,
    })
}

fn gallery(centres: &[Encoding], encodings: usize, random: &mut Random) -> Gallery {
    let mut exemplar = |centre: &Encoding, number: usize| Exemplar {
        at: FaceAt { sequence: number as u64, face_index: 0 },
        encoding: people::view(centre, VIEW_FAR, random),
    };
    let person = |(number, centre): (usize, &Encoding)| {
        Arc::new(Person {
            number,
            first: FaceAt { sequence: 0, face_index: 0 },
            first_seen_ms: 0,
            last_seen_ms: 0,
            last_sequence: 0,
            frames: 1,
            exemplars: (0..encodings).map(|number| exemplar(centre, number)).collect(),
        })
    };
    Gallery { people: centres.iter().enumerate().map(person).collect(), ever: centres.len(), ..Gallery::default() }
}
