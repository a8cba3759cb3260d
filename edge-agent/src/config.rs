//! The edge agent's configuration file.

use std::path::{Path, PathBuf};

use microlambda::placement::{Placement, Spread, Stay};
use microlambda_faces::FaceParams;
use microlambda_runtime::{BrokerConfig, ConfigError, config};
use microlambda_wire::Name;
use serde::{Deserialize, Serialize};

/// The program's name in messages.
pub const PROGRAM: &str = "edge-agent";
/// Shortest `r-limit-ms` that makes sense: below it the overhead of a step is larger than the step.
const R_LIMIT_MS_MIN: u64 = 5;
/// Longest `r-limit-ms`, a day: leases must end.
const R_LIMIT_MS_MAX: u64 = 24 * 3_600 * 1_000;

/// A configuration with every default, commented, as `edge-agent example-config` prints it.
pub const EXAMPLE: &str = include_str!("../edge.example.toml");

/// The whole file.
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
    /// Where the models are.
    #[serde(default = "default_models_dir")]
    pub models_dir: PathBuf,
    /// The worker program; `face-worker` beside this program if absent.
    pub worker: Option<PathBuf>,
    /// Memory the worker may use, MB.
    #[serde(default = "default_worker_memory_mb")]
    pub worker_memory_mb: u32,
    /// The MQTT broker.
    #[serde(default)]
    pub broker: BrokerConfig,
    /// How chains run.
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
        Self { r_limit_ms: 1_000, grace_ms: 500, placement: PlacementPolicy::Stay, announce_ms: 2_000 }
    }
}

fn default_state_dir() -> PathBuf {
    "/var/lib/microlambda/edge".into()
}

fn default_models_dir() -> PathBuf {
    "/usr/share/microlambda/models".into()
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
        config.check()?;
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
        range("worker-memory-mb", self.worker_memory_mb.into(), 128, 16_384)?;
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
        self.node_name().map(|_| ())
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
    /// [`ConfigError::Value`] if it is not there.
    pub fn worker_program(&self) -> Result<PathBuf, ConfigError> {
        let beside = || Some(std::env::current_exe().ok()?.with_file_name("face-worker"));
        let program = self.worker.clone().or_else(beside).unwrap_or_else(|| "face-worker".into());
        if program.is_file() {
            return Ok(program);
        }
        let why = format!("there is no program {}: install it, or set `worker` to its path", program.display());
        Err(ConfigError::value("worker", why))
    }
}
