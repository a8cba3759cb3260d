//! Where fuzzing starts: sound inputs of every kind, made by the code that makes them in the agents.

use microlambda::{Claim, ClassCost, Digest, Head, Stop, Version};
use microlambda_faces::content::{Ahead, Delta, Entry, PartialEntry, to_bytes};
use microlambda_faces::fold::FoldState;
use microlambda_faces::plan::Plan;
use microlambda_faces::proto::{
    CLASS_DECODE, CLASS_DETECT, FromWorker, PROTOCOL, StepTimes, ToWorker, UnitOutcome, encode,
};
use microlambda_faces::{
    Analysis, ENCODING_LEN, Encoding, Face, FaceAt, FaceOutcome, FaceParams, Partial, Rect, SeenFace, Thumbnail,
    Unusable,
};
use microlambda_wire::{
    AheadNote, Area, Areas, Blob, CameraHead, CameraStatus, ChainClass, ChainLag, ClaimNote, Continuation, DoneNote,
    EndMark, EventKind, EventNote, FaceNote, FrameMeta, GapReason, Name, NodeStatus, Payload, Record, RecordNote,
    SetAsideNote, SourceCounters, StepTiming, SyncHave, SyncWant, Topic, TopicPrefix, UnitFailure, Want, to_payload,
    write_frame_meta,
};

use crate::name;

/// The inputs of a target.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "topics" => topics(),
        "payloads" => payloads(),
        "frame" => frames(),
        "jpeg" => pictures().into_iter().map(|picture| [&[7], picture.as_slice()].concat()).collect(),
        "mjpeg" => {
            let stream = [pictures().concat(), vec![0xff, 0xd8, 0xff], pictures().concat()].concat();
            [[40, 255], [3, 60], [255, 30]].iter().map(|start| [start, stream.as_slice()].concat()).collect()
        }
        "worker" => worker(),
        "checkpoint" => checkpoints(),
        "config" => configs(),
        // Scenarios: any bytes are one.
        "chain" => (0..24_u8).map(|seed| (0..160_u8).map(|n| n.wrapping_mul(seed | 1) ^ seed).collect()).collect(),
        other => panic!("no target {other}"),
    }
}

/// Two parts of a picture.
fn areas() -> Areas {
    let sides = [[0, 16, 48, 64], [200, 100, 16, 16]].map(|sides| Area::try_from(sides).expect("an area"));
    Areas::try_from(sides.to_vec()).expect("two areas")
}

/// Metadata for a picture.
pub fn meta(jpeg: &[u8]) -> FrameMeta {
    FrameMeta {
        v: 1,
        camera: name("door"),
        boot: name("b00"),
        chain: name("door-1"),
        sequence: 7,
        captured_at_ms: 1_700_000_000_000,
        digest: Digest::of(jpeg),
        label: "a.jpg".into(),
        moved: Some(areas()),
    }
}

fn topics() -> Vec<Vec<u8>> {
    let (a, b) = (|| name("door"), || name("node-b"));
    let topics = [
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
        Topic::SyncWant { node: b() },
        Topic::SyncHave { node: b() },
        Topic::Face { face: a() },
        Topic::Event,
        Topic::NodeStatus { node: b() },
    ];
    let prefix = TopicPrefix::new(&Name::default_site());
    let whole = topics.iter().map(|topic| topic.build(&prefix));
    let parts = ["camera/door/frame/a", "chain/+/claim", "node/#", "door_1"].map(str::to_owned);
    let digest = Digest::of(b"").to_string();
    whole.chain(parts).chain([digest]).map(String::into_bytes).collect()
}

fn head(sequence: u64, unit: u32) -> Head {
    let version = Version { generation: 0, sequence, unit };
    Head { version, digest: Digest::of(&sequence.to_le_bytes()), set_aside: 1 }
}

/// A payload behind the byte that chooses its kind.
fn payload<T: Payload>(kind: u8, value: &T) -> Vec<u8> {
    [vec![kind], to_payload(value).expect("a sound payload")].concat()
}

fn camera() -> Name {
    name("door")
}

fn node() -> Name {
    name("a")
}

fn boot() -> Name {
    name("b0")
}

fn chain() -> Name {
    name("door-1")
}

fn payloads() -> Vec<Vec<u8>> {
    [camera_payloads(), chain_payloads(), node_payloads()].concat()
}

