//! A broker that nobody named, found by mDNS on a network of the test's own.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod mosquitto;

use std::process::Command;

use mdns_sd::{ServiceDaemon, ServiceInfo};
use microlambda_runtime::{BrokerConfig, Link, LinkConfig, LinkEvent};
use mosquitto::authority::{Authority, run, utf8};
use mosquitto::{Broker, connected, free_port, next, payload_of};

/// Tells the second process of a test that it is in a network of its own.
const INSIDE_VARIABLE: &str = "MICROLAMBDA_TEST_INSIDE";
const ADDRESS: &str = "10.73.0.1";

/// Whether this process is in a network of its own, where `door.local` and `other.local` are this computer; else `test` is run again in
/// one. Where the system has none, as in many containers, it is left out: `make test` says so, and sets `MICROLAMBDA_WALLS` where it has.
fn inside(test: &str) -> bool {
    let inside = std::env::var_os(INSIDE_VARIABLE).is_some();
    if inside {
        let hosts = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(hosts.path(), "127.0.0.1 localhost door.local other.local\n").unwrap();
        run(Command::new("mount").args(["--bind", utf8(hosts.path()), "/etc/hosts"]));
        for step in [
            "link add lan type veth peer name far",
            "address add 10.73.0.1/24 dev lan",
            "link set lo up",
            "link set far up",
            "link set lan up",
        ] {
            run(Command::new("ip").args(step.split(' ')));
        }
    } else {
        let mut options = vec!["--net", "--mount"];
        if !rustix::process::getuid().is_root() {
            options.extend(["--user", "--map-root-user"]);
        }
        let unshare = |command: &[&str]| {
            let mut unshare = Command::new("unshare");
            unshare.args(&options).arg("--").args(command);
            unshare
        };
        let is_required = std::env::var_os("MICROLAMBDA_WALLS").is_some_and(|walls| walls == "required");
        if !is_required && !unshare(&["true"]).output().is_ok_and(|output| output.status.success()) {
            eprintln!("{test} is left out: this system has no namespaces");
            return false;
        }
        let program = std::env::current_exe().unwrap();
        run(unshare(&[utf8(&program), "--exact", test, "--nocapture"]).env(INSIDE_VARIABLE, "1"));
    }
    inside
}

/// Announces a broker until it is dropped.
struct Announced(ServiceDaemon);

impl Announced {
    fn new(service: &str, host: &str, port: u16) -> Self {
        let daemon = ServiceDaemon::new().unwrap();
        let (service, host_name) = (format!("{service}.local."), format!("{host}.local."));
        let none: &[(&str, &str)] = &[];
        daemon.register(ServiceInfo::new(&service, host, &host_name, ADDRESS, port, none).unwrap()).unwrap();
        Self(daemon)
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        let _ = self.0.shutdown();
    }
}

fn link_config(settings: &BrokerConfig) -> LinkConfig {
    let mut config = settings.link_config("searching").unwrap();
    config.filters = vec!["t/#".into()];
    config
}

#[tokio::test]
async fn without_a_name_a_broker_that_announces_itself_is_used() {
    if !inside("without_a_name_a_broker_that_announces_itself_is_used") {
        return;
    }
    let port = free_port();
    let _broker = Broker::start_on(port, &format!("allow_anonymous true\nlistener {port} {ADDRESS}\n"));
    let (_link, mut events) = Link::start(link_config(&BrokerConfig::default()));
    let LinkEvent::Disconnected { why } = next(&mut events).await else { panic!("nobody announced a broker") };
    assert!(why.contains("answers by mDNS") && why.contains("`url` in [broker]"), "{why}");
    let _announced = Announced::new("_mqtt._tcp", "door", port);
    assert_eq!(next(&mut events).await, LinkEvent::Connected);
}

#[tokio::test]
async fn without_a_name_a_broker_of_this_computer_comes_first() {
    if !inside("without_a_name_a_broker_of_this_computer_comes_first") {
        return;
    }
    let mut broker = Broker::start_on(1883, "allow_anonymous true\n");
    let (_link, mut events) = connected(link_config(&BrokerConfig::default())).await;
    // And is found again where it was.
    broker.child.kill().unwrap();
    broker.child.wait().unwrap();
    assert!(matches!(next(&mut events).await, LinkEvent::Disconnected { .. }));
    let _broker = Broker::start_on(1883, "allow_anonymous true\n");
    assert_eq!(next(&mut events).await, LinkEvent::Connected);
}

#[tokio::test]
async fn an_impostor_found_by_mdns_gets_no_connection_and_no_password() {
    if !inside("an_impostor_found_by_mdns_gets_no_connection_and_no_password") {
        return;
    }
    let (ours, theirs) = (Authority::new(), Authority::new());
    // It comes first in the list, has a certificate for its name, and lets everybody in.
    let impostor = theirs.broker("DNS:door.local");
    let plain = Broker::start_on(free_port(), "allow_anonymous true\n");
    let settings = BrokerConfig { url: None, ..ours.settings("-", 1) };
    let _first = Announced::new("_secure-mqtt._tcp", "door", impostor.port);
    let _second = Announced::new("_mqtt._tcp", "door", plain.port);
    let (_link, mut events) = Link::start(link_config(&settings));
    let LinkEvent::Disconnected { why } = next(&mut events).await else { panic!("an impostor was believed") };
    assert!(why.contains("door.local") && why.contains("`ca-file`"), "{why}");

    let broker = ours.broker("DNS:other.local");
    let (link, _events) = connected(link_config(&ours.settings("other.local", broker.port))).await;
    link.publish("t/ours", b"ours".to_vec(), true).unwrap();
    let _third = Announced::new("_secure-mqtt._tcp", "other", broker.port);
    assert_eq!(next(&mut events).await, LinkEvent::Connected);
    assert_eq!(payload_of(next(&mut events).await), b"ours");
}

#[test]
fn a_password_without_an_authority_or_a_name_is_refused_with_the_remedy() {
    let settings = BrokerConfig { username: Some("door".into()), ..BrokerConfig::default() };
    let error = settings.link_config("x").unwrap_err().to_string();
    assert!(error.contains("`ca-file`") && error.contains("`url`"), "{error}");
}
