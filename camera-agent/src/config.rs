//! The configuration file, and what it means.

use std::path::{Path, PathBuf};

use microlambda_runtime::{BrokerConfig, ConfigError, config, without_passwords};
use microlambda_wire::{CAMERA_LEN_MAX, ChainClass, Name};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::picture::{FrameBounds, PIXELS_LIMIT};
use crate::source::command::CommandLine;
use crate::source::v4l2::Wish;
use crate::spool::{FOLDER_PREFIX, Limits};

/// This program's name in remedies.
pub const PROGRAM: &str = "camera-agent";
/// A commented configuration with every key.
pub const EXAMPLE: &str = include_str!("../camera.toml");
/// A frame must pass in one MQTT packet, bytes.
pub const FRAME_BYTES_LIMIT: u64 = 16 << 20;
/// Below this no picture is worth looking at, bytes.
const FRAME_BYTES_LEAST: u64 = 16 << 10;
/// A larger picture is halved by default, pixels: nodes search none of more than this by default either.
const FRAME_PIXELS_DEFAULT: u64 = 16_000_000;
/// With fewer the faces of people who stand a little away are lost, pixels.
const FRAME_PIXELS_LEAST: u64 = 1_000_000;
/// Nobody should stand before a camera for longer without being seen, s.
const STILL_INTERVAL_S_MAX: u64 = 3_600;
/// A command that gives nothing for longer than a day is not waited for: 0 says so.
const SILENCE_S_MAX: u64 = 86_400;
/// A live source that gives nothing for this long is in trouble, µs.
pub const SILENT_US: u64 = 15_000_000;
/// A program that reads a camera over the network tries for half a minute and more by itself, s.
const SILENCE_S_DEFAULT: u64 = 60;
/// Frames a spool must be able to hold.
const SPOOL_FRAMES_LEAST: u64 = 8;

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The site that camera and nodes belong to, which is part of every topic.
    pub site: Name,
    /// The camera's name, as topics and chains carry it.
    pub camera: Name,
    /// The folder of the spool.
    pub state_dir: PathBuf,
    /// Where the MQTT broker is, and how to log in there.
    pub broker: BrokerConfig,
    /// Where pictures come from.
    pub source: SourceConfig,
    /// How much the spool holds at most.
    pub spool: Limits,
    /// The chain goes on without released frames whose results no live node has had for so long, s; 0 is never.
    pub restart_after_s: u64,
    /// No frame is longer, bytes.
    pub frame_bytes_max: usize,
    /// No frame has more pixels.
    pub frame_pixels_max: u64,
    /// How often the picture for dashboards is published, s; 0 for never.
    pub image_interval_s: u64,
    /// Of a live source's pictures in which nothing moves one is kept this often, s; 0 keeps them all.
    pub still_interval_s: u64,
}

/// Where pictures come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceConfig {
    /// A folder of pictures.
    Folder {
        /// The folder's path.
        path: PathBuf,
    },
    /// A V4L2 camera of this computer.
    V4l2(Wish),
    /// A program that writes MJPEG.
    Command(CommandLine),
}

impl SourceConfig {
    /// Whether it has an end.
    pub fn class(&self) -> ChainClass {
        match self {
            Self::Folder { .. } | Self::Command(CommandLine { finite: true, .. }) => ChainClass::Batch,
            Self::V4l2(_) | Self::Command(CommandLine { finite: false, .. }) => ChainClass::Live,
        }
    }

    /// After how long without a picture it is in trouble, µs; `None` if it may be silent: it is not live, or a command that writes when something moves.
    pub fn silence_us_max(&self) -> Option<u64> {
        match self {
            Self::V4l2(_) => Some(SILENT_US),
            Self::Command(line) if line.finite || line.silence_s == 0 => None,
            // Who has asked for more patience than usual knows of its pauses.
            Self::Command(line) if line.silence_s > SILENCE_S_DEFAULT => Some(line.silence_s * 1_000_000),
            Self::Command(_) => Some(SILENT_US),
            Self::Folder { .. } => None,
        }
    }

