//! Live chains go before batch chains at every step boundary; an end is reached by the one and never by the other.

use image::imageops::FilterType;
use microlambda_demo::Note;
use microlambda_tests::{Site, name, photo};
use microlambda_wire::ChainClass;

/// A head on the bus needs at most this long to reach the node and to be acted on, µs: far below a batch step, and generous for a
/// busy test machine.
const REACTION_US: u64 = 400_000;

#[test]
fn a_live_frame_waits_for_at_most_the_running_batch_step() {
    let mut site = Site::new();
    let batch = site.photos(&[
        "people/obama.jpg",
        "people/biden.jpg",
        "people/t1.jpg",
        "people/obama3.jpg",
        "people/32bit.png",
        "people/obama2.jpg",
    ]);
    let small = site.folder("small");
    for (number, path) in ["people/obama.jpg", "faceless/coffee.png"].iter().enumerate() {
        let picture = image::open(photo(path)).expect("a photo").resize(320, 320, FilterType::Triangle).to_rgb8();
        picture.save(small.join(format!("{number}.jpg"))).expect("a small photo");
    }
    site.start_node("a", 1_500, "stay");
    site.wait_for("the node", |tally, _| tally.nodes.contains_key(&name("a")));
    site.start_camera(&batch);
    let _live = site.start_live_camera(&small, 2.0);

    // When each live frame was first known, and what was folded; all on this machine's monotonic clock.
    let (mut waiting_since_us, mut live_next, mut live_done, mut violations) = (None, 0, 0, Vec::new());
    site.wait_for("an end of the batch and ten live frames", |tally, seen| {
        let Some(seen) = seen else { return false };
        match &seen.note {
            Note::CameraHead(head) if head.class == ChainClass::Live && head.next > live_next => {
                live_next = head.next;
                waiting_since_us.get_or_insert(seen.at_us);
            }
            Note::Continuation(note) if note.timing.is_some() => {
                let started_us = note.timing.map_or(0, |timing| timing.first_unit_at_us);
                if note.chain.as_str().starts_with("live-") {
                    live_done = note.head.version.sequence;
                    waiting_since_us = waiting_since_us.filter(|_| live_done < live_next);
                } else if let Some(since_us) = waiting_since_us
                    && started_us > since_us + REACTION_US
                {
                    violations.push((live_next, started_us - since_us));
                }
            }
            _ => {}
        }
        tally.done.is_some() && live_done >= 10
    });
    assert_eq!(violations, [], "batch steps that began while a live frame was known to wait (frame, µs)");
    assert!(site.tally.done.as_ref().is_some_and(|done| done.camera == name("door")), "only the folder has an end");
    let new: Vec<_> = site.tally.events.values().filter(|event| event.camera == name("live")).collect();
    assert_eq!(new.len(), 1, "one person on the live camera, reported once: {new:?}");
}
