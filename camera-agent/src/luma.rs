//! A picture as a coarse grid of brightness: all that is needed to see whether something moved.

use crate::jpeg;
use crate::picture::Picture;

/// Side of a cell, pixels: a face of 40 touches four to sixteen, and the noise of 256 pixels is averaged.
pub const CELL_PIXELS: u32 = 16;
/// A block of JPEG, pixels: its mean is stored by itself, so that nothing finer need be computed.
const BLOCK_PIXELS: u32 = 8;
/// A JPEG of more pixels is not seen: that would take longer than a camera's next picture.
const SEEN_PIXELS_MAX: u64 = 24_000_000;

/// Means of brightness, 0 to 255, of square cells; those at the right and lower edge may be cut.
#[derive(Debug, Clone, PartialEq)]
pub struct Cells {
    columns: usize,
    means: Vec<f32>,
}

impl Cells {
    /// Cells row by row; `None` unless the rows are whole and there is one.
    pub fn new(columns: usize, means: Vec<f32>) -> Option<Self> {
        (columns > 0 && !means.is_empty() && means.len().is_multiple_of(columns)).then_some(Self { columns, means })
    }

    /// Of a picture as its source gives it; `None` if it cannot be seen without the effort of decoding it in full: PNG, progressive JPEG, and
    /// whatever is damaged.
    pub fn of(picture: &Picture) -> Option<Self> {
        match picture {
            Picture::Rgb { width, height, pixels } => Self::of_rgb(*width, *height, pixels),
            Picture::File(bytes) => Self::of_jpeg(bytes),
        }
    }

    /// Cells in a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The mean brightness of each cell, 0 to 255, row by row.
    pub fn means(&self) -> &[f32] {
        &self.means
    }

    fn of_jpeg(bytes: &[u8]) -> Option<Self> {
        let header = jpeg::header(bytes)?;
        if !header.sequential || u64::from(header.width_px) * u64::from(header.height_px) > SEEN_PIXELS_MAX {
            return None;
        }
        let mended;
        let bytes = if header.has_huffman_tables {
            bytes
        } else {
            mended = jpeg::with_huffman_tables(bytes.to_vec());
            &mended
        };
        let blocks = jpeg::luma_blocks(bytes)?;
        Self::averaged(blocks.width, blocks.height, CELL_PIXELS / BLOCK_PIXELS, &blocks.means, 1, |mean| mean[0].into())
    }

    fn of_rgb(width: u32, height: u32, rgb: &[u8]) -> Option<Self> {
        // ITU-R BT.601, as JPEG has it, in parts of 256.
        Self::averaged(width, height, CELL_PIXELS, rgb, 3, |rgb| {
            77 * u32::from(rgb[0]) + 150 * u32::from(rgb[1]) + 29 * u32::from(rgb[2])
        })
        .map(|cells| Self { means: cells.means.into_iter().map(|mean| mean / 256.0).collect(), ..cells })
    }

    /// Means over squares of `cell_pixels` of what `value` says of a pixel of `channels` bytes.
    fn averaged(
        width: u32,
        height: u32,
        cell_pixels: u32,
        bytes: &[u8],
        channels: usize,
        value: impl Fn(&[u8]) -> u32,
    ) -> Option<Self> {
        let (width, height, side) = (width as usize, height as usize, cell_pixels as usize);
        if width == 0 || bytes.len() != width * height * channels {
            return None;
        }
        let columns = width.div_ceil(side);
        let mut means = Vec::with_capacity(columns * height.div_ceil(side));
        for rows in bytes.chunks(width * channels * side) {
            let mut sums = vec![0_u32; columns];
            for row in rows.chunks_exact(width * channels) {
                for (sum, cell) in sums.iter_mut().zip(row.chunks(side * channels)) {
                    *sum += cell.chunks_exact(channels).map(&value).sum::<u32>();
                }
            }
            let cell_rows = rows.len() / (width * channels);
            let pixels = (0..columns).map(|column| side.min(width - column * side) * cell_rows);
            means.extend(sums.iter().zip(pixels).map(|(sum, pixels)| *sum as f32 / pixels as f32));
        }
        Self::new(columns, means)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{photo, photo_jpeg, photo_png, without_huffman_tables};

    fn farthest(a: &Cells, b: &Cells) -> f32 {
        assert_eq!((a.columns, a.means.len()), (b.columns, b.means.len()));
        a.means.iter().zip(&b.means).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn a_jpeg_has_the_cells_of_its_pixels() {
        for (width, height) in [(320, 240), (325, 243), (17, 16), (1280, 720)] {
            let pixels = photo(width, height, 4).into_raw();
            let raw = Cells::of(&Picture::Rgb { width, height, pixels }).unwrap();
            let jpeg = Cells::of(&Picture::File(photo_jpeg(width, height, 4))).unwrap();
            assert_eq!(raw.columns() as u32, width.div_ceil(CELL_PIXELS));
            // A cut block is padded by its encoder, so that its mean is not that of the pixels inside.
            let tolerance = if width % 8 == 0 && height % 8 == 0 { 1.5 } else { 12.0 };
            assert!(farthest(&raw, &jpeg) < tolerance, "{width}×{height}: {}", farthest(&raw, &jpeg));
        }
    }

    #[test]
    fn a_cameras_jpeg_without_huffman_tables_is_seen_too() {
        let whole = photo_jpeg(160, 120, 2);
        let bare = Cells::of(&Picture::File(without_huffman_tables(&whole)));
        assert_eq!(bare, Cells::of(&Picture::File(whole)));
        assert!(bare.is_some());
    }

    #[test]
    fn what_cannot_be_seen_cheaply_or_is_damaged_is_none() {
        let jpeg = photo_jpeg(160, 120, 2);
        let png = photo_png(&image::DynamicImage::ImageRgb8(photo(64, 64, 1)));
        let mut huge = jpeg.clone();
        let sof = huge.windows(2).position(|two| two == [0xff, 0xc0]).unwrap();
        huge[sof + 5..sof + 9].copy_from_slice(&[0x17, 0x00, 0x21, 0xff]);
        for file in [Vec::new(), b"no picture".to_vec(), jpeg[..80].to_vec(), png, huge] {
            assert_eq!(Cells::of(&Picture::File(file)), None);
        }
        assert_eq!(Cells::of(&Picture::Rgb { width: 64, height: 48, pixels: vec![0; 10] }), None);
        assert_eq!(Cells::of(&Picture::Rgb { width: 0, height: 0, pixels: Vec::new() }), None);
    }
}
