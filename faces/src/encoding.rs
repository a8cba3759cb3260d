//! A face as numbers that can be compared.
//!
//! The numbers are the output of dlib's metric network, `dlib_face_recognition_resnet_model_v1`: a residual network with 29
//! convolutions that was trained to bring views of one person close together. A single number has no unit and no meaning;
//! the Euclidean distance of two encodings has: dlib trained its network to tell one person from two at 0.6, which is the
//! default of [`FaceParams::distance_max`](crate::FaceParams::distance_max).

use serde::{Deserialize, Serialize, Serializer};

/// Values in one encoding: the network's output layer.
pub const ENCODING_LEN: usize = 128;

/// The rough sum of squares has so many parts, each of its own terms, for the processor to add side by side.
const ROUGH_LANES: usize = 16;
/// … and is off by less than this part of it: each of its terms and additions by 2^-24, some 30 of them one after the
/// other.
pub(crate) const ROUGH_ERROR: f64 = 1e-4;
/// … if it is within these. Beyond them single precision has no numbers, and far below its terms would have too few
/// digits.
const ROUGH_KNOWN: std::ops::RangeInclusive<f32> = 1e-30..=f32::MAX;

/// A face encoding: [`ENCODING_LEN`] finite numbers. What is read as one, from the bus, a database or a worker, is one or
/// an error.
///
/// It is written as a sequence with its length, as a slice is.
///
/// ```
/// use microlambda_faces::{ENCODING_LEN, Encoding};
///
/// let a = Encoding::try_from(vec![0.0_f32; ENCODING_LEN])?;
/// let b = Encoding::try_from(vec![0.05_f32; ENCODING_LEN])?;
/// assert!((0.5..0.6).contains(&a.distance(&b)));
/// assert!(Encoding::try_from(vec![0.0_f32; 127]).is_err());
/// # Ok::<(), microlambda_faces::EncodingError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "Vec<f32>")]
pub struct Encoding(Box<[f32; ENCODING_LEN]>);

/// Numbers that are no encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodingError {
    /// There are more or fewer than [`ENCODING_LEN`].
    #[error("{values} values: an encoding has {ENCODING_LEN}")]
    Length {
        /// How many there are.
        values: usize,
    },
    /// One is infinite or not a number.
    #[error("value {at} of an encoding is not finite")]
    NotFinite {
        /// The first of them, from 0.
        at: usize,
    },
}

impl TryFrom<Vec<f32>> for Encoding {
    type Error = EncodingError;

    fn try_from(values: Vec<f32>) -> Result<Self, EncodingError> {
        let other_length = |values: Vec<f32>| EncodingError::Length { values: values.len() };
        let values = Box::<[f32; ENCODING_LEN]>::try_from(values).map_err(other_length)?;
        match values.iter().position(|value| !value.is_finite()) {
            Some(at) => Err(EncodingError::NotFinite { at }),
            None => Ok(Self(values)),
        }
    }
}

impl TryFrom<&[f32]> for Encoding {
    type Error = EncodingError;

    fn try_from(values: &[f32]) -> Result<Self, EncodingError> {
        Self::try_from(values.to_vec())
    }
}

impl Serialize for Encoding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_slice().serialize(serializer)
    }
}

impl Encoding {
    /// Its numbers, in the network's order.
    pub fn values(&self) -> &[f32; ENCODING_LEN] {
        &self.0
    }

    /// Euclidean distance, summed in order in double precision: every node comes to the same bits.
    pub fn distance(&self, other: &Self) -> f64 {
        let differences = self.0.iter().zip(other.values()).map(|(a, b)| f64::from(*a) - f64::from(*b));
        differences.fold(0.0, |sum, difference| sum + difference * difference).sqrt()
    }

