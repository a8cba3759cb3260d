//! The agents of this node: their configuration, and how they get to the broker.

use std::collections::{BTreeMap, BTreeSet};

use microlambda_runtime::BrokerUrl;
use microlambda_wire::Name;
use toml::{Table, Value};

use super::{Action, Memory, Owner, Part, Plan};
use crate::broker::LOCAL_PORT;
use crate::camera::Camera;
use crate::facts::Facts;
use crate::input::appliance::{Role, Settings};
use crate::input::join::{Join, Member};
use crate::paths;
use crate::problem::Problems;
use crate::state::{Joined, State};

/// What the login message and the problems call what belongs to no single file.
pub const THIS_NODE: &str = "this node";
const BYTES_PER_MB: u64 = 1 << 20;
const WRITTEN_BY: &str = "# Written by microlambda-provision when microlambda.toml on the boot partition was last applied: a changed\n\
                          # microlambda.toml replaces this file, and nothing else does.\n";

/// What the node is for, from all files and from what held before.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// What `microlambda.toml` sets; none if there never was one.
    pub settings: Option<Settings>,
    /// Whether a file of these is new: only then the agents' files are written again.
    pub changed: bool,
    /// Where joins lead.
    pub joins: BTreeMap<Member, Joined>,
    /// Joins of this boot, whose password and authority are to be kept.
    pub new_joins: Vec<Join>,
    /// Whether it is to join with a file that cannot be used, and has nothing else to go by.
    pub waits_for_join: bool,
}

impl Wishes {
    /// What this node does.
    pub fn roles(&self) -> BTreeSet<Role> {
        let joined = || self.joins.keys().filter_map(|&member| role_of(member)).collect();
        match &self.settings {
            Some(Settings { roles: Some(roles), .. }) => roles.clone(),
            Some(Settings { no_roles: true, .. }) => BTreeSet::new(),
            Some(_) if self.joins.is_empty() && !self.waits_for_join => Role::ALL.into_iter().collect(),
            Some(_) | None => joined(),
        }
    }

    /// Whether this node runs the broker.
    pub fn is_broker(&self) -> bool {
        self.roles().contains(&Role::Broker)
    }

    /// The joins of the roles that it has: one that was dropped leads nowhere.
    fn used_joins(&self) -> impl Iterator<Item = &Joined> {
        let roles = self.roles();
        let is_used = move |member: Member| role_of(member).is_some_and(|role| roles.contains(&role));
        self.joins.iter().filter(move |&(&member, _)| is_used(member)).map(|(_, joined)| joined)
    }

    /// The site: that of a join, as the broker takes no other.
    pub fn site(&self) -> Name {
        let joined = if self.is_broker() { None } else { self.used_joins().next().map(|joined| joined.site.clone()) };
        let named = || self.settings.as_ref().and_then(|settings| settings.site.clone());
        joined.or_else(named).unwrap_or_else(Name::default_site)
    }

    /// Whether a new join brings another certificate than this one, the site's so far; empty if there is none.
    fn leads_elsewhere(&self, site_ca: &[u8]) -> bool {
        !site_ca.is_empty() && self.new_joins.iter().any(|join| join.ca.as_bytes() != site_ca)
    }

    /// Why the new joins cannot be used together, or beside the `former` ones of roles that it has: there is one certificate for all.
    pub fn conflict(&self, former: &BTreeMap<Member, Joined>, site_ca: &[u8]) -> Option<String> {
        let authorities: BTreeSet<&str> = self.new_joins.iter().map(|join| join.ca.as_str()).collect();
        if authorities.len() > 1 {
            return Some("its join files are of different brokers: use those of one".into());
        }
        if !self.leads_elsewhere(site_ca) {
            return None;
        }
        let roles = self.roles();
        let is_used = |member: Member| role_of(member).is_some_and(|role| roles.contains(&role));
        let is_new = |member: Member| self.new_joins.iter().any(|join| join.member == member);
        let left = former.keys().copied().filter(|&member| is_used(member) && !is_new(member));
        let left: Vec<&str> = left.map(Member::as_str).collect();
        (!left.is_empty()).then(|| {
            let left = left.join(" and ");
            format!(
                "its new join file is of another broker than that of the {left}, and is not used: put a join file for the {left} from the \
                 same broker beside it, or name other `roles` in microlambda.toml"
            )
        })
    }

