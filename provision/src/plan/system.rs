//! The part of the plan that follows from `rpi-preseed.toml`.

use openssl::hash::MessageDigest;
use openssl::pkcs5::pbkdf2_hmac;

use std::collections::BTreeSet;

use super::{Action, Content, Memory, Owner, Part, Plan, THIS_NODE};
use crate::facts::Facts;
use crate::input::check::to_hex;
use crate::input::document::Given;
use crate::input::preseed::{DEFAULT_GROUP, FILE, Password, Preseed, Ssh, User, Wlan, WlanKey};
use crate::paths;
use crate::problem::Problems;
use crate::state::State;

/// Users with a lower number belong to the system.
const USER_ID_MIN: u32 = 1_000;
/// Rounds and length of a WPA2 key, as the standard has them.
const PSK_ROUNDS: usize = 4_096;
const PSK_BYTES: usize = 32;
/// A home that is made here is its user's alone.
const HOME_UMASK: &str = "0077";
const WRITTEN_BY: &str = "# Written by microlambda-provision from rpi-preseed.toml on the boot partition.\n";

/// Plans the system's settings.
pub fn plan(preseed: Option<&Preseed>, facts: &Facts, state: &State, plan: &mut Plan, problems: &mut Problems) {
    // The way in comes first, and does not depend on any file.
    if !facts.ssh_host_keys {
        let args = vec!["-A".to_owned()];
        let (stdin, unsynced) = (Content(Vec::new()), Some("/etc/ssh"));
        plan.act(Part::Ssh, Action::Run { program: "ssh-keygen", root_option: "-f", args, stdin, unsynced });
    }
    let by_password = preseed.and_then(|preseed| preseed.ssh.as_ref()).and_then(|ssh| ssh.by_password);
    if !facts.present.contains(paths::SSHD) && by_password.is_none() {
        plan.write(Part::Ssh, paths::SSHD, sshd_settings(false));
    }
    let Some(preseed) = preseed else { return };
    if let Some(name) = &preseed.host_name {
        plan.write(Part::HostName, "/etc/hostname", format!("{name}\n"));
        plan.write(Part::HostName, "/etc/hosts", hosts_with(&facts.hosts, name));
        plan.act(Part::HostName, Action::HostName(name.clone()));
    }
    let user = preseed.user.as_ref().filter(|user| is_free(user, facts, problems));
    if let Some(user) = user {
        plan_user(user, facts, plan, problems);
    }
    if let Some(ssh) = &preseed.ssh {
        let has_way_in = plan_ssh(ssh, user, preseed, facts, state, plan, problems);
        // Behind the new user's keys, and only if there is no doubt about them: somebody has to have a way in.
        if let Some(user) = user
            && has_way_in
        {
            plan_former_users(user, facts, state, plan, problems);
        }
    }
    if let Some(wlan) = &preseed.wlan {
        plan_wlan(wlan, state, plan, problems);
    }
    plan_locale(preseed, facts, plan, problems);
    if let Some((servers, fallback)) = &preseed.time_servers {
        let line = |key: &str, hosts: &[String]| {
            if hosts.is_empty() { String::new() } else { format!("{key}={}\n", hosts.join(" ")) }
        };
        let text = format!("{WRITTEN_BY}[Time]\n{}{}", line("NTP", servers), line("FallbackNTP", fallback));
        plan.write(Part::Time, "/etc/systemd/timesyncd.conf.d/microlambda.conf", text);
    }
}

/// `/etc/hosts` in which the host finds itself.
fn hosts_with(hosts: &str, name: &str) -> String {
    let base = if hosts.trim().is_empty() {
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    } else {
        hosts
    };
    let others = base.lines().filter(|line| line.split_whitespace().next() != Some("127.0.1.1"));
    let mut text: String = others.map(|line| format!("{line}\n")).collect();
    text.push_str(&format!("127.0.1.1\t{name}.local {name}\n"));
    text
}

/// Whether the name is nobody's, or a person's.
fn is_free(user: &User, facts: &Facts, problems: &mut Problems) -> bool {
    let whose = match facts.users.get(&user.name) {
        Some(id) if (USER_ID_MIN..65_534).contains(id) => return true,
        Some(_) => "a user of the system itself",
        // A new user gets a group of its name: useradd refuses one that is there, and to join it could give rights that nobody asked for.
        None if facts.groups.contains(&user.name) => "a group that is there already",
        None => return true,
    };
    problems.note(FILE, None, format!("`user.name`: {} is {whose}: choose another name", user.name));
    false
}

