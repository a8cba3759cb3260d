//! What the machine is like before anything is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::authority::Authority;
use crate::broker::Credentials;
use crate::camera::Camera;
use crate::input::preseed::Preseed;
use crate::paths;

/// No file that is looked at is longer, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// All that a plan depends on beside the inputs.
#[derive(Default)]
pub struct Facts {
    /// The host's name; empty if it has none.
    pub host_name: String,
    /// `/etc/hosts`.
    pub hosts: String,
    /// Users with their numbers.
    pub users: BTreeMap<String, u32>,
    /// Groups.
    pub groups: BTreeSet<String>,
    /// Whether the time zone that is asked for exists.
    pub time_zone_known: bool,
    /// Whether the locale that is asked for exists.
    pub locale_known: bool,
    /// Which of our own files are there.
    pub present: BTreeSet<&'static str>,
    /// Which of the agents' files are their packages' examples, as they came.
    pub examples: BTreeSet<&'static str>,
    /// The camera of the agent's file, unless that is an example.
    pub camera: Option<Camera>,
    /// What kind of board this is, as its device tree says; empty if there is none.
    pub board: String,
    /// Whether the SSH server has keys, and none without content.
    pub ssh_host_keys: bool,
    /// Whether the SSH server lets somebody in by password, as our settings say.
    pub ssh_by_password: bool,
    /// Users who have public keys of ours.
    pub ssh_users: BTreeSet<String>,
    /// Whether what is written is gone at the next start.
    pub data_is_lost: bool,
    /// The clock, s since 1970.
    pub now_unix_s: i64,
    /// The site's authority, if this node has it.
    pub authority: Option<Authority>,
    /// The passwords of the site, if this node made them.
    pub credentials: Option<Credentials>,
    /// The broker's certificate with its key; empty if there is none.
    pub broker_certificate: Vec<u8>,
    /// The certificate by which the broker is known; empty if there is none.
    pub site_ca: Vec<u8>,
}

impl Facts {
    /// Looks at the machine below `root`.
    pub fn gather(root: &Path, preseed: Option<&Preseed>, now_unix_s: i64) -> Self {
        let text = |path: &str| {
            read_small(&under(root, path)).and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
        };
        let bytes = |path: &str| read_small(&under(root, path)).unwrap_or_default();
        let zone = preseed.and_then(|preseed| preseed.time_zone.as_deref());
        let lang = preseed.and_then(|preseed| preseed.lang.as_deref());
        let host_name = text("/etc/hostname").lines().next().unwrap_or_default().trim().to_owned();
        let examples: BTreeSet<&'static str> =
            [(paths::CAMERA, paths::CAMERA_EXAMPLE), (paths::EDGE, paths::EDGE_EXAMPLE)]
                .into_iter()
                .filter(|(path, example)| {
                    let found = read_small(&under(root, path));
                    found.is_some() && found == read_small(&under(root, example))
                })
                .map(|(path, _)| path)
                .collect();
        Self {
            camera: Camera::of_file(&text(paths::CAMERA), &host_name).filter(|_| !examples.contains(paths::CAMERA)),
            host_name,
            hosts: text("/etc/hosts"),
            users: accounts(&text("/etc/passwd")).collect(),
            groups: accounts(&text("/etc/group")).map(|(name, _)| name).collect(),
            time_zone_known: zone.is_some_and(|zone| under(root, paths::ZONES).join(zone).is_file()),
            locale_known: lang.is_some_and(|lang| has_locale(root, lang)),
            present: paths::OURS.into_iter().filter(|path| under(root, path).exists()).collect(),
            examples,
            board: text(paths::BOARD).trim_end_matches('\0').to_owned(),
            ssh_host_keys: has_host_keys(&under(root, "/etc/ssh")),
            ssh_by_password: text(paths::SSHD).lines().any(|line| line == "PasswordAuthentication yes"),
            ssh_users: names_in(&under(root, paths::SSH_KEYS)).collect(),
            data_is_lost: under(root, paths::DATA_LOST).exists(),
            now_unix_s,
            authority: Authority::from_pem(&bytes(paths::AUTHORITY)).ok(),
            credentials: serde_json::from_slice(&bytes(paths::CREDENTIALS)).ok(),
            broker_certificate: bytes(paths::BROKER_CERTIFICATE),
            site_ca: bytes(paths::SITE_CA),
        }
    }
}

/// Where an absolute path of the machine lies if its root is `root`.
pub fn under(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// A regular file's content, if it is there and not too long.
pub fn read_small(path: &Path) -> Option<Vec<u8>> {
    let metadata = std::fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return None;
    }
    std::fs::read(path).ok()
}

/// Names and numbers of `/etc/passwd` or `/etc/group`.
pub fn accounts(text: &str) -> impl Iterator<Item = (String, u32)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        Some((name.to_owned(), number.parse().ok()?))
    })
}

fn has_locale(root: &Path, lang: &str) -> bool {
    // glibc writes the folder's name in its own way: en_GB.utf8.
    let written = lang.replace("UTF-8", "utf8");
    let folder = under(root, "/usr/lib/locale");
    ["C", "POSIX", "C.UTF-8"].contains(&lang) || folder.join(lang).is_dir() || folder.join(written).is_dir()
}

fn names_in(folder: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// A loss of power soon after keys were made may leave them without content, and the server does not start with such ones.
fn has_host_keys(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_key = |name: &str| name.starts_with("ssh_host_") && name.ends_with("_key");
    let mut keys = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_key)).peekable();
    keys.peek().is_some() && keys.all(|key| std::fs::metadata(key.path()).is_ok_and(|metadata| metadata.len() > 0))
}
