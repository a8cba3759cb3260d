//! A frame's bytes as pixels: bounded before anything is allocated, upright, and halved as the plan says.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use microlambda_faces::plan::halved;
use microlambda_picture::{decode_jpeg, jpeg_is_cut_short, on_white};

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
    #[error("neither JPEG nor PNG; convert it to one of the two")]
    NotAPicture,
    /// No bytes.
    #[error("it is empty; copy the file again")]
    Empty,
    /// A picture, of a kind that is not read.
    #[error("{kind}, and only JPEG and PNG are read; convert it to one of the two")]
    OtherKind {
        /// Which.
        kind: String,
    },
    /// More pixels than the worker decodes.
    #[error("{width_px}×{height_px} is above the bound of 100 megapixels; scale it down before sending")]
    TooLarge {
        /// Columns.
        width_px: u32,
        /// Rows.
        height_px: u32,
    },
    /// A JPEG without its end.
    #[error("it is cut short, its end is missing; copy the file again, or check the camera's cable")]
    CutShort,
    /// Damaged, or of a kind that the decoder does not know.
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
    /// Whether the picture as stored is not upright.
    pub is_turned: bool,
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
    let is_turned = orientation != Orientation::NoTransforms;
    let upright = match orientation {
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH => {
            Header { width_px: height_px, height_px: width_px, is_turned }
        }
        Orientation::NoTransforms
        | Orientation::Rotate180
        | Orientation::FlipHorizontal
        | Orientation::FlipVertical => Header { width_px, height_px, is_turned },
    };
    Ok(upright)
}

/// Decodes a picture and turns it upright as its EXIF orientation says.
///
/// # Errors
/// As [`header`], and if the pixels are damaged or cut short.
pub fn decode(bytes: &[u8]) -> Result<Pixels, PictureError> {
    if jpeg_is_cut_short(bytes) {
        return Err(PictureError::CutShort);
    }
    let (decoder, orientation) = decoder(bytes)?;
    let mut picture = if image::guess_format(bytes).is_ok_and(|format| format == ImageFormat::Jpeg) {
        drop(decoder);
        decode_jpeg(bytes).map_err(damaged)?
    } else {
        DynamicImage::from_decoder(decoder).map_err(damaged)?
    };
    picture.apply_orientation(orientation);
    let rgb = if picture.color().has_alpha() { on_white(picture.into_rgba8()) } else { picture.into_rgb8() };
    let (width_px, height_px) = rgb.dimensions();
    Pixels::new(width_px, height_px, rgb.into_raw()).ok_or(PictureError::NotAPicture)
}

