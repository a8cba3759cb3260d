//! Frames on request: bytes, credit, expiry, and when they are freed.

use crate::support::{Broker, Lens, Observer, PATIENCE, Setup, free_port, jpeg, name, numbered, picture, put};
use image::DynamicImage;
use microlambda::Digest;
use microlambda_wire::{ChainClass, EndMark, GapReason, Record, RecordNote, Topic};

const EVERY_PICTURE: &str = "[motion]\nstill-interval-s = 0";
const FOLDER: &str = "kind = \"folder\"\npath = \"FOLDER/pictures\"";

fn png(seed: u32) -> Vec<u8> {
    let mut png = std::io::Cursor::new(Vec::new());
    DynamicImage::ImageRgb8(picture(64, 48, seed)).write_to(&mut png, image::ImageFormat::Png).unwrap();
    png.into_inner()
}

#[tokio::test]
async fn a_folder_is_served_byte_for_byte_in_name_order_with_its_end() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, FOLDER);
    let files =
        [("a.jpg", jpeg(320, 240, 1)), ("b.JPEG", jpeg(640, 480, 2)), ("c.png", png(3)), ("d.jpg", jpeg(64, 48, 4))];
    setup.pictures(&files);
    let _agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    let head = observer.head(|head| head.end.is_some()).await;
    assert_eq!((head.class, head.oldest, head.next), (ChainClass::Batch, 0, 5));
    assert!(head.chain.as_str().starts_with("door-"));
    observer.want("n1", 0, 10, 0);
    let mut digests = Vec::new();
    for (n, (label, bytes)) in files.iter().enumerate() {
        let (meta, jpeg) = observer.frame("n1", n as u64).await;
        assert_eq!((meta.label.as_str(), &meta.chain, meta.digest), (*label, &head.chain, Digest::of(&jpeg)));
        assert!(meta.captured_at_ms > 1_600_000_000_000, "the file's time");
        if label.ends_with("png") {
            assert!(image::load_from_memory_with_format(&jpeg, image::ImageFormat::Jpeg).is_ok());
        } else {
            assert_eq!(&jpeg, bytes);
        }
        digests.push(meta.digest);
    }
    let manifest = digests.into_iter().fold(camera_agent::spool::empty_manifest(), camera_agent::spool::next_manifest);
    assert_eq!(head.end, Some(EndMark { count: 4, manifest }));
    let end = RecordNote { chain: head.chain, sequence: 4, record: Record::End { count: 4, manifest } };
    assert_eq!(observer.note("n1").await, end);
    let status = observer.status(|status| status.counters.frames == 4).await;
    assert_eq!((status.counters.reencoded, status.counters.unreadable, status.trouble.as_str()), (1, 0, ""));
}

#[tokio::test]
async fn what_was_passed_over_is_told_as_soon_as_the_input_has_ended_and_at_the_end() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, FOLDER);
    let text = || b"this is no picture".to_vec();
    setup.pictures(&[("a.jpg", text()), ("b.jpg", jpeg(64, 48, 1)), ("c.png", png(2)), ("d.jpg", text())]);
    let mut agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    observer.head(|head| head.end.is_some()).await;
    let told = std::time::Instant::now();
    let status = observer.status(|status| status.counters.frames == 2).await;
    assert_eq!((status.counters.unreadable, status.counters.reencoded), (2, 1));
    assert!(told.elapsed() < std::time::Duration::from_secs(4), "counters of a running source are told every 5 s");
    agent.terminate();
    let status = observer.status(|status| !status.online).await;
    assert_eq!((status.counters.unreadable, status.counters.reencoded), (2, 1));
}

#[tokio::test]
async fn no_more_than_the_credit_is_sent() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, FOLDER);
    let files: Vec<(String, Vec<u8>)> = (0..6).map(|n| (format!("{n}.jpg"), jpeg(64, 48, n))).collect();
    setup.pictures(&files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect::<Vec<_>>());
    let _agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    observer.head(|head| head.end.is_some()).await;
    observer.want("n1", 0, 2, 0);
    observer.frame("n1", 0).await;
    observer.frame("n1", 1).await;
    // If more than two were on their way, they would come before this one.
    observer.want("n2", 5, 1, 0);
    observer.frame("n2", 5).await;
    observer.want("n1", 4, 1, 0);
    observer.frame("n1", 4).await;
    observer.want("n1", 3, 0, 0);
    observer.want("n2", 0, 1, 0);
    observer.frame("n2", 0).await;
}

