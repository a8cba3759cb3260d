//! Real agents as processes: configuration, state, log, and the walls around each.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use microlambda_wire::Name;
use toml::{Table, Value};

use crate::process::{Process, spawn_error};
use crate::{BrokerUrl, Error, Sandbox, Walls};

/// Names the directory to look for our programs in, before the one of the running program.
pub const PROGRAMS_VARIABLE: &str = "MICROLAMBDA_BIN_DIR";

/// Where our programs are.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The directory that holds them all.
    pub dir: PathBuf,
    /// `camera-agent`.
    pub camera: PathBuf,
    /// `edge-agent`.
    pub edge: PathBuf,
    /// `face-worker`.
    pub worker: PathBuf,
    /// `microlambda-demo`: the embedded broker and the relays.
    pub demo: PathBuf,
}

impl Programs {
    /// The programs in `dir`, whether they exist or not.
    pub fn in_dir(dir: &Path) -> Self {
        // Processes with another working directory use it as well.
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
        Self {
            camera: dir.join("camera-agent"),
            edge: dir.join("edge-agent"),
            worker: dir.join("face-worker"),
            demo: dir.join("microlambda-demo"),
            dir,
        }
    }

    /// The programs beside the running one (a test runs one directory below), or where [`PROGRAMS_VARIABLE`] says.
    ///
    /// # Errors
    /// [`Error::File`] if the running program's place is not known.
    pub fn find() -> Result<Self, Error> {
        if let Some(dir) = std::env::var_os(PROGRAMS_VARIABLE) {
            return Ok(Self::in_dir(Path::new(&dir)));
        }
        let here = std::env::current_exe().map_err(|e| Error::file(Path::new("/proc/self/exe"), e))?;
        let dir = here.parent().unwrap_or(Path::new("/"));
        let dir = if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir };
        Ok(Self::in_dir(dir))
    }

    /// Checks that all are there.
    ///
    /// # Errors
    /// [`Error::Binary`] names the first that is missing.
    pub fn check(&self) -> Result<(), Error> {
        for path in [&self.camera, &self.edge, &self.worker, &self.demo] {
            if !path.is_file() {
                return Err(Error::Binary { path: path.clone() });
            }
        }
        Ok(())
    }
}

/// What all agents of one run share.
#[derive(Debug)]
pub struct Rig {
    /// Where our programs are.
    pub programs: Programs,
    /// Each agent gets a directory of its own in here.
    pub dir: PathBuf,
    /// The broker, as seen from outside any walls.
    pub broker: BrokerUrl,
    /// What keeps the agents apart.
    pub walls: Walls,
    /// Directories beside `dir` and the downloads of `make setup` that agents behind walls see empty unless they are
    /// theirs: photos and models, say.
    pub private: Vec<PathBuf>,
}

/// A camera agent that is to be started, and plays a folder.
#[derive(Debug, Clone)]
pub struct CameraSetup {
    /// The site that the agent belongs to.
    pub site: Name,
    /// The camera's name on the bus.
    pub camera: Name,
    /// The folder of pictures; only this agent sees it.
    pub photos: PathBuf,
    /// End when all frames are safe with the nodes.
    pub exit_when_done: bool,
    /// Further settings, laid over ours table by table.
    pub extra: Table,
}

/// An edge agent that is to be started.
#[derive(Debug, Clone)]
pub struct EdgeSetup {
    /// The site that the agent belongs to.
    pub site: Name,
    /// The node's name on the bus.
    pub node: Name,
    /// The folder of the recognition models.
    pub models: PathBuf,
    /// The limit of one step, ms.
    pub r_limit_ms: u64,
    /// Policy: `stay` or `spread`.
    pub placement: String,
    /// A head is announced again after this time, ms.
    pub announce_ms: u64,
    /// A lease is the limit and this, ms.
    pub grace_ms: u64,
    /// Further settings, laid over ours table by table.
    pub extra: Table,
}

/// A running agent; derefs to its [`Process`]. Process, worker and namespaces end on drop.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    program: PathBuf,
    config: PathBuf,
    sandbox: Option<Sandbox>,
}