fn decoder(bytes: &[u8]) -> Result<(impl ImageDecoder, Orientation), PictureError> {
    if bytes.is_empty() {
        return Err(PictureError::Empty);
    }
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|_| PictureError::NotAPicture)?;
    match reader.format() {
        Some(ImageFormat::Jpeg | ImageFormat::Png) => {}
        Some(other) => return Err(PictureError::OtherKind { kind: format!("it is a {other:?} picture") }),
        None => return Err(PictureError::NotAPicture),
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

fn damaged(error: impl std::fmt::Display) -> PictureError {
    // Some of the decoder's messages end with a line break, or have one in them.
    PictureError::Damaged { why: error.to_string().split_whitespace().collect::<Vec<_>>().join(" ") }
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

    /// The coarsest level.
    pub fn coarsest(&self) -> Option<&Pixels> {
        self.levels.last()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::codecs::jpeg::JpegEncoder;
    use image::{ImageEncoder, RgbImage, RgbaImage};

    use super::*;

    fn pixels(width_px: u32, height_px: u32, rgb: &[u8]) -> Pixels {
        Pixels::new(width_px, height_px, rgb.to_vec()).expect("three bytes a pixel")
    }

    /// A JPEG that is bright on its left half, with an EXIF orientation.
    fn jpeg(width: u32, height: u32, orientation: u8) -> Vec<u8> {
        let picture = RgbImage::from_fn(width, height, |x, _| image::Rgb([if x < width / 2 { 250 } else { 5 }; 3]));
        let mut exif = b"II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
        exif.extend_from_slice(&[orientation, 0, 0, 0, 0, 0, 0, 0]);
        let mut bytes = Vec::new();
        let mut encoder = JpegEncoder::new_with_quality(&mut bytes, 95);
        encoder.set_exif_metadata(exif).expect("EXIF fits");
        encoder.write_image(picture.as_raw(), width, height, image::ExtendedColorType::Rgb8).expect("a JPEG");
        bytes
    }

    /// A PNG header that promises a size, without the pixels.
    fn png_header(width: u32, height: u32) -> Vec<u8> {
        let mut png = Cursor::new(Vec::new());
        RgbImage::new(1, 1).write_to(&mut png, ImageFormat::Png).expect("a PNG");
        let mut bytes = png.into_inner();
        bytes[16..20].copy_from_slice(&width.to_be_bytes());
        bytes[20..24].copy_from_slice(&height.to_be_bytes());
        let sum = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)))
        })
    }

    #[test]
    fn half_is_the_rounded_mean_of_four_and_leaves_an_odd_row_out() {
        let picture = pixels(2, 3, &[0, 1, 2, 4, 5, 6, 8, 9, 10, 13, 15, 16, 99, 99, 99, 99, 99, 99]);
        assert_eq!(picture.half(), pixels(1, 1, &[6, 8, 9]));
    }

    #[test]
    fn half_of_a_single_row_or_pixel_stays_one() {
        assert_eq!(pixels(2, 1, &[0, 0, 0, 10, 10, 10]).half(), pixels(1, 1, &[5, 5, 5]));
        assert_eq!(pixels(1, 1, &[7, 8, 9]).half(), pixels(1, 1, &[7, 8, 9]));
    }

    #[test]
    fn pixels_have_three_bytes_each_and_a_crop_lies_inside() {
        assert_eq!(Pixels::new(2, 2, vec![0; 11]), None);
        assert_eq!(Pixels::new(0, 2, vec![]), None);
        let picture = pixels(2, 2, &[1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]);
        assert_eq!(picture.crop(1, 0, 1, 2), Some(pixels(1, 2, &[2, 2, 2, 4, 4, 4])));
        assert_eq!(picture.crop(1, 1, 2, 1), None);
        assert_eq!(picture.crop(u32::MAX, 0, 2, 1), None);
    }

    #[test]
    fn a_picture_is_turned_upright_as_its_exif_says() {
        let plain = decode(&jpeg(64, 32, 1)).expect("decodes");
        assert_eq!((plain.width_px(), plain.height_px()), (64, 32));
        assert!(plain.rgb()[0] > 200);
        // 6: the camera was turned clockwise, so that the left side belongs on top.
        let turned = jpeg(64, 32, 6);
        let upright = decode(&turned).expect("decodes");
        assert_eq!((upright.width_px(), upright.height_px()), (32, 64));
        assert_eq!(header(&turned), Ok(Header { width_px: 32, height_px: 64, is_turned: true }));
        let below = upright.rgb().len() - 3;
        assert!(upright.rgb()[0] > 200 && upright.rgb()[below] < 50);
        let mirrored = decode(&jpeg(64, 32, 2)).expect("decodes");
        assert!(mirrored.rgb()[0] < 50);
    }

    #[test]
    fn a_picture_above_the_bound_is_refused_by_its_header_alone() {
        let bytes = png_header(20_000, 20_000);
        let error = PictureError::TooLarge { width_px: 20_000, height_px: 20_000 };
        assert_eq!(header(&bytes), Err(error.clone()));
        assert_eq!(decode(&bytes), Err(error));
        let long = png_header(70_000, 1);
        assert_eq!(header(&long), Err(PictureError::TooLarge { width_px: 70_000, height_px: 1 }));
    }

    #[test]
    fn a_picture_of_fifty_megapixels_is_decoded_and_searched_at_half_its_size() {
        let mut png = Cursor::new(Vec::new());
        image::GrayImage::new(10_000, 5_000).write_to(&mut png, ImageFormat::Png).expect("a PNG");
        let picture = decode(png.get_ref()).expect("decodes");
        assert_eq!((picture.width_px(), picture.height_px()), (10_000, 5_000));
        let pyramid = Pyramid::new(picture, 1, 3);
        assert_eq!(pyramid.finest().map(|level| (level.width_px(), level.height_px())), Some((5_000, 2_500)));
        assert_eq!(pyramid.level(3).map(|level| (level.width_px(), level.height_px())), Some((1_250, 625)));
        assert_eq!(pyramid.level(0), None);
        assert_eq!(pyramid.level(4), None);
    }

    #[test]
    fn what_is_no_picture_or_is_cut_short_is_refused_with_a_reason() {
        assert_eq!(header(b"hello"), Err(PictureError::NotAPicture));
        assert_eq!(header(b""), Err(PictureError::Empty));
        let gif = header(b"GIF89a\x01\0\x01\0\0\0\0").expect_err("of a kind that is not compiled in").to_string();
        assert!(gif.contains("Gif") && gif.contains("convert it"), "{gif}");
        let whole = jpeg(64, 32, 1);
        assert!(matches!(header(&whole[..60]), Err(PictureError::Damaged { .. })));
        // What the decoder fills with grey is not what the camera saw.
        for length in [60, whole.len() * 2 / 3, whole.len() - 1] {
            assert_eq!(decode(&whole[..length]), Err(PictureError::CutShort));
        }
        // Nor what lies behind data that was lost on the way.
        let lost = [&whole[..whole.len() - 8], &[0xff, 0xd9]].concat();
        assert!(matches!(decode(&lost), Err(PictureError::Damaged { .. })));
        let mut more = whole.clone();
        more.extend_from_slice(b"a second picture, as some phones append one");
        assert_eq!(decode(&more), decode(&whole));
    }

    #[test]
    fn what_a_picture_lets_through_is_white() {
        let mut png = Cursor::new(Vec::new());
        let pixels = [[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 255, 128]];
        let picture = RgbaImage::from_fn(3, 1, |x, _| image::Rgba(pixels[x as usize]));
        picture.write_to(&mut png, ImageFormat::Png).expect("a PNG");
        let decoded = decode(png.get_ref()).expect("decodes");
        assert_eq!(decoded.rgb(), [10, 20, 30, 255, 255, 255, 127, 177, 255]);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic() {
        let whole = jpeg(40, 24, 1);
        // Each damage is a function of its number; whatever comes out, the process goes on.
        for damage in 0..2_000usize {
            let mut bytes = whole.clone();
            let at = damage * 7_919 % bytes.len();
            bytes[at] = bytes[at].wrapping_add((damage % 255) as u8 + 1);
            bytes.truncate(if damage % 3 == 0 { bytes.len() * (damage % 97) / 97 } else { bytes.len() });
            if let Ok(picture) = decode(&bytes) {
                let size = u64::from(picture.width_px()) * u64::from(picture.height_px());
                assert_eq!(picture.rgb().len() as u64, size * 3);
            }
        }
    }
}
