//! The thread that owns the spool, so that no sync to disk holds up the MQTT side.
//!
//! At most a handful of requests wait: the source has one append under way, the agent one read and one release.

use std::sync::mpsc as blocking;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use microlambda_wire::{ChainClass, EndMark};
use tokio::sync::{oneshot, watch};

use super::{Appended, INPUTS_PAGE, Input, NewFrame, Spool, SpoolError, Stored, View};

/// How often what failed (because of a full disk, for example) is tried again for a finite input, and a new chain.
const RETRY: Duration = Duration::from_secs(1);

/// What the agent sees of the spool without asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolStatus {
    /// What the spool holds.
    pub view: View,
    /// Frames dropped, never sent, since the start: older ones that became a gap, and new ones that found no room.
    pub dropped: u64,
    /// Released records whose results no node has any more, since the start.
    pub lost: u64,
    /// True while a finite input waits for room.
    pub waiting: bool,
    /// What is wrong with the spool at the moment, or empty.
    pub trouble: String,
    /// Set for good once the spool was found damaged: the agent is to end, and the next start mends it.
    pub damaged: bool,
}

enum Request {
    OfSource(SourceRequest),
    Read(u64, oneshot::Sender<Option<Stored>>),
    Free(u64, oneshot::Sender<u64>),
    Restart(u64),
    BeginAnew,
    Close,
}

/// What the source asks for, and waits for.
enum SourceRequest {
    Append(NewFrame, blocking::SyncSender<Outcome>),
    PassOver(Input, blocking::SyncSender<()>),
    Finish(blocking::SyncSender<(EndMark, u64)>),
    Inputs(u64, blocking::SyncSender<Vec<(Input, bool)>>),
}

/// How trying a request of the source went.
enum Attempt {
    Done,
    /// A finite input's frame waits until others are freed.
    NoRoom,
    Failed,
}

/// What became of a frame handed to the spool's thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The frame is durable.
    Kept,
    /// A live frame found no room or a broken disk, and is lost.
    Dropped,
    /// The spool is closing.
    Closed,
}

/// The source's side of the spool's thread: blocks until what it asks for is done and durable. While the database fails, a finite
/// input waits.
#[derive(Debug, Clone)]
pub struct SourceHandle {
    requests: blocking::Sender<Request>,
}

/// The agent's side of the spool's thread: never blocks.
#[derive(Debug)]
pub struct SpoolHandle {
    requests: blocking::Sender<Request>,
    status: watch::Receiver<SpoolStatus>,
    thread: JoinHandle<()>,
}

impl SourceHandle {
    /// Appends a frame. For a finite input it waits until there is room.
    pub fn append(&self, frame: NewFrame) -> Outcome {
        self.ask(|reply| SourceRequest::Append(frame, reply)).unwrap_or(Outcome::Closed)
    }

    /// Remembers an input that was passed over; false if the spool is closing.
    pub fn pass_over(&self, input: Input) -> bool {
        self.ask(|reply| SourceRequest::PassOver(input, reply)).is_some()
    }

    /// What a finite input has given so far, as [`Spool::inputs`], page by page. It ends early if the spool is closing; then
    /// nothing can be appended any more.
    pub fn inputs(&self) -> impl Iterator<Item = (Input, bool)> + use<> {
        let handle = self.clone();
        let page = move |from: usize| handle.ask(|reply| SourceRequest::Inputs(from as u64, reply));
        (0..).step_by(INPUTS_PAGE).map_while(page).take_while(|page| !page.is_empty()).flatten()
    }

    /// Writes the end record, and gives it with how much of the input was passed over; `None` if the spool is closing.
    pub fn finish(&self) -> Option<(EndMark, u64)> {
        self.ask(SourceRequest::Finish)
    }

    fn ask<T>(&self, request: impl FnOnce(blocking::SyncSender<T>) -> SourceRequest) -> Option<T> {
        let (reply, answer) = blocking::sync_channel(1);
        self.requests.send(Request::OfSource(request(reply))).ok()?;
        answer.recv().ok()
    }
}