#[tokio::test]
async fn an_open_want_gets_the_next_live_frame_and_an_expired_one_does_not() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, &Lens::source(""));
    Lens::make(&setup);
    let _agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    observer.head(|head| head.class == ChainClass::Live && head.next == 0).await;
    let mut lens = Lens::open(&setup).await;
    observer.want_for("n1", 0, 5, 0, 30_000);
    for n in 0..3 {
        let bytes = jpeg(320, 240, n);
        lens.show(&bytes);
        assert_eq!(observer.frame("n1", u64::from(n)).await.1, bytes);
    }
    // This want replaces the open one and ends by itself.
    observer.want_for("n1", 3, 5, 0, 1);
    observer.want_for("n2", 2, 2, 0, 30_000);
    observer.frame("n2", 2).await;
    lens.show(&jpeg(320, 240, 3));
    observer.frame("n2", 3).await;
    observer.want_for("n2", 3, 1, 0, 30_000);
    observer.frame("n2", 3).await;
}

#[tokio::test]
async fn a_frame_is_freed_when_two_nodes_have_committed_it_and_then_no_longer_served() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, FOLDER);
    setup.pictures(&[("a.jpg", jpeg(64, 48, 1)), ("b.jpg", jpeg(64, 48, 2)), ("c.jpg", jpeg(64, 48, 3))]);
    let mut agent = setup.run(&["--exit-when-done"]);
    let mut observer = Observer::new(broker.port).await;
    observer.head(|head| head.end.is_some()).await;
    observer.want("n1", 3, 1, 3);
    observer.note("n1").await;
    observer.want("n2", 2, 1, 2);
    observer.frame("n2", 2).await;
    observer.head(|head| head.oldest == 2).await;
    observer.want("n2", 0, 5, 2);
    let head = observer.head(|_| true).await;
    assert_eq!((head.oldest, head.next), (2, 4), "what is not held is answered with the head");
    observer.want("n1", 2, 1, 3);
    observer.frame("n1", 2).await;
    observer.want("n1", 4, 0, 4);
    observer.want("n2", 4, 0, 4);
    observer.head(|head| head.oldest == 4).await;
    assert!(agent.wait().success());
    assert!(agent.log().contains("the job is done"), "{}", agent.log());
    let status = observer.status(|status| !status.online).await;
    assert_eq!(status.counters.freed_on_one, 0);

    let mut again = setup.run(&["--exit-when-done"]);
    assert!(again.wait().success());
    assert!(again.log().contains("this job is complete") && again.log().contains("--new-job"), "{}", again.log());

    let former = observer.chain.clone().unwrap();
    let _anew = setup.run(&["--new-job"]);
    let head = observer.head(|head| head.chain != former && head.end.is_some()).await;
    assert_eq!((head.oldest, head.next), (0, 4));
}

#[tokio::test]
async fn a_full_live_spool_gives_a_gap_in_place_of_the_oldest_frames_that_were_never_sent() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, &Lens::source("[spool]\nframes-max = 8"));
    Lens::make(&setup);
    let _agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    observer.head(|_| true).await;
    let mut lens = Lens::open(&setup).await;
    for n in 0..12 {
        lens.show(&jpeg(64, 48, n));
    }
    observer.head(|head| head.next == 12).await;
    observer.want("n1", 0, 20, 0);
    let note = observer.note("n1").await;
    assert_eq!((note.sequence, note.record), (0, Record::Gap { count: 4, reason: GapReason::SpoolFull }));
    for n in 4..12 {
        assert_eq!(observer.frame("n1", n).await.1, jpeg(64, 48, n as u32));
    }
    observer.status(|status| status.counters.dropped == 4 && status.counters.frames == 12).await;
}

#[tokio::test]
async fn a_full_spool_makes_a_folder_wait_and_loses_nothing() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, &format!("{FOLDER}\n[spool]\nframes-max = 8"));
    let files: Vec<(String, Vec<u8>)> = (0..20).map(|n| (format!("{n:02}.jpg"), jpeg(64, 48, n))).collect();
    setup.pictures(&files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect::<Vec<_>>());
    let _agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    observer.head(|head| head.next == 8 && head.end.is_none()).await;
    for n in 0..20 {
        observer.want("n1", n, 1, n);
        observer.want("n2", n, 0, n);
        let (meta, bytes) = observer.frame("n1", n).await;
        assert_eq!((meta.label, bytes), files[n as usize].clone());
    }
    let head = observer.head(|head| head.end.is_some()).await;
    assert_eq!(head.next, 21);
}

