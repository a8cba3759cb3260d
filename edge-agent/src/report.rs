//! `faces`, `status`, `check`, `validate`: read what a node has stored and show it.

use std::io::Write as _;
use std::path::Path;

use microlambda_faces::fold::{FoldState, lambda_digest};
use microlambda_runtime::{counted, printable};
use microlambda_wire::EventKind;
use rusqlite::ErrorCode;
use serde::Serialize;
use serde_json::json;

use crate::cli::CommandError;
use crate::config::Config;
use crate::store::{EventRow, FaceRow, SetAsideRow, SqliteStore, Store, StoreError, StoredChain};

/// Frames with units set aside that `status` shows at most, the newest.
const SET_ASIDE_SHOWN_MAX: u32 = 50;
/// Entries folded at once while checking, bytes.
const CHECK_BYTES: usize = 1 << 20;

/// Prints text; a closed pipe (`| head`) is no error.
pub(crate) fn print(text: &str) -> Result<(), CommandError> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CommandError::Failed(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

pub(crate) fn print_json<T: Serialize>(value: &T) -> Result<(), CommandError> {
    let text = serde_json::to_string_pretty(value);
    print(&(text.map_err(|error| CommandError::Failed(format!("cannot write JSON: {error}")))? + "\n"))
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
        config.broker.url
    ))
}

/// The database for reading. One that an agent is about to fill for the first time is not a former format.
fn open(config: &Config) -> Result<SqliteStore, CommandError> {
    SqliteStore::open_read_only(&config.state_dir).map_err(|error| match error {
        StoreError::Newer { path, found: 0, .. } => CommandError::Failed(format!(
            "{} holds nothing yet: if the agent has just been started, try again in a moment",
            printable(path.display())
        )),
        other => other.into(),
    })
}

pub(crate) fn faces(config: &Config, as_json: bool) -> Result<(), CommandError> {
    let faces = open(config)?.faces(None)?;
    if as_json {
        return print_json(&faces);
    }
    if faces.is_empty() {
        return print("nobody has been seen yet\n");
    }
    let mut text = String::new();
    for face in &faces {
        text += &face_line(face);
    }
    print(&text)
}

