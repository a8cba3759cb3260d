//! What this program remembers between boots.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::camera::Camera;
use crate::input::appliance::Settings;
use crate::input::check::to_hex;
use crate::input::join::Member;
use crate::problem::Problem;
use microlambda_wire::Name;

/// The form of the file that this program writes.
pub const VERSION: u32 = 1;

/// Everything remembered; root's alone, as it may hold the passwords of a camera's address and of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// [`VERSION`].
    pub version: u32,
    /// By file: digests of the content that was applied, without the secrets that were taken out.
    pub applied: BTreeMap<String, Vec<String>>,
    /// Digest of the `microlambda.toml` that was applied but for the join in it: it is read again at each start. A former version did not know.
    #[serde(default)]
    pub applied_but_join: Option<String>,
    /// By file that was applied: keys whose secrets could not be taken out of it yet. A former version did not know.
    #[serde(default)]
    pub unredacted: BTreeMap<String, Vec<String>>,
    /// By file: what was wrong with it.
    pub problems: BTreeMap<String, Vec<Problem>>,
    /// What `microlambda.toml` set.
    pub settings: Option<Settings>,
    /// Where joins led, by member.
    pub joins: BTreeMap<Member, Joined>,
    /// The wireless network's name in hexadecimal digits, and the lines that open it.
    pub wlan: Option<(String, Vec<String>)>,
    /// Who was given a way in.
    pub user: Option<String>,
    /// Who was before, and still has it. A former version did not know.
    #[serde(default)]
    pub former_users: BTreeSet<String>,
    /// Digest of the credentials that are in the broker's password file.
    pub broker_passwords: Option<String>,
    /// What the camera's spool is made for. A former version did not know.
    #[serde(default)]
    pub camera: Option<Camera>,
}

/// A join that was applied; password and authority are in files of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Joined {
    /// The site.
    pub site: Name,
    /// The broker.
    pub broker: String,
    /// The broker's user.
    pub username: String,
}

impl Default for State {
    fn default() -> Self {
        Self {
            version: VERSION,
            applied: BTreeMap::new(),
            applied_but_join: None,
            unredacted: BTreeMap::new(),
            problems: BTreeMap::new(),
            settings: None,
            joins: BTreeMap::new(),
            wlan: None,
            user: None,
            former_users: BTreeSet::new(),
            broker_passwords: None,
            camera: None,
        }
    }
}

impl State {
    /// Reads the file's content.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let state: Self = serde_json::from_slice(bytes)
            // Its own words may repeat a part of the file, which holds a camera's password.
            .map_err(|error| format!("line {}, column {} is damaged", error.line(), error.column()))?;
        if state.version == VERSION { Ok(state) } else { Err(format!("version {} is not known", state.version)) }
    }

    /// The file's content.
    ///
    /// # Errors
    /// None for a state that was read or made by this program.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        Ok([serde_json::to_vec_pretty(self)?, b"\n".to_vec()].concat())
    }

    /// Whether a file with this content was applied.
    pub fn has_applied(&self, file: &str, content: &[u8]) -> bool {
        self.applied.get(file).is_some_and(|digests| digests.contains(&digest(content)))
    }

    /// Every problem that is known, in the order of the files' names.
    pub fn all_problems(&self) -> Vec<Problem> {
        self.problems.values().flatten().cloned().collect()
    }
}

/// SHA-256, as hexadecimal digits.
pub fn digest(content: &[u8]) -> String {
    to_hex(&Sha256::digest(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_of_a_former_version_is_read() {
        let state = State { settings: Some(Settings::empty()), ..State::default() };
        let mut memory: serde_json::Value = serde_json::from_slice(&state.to_bytes().unwrap()).unwrap();
        let settings = memory["settings"].as_object_mut().unwrap();
        assert!(settings.remove("no_roles").is_some());
        for key in ["former_users", "camera", "applied_but_join", "unredacted"] {
            assert!(memory.as_object_mut().unwrap().remove(key).is_some(), "{key}");
        }
        assert_eq!(State::parse(memory.to_string().as_bytes()), Ok(state));
    }
}
