//! The thread that owns the spool, so that no sync to disk holds up the MQTT side.
//!
//! At most a handful of requests wait: the source has one append under way, the agent one read and one release.

use std::sync::mpsc as blocking;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use microlambda_wire::{ChainClass, EndMark};
use tokio::sync::{oneshot, watch};

use super::{Appended, Input, NewFrame, Spool, SpoolError, Stored, View};

/// How often an append that failed (a full disk, for example) is tried again for a finite input.
const RETRY: Duration = Duration::from_secs(1);

/// What the agent sees of the spool without asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desk {
    /// What is held.
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
    Append(NewFrame, blocking::SyncSender<Outcome>),
    PassOver(Input, blocking::SyncSender<()>),
    Finish(blocking::SyncSender<Option<EndMark>>),
    Inputs(blocking::SyncSender<Vec<(Input, bool)>>),
    Read(u64, oneshot::Sender<Option<Stored>>),
    Free(u64, oneshot::Sender<u64>),
    Restart(u64),
    BeginAnew,
    Close,
}

/// What became of a frame handed to the clerk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is durable.
    Kept,
    /// A live frame found no room or a broken disk, and is lost.
    Dropped,
    /// The clerk is closing.
    Closed,
}

/// The source's side: blocks until the frame is durable.
#[derive(Debug, Clone)]
pub struct Intake {
    requests: blocking::Sender<Request>,
}

/// The agent's side: never blocks.
#[derive(Debug)]
pub struct Clerk {
    requests: blocking::Sender<Request>,
    desk: watch::Receiver<Desk>,
    thread: Option<JoinHandle<()>>,
}

impl Intake {
    /// Appends a frame. For a finite input it waits until there is room.
    pub fn append(&self, frame: NewFrame) -> Outcome {
        let (reply, answer) = blocking::sync_channel(1);
        let sent = self.requests.send(Request::Append(frame, reply));
        sent.ok().and_then(|()| answer.recv().ok()).unwrap_or(Outcome::Closed)
    }

    /// Remembers an input that was passed over; false if the clerk is closing.
    pub fn pass_over(&self, input: Input) -> bool {
        let (reply, answer) = blocking::sync_channel(1);
        self.requests.send(Request::PassOver(input, reply)).is_ok() && answer.recv().is_ok()
    }

    /// What a finite input has given so far; `None` if the clerk is closing or the database fails.
    pub fn inputs(&self) -> Option<Vec<(Input, bool)>> {
        let (reply, answer) = blocking::sync_channel(1);
        self.requests.send(Request::Inputs(reply)).ok()?;
        answer.recv().ok()
    }

    /// Writes the end record; `None` if the clerk is closing.
    pub fn finish(&self) -> Option<EndMark> {
        let (reply, answer) = blocking::sync_channel(1);
        self.requests.send(Request::Finish(reply)).ok()?;
        answer.recv().ok().flatten()
    }
}

impl Clerk {
    /// Hands the spool to a thread of its own.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(spool: Spool) -> std::io::Result<Self> {
        let (requests, inbox) = blocking::channel();
        let desk = Desk {
            view: spool.view().clone(),
            dropped: 0,
            lost: 0,
            waiting: false,
            trouble: String::new(),
            damaged: false,
        };
        let (publish, desk) = watch::channel(desk);
        let thread = std::thread::Builder::new()
            .name("spool".into())
            .spawn(move || Office { spool, publish, pending: None }.work(&inbox))?;
        Ok(Self { requests, desk, thread: Some(thread) })
    }

    /// For the source.
    pub fn intake(&self) -> Intake {
        Intake { requests: self.requests.clone() }
    }

    /// The state now and whenever it changes.
    pub fn desk(&self) -> watch::Receiver<Desk> {
        self.desk.clone()
    }

    /// Asks for the record that covers `sequence`; the answer is `None` if it is not held or cannot be read.
    pub fn read(&self, sequence: u64) -> oneshot::Receiver<Option<Stored>> {
        let (reply, answer) = oneshot::channel();
        // A clerk that is gone drops the reply, and the asker sees that.
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

    /// Asks for a new chain, as [`Spool::begin_anew`]; the desk shows when it has begun.
    pub fn begin_anew(&self) {
        let _ = self.requests.send(Request::BeginAnew);
    }

    /// Closes the spool once the requests before this one are done.
    pub fn close(mut self) {
        let _ = self.requests.send(Request::Close);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the spool's thread has panicked");
        }
    }
}

