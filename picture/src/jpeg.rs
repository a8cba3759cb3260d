//! Where a JPEG ends, and what decoding it takes (ITU-T T.81, annex B). Its end marker's two bytes also stand inside
//! thumbnails, so that segments are walked.

const SOI: u8 = 0xd8;
const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;
/// Frames whose samples are whole in each scan: baseline, extended.
const SOF_SEQUENTIAL: [u8; 2] = [0xc0, 0xc1];
/// The first and the last frame that is decoded: baseline, extended, progressive.
const SOF_DECODED: std::ops::RangeInclusive<u8> = 0xc0..=0xc2;
/// Values of a block of 8 × 8 px.
const BLOCK_VALUES: u64 = 64;
/// A coefficient of a block in memory, bytes.
const COEFFICIENT_BYTES: u64 = 2;
/// Stray bytes before a marker are passed over up to so many: more than the rest of any segment whose length is wrong.
const STRAY_BYTES_MAX: usize = 64 << 10;

/// Whether the end of a JPEG is missing, as where a copy or a transfer was cut off. Decoders fill the rest with grey, and a face cut in half is nobody's.
/// `false` for what is no JPEG, or goes wrong earlier: a decoder says why.
pub fn jpeg_is_cut_short(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xff, SOI]) && JpegScanner::of_file().advance(bytes) == JpegScan::More
}

/// Whether the colours of a JPEG come one after another, in scans of their own, and some of them at a lower resolution. `zune-jpeg` 0.5.15 gives other
/// pixels for these, and no error (its issue 422). Programs write them when they are told to, cameras and phones do not.
pub(crate) fn is_in_separate_colours(jpeg: &[u8]) -> bool {
    let (mut sampled, mut colours) = (false, 0);
    for JpegSegment { code, body, .. } in jpeg_segments(jpeg) {
        match (code, body) {
            (code, [_, _, _, _, _, count, components @ ..]) if SOF_SEQUENTIAL.contains(&code) => {
                colours = *count;
                let mut samplings = components.chunks(3).take(usize::from(colours)).map(|component| component.get(1));
                sampled = samplings.any(|sampling| sampling != Some(&0x11));
            }
            (SOS, [in_scan, ..]) => return sampled && *in_scan < colours,
            _ => {}
        }
    }
    false
}

/// Memory that [`decode_jpeg`](crate::decode_jpeg) takes for this JPEG beside a copy of the file, bytes: its pixels, and
/// all of its coefficients if they come in several scans, as those of a progressive one do. `None` if its header cannot be
/// read, or is of a kind that is not decoded.
pub fn jpeg_decode_bytes(jpeg: &[u8]) -> Option<u64> {
    let side = |high: u8, low: u8| u64::from(u16::from_be_bytes([high, low]));
    let mut frame = None;
    for JpegSegment { code, body, .. } in jpeg_segments(jpeg) {
        match (code, body) {
            (code, [_, h1, h0, w1, w0, count, components @ ..]) if SOF_DECODED.contains(&code) => {
                let (width_px, height_px) = (side(*w1, *w0), side(*h1, *h0));
                let blocks = blocks((width_px, height_px), *count, components);
                frame = Some((code, *count, width_px * height_px, blocks));
            }
            (SOS, [in_scan, ..]) => {
                let (code, count, pixels, blocks) = frame?;
                let pixel_bytes = if count == 1 { 1 } else { 3 };
                let is_in_one_scan = SOF_SEQUENTIAL.contains(&code) && *in_scan >= count;
                let coefficient_bytes = if is_in_one_scan { 0 } else { blocks * BLOCK_VALUES * COEFFICIENT_BYTES };
                return Some(pixels * pixel_bytes + coefficient_bytes);
            }
            _ => {}
        }
    }
    None
}

/// How many blocks the components of a frame have, each at its own resolution, with those that fill the picture up to whole
/// units.
fn blocks((width_px, height_px): (u64, u64), count: u8, components: &[u8]) -> u64 {
    let factors = components.chunks_exact(3).take(usize::from(count)).map(|component| match count {
        // One alone is not interleaved with others, whatever it says.
        1 => (1, 1),
        _ => (u64::from(component[1] >> 4), u64::from(component[1] & 0xf)),
    });
    let (across, down) = factors.clone().fold((1, 1), |most, (across, down)| (most.0.max(across), most.1.max(down)));
    let units = width_px.div_ceil(8 * across) * height_px.div_ceil(8 * down);
    units * factors.map(|(across, down)| across * down).sum::<u64>()
}

