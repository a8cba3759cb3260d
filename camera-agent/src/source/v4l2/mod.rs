//! V4L2 cameras: which there are, what they offer, and which of it is taken.

mod alarm;
pub mod device;
mod pixels;
mod rate;
mod through_nokhwa;
mod through_v4l;

use std::path::{Path, PathBuf};

use v4l::frameinterval::FrameIntervalEnum;
use v4l::framesize::{FrameSizeEnum, Stepwise};
use v4l::video::Capture as _;
use v4l::video::capture::Parameters;
use v4l::{Format, FourCC, Fraction};

pub use device::{Capture, Device, Raw};
pub use rate::Rate;

use super::SourceError;
use through_nokhwa::ThroughNokhwa;
use through_v4l::ThroughV4l;

/// Of a device that takes any size in a range, these are told, and its largest: width and height, pixels.
const SIZES: [(u32, u32); 7] =
    [(320, 240), (640, 360), (640, 480), (800, 600), (1280, 720), (1920, 1080), (3840, 2160)];
/// Of a device that takes any rate in a range, these are told, and its slowest and fastest: frames a second.
const RATES: [u32; 10] = [1, 2, 5, 10, 15, 20, 25, 30, 50, 60];

/// What the configuration would like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The device, for example `/dev/video0`; none for the first camera that can be used.
    pub device: Option<String>,
    /// Width of the pictures, pixels.
    pub width_px: u32,
    /// Height of the pictures, pixels.
    pub height_px: u32,
    /// Pictures taken at most, frames a second.
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

impl Layout {
    /// The layout that one of the kernel's codes stands for; `None` if this program does not read it.
    fn of(code: FourCC) -> Option<Self> {
        match &code.repr {
            b"MJPG" | b"JPEG" => Some(Self::Mjpeg),
            b"YUYV" => Some(Self::Yuyv),
            b"NV12" => Some(Self::Nv12),
            b"GREY" => Some(Self::Gray),
            b"RGB3" => Some(Self::Rgb),
            b"BGR3" => Some(Self::Bgr),
            _ => None,
        }
    }
}

/// One format that a device offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Offer {
    /// How its pixels are laid out in a buffer.
    pub layout: Layout,
    /// Width of its pictures, pixels.
    #[serde(rename = "width")]
    pub width_px: u32,
    /// Height of its pictures, pixels.
    #[serde(rename = "height")]
    pub height_px: u32,
    /// Frames a second, if the driver says.
    pub fps: Option<Rate>,
}

/// The offer to take: MJPEG before others, then the nearest to the wished size, then the nearest rate that is not lower
/// than wished (else the highest).
pub fn choose(offers: &[Offer], wish: &Wish) -> Option<Offer> {
    let wished_area = i64::from(wish.width_px) * i64::from(wish.height_px);
    let wished_milli = u64::from(wish.fps) * 1_000;
    let badness = |offer: &Offer| {
        let (width, height) = (i64::from(offer.width_px), i64::from(offer.height_px));
        let area = width * height;
        let shape = (width * i64::from(wish.height_px) - height * i64::from(wish.width_px)).abs();
        let rate = match offer.fps.map(Rate::milli) {
            Some(milli) if milli >= wished_milli => (0, milli - wished_milli),
            Some(milli) => (1, wished_milli - milli),
            None => (2, 0),
        };
        (offer.layout, (area - wished_area).abs(), shape, rate)
    };
    offers.iter().min_by_key(|offer| badness(offer)).copied()
}

/// A device with what it offers.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Found {
    /// The device's path, for example `/dev/video0`.
    pub device: String,
    /// The camera's name, as its driver tells it.
    pub name: String,
    /// Formats that it offers, or nothing if it cannot be opened or offers none that this program knows.
    pub formats: Vec<Offer>,
    /// Why there are no formats, or empty.
    pub trouble: String,
}

