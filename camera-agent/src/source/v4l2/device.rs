//! Taking pictures from an open device.

use std::time::Duration;

use microlambda_runtime::{monotonic_us, unix_ms};

use super::Layout;
use super::pixels::picture_of;
use crate::source::{Captured, Next, Source, SourceError};

/// A camera that gives nothing for so long is opened again; the slowest that is asked for gives a frame a second.
pub(super) const SILENCE: Duration = Duration::from_secs(10);
/// A time of capture further back than this is none: the driver's clock is not ours.
const AGE_US_MAX: u64 = 10_000_000;

/// A buffer as the driver has filled it.
#[derive(Debug, Clone, Copy)]
pub struct Raw<'a> {
    /// What the driver filled of the buffer.
    pub bytes: &'a [u8],
    /// How the pixels are laid out in it.
    pub layout: Layout,
    /// Width of the picture, pixels.
    pub width_px: u32,
    /// Height of the picture, pixels.
    pub height_px: u32,
    /// From the start of a line to the next, bytes, where lines are filled up; else 0.
    pub line_bytes: usize,
    /// The driver says that something is wrong with it.
    pub damaged: bool,
}

/// What gives buffers: a device, or a double in tests.
pub trait Capture {
    /// Waits for the next buffer and hands it to `take` with the time it was taken, µs of the monotonic clock.
    ///
    /// # Errors
    /// What went wrong; the device has to be opened again.
    fn capture(&mut self, take: &mut dyn FnMut(u64, &Raw<'_>)) -> Result<(), String>;
}

/// A camera as a source.
pub struct Device {
    capture: Box<dyn Capture>,
    name: String,
    pace: Pace,
    /// When the last sound picture was taken, or else the first one, µs of the monotonic clock.
    sound_us: Option<u64>,
}

impl Device {
    /// Takes pictures from `capture`, one in `interval_us` at most; `name` stands in messages.
    pub fn new(capture: Box<dyn Capture>, name: impl Into<String>, interval_us: u64) -> Self {
        Self { capture, name: name.into(), pace: Pace { interval_us, next_us: 0 }, sound_us: None }
    }
}

impl Source for Device {
    fn next(&mut self) -> Result<Next, SourceError> {
        loop {
            let mut seen = None;
            let pace = &mut self.pace;
            let captured = self.capture.capture(&mut |taken_us, raw| {
                seen = pace.lets_pass(taken_us).then(|| (taken_us, picture_of(raw)));
            });
            captured.map_err(|why| {
                SourceError::Trouble(format!(
                    "{} gives no pictures ({why}): check its cable and power; `camera-agent probe` lists cameras",
                    self.name
                ))
            })?;
            match seen {
                None => {}
                Some((taken_us, Ok(picture))) => {
                    self.sound_us = Some(taken_us);
                    let captured_at_ms = unix_ms().saturating_sub(monotonic_us().saturating_sub(taken_us) / 1_000);
                    return Ok(Next::Frame(Captured { picture, captured_at_ms, label: String::new(), input: None }));
                }
                Some((taken_us, Err(why))) => {
                    let sound_us = *self.sound_us.get_or_insert(taken_us);
                    // Stopping and starting its stream brings many a camera to its senses.
                    if taken_us.saturating_sub(sound_us) >= SILENCE.as_micros() as u64 {
                        return Err(SourceError::Trouble(format!(
                            "{} has given no sound picture for {} s, the last one {why}: it is opened anew. Check its cable and power",
                            self.name,
                            SILENCE.as_secs()
                        )));
                    }
                    return Ok(Next::PassedOver { why: format!("a frame of {}: {why}", self.name), input: None });
                }
            }
        }
    }
}

/// Lets no more pictures pass than were asked for: few cameras can be set to any rate.
struct Pace {
    interval_us: u64,
    next_us: u64,
}

impl Pace {
    fn lets_pass(&mut self, taken_us: u64) -> bool {
        // Cameras keep their rate in the mean: a picture that comes a little early counts as on time.
        let early_us = self.interval_us / 4;
        let passes = taken_us + early_us >= self.next_us;
        if passes {
            // One that came late leaves the next ones where they are; what a pause has left out is not made up for.
            self.next_us = self.next_us.max(taken_us.saturating_sub(self.interval_us)) + self.interval_us;
        }
        passes
    }
}

/// What is wrong with a camera after [`SILENCE`].
pub(super) fn silent() -> String {
    format!("nothing for {} s", SILENCE.as_secs())
}

/// When a picture was taken: what the driver says, if that can be, else now.
pub(super) fn taken_us(stamp_us: Option<u64>, now_us: u64) -> u64 {
    stamp_us.filter(|stamp| (now_us.saturating_sub(AGE_US_MAX)..=now_us).contains(stamp)).unwrap_or(now_us)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::{FrameBounds, Picture};
    use crate::testing::{photo_jpeg, without_huffman_tables};

    struct Double {
        buffers: Vec<Result<Vec<u8>, String>>,
        taken_us: u64,
    }

    impl Capture for Double {
        fn capture(&mut self, take: &mut dyn FnMut(u64, &Raw<'_>)) -> Result<(), String> {
            let bytes = self.buffers.remove(0)?;
            let raw = Raw {
                bytes: &bytes,
                layout: Layout::Mjpeg,
                width_px: 64,
                height_px: 48,
                line_bytes: 0,
                damaged: false,
            };
            self.taken_us += 100_000;
            take(self.taken_us, &raw);
            Ok(())
        }
    }

    fn device(buffers: Vec<Result<Vec<u8>, String>>) -> Device {
        Device::new(Box::new(Double { buffers, taken_us: monotonic_us() }), "/dev/video0", 100_000)
    }

    fn frame(device: &mut Device) -> Captured {
        match device.next().unwrap() {
            Next::Frame(captured) => captured,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn mjpeg_passes_byte_for_byte_without_what_the_buffer_held_before() {
        let (long, short) = (photo_jpeg(320, 240, 1), photo_jpeg(160, 120, 2));
        let mut reused = long.clone();
        reused[..short.len()].copy_from_slice(&short);
        let mut device = device(vec![Ok(long.clone()), Ok(reused)]);
        assert_eq!(frame(&mut device).picture, Picture::File(long));
        assert_eq!(frame(&mut device).picture, Picture::File(short));
    }

    #[test]
    fn mjpeg_without_huffman_tables_becomes_a_file_that_everyone_can_read_and_nothing_else_changes() {
        let whole = photo_jpeg(64, 48, 1);
        let mut device = device(vec![Ok(without_huffman_tables(&whole))]);
        let bounds = FrameBounds { bytes_max: 1 << 20, pixels_max: 1_000_000 };
        let prepared = crate::picture::prepare(frame(&mut device).picture, bounds).unwrap();
        assert!(!prepared.reencoded);
        let pixels = |jpeg: &[u8]| image::load_from_memory(jpeg).unwrap().to_rgb8();
        assert_eq!(pixels(&prepared.jpeg), pixels(&whole));
    }

    #[test]
    fn a_picture_without_its_end_is_passed_over() {
        let jpeg = photo_jpeg(64, 48, 1);
        let mut device = device(vec![Ok(jpeg[..jpeg.len() - 2].to_vec()), Ok(Vec::new()), Ok(jpeg)]);
        assert!(matches!(device.next(), Ok(Next::PassedOver { why, .. }) if why.contains("without its end")));
        assert!(matches!(device.next(), Ok(Next::PassedOver { .. })));
        frame(&mut device);
    }

    #[test]
    fn a_camera_that_gives_damaged_pictures_alone_is_trouble_after_a_while_and_one_that_gives_some_is_not() {
        let jpeg = photo_jpeg(64, 48, 1);
        let cut = || Ok(jpeg[..jpeg.len() - 2].to_vec());
        let mut device =
            device((0..101).map(|_| cut()).chain([Ok(jpeg.clone())]).chain((0..100).map(|_| cut())).collect());
        for _ in 0..100 {
            assert!(matches!(device.next(), Ok(Next::PassedOver { .. })));
        }
        let Err(SourceError::Trouble(why)) = device.next() else { panic!() };
        assert!(why.contains("/dev/video0") && why.contains("without its end") && why.contains("cable"), "{why}");
        frame(&mut device);
        for _ in 0..99 {
            assert!(matches!(device.next(), Ok(Next::PassedOver { .. })));
        }
        assert!(device.next().is_err());
    }

    #[test]
    fn an_unplugged_camera_is_trouble_with_a_remedy() {
        let mut device = device(vec![Err("No such device (os error 19)".into())]);
        let Err(SourceError::Trouble(why)) = device.next() else { panic!() };
        assert!(why.contains("/dev/video0") && why.contains("cable") && why.contains("probe"), "{why}");
    }

    #[test]
    fn a_faster_camera_is_thinned_out_to_the_wished_rate_and_one_that_keeps_it_is_not() {
        for (camera_us, passing) in [(100_000, 100), (33_333, 34), (66_667, 67), (80_000, 80), (250_000, 100)] {
            let mut pace = Pace { interval_us: 100_000, next_us: 0 };
            // Up to a tenth early or late.
            let taken_us = |n: u64| 5_000_000 + n * camera_us + n * 7_919 % (camera_us / 5);
            let passed = (0..100).filter(|&n| pace.lets_pass(taken_us(n))).count();
            assert!(passed.abs_diff(passing) <= 2, "{passed} of 100 from one in {camera_us} µs");
        }
    }

    #[test]
    fn the_drivers_time_is_believed_if_it_can_be() {
        let now_us = 20_000_000;
        assert_eq!(taken_us(Some(19_900_000), now_us), 19_900_000);
        for impossible in [None, Some(0), Some(9_000_000), Some(20_000_001)] {
            assert_eq!(taken_us(impossible, now_us), now_us);
        }
        assert_eq!(taken_us(Some(1), 2), 1, "just after the machine's start");
    }
}
