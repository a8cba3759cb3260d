//! `microlambda.toml`: what this node is for.

use std::collections::BTreeSet;

use microlambda_wire::{CAMERA_LEN_MAX, Name};
use serde::{Deserialize, Serialize};

use super::check::{self, Checked};
use super::document::{Document, Given, Section};
use super::join::{self, Join};
use super::source::{self, Source};
use crate::problem::Problems;

/// The file's name on the boot partition.
pub const FILE: &str = "microlambda.toml";
/// Keys whose values are secrets, with their tables.
pub const SECRETS: [&[&str]; 1] = [&["join", "password"]];

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Turns a camera into frames.
    Camera,
    /// Recognises.
    Edge,
    /// Runs the site's broker.
    Broker,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Camera, Self::Edge, Self::Broker];

    /// Its name in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Camera => "camera",
            Self::Edge => "edge",
            Self::Broker => "broker",
        }
    }
}

/// Everything the file sets, secrets of a join aside. Kept between boots, so that a mistake in a later file undoes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The site, if one was named.
    pub site: Option<Name>,
    /// The roles, if they were named.
    pub roles: Option<BTreeSet<Role>>,
    /// Roles were named that cannot be read, or may have been, and none held before: it has none, rather than all. A former version did not know.
    #[serde(default)]
    pub no_roles: bool,
    /// The camera's name, if it is not the host's.
    pub camera: Option<Name>,
    /// Where pictures come from.
    pub source: Option<Source>,
    /// A source was named that cannot be used, and none held before: no other camera is opened in its place.
    pub no_source: bool,
    /// How often the small picture is published, s.
    pub image_interval_s: Option<u64>,
    /// The edge node's name, if it is not the host's.
    pub node: Option<Name>,
    /// Longest time of one step, ms.
    pub r_limit_ms: Option<u64>,
    /// Memory of the worker, MB.
    pub worker_memory_mb: Option<u64>,
    /// Where the broker is, if another file or mDNS shall not tell: `mqtts://…`.
    pub broker: Option<String>,
    /// Further names that the broker is reached by.
    pub broker_names: Vec<String>,
    /// Bound of a camera's spool, MB.
    pub spool_mb: Option<u64>,
    /// The same, frames.
    pub spool_frames: Option<u64>,
    /// A chain goes on without frames whose results nobody has after so long, s.
    pub restart_after_s: Option<u64>,
}

/// What a file says.
#[derive(Debug)]
pub struct Read {
    /// Its settings, over those before.
    pub settings: Settings,
    /// The join it holds, if any.
    pub join: Given<Join>,
    /// Whether it names a source of pictures that is right.
    pub source_is_right: bool,
}

impl Settings {
    /// What an empty file means: everything by default.
    pub fn empty() -> Self {
        Self {
            site: None,
            roles: None,
            no_roles: false,
            camera: None,
            source: None,
            no_source: false,
            image_interval_s: None,
            node: None,
            r_limit_ms: None,
            worker_memory_mb: None,
            broker: None,
            broker_names: Vec::new(),
            spool_mb: None,
            spool_frames: None,
            restart_after_s: None,
        }
    }

    /// Reads a document over what held before: a wrong key leaves the former value.
    pub fn read(former: Option<&Self>, document: &Document<'_>, problems: &mut Problems) -> Read {
        let clean = document.is_clean();
        let empty = Self::empty();
        let old = former.unwrap_or(&empty);
        let mut root = document.root();
        let site = root.get("site", problems, name);
        let roles = root.get("roles", problems, roles);
        let are_lost = roles.is_wrong() || (!clean && roles == Given::Absent);
        let mut found = Self {
            site: keep(site, &old.site, clean),
            // Former settings without roles meant all, or those of the joins.
            no_roles: are_lost && former.is_none_or(|former| former.no_roles),
            roles: keep(roles, &old.roles, clean),
            ..Self::empty()
        };
        let source_is_right = found.read_camera(root.section("camera", problems), old, clean, problems);
        found.read_edge(root.section("edge", problems), old, clean, problems);
        found.read_broker(root.section("broker", problems), old, clean, problems);
        found.read_retention(root.section("retention", problems), old, clean, problems);
        let join = join::read_section(root.section("join", problems), problems);
        root.finish(problems);
        Read { settings: found, join, source_is_right }
    }

