//! The configuration file, and what it means.

use std::path::{Path, PathBuf};

use microlambda_runtime::{BrokerConfig, ConfigError, config, without_passwords};
use microlambda_wire::{ChainClass, Name};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::source::command::CommandLine;
use crate::source::v4l2::Wish;
use crate::spool::{FOLDER_PREFIX, Limits};

/// This program's name in remedies.
pub const PROGRAM: &str = "camera-agent";
/// A commented configuration with every key.
pub const EXAMPLE: &str = include_str!("../camera.toml");
/// A frame must pass in one MQTT packet, bytes.
const FRAME_BYTES_LIMIT: u64 = 16 << 20;
/// Below this no picture is worth looking at, bytes.
const FRAME_BYTES_LEAST: u64 = 16 << 10;
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
/// `-` and eight digits follow the camera's name in a chain's.
const CAMERA_LEN_MAX: usize = microlambda_wire::NAME_LEN_MAX - 9;

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The site.
    pub site: Name,
    /// The camera.
    pub camera: Name,
    /// Folder of the spool.
    pub state_dir: PathBuf,
    /// The broker.
    pub broker: BrokerConfig,
    /// Where pictures come from.
    pub source: SourceConfig,
    /// Bounds of the spool.
    pub spool: Limits,
    /// The chain goes on without released frames whose results no live node has had for so long, s; 0 is never.
    pub restart_after_s: u64,
    /// No frame is longer, bytes.
    pub frame_bytes_max: usize,
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
        /// Its path.
        path: PathBuf,
    },
    /// A V4L2 device.
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
}

impl Default for RawFrame {
    fn default() -> Self {
        Self { bytes_max: 4 << 20 }
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
                "kind": "v4l2", "device": wish.device, "width": wish.width, "height": wish.height, "fps": wish.fps,
            }),
            SourceConfig::Command(line) => json!({
                "kind": "command", "finite": line.finite, "silence-s": line.silence_s,
                "command": line.argv.iter().map(|word| without_passwords(word)).collect::<Vec<_>>(),
            }),
        };
        let config = json!({
            "site": self.site, "camera": self.camera, "state-dir": self.state_dir, "broker": self.broker, "source": source,
            "spool": { "bytes-max": self.spool.bytes_max, "frames-max": self.spool.frames_max, "restart-after-s": self.restart_after_s },
            "frame": { "bytes-max": self.frame_bytes_max }, "image": { "interval-s": self.image_interval_s },
            "motion": { "still-interval-s": self.still_interval_s },
        });
        json!({
            "valid": true, "camera": self.camera, "site": self.site, "class": self.source.class(),
            "source": self.source.describe(), "config": config,
        })
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
    if camera.as_str().len() > CAMERA_LEN_MAX {
        return Err(ConfigError::value("camera", format!("{camera} is longer than {CAMERA_LEN_MAX} characters")));
    }
    let frame_bytes_max = raw.frame.bytes_max;
    if !(FRAME_BYTES_LEAST..=FRAME_BYTES_LIMIT).contains(&frame_bytes_max) {
        let why = format!("{frame_bytes_max} is out of bounds: use {FRAME_BYTES_LEAST} to {FRAME_BYTES_LIMIT} bytes");
        return Err(ConfigError::value("frame.bytes-max", why));
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
    config::check_state_dir(&raw.state_dir)?;
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
    let missing = |key: &str, example: &str| {
        ConfigError::value(
            format!("source.{key}"),
            format!("this kind of source needs it, for example {key} = {example}"),
        )
    };
    match raw.kind {
        SourceKind::Folder => {
            Ok(SourceConfig::Folder { path: raw.path.ok_or_else(|| missing("path", "\"/srv/pictures\""))? })
        }
        SourceKind::V4l2 => {
            let wish = Wish {
                device: raw.device,
                width: raw.width.unwrap_or(1280),
                height: raw.height.unwrap_or(720),
                fps: raw.fps.unwrap_or(10),
            };
            for (key, value, most) in
                [("width", wish.width, 16_384), ("height", wish.height, 16_384), ("fps", wish.fps, 1_000)]
            {
                if !(1..=most).contains(&value) {
                    return Err(ConfigError::value(
                        format!("source.{key}"),
                        format!("{value} is out of bounds: use 1 to {most}"),
                    ));
                }
            }
            Ok(SourceConfig::V4l2(wish))
        }
        SourceKind::Command => {
            let example = "[\"rpicam-vid\", \"-t\", \"0\", \"--codec\", \"mjpeg\", \"-o\", \"-\"]";
            let argv = raw.command.filter(|argv| argv.first().is_some_and(|program| !program.is_empty()));
            let argv = argv.ok_or_else(|| missing("command", example))?;
            let finite = raw.finite.unwrap_or(false);
            // A finite one begins anew when it is started again, and would be silent again at the same place.
            let silence_s = raw.silence_s.unwrap_or(if finite { 0 } else { SILENCE_S_DEFAULT });
            if silence_s > SILENCE_S_MAX {
                let why = format!("{silence_s} is more than a day: use at most {SILENCE_S_MAX}; 0 waits for ever");
                return Err(ConfigError::value("source.silence-s", why));
            }
            Ok(SourceConfig::Command(CommandLine { argv, finite, silence_s }))
        }
    }
}

