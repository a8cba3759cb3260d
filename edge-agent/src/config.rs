//! The edge agent's configuration file.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use microlambda::placement::{Placement, Spread, Stay};
use microlambda_faces::FaceParams;
use microlambda_runtime::{BrokerConfig, ConfigError, config};
use microlambda_wire::Name;
use serde::{Deserialize, Serialize};

/// The program's name in messages.
pub const PROGRAM: &str = "edge-agent";
/// With less a worker cannot look at pictures of 2 megapixels, MB: OpenBLAS alone takes 128 MB of addresses, models and code 50.
const WORKER_MEMORY_MB_MIN: u64 = 256;
/// Shortest `r-limit-ms` that makes sense: below it the overhead of a step is larger than the step.
const R_LIMIT_MS_MIN: u64 = 5;
/// Longest `r-limit-ms`, a day: leases must end.
const R_LIMIT_MS_MAX: u64 = 24 * 3_600 * 1_000;

/// Most that goes along with a continuation, KiB: 64 in its base64.
const INLINE_KB_MAX: u32 = 48;

/// Where packages put the models.
const MODELS_DIR: &str = "/usr/share/microlambda/models";
/// What the worker opens in `models-dir`.
const MODELS: [&str; 2] = ["dlib_face_recognition_resnet_model_v1.dat", "shape_predictor_5_face_landmarks.dat"];

/// A configuration with every default, commented, as `edge-agent example-config` prints it.
pub const EXAMPLE: &str = include_str!("../edge.example.toml");

/// All settings of an edge agent, as its configuration file gives them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The site: nodes and cameras of one site share chains.
    #[serde(default = "Name::default_site")]
    pub site: Name,
    /// This node; the host's name if absent.
    pub node: Option<Name>,
    /// Where the database lives.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// Where the models are; by default `/usr/share/microlambda/models`, or `../data/models` of the program's folder if only
    /// that is there.
    #[serde(default = "default_models_dir")]
    pub models_dir: PathBuf,
    /// The worker program; `face-worker` beside this program if absent.
    pub worker: Option<PathBuf>,
    /// Which code searches and encodes.
    #[serde(default)]
    pub engine: Engine,
    /// Memory the worker may use, MB.
    #[serde(default = "default_worker_memory_mb")]
    pub worker_memory_mb: u32,
    /// Where the MQTT broker is, and how to log in there.
    #[serde(default)]
    pub broker: BrokerConfig,
    /// How chains run: limits, leases and who goes first.
    #[serde(default)]
    pub chain: ChainSettings,
    /// What decides an analysis; the same on all nodes of a site.
    #[serde(default)]
    pub faces: FaceParams,
}

/// The `[chain]` table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ChainSettings {
    /// The longest an invocation may run, ms.
    pub r_limit_ms: u64,
    /// Added to `r-limit-ms` in a lease, ms.
    pub grace_ms: u64,
    /// Who runs the next step.
    pub placement: PlacementPolicy,
    /// The newest head is repeated this often, ms.
    pub announce_ms: u64,
    /// Whether this node analyses frames of a finite job while another node runs its steps.
    pub fan_out: bool,
    /// What a step adds goes along with its continuation up to this size, KiB; who needs more asks for it.
    pub inline_kb: u32,
}

/// Which code searches and encodes. Nodes with different ones agree: an analysis is adopted, not computed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// The worker's own, several times as fast as dlib's.
    #[default]
    BuiltIn,
    /// dlib's, the reference.
    Dlib,
}

impl Engine {
    /// What the worker calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::BuiltIn => "built-in",
            Self::Dlib => "dlib",
        }
    }
}

/// Who runs the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlacementPolicy {
    /// The node that ran the last one: state and frames are there.
    Stay,
    /// A node drawn for each step.
    Spread,
}

impl PlacementPolicy {
    /// The policy's implementation.
    pub fn build(self) -> Box<dyn Placement> {
        match self {
            Self::Stay => Box::new(Stay),
            Self::Spread => Box::new(Spread),
        }
    }
}

impl Default for ChainSettings {
    fn default() -> Self {
        Self {
            r_limit_ms: 1_000,
            grace_ms: 500,
            placement: PlacementPolicy::Stay,
            announce_ms: 2_000,
            fan_out: true,
            inline_kb: INLINE_KB_MAX,
        }
    }
}