    /// Also whether a source is named that is right.
    fn read_camera(&mut self, mut section: Section<'_, '_>, old: &Self, clean: bool, problems: &mut Problems) -> bool {
        let camera = |text: String| {
            let name = name(text)?;
            let fits = name.as_str().len() <= CAMERA_LEN_MAX;
            if fits { Ok(name) } else { Err(format!("a camera's name has at most {CAMERA_LEN_MAX} characters")) }
        };
        self.camera = keep(section.get("name", problems, camera), &old.camera, clean);
        let interval = section.get("image-interval-s", problems, |s| check::within(s, 0, 86_400));
        self.image_interval_s = keep(interval, &old.image_interval_s, clean);
        let source = source::read(section.section("source", problems), old.source.as_ref(), problems);
        let is_right = matches!(source, Given::Right(_));
        self.no_source = source.is_wrong() && old.source.is_none();
        self.source = keep(source, &old.source, clean);
        section.finish(problems);
        is_right
    }

    fn read_edge(&mut self, mut section: Section<'_, '_>, old: &Self, clean: bool, problems: &mut Problems) {
        self.node = keep(section.get("name", problems, name), &old.node, clean);
        let limit = section.get("r-limit-ms", problems, |ms| check::within(ms, 5, 86_400_000));
        self.r_limit_ms = keep(limit, &old.r_limit_ms, clean);
        let memory = section.get("worker-memory-mb", problems, |mb| check::within(mb, 256, 16_384));
        self.worker_memory_mb = keep(memory, &old.worker_memory_mb, clean);
        section.finish(problems);
    }

    fn read_broker(&mut self, mut section: Section<'_, '_>, old: &Self, clean: bool, problems: &mut Problems) {
        self.broker = keep(section.get("address", problems, address), &old.broker, clean);
        let names = section.get("names", problems, check::hosts);
        self.broker_names = names.over(Some(old.broker_names.clone()), clean, Vec::new);
        section.finish(problems);
    }

    fn read_retention(&mut self, mut section: Section<'_, '_>, old: &Self, clean: bool, problems: &mut Problems) {
        let mb = section.get("spool-mb", problems, |mb| check::within(mb, 16, 1 << 20));
        self.spool_mb = keep(mb, &old.spool_mb, clean);
        let frames = section.get("spool-frames", problems, |frames| check::within(frames, 8, 10_000_000));
        self.spool_frames = keep(frames, &old.spool_frames, clean);
        let after = section.get("restart-after-s", problems, |s| check::within(s, 0, 31_536_000));
        self.restart_after_s = keep(after, &old.restart_after_s, clean);
        section.finish(problems);
    }
}

/// A key without a default: absent is none.
fn keep<T: Clone>(given: Given<T>, former: &Option<T>, clean: bool) -> Option<T> {
    match given {
        Given::Right(value) => Some(value),
        Given::Absent if clean => None,
        Given::Absent | Given::Wrong => former.clone(),
    }
}

fn name(text: String) -> Checked<Name> {
    Name::new(text).map_err(|why| why.to_string())
}

fn roles(given: Vec<String>) -> Checked<BTreeSet<Role>> {
    let role = |text: &String| Role::ALL.into_iter().find(|role| role.as_str() == text);
    let found = given
        .iter()
        .map(|text| role(text).ok_or_else(|| format!("{text:?} is no role: choose of camera, edge and broker")));
    let roles = found.collect::<Checked<BTreeSet<Role>>>()?;
    if roles.is_empty() {
        Err("a node without a role does nothing: choose of camera, edge and broker".into())
    } else {
        Ok(roles)
    }
}

