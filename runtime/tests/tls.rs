//! The link over TLS, and with a password, against a real broker with an authority and certificates of its own.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod mosquitto;

use std::process::Command;

use microlambda_runtime::{BrokerConfig, Link, LinkConfig, LinkEvent};
use mosquitto::authority::{Authority, PASSWORD, run};
use mosquitto::{PATIENCE, connected, next, payload_of};

/// Tells the second process of a test which port its broker has.
const PORT_VARIABLE: &str = "MICROLAMBDA_TEST_PORT";

fn link_config(settings: &BrokerConfig, client_id: &str) -> LinkConfig {
    let mut config = settings.link_config(client_id).unwrap();
    config.filters = vec!["t/#".into()];
    config
}

/// Why the first attempt with these settings fails.
async fn refusal(settings: &BrokerConfig) -> String {
    let (link, mut events) = Link::start(link_config(settings, "refused"));
    let LinkEvent::Disconnected { why } = next(&mut events).await else { panic!("let in") };
    assert!(!link.is_connected());
    assert!(!why.contains(PASSWORD), "{why}");
    why
}

#[tokio::test]
async fn messages_pass_over_tls_with_a_ca_file_and_a_password_file() {
    let authority = Authority::new();
    let broker = authority.broker("IP:127.0.0.1");
    let settings = authority.settings("127.0.0.1", broker.port);
    let (_reader, mut events) = connected(link_config(&settings, "reader")).await;
    let (writer, _writer_events) = connected(link_config(&settings, "writer")).await;
    // Longer than a TLS record and than the socket's buffers.
    let large: Vec<u8> = (0..1_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    writer.publish("t/large", large.clone(), false).unwrap();
    writer.publish("t/small", vec![7], false).unwrap();
    assert_eq!(payload_of(next(&mut events).await), large);
    assert_eq!(payload_of(next(&mut events).await), [7]);
    assert!(writer.close(PATIENCE).await, "all of it was acknowledged");
}

#[tokio::test]
async fn a_ca_file_may_hold_several_authorities() {
    let (other, authority) = (Authority::new(), Authority::new());
    let broker = authority.broker("DNS:localhost");
    let bundle = [other.ca(), authority.ca()].map(|path| std::fs::read(path).unwrap()).concat();
    let path = authority.path("bundle.pem");
    std::fs::write(&path, bundle).unwrap();
    let settings = BrokerConfig { ca_file: Some(path), ..authority.settings("localhost", broker.port) };
    connected(link_config(&settings, "trusting")).await;
}

#[tokio::test]
async fn a_certificate_that_another_authority_signed_is_refused_and_the_remedy_named() {
    let (other, authority) = (Authority::new(), Authority::new());
    let broker = authority.broker("IP:127.0.0.1");
    let settings = BrokerConfig { ca_file: Some(other.ca()), ..authority.settings("127.0.0.1", broker.port) };
    let why = refusal(&settings).await;
    assert!(why.contains("no trusted authority signed the broker's certificate: `ca-file`"), "{why}");
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused_and_the_remedy_named() {
    let authority = Authority::new();
    let broker = authority.broker("DNS:broker.example,IP:192.0.2.1");
    for host in ["127.0.0.1", "localhost"] {
        let why = refusal(&authority.settings(host, broker.port)).await;
        assert!(
            why.contains("the broker's certificate is for another host: write a name that it holds in `url`"),
            "{why}"
        );
    }
}

#[tokio::test]
async fn a_wrong_password_is_refused_over_tls_and_the_remedy_named() {
    let authority = Authority::new();
    let broker = authority.broker("IP:127.0.0.1");
    let settings = authority.settings("127.0.0.1", broker.port);
    std::fs::write(settings.password_file.as_ref().unwrap(), "a guess\n").unwrap();
    let why = refusal(&settings).await;
    assert!(why.contains("check `username` and `password-file` in [broker]"), "{why}");
    assert!(!why.contains("a guess"), "{why}");
    let nobody = BrokerConfig { username: None, password_file: None, ..settings };
    let why = refusal(&nobody).await;
    assert!(why.contains("check `username` and `password-file` in [broker]"), "{why}");
}

#[tokio::test]
async fn a_client_without_tls_on_a_port_with_it_is_told_to_use_it() {
    let authority = Authority::new();
    let broker = authority.broker("IP:127.0.0.1");
    let mut settings = BrokerConfig { ca_file: None, ..authority.settings("127.0.0.1", broker.port) };
    settings.url.as_mut().unwrap().tls = false;
    let why = refusal(&settings).await;
    assert!(why.contains("write mqtts:// in `url` in [broker]"), "{why}");
}

/// A public authority must not be able to stand in for the one that was named. The system's authorities are those of a
/// process, so that this test runs itself again in one that trusts the broker's.
#[tokio::test]
async fn a_ca_file_replaces_the_authorities_of_the_system() {
    let (other, authority) = (Authority::new(), Authority::new());
    if let Ok(port) = std::env::var(PORT_VARIABLE) {
        let mut settings = BrokerConfig { ca_file: None, ..authority.settings("127.0.0.1", port.parse().unwrap()) };
        connected(link_config(&settings, "of the system")).await;
        settings.ca_file = Some(other.ca());
        let why = refusal(&settings).await;
        assert!(why.contains("`ca-file`"), "{why}");
        return;
    }
    let broker = authority.broker("IP:127.0.0.1");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_ca_file_replaces_the_authorities_of_the_system", "--nocapture"]);
    command.env(PORT_VARIABLE, broker.port.to_string());
    run(command.env("SSL_CERT_FILE", authority.ca()).env("SSL_CERT_DIR", authority.folder.path()));
}
