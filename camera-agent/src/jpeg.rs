//! JPEG as bytes: where a picture ends, how large it is, and the tables some cameras leave out.
//!
//! ITU-T T.81, annex B. Nothing here decodes a picture in full.

mod blocks;

pub use blocks::{Blocks, luma_blocks};
use microlambda_picture::{JpegScan, JpegScanner, JpegSegment, jpeg_segments};

/// Code of the marker that starts a picture.
const SOI: u8 = 0xd8;
const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;
const DHT: u8 = 0xc4;

/// What a JPEG's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Width of the picture, pixels.
    pub width_px: u32,
    /// Height of the picture, pixels.
    pub height_px: u32,
    /// Whether Huffman tables stand before the first scan.
    pub has_huffman_tables: bool,
    /// Baseline or extended sequential with Huffman coding: the kinds for which the standard tables make sense.
    pub sequential: bool,
    /// Where the first scan's marker stands, bytes from the start of the file.
    scan_at: usize,
}

/// Reads the header of a JPEG; `None` if there is none up to the first scan.
pub fn header(jpeg: &[u8]) -> Option<Header> {
    let mut size = None;
    let mut has_huffman_tables = false;
    let mut sequential = false;
    if !jpeg.starts_with(&[0xff, SOI]) {
        return None;
    }
    for JpegSegment { at, code, body } in jpeg_segments(jpeg) {
        match code {
            SOI | EOI => return None,
            SOS => {
                let (width_px, height_px) = size?;
                return Some(Header { width_px, height_px, has_huffman_tables, sequential, scan_at: at });
            }
            DHT => has_huffman_tables = true,
            0xc0..=0xcf if code != 0xc8 && code != 0xcc => {
                let pixels = |i: usize| body.get(i..i + 2).map(|b| u32::from(u16::from_be_bytes([b[0], b[1]])));
                size = Some((pixels(3)?, pixels(1)?));
                sequential = code <= 0xc1;
            }
            _ => {}
        }
    }
    None
}

/// Puts the standard Huffman tables (T.81 annex K.3) in front of the first scan if there are none. Many UVC cameras leave
/// them out of their MJPEG frames, as the AVI format allows; decoders for files then refuse the picture.
/// Any other JPEG is returned as it is, byte for byte.
pub fn with_huffman_tables(jpeg: Vec<u8>) -> Vec<u8> {
    match header(&jpeg) {
        Some(found) if !found.has_huffman_tables && found.sequential => {
            let tables = standard_huffman_segment();
            let mut whole = Vec::with_capacity(jpeg.len() + tables.len());
            whole.extend_from_slice(&jpeg[..found.scan_at]);
            whole.extend_from_slice(&tables);
            whole.extend_from_slice(&jpeg[found.scan_at..]);
            whole
        }
        _ => jpeg,
    }
}

/// Cuts off what follows the end marker: capture buffers are longer than their picture. `None` without a whole picture.
pub fn whole_picture(buffer: &[u8]) -> Option<&[u8]> {
    if !buffer.starts_with(&[0xff, SOI]) {
        return None;
    }
    match JpegScanner::default().advance(buffer) {
        JpegScan::End(end) => Some(&buffer[..end]),
        JpegScan::More | JpegScan::Bad(_) => None,
    }
}

/// One DHT segment with the four tables of T.81, K.3 (luminance and chrominance, DC and AC).
fn standard_huffman_segment() -> Vec<u8> {
    let tables: [(u8, &[u8; 16], &[u8]); 4] = [
        (0x00, &DC_LUMINANCE_COUNTS, &DC_VALUES),
        (0x10, &AC_LUMINANCE_COUNTS, &AC_LUMINANCE_VALUES),
        (0x01, &DC_CHROMINANCE_COUNTS, &DC_VALUES),
        (0x11, &AC_CHROMINANCE_COUNTS, &AC_CHROMINANCE_VALUES),
    ];
    // Marker, then the length of everything behind the marker: 2 + 4 × (1 + 16) + 12 + 12 + 162 + 162.
    let mut segment = vec![0xff, DHT, 0x01, 0xa2];
    for (class_and_id, counts, values) in tables {
        segment.push(class_and_id);
        segment.extend_from_slice(counts);
        segment.extend_from_slice(values);
    }
    segment
}

