//! One run: read the boot partition, decide, do, remember, take the secrets out, say what is wrong.

mod secrets;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::authority::Authority;
use crate::broker::Credentials;
use crate::execute::{Outcome, execute, remove_boot, write_boot, write_root};
use crate::facts::{Facts, read_small, under};
use crate::input::appliance::{self, Settings};
use crate::input::document::{Document, Given};
use crate::input::join::{self, Join, Member};
use crate::input::preseed::{self, Preseed};
use crate::input::{names, text};
use crate::paths;
use crate::plan::{Action, Materials, Memory, Part, Plan, Wishes, host_name, needs, plan};
use crate::problem::{Problem, Problems, report};
use crate::state::{Joined, State, digest};

/// No file of the boot partition is longer, bytes.
pub const INPUT_BYTES_MAX: u64 = 256 << 10;
/// So many names of the boot partition are looked at: a card has some sixty.
const NAMES_MAX: usize = 10_000;
/// So many files that nobody reads are told.
const UNREAD_TOLD_MAX: usize = 10;
/// What belongs to no file is told under this name.
const THIS_NODE: &str = crate::plan::THIS_NODE;

/// Where to read, where to write, and what time it is.
#[derive(Debug, Clone)]
pub struct Options {
    /// The boot partition.
    pub boot: PathBuf,
    /// The machine's root.
    pub root: PathBuf,
    /// Only say what would be done.
    pub dry_run: bool,
    /// The clock, s since 1970.
    pub now_unix_s: i64,
}

/// What a run did.
#[derive(Debug, Default)]
pub struct Report {
    /// What was to be done, in words.
    pub actions: Vec<String>,
    /// How many actions changed something.
    pub changed: usize,
    /// All problems that are known.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for action in &self.actions {
            writeln!(f, "{action}")?;
        }
        self.problems.iter().try_for_each(|problem| writeln!(f, "wrong: {problem}"))
    }
}

/// A file of the boot partition.
enum Found {
    Missing,
    /// Applied before, as it is.
    Known,
    New(Content),
    Unusable,
}

/// What a new file holds.
struct Content {
    text: String,
    /// Digest of its bytes on the card, which may have another encoding than `text`.
    digest: String,
}

/// What new files say.
#[derive(Default)]
struct Inputs {
    preseed: Option<Preseed>,
    /// New files, to take the secrets out.
    files: BTreeMap<&'static str, Content>,
    /// Whether the new file names a source of pictures that is right.
    source_is_right: bool,
    /// Whether the join in `microlambda.toml` is right, and used.
    inner_join: bool,
    /// Whether it is right, and not used.
    left_join: bool,
    /// Files that are not as they were applied, if ever they were.
    unapplied: BTreeSet<&'static str>,
    /// Files that are not there.
    missing: BTreeSet<&'static str>,
    wishes: Wishes,
}

/// Does one run. What is wrong with files or with a step is in the report and not an error.
///
/// # Errors
/// Only if nothing can be remembered: then nothing was changed, so that it is not done over and over.
pub fn apply(options: &Options) -> Result<Report, String> {
    let mut problems = Problems::default();
    let mut state = load_state(&options.root, &mut problems);
    let inputs = read_inputs(options, &state, &mut problems);
    let facts = Facts::gather(&options.root, inputs.preseed.as_ref(), options.now_unix_s);
    let host = host_name(inputs.preseed.as_ref(), &facts);
    inputs.wishes.check(&host, &facts, &mut problems);
    let materials = make_materials(&inputs.wishes, &host, &facts, &mut problems);
    let plan = plan(inputs.preseed.as_ref(), &inputs.wishes, &facts, &materials, &state, &mut problems);
    let actions = plan.actions.iter().map(|(_, action)| action.to_string()).collect();
    if options.dry_run {
        return Ok(Report { actions, changed: 0, problems: problems.iter().cloned().collect() });
    }
    // Before the agent's file says otherwise: its spool may be another camera's, and a loss of power may cut this off behind the file.
    state.camera = state.camera.take().or_else(|| facts.camera.clone());
    forget_unapplied(&mut state, &inputs);
    // Learn first whether anything can be remembered.
    save_state(&options.root, &state)?;
    remove_recovered(&options.boot, &mut problems);
    let outcome = execute(&plan, &options.root);
    note_failures(&outcome, &inputs, &mut problems);
    remember(&mut state, &plan, &outcome, &inputs);
    save_state(&options.root, &state)?;
    // What was applied is gone at the next start if the data partition is: the card then holds the only copy.
    if !facts.data_is_lost {
        secrets::take_out(options, &inputs, &plan, &outcome, &mut state, &mut problems);
    }
    keep_problems(&mut state, &inputs, &problems);
    save_state(&options.root, &state)?;
    let problems = state.all_problems();
    tell_problems(options, &problems);
    Ok(Report { actions, changed: outcome.changed, problems })
}

