//! The result does not depend on how the work was cut, on how many nodes ran it, or on their BLAS kernels.

use microlambda_demo::Tally;
use microlambda_tests::{Site, long_run, name};

/// Four people, one of them twice, pictures of one and of several tiles, one without a face.
const PHOTOS: [&str; 5] =
    ["people/obama2.jpg", "faceless/chelsea.png", "people/astronaut.png", "people/biden.jpg", "people/obama.jpg"];

/// Shows that a job over [`PHOTOS`] comes to `expected` on `nodes` with `r_limit_ms`.
fn job(nodes: &[&str], r_limit_ms: u64, placement: &str) -> (microlambda_tests::Outcome, usize) {
    let mut site = Site::new();
    let photos = site.photos(&PHOTOS);
    for node in nodes {
        site.start_node(node, r_limit_ms, placement);
    }
    site.start_camera(&photos);
    let outcome = site.outcome(nodes);
    let steps = site.tally.steps.len();
    site.stop_and_check();
    (outcome, steps)
}

#[test]
fn one_long_run_and_many_short_ones_on_one_two_and_three_nodes_give_the_same_digest_and_events() {
    let long = long_run(&PHOTOS);
    assert_eq!(long.people, ["00_obama2.jpg", "02_astronaut.png", "03_biden.jpg"]);
    for (nodes, r_limit_ms) in [(&["a"][..], 400), (&["a", "b"][..], 700), (&["a", "b", "c"][..], 1_200)] {
        let (outcome, steps) = job(nodes, r_limit_ms, "spread");
        assert_eq!(outcome, long, "{} nodes with r_limit {r_limit_ms} ms", nodes.len());
        assert!(steps > 1, "the job was cut");
    }
}

#[test]
fn nodes_with_different_blas_kernels_agree_on_one_digest() {
    let mut site = Site::new();
    let photos = site.photos(&PHOTOS);
    site.start_node_with("old", 400, "spread", ("OPENBLAS_CORETYPE", "Prescott"));
    site.start_node("new", 400, "spread");
    let ready = |tally: &Tally| tally.nodes.len() == 2 && tally.nodes.values().all(|node| !node.engine.is_empty());
    site.wait_for("both engines", |tally, _| ready(tally));
    site.start_camera(&photos);
    let outcome = site.outcome(&["old", "new"]);
    assert_eq!(outcome.people.len(), 3);
    let per_node = site.tally.steps_per_node();
    assert_eq!(per_node.len(), 2, "both took part: {per_node:?}");
    let engines: Vec<String> = ["old", "new"].map(|node| site.tally.nodes[&name(node)].engine.clone()).into();
    assert_ne!(engines[0], engines[1], "the kernels differ");
    site.stop_and_check();
}