const DC_LUMINANCE_COUNTS: [u8; 16] = [0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0];
const DC_CHROMINANCE_COUNTS: [u8; 16] = [0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0];
const DC_VALUES: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
const AC_LUMINANCE_COUNTS: [u8; 16] = [0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 0x7d];
const AC_CHROMINANCE_COUNTS: [u8; 16] = [0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 0x77];
#[rustfmt::skip]
const AC_LUMINANCE_VALUES: [u8; 162] = [
    0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07,
    0x22, 0x71, 0x14, 0x32, 0x81, 0x91, 0xa1, 0x08, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52, 0xd1, 0xf0,
    0x24, 0x33, 0x62, 0x72, 0x82, 0x09, 0x0a, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x25, 0x26, 0x27, 0x28,
    0x29, 0x2a, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49,
    0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69,
    0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89,
    0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7,
    0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3, 0xc4, 0xc5,
    0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe1, 0xe2,
    0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8,
    0xf9, 0xfa,
];
#[rustfmt::skip]
const AC_CHROMINANCE_VALUES: [u8; 162] = [
    0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71,
    0x13, 0x22, 0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xa1, 0xb1, 0xc1, 0x09, 0x23, 0x33, 0x52, 0xf0,
    0x15, 0x62, 0x72, 0xd1, 0x0a, 0x16, 0x24, 0x34, 0xe1, 0x25, 0xf1, 0x17, 0x18, 0x19, 0x1a, 0x26,
    0x27, 0x28, 0x29, 0x2a, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48,
    0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68,
    0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87,
    0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5,
    0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3,
    0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda,
    0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8,
    0xf9, 0xfa,
];

#[cfg(test)]
mod tests {
    use microlambda_picture::jpeg_is_cut_short;

    use super::*;
    use crate::testing::{photo_jpeg, with_stray_bytes, without_huffman_tables};

    #[test]
    fn a_header_gives_size_and_tables() {
        let found = header(&photo_jpeg(70, 50, 1)).unwrap();
        assert_eq!((found.width_px, found.height_px), (70, 50));
        assert!(found.has_huffman_tables && found.sequential);
    }

    #[test]
    fn what_is_no_header_is_none() {
        let jpeg = photo_jpeg(32, 32, 1);
        assert_eq!(header(b""), None);
        assert_eq!(header(b"\x89PNG\r\n\x1a\n"), None);
        let found = header(&jpeg).unwrap();
        for length in 0..found.scan_at + 4 {
            assert_eq!(header(&jpeg[..length]), None, "cut at {length}");
        }
    }

    #[test]
    fn stray_bytes_between_segments_are_passed_over_as_decoders_do() {
        let whole = photo_jpeg(64, 48, 3);
        for jpeg in [whole.clone(), without_huffman_tables(&whole)] {
            let sound = header(&jpeg).unwrap();
            for stray in [&b"\0"[..], b"stray", &[0xff, 0, 7], &[0xff, 0xff]] {
                let spoilt = with_stray_bytes(&jpeg, stray);
                let found = header(&spoilt).unwrap();
                assert_eq!(Header { scan_at: sound.scan_at, ..found }, sound, "{stray:?}");
                assert_eq!(&spoilt[found.scan_at..], &jpeg[sound.scan_at..]);
                assert!(!jpeg_is_cut_short(&spoilt) && jpeg_is_cut_short(&spoilt[..spoilt.len() - 1]));
                let mended = with_huffman_tables(spoilt);
                assert_eq!(microlambda_picture::decode_jpeg(&mended), microlambda_picture::decode_jpeg(&whole));
                assert_eq!(luma_blocks(&mended), luma_blocks(&whole));
            }
        }
        assert_eq!(header(&with_stray_bytes(&whole, &[0; 64 << 10])), None, "they are bounded");
    }

    #[test]
    fn missing_huffman_tables_are_the_ones_a_standard_encoder_writes() {
        let whole = photo_jpeg(64, 48, 3);
        let bare = without_huffman_tables(&whole);
        assert!(!header(&bare).unwrap().has_huffman_tables);
        assert!(image::load_from_memory(&bare).is_err(), "a file decoder refuses it");
        let mended = with_huffman_tables(bare);
        let pixels = |jpeg: &[u8]| image::load_from_memory(jpeg).unwrap().to_rgb8();
        assert_eq!(pixels(&mended), pixels(&whole));
    }

    #[test]
    fn a_picture_with_tables_is_left_alone() {
        let whole = photo_jpeg(64, 48, 3);
        assert_eq!(with_huffman_tables(whole.clone()), whole);
        assert_eq!(with_huffman_tables(b"no picture".to_vec()), b"no picture");
    }

    #[test]
    fn a_capture_buffer_is_cut_at_the_end_of_its_picture() {
        let jpeg = photo_jpeg(64, 48, 5);
        let mut buffer = jpeg.clone();
        buffer.extend_from_slice(&photo_jpeg(64, 48, 6)[100..]);
        assert_eq!(whole_picture(&buffer), Some(jpeg.as_slice()));
        assert_eq!(whole_picture(&jpeg[..jpeg.len() - 1]), None, "the end marker is missing");
    }
}
