//! The log: fields, not formatted text. To the journal when standard error leads there, else readable lines.

use std::fmt::Write as _;
use std::io::Write as _;

use log::kv::{self, Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};
use systemd_journal_logger::{JournalLog, connected_to_journal};

/// Libraries whose own messages below WARN say nothing to users (rumqttc tells of every packet).
const QUIET_TARGETS: [&str; 1] = ["rumqttc"];

/// The switches `--verbose` and `--quiet`; flatten it into a clap command line.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Verbosity {
    /// Say more: once for what is decided, twice for every frame
    #[arg(short, long, action = clap::ArgAction::Count, global = true, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Say only what needs action
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// Only what needs action.
    Quiet,
    /// What happens: starts, stops, new faces.
    #[default]
    Normal,
    /// What is decided and why.
    Verbose,
    /// Every frame and message.
    Everything,
}

impl From<Verbosity> for Level {
    fn from(switches: Verbosity) -> Self {
        match (switches.quiet, switches.verbose) {
            (true, _) => Self::Quiet,
            (false, 0) => Self::Normal,
            (false, 1) => Self::Verbose,
            (false, _) => Self::Everything,
        }
    }
}

/// Installs the logger for this process: call once, first thing in `main`. A second call changes nothing.
pub fn init(level: impl Into<Level>) {
    let filter = match level.into() {
        Level::Quiet => LevelFilter::Warn,
        Level::Normal => LevelFilter::Info,
        Level::Verbose => LevelFilter::Debug,
        Level::Everything => LevelFilter::Trace,
    };
    let sink: Box<dyn Log> = match connected_to_journal().then(JournalLog::new) {
        Some(Ok(journal)) => Box::new(Journal(journal)),
        Some(Err(_)) | None => Box::new(Lines),
    };
    if log::set_boxed_logger(Box::new(Filtered { sink })).is_ok() {
        log::set_max_level(filter);
    }
}

/// Leaves out what libraries tell below WARN.
struct Filtered {
    sink: Box<dyn Log>,
}

impl Log for Filtered {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let root = metadata.target().split("::").next().unwrap_or_default();
        metadata.level() <= log::max_level()
            && (metadata.level() <= log::Level::Warn || !QUIET_TARGETS.iter().any(|target| root.starts_with(target)))
            && self.sink.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.sink.log(record);
        }
    }

    fn flush(&self) {
        self.sink.flush();
    }
}

/// The journal. Fields are fields there, to search by; they stand in the text too, as `journalctl` and `systemctl status`
/// show nothing else, and the reason and the remedy are often among them.
struct Journal(JournalLog);

impl Log for Journal {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        let text = text_of(record);
        self.0.log(&record.to_builder().args(format_args!("{text}")).build());
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// Lines on standard error: `time LEVEL message key=value …`.
struct Lines;

impl Log for Lines {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = format_line(record, crate::clock::unix_ms());
        // Whoever closed standard error does not want to read it.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

/// One line for `record`; the time of day is UTC.
fn format_line(record: &Record<'_>, unix_ms: u64) -> String {
    let day_ms = unix_ms % 86_400_000;
    let (h, m, s, ms) = (day_ms / 3_600_000, day_ms / 60_000 % 60, day_ms / 1_000 % 60, day_ms % 1_000);
    let line = format!("{h:02}:{m:02}:{s:02}.{ms:03}Z {:5} {}", record.level(), text_of(record));
    // A message of several lines stays one entry: the lines after the first are indented.
    let mut line = line.trim_end().replace('\n', "\n    ");
    line.push('\n');
    line
}

/// The message with its fields: `message key=value …`.
fn text_of(record: &Record<'_>) -> String {
    let mut text = record.args().to_string();
    let _ = record.key_values().visit(&mut Fields(&mut text));
    text
}

struct Fields<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let text = value.to_string();
        let bare = !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"');
        let written = if bare { write!(self.0, " {key}={text}") } else { write!(self.0, " {key}={text:?}") };
        written.map_err(|_| kv::Error::msg("out of memory"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(level: log::Level, fields: &[(&str, Value<'_>)]) -> String {
        let record = Record::builder().args(format_args!("spool opened")).level(level).key_values(&fields).build();
        format_line(&record, 3_723_004)
    }

    #[test]
    fn a_line_shows_time_level_message_and_fields() {
        let fields = [("frames", Value::from(3)), ("file", Value::from("a b.jpg"))];
        assert_eq!(line(log::Level::Info, &fields), "01:02:03.004Z INFO  spool opened frames=3 file=\"a b.jpg\"\n");
    }

    #[test]
    fn the_journals_text_has_the_fields_too_for_the_reason_is_among_them() {
        let fields = [("why", Value::from("no such device: plug it in")), ("pause_ms", Value::from(500))];
        let record = Record::builder().args(format_args!("the source failed")).key_values(&fields).build();
        assert_eq!(text_of(&record), "the source failed why=\"no such device: plug it in\" pause_ms=500");
    }

    #[test]
    fn a_field_cannot_forge_a_second_line() {
        let forged = line(log::Level::Warn, &[("label", Value::from("x\n01:02:03 ERROR fake"))]);
        assert_eq!(forged.lines().count(), 1);
    }

    #[test]
    fn switches_choose_the_level() {
        let level = |verbose, quiet| Level::from(Verbosity { verbose, quiet });
        assert_eq!(level(0, false), Level::Normal);
        assert_eq!(level(1, false), Level::Verbose);
        assert_eq!(level(7, false), Level::Everything);
        assert_eq!(level(0, true), Level::Quiet);
    }

    #[test]
    fn libraries_are_heard_only_when_they_warn() {
        log::set_max_level(LevelFilter::Trace);
        let filtered = Filtered { sink: Box::new(Lines) };
        let enabled = |target, level| filtered.enabled(&Metadata::builder().target(target).level(level).build());
        assert!(!enabled("rumqttc::state", log::Level::Info));
        assert!(enabled("rumqttc::state", log::Level::Warn));
        assert!(enabled("camera_agent", log::Level::Trace));
    }
}
