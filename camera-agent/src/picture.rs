//! From what a source gives to the JPEG that is spooled: untouched where possible, re-encoded where it must be.

mod fit;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};
use microlambda_picture::{decode_jpeg, jpeg_decode_bytes, jpeg_is_cut_short, on_white};

use self::fit::{encode, encode_to_fit};
use crate::jpeg;

/// A side shorter than this shows no face, pixels.
pub const SIDE_PIXELS_MIN: u32 = 16;
/// Memory that decoding a picture here may take, bytes.
pub const DECODE_BYTES_MAX: u64 = 300_000_000;
/// No picture has more pixels, whether it is decoded here or passes as it is: what an ordinary JPEG has in that memory.
/// Nodes decode no larger ones either.
pub const PIXELS_LIMIT: u64 = DECODE_BYTES_MAX / RGB_BYTES;
/// Every board has the memory for a picture whose preparation takes at most so much, bytes: an ordinary JPEG of 16
/// megapixels.
pub const ORDINARY_BYTES_MAX: u64 = 64 << 20;
/// A pixel in memory, bytes.
const RGB_BYTES: u64 = 3;
/// A pixel with its alpha value, bytes.
const RGBA_BYTES: u64 = 4;
/// The longer side of the picture for dashboards, pixels.
const SMALL_SIDE_PIXELS: u32 = 640;
/// Quality of the picture for dashboards.
const SMALL_QUALITY: u8 = 75;

/// Held while a picture is in memory with its pixels: two large ones would not find room on a small computer.
static DECODING: Mutex<()> = Mutex::new(());

/// What a frame may be at most. A picture beyond it is made smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameBounds {
    /// Length of the file, bytes.
    pub bytes_max: usize,
    /// Width times height, pixels: a node decodes a frame within one unit of work.
    pub pixels_max: u64,
}

/// Pixels as a source gives them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Picture {
    /// A JPEG or PNG file, as it is.
    File(Vec<u8>),
    /// Packed RGB, 3 bytes a pixel, row by row.
    Rgb {
        /// Width, pixels.
        width: u32,
        /// Height, pixels.
        height: u32,
        /// Red, green and blue of each pixel: `width × height × 3` bytes.
        pixels: Vec<u8>,
    },
}

/// A JPEG ready for the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The whole JPEG file.
    pub jpeg: Vec<u8>,
    /// True if these are not the source's own bytes.
    pub reencoded: bool,
    /// True if its pixels stand elsewhere than in the source's picture: it was scaled down, or turned upright.
    pub reshaped: bool,
}

/// Why a picture is passed over; each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// The file has no bytes.
    #[error("it is empty: copy it again from where it came")]
    Empty,
    /// Neither JPEG nor PNG.
    #[error("it is neither a JPEG nor a PNG: convert it to JPEG")]
    UnknownFormat,
    /// The header is cut or damaged.
    #[error("its header is cut off or damaged: copy it again from where it came")]
    BadHeader,
    /// The end is missing.
    #[error("it is cut short, its end is missing: copy it again from where it came, or check the camera's cable")]
    CutShort,
    /// The picture has too few pixels to show a face.
    #[error("{width}×{height} pixels are too few to show anything: at least {SIDE_PIXELS_MIN} a side")]
    TooSmall {
        /// Width, pixels.
        width: u32,
        /// Height, pixels.
        height: u32,
    },
    /// The picture has more pixels than are taken.
    #[error("{width}×{height} pixels are too many: scale it down to at most {} megapixels{hint}", pixels_max / 1_000_000)]
    TooLarge {
        /// Width, pixels.
        width: u32,
        /// Height, pixels.
        height: u32,
        /// The bound that was exceeded, pixels.
        pixels_max: u64,
        /// Another way out, to stand behind the remedy; or empty.
        hint: &'static str,
    },
    /// The decoder gave up.
    #[error("it cannot be decoded ({0}): copy it again, or convert it to JPEG")]
    Undecodable(String),
    /// It cannot be made small enough.
    #[error("it does not fit into {bytes_max} bytes: raise bytes-max in [frame]")]
    CannotFit {
        /// The bound that was not reached, bytes.
        bytes_max: usize,
    },
}

