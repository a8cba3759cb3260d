//! dlib's face recognition network, computed for one aligned face at a time.
//!
//! This crate owns one network, `dlib_face_recognition_resnet_model_v1`, from the bytes of dlib's own model file and the
//! pixels of a chip to 128 numbers that dlib computes as well, except for the last bits. It owns no files, no threads and no
//! search for faces, and accepts no other network. What it gives is a function of its arguments, and the same bits on
//! every processor that fuses multiplication and addition; see [`Kernel`].
//!
//! ```no_run
//! use microlambda_encoder::{CHIP_BYTES, Encoder};
//!
//! let model = std::fs::read("dlib_face_recognition_resnet_model_v1.dat")?;
//! let mut encoder = Encoder::read(&model)?;
//! // 150 × 150 packed RGB, cut and turned by the landmarks.
//! let chip = [0; CHIP_BYTES];
//! let encoding = encoder.encode(&chip);
//! assert_eq!(encoding.len(), 128);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod archive;
mod conv;
mod encoder;
mod grid;
mod model;
mod simd;
#[cfg(test)]
mod testing;

pub use encoder::{CHIP_BYTES, Encoder};
pub use model::{CHIP_SIDE_PX, ENCODING_LEN};
pub use simd::Kernel;

/// The bytes are not the network that this crate computes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at_byte} of the model, {expected} is expected: the file is damaged, or holds another network")]
pub struct ModelFault {
    /// Where reading ended.
    pub at_byte: usize,
    /// What should be there.
    pub expected: String,
}
