//! A unit of each heavy kind before the first picture: a worker that cannot work at all must not set picture after picture aside.

use microlambda::CostClass;
use microlambda_faces::proto::{CLASS_DETECT, CLASS_ENCODE, ENCODE_WORK};
use microlambda_faces::{Encoding, Rect};

use crate::engine::{Engine, EngineError};
use crate::picture::Pixels;

/// Side of the picture that is tried, px: searched and encoded within a few ms.
const SIDE_PX: u32 = 96;

/// The engine does not work on this computer, whatever the picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrialError {
    /// It failed.
    #[error(
        "the engine fails even on a picture of its own ({0}); install microlambda-edge-agent again, or raise worker-memory-mb"
    )]
    Engine(#[from] EngineError),
    /// It gave something else than an encoding.
    #[error(
        "the engine gives no encoding of a picture of its own; install microlambda-edge-agent and its models again"
    )]
    NoEncoding,
}

/// Searches and encodes a picture of noise. An engine that kills its process (instructions that the processor lacks, a library that was exchanged) does
/// so here, before anybody's picture can be blamed. What both units cost, by `monotonic_us`: class, work, µs.
///
/// # Errors
/// [`TrialError`].
pub fn try_out(engine: &mut impl Engine, monotonic_us: fn() -> u64) -> Result<Vec<(CostClass, u64, u64)>, TrialError> {
    let noise = |at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8;
    let rgb = (0..SIDE_PX * SIDE_PX * 3).map(noise).collect();
    let Some(pixels) = Pixels::new(SIDE_PX, SIDE_PX, rgb) else { return Err(TrialError::NoEncoding) };
    let began_us = monotonic_us();
    engine.search(&pixels, None, 0.0)?;
    let searched_us = monotonic_us();
    let picture = engine.open(&pixels);
    let last = SIDE_PX.cast_signed() * 3 / 4;
    let rect = Rect { left: last / 3, top: last / 3, right: last, bottom: last };
    let (face, _) = engine.align(&pixels, &picture, rect)?;
    let is_one = Encoding::try_from(engine.encode(&picture, &face)?).is_ok();
    let search = (CLASS_DETECT, u64::from(SIDE_PX * SIDE_PX), searched_us.saturating_sub(began_us));
    let encode = (CLASS_ENCODE, ENCODE_WORK, monotonic_us().saturating_sub(searched_us));
    if is_one { Ok(vec![search, encode]) } else { Err(TrialError::NoEncoding) }
}

#[cfg(test)]
mod tests {
    use microlambda_faces::ENCODING_LEN;

    use super::*;

    /// An engine whose encodings are so many numbers.
    struct Odd(Option<usize>, f32);

    impl Engine for Odd {
        type Picture = ();
        type Aligned = ();

        fn search(&mut self, _: &Pixels, _: Option<u32>, _: f32) -> Result<Vec<(Rect, f32)>, EngineError> {
            Ok(Vec::new())
        }

        fn open(&mut self, _: &Pixels) {}

        fn align(&mut self, pixels: &Pixels, (): &(), rect: Rect) -> Result<((), f32), EngineError> {
            assert!(rect.left >= 0 && rect.right < pixels.width_px().cast_signed(), "{rect:?}");
            self.0.map(|_| ((), 1.0)).ok_or(EngineError::Landmarks(0))
        }

        fn look_again(&mut self, _: &Pixels, _: Rect, (): &()) -> Result<f32, EngineError> {
            Ok(1.0)
        }

        fn encode(&mut self, (): &(), (): &()) -> Result<Vec<f32>, EngineError> {
            Ok(vec![self.1; self.0.unwrap_or_default()])
        }
    }

    #[test]
    fn an_engine_that_cannot_encode_a_picture_of_its_own_is_told_of_before_any_other() {
        let try_out = |length, value| try_out(&mut Odd(length, value), || 0);
        assert!(try_out(Some(ENCODING_LEN), 0.1).is_ok());
        assert_eq!(try_out(Some(ENCODING_LEN), f32::NAN), Err(TrialError::NoEncoding));
        assert_eq!(try_out(Some(0), 0.1), Err(TrialError::NoEncoding));
        let why = try_out(None, 0.1).expect_err("it failed").to_string();
        assert!(why.contains("0 points") && why.contains("install"), "{why}");
    }
}