impl ChainSettings {
    /// The longest an invocation may run, µs.
    pub fn r_limit_us(&self) -> u64 {
        self.r_limit_ms * 1_000
    }
}

fn default_state_dir() -> PathBuf {
    "/var/lib/microlambda/edge".into()
}

/// Where packages put them; or, where no package did and this program runs in a checkout, where `make models` puts them.
fn default_models_dir() -> PathBuf {
    models_dir_of(MODELS_DIR.into(), std::env::current_exe().ok().as_deref())
}

fn models_dir_of(installed: PathBuf, program: Option<&Path>) -> PathBuf {
    let beside = program.and_then(|program| Some(program.parent()?.parent()?.join("data/models")));
    match beside {
        Some(beside) if !installed.is_dir() && beside.is_dir() => beside,
        _ => installed,
    }
}

fn default_worker_memory_mb() -> u32 {
    1_024
}

impl Config {
    /// What an empty file means.
    ///
    /// # Errors
    /// None in a released program: the defaults are sound, as the tests check.
    pub fn defaults() -> Result<Self, ConfigError> {
        config::parse("", Path::new("defaults"), PROGRAM)
    }

    /// Reads and checks `path`.
    ///
    /// # Errors
    /// [`ConfigError`] names file, key and remedy.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let config: Self = config::load(path, PROGRAM)?;
        config.check().map_err(|error| error.in_file(path))?;
        Ok(config)
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// [`ConfigError::Value`] names the key and what is allowed.
    pub fn check(&self) -> Result<(), ConfigError> {
        let range = |key: &str, value: u64, min: u64, max: u64| {
            let why = || format!("{value} is outside {min} to {max}");
            if (min..=max).contains(&value) { Ok(()) } else { Err(ConfigError::value(key, why())) }
        };
        range("chain.r-limit-ms", self.chain.r_limit_ms, R_LIMIT_MS_MIN, R_LIMIT_MS_MAX)?;
        range("chain.grace-ms", self.chain.grace_ms, 10, 60_000)?;
        range("chain.announce-ms", self.chain.announce_ms, 100, 600_000)?;
        range("chain.inline-kb", self.chain.inline_kb.into(), 0, INLINE_KB_MAX.into())?;
        range("worker-memory-mb", self.worker_memory_mb.into(), WORKER_MEMORY_MB_MIN, 16_384)?;
        range("faces.face-px-min", self.faces.face_px_min.into(), 20, 1_000)?;
        range("faces.picture-px-max", self.faces.picture_px_max.into(), 100_000, 100_000_000)?;
        let real = |key: &str, value: f64, min: f64, max: f64| {
            let why = || format!("{value} is outside {min} to {max}");
            if (min..=max).contains(&value) { Ok(()) } else { Err(ConfigError::value(key, why())) }
        };
        real("faces.distance-max", self.faces.distance_max, 0.1, 1.0)?;
        real("faces.sharpness-min", self.faces.sharpness_min.into(), 0.0, 1e9)?;
        real("faces.score-min", self.faces.score_min.into(), 0.0, 10.0)?;
        real("faces.new-person-score-min", self.faces.new_person_score_min.into(), 0.0, 10.0)?;
        self.check_paths()?;
        self.node_name().map(|_| ())
    }

    fn check_paths(&self) -> Result<(), ConfigError> {
        config::check_path("state-dir", &self.state_dir)?;
        config::check_path("models-dir", &self.models_dir)?;
        if let Some(worker) = &self.worker {
            config::check_path("worker", worker)?;
        }
        self.broker.check_paths()
    }

    /// This node's name.
    ///
    /// # Errors
    /// [`ConfigError::Value`] if neither the file nor the host name gives one.
    pub fn node_name(&self) -> Result<Name, ConfigError> {
        if let Some(node) = &self.node {
            return Ok(node.clone());
        }
        let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
        let host = host.split('.').next().unwrap_or_default().to_owned();
        Name::new(host)
            .map_err(|why| ConfigError::value("node", format!("{why}: the host name cannot serve, set `node`")))
    }

