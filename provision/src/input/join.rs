//! Join files: how a node, or a person who watches, gets into a site. One is made per role by the broker's node.

use microlambda_wire::Name;
use openssl::x509::X509;
use serde::{Deserialize, Serialize};

use super::appliance;
use super::check::{self, APPLIED};
use super::document::{Document, Given, Section};
use crate::problem::Problems;

/// File names on the boot partition; a node with two roles takes one for each.
pub const FILES: [&str; 3] = ["microlambda-join.toml", "microlambda-join-camera.toml", "microlambda-join-edge.toml"];
/// Keys whose values are secrets, with their tables.
pub const SECRETS: [&[&str]; 1] = [&["password"]];
/// Longest certificate, bytes.
const CA_BYTES_MAX: usize = 64 << 10;

/// Whom a join file lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Member {
    /// A camera.
    Camera,
    /// An edge node.
    Edge,
    /// Whoever watches: events, faces, pictures and status.
    Viewer,
}

impl Member {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Camera, Self::Edge, Self::Viewer];

    /// Its name: in files, on the command line, and as the broker's user.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Camera => "camera",
            Self::Edge => "edge",
            Self::Viewer => "viewer",
        }
    }
}

/// One join file.
#[derive(Clone, PartialEq, Eq)]
pub struct Join {
    /// The site.
    pub site: Name,
    /// Whom it lets in.
    pub member: Member,
    /// The broker: `mqtts://…`.
    pub broker: String,
    /// The broker's user.
    pub username: String,
    /// Its password; none if it was applied before.
    pub password: Option<String>,
    /// The certificate of the site's authority, PEM.
    pub ca: String,
}

impl std::fmt::Debug for Join {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Join({} {} {})", self.site, self.member.as_str(), self.broker)
    }
}

/// Reads a whole file.
pub fn read(document: &Document<'_>, problems: &mut Problems) -> Given<Join> {
    let before = problems.count();
    let found = read_section(document.root(), problems);
    match found {
        Given::Absent if problems.count() == before => Given::Wrong,
        found => found,
    }
}

/// Reads the keys of one table: all of them, or it is no join.
pub fn read_section(mut section: Section<'_, '_>, problems: &mut Problems) -> Given<Join> {
    if !section.is_there() {
        return Given::Absent;
    }
    let before = problems.count();
    let version = section.get("version", problems, |version: u64| match version {
        1 => Ok(1),
        _ => Err(format!("version {version} is not known here: update this node")),
    });
    let site = section.get("site", problems, |text: String| Name::new(text).map_err(|why| why.to_string()));
    let member = section.get("role", problems, |role: String| match role.as_str() {
        "camera" => Ok(Member::Camera),
        "edge" => Ok(Member::Edge),
        "viewer" => {
            Err("a viewer's join file is for people who watch, not for a node: take that of camera or edge".into())
        }
        _ => Err(format!("{role:?} is no role that joins: camera or edge")),
    });
    let broker = section.get("broker", problems, appliance::address);
    let username = section.get("username", problems, check::user_name);
    let password = section.get("password", problems, |text: String| match text {
        text if text == APPLIED => Ok(None),
        text => check::password(text).map(Some),
    });
    let ca = section.get("ca", problems, authority);
    let missing: Vec<&str> = [
        ("site", site == Given::Absent),
        ("role", member == Given::Absent),
        ("broker", broker == Given::Absent),
        ("username", username == Given::Absent),
        ("password", password == Given::Absent),
        ("ca", ca == Given::Absent),
    ]
    .into_iter()
    .filter_map(|(key, is_missing)| is_missing.then_some(key))
    .collect();
    if let Some(first) = missing.first() {
        let all = missing.join(", ");
        section.blame(
            first,
            format!("missing ({all}): copy the whole file that `microlambda-provision join` prints"),
            problems,
        );
    }
    section.finish(problems);
    let parts = (site.right(), member.right(), broker.right(), username.right(), password.right(), ca.right());
    match parts {
        (Some(site), Some(member), Some(broker), Some(username), Some(password), Some(ca))
            if problems.count() == before && !version.is_wrong() =>
        {
            Given::Right(Join { site, member, broker, username, password, ca })
        }
        _ => Given::Wrong,
    }
}

/// The certificates of authorities, PEM.
fn authority(text: String) -> check::Checked<String> {
    let damaged = || "it is damaged: copy the whole file that `microlambda-provision join` prints".to_owned();
    if text.len() > CA_BYTES_MAX {
        return Err(damaged());
    }
    let found = X509::stack_from_pem(text.as_bytes()).map_err(|_| damaged())?;
    if found.is_empty() {
        return Err(damaged());
    }
    // In its one form, without whatever stood around it.
    let pem: Result<Vec<Vec<u8>>, _> = found.iter().map(|certificate| certificate.to_pem()).collect();
    String::from_utf8(pem.map_err(|_| damaged())?.concat()).map_err(|_| damaged())
}

/// The text of a join file, with what to do with it.
pub fn text(join: &Join) -> String {
    let (site, member) = (&join.site, join.member.as_str());
    let head = match join.member {
        Member::Camera | Member::Edge => format!(
            "# Lets a node into the site {site} as {member}: put this file on the node's boot partition, under the name\n\
             # microlambda-join.toml (or microlambda-join-{member}.toml, if it takes more than one).\n"
        ),
        Member::Viewer => format!(
            "# Lets a person or a program watch the site {site}. Save the certificate below as site-ca.pem, then for example:\n\
             #   mosquitto_sub -h {} -p {} --cafile site-ca.pem -u {} -P '<password>' -t 'microlambda/{site}/event'\n",
            join.broker.trim_start_matches("mqtts://").rsplit_once(':').map_or("", |(host, _)| host),
            join.broker.rsplit_once(':').map_or("", |(_, port)| port),
            join.username,
        ),
    };
    let password = join.password.as_deref().unwrap_or(APPLIED);
    // Checked values: none of them holds a quote, a backslash or a line break.
    format!(
        "{head}# Whoever has this file is let in: keep it secret.\nversion = 1\nsite = \"{site}\"\nrole = \"{member}\"\n\
         broker = \"{}\"\nusername = \"{}\"\npassword = \"{password}\"\nca = \"\"\"\n{}\"\"\"\n",
        join.broker, join.username, join.ca
    )
}
