//! What the face lambda asks of an engine, and dlib as that engine, with its network or ours.

use std::path::Path;

use clap::ValueEnum;
use dlib_face_recognition::{
    FaceEncoderNetwork, FaceEncoderTrait, FaceEncoding, FaceLandmarks, ImageMatrix, LandmarkPredictor,
    LandmarkPredictorTrait, Rectangle,
};
use microlambda_encoder::Encoder;
use microlambda_faces::Rect;

use crate::ffi::{self, Chip, Detector, DlibError, LANDMARKS};
use crate::models::{ENCODER_MODEL, LANDMARK_MODEL, ModelError};
use crate::picture::Pixels;
use crate::sharpness::sharpness;

/// The version of `zune-jpeg` that `microlambda-picture` decodes frames with: it does not say its own.
const JPEG_DECODER: &str = "0.5";

/// The heavy parts of an analysis; pure functions of the pixels.
pub trait Engine {
    /// A picture as the engine wants it for several faces.
    type Picture;
    /// A face that is ready to be encoded.
    type Aligned;

    /// Faces in a tile, in its own coordinates, with scores of at least `score_min`: of all sizes, or of the `layers_max` smallest that the
    /// detector's pyramid has.
    ///
    /// # Errors
    /// If the engine failed, out of memory for example; the same tile may work elsewhere.
    fn search(
        &mut self,
        tile: &Pixels,
        layers_max: Option<u32>,
        score_min: f32,
    ) -> Result<Vec<(Rect, f32)>, EngineError>;

    /// Makes a picture ready for [`Engine::align`] and [`Engine::encode`].
    fn open(&mut self, pixels: &Pixels) -> Self::Picture;

    /// The face in a box that lies inside the picture, turned and cut by its landmarks, and its sharpness.
    ///
    /// # Errors
    /// As [`Engine::search`].
    fn align(
        &mut self,
        pixels: &Pixels,
        picture: &Self::Picture,
        rect: Rect,
    ) -> Result<(Self::Aligned, f32), EngineError>;

    /// The score of an aligned face that was found weakly, on a closer look at its box in `pixels`: the mean of it as it is and turned upright.
    ///
    /// # Errors
    /// As [`Engine::search`].
    fn look_again(&mut self, pixels: &Pixels, rect: Rect, face: &Self::Aligned) -> Result<f32, EngineError>;

    /// The values of an aligned face's encoding, unchecked: the caller makes a [`microlambda_faces::Encoding`] of them, if
    /// they are one.
    ///
    /// # Errors
    /// As [`Engine::search`].
    fn encode(&mut self, picture: &Self::Picture, face: &Self::Aligned) -> Result<Vec<f32>, EngineError>;
}

/// The engine failed at one unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// From the binding.
    #[error(transparent)]
    Dlib(#[from] DlibError),
    /// The predictor gave another number of points than the model has.
    #[error("the landmark predictor gave {0} points instead of 5")]
    Landmarks(usize),
}

/// Which code searches and encodes. Both do the same arithmetic on the same models: faces and scores are the same, encodings differ
/// in the last bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum EngineChoice {
    /// The one of this program, several times as fast.
    #[default]
    BuiltIn,
    /// dlib's, the reference.
    Dlib,
}

/// dlib with its HOG detector and 5-point landmarks, and the ResNet encoder.
pub struct Dlib {
    detector: Detector,
    predictor: LandmarkPredictor,
    network: Network,
}

enum Network {
    BuiltIn(Box<Encoder>),
    Dlib(Box<FaceEncoderNetwork>),
}

/// A face with what either network wants of it.
pub struct AlignedFace {
    landmarks: FaceLandmarks,
    chip: Chip,
    /// By how much the line through its eyes is turned, radians.
    tilt: f64,
}

impl Dlib {
    /// Checks and loads the models, for the code that is the default.
    ///
    /// # Errors
    /// If a model is missing, damaged, or another than expected, or the detector cannot be built.
    pub fn load(models: &Path) -> Result<Self, LoadError> {
        Self::load_for(models, EngineChoice::default())
    }

    /// Checks and loads the models.
    ///
    /// # Errors
    /// As [`Dlib::load`].
    pub fn load_for(models: &Path, choice: EngineChoice) -> Result<Self, LoadError> {
        // The two large files side by side: where a core is free, a new worker is ready in little more than half of the time.
        let (network, rest) = std::thread::scope(|scope| {
            let network = std::thread::Builder::new().spawn_scoped(scope, || load_network(models, choice))?;
            let rest = load_detector_and_predictor(models, choice);
            Ok((network.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), rest))
        })
        .map_err(|source| LoadError::Thread { source })?;
        let (detector, predictor) = rest?;
        Ok(Self { detector, predictor, network: network? })
    }

    /// Decoder of frames, detector, models and encoder: encodings of equal engines are equal bit by bit.
    pub fn describe(&self) -> String {
        let encoder = match &self.network {
            Network::BuiltIn(encoder) if encoder.kernel().is_fused() => "built-in fused".to_owned(),
            Network::BuiltIn(_) => "built-in".to_owned(),
            Network::Dlib(_) => format!("openblas {}", ffi::blas().0),
        };
        format!(
            "zune-jpeg {JPEG_DECODER}, dlib {} hog-2x {} {}, {encoder}, {}",
            ffi::dlib_version(),
            &LANDMARK_MODEL.sha256[..8],
            &ENCODER_MODEL.sha256[..8],
            std::env::consts::ARCH,
        )
    }
}

