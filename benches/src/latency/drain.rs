//! A node is stopped in the middle of its work: when is its agent gone, and when does the peer go on?

use std::time::Duration;

use microlambda_demo::monotonic_us;
use microlambda_wire::Name;
use serde::Serialize;

use super::{PATIENCE, Work, claim_of};
use crate::random::Random;
use crate::{Error, Site, ms};

/// The nodes; one of them stays.
const NODES: [&str; 2] = ["a", "b"];
/// An agent ends within this time of SIGTERM, or something is wrong.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// One stop.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Drain {
    /// From SIGTERM to the end of the agent's process, ms.
    pub gone_ms: f64,
    /// From SIGTERM to the claim of the peer for the next step, ms.
    pub peer_ms: f64,
}

/// Stops the node that runs a job's steps; its peer waits for them.
///
/// # Errors
/// What a site can give, or an agent that does not end in order.
pub fn drain(work: &Work, r_limit_ms: u64, random: &mut Random) -> Result<Drain, Error> {
    let (mut site, folder) = work.site(&NODES, r_limit_ms)?;
    work.begin(&mut site, &folder, random)?;
    let node = site.tally.claim.as_ref().map(|claim| claim.node.clone()).ok_or("nobody runs the job's step")?;
    let drain = stop(&mut site, &node)?;
    eprintln!("{}: {node}, {drain:?}", super::title(r_limit_ms));
    Ok(drain)
}

fn stop(site: &mut Site, node: &Name) -> Result<Drain, Error> {
    let agent = site.node(node)?;
    let at_us = monotonic_us();
    let status = agent.terminate(END_PATIENCE).ok_or_else(|| format!("{node} does not end"))?;
    let gone_us = monotonic_us();
    if !status.success() {
        return Err(format!("{node} ended with {status}\n{}", site.logs()).into());
    }
    let mut claimed_at_us = 0;
    site.wait_for("claim of the peer", PATIENCE, |_, seen| {
        let claim = claim_of(seen).filter(|(claim, at)| claim.node != node.as_str() && *at > at_us);
        claimed_at_us = claim.map_or(0, |(_, at_us)| at_us);
        claim.is_some()
    })?;
    Ok(Drain { gone_ms: ms(gone_us - at_us), peer_ms: ms(claimed_at_us - at_us) })
}