    /// Forgets joins that did not come with new ones that lead elsewhere: their certificate is replaced.
    pub fn forget_left_joins(&mut self, site_ca: &[u8]) {
        if self.leads_elsewhere(site_ca) {
            let new: BTreeSet<Member> = self.new_joins.iter().map(|join| join.member).collect();
            self.joins.retain(|member, _| new.contains(member));
        }
    }

    /// Notes what does not go together on a node whose host has this name.
    pub fn check(&self, host: &str, facts: &Facts, problems: &mut Problems) {
        let mut note = |what: String| problems.note(THIS_NODE, None, what);
        if self.is_broker() {
            return;
        }
        if self.settings.as_ref().is_some_and(|settings| settings.no_roles) {
            note("it has no role until the mistake in microlambda.toml is mended: its `roles` cannot be read".into());
        }
        for role in self.roles() {
            let Some(member) = member_of(role) else { continue };
            let file = match member {
                Member::Camera => paths::CAMERA_PASSWORD,
                Member::Edge | Member::Viewer => paths::EDGE_PASSWORD,
            };
            let name = member.as_str();
            match self.joins.get(&member) {
                None => note(format!(
                    "the {name} knows no broker yet: run `sudo microlambda-provision join {name}` on the node that has one, and put \
                     what it prints on this boot partition as microlambda-join.toml"
                )),
                Some(_) if self.new_joins.iter().any(|join| join.member == member && join.password.is_some()) => {}
                Some(_) if facts.present.contains(file) => {}
                Some(_) => {
                    note(format!("the password of the {name} is not on this node: copy its join file here again"))
                }
            }
        }
        // Its own /etc/hosts would answer.
        if self.brokers().any(|url| url.host.strip_suffix(".local").unwrap_or(&url.host).eq_ignore_ascii_case(host)) {
            note(format!(
                "this device is called {host}, as its broker is, and so finds only itself: give it another name (`system.hostname` in rpi-preseed.toml)"
            ));
        }
        let sites: BTreeSet<&Name> = self.used_joins().map(|joined| &joined.site).collect();
        let named = self.settings.as_ref().and_then(|settings| settings.site.as_ref());
        if sites.len() > 1 {
            note("its join files are of different sites: use those of one broker".into());
        } else if let (Some(named), Some(site)) = (named, sites.first())
            && named != *site
        {
            note(format!(
                "microlambda.toml names the site {named}, but it joined {site}, which is used: write that, or leave `site` out"
            ));
        }
    }

    /// The brokers that its agents are told of.
    fn brokers(&self) -> impl Iterator<Item = BrokerUrl> {
        let named = self.settings.as_ref().and_then(|settings| settings.broker.as_ref());
        let used = self.used_joins().map(move |joined| named.unwrap_or(&joined.broker));
        used.filter_map(|url| url.parse().ok())
    }

    /// Where an agent finds its broker and as whom: none if it cannot be let in yet.
    fn broker_table(&self, member: Member) -> Option<Table> {
        let mut table = Table::new();
        let text = |text: &str| Value::from(text);
        if self.is_broker() {
            table.insert("url".into(), text(&format!("mqtt://127.0.0.1:{LOCAL_PORT}")));
            table.insert("username".into(), text(member.as_str()));
            return Some(table);
        }
        let joined = self.joins.get(&member)?;
        let named = self.settings.as_ref().and_then(|settings| settings.broker.as_ref());
        table.insert("url".into(), text(named.unwrap_or(&joined.broker)));
        table.insert("username".into(), text(&joined.username));
        table.insert("ca-file".into(), text(paths::SITE_CA));
        Some(table)
    }
}

