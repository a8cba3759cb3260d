//! Topics and payloads both ways, and what is refused.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use microlambda::{Claim, Digest, Head, Version};
use microlambda_wire::{
    AheadNote, Areas, Blob, CREDIT_MAX, CameraHead, CameraStatus, ChainClass, ChainLag, ClaimNote, Continuation,
    DoneNote, EventKind, EventNote, FaceNote, FrameError, FrameMeta, LOCATOR_LEN_MAX, NAME_LEN_MAX, Name, NodeStatus,
    Payload, PayloadError, Record, RecordNote, SEQUENCE_MAX, STATUS_CHAINS_MAX, STATUS_SET_ASIDE_MAX, SetAsideNote,
    SyncHave, SyncWant, TEXT_BYTES_MAX, Topic, TopicError, TopicPrefix, UNPUBLISHED_LEN_MAX, Want, from_payload,
    read_frame_meta, strip_frame_meta, to_payload, write_frame_meta,
};
use proptest::prelude::*;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn topics(a: &Name, b: &Name) -> Vec<Topic> {
    let (a, b) = (|| a.clone(), || b.clone());
    vec![
        Topic::CameraStatus { camera: a() },
        Topic::CameraHead { camera: a() },
        Topic::CameraWant { camera: a() },
        Topic::CameraFrame { camera: a(), node: b() },
        Topic::CameraRecord { camera: a(), node: b() },
        Topic::CameraImage { camera: a() },
        Topic::Continuation { chain: a() },
        Topic::Claim { chain: a() },
        Topic::Ahead { chain: a() },
        Topic::Done { chain: a() },
        Topic::SyncWant { node: a() },
        Topic::SyncHave { node: a() },
        Topic::Face { face: a() },
        Topic::Event,
        Topic::NodeStatus { node: a() },
    ]
}

/// A JPEG with `body` behind its start marker.
fn jpeg(body: &[u8]) -> Vec<u8> {
    [&[0xff, 0xd8], body].concat()
}

fn meta(jpeg: &[u8]) -> FrameMeta {
    FrameMeta {
        v: 1,
        camera: name("door"),
        boot: name("b00"),
        chain: name("door-1"),
        sequence: 7,
        captured_at_ms: 1_700_000_000_000,
        digest: Digest::of(jpeg),
        label: "a.jpg".into(),
        moved: Areas::from_canonical_bytes(&[16, 0, 0, 0, 48, 0, 64, 0]).ok(),
    }
}

fn refused<T: Payload + std::fmt::Debug>(json: &str) -> PayloadError {
    from_payload::<T>(json.as_bytes()).unwrap_err()
}

proptest! {
    #[test]
    fn every_topic_is_parsed_as_it_was_built(site in "[a-z0-9_-]{1,64}", a in "[a-z0-9_-]{1,64}", b in "[a-z0-9_-]{1,64}") {
        let prefix = TopicPrefix::new(&name(&site));
        for topic in topics(&name(&a), &name(&b)) {
            prop_assert_eq!(Topic::parse(&prefix, &topic.build(&prefix)), Ok(topic));
        }
    }

    #[test]
    fn no_topic_makes_the_parser_panic(text in ".{0,200}") {
        let prefix = TopicPrefix::new(&name("home"));
        prop_assert!(Topic::parse(&prefix, &text).is_err());
    }

    #[test]
    fn no_bytes_make_a_payload_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = from_payload::<Continuation>(&bytes);
        let _ = from_payload::<CameraHead>(&bytes);
        let _ = from_payload::<EventNote>(&bytes);
        let _ = read_frame_meta(&bytes);
    }

    #[test]
    fn a_frame_gives_its_picture_back_byte_for_byte(body in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let picture = jpeg(&body);
        let frame = write_frame_meta(&picture, &meta(&picture)).unwrap();
        prop_assert_eq!(&frame[..2], [0xff, 0xd8]);
        prop_assert_eq!(strip_frame_meta(&frame), Ok((meta(&picture), picture)));
    }

    #[test]
    fn a_frame_cut_short_or_damaged_is_refused(cut: prop::sample::Index, at: prop::sample::Index, flip in 1_u8..) {
        let picture = jpeg(&[7; 500]);
        let frame = write_frame_meta(&picture, &meta(&picture)).unwrap();
        prop_assert!(strip_frame_meta(&frame[..cut.index(frame.len())]).is_err());
        let mut damaged = frame.clone();
        damaged[at.index(frame.len())] ^= flip;
        if let Ok((_, back)) = strip_frame_meta(&damaged) {
            prop_assert_eq!(back, picture, "whatever was damaged, it was not the picture");
        }
    }
}

#[test]
fn a_topic_of_another_site_is_told_from_an_unknown_one() {
    let prefix = TopicPrefix::new(&name("home"));
    assert!(matches!(Topic::parse(&prefix, "microlambda/home2/event"), Err(TopicError::OtherPrefix(_))));
    assert!(matches!(Topic::parse(&prefix, "microlambda/home/events"), Err(TopicError::Unknown(_))));
    assert!(matches!(Topic::parse(&prefix, "microlambda/home/camera/A/head"), Err(TopicError::Name(_))));
}

