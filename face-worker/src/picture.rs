//! A frame's bytes as pixels: bounded before anything is allocated, upright, and halved as the plan says.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};
use microlambda_faces::plan::halved;

/// Pictures of more pixels than this are refused before they are decoded.
pub const DECODE_PX_MAX: u64 = 100_000_000;
/// No side may be longer, px.
pub const SIDE_PX_MAX: u32 = 65_535;
/// What the decoder may allocate beside its output, bytes; the process's own memory limit lies above it.
const DECODER_BYTES_MAX: u64 = 512 << 20;

/// Why a picture cannot be read; ends up as the reason in the analysis.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// Not a JPEG or PNG file at all.
    #[error("neither JPEG nor PNG; send one of the two")]
    NotAPicture,
    /// More pixels than the worker decodes.
    #[error("{width_px}×{height_px} is above the bound of 100 megapixels; scale it down before sending")]
    TooLarge {
        /// Columns.
        width_px: u32,
        /// Rows.
        height_px: u32,
    },
    /// Damaged or truncated, or of a kind that the decoder does not know.
    #[error("cannot be decoded ({why}); check the file or the camera's cable")]
    Damaged {
        /// What the decoder says.
        why: String,
    },
}

/// Packed RGB pixels, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pixels {
    width_px: u32,
    height_px: u32,
    rgb: Vec<u8>,
}

impl Pixels {
    /// Pixels from packed RGB bytes; `None` if there are not exactly three bytes a pixel, or no pixel.
    pub fn new(width_px: u32, height_px: u32, rgb: Vec<u8>) -> Option<Self> {
        let bytes = u64::from(width_px) * u64::from(height_px) * 3;
        (bytes > 0 && rgb.len() as u64 == bytes).then_some(Self { width_px, height_px, rgb })
    }

    /// Columns.
    pub fn width_px(&self) -> u32 {
        self.width_px
    }

    /// Rows.
    pub fn height_px(&self) -> u32 {
        self.height_px
    }

    /// Three bytes a pixel, row by row.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// A copy of a part; `None` if it is empty or not inside.
    pub fn crop(&self, left_px: u32, top_px: u32, width_px: u32, height_px: u32) -> Option<Self> {
        if left_px.checked_add(width_px)? > self.width_px || top_px.checked_add(height_px)? > self.height_px {
            return None;
        }
        let mut rgb = Vec::with_capacity(width_px as usize * height_px as usize * 3);
        for row in top_px..top_px + height_px {
            let start = (row as usize * self.width_px as usize + left_px as usize) * 3;
            rgb.extend_from_slice(&self.rgb[start..start + width_px as usize * 3]);
        }
        Self::new(width_px, height_px, rgb)
    }

    /// Half the size: each pixel the rounded mean of four, an odd last column or row left out. Integers only, so that it is
    /// the same everywhere.
    #[must_use]
    pub fn half(&self) -> Self {
        let (width_px, height_px) = (halved(self.width_px), halved(self.height_px));
        let row_bytes = self.width_px as usize * 3;
        let right = if self.width_px > 1 { 3 } else { 0 };
        let below = if self.height_px > 1 { row_bytes } else { 0 };
        let mut rgb = Vec::with_capacity(width_px as usize * height_px as usize * 3);
        for y in 0..height_px as usize {
            for x in 0..width_px as usize {
                let at = 2 * y * row_bytes + 2 * x * 3;
                for channel in at..at + 3 {
                    let sum = u32::from(self.rgb[channel])
                        + u32::from(self.rgb[channel + right])
                        + u32::from(self.rgb[channel + below])
                        + u32::from(self.rgb[channel + right + below]);
                    rgb.push(((sum + 2) / 4) as u8);
                }
            }
        }
        Self { width_px, height_px, rgb }
    }
}

/// What a picture's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Columns of the upright picture.
    pub width_px: u32,
    /// Rows of the upright picture.
    pub height_px: u32,
}

impl Header {
    /// Pixels to decode.
    pub fn pixels(&self) -> u64 {
        u64::from(self.width_px) * u64::from(self.height_px)
    }
}

/// Reads a picture's size without decoding it.
///
/// # Errors
/// If it is no picture, damaged in its header, or larger than [`DECODE_PX_MAX`].
pub fn header(bytes: &[u8]) -> Result<Header, PictureError> {
    let (decoder, orientation) = decoder(bytes)?;
    let (width_px, height_px) = decoder.dimensions();
    let upright = match orientation {
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH => {
            Header { width_px: height_px, height_px: width_px }
        }
        Orientation::NoTransforms | Orientation::Rotate180 | Orientation::FlipHorizontal | Orientation::FlipVertical => {
            Header { width_px, height_px }
        }
    };
    Ok(upright)
}

/// Decodes a picture and turns it upright as its EXIF orientation says.
///
/// # Errors
/// As [`header`], and if the pixels are damaged or cut short.
pub fn decode(bytes: &[u8]) -> Result<Pixels, PictureError> {
    let (decoder, orientation) = decoder(bytes)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    picture.apply_orientation(orientation);
    let rgb = picture.into_rgb8();
    let (width_px, height_px) = rgb.dimensions();
    Pixels::new(width_px, height_px, rgb.into_raw()).ok_or(PictureError::NotAPicture)
}

fn decoder(bytes: &[u8]) -> Result<(impl ImageDecoder, Orientation), PictureError> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|_| PictureError::NotAPicture)?;
    if reader.format().is_none() {
        return Err(PictureError::NotAPicture);
    }
    let mut reader = reader;
    reader.no_limits();
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width_px, height_px) = decoder.dimensions();
    if u64::from(width_px) * u64::from(height_px) > DECODE_PX_MAX || width_px.max(height_px) > SIDE_PX_MAX {
        return Err(PictureError::TooLarge { width_px, height_px });
    }
    let mut limits = Limits::no_limits();
    limits.max_image_width = Some(SIDE_PX_MAX);
    limits.max_image_height = Some(SIDE_PX_MAX);
    limits.max_alloc = Some(DECODER_BYTES_MAX);
    decoder.set_limits(limits).map_err(damaged)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    Ok((decoder, orientation))
}

fn damaged(error: image::ImageError) -> PictureError {
    PictureError::Damaged { why: error.to_string() }
}

/// A picture and its halves, as far as its plan goes.
#[derive(Debug, Clone)]
pub struct Pyramid {
    first_level: u32,
    levels: Vec<Pixels>,
}

impl Pyramid {
    /// Builds the levels `first..=last`; `picture` is level 0.
    pub fn new(picture: Pixels, first: u32, last: u32) -> Self {
        let base = (0..first).fold(picture, |picture, _| picture.half());
        let mut levels = vec![base];
        for _ in first..last {
            let next = levels.last().map(Pixels::half);
            levels.extend(next);
        }
        Self { first_level: first, levels }
    }

    /// A level, if the plan has it.
    pub fn level(&self, level: u32) -> Option<&Pixels> {
        self.levels.get(level.checked_sub(self.first_level)? as usize)
    }

    /// The finest level: what faces are encoded from.
    pub fn finest(&self) -> Option<&Pixels> {
        self.levels.first()
    }
}
