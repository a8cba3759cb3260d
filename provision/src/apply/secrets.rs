//! Secrets of what was applied leave the boot partition; where they cannot, that is tried again at each start.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::{Inputs, Options, THIS_NODE};
use crate::execute::{Outcome, write_boot};
use crate::facts::read_small;
use crate::input::source::Source;
use crate::input::{appliance, join, preseed, text};
use crate::plan::{Part, Plan};
use crate::problem::Problems;
use crate::redact::redact;
use crate::state::{State, digest};

/// The key whose words may be addresses with a password.
const SOURCE_COMMAND: [&str; 3] = ["camera", "source", "command"];

/// Takes the secrets of what was applied out of the files, and remembers which contents need not be applied again.
pub(super) fn take_out(
    options: &Options,
    inputs: &Inputs,
    plan: &Plan,
    outcome: &Outcome,
    state: &mut State,
    problems: &mut Problems,
) {
    try_again(&options.boot, state, problems);
    let failed = |of_preseed: bool| outcome.failed.keys().any(|part| part.is_of_preseed() == of_preseed);
    for (&name, file) in &inputs.files {
        // What failed is tried again, and needs its secrets.
        if failed(name == preseed::FILE) {
            continue;
        }
        let keys = applied_secrets(name, inputs, plan);
        // Nothing but what is on the card now: a file that is put back with its passwords is applied again, and they are taken out again.
        let left = match write_without(&options.boot.join(name), &file.text, &keys) {
            Ok(written) => written.unwrap_or_else(|| file.digest.clone()),
            Err(error) => {
                note_left(name, &error, problems);
                state.unredacted.insert(name.to_owned(), keys);
                file.digest.clone()
            }
        };
        if name == appliance::FILE && inputs.left_join {
            state.applied_but_join = Some(left);
        } else {
            state.applied.insert(name.to_owned(), vec![left]);
        }
    }
}

/// Takes secrets out of files that are as they were applied, where that failed before.
fn try_again(boot: &Path, state: &mut State, problems: &mut Problems) {
    for (name, keys) in std::mem::take(&mut state.unredacted) {
        let at = boot.join(&name);
        let found = read_small(&at).filter(|bytes| state.has_applied(&name, bytes)).and_then(text::decode);
        match found.map(|text| write_without(&at, &text, &keys)) {
            Some(Ok(written)) => state.applied.extend(written.map(|written| (name, vec![written]))),
            Some(Err(error)) => {
                note_left(&name, &error, problems);
                state.unredacted.insert(name, keys);
            }
            // It may come back as it was.
            None => {
                state.unredacted.insert(name, keys);
            }
        }
    }
}

/// Under the node's name, as what is noted of a file stays until its content changes.
fn note_left(name: &str, error: &io::Error, problems: &mut Problems) {
    let what = format!(
        "the passwords in {name} were applied and could not be taken out ({error}): make room on the boot partition, and start again"
    );
    problems.note(THIS_NODE, None, what);
}

/// Writes a file without the secrets at `keys`, if it has any; the digest of what was written.
fn write_without(at: &Path, text: &str, keys: &[String]) -> io::Result<Option<String>> {
    let paths: Vec<Vec<&str>> = keys.iter().map(|key| key.split('.').collect()).collect();
    let (commands, values): (Vec<&[&str]>, Vec<&[&str]>) =
        paths.iter().map(Vec::as_slice).partition(|path| *path == SOURCE_COMMAND);
    let redacted = redact(text, &values, &commands);
    if redacted == text {
        return Ok(None);
    }
    write_boot(at, redacted.as_bytes())?;
    Ok(Some(digest(redacted.as_bytes())))
}

/// The keys of a file whose secrets were applied, with their tables: `wlan.password`.
fn applied_secrets(name: &str, inputs: &Inputs, plan: &Plan) -> Vec<String> {
    let mut paths: Vec<&[&str]> = Vec::new();
    match name {
        preseed::FILE => {
            let set: BTreeSet<Part> = plan.memory.iter().map(|(part, _)| *part).collect();
            let user_is_wrong = inputs.preseed.as_ref().is_some_and(|preseed| preseed.wrong_user);
            for path in preseed::SECRETS {
                let is_applied = match path[0] {
                    "user" => set.contains(&Part::User) && !user_is_wrong,
                    "wlan" => set.contains(&Part::Wlan),
                    _ => true,
                };
                paths.extend(is_applied.then_some(path));
            }
        }
        appliance::FILE => {
            if inputs.inner_join {
                paths.extend(appliance::SECRETS);
            }
            let settings = inputs.wishes.settings.as_ref();
            let is_command = settings.is_some_and(|settings| matches!(settings.source, Some(Source::Command { .. })));
            if inputs.source_is_right && is_command {
                paths.push(&SOURCE_COMMAND);
            }
        }
        _ => paths.extend(join::SECRETS),
    }
    paths.iter().map(|path| path.join(".")).collect()
}
