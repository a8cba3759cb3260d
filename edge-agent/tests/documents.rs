//! The documents name what the program has.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking")]

/// The names in the block `counters! { … }` of the node's source, as they stand on the bus.
fn counters() -> Vec<String> {
    let source = include_str!("../src/node/status.rs");
    let (_, block) = source.split_once("\ncounters! {").unwrap();
    let (block, _) = block.split_once("\n}").unwrap();
    let names = block.lines().filter_map(|line| line.trim().strip_suffix(','));
    names.filter(|name| !name.starts_with("//")).map(|name| name.replace('_', "-")).collect()
}

#[test]
fn every_counter_of_a_node_is_described_and_stands_in_the_example() {
    let document = include_str!("../../docs/topics.md");
    let counters = counters();
    assert!(counters.len() > 20, "{counters:?}");
    for counter in counters {
        assert!(document.contains(&format!("| `{counter}` | ")), "docs/topics.md does not describe {counter}");
        assert!(document.contains(&format!("      \"{counter}\",")), "the example in docs/topics.md lacks {counter}");
    }
}