/// Makes a JPEG within `bounds`. A JPEG that is within them keeps its bytes; missing Huffman tables are added.
///
/// # Errors
/// [`PictureError`]: this can be no frame, whoever tries.
pub fn prepare(picture: Picture, bounds: FrameBounds) -> Result<Prepared, PictureError> {
    surviving(|| prepare_any(picture, bounds))
}

/// Memory that [`prepare`] takes for a picture, bytes, as its header says: 0 for what passes as it is, or is refused by
/// its header.
pub fn prepare_bytes(picture: &Picture, bounds: FrameBounds) -> u64 {
    let bytes = surviving(|| match picture {
        Picture::Rgb { pixels, .. } => Ok(pixels.len() as u64),
        Picture::File(bytes) => match format_of(bytes)? {
            ImageFormat::Jpeg if passes(&jpeg::header(bytes).ok_or(PictureError::BadHeader)?, bytes, bounds) => Ok(0),
            // The file, and a copy of it in the decoder.
            format => open(bytes, format).map(|(_, decode_bytes)| decode_bytes + 2 * bytes.len() as u64),
        },
    });
    bytes.unwrap_or(0)
}

fn prepare_any(picture: Picture, bounds: FrameBounds) -> Result<Prepared, PictureError> {
    match picture {
        Picture::Rgb { width, height, pixels } => {
            check_size(width, height)?;
            let image = RgbImage::from_raw(width, height, pixels).ok_or(PictureError::BadHeader)?;
            let _alone = decoding_alone();
            encode_to_fit(image.into(), Orientation::NoTransforms, bounds)
        }
        Picture::File(bytes) => match format_of(&bytes)? {
            ImageFormat::Jpeg => prepare_jpeg(bytes, bounds),
            format => encode_again(bytes, format, bounds),
        },
    }
}

fn prepare_jpeg(bytes: Vec<u8>, bounds: FrameBounds) -> Result<Prepared, PictureError> {
    let header = jpeg::header(&bytes).ok_or(PictureError::BadHeader)?;
    check_size(header.width_px, header.height_px)?;
    if jpeg_is_cut_short(&bytes) {
        return Err(PictureError::CutShort);
    }
    let bytes = jpeg::with_huffman_tables(bytes);
    if passes(&header, &bytes, bounds) {
        return Ok(Prepared { jpeg: bytes, reencoded: false, reshaped: false });
    }
    encode_again(bytes, ImageFormat::Jpeg, bounds)
}

fn encode_again(bytes: Vec<u8>, format: ImageFormat, bounds: FrameBounds) -> Result<Prepared, PictureError> {
    let _alone = decoding_alone();
    let (image, orientation) = decode(&bytes, format)?;
    drop(bytes);
    encode_to_fit(image, orientation, bounds)
}

/// Whether a JPEG is a frame as it is.
fn passes(header: &jpeg::Header, bytes: &[u8], bounds: FrameBounds) -> bool {
    bytes.len() <= bounds.bytes_max && u64::from(header.width_px) * u64::from(header.height_px) <= bounds.pixels_max
}

/// JPEG or PNG, as the first bytes say.
fn format_of(bytes: &[u8]) -> Result<ImageFormat, PictureError> {
    match bytes {
        [] => Err(PictureError::Empty),
        [0xff, 0xd8, ..] => Ok(ImageFormat::Jpeg),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Ok(ImageFormat::Png),
        _ => Err(PictureError::UnknownFormat),
    }
}

