//! From a capture buffer to a picture.

use super::{Layout, Raw};
use crate::jpeg;
use crate::picture::Picture;

/// The picture in a buffer; MJPEG stays as it is.
pub(super) fn picture_of(raw: &Raw<'_>) -> Result<Picture, String> {
    let Raw { bytes, layout, width_px, height_px, line_bytes, damaged } = *raw;
    if damaged {
        return Err("the driver says that it is damaged: use a shorter cable, another port or a smaller size".into());
    }
    let (columns, lines) = (width_px as usize, height_px as usize);
    let cut_short = || {
        format!("{} bytes are too few for {layout:?} {width_px}×{height_px}: try another size in [source]", bytes.len())
    };
    let packed = |line_len| plane(bytes, lines, line_len, line_bytes).ok_or_else(cut_short);
    let pixels = match layout {
        Layout::Mjpeg => {
            return match jpeg::whole_picture(bytes) {
                Some(picture) => Ok(Picture::File(picture.to_vec())),
                None => Err("the camera sent a picture without its end: use a shorter cable or a smaller size".into()),
            };
        }
        Layout::Yuyv => packed(columns * 2)?.flat_map(|line| line.chunks_exact(4)).flat_map(yuyv).collect(),
        Layout::Nv12 => {
            let luma = packed(columns)?;
            let chroma = bytes.get(columns.max(line_bytes) * lines..).unwrap_or_default();
            let chroma: Vec<&[u8]> = plane(chroma, lines / 2, columns, line_bytes).ok_or_else(cut_short)?.collect();
            luma.enumerate()
                .flat_map(|(y, line)| {
                    let colours = chroma.get(y / 2).copied().unwrap_or_default();
                    line.iter().enumerate().flat_map(move |(x, &luma)| {
                        let colour = |at: usize| colours.get(x / 2 * 2 + at).copied().unwrap_or(128);
                        yuv(luma, colour(0), colour(1))
                    })
                })
                .collect()
        }
        Layout::Gray => packed(columns)?.flatten().flat_map(|&y| [y; 3]).collect(),
        Layout::Rgb => packed(columns * 3)?.flatten().copied().collect(),
        Layout::Bgr => {
            packed(columns * 3)?.flat_map(|line| line.chunks_exact(3)).flat_map(|p| [p[2], p[1], p[0]]).collect()
        }
    };
    Ok(Picture::Rgb { width: width_px, height: height_px, pixels })
}

/// The lines of a plane without what the driver fills them up with; nothing if the buffer is too short.
fn plane(bytes: &[u8], lines: usize, line_len: usize, line_bytes: usize) -> Option<impl Iterator<Item = &[u8]>> {
    let step = line_bytes.max(line_len);
    let whole = step * lines.saturating_sub(1) + line_len;
    bytes.get(..whole).map(|bytes| bytes.chunks(step.max(1)).map(move |line| &line[..line_len]))
}

/// Two pixels, red, green and blue of each, from the four bytes that they share.
fn yuyv(p: &[u8]) -> [u8; 6] {
    let [a, b] = [yuv(p[0], p[1], p[3]), yuv(p[2], p[1], p[3])];
    [a[0], a[1], a[2], b[0], b[1], b[2]]
}

