//! The summary of a run: `summary.json`, and its text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use microlambda_runtime::{counted, printable};
use serde::{Deserialize, Serialize};

/// So many reasons for passing a picture over, or setting a part of one aside, stand in the text.
const REASONS_MAX: usize = 10;

/// One known face as `edge-agent faces list --json` gives it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KnownFace {
    /// The face's id.
    pub face: String,
    /// A name given by people, or empty.
    #[serde(default)]
    pub name: String,
    /// The camera that it was first seen by.
    pub camera: String,
    /// The chain that it was first seen in.
    pub chain: String,
    /// When first seen, ms since 1970.
    pub first_seen_ms: u64,
    /// When last seen, ms since 1970.
    pub last_seen_ms: u64,
    /// The frames it was seen in.
    pub frames: Vec<FaceFrame>,
}

/// A frame that a face was seen in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FaceFrame {
    /// The frame's number in its chain.
    pub sequence: u64,
    /// What the camera calls it.
    pub label: String,
}

/// One person of the summary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// The face's id.
    pub face: String,
    /// A name given by people, or empty.
    pub name: String,
    /// When first seen, ms since 1970.
    pub first_seen_ms: u64,
    /// When last seen, ms since 1970.
    pub last_seen_ms: u64,
    /// The frames it was seen in, by what the camera calls them.
    pub frames: Vec<String>,
}

impl From<&KnownFace> for Person {
    fn from(known: &KnownFace) -> Self {
        Self {
            face: known.face.clone(),
            name: known.name.clone(),
            first_seen_ms: known.first_seen_ms,
            last_seen_ms: known.last_seen_ms,
            frames: known.frames.iter().map(|frame| frame.label.clone()).collect(),
        }
    }
}

/// What became of the node that was killed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    /// The node that was killed.
    pub node: String,
    /// Records done when it was.
    pub at_sequence: u64,
    /// From the kill to the first unit of the next step, on whatever node, ms.
    pub recovery_ms: f64,
    /// The node that went on.
    pub by: String,
    /// What the recovery should not exceed: `r_limit` and the grace, ms.
    pub bound_ms: u64,
    /// From its restart until the killed node was online again, ms.
    pub back_ms: Option<f64>,
}

/// Memory of one process at the end of the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Resident memory of the agent, bytes.
    pub agent_bytes: u64,
    /// Resident memory of its worker, bytes; 0 if it has none.
    pub worker_bytes: u64,
}

/// A unit that was set aside: a part of a frame that the worker could not search however often it was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// In which of the two: `short steps` or `long run`.
    #[serde(default)]
    pub run: String,
    /// The frame's number.
    pub sequence: u64,
    /// What the camera calls the frame.
    pub label: String,
    /// What of the frame: `frame`, `tile 3`, `face 0`.
    pub unit: String,
    /// On which nodes it failed, how often and how.
    pub why: String,
}

impl SetAside {
    fn text(&self) -> String {
        let Self { run, sequence, unit, .. } = self;
        format!("{run}: {unit} of frame {sequence}, {}: {}", printable(&self.label), printable(&self.why))
    }
}

