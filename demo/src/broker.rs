//! The brokers that a job may run on: an embedded one, mosquitto, or somebody else's.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use microlambda_wire::Name;
use rumqttc::{Client, ConnectReturnCode, ConnectionError, Event, Packet, QoS};

use crate::process::{POLL, Process};
use crate::relay::{self, Endpoint};
use crate::url::BrokerUrl;
use crate::{Error, Observer, Programs};

/// A broker on this machine answers within this time after its start, or something is wrong.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// A broker elsewhere answers within this time.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// No retained message for so long: there is none left.
const QUIET: Duration = Duration::from_millis(500);

/// Which program it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerKind {
    /// rumqttd inside this project's own demo program: nothing to install, nothing on disk.
    Embedded,
    /// Eclipse mosquitto from the distribution.
    Mosquitto,
    /// One that was there before, and stays.
    External,
}

impl fmt::Display for BrokerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Embedded => "embedded",
            Self::Mosquitto => "mosquitto",
            Self::External => "external",
        })
    }
}

/// A broker that answers. One that was started here ends on drop.
#[derive(Debug)]
pub struct Broker {
    kind: BrokerKind,
    url: BrokerUrl,
    process: Option<Process>,
}

impl Broker {
    /// Starts the embedded broker as a process of its own, on `port` or on a free one, and waits until it answers.
    ///
    /// # Errors
    /// [`Error::Port`] if the port is taken, [`Error::Binary`], or [`Error::Exited`] with its log.
    pub fn embedded(programs: &Programs, dir: &Path, port: Option<u16>) -> Result<Self, Error> {
        let port = free_port(port)?;
        let argv = vec![programs.demo.clone().into(), "broker".into(), "--port".into(), port.to_string().into()];
        Self::start(BrokerKind::Embedded, argv, dir, port)
    }

    /// Starts mosquitto with a configuration of ours in `dir`, on `port` or on a free one, and waits until it answers.
    ///
    /// Queues are unbounded and nothing is kept on disk, so that what is lost is what a kill loses.
    ///
    /// # Errors
    /// [`Error::Spawn`] if it is not installed; otherwise as [`Broker::embedded`].
    pub fn mosquitto(dir: &Path, port: Option<u16>) -> Result<Self, Error> {
        let port = free_port(port)?;
        let config = dir.join("mosquitto.conf");
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n\
             max_queued_messages 0\nmax_inflight_messages 0\nset_tcp_nodelay true\nlog_type error\nlog_type warning\n"
        );
        fs::create_dir_all(dir).map_err(|e| Error::file(dir, e))?;
        fs::write(&config, text).map_err(|e| Error::file(&config, e))?;
        let argv = vec![mosquitto_program(), "-c".into(), config.into()];
        Self::start(BrokerKind::Mosquitto, argv, dir, port)
    }

    /// Uses the broker at `url` (`mqtt://[user:password@]host[:port]`), after it has answered.
    ///
    /// # Errors
    /// [`Error::Broker`] if the address is none, or nobody answers.
    pub fn external(url: &str) -> Result<Self, Error> {
        let broker = Self { kind: BrokerKind::External, url: url.parse()?, process: None };
        let answer = broker.wait_until_it_answers(ANSWER_PATIENCE);
        answer.map_err(|why| Error::Broker { url: broker.url.to_string(), why })?;
        Ok(broker)
    }

    fn start(kind: BrokerKind, argv: Vec<OsString>, dir: &Path, port: u16) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(|e| Error::file(dir, e))?;
        let process = Process::start("broker", argv, &dir.join("broker.log"))?;
        let mut broker = Self { kind, url: BrokerUrl::loopback(port), process: Some(process) };
        broker.ready()?;
        Ok(broker)
    }

    fn ready(&mut self) -> Result<(), Error> {
        let answer = self.wait_until_it_answers(START_PATIENCE);
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        process.check_running()?;
        answer.map_err(|why| Error::Timeout {
            what: format!("the {} broker to answer ({why})", self.kind),
            after_s: START_PATIENCE.as_secs(),
            logs: format!("; its last lines:\n{}", process.log_tail(12)),
        })
    }

    /// Connects as an MQTT client until that succeeds, or cannot. If it does not, says why and what to do.
    fn wait_until_it_answers(&self, patience: Duration) -> Result<(), String> {
        let until = Instant::now() + patience;
        let mut options = self.url.options(&crate::observer::client_id("probe"));
        options.set_keep_alive(Duration::from_secs(5));
        let (client, mut connection) = Client::new(options, 4);
        let mut why = "no answer".to_string();
        while Instant::now() < until {
            match connection.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Ok(Event::Incoming(Packet::ConnAck(_)))) => {
                    let _ = client.try_disconnect();
                    while let Ok(Ok(_)) = connection.recv_timeout(Duration::from_millis(200)) {}
                    return Ok(());
                }
                Ok(Ok(_)) => {}
                Ok(Err(ConnectionError::ConnectionRefused(
                    ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized,
                ))) => {
                    let remedy = "give both in its address, as mqtt://user:password@host:port";
                    return Err(format!("it refuses this user and password: {remedy}"));
                }
                Ok(Err(error)) => {
                    why = error.to_string();
                    thread::sleep(POLL * 4);
                }
                Err(_) => break,
            }
        }
        Err(format!("{why}; check that it runs and that the address is right"))
    }

    /// Which program it is.
    pub fn kind(&self) -> BrokerKind {
        self.kind
    }

    /// Where the broker listens.
    pub fn url(&self) -> &BrokerUrl {
        &self.url
    }

    /// Its process, unless it is somebody else's.
    pub fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }

    /// The pid of its process, unless it is somebody else's.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().and_then(Process::pid)
    }

    /// An error if it was started here and has ended.
    ///
    /// # Errors
    /// [`Error::Exited`] with the last lines of its log.
    pub fn check(&self) -> Result<(), Error> {
        self.process.as_ref().map_or(Ok(()), Process::check_present)
    }

    /// SIGKILL. Nothing happens to a broker that was not started here.
    pub fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }

    /// Starts a killed broker again on the same port, and waits until it answers.
    ///
    /// # Errors
    /// As at the first start.
    pub fn restart(&mut self) -> Result<(), Error> {
        if let Some(process) = &mut self.process {
            process.respawn()?;
        }
        self.ready()
    }

    /// Deletes all retained messages of `site`, until none comes for half a second; as well as it can.
    pub fn clear_retained(&self, site: &Name) {
        let (client, mut connection) = Client::new(self.url.options(&crate::observer::client_id("sweep")), 1_024);
        let until = Instant::now() + ANSWER_PATIENCE;
        while Instant::now() < until {
            match connection.recv_timeout(QUIET) {
                Ok(Ok(Event::Incoming(Packet::ConnAck(_)))) => {
                    let _ = client.try_subscribe(format!("microlambda/{site}/#"), QoS::AtLeastOnce);
                }
                Ok(Ok(Event::Incoming(Packet::Publish(message)))) if message.retain && !message.payload.is_empty() => {
                    let _ = client.try_publish(message.topic, QoS::AtLeastOnce, true, Vec::new());
                }
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }

    /// A client that watches `site` on this broker.
    ///
    /// # Errors
    /// [`Error::Broker`] if it does not answer.
    pub fn observe(&self, site: &Name) -> Result<Observer, Error> {
        Observer::connect(&self.url, site)
    }
}

/// mosquitto lives in a directory that is not on everybody's path.
fn mosquitto_program() -> OsString {
    let usual = Path::new("/usr/sbin/mosquitto");
    if usual.exists() { usual.into() } else { PathBuf::from("mosquitto").into() }
}

/// `port` if it is free, or any free one.
fn free_port(port: Option<u16>) -> Result<u16, Error> {
    let wanted = port.unwrap_or(0);
    TcpListener::bind((Ipv4Addr::LOCALHOST, wanted))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|_| Error::Port { port: wanted })
}

