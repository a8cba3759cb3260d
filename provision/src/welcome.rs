//! The login message: what runs, what it sees, and what to do next. Works for everybody, whatever is missing or down.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use microlambda_runtime::{counted, printable, unix_ms};
use openssl::asn1::Asn1Time;
use serde_json::Value;

use crate::broker::TLS_PORT;
use crate::facts::under;
use crate::paths;

/// Nobody waits longer than this for a login message's question, s.
const ASK_S_MAX: u32 = 3;
/// Problems that are shown; the rest is in the file.
const PROBLEMS_SHOWN: usize = 6;
/// An image with older packages is to be replaced, days: each month brings corrections of what reaches from the network.
const IMAGE_AGE_DAYS_MAX: i32 = 180;
/// The state of an established connection in the kernel's list.
const ESTABLISHED: &str = "01";
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
    /// What each says of itself, in one line; missing if it says nothing.
    pub says: BTreeMap<&'static str, String>,
    /// Which of them are set up here.
    pub set_up: Vec<&'static str>,
    /// The image that the device was flashed with; `None` elsewhere.
    pub image: Option<Image>,
    /// What `edge-agent status --json` says.
    pub status: Option<Value>,
    /// Whether no time server has set the clock since the start.
    pub clock_unset: bool,
    /// What is wrong.
    pub problems: Vec<String>,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its version, which ends with the day of its newest Debian package: `0.1.0-20261124`.
    pub version: String,
    /// That day, and how long ago it is by this machine's clock, days; `None` if the version does not tell.
    pub packages: Option<(String, i32)>,
}

impl Image {
    /// From `os-release`; `now_unix_s` is the time.
    fn of(os_release: &str, now_unix_s: i64) -> Option<Self> {
        let version = os_release.lines().find_map(|line| line.strip_prefix("IMAGE_VERSION="))?.trim_matches('"');
        let packages = version.rsplit_once('-').and_then(|(_, day)| {
            let (now, begin) =
                (Asn1Time::from_unix(now_unix_s).ok()?, Asn1Time::from_str(&format!("{day}000000Z")).ok()?);
            let age = begin.diff(&now).ok()?;
            Some((format!("{}-{}-{}", day.get(..4)?, day.get(4..6)?, day.get(6..8)?), age.days))
        });
        Some(Self { version: printable(version), packages })
    }
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
    let (mut services, mut says) = (BTreeMap::new(), BTreeMap::new());
    for (unit, _) in SERVICES {
        let Some((state, line)) = state_of(unit) else { continue };
        // systemd keeps the words of a run that has ended until the next one begins.
        if !line.is_empty() && state == "active" {
            says.insert(unit, line);
        }
        services.insert(unit, state);
    }
    let broker_runs = services.get(SERVICES[0].0).is_some_and(|state| state == "active");
    if let Some(connections) = tls_connections(root).filter(|_| broker_runs) {
        says.insert(SERVICES[0].0, format!("{} over TLS", counted(connections, "connection")));
    }
    let os_release = std::fs::read_to_string(under(root, paths::OS_RELEASE)).unwrap_or_default();
    View {
        host: printable(host.trim()),
        services,
        says,
        set_up,
        image: Image::of(&os_release, i64::try_from(unix_ms() / 1_000).unwrap_or(i64::MAX)),
        clock_unset: exists(paths::TIMESYNC) && !exists(paths::CLOCK_SET),
        status: ask_edge(&["status"]).filter(|_| is_edge),
        problems,
    }
}

/// A unit's state, and what it says of itself.
fn state_of(unit: &str) -> Option<(String, String)> {
    let output = ask("systemctl", &["show", "--property=ActiveState,StatusText", unit])?;
    let property = |name: &str| output.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    let state = printable(property("ActiveState="));
    (!state.is_empty()).then(|| (state, printable(property("StatusText="))))
}

/// Connections to the broker from the network; `None` if the kernel's lists cannot be read.
fn tls_connections(root: &Path) -> Option<u64> {
    let read = |path| std::fs::read_to_string(under(root, path)).ok();
    // Without IPv6 there is no second list.
    let lists = [read(paths::TCP)?, read(paths::TCP6).unwrap_or_default()];
    Some(lists.iter().map(|list| established(list, TLS_PORT)).sum())
}

