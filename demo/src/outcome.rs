//! What a finished job showed, and whether it fits together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use microlambda_wire::{DONE_PEOPLE_MAX, Name};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::job::{Job, Kill};
use crate::run::{ANNOUNCE_MS, GRACE_MS};
use crate::stillness::Stillness;
use crate::summary::{KnownFace, Memory, SetAside};
use crate::tally::Tally;
use crate::{Agent, Error, passed_over};

/// So many pictures that were passed over are named in the summary.
const REASONS_MAX: usize = 100;
/// An agent that is asked to end gets so long.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// When nothing more of a result has come for so long, no more is waited for: heads were announced twice meanwhile.
const EVENTS_PATIENCE: Duration = Duration::from_millis(2 * ANNOUNCE_MS + GRACE_MS);

/// What a finished job showed.
pub(crate) struct Outcome {
    pub tally: Tally,
    pub digest: String,
    pub kill: Kill,
    pub wall_s: f64,
    pub lists: Vec<(Name, Vec<KnownFace>)>,
    /// What was set aside, as the first node's database tells it; `run` is empty.
    pub set_aside: Vec<SetAside>,
    /// Frames that could not be read, each with the reason, as that database tells it.
    pub unreadable_why: Vec<String>,
    pub memory: BTreeMap<String, Memory>,
    pub refused: u64,
    pub event_repeats: u64,
    pub passed_over: u64,
    pub passed_over_why: Vec<String>,
}

impl Outcome {
    /// Units that were set aside, all of them: the count is part of the final state's name.
    pub fn units_set_aside(&self) -> u64 {
        self.tally.done.as_ref().map_or(0, |done| u64::from(done.head.set_aside))
    }
}

/// Asks every node what it knows, measures, and ends the job's agents.
///
/// # Errors
/// What an agent says against it, or as [`Job::watch`].
pub(crate) fn conclude(mut job: Job<'_>, digest: String, kill: Kill, begun: Instant) -> Result<Outcome, Error> {
    let wall_s = begun.elapsed().as_secs_f64();
    let mut lists = Vec::new();
    let mut memory = BTreeMap::new();
    for (node, agent) in &job.edges {
        lists.push((node.clone(), known_faces(agent)?));
        // Every record is folded again from the database and compared with what the node says.
        agent.ask(&["check"])?;
        memory.insert(node.to_string(), memory_of(agent));
    }
    // All nodes agree on the digest, so that one speaks for all.
    let status = |(_, agent): &(Name, Agent)| told(agent, &["status", "--json"]);
    let report = job.edges.first().map_or_else(|| Ok(NodeReport::default()), status)?;
    let (set_aside, unreadable_why) = (report.set_aside(), report.unreadable());
    if job.camera.exited().is_none() {
        memory.insert("camera".into(), memory_of(&job.camera));
    }
    let_events_come(&mut job, &lists)?;
    for (_, agent) in &mut job.edges {
        agent.terminate(END_PATIENCE);
    }
    let event_repeats = job.observer.event_repeats();
    let mut passed_over_why = passed_over::reasons(job.camera.log());
    // The count comes every few seconds on the bus, the reasons at once in the log.
    let passed_over = job.tally.passed_over().max(passed_over_why.len() as u64);
    passed_over_why.truncate(REASONS_MAX);
    Ok(Outcome {
        tally: job.tally,
        digest,
        kill,
        wall_s,
        lists,
        set_aside,
        unreadable_why,
        memory,
        refused: job.refused,
        event_repeats,
        passed_over,
        passed_over_why,
    })
}

/// What is still on its way on the bus belongs to the result: faces and events follow the commit, and thousands take
/// their time.
fn let_events_come(job: &mut Job<'_>, lists: &[(Name, Vec<KnownFace>)]) -> Result<(), Error> {
    let known = lists.iter().flat_map(|(_, list)| list);
    let mut missing: BTreeSet<Name> = known.filter_map(|face| Name::new(face.face.as_str()).ok()).collect();
    let mut still = Stillness::new(EVENTS_PATIENCE);
    job.watch("events", |job, _| {
        // The job itself is over: this wait has a patience of its own.
        job.went_on();
        missing.retain(|face| !complete(&job.tally, face));
        Ok(missing.is_empty() || still.look(missing.len() as u64, Instant::now()))
    })
}

