//! `faces`, `status`, `check`, `validate`: read what a node has stored and show it.

use std::io::Write as _;
use std::path::Path;

use microlambda_faces::fold::{FoldState, lambda_digest};
use serde::Serialize;
use serde_json::json;

use crate::cli::CommandError;
use crate::config::Config;
use crate::store::{SqliteStore, Store, StoreError, StoredChain};

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
        path.display(),
        config.site,
        config.chain.r_limit_ms,
        config.broker.url
    ))
}

pub(crate) fn faces(config: &Config, as_json: bool) -> Result<(), CommandError> {
    let faces = SqliteStore::open_read_only(&config.state_dir)?.faces(None)?;
    if as_json {
        return print_json(&faces);
    }
    if faces.is_empty() {
        return print("nobody has been seen yet\n");
    }
    let mut text = String::new();
    for face in &faces {
        let labels: Vec<&str> =
            face.frames.iter().map(|frame| frame.label.as_str()).filter(|l| !l.is_empty()).collect();
        let first = face.frames.first().map_or(0, |frame| frame.sequence);
        text += &format!(
            "{}  camera {}  first in frame {first}, {} frames  {}\n",
            face.face,
            face.camera,
            face.frames.len(),
            labels.join(" ")
        );
    }
    print(&text)
}

pub(crate) fn picture(config: &Config, face: &str, file: &Path) -> Result<(), CommandError> {
    let jpeg = SqliteStore::open_read_only(&config.state_dir)?.thumbnail(face)?;
    let jpeg = jpeg.ok_or_else(|| {
        CommandError::Failed(format!("no picture of face {face} is kept here: `edge-agent faces list` shows all ids"))
    })?;
    std::fs::write(file, jpeg)
        .map_err(|error| CommandError::Failed(format!("cannot write {}: {error}", file.display())))
}

pub(crate) fn status(config: &Config, as_json: bool) -> Result<(), CommandError> {
    let store = SqliteStore::open_read_only(&config.state_dir)?;
    let running = SqliteStore::is_locked(&config.state_dir);
    let chains = store.chains()?;
    let rows = chains.iter().map(|chain| Ok((chain, store.totals(&chain.name)?)));
    let rows = rows.collect::<Result<Vec<_>, StoreError>>()?;
    if as_json {
        let chains = rows.iter().map(|(chain, totals)| {
            json!({
                "chain": chain.name, "camera": chain.camera, "class": chain.class, "head": chain.head, "done": chain.done,
                "holder": chain.holder, "people": chain.gallery.people.len(), "totals": totals,
            })
        });
        let chains: Vec<_> = chains.collect();
        return print_json(
            &json!({ "node": config.node_name()?, "site": config.site, "running": running, "chains": chains }),
        );
    }
    let state = if running { "running" } else { "not running: start it with `edge-agent run`" };
    let mut text = format!("node {} of site {}: {state}\n", config.node_name()?, config.site);
    for (chain, totals) in rows {
        let end = if chain.done { "done" } else { "going on" };
        text += &format!(
            "chain {}  camera {}  {end} at {}  {} frames, {} unreadable, {} faces, {} people  digest {}\n",
            chain.name,
            chain.camera,
            chain.head.version,
            totals.frames,
            totals.unreadable,
            totals.faces_seen,
            chain.gallery.people.len(),
            chain.head.digest.short(16)
        );
    }
    print(&text)
}

pub(crate) fn check(config: &Config, as_json: bool) -> Result<(), CommandError> {
    let store = SqliteStore::open_read_only(&config.state_dir)?;
    let mut problems = store.integrity()?;
    let chains = store.chains()?;
    let mut records = 0;
    for chain in &chains {
        match check_chain(&store, config, chain) {
            Ok(checked) => records += checked,
            Err(why) => problems.push(format!("chain {}: {why}", chain.name)),
        }
    }
    if as_json {
        print_json(
            &json!({ "sound": problems.is_empty(), "chains": chains.len(), "records": records, "problems": problems }),
        )?;
    } else if problems.is_empty() {
        print(&format!("sound: {} chains, {records} records folded again with the same digests\n", chains.len()))?;
    } else {
        print(&(problems.join("\n") + "\n"))?;
    }
    if problems.is_empty() {
        return Ok(());
    }
    let remedy = "stop the agent and move the database away: on the next start its peers send what they hold";
    Err(CommandError::Failed(format!("the database in {} is damaged; {remedy}", config.state_dir.display())))
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
