//! What crosses the bus: topics, payloads, and the metadata segment of a frame.
//!
//! Every topic is built and parsed by [`Topic`], every payload by its own type through [`to_payload`] and
//! [`from_payload`], which bound and check it: bytes from the network are hostile. This crate owns the formats and no
//! connection. `docs/topics.md` shows each with an example.

#![forbid(unsafe_code)]

mod area;
mod camera_notes;
mod chain_notes;
mod frame;
mod name;
mod payload;
mod record;
mod topic;

pub use area::{AREAS_MAX, Area, Areas};
pub use camera_notes::{CREDIT_MAX, CameraHead, CameraStatus, ChainClass, EndMark, RecordNote, SourceCounters, Want};
pub use chain_notes::{
    AheadNote, CONTINUATION_FRAMES_MAX, ChainLag, ChainOrigin, ClaimNote, Continuation, DONE_PEOPLE_MAX, DoneNote,
    EventKind, EventNote, FaceNote, FrameSummary, LOCATOR_LEN_MAX, NodeStatus, STATUS_CHAINS_MAX, STATUS_SET_ASIDE_MAX,
    SetAsideNote, StepTiming, SyncHave, SyncWant, UnitFailure,
};
pub use frame::{FrameError, FrameMeta, META_BYTES_MAX, read_frame_meta, strip_frame_meta, write_frame_meta};
pub use name::{CAMERA_LEN_MAX, NAME_LEN_MAX, Name, NameError};
pub use payload::{Blob, Payload, PayloadError, TEXT_BYTES_MAX, UNPUBLISHED_LEN_MAX, from_payload, to_payload};
pub use record::{GapReason, LABEL_BYTES_MAX, Record, SEQUENCE_MAX, TIME_MS_MAX};
pub use topic::{Topic, TopicError, TopicPrefix};