/// Between a camera and the nodes that want its records.
fn camera_payloads() -> Vec<Vec<u8>> {
    let gap = Record::Gap { count: 3, reason: GapReason::SpoolFull };
    let end = Record::End { count: 9, manifest: Digest::of(b"") };
    let mut seeds = [gap, end].map(|record| payload(3, &RecordNote { chain: chain(), sequence: 5, record })).to_vec();
    seeds.extend([
        payload(
            0,
            &CameraStatus {
                camera: camera(),
                boot: boot(),
                online: true,
                source: "folder /srv".into(),
                trouble: String::new(),
                counters: SourceCounters::default(),
            },
        ),
        payload(
            1,
            &CameraHead {
                camera: camera(),
                chain: chain(),
                class: ChainClass::Batch,
                oldest: 2,
                next: 9,
                end: Some(EndMark { count: 9, manifest: Digest::of(b"") }),
            },
        ),
        payload(
            2,
            &Want { node: node(), boot: boot(), chain: chain(), cursor: 3, credit: 8, committed: 2, expires_ms: 3_000 },
        ),
    ]);
    seeds
}

/// How a chain goes on and ends, and what nodes hold of it.
fn chain_payloads() -> Vec<Vec<u8>> {
    let claim = Claim { step: Version::at(4), epoch: 1, node: "a".into(), lease_ms: 1_500 };
    let failed = UnitFailure { version: Version::at(4), times: 2, why: "it ended".into() };
    vec![
        payload(
            4,
            &Continuation {
                chain: chain(),
                node: node(),
                boot: boot(),
                lambda: Digest::of(b"lambda"),
                parent: head(3, 1),
                head: head(4, 0),
                delta: Some(Blob(vec![1, 2, 3])),
                origin: None,
                again: false,
                timing: Some(StepTiming::default()),
                frames: Vec::new(),
            },
        ),
        payload(5, &ClaimNote { chain: chain(), boot: boot(), claim, failed: Some(failed) }),
        payload(
            6,
            &DoneNote {
                chain: chain(),
                camera: camera(),
                head: head(9, 0),
                frames: 9,
                unreadable: 1,
                faces_seen: 4,
                people: vec![name("f0"), name("f1")],
            },
        ),
        payload(
            7,
            &SyncWant { node: node(), chain: chain(), locator: vec![(4, Digest::of(b"")), (0, Digest::default())] },
        ),
        payload(
            8,
            &SyncHave {
                node: node(),
                chain: chain(),
                lambda: Digest::of(b"lambda"),
                base: (0, Digest::default()),
                newest: head(4, 1),
                delta: Blob(vec![1, 2, 3]),
                unpublished: vec![name("e0")],
            },
        ),
    ]
}

/// What a node tells of faces, of itself, and of what it has analysed ahead.
fn node_payloads() -> Vec<Vec<u8>> {
    let lag =
        ChainLag { chain: chain(), class: ChainClass::Live, version: Version::at(4), lag: 2, waits_for: "".into() };
    let cost = ClassCost { class: CLASS_DETECT, mean: 5, deviation: 2, peak: 7, samples: 3 };
    vec![
        payload(
            9,
            &EventNote {
                id: name("e0"),
                kind: EventKind::NewFace,
                face: name("f0"),
                camera: camera(),
                chain: chain(),
                sequence: 4,
                face_index: 0,
                captured_at_ms: 1_700_000_000_000,
                label: "a.jpg".into(),
            },
        ),
        payload(
            10,
            &FaceNote {
                face: name("f0"),
                name: "Ada".into(),
                camera: camera(),
                chain: chain(),
                first_sequence: 4,
                first_seen_ms: 1,
                last_seen_ms: 2,
                frames: 3,
                label: "a.jpg".into(),
                thumbnail: Blob(vec![0xff, 0xd8]),
            },
        ),
        payload(
            11,
            &NodeStatus {
                node: node(),
                boot: boot(),
                online: true,
                program: "0".into(),
                engine: "test".into(),
                load_permille: 20,
                disk_free_mb: Some(7),
                costs: vec![cost],
                chains: vec![lag],
                counters: vec![("steps".into(), 4)],
                set_aside: vec![SetAsideNote {
                    chain: chain(),
                    version: Version::at(3),
                    why: "a: 3 × it ended".into(),
                }],
                trouble: String::new(),
            },
        ),
        payload(
            12,
            &AheadNote {
                chain: chain(),
                node: node(),
                boot: boot(),
                lambda: Digest::of(b"lambda"),
                from: 8,
                count: 4,
                lease_ms: 1_500,
                found: Some(Blob(vec![1, 2, 3])),
            },
        ),
    ]
}

fn frames() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for picture in pictures() {
        seeds.push(write_frame_meta(&picture, &meta(&picture)).expect("a frame"));
        seeds.push(picture);
    }
    let digest = Digest::of(b"");
    seeds.extend([
        Record::Frame { captured_at_ms: 5, digest, label: "a.jpg".into(), moved: None }.canonical_bytes(),
        Record::Frame { captured_at_ms: 5, digest, label: "a.jpg".into(), moved: Some(areas()) }.canonical_bytes(),
        Record::Gap { count: 3, reason: GapReason::Unused }.canonical_bytes(),
        Record::End { count: 3, manifest: digest }.canonical_bytes(),
    ]);
    seeds
}