/// All V4L2 devices that pictures can be captured from. They are only asked, also while another program uses them.
///
/// # Errors
/// The system's answer, for people.
pub fn probe() -> Result<Vec<Found>, String> {
    let entries = std::fs::read_dir("/dev").map_err(|error| format!("/dev cannot be listed: {error}"))?;
    let number = |path: &Path| path.file_name()?.to_str()?.strip_prefix("video")?.parse::<u32>().ok();
    let mut devices: Vec<(u32, PathBuf)> =
        entries.flatten().filter_map(|entry| Some((number(&entry.path())?, entry.path()))).collect();
    devices.sort();
    Ok(devices.into_iter().filter_map(|(number, path)| look_at(number, &path)).collect())
}

/// A device for people; nothing if it is no camera: drivers also have outputs, codecs and nodes for metadata.
fn look_at(number: u32, path: &Path) -> Option<Found> {
    let (formats, trouble) = match v4l::Device::with_path(path).and_then(|device| offered(&device, &SIZES)) {
        Ok(Offered { offers, unknown }) if offers.is_empty() && unknown.is_empty() => return None,
        Ok(Offered { offers, unknown }) if offers.is_empty() => (offers, none_known(&unknown)),
        Ok(Offered { offers, .. }) => (offers, String::new()),
        Err(error) => (Vec::new(), format!("{error}; may this user open it (group video)?")),
    };
    let name = std::fs::read_to_string(format!("/sys/class/video4linux/video{number}/name")).unwrap_or_default();
    Some(Found { device: path.display().to_string(), name: name.trim().to_owned(), formats, trouble })
}

fn none_known(unknown: &[String]) -> String {
    format!(
        "it offers {}, which this program does not read; use `kind = \"command\"` with ffmpeg -f v4l2 or rpicam-vid",
        unknown.join(", ")
    )
}

/// Opens the wished device and sets its format.
///
/// # Errors
/// [`SourceError::Trouble`] with the remedy; the device may appear later.
pub fn open(wish: &Wish) -> Result<Device, SourceError> {
    let started = match &wish.device {
        Some(device) => start(device, wish).map(|capture| (device.clone(), capture)).map_err(|why| {
            format!(
                "cannot use the camera {device}: {why}; is it plugged in, free, and may this user read it (group video)? `camera-agent probe` lists cameras"
            )
        }),
        None => probe().and_then(|found| first_of(found, |device| start(device, wish))),
    };
    let (device, capture) = started.map_err(SourceError::Trouble)?;
    Ok(Device::new(capture, device, 1_000_000 / u64::from(wish.fps.max(1))))
}

/// The first camera that can be started. One that lost its power for a moment may return under another number.
fn first_of<C>(found: Vec<Found>, start: impl Fn(&str) -> Result<C, String>) -> Result<(String, C), String> {
    let mut troubles = Vec::new();
    for Found { device, formats, trouble, .. } in found {
        let started = if formats.is_empty() { Err(trouble) } else { start(&device) };
        match started {
            Ok(capture) => return Ok((device, capture)),
            Err(why) => troubles.push(format!("{device}: {why}")),
        }
    }
    Err(match troubles.is_empty() {
        true => "there is no camera: plug one in, or set `source.device` if it is not a /dev/video…".to_owned(),
        false => format!("no camera can be used ({}): `camera-agent probe` lists them", troubles.join("; ")),
    })
}

fn start(path: &str, wish: &Wish) -> Result<Box<dyn Capture>, String> {
    let setting = Setting::of(path, wish)?;
    let (capture, format, through): (Box<dyn Capture>, _, _) = match ThroughNokhwa::start(&setting) {
        Ok((capture, format)) => (Box::new(capture), format, "nokhwa"),
        Err(why) => {
            log::debug!(device = path, why = why.as_str(); "not through nokhwa");
            let (capture, format) = ThroughV4l::start(&setting).map_err(|error| error.to_string())?;
            (Box::new(capture), format, "v4l")
        }
    };
    let Offer { layout, width_px, height_px, fps } = format;
    let fps = fps.map_or_else(|| "unknown".to_owned(), |fps| fps.to_string());
    log::info!(device = path, through, layout:?, width_px, height_px, fps = fps.as_str(); "camera opened");
    Ok(capture)
}