    /// The worker program.
    ///
    /// # Errors
    /// [`ConfigError::Value`] if it is not there, or no program.
    pub fn worker_program(&self) -> Result<PathBuf, ConfigError> {
        let program = self.worker.clone().unwrap_or_else(|| {
            let own = std::env::current_exe().unwrap_or_default();
            let beside = own.with_file_name("face-worker");
            // As the Debian package has it: nobody calls the worker by hand.
            let inside = own.with_file_name("../libexec/microlambda/face-worker");
            if !beside.is_file() && inside.is_file() { inside } else { beside }
        });
        let file = program.metadata().ok().filter(std::fs::Metadata::is_file);
        let shown = program.display();
        let why = match file.map(|file| file.permissions().mode() & 0o111 != 0) {
            Some(true) => return Ok(program),
            Some(false) => format!("nobody may execute {shown}: `chmod +x` it, or set `worker` to another program"),
            None => format!("there is no program {shown}: install it, or set `worker` to its path"),
        };
        Err(ConfigError::value("worker", why))
    }

    /// Checks that the models are there. Their content is checked by the worker, before it opens them.
    ///
    /// # Errors
    /// [`ConfigError::Value`] names what is missing and how to get it.
    pub fn check_models(&self) -> Result<(), ConfigError> {
        const REMEDY: &str = "fetch them with `make models` (into target/data/models), and set `models-dir` to the folder that holds them";
        let folder = self.models_dir.display();
        if !self.models_dir.is_dir() {
            return Err(ConfigError::value("models-dir", format!("there is no folder {folder}: {REMEDY}")));
        }
        match MODELS.iter().find(|model| !self.models_dir.join(model).is_file()) {
            Some(model) => Err(ConfigError::value("models-dir", format!("{folder} holds no {model}: {REMEDY}"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys of the table that `header` opens, as serde names them when it refuses one.
    fn keys_of(header: &str) -> Vec<String> {
        let text = format!("{header}\nno-such-key = 1\n");
        let error = config::parse::<Config>(&text, Path::new("edge.toml"), PROGRAM).unwrap_err().to_string();
        let (_, expected) = error.split_once("expected one of ").unwrap();
        expected.lines().next().unwrap().split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    /// The example's lines `key = value` and `# key = value` of each table, the commented ones live.
    fn uncommented() -> String {
        let is_setting = |line: &str| line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
        let lines = EXAMPLE.lines().map(|line| match line.strip_prefix("# ") {
            Some(setting) if is_setting(setting) => setting,
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_example_and_the_documentation_have_every_key() {
        let documentation = include_str!("../../docs/configuration.md");
        let mut seen = 0;
        for (header, prefix) in [("", ""), ("[broker]", "broker."), ("[chain]", "chain."), ("[faces]", "faces.")] {
            let text = uncommented();
            let table: &str = match header {
                "" => text.split("\n[").next().unwrap(),
                header => text.split(&format!("\n{header}")).nth(1).unwrap().split("\n[").next().unwrap(),
            };
            for key in keys_of(header) {
                let documented = documentation.contains(&format!("| `{prefix}{key}` |"));
                if prefix.is_empty() && ["broker", "chain", "faces"].contains(&key.as_str()) {
                    continue;
                }
                seen += 1;
                assert!(table.lines().any(|line| line.starts_with(&format!("{key} = "))), "{prefix}{key}: no example");
                assert!(documented, "{prefix}{key} is not in docs/configuration.md");
            }
        }
        assert!(seen > 15, "{seen} keys: serde names them otherwise now");
    }

    #[test]
    fn the_example_shows_the_defaults() {
        let mut shown: Config = config::parse(&uncommented(), Path::new("edge.toml"), PROGRAM).unwrap();
        assert_eq!(shown.models_dir, Path::new(MODELS_DIR));
        let defaults = Config::defaults().unwrap();
        // These have no fixed default; the example shows what they look like.
        assert!(shown.node.take().is_some() && shown.worker.take().is_some());
        shown.models_dir.clone_from(&defaults.models_dir);
        shown.broker = Default::default();
        assert_eq!(shown, defaults);
        let as_printed: Config = config::parse(EXAMPLE, Path::new("edge.toml"), PROGRAM).unwrap();
        assert_eq!(as_printed, defaults);
    }

    #[test]
    fn the_documentation_gives_the_ranges_that_are_checked() {
        let documentation = include_str!("../../docs/configuration.md");
        for (key, table, least, most) in [
            ("r-limit-ms", "chain", 5, 86_400_000),
            ("grace-ms", "chain", 10, 60_000),
            ("announce-ms", "chain", 100, 600_000),
            ("face-px-min", "faces", 20, 1_000),
            ("picture-px-max", "faces", 100_000, 100_000_000),
        ] {
            let check = |value: u64| {
                let text = format!("[{table}]\n{key} = {value}\n");
                config::parse::<Config>(&text, Path::new("edge.toml"), PROGRAM).unwrap().check().is_ok()
            };
            assert!(check(least) && check(most) && !check(least - 1) && !check(most + 1), "{key}");
            let row = documentation.lines().find(|line| line.starts_with(&format!("| `{table}.{key}` |"))).unwrap();
            assert!(row.contains(&format!("({least} to {most})")), "{row}");
        }
    }

    #[test]
    fn a_path_under_a_tilde_is_refused_by_its_key_with_the_whole_path() {
        for (table, key) in [
            ("", "state-dir"),
            ("", "models-dir"),
            ("", "worker"),
            ("[broker]\n", "broker.password-file"),
            ("[broker]\n", "broker.ca-file"),
        ] {
            let check = |path: &str| {
                let text = format!("{table}{} = {path:?}\n", key.trim_start_matches("broker."));
                let config: Config = config::parse(&text, Path::new("edge.toml"), PROGRAM).unwrap();
                config.check().map_err(|error| error.to_string())
            };
            let why = check("~/a/b").unwrap_err();
            assert!(why.starts_with(&format!("{key}: `~`")) && why.contains("such as /home/ann/a/b"), "{why}");
            let why = check("").unwrap_err();
            assert!(why.starts_with(&format!("{key}: it is empty")) && why.contains("leave the key out"), "{why}");
            assert_eq!(check("/srv/a/b"), Ok(()), "{key}: whether it is there is seen later");
        }
    }

    #[test]
    fn an_engine_is_called_in_the_file_as_the_worker_calls_it() {
        for engine in [Engine::BuiltIn, Engine::Dlib] {
            let text = format!("engine = \"{}\"\n", engine.name());
            let config: Config = config::parse(&text, Path::new("edge.toml"), PROGRAM).unwrap();
            assert_eq!(config.engine, engine);
        }
    }

    #[test]
    fn models_of_a_checkout_serve_where_none_are_installed() {
        let dir = tempfile::tempdir().unwrap();
        let (installed, program) = (dir.path().join("usr"), dir.path().join("target/release/edge-agent"));
        let found = || models_dir_of(installed.clone(), Some(&program));
        assert_eq!(found(), installed, "nothing is there");
        let fetched = dir.path().join("target/data/models");
        std::fs::create_dir_all(&fetched).unwrap();
        assert_eq!(found(), fetched);
        std::fs::create_dir(&installed).unwrap();
        assert_eq!(found(), installed);
    }

    #[test]
    fn a_worker_that_is_missing_or_cannot_be_executed_is_named_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let worker = dir.path().join("face-worker");
        let config = Config { worker: Some(worker.clone()), ..Config::defaults().unwrap() };
        let error = || config.worker_program().unwrap_err().to_string();
        assert!(error().contains("there is no program"), "{}", error());
        std::fs::write(&worker, "").unwrap();
        std::fs::set_permissions(&worker, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(error().starts_with("worker: ") && error().contains("`chmod +x` it"), "{}", error());
        std::fs::set_permissions(&worker, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(config.worker_program().unwrap(), worker);
    }

    #[test]
    fn missing_models_are_named_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::defaults().unwrap();
        config.models_dir = dir.path().join("models");
        let error = |config: &Config| config.check_models().unwrap_err().to_string();
        assert!(error(&config).contains("there is no folder") && error(&config).contains("make models"));
        std::fs::create_dir(&config.models_dir).unwrap();
        std::fs::write(config.models_dir.join(MODELS[0]), "").unwrap();
        assert!(error(&config).contains(MODELS[1]), "{}", error(&config));
        std::fs::write(config.models_dir.join(MODELS[1]), "").unwrap();
        config.check_models().unwrap();
    }
}
