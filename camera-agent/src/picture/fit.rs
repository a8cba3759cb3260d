//! A picture in memory becomes a JPEG within the bounds of a frame.

use image::DynamicImage;
use image::codecs::jpeg::JpegEncoder;
use image::metadata::Orientation;
use microlambda_picture::halved;

use super::{FrameBounds, PictureError, Prepared, SIDE_PIXELS_MIN, flat, undecodable};

/// Qualities tried in turn to fit a bound; then the picture is scaled by 3/4 and they are tried again. The encoder does not
/// subsample colours.
const QUALITIES: [u8; 4] = [95, 85, 75, 60];
/// A file of more than so many times the bound is not brought below it by a lower quality that is worth looking at.
const BYTES_TIMES_MAX: usize = 4;

/// Halves a picture until it has few enough pixels, as a worker does before its search, and turns it upright; lowers
/// quality, then size, until the file is short enough.
pub(super) fn encode_to_fit(
    image: DynamicImage,
    orientation: Orientation,
    bounds: FrameBounds,
) -> Result<Prepared, PictureError> {
    let mut image = flat(image);
    let mut reshaped = orientation != Orientation::NoTransforms;
    // Before it is turned, for that takes the memory of a second picture.
    while u64::from(image.width()) * u64::from(image.height()) > bounds.pixels_max {
        image = halved(image);
        reshaped = true;
    }
    let (width, height) = (image.width(), image.height());
    if width.min(height) < SIDE_PIXELS_MIN {
        return Err(PictureError::TooSmall { width, height });
    }
    image.apply_orientation(orientation);
    loop {
        if let Some(jpeg) = encode_within(&image, bounds.bytes_max)? {
            return Ok(Prepared { jpeg, reencoded: true, reshaped });
        }
        let (width, height) = (image.width() * 3 / 4, image.height() * 3 / 4);
        if width.min(height) < SIDE_PIXELS_MIN {
            return Err(PictureError::CannotFit { bytes_max: bounds.bytes_max });
        }
        // Other filters hold a picture of 16 bytes a pixel in between.
        image = image.thumbnail_exact(width, height);
        reshaped = true;
    }
}

/// The file of the best quality that is short enough; `None` if none is.
fn encode_within(image: &DynamicImage, bytes_max: usize) -> Result<Option<Vec<u8>>, PictureError> {
    for quality in QUALITIES {
        let jpeg = encode(image, quality)?;
        if jpeg.len() <= bytes_max {
            return Ok(Some(jpeg));
        }
        if jpeg.len() > bytes_max.saturating_mul(BYTES_TIMES_MAX) {
            return Ok(None);
        }
    }
    Ok(None)
}

pub(super) fn encode(image: &DynamicImage, quality: u8) -> Result<Vec<u8>, PictureError> {
    let mut jpeg = Vec::new();
    image.write_with_encoder(JpegEncoder::new_with_quality(&mut jpeg, quality)).map_err(undecodable)?;
    Ok(jpeg)
}