#[tokio::test]
async fn a_lone_node_frees_frames_after_a_while_and_that_is_counted() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, FOLDER);
    setup.pictures(&[("a.jpg", jpeg(64, 48, 1)), ("b.jpg", jpeg(64, 48, 2))]);
    let _agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    observer.head(|head| head.end.is_some()).await;
    let began = std::time::Instant::now();
    loop {
        observer.want("n1", 2, 0, 2);
        if observer.head(|_| true).await.oldest == 2 {
            break;
        }
    }
    assert!(began.elapsed().as_secs() >= 8, "not before others had time to be heard: {:?}", began.elapsed());
    observer.status(|status| status.counters.freed_on_one == 2).await;
}

#[tokio::test]
async fn a_node_that_lags_behind_another_does_not_keep_a_full_spool_full() {
    let broker = Broker::start();
    let command = "command = [\"/bin/sh\", \"-c\", \"cat FOLDER/pictures/*.jpg; sleep 1000\"]";
    let source = format!("kind = \"command\"\n{command}\n{EVERY_PICTURE}\n[spool]\nframes-max = 8");
    let setup = Setup::new(broker.port, &source);
    put(&setup, &numbered(8));
    let _agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    observer.head(|head| head.next == 8).await;
    let began = std::time::Instant::now();
    loop {
        observer.want("n1", 8, 0, 8);
        observer.want("n2", 0, 0, 0);
        if observer.head(|_| true).await.oldest == 8 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "nothing is freed");
    }
    observer.status(|status| status.counters.freed_on_one == 8).await;
}

#[tokio::test]
async fn what_is_not_ours_on_our_topics_is_counted_and_changes_nothing() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, FOLDER);
    setup.pictures(&[("a.jpg", jpeg(64, 48, 1))]);
    let agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    observer.head(|head| head.end.is_some()).await;
    let want = Topic::CameraWant { camera: name("door") };
    let status = Topic::NodeStatus { node: name("n1") };
    let long = vec![b'x'; 100_000];
    for payload in [b"".as_slice(), b"hello", b"{}", b"{\"v\":2}", &[0xff; 10], &long] {
        observer.publish_raw(&want, payload);
    }
    for payload in [b"hello".as_slice(), b"{\"v\":1,\"node\":\"n2\",\"boot\":\"b\",\"online\":true}"] {
        observer.publish_raw(&status, payload);
    }
    observer.want("n1", 0, 1, 0);
    observer.frame("n1", 0).await;
    observer.status(|status| status.counters.refused_messages == 8).await;
    let told = agent.log().matches("see who publishes on MicroLambda's topics").count();
    assert_eq!(told, 1, "one in ten seconds: {}", agent.log());
}

#[tokio::test]
async fn the_last_picture_of_an_input_that_ended_before_there_was_a_broker_is_published_when_there_is_one() {
    let port = free_port();
    let setup = Setup::new(port, FOLDER);
    setup.pictures(&[("a.jpg", jpeg(64, 48, 1))]);
    let agent = setup.run(&[]);
    agent.wait_for_line("the input has ended");
    let _broker = Broker::start_on(port);
    let mut observer = Observer::new(port).await;
    let is_image = |topic: &Topic, _: &bytes::Bytes| matches!(topic, Topic::CameraImage { .. }).then_some(());
    observer.until(is_image).await;
}

#[tokio::test]
async fn the_picture_for_dashboards_is_retained_small_and_plain() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, FOLDER);
    setup.pictures(&[("a.jpg", jpeg(1280, 720, 1))]);
    let agent = setup.run(&[]);
    agent.wait_for_line("the input has ended");
    let mut observer = Observer::new(broker.port).await;
    let is_image =
        |topic: &Topic, payload: &bytes::Bytes| matches!(topic, Topic::CameraImage { .. }).then(|| payload.clone());
    let payload = observer.until(is_image).await;
    let seen = image::load_from_memory_with_format(&payload, image::ImageFormat::Jpeg).unwrap();
    assert_eq!((seen.width(), seen.height()), (640, 360));
}
