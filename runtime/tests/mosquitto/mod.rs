//! A real broker of a test's own, and waiting for what a link says.

#![expect(dead_code, reason = "not every test uses all of it")]

pub mod authority;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use microlambda_runtime::{Link, LinkConfig, LinkEvent, LinkEvents};

/// The longest wait for anything; reached only when something is wrong.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A mosquitto on a port of the loopback; ends on drop.
pub struct Broker {
    pub child: Child,
    pub port: u16,
    // Its configuration.
    _folder: tempfile::TempDir,
}

/// A port that nobody listens on, and no other test of this process gets: one that is free again would be given out twice.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}

impl Broker {
    /// Starts it with further `settings`, those of the listener included, and waits until it accepts connections.
    pub fn start_on(port: u16, settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mosquitto.conf");
        let mut file = std::fs::File::create(&path).unwrap();
        // Started by root it would become another user, who may not read a test's files, and whom a user namespace does not know.
        writeln!(file, "listener {port} 127.0.0.1\nmax_queued_messages 0\nuser root\n{settings}").unwrap();
        let mosquitto = ["/usr/sbin/mosquitto", "mosquitto"]
            .into_iter()
            .find(|path| Command::new(path).arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok())
            .expect("this test needs mosquitto: install the Debian package mosquitto");
        let child = Command::new(mosquitto).arg("-c").arg(&path).stderr(Stdio::null()).spawn().unwrap();
        let mut broker = Self { child, port, _folder: folder };
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(broker.child.try_wait().unwrap().is_none(), "mosquitto does not start with {settings:?}");
            std::thread::yield_now();
        }
        broker
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The next thing the link says.
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

pub fn payload_of(event: LinkEvent) -> Vec<u8> {
    match event {
        LinkEvent::Message { payload, .. } => payload.to_vec(),
        LinkEvent::Connected | LinkEvent::Disconnected { .. } => panic!("{event:?} instead of a message"),
    }
}