/// File names are anybody's: they must not drive the terminal that shows them.
fn face_line(face: &FaceRow) -> String {
    let labels = face.frames.iter().map(|frame| frame.label.as_str()).filter(|label| !label.is_empty());
    let labels: Vec<String> = labels.map(printable).collect();
    let first = face.frames.first().map_or(0, |frame| frame.sequence);
    let frames = counted(face.frames.len() as u64, "frame");
    let (id, camera) = (printable(&face.face), printable(&face.camera));
    format!("{id}  camera {camera}  first in frame {first}, {frames}  {}\n", labels.join(" "))
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

fn event_line(row: &EventRow) -> String {
    let event = &row.event;
    let kind = match event.kind {
        EventKind::NewFace => "new face",
        EventKind::Recognised => "recognised",
    };
    let waiting = if row.on_bus { "" } else { "  (not yet seen on the bus)" };
    let seconds = i64::try_from(event.captured_at_ms / 1_000).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_second(seconds).map_or_else(|_| "?".to_owned(), |time| time.to_string());
    format!(
        "{time}  {kind:<10}  {}  camera {}  frame {}  {}{waiting}\n",
        event.face,
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

pub(crate) fn status(config: &Config, as_json: bool) -> Result<(), CommandError> {
    let store = open(config)?;
    let running = SqliteStore::is_locked(&config.state_dir);
    let chains = store.chains()?;
    let rows = chains
        .iter()
        .map(|chain| Ok((chain, store.totals(&chain.name)?, store.set_aside(chain, SET_ASIDE_SHOWN_MAX)?)));
    let rows = rows.collect::<Result<Vec<_>, StoreError>>()?;
    if as_json {
        let chains = rows.iter().map(|(chain, totals, set_aside)| {
            let failing = chain.failure.as_ref().map(|(times, why)| json!({ "times": times, "why": why }));
            json!({
                "chain": chain.name, "camera": chain.camera, "class": chain.class, "head": chain.head, "done": chain.done,
                "holder": chain.holder, "people": chain.gallery.people.len(), "totals": totals, "set-aside": set_aside,
                "failing": failing,
            })
        });
        let chains: Vec<_> = chains.collect();
        return print_json(
            &json!({ "node": config.node_name()?, "site": config.site, "running": running, "chains": chains }),
        );
    }
    let state = if running { "running" } else { "not running: start it with `edge-agent run`" };
    let mut text = format!("node {} of site {}: {state}\n", config.node_name()?, config.site);
    for (chain, totals, set_aside) in rows {
        let end = if chain.done { "done" } else { "going on" };
        text += &format!(
            "chain {}  camera {}  {end} at {}  {}, {} unreadable, {}, {}  digest {}\n",
            chain.name,
            chain.camera,
            chain.head.version,
            counted(totals.frames, "frame"),
            totals.unreadable,
            counted(totals.faces_seen, "face"),
            match chain.gallery.people.len() {
                1 => "1 person".to_owned(),
                people => format!("{people} people"),
            },
            chain.head.digest.short(16)
        );
        if let Some((times, why)) = &chain.failure {
            text += &format!("  failing here: {times} × {}\n", printable(why));
        }
        text += &set_aside.iter().map(set_aside_line).collect::<String>();
    }
    print(&text)
}

fn set_aside_line(row: &SetAsideRow) -> String {
    let (label, why) = (printable(&row.label), printable(&row.why));
    format!("  set aside: {} of frame {}  {label}  {why}\n", row.unit, row.sequence)
}

/// What a check found.
#[derive(Default, Serialize)]
struct Findings {
    sound: bool,
    chains: usize,
    records: u64,
    problems: Vec<String>,
}

pub(crate) fn check(config: &Config, as_json: bool) -> Result<(), CommandError> {
    let mut found = Findings::default();
    if let Err(error) = examine(config, &mut found) {
        found.problems.push(damage(error)?);
    }
    found.sound = found.problems.is_empty();
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
    if found.sound {
        return Ok(());
    }
    Err(CommandError::Failed(format!(
        "the database in {folder} is damaged. Stop the agent, move {folder}/edge.sqlite* away (keep them until all is well), and \
         start it again: its peers send what they hold, and what nobody holds is made again from the frames in the camera's spool"
    )))
}

/// Everything that can be checked, as far as the database can be read.
fn examine(config: &Config, found: &mut Findings) -> Result<(), CommandError> {
    let store = open(config)?;
    found.problems = store.integrity()?;
    let chains = store.chains()?;
    found.chains = chains.len();
    for chain in &chains {
        match check_chain(&store, config, chain) {
            Ok(checked) => found.records += checked,
            Err(why) => found.problems.push(format!("chain {}: {why}", chain.name)),
        }
    }
    Ok(())
}

/// What an error tells about the database, or the error itself if it is not the database that is wrong.
fn damage(error: CommandError) -> Result<String, CommandError> {
    match error {
        CommandError::Store(StoreError::Damaged { what, .. }) => Ok(format!("{what} is damaged")),
        CommandError::Store(StoreError::Sqlite { path, source }) => match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Ok(source.to_string()),
            _ => Err(CommandError::Failed(format!(
                "cannot read {}: {source}; see that this user may read it and that its disk works",
                printable(path.display())
            ))),
        },
        other => Err(other),
    }
}

/// Folds a chain's records from its genesis and compares every digest and the gallery; how many records there are.
fn check_chain(store: &SqliteStore, config: &Config, chain: &StoredChain) -> Result<u64, String> {
    if chain.lambda != lambda_digest(&config.faces) {
        return Err(
            "it was folded with other [faces] settings or another version, and cannot be checked with these".into()
        );
    }
    let mut fold = FoldState::genesis(config.faces);
    let mut records = 0;
    loop {
        let (entries, _) = store.entries(&chain.name, fold.head().version.sequence, CHECK_BYTES).map_err(text)?;
        if entries.is_empty() {
            break;
        }
        for entry in &entries {
            let folded = fold.fold(entry).map_err(text)?;
            let stored = store.boundary(&chain.name, entry.next_sequence()).map_err(text)?;
            if stored.is_none_or(|stored| stored.digest != folded.head.digest) {
                return Err(format!("record {} has another digest than its content", entry.sequence));
            }
            records += 1;
        }
    }
    let head = match &chain.partial {
        Some(partial) => fold.partial_head(partial).map_err(text)?,
        None => fold.head(),
    };
    if fold.head().digest != chain.boundary.digest || head.digest != chain.head.digest {
        return Err(format!("its records lead to {}, its head is {}", head.version, chain.head.version));
    }
    if *fold.gallery() != chain.gallery {
        return Err("its gallery is not what its records lead to".into());
    }
    Ok(records)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
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
            last_seen_ms: 0,
            frames: vec![frame("a\u{1b}[2J.jpg\nforged")],
            thumbnail_bytes: 0,
        };
        assert_eq!(face_line(&row), "f  camera door  first in frame 3, 1 frame  a\\u{1b}[2J.jpg\\nforged\n");
    }
}
