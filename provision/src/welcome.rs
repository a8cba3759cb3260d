//! The login message: what runs, what it sees, and what to do next. Works for everybody, whatever is missing or down.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use microlambda_runtime::{counted, printable};
use serde_json::Value;

use crate::facts::under;
use crate::paths;

/// Nobody waits longer than this for a login message's question, s.
const ASK_S_MAX: u32 = 3;
/// Problems that are shown; the rest is in the file.
const PROBLEMS_SHOWN: usize = 6;
/// What `microlambda.toml` may say, with comments: installed with this program. The documents are not: the image goes without `/usr/share/doc`.
const EXAMPLE: &str = "/usr/share/microlambda/boot/microlambda.toml";
/// The services, with what they are to a person.
const SERVICES: [(&str, &str); 3] =
    [("mosquitto.service", "broker"), ("camera-agent.service", "camera"), ("edge-agent.service", "edge node")];

/// What the message is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// The host's name.
    pub host: String,
    /// State of each service, such as `active` or `failed`; missing if nobody can tell.
    pub services: BTreeMap<&'static str, String>,
    /// Which of them are set up here.
    pub set_up: Vec<&'static str>,
    /// What `edge-agent status --json` says.
    pub status: Option<Value>,
    /// Whether no time server has set the clock since the start.
    pub clock_unset: bool,
    /// What is wrong.
    pub problems: Vec<String>,
}

/// Looks at the machine. Nothing here needs root, and nothing fails.
pub fn look(root: &Path) -> View {
    let exists = |path: &str| under(root, path).exists();
    let files = [paths::BROKER, paths::CAMERA, paths::EDGE];
    let set_up = SERVICES.iter().zip(files).filter(|(_, file)| exists(file)).map(|((unit, _), _)| *unit).collect();
    let config = under(root, paths::EDGE);
    let ask_edge = |args: &[&str]| {
        let config = config.to_str()?;
        let output = ask("edge-agent", &[args, &["--json", "--config", config]].concat())?;
        serde_json::from_str::<Value>(&output).ok()
    };
    let problems = std::fs::read_to_string(under(root, paths::PROBLEMS)).unwrap_or_default();
    let problems = problems.lines().filter_map(|line| line.strip_prefix("* ")).map(printable).collect();
    let host = std::fs::read_to_string(under(root, "/etc/hostname")).unwrap_or_default();
    let is_edge = exists(paths::EDGE);
    View {
        host: printable(host.trim()),
        services: SERVICES.iter().filter_map(|&(unit, _)| Some((unit, state_of(unit)?))).collect(),
        set_up,
        clock_unset: exists(paths::TIMESYNC) && !exists(paths::CLOCK_SET),
        status: ask_edge(&["status"]).filter(|_| is_edge),
        problems,
    }
}

fn state_of(unit: &str) -> Option<String> {
    let output = ask("systemctl", &["show", "--property=ActiveState", "--value", unit])?;
    Some(printable(output.trim())).filter(|state| !state.is_empty())
}

