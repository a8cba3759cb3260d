//! Bad input gets a clear message and a counter, and loses nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use image::{DynamicImage, ImageFormat, RgbImage};
use microlambda_demo::Programs;
use microlambda_tests::{Site, data_dir, name, photo, with_comment};

fn save(image: &DynamicImage, path: &Path) {
    image.save_with_format(path, ImageFormat::Jpeg).expect("a picture");
}

#[test]
fn pictures_that_cannot_be_read_are_counted_and_the_others_are_searched() {
    let mut site = Site::new();
    let photos = site.photos(&["people/obama.jpg"]);
    let good = fs::read(photo("people/biden.jpg")).expect("a photo");
    fs::write(photos.join("10_truncated.jpg"), &good[..good.len() * 2 / 3]).expect("a truncated photo");
    fs::write(photos.join("11_text.jpg"), b"this is no picture").expect("a text");
    fs::write(photos.join("12_empty.jpg"), b"").expect("an empty file");
    save(&DynamicImage::ImageRgb8(RgbImage::new(1, 1)), &photos.join("13_one_pixel.jpg"));
    save(&DynamicImage::ImageRgb8(RgbImage::new(8_000, 6_400)), &photos.join("14_51_megapixels.jpg"));
    let lost = [&good[..good.len() * 2 / 3], &[0xff, 0xd9]].concat();
    fs::write(photos.join("15_lost.jpg"), lost).expect("a photo of which some was lost");
    fs::copy(photo("people/biden.jpg"), photos.join("20_biden.jpg")).expect("a photo");
    site.start_node("a", 4_000, "stay");
    site.start_camera(&photos);
    let outcome = site.outcome(&["a"]);
    assert_eq!(outcome.people, ["00_obama.jpg", "20_biden.jpg"], "{outcome:?}");
    let log = site.camera.as_ref().expect("a camera").log_tail(200);
    let passed_over = ["10_truncated.jpg", "11_text.jpg", "12_empty.jpg", "13_one_pixel.jpg"];
    for bad in passed_over {
        assert!(log.contains(bad), "{bad} is named: {log}");
    }
    let labels = site.tally.steps.iter().flat_map(|step| &step.frames).map(|frame| frame.label.as_str());
    let searched: BTreeSet<&str> = labels.collect();
    assert_eq!(searched, ["00_obama.jpg", "14_51_megapixels.jpg", "15_lost.jpg", "20_biden.jpg"].into());
    assert_eq!(outcome.frames, searched.len() as u64, "{outcome:?}");
    let report = site.node("a").ask(&["status"]).expect("its status");
    assert!(report.contains("15_lost.jpg"), "{report}");
    site.wait_for_status("a", "what it could not read", |status| {
        status.counters.contains(&("frames-unreadable".into(), 1))
    });
    // The camera tells its counters every few seconds.
    site.wait_for("count", |tally, _| tally.passed_over() == passed_over.len() as u64);
    site.stop_and_check();
}

#[test]
fn frames_that_end_hang_or_bloat_every_worker_are_set_aside_and_the_chain_goes_on() {
    let mut site = Site::new();
    let photos = site.photos(&["people/obama.jpg"]);
    let good = fs::read(photo("people/biden.jpg")).expect("a photo");
    for (number, fault) in ["abort", "hang", "exhaust"].iter().enumerate() {
        let poisoned = with_comment(&good, format!("fault:{fault}").as_bytes());
        fs::write(photos.join(format!("1{number}_{fault}.jpg")), poisoned).expect("a poisoned photo");
    }
    fs::copy(photo("people/astronaut.png"), photos.join("20_astronaut.png")).expect("a photo");
    site.start_node("a", 4_000, "spread");
    site.start_node("b", 4_000, "spread");
    site.start_camera(&photos);
    let outcome = site.outcome(&["a", "b"]);
    assert_eq!(outcome.people, ["00_obama.jpg", "20_astronaut.png"]);
    let report = site.node("a").ask(&["status"]).expect("its status");
    for fault in ["abort", "hang", "exhaust"] {
        assert!(report.contains(&format!("_{fault}.jpg")), "{fault}: {report}");
    }
    site.stop_and_check();
}

