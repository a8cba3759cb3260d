//! Who gets in over SSH follows from the file: what it says is there, what it says no more is gone, and what a mistake may hide stays.

mod common;

use common::{KEY, Machine, is_root};
use microlambda_provision::facts::Facts;
use microlambda_provision::input::document::Document;
use microlambda_provision::input::preseed::{self, Preseed};
use microlambda_provision::plan::{Materials, Memory, Plan, Wishes, plan};
use microlambda_provision::problem::Problems;
use microlambda_provision::state::State;

const OF_ANN: [&str; 2] = ["remove /etc/ssh/authorized_keys.d/ann", "remove /etc/sudoers.d/010-microlambda-ann"];

/// What a file does on a device where ann was given a key and rights, in words, and what is told.
fn applied(text: &str, state: &State) -> (Plan, String, String) {
    let mut problems = Problems::default();
    let document = Document::read(preseed::FILE, text, &mut problems);
    let preseed = Preseed::read(&document, &mut problems);
    let facts = Facts {
        ssh_host_keys: true,
        users: [("ann".to_owned(), 1000), ("mosquitto".to_owned(), 104)].into(),
        groups: ["sudo", "video", "operator"].map(str::to_owned).into(),
        ssh_users: ["ann".to_owned(), "by-hand".to_owned()].into(),
        ..Facts::default()
    };
    let plan = plan(Some(&preseed), &Wishes::default(), &facts, &Materials::default(), state, &mut problems);
    let actions: Vec<String> = plan.actions.iter().map(|(_, action)| action.to_string()).collect();
    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    (plan, actions.join("\n"), told.join("\n"))
}

fn of_ann() -> State {
    State { user: Some("ann".into()), ..State::default() }
}

#[test]
fn a_user_without_ssh_in_the_file_is_told_that_nobody_can_log_in() {
    let (_, _, told) = applied("[user]\nname = \"bob\"\npassword = \"correct horse\"\n", &State::default());
    assert!(told.contains("nobody can log in over SSH yet") && told.contains("password_authentication"), "{told}");
    // Who has a key of before can, and a device without a user is not meant to be logged in to.
    for text in ["[user]\nname = \"ann\"\npasswordless_sudo = true\n", "[system]\nhostname = \"door\"\n"] {
        assert_eq!(applied(text, &State::default()).2, "", "{text}");
    }
}

#[test]
fn ssh_that_was_off_is_on_again_once_the_file_says_nothing_of_it() {
    let machine = Machine::new();
    machine.write_boot("rpi-preseed.toml", "[ssh]\nenabled = false\npassword_authentication = true\n");
    machine.start();
    assert!(machine.has("/etc/microlambda/ssh-off"));
    machine.write_boot("rpi-preseed.toml", "[system]\nhostname = \"door\"\n");
    assert_eq!(machine.start().problems, []);
    assert!(!machine.has("/etc/microlambda/ssh-off"));
}

#[test]
fn a_way_in_by_password_stays_where_the_file_says_nothing_of_ssh_or_says_it_wrongly() {
    for (text, by_password) in [
        ("[system]\nhostname = \"door\"\n", "yes"),
        ("[ssh]\npassword_authentication = \"true\"\n", "yes"),
        ("[shh]\nenabled = true\n", "yes"),
        ("[ssh]\nenabled = true\n", "no"),
    ] {
        let machine = Machine::new();
        machine.write_boot("rpi-preseed.toml", "[ssh]\npassword_authentication = true\n");
        machine.start();
        machine.write_boot("rpi-preseed.toml", text);
        machine.start();
        let settings = machine.text("/etc/ssh/sshd_config.d/10-microlambda.conf");
        assert!(settings.contains(&format!("PasswordAuthentication {by_password}")), "{text}: {settings}");
    }
}

#[test]
fn keys_that_the_file_lists_no_more_are_gone() {
    for text in ["[ssh]\npassword_authentication = true\n", "[user]\nname = \"ann\"\n[ssh]\nauthorized_keys = []\n"] {
        let (_, actions, _) = applied(text, &of_ann());
        assert!(actions.contains(OF_ANN[0]) && !actions.contains("by-hand"), "{text}: {actions}");
    }
    let (_, _, told) = applied("[ssh]\nauthorized_keys = []\n", &of_ann());
    assert!(told.contains("nobody can log in over SSH yet"), "{told}");
}

#[test]
fn keys_stay_where_the_file_says_nothing_of_ssh_or_a_mistake_may_hide_them() {
    for text in [
        "[user]\nname = \"ann\"\n",
        "[ssh]\nauthorized_keys = [\"ssh-ed25519 AAAA\"]\n",
        "[ssh]\nauthorised_keys = []\n",
        "[ssh]\nauthorized_keys = 3\n",
        "[ssh]\n[wlan]\nssid = \"x\n",
    ] {
        let (_, actions, told) = applied(text, &of_ann());
        assert!(!actions.contains(OF_ANN[0]), "{text}: {actions}");
        assert!(!told.contains("nobody can log in"), "{text}: {told}");
    }
}

