//! Faults: when, on whom, in which phase of a step.

use edge_agent::node::Node;

use super::{Happening, Input, STOP_PATIENCE_US, SimNode, Site};
use crate::sim::Sabotage;
use crate::sim::bus::Manners;
use crate::sim::disk::{Blow, Trigger};
use crate::sim::fault::{FaultKind, Phase};
use crate::sim::invariants::Checked;
use crate::sim::worker::{Mishap, SimWorker};

impl Site {
    /// What the node is doing, as a fault finds it.
    pub(super) fn phase(&self, index: usize) -> Phase {
        let node = &self.nodes[index];
        let busy = |node: &SimNode| node.node.as_ref().is_some_and(Node::is_busy);
        if node.worker.as_ref().is_some_and(SimWorker::is_in_unit) {
            Phase::InUnit
        } else if busy(node) {
            Phase::Waiting
        } else if self.nodes.iter().any(busy) {
            Phase::Standby
        } else {
            Phase::Idle
        }
    }

    /// A fault, and a while later the next, until they end.
    pub(super) fn next_fault(&mut self) -> Checked {
        if self.faulty {
            self.fault()?;
            let pause_us = self.random.below(2 * self.fault_pause_us) + 1_000;
            self.after(pause_us, Happening::Fault);
        }
        Ok(())
    }

    fn fault(&mut self) -> Checked {
        let kind = self.random.pick(&FaultKind::ALL);
        let index = usize::try_from(self.random.below(self.nodes.len() as u64)).unwrap_or_default();
        if !self.nodes[index].is_up() {
            return Ok(());
        }
        match self.random.below(6) {
            0 => self.lie_in_wait(index, kind, Phase::AtCommit),
            1 => self.lie_in_wait(index, kind, Phase::AtPublish),
            // A step seldom waits, so it is waited for.
            2 => self.nodes[index].ambush.push((kind, Phase::Waiting)),
            _ => {
                let phase = self.phase(index);
                return self.strike(index, kind, phase);
            }
        }
        Ok(())
    }

    /// Sets a fault up for the node's next transaction or announcement.
    pub(super) fn lie_in_wait(&mut self, index: usize, kind: FaultKind, phase: Phase) {
        let blow = match kind {
            FaultKind::Kill | FaultKind::PowerCut => Some(Blow::Crash),
            FaultKind::Disconnect => Some(Blow::Disconnect),
            FaultKind::Pause => Some(Blow::Pause),
            _ => None,
        };
        let trigger = if phase == Phase::AtCommit { Trigger::Commit } else { Trigger::Publish };
        let count = self.random.below(3) as u32;
        let node = &mut self.nodes[index];
        match blow {
            // A connection breaks or a process stands still between a transaction and its announcement.
            Some(Blow::Disconnect | Blow::Pause) | None if phase == Phase::AtCommit => node.ambush.push((kind, phase)),
            None => node.ambush.push((kind, phase)),
            Some(blow) => {
                node.media().fuse = Some((blow, trigger, count));
                *self.outcome.faults.entry((kind, phase)).or_default() += 1;
            }
        }
    }

