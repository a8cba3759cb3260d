//! What the broker's files allow, tried against a real mosquitto: everybody's own topics, and nothing else.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use common::hub::{Hub, PATIENCE, connected, link_config, next, refusal};
use microlambda_runtime::{BrokerConfig, LinkEvent};
use microlambda_wire::{Name, Topic, TopicPrefix};

/// Who writes a topic, and who reads it: as docs/topics.md has it, written out again and not taken from the rules.
const TOPICS: [(&str, &str, &[&str]); 15] = [
    ("camera/door/status", "camera", &["viewer"]),
    ("camera/door/head", "camera", &["camera", "edge", "viewer"]),
    ("camera/door/want", "edge", &["camera"]),
    ("camera/door/frame/node-a", "camera", &["edge"]),
    ("camera/door/record/node-a", "camera", &["edge"]),
    ("camera/door/image", "camera", &["viewer"]),
    ("chain/door-1/continuation", "edge", &["edge"]),
    ("chain/door-1/claim", "edge", &["edge", "viewer"]),
    ("chain/door-1/ahead", "edge", &["edge"]),
    ("chain/door-1/done", "edge", &["edge", "viewer"]),
    ("sync/node-a/want", "edge", &["edge"]),
    ("sync/node-a/have", "edge", &["edge"]),
    ("face/0123", "edge", &["edge", "viewer"]),
    ("event", "edge", &["edge", "viewer"]),
    ("node/node-a/status", "edge", &["camera", "edge", "viewer"]),
];
/// Nobody may write or read these.
const NOBODYS: [&str; 6] = [
    "microlambda/other/event",
    "microlambda/home",
    "microlambda/home/event/more",
    "microlambda/home/camera/door/frame/node-a/more",
    "homeassistant/device/x/config",
    "event",
];
const MEMBERS: [&str; 3] = ["camera", "edge", "viewer"];
const FENCE: &str = "microlambda/home/node/fence/status";

/// Everybody publishes everything and listens to everything; what arrives is exactly what is allowed. The broker handles the messages of
/// all in one order, so once the fence has arrived, nothing is on its way any more.
#[tokio::test]
async fn each_role_reaches_its_own_topics_and_no_others() {
    let hub = Hub::start(&["127.0.0.1"]);
    let mut listeners = Vec::new();
    for member in MEMBERS {
        let config = link_config(&hub.settings(member), &format!("listener-{member}"), &["#"]);
        listeners.push((member, connected(config).await));
    }
    let mut writers = Vec::new();
    for member in MEMBERS {
        let (writer, events) = connected(link_config(&hub.settings(member), &format!("writer-{member}"), &[])).await;
        let ours = TOPICS.iter().map(|(topic, ..)| format!("microlambda/home/{topic}"));
        for topic in ours.chain(NOBODYS.map(str::to_owned)) {
            writer.publish(topic, format!("by {member}"), false).unwrap();
        }
        // All of it was acknowledged, so the broker is done with it.
        tokio::time::timeout(PATIENCE, writer.drained_below(1)).await.unwrap();
        assert_eq!(writer.counters().lost, 0, "{member} was thrown out");
        writers.push((member, writer, events));
    }
    let (_, edge, _) = writers.iter().find(|(member, ..)| *member == "edge").unwrap();
    edge.publish(FENCE, "fence", false).unwrap();
    for (reader, (_link, events)) in &mut listeners {
        let mut seen: BTreeSet<(String, String)> = BTreeSet::new();
        loop {
            let LinkEvent::Message { topic, payload, .. } = next(events).await else {
                panic!("{reader} lost the broker")
            };
            if topic == FENCE {
                break;
            }
            seen.insert((topic, String::from_utf8(payload.to_vec()).unwrap()));
        }
        let allowed = TOPICS.iter().filter(|(_, _, readers)| readers.contains(reader));
        let wanted: BTreeSet<(String, String)> =
            allowed.map(|(topic, writer, _)| (format!("microlambda/home/{topic}"), format!("by {writer}"))).collect();
        assert_eq!(seen, wanted, "what {reader} sees");
    }
}