fn load_network(models: &Path, choice: EngineChoice) -> Result<Network, LoadError> {
    Ok(match choice {
        EngineChoice::BuiltIn => {
            let path = models.join(ENCODER_MODEL.file);
            let encoder = Encoder::read(&ENCODER_MODEL.read(models)?);
            Network::BuiltIn(Box::new(encoder.map_err(|why| ModelError::NotUnderstood { path, why })?))
        }
        EngineChoice::Dlib => {
            let path = ENCODER_MODEL.checked(models)?;
            let opened = FaceEncoderNetwork::open(&path);
            Network::Dlib(Box::new(opened.map_err(|why| ModelError::NotOpened { path, why })?))
        }
    })
}

fn load_detector_and_predictor(
    models: &Path,
    choice: EngineChoice,
) -> Result<(Detector, LandmarkPredictor), LoadError> {
    let path = LANDMARK_MODEL.checked(models)?;
    let predictor = LandmarkPredictor::open(&path).map_err(|why| ModelError::NotOpened { path, why })?;
    Ok((Detector::new(choice == EngineChoice::BuiltIn)?, predictor))
}

/// The engine cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The detector.
    #[error("the detector cannot be built: {0}; free some memory or raise --memory-max-mb")]
    Detector(#[from] DlibError),
    /// A thread to load a model with.
    #[error("no thread to load a model with: {source}; check the process limit (`ulimit -u`)")]
    Thread {
        /// Why.
        source: std::io::Error,
    },
}

impl Engine for Dlib {
    type Picture = ImageMatrix;
    type Aligned = AlignedFace;

    fn search(
        &mut self,
        tile: &Pixels,
        layers_max: Option<u32>,
        score_min: f32,
    ) -> Result<Vec<(Rect, f32)>, EngineError> {
        Ok(self.detector.search(tile, layers_max, score_min)?)
    }

    fn open(&mut self, pixels: &Pixels) -> ImageMatrix {
        ffi::matrix(pixels)
    }

    fn align(&mut self, pixels: &Pixels, picture: &ImageMatrix, rect: Rect) -> Result<(AlignedFace, f32), EngineError> {
        let rect = Rectangle {
            left: rect.left.into(),
            top: rect.top.into(),
            right: rect.right.into(),
            bottom: rect.bottom.into(),
        };
        let landmarks = self.predictor.face_landmarks(picture, &rect);
        let points: Vec<[i64; 2]> = landmarks.iter().map(|point| [point.x(), point.y()]).collect();
        let points: [[i64; 2]; LANDMARKS] =
            points.try_into().map_err(|points: Vec<_>| EngineError::Landmarks(points.len()))?;
        let chip = ffi::chip(pixels, &points)?;
        let sharpness = sharpness(&chip);
        Ok((AlignedFace { landmarks, chip, tilt: tilt(&points) }, sharpness))
    }

    fn look_again(&mut self, pixels: &Pixels, rect: Rect, face: &AlignedFace) -> Result<f32, EngineError> {
        let straight = self.detector.score(pixels, rect, 0.0)?;
        let upright = self.detector.score(pixels, rect, face.tilt)?;
        Ok((straight + upright) / 2.0)
    }

    fn encode(&mut self, picture: &ImageMatrix, face: &AlignedFace) -> Result<Vec<f32>, EngineError> {
        match &mut self.network {
            Network::BuiltIn(encoder) => Ok(encoder.encode(&face.chip.rgb).to_vec()),
            Network::Dlib(network) => {
                // Without jitter: it draws from a global generator.
                let encodings = network.get_face_encodings(picture, std::slice::from_ref(&face.landmarks), 0);
                let narrowed = |encoding: &FaceEncoding| encoding.as_ref().iter().map(|v| *v as f32).collect();
                Ok(encodings.first().map(narrowed).unwrap_or_default())
            }
        }
    }
}

/// The angle of the line from one eye to the other: the first four landmarks are the corners of the two.
fn tilt(points: &[[i64; 2]; LANDMARKS]) -> f64 {
    let [right, left] = [0, 2].map(|at: usize| {
        let [a, b] = [points[at], points[at + 1]];
        [a[0] + b[0], a[1] + b[1]].map(|sum| sum as f64)
    });
    (right[1] - left[1]).atan2(right[0] - left[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decoder_is_named_with_the_version_that_is_built_in() {
        let manifest = include_str!("../../picture/Cargo.toml");
        assert!(manifest.contains(&format!("\nzune-jpeg = \"{JPEG_DECODER}\"\n")), "{manifest}");
    }
}