fn plan_user(user: &User, facts: &Facts, plan: &mut Plan, problems: &mut Problems) {
    let name = &user.name;
    let is_new = !facts.users.contains_key(name);
    let default = [DEFAULT_GROUP.to_owned()];
    let asked: &[String] = match &user.groups {
        Some(groups) => groups,
        None if is_new => &default,
        None => &[],
    };
    let groups: Vec<&str> = asked.iter().map(String::as_str).filter(|&group| facts.groups.contains(group)).collect();
    let mut args: Vec<String> = Vec::new();
    let program = if is_new {
        args.extend(["--create-home", "--user-group", "--no-log-init", "--shell", "/bin/bash"].map(str::to_owned));
        if !groups.is_empty() {
            args.extend(["--groups".to_owned(), groups.join(",")]);
        }
        "useradd"
    } else {
        args.extend(["--append".to_owned(), "--groups".to_owned(), groups.join(",")]);
        "usermod"
    };
    args.push(name.clone());
    if is_new || !groups.is_empty() {
        let stdin = Content(Vec::new());
        plan.act(Part::User, Action::Run { program, root_option: "--prefix", args, stdin, unsynced: None });
    }
    let chpasswd = |option: &[&str], password: &str| Action::Run {
        program: "chpasswd",
        root_option: "--root",
        args: option.iter().map(|&option| option.to_owned()).collect(),
        stdin: format!("{name}:{password}\n").into(),
        unsynced: None,
    };
    match &user.password {
        Some(Password::Plain(password)) => plan.act(Part::User, chpasswd(&["--crypt-method", "YESCRYPT"], password)),
        Some(Password::Hash(hash)) => plan.act(Part::User, chpasswd(&["--encrypted"], hash)),
        Some(Password::AsBefore) if is_new => {
            problems.note(
                FILE,
                None,
                format!(
                    "`user.password` was taken out when it was applied, but there is no {name} here: write it again"
                ),
            );
        }
        Some(Password::AsBefore) | None => {}
    }
    plan_sudo(user, is_new, plan, problems);
    if !is_new {
        // The power may have been lost between account and home. It leaves a home that is there as it is.
        let (args, stdin) = (vec![name.clone(), HOME_UMASK.to_owned()], Content(Vec::new()));
        plan.act(Part::User, Action::Run { program: "mkhomedir_helper", root_option: "", args, stdin, unsynced: None });
    }
    plan.memory.push((Part::User, Memory::User(name.clone())));
}

/// Whether the user becomes root without a password.
fn plan_sudo(user: &User, is_new: bool, plan: &mut Plan, problems: &mut Problems) {
    let name = &user.name;
    let path = sudoers_of(name);
    match user.passwordless_sudo {
        Some(true) => {
            let content = format!("{WRITTEN_BY}{name} ALL=(ALL:ALL) NOPASSWD: ALL\n").into();
            plan.act(Part::User, Action::Write { path, content, mode: 0o440, owner: Owner::Root, check: None });
            return;
        }
        Some(false) => plan.remove(Part::User, path),
        // Whoever has a key and no password would become root no more.
        None => {}
    }
    if is_new && user.password.is_none() {
        let what = format!(
            "{name} has no password and so cannot become root: add `password`, or `passwordless_sudo = true`, to [user]"
        );
        problems.note(FILE, None, what);
    }
}

/// Takes back what former users were given: all of it behind the rest of its part, and not if the new user could not be made (`execute`). Their
/// accounts stay, as their homes may hold what somebody needs.
fn plan_former_users(user: &User, facts: &Facts, state: &State, plan: &mut Plan, problems: &mut Problems) {
    let all: BTreeSet<&String> = state.former_users.iter().chain(&state.user).collect();
    let former: Vec<&String> = all.into_iter().filter(|former| **former != user.name).collect();
    for name in &former {
        plan.remove(Part::Ssh, keys_of(name));
        plan.remove(Part::Ssh, sudoers_of(name));
        if facts.users.contains_key(*name) {
            let what = format!(
                "rpi-preseed.toml names the user {} now: once that one is set up, the keys and rights it gave to {name} are taken back; the account stays, \
                 with its password: `sudo userdel --remove {name}` removes it with its home. This is told once",
                user.name
            );
            problems.note(THIS_NODE, None, what);
        }
    }
    if !former.is_empty() {
        plan.memory.push((Part::Ssh, Memory::OnlyUser));
    }
}

fn sudoers_of(user: &str) -> String {
    format!("/etc/sudoers.d/010-microlambda-{user}")
}

