//! The broker's node: authority, certificate, passwords, rules.

use super::node::{THIS_NODE, Wishes, plan_password};
use super::{Action, Memory, Owner, Part, Plan};
use crate::authority::Authority;
use crate::broker::{self, Credentials, Files, TLS_PORT};
use crate::facts::Facts;
use crate::input::appliance::Role;
use crate::input::join::{self, Join, Member};
use crate::paths;
use crate::problem::Problems;
use crate::state::{State, digest};

/// Under this user mosquitto runs on Debian.
const MOSQUITTO: Owner = Owner::User("mosquitto");
/// The name of a host that has none.
const HOST_DEFAULT: &str = "microlambda";

/// What has to be made before a plan can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// An authority for the site.
    pub authority: bool,
    /// Passwords for its members.
    pub credentials: bool,
    /// A certificate for the broker.
    pub certificate: bool,
}

/// Keys, certificates and passwords: those that are there, and those just made.
#[derive(Default)]
pub struct Materials {
    /// The authority's file, if it is new.
    pub new_authority: Option<Vec<u8>>,
    /// The authority's certificate.
    pub ca: Vec<u8>,
    /// The passwords, and whether they are new.
    pub credentials: Option<(Credentials, bool)>,
    /// The broker's file, if it is new.
    pub new_certificate: Option<Vec<u8>>,
}

/// The names that the broker's certificate is for.
pub fn broker_names(wishes: &Wishes, host: &str) -> Vec<String> {
    let host = if host.is_empty() { HOST_DEFAULT } else { host };
    let mut names = vec![format!("{host}.local"), host.to_owned()];
    for name in wishes.settings.iter().flat_map(|settings| &settings.broker_names) {
        // In the form that a certificate gives back.
        let name = name.parse::<std::net::IpAddr>().map_or_else(|_| name.clone(), |address| address.to_string());
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// What is missing on this node. A damaged authority or damaged passwords are not replaced, as every node would have to join again:
/// they are noted.
pub fn needs(wishes: &Wishes, host: &str, facts: &Facts, problems: &mut Problems) -> Needs {
    if !wishes.is_broker() {
        return Needs::default();
    }
    let damaged = |path, found: bool| facts.present.contains(path) && !found;
    for (path, found) in
        [(paths::AUTHORITY, facts.authority.is_some()), (paths::CREDENTIALS, facts.credentials.is_some())]
    {
        if damaged(path, found) {
            let what = format!(
                "{path} is damaged: bring it back from a copy, or remove it and give every node a new join file"
            );
            problems.note(THIS_NODE, None, what);
        }
    }
    let names = broker_names(wishes, host);
    let vouched = |authority: &Authority| authority.vouches_for(&facts.broker_certificate, &names, facts.now_unix_s);
    Needs {
        authority: !facts.present.contains(paths::AUTHORITY),
        credentials: !facts.present.contains(paths::CREDENTIALS),
        certificate: match &facts.authority {
            Some(authority) => !vouched(authority),
            None => !facts.present.contains(paths::AUTHORITY),
        },
    }
}

/// Plans the broker, or that there is none.
pub fn plan(wishes: &Wishes, host: &str, facts: &Facts, materials: &Materials, state: &State, plan: &mut Plan) {
    if !wishes.is_broker() {
        let gone = [paths::BROKER, paths::ANNOUNCEMENT];
        for path in gone.into_iter().filter(|path| wishes.changed && facts.present.contains(path)) {
            plan.remove(Part::Broker, path);
        }
        return;
    }
    let Some((credentials, are_new)) = &materials.credentials else { return };
    if materials.ca.is_empty() {
        return;
    }
    let (site, part) = (wishes.site(), Part::Broker);
    plan.act(part, Action::Folder { path: "/etc/microlambda/authority".into(), mode: 0o700 });
    if let Some(authority) = &materials.new_authority {
        plan.write_secret(part, paths::AUTHORITY, super::Content(authority.clone()));
    }
    if *are_new && let Ok(text) = serde_json::to_string_pretty(credentials) {
        plan.write_secret(part, paths::CREDENTIALS, text + "\n");
    }
    plan.write(part, paths::SITE_CA, super::Content(materials.ca.clone()));
    if let Some(certificate) = &materials.new_certificate {
        plan.act(part, mosquittos(paths::BROKER_CERTIFICATE, certificate.clone()));
    }
    plan.act(part, mosquittos(paths::BROKER_ACL, broker::acl(&site).into_bytes()));
    let lines = credentials.lines();
    let mark = digest(lines.as_bytes());
    if state.broker_passwords.as_ref() != Some(&mark) || !facts.present.contains(paths::BROKER_PASSWORDS) {
        let path = paths::BROKER_PASSWORDS.into();
        plan.act(part, Action::HashPasswords { path, lines: lines.into(), owner: MOSQUITTO });
        plan.memory.push((part, Memory::BrokerPasswords(mark)));
    }
    plan_join_files(wishes, host, materials, credentials, plan);
    for (role, member) in [(Role::Camera, Member::Camera), (Role::Edge, Member::Edge)] {
        if wishes.roles().contains(&role) {
            plan_password(plan, part, member, credentials.of(member));
        }
    }
    plan.write(part, paths::ANNOUNCEMENT, broker::announcement(&site));
    // Last, as the broker starts only if it is there.
    let files =
        Files { passwords: paths::BROKER_PASSWORDS, acl: paths::BROKER_ACL, certificate: paths::BROKER_CERTIFICATE };
    plan.write(part, paths::BROKER, broker::settings(&files));
}

fn plan_join_files(wishes: &Wishes, host: &str, materials: &Materials, credentials: &Credentials, plan: &mut Plan) {
    let names = broker_names(wishes, host);
    let ca = String::from_utf8_lossy(&materials.ca).into_owned();
    plan.act(Part::Broker, Action::Folder { path: paths::JOINS.into(), mode: 0o700 });
    for member in Member::ALL {
        let join = Join {
            site: wishes.site(),
            member,
            broker: format!("mqtts://{}:{TLS_PORT}", names.first().map_or(HOST_DEFAULT, String::as_str)),
            username: member.as_str().to_owned(),
            password: Some(credentials.of(member).to_owned()),
            ca: ca.clone(),
        };
        plan.write_secret(Part::Broker, format!("{}/{}.toml", paths::JOINS, member.as_str()), join::text(&join));
    }
}

fn mosquittos(path: &str, content: Vec<u8>) -> Action {
    Action::Write { path: path.into(), content: super::Content(content), mode: 0o600, owner: MOSQUITTO, check: None }
}
