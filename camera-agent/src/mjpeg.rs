//! Splits a stream of JPEG pictures, one right behind the other, as ffmpeg and rpicam-vid write it, or as parts with headers, as network
//! cameras send it over HTTP (`multipart/x-mixed-replace`).
//!
//! Pictures are found by walking their segments: the end marker's two bytes also stand inside thumbnails, so that
//! looking for them alone would cut pictures apart.

use microlambda_picture::{JpegScan, JpegScanner};

/// The longest start of a picture that has to be kept to recognise it: `ff d8`, to be followed by `ff`.
const START: [u8; 3] = [0xff, 0xd8, 0xff];
/// Text in front of a picture that is no longer than this is taken for the header of a part, bytes.
const HEADER_BYTES_MAX: usize = 1 << 10;

/// Takes chunks of a stream and gives back pictures.
#[derive(Debug)]
pub struct Splitter {
    buffer: Vec<u8>,
    /// Set while a picture begins at the buffer's start.
    scanner: Option<JpegScanner>,
    picture_bytes_max: usize,
    skipped_bytes: u64,
    garbage_bytes: u64,
    /// Bytes passed over since the last start of a picture, as long as they may be the header of a part.
    header_bytes: Option<usize>,
    /// Whether anything looked like a picture.
    has_begun: bool,
}

impl Splitter {
    /// Pictures longer than `picture_bytes_max` are skipped.
    pub fn new(picture_bytes_max: usize) -> Self {
        Self {
            buffer: Vec::new(),
            scanner: None,
            picture_bytes_max,
            skipped_bytes: 0,
            garbage_bytes: 0,
            header_bytes: Some(0),
            has_begun: false,
        }
    }

    /// Adds what was read. Call [`next_picture`](Self::next_picture) until it has none before adding more: the
    /// buffer then holds at most one picture's bound and one chunk.
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// The next whole picture, byte for byte.
    pub fn next_picture(&mut self) -> Option<Vec<u8>> {
        loop {
            let Some(scanner) = &mut self.scanner else {
                if self.find_start() {
                    continue;
                }
                return None;
            };
            match scanner.advance(&self.buffer) {
                JpegScan::End(end) if end <= self.picture_bytes_max => {
                    let rest = self.buffer.split_off(end);
                    self.scanner = None;
                    return Some(std::mem::replace(&mut self.buffer, rest));
                }
                JpegScan::End(end) => self.skip(end),
                // What stands there may be the start of the next picture.
                JpegScan::Bad(at) => self.skip(at),
                JpegScan::More if self.buffer.len() > self.picture_bytes_max => self.skip(self.buffer.len()),
                JpegScan::More => return None,
            }
        }
    }

    /// Bytes passed over so far that belonged to no whole picture.
    pub fn skipped_bytes(&self) -> u64 {
        self.skipped_bytes
    }

    /// Those of them that nobody expects there: all but the headers of parts.
    pub fn garbage_bytes(&self) -> u64 {
        self.garbage_bytes
    }

    /// Bytes waiting for the rest of their picture.
    pub fn pending_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The stream has ended: text that no picture ever followed was no header.
    pub fn end(&mut self) {
        if !self.has_begun {
            self.garbage_bytes = self.skipped_bytes;
        }
    }

    /// The start of a picture whose rest does not come: what is left when the stream has ended.
    pub fn take_unfinished(&mut self) -> Option<Vec<u8>> {
        self.scanner.take().map(|_| std::mem::take(&mut self.buffer))
    }

    /// Drops everything before the next start; false if more bytes are needed to find one.
    fn find_start(&mut self) -> bool {
        if let Some(at) = self.buffer.windows(START.len()).position(|window| window == START) {
            self.pass(at);
            (self.header_bytes, self.has_begun) = (Some(0), true);
            self.scanner = Some(JpegScanner::default());
            return true;
        }
        let kept = (0..START.len()).rev().find(|&n| self.buffer.ends_with(&START[..n])).unwrap_or(0);
        self.pass(self.buffer.len() - kept);
        false
    }

    /// Drops bytes of a picture that is none.
    fn skip(&mut self, bytes: usize) {
        self.drop_first(bytes);
        self.garbage_bytes += bytes as u64;
        self.scanner = None;
    }