/// Established connections to a port of this machine, in a list as the kernel gives it.
fn established(list: &str, port: u16) -> u64 {
    let port = format!(":{port:04X}");
    let is_meant = |line: &&str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&port)) && fields.nth(1) == Some(ESTABLISHED)
    };
    list.lines().filter(is_meant).count() as u64
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
        if let Some(line) = view.says.get(unit).filter(|_| is_set_up) {
            text.push_str(&format!("             {line}\n"));
        }
    }
    text.push_str(&seen(view));
    if let Some(image) = &view.image {
        text.push_str(&format!("\n  {}\n", told(image)));
    }
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

/// Which image this is, and what to do about it.
fn told(image: &Image) -> String {
    let Some((day, age_days)) = &image.packages else { return format!("Image {}", image.version) };
    let advice = if *age_days > IMAGE_AGE_DAYS_MAX {
        format!(", {age_days} days old: flash a newer one (docs: operating.md)")
    } else {
        String::new()
    };
    format!("Image {}, with Debian's packages of {day}{advice}", image.version)
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
            ..View::default()
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
    fn what_a_service_says_of_itself_is_told_below_it_if_it_is_used_here() {
        let unplugged = "door: camera /dev/video0, no connection to the broker: is it plugged in";
        let view = View {
            services: SERVICES.map(|(unit, _)| (unit, "active".to_owned())).into(),
            says: [("camera-agent.service", unplugged.to_owned()), ("edge-agent.service", "connected".to_owned())]
                .into(),
            set_up: vec!["camera-agent.service"],
            ..View::default()
        };
        let message = message(&view);
        assert!(message.contains(&format!("  camera     runs\n             {unplugged}\n")), "{message}");
        assert!(!message.contains("  connected"), "{message}");
    }

    #[test]
    fn connections_from_the_network_are_counted_once_they_are_established() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(tls_connections(root.path()), None);
        let list = |lines: &[&str]| format!("  sl  local_address rem_address   st tx_queue\n{}\n", lines.join("\n"));
        let listens = "   0: 00000000:22B3 00000000:0000 0A 00000000:00000000 00:00000000 00000000";
        let comes = "   1: 0A00000A:22B3 0B00000A:C350 01 00000000:00000000 02:000A7D1C 00000000";
        let goes = "   2: 0A00000A:C350 0B00000A:22B3 01 00000000:00000000 02:000A7D1C 00000000";
        std::fs::create_dir_all(under(root.path(), "/proc/1/net")).unwrap();
        std::fs::write(under(root.path(), paths::TCP), list(&[listens, comes, goes])).unwrap();
        assert_eq!(tls_connections(root.path()), Some(1));
        let from_afar =
            "   0: 00000000000000000000000000000001:22B3 00000000000000000000000000000001:C350 01 0:0 0:0 0";
        std::fs::write(under(root.path(), paths::TCP6), list(&[from_afar])).unwrap();
        assert_eq!(tls_connections(root.path()), Some(2));
    }

    #[test]
    fn an_image_is_as_old_as_its_newest_package_and_a_new_one_is_advised_after_half_a_year() {
        let release = "ID=debian\nIMAGE_ID=microlambda\nIMAGE_VERSION=0.1.0-20261124\n";
        let day_unix_s = |days: i64| 1_795_478_400 + days * 86_400;
        let message = |days| {
            let image = Image::of(release, day_unix_s(days));
            message(&View { image, ..View::default() })
        };
        let fresh = message(180);
        assert!(fresh.contains("  Image 0.1.0-20261124, with Debian's packages of 2026-11-24\n"), "{fresh}");
        let old = message(181);
        assert!(old.contains("2026-11-24, 181 days old: flash a newer one (docs: operating.md)\n"), "{old}");
        // The clock of a board without one may be behind.
        assert!(!message(-9000).contains("flash"));
        assert_eq!(Image::of("ID=debian\n", 0), None);
        let unknown = Image::of("IMAGE_VERSION=7", 0).unwrap();
        assert_eq!(told(&unknown), "Image 7");
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