fn role_of(member: Member) -> Option<Role> {
    match member {
        Member::Camera => Some(Role::Camera),
        Member::Edge => Some(Role::Edge),
        Member::Viewer => None,
    }
}

fn member_of(role: Role) -> Option<Member> {
    match role {
        Role::Camera => Some(Member::Camera),
        Role::Edge => Some(Member::Edge),
        Role::Broker => None,
    }
}

/// Keeps password and authority of new joins, which are without [conflict](Wishes::conflict).
pub fn plan_joins(wishes: &Wishes, facts: &Facts, plan: &mut Plan) {
    if wishes.is_broker() {
        return;
    }
    for join in &wishes.new_joins {
        if join.ca.as_bytes() != facts.site_ca {
            plan.write(Part::Join, paths::SITE_CA, join.ca.clone());
        }
        if let Some(password) = &join.password {
            plan_password(plan, Part::Join, join.member, password);
        }
    }
}

/// A password where the service manager finds it.
pub fn plan_password(plan: &mut Plan, part: Part, member: Member, password: &str) {
    let path = match member {
        Member::Camera => paths::CAMERA_PASSWORD,
        Member::Edge => paths::EDGE_PASSWORD,
        Member::Viewer => return,
    };
    plan.act(part, Action::Folder { path: "/etc/credstore".into(), mode: 0o700 });
    plan.write_secret(part, path, format!("{password}\n"));
}

/// The agents' files: written if anything is new, or if they are missing. A package's example is as good as none, and does not stay
/// where nothing can be written in its place: it opens the first camera and takes any broker.
pub fn plan_agents(wishes: &Wishes, host: &str, facts: &Facts, state: &State, plan: &mut Plan) {
    let roles = wishes.roles();
    let nothing_known = wishes.settings.is_none() && wishes.joins.is_empty();
    if nothing_known {
        return;
    }
    let defaults = Settings::empty();
    let settings = wishes.settings.as_ref().unwrap_or(&defaults);
    let agents: [(Role, Part, &str, &str); 2] = [
        (Role::Camera, Part::Camera, paths::CAMERA, paths::CAMERA_PASSWORD),
        (Role::Edge, Part::Edge, paths::EDGE, paths::EDGE_PASSWORD),
    ];
    for (role, part, path, password) in agents {
        let is_example = facts.examples.contains(path);
        if !roles.contains(&role) {
            // Without its file the service does not start.
            let is_unwanted = wishes.changed || is_example;
            for gone in [path, password].into_iter().filter(|gone| is_unwanted && facts.present.contains(gone)) {
                plan.remove(part, gone);
            }
            continue;
        }
        if !wishes.changed && facts.present.contains(path) && !is_example {
            continue;
        }
        let table = member_of(role).and_then(|member| wishes.broker_table(member));
        let has_source = role != Role::Camera || !settings.no_source;
        let Some(broker) = table.filter(|_| has_source) else {
            if is_example {
                plan.remove(part, path);
            }
            continue;
        };
        match role {
            Role::Camera => plan_camera(wishes, settings, broker, host, facts, state, plan),
            Role::Edge | Role::Broker => {
                let content = format!("{WRITTEN_BY}\n{}", edge_table(wishes, settings, broker, facts)).into();
                let check = Some("edge-agent");
                plan.act(part, Action::Write { path: path.into(), content, mode: 0o644, owner: Owner::Root, check });
            }
        }
    }
}

