//! Finds a broker for an agent whose configuration names none: on this computer, else on the local network by mDNS (DNS-SD, RFC 6763).
//!
//! Anybody on the network may answer. So whoever has an authority to check a broker by (`ca-file`) takes only brokers that speak TLS
//! and prove themselves; one after another is tried, so that an impostor costs an attempt and nothing else.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use mdns_sd::{ResolvedService, ServiceDaemon, ServiceEvent};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::broker::BrokerUrl;

/// Brokers that speak TLS, and those that do not say so.
const SERVICES: [(&str, bool); 2] = [("_secure-mqtt._tcp.local.", true), ("_mqtt._tcp.local.", false)];
/// The port at which MQTT speaks TLS, whatever its service is called; and the other one.
const TLS_PORT: u16 = 8883;
const PLAIN_PORT: u16 = 1883;
const NONE: &str = "no broker listens on this computer (127.0.0.1:1883) or answers by mDNS on its network: \
  install one (for example mosquitto), or name yours as `url` in [broker]";
const NONE_WITH_TLS: &str = "no broker that speaks TLS answers by mDNS on this network: \
  name yours as `url` in [broker], or let it announce itself as _secure-mqtt._tcp";
/// Time for the first answer, and after it for those of others.
const FIRST_ANSWER: Duration = Duration::from_secs(3);
const OTHER_ANSWERS: Duration = Duration::from_millis(400);
/// Brokers kept of one search.
const FOUND_MAX: usize = 16;
/// A broker that was connected to is tried so often before another is searched for: it may only be restarting.
const KNOWN_TRIES: u32 = 20;

/// Where a link finds its broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerAddress {
    /// At this address, which somebody has configured.
    At(BrokerUrl),
    /// On this computer or somewhere on the local network.
    Found {
        /// Only brokers that speak TLS are taken.
        tls: bool,
    },
}

impl From<BrokerUrl> for BrokerAddress {
    fn from(url: BrokerUrl) -> Self {
        Self::At(url)
    }
}

impl std::fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::At(url) => url.fmt(f),
            Self::Found { tls: true } => f.write_str("a broker found by mDNS, over TLS"),
            Self::Found { tls: false } => f.write_str("a broker on this computer or found by mDNS"),
        }
    }
}

/// The brokers that a link tries in turn.
pub(crate) struct Brokers {
    address: BrokerAddress,
    /// The broker that was connected to last, and how often it is still tried.
    known: Option<(BrokerUrl, u32)>,
    left: VecDeque<BrokerUrl>,
}

impl Brokers {
    pub(crate) fn new(address: BrokerAddress) -> Self {
        Self { address, known: None, left: VecDeque::new() }
    }

    /// The broker to try next; searches the network once all that a former search found were tried.
    pub(crate) async fn next(&mut self) -> Result<BrokerUrl, String> {
        let tls = match &self.address {
            BrokerAddress::At(url) => return Ok(url.clone()),
            BrokerAddress::Found { tls } => *tls,
        };
        if let Some((broker, tries)) = &mut self.known
            && *tries > 0
        {
            *tries -= 1;
            return Ok(broker.clone());
        }
        if !tls && TcpStream::connect((Ipv4Addr::LOCALHOST, PLAIN_PORT)).await.is_ok() {
            return Ok(BrokerUrl { host: Ipv4Addr::LOCALHOST.to_string(), port: PLAIN_PORT, tls });
        }
        if self.left.is_empty() {
            self.left = search(tls).await?;
        }
        self.left.pop_front().ok_or_else(|| if tls { NONE_WITH_TLS.into() } else { NONE.into() })
    }

    /// The broker that was connected to last is tried first.
    pub(crate) fn prefer(&mut self, broker: BrokerUrl) {
        self.known = Some((broker, KNOWN_TRIES));
    }
}

/// The brokers that answer on the network.
async fn search(tls: bool) -> Result<VecDeque<BrokerUrl>, String> {
    let unable =
        |error: mdns_sd::Error| format!("cannot search for a broker by mDNS: {error}; name one as `url` in [broker]");
    let daemon = ServiceDaemon::new().map_err(unable)?;
    let (secure, plain) =
        (daemon.browse(SERVICES[0].0).map_err(unable)?, daemon.browse(SERVICES[1].0).map_err(unable)?);
    let mut found = VecDeque::new();
    let mut until = Instant::now() + FIRST_ANSWER;
    while found.len() < FOUND_MAX {
        let answer = async {
            tokio::select! {
                event = secure.recv_async() => event.map(|event| (event, SERVICES[0].1)),
                event = plain.recv_async() => event.map(|event| (event, SERVICES[1].1)),
            }
        };
        let Ok(Ok((event, secure))) = timeout_at(until, answer).await else { break };
        let ServiceEvent::ServiceResolved(service) = event else { continue };
        let Some(broker) = broker_of(&service, secure || service.port == TLS_PORT) else { continue };
        if (tls && !broker.tls) || found.contains(&broker) {
            continue;
        }
        if found.is_empty() {
            until = Instant::now() + OTHER_ANSWERS;
        }
        found.push_back(broker);
    }
    // It ends by itself; that it was told is enough.
    drop(daemon.shutdown());
    // Whoever answers first gains nothing by it.
    found.make_contiguous().sort_by_key(|broker| (!broker.tls, broker.to_string()));
    Ok(found)
}

/// How to reach what was announced. A broker with TLS is named, as its certificate names it; another is reached at its address, which
/// needs no resolver that knows `.local`.
fn broker_of(service: &ResolvedService, tls: bool) -> Option<BrokerUrl> {
    let name = service.host.trim_end_matches('.');
    let is_name = !name.is_empty()
        && name.len() <= 253
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
    let host = if tls {
        is_name.then(|| name.to_ascii_lowercase())?
    } else {
        service.addresses.iter().map(|address| address.to_ip_addr()).filter(IpAddr::is_ipv4).min()?.to_string()
    };
    (service.port != 0).then_some(BrokerUrl { host, port: service.port, tls })
}