impl Rig {
    /// Starts a camera agent in the directory `name`.
    ///
    /// # Errors
    /// What starting and walling in can give.
    pub fn camera(&self, name: &str, setup: &CameraSetup) -> Result<Agent, Error> {
        let mut config = Table::new();
        config.insert("site".into(), setup.site.to_string().into());
        config.insert("camera".into(), setup.camera.to_string().into());
        // Another source brings all its keys itself.
        if !setup.extra.contains_key("source") {
            let source = [("kind", Value::from("folder")), ("path", path_value(&setup.photos)?)];
            config.insert("source".into(), Value::Table(source.map(|(k, v)| (k.to_string(), v)).into_iter().collect()));
        }
        let flags: &[&str] = if setup.exit_when_done { &["--exit-when-done"] } else { &[] };
        self.start(name, &self.programs.camera, flags, config, &setup.extra, std::slice::from_ref(&setup.photos))
    }

    /// Starts an edge agent in the directory `name`.
    ///
    /// # Errors
    /// What starting and walling in can give.
    pub fn edge(&self, name: &str, setup: &EdgeSetup) -> Result<Agent, Error> {
        let mut config = Table::new();
        config.insert("site".into(), setup.site.to_string().into());
        config.insert("node".into(), setup.node.to_string().into());
        config.insert("models-dir".into(), path_value(&setup.models)?);
        config.insert("worker".into(), path_value(&self.programs.worker)?);
        let number = |value: u64| Value::Integer(i64::try_from(value).unwrap_or(i64::MAX));
        let chain = [
            ("r-limit-ms", number(setup.r_limit_ms)),
            ("grace-ms", number(setup.grace_ms)),
            ("announce-ms", number(setup.announce_ms)),
            ("placement", setup.placement.clone().into()),
        ];
        config.insert("chain".into(), Value::Table(chain.map(|(k, v)| (k.to_string(), v)).into_iter().collect()));
        self.start(name, &self.programs.edge, &[], config, &setup.extra, std::slice::from_ref(&setup.models))
    }

    fn start(
        &self,
        name: &str,
        program: &Path,
        flags: &[&str],
        mut config: Table,
        extra: &Table,
        sees: &[PathBuf],
    ) -> Result<Agent, Error> {
        let dir = self.dir.join(name);
        let state = dir.join("state");
        microlambda_runtime::create_private(&state).map_err(|e| Error::file(&state, e))?;
        let mut keep = vec![dir.clone()];
        keep.extend_from_slice(sees);
        let sandbox = match &self.walls {
            Walls::None(_) => None,
            Walls::Namespaces { socket, .. } => {
                let cover = covered(&self.dir, &self.private);
                let log = dir.join("sandbox.log");
                Some(Sandbox::new(&self.programs, socket, &cover, &keep, &log)?)
            }
        };
        let url = if sandbox.is_some() { Sandbox::broker_url(&self.broker) } else { self.broker.clone() };
        config.insert("state-dir".into(), path_value(&state)?);
        config.insert("broker".into(), Value::Table(broker_table(&url, &dir)?));
        overlay(&mut config, extra);
        let path = dir.join("config.toml");
        let text = toml::to_string(&config).map_err(|e| Error::file(&path, e))?;
        fs::write(&path, text).map_err(|e| Error::file(&path, e))?;
        let mut argv: Vec<OsString> = vec![program.into(), "run".into(), "--config".into(), path.clone().into()];
        argv.extend(flags.iter().map(OsString::from));
        let argv = match &sandbox {
            Some(sandbox) => sandbox.enter(argv),
            None => argv,
        };
        let process = Process::start(name, argv, &dir.join("log"))?;
        Ok(Agent { process, program: program.to_path_buf(), config: path, sandbox })
    }
}

impl Agent {
    /// Runs a command of the agent's program on its configuration and returns what it prints: `["status", "--json"]`.
    ///
    /// # Errors
    /// [`Error::Command`] with what it says if it fails.
    pub fn ask(&self, args: &[&str]) -> Result<String, Error> {
        let mut command = Command::new(&self.program);
        command.args(args).arg("--config").arg(&self.config).stdin(Stdio::null());
        let output = command.output().map_err(|e| spawn_error(self.program.as_os_str(), &e))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Error::Command {
            command: format!("{} {} --config {}", self.program.display(), args.join(" "), self.config.display()),
            status: output.status.to_string(),
            message: String::from_utf8_lossy(&output.stderr).trim().to_string(),
        })
    }

    /// Where the agent's configuration file is.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// An error if what holds its namespaces has ended, whether it runs itself or not.
    ///
    /// # Errors
    /// [`Error::Exited`] with the last lines of that process's log.
    pub fn check_walls(&mut self) -> Result<(), Error> {
        self.sandbox.as_mut().map_or(Ok(()), |sandbox| sandbox.check(self.process.label()))
    }

    /// Pids of all processes that belong to it, its namespaces' holder included.
    pub fn pids(&self) -> Vec<u32> {
        let own = self.process.pid().into_iter();
        own.chain(self.process.children()).chain(self.sandbox.as_ref().map(Sandbox::pid)).collect()
    }
}

