//! What goes wrong, and in which phase of a step.

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// An agent gets SIGTERM and hands its chains on.
    Stop,
    /// An agent gets SIGKILL; its will is published at once.
    Kill,
    /// A node loses its power; nobody is told for a while.
    PowerCut,
    /// An agent stands still for a while, as after SIGSTOP.
    Pause,
    /// A node loses its connection for a while.
    Disconnect,
    /// A node's clock jumps ahead, as after a suspend.
    ClockJump,
    /// A node becomes slow for a while.
    SlowDown,
    /// A worker dies in its unit.
    WorkerDies,
    /// A worker hangs in its unit.
    WorkerHangs,
    /// A unit takes many times as long as usual.
    WorkerSlow,
    /// A worker answers with nonsense.
    WorkerGarbage,
    /// A camera agent dies and comes back with its spool.
    CameraKill,
    /// A camera loses its connection for a while.
    CameraDisconnect,
    /// The broker restarts and has forgotten everything.
    BrokerRestart,
    /// The bus loses, repeats, delays and reorders for a while.
    BusTrouble,
    /// A node's disk dies and is replaced by an empty one.
    DiskLoss,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Stop,
        Self::Kill,
        Self::PowerCut,
        Self::Pause,
        Self::Disconnect,
        Self::ClockJump,
        Self::SlowDown,
        Self::WorkerDies,
        Self::WorkerHangs,
        Self::WorkerSlow,
        Self::WorkerGarbage,
        Self::CameraKill,
        Self::CameraDisconnect,
        Self::BrokerRestart,
        Self::BusTrouble,
        Self::DiskLoss,
    ];
}

/// What the node that a fault is aimed at is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// No step runs anywhere.
    Idle,
    /// Another node runs one.
    Standby,
    /// It has started a step and waits for the first frame, or for the next unit.
    Waiting,
    /// Its worker is in a unit.
    InUnit,
    /// It is in a transaction, or right behind it.
    AtCommit,
    /// It publishes what it has committed.
    AtPublish,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Idle, Self::Standby, Self::Waiting, Self::InUnit, Self::AtCommit, Self::AtPublish];
}