/// A small JPEG for dashboards, at most 640 pixels on its longer side; `None` if the frame cannot be decoded.
pub fn small(jpeg: &[u8]) -> Option<Vec<u8>> {
    let small = surviving(|| {
        let _alone = decoding_alone();
        let (mut image, orientation) = decode(jpeg, ImageFormat::Jpeg)?;
        if image.width().max(image.height()) > SMALL_SIDE_PIXELS {
            image = image.thumbnail(SMALL_SIDE_PIXELS, SMALL_SIDE_PIXELS);
        }
        image.apply_orientation(orientation);
        encode(&flat(image), SMALL_QUALITY)
    });
    small.ok()
}

/// Waits until no other thread has a picture in memory.
fn decoding_alone() -> MutexGuard<'static, ()> {
    DECODING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A decoder that panics has met a picture that it cannot decode; it would meet the same one after a restart.
fn surviving<T>(work: impl FnOnce() -> Result<T, PictureError>) -> Result<T, PictureError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(PictureError::Undecodable("the decoder has panicked".into())))
}

fn check_size(width: u32, height: u32) -> Result<(), PictureError> {
    if width.min(height) < SIDE_PIXELS_MIN {
        Err(PictureError::TooSmall { width, height })
    } else if u64::from(width) * u64::from(height) > PIXELS_LIMIT {
        Err(PictureError::TooLarge { width, height, pixels_max: PIXELS_LIMIT, hint: "" })
    } else {
        Ok(())
    }
}

/// A decoder that has read the header, and the memory that decoding will take beside the file, bytes: within its bound.
fn open(bytes: &[u8], format: ImageFormat) -> Result<(impl ImageDecoder, u64), PictureError> {
    let mut reader = ImageReader::with_format(std::io::Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(DECODE_BYTES_MAX);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|_| PictureError::BadHeader)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height)?;
    let pixels = u64::from(width) * u64::from(height);
    let (decode_bytes, hint) = if format == ImageFormat::Jpeg {
        (
            jpeg_decode_bytes(bytes).ok_or(PictureError::BadHeader)?,
            ", or save it as an ordinary JPEG, not a progressive one",
        )
    } else {
        (decoder.total_bytes() + flat_pixel_bytes(decoder.color_type()) * pixels, ", or convert it to JPEG")
    };
    if decode_bytes > DECODE_BYTES_MAX {
        let pixels_max = DECODE_BYTES_MAX * pixels / decode_bytes;
        return Err(PictureError::TooLarge { width, height, pixels_max, hint });
    }
    Ok((decoder, decode_bytes))
}

/// The pixels, and how they are to be turned: what is encoded again has no EXIF to say so.
fn decode(bytes: &[u8], format: ImageFormat) -> Result<(DynamicImage, Orientation), PictureError> {
    let (mut decoder, _) = open(bytes, format)?;
    // A picture whose EXIF is damaged is shown as it is.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let image = if format == ImageFormat::Jpeg {
        drop(decoder);
        decode_jpeg(bytes).map_err(undecodable)?
    } else {
        DynamicImage::from_decoder(decoder).map_err(undecodable)?
    };
    Ok((image, orientation))
}

fn undecodable(error: impl std::fmt::Display) -> PictureError {
    PictureError::Undecodable(error.to_string())
}

/// Gray or RGB with 8 bits a value, as a JPEG has them. Transparent pixels are shown on white, as people see such pictures.
fn flat(image: DynamicImage) -> DynamicImage {
    match image {
        DynamicImage::ImageLuma8(_) | DynamicImage::ImageRgb8(_) => image,
        image if image.color().has_alpha() => on_white(image.into_rgba8()).into(),
        image => image.into_rgb8().into(),
    }
}

/// What [`flat`] takes for a pixel beside the picture that it is given, bytes.
fn flat_pixel_bytes(color: ColorType) -> u64 {
    match color {
        ColorType::L8 | ColorType::Rgb8 | ColorType::Rgba8 => 0,
        color if color.has_alpha() => RGBA_BYTES,
        _ => RGB_BYTES,
    }
}

#[cfg(test)]
mod tests;