/// A broker's address. Over the network only TLS is used, so that nobody can listen or take the broker's place.
pub fn address(text: String) -> Checked<String> {
    let with_scheme = if text.contains("://") { text.clone() } else { format!("mqtts://{text}") };
    let url: microlambda_runtime::BrokerUrl = with_scheme.parse().map_err(|_| {
        format!("{} is not a broker's address: write its host, or mqtts://host:8883", check::told(&text))
    })?;
    check::host(url.host.clone())?;
    if !url.tls {
        return Err("a broker is only reached over TLS: write mqtts:// and give its authority with a join file".into());
    }
    Ok(url.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(former: Option<&Settings>, text: &str) -> (Settings, String) {
        let mut problems = Problems::default();
        let document = Document::read(FILE, text, &mut problems);
        let found = Settings::read(former, &document, &mut problems).settings;
        (found, problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn the_commented_example_is_right_as_it_is_and_with_every_line_live() {
        let example = include_str!("../../examples/microlambda.toml");
        let (as_printed, told) = read(None, example);
        assert_eq!(told, "");
        assert_eq!(as_printed.roles, None, "a join file beside it says what the node does");
        let is_setting =
            |line: &str| line.starts_with('[') || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
        let live: Vec<&str> = example
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(setting) if is_setting(setting) => setting,
                _ => line,
            })
            .collect();
        let (found, told) = read(None, &live.join("\n"));
        assert_eq!(told, "");
        assert_eq!(found.roles, Some(Role::ALL.into_iter().collect()));
        assert!(found.camera.is_some() && found.node.is_some() && found.r_limit_ms.is_some() && found.broker.is_some());
        assert!(found.spool_mb.is_some() && found.spool_frames.is_some() && found.restart_after_s.is_some());
        assert!(found.worker_memory_mb.is_some() && found.image_interval_s.is_some() && !found.broker_names.is_empty());
    }

    #[test]
    fn a_wrong_key_leaves_what_held_and_a_missing_one_goes_back_to_the_default() {
        let (before, told) =
            read(None, "site = \"lab\"\nroles = [\"edge\"]\n[edge]\nr-limit-ms = 700\nworker-memory-mb = 300\n");
        assert_eq!(told, "");
        let (after, told) = read(Some(&before), "site = \"My Lab\"\n[edge]\nr-limit-ms = 1\n");
        assert_eq!((after.site, after.r_limit_ms), (before.site.clone(), Some(700)));
        assert_eq!((after.roles, after.worker_memory_mb), (None, None));
        assert!(
            told.contains("line 1: `site`") && told.contains("line 3: `edge.r-limit-ms`: 1 is outside 5"),
            "{told}"
        );
        // With broken syntax nobody knows what else was written.
        let (after, _) = read(Some(&before), "site = \"x\nroles = [\"edge\"]\n");
        assert_eq!(after, before);
    }

    #[test]
    fn a_broker_on_the_network_is_reached_over_tls_or_not_at_all() {
        assert_eq!(address("hub.local".into()).unwrap(), "mqtts://hub.local:8883");
        assert_eq!(address("mqtts://[fe80::1]:9000".into()).unwrap(), "mqtts://[fe80::1]:9000");
        assert!(address("mqtt://hub.local".into()).unwrap_err().contains("only reached over TLS"));
        for wrong in ["", "http://hub", "mqtts://", "mqtts://a b", "mqtts://user:pass@hub"] {
            assert!(address(wrong.into()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn roles_are_named_and_at_least_one() {
        for (text, part) in [("[]", "without a role"), ("[\"door\"]", "\"door\" is no role"), ("\"edge\"", "`roles`")] {
            let (found, told) = read(None, &format!("roles = {text}\n"));
            assert!(found.roles.is_none() && told.contains(part), "{told}");
        }
    }

    #[test]
    fn wrong_roles_are_none_until_they_are_mended_and_leave_those_that_held() {
        for wrong in ["roles = [\"egde\"]\n", "roles = \"edge\"\n", "roles = edge\n"] {
            let (found, _) = read(None, wrong);
            assert!(found.no_roles && found.roles.is_none(), "{wrong}");
            assert!(read(Some(&found), wrong).0.no_roles, "{wrong}");
            assert!(!read(Some(&found), "site = \"lab\"\n").0.no_roles, "{wrong}");
            let mended = read(Some(&found), "roles = [\"edge\"]\n").0;
            assert!(!mended.no_roles && mended.roles.is_some(), "{wrong}");
            for held in ["", "roles = [\"edge\"]\n"] {
                let (before, _) = read(None, held);
                let (after, _) = read(Some(&before), wrong);
                assert_eq!((after.roles, after.no_roles), (before.roles, false), "{held} {wrong}");
            }
        }
    }
}