impl SpoolHandle {
    /// Hands the spool to a thread of its own.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(spool: Spool) -> std::io::Result<Self> {
        let (requests, inbox) = blocking::channel();
        let status = SpoolStatus {
            view: spool.view().clone(),
            dropped: 0,
            lost: 0,
            waiting: false,
            trouble: String::new(),
            damaged: false,
        };
        let (publish, status) = watch::channel(status);
        let thread = std::thread::Builder::new()
            .name("spool".into())
            .spawn(move || SpoolThread { spool, publish, pending: None, anew_due: None }.work(&inbox))?;
        Ok(Self { requests, status, thread })
    }

    /// A handle for the source's thread.
    pub fn source_handle(&self) -> SourceHandle {
        SourceHandle { requests: self.requests.clone() }
    }

    /// The state now and whenever it changes.
    pub fn status(&self) -> watch::Receiver<SpoolStatus> {
        self.status.clone()
    }

    /// Asks for the record that covers `sequence`; the answer is `None` if it is not held or cannot be read.
    pub fn read(&self, sequence: u64) -> oneshot::Receiver<Option<Stored>> {
        let (reply, answer) = oneshot::channel();
        // A thread that is gone drops the reply, and the asker sees that.
        let _ = self.requests.send(Request::Read(sequence, reply));
        answer
    }

    /// Asks to begin a new generation in which the released records from `from` on are lost.
    pub fn restart(&self, from: u64) {
        let _ = self.requests.send(Request::Restart(from));
    }

    /// Asks to free records below `below`; the answer is how many frames that were.
    pub fn free(&self, below: u64) -> oneshot::Receiver<u64> {
        let (reply, answer) = oneshot::channel();
        let _ = self.requests.send(Request::Free(below, reply));
        answer
    }

    /// Asks for a new chain, as [`Spool::begin_anew`], to be tried until it has begun; the status shows when it has.
    pub fn begin_anew(&self) {
        let _ = self.requests.send(Request::BeginAnew);
    }

    /// Closes the spool once the requests before this one are done.
    pub fn close(self) {
        let _ = self.requests.send(Request::Close);
        if self.thread.join().is_err() {
            log::error!("the spool's thread has panicked");
        }
    }
}

/// The thread's own state.
struct SpoolThread {
    spool: Spool,
    publish: watch::Sender<SpoolStatus>,
    /// What a finite input asked for and waits for room or a sound disk, and when to try by itself.
    pending: Option<(SourceRequest, Option<Instant>)>,
    /// When to try again to begin a new chain.
    anew_due: Option<Instant>,
}

impl SpoolThread {
    fn work(mut self, inbox: &blocking::Receiver<Request>) {
        loop {
            let pending_due = self.pending.as_ref().and_then(|(_, due)| *due);
            let request = match pending_due.into_iter().chain(self.anew_due).min() {
                Some(due) => match inbox.recv_timeout(due.saturating_duration_since(Instant::now())) {
                    Ok(request) => Some(request),
                    Err(blocking::RecvTimeoutError::Timeout) => None,
                    Err(blocking::RecvTimeoutError::Disconnected) => return,
                },
                None => match inbox.recv() {
                    Ok(request) => Some(request),
                    Err(blocking::RecvError) => return,
                },
            };
            match request {
                Some(Request::OfSource(request)) => {
                    self.pending = Some((request, None));
                    self.try_pending();
                }
                Some(Request::Read(sequence, reply)) => {
                    let result = self.spool.read(sequence);
                    let _ = reply.send(self.note(result).flatten());
                }
                Some(Request::Free(below, reply)) => {
                    let result = self.spool.free(below);
                    let freed = self.note(result).unwrap_or(0);
                    let _ = reply.send(freed);
                    self.try_pending();
                }
                Some(Request::BeginAnew) => self.begin_anew(),
                Some(Request::Restart(from)) => {
                    let result = self.spool.restart(from);
                    if let Some(count @ 1..) = self.note(result) {
                        log::error!(from, count;
                            "no node has what these frames gave, and they were released: the chain goes on without them");
                        self.publish.send_modify(|status| status.lost += count);
                    }
                }
                None => {
                    if self.anew_due.is_some() {
                        self.begin_anew();
                    }
                    self.try_pending();
                }
                Some(Request::Close) => return,
            }
        }
    }