    /// A bound that the square of the distance does not fall below, several times as fast as the distance. It decides
    /// nothing but what need not be looked at, so that its own rounding is in no result.
    pub(crate) fn square_at_least(&self, other: &Self) -> f64 {
        let (a, b) = (self.0.as_chunks::<ROUGH_LANES>().0, other.0.as_chunks::<ROUGH_LANES>().0);
        let mut sums = [0.0_f32; ROUGH_LANES];
        for (a, b) in a.iter().zip(b) {
            for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
                *sum += (a - b) * (a - b);
            }
        }
        let sum: f32 = sums.iter().sum();
        if ROUGH_KNOWN.contains(&sum) { f64::from(sum) * (1.0 - ROUGH_ERROR) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{ContentError, from_bytes, to_bytes};
    use crate::{Analysis, Face, FaceOutcome, FrameAnalysis, Rect, Scene, SeenFace, Tile};

    /// [`FaceOutcome`] when an encoding was a slice of any length; so are the others below.
    #[derive(Serialize)]
    enum FormerOutcome {
        Encoded(Box<[f32]>),
    }

    #[derive(Serialize)]
    struct FormerFace {
        seen: SeenFace,
        sharpness: f32,
        outcome: FormerOutcome,
    }

    #[derive(Serialize)]
    struct FormerFrame {
        width_px: u32,
        height_px: u32,
        faces: Vec<FormerFace>,
        tiles_set_aside: Vec<Tile>,
        scene: Option<Scene>,
    }

    #[derive(Serialize)]
    enum FormerAnalysis {
        Frame(FormerFrame),
    }

    /// Both zeros, the least number and the ends of the range are among them.
    fn values() -> Vec<f32> {
        let mut values: Vec<f32> = (0..ENCODING_LEN).map(|at| at as f32 * 0.011 - 0.7).collect();
        values[..5].copy_from_slice(&[0.0, -0.0, f32::from_bits(1), f32::MAX, f32::MIN]);
        values
    }

    fn odd_values() -> [Vec<f32>; 6] {
        let with = |value: f32| [vec![0.1; ENCODING_LEN - 1], vec![value]].concat();
        [Vec::new(), vec![0.1; 127], vec![0.1; 129], with(f32::NAN), with(f32::INFINITY), with(f32::NEG_INFINITY)]
    }

    #[test]
    fn an_encoding_is_written_and_read_as_the_slice_that_it_was() {
        let encoding = Encoding::try_from(values()).unwrap();
        let bytes = to_bytes(&encoding).unwrap();
        assert_eq!(bytes, to_bytes(&values()).unwrap());
        assert_eq!(bytes, to_bytes(&values().into_boxed_slice()).unwrap());
        assert_eq!(bytes[1..3], [0x80, 0x01], "the length");
        assert_eq!(bytes[3..], values().iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
        let read: Encoding = from_bytes(&bytes).unwrap();
        assert_eq!(to_bytes(&read).unwrap(), bytes, "-0.0 too");
    }

    /// These are the bytes that a record's digest covers.
    #[test]
    fn an_analysis_is_written_as_it_was() {
        let seen = SeenFace { rect: Rect { left: 10, top: 20, right: 109, bottom: 119 }, score: 1.5 };
        let outcome = FaceOutcome::Encoded(Encoding::try_from(values().as_slice()).unwrap());
        let now = FrameAnalysis {
            width_px: 640,
            height_px: 480,
            faces: vec![Face { seen, sharpness: 50.0, outcome }],
            tiles_set_aside: Vec::new(),
            scene: None,
        };
        let outcome = FormerOutcome::Encoded(values().into_boxed_slice());
        let former = FormerFrame {
            width_px: 640,
            height_px: 480,
            faces: vec![FormerFace { seen, sharpness: 50.0, outcome }],
            tiles_set_aside: Vec::new(),
            scene: None,
        };
        let (now, former) = (Some(Analysis::Frame(now)), Some(FormerAnalysis::Frame(former)));
        assert_eq!(to_bytes(&now).unwrap(), to_bytes(&former).unwrap());
        assert_eq!(from_bytes::<Option<Analysis>>(&to_bytes(&former).unwrap()).unwrap(), now);
    }

    #[test]
    fn what_is_not_128_finite_numbers_is_no_encoding() {
        let error = |values: Vec<f32>| Encoding::try_from(values).unwrap_err();
        let [none, short, long, nan, infinite, negative] = odd_values().map(error);
        assert_eq!([none, short, long], [0, 127, 129].map(|values| EncodingError::Length { values }));
        assert_eq!([nan, infinite, negative], [EncodingError::NotFinite { at: 127 }; 3]);
    }

    #[test]
    fn what_is_read_is_checked() {
        for values in odd_values() {
            let bytes = to_bytes(&values).unwrap();
            assert!(from_bytes::<Vec<f32>>(&bytes).is_ok());
            let read = from_bytes::<Encoding>(&bytes);
            assert!(matches!(read, Err(ContentError::Malformed(_))), "{read:?}");
        }
    }

    #[test]
    fn a_distance_is_euclidean_and_its_rough_bound_just_below() {
        let [mut a, b] = [vec![0.5_f32; ENCODING_LEN], vec![0.5_f32; ENCODING_LEN]];
        (a[0], a[127]) = (3.5, -3.5);
        let [a, b] = [a, b].map(|values| Encoding::try_from(values).unwrap());
        assert_eq!((a.distance(&b), b.distance(&a), a.distance(&a)), (5.0, 5.0, 0.0));
        let square = a.square_at_least(&b);
        assert!(square <= 25.0 && square > 25.0 * (1.0 - 2.0 * ROUGH_ERROR), "{square}");
    }
}