/// Red, green and blue of one pixel after ITU-R BT.601, studio range, as webcams send it.
fn yuv(y: u8, u: u8, v: u8) -> [u8; 3] {
    let (c, d, e) = (i32::from(y) - 16, i32::from(u) - 128, i32::from(v) - 128);
    let byte = |value: i32| u8::try_from(((value + 128) >> 8).clamp(0, 255)).unwrap_or(0);
    [byte(298 * c + 409 * e), byte(298 * c - 100 * d - 208 * e), byte(298 * c + 516 * d)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{photo, photo_jpeg};

    fn raw(layout: Layout, width_px: u32, height_px: u32, bytes: &[u8]) -> Raw<'_> {
        Raw { bytes, layout, width_px, height_px, line_bytes: 0, damaged: false }
    }

    fn mean_distance(picture: &Picture, expected: &image::RgbImage) -> f64 {
        let Picture::Rgb { width, height, pixels } = picture else { panic!() };
        assert_eq!((*width, *height), expected.dimensions());
        let sum: u64 = pixels.iter().zip(expected.as_raw()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        sum as f64 / pixels.len() as f64
    }

    /// BT.601, studio range, in floating point.
    fn to_yuv([r, g, b]: [u8; 3]) -> [u8; 3] {
        let (r, g, b) = (f64::from(r), f64::from(g), f64::from(b));
        [
            (16.0 + 0.257 * r + 0.504 * g + 0.098 * b).round() as u8,
            (128.0 - 0.148 * r - 0.291 * g + 0.439 * b).round() as u8,
            (128.0 + 0.439 * r - 0.368 * g - 0.071 * b).round() as u8,
        ]
    }

    #[test]
    fn yuyv_and_nv12_become_the_same_colours() {
        // Blocks of 2×2 pixels share a colour, so that shared chroma loses nothing.
        let small = photo(16, 12, 7);
        let expected = image::imageops::resize(&small, 32, 24, image::imageops::FilterType::Nearest);
        let yuv_at = |x, y| to_yuv(expected.get_pixel(x, y).0);
        let mut yuyv = Vec::new();
        let (mut luma, mut chroma) = (Vec::new(), Vec::new());
        for y in 0..24 {
            for x in 0..32 {
                let [l, u, v] = yuv_at(x, y);
                luma.push(l);
                yuyv.extend([l, if x % 2 == 0 { u } else { v }]);
                if x % 2 == 0 && y % 2 == 0 {
                    chroma.extend([u, v]);
                }
            }
        }
        let nv12 = [luma, chroma].concat();
        for (layout, bytes) in [(Layout::Yuyv, yuyv), (Layout::Nv12, nv12)] {
            let seen = picture_of(&raw(layout, 32, 24, &bytes)).unwrap();
            assert!(mean_distance(&seen, &expected) < 2.0, "{layout:?}: {}", mean_distance(&seen, &expected));
        }
    }

    #[test]
    fn gray_rgb_and_bgr_buffers_are_read_and_short_ones_are_no_pictures() {
        let rgb = photo(16, 16, 3);
        let bgr: Vec<u8> = rgb.as_raw().chunks(3).flat_map(|p| [p[2], p[1], p[0]]).collect();
        for (layout, bytes) in [(Layout::Rgb, rgb.as_raw()), (Layout::Bgr, &bgr)] {
            assert_eq!(mean_distance(&picture_of(&raw(layout, 16, 16, bytes)).unwrap(), &rgb), 0.0);
        }
        let gray = picture_of(&raw(Layout::Gray, 16, 16, &[9; 256])).unwrap();
        assert_eq!(gray, Picture::Rgb { width: 16, height: 16, pixels: vec![9; 768] });
        for layout in [Layout::Yuyv, Layout::Nv12, Layout::Gray, Layout::Rgb, Layout::Bgr] {
            assert!(picture_of(&raw(layout, 16, 16, &[0; 200])).unwrap_err().contains("too few"));
        }
    }

    /// Lines as a driver with an alignment writes them.
    fn padded(bytes: &[u8], line_len: usize, line_bytes: usize) -> Vec<u8> {
        bytes.chunks(line_len).flat_map(|line| [line, &vec![0xee; line_bytes - line_len]].concat()).collect()
    }

    #[test]
    fn what_lines_are_filled_up_with_is_no_part_of_the_picture() {
        let line_lens =
            [(Layout::Yuyv, 12), (Layout::Nv12, 6), (Layout::Gray, 6), (Layout::Rgb, 18), (Layout::Bgr, 18)];
        for (layout, line_len) in line_lens {
            let lines = if layout == Layout::Nv12 { 6 } else { 4 };
            let bytes: Vec<u8> = (0..line_len * lines).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect();
            let plain = picture_of(&raw(layout, 6, 4, &bytes)).unwrap();
            let bytes = padded(&bytes, line_len, 32);
            let filled = picture_of(&Raw { line_bytes: 32, ..raw(layout, 6, 4, &bytes) }).unwrap();
            assert_eq!(filled, plain, "{layout:?}");
            assert!(picture_of(&Raw { line_bytes: 32, ..raw(layout, 6, 4, &bytes[..bytes.len() - 32]) }).is_err());
        }
    }

    #[test]
    fn a_damaged_buffer_is_no_picture_even_if_it_is_full() {
        let why = picture_of(&Raw { damaged: true, ..raw(Layout::Gray, 4, 4, &[0; 16]) }).unwrap_err();
        assert!(why.contains("cable"), "{why}");
        let jpeg = photo_jpeg(16, 16, 1);
        assert!(picture_of(&Raw { damaged: true, ..raw(Layout::Mjpeg, 16, 16, &jpeg) }).is_err());
    }
}