/// A segment of a JPEG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JpegSegment<'a> {
    /// Where its marker stands.
    pub at: usize,
    /// The marker's code.
    pub code: u8,
    /// What follows the segment's length.
    pub body: &'a [u8],
}

/// The segments of a JPEG behind its start marker, up to and with the header of its first scan, or as far as they are whole. Markers that no segment
/// follows, and up to 64 KiB of stray bytes before one, are passed over, as decoders do.
pub fn jpeg_segments(jpeg: &[u8]) -> impl Iterator<Item = JpegSegment<'_>> {
    let mut next_at = Some(2);
    std::iter::from_fn(move || {
        loop {
            let (at, code) = next_marker(jpeg, next_at?)?;
            if JpegScanner::is_standalone(code) {
                next_at = Some(at + 2);
                continue;
            }
            let end = at + 2 + usize::from(u16::from_be_bytes([*jpeg.get(at + 2)?, *jpeg.get(at + 3)?]));
            let body = jpeg.get(at + 4..end)?;
            next_at = (code != SOS).then_some(end);
            return Some(JpegSegment { at, code, body });
        }
    })
}

/// Where the next marker from `at` on stands, the last `ff` of it, and its code. A zero behind `ff` makes it a stray byte.
fn next_marker(jpeg: &[u8], at: usize) -> Option<(usize, u8)> {
    let ahead = jpeg.get(at..)?;
    let ahead = &ahead[..ahead.len().min(STRAY_BYTES_MAX)];
    let passed = ahead.windows(2).position(|two| two[0] == 0xff && !matches!(two[1], 0 | 0xff))?;
    Some((at + passed, ahead[passed + 1]))
}

/// How far a [`JpegScanner`] has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JpegScan {
    /// More bytes are needed.
    More,
    /// The picture ends before this position.
    End(usize),
    /// At this position stands something that no JPEG has there.
    Bad(usize),
}

/// Walks the segments of one picture that grows at its end. The bytes begin with the start marker.
#[derive(Debug, Clone, Copy)]
pub struct JpegScanner {
    at: usize,
    in_scan: bool,
    /// Whether stray bytes between segments are passed over.
    passes_strays: bool,
}

impl Default for JpegScanner {
    /// At the start of a picture in a stream, where stray bytes between segments mean that the next one has begun.
    fn default() -> Self {
        Self { at: 2, in_scan: false, passes_strays: false }
    }
}

impl JpegScanner {
    /// At the start of a file, where there is no next picture: stray bytes between segments are passed over, as decoders do.
    pub fn of_file() -> Self {
        Self { passes_strays: true, ..Self::default() }
    }

    /// Whether no segment follows a marker of this code: TEM and the restart markers.
    fn is_standalone(code: u8) -> bool {
        code == 0x01 || (0xd0..=0xd7).contains(&code)
    }

    /// Goes on as far as `bytes` (from the picture's start, the former ones included) allow.
    pub fn advance(&mut self, bytes: &[u8]) -> JpegScan {
        loop {
            if self.in_scan {
                let Some(found) = bytes.get(self.at..).and_then(|rest| rest.iter().position(|&b| b == 0xff)) else {
                    self.at = self.at.max(bytes.len());
                    return JpegScan::More;
                };
                self.at += found;
            } else if self.passes_strays {
                match next_marker(bytes, self.at) {
                    Some((marker_at, _)) => self.at = marker_at,
                    None if bytes.len().saturating_sub(self.at) < STRAY_BYTES_MAX => return JpegScan::More,
                    None => return JpegScan::Bad(self.at),
                }
            }
            let (Some(&first), Some(&code)) = (bytes.get(self.at), bytes.get(self.at + 1)) else {
                return JpegScan::More;
            };
            if first != 0xff {
                return JpegScan::Bad(self.at);
            }
            match code {
                // A stuffed zero is data inside a scan and nonsense outside.
                0x00 if self.in_scan => self.at += 2,
                0x00 | SOI => return JpegScan::Bad(self.at),
                0xff => self.at += 1,
                EOI => return JpegScan::End(self.at + 2),
                code if Self::is_standalone(code) => self.at += 2,
                code => {
                    let (Some(&high), Some(&low)) = (bytes.get(self.at + 2), bytes.get(self.at + 3)) else {
                        return JpegScan::More;
                    };
                    let length = usize::from(u16::from_be_bytes([high, low]));
                    if length < 2 {
                        return JpegScan::Bad(self.at);
                    }
                    self.at += 2 + length;
                    self.in_scan = code == SOS;
                }
            }
        }
    }
}
