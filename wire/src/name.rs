//! Names that may stand as one level of a topic.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// No name is longer, bytes.
pub const NAME_LEN_MAX: usize = 64;
/// `-` and eight digits follow the camera's name in a chain's.
pub const CAMERA_LEN_MAX: usize = NAME_LEN_MAX - 9;

/// The id of a site, camera, node, chain or face: 1 to 64 characters out of `a-z`, `0-9`, `_` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// The text cannot be a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a name: use 1 to {NAME_LEN_MAX} characters out of a-z, 0-9, _ and -")]
pub struct NameError(String);

impl Name {
    /// Checks `text`.
    ///
    /// # Errors
    /// [`NameError`] if it is empty, too long or has another character.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        if text.is_empty() || text.len() > NAME_LEN_MAX || !text.chars().all(allowed) {
            return Err(NameError(text.chars().take(NAME_LEN_MAX + 1).collect()));
        }
        Ok(Self(text))
    }

    /// The site of a configuration that names none: `home`.
    pub fn default_site() -> Self {
        Self("home".to_owned())
    }

    /// The name that a camera gets from its host's: the first label in lower case, other characters as `-`, [`CAMERA_LEN_MAX`] at most.
    ///
    /// # Errors
    /// [`NameError`] if the host has no name.
    pub fn of_camera_on(host: &str) -> Result<Self, NameError> {
        let label = host.split('.').next().unwrap_or_default().to_lowercase();
        let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
        Self::new(label.chars().take(CAMERA_LEN_MAX).map(allowed).collect::<String>())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_camera_is_called_as_its_host_as_far_as_a_name_may_be() {
        let name = |host: &str| Name::of_camera_on(host).map(|name| name.to_string());
        assert_eq!(name("Door_1.lan").as_deref(), Ok("door_1"));
        assert_eq!(name(&"ä".repeat(90)), Ok("-".repeat(CAMERA_LEN_MAX)));
        assert!(name("").is_err());
    }
}
