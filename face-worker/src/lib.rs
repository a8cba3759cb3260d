//! The worker process: looks at pictures with dlib, on behalf of an edge agent that never links it.
//!
//! This crate owns the engine (dlib's HOG detector and 5-point landmarks, and the ResNet encoder, ours or dlib's), the face lambda that cuts an
//! analysis into units, and the process around them: models checked and loaded once, frames in and results out over a socket
//! pair on file descriptor 0, `r_limit` kept by [`microlambda::run_step`], and a sandbox. It owns no state that outlives it:
//! it may die in any unit, and the agent goes on from the last one.

mod engine;
#[cfg(feature = "fault-injection")]
mod fault;
mod ffi;
mod inbox;
mod lambda;
mod models;
mod picture;
mod run;
mod sandbox;
mod session;
mod sharpness;
mod thumbnail;
mod trial;

pub use engine::{AlignedFace, Dlib, Engine, EngineChoice, EngineError, LoadError};
pub use ffi::{Chip, DlibError};
pub use inbox::{FRAME_WAIT_US_MAX, Inbox, InboxError, Reader, Start, inbox};
pub use lambda::{Cache, FaceLambda, Frame, Frames, Progress, UnitError, analyse, analyse_frame};
pub use models::{ENCODER_MODEL, LANDMARK_MODEL, Model, ModelError};
pub use picture::{DECODE_PX_MAX, Header, PictureError, Pixels, Pyramid, SIDE_PX_MAX, decode, header};
pub use run::{Args, ENVIRONMENT, RunError, run};
pub use sandbox::{Sandbox, SandboxError};
pub use session::{Clocks, SessionError, serve};
pub use sharpness::sharpness;
pub use trial::{TrialError, try_out};