#[tokio::test]
async fn what_is_kept_for_later_is_kept_from_whoever_may_not_read_it() {
    let hub = Hub::start(&["127.0.0.1"]);
    let (edge, _events) = connected(link_config(&hub.settings("edge"), "edge", &[])).await;
    for topic in ["chain/door-1/continuation", "sync/node-a/have", "chain/door-1/done"] {
        edge.publish(format!("microlambda/home/{topic}"), "kept", true).unwrap();
    }
    edge.publish(FENCE, "fence", true).unwrap();
    tokio::time::timeout(PATIENCE, edge.drained_below(1)).await.unwrap();
    for (member, wanted) in [("camera", vec![FENCE]), ("viewer", vec!["microlambda/home/chain/door-1/done", FENCE])] {
        let (_link, mut events) = connected(link_config(&hub.settings(member), member, &["microlambda/#"])).await;
        // Whatever was kept came before the subscription was confirmed to have taken effect for this one.
        edge.publish("microlambda/home/node/last/status", "last", false).unwrap();
        let mut seen = BTreeSet::new();
        loop {
            let LinkEvent::Message { topic, .. } = next(&mut events).await else { panic!("{member} lost the broker") };
            if topic.ends_with("node/last/status") {
                break;
            }
            seen.insert(topic);
        }
        assert_eq!(seen, wanted.iter().map(|topic| (*topic).to_owned()).collect(), "{member}");
    }
}

#[tokio::test]
async fn the_subscriptions_of_agents_are_taken_over_tls_and_on_the_node_itself() {
    let hub = Hub::start(&["127.0.0.1"]);
    let (site, me) = (Name::new("home").unwrap(), Name::new("me").unwrap());
    let prefix = TopicPrefix::new(&site);
    for (member, filters) in
        [("camera", Topic::camera_filters(&prefix, &me)), ("edge", Topic::edge_filters(&prefix, &me))]
    {
        let over_tls = hub.settings(member);
        let local = BrokerConfig {
            url: Some(format!("mqtt://127.0.0.1:{}", hub.local_port).parse().unwrap()),
            ca_file: None,
            password_file: Some(hub.machine.root().join(format!("etc/credstore/microlambda-{member}-mqtt-password"))),
            ..over_tls.clone()
        };
        for settings in [over_tls, local] {
            let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
            connected(link_config(&settings, member, &filters)).await;
        }
    }
}

#[tokio::test]
async fn without_the_right_password_nobody_gets_in_on_either_listener() {
    let hub = Hub::start(&["127.0.0.1"]);
    let right = hub.settings("edge");
    let local = |settings: &BrokerConfig| BrokerConfig {
        url: Some(format!("mqtt://127.0.0.1:{}", hub.local_port).parse().unwrap()),
        ca_file: None,
        ..settings.clone()
    };
    let anonymous = BrokerConfig { username: None, password_file: None, ..right.clone() };
    let other = BrokerConfig { password_file: hub.settings("viewer").password_file, ..right.clone() };
    let unknown = BrokerConfig { username: Some("admin".into()), ..right.clone() };
    let empty = hub.machine.root().join("empty");
    std::fs::write(&empty, "").unwrap();
    let without = BrokerConfig { password_file: Some(empty), ..right.clone() };
    for wrong in [anonymous, other, unknown, without] {
        for settings in [wrong.clone(), local(&wrong)] {
            let why = refusal(&settings).await;
            assert!(why.contains("check `username` and `password-file`"), "{why}");
        }
    }
    connected(link_config(&local(&right), "right", &[])).await;
    // The network's listener speaks TLS only.
    let plain = BrokerConfig {
        url: Some(format!("mqtt://127.0.0.1:{}", hub.tls_port).parse().unwrap()),
        ca_file: None,
        ..right
    };
    assert!(refusal(&plain).await.contains("write mqtts:// in `url`"));
}

