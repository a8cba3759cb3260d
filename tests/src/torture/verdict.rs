//! Whether the outcome is the one that was promised, read from the nodes' databases.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Error;
use super::site::{Site, ask};

/// Everything is done and told within this after the faults stop.
pub const CALM_PATIENCE: Duration = Duration::from_secs(150);
/// Between two looks at the databases.
const LOOK: Duration = Duration::from_millis(500);

/// What nodes count when something reached a bound that must hold, or when content was not what it said: never, whatever
/// happens to them.
const NEVER: [&str; 6] =
    ["forks-too-deep", "name-clashes", "chains-refused", "peers-refused", "other-lambda", "worker-nonsense"];

/// An event as two runs over the same pictures have it: without the names of chain and face.
pub type EventKey = (u64, u32, String, String, u64);

/// One node's database.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// Chain: head, done, class, people.
    chains: BTreeMap<String, Value>,
    /// Events by id.
    events: BTreeMap<String, Value>,
    /// Events that were not seen on the bus.
    waiting: usize,
    /// Rows of `events` that had an id again.
    double: usize,
}

/// What a finite job came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobOutcome {
    /// Digest of the final state.
    pub digest: String,
    /// Every event.
    pub events: BTreeSet<EventKey>,
}

/// What was found at the end.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Findings {
    /// Chains that every node holds with the same head.
    pub chains: usize,
    /// Events that every node holds.
    pub events: usize,
    /// Records in the newest live chain.
    pub live_records: u64,
    /// From the end of the faults until everything was done and told, ms.
    pub calm_ms: u64,
}

/// Reads a node's database.
///
/// # Errors
/// It cannot be read.
pub fn held(site: &Site, member: usize) -> Result<Held, Error> {
    let agent = &site.members[member].agent;
    let status = ask(agent, &["status", "--json"])?;
    let rows = ask(agent, &["events", "--json", "--last", "1000000"])?;
    let mut chains = BTreeMap::new();
    for chain in status["chains"].as_array().into_iter().flatten() {
        let mut chain = chain.clone();
        // A camera that was reinstalled at once leaves a chain without a record, of which only those know who heard of it.
        let version = &chain["head"]["version"];
        if version["sequence"] == 0 && version["unit"] == 0 {
            continue;
        }
        // Who made the head is no part of it.
        chain["holder"] = Value::Null;
        // What failed last on this node is its own.
        chain["failing"] = Value::Null;
        chains.insert(chain["chain"].as_str().unwrap_or_default().to_owned(), chain);
    }
    let (mut events, mut waiting, mut count) = (BTreeMap::new(), 0, 0);
    for row in rows.as_array().into_iter().flatten() {
        count += 1;
        waiting += usize::from(row["on_bus"] != Value::Bool(true));
        let mut row = row.clone();
        row["on_bus"] = Value::Null;
        events.insert(row["id"].as_str().unwrap_or_default().to_owned(), row);
    }
    let double = count - events.len();
    Ok(Held { chains, events, waiting, double })
}

impl Held {
    /// What the finite job of the folder camera came to; `None` until it is done.
    pub fn job(&self) -> Option<JobOutcome> {
        let (name, chain) = self.chains.iter().find(|(_, c)| c["camera"] == "folder" && c["done"] == true)?;
        let of = |row: &&Value| row["chain"] == name.as_str();
        Some(JobOutcome {
            digest: chain["head"]["digest"].to_string(),
            events: self.events.values().filter(of).map(key).collect(),
        })
    }
}

fn key(row: &Value) -> EventKey {
    let number = |field: &str| row[field].as_u64().unwrap_or(u64::MAX);
    let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
    (number("sequence"), number("face_index") as u32, text("kind"), text("label"), number("captured_at_ms"))
}

/// Waits until the job is done on every node, the live chain has caught up, and everything was told on the bus.
///
/// # Errors
/// It is not within [`CALM_PATIENCE`]; the message says what is missing.
pub fn wait_for_calm(site: &mut Site, since: Instant) -> Result<(Vec<Held>, Findings), Error> {
    let mut why = String::new();
    while since.elapsed() < CALM_PATIENCE {
        site.watch.listen(LOOK);
        site.supervise()?;
        match look(site) {
            Ok((held, mut findings)) => {
                findings.calm_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                return Ok((held, findings));
            }
            Err(error) => why = error.to_string(),
        }
    }
    Err(format!("{} s after the faults stopped: {why}", CALM_PATIENCE.as_secs()).into())
}

