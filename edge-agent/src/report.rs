//! `faces`, `status`, `check`, `validate`: read what a node has stored and show it.

use std::path::Path;

use microlambda::Version;
use microlambda_faces::fold::lambda_digest;
use microlambda_runtime::{counted, printable};
use microlambda_wire::EventKind;
use serde::ser::{Serialize, SerializeSeq as _, Serializer as _};
use serde_json::json;

use crate::cli::CommandError;
use crate::config::Config;
use crate::store::{
    Depth, EventRow, FaceRow, Findings, Room, SetAsideRow, SqliteStore, Store, StoreError, UnreadableRow,
};

/// Frames with units set aside that `status` shows at most, the newest.
const SET_ASIDE_SHOWN_MAX: usize = 50;
/// `status` names at most so many of the frames that could not be read.
const UNREADABLE_SHOWN_MAX: usize = 50;
/// `faces list` names at most so many of the pictures that somebody is in, the first, so that everybody stays on one line.
const LABELS_SHOWN_MAX: usize = 3;

/// Prints text. Nobody may be reading any more: then the command ends.
pub(crate) fn print(text: &str) -> Result<(), CommandError> {
    let is_read = microlambda_runtime::print(text).map_err(CommandError::Failed)?;
    if is_read { Ok(()) } else { Err(CommandError::NobodyReads) }
}

pub(crate) fn print_json<T: Serialize>(value: &T) -> Result<(), CommandError> {
    print(&(serde_json::to_string_pretty(value).map_err(no_json)? + "\n"))
}

fn no_json(error: impl std::fmt::Display) -> CommandError {
    CommandError::Failed(format!("cannot write JSON: {error}"))
}

/// Where JSON was asked for, an error is told as JSON too.
pub(crate) fn or_json<T, V: Serialize>(
    outcome: Result<T, CommandError>,
    as_json: bool,
    told: impl FnOnce(String) -> V,
) -> Result<T, CommandError> {
    if let Err(error) = &outcome
        && as_json
        && !matches!(error, CommandError::NobodyReads)
    {
        // Whoever does not read it is told by the exit code all the same.
        let _ = print_json(&told(error.to_string()));
    }
    outcome
}

pub(crate) fn validated(path: &Path, config: &Config, as_json: bool) -> Result<(), CommandError> {
    let node = config.node_name()?;
    if as_json {
        let lambda = lambda_digest(&config.faces);
        return print_json(
            &json!({ "valid": true, "node": node, "site": config.site, "lambda": lambda, "config": config }),
        );
    }
    print(&format!(
        "{} is valid: node {node} of site {}, r_limit {} ms, broker {}\n",
        printable(path.display()),
        config.site,
        config.chain.r_limit_ms,
        config.broker.address()
    ))
}

/// The database for reading. One that an agent is about to fill for the first time is not a former format.
pub(crate) fn open(config: &Config) -> Result<SqliteStore, CommandError> {
    SqliteStore::open_read_only(&config.state_dir).map_err(|error| match error {
        StoreError::Older { path, found: 0, .. } => CommandError::Failed(format!(
            "{} holds nothing yet: if the agent has just been started, try again in a moment; if this stays, stop it and look again",
            printable(path.display())
        )),
        other => other.into(),
    })
}

pub(crate) fn faces(config: &Config, as_json: bool) -> Result<(), CommandError> {
    let store = open(config)?;
    let text = if as_json { faces_json(&store)? } else { faces_text(&store)? };
    // Whoever reads this may take long, and the agent's write-ahead log is not to grow meanwhile.
    drop(store);
    print(&text)
}

/// One person's frames at a time: those of all may take many times the room of their text.
fn faces_json(store: &SqliteStore) -> Result<String, CommandError> {
    let mut text = Vec::new();
    let mut serializer = serde_json::Serializer::pretty(&mut text);
    let mut list = serializer.serialize_seq(None).map_err(no_json)?;
    for known in store.known(None)? {
        let frames = store.frames_of(&known, usize::MAX)?;
        list.serialize_element(&FaceRow { frames, ..known.face }).map_err(no_json)?;
    }
    list.end().map_err(no_json)?;
    text.push(b'\n');
    String::from_utf8(text).map_err(no_json)
}

fn faces_text(store: &SqliteStore) -> Result<String, StoreError> {
    let mut text = String::new();
    for known in store.known(None)? {
        let frames = store.frames_of(&known, LABELS_SHOWN_MAX)?;
        text += &face_line(&FaceRow { frames, ..known.face }, known.frames);
    }
    Ok(if text.is_empty() { "nobody has been seen yet\n".to_owned() } else { text })
}

