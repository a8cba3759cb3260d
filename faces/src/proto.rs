//! The codec between an edge agent and its worker process: length-prefixed postcard over a socket pair.
//!
//! The agent's side treats what comes back as hostile: [`body_bytes`] bounds every message before it is read.

use microlambda::{CostClass, CostTable, StepReport, Stop, UnitCost};
use microlambda_wire::Areas;
use serde::{Deserialize, Serialize};

use crate::content::check_faces;
use crate::{Analysis, FaceParams, Partial};

/// Bumped whenever a message changes; agent and worker are released together and refuse each other otherwise.
pub const PROTOCOL: u32 = 6;
/// No message is longer than this, bytes: a frame at the largest payload bound and its envelope.
pub const MESSAGE_BYTES_MAX: usize = 17 << 20;

/// Longer side of a thumbnail, px.
pub const THUMBNAIL_PX_MAX: u32 = 160;
/// No thumbnail is larger, bytes: small enough for a retained message.
pub const THUMBNAIL_BYTES_MAX: usize = 12 << 10;

/// Cost class of decoding a picture; work is its pixels as stored.
pub const CLASS_DECODE: CostClass = CostClass(1);
/// Cost class of searching a tile; work is its pixels.
pub const CLASS_DETECT: CostClass = CostClass(2);
/// Cost class of encoding a face; work is [`ENCODE_WORK`], and [`LOOK_WORK`] more for a face that was found weakly.
pub const CLASS_ENCODE: CostClass = CostClass(3);
/// Aligning a face and encoding it: 4.4 ms, of dlib's own code 13.7 ms.
pub const ENCODE_WORK: u64 = 2;
/// A second look at a face: 6.4 ms, of dlib's own code 12.7 ms.
pub const LOOK_WORK: u64 = 3;
/// Cost class of recording something without the engine, such as a face too small to encode; work is 1. Units that ended
/// early are reported under this class too.
pub const CLASS_NOTE: CostClass = CostClass(4);

/// From the agent to the worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToWorker {
    /// Run a step. Its `r_limit` runs from the receipt of this message.
    Start {
        /// Echoed in the answers.
        step: u64,
        /// Wall time to the end of the last unit, µs.
        r_limit_us: u64,
        /// At most so many units.
        units_max: u32,
        /// What units have cost on this node.
        costs: CostTable,
        /// What decides an analysis.
        params: FaceParams,
        /// State inside the first frame, if its analysis was begun in a former step.
        resume: Option<Partial>,
    },
    /// The next frame of the running step, in order; frames outside a step are dropped.
    Frame {
        /// Sequence number.
        sequence: u64,
        /// A JPEG picture: written as one run of bytes, without a call for each of millions.
        #[serde(with = "serde_bytes")]
        jpeg: Vec<u8>,
        /// Where alone something may be new in it; `None` for all of it.
        moved: Option<Areas>,
        /// False if no further frame is known: the step ends after this one instead of waiting.
        more: bool,
    },
    /// No further frame will come for this step.
    NoMoreFrames,
    /// End the step after the running unit.
    Stop,
}

/// From the worker to the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromWorker {
    /// Models are loaded.
    Ready {
        /// [`PROTOCOL`] of the worker.
        protocol: u32,
        /// Decoder, detector, kernel and models: what makes encodings comparable bit by bit.
        engine: String,
        /// Time from the process's start, µs.
        load_us: u64,
    },
    /// A unit, or its preparation, begins. Should the process have to be killed in it, the agent knows what it was.
    Begin {
        /// Of the running step.
        step: u64,
        /// Class and work of it.
        part: (CostClass, u64),
    },
    /// A unit ended. Its result is safe with the agent even if the worker dies in the next one.
    Unit {
        /// Of the running step.
        step: u64,
        /// Which frame.
        sequence: u64,
        /// Preparation cost if there was one that did not end early: class, work, µs.
        prepare: Option<(CostClass, u64, u64)>,
        /// Unit cost: class, work, µs.
        run: (CostClass, u64, u64),
        /// The frame's state after the unit.
        outcome: UnitOutcome,
        /// After a unit that encoded a face: a JPEG picture of it with some margin, sides at most [`THUMBNAIL_PX_MAX`], of at
        /// most [`THUMBNAIL_BYTES_MAX`] bytes. For people only: never part of a state or a digest.
        thumbnail: Option<Vec<u8>>,
    },
    /// The step ended; the worker is ready for the next `Start`.
    Stopped {
        /// Of the step that ended.
        step: u64,
        /// Why.
        stop: Stop,
        /// Times on the machine's monotonic clock, µs.
        report: StepTimes,
    },
    /// The worker cannot work and exits: a model is missing or damaged, say.
    Fatal {
        /// What is wrong and what to do.
        message: String,
    },
    /// This unit does not fit a step here: said just before the step ends with [`Stop::TooLarge`].
    Refused {
        /// Of the running step.
        step: u64,
        /// Class and work of the unit, and of its preparation if it needs one.
        unit: UnitCost,
    },
    /// What a preparation has cost that ran without its unit: said just before the step ends with [`Stop::Prepared`], and not of
    /// one that ended early.
    Prepared {
        /// Of the running step.
        step: u64,
        /// Class, work, µs.
        prepare: (CostClass, u64, u64),
    },
    /// What units of a picture of its own have cost, said right behind [`FromWorker::Ready`]: a unit that takes far longer does not do so because this
    /// computer is slow.
    Tried {
        /// Class, work, µs of each.
        units: Vec<(CostClass, u64, u64)>,
    },
}

