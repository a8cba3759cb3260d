//! Memory: what an agent takes with frames of 1280×720, and what it does with a picture for which there is too little.

use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;

use crate::support::{Broker, Lens, Observer, Setup, jpeg};

/// The bound promised for a camera agent, KiB.
const RESIDENT_KIB_MAX: u64 = 15 * 1024;
const FRAMES: u32 = 120;
const FOLDER: &str = "kind = \"folder\"\npath = \"FOLDER/pictures\"\n[image]\ninterval-s = 0";

#[tokio::test]
async fn a_live_agent_that_serves_two_nodes_stays_within_its_memory() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, &Lens::watched("[image]\ninterval-s = 1"));
    Lens::make(&setup);
    let agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    observer.head(|_| true).await;
    let mut lens = Lens::open(&setup).await;
    let frames: Vec<Vec<u8>> = (0..7).map(|n| jpeg(1280, 720, 5 * n)).collect();
    let frame = |n: u32| &frames[n as usize % frames.len()];
    // First live, frame by frame, then the whole backlog for another node at once.
    observer.want_for("n1", 0, FRAMES, 0, 60_000);
    for n in 0..FRAMES {
        lens.show(frame(n));
        assert_eq!(&observer.frame("n1", u64::from(n)).await.1, frame(n));
    }
    observer.want("n2", 0, FRAMES, 0);
    for n in 0..FRAMES {
        assert_eq!(&observer.frame("n2", u64::from(n)).await.1, frame(n));
    }
    // It rests once the newest picture is on the dashboards: one that nobody has seen yet.
    let newest = jpeg(1280, 720, 99);
    lens.show(&newest);
    observer.image(&camera_agent::picture::small(&newest).unwrap()).await;
    let (resident_kib, most_kib) = agent.resident_kib();
    println!("resident {resident_kib} KiB, at most {most_kib} KiB, frames of {} bytes", frames[0].len());
    assert!(resident_kib <= RESIDENT_KIB_MAX, "{resident_kib} KiB, bound {RESIDENT_KIB_MAX}");
}

#[tokio::test]
async fn a_large_photo_is_made_to_fit_in_little_more_memory_than_its_pixels_take() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, &format!("{FOLDER}\n[frame]\nbytes-max = 262144"));
    let large = jpeg(4_000, 3_000, 1);
    assert!(large.len() > 4 * 262_144, "{} bytes", large.len());
    setup.pictures(&[("a.jpg", large)]);
    // Its pixels take 35 MiB.
    let _agent = setup.run_within(120 << 10, &[]);
    let mut observer = Observer::new(broker.port).await;
    observer.head(|head| head.end.is_some_and(|end| end.count == 1)).await;
    observer.want("n1", 0, 1, 0);
    assert!(observer.frame("n1", 0).await.1.len() <= 262_144);
}

#[tokio::test]
async fn a_picture_that_has_ended_the_agent_twice_for_want_of_memory_is_passed_over_and_the_next_one_comes() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, FOLDER);
    let mut large = Vec::new();
    JpegEncoder::new_with_quality(&mut large, 80).encode_image(&RgbImage::new(6_000, 4_000)).unwrap();
    setup.pictures(&[("a-large.jpg", large), ("b-small.jpg", jpeg(64, 48, 1))]);
    // Its pixels take 69 MiB.
    let memory_kib = 64 << 10;
    for _ in 0..2 {
        let mut agent = setup.run_within(memory_kib, &[]);
        assert_eq!(agent.wait().code(), None, "it ends by a signal:\n{}", agent.log());
    }
    let mut agent = setup.run_within(memory_kib, &[]);
    let mut observer = Observer::new(broker.port).await;
    let former = observer.head(|head| head.end.is_some_and(|end| end.count == 1)).await.chain;
    observer.want("n1", 0, 1, 0);
    assert_eq!(observer.frame("n1", 0).await.1, jpeg(64, 48, 1));
    observer.status(|status| status.counters.unreadable == 1 && status.counters.frames == 1).await;
    let told = "a-large.jpg: it took more memory than there is";
    assert!(agent.log().contains(told) && agent.log().contains("MemoryMax"), "{}", agent.log());
    agent.terminate();
    // With enough of it the folder is read as a whole.
    let _agent = setup.run(&["--new-job"]);
    observer.head(|head| head.chain != former && head.end.is_some_and(|end| end.count == 2)).await;
}