/// Small pictures: as an encoder writes them, without tables, with a picture inside an application segment, progressive in name.
fn pictures() -> Vec<Vec<u8>> {
    let picture = |fill: u8| {
        let pixels = image::RgbImage::from_fn(16, 8, |x, y| image::Rgb([fill, (x * 16) as u8, (y * 31) as u8]));
        let mut jpeg = std::io::Cursor::new(Vec::new());
        pixels.write_to(&mut jpeg, image::ImageFormat::Jpeg).expect("a picture");
        jpeg.into_inner()
    };
    let whole = picture(9);
    let tables_at = whole.windows(2).position(|pair| pair == [0xff, 0xc4]).expect("tables");
    let scan_at = whole.windows(2).position(|pair| pair == [0xff, 0xda]).expect("a scan");
    let bare = [&whole[..tables_at], &whole[scan_at..]].concat();
    let length = u16::try_from(bare.len() + 2).expect("a small picture").to_be_bytes();
    let nested = [&bare[..2], &[0xff, 0xe1], &length, &bare, &bare[2..]].concat();
    vec![whole, bare, nested, vec![0xff, 0xd8, 0xff, 0xd9]]
}

fn face(score: f32, value: f32) -> Face {
    let rect = Rect { left: 10, top: 10, right: 109, bottom: 109 };
    let outcome = FaceOutcome::Encoded(Encoding::try_from(vec![value; ENCODING_LEN]).expect("a finite value"));
    Face { seen: SeenFace { rect, score }, sharpness: 100.0, outcome }
}

/// States inside a picture of one tile with two faces, in order, and its analysis.
fn states() -> (Vec<Partial>, Analysis) {
    let plan = Plan::of(320, 240, FaceParams::default().picture_px_max);
    let mut partial = plan.begin();
    let mut other = face(0.9, 0.5);
    other.seen.rect = Rect { left: 150, top: 20, right: 229, bottom: 99 };
    plan.tile_done(&mut partial, &[face(1.5, 0.1).seen, other.seen]);
    let first = partial.clone();
    partial.faces.push(face(1.5, 0.1));
    let second = partial.clone();
    partial.faces.push(Face { outcome: FaceOutcome::Unusable(Unusable::Blurred { sharpness: 1.0 }), ..other });
    let analysis = Analysis::Frame(plan.finished(&partial).expect("a finished analysis"));
    (vec![first, second], analysis)
}

fn worker() -> Vec<Vec<u8>> {
    let (partials, analysis) = states();
    let unit = |outcome| FromWorker::Unit {
        step: 1,
        sequence: 3,
        prepare: Some((CLASS_DECODE, 76_800, 900)),
        run: (CLASS_DETECT, 76_800, 9_000),
        outcome,
        thumbnail: None,
    };
    let from = [
        (
            FromWorker::Ready { protocol: PROTOCOL, engine: "test".into(), load_us: 1 },
            FromWorker::Tried { units: vec![(CLASS_DETECT, 9_216, 3_000)] },
        ),
        (FromWorker::Begin { step: 1, part: (CLASS_DETECT, 76_800) }, unit(UnitOutcome::Done(analysis.clone()))),
        (unit(UnitOutcome::Partial(partials[0].clone())), unit(UnitOutcome::Partial(partials[1].clone()))),
        (unit(UnitOutcome::Partial(partials[0].clone())), unit(UnitOutcome::Done(analysis))),
        (
            unit(UnitOutcome::Done(Analysis::Unreadable { why: "no picture".into() })),
            FromWorker::Stopped {
                step: 1,
                stop: Stop::Limit,
                report: StepTimes {
                    units: 1,
                    used_us: 2,
                    busy_us: 3,
                    first_unit_start_us: 4,
                    last_unit_end_us: 5,
                    cpu_us: 6,
                },
            },
        ),
        (
            FromWorker::Fatal { message: "no model".into() },
            unit(UnitOutcome::Done(Analysis::SetAside { why: "".into() })),
        ),
    ];
    let start = ToWorker::Start {
        step: 1,
        r_limit_us: 1_000_000,
        units_max: 1,
        costs: vec![ClassCost { class: CLASS_DETECT, mean: 5, deviation: 2, peak: 7, samples: 3 }],
        params: FaceParams::default(),
        resume: Some(partials[1].clone()),
    };
    let frame = ToWorker::Frame { sequence: 3, jpeg: vec![0xff, 0xd8], moved: Some(areas()), more: true };
    let body = |message: &FromWorker| encode(message).expect("a message").split_off(4);
    let to = |message: &ToWorker| encode(message).expect("a message").split_off(4);
    let mut seeds: Vec<Vec<u8>> = from.iter().map(|(a, b)| two(0, body(a), &body(b))).collect();
    seeds.push(two(1, to(&start), &to(&frame)));
    seeds.push(two(1, to(&ToWorker::NoMoreFrames), &to(&ToWorker::Stop)));
    seeds
}