/// Runs the embedded broker on 127.0.0.1 until the process ends: rumqttd on a free port, and a relay before it that
/// makes up for its Nagle delays.
///
/// # Errors
/// [`Error::Broker`] if it cannot run.
pub fn run_embedded(port: u16) -> Result<(), Error> {
    // Everything is bounded: 16 segments of 2 MiB for each subscription filter, in memory.
    let router = rumqttd::RouterConfig {
        max_connections: 256,
        max_outgoing_packet_count: 200,
        max_segment_size: 2 << 20,
        max_segment_count: 16,
        ..rumqttd::RouterConfig::default()
    };
    let connections = rumqttd::ConnectionSettings {
        connection_timeout_ms: 5_000,
        max_payload_size: 17 << 20,
        max_inflight_count: 100,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port(None)?));
    let server =
        rumqttd::ServerSettings { name: "v4".into(), listen, tls: None, next_connection_delay_ms: 1, connections };
    let config =
        rumqttd::Config { router, v4: Some([("v4".to_string(), server)].into()), ..rumqttd::Config::default() };
    // The router's own threads end with the process; the broker's main thread returns only if it cannot listen.
    thread::spawn(move || {
        let ended = rumqttd::Broker::new(config).start();
        eprintln!("the embedded broker ended: {ended:?}");
        std::process::exit(1);
    });
    relay::run(&Endpoint::Tcp(format!("127.0.0.1:{port}")), &Endpoint::Tcp(listen.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = free_port(Some(port)).unwrap_err().to_string();
        assert!(error.contains(&format!("port {port}")) && error.contains("--port"), "{error}");
    }

    #[test]
    fn a_broker_that_is_absent_is_named_with_a_remedy() {
        let port = free_port(None).unwrap();
        let url: BrokerUrl = BrokerUrl::loopback(port);
        let broker = Broker { kind: BrokerKind::External, url, process: None };
        let why = broker.wait_until_it_answers(Duration::from_millis(100)).unwrap_err();
        assert!(why.contains("refused"), "{why}");
    }
}
