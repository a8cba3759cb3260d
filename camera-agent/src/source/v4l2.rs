//! A V4L2 camera through nokhwa.
//!
//! nokhwa hands out the whole capture buffer, not only the bytes that the driver filled, and waits for a frame without
//! a limit: pictures are cut at their own end marker, and a camera that falls silent is noticed by the agent.

use std::path::Path;

use microlambda_runtime::unix_ms;
use nokhwa::Camera;
use nokhwa::utils::{ApiBackend, CameraFormat, CameraIndex, FrameFormat, RequestedFormat, RequestedFormatType};

use super::{Captured, Next, Source, SourceError};
use crate::jpeg;
use crate::picture::Picture;

/// What the configuration would like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The device, for example `/dev/video0`.
    pub device: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Frames a second.
    pub fps: u32,
}

/// How pixels are laid out in a capture buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// One JPEG a frame.
    Mjpeg,
    /// 4:2:2, two pixels in four bytes.
    Yuyv,
    /// 4:2:0, a plane of brightness and one of colour pairs.
    Nv12,
    /// One byte a pixel.
    Gray,
    /// Three bytes a pixel.
    Rgb,
    /// Three bytes a pixel, blue first.
    Bgr,
}

/// One format that a device offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Offer {
    /// Layout.
    pub layout: Layout,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Frames a second.
    pub fps: u32,
}

/// One captured buffer.
#[derive(Debug, Clone, Copy)]
pub struct Raw<'a> {
    /// The buffer; longer than the picture, perhaps.
    pub bytes: &'a [u8],
    /// What it holds.
    pub format: Offer,
}