    /// Drops bytes in front of a picture.
    fn pass(&mut self, bytes: usize) {
        let before = self.header_bytes;
        let is_header = |all: &usize| *all <= HEADER_BYTES_MAX && self.buffer[..bytes].iter().all(is_text);
        self.header_bytes = before.map(|before| before + bytes).filter(is_header);
        if self.header_bytes.is_none() {
            self.garbage_bytes += (before.unwrap_or(0) + bytes) as u64;
        }
        self.drop_first(bytes);
    }

    fn drop_first(&mut self, bytes: usize) {
        self.buffer.drain(..bytes);
        self.skipped_bytes += bytes as u64;
    }
}

fn is_text(byte: &u8) -> bool {
    matches!(byte, b' '..=b'~' | b'\r' | b'\n' | b'\t')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::photo_jpeg;

    const BOUND: usize = 64 << 10;

    fn split(stream: &[u8], chunk_bytes: impl Iterator<Item = usize>) -> (Vec<Vec<u8>>, Splitter) {
        let mut splitter = Splitter::new(BOUND);
        let mut pictures = Vec::new();
        let mut rest = stream;
        for bytes in chunk_bytes {
            let (chunk, after) = rest.split_at(bytes.clamp(1, rest.len().max(1)).min(rest.len()));
            splitter.push(chunk);
            pictures.extend(std::iter::from_fn(|| splitter.next_picture()));
            assert!(splitter.pending_bytes() <= BOUND);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        (pictures, splitter)
    }

    /// A picture whose application segment holds another whole picture, as camera files have thumbnails.
    fn with_thumbnail(jpeg: &[u8], thumbnail: &[u8]) -> Vec<u8> {
        let length = u16::try_from(thumbnail.len() + 2).unwrap().to_be_bytes();
        [&jpeg[..2], &[0xff, 0xe1], &length, thumbnail, &jpeg[2..]].concat()
    }

    #[test]
    fn a_thumbnail_inside_a_picture_does_not_end_it() {
        let picture = with_thumbnail(&photo_jpeg(64, 48, 1), &photo_jpeg(16, 16, 2));
        let stream = [picture.clone(), picture.clone()].concat();
        let (pictures, splitter) = split(&stream, std::iter::repeat(7));
        assert_eq!(pictures, [picture.clone(), picture]);
        assert_eq!(splitter.skipped_bytes(), 0);
    }

    #[test]
    fn the_headers_of_a_multipart_stream_are_passed_over_without_a_word() {
        let pictures: Vec<Vec<u8>> = (0..4).map(|n| photo_jpeg(64, 48, n)).collect();
        let mut stream = Vec::new();
        for picture in &pictures {
            let header = format!("--ffmpeg\r\nContent-type: image/jpeg\r\nContent-length: {}\r\n\r\n", picture.len());
            stream.extend([header.as_bytes(), picture, b"\r\n"].concat());
        }
        stream.extend(b"--ffmpeg--\r\n");
        let between_bytes = stream.len() - pictures.iter().map(Vec::len).sum::<usize>();
        for chunk_bytes in [1, 7, 1_000, stream.len()] {
            let (found, splitter) = split(&stream, std::iter::repeat(chunk_bytes));
            assert_eq!(found, pictures);
            assert_eq!(
                (splitter.garbage_bytes(), splitter.skipped_bytes()),
                (0, between_bytes as u64),
                "{chunk_bytes}"
            );
        }
    }

    #[test]
    fn too_much_text_between_pictures_and_all_that_is_no_text_is_garbage() {
        let picture = photo_jpeg(64, 48, 1);
        let text = |bytes: usize| b"x".repeat(bytes);
        let cases = [
            (text(HEADER_BYTES_MAX), 0),
            (text(HEADER_BYTES_MAX + 1), HEADER_BYTES_MAX + 1),
            ([text(9), vec![0]].concat(), 10),
            ([text(9), vec![0xff, 0xd8], text(9)].concat(), 20),
            ("é".into(), 2),
        ];
        for (between, garbage_bytes) in cases {
            let stream = [&between[..], &picture, &between, &picture].concat();
            for chunk_bytes in [1, 100, stream.len()] {
                let (found, splitter) = split(&stream, std::iter::repeat(chunk_bytes));
                assert_eq!(found, [picture.clone(), picture.clone()]);
                assert_eq!(splitter.garbage_bytes(), 2 * garbage_bytes as u64, "{} bytes between", between.len());
            }
        }
    }

    #[test]
    fn behind_a_picture_that_was_cut_short_the_stream_is_found_again() {
        let (cut_one, follower) = (photo_jpeg(64, 48, 1), photo_jpeg(64, 48, 2));
        // A cut inside a segment's length makes a segment of up to 64 KiB out of what follows.
        let followers = (65_535 / follower.len()) + 3;
        for cut in (1..cut_one.len()).step_by(5) {
            let mut stream = cut_one[..cut].to_vec();
            stream.extend(follower.repeat(followers));
            let (pictures, _) = split(&stream, std::iter::repeat(9_000));
            assert_eq!(pictures.last(), Some(&follower), "cut at {cut}");
            let lost = followers + 1 - pictures.len();
            assert!(lost < followers, "cut at {cut}: {lost} lost");
            assert!(pictures.iter().skip(1).all(|picture| *picture == follower));
        }
    }

    #[test]
    fn a_picture_whose_rest_does_not_come_can_be_taken_and_garbage_is_none() {
        let jpeg = photo_jpeg(64, 48, 1);
        let (pictures, mut splitter) = split(&[&jpeg, &jpeg[..400]].concat(), std::iter::repeat(100));
        assert_eq!((pictures.len(), splitter.take_unfinished().as_deref()), (1, Some(&jpeg[..400])));
        assert_eq!((splitter.take_unfinished(), splitter.pending_bytes()), (None, 0));
        assert_eq!(split(b"garbage\xff\xd8", std::iter::repeat(100)).1.take_unfinished(), None);
    }

    #[test]
    fn a_picture_over_the_bound_is_skipped_and_counted() {
        let huge = with_thumbnail(&photo_jpeg(64, 48, 1), &vec![0; 40_000]);
        let huge = with_thumbnail(&huge, &vec![0; 40_000]);
        let small = photo_jpeg(64, 48, 2);
        let (pictures, splitter) = split(&[huge.clone(), small.clone()].concat(), std::iter::repeat(4_096));
        assert_eq!(pictures, [small]);
        assert_eq!((splitter.skipped_bytes(), splitter.garbage_bytes()), (huge.len() as u64, huge.len() as u64));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pictures_come_out_byte_for_byte_however_the_stream_is_cut(
            parts in prop::collection::vec((0_u8..20, any::<bool>(), prop::collection::vec(any::<u8>(), 0..60)), 1..12),
            chunks in prop::collection::vec(1_usize..5_000, 1..50),
        ) {
            let mut stream = Vec::new();
            let mut expected = Vec::new();
            let (mut skipped_bytes, mut garbage_bytes) = (0, 0);
            for (seed, is_header, mut between) in parts {
                // Garbage that holds a start marker is a cut picture, which has its own test.
                between.retain(|&byte| byte != 0xd8 && byte != 0xff);
                if is_header {
                    between.iter_mut().for_each(|byte| *byte = b' ' + *byte % 95);
                }
                skipped_bytes += between.len() as u64;
                if !between.iter().all(is_text) {
                    garbage_bytes += between.len() as u64;
                }
                stream.extend(&between);
                let picture = photo_jpeg(24 + u32::from(seed), 16, seed);
                stream.extend(&picture);
                expected.push(picture);
            }
            let (pictures, splitter) = split(&stream, chunks.into_iter().cycle());
            prop_assert_eq!(pictures, expected);
            prop_assert_eq!((splitter.skipped_bytes(), splitter.garbage_bytes()), (skipped_bytes, garbage_bytes));
        }

        #[test]
        fn no_bytes_upset_the_splitter(stream in prop::collection::vec(prop::sample::select(vec![0xff_u8, 0xd8, 0xd9, 0xda, 0x00, 0x02, 0xe0, 0x41]), 0..3_000)) {
            let (pictures, splitter) = split(&stream, std::iter::repeat(13));
            let out: u64 = pictures.iter().map(|picture| picture.len() as u64).sum();
            prop_assert_eq!(out + splitter.skipped_bytes() + splitter.pending_bytes() as u64, stream.len() as u64);
            prop_assert!(splitter.garbage_bytes() <= splitter.skipped_bytes());
        }
    }
}
