//! Doing what a plan says. Each change is done wholly or not at all, and is on the disk when it is done.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use microlambda_runtime::{sync_folder, without_passwords};
use rustix::fs::{Gid, Uid, fchown};

use crate::facts::{accounts, under};
use crate::paths;
use crate::plan::{Action, Owner, Part, Plan};
use crate::set_aside::{can_set_aside, set_aside};

/// A program that takes longer than this is stopped, s: nothing here may hold up a boot.
const PROGRAM_S_MAX: u32 = 60;
/// Of what a program says so much is told, characters.
const SAID_CHARS_MAX: usize = 400;

/// What came of a plan.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Parts that could not be done, and why.
    pub failed: BTreeMap<Part, String>,
    /// How many actions changed something.
    pub changed: usize,
}

/// Does a plan on the machine whose root is `root`. A part whose action fails is left where it is; the others are done, but take nobody's way in if
/// the user could not be set up: it may be the only one.
pub fn execute(plan: &Plan, root: &Path) -> Outcome {
    let mut outcome = Outcome::default();
    for (part, action) in &plan.actions {
        if outcome.failed.contains_key(part) {
            continue;
        }
        if takes_way_in(*part, action) && outcome.failed.contains_key(&Part::User) {
            outcome.failed.insert(*part, "former keys and rights stay until the user is set up".to_owned());
            continue;
        }
        match act(action, root) {
            Ok(true) => outcome.changed += 1,
            Ok(false) => {}
            Err(why) => {
                outcome.failed.insert(*part, why);
            }
        }
    }
    outcome
}

/// Whether it takes keys or rights from somebody.
fn takes_way_in(part: Part, action: &Action) -> bool {
    part == Part::Ssh && matches!(action, Action::Remove { path } if path != paths::SSH_OFF)
}

/// Does one action; whether it changed anything.
fn act(action: &Action, root: &Path) -> Result<bool, String> {
    match action {
        Action::Write { path, content, mode, owner, check } => {
            let at = under(root, path);
            let failed = |error: io::Error| format!("cannot write {path}: {error}");
            let ids = ids_of(*owner, root).map_err(|why| format!("cannot write {path}: {why}"))?;
            if is_as_wished(&at, &content.0, *mode, ids) {
                return Ok(false);
            }
            let new = write_beside(&at, &content.0, *mode, ids).map_err(failed)?;
            if let Some(program) = check
                && let Err(why) = validate(program, &new, root)
            {
                let _ = fs::remove_file(&new);
                return Err(why);
            }
            put_in_place(&new, &at).map(|()| true).map_err(failed)
        }
        Action::Folder { path, mode } => {
            make_folder(&under(root, path), *mode).map_err(|error| format!("cannot make {path}: {error}"))
        }
        Action::Link { path, target } => {
            link(&under(root, path), target).map_err(|error| format!("cannot link {path}: {error}"))
        }
        Action::Remove { path } => match fs::remove_file(under(root, path)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(format!("cannot remove {path}: {error}")),
        },
        Action::Run { program, root_option, args, stdin, unsynced } => {
            let mut command = bounded(program);
            if root != Path::new("/") {
                // Without the option it knows no other root, and would change this machine.
                if root_option.is_empty() {
                    return Ok(false);
                }
                command.arg(root_option).arg(root);
            }
            run(command.args(args), program, &stdin.0)?;
            let synced = unsynced.map_or(Ok(()), |folder| sync_files(&under(root, folder)));
            synced.map(|()| true).map_err(|error| format!("what {program} wrote may be lost with the power: {error}"))
        }
        Action::HashPasswords { path, lines, owner } => {
            let ids = ids_of(*owner, root).map_err(|why| format!("cannot write {path}: {why}"))?;
            hash_passwords(root, &under(root, path), &lines.0, ids).map(|()| true)
        }
        Action::SpoolCanBeSetAside { folder } => can_set_aside(&under(root, folder)).map(|()| false),
        Action::SetSpoolAside { folder } => set_aside(&under(root, folder)),
        Action::HostName(name) => set_host_name(name, root),
    }
}

