//! The observer on both brokers that the harness starts.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking")]

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use microlambda_demo::{Broker, BrokerKind, Error, Note, Observer, Process, Programs, Report};
use microlambda_wire::{EventKind, EventNote, FaceNote, Name, NodeStatus, Topic, TopicPrefix, to_payload};
use rumqttc::{Client, Event, MqttOptions, Packet, QoS};

const PATIENCE: Duration = Duration::from_secs(20);

fn programs() -> Programs {
    Programs::in_dir(Path::new(env!("CARGO_BIN_EXE_microlambda-demo")).parent().unwrap())
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn prefix() -> TopicPrefix {
    TopicPrefix::new(&name("demo"))
}

/// Publishes and waits until the broker has acknowledged everything.
fn publish(broker: &Broker, messages: &[(String, Vec<u8>, bool)]) {
    let (host, port) = broker.url().address();
    let mut options = MqttOptions::new("publisher", host, port);
    options.set_max_packet_size(1 << 20, 1 << 20);
    let (client, mut connection) = Client::new(options, messages.len() + 1);
    for (topic, payload, retain) in messages {
        client.try_publish(topic, QoS::AtLeastOnce, *retain, payload.clone()).unwrap();
    }
    let mut left = messages.len();
    while left > 0 {
        if let Event::Incoming(Packet::PubAck(_)) = connection.recv_timeout(PATIENCE).unwrap().unwrap() {
            left -= 1;
        }
    }
}

fn event(id: &str) -> (String, Vec<u8>, bool) {
    let note = EventNote {
        id: name(id),
        kind: EventKind::NewFace,
        face: name(id),
        camera: name("folder"),
        chain: name("c"),
        sequence: 3,
        face_index: 0,
        captured_at_ms: 1,
        label: "x.jpg".into(),
    };
    (Topic::Event.build(&prefix()), to_payload(&note).unwrap(), false)
}

fn face(id: &str) -> (String, Vec<u8>, bool) {
    let note = FaceNote {
        face: name(id),
        name: String::new(),
        camera: name("folder"),
        chain: name("c"),
        first_sequence: 0,
        first_seen_ms: 0,
        last_seen_ms: 0,
        frames: 1,
        label: String::new(),
        thumbnail: microlambda_wire::Blob(vec![0xff; 12 << 10]),
    };
    (Topic::Face { face: name(id) }.build(&prefix()), to_payload(&note).unwrap(), true)
}

fn next_event(observer: &Observer) -> Name {
    observer
        .wait(PATIENCE, |seen| match &seen.note {
            Note::Event(event) => Some(event.id.clone()),
            _ => None,
        })
        .expect("no event came")
}

fn events_are_typed_and_repeats_are_counted(broker: &Broker) {
    let observer = broker.observe(&name("demo")).unwrap();
    publish(broker, &[event("e1"), event("e1"), event("e2"), event("e1"), event("e3")]);
    let ids: Vec<Name> = (0..3).map(|_| next_event(&observer)).collect();
    assert_eq!(ids, ["e1", "e2", "e3"].map(name));
    assert_eq!(observer.event_repeats(), 2);
}

fn what_is_not_ours_is_refused_and_the_rest_goes_on(broker: &Broker) {
    let observer = broker.observe(&name("demo")).unwrap();
    let status = (Topic::NodeStatus { node: name("n") }.build(&prefix()), b"hello".to_vec(), false);
    let other_site = (event("e").0.replace("demo", "elsewhere"), event("e").1, false);
    publish(broker, &[status, other_site, event("e9")]);
    let refused = observer.next(PATIENCE).unwrap();
    assert!(
        matches!(&refused, Report::Refused { topic, why } if topic.ends_with("node/n/status") && why.contains("node status")),
        "{refused:?}"
    );
    assert_eq!(next_event(&observer), name("e9"), "the other site's event is not seen");
}

fn retained_faces_reach_who_comes_later(broker: &Broker) {
    let faces: Vec<_> = (0..60).map(|number| face(&format!("f{number}"))).collect();
    publish(broker, &faces);
    let observer = broker.observe(&name("demo")).unwrap();
    let mut found = std::collections::BTreeSet::new();
    let until = Instant::now() + PATIENCE;
    while found.len() < faces.len() {
        let note = observer.wait(until.saturating_duration_since(Instant::now()), |seen| match &seen.note {
            Note::Face(face) if seen.retained => Some(face.clone()),
            _ => None,
        });
        let note = note.unwrap_or_else(|| panic!("only {} of {} retained faces came", found.len(), faces.len()));
        assert_eq!(note.thumbnail.0.len(), 12 << 10);
        found.insert(note.face);
    }
    let cleared = Topic::Face { face: name("f7") };
    publish(broker, &[(cleared.build(&prefix()), Vec::new(), true)]);
    let seen = observer.wait(PATIENCE, |seen| (seen.note == Note::Cleared).then(|| seen.topic.clone()));
    assert_eq!(seen, Some(cleared));
    broker.clear_retained(&name("demo"));
    publish(broker, &[event("after")]);
    let later = broker.observe(&name("demo")).unwrap();
    publish(broker, &[event("last")]);
    let Some(Report::Seen(seen)) = later.next(PATIENCE) else { panic!("nothing came") };
    assert!(matches!(&seen.note, Note::Event(event) if event.id == name("last")), "something was left: {seen:?}");
}

fn a_restarted_broker_is_found_again(broker: &mut Broker) {
    let observer = broker.observe(&name("demo")).unwrap();
    let address = broker.url().clone();
    broker.kill();
    let lost = std::iter::from_fn(|| observer.next(PATIENCE)).any(|report| matches!(report, Report::Lost(_)));
    assert!(lost, "the observer never noticed");
    let again = observer.next(Duration::from_millis(300));
    assert_eq!(again, None, "attempts that fail are not told");
    broker.restart().unwrap();
    assert_eq!(*broker.url(), address);
    let back = std::iter::from_fn(|| observer.next(PATIENCE)).any(|report| matches!(report, Report::Connected));
    assert!(back, "the observer never came back");
    publish(broker, &[event("e4")]);
    assert_eq!(next_event(&observer), name("e4"), "subscribed again");
}

fn everything(broker: &mut Broker) {
    events_are_typed_and_repeats_are_counted(broker);
    what_is_not_ours_is_refused_and_the_rest_goes_on(broker);
    retained_faces_reach_who_comes_later(broker);
    a_restarted_broker_is_found_again(broker);
}

#[test]
fn an_observer_works_on_the_embedded_broker() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Broker::embedded(&programs(), dir.path(), None).unwrap();
    assert_eq!(broker.kind(), BrokerKind::Embedded);
    everything(&mut broker);
}