/// What a device is to be set to.
struct Setting {
    path: PathBuf,
    format: Format,
    rate: Option<Rate>,
    /// The rate nearest to that of those with whole frames in a second.
    whole_rate: Option<Rate>,
}

/// What a driver made of a setting.
struct Set {
    code: FourCC,
    format: Offer,
    /// From the start of a line to the next, bytes.
    line_bytes: usize,
}

impl Setting {
    /// The wish, as far as the device can fulfil it.
    fn of(path: &str, wish: &Wish) -> Result<Self, String> {
        let text = |error: std::io::Error| error.to_string();
        let path = Path::new(path).canonicalize().map_err(text)?;
        let device = v4l::Device::with_path(&path).map_err(text)?;
        let sizes = [&SIZES[..], &[(wish.width_px, wish.height_px)]].concat();
        let Offered { offers, unknown } = offered(&device, &sizes).map_err(text)?;
        let offer = choose(&offers, wish).ok_or_else(|| match unknown.is_empty() {
            true => "no pictures can be captured from it".to_owned(),
            false => none_known(&unknown),
        })?;
        let code = codes(&device).map_err(text)?.into_iter().find(|&code| Layout::of(code) == Some(offer.layout));
        let code = code.ok_or("its formats have just changed")?;
        let format = Format::new(offer.width_px, offer.height_px, code);
        Ok(Self { path, format, rate: offer.fps, whole_rate: whole_rate(&offers, &offer) })
    }

    /// Opens the device and sets it: a driver takes what is nearest to what it is asked for, and says what that is.
    fn apply(&self, rate: Option<Rate>) -> std::io::Result<(v4l::Device, Set)> {
        let device = v4l::Device::with_path(&self.path)?;
        let Format { fourcc: code, width: width_px, height: height_px, stride, .. } =
            device.set_format(&self.format)?;
        let insists = || std::io::Error::other(format!("it insists on the format {code}"));
        let layout = Layout::of(code).ok_or_else(insists)?;
        let fps = rate.and_then(|rate| set_rate(&device, rate)).or(rate);
        Ok((device, Set { code, format: Offer { layout, width_px, height_px, fps }, line_bytes: stride as usize }))
    }
}

/// Of the rates that `offers` have for what is `chosen`, the nearest with whole frames in a second.
fn whole_rate(offers: &[Offer], chosen: &Offer) -> Option<Rate> {
    let same = offers.iter().filter(|offer| Offer { fps: chosen.fps, ..**offer } == *chosen);
    let whole = same.filter_map(|offer| offer.fps).filter(|rate| rate.frames().is_multiple_of(rate.seconds()));
    whole.min_by_key(|rate| rate.milli().abs_diff(chosen.fps.map_or(0, Rate::milli)))
}

/// The rate that the driver takes for `rate`; nothing if it has none to set.
fn set_rate(device: &v4l::Device, rate: Rate) -> Option<Rate> {
    let parameters = Parameters::new(Fraction::new(rate.seconds(), rate.frames()));
    match device.set_params(&parameters) {
        Ok(taken) => Rate::new(taken.interval.denominator, taken.interval.numerator),
        Err(error) => {
            log::debug!(error:% = error; "the camera's rate cannot be set");
            None
        }
    }
}

/// What a device offers: what this program reads, in order, and the codes of what it does not.
struct Offered {
    offers: Vec<Offer>,
    unknown: Vec<String>,
}

/// What `device` offers; of a range of sizes those of `sizes` and its largest. Nothing is changed for that.
fn offered(device: &v4l::Device, sizes: &[(u32, u32)]) -> std::io::Result<Offered> {
    let (mut offers, mut unknown) = (Vec::new(), Vec::new());
    for code in codes(device)? {
        let Some(layout) = Layout::of(code) else {
            unknown.push(code.to_string());
            continue;
        };
        for (width_px, height_px) in sizes_of(device, code, sizes)? {
            let rates = rates_of(device, code, width_px, height_px);
            offers.extend(rates.into_iter().map(|fps| Offer { layout, width_px, height_px, fps }));
        }
    }
    offers.sort();
    offers.dedup();
    Ok(Offered { offers, unknown })
}