/// A frame's state after a unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum UnitOutcome {
    /// More units to go.
    Partial(Partial),
    /// That was the last one.
    Done(Analysis),
}

impl UnitOutcome {
    /// Faces done so far, as they will be numbered in the finished analysis; a picture that comes with the outcome is of the last of them.
    pub fn faces(&self) -> usize {
        match self {
            Self::Partial(partial) => partial.faces.iter().filter(|face| face.is_recorded()).count(),
            Self::Done(Analysis::Frame(frame)) => frame.faces.len(),
            Self::Done(Analysis::Unreadable { .. } | Analysis::SetAside { .. }) => 0,
        }
    }

    /// Whether a worker in its right mind can say this of a frame whose state was `former` (`None` before its first unit): one
    /// unit further, and a state that something can follow. A worker that says something else is to be replaced.
    pub fn follows(&self, former: Option<&Partial>, picture_px_max: u32) -> bool {
        let units = former.map_or(0, Partial::units);
        let same_picture = |width_px, height_px, scene| {
            former
                .is_none_or(|former| (former.width_px, former.height_px, former.scene) == (width_px, height_px, scene))
        };
        match self {
            Self::Partial(partial) => {
                partial.units() == units.saturating_add(1)
                    && same_picture(partial.width_px, partial.height_px, partial.scene)
                    && former.is_none_or(|former| former.moved == partial.moved)
                    && partial.is_sound(picture_px_max)
            }
            Self::Done(Analysis::Frame(frame)) => {
                same_picture(frame.width_px, frame.height_px, frame.scene) && check_faces(0, &frame.faces).is_ok()
            }
            Self::Done(Analysis::Unreadable { .. }) => true,
            Self::Done(Analysis::SetAside { .. }) => false,
        }
    }
}

/// Times of a step, for people and for the benchmarks; µs of the machine's monotonic clock (`CLOCK_MONOTONIC`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StepTimes {
    /// Units done.
    pub units: u32,
    /// Receipt of `Start` to the end of the last unit, or of the preparation that is all the step did.
    pub used_us: u64,
    /// Spent in units and their preparation.
    pub busy_us: u64,
    /// When the first unit, or its preparation, began.
    pub first_unit_start_us: u64,
    /// When the last unit ended, or the preparation that is all the step did.
    pub last_unit_end_us: u64,
    /// CPU time of the worker process so far.
    pub cpu_us: u64,
}

impl StepTimes {
    /// Of a step at this instant that took no time of the worker's.
    pub fn at(now_us: u64, cpu_us: u64) -> Self {
        Self { units: 0, used_us: 0, busy_us: 0, first_unit_start_us: now_us, last_unit_end_us: now_us, cpu_us }
    }

    /// Joins a step's report with the CPU time of its process.
    pub fn new(report: &StepReport, cpu_us: u64) -> Self {
        Self {
            units: report.units,
            used_us: report.used_us,
            busy_us: report.busy_us,
            first_unit_start_us: report.first_unit_start_us,
            last_unit_end_us: report.last_unit_end_us,
            cpu_us,
        }
    }
}

/// A message that cannot be sent or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtoError {
    /// Longer than [`MESSAGE_BYTES_MAX`].
    #[error("a message of {bytes} bytes exceeds the bound of {MESSAGE_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not a message of this protocol.
    #[error("not a message of worker protocol {PROTOCOL}: {why}")]
    Malformed {
        /// What postcard says.
        why: String,
    },
}

/// A message as bytes: four bytes of little-endian length, then postcard.
///
/// # Errors
/// [`ProtoError::TooLong`] if it exceeds the bound.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, ProtoError> {
    let body = postcard::to_extend(message, vec![0; 4]).map_err(|e| ProtoError::Malformed { why: e.to_string() })?;
    let body_bytes = body.len() - 4;
    if body_bytes > MESSAGE_BYTES_MAX {
        return Err(ProtoError::TooLong { bytes: body_bytes });
    }
    let mut message = body;
    let length = u32::try_from(body_bytes).map_err(|_| ProtoError::TooLong { bytes: body_bytes })?;
    message[..4].copy_from_slice(&length.to_le_bytes());
    Ok(message)
}

/// The length of the body that follows a prefix.
///
/// # Errors
/// [`ProtoError::TooLong`] if it exceeds the bound: the stream cannot be trusted any more.
pub fn body_bytes(prefix: [u8; 4]) -> Result<usize, ProtoError> {
    let bytes = u32::from_le_bytes(prefix) as usize;
    if bytes > MESSAGE_BYTES_MAX { Err(ProtoError::TooLong { bytes }) } else { Ok(bytes) }
}

/// Reads a message from the body that followed a prefix.
///
/// # Errors
/// [`ProtoError::Malformed`] if it is no message, or bytes are left over.
pub fn decode<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ProtoError> {
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(ProtoError::Malformed { why: format!("{} bytes left over", rest.len()) }),
        Err(e) => Err(ProtoError::Malformed { why: e.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_its_length_and_its_bytes() {
        let frame = ToWorker::Frame { sequence: 5, jpeg: vec![0xff, 0xd8, 0], moved: None, more: true };
        let message = encode(&frame).unwrap();
        assert_eq!(message[4..], [1, 5, 3, 0xff, 0xd8, 0, 0, 1]);
        assert_eq!(decode::<ToWorker>(&message[4..]).unwrap(), frame);
    }
}