fn keys_of(user: &str) -> String {
    format!("{}/{user}", paths::SSH_KEYS)
}

fn sshd_settings(by_password: bool) -> String {
    let yes_no = if by_password { "yes" } else { "no" };
    format!(
        "{WRITTEN_BY}PasswordAuthentication {yes_no}\nKbdInteractiveAuthentication no\nPermitRootLogin no\n\
         AuthorizedKeysFile .ssh/authorized_keys {}/%u\n",
        paths::SSH_KEYS
    )
}

/// Whether the file's user has a way in then.
fn plan_ssh(
    ssh: &Ssh,
    user: Option<&User>,
    preseed: &Preseed,
    facts: &Facts,
    state: &State,
    plan: &mut Plan,
    problems: &mut Problems,
) -> bool {
    if let Some(by_password) = ssh.by_password {
        plan.write(Part::Ssh, paths::SSHD, sshd_settings(by_password));
    }
    let by_password = ssh.by_password.unwrap_or(facts.ssh_by_password);
    if ssh.enabled {
        plan.remove(Part::Ssh, paths::SSH_OFF);
    } else {
        plan.write(Part::Ssh, paths::SSH_OFF, "rpi-preseed.toml says [ssh] enabled = false.\n".to_owned());
    }
    let name = user.map(|user| &user.name).or(if preseed.user.is_none() { state.user.as_ref() } else { None });
    let has_former_keys = name.is_some_and(|name| facts.ssh_users.contains(name));
    let has_keys = match (&ssh.keys, name) {
        (Given::Right(keys), Some(name)) if !keys.is_empty() => {
            plan.act(Part::Ssh, Action::Folder { path: paths::SSH_KEYS.into(), mode: 0o755 });
            plan.write(Part::Ssh, keys_of(name), keys.join("\n") + "\n");
            true
        }
        (Given::Right(keys), None) if !keys.is_empty() => {
            let what = "`ssh.authorized_keys`: nobody is there to use them: add [user] with a `name`";
            problems.note(FILE, None, what);
            return false;
        }
        (Given::Right(_), Some(name)) => {
            if has_former_keys {
                plan.remove(Part::Ssh, keys_of(name));
            }
            false
        }
        (Given::Right(_), None) => false,
        (Given::Absent | Given::Wrong, _) => has_former_keys,
    };
    // Without [ssh] and without a user, nobody is meant to log in.
    let is_meant = ssh.keys != Given::Absent || name.is_some();
    if ssh.enabled && !by_password && !has_keys && is_meant {
        let what = "nobody can log in over SSH yet: add `authorized_keys` to [ssh], or `password_authentication = true`; or `enabled = false`, if \
                    nobody is to";
        problems.note(FILE, None, what);
    }
    let has_password = user.is_some_and(|user| user.password.is_some());
    !ssh.keys.is_wrong() && (has_keys || (by_password && has_password))
}

fn plan_wlan(wlan: &Wlan, state: &State, plan: &mut Plan, problems: &mut Problems) {
    let ssid = to_hex(&wlan.ssid);
    let lines = match &wlan.key {
        WlanKey::Open(false) => vec!["key_mgmt=NONE".to_owned()],
        WlanKey::Open(true) => vec!["key_mgmt=OWE".to_owned(), "ieee80211w=2".to_owned()],
        WlanKey::Passphrase(text) => match psk_of(text, &wlan.ssid) {
            Ok(psk) => psk_lines(&psk),
            Err(error) => {
                problems.note(FILE, None, format!("`wlan.password`: its key cannot be computed: {error}"));
                return;
            }
        },
        WlanKey::Psk(psk) => psk_lines(psk),
        // Hexadecimal digits, so that no text can break out of its line.
        WlanKey::Sae(text) => {
            let password = to_hex(text.as_bytes());
            vec!["key_mgmt=SAE".to_owned(), "ieee80211w=2".to_owned(), format!("sae_password={password}")]
        }
        WlanKey::AsBefore(kind) => match &state.wlan {
            Some((before, lines)) if *before == ssid && is_of_kind(lines, kind.as_deref()) => lines.clone(),
            Some((before, _)) if *before == ssid => {
                let what = "`wlan.password` was taken out when it was applied, with another `key_mgmt`: write the password again";
                problems.note(FILE, None, what);
                return;
            }
            Some(_) | None => {
                let what = "`wlan.password` was taken out when it was applied, and belongs to another network: write that of this one";
                problems.note(FILE, None, what);
                return;
            }
        },
    };
    let remembered = (ssid, lines);
    // Of the same network nothing but the mistakes is new: what was right before stays.
    let has_mistake = wlan.hidden.is_wrong() || wlan.country.is_wrong();
    if !has_mistake || state.wlan.as_ref() != Some(&remembered) {
        plan.write_secret(Part::Wlan, paths::WLAN, supplicant_settings(wlan, &remembered.0, &remembered.1));
    }
    plan.memory.push((Part::Wlan, Memory::Wlan(remembered)));
    if wlan.country == Given::Absent {
        let what = "`wlan.country` is missing: without it the radio may keep silent on your network's channel; write its two letters";
        problems.note(FILE, None, what);
    }
}