/// Removes the pieces of files that the check of the boot partition recovered after a loss of power: one may be a file from before its passwords were
/// taken out.
fn remove_recovered(boot: &Path, problems: &mut Problems) {
    for entry in std::fs::read_dir(boot).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if let Some(name) = name.to_str().filter(|name| is_recovered(name))
            && let Err(error) = remove_boot(&entry.path())
        {
            let what = format!("a piece of a lost file, which may hold a password, cannot be removed: {error}");
            problems.note(name, None, what);
        }
    }
}

/// Whether `fsck.fat` gave this name: `FSCK0000.REC` and on.
fn is_recovered(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let number = name.strip_prefix("FSCK").and_then(|rest| rest.strip_suffix(".REC"));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn load_state(root: &Path, problems: &mut Problems) -> State {
    let path = under(root, paths::STATE);
    match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => State::default(),
        read => read.map_err(|error| error.to_string()).and_then(|bytes| State::parse(&bytes)).unwrap_or_else(|why| {
            let what = format!("what was remembered cannot be read and is begun anew: {why}");
            problems.note(THIS_NODE, None, what);
            State::default()
        }),
    }
}

fn save_state(root: &Path, state: &State) -> Result<(), String> {
    let bytes = state.to_bytes().map_err(|error| error.to_string())?;
    let folder = Action::Folder { path: paths::STATE_DIR.into(), mode: 0o755 };
    let mut plan = Plan::default();
    plan.actions.push((Part::Join, folder));
    if let Some(why) = execute(&plan, root).failed.into_values().next() {
        return Err(why);
    }
    write_root(root, paths::STATE, &bytes, 0o600).map_err(|error| format!("cannot write {}: {error}", paths::STATE))
}

/// Forgets what was remembered of files that have another content now: whether that can be applied or not, the former one is to be noticed if it
/// comes back.
fn forget_unapplied(state: &mut State, inputs: &Inputs) {
    state.applied.retain(|file, _| !inputs.unapplied.contains(file.as_str()));
    state.unredacted.retain(|file, _| !inputs.unapplied.contains(file.as_str()));
    let settings = inputs.files.get(appliance::FILE);
    let is_there = |former: &String| settings.is_some_and(|file| file.digest == *former);
    state.applied_but_join = state.applied_but_join.take().filter(is_there);
}

/// As [`find`], remembering files that are not as they were applied.
fn look(options: &Options, state: &State, name: &'static str, inputs: &mut Inputs, problems: &mut Problems) -> Found {
    let found = find(options, state, name, problems);
    if matches!(found, Found::New(_) | Found::Unusable) {
        inputs.unapplied.insert(name);
    }
    found
}

