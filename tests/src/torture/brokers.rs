//! The brokers of a tortured site: mosquitto alone, or three NATS servers.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use microlambda_demo::Process;
use rumqttc::{Client, Event, MqttOptions, Packet};

use super::Error;

/// A fresh broker answers within this; three servers elect a leader for each stream first.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Which broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BrokerKind {
    /// Eclipse mosquitto 2, with persistence.
    Mosquitto,
    /// Three nats-server processes with JetStream, every stream on all of them.
    Nats,
}

/// One broker process.
pub struct Server {
    /// The process.
    pub process: Process,
    /// Where clients connect.
    pub address: SocketAddr,
    /// What it keeps on disk; deleted by [`Server::forget`].
    store: PathBuf,
}

impl Server {
    /// Deletes what it keeps; it must not run.
    ///
    /// # Errors
    /// The folder cannot be deleted.
    pub fn forget(&self) -> Result<(), Error> {
        fs::remove_dir_all(&self.store)?;
        fs::create_dir_all(&self.store)?;
        Ok(())
    }
}

/// Starts the brokers below `dir`, listening on `on`, and waits until one answers.
///
/// # Errors
/// They do not start.
pub fn start(kind: BrokerKind, on: IpAddr, dir: &Path) -> Result<Vec<Server>, Error> {
    let mut servers = match kind {
        BrokerKind::Mosquitto => vec![mosquitto(on, dir)?],
        BrokerKind::Nats => nats(on, dir)?,
    };
    for server in &servers {
        answers(server.address, START_PATIENCE)?;
    }
    for server in &mut servers {
        server.process.check_running()?;
    }
    Ok(servers)
}

fn mosquitto(on: IpAddr, dir: &Path) -> Result<Server, Error> {
    let [port] = free_ports(on)?;
    let store = dir.join("store");
    fs::create_dir_all(&store)?;
    // Its default of 1,000 queued messages stays: a slow subscriber loses some without a word.
    let config = format!(
        "listener {port} {on}\nallow_anonymous true\nset_tcp_nodelay true\nuser root\npersistence true\n\
         persistence_location {}/\nautosave_interval 5\nlog_type error\nlog_type warning\n",
        store.display()
    );
    let path = dir.join("mosquitto.conf");
    fs::write(&path, config)?;
    let usual = Path::new("/usr/sbin/mosquitto");
    let program = if usual.exists() { usual } else { Path::new("mosquitto") };
    let argv = vec![program.into(), "-c".into(), path.into()];
    let process = Process::start("mosquitto", argv, &dir.join("mosquitto.log"))?;
    Ok(Server { process, address: SocketAddr::new(on, port), store })
}

fn nats(on: IpAddr, dir: &Path) -> Result<Vec<Server>, Error> {
    let clients: [u16; 3] = free_ports(on)?;
    let routes: [u16; 3] = free_ports(on)?;
    let doors: [u16; 3] = free_ports(on)?;
    let peers: Vec<String> = routes.iter().map(|port| format!("\"nats-route://{on}:{port}\"")).collect();
    let peers = peers.join(", ");
    let mut servers = Vec::new();
    for number in 0..3 {
        let name = format!("nats{number}");
        let store = dir.join(&name);
        fs::create_dir_all(&store)?;
        let config = format!(
            "server_name: {name}\nlisten: \"{on}:{}\"\nmax_payload: 8MB\n\
             jetstream {{ store_dir: {:?}, max_memory_store: 64MB, max_file_store: 1GB }}\n\
             cluster {{ name: torture, listen: \"{on}:{}\", routes: [{peers}] }}\n\
             mqtt {{ listen: \"{on}:{}\", stream_replicas: 3 }}\n",
            clients[number], store, routes[number], doors[number]
        );
        let path = dir.join(format!("{name}.conf"));
        fs::write(&path, config)?;
        let usual = Path::new("/usr/sbin/nats-server");
        let program = if usual.exists() { usual } else { Path::new("nats-server") };
        let argv = vec![program.into(), "-c".into(), path.into()];
        let process = Process::start(&name, argv, &dir.join(format!("{name}.log")))?;
        servers.push(Server { process, address: SocketAddr::new(on, doors[number]), store });
    }
    Ok(servers)
}

/// Waits until a broker lets a client in.
///
/// # Errors
/// It does not within `patience`; with its last answer.
pub fn answers(address: SocketAddr, patience: Duration) -> Result<(), Error> {
    let until = Instant::now() + patience;
    let mut why = "no answer".to_owned();
    let mut options = MqttOptions::new(format!("probe-{}", address.port()), address.ip().to_string(), address.port());
    options.set_keep_alive(Duration::from_secs(5));
    let (client, mut connection) = Client::new(options, 4);
    while Instant::now() < until {
        match connection.recv_timeout(Duration::from_secs(1)) {
            Ok(Ok(Event::Incoming(Packet::ConnAck(_)))) => {
                let _ = client.try_disconnect();
                while let Ok(Ok(_)) = connection.recv_timeout(Duration::from_millis(200)) {}
                return Ok(());
            }
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(error)) => {
                why = error.to_string();
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
    Err(format!("the broker at {address} does not answer: {why}").into())
}

/// Ports that are free now, all different.
fn free_ports<const COUNT: usize>(on: IpAddr) -> Result<[u16; COUNT], Error> {
    let mut listeners = Vec::new();
    let mut ports = [0; COUNT];
    for port in &mut ports {
        let listener = TcpListener::bind((on, 0))?;
        *port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(ports)
}