/// True once a face with its picture, and the event that it was new, whose id it has, have both been seen on the bus.
fn complete(tally: &Tally, face: &Name) -> bool {
    tally.faces.get(face).is_some_and(|known| !known.thumbnail.0.is_empty()) && tally.events.contains_key(face)
}

/// What a command of an agent says in JSON.
fn told<T: DeserializeOwned>(agent: &Agent, command: &[&str]) -> Result<T, Error> {
    let text = agent.ask(command)?;
    serde_json::from_str(&text).map_err(|e| Error::Command {
        command: format!("{} {}", agent.label(), command.join(" ")),
        status: "its output is not the agreed JSON".into(),
        message: e.to_string(),
    })
}

fn known_faces(agent: &Agent) -> Result<Vec<KnownFace>, Error> {
    let mut list: Vec<KnownFace> = told(agent, &["faces", "list", "--json"])?;
    for known in &mut list {
        known.frames.sort();
    }
    list.sort_by(|a, b| a.face.cmp(&b.face));
    Ok(list)
}

/// What is read of `edge-agent status --json`.
#[derive(Default, Deserialize)]
struct NodeReport {
    chains: Vec<ChainReport>,
}

#[derive(Deserialize)]
struct ChainReport {
    #[serde(rename = "set-aside")]
    set_aside: Vec<SetAside>,
    unreadable: Vec<UnreadableFrame>,
}

/// A frame that could not be read.
#[derive(Deserialize)]
struct UnreadableFrame {
    label: String,
    why: String,
}

impl NodeReport {
    fn set_aside(&self) -> Vec<SetAside> {
        self.chains.iter().flat_map(|chain| chain.set_aside.clone()).collect()
    }

    fn unreadable(&self) -> Vec<String> {
        let frames = self.chains.iter().flat_map(|chain| &chain.unreadable);
        frames.map(|frame| format!("{}: {}", frame.label, frame.why)).collect()
    }
}

fn memory_of(agent: &Agent) -> Memory {
    Memory { agent_bytes: agent.usage().rss_bytes, worker_bytes: agent.children_usage().rss_bytes }
}

/// What of a job's result does not fit together.
pub(crate) fn problems(outcome: &Outcome, whose: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let Some((first, list)) = outcome.lists.first() else {
        return vec![format!("{whose}: no node")];
    };
    for (node, other) in &outcome.lists[1..] {
        if other != list {
            problems.push(format!("{whose}: {node} and {first} do not know the same faces in the same frames"));
        }
    }
    let known: BTreeSet<&str> = list.iter().map(|face| face.face.as_str()).collect();
    let announced = outcome.tally.new_faces();
    let announced: BTreeSet<&str> = announced.iter().map(Name::as_str).collect();
    if known != announced {
        let (all, events) = (known.len(), announced.len());
        problems.push(format!("{whose}: {all} faces are known, but events announced {events} new ones, or others"));
    }
    let people = outcome.tally.done.as_ref().map(|done| done.people.as_slice()).unwrap_or_default();
    let named: BTreeSet<&str> = people.iter().map(Name::as_str).collect();
    // A list as long as it may be can have been cut.
    let agrees = if people.len() < DONE_PEOPLE_MAX { named == known } else { named.is_subset(&known) };
    if !agrees {
        problems.push(format!("{whose}: the output names {} people, {} are known", people.len(), known.len()));
    }
    problems
}

/// What is wrong if the digests of two runs differ. Why a unit was set aside is part of the result and names nodes and
/// counts, which differ from run to run: where that happened, digests that differ say nothing.
pub(crate) fn digest_problem(short: &Outcome, long: &Outcome) -> Option<String> {
    let comparable = short.units_set_aside() + long.units_set_aside() == 0;
    (comparable && short.digest != long.digest)
        .then(|| "the digest of the short steps differs from that of the long run".into())
}

#[cfg(test)]
mod tests {
    use microlambda::Head;
    use microlambda_wire::{Blob, DoneNote, EventKind, EventNote, FaceNote};

    use super::*;
    use crate::Note;
    use crate::tally::tests::{done, head, name, seen};

    fn id(number: usize) -> String {
        format!("f{number}")
    }