#[test]
fn an_observer_works_on_mosquitto() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Broker::mosquitto(dir.path(), None).unwrap();
    assert_eq!(broker.kind(), BrokerKind::Mosquitto);
    everything(&mut broker);
}

/// A mosquitto that takes these users alone, each with the password `secret`, and with further settings; and its port.
fn guarded(dir: &Path, users: &[&str], settings: &str) -> (Process, u16) {
    let passwords = dir.join("passwords");
    std::fs::write(&passwords, "").unwrap();
    for user in users {
        let made = Command::new("mosquitto_passwd").arg("-b").arg(&passwords).args([*user, "secret"]).output();
        assert!(made.unwrap().status.success());
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = dir.join("mosquitto.conf");
    // As root it would become another user, who cannot read the passwords.
    let text = format!(
        "listener {port} 127.0.0.1\nuser root\nallow_anonymous false\npassword_file {}\n{settings}\n",
        passwords.display()
    );
    std::fs::write(&config, text).unwrap();
    let argv = ["/usr/sbin/mosquitto".into(), "-c".into(), config.into()];
    (Process::start("mosquitto", argv.into(), &dir.join("log")).unwrap(), port)
}

#[test]
fn a_wrong_password_is_named_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (_mosquitto, port) = guarded(dir.path(), &["ann"], "");
    let broker = Broker::external(&format!("mqtt://ann:secret@127.0.0.1:{port}")).unwrap();
    assert!(broker.observe(&name("demo")).is_ok());
    for wrong in ["ann:other@", "bob:secret@", ""] {
        let begun = Instant::now();
        let error = Broker::external(&format!("mqtt://{wrong}127.0.0.1:{port}")).unwrap_err().to_string();
        assert!(error.contains("it refuses this user and password: give both in its address"), "{wrong}: {error}");
        assert!(!error.contains("secret") && !error.contains("check that it runs"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(5), "nothing is tried again");
    }
}

#[test]
fn a_broker_that_drops_without_a_word_what_a_user_may_not_write_or_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let rules = dir.path().join("rules");
    let text = ["read", "write", "readwrite"].map(|right| format!("user {right}\ntopic {right} microlambda/#\n"));
    std::fs::write(&rules, text.concat()).unwrap();
    let settings = format!("acl_file {}", rules.display());
    let (_mosquitto, port) = guarded(dir.path(), &["read", "write", "readwrite"], &settings);
    let observe = |user: &str| {
        let broker = Broker::external(&format!("mqtt://{user}:secret@127.0.0.1:{port}")).unwrap();
        broker.observe(&name("demo")).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(observe("readwrite"), Ok(()));
    // Side by side, as each takes its whole patience.
    std::thread::scope(|scope| {
        for user in ["read", "write"] {
            scope.spawn(move || {
                let why = observe(user).unwrap_err();
                assert!(why.contains(&format!("127.0.0.1:{port}")) && why.contains("`microlambda/#`"), "{user}: {why}");
            });
        }
    });
}

#[test]
fn a_broker_outlives_nothing_but_its_handle_and_its_port_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Broker::embedded(&programs(), dir.path(), None).unwrap();
    let url = broker.url().to_string();
    let port = broker.url().address().1;
    let error = Broker::embedded(&programs(), dir.path(), Some(port)).unwrap_err();
    assert!(matches!(error, Error::Port { port: taken } if taken == port), "{error}");
    let pid = broker.process().and_then(|process| process.pid()).unwrap();
    assert_eq!(Broker::external(&url).unwrap().kind(), BrokerKind::External);
    assert!(Path::new(&format!("/proc/{pid}")).exists(), "an external handle ends nothing");
    drop(broker);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_status_goes_from_sender_to_observer_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::embedded(&programs(), dir.path(), None).unwrap();
    let observer = broker.observe(&name("demo")).unwrap();
    let json = br#"{"v":1,"node":"n","boot":"b","online":true,"counters":[["frames",7]]}"#;
    let status: NodeStatus = microlambda_wire::from_payload(json).unwrap();
    let before_us = microlambda_demo::monotonic_us();
    let topic = Topic::NodeStatus { node: name("n") };
    publish(&broker, &[(topic.build(&prefix()), to_payload(&status).unwrap(), true)]);
    let Some(Report::Seen(seen)) = observer.next(PATIENCE) else { panic!("nothing came") };
    assert_eq!(seen.topic, topic);
    assert_eq!(seen.note, Note::NodeStatus(status));
    assert!(!seen.retained, "it came live");
    assert!((before_us..=microlambda_demo::monotonic_us()).contains(&seen.at_us));
}