#[test]
fn a_former_user_loses_keys_and_rights_once_the_new_one_has_theirs() {
    let text = format!("[user]\nname = \"bob\"\n[ssh]\nauthorized_keys = [\"{KEY}\"]\n");
    let (plan, actions, told) = applied(&text, &of_ann());
    let keys_of_bob = actions.find("write /etc/ssh/authorized_keys.d/bob").unwrap();
    assert!(OF_ANN.iter().all(|gone| actions.find(gone).is_some_and(|at| at > keys_of_bob)), "{actions}");
    assert!(told.contains("this node: ") && told.contains("`sudo userdel --remove ann`"), "{told}");
    assert!(plan.memory.iter().any(|(_, memory)| *memory == Memory::OnlyUser));
    // Somebody has to have a way in, and ann does not lose hers to somebody who cannot be.
    for (wrong, user) in [("x", "bob"), (KEY, "mosquitto"), (KEY, "operator"), (KEY, "B ob")] {
        let text = format!("[user]\nname = \"{user}\"\n[ssh]\nauthorized_keys = [\"{wrong}\"]\n");
        let (_, actions, _) = applied(&text, &of_ann());
        assert!(OF_ANN.iter().all(|gone| !actions.contains(gone)), "{text}: {actions}");
    }
    let text_without_ssh = "[user]\nname = \"bob\"\npassword = \"correct horse\"\n";
    let (_, actions, told) = applied(text_without_ssh, &of_ann());
    assert!(OF_ANN.iter().all(|gone| !actions.contains(gone)), "{actions}");
    assert!(told.contains("nobody can log in over SSH yet"), "{told}");
    let by_password = format!("{text_without_ssh}[ssh]\npassword_authentication = true\n");
    let (_, actions, _) = applied(&by_password, &of_ann());
    assert!(OF_ANN.iter().all(|gone| actions.contains(gone)), "{actions}");
    // Mended, the same file does it.
    let state = State { user: Some("bob".into()), former_users: ["ann".to_owned()].into(), ..State::default() };
    let (_, actions, _) = applied(&text, &state);
    assert!(OF_ANN.iter().all(|gone| actions.contains(gone)), "{actions}");
}

#[test]
fn a_new_user_has_no_name_of_a_group_that_is_there() {
    let (plan, actions, told) = applied("[user]\nname = \"operator\"\npassword = \"correct horse\"\n", &of_ann());
    assert!(told.contains("`user.name`: operator is a group that is there already: choose another name"), "{told}");
    assert!(!actions.contains("useradd"), "{actions}");
    assert!(
        !plan.memory.iter().any(|(_, memory)| matches!(memory, Memory::User(_))),
        "ann stays the one who was given a way in"
    );
}

#[test]
fn a_mistake_takes_no_right_and_gives_no_group() {
    let with = |line: &str| applied(&format!("[user]\nname = \"ann\"\n{line}\n"), &of_ann()).1;
    for wrong in ["passwordless_sudo = \"true\"", "passwordles_sudo = true", "passwordless_sudo = true\ngroups = 3\n["]
    {
        let actions = with(wrong);
        assert!(!actions.contains(OF_ANN[1]) && !actions.contains("usermod"), "{wrong}: {actions}");
    }
    for right in ["", "passwordless_sudo = false", "passwordless_sudo = false\ngroups = 3"] {
        assert!(with(right).contains(OF_ANN[1]), "{right}");
    }
    assert!(!with("groups = [\"Sudo!\"]").contains("usermod"));
    assert!(with("groups = [\"video\", \"none\"]").contains("run usermod --append --groups video ann"));
    // Somebody new has none of before.
    let (_, actions, _) = applied("[user]\nname = \"bob\"\ngroups = 3\n", &State::default());
    assert!(actions.contains("--groups sudo bob"), "{actions}");
}

#[test]
fn a_user_whose_home_may_be_missing_gets_one() {
    let text = |name: &str| format!("[user]\nname = \"{name}\"\npassword = \"correct horse\"\n");
    let (_, actions, _) = applied(&text("ann"), &State::default());
    let home = actions.find("run mkhomedir_helper ann");
    assert!(home > actions.find("run chpasswd"), "its failure costs nothing else: {actions}");
    let (_, actions, _) = applied(&text("bob"), &State::default());
    assert!(actions.contains("--create-home") && !actions.contains("mkhomedir_helper"), "{actions}");
}

/// Accounts are made by the system's own tools, which take another root only from root.
#[test]
fn a_user_who_is_called_otherwise_is_another_and_the_former_account_is_told_once() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    let text = |name: &str, key: &str| {
        format!("[user]\nname = \"{name}\"\npasswordless_sudo = true\n[ssh]\nauthorized_keys = [\"{key}\"]\n")
    };
    machine.write_boot("rpi-preseed.toml", text("ann", KEY));
    assert_eq!(machine.start().problems, []);
    // The key of the new one is damaged at first: ann still gets in.
    machine.write_boot("rpi-preseed.toml", text("bob", "damaged"));
    machine.start();
    assert!(machine.has("/etc/ssh/authorized_keys.d/ann") && !machine.has("/etc/ssh/authorized_keys.d/bob"));
    machine.write_boot("rpi-preseed.toml", text("bob", KEY));
    machine.start();
    for (name, is_there) in [("ann", false), ("bob", true)] {
        assert_eq!(machine.has(&format!("/etc/ssh/authorized_keys.d/{name}")), is_there, "{name}");
        assert_eq!(machine.has(&format!("/etc/sudoers.d/010-microlambda-{name}")), is_there, "{name}");
    }
    assert!(machine.problems().contains("userdel --remove ann"), "{}", machine.problems());
    assert!(machine.text("/etc/passwd").contains("ann:"));
    machine.start();
    assert_eq!(machine.problems(), "");
}