#[test]
fn names_keep_wildcards_and_levels_out_of_topics() {
    for bad in ["", "a/b", "+", "#", "Door", "a b", "ä", &"x".repeat(65)] {
        assert!(Name::new(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_payload_of_another_format_version_is_refused_by_name() {
    let head = CameraHead {
        camera: name("door"),
        chain: name("door-1"),
        class: ChainClass::Live,
        oldest: 1,
        next: 5,
        end: None,
    };
    let json = String::from_utf8(to_payload(&head).unwrap()).unwrap();
    assert_eq!(from_payload::<CameraHead>(json.as_bytes()), Ok(head));
    let newer = refused::<CameraHead>(&json.replace("\"v\":1", "\"v\":2")).to_string();
    assert!(newer.contains("camera head") && newer.contains("version 2"), "{newer}");
}

#[test]
fn a_class_and_a_kind_of_event_are_written_as_in_payloads_and_no_other_text_is_one() {
    for class in [ChainClass::Live, ChainClass::Batch] {
        assert_eq!(serde_json::to_value(class).unwrap(), class.as_str());
        assert_eq!(ChainClass::parse(class.as_str()), Some(class));
    }
    for kind in [EventKind::NewFace, EventKind::Recognised] {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        assert_eq!(EventKind::parse(kind.as_str()), Some(kind));
    }
    for text in ["", "Live", "live ", "new_face", "recognized"] {
        assert_eq!((ChainClass::parse(text), EventKind::parse(text)), (None, None), "{text:?}");
    }
}

#[test]
fn payloads_out_of_bounds_are_refused() {
    let head = r#"{"v":1,"camera":"door","chain":"door-1","class":"live","oldest":6,"next":5}"#;
    assert!(refused::<CameraHead>(head).to_string().contains("oldest 6"));
    let want = r#"{"v":1,"node":"a","boot":"b","chain":"c","cursor":0,"credit":5000,"committed":0,"expires_ms":1}"#;
    assert!(refused::<Want>(want).to_string().contains("credit"));
    let gap =
        r#"{"v":1,"chain":"c","sequence":1,"record":{"kind":"gap","count":18446744073709551615,"reason":"unused"}}"#;
    assert!(refused::<RecordNote>(gap).to_string().contains("exceeds"));
    let nothing = r#"{"v":1,"chain":"c","sequence":1,"record":{"kind":"gap","count":0,"reason":"unused"}}"#;
    assert!(refused::<RecordNote>(nothing).to_string().contains("a gap of nothing"));
    let far = r#"{"v":1,"camera":"door","chain":"door-1","class":"live","oldest":6,"next":9007199254740993}"#;
    assert!(refused::<CameraHead>(far).to_string().contains("exceeds"));
    let far = r#"{"v":1,"node":"a","boot":"b","chain":"c","cursor":9007199254740993,"credit":5,"committed":0,"expires_ms":1}"#;
    assert!(refused::<Want>(far).to_string().contains("exceeds"));
    let long = format!("{}{}", head, " ".repeat(5_000));
    assert!(matches!(refused::<CameraHead>(&long), PayloadError::TooLong { bytes_max: 4_096, .. }));
}

#[test]
fn what_is_exactly_at_its_bound_is_taken_and_one_more_is_refused() {
    let want = |credit: u32| Want {
        node: name("a"),
        boot: name("b"),
        chain: name("c"),
        cursor: 0,
        credit,
        committed: 0,
        expires_ms: 1,
    };
    assert!(to_payload(&want(CREDIT_MAX)).is_ok() && to_payload(&want(CREDIT_MAX + 1)).is_err());
    let ask = |len: usize| SyncWant { node: name("a"), chain: name("c"), locator: vec![(0, Digest::default()); len] };
    assert!(to_payload(&ask(LOCATOR_LEN_MAX)).is_ok() && to_payload(&ask(LOCATOR_LEN_MAX + 1)).is_err());
    // Each with the longest text, as a status has them all.
    let status = |chains: usize, set_aside: usize, bytes: usize| {
        let (chain, version, why) = (name(&"c".repeat(NAME_LEN_MAX)), Version::at(SEQUENCE_MAX), "x".repeat(bytes));
        let unit = SetAsideNote { chain: chain.clone(), version, why: why.clone() };
        let lag = ChainLag { chain, class: ChainClass::Live, version, lag: SEQUENCE_MAX, waits_for: "x".repeat(200) };
        let bare = NodeStatus::bare(name("a"), name("b"), true);
        NodeStatus { chains: vec![lag; chains], set_aside: vec![unit; set_aside], trouble: why, ..bare }
    };
    let (chains, units, bytes) = (STATUS_CHAINS_MAX, STATUS_SET_ASIDE_MAX, TEXT_BYTES_MAX);
    assert_eq!(to_payload(&status(chains, units, bytes)).err(), None);
    for (chains, units, bytes) in [(chains + 1, 0, 0), (0, units + 1, 0), (0, 0, bytes + 1)] {
        assert!(matches!(to_payload(&status(chains, units, bytes)), Err(PayloadError::Malformed { .. })));
    }
}

#[test]
fn a_largest_delta_fits_its_messages() {
    let head = Head::genesis(Digest::default());
    let have = SyncHave {
        node: name("a"),
        chain: name("c"),
        lambda: Digest::default(),
        base: (0, Digest::default()),
        newest: head,
        delta: Blob(vec![0; 320 << 10]),
        unpublished: vec![name(&"e".repeat(NAME_LEN_MAX)); UNPUBLISHED_LEN_MAX],
    };
    assert!(to_payload(&have).is_ok());
}

#[test]
fn a_claim_reads_as_people_expect() {
    let claim = Claim { step: Version::at(7), epoch: 1, node: "node-a".into(), lease_ms: 1_500 };
    let note = ClaimNote { chain: name("door-1"), boot: name("b"), claim, failed: None };
    let json = String::from_utf8(to_payload(&note).unwrap()).unwrap();
    let expected = r#"{"v":1,"chain":"door-1","boot":"b","claim":{"step":{"generation":0,"sequence":7,"unit":0},"epoch":1,"node":"node-a","lease_ms":1500},"failed":null}"#;
    assert_eq!(json, expected);
}

#[test]
fn a_picture_that_is_not_the_one_named_is_refused() {
    let picture = jpeg(b"one");
    let frame = write_frame_meta(&jpeg(b"two"), &meta(&picture)).unwrap();
    assert_eq!(strip_frame_meta(&frame), Err(FrameError::WrongDigest));
    assert_eq!(strip_frame_meta(&picture), Err(FrameError::NoMeta));
    assert_eq!(strip_frame_meta(b"GIF89a"), Err(FrameError::NotJpeg));
}

/// Reads a documented example as its type and writes it back.
fn example<T: Payload>(json: &str) {
    let note: T = from_payload(json.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{json}"));
    assert!(to_payload(&note).is_ok());
}

#[test]
fn every_example_of_the_documentation_is_a_payload() {
    let text = include_str!("../../docs/topics.md");
    let mut seen = Vec::new();
    for block in text.split("```json ").skip(1) {
        let (kind, rest) = block.split_once('\n').unwrap();
        let (json, _) = rest.split_once("```").unwrap();
        match kind {
            "camera-status" => example::<CameraStatus>(json),
            "camera-head" => example::<CameraHead>(json),
            "want" => example::<Want>(json),
            "frame-metadata" => assert!(serde_json::from_str::<FrameMeta>(json).is_ok()),
            "record" => example::<RecordNote>(json),
            "continuation" => example::<Continuation>(json),
            "claim" => example::<ClaimNote>(json),
            "ahead" => example::<AheadNote>(json),
            "done" => example::<DoneNote>(json),
            "sync-want" => example::<SyncWant>(json),
            "sync-have" => example::<SyncHave>(json),
            "face" => example::<FaceNote>(json),
            "event" => example::<EventNote>(json),
            "node-status" => example::<NodeStatus>(json),
            other => panic!("an example of {other}, which is no payload"),
        }
        seen.push(kind);
    }
    assert_eq!(seen.len(), 14, "{seen:?}");
}

#[test]
fn numbers_and_times_that_no_store_holds_are_refused() {
    let (digest, beyond) = (Digest::default(), (1_u64 << 53) + 1);
    // The store is asked for these numbers: more than 63 bits would end the node.
    for sequence in [beyond, u64::MAX] {
        refused::<SyncWant>(&format!(r#"{{"v":1,"node":"b","chain":"door-1","locator":[[{sequence},"{digest}"]]}}"#));
        let claim = format!(
            r#"{{"step":{{"generation":0,"sequence":{sequence},"unit":0}},"epoch":0,"node":"b","lease_ms":1}}"#
        );
        refused::<ClaimNote>(&format!(r#"{{"v":1,"chain":"door-1","boot":"b0","claim":{claim}}}"#));
    }
    let event = |at_ms: u64| {
        format!(
            r#"{{"v":1,"id":"e","kind":"new-face","face":"f","camera":"door","chain":"door-1","sequence":1,"face_index":0,"captured_at_ms":{at_ms}}}"#
        )
    };
    assert!(from_payload::<EventNote>(event(beyond - 1).as_bytes()).is_ok());
    refused::<EventNote>(&event(beyond));
    // And these would be part of a record, on every node.
    let picture = jpeg(b"one");
    let frame = write_frame_meta(&picture, &FrameMeta { captured_at_ms: beyond, ..meta(&picture) }).unwrap();
    assert!(matches!(strip_frame_meta(&frame), Err(FrameError::Malformed(_))));
    let record = Record::Frame { captured_at_ms: beyond, digest, label: String::new(), moved: None };
    assert!(Record::from_canonical_bytes(&record.canonical_bytes()).is_err());
}
