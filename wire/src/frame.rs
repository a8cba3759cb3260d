//! A frame is a bare JPEG; what we know of it stands in an APP11 segment right behind the start marker.
//!
//! JPEG (ITU-T T.81, B.2.4.6) lets applications add `APPn` segments of at most 65,533 bytes that every decoder skips.

use microlambda::Digest;
use serde::{Deserialize, Serialize};

use crate::{Areas, LABEL_BYTES_MAX, Name, Record, SEQUENCE_MAX, TIME_MS_MAX};

/// No metadata segment is longer, bytes.
pub const META_BYTES_MAX: usize = 2_048;
/// APP11: free for applications; APP0 to APP2 hold JFIF, EXIF and ICC profiles.
const MARKER: [u8; 2] = [0xff, 0xeb];
/// Tells our segment from others of the same marker.
const SIGNATURE: &[u8] = b"microlambda\0";
const START_OF_IMAGE: [u8; 2] = [0xff, 0xd8];

/// What a frame carries about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrameMeta {
    /// Format version, 1.
    pub v: u32,
    /// The camera.
    pub camera: Name,
    /// The camera's boot id.
    pub boot: Name,
    /// The chain.
    pub chain: Name,
    /// Its number in the chain.
    pub sequence: u64,
    /// When it was taken, ms since 1970.
    pub captured_at_ms: u64,
    /// SHA-256 of the JPEG without this segment.
    pub digest: Digest,
    /// Where it came from, for people: a file's name, or empty; at most 200 bytes.
    #[serde(default)]
    pub label: String,
    /// Of a live camera: where something moved since the frames before; absent if the whole picture is to be searched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<Areas>,
}

impl FrameMeta {
    /// The record that the frame carries.
    pub fn into_record(self) -> Record {
        Record::Frame { captured_at_ms: self.captured_at_ms, digest: self.digest, label: self.label, moved: self.moved }
    }
}

/// The bytes are not a frame of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// No JPEG start marker.
    #[error("not a JPEG picture")]
    NotJpeg,
    /// A JPEG, but without our segment at its place.
    #[error("a JPEG picture without MicroLambda's metadata segment")]
    NoMeta,
    /// The segment cannot be read.
    #[error("the metadata segment is malformed: {0}")]
    Malformed(String),
    /// The picture is not the one the segment speaks of.
    #[error("the picture does not have the digest that its metadata names")]
    WrongDigest,
}

/// Puts `meta` into `jpeg` and returns the frame to publish.
///
/// # Errors
/// [`FrameError::NotJpeg`], or [`FrameError::Malformed`] if the metadata exceeds [`META_BYTES_MAX`].
pub fn write_frame_meta(jpeg: &[u8], meta: &FrameMeta) -> Result<Vec<u8>, FrameError> {
    let picture = jpeg.strip_prefix(&START_OF_IMAGE).ok_or(FrameError::NotJpeg)?;
    let json = serde_json::to_vec(meta).map_err(|e| FrameError::Malformed(e.to_string()))?;
    let segment_bytes = 2 + SIGNATURE.len() + json.len();
    if segment_bytes > META_BYTES_MAX {
        return Err(FrameError::Malformed(format!("{segment_bytes} bytes, at most {META_BYTES_MAX}")));
    }
    let length = u16::try_from(segment_bytes).map_err(|e| FrameError::Malformed(e.to_string()))?;
    let mut frame = Vec::with_capacity(jpeg.len() + 2 + segment_bytes);
    frame.extend(START_OF_IMAGE);
    frame.extend(MARKER);
    frame.extend(length.to_be_bytes());
    frame.extend(SIGNATURE);
    frame.extend(json);
    frame.extend(picture);
    Ok(frame)
}

/// Reads the metadata of a frame, without checking the picture.
///
/// # Errors
/// [`FrameError`] says what is wrong.
pub fn read_frame_meta(frame: &[u8]) -> Result<FrameMeta, FrameError> {
    split(frame).map(|(meta, _)| meta)
}

/// Reads the metadata and gives back the picture as it was before [`write_frame_meta`], checked against its digest.
///
/// # Errors
/// [`FrameError`] says what is wrong.
pub fn strip_frame_meta(frame: &[u8]) -> Result<(FrameMeta, Vec<u8>), FrameError> {
    let (meta, rest) = split(frame)?;
    let mut jpeg = Vec::with_capacity(rest.len() + 2);
    jpeg.extend(START_OF_IMAGE);
    jpeg.extend(rest);
    if Digest::of(&jpeg) != meta.digest {
        return Err(FrameError::WrongDigest);
    }
    Ok((meta, jpeg))
}

/// Metadata, and the picture behind it without its start marker.
fn split(frame: &[u8]) -> Result<(FrameMeta, &[u8]), FrameError> {
    let rest = frame.strip_prefix(&START_OF_IMAGE).ok_or(FrameError::NotJpeg)?;
    let rest = rest.strip_prefix(&MARKER).ok_or(FrameError::NoMeta)?;
    let (length, rest) = rest.split_first_chunk::<2>().ok_or(FrameError::NoMeta)?;
    let segment_bytes = usize::from(u16::from_be_bytes(*length));
    if !(2 + SIGNATURE.len()..=META_BYTES_MAX).contains(&segment_bytes) || rest.len() < segment_bytes - 2 {
        return Err(FrameError::NoMeta);
    }
    let (segment, picture) = rest.split_at(segment_bytes - 2);
    let json = segment.strip_prefix(SIGNATURE).ok_or(FrameError::NoMeta)?;
    let meta: FrameMeta = serde_json::from_slice(json).map_err(|e| FrameError::Malformed(e.to_string()))?;
    let bounded =
        meta.label.len() <= LABEL_BYTES_MAX && meta.sequence < SEQUENCE_MAX && meta.captured_at_ms <= TIME_MS_MAX;
    if meta.v != 1 || !bounded {
        return Err(FrameError::Malformed(format!("version {}, label, number or time out of bounds", meta.v)));
    }
    Ok((meta, picture))
}