#[test]
fn payloads_that_are_not_ours_are_counted_and_change_nothing() {
    let mut site = Site::new();
    let photos = site.photos(&["people/obama.jpg", "people/astronaut.png"]);
    site.start_node("a", 1_000, "stay");
    site.wait_for("the node", |tally, _| tally.nodes.contains_key(&name("a")));
    for topic in
        ["chain/door-1/continuation", "camera/door/head", "chain/door-1/claim", "sync/a/have", "event", "node/b/status"]
    {
        site.publish_raw(topic, b"\x00\xffno json", false);
        site.publish_raw(topic, br#"{"v":99}"#, false);
    }
    site.publish_raw("camera/door/frame/a", &[0xff; 100_000], false);
    site.publish_raw("camera/door/want", b"[]", false);
    site.start_camera(&photos);
    let outcome = site.outcome(&["a"]);
    assert_eq!(outcome.people.len(), 2);
    site.wait_for("counted messages", |tally, _| {
        let counters = tally.nodes.get(&name("a")).map(|status| status.counters.clone()).unwrap_or_default();
        counters.iter().any(|(name, value)| name == "refused-messages" && *value >= 13)
    });
    site.stop_and_check();
}

#[test]
fn a_model_with_a_wrong_checksum_is_named_with_the_remedy() {
    let mut site = Site::new();
    let models = site.folder("models");
    for entry in fs::read_dir(data_dir().join("models")).expect("models: run `make setup`").flatten() {
        fs::copy(entry.path(), models.join(entry.file_name())).expect("a copy");
    }
    let damaged = models.join("shape_predictor_5_face_landmarks.dat");
    let mut bytes = fs::read(&damaged).expect("a model");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&damaged, bytes).expect("a damaged model");
    let output = Command::new(&Programs::find().expect("programs").edge)
        .args(["inspect", "--models"])
        .arg(&models)
        .arg(photo("people/obama.jpg"))
        .output()
        .expect("edge-agent");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("shape_predictor_5_face_landmarks.dat"), "{said}");
    assert!(said.to_lowercase().contains("sha256") || said.contains("sum"), "{said}");
    // A node that runs says so, tries again, and leaves the work to its peers.
    let damaged = [("models-dir".to_owned(), models.display().to_string().into())].into_iter().collect();
    site.start_node_set("damaged", 4_000, "spread", damaged);
    site.wait_for_status("damaged", "what is wrong", |status| {
        let restarts = status.counters.iter().any(|(name, count)| name == "worker-restarts" && *count > 0);
        restarts
            && status.trouble.contains("shape_predictor_5_face_landmarks.dat")
            && status.trouble.contains("make models")
    });
    let photos = site.photos(&["people/obama.jpg", "people/biden.jpg"]);
    site.start_node("sound", 4_000, "spread");
    site.start_camera(&photos);
    assert_eq!(site.outcome(&["damaged", "sound"]).people.len(), 2);
    site.stop_and_check();
}

#[test]
fn a_broker_that_is_absent_at_start_is_waited_for() {
    let mut site = Site::new();
    let photos = site.photos(&["people/obama.jpg"]);
    site.broker.kill();
    site.start_node("a", 1_000, "stay");
    site.start_camera(&photos);
    let log = |site: &mut Site| site.node("a").log_tail(50);
    let until = std::time::Instant::now() + microlambda_tests::PATIENCE;
    while !log(&mut site).contains("broker") {
        assert!(std::time::Instant::now() < until, "no word about the broker");
        std::thread::yield_now();
    }
    site.broker.restart().expect("the broker");
    assert_eq!(site.outcome(&["a"]).people, ["00_obama.jpg"]);
    site.stop_and_check();
}