fn look(site: &Site) -> Result<(Vec<Held>, Findings), Error> {
    let nodes = site.nodes();
    let all = nodes.iter().map(|member| held(site, *member)).collect::<Result<Vec<Held>, Error>>()?;
    let Some(first) = all.first() else { return Err("there is no node".into()) };
    let mut live_records = 0;
    for (one, member) in all.iter().zip(&nodes) {
        let node = site.members[*member].name;
        if one.job().is_none() {
            return Err(format!("the folder's job is not done on {node}").into());
        }
        if let Some(live) = newest_live(site) {
            let version = one.chains.get(&live.0).map(|chain| chain["head"]["version"].clone()).unwrap_or_default();
            if version["sequence"].as_u64().unwrap_or(0) != live.1 {
                return Err(format!("{node} is at {version} of {}, which has {} records", live.0, live.1).into());
            }
            live_records = live.1;
        }
        if one.waiting > 0 {
            return Err(format!("{node} has not heard {} of its events on the bus", one.waiting).into());
        }
        if one.chains != first.chains {
            let differ = difference(&one.chains, &first.chains);
            return Err(format!("{node} and {} differ: {differ}", site.members[nodes[0]].name).into());
        }
    }
    Ok((all.clone(), Findings { chains: first.chains.len(), events: first.events.len(), live_records, calm_ms: 0 }))
}

/// The live camera's chain and how many records it has.
fn newest_live(site: &Site) -> Option<(String, u64)> {
    let name = site.watch.live_chain.as_ref()?;
    let head = site.watch.chains.get(name)?.camera.as_ref()?;
    Some((name.to_string(), head.next))
}

/// Checks that all nodes hold the same, that the job came to what it comes to undisturbed, and that each database folds again to
/// what it says. The nodes have been stopped.
///
/// # Errors
/// What is wrong.
pub fn judge(site: &Site, all: &[Held], undisturbed: &JobOutcome) -> Result<(), Error> {
    let nodes = site.nodes();
    let broken = NEVER.into_iter().filter(|counter| site.watch.counter(counter) > 0).collect::<Vec<_>>();
    if !broken.is_empty() {
        return Err(format!("nodes count what must never be: {broken:?}").into());
    }
    for (one, member) in all.iter().zip(&nodes) {
        let node = site.members[*member].name;
        if one.double > 0 {
            return Err(format!("{node} holds {} events under an id that another has", one.double).into());
        }
        if one.events != all[0].events {
            let differ = difference(&one.events, &all[0].events);
            return Err(format!("{node} and {} hold other events: {differ}", site.members[nodes[0]].name).into());
        }
        let job = one.job().ok_or("the job is not done")?;
        if job.digest != undisturbed.digest {
            return Err(format!("{node}: the job came to {}, undisturbed to {}", job.digest, undisturbed.digest).into());
        }
        if job.events != undisturbed.events {
            let missing: Vec<_> = undisturbed.events.difference(&job.events).collect();
            let more: Vec<_> = job.events.difference(&undisturbed.events).collect();
            return Err(format!("{node}: events of the job missing: {missing:?}; too many: {more:?}").into());
        }
        let unheard: Vec<_> = one.events.keys().filter(|id| !site.watch.has_seen(id)).collect();
        if !unheard.is_empty() && site.watch.lost == 0 {
            return Err(format!("{node} believes these to have been on the bus, and they were not: {unheard:?}").into());
        }
        let check = ask(&site.members[*member].agent, &["check", "--json"])?;
        if check["sound"] != true {
            return Err(format!("{node}'s database is not sound: {check}").into());
        }
    }
    Ok(())
}

/// What two maps differ in, cut short.
fn difference(one: &BTreeMap<String, Value>, other: &BTreeMap<String, Value>) -> String {
    let keys: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let differ = keys.into_iter().filter(|key| one.get(*key) != other.get(*key));
    let tell = |key: &String| {
        let show = |value: Option<&Value>| value.map_or("nothing".to_owned(), ToString::to_string);
        format!("{key}: {} and {}", show(one.get(key)), show(other.get(key)))
    };
    differ.take(4).map(tell).collect::<Vec<_>>().join("; ")
}