#[tokio::test]
async fn a_broker_of_another_authority_is_refused_whatever_it_calls_itself() {
    let (hub, impostor) = (Hub::start(&["127.0.0.1"]), Hub::start(&["127.0.0.1"]));
    let settings = hub.settings("edge");
    // The same names, the same site, another authority.
    let to_impostor = BrokerConfig { url: impostor.settings("edge").url, ..settings.clone() };
    let why = refusal(&to_impostor).await;
    assert!(why.contains("no trusted authority signed the broker's certificate"), "{why}");
    let log = impostor.machine.text("mosquitto.log");
    assert!(!log.contains("u'edge'"), "the password never reached it: {log}");
    // And a node that was given the wrong authority does not take the right broker.
    let wrong_ca = BrokerConfig { ca_file: impostor.settings("edge").ca_file, ..settings.clone() };
    assert!(refusal(&wrong_ca).await.contains("no trusted authority"));
    let no_ca = BrokerConfig { ca_file: None, ..settings.clone() };
    assert!(refusal(&no_ca).await.contains("no trusted authority"));
    connected(link_config(&settings, "right", &[])).await;
}

#[tokio::test]
async fn a_broker_is_known_by_the_names_of_its_host_alone() {
    let hub = Hub::start(&[]);
    let why = refusal(&hub.settings("edge")).await;
    assert!(why.contains("the broker's certificate is for another host"), "{why}");
}

#[test]
fn the_broker_writes_its_log_to_the_service_manager_and_to_no_file() {
    // Its standard error is read until it says that it runs.
    let hub = Hub::start(&[]);
    assert!(!hub.machine.has("debian.log"));
}

/// What runs before each start of the broker, on the database of a real one.
#[test]
fn a_damaged_database_of_the_broker_is_set_aside_and_a_sound_one_stays() {
    let mut hub = Hub::start(&[]);
    hub.stop();
    let root = hub.machine.root();
    let (database, mark) = (root.join("mosquitto.db"), root.join("starts"));
    let (damaged, aside) = (root.join("mosquitto.db.damaged"), root.join("mosquitto.db.aside"));
    let before_a_start = || {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/package/set-broker-database-aside");
        assert!(Command::new(script).arg(&database).arg(&mark).status().unwrap().success());
    };
    let sound = fs::read(&database).unwrap();
    before_a_start();
    assert_eq!(fs::read(&database).unwrap(), sound);
    // The start came to nothing: whatever is wrong with it is not seen at its beginning.
    before_a_start();
    assert!(!database.exists() && fs::read(&aside).unwrap() == sound);
    // Without it the broker does not start either, as with a mistake in its settings: it was not to blame.
    for _ in 0..3 {
        before_a_start();
        assert!(!aside.exists() && fs::read(&database).unwrap() == sound);
    }
    fs::remove_file(&mark).unwrap();
    fs::write(&database, [0; 4096]).unwrap();
    before_a_start();
    assert!(!database.exists() && fs::read(&damaged).unwrap() == [0; 4096]);
    // A start that gets through removes the mark. Whatever was set aside before it was to blame.
    fs::remove_file(&mark).unwrap();
    fs::write(&database, &sound).unwrap();
    before_a_start();
    before_a_start();
    assert!(!database.exists() && fs::read(&aside).unwrap() == sound);
    fs::remove_file(&mark).unwrap();
    fs::write(&database, &sound).unwrap();
    before_a_start();
    assert!(!aside.exists() && fs::read(&damaged).unwrap() == sound && database.exists(), "one is kept");
    // Without one, as at the first start.
    fs::remove_file(&database).unwrap();
    fs::remove_file(&mark).unwrap();
    before_a_start();
    before_a_start();
}