/// Somebody with the first of the `frames` they were seen in. File names are anybody's: they must not drive the terminal that shows them.
fn face_line(face: &FaceRow, frames: u64) -> String {
    let labels = face.frames.iter().map(|frame| frame.label.as_str()).filter(|label| !label.is_empty());
    let mut labels = labels.map(printable).collect::<Vec<_>>().join(" ");
    let more = frames.saturating_sub(face.frames.len() as u64);
    if more > 0 && !labels.is_empty() {
        labels += &format!(" and {more} more");
    }
    let first = face.frames.first().map_or(0, |frame| frame.sequence);
    let frames = counted(frames, "frame");
    let (id, camera) = (printable(&face.face), printable(&face.camera));
    let (from, until) = (time_text(face.first_seen_ms), time_text(face.last_seen_ms));
    format!("{id}  camera {camera}  {from} to {until}  first in frame {first}, {frames}  {labels}\n")
}

/// UTC, to the second.
fn time_text(ms_since_1970: u64) -> String {
    let seconds = i64::try_from(ms_since_1970 / 1_000).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| "?".to_owned(), |time| time.to_string())
}

pub(crate) fn events(config: &Config, last: u32, as_json: bool) -> Result<(), CommandError> {
    let events = open(config)?.events(u64::from(last))?;
    if as_json {
        return print_json(&events);
    }
    if events.is_empty() {
        return print("nothing has been reported yet\n");
    }
    print(&events.iter().map(event_line).collect::<String>())
}

pub(crate) fn event_line(row: &EventRow) -> String {
    let event = &row.event;
    // The face of a first event has that event's id.
    let (kind, face) = match event.kind {
        EventKind::NewFace => ("new face", String::new()),
        EventKind::Recognised => ("recognised", format!("  face {}", event.face)),
    };
    let waiting = if row.on_bus { "" } else { "  (not yet seen on the bus)" };
    format!(
        "{}  {kind:<10}  {}{face}  camera {}  frame {}  {}{waiting}\n",
        time_text(event.captured_at_ms),
        event.id,
        event.camera,
        event.sequence,
        printable(&event.label)
    )
}

pub(crate) fn picture(config: &Config, face: &str, file: &Path) -> Result<(), CommandError> {
    let jpeg = open(config)?.thumbnail(face)?;
    let jpeg = jpeg.ok_or_else(|| {
        let face = printable(face);
        CommandError::Failed(format!("no picture of face {face} is kept here: `edge-agent faces list` shows all ids"))
    })?;
    std::fs::write(file, jpeg)
        .map_err(|error| CommandError::Failed(format!("cannot write {}: {error}", printable(file.display()))))
}

pub(crate) fn status(path: &Path, as_json: bool) -> Result<(), CommandError> {
    let outcome = Config::load(path).map_err(CommandError::from).and_then(|config| status_of(&config, as_json));
    or_json(outcome, as_json, |error| json!({ "error": error }))
}

fn status_of(config: &Config, as_json: bool) -> Result<(), CommandError> {
    let store = open(config)?;
    let running = SqliteStore::is_locked(&config.state_dir);
    let chains = store.chains()?;
    let rows = chains.iter().map(|chain| {
        let totals = store.totals(&chain.name)?;
        let unreadable = match totals.unreadable {
            0 => Vec::new(),
            _ => store.unreadable(&chain.name, UNREADABLE_SHOWN_MAX)?,
        };
        Ok((chain, totals, store.set_aside(chain, SET_ASIDE_SHOWN_MAX)?, unreadable))
    });
    let rows = rows.collect::<Result<Vec<_>, StoreError>>()?;
    // Whoever reads this may take long, and the agent's write-ahead log is not to grow meanwhile.
    drop(store);
    let room = Room::of(&config.state_dir).ok();
    if as_json {
        let chains = rows.iter().map(|(chain, totals, set_aside, unreadable)| {
            let failing = chain.failure.as_ref().map(|(times, why)| json!({ "times": times, "why": why }));
            json!({
                "chain": chain.name, "camera": chain.camera, "class": chain.class, "head": chain.head, "done": chain.done,
                "holder": chain.holder, "people": chain.gallery.ever, "totals": totals, "set-aside": set_aside,
                "unreadable": unreadable, "failing": failing,
            })
        });
        let chains: Vec<_> = chains.collect();
        return print_json(&json!({ "node": config.node_name()?, "site": config.site, "running": running,
                "disk-free-mb": room.map(|room| room.free_mb()), "disk-trouble": room.and_then(|room| room.trouble()),
                "chains": chains }));
    }
    let state = if running { "running" } else { "not running: start it with `edge-agent run`" };
    let free = room.map_or(String::new(), |room| format!(", {} MB free on its disk", room.free_mb()));
    let mut text = format!("node {} of site {}: {state}{free}\n", config.node_name()?, config.site);
    if let Some(trouble) = room.and_then(|room| room.trouble()) {
        text += &format!("  {trouble}\n");
    }
    for (chain, totals, set_aside, unreadable) in rows {
        let end = match (chain.done, chain.head.version == Version::default()) {
            (true, _) => "done",
            (false, true) => "nothing here yet",
            (false, false) => "going on",
        };
        text += &format!(
            "chain {}  camera {}  {end} at {}  {}, {} unreadable, {}, {}  digest {}\n",
            chain.name,
            chain.camera,
            chain.head.version,
            counted(totals.frames, "frame"),
            totals.unreadable,
            counted(totals.faces_seen, "face"),
            match chain.gallery.ever {
                1 => "1 person".to_owned(),
                people => format!("{people} people"),
            },
            chain.head.digest.short(16)
        );
        if let Some((times, why)) = &chain.failure {
            text += &format!("  failing here: {times} × {}\n", printable(why));
        }
        text += &set_aside.iter().map(set_aside_line).collect::<String>();
        text += &unreadable.iter().map(unreadable_line).collect::<String>();
    }
    print(&text)
}

