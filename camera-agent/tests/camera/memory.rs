//! Resident memory with frames of 1280×720.

use crate::support::{Broker, Lens, Observer, Setup, jpeg};

/// The bound promised for a camera agent, KiB.
const RESIDENT_KIB_MAX: u64 = 15 * 1024;
const FRAMES: u32 = 120;

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
    let (resident_kib, most_kib) = agent.resident_kib();
    println!("resident {resident_kib} KiB, at most {most_kib} KiB, frames of {} bytes", frames[0].len());
    assert!(resident_kib <= RESIDENT_KIB_MAX, "{resident_kib} KiB, bound {RESIDENT_KIB_MAX}");
}
