//! The link against a real broker.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod mosquitto;

use std::process::Child;
use std::time::Duration;

use microlambda_runtime::{BrokerUrl, Link, LinkConfig, LinkEvent, Message, PublishError};
use mosquitto::{Broker, PATIENCE, connected, free_port, next, payload_of};

impl Broker {
    fn start() -> Self {
        Self::start_on(free_port(), "allow_anonymous true\n")
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn config(port: u16, client_id: &str, filters: &[&str]) -> LinkConfig {
    let url = BrokerUrl { host: "127.0.0.1".into(), port, tls: false };
    let mut config = LinkConfig::new(url, client_id);
    config.filters = filters.iter().map(|&filter| filter.to_owned()).collect();
    config.backoff_max = Duration::from_millis(200);
    config
}

#[tokio::test]
async fn what_is_published_arrives_byte_for_byte_and_in_order() {
    let broker = Broker::start();
    let (_reader, mut events) = connected(config(broker.port, "reader", &["t/#"])).await;
    let (writer, _writer_events) = connected(config(broker.port, "writer", &[])).await;
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    writer.publish("t/large", large.clone(), false).unwrap();
    for n in 0..500_u32 {
        writer.publish("t/n", n.to_le_bytes().to_vec(), false).unwrap();
    }
    assert_eq!(payload_of(next(&mut events).await), large);
    for n in 0..500_u32 {
        assert_eq!(payload_of(next(&mut events).await), n.to_le_bytes());
    }
    tokio::time::timeout(PATIENCE, writer.drained_below(1)).await.unwrap();
    assert!(writer.close(PATIENCE).await);
    assert_eq!(writer.counters().acknowledged, 501);
    assert_eq!(writer.counters().lost, 0);
}

#[tokio::test]
async fn a_broker_absent_at_start_is_waited_for_and_reported_once_with_a_remedy() {
    let port = free_port();
    let (link, mut events) = Link::start(config(port, "early", &["t/+"]));
    match next(&mut events).await {
        LinkEvent::Disconnected { why } => assert!(why.contains("start the broker"), "{why}"),
        event => panic!("{event:?}"),
    }
    assert_eq!(link.publish("t/x", vec![1], false), Err(PublishError::NotConnected));
    while link.counters().failures < 4 {
        tokio::task::yield_now().await;
    }
    let _broker = Broker::start_on(port, "allow_anonymous true\n");
    assert_eq!(next(&mut events).await, LinkEvent::Connected, "no second report of the same outage");
    link.publish("t/x", vec![2], false).unwrap();
    assert_eq!(payload_of(next(&mut events).await), [2], "subscribed before Connected");
}

#[tokio::test]
async fn a_broker_that_stays_away_for_long_is_still_tried_often() {
    let mut waiting = config(free_port(), "waiting", &[]);
    waiting.backoff_max = Duration::from_secs(3);
    let (link, _events) = Link::start(waiting);
    let tried = async {
        while link.counters().failures < 20 {
            tokio::task::yield_now().await;
        }
    };
    // With pauses that grow to three seconds this takes three quarters of a minute.
    tokio::time::timeout(PATIENCE, tried).await.expect("a try every fifth of a second");
}

#[tokio::test]
async fn a_broker_that_leaves_and_returns_finds_the_link_subscribed_again() {
    let mut broker = Broker::start();
    let port = broker.port;
    // More filters than some brokers take in one packet.
    let filters: Vec<String> = (0..20).map(|n| format!("t/{n}")).collect();
    let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
    let (link, mut events) = connected(config(port, "stayer", &filters)).await;
    for _ in 0..3 {
        broker.kill();
        match next(&mut events).await {
            LinkEvent::Disconnected { why } => assert!(why.contains(&port.to_string()), "{why}"),
            event => panic!("{event:?}"),
        }
        assert_eq!(link.publish("t/1", vec![0], false), Err(PublishError::NotConnected));
        broker = Broker::start_on(port, "allow_anonymous true\n");
        assert_eq!(next(&mut events).await, LinkEvent::Connected);
        link.publish("t/19", vec![7], false).unwrap();
        assert_eq!(payload_of(next(&mut events).await), [7]);
    }
    assert!(link.counters().connected >= 4);
}

#[tokio::test]
async fn a_full_outbox_refuses_at_once_and_counts() {
    // A listener that never answers: nothing drains. The link is brought up by a real broker, which is then stopped.
    let mut broker = Broker::start();
    let mut narrow = config(broker.port, "narrow", &[]);
    narrow.outbox_messages_max = 10;
    narrow.outbox_bytes_max = 1_000;
    let (link, mut events) = connected(narrow).await;
    let pid = rustix_pid(&broker.child);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    link.publish("t/big", vec![0; 5_000], false).expect("a single message may always go");
    assert_eq!(link.publish("t/one", vec![0], false), Err(PublishError::Full), "bytes");
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    tokio::time::timeout(PATIENCE, link.drained_below(1)).await.unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    for _ in 0..10 {
        link.publish("t/one", vec![0], false).unwrap();
    }
    assert_eq!(link.publish("t/one", vec![0], false), Err(PublishError::Full), "messages");
    assert_eq!(link.counters().refused, 2);
    assert_eq!(link.queued().messages, 10);
    broker.kill();
    assert!(matches!(next(&mut events).await, LinkEvent::Disconnected { .. }));
    assert_eq!(link.queued().messages, 0);
    assert_eq!(link.counters().lost, 10, "taken and never acknowledged");
}

fn rustix_pid(child: &Child) -> rustix::process::Pid {
    rustix::process::Pid::from_child(child)
}

#[tokio::test]
async fn a_full_inbox_drops_and_counts_and_never_holds_the_link_up() {
    let broker = Broker::start();
    let mut small = config(broker.port, "small", &["t/#"]);
    small.inbox_messages_max = 5;
    let (reader, mut events) = connected(small).await;
    let (writer, _writer_events) = connected(config(broker.port, "writer", &[])).await;
    for n in 0..50_u8 {
        writer.publish("t/n", vec![n], false).unwrap();
    }
    while reader.counters().received + reader.counters().inbox_dropped < 50 {
        tokio::task::yield_now().await;
    }
    assert!(reader.counters().inbox_dropped >= 43, "{:?}", reader.counters());
    let got: Vec<LinkEvent> = std::iter::from_fn(|| events.try_recv()).collect();
    assert_eq!(got.len() as u64, reader.counters().received);
    writer.publish("t/n", vec![200], false).unwrap();
    assert_eq!(payload_of(next(&mut events).await), [200]);
}

#[tokio::test]
async fn closing_flushes_and_leaves_no_will_while_a_dropped_link_of_a_dead_process_would() {
    let broker = Broker::start();
    let (_reader, mut events) = connected(config(broker.port, "reader", &["t/#"])).await;
    let mut with_will = config(broker.port, "willed", &[]);
    with_will.will = Some(Message { topic: "t/will".into(), payload: b"gone".to_vec(), retain: false });
    let (link, _link_events) = connected(with_will.clone()).await;
    link.publish("t/last", vec![1; 100_000], false).unwrap();
    assert!(link.close(PATIENCE).await);
    assert_eq!(payload_of(next(&mut events).await).len(), 100_000);
    assert_eq!(link.publish("t/late", vec![1], false), Err(PublishError::NotConnected));
    // The same id taken over by another connection: the broker ends the first one and sends its will.
    let (_first, mut first_events) = connected(with_will).await;
    let (_second, _second_events) = connected(config(broker.port, "willed", &[])).await;
    assert_eq!(payload_of(next(&mut events).await), b"gone", "the first message since: a clean close sent none");
    match next(&mut first_events).await {
        LinkEvent::Disconnected { why } => assert!(why.contains("another client"), "{why}"),
        event => panic!("{event:?}"),
    }
}

#[tokio::test]
async fn an_owner_that_ends_without_a_good_bye_leaves_its_will() {
    let broker = Broker::start();
    let (_reader, mut events) = connected(config(broker.port, "reader", &["t/#"])).await;
    let mut with_will = config(broker.port, "willed", &[]);
    with_will.will = Some(Message { topic: "t/will".into(), payload: b"gone".to_vec(), retain: false });
    let (link, link_events) = connected(with_will).await;
    drop(link_events);
    assert_eq!(payload_of(next(&mut events).await), b"gone");
    assert!(link.close(PATIENCE).await, "it has ended");
}

#[tokio::test]
async fn a_link_that_never_connected_closes_at_once() {
    let (link, _events) = Link::start(config(free_port(), "nobody", &[]));
    assert!(link.close(PATIENCE).await);
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_before_it_ends_the_connection() {
    let broker = Broker::start();
    let mut tight = config(broker.port, "tight", &["t/#"]);
    tight.packet_bytes_max = 10_000;
    let (link, mut events) = connected(tight).await;
    assert!(matches!(link.publish("t/x", vec![0; 10_000], false), Err(PublishError::TooLarge { bytes: 10_000, .. })));
    assert_eq!(link.publish("t/+", vec![0], false), Err(PublishError::BadTopic));
    assert_eq!(link.publish("", vec![0], false), Err(PublishError::BadTopic));
    link.publish("t/x", vec![0; 8_900], false).unwrap();
    assert_eq!(payload_of(next(&mut events).await).len(), 8_900);
    assert_eq!(link.counters().failures, 0);
}

#[tokio::test]
async fn a_message_over_the_bound_that_the_broker_keeps_is_named_with_the_way_to_be_rid_of_it() {
    let broker = Broker::start();
    let (writer, _writer_events) = connected(config(broker.port, "writer", &[])).await;
    writer.publish("t/large", vec![0; 20_000], true).unwrap();
    tokio::time::timeout(PATIENCE, writer.drained_below(1)).await.unwrap();
    let mut tight = config(broker.port, "tight", &["t/#"]);
    tight.packet_bytes_max = 10_000;
    let (_link, mut events) = Link::start(tight);
    let why = loop {
        match next(&mut events).await {
            LinkEvent::Disconnected { why } => break why,
            LinkEvent::Connected => {}
            event @ LinkEvent::Message { .. } => panic!("{event:?}"),
        }
    };
    assert!(why.contains("larger than the 10000") && why.contains("`mosquitto_pub -r -n -t TOPIC`"), "{why}");
    // What it says.
    writer.publish("t/large", Vec::new(), true).unwrap();
    writer.publish("t/small", vec![7], true).unwrap();
    loop {
        match next(&mut events).await {
            LinkEvent::Message { payload, .. } if payload[..] == [7] => break,
            LinkEvent::Message { .. } | LinkEvent::Connected | LinkEvent::Disconnected { .. } => {}
        }
    }
}

#[tokio::test]
async fn refused_credentials_are_explained() {
    let broker = Broker::start_on(free_port(), "allow_anonymous false\n");
    let mut wrong = config(broker.port, "stranger", &[]);
    wrong.credentials = Some(("me".into(), "wrong".into()));
    let (_link, mut events) = Link::start(wrong);
    match next(&mut events).await {
        LinkEvent::Disconnected { why } => assert!(why.contains("`username` and `password-file`"), "{why}"),
        event => panic!("{event:?}"),
    }
}

#[tokio::test]
async fn tls_without_a_trusted_certificate_is_explained_and_does_not_fall_back() {
    let broker = Broker::start();
    let url = BrokerUrl { host: "127.0.0.1".into(), port: broker.port, tls: true };
    let secure = LinkConfig { broker: url.into(), ..config(broker.port, "secure", &[]) };
    let (link, mut events) = Link::start(secure);
    match next(&mut events).await {
        LinkEvent::Disconnected { why } => assert!(why.contains("TLS") && why.contains("`ca-file`"), "{why}"),
        event => panic!("{event:?}"),
    }
    assert!(!link.is_connected());
}