fn find(options: &Options, state: &State, name: &str, problems: &mut Problems) -> Found {
    let path = options.boot.join(name);
    let bytes = match std::fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Found::Missing,
        Ok(metadata) if metadata.is_file() && metadata.len() <= INPUT_BYTES_MAX => std::fs::read(&path),
        Ok(_) => {
            problems.note(name, None, format!("it is not a file of at most {} KiB", INPUT_BYTES_MAX >> 10));
            return Found::Unusable;
        }
        Err(error) => Err(error),
    };
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(error) => {
            problems.note(name, None, format!("it cannot be read: {error}"));
            return Found::Unusable;
        }
    };
    if state.has_applied(name, &bytes) {
        return Found::Known;
    }
    let digest = digest(&bytes);
    match text::decode(bytes) {
        Some(text) => Found::New(Content { text, digest }),
        None => {
            problems.note(name, None, "it is not UTF-8 text: save it again with that encoding");
            Found::Unusable
        }
    }
}

fn read_inputs(options: &Options, state: &State, problems: &mut Problems) -> Inputs {
    let mut inputs = Inputs::default();
    inputs.wishes.settings.clone_from(&state.settings);
    inputs.wishes.joins.clone_from(&state.joins);
    if let Found::New(file) = look(options, state, preseed::FILE, &mut inputs, problems) {
        inputs.preseed = Some(Preseed::read(&Document::read(preseed::FILE, &file.text, problems), problems));
        inputs.files.insert(preseed::FILE, file);
    }
    if let Found::New(file) = look(options, state, appliance::FILE, &mut inputs, problems) {
        read_settings(state, file, &mut inputs, problems);
    }
    let own = own_authority(&options.root);
    let has_wrong_join = read_joins(options, state, &mut inputs, problems);
    let has_unread_join = note_unread(&options.boot, problems);
    // A device with a join is to be no site of its own, but for one that is such a site already.
    inputs.wishes.waits_for_join = (has_wrong_join || has_unread_join) && own.is_none() && state.joins.is_empty();
    settle_joins(&options.root, state, own.as_deref(), &mut inputs, problems);
    let names = [preseed::FILE, appliance::FILE].into_iter().chain(join::FILES);
    inputs.missing = names.filter(|name| !options.boot.join(name).exists()).collect();
    inputs
}

fn read_settings(state: &State, file: Content, inputs: &mut Inputs, problems: &mut Problems) {
    let document = Document::read(appliance::FILE, &file.text, problems);
    let mut read = Settings::read(state.settings.as_ref(), &document, problems);
    // Joins alone gave it roles.
    let had_roles = state.settings.is_none() && !state.joins.is_empty();
    read.settings.no_roles &= !had_roles;
    inputs.source_is_right = read.source_is_right;
    inputs.wishes.settings = Some(read.settings);
    inputs.wishes.changed = true;
    if let Given::Right(join) = read.join {
        inputs.inner_join = true;
        take_join(&mut inputs.wishes, join);
    }
    inputs.files.insert(appliance::FILE, file);
}

/// Reads the join files; whether one is there that cannot be used.
fn read_joins(options: &Options, state: &State, inputs: &mut Inputs, problems: &mut Problems) -> bool {
    let mut has_wrong = false;
    for name in join::FILES {
        let file = match look(options, state, name, inputs, problems) {
            Found::Missing | Found::Known => continue,
            Found::New(file) => file,
            Found::Unusable => {
                has_wrong = true;
                continue;
            }
        };
        match join::read(&Document::read(name, &file.text, problems), problems) {
            Given::Right(join) => {
                inputs.wishes.changed = true;
                take_join(&mut inputs.wishes, join);
                inputs.files.insert(name, file);
            }
            Given::Absent | Given::Wrong => has_wrong = true,
        }
    }
    has_wrong
}