fn set_aside_line(row: &SetAsideRow) -> String {
    let (label, why) = (printable(&row.label), printable(&row.why));
    format!("  set aside: {} of frame {}  {label}  {why}\n", row.unit, row.sequence)
}

fn unreadable_line(row: &UnreadableRow) -> String {
    let (label, why) = (printable(&row.label), printable(&row.why));
    format!("  cannot be read: frame {}  {label}  {why}\n", row.sequence)
}

pub(crate) fn check(path: &Path, as_json: bool) -> Result<(), CommandError> {
    let outcome = Config::load(path).map_err(CommandError::from).and_then(|config| Ok((examine(&config)?, config)));
    let (found, config) = or_json(outcome, as_json, |error| Findings { problems: vec![error], ..Findings::default() })?;
    let folder = printable(config.state_dir.display());
    if as_json {
        print_json(&found)?;
    } else if found.sound {
        let (chains, records) = (counted(found.chains as u64, "chain"), counted(found.records, "record"));
        print(&format!("sound: {chains}, {records} folded again with the same digests\n"))?;
    } else {
        let problems: Vec<String> = found.problems.iter().map(printable).collect();
        print(&(problems.join("\n") + "\n"))?;
    }
    for chain in found.other_settings.iter().filter(|_| !as_json) {
        let chain = printable(chain);
        print(&format!(
            "chain {chain} was folded with other [faces] settings or another version, and cannot be checked with these\n"
        ))?;
    }
    if found.sound {
        return Ok(());
    }
    Err(CommandError::Failed(format!(
        "the database in {folder} is damaged. Stop the agent, move {folder}/edge.sqlite* away (keep them until all is well), and \
         start it again: its peers send what they hold, and what nobody holds is made again from the frames in the camera's spool"
    )))
}

/// Everything that can be checked, as far as the database can be read.
fn examine(config: &Config) -> Result<Findings, CommandError> {
    let checked = open(config).and_then(|store| Ok(store.check(&config.faces, Depth::Everything, None)?));
    match checked {
        Err(CommandError::Store(error)) if error.is_damage() => {
            Ok(Findings { problems: vec![error.what()], ..Findings::default() })
        }
        Err(CommandError::Store(StoreError::Sqlite { path, source })) => Err(CommandError::Failed(format!(
            "cannot read {}: {source}; see that this user may read it and that its disk works",
            printable(path.display())
        ))),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::FrameRow;

    #[test]
    fn a_file_name_cannot_drive_the_terminal() {
        let frame = |label: &str| FrameRow { sequence: 3, label: label.into() };
        let row = FaceRow {
            face: "f".into(),
            name: String::new(),
            camera: "door".into(),
            chain: "door-1".into(),
            first_seen_ms: 0,
            last_seen_ms: 61_999,
            frames: vec![frame("a\u{1b}[2J.jpg\nforged")],
            thumbnail_bytes: 0,
        };
        assert_eq!(
            face_line(&row, 1),
            "f  camera door  1970-01-01T00:00:00Z to 1970-01-01T00:01:01Z  first in frame 3, 1 frame  a\\u{1b}[2J.jpg\\nforged\n"
        );
    }
}
