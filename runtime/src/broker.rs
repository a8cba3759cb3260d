//! Where the broker is and how to get in.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, check_path};
use crate::discovery::BrokerAddress;
use crate::link::LinkConfig;

/// Name of the systemd credential that holds the broker's password (`LoadCredential=mqtt-password:…`).
pub const PASSWORD_CREDENTIAL: &str = "mqtt-password";
/// A password or CA file longer than this is none, bytes.
const SECRET_BYTES_MAX: u64 = 1 << 20;

/// A broker's address: `mqtt://host[:port]` (1883) or `mqtts://host[:port]` (TLS, 8883).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BrokerUrl {
    /// Host name or address, IPv6 without brackets.
    pub host: String,
    /// The broker's TCP port.
    pub port: u16,
    /// True for `mqtts://`.
    pub tls: bool,
}

/// The text is no broker's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a broker's address: {why}; write mqtt://host:1883, or mqtts://host:8883 for TLS")]
pub struct BrokerUrlError {
    text: String,
    why: &'static str,
}

impl FromStr for BrokerUrl {
    type Err = BrokerUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |why| BrokerUrlError { text: text.chars().take(200).collect(), why };
        let (tls, rest) = match text.split_once("://") {
            Some(("mqtt", rest)) => (false, rest),
            Some(("mqtts", rest)) => (true, rest),
            Some(_) => return Err(error("only mqtt:// and mqtts:// are known")),
            None => return Err(error("it has no scheme")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('@') {
            // The text may hold a password: it is not repeated.
            let text = format!("{}://…@…", if tls { "mqtts" } else { "mqtt" });
            return Err(BrokerUrlError { text, why: "user name and password go to `username` and `password-file`" });
        }
        if rest.contains(['/', '?', '#', ' ']) {
            return Err(error("nothing may follow host and port"));
        }
        let (host, port) = match rest.strip_prefix('[') {
            Some(bracketed) => {
                let (host, after) = bracketed.split_once(']').ok_or_else(|| error("a bracket is not closed"))?;
                let port = if after.is_empty() {
                    None
                } else {
                    Some(after.strip_prefix(':').ok_or_else(|| error("a port follows after a colon"))?)
                };
                (host, port)
            }
            None => match rest.split_once(':') {
                Some((_, port)) if port.contains(':') => return Err(error("an IPv6 address stands in brackets")),
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        if host.is_empty() {
            return Err(error("it has no host"));
        }
        let default_port = if tls { 8883 } else { 1883 };
        let port = port.map_or(Ok(default_port), str::parse).ok().filter(|&port| port != 0);
        let port = port.ok_or_else(|| error("a port is a number from 1 to 65535"))?;
        Ok(Self { host: host.to_owned(), port, tls })
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

impl TryFrom<String> for BrokerUrl {
    type Error = BrokerUrlError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<BrokerUrl> for String {
    fn from(url: BrokerUrl) -> Self {
        url.to_string()
    }
}

/// The `[broker]` table of an agent's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct BrokerConfig {
    /// Where the broker is. Without it one is looked for on this computer, then on the local network by mDNS.
    pub url: Option<BrokerUrl>,
    /// User name, if the broker asks for one.
    pub username: Option<String>,
    /// File with the password in its first line. Without it the systemd credential `mqtt-password` is used.
    pub password_file: Option<PathBuf>,
    /// PEM file with the certificate of the authority that signed the broker's, for `mqtts://`, or several: no other is
    /// trusted. Without it the system's authorities are.
    pub ca_file: Option<PathBuf>,
}

impl BrokerConfig {
    /// Where to look for the broker: with `ca-file` only among those that speak TLS, which it is there to check.
    pub fn address(&self) -> BrokerAddress {
        self.url.clone().map_or(BrokerAddress::Found { tls: self.ca_file.is_some() }, BrokerAddress::At)
    }

    /// Checks the paths that stand here; the files are read by [`link_config`](Self::link_config).
    ///
    /// # Errors
    /// [`ConfigError::Value`] names the key and what to write instead.
    pub fn check_paths(&self) -> Result<(), ConfigError> {
        for (key, path) in [("broker.password-file", &self.password_file), ("broker.ca-file", &self.ca_file)] {
            if let Some(path) = path {
                check_path(key, path)?;
            }
        }
        Ok(())
    }

    /// Reads password and certificate and returns the settings of a link with everything else at its default.
    ///
    /// `client_id` should be the same at every start (for example `camera-door`): the broker then ends a former
    /// connection of this client, and sends its last will, *before* it accepts the new one.
    ///
    /// # Errors
    /// [`ConfigError::Value`] names the key and what to do.
    pub fn link_config(&self, client_id: impl Into<String>) -> Result<LinkConfig, ConfigError> {
        self.check_paths()?;
        let address = self.address();
        let tls =
            matches!(&address, BrokerAddress::Found { tls: true } | BrokerAddress::At(BrokerUrl { tls: true, .. }));
        if self.url.is_none() && !tls && self.username.is_some() {
            return Err(ConfigError::value(
                "broker.username",
                "a password is not given to whichever broker answers by mDNS: name the broker's authority as `ca-file`, or the broker as `url`",
            ));
        }
        let mut link = LinkConfig::new(address, client_id);
        link.credentials = self.credentials(std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from).as_deref())?;
        if let Some(path) = &self.ca_file {
            if !tls {
                return Err(ConfigError::value(
                    "broker.ca-file",
                    "only an mqtts:// url uses it: change the url or leave it out",
                ));
            }
            let pem = read_small("broker.ca-file", path)?;
            if !pem.windows(22).any(|window| window == b"-----BEGIN CERTIFICATE") {
                return Err(ConfigError::value(
                    "broker.ca-file",
                    format!("{} holds no PEM certificate", path.display()),
                ));
            }
            link.ca_pem = Some(pem);
        }
        Ok(link)
    }

    fn credentials(&self, credentials_folder: Option<&Path>) -> Result<Option<(String, String)>, ConfigError> {
        let Some(username) = &self.username else {
            return match self.password_file {
                Some(_) => Err(ConfigError::value("broker.password-file", "a password needs a `username` as well")),
                None => Ok(None),
            };
        };
        let credential = credentials_folder.map(|folder| folder.join(PASSWORD_CREDENTIAL)).filter(|path| path.exists());
        let password = match (&self.password_file, credential) {
            (Some(path), _) => read_small("broker.password-file", path)?,
            (None, Some(path)) => read_small("credential mqtt-password", &path)?,
            (None, None) => Vec::new(),
        };
        let password = String::from_utf8(password)
            .map_err(|_| ConfigError::value("broker.password-file", "the password is not UTF-8 text"))?;
        let password = password.lines().next().unwrap_or_default().to_owned();
        Ok(Some((username.clone(), password)))
    }
}

fn read_small(key: &str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    let error = |why: String| ConfigError::value(key, format!("cannot read {}: {why}", path.display()));
    let metadata = std::fs::metadata(path).map_err(|e| error(e.to_string()))?;
    if !metadata.is_file() || metadata.len() > SECRET_BYTES_MAX {
        return Err(error(format!("not a regular file of at most {SECRET_BYTES_MAX} bytes")));
    }
    std::fs::read(path).map_err(|e| error(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for (text, host, port, tls) in [
            ("mqtt://broker", "broker", 1883, false),
            ("mqtt://10.0.0.7:2883/", "10.0.0.7", 2883, false),
            ("mqtts://broker.example", "broker.example", 8883, true),
            ("mqtt://[::1]:1884", "::1", 1884, false),
        ] {
            let url: BrokerUrl = text.parse().unwrap();
            assert_eq!(url, BrokerUrl { host: host.into(), port, tls }, "{text}");
            assert_eq!(url.to_string().parse::<BrokerUrl>().unwrap(), url);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_an_example() {
        for text in [
            "",
            "broker",
            "http://broker",
            "mqtt://",
            "mqtt://b:0",
            "mqtt://b:99999",
            "mqtt://::1",
            "mqtt://[::1",
            "mqtt://b/x",
            "mqtt://[::1]7",
        ] {
            let message = text.parse::<BrokerUrl>().unwrap_err().to_string();
            assert!(message.contains("mqtt://host:1883"), "{text}: {message}");
        }
    }

    #[test]
    fn a_password_in_the_address_is_refused_and_not_repeated() {
        let message = "mqtt://me:secret@broker".parse::<BrokerUrl>().unwrap_err().to_string();
        assert!(message.contains("password-file") && !message.contains("secret"), "{message}");
    }

    #[test]
    fn the_password_comes_from_its_file_or_the_service_managers_credential() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(PASSWORD_CREDENTIAL), "from credential\n").unwrap();
        std::fs::write(folder.path().join("file"), "from file\nsecond line").unwrap();
        let mut config = BrokerConfig { username: Some("door".into()), ..BrokerConfig::default() };
        let pair = |password: &str| Some(("door".to_owned(), password.to_owned()));
        assert_eq!(config.credentials(Some(folder.path())).unwrap(), pair("from credential"));
        assert_eq!(config.credentials(None).unwrap(), pair(""));
        config.password_file = Some(folder.path().join("file"));
        assert_eq!(config.credentials(Some(folder.path())).unwrap(), pair("from file"));
        config.password_file = Some(folder.path().join("none"));
        assert!(config.credentials(None).unwrap_err().to_string().starts_with("broker.password-file: cannot read"));
    }

    #[test]
    fn a_file_under_a_tilde_is_refused_by_its_key_before_it_is_looked_for() {
        let tilde = |name: &str| Some(PathBuf::from(format!("~/{name}")));
        let password = BrokerConfig { password_file: tilde("password"), ..BrokerConfig::default() };
        let authority = BrokerConfig { ca_file: tilde("ca.pem"), ..BrokerConfig::default() };
        for (config, key, whole) in [
            (password, "broker.password-file", "/home/ann/password"),
            (authority, "broker.ca-file", "/home/ann/ca.pem"),
        ] {
            let message = config.link_config("x").unwrap_err().to_string();
            assert!(message.starts_with(key) && message.contains(whole), "{message}");
        }
        BrokerConfig::default().check_paths().unwrap();
    }

    #[test]
    fn a_ca_file_must_hold_a_certificate_and_needs_tls() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, "hello").unwrap();
        let url = |text: &str| Some(text.parse().unwrap());
        let mut config = BrokerConfig { url: url("mqtt://broker"), ca_file: Some(path), ..BrokerConfig::default() };
        assert!(config.link_config("x").unwrap_err().to_string().contains("mqtts://"));
        config.url = url("mqtts://broker");
        assert!(config.link_config("x").unwrap_err().to_string().contains("no PEM certificate"));
    }
}