/// Leaves new joins that do not go with what this node is, as they are. Those that are used end the former ones that lead elsewhere.
fn settle_joins(root: &Path, state: &State, own: Option<&[u8]>, inputs: &mut Inputs, problems: &mut Problems) {
    let wishes = &mut inputs.wishes;
    if wishes.new_joins.is_empty() {
        return;
    }
    let site_ca = read_small(&under(root, paths::SITE_CA)).unwrap_or_default();
    // With no roles named, a join alone makes a node of another's site; the one that this broker wrote itself shall not end it.
    let is_own = |join: &Join| own == Some(join.ca.as_bytes());
    let names_roles = wishes.settings.as_ref().is_some_and(|settings| settings.roles.is_some());
    let from_itself = !names_roles && state.joins.is_empty() && wishes.new_joins.iter().any(is_own);
    if wishes.is_broker() || from_itself {
        let what = "it runs the broker itself, so a join is not used: remove it, or \"broker\" from `roles` in microlambda.toml";
        problems.note(THIS_NODE, None, what);
    } else if let Some(why) = wishes.conflict(&state.joins, &site_ca) {
        problems.note(THIS_NODE, None, why);
        wishes.waits_for_join |= own.is_none() && state.joins.is_empty();
    } else {
        wishes.forget_left_joins(&site_ca);
        return;
    }
    wishes.new_joins.clear();
    wishes.joins.clone_from(&state.joins);
    inputs.files.retain(|name, _| !join::FILES.contains(name));
    // A file whose own join is left is read at each start, and is no news then.
    let settings = inputs.files.get(appliance::FILE);
    wishes.changed = settings.is_some_and(|file| state.applied_but_join.as_ref() != Some(&file.digest));
    inputs.left_join = inputs.inner_join;
    inputs.inner_join = false;
}

/// Notes files that are read by nobody here; whether one is meant as a join file.
fn note_unread(boot: &Path, problems: &mut Problems) -> bool {
    let entries = std::fs::read_dir(boot).into_iter().flatten().take(NAMES_MAX).flatten();
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir()));
    let found: BTreeSet<String> = files.filter_map(|file| file.file_name().into_string().ok()).collect();
    let unread = names::unread(found.iter().map(String::as_str));
    for file in unread.iter().take(UNREAD_TOLD_MAX) {
        problems.note(file.name, None, &file.what);
    }
    let line = read_small(&boot.join(names::COMMAND_LINE)).unwrap_or_default();
    if let Some(what) = names::of_command_line(&String::from_utf8_lossy(&line)) {
        problems.note(names::COMMAND_LINE, None, what);
    }
    unread.iter().any(|file| file.is_join)
}

/// The certificate of the authority that this node made, if it made one.
fn own_authority(root: &Path) -> Option<Vec<u8>> {
    let bytes = read_small(&under(root, paths::AUTHORITY))?;
    Authority::from_pem(&bytes).ok()?.certificate_pem().ok()
}

fn take_join(wishes: &mut Wishes, join: Join) {
    let joined = Joined { site: join.site.clone(), broker: join.broker.clone(), username: join.username.clone() };
    wishes.joins.insert(join.member, joined);
    wishes.new_joins.retain(|other| other.member != join.member);
    wishes.new_joins.push(join);
}

/// Makes what the broker's node lacks.
fn make_materials(wishes: &Wishes, host: &str, facts: &Facts, problems: &mut Problems) -> Materials {
    let needs = needs(wishes, host, facts, problems);
    if !wishes.is_broker() {
        return Materials::default();
    }
    let made = || -> Result<Materials, String> {
        let mut materials = Materials::default();
        let new =
            needs.authority.then(|| Authority::make(&wishes.site())).transpose().map_err(|error| error.to_string())?;
        let Some(authority) = new.as_ref().or(facts.authority.as_ref()) else { return Ok(materials) };
        if new.is_some() {
            materials.new_authority = Some(authority.to_pem().map_err(|error| error.to_string())?);
        }
        materials.ca = authority.certificate_pem().map_err(|error| error.to_string())?;
        if needs.certificate || new.is_some() {
            let names = crate::plan::broker_names(wishes, host);
            let certificate = authority.sign_broker(&names, facts.now_unix_s).map_err(|error| error.to_string())?;
            materials.new_certificate = Some(certificate);
        }
        materials.credentials = match (&facts.credentials, needs.credentials) {
            (_, true) => Some((Credentials::make().map_err(|error| error.to_string())?, true)),
            (Some(credentials), false) => Some((credentials.clone(), false)),
            (None, false) => None,
        };
        Ok(materials)
    };
    made().unwrap_or_else(|why| {
        problems.note(THIS_NODE, None, format!("the broker's keys cannot be made: {why}"));
        Materials::default()
    })
}

