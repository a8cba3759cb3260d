//! What is done to a site.

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// An edge agent gets SIGKILL and comes back; its worker with it.
    AgentKill,
    /// An edge agent and its worker get SIGSTOP.
    AgentFreeze,
    /// A worker gets SIGKILL.
    WorkerKill,
    /// A worker gets SIGSTOP, and its agent does not.
    WorkerFreeze,
    /// A camera agent gets SIGKILL and comes back.
    CameraKill,
    /// A camera agent gets SIGSTOP.
    CameraFreeze,
    /// A broker gets SIGKILL and comes back with what it kept.
    BrokerKill,
    /// A broker gets SIGKILL and comes back with nothing.
    BrokerWipe,
    /// A broker gets SIGSTOP.
    BrokerFreeze,
    /// One agent's messages are lost, repeated, late and out of order.
    BusTrouble,
    /// One agent's connection is cut.
    Cut,
    /// One agent's connection stands still.
    Stall,
    /// One agent's connection is slow: the proxy limits it.
    Slow,
    /// One agent's cable is pulled out.
    CableOut,
    /// One agent's cable is slow: the kernel limits it.
    CableSlow,
    /// A node's disk is full.
    StoreFull,
    /// A camera's disk is full.
    SpoolFull,
    /// An agent's wall clock jumps by up to a day, ahead or back.
    ClockStep,
    /// A node comes back with an older copy of its database.
    StoreOlder,
    /// A node comes back with an empty disk.
    StoreLost,
    /// A node comes back with a damaged database.
    StoreDamaged,
    /// The folder camera comes back with an older copy of its spool.
    FolderSpoolOlder,
    /// The live camera comes back with an older copy of its spool.
    LiveSpoolOlder,
    /// The live camera comes back with an empty disk, and begins a new chain.
    CameraReinstalled,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::AgentKill,
        Self::AgentFreeze,
        Self::WorkerKill,
        Self::WorkerFreeze,
        Self::CameraKill,
        Self::CameraFreeze,
        Self::BrokerKill,
        Self::BrokerWipe,
        Self::BrokerFreeze,
        Self::BusTrouble,
        Self::Cut,
        Self::Stall,
        Self::Slow,
        Self::CableOut,
        Self::CableSlow,
        Self::StoreFull,
        Self::SpoolFull,
        Self::ClockStep,
        Self::StoreOlder,
        Self::StoreLost,
        Self::StoreDamaged,
        Self::FolderSpoolOlder,
        Self::LiveSpoolOlder,
        Self::CameraReinstalled,
    ];

    /// How often it is drawn, beside the others.
    pub fn weight(self) -> u64 {
        match self {
            Self::AgentKill => 10,
            Self::AgentFreeze | Self::WorkerKill | Self::WorkerFreeze | Self::BusTrouble => 6,
            Self::BrokerKill | Self::BrokerWipe | Self::BrokerFreeze | Self::SpoolFull | Self::StoreFull => 2,
            // Each begins a live chain anew, which then has little to lose.
            Self::CameraReinstalled | Self::LiveSpoolOlder => 1,
            _ => 3,
        }
    }

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::AgentKill => "edge agent, SIGKILL",
            Self::AgentFreeze => "edge agent and worker, SIGSTOP",
            Self::WorkerKill => "worker, SIGKILL",
            Self::WorkerFreeze => "worker, SIGSTOP",
            Self::CameraKill => "camera agent, SIGKILL",
            Self::CameraFreeze => "camera agent, SIGSTOP",
            Self::BrokerKill => "broker, SIGKILL",
            Self::BrokerWipe => "broker, SIGKILL, its files deleted",
            Self::BrokerFreeze => "broker, SIGSTOP",
            Self::BusTrouble => "messages lost, repeated, late (proxy)",
            Self::Cut => "connection cut (proxy)",
            Self::Stall => "connection stalled (proxy)",
            Self::Slow => "connection slow (proxy)",
            Self::CableOut => "link down (veth)",
            Self::CableSlow => "link slow (tc tbf)",
            Self::StoreFull => "disk of a node full",
            Self::SpoolFull => "disk of a camera full",
            Self::ClockStep => "wall clock stepped",
            Self::StoreOlder => "older copy of a database",
            Self::StoreLost => "disk of a node lost",
            Self::StoreDamaged => "database damaged at rest",
            Self::FolderSpoolOlder => "older copy of the job's spool",
            Self::LiveSpoolOlder => "older copy of the live spool",
            Self::CameraReinstalled => "live camera reinstalled",
        }
    }
}
