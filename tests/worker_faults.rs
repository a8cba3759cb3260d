//! Whatever a worker does, its node survives, its unit is tried again and set aside in the end, and the chain goes on.

use std::fs;

use image::{ImageFormat, RgbImage};
use microlambda_faces::content::DELTA_BYTES_MAX;
use microlambda_tests::{Site, with_comment};
use serde_json::Value;

/// What the double `mad-worker` does instead of its work, and what is said of it.
const FAILURES: [(&str, &str); 9] = [
    ("abort", "the worker process ended"),
    ("exit", "the worker process ended"),
    ("hang", "such units take"),
    ("garbage", "not a message of worker protocol"),
    ("truncated", "ended in the middle of a message"),
    ("stuck", "such units take"),
    ("oversized", "exceeds the bound"),
    ("huge", "not a message of worker protocol"),
    ("nonsense", "cannot follow from the state it was given"),
];
/// A unit that fails is tried so often on a node that is alone.
const TRIES: u64 = 3;
/// Far above what any unit of the double takes, ms.
const R_LIMIT_MS: u64 = 400;

/// A picture that tells its worker to do something.
fn picture(number: usize, deed: &str) -> Vec<u8> {
    let pixels = RgbImage::from_pixel(64, 48, image::Rgb([number as u8 * 9, 40, 90]));
    let mut jpeg = std::io::Cursor::new(Vec::new());
    pixels.write_to(&mut jpeg, ImageFormat::Jpeg).expect("a picture");
    with_comment(jpeg.get_ref(), format!("mad:{deed}").as_bytes())
}

#[test]
fn a_worker_that_misbehaves_in_every_way_costs_its_pictures_and_nothing_else() {
    let mut site = Site::new();
    let photos = site.folder("photos");
    // The first ones are for the node to know what units cost.
    let deeds: Vec<&str> =
        ["work"; 4].into_iter().chain(FAILURES.iter().flat_map(|(deed, _)| [*deed, "late"])).collect();
    for (number, deed) in deeds.iter().enumerate() {
        fs::write(photos.join(format!("{number:02}_{deed}.jpg")), picture(number, deed)).expect("a photo");
    }
    site.start_mad_node("a", R_LIMIT_MS, "stay");
    site.start_camera(&photos);
    let outcome = site.outcome(&["a"]);
    let failures = FAILURES.len() as u64;
    assert_eq!((outcome.frames, outcome.people.len()), (deeds.len() as u64, 0));
    let done = site.tally.done.clone().expect("a finished job");
    assert_eq!((u64::from(done.head.set_aside), done.unreadable), (failures, failures));

    // On a topic: the last ones, with counters that say what happened.
    site.wait_for_status("a", "a status after the last one", |status| {
        status.set_aside.last().is_some_and(|unit| unit.version.sequence + 2 == deeds.len() as u64)
    });
    let status = site.tally.nodes[&microlambda_tests::name("a")].clone();
    assert_eq!(status.set_aside.len(), 8, "{:?}", status.set_aside);
    assert!(status.set_aside.iter().all(|unit| unit.why.starts_with("a: 3 × ")), "{:?}", status.set_aside);
    let expected = [
        ("unit-failures", failures * TRIES),
        ("units-set-aside", failures),
        ("units-run-away", 2 * TRIES),
        ("kills", 2 * TRIES),
        ("worker-nonsense", TRIES),
        ("units-too-large", 0),
    ];
    for (counter, count) in expected {
        assert_eq!(site.counter("a", counter), count, "{counter}");
    }

    let restarts = site.counter("a", "worker-restarts");
    assert!(restarts >= (failures - 2) * TRIES, "{restarts} workers replaced\n{}", site.node("a").log_tail(200));

    // On the node: each with its picture and its reason.
    let report = site.node("a").ask(&["status", "--json"]).expect("its status");
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let rows = report["chains"][0]["set-aside"].as_array().expect("units set aside");
    assert_eq!(rows.len(), FAILURES.len(), "{report}");
    for (row, (deed, why)) in rows.iter().zip(FAILURES) {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        assert!(text("label").ends_with(&format!("_{deed}.jpg")) && text("unit") == "frame", "{row}");
        assert!(text("why").contains(why), "{deed}: {row}");
    }
    let told = site.node("a").ask(&["status"]).expect("its status");
    assert_eq!(told.matches("set aside: frame of frame").count(), FAILURES.len(), "{told}");
    site.stop_and_check();
}

#[test]
fn a_unit_that_failed_on_two_nodes_is_set_aside_on_both_with_both_words() {
    let mut site = Site::new();
    let photos = site.folder("photos");
    for (number, deed) in ["work", "work", "abort", "garbage", "work"].iter().enumerate() {
        fs::write(photos.join(format!("{number:02}_{deed}.jpg")), picture(number, deed)).expect("a photo");
    }
    for node in ["a", "b"] {
        site.start_mad_node(node, R_LIMIT_MS, "spread");
    }
    site.wait_for("both nodes", |tally, _| tally.nodes.len() == 2);
    site.start_camera(&photos);
    site.outcome(&["a", "b"]);
    assert_eq!(site.tally.done.as_ref().map(|done| done.head.set_aside), Some(2));
    let reports = ["a", "b"].map(|node| site.node(node).ask(&["status"]).expect("its status"));
    for report in reports {
        // Whoever did not set it aside holds the reason as well: it is part of the content.
        let rows: Vec<&str> = report.lines().filter(|line| line.contains("set aside: frame of frame")).collect();
        assert_eq!(rows.len(), 2, "{report}");
        for row in rows {
            // A node whose peer is not ready in time tries more often by itself.
            let on_both = row.contains(" a: ") && row.contains("; b: ");
            assert!(on_both || row.contains(": 6 × "), "{row}");
        }
        assert!(report.len() < DELTA_BYTES_MAX);
    }
    site.stop_and_check();
}
