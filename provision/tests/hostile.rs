//! Files with anything in them: nothing fails, what is taken is within bounds, secrets go and nothing else does, twice is once.

mod common;

use common::Machine;
use microlambda_provision::input::appliance::{self, Settings};
use microlambda_provision::input::check;
use microlambda_provision::input::document::{Document, Given};
use microlambda_provision::input::preseed::{self, Preseed};
use microlambda_provision::input::{join, source};
use microlambda_provision::problem::{PROBLEMS_MAX, Problems};
use microlambda_provision::redact::redact;
use proptest::prelude::*;

const COMMANDS: [&[&str]; 1] = [&["camera", "source", "command"]];

/// Lines that mean something, torn and mixed.
fn lines() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        Just("[system]".to_owned()),
        Just("[user]".to_owned()),
        Just("[ssh]".to_owned()),
        Just("[wlan]".to_owned()),
        Just("[locale]".to_owned()),
        Just("[camera]".to_owned()),
        Just("[camera.source]".to_owned()),
        Just("[broker]".to_owned()),
        Just("[join]".to_owned()),
        Just("[[edge]]".to_owned()),
        "(site|roles|hostname|name|password|password_encrypted|ssid|country|keymap|timezone|kind|command|device|address|names|ca|role)",
        "(site|hostname|name|password|ssid|country|timezone|keymap|device|address) = \"[ -~]{0,40}\"",
        "(roles|names|command|authorized_keys|groups) = \\[(\"[a-z.:/@]{0,20}\"(, )?){0,3}\\]?",
        "(enabled|hidden|finite|password_encrypted) = (true|false|maybe)",
        "(fps|width|spool-mb|r-limit-ms|version) = -?[0-9]{1,25}",
        "\\PC{0,60}",
        "# .{0,30}",
    ];
    prop::collection::vec(line, 0..40).prop_map(|lines| lines.join("\n"))
}

/// A value as TOML writes it, in one of its ways.
fn written(secret: &str, way: usize) -> String {
    match way % 3 {
        0 if !secret.contains('\'') => format!("'{secret}'"),
        1 if !secret.contains('\'') => format!("'''{secret}'''"),
        _ => toml::Value::from(secret).to_string(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_within_bounds(text in prop_oneof![lines(), "\\PC{0,400}", any::<String>()]) {
        let mut problems = Problems::default();
        let document = Document::read(preseed::FILE, &text, &mut problems);
        let preseed = Preseed::read(&document, &mut problems);
        let read = Settings::read(None, &document, &mut problems);
        let joined = join::read(&document, &mut problems);
        prop_assert!(problems.iter().count() <= PROBLEMS_MAX);
        prop_assert!(problems.iter().all(|problem| !problem.what.contains('\n') && problem.what.chars().count() <= 601));
        if let Some(name) = &preseed.host_name {
            prop_assert_eq!(check::host_name(name.clone()), Ok(name.clone()));
        }
        if let Some(user) = &preseed.user {
            prop_assert_eq!(check::user_name(user.name.clone()), Ok(user.name.clone()));
            prop_assert!(user.groups.as_ref().is_none_or(|groups| groups.len() <= 32));
        }
        if let Some(zone) = &preseed.time_zone {
            prop_assert!(!zone.contains("..") && !zone.starts_with('/'));
        }
        if let Some(wlan) = &preseed.wlan {
            prop_assert!((1..=32).contains(&wlan.ssid.len()));
        }
        if let Some(address) = &read.settings.broker {
            prop_assert!(address.starts_with("mqtts://"));
        }
        prop_assert!(!matches!(joined, Given::Absent) || text.is_empty());
        // What was wrong now does not undo what is right already.
        let mut again = Problems::default();
        let kept = Settings::read(Some(&read.settings), &document, &mut again);
        prop_assert_eq!(kept.settings.site, read.settings.site);
        prop_assert_eq!(kept.settings.roles, read.settings.roles);
    }

    #[test]
    fn redaction_of_any_text_keeps_every_other_byte_and_is_done_once(text in prop_oneof![lines(), any::<String>()]) {
        let paths: Vec<&[&str]> = preseed::SECRETS.into_iter().chain(appliance::SECRETS).chain(join::SECRETS).collect();
        let once = redact(&text, &paths, &COMMANDS);
        prop_assert_eq!(&redact(&once, &paths, &COMMANDS), &once);
        let document = Document::read("", &text, &mut Problems::default());
        let has_secret = paths.iter().any(|path| document.find(path).is_some())
            || document.find(COMMANDS[0]).is_some();
        prop_assert!(has_secret || once == text);
    }

    #[test]
    fn no_secret_remains_and_everything_else_means_what_it_meant(
        user in "[!-&(-~]{8,40}", wlan in "[ -~]{8,40}", cam in "[A-Za-z0-9!.+-]{6,20}", way in 0_usize..3, name in "[a-z]{1,8}",
        comment in "[ -~]{0,20}",
    ) {
        let words = toml::Value::from(vec!["ffmpeg".to_owned(), format!("rtsp://me:{cam}@cam/x")]).to_string();
        let text = format!(
            "# {comment} {user}\n[user]\nname = \"{name}\" # {comment}\npassword = {}\n[wlan]\npassword = {} # {wlan}\n\
             [camera.source]\ncommand = {words} # {cam}\n",
            written(&user, way), written(&wlan, way),
        );
        let paths: Vec<&[&str]> = preseed::SECRETS.to_vec();
        let redacted = redact(&text, &paths, &COMMANDS);
        for secret in [&user, &wlan, &cam] {
            // A part of the fixed text may be a secret by chance.
            prop_assert!(!redacted.contains(secret.as_str()) || text.matches(secret.as_str()).count() > 3, "{secret} in {redacted}");
        }
        let (mut before, after): (toml::Table, toml::Table) = (text.parse().unwrap(), redacted.parse().unwrap());
        before["user"]["password"] = check::APPLIED.into();
        before["wlan"]["password"] = check::APPLIED.into();
        before["camera"]["source"]["command"][1] = format!("rtsp://me:{}@cam/x", check::APPLIED).into();
        prop_assert_eq!(before, after);
    }

    #[test]
    fn passwords_in_addresses_are_found_where_they_are(word in any::<String>()) {
        if let Some(at) = source::password_in(&word) {
            let redacted = source::redacted(&word, at);
            prop_assert_eq!(source::password_in(&redacted), None);
        }
    }
}

proptest! {
    // Each case makes keys and files.
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_machine_with_any_files_boots_to_a_state_that_stays(
        first in prop_oneof![lines(), any::<String>()], second in lines(), third in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let machine = Machine::new();
        // Accounts are told elsewhere; their tools are slow.
        machine.write_boot("rpi-preseed.toml", first.replace("user", "usher"));
        machine.write_boot("microlambda.toml", &second);
        machine.write_boot("microlambda-join.toml", &third);
        machine.start();
        prop_assert!(machine.has("/etc/ssh/sshd_config.d/10-microlambda.conf"));
        let once = machine.everything();
        let report = machine.start();
        prop_assert_eq!(machine.everything(), once, "{}", report);
    }
}