/// The camera's file always names it: named by its host, it would be another camera as soon as somebody corrects the host's name, and the agent
/// takes no spool of another. For a camera or job that is another one, the spool is set aside.
fn plan_camera(
    wishes: &Wishes,
    settings: &Settings,
    broker: Table,
    host: &str,
    facts: &Facts,
    state: &State,
    plan: &mut Plan,
) {
    let former = state.camera.as_ref().or(facts.camera.as_ref());
    let kept = || former.map(|former| former.name.clone());
    let name = settings.camera.clone().or_else(kept).or_else(|| Name::of_camera_on(host).ok());
    let content = format!("{WRITTEN_BY}\n{}", camera_table(wishes, settings, name.as_ref(), broker)).into();
    let camera = name.map(|name| Camera::new(name, &settings.source.clone().unwrap_or_default()));
    let is_another = former.is_some_and(|former| camera.as_ref().is_some_and(|camera| camera != former));
    let folder = || paths::CAMERA_STATE.to_owned();
    if is_another {
        plan.act(Part::Camera, Action::SpoolCanBeSetAside { folder: folder() });
    }
    // Its group may read it, as an address in it may hold a password.
    let (path, owner) = (paths::CAMERA.into(), Owner::Group("microlambda-camera"));
    plan.act(Part::Camera, Action::Write { path, content, mode: 0o640, owner, check: Some("camera-agent") });
    // Last, as a file that the agent refuses ends the part.
    if is_another {
        plan.act(Part::Camera, Action::SetSpoolAside { folder: folder() });
    }
    plan.memory.extend(camera.map(|camera| (Part::Camera, Memory::Camera(camera))));
}

fn camera_table(wishes: &Wishes, settings: &Settings, name: Option<&Name>, broker: Table) -> Table {
    let mut table = Table::new();
    table.insert("site".into(), wishes.site().as_str().into());
    if let Some(name) = name {
        table.insert("camera".into(), name.as_str().into());
    }
    let source = settings.source.clone().unwrap_or_default();
    // Numbers and texts only: a table can always be made of them.
    if let Ok(source) = Value::try_from(source) {
        table.insert("source".into(), source);
    }
    table.insert("broker".into(), Value::Table(broker));
    let spool = [
        ("bytes-max", settings.spool_mb.map(|mb| mb * BYTES_PER_MB)),
        ("frames-max", settings.spool_frames),
        ("restart-after-s", settings.restart_after_s),
    ];
    insert_numbers(&mut table, "spool", &spool);
    insert_numbers(&mut table, "image", &[("interval-s", settings.image_interval_s)]);
    table
}

/// The limit of one step where nobody says it, on a board whose single unit may take longer than the agent's own default, ms.
const R_LIMIT_OF_SLOW_BOARD_MS: u64 = 5_000;

/// Whether one core of a board (Cortex-A53 at 1.0 to 1.4 GHz) is too slow for the agent's default limit.
fn is_slow(board: &str) -> bool {
    ["Raspberry Pi 3", "Raspberry Pi Zero 2", "Raspberry Pi Compute Module 3"]
        .iter()
        .any(|slow| board.starts_with(slow))
}

fn edge_table(wishes: &Wishes, settings: &Settings, broker: Table, facts: &Facts) -> Table {
    let mut table = Table::new();
    table.insert("site".into(), wishes.site().as_str().into());
    if let Some(node) = &settings.node {
        table.insert("node".into(), node.as_str().into());
    }
    if let Some(mb) = settings.worker_memory_mb.and_then(|mb| i64::try_from(mb).ok()) {
        table.insert("worker-memory-mb".into(), mb.into());
    }
    table.insert("broker".into(), Value::Table(broker));
    let r_limit_ms = settings.r_limit_ms.or(is_slow(&facts.board).then_some(R_LIMIT_OF_SLOW_BOARD_MS));
    insert_numbers(&mut table, "chain", &[("r-limit-ms", r_limit_ms)]);
    table
}

/// A table of those numbers that are given, if any is.
fn insert_numbers(table: &mut Table, name: &str, numbers: &[(&str, Option<u64>)]) {
    let given = numbers
        .iter()
        .filter_map(|&(key, number)| Some((key.to_owned(), Value::Integer(i64::try_from(number?).ok()?))));
    let inner: Table = given.collect();
    if !inner.is_empty() {
        table.insert(name.into(), Value::Table(inner));
    }
}
