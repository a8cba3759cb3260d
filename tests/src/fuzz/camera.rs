//! JPEG as a camera's bytes: headers, missing tables, and pictures in a stream.

use camera_agent::jpeg::{header, whole_picture, with_huffman_tables};
use camera_agent::luma::{CELL_PIXELS, Cells};
use camera_agent::mjpeg::Splitter;
use camera_agent::picture::Picture;
use microlambda_picture::{JpegScan, JpegScanner};

/// The standard Huffman tables with their marker, bytes (T.81, K.3).
const TABLES_BYTES: usize = 2 + 0x1a2;

/// The first byte says in what pieces the rest arrives.
pub fn jpeg(bytes: &[u8]) {
    let Some((piece, jpeg)) = bytes.split_first() else { return };
    let mended = with_huffman_tables(jpeg.to_vec());
    match header(jpeg) {
        Some(found) if !found.has_huffman_tables && found.sequential => {
            assert_eq!(mended.len(), jpeg.len() + TABLES_BYTES);
            let again = header(&mended).expect("the header with its tables");
            assert!(again.has_huffman_tables && again.sequential);
            assert_eq!((again.width_px, again.height_px), (found.width_px, found.height_px));
            assert_eq!(with_huffman_tables(mended.clone()), mended, "once is enough");
        }
        Some(_) | None => assert_eq!(mended, jpeg),
    }
    if let Some(picture) = whole_picture(jpeg) {
        assert!(jpeg.starts_with(picture) && picture.ends_with(&[0xff, 0xd9]));
        assert_eq!(whole_picture(picture), Some(picture));
        assert_eq!(whole_picture(&picture[..picture.len() - 1]), None, "a picture inside a picture");
    }
    if let Some(cells) = Cells::of(&Picture::File(jpeg.to_vec())) {
        let header = header(jpeg).expect("what is seen has a header");
        assert_eq!(cells.columns(), header.width_px.div_ceil(CELL_PIXELS) as usize);
        assert_eq!(cells.means().len(), cells.columns() * header.height_px.div_ceil(CELL_PIXELS) as usize);
        assert!(cells.means().iter().all(|mean| (0.0..=255.0).contains(mean)), "brighter than white");
    }
    if jpeg.starts_with(&[0xff, 0xd8]) {
        let mut scanner = JpegScanner::default();
        let pieces = (2..jpeg.len()).step_by(usize::from(*piece).max(1)).chain([jpeg.len()]);
        let found = pieces.map(|end| scanner.advance(&jpeg[..end])).find(|found| *found != JpegScan::More);
        assert_eq!(found.unwrap_or(JpegScan::More), JpegScanner::default().advance(jpeg), "in pieces and at once");
    }
}

/// The first byte says in what pieces the rest arrives, the second how long a picture may be.
pub fn mjpeg(bytes: &[u8]) {
    let [piece, bound, stream @ ..] = bytes else { return };
    let piece_bytes = usize::from(*piece) + 1;
    let bound_bytes = 4 + usize::from(*bound) * 4;
    assert_nothing_vanishes(stream, piece_bytes, bound_bytes);
    // Where no picture exceeds the bound, the pieces make no difference.
    let at_once = assert_nothing_vanishes(stream, stream.len().max(1), stream.len());
    let in_pieces = assert_nothing_vanishes(stream, piece_bytes, stream.len());
    assert_eq!(in_pieces, at_once);
}

/// Splits the stream. Every byte is in a picture, counted as skipped, or waiting; and little waits.
fn assert_nothing_vanishes(stream: &[u8], piece_bytes: usize, bound_bytes: usize) -> Vec<Vec<u8>> {
    let mut splitter = Splitter::new(bound_bytes);
    let mut pictures: Vec<Vec<u8>> = Vec::new();
    for piece in stream.chunks(piece_bytes) {
        splitter.push(piece);
        pictures.extend(std::iter::from_fn(|| splitter.next_picture()));
        assert!(splitter.pending_bytes() <= bound_bytes.max(2), "{} bytes wait", splitter.pending_bytes());
    }
    for picture in &pictures {
        assert!(picture.len() <= bound_bytes);
        assert_eq!(whole_picture(picture), Some(picture.as_slice()));
    }
    let out: usize = pictures.iter().map(Vec::len).sum();
    let waiting = splitter.pending_bytes();
    assert_eq!(out as u64 + splitter.skipped_bytes() + waiting as u64, stream.len() as u64);
    pictures
}