/// All that a run found, as written to `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// True if everything agreed that can be compared.
    pub ok: bool,
    /// What did not, for people.
    pub problems: Vec<String>,
    /// Frames that were searched for faces.
    pub frames: u64,
    /// Frames that could not be read.
    pub unreadable: u64,
    /// Why each of the newest of them could not, with what the camera calls it.
    pub unreadable_why: Vec<String>,
    /// Pictures that the camera could not take in: they are not among the frames.
    pub passed_over: u64,
    /// The camera's reason for each of the first of them, with the file's name.
    pub passed_over_why: Vec<String>,
    /// Units that were set aside in either run, by name: of each those in the newest 50 frames that have any.
    pub set_aside: Vec<SetAside>,
    /// How many there are in both runs. The reason of each is part of the result and names nodes and counts: if there
    /// are any, digests that differ are nothing wrong.
    pub units_set_aside: u64,
    /// Frames that the camera encoded anew.
    pub reencoded: u64,
    /// Faces seen, usable or not.
    pub faces_seen: u64,
    /// Everybody, in the order first seen.
    pub people: Vec<Person>,
    /// Steps of the chain.
    pub steps: u64,
    /// How many steps each node ran.
    pub steps_per_node: BTreeMap<String, u64>,
    /// Steps that ran on another node than the one before.
    pub migrations: u64,
    /// Steps that a node took over after another one's claim expired.
    pub takeovers: u64,
    /// From the kill to the first unit of the next step, ms; absent if nobody was killed.
    pub recovery_ms: Option<f64>,
    /// More about the kill.
    pub kill: Option<Recovery>,
    /// Steps that exceeded `r_limit`, those whose worker was killed for it included.
    pub overruns: u64,
    /// By how much at most, ms.
    pub overrun_max_ms: f64,
    /// Workers that were killed because they ran beyond the limit: of these steps there is no result.
    pub worker_kills: u64,
    /// The limit, ms.
    pub r_limit_ms: u64,
    /// Digest of the final state.
    pub digest: String,
    /// The same of one long invocation over the same frames on an empty database.
    pub digest_long_run: String,
    /// Whether they are the same.
    pub digests_equal: bool,
    /// Steps that the long run took.
    pub long_run_steps: u64,
    /// True if it took several as the camera's spool does not hold all photos at once: only a commit makes room.
    pub long_run_in_parts: bool,
    /// From the first agent's start to the end of the chain, s.
    pub wall_s: f64,
    /// The same of the long run, s.
    pub long_run_wall_s: f64,
    /// CPU time of all workers in announced steps, s.
    pub worker_cpu_s: f64,
    /// Events that came more than once under one id.
    pub event_repeats: u64,
    /// Messages on our topics that were not ours.
    pub refused_messages: u64,
    /// How many edge agents took part.
    pub nodes: u64,
    /// The broker that carried the messages, for people.
    pub broker: String,
    /// What kept the agents apart.
    pub isolation: String,
    /// Memory of every agent at the end.
    pub memory: BTreeMap<String, Memory>,
}

impl Summary {
    /// The summary for people, one fact a line.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |label: &str, value: String| {
            let _ = writeln!(text, "  {label:<18}{value}");
        };
        let unreadable = if self.unreadable > 0 { format!(", {} unreadable", self.unreadable) } else { String::new() };
        line("frames", format!("{}{unreadable}", self.frames));
        let shown = self.unreadable_why.len().min(REASONS_MAX);
        for why in &self.unreadable_why[..shown] {
            line("", printable(why));
        }
        let more = self.unreadable.saturating_sub(shown as u64);
        if shown > 0 && more > 0 {
            line("", format!("and {more} more that could not be read"));
        }
        if self.passed_over > 0 {
            line("passed over", format!("{} that the camera could not use", counted(self.passed_over, "picture")));
            for why in self.passed_over_why.iter().take(REASONS_MAX) {
                line("", printable(why));
            }
            let more = self.passed_over.saturating_sub(REASONS_MAX as u64);
            if more > 0 {
                line("", format!("and {more} more, which the camera's log names"));
            }
        }
        if self.units_set_aside > 0 {
            line("set aside", format!("{} that could not be searched", counted(self.units_set_aside, "unit")));
            let shown = self.set_aside.len().min(REASONS_MAX);
            for unit in &self.set_aside[..shown] {
                line("", unit.text());
            }
            let more = self.units_set_aside.saturating_sub(shown as u64);
            if more > 0 {
                line("", format!("and {more} more"));
            }
        }
        line("people", format!("{} ({} seen)", self.people.len(), counted(self.faces_seen, "face")));
        let per_node: Vec<String> = self.steps_per_node.iter().map(|(node, n)| format!("{node} {n}")).collect();
        line("steps", format!("{} ({})", self.steps, per_node.join(", ")));
        line("migrations", self.migrations.to_string());
        let largest =
            if self.overruns > 0 { format!(", the largest {:.1} ms", self.overrun_max_ms) } else { String::new() };
        line(
            "limit overruns",
            format!("{} of {} (r_limit {} ms){largest}", self.overruns, counted(self.steps, "step"), self.r_limit_ms),
        );
        if self.worker_kills > 0 {
            line("workers killed", format!("{} ran beyond the limit", self.worker_kills));
        }
        match &self.kill {
            Some(kill) => line("recovery", kill_text(kill)),
            None => line("recovery", "nobody was killed".into()),
        }
        line("event repeats", self.event_repeats.to_string());
        line("time", format!("{:.1} s, workers' CPU {:.1} s", self.wall_s, self.worker_cpu_s));
        line("apart", self.isolation.clone());
        line("digest", self.digest.clone());
        let steps = counted(self.long_run_steps, "step");
        let same = match (self.digests_equal, self.is_comparable()) {
            (true, _) => "the same",
            (false, true) => "DIFFERENT",
            (false, false) => "not comparable, as a picture could not be searched",
        };
        let label = if self.long_run_in_parts { "long run in parts" } else { "one long run" };
        line(label, format!("{} ({same}; {steps}, {:.1} s)", self.digest_long_run, self.long_run_wall_s));
        for problem in &self.problems {
            line("PROBLEM", problem.clone());
        }
        text
    }

    /// Whether digests that differ would mean that something is wrong.
    pub(crate) fn is_comparable(&self) -> bool {
        self.units_set_aside == 0
    }

    /// What the digest of the short steps is compared with.
    pub(crate) fn long_run(&self) -> &'static str {
        if self.long_run_in_parts { "a long run in parts" } else { "one long run" }
    }

    /// The last word on a run without problems.
    pub(crate) fn verdict(&self) -> String {
        let steps = counted(self.steps, "short step");
        let nodes = counted(self.steps_per_node.len() as u64, "node");
        let long = self.long_run();
        if self.digests_equal {
            return format!("{steps} on {nodes} and {long} came to the same digest.");
        }
        let units = counted(self.units_set_aside, "unit");
        format!(
            "{steps} on {nodes} came to one result. Its digest cannot be compared with that of {long}: {units} could \
             not be searched, and each run records why in its own words."
        )
    }
}