    /// A job whose only node knows so many people, each reported, and whose output is this one.
    fn outcome(people: usize, digest: &str, done: DoneNote) -> Outcome {
        let mut tally = Tally::default();
        tally.take(&seen(Note::Done(done)));
        let event = |id: &str| EventNote {
            id: name(id),
            kind: EventKind::NewFace,
            face: name(id),
            camera: name("folder"),
            chain: name("c"),
            sequence: 0,
            face_index: 0,
            captured_at_ms: 0,
            label: String::new(),
        };
        let known = |face: String| KnownFace {
            face,
            name: String::new(),
            camera: "folder".into(),
            chain: "c".into(),
            first_seen_ms: 0,
            last_seen_ms: 0,
            frames: Vec::new(),
        };
        for number in 0..people {
            tally.take(&seen(Note::Event(event(&id(number)))));
        }
        Outcome {
            tally,
            digest: digest.into(),
            kill: Kill::Off,
            wall_s: 1.0,
            lists: vec![(name("a"), (0..people).map(id).map(known).collect())],
            set_aside: Vec::new(),
            unreadable_why: Vec::new(),
            memory: BTreeMap::new(),
            refused: 0,
            event_repeats: 0,
            passed_over: 0,
            passed_over_why: Vec::new(),
        }
    }

    fn names(people: usize) -> DoneNote {
        let ids: Vec<String> = (0..people).map(id).collect();
        done(5, &ids.iter().map(String::as_str).collect::<Vec<_>>())
    }

    #[test]
    fn an_output_that_names_as_many_people_as_it_may_need_not_name_all() {
        let found = |people: usize, named: usize| problems(&outcome(people, "d", names(named)), "x");
        assert_eq!(found(3, 3), [""; 0]);
        assert_eq!(found(3, 2), ["x: the output names 2 people, 3 are known"]);
        assert_eq!(found(DONE_PEOPLE_MAX + 1, DONE_PEOPLE_MAX), [""; 0]);
        let strangers = found(DONE_PEOPLE_MAX - 1, DONE_PEOPLE_MAX);
        assert!(strangers.len() == 1 && strangers[0].contains("the output names"), "{strangers:?}");
    }

    #[test]
    fn digests_that_differ_are_a_problem_unless_something_was_set_aside() {
        let sound = |digest: &str| outcome(1, digest, names(1));
        let aside = |digest: &str| outcome(1, digest, DoneNote { head: Head { set_aside: 2, ..head(5) }, ..names(1) });
        assert_eq!(digest_problem(&sound("d"), &sound("d")), None);
        assert!(digest_problem(&sound("d"), &sound("e")).is_some_and(|problem| problem.contains("differs")));
        assert_eq!(digest_problem(&aside("d"), &sound("e")), None);
        assert_eq!(digest_problem(&sound("d"), &aside("e")), None);
        assert_eq!((aside("d").units_set_aside(), sound("d").units_set_aside()), (2, 0));
    }

    #[test]
    fn a_face_is_complete_with_its_picture_and_the_event_that_bears_its_id() {
        let mut tally = outcome(1, "d", names(1)).tally;
        let face = |thumbnail: Vec<u8>| FaceNote {
            face: name("f0"),
            name: String::new(),
            camera: name("folder"),
            chain: name("c"),
            first_sequence: 0,
            first_seen_ms: 0,
            last_seen_ms: 0,
            frames: 1,
            label: String::new(),
            thumbnail: Blob(thumbnail),
        };
        assert!(!complete(&tally, &name("f0")), "no face");
        tally.take(&seen(Note::Face(face(Vec::new()))));
        assert!(!complete(&tally, &name("f0")), "no picture");
        tally.take(&seen(Note::Face(face(vec![1]))));
        assert!(complete(&tally, &name("f0")));
        let mut silent = Tally::default();
        silent.take(&seen(Note::Face(face(vec![1]))));
        assert!(!complete(&silent, &name("f0")), "no event");
    }

    #[test]
    fn what_was_set_aside_or_could_not_be_read_is_read_from_a_node_s_status() {
        let json = r#"{"node":"a","running":true,"chains":[{"chain":"c","totals":{"frames":1},"set-aside":
            [{"sequence":3,"label":"x.jpg","unit":"face 0","why":"a: 3 × killed"}],"unreadable":
            [{"sequence":4,"label":"y.jpg","why":"its data is damaged"}],"failing":null}]}"#;
        let report: NodeReport = serde_json::from_str(json).unwrap();
        assert_eq!(report.unreadable(), ["y.jpg: its data is damaged"]);
        let unit = &report.set_aside()[0];
        assert_eq!((unit.sequence, unit.label.as_str(), unit.unit.as_str()), (3, "x.jpg", "face 0"));
        assert_eq!((unit.run.as_str(), unit.why.as_str()), ("", "a: 3 × killed"));
    }
}