    fn begin_anew(&mut self) {
        let result = self.spool.begin_anew();
        self.anew_due = self.note(result).is_none().then(|| Instant::now() + RETRY);
    }

    fn try_pending(&mut self) {
        let Some((request, _)) = self.pending.take() else { return };
        let attempt = match &request {
            SourceRequest::Append(frame, reply) => self.append(frame, reply),
            SourceRequest::PassOver(input, reply) => {
                let result = self.spool.pass_over(input);
                self.answer(result, reply)
            }
            SourceRequest::Finish(reply) => {
                let result = self.spool.finish().map(|end| (end, self.spool.view().passed_over));
                self.answer(result, reply)
            }
            SourceRequest::Inputs(from, reply) => {
                let result = self.spool.inputs(*from);
                self.answer(result, reply)
            }
        };
        let due = match attempt {
            Attempt::Done => {
                self.publish.send_if_modified(|status| std::mem::take(&mut status.waiting));
                return;
            }
            Attempt::NoRoom => None,
            Attempt::Failed => Some(Instant::now() + RETRY),
        };
        self.publish.send_if_modified(|status| !std::mem::replace(&mut status.waiting, true));
        self.pending = Some((request, due));
    }

    fn append(&mut self, frame: &NewFrame, reply: &blocking::SyncSender<Outcome>) -> Attempt {
        let finite = self.spool.view().class == ChainClass::Batch;
        let result = self.spool.append(frame);
        let outcome = match self.note(result) {
            Some(Appended::Kept { dropped, .. }) => {
                self.publish.send_if_modified(|status| {
                    status.dropped += dropped;
                    dropped > 0
                });
                Outcome::Kept
            }
            Some(Appended::Full) if finite => return Attempt::NoRoom,
            None if finite => return Attempt::Failed,
            Some(Appended::Full) | None => {
                self.spool.miss();
                self.publish.send_modify(|status| status.dropped += 1);
                Outcome::Dropped
            }
        };
        let _ = reply.send(outcome);
        Attempt::Done
    }

    fn answer<T>(&mut self, result: Result<T, SpoolError>, reply: &blocking::SyncSender<T>) -> Attempt {
        match self.note(result) {
            Some(value) => {
                let _ = reply.send(value);
                Attempt::Done
            }
            None => Attempt::Failed,
        }
    }

    /// Publishes what has changed, trouble included.
    fn note<T>(&mut self, result: Result<T, SpoolError>) -> Option<T> {
        let (value, trouble, damaged) = match result {
            Ok(value) => (Some(value), String::new(), false),
            Err(error) => (None, error.to_string(), error.is_damage()),
        };
        let view = self.spool.view();
        self.publish.send_if_modified(|status| {
            if status.trouble != trouble && !trouble.is_empty() {
                log::error!(why:% = trouble; "the spool cannot be written or read");
            }
            // What follows a damaged read may succeed; the word of it stays.
            let trouble = if status.damaged { status.trouble.clone() } else { trouble };
            let changed = status.view != *view || status.trouble != trouble || damaged && !status.damaged;
            status.view.clone_from(view);
            status.trouble = trouble;
            status.damaged |= damaged;
            changed
        });
        value
    }
}

#[cfg(test)]
mod tests {
    use microlambda::Digest;
    use microlambda_wire::Name;
    use rusqlite::Connection;

