//! Faults: which, on whom, when, and for how long.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use microlambda::Version;
use microlambda_wire::Name;
use rustix::process::{Pid, Signal};

use super::Error;
use super::brokers;
use super::fault::Fault;
use super::site::{Role, Site};
use super::spoil::SetBack;
use crate::sim::random::Random;

/// Pauses between two faults, ms.
const PAUSE_MS: (u64, u64) = (150, 1_000);
/// How long most faults last, ms; one in eight lasts up to three times as long.
const LAST_MS: (u64, u64) = (150, 3_000);
/// A disk that was full may still end its agent within this after it has room again.
const FULL_AFTERMATH: Duration = Duration::from_secs(5);
/// The clock is stepped by at most this, ms: a day.
const CLOCK_MS: u64 = 86_400_000;
/// A server among several stays away for longer than their patience with it.
const SERVER_AWAY_MS: (u64, u64) = (500, 8_000);

/// What every proxy does all the time.
pub fn usual_manners(manners: &mut super::proxy::Manners) {
    (manners.lost_permille, manners.repeated_permille, manners.late_permille) = (4, 8, 20);
    manners.delay_ms_max = 60;
}

pub(super) enum Undo {
    Start(usize),
    Thaw(usize),
    ThawWorkers(Vec<u32>),
    ServerStart(usize),
    ServerThaw(usize),
    Calm(usize),
    Plug(usize),
    Unshape(usize),
    Room(usize, u32),
}

/// Who strikes.
pub struct Torturer {
    /// How often each kind struck.
    pub struck: BTreeMap<Fault, u64>,
    /// How often each kind was drawn and could not strike, by the reason.
    pub spared: BTreeMap<(Fault, &'static str), u64>,
    pub(super) random: Random,
    faults: Vec<Fault>,
    undo: Vec<(Instant, Undo)>,
    next: Instant,
    /// How far each chain was when a node was last hurt: no unit is hit twice.
    hurt_at: BTreeMap<Name, Version>,
    pub(super) copies: BTreeMap<usize, (PathBuf, Instant)>,
    pub(super) set_back: Option<SetBack>,
    /// Live chains whose camera uses numbers again that nodes have committed: it has to notice, and begin a new chain.
    pub given_up: BTreeSet<String>,
}

/// Why a fault did not strike.
pub(super) type Spared = Result<(), &'static str>;

impl Torturer {
    /// Begins now; strikes with `faults` only.
    pub fn new(seed: u64, faults: Vec<Fault>) -> Self {
        Self {
            struck: BTreeMap::new(),
            spared: BTreeMap::new(),
            random: Random::new(seed ^ 0x0074_6f72_7475_7265),
            faults,
            undo: Vec::new(),
            next: Instant::now(),
            hurt_at: BTreeMap::new(),
            copies: BTreeMap::new(),
            set_back: None,
            given_up: BTreeSet::new(),
        }
    }

    /// Undoes what is due, strikes when it is time, and says when to come again.
    ///
    /// # Errors
    /// Something ended that should run, or the system refuses.
    pub fn work(&mut self, site: &mut Site) -> Result<Instant, Error> {
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) = self.undo.drain(..).partition(|(at, _)| *at <= now);
        self.undo = later;
        due.into_iter().try_for_each(|(_, undo)| undo_one(site, undo))?;
        if now >= self.next {
            self.next = now + Duration::from_millis(self.random.between(PAUSE_MS.0, PAUSE_MS.1));
            let fault = self.draw();
            match self.strike(site, fault)? {
                Ok(()) => *self.struck.entry(fault).or_default() += 1,
                Err(why) => *self.spared.entry((fault, why)).or_default() += 1,
            }
        }
        Ok(self.undo.iter().map(|(at, _)| *at).chain([self.next]).min().unwrap_or(self.next))
    }

    /// Undoes everything and calms the bus.
    ///
    /// # Errors
    /// Something does not start again.
    pub fn end(&mut self, site: &mut Site) -> Result<(), Error> {
        for (_, undo) in std::mem::take(&mut self.undo) {
            undo_one(site, undo)?;
        }
        for member in &site.members {
            member.proxy.behave(|manners| *manners = super::proxy::Manners::default());
        }
        Ok(())
    }

    fn draw(&mut self) -> Fault {
        let sum: u64 = self.faults.iter().map(|fault| fault.weight()).sum();
        let mut left = self.random.below(sum);
        let drawn = self.faults.iter().find(|fault| match left.checked_sub(fault.weight()) {
            Some(less) => {
                left = less;
                false
            }
            None => true,
        });
        drawn.copied().unwrap_or(Fault::Cut)
    }

    pub(super) fn last(&mut self) -> Duration {
        let factor = if self.random.below(8) == 0 { 3 } else { 1 };
        Duration::from_millis(self.random.between(LAST_MS.0, LAST_MS.1) * factor)
    }

