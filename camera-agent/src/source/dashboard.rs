//! The small picture for dashboards: at most one an interval, of the newest picture that there is by then, and of the last
//! one of an input that has ended.
//!
//! It is made on a thread of its own: a source may wait for its next picture, or for room in the spool, for longer than the
//! interval.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::picture::{self, FrameBounds, Picture};

/// The source's side of the thread. Dropping it ends the thread, and what waits is not made any more.
pub(super) struct Dashboard {
    waiting: Arc<Waiting>,
    thread: Option<JoinHandle<()>>,
}

impl Dashboard {
    /// Starts the thread, which gives what it makes to `image`.
    pub(super) fn start(
        interval: Duration,
        bounds: FrameBounds,
        image: watch::Sender<Option<Vec<u8>>>,
    ) -> std::io::Result<Self> {
        let waiting = Arc::<Waiting>::default();
        let of_thread = waiting.clone();
        let thread = std::thread::Builder::new()
            .name("dashboard".into())
            .spawn(move || make_small_ones(&of_thread, interval, bounds, &image))?;
        Ok(Self { waiting, thread: Some(thread) })
    }

    /// The newest picture from now on. One that waits is forgotten.
    pub(super) fn show(&self, picture: Picture) {
        let former = self.waiting.lock().newest.replace(picture);
        // A thread that has one to make wakes by itself.
        if former.is_none() {
            self.waiting.changed.notify_one();
        }
    }

    /// No newer picture comes: the one that waits is made now. Returns when it is.
    pub(super) fn finish(mut self) {
        self.waiting.set(Mode::Finish);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the thread for small pictures has panicked: please report that");
        }
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.waiting.set(Mode::Stop);
    }
}

/// The picture that is to be made next; there is room for one.
#[derive(Default)]
struct Waiting {
    slot: Mutex<Slot>,
    changed: Condvar,
}

#[derive(Default)]
struct Slot {
    newest: Option<Picture>,
    mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Mode {
    /// One picture an interval.
    #[default]
    Paced,
    /// What waits at once, then none.
    Finish,
    /// None any more.
    Stop,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, mode: Mode) {
        self.lock().mode = mode;
        self.changed.notify_one();
    }

    /// Waits until there is a picture and `due` has come; `None` if no further one is to be made.
    fn next(&self, due: Instant) -> Option<Picture> {
        let mut slot = self.lock();
        loop {
            let early = due.saturating_duration_since(Instant::now());
            let (mode, is_waiting) = (slot.mode, slot.newest.is_some());
            slot = match mode {
                Mode::Stop => return None,
                Mode::Paced if !is_waiting => self.changed.wait(slot).unwrap_or_else(PoisonError::into_inner),
                Mode::Paced if !early.is_zero() => {
                    self.changed.wait_timeout(slot, early).unwrap_or_else(PoisonError::into_inner).0
                }
                Mode::Paced | Mode::Finish => return slot.newest.take(),
            };
        }
    }
}

fn make_small_ones(waiting: &Waiting, interval: Duration, bounds: FrameBounds, image: &watch::Sender<Option<Vec<u8>>>) {
    let mut due = Instant::now();
    while let Some(picture) = waiting.next(due) {
        due = Instant::now() + interval;
        // What was left out has not been prepared; a frame passes as it is.
        let prepared = picture::prepare(picture, bounds);
        if let Some(small) = prepared.ok().and_then(|prepared| picture::small(&prepared.jpeg)) {
            image.send_replace(Some(small));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::photo_jpeg;

    const BOUNDS: FrameBounds = FrameBounds { bytes_max: 1 << 20, pixels_max: 1_000_000 };
    const PATIENCE: Duration = Duration::from_secs(30);

    fn start(interval: Duration) -> (Dashboard, watch::Receiver<Option<Vec<u8>>>) {
        let (sender, image) = watch::channel(None);
        (Dashboard::start(interval, BOUNDS, sender).unwrap(), image)
    }

    /// Shows a picture, and gives the small one that is to come of it.
    fn show(dashboard: &Dashboard, seed: u8) -> Option<Vec<u8>> {
        let jpeg = photo_jpeg(64, 48, seed);
        let small = picture::small(&jpeg);
        dashboard.show(Picture::File(jpeg));
        small
    }

    async fn until(image: &mut watch::Receiver<Option<Vec<u8>>>, shown: Option<Vec<u8>>) {
        tokio::time::timeout(PATIENCE, image.wait_for(|image| *image == shown)).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_newest_picture_is_shown_once_the_interval_is_over_though_no_other_comes() {
        let interval = Duration::from_millis(300);
        let (dashboard, mut image) = start(interval);
        let began = Instant::now();
        let first = show(&dashboard, 0);
        until(&mut image, first).await;
        let mut newest = None;
        for seed in 1..5 {
            newest = show(&dashboard, seed);
        }
        until(&mut image, newest).await;
        assert!(began.elapsed() >= interval, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn the_last_picture_of_an_input_is_shown_at_its_end_and_none_when_the_source_is_stopped() {
        let (dashboard, mut image) = start(Duration::from_secs(3_600));
        let first = show(&dashboard, 0);
        until(&mut image, first).await;
        let last = show(&dashboard, 1);
        dashboard.finish();
        assert_eq!(*image.borrow(), last);

        let (dashboard, mut image) = start(Duration::from_secs(3_600));
        let first = show(&dashboard, 0);
        until(&mut image, first.clone()).await;
        show(&dashboard, 1);
        drop(dashboard);
        // The thread has ended, and the sender with it.
        while image.changed().await.is_ok() {}
        assert_eq!(*image.borrow(), first);
    }
}