fn supplicant_settings(wlan: &Wlan, ssid: &str, lines: &[String]) -> String {
    let country = match &wlan.country {
        Given::Right(country) => format!("country={country}\n"),
        Given::Absent | Given::Wrong => String::new(),
    };
    let hidden = if wlan.hidden == Given::Right(true) { "\tscan_ssid=1\n" } else { "" };
    let key: String = lines.iter().map(|line| format!("\t{line}\n")).collect();
    format!("{WRITTEN_BY}ctrl_interface=/run/wpa_supplicant\n{country}network={{\n\tssid={ssid}\n{hidden}{key}}}\n")
}

/// Whether lines of before open a network of the kind that the file names now; if it names none, of any but WPA3's.
fn is_of_kind(lines: &[String], kind: Option<&str>) -> bool {
    let has = |start: &str| lines.iter().any(|line| line.starts_with(start));
    match kind {
        Some("sae") => has("key_mgmt=SAE"),
        Some(_) => has("key_mgmt=WPA-PSK"),
        None => !has("key_mgmt=SAE"),
    }
}

fn psk_lines(psk: &[u8]) -> Vec<String> {
    vec!["key_mgmt=WPA-PSK WPA-PSK-SHA256".to_owned(), "ieee80211w=1".to_owned(), format!("psk={}", to_hex(psk))]
}

/// The key of a WPA2 network (IEEE 802.11i, annex H.4).
fn psk_of(passphrase: &str, ssid: &[u8]) -> Result<Vec<u8>, openssl::error::ErrorStack> {
    let mut psk = vec![0; PSK_BYTES];
    pbkdf2_hmac(passphrase.as_bytes(), ssid, PSK_ROUNDS, MessageDigest::sha1(), &mut psk)?;
    Ok(psk)
}

fn plan_locale(preseed: &Preseed, facts: &Facts, plan: &mut Plan, problems: &mut Problems) {
    // Read by Debian's console-setup. The image goes without, and no note says so: Imager writes a layout whenever it writes a time zone.
    if let Some(keymap) = &preseed.keymap {
        let text = format!(
            "{WRITTEN_BY}XKBMODEL=\"pc105\"\nXKBLAYOUT=\"{keymap}\"\nXKBVARIANT=\"\"\nXKBOPTIONS=\"\"\n\nBACKSPACE=\"guess\"\n"
        );
        plan.write(Part::Locale, "/etc/default/keyboard", text);
    }
    if let Some(zone) = &preseed.time_zone {
        if facts.time_zone_known {
            plan.act(
                Part::Locale,
                Action::Link { path: "/etc/localtime".into(), target: format!("{}/{zone}", paths::ZONES) },
            );
            plan.write(Part::Locale, "/etc/timezone", format!("{zone}\n"));
        } else {
            problems.note(
                FILE,
                None,
                format!("`locale.timezone`: there is no time zone {zone}: write one such as Europe/London"),
            );
        }
    }
    if let Some(lang) = &preseed.lang {
        if facts.locale_known {
            plan.write(Part::Locale, "/etc/default/locale", format!("LANG={lang}\n"));
        } else {
            problems.note(FILE, None, format!("`locale.lang`: {lang} is not installed here: use C.UTF-8"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wpa2_key_is_that_of_the_standards_own_example() {
        let psk = psk_of("password", b"IEEE").unwrap();
        assert_eq!(to_hex(&psk), "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e");
    }

    #[test]
    fn the_host_finds_itself_once() {
        let hosts = hosts_with("127.0.0.1 localhost\n127.0.1.1 old\n10.0.0.1 other\n", "hub");
        assert_eq!(hosts, "127.0.0.1 localhost\n10.0.0.1 other\n127.0.1.1\thub.local hub\n");
        assert_eq!(hosts_with(&hosts, "hub"), hosts);
        assert!(hosts_with("", "hub").starts_with("127.0.0.1\tlocalhost\n"));
    }
}