fn kill_text(kill: &Recovery) -> String {
    let Recovery { node, by, recovery_ms, bound_ms, .. } = kill;
    let within = if *recovery_ms <= *bound_ms as f64 { "within" } else { "over" };
    let back = kill.back_ms.map_or(String::new(), |ms| format!("; {node} was back {ms:.0} ms after its restart"));
    format!("{by} went on {recovery_ms:.0} ms after {node} was killed ({within} {bound_ms} ms){back}")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn summary() -> Summary {
        Summary {
            ok: true,
            problems: Vec::new(),
            frames: 7,
            unreadable: 0,
            unreadable_why: Vec::new(),
            passed_over: 0,
            passed_over_why: Vec::new(),
            set_aside: Vec::new(),
            units_set_aside: 0,
            reencoded: 0,
            faces_seen: 9,
            people: vec![Person {
                face: "f1".into(),
                name: String::new(),
                first_seen_ms: 1_600_000_000_000,
                last_seen_ms: 1_600_000_001_000,
                frames: vec!["a.jpg".into(), "b.jpg".into()],
            }],
            steps: 12,
            steps_per_node: [("node-a".to_string(), 5), ("node-b".to_string(), 7)].into(),
            migrations: 6,
            takeovers: 1,
            recovery_ms: Some(612.4),
            kill: Some(Recovery {
                node: "node-a".into(),
                at_sequence: 4,
                recovery_ms: 612.4,
                by: "node-b".into(),
                bound_ms: 900,
                back_ms: Some(410.0),
            }),
            overruns: 0,
            overrun_max_ms: 0.0,
            worker_kills: 0,
            r_limit_ms: 400,
            digest: "ab".into(),
            digest_long_run: "ab".into(),
            digests_equal: true,
            long_run_steps: 1,
            long_run_in_parts: false,
            wall_s: 9.5,
            long_run_wall_s: 4.25,
            worker_cpu_s: 6.0,
            event_repeats: 2,
            refused_messages: 0,
            nodes: 2,
            broker: "embedded".into(),
            isolation: "none".into(),
            memory: BTreeMap::new(),
        }
    }

    #[test]
    fn a_summary_survives_its_file() {
        let summary = summary();
        let json = serde_json::to_string_pretty(&summary).unwrap();
        assert_eq!(serde_json::from_str::<Summary>(&json).unwrap(), summary);
    }

    #[test]
    fn the_text_tells_the_recovery_its_bound_and_the_digests() {
        let text = summary().text();
        assert!(text.contains("node-b went on 612 ms after node-a was killed (within 900 ms)"), "{text}");
        assert!(text.contains("ab (the same; 1 step, 4.2 s)"), "{text}");
        assert!(text.contains("12 (node-a 5, node-b 7)"), "{text}");
        let late = Summary { digests_equal: false, problems: vec!["digests differ".into()], ..summary() };
        assert!(late.text().contains("DIFFERENT") && late.text().contains("PROBLEM           digests differ"));
    }

    fn set_aside(run: &str, sequence: u64) -> SetAside {
        let (unit, why) = ("face 0".into(), "node-a: 3 × killed\u{1b}".into());
        SetAside { run: run.into(), sequence, label: "a.jpg".into(), unit, why }
    }

    #[test]
    fn what_was_set_aside_is_named_and_digests_that_differ_are_then_no_problem() {
        let sound = summary();
        assert!(sound.is_comparable() && !sound.text().contains("set aside"), "{}", sound.text());
        assert_eq!(sound.verdict(), "12 short steps on 2 nodes and one long run came to the same digest.");
        let units = vec![set_aside("short steps", 3), set_aside("long run", 4)];
        let aside = Summary { set_aside: units, units_set_aside: 2, digests_equal: false, ..summary() };
        let text = aside.text();
        assert!(text.contains("set aside         2 units that could not be searched"), "{text}");
        assert!(text.contains("short steps: face 0 of frame 3, a.jpg: node-a: 3 × killed\\u{1b}\n"), "{text}");
        assert!(text.contains("long run: face 0 of frame 4") && !text.contains(" more\n"), "{text}");
        assert!(text.contains("ab (not comparable, as a picture") && !text.contains("DIFFERENT"), "{text}");
        let verdict = aside.verdict();
        assert!(verdict.contains("cannot be compared with that of one long run: 2 units"), "{verdict}");
        let many = (0..12).map(|n| set_aside("short steps", n)).collect();
        let text = Summary { set_aside: many, units_set_aside: 70, ..summary() }.text();
        assert!(text.contains("frame 9,") && !text.contains("frame 10,") && text.contains("and 60 more"), "{text}");
        assert!(text.contains("(the same;"), "equal digests are equal whatever was set aside: {text}");
    }

    #[test]
    fn a_long_run_that_the_spool_cut_is_not_called_one() {
        let cut = Summary { long_run_in_parts: true, long_run_steps: 3, ..summary() };
        let text = cut.text();
        assert!(text.contains("long run in parts ab (the same; 3 steps, ") && !text.contains("one long run"), "{text}");
        assert_eq!(cut.verdict(), "12 short steps on 2 nodes and a long run in parts came to the same digest.");
    }

    #[test]
    fn pictures_that_were_passed_over_are_counted_and_named() {
        assert!(!summary().text().contains("passed over"));
        let why = (0..12).map(|n| format!("{n}.jpg: it is empty\u{1b}")).collect();
        let text = Summary { passed_over: 12, passed_over_why: why, ..summary() }.text();
        assert!(text.contains("passed over       12 pictures that the camera could not use"), "{text}");
        assert!(text.contains("9.jpg: it is empty\\u{1b}") && text.contains("and 2 more"), "{text}");
        let one = Summary { passed_over: 1, faces_seen: 1, steps: 1, ..summary() }.text();
        assert!(one.contains("1 picture that") && one.contains("(1 face seen)") && one.contains("0 of 1 step "));
    }

    #[test]
    fn frames_that_could_not_be_read_are_named_with_the_reason() {
        assert!(summary().text().contains("frames            7\n"), "{}", summary().text());
        let why = (0..12).map(|n| format!("{n}.jpg: its data is damaged\u{1b}")).collect();
        let text = Summary { unreadable: 60, unreadable_why: why, ..summary() }.text();
        assert!(text.contains("frames            7, 60 unreadable\n"), "{text}");
        assert!(text.contains("  9.jpg: its data is damaged\\u{1b}\n") && !text.contains("10.jpg"), "{text}");
        assert!(text.contains("and 50 more that could not be read"), "{text}");
    }

    #[test]
    fn a_face_list_of_an_agent_is_read_with_fields_that_are_new_to_us() {
        let json = r#"[{"face":"f","name":"","camera":"c","chain":"k","first_seen_ms":1,"last_seen_ms":2,
            "frames":[{"sequence":3,"label":"x.jpg"}],"thumbnail_bytes":77}]"#;
        let list: Vec<KnownFace> = serde_json::from_str(json).unwrap();
        assert_eq!(Person::from(&list[0]).frames, ["x.jpg"]);
    }
}