/// User and group; none for whoever runs this, where that is not root and so could not give a file away.
fn ids_of(owner: Owner, root: &Path) -> Result<Option<(u32, u32)>, String> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let find = |file: &str, kind: &str, name: &str| {
        let text = fs::read_to_string(under(root, file)).map_err(|error| format!("{file}: {error}"))?;
        let id = accounts(&text).find_map(|(known, id)| (known == name).then_some(id));
        id.ok_or_else(|| format!("there is no {kind} {name}: install the package that makes it"))
    };
    match owner {
        Owner::Root => Ok(Some((0, 0))),
        Owner::Group(name) => Ok(Some((0, find("/etc/group", "group", name)?))),
        Owner::User(name) => Ok(Some((find("/etc/passwd", "user", name)?, find("/etc/group", "group", name)?))),
    }
}

fn is_as_wished(at: &Path, content: &[u8], mode: u32, ids: Option<(u32, u32)>) -> bool {
    let Ok(metadata) = fs::symlink_metadata(at) else { return false };
    metadata.is_file()
        && metadata.len() == content.len() as u64
        && metadata.permissions().mode() & 0o7777 == mode
        && ids.is_none_or(|ids| ids == (metadata.uid(), metadata.gid()))
        && fs::read(at).is_ok_and(|found| found == content)
}

/// Writes a new file beside the place where it shall be, on the disk when this returns.
fn write_beside(at: &Path, content: &[u8], mode: u32, ids: Option<(u32, u32)>) -> io::Result<PathBuf> {
    let (parent, name) = (at.parent().unwrap_or(Path::new("/")), at.file_name().unwrap_or_default());
    fs::create_dir_all(parent)?;
    let mut new_name = std::ffi::OsString::from(".");
    new_name.push(name);
    new_name.push(".new");
    let new = parent.join(new_name);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // Nobody else reads it before it has its mode.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(content)?;
    if let Some((user, group)) = ids {
        fchown(&file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
    }
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()?;
    Ok(new)
}

fn put_in_place(new: &Path, at: &Path) -> io::Result<()> {
    fs::rename(new, at)?;
    at.parent().map_or(Ok(()), sync_folder)
}

/// Makes a folder's files durable, with their names.
fn sync_files(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_folder(folder)
}

fn make_folder(at: &Path, mode: u32) -> io::Result<bool> {
    if fs::metadata(at).is_ok_and(|metadata| metadata.is_dir() && metadata.permissions().mode() & 0o7777 == mode) {
        return Ok(false);
    }
    fs::create_dir_all(at)?;
    fs::set_permissions(at, Permissions::from_mode(mode))?;
    at.parent().map_or(Ok(()), sync_folder)?;
    Ok(true)
}

fn link(at: &Path, target: &str) -> io::Result<bool> {
    if fs::read_link(at).is_ok_and(|found| found == Path::new(target)) {
        return Ok(false);
    }
    let parent = at.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent)?;
    let new = parent.join(".microlambda-link.new");
    let _ = fs::remove_file(&new);
    symlink(target, &new)?;
    put_in_place(&new, at)?;
    Ok(true)
}

/// A program that is stopped if it does not end by itself.
pub fn bounded(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.arg(PROGRAM_S_MAX.to_string()).arg(program.as_ref());
    command
}

/// Runs a command to its end; if it fails, what it says.
fn run(command: &mut Command, name: &str, stdin: &[u8]) -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot run {name}: {error}");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(failed)?;
    if let Some(mut pipe) = child.stdin.take() {
        // Whoever ends without reading tells by its exit code.
        let _ = pipe.write_all(stdin);
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    // Before it is cut, as a part of an address is not known as one.
    let said = without_passwords(&said.split_whitespace().collect::<Vec<_>>().join(" "));
    let said: String = said.chars().take(SAID_CHARS_MAX).collect();
    let code = output.status.code();
    Err(match code {
        Some(124) => format!("{name} did not end within {PROGRAM_S_MAX} s and was stopped"),
        Some(127) => format!("there is no program {name}: install the package that has it"),
        Some(_) | None => format!("{name} failed ({}): {said}", output.status),
    })
}

/// Asks the agent itself whether it can use a file, if it is installed.
fn validate(program: &str, file: &Path, root: &Path) -> Result<(), String> {
    let installed = under(root, "/usr/bin").join(program);
    if !installed.is_file() {
        return Ok(());
    }
    let mut command = bounded(&installed);
    run(command.arg("validate").arg("--config").arg(file), program, b"")
}

