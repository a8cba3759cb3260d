//! Faults built into the protocol on purpose, so that a test can show that the simulator finds them.
//!
//! Only a build with the feature `sabotage` has them, and there only while one is chosen; it is chosen for a thread.

/// A way to break the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sabotage {
    /// A head is announced before it is durable.
    PublishBeforeCommit,
    /// The store returns before its transactions are synced, as SQLite's `synchronous=NORMAL` does.
    UnsyncedCommits,
    /// The entries of a folder are never synced.
    FoldersNotSynced,
    /// Leases run on a clock that people and time servers set.
    WallClockLease,
    /// An announced head counts as merged, although its content is not here.
    AnnouncedHeadIsMerged,
    /// A peer's content is taken whether it beats the own head or not.
    AdoptAnything,
    /// A claim with a higher epoch stops a running step.
    YieldToHigherClaim,
    /// A claim is believed whatever its epoch.
    IgnoreEpochs,
    /// An event that nobody published is left unpublished.
    EventsNotRescued,
    /// A node that is behind what the camera still holds folds the rest as a gap.
    ReleasedIsGap,
    /// The camera turns a frame that it may have sent into a gap.
    GapOverSent,
    /// The camera gives a number out again after a power cut.
    ReuseNumbers,
    /// A node reports frames as committed that are only analysed.
    ReportAhead,
    /// The camera frees a frame once a single node has it.
    FreeOnOne,
}

#[cfg(feature = "sabotage")]
thread_local! {
    static CHOSEN: std::cell::Cell<Option<Sabotage>> = const { std::cell::Cell::new(None) };
}

/// Chooses a fault for this thread, or none.
#[cfg(feature = "sabotage")]
pub fn choose(sabotage: Option<Sabotage>) {
    CHOSEN.set(sabotage);
}

/// Whether this fault is chosen; never in a build without the feature.
#[cfg(feature = "sabotage")]
pub fn is_chosen(sabotage: Sabotage) -> bool {
    CHOSEN.get() == Some(sabotage)
}

/// Whether this fault is chosen; never in a build without the feature.
#[cfg(not(feature = "sabotage"))]
pub const fn is_chosen(_sabotage: Sabotage) -> bool {
    false
}