fn two(direction: u8, first: Vec<u8>, second: &[u8]) -> Vec<u8> {
    let cut = u16::try_from(first.len()).expect("a short message").to_le_bytes();
    [vec![direction], cut.to_vec(), first, second.to_vec()].concat()
}

fn checkpoints() -> Vec<Vec<u8>> {
    let (partials, analysis) = states();
    let record = |n: u64| Record::Frame {
        captured_at_ms: 1_000 * n,
        digest: Digest::of(&[]),
        label: format!("{n}.jpg"),
        moved: (n == 5).then(areas),
    };
    let entry = |sequence, record, analysis| Entry { sequence, record, analysis, engine: "test".into() };
    let gap = Record::Gap { count: 3, reason: GapReason::SpoolFull };
    let end = Record::End { count: 6, manifest: Digest::of(b"") };
    let entries = vec![
        entry(0, record(0), Some(analysis.clone())),
        entry(1, record(1), Some(Analysis::SetAside { why: "it ended".into() })),
        entry(2, gap, None),
        entry(5, record(5), Some(analysis.clone())),
        entry(6, end, None),
    ];
    let partial = PartialEntry { sequence: 5, partial: partials[1].clone() };
    let delta = |entries: &[Entry], partial: Option<PartialEntry>| {
        let mut state = FoldState::genesis(FaceParams::default());
        let parent = state.head();
        entries.iter().for_each(|entry| {
            state.fold(entry).expect("a sound record");
        });
        let head = partial.as_ref().map_or(state.head(), |partial| state.partial_head(partial).expect("a sound state"));
        Delta { parent, entries: entries.to_vec(), partial, head }.to_bytes().expect("a delta")
    };
    let with = |kind: u8, bytes: Vec<u8>| [vec![kind], bytes].concat();
    let mut seeds: Vec<Vec<u8>> = entries.iter().map(|entry| with(0, to_bytes(entry).expect("an entry"))).collect();
    seeds.push(with(1, to_bytes(&partial).expect("a state")));
    seeds.push(with(2, to_bytes(&Some(analysis)).expect("an analysis")));
    seeds.extend(partials.iter().map(|partial| with(3, to_bytes(partial).expect("a state"))));
    seeds.push(with(4, delta(&entries, None)));
    let picture = |sequence, face_index| Thumbnail { at: FaceAt { sequence, face_index }, jpeg: vec![0xff, 0xd8] };
    let found =
        Ahead { entries: vec![entries[0].clone(), entries[3].clone()], thumbnails: vec![picture(0, 0), picture(5, 1)] };
    seeds.push(with(5, found.to_bytes().expect("analyses")));
    // Nothing is set aside ahead of the chain's order, and nothing but frames is analysed.
    let unfit = |entry: &Entry| {
        with(5, to_bytes(&Ahead { entries: vec![entry.clone()], thumbnails: Vec::new() }).expect("bytes"))
    };
    seeds.extend(entries[1..3].iter().map(unfit));
    seeds.push(with(4, delta(&entries[..3], Some(partial))));
    seeds
}

fn configs() -> Vec<Vec<u8>> {
    let all_keys = |text: &str| -> String {
        let live = |line: &str| line.strip_prefix("# ").filter(|rest| rest.contains(" = ")).unwrap_or(line).to_owned();
        text.lines().map(|line| live(line) + "\n").collect()
    };
    let texts = [
        edge_agent::config::EXAMPLE.to_owned(),
        all_keys(edge_agent::config::EXAMPLE),
        camera_agent::config::EXAMPLE.to_owned(),
        "camera = \"door\"\n[source]\nkind = \"folder\"\npath = \"/srv/pictures\"\n".to_owned(),
        "[source]\nkind = \"command\"\ncommand = [\"cat\", \"a\"]\nfinite = true\n[frame]\nbytes-max = 65536\n"
            .to_owned(),
        "[broker]\nurl = \"mqtts://[::1]:8883\"\nusername = \"a\"\n[faces]\ndistance-max = 0.5\n".to_owned(),
        "mqtt://broker.example:1883/".to_owned(),
        "mqtts://[fe80::1]".to_owned(),
    ];
    texts.into_iter().map(String::into_bytes).collect()
}
