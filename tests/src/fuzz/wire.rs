//! Topics, payloads and the metadata segment of frames.

use microlambda::{Digest, Version};
use microlambda_wire::{
    AheadNote, CameraHead, CameraStatus, ClaimNote, Continuation, DoneNote, EventNote, FaceNote, FrameError, FrameMeta,
    LABEL_BYTES_MAX, META_BYTES_MAX, NAME_LEN_MAX, Name, NodeStatus, Payload, PayloadError, Record, RecordNote,
    SEQUENCE_MAX, SyncHave, SyncWant, TIME_MS_MAX, Topic, TopicPrefix, Want, from_payload, read_frame_meta,
    strip_frame_meta, to_payload, write_frame_meta,
};

use super::seeds;

/// A JSON text may grow so much when it is written again: fields that were left out.
const GROWTH_BYTES_MAX: usize = 1_024;

/// A topic that is read is written alike, to the byte; so are names and digests, which are parts of topics and payloads.
pub fn topics(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let prefix = TopicPrefix::new(&Name::default_site());
    for topic in [text.to_string(), format!("microlambda/home/{text}")] {
        match Topic::parse(&prefix, &topic) {
            Ok(parsed) => {
                assert_eq!(parsed.build(&prefix), topic);
                assert!(!topic.contains(['+', '#', '\0']), "a wildcard got through: {topic:?}");
            }
            Err(error) => assert!(error.to_string().len() < 2_048, "an endless complaint about {topic:?}"),
        }
    }
    match text.parse::<Name>() {
        Ok(name) => assert!(name.as_str() == text && text.len() <= NAME_LEN_MAX),
        Err(error) => assert!(error.to_string().len() < 1_024),
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
}

/// The first byte chooses the kind of payload that the rest is taken for.
pub fn payloads(bytes: &[u8]) {
    let Some((kind, json)) = bytes.split_first() else { return };
    match kind % 13 {
        0 => read::<CameraStatus>(json, |_| ()),
        1 => read::<CameraHead>(json, |head| assert!(head.oldest <= head.next && head.next <= SEQUENCE_MAX)),
        2 => read::<Want>(json, |want| assert!(want.cursor.max(want.committed) <= SEQUENCE_MAX)),
        3 => read::<RecordNote>(json, |note| {
            assert!(!matches!(note.record, Record::Frame { .. }));
            assert!(note.sequence.saturating_add(note.record.span()) <= SEQUENCE_MAX);
        }),
        4 => read::<Continuation>(json, |note| {
            assert!(note.parent.version <= note.head.version);
            bounded(note.parent.version);
            bounded(note.head.version);
        }),
        5 => read::<ClaimNote>(json, |note| {
            bounded(note.claim.step);
            note.failed.iter().for_each(|failed| bounded(failed.version));
        }),
        6 => read::<DoneNote>(json, |note| bounded(note.head.version)),
        // These numbers go into questions to the store.
        7 => read::<SyncWant>(json, |want| assert!(want.locator.iter().all(|(at, _)| *at <= SEQUENCE_MAX))),
        8 => read::<SyncHave>(json, |have| {
            assert!(have.base.0 <= SEQUENCE_MAX);
            bounded(have.newest.version);
        }),
        9 => read::<EventNote>(json, |event| {
            assert!(event.sequence <= SEQUENCE_MAX && event.captured_at_ms <= TIME_MS_MAX);
        }),
        10 => read::<FaceNote>(json, |face| {
            assert!(face.first_sequence <= SEQUENCE_MAX && face.first_seen_ms.max(face.last_seen_ms) <= TIME_MS_MAX);
        }),
        12 => read::<AheadNote>(json, |note| assert!(note.from + u64::from(note.count) <= SEQUENCE_MAX)),
        _ => read::<NodeStatus>(json, |status| {
            status.chains.iter().for_each(|chain| bounded(chain.version));
            status.set_aside.iter().for_each(|unit| bounded(unit.version));
        }),
    }
}

fn bounded(version: Version) {
    assert!(version.sequence <= SEQUENCE_MAX, "number {} got through", version.sequence);
}

/// What is accepted is within its bounds, can be sent on, and is read again as the same.
fn read<T: Payload>(json: &[u8], promise: impl Fn(&T)) {
    let value = match from_payload::<T>(json) {
        Ok(value) => value,
        Err(error) => {
            assert_eq!(matches!(error, PayloadError::TooLong { .. }), json.len() > T::BYTES_MAX, "{error}");
            return;
        }
    };
    assert!(json.len() <= T::BYTES_MAX);
    promise(&value);
    match to_payload(&value) {
        Ok(written) => {
            let again: T = from_payload(&written).expect("what this program wrote");
            promise(&again);
            assert_eq!(to_payload(&again).expect("once more"), written);
        }
        Err(PayloadError::TooLong { .. }) => assert!(json.len() + GROWTH_BYTES_MAX > T::BYTES_MAX),
        Err(error) => panic!("accepted, and then refused: {error}"),
    }
}

/// As a frame with metadata, as a picture without, and as a record in canonical form.
pub fn frame(bytes: &[u8]) {
    match read_frame_meta(bytes) {
        Ok(meta) => {
            assert!(meta.v == 1 && meta.label.len() <= LABEL_BYTES_MAX && meta.sequence < SEQUENCE_MAX);
            assert!(meta.captured_at_ms <= TIME_MS_MAX);
            match strip_frame_meta(bytes) {
                Ok((stripped, jpeg)) => {
                    assert!(stripped == meta && Digest::of(&jpeg) == meta.digest && jpeg.len() < bytes.len());
                    assert_round_trip(&jpeg, &meta);
                }
                Err(error) => assert_eq!(error, FrameError::WrongDigest),
            }
            // The picture is rarely the one whose digest stands there: so it is given the right one.
            let segment_bytes = usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
            let jpeg = [&bytes[..2], &bytes[4 + segment_bytes..]].concat();
            assert_round_trip(&jpeg, &FrameMeta { digest: Digest::of(&jpeg), ..meta });
        }
        Err(error) => assert!(strip_frame_meta(bytes).is_err(), "{error}"),
    }
    if bytes.starts_with(&[0xff, 0xd8]) {
        assert_round_trip(bytes, &seeds::meta(bytes));
    }
    if let Ok(record) = Record::from_canonical_bytes(bytes) {
        assert_eq!(record.canonical_bytes(), bytes, "two forms of {record:?}");
        assert!(record.span() >= 1);
        if let Record::Frame { captured_at_ms, label, .. } = &record {
            assert!(*captured_at_ms <= TIME_MS_MAX && label.len() <= LABEL_BYTES_MAX);
        }
    }
}

/// Picture and metadata come back as they were put together, and the picture in it can be changed nowhere.
fn assert_round_trip(jpeg: &[u8], meta: &FrameMeta) {
    let Ok(mut frame) = write_frame_meta(jpeg, meta) else {
        // Other blanks and a field that was left out: only near the bound.
        let json_bytes = serde_json::to_vec(meta).expect("metadata").len();
        assert!(json_bytes + 64 > META_BYTES_MAX, "{json_bytes} bytes of metadata are refused");
        return;
    };
    assert!(frame.len() <= jpeg.len() + 2 + META_BYTES_MAX);
    assert_eq!(strip_frame_meta(&frame), Ok((meta.clone(), jpeg.to_vec())));
    if jpeg.len() > 2 {
        let last = frame.len() - 1;
        frame[last] ^= 1;
        assert_eq!(strip_frame_meta(&frame), Err(FrameError::WrongDigest));
    }
}
