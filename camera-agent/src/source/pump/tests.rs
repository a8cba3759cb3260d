//! Sources that fail, panic or fall silent, and what is said of them.

use microlambda_wire::{ChainClass, Name};

use super::*;
use crate::spool::thread::SpoolHandle;
use crate::spool::{Identity, Limits, Spool};
use crate::testing::photo_jpeg;

/// Starts a pump, waits until its report is as it must be, and gives that report.
async fn reported(opener: Opener, failures_max: Option<u32>, is_there: impl FnMut(&Report) -> bool) -> Report {
    let folder = tempfile::tempdir().unwrap();
    let camera = Name::new("door").unwrap();
    let identity = Identity { camera, class: ChainClass::Live, source: String::new() };
    let spool = Spool::open(folder.path(), &identity, Limits { bytes_max: 1 << 20, frames_max: 10 }, 0).unwrap();
    let spool = SpoolHandle::start(spool).unwrap();
    let config = PumpConfig {
        frame: FrameBounds { bytes_max: 1 << 16, pixels_max: 1_000_000 },
        state_dir: folder.path().to_owned(),
        image_interval: None,
        finite: false,
        failures_max,
        still_interval: None,
    };
    let mut pump = Pump::start(opener, spool.source_handle(), config).unwrap();
    let report = tokio::time::timeout(Duration::from_secs(30), pump.report.wait_for(is_there)).await;
    report.unwrap().unwrap().clone()
}

#[tokio::test]
async fn a_source_that_panics_has_failed_and_does_not_merely_fall_silent() {
    let opener: Opener = Box::new(|_, _| panic!("a driver's library is wrong"));
    reported(opener, None, |report| matches!(report.phase, Phase::Failed(_))).await;
}

/// A source that gives what is left here, and then fails.
struct Brittle(Vec<Next>);

impl Source for Brittle {
    fn next(&mut self) -> Result<Next, SourceError> {
        self.0.pop().ok_or_else(|| SourceError::Trouble("no such clip".into()))
    }
}

#[tokio::test]
async fn a_source_that_fails_again_and_again_without_a_picture_is_given_up_if_that_was_asked_for() {
    let opener: Opener = Box::new(|_, _| Ok(Box::new(Brittle(Vec::new()))));
    let report = reported(opener, Some(3), |report| matches!(report.phase, Phase::Failed(_))).await;
    assert_eq!(report.reopened, 2);
    let Phase::Failed(why) = report.phase else { panic!("{report:?}") };
    assert!(why.starts_with("no such clip. ") && why.contains("failed 3 times in a row"), "{why}");
}

#[tokio::test]
async fn a_source_that_gives_a_picture_between_its_failures_is_opened_again() {
    let mut opened = 0;
    let opener: Opener = Box::new(move |_, _| {
        opened += 1;
        let picture = Picture::File(photo_jpeg(64, 48, 1));
        let frame = Next::Frame(Captured { picture, captured_at_ms: 1, label: String::new(), input: None });
        Ok(Box::new(Brittle(if opened == 3 { vec![frame] } else { Vec::new() })))
    });
    let report = reported(opener, Some(3), |report| report.reopened >= 5).await;
    assert_eq!(report.frames, 1);
}

#[tokio::test]
async fn the_silence_of_a_source_counts_from_when_it_was_opened() {
    struct Silent(blocking::Receiver<Next>);
    impl Source for Silent {
        fn next(&mut self) -> Result<Next, SourceError> {
            self.0.recv().map_err(|error| SourceError::Fatal(error.to_string()))
        }
    }
    let (_held, silence) = blocking::channel();
    let mut silence = Some(silence);
    let opener: Opener = Box::new(move |_, _| Ok(Box::new(Silent(silence.take().unwrap()))));
    let began_us = monotonic_us();
    let report = reported(opener, None, |report| report.phase == Phase::Running).await;
    assert!((began_us..=monotonic_us()).contains(&report.quiet_since_us));
}
