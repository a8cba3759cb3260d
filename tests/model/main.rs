//! The claim and checkpoint protocol, checked in every history of a small site: nodes that drive the very `Chain` of the agents.

mod net;
mod site;
mod state;

use std::thread::available_parallelism;

use microlambda::sabotage::Sabotage;
use stateright::{Checker, HasDiscoveries, Model as _};

use net::Records;
use site::Site;
use state::Faults;

fn site(nodes: u8, steps: u8, faults: Faults) -> Site {
    Site { nodes, steps, faults, sabotage: None, disks: Vec::new() }
}

fn crashes(crashes: u8) -> Faults {
    Faults { crashes, disks: 0 }
}

fn check(site: &Site) -> impl Checker<Site> + use<> {
    let threads = available_parallelism().map_or(2, usize::from);
    site.clone().checker().threads(threads).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join()
}

/// Every history to its end; how many states there are.
fn exhaust(site: &Site) -> usize {
    let checker = check(site);
    for name in ["every invariant holds", "once nothing fails any more, all nodes come to the same end"] {
        if let Some(path) = checker.discovery(name) {
            let broken = path.last_state().broken;
            panic!("{name}: {broken:?}\n{:#?}", path.into_actions());
        }
    }
    assert!(checker.is_done(), "not every history was followed");
    println!("{site:?}: {} states, the longest history {} actions", checker.unique_state_count(), checker.max_depth());
    checker.unique_state_count()
}

#[test]
fn two_nodes_agree_in_every_history_with_a_crash() {
    let site = site(2, 1, crashes(1));
    assert!(exhaust(&site) > 5_000);
    // The histories are worth it: there are forks and takeovers among them.
    check(&site).assert_any_discovery("two nodes are on different branches");
    check(&site).assert_any_discovery("a step was taken over");
}

#[test]
fn two_nodes_agree_in_every_history_of_two_steps_that_they_duel_for() {
    assert!(exhaust(&site(2, 2, crashes(0))) > 20_000);
}

#[test]
fn a_head_announced_by_a_node_whose_disk_then_dies_holds_nobody_up() {
    assert!(exhaust(&site(2, 1, Faults { disks: 1, ..crashes(0) })) > 5_000);
}

#[test]
fn of_two_branches_one_replaces_the_other_in_every_history() {
    let start = Records::default();
    let disks = vec![start.and(0).and(0), start.and(1)];
    assert!(exhaust(&Site { disks, ..site(2, 3, crashes(0)) }) > 4_000);
}

#[test]
fn the_checker_finds_what_was_broken_on_purpose() {
    let usual = std::panic::take_hook();
    // Assertions of the code itself are among what finds it: thousands of times.
    std::panic::set_hook(Box::new(move |info| {
        let checker = std::thread::current().name().is_some_and(|name| name.starts_with("checker"));
        if !checker {
            usual(info);
        }
    }));
    for sabotage in [
        Sabotage::PublishBeforeCommit,
        Sabotage::UnsyncedCommits,
        Sabotage::AnnouncedHeadIsMerged,
        Sabotage::AdoptAnything,
        Sabotage::IgnoreEpochs,
        Sabotage::YieldToHigherClaim,
    ] {
        let checker = check(&Site { sabotage: Some(sabotage), ..site(2, 2, crashes(1)) });
        let found = checker.discovery("every invariant holds").map(|path| path.last_state().broken);
        println!("{sabotage:?}: {found:?} after {} states", checker.unique_state_count());
        assert!(found.is_some(), "{sabotage:?} was not found in {} states", checker.unique_state_count());
    }
}

#[test]
#[ignore = "takes long: `make model`"]
fn two_nodes_agree_in_every_history_of_three_steps_with_a_crash() {
    assert!(exhaust(&site(2, 3, crashes(1))) > 1_000_000);
}

#[test]
#[ignore = "takes long: `make model`"]
fn three_nodes_agree_in_every_history_of_a_step_that_they_duel_for() {
    exhaust(&site(3, 1, crashes(0)));
}
