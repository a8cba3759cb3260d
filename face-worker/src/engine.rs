//! What the face lambda asks of an engine, and dlib as that engine.

use std::path::Path;

use dlib_face_recognition::{
    FaceEncoderNetwork, FaceEncoderTrait, FaceLandmarks, ImageMatrix, LandmarkPredictor, LandmarkPredictorTrait,
    Rectangle,
};
use microlambda_faces::Rect;

use crate::ffi::{self, Detector, DlibError, LANDMARKS};
use crate::models::{ENCODER_MODEL, LANDMARK_MODEL, ModelError};
use crate::picture::Pixels;
use crate::sharpness::sharpness;

/// The heavy parts of an analysis; pure functions of the pixels.
pub trait Engine {
    /// A picture as the engine wants it for several faces.
    type Picture;
    /// Where a face's eyes and nose are.
    type Landmarks;

    /// Faces in a tile, in its own coordinates, with scores of at least `score_min`.
    ///
    /// # Errors
    /// If the engine failed, out of memory for example; the same tile may work elsewhere.
    fn search(&mut self, tile: &Pixels, score_min: f32) -> Result<Vec<(Rect, f32)>, EngineError>;

    /// Makes a picture ready for [`Engine::align`] and [`Engine::encode`].
    fn open(&mut self, pixels: &Pixels) -> Self::Picture;

    /// Landmarks and sharpness of the face in a box that lies inside the picture.
    ///
    /// # Errors
    /// As [`Engine::search`].
    fn align(
        &mut self,
        pixels: &Pixels,
        picture: &Self::Picture,
        rect: Rect,
    ) -> Result<(Self::Landmarks, f32), EngineError>;

    /// The encoding of an aligned face; its length and values are checked by the caller.
    ///
    /// # Errors
    /// As [`Engine::search`].
    fn encode(&mut self, picture: &Self::Picture, landmarks: &Self::Landmarks) -> Result<Vec<f32>, EngineError>;
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

/// dlib with its HOG detector, 5-point landmarks and the ResNet encoder.
pub struct Dlib {
    detector: Detector,
    predictor: LandmarkPredictor,
    encoder: FaceEncoderNetwork,
}

impl Dlib {
    /// Checks and loads the models.
    ///
    /// # Errors
    /// If a model is missing, damaged, or another than expected, or the detector cannot be built.
    pub fn load(models: &Path) -> Result<Self, LoadError> {
        let landmarks = LANDMARK_MODEL.checked(models)?;
        let encoder = ENCODER_MODEL.checked(models)?;
        Ok(Self {
            detector: Detector::new()?,
            predictor: LandmarkPredictor::open(&landmarks)
                .map_err(|why| ModelError::NotOpened { path: landmarks, why })?,
            encoder: FaceEncoderNetwork::open(&encoder).map_err(|why| ModelError::NotOpened { path: encoder, why })?,
        })
    }

    /// Decoder, detector, kernel and models: encodings of equal engines are equal bit by bit.
    pub fn describe() -> String {
        let (kernel, _) = ffi::blas();
        format!(
            "image {}, dlib {} hog-2x {} {}, openblas {kernel}, {}",
            "0.25",
            ffi::dlib_version(),
            &LANDMARK_MODEL.sha256[..8],
            &ENCODER_MODEL.sha256[..8],
            std::env::consts::ARCH,
        )
    }
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
}

impl Engine for Dlib {
    type Picture = ImageMatrix;
    type Landmarks = FaceLandmarks;

    fn search(&mut self, tile: &Pixels, score_min: f32) -> Result<Vec<(Rect, f32)>, EngineError> {
        Ok(self.detector.search(tile, score_min)?)
    }

    fn open(&mut self, pixels: &Pixels) -> ImageMatrix {
        ffi::matrix(pixels)
    }

    fn align(
        &mut self,
        pixels: &Pixels,
        picture: &ImageMatrix,
        rect: Rect,
    ) -> Result<(FaceLandmarks, f32), EngineError> {
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
        Ok((landmarks, sharpness(&chip)))
    }

    fn encode(&mut self, picture: &ImageMatrix, landmarks: &FaceLandmarks) -> Result<Vec<f32>, EngineError> {
        // Without jitter: it draws from a global generator.
        let encodings = self.encoder.get_face_encodings(picture, std::slice::from_ref(landmarks), 0);
        Ok(encodings.first().map(|encoding| encoding.as_ref().iter().map(|v| *v as f32).collect()).unwrap_or_default())
    }
}