/// The thread's own state.
struct Office {
    spool: Spool,
    publish: watch::Sender<Desk>,
    /// A finite input's frame that waits for room or a sound disk, and when to try by itself.
    pending: Option<(NewFrame, blocking::SyncSender<Outcome>, Option<Instant>)>,
}

impl Office {
    fn work(mut self, inbox: &blocking::Receiver<Request>) {
        loop {
            let request = match self.pending.as_ref().and_then(|(_, _, due)| *due) {
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
                Some(Request::Append(frame, reply)) => self.append(frame, reply),
                Some(Request::PassOver(input, reply)) => {
                    let result = self.spool.pass_over(&input);
                    self.note(result);
                    let _ = reply.send(());
                }
                Some(Request::Finish(reply)) => {
                    let result = self.spool.finish();
                    let end = self.note(result);
                    let _ = reply.send(end);
                }
                Some(Request::Inputs(reply)) => {
                    let result = self.spool.inputs();
                    if let Some(inputs) = self.note(result) {
                        let _ = reply.send(inputs);
                    }
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
                Some(Request::BeginAnew) => {
                    let result = self.spool.begin_anew();
                    self.note(result);
                }
                Some(Request::Restart(from)) => {
                    let result = self.spool.restart(from);
                    if let Some(count @ 1..) = self.note(result) {
                        log::error!(from, count;
                            "no node has what these frames gave, and they were released: the chain goes on without them");
                        self.publish.send_modify(|desk| desk.lost += count);
                    }
                }
                None => self.try_pending(),
                Some(Request::Close) => return,
            }
        }
    }

    fn append(&mut self, frame: NewFrame, reply: blocking::SyncSender<Outcome>) {
        self.pending = Some((frame, reply, None));
        self.try_pending();
    }

    fn try_pending(&mut self) {
        let Some((frame, reply, _)) = self.pending.take() else { return };
        let finite = self.spool.view().class == ChainClass::Batch;
        let result = self.spool.append(&frame);
        match self.note(result) {
            Some(Appended::Kept { dropped, .. }) => {
                self.publish.send_if_modified(|desk| {
                    desk.dropped += dropped;
                    std::mem::take(&mut desk.waiting) || dropped > 0
                });
                let _ = reply.send(Outcome::Kept);
            }
            outcome if finite => {
                let due = outcome.is_none().then(|| Instant::now() + RETRY);
                self.publish.send_if_modified(|desk| !std::mem::replace(&mut desk.waiting, true));
                self.pending = Some((frame, reply, due));
            }
            _ => {
                self.spool.miss();
                self.publish.send_modify(|desk| desk.dropped += 1);
                let _ = reply.send(Outcome::Dropped);
            }
        }
    }

    /// Publishes what has changed, trouble included.
    fn note<T>(&mut self, result: Result<T, SpoolError>) -> Option<T> {
        let (value, trouble, damaged) = match result {
            Ok(value) => (Some(value), String::new(), false),
            Err(error) => (None, error.to_string(), error.is_damage()),
        };
        let view = self.spool.view();
        self.publish.send_if_modified(|desk| {
            if desk.trouble != trouble && !trouble.is_empty() {
                log::error!(why:% = trouble; "the spool cannot be written or read");
            }
            // What follows a damaged read may succeed; the word of it stays.
            let trouble = if desk.damaged { desk.trouble.clone() } else { trouble };
            let changed = desk.view != *view || desk.trouble != trouble || damaged && !desk.damaged;
            desk.view.clone_from(view);
            desk.trouble = trouble;
            desk.damaged |= damaged;
            changed
        });
        value
    }
}