    pub(super) fn spring_ambush(&mut self, index: usize, committed: bool, announced: bool) -> Checked {
        let waits = self.phase(index) == Phase::Waiting;
        let due = |phase: Phase| match phase {
            Phase::AtCommit => committed,
            Phase::AtPublish => announced,
            Phase::Waiting => waits,
            Phase::Idle | Phase::Standby | Phase::InUnit => false,
        };
        let waiting = std::mem::take(&mut self.nodes[index].ambush);
        let (due, later): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(_, phase)| due(*phase));
        self.nodes[index].ambush = later;
        for (kind, phase) in due {
            if self.faulty && self.nodes[index].is_up() {
                self.strike(index, kind, phase)?;
            }
        }
        Ok(())
    }

    pub(super) fn strike(&mut self, index: usize, kind: FaultKind, phase: Phase) -> Checked {
        let name = self.nodes[index].name.clone();
        self.note(|| format!("FAULT {kind:?} on {name}, {phase:?}"));
        let camera = usize::try_from(self.random.below(self.cameras.len() as u64)).unwrap_or_default();
        match kind {
            // One that stands still hears of it later; patience runs from then on.
            FaultKind::Stop if self.nodes[index].paused_until.is_some() => return Ok(()),
            FaultKind::Stop => {
                self.nodes[index].stop_by_us = Some(self.now_us + STOP_PATIENCE_US);
                self.nodes[index].io.borrow_mut().stopping = true;
                self.after(STOP_PATIENCE_US, Happening::NodeWake(index, u64::MAX));
                self.feed(index, Input::Stop)?;
            }
            FaultKind::Kill => self.stop_node(index, false),
            FaultKind::PowerCut => self.stop_node(index, true),
            FaultKind::Pause => {
                let for_us = self.random.between(100_000, 4_000_000);
                self.pause(index, for_us);
            }
            FaultKind::Disconnect => {
                if self.nodes[index].io.borrow().connected {
                    self.lose_connection(index);
                }
            }
            FaultKind::ClockJump => self.jump_clock(index),
            FaultKind::SlowDown => self.slow_down(index),
            FaultKind::WorkerDies if phase != Phase::InUnit => self.worker_dies(index),
            FaultKind::WorkerDies => self.befall_worker(index, Mishap::Die),
            FaultKind::WorkerHangs => self.befall_worker(index, Mishap::Hang),
            FaultKind::WorkerSlow => self.befall_worker(index, Mishap::Slow),
            FaultKind::WorkerGarbage => self.befall_worker(index, Mishap::Garbage),
            FaultKind::CameraKill => self.kill_camera(camera),
            FaultKind::CameraDisconnect => self.disconnect_camera(camera),
            FaultKind::BrokerRestart => {
                if self.broker_up {
                    self.broker_restarts();
                }
            }
            FaultKind::BusTrouble => self.trouble_bus(),
            FaultKind::DiskLoss => {
                if !self.may_lose_disk(index) {
                    return Ok(());
                }
                self.stop_node(index, true);
                self.nodes[index].media().replace();
                self.memory.forget(index);
            }
        }
        *self.outcome.faults.entry((kind, phase)).or_default() += 1;
        Ok(())
    }

    fn slow_down(&mut self, index: usize) {
        let slowness = self.random.between(1_500, 4_000);
        self.set_slowness(index, slowness);
        let for_us = self.random.between(500_000, 5_000_000);
        self.after(for_us, Happening::Usual(index));
    }

    pub(super) fn speed_up(&mut self, index: usize) {
        self.set_slowness(index, 1_000);
    }

    fn set_slowness(&mut self, index: usize, permille: u64) {
        let node = &mut self.nodes[index];
        node.slowness_permille = permille;
        if let Some(worker) = &mut node.worker {
            worker.slowness_permille = permille;
        }
    }

    fn befall_worker(&mut self, index: usize, mishap: Mishap) {
        if let Some(worker) = &mut self.nodes[index].worker {
            worker.befall(mishap);
        }
    }

    fn trouble_bus(&mut self) {
        self.bus.manners = Manners {
            lost_permille: self.random.below(300),
            repeated_permille: self.random.below(200),
            late_permille: self.random.below(200),
            delay_us_max: self.random.between(1_000, 60_000),
        };
        let for_us = self.random.between(500_000, 4_000_000);
        self.after(for_us, Happening::BusCalms);
    }

    pub(super) fn jump_clock(&mut self, index: usize) {
        let jump_us = self.random.below(3_000_000);
        let clock = &mut self.nodes[index].clock;
        clock.jumped_us = match self.options.sabotage {
            // A clock that people set also goes back.
            Some(Sabotage::WallClockLease) => clock.jumped_us.saturating_sub(3_600_000_000),
            _ => clock.jumped_us + jump_us,
        };
        self.set_wake(index);
    }

    pub(super) fn kill_camera(&mut self, index: usize) {
        if self.cameras[index].up {
            self.cameras[index].up = false;
            self.bus_disconnect(self.cameras[index].client, false);
            let back_us = self.random.between(50_000, 2_000_000);
            self.after(back_us, Happening::CameraStart(index));
        }
    }

    fn disconnect_camera(&mut self, index: usize) {
        let client = self.cameras[index].client;
        if self.bus.clients[client].connected {
            self.bus_disconnect(client, false);
            self.cameras[index].camera.on_disconnected();
            let back_us = self.random.between(100_000, 3_000_000);
            self.after(back_us, Happening::CameraConnect(index));
        }
    }

    /// One disk may be lost at a time, and not the only one: another node holds what cameras have freed, and no other is still
    /// without what it has lost.
    pub(super) fn may_lose_disk(&self, index: usize) -> bool {
        let mut others = (0..self.nodes.len()).filter(|other| *other != index).peekable();
        let alone = others.peek().is_none();
        let whole = others.clone().all(|other| self.memory.is_whole(other, &self.nodes[other].media().disk));
        let held = self.cameras.iter().all(|slot| {
            let reached = others.clone().map(|other| {
                let media = self.nodes[other].media();
                media.disk.chains.get(&slot.camera.chain).map_or(0, |chain| chain.boundary.version.sequence)
            });
            slot.camera.oldest() <= reached.max().unwrap_or(0)
        });
        !alone && whole && held
    }

    pub(super) fn end_faults(&mut self) {
        self.note(|| "the faults stop".to_owned());
        self.faulty = false;
        self.bus.manners = Self::calm();
        for node in &mut self.nodes {
            node.slowness_permille = 1_000;
            node.ambush.clear();
            node.media().fuse = None;
            if let Some(worker) = &mut node.worker {
                worker.slowness_permille = 1_000;
            }
        }
    }
}
