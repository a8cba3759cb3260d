//! The model files: found, checked against their sums, and only then opened.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The 5-point landmark predictor.
pub const LANDMARK_MODEL: Model = Model {
    file: "shape_predictor_5_face_landmarks.dat",
    sha256: "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
};
/// The network that turns an aligned face into 128 numbers.
pub const ENCODER_MODEL: Model = Model {
    file: "dlib_face_recognition_resnet_model_v1.dat",
    sha256: "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
};

/// A model file and the sum it must have: dlib opens about two of five damaged files without noticing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    /// File name inside the models' directory.
    pub file: &'static str,
    /// Hexadecimal sum.
    pub sha256: &'static str,
}

/// A model that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// Not there, or not readable.
    #[error("model {} cannot be read: {source}; fetch it with `make models`, or name its directory with --models", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another file, or a damaged one.
    #[error("model {} has the sha256 {actual}, but {expected} is expected: the file is damaged or another version; remove it and run `make models`", path.display())]
    WrongSum {
        /// Which file.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        actual: String,
    },
    /// The right file, but dlib does not open it.
    #[error("model {} has the right sha256 but dlib cannot open it: {why}; check that the installed libdlib is 19.24 or later", path.display())]
    NotOpened {
        /// Which file.
        path: PathBuf,
        /// What the library says.
        why: String,
    },
}

impl Model {
    /// The file's path, once its sum is known to be right.
    ///
    /// # Errors
    /// If it cannot be read or is not the expected file.
    pub fn checked(&self, directory: &Path) -> Result<PathBuf, ModelError> {
        let path = directory.join(self.file);
        match sha256_of(&path) {
            Ok(actual) if actual == self.sha256 => Ok(path),
            Ok(actual) => Err(ModelError::WrongSum { path, expected: self.sha256, actual }),
            Err(source) => Err(ModelError::Unreadable { path, source }),
        }
    }
}

/// The sum of a file, read in pieces: the models would otherwise stay in the process's heap.
fn sha256_of(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 16];
    loop {
        let read_bytes = file.read(&mut piece)?;
        if read_bytes == 0 {
            break;
        }
        hash.update(&piece[..read_bytes]);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