fn codes(device: &v4l::Device) -> std::io::Result<Vec<FourCC>> {
    Ok(device.enum_formats()?.into_iter().map(|format| format.fourcc).collect())
}

fn sizes_of(device: &v4l::Device, code: FourCC, wanted: &[(u32, u32)]) -> std::io::Result<Vec<(u32, u32)>> {
    let Ok(sizes) = device.enum_framesizes(code) else {
        // Old drivers have one size and no list of it.
        return device.format().map(|format| vec![(format.width, format.height)]);
    };
    Ok(sizes
        .into_iter()
        .flat_map(|size| match size.size {
            FrameSizeEnum::Discrete(size) => vec![(size.width, size.height)],
            FrameSizeEnum::Stepwise(range) => sizes_in(&range, wanted),
        })
        .collect())
}

/// Those of `wanted` that a range has, and its largest.
fn sizes_in(range: &Stepwise, wanted: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let fits = |value: u32, min: u32, max: u32, step: u32| {
        (min..=max).contains(&value) && (value - min).is_multiple_of(step.max(1))
    };
    let fit = wanted.iter().copied().filter(|&(width, height)| {
        fits(width, range.min_width, range.max_width, range.step_width)
            && fits(height, range.min_height, range.max_height, range.step_height)
    });
    fit.chain([(range.max_width, range.max_height)]).collect()
}

/// One unknown rate if the driver has no list.
fn rates_of(device: &v4l::Device, code: FourCC, width_px: u32, height_px: u32) -> Vec<Option<Rate>> {
    let rate = |interval: Fraction| Rate::new(interval.denominator, interval.numerator);
    let intervals = device.enum_frameintervals(code, width_px, height_px).unwrap_or_default();
    let rates: Vec<Option<Rate>> = intervals
        .into_iter()
        .flat_map(|interval| match interval.interval {
            FrameIntervalEnum::Discrete(interval) => vec![rate(interval)],
            FrameIntervalEnum::Stepwise(range) => rates_in(rate(range.max), rate(range.min)),
        })
        .filter(Option::is_some)
        .collect();
    if rates.is_empty() { vec![None] } else { rates }
}