/// The machine's name as a camera's: lower case, other characters as `-`.
fn host_name() -> Result<Name, ConfigError> {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy().to_lowercase();
    let host = host.split('.').next().unwrap_or_default();
    let name: String = host
        .chars()
        .take(CAMERA_LEN_MAX)
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' })
        .collect();
    Name::new(name).map_err(|_| {
        ConfigError::value("camera", "this machine has no name: give the camera one, for example camera = \"door\"")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("camera.toml")).map_err(|error| error.to_string())
    }

    const FOLDER: &str = "[source]\nkind = \"folder\"\npath = \"/srv/pictures\"\n";

    #[test]
    fn the_example_is_valid_and_shows_the_defaults() {
        let config = parse(EXAMPLE).unwrap();
        assert_eq!(config.source.class(), ChainClass::Live);
        let bare = parse("[source]\nkind = \"v4l2\"\n").unwrap();
        assert_eq!(config.source, bare.source);
        assert_eq!((config.spool, config.frame_bytes_max), (bare.spool, bare.frame_bytes_max));
        assert_eq!((config.image_interval_s, config.still_interval_s), (bare.image_interval_s, bare.still_interval_s));
        assert_eq!((config.state_dir, config.site, config.broker), (bare.state_dir, bare.site, bare.broker));
    }

    #[test]
    fn every_commented_key_of_the_example_is_known() {
        // Each commented setting is tried in its own table.
        let mut table = String::new();
        let mut tried = 0;
        for line in EXAMPLE.lines() {
            if line.starts_with('[') {
                table = line.to_owned();
            }
            let Some(setting) = line.strip_prefix("#: ") else { continue };
            tried += 1;
            if setting.starts_with("kind = \"folder\"") || setting.starts_with("kind = \"command\"") {
                table = "[source]".into();
            }
            let key = setting.split(" = ").next().unwrap();
            let text = match table.as_str() {
                "" => format!("{setting}\n{FOLDER}"),
                "[source]" => continue,
                table => format!("{FOLDER}{table}\n{setting}\n"),
            };
            let outcome = parse(&text);
            let known = outcome.as_ref().err().is_none_or(|error| !error.contains("unknown field"));
            assert!(known, "{key}: {outcome:?}");
        }
        assert!(tried >= 5, "the example shows optional keys as `#: key = value`");
    }

    /// Keys of the table that `header` opens, as serde names them when it refuses one.
    fn keys_of(header: &str) -> Vec<String> {
        let table = if header == "[source]" { String::new() } else { FOLDER.to_owned() };
        let error = match header {
            "" => parse(&format!("no-such-key = 1\n{FOLDER}")).unwrap_err(),
            header => parse(&format!("{table}{header}\nno-such-key = 1\n")).unwrap_err(),
        };
        // A table with one key has it alone.
        let (_, expected) = error.split_once("expected ").unwrap();
        expected.lines().next().unwrap().split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_example_and_the_documentation_have_every_key() {
        let documentation = include_str!("../../docs/configuration.md");
        let (_, documentation) = documentation.split_once("## camera-agent").unwrap();
        let mut seen = 0;
        for (header, prefix) in [
            ("", ""),
            ("[source]", "source."),
            ("[spool]", "spool."),
            ("[frame]", "frame."),
            ("[image]", "image."),
            ("[motion]", "motion."),
            ("[broker]", "broker."),
        ] {
            for key in keys_of(header) {
                if ["source", "spool", "frame", "image", "motion", "broker"].contains(&key.as_str()) {
                    continue;
                }
                seen += 1;
                let is_setting = |line: &str| line.trim_start_matches("#: ").starts_with(&format!("{key} = "));
                assert!(EXAMPLE.lines().any(is_setting), "{prefix}{key}: no example");
                let documented = prefix == "broker." || documentation.contains(&format!("| `{prefix}{key}` |"));
                assert!(documented, "{prefix}{key} is not in docs/configuration.md");
            }
        }
        assert!(seen > 15, "{seen} keys: serde names them otherwise now");
    }

    #[test]
    fn what_is_reported_as_valid_is_the_configuration_with_its_defaults() {
        let report = parse(FOLDER).unwrap().report();
        assert_eq!((&report["valid"], &report["class"]), (&json!(true), &json!("batch")));
        assert_eq!(report["config"]["spool"]["frames-max"], 10_000);
        assert_eq!(report["config"]["source"], json!({ "kind": "folder", "path": "/srv/pictures" }));
        let again = parse(&toml_of(&report["config"])).unwrap();
        assert_eq!(again.report(), report, "it reads back as itself");
    }

    /// JSON tables as TOML ones.
    fn toml_of(config: &Value) -> String {
        let line = |(key, value): (&String, &Value)| match value {
            Value::Null | Value::Object(_) => String::new(),
            value => format!("{key} = {value}\n"),
        };
        let table = |(key, value): (&String, &Value)| {
            let lines = value.as_object().map(|table| table.iter().map(line).collect::<String>());
            lines.map_or(String::new(), |lines| format!("[{key}]\n{lines}"))
        };
        let config = config.as_object().unwrap();
        config.iter().map(line).chain(config.iter().map(table)).collect()
    }

    #[test]
    fn the_camera_is_named_after_the_machine_unless_told() {
        assert!(!parse(FOLDER).unwrap().camera.as_str().is_empty());
        assert_eq!(parse(&format!("camera = \"door\"\n{FOLDER}")).unwrap().camera.as_str(), "door");
    }

    #[test]
    fn unknown_and_missing_keys_are_named_with_the_remedy() {
        for (text, parts) in [
            (
                format!("colour = 1\n{FOLDER}"),
                vec!["camera.toml:1", "`colour`", "`state-dir`", "camera-agent validate"],
            ),
            (format!("{FOLDER}[spool]\nbytes = 1\n"), vec!["camera.toml:5", "`bytes`", "`bytes-max`"]),
            ("site = \"home\"\n".into(), vec!["missing field `source`"]),
            ("[source]\npath = \"x\"\n".into(), vec!["missing field `kind`"]),
            ("[source]\nkind = \"webcam\"\n".into(), vec!["`webcam`", "`folder`", "`v4l2`", "`command`"]),
            ("[source]\nkind = \"folder\"\n".into(), vec!["source.path", "for example"]),
            ("[source]\nkind = \"command\"\ncommand = []\n".into(), vec!["source.command", "rpicam-vid"]),
            (format!("{FOLDER}device = \"/dev/video0\"\n"), vec!["source.device", "only kind = \"v4l2\""]),
            (format!("{FOLDER}finite = true\n"), vec!["source.finite", "only kind = \"command\""]),
            (
                "[source]\nkind = \"command\"\ncommand = [\"x\"]\nsilence-s = 86401\n".into(),
                vec!["source.silence-s", "at most 86400", "0 waits for ever"],
            ),
            (format!("site = \"My Home\"\n{FOLDER}"), vec!["camera.toml:1", "a-z"]),
            (format!("camera = \"{}\"\n{FOLDER}", "c".repeat(60)), vec!["camera", "55"]),
            (format!("{FOLDER}[broker]\nurl = \"broker:1883\"\n"), vec!["camera.toml:5", "mqtt://host:1883"]),
            (format!("{FOLDER}[frame]\nbytes-max = 33554432\n"), vec!["frame.bytes-max", "16777216"]),
            (format!("{FOLDER}[frame]\nbytes-max = 1\n"), vec!["frame.bytes-max", "16384"]),
            (format!("{FOLDER}[spool]\nbytes-max = 1000000\n"), vec!["spool.bytes-max", "16777216"]),
            (format!("{FOLDER}[spool]\nframes-max = 1\n"), vec!["camera.toml: spool.frames-max", "at least 8"]),
            (format!("state-dir = \"~/state\"\n{FOLDER}"), vec!["camera.toml: state-dir", "the whole path"]),
            (format!("state-dir = \"\"\n{FOLDER}"), vec!["camera.toml: state-dir", "leave the key out"]),
            (format!("state-dir = \"a\\u0000b\"\n{FOLDER}"), vec!["camera.toml: state-dir", "NUL"]),
            ("[[source]]\nkind = \"folder\"\npath = \"/p\"\n".into(), vec!["camera.toml:1", "there is one `[source]`"]),
            (format!("{FOLDER}[spool]\nframes-max = -1\n"), vec!["camera.toml:5"]),
            (format!("{FOLDER}[image]\ninterval-s = 100000\n"), vec!["image.interval-s", "0 is never"]),
            (
                format!("{FOLDER}[motion]\nstill-interval-s = 5000\n"),
                vec!["motion.still-interval-s", "3600", "0 keeps every picture"],
            ),
            ("[source]\nkind = \"v4l2\"\ndevice = \"/dev/video0\"\nfps = 0\n".into(), vec!["source.fps", "1 to 1000"]),
        ] {
            let error = parse(&text).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{part} in: {error}");
            }
        }
    }

    #[test]
    fn classes_follow_from_the_source() {
        let class = |source: &str| parse(&format!("[source]\n{source}")).unwrap().source.class();
        assert_eq!(class("kind = \"folder\"\npath = \"/p\"\n"), ChainClass::Batch);
        assert_eq!(class("kind = \"command\"\ncommand = [\"x\"]\n"), ChainClass::Live);
        assert_eq!(class("kind = \"command\"\ncommand = [\"x\"]\nfinite = true\n"), ChainClass::Batch);
    }
}
