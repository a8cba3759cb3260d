//! Messages from the agent: read by a thread of their own, so that a step's time runs from the receipt of its `Start`.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use microlambda::CostTable;
use microlambda_faces::proto::{self, ProtoError, ToWorker};
use microlambda_faces::{FaceParams, Partial};

use crate::lambda::{Frame, Frames};

/// Messages read ahead of the step; the agent's credit is smaller.
const MESSAGES_QUEUED_MAX: usize = 64;
/// A message is read in parts of this, bytes, so that one knows that it is on its way.
const READ_BYTES: usize = 64 << 10;
/// Longest wait for the next byte of a step's next frame, µs: frames of a stream come faster, and a step that waits longer would
/// hold up other chains of the node. A large frame on a slow computer takes longer than this to pass.
pub const FRAME_WAIT_US_MAX: u64 = 50_000;

/// A step that the agent asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// Echoed in the answers.
    pub step: u64,
    /// When the message was received, µs of the monotonic clock.
    pub received_us: u64,
    /// Wall time to the end of the last unit, µs.
    pub r_limit_us: u64,
    /// At most so many units.
    pub units_max: u32,
    /// What units have cost on this node.
    pub costs: CostTable,
    /// What decides an analysis.
    pub params: FaceParams,
    /// State inside the first frame.
    pub resume: Option<Partial>,
}

/// The stream from the agent is of no use any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InboxError {
    /// It does not speak the protocol.
    #[error("the agent is out of step: {0}; install edge-agent and face-worker of one version")]
    Protocol(#[from] ProtoError),
    /// Reading failed.
    #[error("reading from the agent failed: {0}")]
    Io(#[from] std::io::Error),
}

enum Received {
    Message(Box<ToWorker>, u64),
    /// The agent is gone, or out of step.
    End(Result<(), InboxError>),
}

/// The main thread's end: what was received, in order.
pub struct Inbox {
    receiver: Receiver<Received>,
    clock: fn() -> u64,
    /// When the last bytes came, µs.
    heard_at_us: Arc<AtomicU64>,
    frames: VecDeque<Frame>,
    next_start: Option<Start>,
    deadline_us: u64,
    /// False once the agent said that no frame follows the last one.
    more: bool,
    stopped: bool,
    end: Option<Result<(), InboxError>>,
}

/// Reads messages until the stream ends; runs on a thread of its own.
pub struct Reader<R> {
    stream: R,
    sender: SyncSender<Received>,
    clock: fn() -> u64,
    heard_at_us: Arc<AtomicU64>,
}

/// Both ends. `clock` reads the monotonic clock in µs.
pub fn inbox<R: Read>(stream: R, clock: fn() -> u64) -> (Reader<R>, Inbox) {
    let (sender, receiver) = sync_channel(MESSAGES_QUEUED_MAX);
    let heard_at_us = Arc::new(AtomicU64::new(0));
    let inbox = Inbox {
        receiver,
        clock,
        heard_at_us: heard_at_us.clone(),
        frames: VecDeque::new(),
        next_start: None,
        deadline_us: 0,
        more: false,
        stopped: true,
        end: None,
    };
    (Reader { stream, sender, clock, heard_at_us }, inbox)
}

impl<R: Read> Reader<R> {
    /// Reads until the stream ends or is of no use, and hands that on as the last message.
    pub fn run(mut self) {
        let end = loop {
            match self.message() {
                Ok(Some(message)) => {
                    let received_us = (self.clock)();
                    if self.sender.send(Received::Message(Box::new(message), received_us)).is_err() {
                        return;
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        // The main thread may be gone already.
        let _ = self.sender.send(Received::End(end));
    }

    fn message(&mut self) -> Result<Option<ToWorker>, InboxError> {
        let mut prefix = [0; 4];
        if self.stream.read(&mut prefix[..1])? == 0 {
            return Ok(None);
        }
        self.stream.read_exact(&mut prefix[1..])?;
        let mut body = vec![0; proto::body_bytes(prefix)?];
        for part in body.chunks_mut(READ_BYTES) {
            self.heard_at_us.store((self.clock)(), Ordering::Relaxed);
            self.stream.read_exact(part)?;
        }
        Ok(Some(proto::decode(&body)?))
    }
}

impl Inbox {
    /// Waits for the next step; frames that belong to none are dropped. `None` when the agent closed the stream.
    ///
    /// # Errors
    /// If the stream is of no use.
    pub fn next_start(&mut self) -> Result<Option<Start>, InboxError> {
        self.frames.clear();
        self.stopped = true;
        loop {
            if let Some(start) = self.next_start.take() {
                self.deadline_us = start.received_us.saturating_add(start.r_limit_us);
                self.more = true;
                self.stopped = false;
                return Ok(Some(start));
            }
            if let Some(end) = self.end.take() {
                return end.map(|()| None);
            }
            match self.receiver.recv() {
                Ok(received) => self.take(received),
                Err(_) => return Ok(None),
            }
        }
    }

    /// Whether the running step is to end after the running unit.
    pub fn stop_asked(&mut self) -> bool {
        self.drain();
        self.stopped
    }

    fn take(&mut self, received: Received) {
        match received {
            Received::Message(message, received_us) => self.take_message(*message, received_us),
            Received::End(end) => {
                self.stopped = true;
                self.end = Some(end);
            }
        }
    }

    fn take_message(&mut self, message: ToWorker, received_us: u64) {
        match message {
            ToWorker::Frame { sequence, jpeg, moved, more } => {
                if !self.stopped {
                    self.more = more;
                    self.frames.push_back(Frame { sequence, bytes: jpeg, moved });
                }
            }
            ToWorker::NoMoreFrames => self.more = false,
            ToWorker::Stop => self.stopped = true,
            ToWorker::Start { step, r_limit_us, units_max, costs, params, resume } => {
                self.stopped = true;
                let start = Start { step, received_us, r_limit_us, units_max, costs, params, resume };
                self.next_start = Some(start);
            }
        }
    }

    /// Takes what is there; what follows the `Start` of the next step stays, and so does what exceeds the bound.
    fn drain(&mut self) {
        while self.next_start.is_none() && self.end.is_none() && self.frames.len() < MESSAGES_QUEUED_MAX {
            match self.receiver.try_recv() {
                Ok(received) => self.take(received),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => self.end = Some(Ok(())),
            }
        }
    }
}

impl Frames for &mut Inbox {
    fn next_frame(&mut self) -> Option<Frame> {
        let asked_us = (self.clock)();
        loop {
            self.drain();
            if self.stopped {
                return None;
            }
            if let Some(frame) = self.frames.pop_front() {
                return Some(frame);
            }
            let since_us = self.heard_at_us.load(Ordering::Relaxed).max(asked_us);
            let wait_until_us = since_us.saturating_add(FRAME_WAIT_US_MAX).min(self.deadline_us);
            let left_us = wait_until_us.saturating_sub((self.clock)());
            if !self.more || left_us == 0 {
                return None;
            }
            match self.receiver.recv_timeout(Duration::from_micros(left_us)) {
                Ok(received) => self.take(received),
                // Bytes may have come in the meantime.
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.end = Some(Ok(())),
            }
        }
    }
}