/// Lets mosquitto's own program hash the passwords, in a folder that is root's alone.
fn hash_passwords(root: &Path, at: &Path, lines: &[u8], ids: Option<(u32, u32)>) -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot write the broker's passwords: {error}");
    let folder = under(root, paths::STATE_DIR).join("work");
    make_folder(&folder, 0o700).map_err(failed)?;
    let plain = write_beside(&folder.join("passwords"), lines, 0o600, None).map_err(failed)?;
    let hashed = run(bounded("mosquitto_passwd").arg("-U").arg(&plain), "mosquitto_passwd", b"");
    let content = hashed.and_then(|()| fs::read(&plain).map_err(failed));
    let removed = fs::remove_dir_all(&folder);
    let content = content?;
    removed.map_err(failed)?;
    // If it had left a password as it was, everybody who reads the file could use it.
    let plain_lines: BTreeSet<&[u8]> = lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).collect();
    if content.split(|&byte| byte == b'\n').any(|line| plain_lines.contains(line)) {
        return Err("mosquitto_passwd did not hash the passwords".into());
    }
    let new = write_beside(at, &content, 0o600, ids).map_err(failed)?;
    put_in_place(&new, at).map_err(failed)
}

/// Names the running system, where the root is the system's own.
fn set_host_name(name: &str, root: &Path) -> Result<bool, String> {
    const KERNEL: &str = "/proc/sys/kernel/hostname";
    if root != Path::new("/") {
        return Ok(false);
    }
    let failed = |error: io::Error| format!("cannot set the host name now; it holds from the next start on: {error}");
    if fs::read_to_string(KERNEL).map_err(failed)?.trim() == name {
        return Ok(false);
    }
    fs::write(KERNEL, name).map(|()| true).map_err(failed)
}

/// Writes a file of the boot partition (FAT: no owners, no modes), and overwrites the blocks of the one it replaces, which may hold
/// secrets.
///
/// # Errors
/// What the system says; the former file is there still.
pub fn write_boot(at: &Path, content: &[u8]) -> io::Result<()> {
    let former = OpenOptions::new().write(true).open(at);
    let new = at.with_extension("new");
    let written = File::create(&new).and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()));
    if let Err(error) = written {
        // A part of a file on a full partition only takes the room that it lacks.
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    put_in_place(&new, at)?;
    former.map_or(Ok(()), overwrite)
}

/// Removes a file of the boot partition, if it is there, and overwrites its blocks before, which may hold secrets.
///
/// # Errors
/// What the system says.
pub fn remove_boot(at: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).open(at) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        file => file.and_then(overwrite).and_then(|()| fs::remove_file(at)),
    }
}

/// Puts zeros in the place of a file's content.
fn overwrite(mut file: File) -> io::Result<()> {
    let length = file.metadata()?.len();
    io::copy(&mut io::Read::take(io::repeat(0), length), &mut file)?;
    file.sync_all()
}

