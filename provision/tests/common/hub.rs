//! mosquitto with exactly the files that a broker's node gets, moved to ports of the test's own.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use microlambda_runtime::{BrokerConfig, Link, LinkConfig, LinkEvent, LinkEvents};

use super::Machine;

/// The longest wait for anything; reached only when something is wrong.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// A broker's node with its broker running; ends on drop.
pub struct Hub {
    pub machine: Machine,
    pub tls_port: u16,
    pub local_port: u16,
    broker: Child,
}

/// A port that nobody listens on, and no other test of this process gets.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}

impl Hub {
    /// Sets a node up as the broker of the site `home` and starts mosquitto; `names` are further names of it.
    pub fn start(names: &[&str]) -> Self {
        let machine = Machine::new();
        let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        let text = format!("roles = [\"broker\", \"camera\", \"edge\"]\n[broker]\nnames = [{}]\n", names.join(", "));
        machine.write_boot("microlambda.toml", text);
        let report = machine.start();
        assert_eq!(report.problems, [], "{report}");
        let (tls_port, local_port) = (free_port(), free_port());
        let root = machine.root();
        let etc = root.join("etc/mosquitto");
        let mut settings = machine.text("/etc/mosquitto/conf.d/microlambda.conf");
        for (from, to) in [
            ("listener 1883 127.0.0.1\n", format!("listener {local_port} 127.0.0.1\n")),
            ("listener 8883\n", format!("listener {tls_port} 127.0.0.1\n")),
            ("/etc/mosquitto/", format!("{}/", etc.display())),
        ] {
            assert!(settings.contains(from), "{from} in {settings}");
            settings = settings.replace(from, &to);
        }
        // Started by root it would become another user, who may not enter the test's folder. Debian's own settings name a log of their own.
        let main =
            format!("user root\npersistence_location {0}/\nlog_dest file {0}/debian.log\n{settings}", root.display());
        let path = root.join("mosquitto.conf");
        fs::write(&path, main).unwrap();
        let mosquitto = ["/usr/sbin/mosquitto", "mosquitto"]
            .into_iter()
            .find(|path| Command::new(path).arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok())
            .expect("this test needs mosquitto: install the Debian package mosquitto");
        let log = fs::File::create(root.join("mosquitto.log")).unwrap();
        let broker = Command::new(mosquitto).arg("-c").arg(&path).stderr(log).spawn().unwrap();
        let mut hub = Self { machine, tls_port, local_port, broker };
        // The last that it says when it starts: it listens.
        while !hub.machine.text("mosquitto.log").contains(" running") {
            let ended = hub.broker.try_wait().unwrap();
            assert!(ended.is_none(), "mosquitto does not start: {}", hub.machine.text("mosquitto.log"));
            std::thread::yield_now();
        }
        hub.wait_for_main_loop();
        hub
    }

    /// Returns once the broker answers. mosquitto 2.0 sets its `run` after it says that it runs: a signal before that is forgotten.
    fn wait_for_main_loop(&self) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.local_port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // No packet of MQTT: it hangs up, with or without a reset.
        stream.write_all(&[0, 0]).unwrap();
        let ended = stream.read(&mut [0; 1]);
        let is_reset = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(ended.as_ref().is_ok_and(|&read| read == 0) || ended.as_ref().is_err_and(is_reset), "{ended:?}");
    }

    /// Asks the broker to end, which saves what it keeps, and waits for that.
    pub fn stop(&mut self) {
        let broker = rustix::process::Pid::from_child(&self.broker);
        rustix::process::kill_process(broker, rustix::process::Signal::TERM).unwrap();
        self.broker.wait().unwrap();
    }

    /// The join file of a member.
    pub fn join(&self, member: &str) -> toml::Table {
        self.machine.text(&format!("/var/lib/microlambda-join/{member}.toml")).parse().unwrap()
    }

    /// How a member gets in over TLS, out of its join file; only the port is the test's.
    pub fn settings(&self, member: &str) -> BrokerConfig {
        let join = self.join(member);
        let file = |name: &str, content: &str| {
            let path: PathBuf = self.machine.root().join(format!("{member}-{name}"));
            fs::write(&path, content).unwrap();
            path
        };
        BrokerConfig {
            url: Some(format!("mqtts://127.0.0.1:{}", self.tls_port).parse().unwrap()),
            username: Some(join["username"].as_str().unwrap().to_owned()),
            password_file: Some(file("password", join["password"].as_str().unwrap())),
            ca_file: Some(file("ca.pem", join["ca"].as_str().unwrap())),
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.broker.kill();
        let _ = self.broker.wait();
    }
}

/// The settings of a link that subscribes to `filters`.
pub fn link_config(settings: &BrokerConfig, client_id: &str, filters: &[&str]) -> LinkConfig {
    let mut config = settings.link_config(client_id).unwrap();
    config.filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
    config
}

/// The next thing a link says.
pub async fn next(events: &mut LinkEvents) -> LinkEvent {
    tokio::time::timeout(PATIENCE, events.recv()).await.expect("an event in time").expect("an open link")
}

/// A link that is up.
pub async fn connected(config: LinkConfig) -> (Link, LinkEvents) {
    let (link, mut events) = Link::start(config);
    match next(&mut events).await {
        LinkEvent::Connected => (link, events),
        event => panic!("{event:?} instead of a connection"),
    }
}

/// Why a link is not let in.
pub async fn refusal(settings: &BrokerConfig) -> String {
    let (link, mut events) = Link::start(link_config(settings, "refused", &["t"]));
    let LinkEvent::Disconnected { why } = next(&mut events).await else { panic!("let in") };
    assert!(!link.is_connected());
    why
}