    pub(super) fn later(&mut self, after: Duration, undo: Undo) {
        self.undo.push((Instant::now() + after, undo));
    }

    fn strike(&mut self, site: &mut Site, fault: Fault) -> Result<Spared, Error> {
        match fault {
            Fault::AgentKill | Fault::AgentFreeze | Fault::WorkerKill | Fault::WorkerFreeze => self.hurt(site, fault),
            Fault::StoreOlder | Fault::StoreLost | Fault::StoreDamaged => self.spoil_store(site, fault),
            Fault::CameraKill | Fault::CameraFreeze => self.camera(site, fault),
            Fault::FolderSpoolOlder | Fault::LiveSpoolOlder | Fault::CameraReinstalled => self.spoil_spool(site, fault),
            Fault::BrokerKill | Fault::BrokerWipe | Fault::BrokerFreeze => self.broker(site, fault),
            Fault::BusTrouble | Fault::Cut | Fault::Stall | Fault::Slow => {
                self.bus(site, fault);
                Ok(Ok(()))
            }
            Fault::CableOut | Fault::CableSlow => self.cable(site, fault),
            Fault::StoreFull | Fault::SpoolFull => self.fill(site, fault),
            Fault::ClockStep => {
                let member = self.any(site);
                let step_ms = i64::try_from(self.random.below(2 * CLOCK_MS)).unwrap_or(0) - CLOCK_MS as i64;
                site.members[member].plot.step_clock(step_ms)?;
                Ok(Ok(()))
            }
        }
    }

    /// Any agent.
    fn any(&mut self, site: &Site) -> usize {
        usize::try_from(self.random.below(site.members.len() as u64)).unwrap_or_default()
    }

    /// One that runs, of these; more often one that works.
    pub(super) fn pick(&mut self, site: &Site, of: impl Fn(Role) -> bool) -> Option<usize> {
        let up = |index: &usize| of(site.members[*index].role) && !site.members[*index].down;
        let up: Vec<usize> = (0..site.members.len()).filter(up).collect();
        let works = |index: &&usize| site.watch.chains.values().any(|c| c.worker() == Some(site.members[**index].name));
        let working: Vec<usize> = up.iter().filter(works).copied().collect();
        let from = if self.random.below(3) > 0 && !working.is_empty() { working } else { up };
        if from.is_empty() { None } else { Some(self.random.pick(&from)) }
    }

    /// Whether every chain has gone on since a node was last hurt: a unit that fails on two nodes is set aside for good. A live
    /// chain that was given up goes on no more.
    pub(super) fn has_healed(&self, site: &Site) -> bool {
        let watch = &site.watch;
        let goes_on = |name: &Name| watch.live_chain.as_ref() == Some(name) || name.as_str().starts_with("folder-");
        watch
            .chains
            .iter()
            .filter(|(name, chain)| goes_on(name) && chain.has_work())
            .all(|(name, chain)| self.hurt_at.get(name).is_none_or(|hurt| chain.front > *hurt))
    }

    pub(super) fn note_hurt(&mut self, site: &mut Site, member: usize, other: bool) {
        self.hurt_at = site.watch.chains.iter().map(|(name, chain)| (name.clone(), chain.front)).collect();
        let name = site.members[member].name;
        site.watch.struck(name, other);
    }

    fn hurt(&mut self, site: &mut Site, fault: Fault) -> Result<Spared, Error> {
        if !self.has_healed(site) {
            return Ok(Err("the chain has not gone on since the last one"));
        }
        let Some(member) = self.pick(site, |role| role == Role::Node) else { return Ok(Err("no node runs")) };
        let last = self.last();
        let workers = site.members[member].agent.children();
        match fault {
            Fault::AgentKill => {
                self.note_hurt(site, member, true);
                site.members[member].agent.kill();
                site.members[member].down = true;
                self.copy(site, member)?;
                self.later(last, Undo::Start(member));
            }
            Fault::AgentFreeze => {
                self.note_hurt(site, member, true);
                site.members[member].agent.freeze_all();
                site.members[member].down = true;
                self.later(last, Undo::Thaw(member));
            }
            _ if workers.is_empty() => return Ok(Err("no worker runs")),
            Fault::WorkerKill => {
                self.note_hurt(site, member, false);
                site.members[member].agent.kill_children();
            }
            _ => {
                self.note_hurt(site, member, false);
                workers.iter().for_each(|pid| signal(*pid, Signal::STOP));
                self.later(last, Undo::ThawWorkers(workers));
            }
        }
        Ok(Ok(()))
    }

