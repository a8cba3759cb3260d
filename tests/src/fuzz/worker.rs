//! The codec between an agent and its worker, and what an agent makes of a worker's word.

use microlambda_faces::content::PartialEntry;
use microlambda_faces::fold::FoldState;
use microlambda_faces::plan::NextUnit;
use microlambda_faces::proto::{FromWorker, MESSAGE_BYTES_MAX, ToWorker, UnitOutcome, body_bytes, decode, encode};
use microlambda_faces::{Analysis, FACES_MAX, FaceParams, Partial};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A plan of more tiles is not gone through unit by unit: pictures of some megapixels have dozens.
const TILES_WALKED_MAX: usize = 500;

/// The first byte chooses the direction, the next two say where a second message begins: a unit that may follow the first.
pub fn worker(bytes: &[u8]) {
    let [direction, low, high, bodies @ ..] = bytes else { return };
    let cut = usize::from(u16::from_le_bytes([*low, *high])).min(bodies.len());
    let (first, second) = bodies.split_at(cut);
    if direction % 2 == 1 {
        read::<ToWorker>(first);
        read::<ToWorker>(second);
        return;
    }
    let (first, second) = (read::<FromWorker>(first), read::<FromWorker>(second));
    let params = FaceParams::default();
    let mut former: Option<Partial> = None;
    for message in [first, second].into_iter().flatten() {
        let FromWorker::Unit { outcome, .. } = message else { continue };
        if !outcome.follows(former.as_ref(), params.picture_px_max) {
            continue;
        }
        match outcome {
            UnitOutcome::Partial(partial) => {
                assert_eq!(partial.units(), former.as_ref().map_or(0, Partial::units) + 1);
                assert_goes_on(&partial, params);
                former = Some(partial);
            }
            UnitOutcome::Done(Analysis::Frame(frame)) => assert!(frame.faces.len() <= FACES_MAX),
            UnitOutcome::Done(Analysis::Unreadable { .. }) => {}
            UnitOutcome::Done(Analysis::SetAside { .. }) => panic!("a worker cannot set a frame aside"),
        }
    }
}

/// A message that is read can be written, and is read again as the same.
fn read<T: Serialize + DeserializeOwned>(body: &[u8]) -> Option<T> {
    if let Some(prefix) = body.first_chunk::<4>() {
        assert_eq!(body_bytes(*prefix).is_ok(), u32::from_le_bytes(*prefix) as usize <= MESSAGE_BYTES_MAX);
    }
    let message: T = decode(body).ok()?;
    // The shortest form of each number is written: no message grows.
    let written = encode(&message).expect("a message that was read");
    let (prefix, written_body) = written.split_first_chunk::<4>().expect("a prefix");
    assert!(written_body.len() <= body.len());
    assert_eq!(body_bytes(*prefix), Ok(written_body.len()));
    let again: T = decode(written_body).expect("what this program wrote");
    // Compared as bytes: a score that is not a number is not equal to itself.
    assert_eq!(encode(&again).expect("once more"), written);
    Some(message)
}

/// A state that is accepted can be folded, and gives up unit after unit until it is finished: no chain stands still in it.
fn assert_goes_on(partial: &Partial, params: FaceParams) {
    let entry = PartialEntry { sequence: 0, partial: partial.clone() };
    let head = FoldState::genesis(params).partial_head(&entry).expect("a state to build on");
    assert_eq!(head.version.unit, partial.units());
    let plan = partial.plan(params.picture_px_max);
    assert!(head.set_aside as usize <= plan.tiles().len() + FACES_MAX, "more set aside than there is");
    if plan.tiles().len() > TILES_WALKED_MAX {
        return;
    }
    let mut partial = partial.clone();
    while plan.next_unit(&partial) != NextUnit::Finished {
        assert!(partial.is_sound(params.picture_px_max), "no state of a picture: {partial:?}");
        assert!(partial.units() as usize <= TILES_WALKED_MAX + FACES_MAX);
        let units = partial.units();
        plan.set_aside(&mut partial, "fuzz");
        assert_eq!(partial.units(), units + 1);
    }
    let analysis = plan.finished(&partial).expect("a finished analysis");
    assert!(analysis.faces.len() <= FACES_MAX);
}
