//! Taking pictures with nokhwa, as from every camera that it can open.
//!
//! It opens no camera whose pixel format or frame rate it has no name for, also if that is merely what an earlier program has
//! left behind. So v4l sets the camera first, at a rate of whole frames a second; nokhwa takes that over; v4l sets the very rate
//! before nokhwa starts the stream. Each time v4l's handle is closed: to uvcvideo a camera belongs to the handle that set it.
//!
//! Of a buffer it tells the time, but neither how much is filled (an MJPEG picture is cut at its end marker, which is enough) nor
//! whether the driver calls it damaged. It waits for a picture for ever: an alarm interrupts it. A poll before the wait would not
//! do, as the stream starts in the first one.

use std::panic::catch_unwind;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use microlambda_runtime::monotonic_us;
use nokhwa::Camera;
use nokhwa::utils::{ApiBackend, CameraFormat, CameraIndex, FrameFormat, RequestedFormat, RequestedFormatType};
use v4l::FourCC;
use v4l::video::Capture as _;

use super::alarm::Alarm;
use super::device::{Capture, Raw, SILENCE, silent, taken_us};
use super::{Offer, Rate, Setting, set_rate};

/// A camera that nokhwa has opened.
pub(super) struct ThroughNokhwa {
    camera: Camera,
    alarm: Alarm,
    format: Offer,
    line_bytes: usize,
}

impl ThroughNokhwa {
    /// Opens the camera and starts it; what the driver made of the setting.
    ///
    /// # Errors
    /// The system's answer, or why nokhwa cannot.
    pub(super) fn start(setting: &Setting) -> Result<(Self, Offer), String> {
        let index = index_of(&setting.path).ok_or("nokhwa looks for cameras at /dev/videoN alone")?;
        let (device, set) = setting.apply(setting.whole_rate).map_err(|error| error.to_string())?;
        let pixels = named(set.code).ok_or_else(|| format!("nokhwa has no name for {}", set.code))?;
        let fps = match device.params() {
            Ok(parameters) if parameters.interval.numerator == 1 => parameters.interval.denominator,
            _ => return Err("the camera has no rate of whole frames a second".into()),
        };
        drop(device);
        let mut format = Offer { fps: Rate::new(fps, 1), ..set.format };
        let mut camera = open(index, CameraFormat::new_from(format.width_px, format.height_px, pixels, fps))?;
        if setting.rate.is_some() && setting.rate != format.fps {
            let device = v4l::Device::with_path(&setting.path).map_err(|error| error.to_string())?;
            format.fps = setting.rate.and_then(|rate| set_rate(&device, rate)).or(format.fps);
        }
        camera.open_stream().map_err(|error| error.to_string())?;
        let alarm = Alarm::new().map_err(|error| error.to_string())?;
        Ok((Self { camera, alarm, format, line_bytes: set.line_bytes }, format))
    }
}

impl Capture for ThroughNokhwa {
    fn capture(&mut self, take: &mut dyn FnMut(u64, &Raw<'_>)) -> Result<(), String> {
        let began = Instant::now();
        self.alarm.set(SILENCE);
        // The buffer as it is, like `frame_raw`'s, and its time.
        let frame = self.camera.frame();
        self.alarm.set(Duration::ZERO);
        let frame = frame.map_err(|error| if began.elapsed() < SILENCE { error.to_string() } else { silent() })?;
        let Offer { layout, width_px, height_px, .. } = self.format;
        let raw =
            Raw { bytes: frame.buffer(), layout, width_px, height_px, line_bytes: self.line_bytes, damaged: false };
        let now_us = monotonic_us();
        let age_us = frame.capture_timestamp().and_then(|taken| {
            SystemTime::now().duration_since(UNIX_EPOCH).ok()?.checked_sub(taken)?.as_micros().try_into().ok()
        });
        take(taken_us(age_us.and_then(|age_us| now_us.checked_sub(age_us)), now_us), &raw);
        Ok(())
    }
}

/// nokhwa panics over ranges without a step, which some cameras have.
fn open(index: u32, format: CameraFormat) -> Result<Camera, String> {
    let opened = catch_unwind(move || {
        let formats = [format.format()];
        let request = RequestedFormat::with_formats(RequestedFormatType::Exact(format), &formats);
        Camera::with_backend(CameraIndex::Index(index), request, ApiBackend::Video4Linux)
    });
    opened.map_err(|_| "nokhwa panicked".to_owned())?.map_err(|error| error.to_string())
}

/// The number of `/dev/videoN`.
fn index_of(path: &Path) -> Option<u32> {
    path.to_str()?.strip_prefix("/dev/video")?.parse().ok()
}

/// nokhwa's name for a format; none for gray, for which it has a code that no driver uses.
fn named(code: FourCC) -> Option<FrameFormat> {
    match &code.repr {
        b"MJPG" => Some(FrameFormat::MJPEG),
        b"YUYV" => Some(FrameFormat::YUYV),
        b"NV12" => Some(FrameFormat::NV12),
        b"RGB3" => Some(FrameFormat::RAWRGB),
        b"BGR3" => Some(FrameFormat::RAWBGR),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::v4l2::Layout;

    #[test]
    fn nokhwa_takes_every_layout_but_gray() {
        for code in [b"MJPG", b"YUYV", b"NV12", b"RGB3", b"BGR3"].map(FourCC::new) {
            assert!(Layout::of(code).is_some() && named(code).is_some(), "{code}");
        }
        assert_eq!([b"GREY", b"JPEG"].map(|code| named(FourCC::new(code))), [None, None]);
    }

    #[test]
    fn cameras_have_numbers() {
        assert_eq!(index_of(Path::new("/dev/video12")), Some(12));
        assert_eq!(["/dev/video", "/dev/null", "/srv/video1"].map(|path| index_of(Path::new(path))), [None; 3]);
    }
}
