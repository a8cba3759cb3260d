//! The face lambda without its engine.
//!
//! Recognition has two parts that are kept apart. *Analyse* turns one frame into boxes and encodings: heavy, pure,
//! independent per frame, done by the worker process with dlib. *Fold* turns analyses, in order, into people and events:
//! cheap, exact, the same on every node. This crate owns the data that passes between them ([`Analysis`], [`Partial`]), how a
//! picture is cut into units ([`plan`]), the fold ([`fold`]) and the codec between agent and worker
//! ([`proto`]). It owns no engine, no clock and no IO.

#![forbid(unsafe_code)]

mod analysis;
pub mod content;
mod encoding;
mod face_at;
pub mod fold;
pub mod judge;
pub mod plan;
pub mod proto;
pub mod recent;
mod scene;

pub use analysis::{
    Analysis, FACES_MAX, Face, FaceOutcome, FaceParams, FrameAnalysis, Partial, Rect, SeenFace, Tile, Unusable,
};
pub use encoding::{ENCODING_LEN, Encoding, EncodingError};
pub use face_at::{FaceAt, Thumbnail};
pub use microlambda_wire::{Area, Areas};
pub use scene::{SCENE_BLOCKS, Scene};