    fn camera(&mut self, site: &mut Site, fault: Fault) -> Result<Spared, Error> {
        let Some(member) = self.pick(site, |role| role != Role::Node) else { return Ok(Err("no camera runs")) };
        let last = self.last();
        site.members[member].down = true;
        if fault == Fault::CameraKill {
            site.members[member].agent.kill();
            self.copy(site, member)?;
            self.later(last, Undo::Start(member));
        } else {
            site.members[member].agent.freeze_all();
            self.later(last, Undo::Thaw(member));
        }
        Ok(Ok(()))
    }

    fn broker(&mut self, site: &mut Site, fault: Fault) -> Result<Spared, Error> {
        let server = usize::try_from(self.random.below(site.servers.len() as u64)).unwrap_or_default();
        let hurt = |undo: &(Instant, Undo)| matches!(undo.1, Undo::ServerStart(_) | Undo::ServerThaw(_));
        if self.undo.iter().any(hurt) {
            return Ok(Err("a broker is away already"));
        }
        let mut last = self.last();
        if site.servers.len() > 1 {
            last = Duration::from_millis(self.random.between(SERVER_AWAY_MS.0, SERVER_AWAY_MS.1));
        }
        if fault == Fault::BrokerFreeze {
            site.servers[server].process.freeze();
            self.later(last, Undo::ServerThaw(server));
        } else {
            site.servers[server].process.kill();
            if fault == Fault::BrokerWipe {
                site.servers[server].forget()?;
            }
            self.later(last, Undo::ServerStart(server));
        }
        Ok(Ok(()))
    }

    fn bus(&mut self, site: &Site, fault: Fault) {
        let member = self.any(site);
        let proxy = &site.members[member].proxy;
        let random = &mut self.random;
        match fault {
            Fault::Cut => {
                proxy.cut();
                return;
            }
            Fault::Stall => proxy.behave(|manners| manners.stalled = true),
            Fault::Slow => {
                let bytes_per_s = random.between(10_000, 300_000);
                proxy.behave(|manners| manners.bytes_per_s = bytes_per_s);
            }
            _ => {
                let (lost, repeated, late) = (random.below(300), random.below(300), random.below(500));
                let delay_ms_max = random.between(20, 1_500);
                proxy.behave(|manners| {
                    (manners.lost_permille, manners.repeated_permille, manners.late_permille) = (lost, repeated, late);
                    manners.delay_ms_max = delay_ms_max;
                });
            }
        }
        let last = self.last();
        self.later(last, Undo::Calm(member));
    }

    fn cable(&mut self, site: &Site, fault: Fault) -> Result<Spared, Error> {
        let member = self.any(site);
        let plot = &site.members[member].plot;
        let last = self.last();
        if fault == Fault::CableOut {
            plot.plug(false)?;
            self.later(last, Undo::Plug(member));
        } else {
            plot.shape(Some(self.random.between(100, 4_000)))?;
            self.later(last, Undo::Unshape(member));
        }
        Ok(Ok(()))
    }

    fn fill(&mut self, site: &mut Site, fault: Fault) -> Result<Spared, Error> {
        let full = |undo: &(Instant, Undo)| matches!(undo.1, Undo::Room(..));
        if self.undo.iter().any(full) {
            return Ok(Err("another disk is full"));
        }
        let node = fault == Fault::StoreFull;
        let Some(member) = self.pick(site, |role| (role == Role::Node) == node) else {
            return Ok(Err("nobody runs"));
        };
        let last = self.last();
        let member_of = &mut site.members[member];
        let Some(pid) = member_of.agent.pid() else { return Ok(Err("nobody runs")) };
        member_of.may_end_until = Instant::now() + last + FULL_AFTERMATH;
        member_of.plot.fill(Some(pid))?;
        self.later(last, Undo::Room(member, pid));
        Ok(Ok(()))
    }
}

fn undo_one(site: &mut Site, undo: Undo) -> Result<(), Error> {
    match undo {
        Undo::Start(member) => {
            site.members[member].agent.respawn()?;
            site.members[member].down = false;
        }
        Undo::Thaw(member) => {
            site.members[member].agent.thaw_all();
            site.members[member].down = false;
        }
        Undo::ThawWorkers(workers) => workers.into_iter().for_each(|pid| signal(pid, Signal::CONT)),
        Undo::ServerStart(server) => {
            let alone = site.servers.len() == 1;
            let server = &mut site.servers[server];
            server.process.respawn()?;
            if alone {
                brokers::answers(server.address, Duration::from_secs(20))?;
            }
        }
        Undo::ServerThaw(server) => site.servers[server].process.thaw(),
        Undo::Calm(member) => site.members[member].proxy.behave(|manners| {
            *manners = super::proxy::Manners::default();
            usual_manners(manners);
        }),
        Undo::Plug(member) => {
            site.members[member].plot.plug(true)?;
        }
        Undo::Unshape(member) => {
            site.members[member].plot.shape(None)?;
        }
        Undo::Room(member, pid) => site.members[member].plot.make_room(Some(pid)),
    }
    Ok(())
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}
