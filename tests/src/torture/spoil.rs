//! Faults that spoil what an agent has stored: an older copy is put back, all of it is lost, or a page is damaged.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use camera_agent::spool::{Identity, Limits, Spool};
use microlambda_wire::ChainClass;

use super::Error;
use super::fault::Fault;
use super::site::{Role, Site, ask, copy_files};
use super::strike::{Spared, Torturer, Undo};
use crate::sim::random::Random;

/// A copy of a disk is taken for later if the last one is older than this.
const COPY_EVERY: Duration = Duration::from_secs(8);

/// A disk that was set back: until the node has caught up with what it had, no other may lose its own.
pub(super) struct SetBack {
    member: usize,
    until: BTreeMap<String, u64>,
}

impl Torturer {
    /// Keeps a copy of a dead agent's disk, to be put back later.
    pub(super) fn copy(&mut self, site: &Site, member: usize) -> Result<(), Error> {
        if self.copies.get(&member).is_some_and(|(_, at)| at.elapsed() < COPY_EVERY) {
            return Ok(());
        }
        let state = &site.members[member].plot.state;
        let folder = state.with_file_name("older-copy");
        copy_files(state, &folder)?;
        self.copies.insert(member, (folder, Instant::now()));
        Ok(())
    }

    pub(super) fn spoil_store(&mut self, site: &mut Site, fault: Fault) -> Result<Spared, Error> {
        if !self.has_healed(site) {
            return Ok(Err("the chain has not gone on since the last one"));
        }
        if let Some(set_back) = &self.set_back {
            let reached = reached(site, set_back.member).unwrap_or_default();
            if set_back.until.iter().any(|(chain, until)| reached.get(chain).unwrap_or(&0) < until) {
                return Ok(Err("another node has not caught up yet"));
            }
            self.set_back = None;
        }
        let Some(member) = self.pick(site, |role| role == Role::Node) else { return Ok(Err("no node runs")) };
        if fault == Fault::StoreOlder && !self.copies.contains_key(&member) {
            return Ok(Err("there is no older copy"));
        }
        // What cameras have freed must be held by another node: two disks lost at once are not promised.
        let others = site.nodes().into_iter().filter(|other| *other != member);
        let others: Vec<_> = others.filter_map(|other| reached(site, other)).collect();
        self.note_hurt(site, member, true);
        site.members[member].agent.kill();
        site.members[member].down = true;
        let last = self.last();
        self.later(last, Undo::Start(member));
        let Some(had) = reached(site, member) else { return Ok(Err("its state cannot be read")) };
        let held = |(chain, sequence): (&String, &u64)| others.iter().any(|one| one.get(chain) >= Some(sequence));
        if !had.iter().all(held) {
            return Ok(Err("nobody else holds its state"));
        }
        let state = &site.members[member].plot.state;
        match fault {
            Fault::StoreDamaged => damage(&state.join("edge.sqlite"), &mut self.random)?,
            _ => {
                empty(state)?;
                if let (Fault::StoreOlder, Some((copy, _))) = (fault, self.copies.get(&member)) {
                    restore(copy, state)?;
                }
            }
        }
        self.set_back = Some(SetBack { member, until: had });
        Ok(Ok(()))
    }

    pub(super) fn spoil_spool(&mut self, site: &mut Site, fault: Fault) -> Result<Spared, Error> {
        let role = if fault == Fault::FolderSpoolOlder { Role::Folder } else { Role::Live };
        let Some(member) = self.pick(site, |one| one == role) else { return Ok(Err("the camera does not run")) };
        if fault != Fault::CameraReinstalled && !self.copies.contains_key(&member) {
            return Ok(Err("there is no older copy"));
        }
        site.members[member].agent.kill();
        site.members[member].down = true;
        empty(&site.members[member].plot.state)?;
        if fault == Fault::CameraReinstalled {
            // A copy of a chain that was given up is no older copy of this one.
            self.copies.remove(&member);
        } else if let Some((copy, _)) = self.copies.get(&member) {
            restore(copy, &site.members[member].plot.state)?;
            if role == Role::Live {
                let (chain, next) = spool_of(copy)?;
                let reached = site.nodes().into_iter().filter_map(|node| reached(site, node)?.get(&chain).copied());
                if reached.max() > Some(next) {
                    self.given_up.insert(chain);
                    // It is not to be put back once more.
                    self.copies.remove(&member);
                }
            }
        }
        let last = self.last();
        self.later(last, Undo::Start(member));
        Ok(Ok(()))
    }
}

/// How far a node's own database has come, by chain; `None` where it has none yet.
fn reached(site: &Site, member: usize) -> Option<BTreeMap<String, u64>> {
    let status = ask(&site.members[member].agent, &["status", "--json"]).ok()?;
    let chains = status["chains"].as_array().into_iter().flatten();
    let of = |chain: &serde_json::Value| {
        Some((chain["chain"].as_str()?.to_owned(), chain["head"]["version"]["sequence"].as_u64()?))
    };
    Some(chains.filter_map(of).collect())
}

/// The chain in a copy of the live camera's spool, and the number of its next record.
fn spool_of(copy: &Path) -> Result<(String, u64), Error> {
    let identity = Identity { camera: crate::name("live"), class: ChainClass::Live, source: String::new() };
    let spool = Spool::open(copy, &identity, Limits { bytes_max: u64::MAX, frames_max: u64::MAX }, 0)?;
    Ok((spool.view().chain.to_string(), spool.view().next))
}

fn empty(state: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(state)? {
        let path = entry?.path();
        if path.is_file() { fs::remove_file(path)? } else { fs::remove_dir_all(path)? }
    }
    Ok(())
}

fn restore(copy: &Path, state: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(copy)? {
        let entry = entry?;
        fs::copy(entry.path(), state.join(entry.file_name()))?;
    }
    Ok(())
}

/// Overwrites a page in the middle of a file with nonsense, as a dying memory card does.
fn damage(file: &Path, random: &mut Random) -> Result<(), Error> {
    let file = fs::File::options().write(true).open(file)?;
    let pages = file.metadata()?.len() / 4_096;
    let nonsense: Vec<u8> = (0..512).flat_map(|_| random.bits().to_le_bytes()).collect();
    file.write_all_at(&nonsense, random.below(pages) * 4_096)?;
    file.sync_all()?;
    Ok(())
}