    /// For people, and to recognise a finite input: everybody on the bus sees it, so it holds no password.
    pub fn describe(&self) -> String {
        match self {
            Self::Folder { path } => format!("{FOLDER_PREFIX}{}", path.display()),
            Self::V4l2(Wish { device: Some(device), .. }) => format!("camera {device}"),
            Self::V4l2(Wish { device: None, .. }) => "camera, the first one".to_owned(),
            Self::Command(line) => format!("command {}", line.shown()),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawConfig {
    #[serde(default = "default_site")]
    site: Name,
    #[serde(default, deserialize_with = "camera_name")]
    camera: Option<Name>,
    #[serde(default = "default_state_dir")]
    state_dir: PathBuf,
    #[serde(default)]
    broker: BrokerConfig,
    source: RawSource,
    #[serde(default)]
    spool: RawSpool,
    #[serde(default)]
    frame: RawFrame,
    #[serde(default)]
    image: RawImage,
    #[serde(default)]
    motion: RawMotion,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawSource {
    kind: SourceKind,
    path: Option<PathBuf>,
    device: Option<String>,
    width: Option<u32>,
    height: Option<u32>,
    fps: Option<u32>,
    command: Option<Vec<String>>,
    finite: Option<bool>,
    silence_s: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SourceKind {
    Folder,
    V4l2,
    Command,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct RawSpool {
    bytes_max: u64,
    frames_max: u64,
    restart_after_s: u64,
}

impl Default for RawSpool {
    fn default() -> Self {
        Self { bytes_max: 256 << 20, frames_max: 10_000, restart_after_s: 3_600 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct RawFrame {
    bytes_max: u64,
    pixels_max: u64,
}

impl Default for RawFrame {
    fn default() -> Self {
        Self { bytes_max: 4 << 20, pixels_max: FRAME_PIXELS_DEFAULT }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct RawImage {
    interval_s: u64,
}

impl Default for RawImage {
    fn default() -> Self {
        Self { interval_s: 10 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct RawMotion {
    still_interval_s: u64,
}

impl Default for RawMotion {
    /// Half of the pause over which nodes follow people, and a twelfth of the absence after which they report somebody again: who stands
    /// still is not taken for gone.
    fn default() -> Self {
        Self { still_interval_s: 5 }
    }
}

/// Shorter than other names, as it is part of its chain's.
fn camera_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Name>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let shown: String = text.chars().take(CAMERA_LEN_MAX + 1).collect();
    let name = Name::new(text).ok().filter(|name| name.as_str().len() <= CAMERA_LEN_MAX);
    let why =
        || format!("{shown:?} is no camera's name: use 1 to {CAMERA_LEN_MAX} characters out of a-z, 0-9, _ and -");
    name.map(Some).ok_or_else(|| D::Error::custom(why()))
}

fn default_site() -> Name {
    Name::new("home").unwrap_or_else(|_| unreachable!("a constant name"))
}

fn default_state_dir() -> PathBuf {
    "/var/lib/microlambda/camera".into()
}

impl Config {
    /// Reads and checks `path`. Nothing but the file itself (and the broker's password and certificate files) is
    /// looked at: a device may be unplugged and a folder not mounted when a configuration is checked.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        check(config::load(path, PROGRAM)?).map_err(|error| error.in_file(path))
    }

    /// What `validate --json` prints: the whole configuration with its defaults, as the file would write it but for passwords.
    pub fn report(&self) -> Value {
        let source = match &self.source {
            SourceConfig::Folder { path } => json!({ "kind": "folder", "path": path }),
            SourceConfig::V4l2(wish) => json!({
                "kind": "v4l2", "device": wish.device, "width": wish.width_px, "height": wish.height_px, "fps": wish.fps,
            }),
            SourceConfig::Command(line) => json!({
                "kind": "command", "finite": line.finite, "silence-s": line.silence_s,
                "command": line.argv.iter().map(|word| without_passwords(word)).collect::<Vec<_>>(),
            }),
        };
        let config = json!({
            "site": self.site, "camera": self.camera, "state-dir": self.state_dir, "broker": self.broker, "source": source,
            "spool": { "bytes-max": self.spool.bytes_max, "frames-max": self.spool.frames_max, "restart-after-s": self.restart_after_s },
            "frame": { "bytes-max": self.frame_bytes_max, "pixels-max": self.frame_pixels_max },
            "image": { "interval-s": self.image_interval_s },
            "motion": { "still-interval-s": self.still_interval_s },
        });
        json!({
            "valid": true, "camera": self.camera, "site": self.site, "class": self.source.class(),
            "source": self.source.describe(), "config": config,
        })
    }

    /// What a frame may be at most.
    pub fn frame_bounds(&self) -> FrameBounds {
        FrameBounds { bytes_max: self.frame_bytes_max, pixels_max: self.frame_pixels_max }
    }

    /// As [`load`](Self::load), from text.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        check(config::parse(text, path, PROGRAM)?).map_err(|error| error.in_file(path))
    }
}

fn check(raw: RawConfig) -> Result<Config, ConfigError> {
    let camera = raw.camera.map_or_else(host_name, Ok)?;
    let frame_bytes_max = raw.frame.bytes_max;
    if !(FRAME_BYTES_LEAST..=FRAME_BYTES_LIMIT).contains(&frame_bytes_max) {
        let why = format!("{frame_bytes_max} is out of bounds: use {FRAME_BYTES_LEAST} to {FRAME_BYTES_LIMIT} bytes");
        return Err(ConfigError::value("frame.bytes-max", why));
    }
    let frame_pixels_max = raw.frame.pixels_max;
    if !(FRAME_PIXELS_LEAST..=PIXELS_LIMIT).contains(&frame_pixels_max) {
        let why = format!("{frame_pixels_max} is out of bounds: use {FRAME_PIXELS_LEAST} to {PIXELS_LIMIT} pixels");
        return Err(ConfigError::value("frame.pixels-max", why));
    }
    if raw.spool.bytes_max < 4 * frame_bytes_max {
        let why = format!(
            "{} has room for fewer than four of the largest frames: use at least {}, or lower frame.bytes-max",
            raw.spool.bytes_max,
            4 * frame_bytes_max
        );
        return Err(ConfigError::value("spool.bytes-max", why));
    }
    if raw.spool.frames_max < SPOOL_FRAMES_LEAST {
        let why = format!("{} is too few: use at least {SPOOL_FRAMES_LEAST}", raw.spool.frames_max);
        return Err(ConfigError::value("spool.frames-max", why));
    }
    let interval_s = raw.image.interval_s;
    if interval_s > 86_400 {
        return Err(ConfigError::value("image.interval-s", format!("{interval_s} is more than a day; 0 is never")));
    }
    let still_interval_s = raw.motion.still_interval_s;
    if still_interval_s > STILL_INTERVAL_S_MAX {
        let why = format!(
            "{still_interval_s} is more than an hour: use at most {STILL_INTERVAL_S_MAX}; 0 keeps every picture"
        );
        return Err(ConfigError::value("motion.still-interval-s", why));
    }
    config::check_path("state-dir", &raw.state_dir)?;
    raw.broker.link_config("check")?;
    Ok(Config {
        site: raw.site,
        camera,
        state_dir: raw.state_dir,
        broker: raw.broker,
        source: check_source(raw.source)?,
        spool: Limits { bytes_max: raw.spool.bytes_max, frames_max: raw.spool.frames_max },
        restart_after_s: raw.spool.restart_after_s,
        frame_bytes_max: usize::try_from(frame_bytes_max).unwrap_or(usize::MAX),
        frame_pixels_max,
        image_interval_s: interval_s,
        still_interval_s,
    })
}

fn check_source(raw: RawSource) -> Result<SourceConfig, ConfigError> {
    let given = [
        ("path", raw.path.is_some(), SourceKind::Folder),
        ("device", raw.device.is_some(), SourceKind::V4l2),
        ("width", raw.width.is_some(), SourceKind::V4l2),
        ("height", raw.height.is_some(), SourceKind::V4l2),
        ("fps", raw.fps.is_some(), SourceKind::V4l2),
        ("command", raw.command.is_some(), SourceKind::Command),
        ("finite", raw.finite.is_some(), SourceKind::Command),
        ("silence-s", raw.silence_s.is_some(), SourceKind::Command),
    ];
    if let Some((key, _, kind)) = given.iter().find(|(_, is_given, kind)| *is_given && *kind != raw.kind) {
        let kind = format!("{kind:?}").to_lowercase();
        return Err(ConfigError::value(
            format!("source.{key}"),
            format!("only kind = \"{kind}\" has this key: leave it out"),
        ));
    }
    match raw.kind {
        SourceKind::Folder => check_folder(raw.path),
        SourceKind::V4l2 => check_camera(raw),
        SourceKind::Command => check_command(raw),
    }
}

fn missing(key: &str, example: &str) -> ConfigError {
    ConfigError::value(format!("source.{key}"), format!("this kind of source needs it, for example {key} = {example}"))
}

fn check_folder(path: Option<PathBuf>) -> Result<SourceConfig, ConfigError> {
    // What is empty cannot be left out here.
    let path = path.filter(|path| !path.as_os_str().is_empty());
    let path = path.ok_or_else(|| missing("path", "\"/srv/pictures\""))?;
    config::check_path("source.path", &path)?;
    Ok(SourceConfig::Folder { path })
}

fn check_camera(raw: RawSource) -> Result<SourceConfig, ConfigError> {
    let wish = Wish {
        device: raw.device,
        width_px: raw.width.unwrap_or(1280),
        height_px: raw.height.unwrap_or(720),
        fps: raw.fps.unwrap_or(10),
    };
    if let Some(device) = &wish.device {
        config::check_path("source.device", Path::new(device))?;
    }
    for (key, value, most) in
        [("width", wish.width_px, 16_384), ("height", wish.height_px, 16_384), ("fps", wish.fps, 1_000)]
    {
        if !(1..=most).contains(&value) {
            let why = format!("{value} is out of bounds: use 1 to {most}");
            return Err(ConfigError::value(format!("source.{key}"), why));
        }
    }
    Ok(SourceConfig::V4l2(wish))
}

fn check_command(raw: RawSource) -> Result<SourceConfig, ConfigError> {
    let example = "[\"rpicam-vid\", \"-t\", \"0\", \"--codec\", \"mjpeg\", \"-o\", \"-\"]";
    let argv = raw.command.filter(|argv| argv.first().is_some_and(|program| !program.is_empty()));
    let argv = argv.ok_or_else(|| missing("command", example))?;
    // Its arguments are the program's own matter: a shell expands them itself.
    if let Some(program) = argv.first() {
        config::check_path("source.command", Path::new(program))?;
    }
    let finite = raw.finite.unwrap_or(false);
    // A finite one begins anew when it is started again, and would be silent again at the same place.
    let silence_s = raw.silence_s.unwrap_or(if finite { 0 } else { SILENCE_S_DEFAULT });
    if silence_s > SILENCE_S_MAX {
        let why = format!("{silence_s} is more than a day: use at most {SILENCE_S_MAX}; 0 waits for ever");
        return Err(ConfigError::value("source.silence-s", why));
    }
    Ok(SourceConfig::Command(CommandLine { argv, finite, silence_s }))
}

fn host_name() -> Result<Name, ConfigError> {
    let uname = rustix::system::uname();
    Name::of_camera_on(&uname.nodename().to_string_lossy()).map_err(|_| {
        ConfigError::value("camera", "this machine has no name: give the camera one, for example camera = \"door\"")
    })
}

#[cfg(test)]
mod tests;