fn note_failures(outcome: &Outcome, inputs: &Inputs, problems: &mut Problems) {
    for (part, why) in &outcome.failed {
        let from_preseed = part.is_of_preseed() && inputs.preseed.is_some();
        let file = if from_preseed { preseed::FILE } else { THIS_NODE };
        problems.note(
            file,
            None,
            format!("{} could not be set up, and is tried again at the next start: {why}", part.describe()),
        );
    }
}

fn remember(state: &mut State, plan: &Plan, outcome: &Outcome, inputs: &Inputs) {
    state.settings.clone_from(&inputs.wishes.settings);
    if !outcome.failed.contains_key(&Part::Join) {
        state.joins.clone_from(&inputs.wishes.joins);
    }
    for (part, memory) in &plan.memory {
        if outcome.failed.contains_key(part) {
            continue;
        }
        match memory {
            Memory::User(name) => {
                state.former_users.extend(state.user.replace(name.clone()));
                state.former_users.remove(name);
            }
            Memory::OnlyUser => state.former_users.clear(),
            Memory::Wlan(wlan) => state.wlan = Some(wlan.clone()),
            Memory::BrokerPasswords(mark) => state.broker_passwords = Some(mark.clone()),
            Memory::Camera(camera) => state.camera = Some(camera.clone()),
        }
    }
}

/// Keeps what is wrong with files that were not read again; everything else is what this run found.
fn keep_problems(state: &mut State, inputs: &Inputs, problems: &Problems) {
    let is_stale = |file: &str| inputs.files.contains_key(file) || inputs.missing.contains(file) || file == THIS_NODE;
    state.problems.retain(|file, _| !is_stale(file) && state.applied.contains_key(file));
    let mut found: BTreeMap<String, Vec<Problem>> = BTreeMap::new();
    for problem in problems.iter() {
        found.entry(problem.file.clone()).or_default().push(problem.clone());
    }
    state.problems.extend(found);
}

/// Writes or removes the notes of what is wrong. That they cannot be written is told in the journal.
fn tell_problems(options: &Options, problems: &[Problem]) {
    let (boot, kept) = (options.boot.join(paths::BOOT_PROBLEMS), under(&options.root, paths::PROBLEMS));
    let told = if problems.is_empty() {
        let kept = match std::fs::remove_file(&kept) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        };
        remove_boot(&boot).and(kept)
    } else {
        let text = report(problems);
        let same = std::fs::read(&boot).is_ok_and(|found| found == text.as_bytes());
        let boot = if same { Ok(()) } else { write_boot(&boot, text.as_bytes()) };
        write_root(&options.root, paths::PROBLEMS, text.as_bytes(), 0o644).and(boot)
    };
    if let Err(error) = told {
        eprintln!("what is wrong cannot be noted for the owner: {error}");
    }
}

/// The join file of a member, as the broker's node keeps it.
///
/// # Errors
/// Why there is none, and what to do.
pub fn join_file(root: &Path, member: Member) -> Result<String, String> {
    let path = under(root, paths::JOINS).join(format!("{}.toml", member.as_str()));
    std::fs::read_to_string(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            "this node runs no broker, so nobody can join it: run this on the node whose `roles` hold \
                                         \"broker\""
                .into()
        }
        std::io::ErrorKind::PermissionDenied => {
            format!("join files are secret: run `sudo microlambda-provision join {}`", member.as_str())
        }
        _ => format!("cannot read {}: {error}", path.display()),
    })
}