/// Usual rates from the slowest to the fastest, and these two.
fn rates_in(slowest: Option<Rate>, fastest: Option<Rate>) -> Vec<Option<Rate>> {
    let usual = RATES.iter().map(|&rate| Rate::new(rate, 1)).filter(|&rate| slowest < rate && rate < fastest);
    [slowest].into_iter().chain(usual).chain([fastest]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(width_px: u32, height_px: u32, fps: u32) -> Wish {
        Wish { device: None, width_px, height_px, fps }
    }

    fn offer(layout: Layout, width_px: u32, height_px: u32, fps: u32) -> Offer {
        Offer { layout, width_px, height_px, fps: Rate::new(fps, 1) }
    }

    #[test]
    fn the_format_nearest_to_the_wish_is_chosen_mjpeg_first() {
        let wish = wish(1280, 720, 10);
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
    fn broken_and_unknown_rates_are_chosen_by_the_same_rule() {
        let at = |frames, seconds| Offer { fps: Rate::new(frames, seconds), ..offer(Layout::Yuyv, 640, 480, 1) };
        let offers = [at(0, 1), at(15, 2), at(25, 2), at(30, 1)];
        assert_eq!(choose(&offers, &wish(640, 480, 10)), Some(at(25, 2)));
        assert_eq!(choose(&offers[..2], &wish(640, 480, 10)), Some(at(15, 2)));
        assert_eq!(choose(&offers[..1], &wish(640, 480, 10)), Some(at(0, 1)));
    }

    #[test]
    fn for_a_broken_rate_the_nearest_whole_one_of_the_same_format_is_known() {
        let at = |frames, seconds| Offer { fps: Rate::new(frames, seconds), ..offer(Layout::Yuyv, 640, 480, 1) };
        let offers = [at(5, 1), at(10, 1), at(25, 2), at(20, 1), offer(Layout::Yuyv, 320, 240, 12), at(0, 1)];
        assert_eq!(whole_rate(&offers, &at(25, 2)), Rate::new(10, 1));
        assert_eq!(whole_rate(&offers, &at(20, 1)), Rate::new(20, 1));
        assert_eq!(whole_rate(&[at(25, 2), at(0, 1)], &at(25, 2)), None);
    }

    #[test]
    fn of_ranges_the_usual_and_the_extreme_are_offered() {
        let range = Stepwise {
            min_width: 48,
            max_width: 1920,
            step_width: 2,
            min_height: 16,
            max_height: 1200,
            step_height: 1,
        };
        let wanted = [(640, 480), (641, 480), (1280, 720), (3840, 2160), (32, 32)];
        assert_eq!(sizes_in(&range, &wanted), [(640, 480), (1280, 720), (1920, 1200)]);
        let rates: Vec<String> =
            rates_in(Rate::new(3, 2), Rate::new(30, 1)).into_iter().flatten().map(|rate| rate.to_string()).collect();
        assert_eq!(rates, ["1.5", "2", "5", "10", "15", "20", "25", "30"]);
    }

    #[test]
    fn codes_are_the_kernels() {
        let layouts = [b"MJPG", b"YUYV", b"NV12", b"GREY", b"RGB3", b"BGR3"].map(|code| Layout::of(FourCC::new(code)));
        assert!(layouts.iter().all(Option::is_some) && layouts.is_sorted(), "{layouts:?}");
        assert_eq!(Layout::of(FourCC::new(b"H264")), None);
    }

    #[test]
    fn an_unknown_rate_is_told_as_none_in_json() {
        let json = |fps| serde_json::to_string(&Offer { fps, ..offer(Layout::Yuyv, 2, 2, 1) }).unwrap();
        assert_eq!(json(None), r#"{"layout":"yuyv","width":2,"height":2,"fps":null}"#);
        assert!(json(Rate::new(25, 2)).contains(r#""fps":12.5"#));
    }

    #[test]
    fn without_a_device_the_first_camera_that_can_be_used_is_taken() {
        let found = |device: &str, formats: Vec<Offer>, trouble: &str| Found {
            device: device.into(),
            name: String::new(),
            formats,
            trouble: trouble.into(),
        };
        let offer = Offer { layout: Layout::Mjpeg, width_px: 640, height_px: 480, fps: None };
        let raw = || found("/dev/video0", Vec::new(), "it offers pBAA");
        let cameras = ["/dev/video2", "/dev/video4"].map(|device| found(device, vec![offer], ""));
        let all = || [vec![raw()], cameras.to_vec()].concat();
        let busy = |device: &str| if device == "/dev/video2" { Err("busy".to_owned()) } else { Ok(()) };
        let none = |_: &str| Err::<(), _>("busy".to_owned());
        assert_eq!(first_of(all(), |_| Ok(())), Ok(("/dev/video2".into(), ())));
        assert_eq!(first_of(all(), busy), Ok(("/dev/video4".into(), ())));
        let whys = ["/dev/video0: it offers pBAA", "/dev/video2: busy", "/dev/video4: busy"];
        assert!(first_of(all(), none).is_err_and(|told| whys.iter().all(|why| told.contains(why))));
        assert!(first_of(Vec::new(), none).is_err_and(|why| why.contains("plug one in")));
    }

    #[test]
    fn a_device_that_is_not_there_is_trouble_with_a_remedy() {
        let absent = Wish { device: Some("/dev/video-none".into()), ..wish(1, 1, 1) };
        let Err(SourceError::Trouble(why)) = open(&absent).map(|_| ()) else { panic!() };
        assert!(why.contains("plugged in") && why.contains("camera-agent probe"), "{why}");
        let no_camera = Wish { device: Some("/dev/null".into()), ..absent };
        let Err(SourceError::Trouble(why)) = open(&no_camera).map(|_| ()) else { panic!() };
        assert!(why.contains("no pictures can be captured from it"), "{why}");
    }
}
