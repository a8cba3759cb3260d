//! From what is wished and what is there to what is to be done. Pure: nothing here touches the machine.

mod broker;
mod node;
mod system;

use std::fmt;

pub use broker::{Materials, broker_names, needs};
pub use node::{THIS_NODE, Wishes};

use crate::camera::Camera;
use crate::facts::Facts;
use crate::input::preseed::Preseed;
use crate::problem::Problems;
use crate::state::State;

/// What belongs together: if one action of a part fails, those behind it in the part are left out, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is what its name says")]
pub enum Part {
    HostName,
    User,
    Ssh,
    Wlan,
    Locale,
    Time,
    Join,
    Broker,
    Camera,
    Edge,
}

impl Part {
    /// The part in words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::HostName => "the host's name",
            Self::User => "the user",
            Self::Ssh => "SSH",
            Self::Wlan => "the wireless network",
            Self::Locale => "keyboard, language and time zone",
            Self::Time => "the time servers",
            Self::Join => "the join",
            Self::Broker => "the broker",
            Self::Camera => "the camera",
            Self::Edge => "the edge node",
        }
    }

    /// Whether it follows from `rpi-preseed.toml`; the others follow from `microlambda.toml` and join files.
    pub fn is_of_preseed(self) -> bool {
        match self {
            Self::HostName | Self::User | Self::Ssh | Self::Wlan | Self::Locale | Self::Time => true,
            Self::Join | Self::Broker | Self::Camera | Self::Edge => false,
        }
    }
}

/// Bytes that may be secret: they are not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Content(pub Vec<u8>);

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

/// Whose a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// root and its group.
    Root,
    /// root and this group, which may read it.
    Group(&'static str),
    /// The user and group of this name.
    User(&'static str),
}

/// One change. Each is done only if it changes something, and wholly or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A file has this content, mode and owner.
    Write {
        /// Absolute path.
        path: String,
        /// Content.
        content: Content,
        /// Mode, as in chmod.
        mode: u32,
        /// Owner.
        owner: Owner,
        /// A program that says whether the file is right, before it takes the place of the former one: `PROGRAM validate --config FILE`.
        check: Option<&'static str>,
    },
    /// A folder is there, of root, with this mode.
    Folder {
        /// Absolute path.
        path: String,
        /// Mode, as in chmod.
        mode: u32,
    },
    /// A symbolic link leads there.
    Link {
        /// Absolute path.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// A file is not there.
    Remove {
        /// Absolute path.
        path: String,
    },
    /// A program runs and succeeds.
    Run {
        /// Its name.
        program: &'static str,
        /// How it is told to work below another root, if it is not `/`; the root follows. Empty: it knows no other root, and is left out below one.
        root_option: &'static str,
        /// Its arguments; no secret is among them, as everybody can read those.
        args: Vec<String>,
        /// What it reads.
        stdin: Content,
        /// Absolute path of a folder in which it writes files that it does not sync.
        unsynced: Option<&'static str>,
    },
    /// mosquitto's password file holds these `user:password` lines, hashed.
    HashPasswords {
        /// Absolute path.
        path: String,
        /// The lines.
        lines: Content,
        /// Owner.
        owner: Owner,
    },
    /// The next one would do its work: nothing is changed, so that a part ends here before its files say otherwise.
    SpoolCanBeSetAside {
        /// Absolute path of the agent's folder.
        folder: String,
    },
    /// The spool of a camera agent is not in its folder any more, but in one of its own in there.
    SetSpoolAside {
        /// Absolute path of the agent's folder.
        folder: String,
    },
    /// The running system has this name.
    HostName(String),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { path, content, mode, owner, .. } => {
                write!(f, "write {path} ({content:?}, {mode:o}, {owner:?})")
            }
            Self::Folder { path, mode } => write!(f, "make the folder {path} ({mode:o})"),
            Self::Link { path, target } => write!(f, "link {path} to {target}"),
            Self::Remove { path } => write!(f, "remove {path}"),
            Self::Run { program, args, .. } => write!(f, "run {program} {}", args.join(" ")),
            Self::HashPasswords { path, .. } => write!(f, "hash the site's passwords into {path}"),
            Self::SpoolCanBeSetAside { folder } => write!(f, "see that the spool in {folder} can be set aside"),
            Self::SetSpoolAside { folder } => write!(f, "set the spool in {folder} aside, if there is one"),
            Self::HostName(name) => write!(f, "set the host name {name}"),
        }
    }
}

/// What is to be done, in order, and what is remembered once it is done.
#[derive(Debug, Default)]
pub struct Plan {
    /// Changes with their parts.
    pub actions: Vec<(Part, Action)>,
    /// What the program will remember, by part that must have succeeded.
    pub memory: Vec<(Part, Memory)>,
}

/// Something to remember.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Memory {
    /// The user who was given a way in.
    User(String),
    /// Nobody but this user has one any more.
    OnlyUser,
    /// The wireless network and the lines that open it.
    Wlan((String, Vec<String>)),
    /// The digest of the credentials in the broker's password file.
    BrokerPasswords(String),
    /// What the camera's spool is made for.
    Camera(Camera),
}

impl Plan {
    fn act(&mut self, part: Part, action: Action) {
        self.actions.push((part, action));
    }

    /// A file of root that everybody may read.
    fn write(&mut self, part: Part, path: impl Into<String>, content: impl Into<Content>) {
        let action =
            Action::Write { path: path.into(), content: content.into(), mode: 0o644, owner: Owner::Root, check: None };
        self.act(part, action);
    }

    /// A file of root that nobody else may read.
    fn write_secret(&mut self, part: Part, path: impl Into<String>, content: impl Into<Content>) {
        let action =
            Action::Write { path: path.into(), content: content.into(), mode: 0o600, owner: Owner::Root, check: None };
        self.act(part, action);
    }

    fn remove(&mut self, part: Part, path: impl Into<String>) {
        self.act(part, Action::Remove { path: path.into() });
    }
}

/// Everything that is to be done. `preseed` is none if the file was applied before; `wishes` holds what the node is for.
pub fn plan(
    preseed: Option<&Preseed>,
    wishes: &Wishes,
    facts: &Facts,
    materials: &Materials,
    state: &State,
    problems: &mut Problems,
) -> Plan {
    let mut plan = Plan::default();
    system::plan(preseed, facts, state, &mut plan, problems);
    let host = host_name(preseed, facts);
    node::plan_joins(wishes, facts, &mut plan);
    broker::plan(wishes, &host, facts, materials, state, &mut plan);
    node::plan_agents(wishes, &host, facts, state, &mut plan);
    plan
}

/// The name that the host will have.
pub fn host_name(preseed: Option<&Preseed>, facts: &Facts) -> String {
    preseed.and_then(|preseed| preseed.host_name.clone()).unwrap_or_else(|| facts.host_name.clone())
}