    use super::super::{Identity, Limits};
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn start(folder: &tempfile::TempDir, class: ChainClass) -> SpoolHandle {
        let identity = Identity { camera: Name::new("door").unwrap(), class, source: String::new() };
        let limits = Limits { bytes_max: 1 << 20, frames_max: 10 };
        SpoolHandle::start(Spool::open(folder.path(), &identity, limits, 0).unwrap()).unwrap()
    }

    fn input(label: &str) -> Input {
        Input { label: label.into(), digest: Digest::of(label.as_bytes()), modified_at_ms: 1, input_bytes: 1 }
    }

    /// A database that fails because one of its tables is away.
    struct Fault {
        db: Connection,
        table: &'static str,
        status: watch::Receiver<SpoolStatus>,
    }

    impl Fault {
        fn begin(folder: &tempfile::TempDir, spool: &SpoolHandle, table: &'static str) -> Self {
            let db = Connection::open(folder.path().join("spool.sqlite")).unwrap();
            db.execute_batch(&format!("ALTER TABLE {table} RENAME TO away")).unwrap();
            Self { db, table, status: spool.status() }
        }

        /// Ends it once the spool's thread has told of it.
        async fn end(mut self) {
            until(&mut self.status, |status| !status.trouble.is_empty()).await;
            self.db.execute_batch(&format!("ALTER TABLE away RENAME TO {}", self.table)).unwrap();
        }
    }

    async fn until(status: &mut watch::Receiver<SpoolStatus>, holds: impl FnMut(&SpoolStatus) -> bool) {
        tokio::time::timeout(PATIENCE, status.wait_for(holds)).await.unwrap().unwrap();
    }

    fn ask<T: Send + 'static>(
        spool: &SpoolHandle,
        ask: impl FnOnce(&SourceHandle) -> T + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        let source = spool.source_handle();
        tokio::task::spawn_blocking(move || ask(&source))
    }

    #[tokio::test]
    async fn a_finite_input_waits_at_each_step_while_the_database_fails() {
        let folder = tempfile::tempdir().unwrap();
        let spool = start(&folder, ChainClass::Batch);
        let fault = Fault::begin(&folder, &spool, "input");
        let passed_over = ask(&spool, |source| source.pass_over(input("a.jpg")));
        fault.end().await;
        assert!(passed_over.await.unwrap());

        let fault = Fault::begin(&folder, &spool, "input");
        let inputs = ask(&spool, |source| source.inputs().collect::<Vec<_>>());
        fault.end().await;
        assert_eq!(inputs.await.unwrap(), [(input("a.jpg"), false)]);

        let fault = Fault::begin(&folder, &spool, "record");
        let end = ask(&spool, SourceHandle::finish);
        fault.end().await;
        assert_eq!(end.await.unwrap().map(|(end, passed_over)| (end.count, passed_over)), Some((0, 1)));
        // The status is published right after whoever asked was answered.
        until(&mut spool.status(), |status| status.view.end.is_some() && !status.waiting && status.trouble.is_empty())
            .await;
        spool.close();
    }

    #[tokio::test]
    async fn who_waits_for_a_sound_database_is_told_that_the_spool_closes() {
        let folder = tempfile::tempdir().unwrap();
        let spool = start(&folder, ChainClass::Batch);
        let fault = Fault::begin(&folder, &spool, "record");
        let end = ask(&spool, SourceHandle::finish);
        until(&mut spool.status(), |status| status.waiting).await;
        spool.close();
        assert_eq!(end.await.unwrap(), None);
        drop(fault);
    }

    #[tokio::test]
    async fn a_new_chain_that_cannot_begin_now_begins_when_the_database_is_sound() {
        let folder = tempfile::tempdir().unwrap();
        let spool = start(&folder, ChainClass::Live);
        let former = spool.status().borrow().view.chain.clone();
        let fault = Fault::begin(&folder, &spool, "frame");
        spool.begin_anew();
        fault.end().await;
        until(&mut spool.status(), |status| status.view.chain != former).await;
        spool.close();
    }
}
