//! The model files: found, checked against their sums, and only then opened.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use microlambda_encoder::ModelFault;
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
    #[error("model {} has the sha256 {actual:.12}…, but {expected:.12}… is expected: the file is damaged or another version; remove it and run `make models`", path.display())]
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
    /// The right file, but our encoder does not understand it.
    #[error("model {} has the right sha256, but {why}; this is a fault of face-worker: report it, and choose `--engine dlib`", path.display())]
    NotUnderstood {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: ModelFault,
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
            Ok(sum) => self.expect(sum, path),
            Err(source) => Err(ModelError::Unreadable { path, source }),
        }
    }

    /// The file's bytes, whose sum is right.
    ///
    /// # Errors
    /// As [`Model::checked`].
    pub fn read(&self, directory: &Path) -> Result<Vec<u8>, ModelError> {
        let path = directory.join(self.file);
        match std::fs::read(&path) {
            Ok(bytes) => self.expect(hexadecimal(&Sha256::digest(&bytes)), path).map(|_| bytes),
            Err(source) => Err(ModelError::Unreadable { path, source }),
        }
    }

    fn expect(&self, actual: String, path: PathBuf) -> Result<PathBuf, ModelError> {
        if actual == self.sha256 { Ok(path) } else { Err(ModelError::WrongSum { path, expected: self.sha256, actual }) }
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
    Ok(hexadecimal(&hash.finalize()))
}

fn hexadecimal(sum: &[u8]) -> String {
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}