/// What gives buffers: a device, or a double in tests.
pub trait Capture {
    /// Waits for the next buffer and hands it to `take`.
    ///
    /// # Errors
    /// What went wrong; the device has to be opened again.
    fn capture(&mut self, take: &mut dyn FnMut(Raw<'_>)) -> Result<(), String>;
}

/// A camera as a source.
pub struct Device<C> {
    capture: C,
    name: String,
}

impl<C: Capture> Device<C> {
    /// Takes pictures from `capture`; `name` stands in messages.
    pub fn new(capture: C, name: impl Into<String>) -> Self {
        Self { capture, name: name.into() }
    }
}

impl<C: Capture> Source for Device<C> {
    fn next(&mut self) -> Result<Next, SourceError> {
        let mut picture = Err("the device gave no buffer".to_owned());
        let captured = self.capture.capture(&mut |raw| picture = picture_of(raw));
        let captured_at_ms = unix_ms();
        captured.map_err(|why| {
            SourceError::Trouble(format!(
                "{} gives no pictures ({why}): check its cable and power; `camera-agent probe` lists cameras",
                self.name
            ))
        })?;
        Ok(match picture {
            Ok(picture) => Next::Frame(Captured { picture, captured_at_ms, label: String::new(), input: None }),
            Err(why) => Next::PassedOver { why: format!("a frame of {}: {why}", self.name), input: None },
        })
    }
}

/// The picture in a buffer; MJPEG stays as it is.
fn picture_of(raw: Raw<'_>) -> Result<Picture, String> {
    let Offer { layout, width, height, .. } = raw.format;
    let cut_short = || {
        format!("{} bytes are too few for {layout:?} {width}×{height}: try another size in [source]", raw.bytes.len())
    };
    let pixels = width as usize * height as usize;
    let plane = |bytes: usize| raw.bytes.get(..bytes).ok_or_else(cut_short);
    let rgb = |pixels| Ok(Picture::Rgb { width, height, pixels });
    match layout {
        Layout::Mjpeg => match jpeg::whole_picture(raw.bytes) {
            Some(picture) => Ok(Picture::File(picture.to_vec())),
            None => Err("the camera sent a picture without its end: use a shorter cable or a smaller size".into()),
        },
        Layout::Yuyv => rgb(plane(pixels * 2)?
            .chunks_exact(4)
            .flat_map(|p| {
                let [a, b] = [yuv(p[0], p[1], p[3]), yuv(p[2], p[1], p[3])];
                [a[0], a[1], a[2], b[0], b[1], b[2]]
            })
            .collect()),
        Layout::Nv12 => {
            let bytes = plane(pixels + pixels / 2)?;
            let (luma, chroma) = bytes.split_at(pixels);
            let width = width as usize;
            rgb(luma
                .iter()
                .enumerate()
                .flat_map(|(i, &y)| {
                    let pair = (i / width / 2) * width + (i % width / 2) * 2;
                    yuv(y, chroma.get(pair).copied().unwrap_or(128), chroma.get(pair + 1).copied().unwrap_or(128))
                })
                .collect())
        }
        Layout::Gray => rgb(plane(pixels)?.iter().flat_map(|&y| [y; 3]).collect()),
        Layout::Rgb => rgb(plane(pixels * 3)?.to_vec()),
        Layout::Bgr => rgb(plane(pixels * 3)?.chunks_exact(3).flat_map(|p| [p[2], p[1], p[0]]).collect()),
    }
}

/// One pixel after ITU-R BT.601, studio range, as webcams send it.
fn yuv(y: u8, u: u8, v: u8) -> [u8; 3] {
    let (c, d, e) = (i32::from(y) - 16, i32::from(u) - 128, i32::from(v) - 128);
    let byte = |value: i32| u8::try_from(((value + 128) >> 8).clamp(0, 255)).unwrap_or(0);
    [byte(298 * c + 409 * e), byte(298 * c - 100 * d - 208 * e), byte(298 * c + 516 * d)]
}

/// The offer to take: MJPEG before others, then the nearest to the wished size, then the nearest rate that is not lower
/// than wished (else the highest).
pub fn choose(offers: &[Offer], wish: &Wish) -> Option<Offer> {
    let wished_area = i64::from(wish.width) * i64::from(wish.height);
    let badness = |offer: &Offer| {
        let area = i64::from(offer.width) * i64::from(offer.height);
        let shape =
            (i64::from(offer.width) * i64::from(wish.height) - i64::from(offer.height) * i64::from(wish.width)).abs();
        let rate = if offer.fps >= wish.fps { offer.fps - wish.fps } else { 1_000 + wish.fps - offer.fps };
        (offer.layout, (area - wished_area).abs(), shape, rate)
    };
    offers.iter().min_by_key(|offer| badness(offer)).copied()
}

/// A device with what it offers.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Found {
    /// Its path.
    pub device: String,
    /// Its name.
    pub name: String,
    /// Formats, or nothing if it cannot be opened or gives no pictures.
    pub formats: Vec<Offer>,
    /// Why there are no formats, or empty.
    pub trouble: String,
}

/// All V4L2 devices.
///
/// # Errors
/// The system's answer, for people.
pub fn probe() -> Result<Vec<Found>, String> {
    let mut devices = nokhwa::query(ApiBackend::Video4Linux).map_err(|error| error.to_string())?;
    devices.sort_by_key(|device| device.index().as_index().unwrap_or(u32::MAX));
    Ok(devices
        .into_iter()
        .map(|device| {
            let index = device.index().as_index().unwrap_or(u32::MAX);
            let (formats, trouble) = match offers(index) {
                Ok(formats) => (formats, String::new()),
                Err(why) => (Vec::new(), why),
            };
            Found { device: format!("/dev/video{index}"), name: device.human_name(), formats, trouble }
        })
        .collect())
}

/// Opens the wished device.
///
/// # Errors
/// [`SourceError::Trouble`] with the remedy; the device may appear later.
pub fn open(wish: &Wish) -> Result<Device<NokhwaCapture>, SourceError> {
    let trouble = |why: String| {
        SourceError::Trouble(format!(
            "cannot use the camera {}: {why}; is it plugged in, free, and may this user read it (group video)? `camera-agent probe` lists cameras",
            wish.device
        ))
    };
    let index = index_of(&wish.device).map_err(trouble)?;
    let offers = offers(index).map_err(trouble)?;
    let offer = choose(&offers, wish).ok_or_else(|| {
        trouble("it offers no format this program knows; use `kind = \"command\"` with ffmpeg -f v4l2 instead".into())
    })?;
    let format = CameraFormat::new_from(offer.width, offer.height, frame_format(offer.layout), offer.fps);
    let request = RequestedFormat::with_formats(RequestedFormatType::Exact(format), ALL);
    let mut camera = Camera::new(CameraIndex::Index(index), request).map_err(|error| trouble(error.to_string()))?;
    camera.open_stream().map_err(|error| trouble(error.to_string()))?;
    log::info!(device = wish.device.as_str(), layout:? = offer.layout, width = offer.width, height = offer.height, fps = offer.fps; "camera opened");
    Ok(Device::new(NokhwaCapture { camera, format: offer }, wish.device.clone()))
}

/// A device that nokhwa has opened.
pub struct NokhwaCapture {
    camera: Camera,
    format: Offer,
}

impl Capture for NokhwaCapture {
    fn capture(&mut self, take: &mut dyn FnMut(Raw<'_>)) -> Result<(), String> {
        let bytes = self.camera.frame_raw().map_err(|error| error.to_string())?;
        take(Raw { bytes: &bytes, format: self.format });
        Ok(())
    }
}

const ALL: &[FrameFormat] = &[
    FrameFormat::MJPEG,
    FrameFormat::YUYV,
    FrameFormat::NV12,
    FrameFormat::GRAY,
    FrameFormat::RAWRGB,
    FrameFormat::RAWBGR,
];

/// What device `index` offers. It is opened for that, which needs some format: the highest resolution always exists.
fn offers(index: u32) -> Result<Vec<Offer>, String> {
    let request = RequestedFormat::with_formats(RequestedFormatType::AbsoluteHighestResolution, ALL);
    let mut camera = Camera::new(CameraIndex::Index(index), request).map_err(|error| error.to_string())?;
    let formats = camera.compatible_camera_formats().map_err(|error| error.to_string())?;
    let offer = |format: CameraFormat| Offer {
        layout: layout(format.format()),
        width: format.width(),
        height: format.height(),
        fps: format.frame_rate(),
    };
    let mut offers: Vec<Offer> = formats.into_iter().map(offer).collect();
    offers.sort_by_key(|offer| (offer.layout, offer.width, offer.height, offer.fps));
    offers.dedup();
    Ok(offers)
}

fn layout(format: FrameFormat) -> Layout {
    match format {
        FrameFormat::MJPEG => Layout::Mjpeg,
        FrameFormat::YUYV => Layout::Yuyv,
        FrameFormat::NV12 => Layout::Nv12,
        FrameFormat::GRAY => Layout::Gray,
        FrameFormat::RAWRGB => Layout::Rgb,
        FrameFormat::RAWBGR => Layout::Bgr,
    }
}

fn frame_format(layout: Layout) -> FrameFormat {
    match layout {
        Layout::Mjpeg => FrameFormat::MJPEG,
        Layout::Yuyv => FrameFormat::YUYV,
        Layout::Nv12 => FrameFormat::NV12,
        Layout::Gray => FrameFormat::GRAY,
        Layout::Rgb => FrameFormat::RAWRGB,
        Layout::Bgr => FrameFormat::RAWBGR,
    }
}

/// The number of `/dev/videoN`, also behind a link such as those in `/dev/v4l/by-id`.
fn index_of(device: &str) -> Result<u32, String> {
    let path = Path::new(device).canonicalize().map_err(|error| error.to_string())?;
    path.to_str()
        .and_then(|path| path.strip_prefix("/dev/video"))
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| format!("{} is no /dev/videoN", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{photo, photo_jpeg, without_huffman_tables};

    struct Double {
        buffers: Vec<Result<Vec<u8>, String>>,
        format: Offer,
    }

    impl Capture for Double {
        fn capture(&mut self, take: &mut dyn FnMut(Raw<'_>)) -> Result<(), String> {
            let bytes = self.buffers.remove(0)?;
            take(Raw { bytes: &bytes, format: self.format });
            Ok(())
        }
    }

    fn device(layout: Layout, width: u32, height: u32, buffers: Vec<Result<Vec<u8>, String>>) -> Device<Double> {
        Device::new(Double { buffers, format: Offer { layout, width, height, fps: 10 } }, "/dev/video0")
    }

    fn frame(device: &mut Device<Double>) -> Captured {
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
        let mut device = device(Layout::Mjpeg, 320, 240, vec![Ok(long.clone()), Ok(reused)]);
        assert_eq!(frame(&mut device).picture, Picture::File(long));
        assert_eq!(frame(&mut device).picture, Picture::File(short));
    }

    #[test]
    fn mjpeg_without_huffman_tables_becomes_a_file_that_everyone_can_read_and_nothing_else_changes() {
        let whole = photo_jpeg(64, 48, 1);
        let mut device = device(Layout::Mjpeg, 64, 48, vec![Ok(without_huffman_tables(&whole))]);
        let prepared = crate::picture::prepare(frame(&mut device).picture, 1 << 20).unwrap();
        assert!(!prepared.reencoded);
        let pixels = |jpeg: &[u8]| image::load_from_memory(jpeg).unwrap().to_rgb8();
        assert_eq!(pixels(&prepared.jpeg), pixels(&whole));
    }

    #[test]
    fn a_picture_without_its_end_is_passed_over() {
        let jpeg = photo_jpeg(64, 48, 1);
        let mut device =
            device(Layout::Mjpeg, 64, 48, vec![Ok(jpeg[..jpeg.len() - 2].to_vec()), Ok(Vec::new()), Ok(jpeg)]);
        assert!(matches!(device.next(), Ok(Next::PassedOver { why, .. }) if why.contains("without its end")));
        assert!(matches!(device.next(), Ok(Next::PassedOver { .. })));
        frame(&mut device);
    }

    #[test]
    fn an_unplugged_camera_is_trouble_with_a_remedy() {
        let mut device = device(Layout::Mjpeg, 64, 48, vec![Err("No such device (os error 19)".into())]);
        let Err(SourceError::Trouble(why)) = device.next() else { panic!() };
        assert!(why.contains("/dev/video0") && why.contains("cable") && why.contains("probe"), "{why}");
    }

    fn mean_distance(picture: &Picture, expected: &image::RgbImage) -> f64 {
        let Picture::Rgb { pixels, .. } = picture else { panic!() };
        assert_eq!(pixels.len(), expected.as_raw().len());
        let sum: u64 = pixels.iter().zip(expected.as_raw()).map(|(&a, &b)| u64::from(a.abs_diff(b))).sum();
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
        let seen = frame(&mut device(Layout::Yuyv, 32, 24, vec![Ok(yuyv)])).picture;
        assert!(mean_distance(&seen, &expected) < 2.0, "{}", mean_distance(&seen, &expected));
        let seen = frame(&mut device(Layout::Nv12, 32, 24, vec![Ok(nv12)])).picture;
        assert!(mean_distance(&seen, &expected) < 2.0, "{}", mean_distance(&seen, &expected));
    }

    #[test]
    fn gray_rgb_and_bgr_buffers_are_read_and_short_ones_passed_over() {
        let rgb = photo(16, 16, 3);
        let bgr: Vec<u8> = rgb.as_raw().chunks(3).flat_map(|p| [p[2], p[1], p[0]]).collect();
        assert_eq!(
            mean_distance(&frame(&mut device(Layout::Rgb, 16, 16, vec![Ok(rgb.as_raw().clone())])).picture, &rgb),
            0.0
        );
        assert_eq!(mean_distance(&frame(&mut device(Layout::Bgr, 16, 16, vec![Ok(bgr)])).picture, &rgb), 0.0);
        let gray = frame(&mut device(Layout::Gray, 16, 16, vec![Ok(vec![9; 256])])).picture;
        assert_eq!(gray, Picture::Rgb { width: 16, height: 16, pixels: vec![9; 768] });
        for layout in [Layout::Yuyv, Layout::Nv12, Layout::Gray, Layout::Rgb, Layout::Bgr] {
            assert!(matches!(device(layout, 16, 16, vec![Ok(vec![0; 200])]).next(), Ok(Next::PassedOver { .. })));
        }
    }

    #[test]
    fn the_format_nearest_to_the_wish_is_chosen_mjpeg_first() {
        let wish = Wish { device: String::new(), width: 1280, height: 720, fps: 10 };
        let offer = |layout, width, height, fps| Offer { layout, width, height, fps };
        let offers = [
            offer(Layout::Yuyv, 1280, 720, 10),
            offer(Layout::Mjpeg, 1920, 1080, 30),
            offer(Layout::Mjpeg, 1280, 720, 5),
            offer(Layout::Mjpeg, 1280, 720, 15),
            offer(Layout::Mjpeg, 1280, 720, 30),
            offer(Layout::Mjpeg, 640, 480, 10),
        ];
        assert_eq!(choose(&offers, &wish), Some(offer(Layout::Mjpeg, 1280, 720, 15)));
        assert_eq!(choose(&offers[..1], &wish), Some(offers[0]));
        assert_eq!(choose(&offers[1..3], &wish), Some(offers[2]), "the size counts more than the rate");
        assert_eq!(choose(&[], &wish), None);
    }

    #[test]
    fn a_device_that_is_not_there_is_trouble_with_a_remedy() {
        let wish = Wish { device: "/dev/video-none".into(), width: 1, height: 1, fps: 1 };
        let Err(SourceError::Trouble(why)) = open(&wish).map(|_| ()) else { panic!() };
        assert!(why.contains("plugged in") && why.contains("camera-agent probe"), "{why}");
        let no_camera = Wish { device: "/dev/null".into(), ..wish };
        assert!(
            matches!(open(&no_camera).map(|_| ()), Err(SourceError::Trouble(why)) if why.contains("no /dev/videoN"))
        );
    }
}
