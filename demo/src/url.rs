//! A broker's address.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rumqttc::MqttOptions;

use crate::Error;

/// The port that MQTT without TLS has by registration.
const PORT_DEFAULT: u16 = 1883;
/// No packet is larger in either direction, bytes: a frame at the largest payload bound and its envelope.
const PACKET_BYTES_MAX: usize = 17 << 20;

/// `mqtt://[user[:password]@]host[:port]`.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    /// User and password, if the broker wants some.
    credentials: Option<(String, String)>,
    host: String,
    port: u16,
}

impl BrokerUrl {
    /// A broker on this machine.
    pub fn loopback(port: u16) -> Self {
        Self { credentials: None, host: "127.0.0.1".into(), port }
    }

    /// Host and port.
    pub fn address(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// The same user and password at another address.
    #[must_use]
    pub fn at(&self, host: &str, port: u16) -> Self {
        Self { credentials: self.credentials.clone(), host: host.into(), port }
    }

    /// User and password, if the broker wants some. [`fmt::Display`] leaves both out.
    pub fn credentials(&self) -> Option<(&str, &str)> {
        self.credentials.as_ref().map(|(user, password)| (user.as_str(), password.as_str()))
    }

    /// What a client needs to connect.
    pub(crate) fn options(&self, client_id: &str) -> MqttOptions {
        let mut options = MqttOptions::new(client_id, &self.host, self.port);
        options.set_keep_alive(Duration::from_secs(20));
        options.set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
        if let Some((user, password)) = &self.credentials {
            options.set_credentials(user, password);
        }
        options
    }
}

impl FromStr for BrokerUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let error = |why: &str| Error::Broker {
            url: text.rsplit_once('@').map_or_else(|| text.to_string(), |(_, rest)| format!("mqtt://…@{rest}")),
            why: format!("{why}; write it as mqtt://host:port"),
        };
        let rest = text.strip_prefix("mqtt://").ok_or_else(|| match text.split_once("://") {
            Some(("mqtts" | "ssl", _)) => error("the demo speaks to brokers without TLS only"),
            _ => error("not an address of a broker"),
        })?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, address) = match rest.rsplit_once('@') {
            Some((user, address)) => (Some(user.split_once(':').unwrap_or((user, ""))), address),
            None => (None, rest),
        };
        let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            Some(port) => port.parse().ok().filter(|&port| port > 0).ok_or_else(|| error("the port is no number"))?,
            None => PORT_DEFAULT,
        };
        if host.is_empty() || host.contains(['/', ' ']) {
            return Err(error("it names no host"));
        }
        let credentials = credentials.map(|(user, password)| (user.to_string(), password.to_string()));
        Ok(Self { credentials, host: host.into(), port })
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "mqtt://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "mqtt://{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_port_user_and_brackets() {
        let read = |text: &str| text.parse::<BrokerUrl>().unwrap();
        assert_eq!(read("mqtt://pi.local").address(), ("pi.local", 1883));
        assert_eq!(read("mqtt://10.0.0.7:18830/").address(), ("10.0.0.7", 18830));
        assert_eq!(read("mqtt://[::1]:7").address(), ("::1", 7));
        assert_eq!(read("mqtt://[::1]").to_string(), "mqtt://[::1]:1883");
        assert_eq!(read("mqtt://ann:a:b@host").credentials(), Some(("ann", "a:b")));
        assert_eq!(read("mqtt://ann@host").credentials(), Some(("ann", "")));
    }

    #[test]
    fn a_password_is_never_shown() {
        let url: BrokerUrl = "mqtt://ann:secret@host".parse().unwrap();
        assert!(!format!("{url} {url:?}").contains("secret"));
        let error = "mqtt://ann:secret@host:port".parse::<BrokerUrl>().unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_form_to_use() {
        for text in ["", "host:1883", "http://host", "mqtts://host", "mqtt://", "mqtt://host:0", "mqtt://host:99999"] {
            let error = text.parse::<BrokerUrl>().unwrap_err().to_string();
            assert!(error.contains("mqtt://host:port"), "{text}: {error}");
        }
    }
}