impl Deref for Agent {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Agent {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// What agents of a rig in `dir` see empty where it is not theirs: the directories of all agents, `private` ones and the
/// downloads.
pub(crate) fn covered(dir: &Path, private: &[PathBuf]) -> Vec<PathBuf> {
    let (dir, downloads) = (dir.to_path_buf(), downloads());
    outermost(std::iter::once(&dir).chain(private).chain(&downloads))
}

/// `paths` without those that lie in another of them: a covered directory has nothing left to cover.
fn outermost<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> Vec<PathBuf> {
    let mut outermost: Vec<PathBuf> = Vec::new();
    for path in paths {
        if !outermost.iter().any(|outer| path.starts_with(outer)) {
            outermost.retain(|inner| !inner.starts_with(path));
            outermost.push(path.clone());
        }
    }
    outermost
}

/// Where `scripts/common.sh` keeps downloads, the default photos among them; `None` if there are none.
pub fn downloads() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache =
        std::env::var_os("XDG_CACHE_HOME").filter(|cache| !cache.is_empty()).map(PathBuf::from).or_else(home)?;
    cache.join("microlambda").canonicalize().ok()
}

/// The `[broker]` table; a password goes to a file that only this user can read.
fn broker_table(url: &BrokerUrl, dir: &Path) -> Result<Table, Error> {
    let mut table = Table::new();
    table.insert("url".into(), url.to_string().into());
    if let Some((user, password)) = url.credentials() {
        let path = dir.join("password");
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
        file.and_then(|mut file| writeln!(file, "{password}")).map_err(|e| Error::file(&path, e))?;
        table.insert("username".into(), user.into());
        table.insert("password-file".into(), path_value(&path)?);
    }
    Ok(table)
}

fn path_value(path: &Path) -> Result<Value, Error> {
    path.to_str().map(Value::from).ok_or_else(|| Error::file(path, "the path is not UTF-8: rename it"))
}

/// Lays `over` on `base`: tables are merged, everything else is replaced.
fn overlay(base: &mut Table, over: &Table) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => overlay(base, over),
            _ => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_settings_join_tables_and_replace_values() {
        let mut base: Table = toml::from_str("site = 'a'\n[chain]\ngrace-ms = 500\nr-limit-ms = 1").unwrap();
        let over: Table = toml::from_str("site = 'b'\n[chain]\nr-limit-ms = 2\n[faces]\ndistance-max = 0.5").unwrap();
        overlay(&mut base, &over);
        let wanted: Table =
            toml::from_str("site = 'b'\n[chain]\ngrace-ms = 500\nr-limit-ms = 2\n[faces]\ndistance-max = 0.5").unwrap();
        assert_eq!(base, wanted);
    }

    #[test]
    fn directories_inside_covered_ones_are_not_covered_again() {
        let paths = ["/a/b", "/a", "/c", "/a", "/c/d", "/ab"].map(PathBuf::from);
        assert_eq!(outermost(paths.iter()), ["/a", "/c", "/ab"].map(PathBuf::from));
    }

    #[test]
    fn a_password_goes_to_a_file_of_its_own_that_others_cannot_read() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let table = broker_table(&"mqtt://ann:secret@host".parse().unwrap(), dir.path()).unwrap();
        assert!(!toml::to_string(&table).unwrap().contains("secret"), "{table:?}");
        let file = Path::new(table["password-file"].as_str().unwrap());
        assert_eq!(fs::read_to_string(file).unwrap(), "secret\n");
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        let open = broker_table(&"mqtt://host".parse().unwrap(), dir.path()).unwrap();
        assert_eq!(open.keys().collect::<Vec<_>>(), ["url"]);
    }
}
