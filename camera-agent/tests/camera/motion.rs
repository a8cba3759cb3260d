//! Pictures in which nothing moves, from an endless command and from a finite one.

use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};
use microlambda_wire::{CameraHead, ChainClass, Topic, from_payload};

use crate::support::{Broker, Lens, Observer, Setup, picture};

/// A scene with somebody at this place, or nobody.
fn scene(somebody_at: Option<(u32, u32)>) -> Vec<u8> {
    let mut scene = picture(640, 360, 1);
    if let Some((x, y)) = somebody_at {
        let face = RgbImage::from_pixel(40, 40, Rgb([230, 190, 170]));
        image::imageops::replace(&mut scene, &face, x.into(), y.into());
    }
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, 80).encode_image(&scene).unwrap();
    jpeg
}

#[tokio::test]
async fn pictures_in_which_nothing_moved_get_no_number_and_are_counted() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, &Lens::watched("[image]\ninterval-s = 0\n[motion]\nstill-interval-s = 3600"));
    Lens::make(&setup);
    let agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    observer.head(|_| true).await;
    let mut lens = Lens::open(&setup).await;
    let shown = [scene(None), scene(Some((100, 100))), scene(Some((130, 100))), scene(None)];
    for picture in &shown {
        for _ in 0..10 {
            lens.show(picture);
        }
    }
    // Where somebody came, went on or left is looked at in three more pictures.
    let kept: Vec<&Vec<u8>> =
        shown.iter().zip([1, 4, 4, 4]).flat_map(|(picture, times)| vec![picture; times]).collect();
    observer.head(|head| head.next == kept.len() as u64).await;
    let status = observer.status(|status| status.counters.still == 27).await;
    assert_eq!((status.counters.frames, status.counters.unreadable), (13, 0));
    assert_eq!(status.trouble, "", "a source whose pictures are left out is well");
    observer.want("n1", 0, 13, 0);
    for (sequence, picture) in (0..).zip(kept) {
        let (meta, jpeg) = observer.frame("n1", sequence).await;
        assert_eq!(&jpeg, picture);
        // Cells of 16 px around what is 40 px wide: from 100 on, and from there to where it has gone.
        let moved: Option<Vec<[u16; 4]>> = meta.moved.map(|areas| areas.iter().map(<[u16; 4]>::from).collect());
        let expected = match sequence {
            0 => None,
            1..=4 => Some(vec![[96, 96, 48, 48]]),
            5..=8 => Some(vec![[96, 96, 80, 48]]),
            _ => Some(vec![[128, 96, 48, 48]]),
        };
        assert_eq!(moved, expected, "frame {sequence}");
    }
    assert!(agent.log().contains("pictures in which nothing moves are left out"), "{}", agent.log());
}

#[tokio::test]
async fn of_a_still_scene_one_picture_an_interval_is_kept_and_dashboards_get_theirs() {
    let broker = Broker::start();
    let setup = Setup::new(broker.port, &Lens::watched("[image]\ninterval-s = 1\n[motion]\nstill-interval-s = 4"));
    Lens::make(&setup);
    let agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    observer.head(|_| true).await;
    let mut lens = Lens::open(&setup).await;
    let picture = scene(None);
    let feeder = std::thread::spawn(move || {
        // Until the test ends, and the pipe with it.
        while lens.try_show(&picture) {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    let (mut images, mut kept) = (0, 0);
    while kept < 2 {
        let heard = |topic: &Topic, payload: &bytes::Bytes| match topic {
            Topic::CameraImage { .. } => Some(None),
            Topic::CameraHead { .. } => Some(Some(from_payload::<CameraHead>(payload).unwrap().next)),
            _ => None,
        };
        match observer.until(heard).await {
            Some(next) => kept = next,
            None => images += 1,
        }
    }
    assert!(images >= 3, "{images} pictures for dashboards while two were kept");
    let status = observer.status(|status| status.counters.still > 0).await;
    assert!(status.counters.still > 10 * status.counters.frames, "{:?}", status.counters);
    drop(agent);
    feeder.join().unwrap();
}

#[tokio::test]
async fn a_finite_command_gives_every_picture_though_nothing_moves() {
    let broker = Broker::start();
    let script = "for i in 1 2 3 4 5 6 7 8 9 10; do cat FOLDER/frame.jpg; done";
    let source = format!("kind = \"command\"\ncommand = [\"/bin/sh\", \"-c\", \"{script}\"]\nfinite = true");
    let setup = Setup::new(broker.port, &source);
    std::fs::write(setup.folder.path().join("frame.jpg"), scene(None)).unwrap();
    let _agent = setup.run(&[]);
    let mut observer = Observer::new(broker.port).await;
    let head = observer.head(|head| head.end.is_some()).await;
    assert_eq!((head.class, head.end.map(|end| end.count)), (ChainClass::Batch, Some(10)));
    observer.status(|status| status.counters.frames == 10 && status.counters.still == 0).await;
}
