//! The result does not depend on how the work was cut, on how many nodes ran it, or on their engines.

use microlambda::{Budget, UnitCost};
use microlambda_demo::{Step, Tally};
use microlambda_faces::FaceParams;
use microlambda_faces::plan::Plan;
use microlambda_faces::proto::{CLASS_DECODE, CLASS_DETECT, CLASS_ENCODE, ENCODE_WORK, LOOK_WORK};
use microlambda_tests::{
    Outcome, Site, UNLIMITED_MS, data_dir, long_run, measured_long_run, measured_long_run_at, name, photo,
};
use microlambda_wire::NodeStatus;

/// Four people, one of them twice, pictures of one and of several tiles, one without a face.
const PHOTOS: [&str; 5] =
    ["people/obama2.jpg", "faceless/chelsea.png", "people/astronaut.png", "people/biden.jpg", "people/obama.jpg"];

/// All photos of the set: nine people, and pictures without any.
fn all_photos() -> Vec<String> {
    let names = ["people", "faceless"].into_iter().flat_map(|folder| {
        let entries = std::fs::read_dir(data_dir().join("photos").join(folder))
            .expect("the photos")
            .map(|entry| entry.expect("a photo"));
        entries.map(move |entry| format!("{folder}/{}", entry.file_name().to_str().expect("a name")))
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// Runs a job over photos made smaller by a factor on `nodes` with `r_limit_ms`: what it came to, and its steps.
fn job(paths: &[&str], scale: f64, nodes: &[&str], r_limit_ms: u64) -> (Outcome, Vec<Step>) {
    let mut site = Site::new();
    let photos = site.photos_at(paths, scale);
    for node in nodes {
        site.start_node(node, r_limit_ms, "spread");
    }
    site.start_camera(&photos);
    let outcome = site.outcome(nodes);
    site.stop_and_check();
    (outcome, std::mem::take(&mut site.tally.steps))
}

/// The shortest limit, ms, under which a node with these costs starts every unit of these photos: the largest unit, which is a
/// tile or an encoding with the decoding that comes first in each step. Measured, so that it is as short on a fast machine.
fn largest_unit_ms(paths: &[&str], scale: f64, costs: &Budget) -> u64 {
    let units = paths.iter().flat_map(|path| {
        let (width, height) = image::image_dimensions(photo(path)).expect("a picture");
        let [width, height] = [width, height].map(|px| (f64::from(px) * scale).round() as u32);
        let plan = Plan::of(width, height, FaceParams::default().picture_px_max);
        let tile = plan.tiles().iter().map(|tile| (CLASS_DETECT, tile.pixels())).max_by_key(|(_, pixels)| *pixels);
        let prepare = Some((CLASS_DECODE, u64::from(width) * u64::from(height)));
        tile.into_iter().chain([(CLASS_ENCODE, ENCODE_WORK + LOOK_WORK)]).map(move |run| UnitCost { run, prepare })
    });
    let units: Vec<UnitCost> = units.collect();
    let fits = |limit_ms: &u64| units.iter().all(|unit| costs.fits_first(unit, 0, limit_ms * 1_000));
    (1..UNLIMITED_MS).find(fits).expect("a limit that holds every unit")
}

#[test]
fn steps_of_barely_one_unit_and_steps_without_a_limit_on_one_two_and_three_nodes_give_the_same_digest_and_events() {
    let (long, costs) = measured_long_run(&PHOTOS);
    assert_eq!(long.people, ["00_obama2.jpg", "02_astronaut.png", "03_biden.jpg"]);
    let unit_ms = largest_unit_ms(&PHOTOS, 1.0, &costs);
    for (nodes, units) in [(&["a"][..], 2), (&["a", "b"][..], 3), (&["a", "b", "c"][..], 5)] {
        let r_limit_ms = units * unit_ms;
        let (outcome, steps) = job(&PHOTOS, 1.0, nodes, r_limit_ms);
        assert_eq!(outcome, long, "{} nodes with r_limit {r_limit_ms} ms", nodes.len());
        assert!(steps.len() > 1, "the job was cut");
    }
    let (outcome, _) = job(&PHOTOS, 1.0, &["a", "b"], UNLIMITED_MS);
    assert_eq!(outcome, long, "two nodes without a limit");
    // A quarter more than the largest unit: where the machine is slower than that, a worker is killed and its unit tried again.
    let r_limit_ms = unit_ms * 5 / 4;
    let (outcome, steps) = job(&PHOTOS, 1.0, &["a", "b"], r_limit_ms);
    assert_eq!(outcome, long, "two nodes with r_limit {r_limit_ms} ms, barely more than one unit");
    assert!(steps.iter().any(|step| step.head.version.unit > 0), "frames were cut inside: {steps:?}");
    assert!(steps.iter().any(|step| step.timing.units == 1), "some units left no room for another: {steps:?}");
}

#[test]
#[ignore = "takes minutes: make matrix"]
fn all_photos_at_all_scales_are_nine_people_and_one_digest_however_they_are_cut() {
    let names = all_photos();
    let photos: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(photos.len(), 15);
    for scale in [1.0, 0.8, 0.65, 0.5] {
        let (long, costs) = measured_long_run_at(&photos, scale);
        assert_eq!(long.people.len(), 9, "at {scale}: {:?}", long.people);
        let unit_ms = largest_unit_ms(&photos, scale, &costs);
        for nodes in [&["a"][..], &["a", "b"][..], &["a", "b", "c"][..]] {
            for r_limit_ms in [unit_ms * 5 / 4, unit_ms * 3, UNLIMITED_MS] {
                let (outcome, steps) = job(&photos, scale, nodes, r_limit_ms);
                println!("scale {scale}, {} nodes, r_limit {r_limit_ms} ms: {} steps", nodes.len(), steps.len());
                // A machine that stands still for several times a unit, on two nodes, has it set aside: so the limits need a machine of their own.
                assert_eq!(
                    steps.iter().map(|step| step.head.set_aside).max(),
                    Some(0),
                    "the machine is too busy for this"
                );
                assert_eq!(outcome, long, "at {scale}, {} nodes with r_limit {r_limit_ms} ms", nodes.len());
            }
        }
    }
}

/// Units that a node's worker has done.
fn units_of(status: &NodeStatus) -> u64 {
    counter_of(status, "units")
}

fn counter_of(status: &NodeStatus, counter: &str) -> u64 {
    status.counters.iter().find(|(name, _)| name == counter).map_or(0, |(_, count)| *count)
}

#[test]
fn two_nodes_share_a_finite_job_and_come_to_what_one_long_run_comes_to() {
    let photos: Vec<&str> = PHOTOS.iter().cycle().take(4 * PHOTOS.len()).copied().collect();
    let long = long_run(&photos);
    let mut site = Site::new();
    for node in ["a", "b"] {
        site.start_node(node, 400, "stay");
    }
    site.wait_for("both engines", |tally, _| tally.nodes.values().filter(|node| !node.engine.is_empty()).count() == 2);
    let folder = site.photos(&photos);
    site.start_camera(&folder);
    assert_eq!(site.outcome(&["a", "b"]), long);
    let done = site.tally.done.as_ref().expect("a finished job").head;
    for node in ["a", "b"] {
        let ended = |status: &NodeStatus| status.chains.iter().any(|chain| chain.version == done.version);
        site.wait_for_status(node, "status after the job", ended);
        assert!(site.counter(node, "units") > 0, "{node} took part");
    }
    let sum = |counter: &str| site.counter("a", counter) + site.counter("b", counter);
    let (made, used) = (sum("frames-ahead"), sum("frames-ahead-used"));
    println!("{made} frames analysed ahead, {used} folded");
    assert!(used > 0 && used <= photos.len() as u64, "{made} frames analysed ahead, {used} folded");
    site.stop_and_check();
}

#[test]
fn nodes_with_different_engines_agree_on_one_digest() {
    let mut site = Site::new();
    site.start_node_of_engine("old", 400, "spread", "dlib");
    site.start_node_of_engine("new", 400, "spread", "built-in");
    expect_agreement(site);
}

/// A processor that OpenBLAS has kernels of its own for, which run on all of the architecture: no Raspberry Pi and hardly any PC has it.
const OTHER_CORE: &str = if cfg!(target_arch = "aarch64") { "CORTEXA57" } else { "Prescott" };

#[test]
fn nodes_with_different_blas_kernels_agree_on_one_digest() {
    let mut site = Site::new();
    site.start_dlib_node_with("old", 400, "spread", ("OPENBLAS_CORETYPE", OTHER_CORE));
    site.start_node_of_engine("new", 400, "spread", "dlib");
    expect_agreement(site);
}

/// Both nodes work on a job, each with another engine, and come to one digest.
fn expect_agreement(mut site: Site) {
    let photos = site.photos(&PHOTOS);
    let ready = |tally: &Tally| tally.nodes.len() == 2 && tally.nodes.values().all(|node| !node.engine.is_empty());
    site.wait_for("both engines", |tally, _| ready(tally));
    site.start_camera(&photos);
    let outcome = site.outcome(&["old", "new"]);
    assert_eq!(outcome.people.len(), 3);
    for node in ["old", "new"] {
        site.wait_for_status(node, "status of a node that took part", |status| units_of(status) > 0);
    }
    let engines: Vec<String> = ["old", "new"].map(|node| site.tally.nodes[&name(node)].engine.clone()).into();
    assert_ne!(engines[0], engines[1], "their encodings differ in the last bits");
    site.stop_and_check();
}
