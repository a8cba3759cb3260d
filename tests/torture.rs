//! A site of real processes under faults of every kind: the short form. `make torture` runs it for longer, with other seeds.

use std::process::{Command, Stdio};

/// Runs the driver in a process of its own, which enters namespaces and leaves nothing behind.
fn torture(args: &[&str]) {
    let out = concat!(env!("CARGO_TARGET_TMPDIR"), "/torture");
    let mut command = Command::new(env!("CARGO_BIN_EXE_torture"));
    let output = command.args(args).args(["--out", out]).stdin(Stdio::null()).output().expect("the driver");
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{errors}");
    println!("{said}");
}

#[test]
fn nothing_is_lost_and_nothing_comes_twice_whatever_happens_to_agents_workers_disks_links_and_mosquitto() {
    torture(&["--seconds", "45", "--seed", "6"]);
}

#[test]
fn the_same_holds_on_three_nats_servers_of_which_one_at_a_time_dies_freezes_or_forgets() {
    torture(&["--broker", "nats", "--seconds", "20", "--seed", "1"]);
}