/// Writes a file of root's, unless it is so already.
///
/// # Errors
/// What the system says.
pub fn write_root(root: &Path, path: &str, content: &[u8], mode: u32) -> io::Result<()> {
    let at = under(root, path);
    let ids = rustix::process::geteuid().is_root().then_some((0, 0));
    if is_as_wished(&at, content, mode, ids) {
        return Ok(());
    }
    let new = write_beside(&at, content, mode, ids)?;
    put_in_place(&new, &at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Content;

    fn write(path: &str, content: &str, mode: u32) -> Action {
        Action::Write { path: path.into(), content: Content(content.into()), mode, owner: Owner::Root, check: None }
    }

    #[test]
    fn a_file_is_written_with_its_mode_and_only_if_it_differs() {
        let root = tempfile::tempdir().unwrap();
        let action = write("/etc/a/b", "text", 0o640);
        assert_eq!(act(&action, root.path()), Ok(true));
        assert_eq!(act(&action, root.path()), Ok(false));
        let at = root.path().join("etc/a/b");
        assert_eq!(fs::metadata(&at).unwrap().permissions().mode() & 0o777, 0o640);
        fs::set_permissions(&at, Permissions::from_mode(0o666)).unwrap();
        assert_eq!(act(&action, root.path()), Ok(true));
        assert_eq!(fs::read_dir(at.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_link_in_the_place_of_a_file_is_replaced_and_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let outside = root.path().join("outside");
        fs::write(&outside, "precious").unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        symlink(&outside, root.path().join("etc/x")).unwrap();
        symlink(&outside, root.path().join("etc/.x.new")).unwrap();
        assert_eq!(act(&write("/etc/x", "text", 0o644), root.path()), Ok(true));
        assert_eq!(fs::read_to_string(&outside).unwrap(), "precious");
        assert!(fs::symlink_metadata(root.path().join("etc/x")).unwrap().is_file());
    }

    #[test]
    fn a_part_that_fails_stops_there_and_the_others_go_on() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("file"), "").unwrap();
        let mut plan = Plan::default();
        let failing = write("/file/below", "", 0o644);
        for (part, action) in
            [(Part::User, failing), (Part::User, write("/after", "", 0o644)), (Part::Ssh, write("/ssh", "", 0o644))]
        {
            plan.actions.push((part, action));
        }
        let outcome = execute(&plan, root.path());
        assert_eq!(outcome.failed.keys().collect::<Vec<_>>(), [&Part::User]);
        assert!(!root.path().join("after").exists() && root.path().join("ssh").exists());
    }

    #[test]
    fn nobody_loses_a_way_in_where_the_user_could_not_be_set_up() {
        let remove = |path: &str| (Part::Ssh, Action::Remove { path: path.into() });
        for fails in [true, false] {
            let root = tempfile::tempdir().unwrap();
            let (keys, sudoers) = ("/etc/ssh/authorized_keys.d/ann", "/etc/sudoers.d/010-microlambda-ann");
            for path in ["/file", keys, sudoers, paths::SSH_OFF] {
                act(&write(path, "text", 0o644), root.path()).unwrap();
            }
            let user = write(if fails { "/file/below" } else { "/user" }, "", 0o644);
            let mut plan = Plan::default();
            plan.actions.extend([(Part::User, user), remove(paths::SSH_OFF), (Part::Ssh, write("/ssh", "", 0o644))]);
            plan.actions.extend([remove(keys), remove(sudoers)]);
            let outcome = execute(&plan, root.path());
            let is_there = |path: &str| under(root.path(), path).exists();
            assert_eq!((is_there(keys), is_there(sudoers)), (fails, fails));
            assert!(is_there("/ssh") && !is_there(paths::SSH_OFF), "SSH itself is set up all the same");
            // The part is not remembered as done then.
            let failed: &[Part] = if fails { &[Part::User, Part::Ssh] } else { &[] };
            assert!(outcome.failed.keys().eq(failed), "{outcome:?}");
        }
    }

    #[test]
    fn a_program_that_knows_no_other_root_is_not_run_for_one() {
        let root = tempfile::tempdir().unwrap();
        let action = |root_option| Action::Run {
            program: "false",
            root_option,
            args: Vec::new(),
            stdin: Content(Vec::new()),
            unsynced: None,
        };
        assert_eq!(act(&action(""), root.path()), Ok(false));
        assert!(act(&action("--"), root.path()).is_err());
    }

    #[test]
    fn a_program_that_fails_or_is_missing_says_why() {
        let fails = run(bounded("sh").args(["-c", "cat >&2; exit 3"]), "sh", b"the\nreason").unwrap_err();
        assert!(fails.contains("the reason") && fails.contains('3'), "{fails}");
        let missing = run(&mut bounded("no-such-program-here"), "no-such-program-here", b"").unwrap_err();
        assert!(missing.contains("install the package"), "{missing}");
    }

    #[test]
    fn a_program_whose_files_cannot_be_synced_has_not_succeeded() {
        let root = tempfile::tempdir().unwrap();
        let run = |unsynced| Action::Run {
            program: "true",
            root_option: "--",
            args: Vec::new(),
            stdin: Content(Vec::new()),
            unsynced,
        };
        let why = act(&run(Some("/etc/ssh")), root.path()).unwrap_err();
        assert!(why.contains("what true wrote may be lost"), "{why}");
        act(&write("/etc/ssh/key", "a key", 0o600), root.path()).unwrap();
        assert_eq!(act(&run(Some("/etc/ssh")), root.path()), Ok(true));
        assert_eq!(act(&run(None), root.path()), Ok(true));
    }

    #[test]
    fn the_blocks_of_a_replaced_boot_file_are_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("f.toml");
        fs::write(&at, "secret").unwrap();
        let mut former = File::open(&at).unwrap();
        write_boot(&at, b"public").unwrap();
        let mut kept = String::new();
        io::Read::read_to_string(&mut former, &mut kept).unwrap();
        assert_eq!(kept, "\0".repeat(6));
        assert_eq!(fs::read_to_string(&at).unwrap(), "public");
    }
}