/// What a program prints, if it succeeds in time.
fn ask(program: &str, args: &[&str]) -> Option<String> {
    let mut command = Command::new("timeout");
    command.arg(ASK_S_MAX.to_string()).arg(program).args(args).stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The message's text.
pub fn message(view: &View) -> String {
    let host = if view.host.is_empty() { "this device" } else { &view.host };
    let mut text = format!("\nMicroLambda on {host}\n\n");
    for (unit, what) in SERVICES {
        let is_set_up = view.set_up.contains(&unit);
        let state = match (view.services.get(unit).map(String::as_str), is_set_up) {
            (_, false) => "not used here",
            (Some("active"), true) => "runs",
            (Some("activating"), true) => "is starting",
            (Some("failed"), true) => "has failed: sudo journalctl -u",
            (Some(_), true) => "does not run: systemctl status",
            (None, true) => "set up; nobody can tell whether it runs",
        };
        let hint = if state.ends_with("-u") || state.ends_with("status") { format!(" {unit}") } else { String::new() };
        text.push_str(&format!("  {what:<10} {state}{hint}\n"));
    }
    text.push_str(&seen(view));
    if view.clock_unset {
        text.push_str("\n  No time server has answered since the start: until one does, pictures and events may carry wrong times\n");
    }
    if !view.problems.is_empty() {
        text.push_str("\nSomething is wrong with the files on the boot partition:\n");
        for problem in view.problems.iter().take(PROBLEMS_SHOWN) {
            text.push_str(&format!("  * {problem}\n"));
        }
        if view.problems.len() > PROBLEMS_SHOWN {
            text.push_str(&format!("  and {} more: see {}\n", view.problems.len() - PROBLEMS_SHOWN, paths::PROBLEMS));
        }
    }
    text.push_str("\nNext:\n");
    for step in next(view) {
        text.push_str(&format!("  {step}\n"));
    }
    text.push('\n');
    text
}

/// What the edge node has seen.
fn seen(view: &View) -> String {
    let chains = view.status.as_ref().and_then(|status| status.get("chains")).and_then(Value::as_array);
    let mut text = String::new();
    if let Some(chains) = chains {
        let people = chains.iter().filter_map(|chain| chain.get("people").and_then(Value::as_u64)).sum();
        let cameras = counted(chains.len() as u64, "chain");
        text.push_str(&format!("\n  {cameras}, {}\n", counted(people, "face")));
    }
    if let Some(trouble) = view.status.as_ref().and_then(|status| status.get("disk-trouble")).and_then(Value::as_str) {
        text.push_str(&format!("  {}\n", printable(trouble)));
    }
    text
}

/// What to do next, the most useful first.
fn next(view: &View) -> Vec<String> {
    let uses = |unit: &str| view.set_up.contains(&unit);
    let mut steps = Vec::new();
    if !view.problems.is_empty() {
        steps.push(
            "correct the file on the boot partition (with sudo, in /boot/firmware), then: sudo reboot".to_owned(),
        );
    }
    if view.set_up.is_empty() {
        steps.push(format!(
            "say (with sudo) what this node is for in /boot/firmware/microlambda.toml (example: {EXAMPLE}), then: sudo reboot"
        ));
        return steps;
    }
    if uses("edge-agent.service") {
        steps.push("sudo edge-agent status              what the chains have reached".to_owned());
        steps.push("sudo edge-agent faces list          who has been seen".to_owned());
    }
    if uses("camera-agent.service") {
        steps.push("sudo camera-agent probe             which cameras there are".to_owned());
    }
    if uses("mosquitto.service") {
        steps.push(
            "sudo microlambda-provision join camera|edge|viewer   let another node, or somebody who watches, in"
                .to_owned(),
        );
    }
    steps.push("sudo journalctl -fu 'camera-agent*' -u 'edge-agent*'   what happens now".to_owned());
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_nobody_set_up_says_how() {
        let message = message(&View::default());
        for part in ["MicroLambda on this device", "/boot/firmware/microlambda.toml", EXAMPLE] {
            assert!(message.contains(part), "{part} in {message}");
        }
        assert_eq!(message.matches("not used here").count(), 3);
    }

    #[test]
    fn what_runs_what_is_seen_and_what_is_wrong_are_told() {
        let view = View {
            host: "hub".into(),
            services: [("mosquitto.service", "active".to_owned()), ("edge-agent.service", "failed".to_owned())].into(),
            set_up: vec!["mosquitto.service", "edge-agent.service"],
            status: Some(serde_json::json!({ "chains": [{ "people": 3 }], "disk-trouble": "the disk has 7 MB left" })),
            clock_unset: true,
            problems: vec!["microlambda.toml, line 3: `site`: no".into(); 9],
        };
        let message = message(&view);
        for part in [
            "broker     runs",
            "sudo journalctl -u edge-agent.service",
            "1 chain, 3 faces",
            "the disk has 7 MB left",
            "No time server",
            "line 3",
            "and 3 more",
            "sudo reboot",
            "join camera|edge|viewer",
        ] {
            assert!(message.contains(part), "{part} in {message}");
        }
    }

    #[test]
    fn what_it_says_to_type_works_for_a_user_who_is_in_group_sudo_alone() {
        let set_up = SERVICES.map(|(unit, _)| unit).to_vec();
        let message = message(&View { set_up, ..View::default() });
        let (_, next) = message.split_once("Next:\n").unwrap();
        let commands: Vec<&str> = next.lines().filter(|line| !line.is_empty()).collect();
        assert!(commands.len() == 5 && commands.iter().all(|line| line.starts_with("  sudo ")), "{message}");
    }

    #[test]
    fn looking_at_an_empty_machine_fails_at_nothing() {
        let root = tempfile::tempdir().unwrap();
        let view = look(root.path());
        assert!(view.set_up.is_empty() && view.problems.is_empty() && view.status.is_none());
        assert!(message(&view).contains("Next:"));
    }
}
