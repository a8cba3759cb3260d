use super::*;

const T: u64 = 1_000_000;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn audience() -> Audience {
    Audience::new(name("door-1"), T)
}

fn want(node: &str, cursor: u64, credit: u32, committed: u64) -> Want {
    Want { node: name(node), boot: name("b"), chain: name("door-1"), cursor, credit, committed, expires_ms: 2_000 }
}

/// Sends everything that is wanted now; node and number of each.
fn serve(audience: &mut Audience, next: u64, now_ms: u64) -> Vec<(String, u64)> {
    let mut served = Vec::new();
    while let Some((node, sequence)) = audience.next_read(next, now_ms) {
        assert!(audience.sent(&node, sequence, sequence + 1));
        served.push((node.to_string(), sequence));
        assert!(served.len() < 1_000, "credit is bounded");
    }
    served
}

fn of(node: &str, numbers: std::ops::Range<u64>) -> Vec<(String, u64)> {
    numbers.map(|n| (node.to_owned(), n)).collect()
}

#[test]
fn a_want_is_served_from_its_cursor_up_to_its_credit() {
    let mut audience = audience();
    assert_eq!(audience.on_want(&want("a", 3, 4, 0), 0..10, T), Answer::Serve);
    assert_eq!(serve(&mut audience, 10, T), of("a", 3..7));
}

#[test]
fn credit_left_over_serves_the_next_live_frame_until_it_expires() {
    let mut audience = audience();
    audience.on_want(&want("a", 9, 4, 0), 0..10, T);
    assert_eq!(serve(&mut audience, 10, T), of("a", 9..10));
    assert_eq!(serve(&mut audience, 11, T + 1_999), of("a", 10..11));
    assert_eq!(serve(&mut audience, 12, T + 2_000), []);
}

#[test]
fn a_want_replaces_the_nodes_former_one_and_no_other_nodes() {
    let mut audience = audience();
    audience.on_want(&want("a", 6, 100, 0), 0..9, T);
    audience.on_want(&want("b", 1, 1, 0), 0..9, T);
    audience.on_want(&want("a", 2, 1, 0), 0..9, T);
    assert_eq!(serve(&mut audience, 9, T), [("a".to_owned(), 2), ("b".to_owned(), 1)]);
}

#[test]
fn a_node_that_comes_again_and_again_and_commits_nothing_is_not_waited_for() {
    let mut audience = audience();
    audience.on_want(&want("b", 5, 0, 5), 0..6, T);
    let mut released = None;
    for second in 1..600 {
        let now_ms = T + second * 1_000;
        audience.on_status(&name("b"), second % 2 == 0, now_ms);
        audience.on_want(&want("a", second, 1, second), 0..1_000, now_ms);
        released = audience.release(now_ms);
        if second < STANDSTILL_MS / 1_000 {
            assert_eq!(released.map(|release| release.below), Some(5.min(second)), "it may go on at any time");
        }
    }
    assert_eq!(released, Some(Release { below: 599, on_one: true }));
}

#[test]
fn a_want_that_goes_on_where_the_open_one_stands_extends_it() {
    let mut audience = audience();
    audience.on_want(&want("a", 0, 4, 0), 0..20, T);
    let (node, asked) = audience.next_read(20, T).unwrap();
    // Sent before the first record has come: neither is it sent twice, nor is one passed over.
    audience.on_want(&want("a", 2, 4, 0), 0..20, T);
    assert!(audience.sent(&node, asked, 1));
    assert_eq!(serve(&mut audience, 20, T), of("a", 1..6));
    audience.on_want(&want("a", 9, 1, 0), 0..20, T);
    assert_eq!(serve(&mut audience, 20, T), of("a", 9..10), "one that begins elsewhere replaces it");
}

#[test]
fn an_extended_want_stays_bounded_and_an_expired_one_is_not_extended() {
    let mut audience = audience();
    for n in 0..10_u64 {
        audience.on_want(&want("a", n * u64::from(CREDIT_MAX), CREDIT_MAX, 0), 0..1_000_000, T);
    }
    let credit = audience.nodes[&name("a")].session.unwrap().credit;
    assert_eq!(credit, CREDIT_MAX);
    audience.on_want(&want("b", 0, 4, 0), 0..20, T);
    audience.on_want(&want("b", 3, 1, 0), 0..20, T + 2_000);
    assert_eq!(serve(&mut audience, 20, T + 2_000), of("b", 3..4));
}

#[test]
fn nodes_take_turns() {
    let mut audience = audience();
    for node in ["a", "b", "c"] {
        audience.on_want(&want(node, 0, 2, 0), 0..9, T);
    }
    let order: Vec<String> = serve(&mut audience, 9, T).into_iter().map(|(node, _)| node).collect();
    assert_eq!(order, ["a", "b", "c", "a", "b", "c"]);
}

#[test]
fn what_is_not_held_and_another_chain_are_answered_with_the_head_alone() {
    let mut audience = audience();
    assert_eq!(audience.on_want(&want("a", 4, 4, 0), 5..10, T), Answer::Announce);
    assert_eq!(audience.on_want(&want("a", 11, 4, 0), 5..10, T), Answer::Announce);
    let other = Want { chain: name("door-2"), ..want("a", 5, 4, 9) };
    assert_eq!(audience.on_want(&other, 5..10, T), Answer::Announce);
    assert_eq!(serve(&mut audience, 10, T), []);
    audience.on_want(&want("a", 5, 4, 0), 5..10, T);
    audience.not_held(&name("a"), 5);
    assert_eq!(serve(&mut audience, 10, T), []);
}

#[test]
fn a_record_read_for_a_want_that_was_replaced_is_not_sent() {
    let mut audience = audience();
    audience.on_want(&want("a", 0, 4, 0), 0..10, T);
    let (node, asked) = audience.next_read(10, T).unwrap();
    audience.on_want(&want("a", 7, 4, 0), 0..10, T);
    assert!(!audience.sent(&node, asked, asked + 1));
    assert_eq!(serve(&mut audience, 10, T), of("a", 7..10));
}

#[test]
fn frames_are_released_when_two_nodes_have_committed_them() {
    let mut audience = audience();
    audience.on_want(&want("a", 9, 1, 9), 0..10, T);
    assert_eq!(audience.release(T), None);
    audience.on_want(&want("b", 4, 1, 4), 0..10, T);
    assert_eq!(audience.release(T), Some(Release { below: 4, on_one: false }));
    audience.on_want(&want("c", 7, 0, 7), 0..10, T);
    assert_eq!(audience.release(T), Some(Release { below: 7, on_one: false }));
}

#[test]
fn the_word_of_a_node_that_died_still_counts() {
    let mut audience = audience();
    audience.on_want(&want("a", 9, 1, 9), 0..10, T);
    audience.on_status(&name("a"), false, T);
    audience.on_want(&want("b", 4, 1, 4), 0..10, T);
    assert_eq!(audience.release(T), Some(Release { below: 4, on_one: false }));
}

#[test]
fn one_node_alone_releases_only_after_it_has_been_alone_for_long() {
    let mut audience = audience();
    audience.on_want(&want("a", 9, 1, 9), 0..10, T);
    assert_eq!(audience.release(T + ALONE_AFTER_MS - 1), None);
    audience.on_want(&want("a", 9, 1, 9), 0..10, T + ALONE_AFTER_MS);
    assert_eq!(audience.release(T + ALONE_AFTER_MS), Some(Release { below: 9, on_one: true }));
}

#[test]
fn a_second_live_node_holds_the_release_back_even_if_it_never_asked() {
    let mut audience = audience();
    let mut now_ms = T;
    for _ in 0..10 {
        now_ms += 5_000;
        audience.on_status(&name("b"), true, now_ms);
        audience.on_want(&want("a", 9, 1, 9), 0..10, now_ms);
        assert_eq!(audience.release(now_ms), None);
    }
    audience.on_status(&name("b"), false, now_ms);
    assert_eq!(audience.release(now_ms), None, "it may come back");
    now_ms += ALONE_AFTER_MS;
    audience.on_want(&want("a", 9, 1, 9), 0..10, now_ms);
    assert_eq!(audience.release(now_ms), Some(Release { below: 9, on_one: true }));
}

/// A camera that takes a frame a second for an hour, with room for `frames_max`. One node commits each at once, another catches up from
/// far behind. Frames that found no room, and the oldest held in the end.
fn beside_a_node_that_catches_up(frames_max: u64) -> (u64, u64) {
    let mut audience = audience();
    let (mut oldest, mut next, mut no_room) = (10_000, 10_000, 0);
    for second in 0..3_600 {
        let now_ms = T + second * 1_000;
        if next - oldest < frames_max {
            next += 1;
        } else {
            no_room += 1;
        }
        audience.on_want(&want("a", next, 1, next), oldest..next, now_ms);
        audience.on_want(&want("b", next, 1, second), oldest..next, now_ms);
        audience.on_spool(1_000 * (next - oldest) / frames_max);
        if let Some(release) = audience.release(now_ms) {
            oldest = oldest.max(release.below);
        }
    }
    (no_room, oldest)
}

#[test]
fn a_node_that_catches_up_from_far_behind_costs_a_camera_no_frame_while_another_is_up_to_date() {
    for frames_max in [40, 100, 1_000, 5_000] {
        assert_eq!(beside_a_node_that_catches_up(frames_max).0, 0, "{frames_max}");
    }
    assert_eq!(beside_a_node_that_catches_up(10_000), (0, 10_000), "below half it is waited for");
}

#[test]
fn two_nodes_that_keep_up_with_each_other_free_together_however_full_the_spool_is() {
    let mut audience = audience();
    audience.on_spool(1_000);
    for second in 0..60 {
        let (now_ms, committed) = (T + second * 1_000, 10 * (second + 1));
        audience.on_want(&want("a", committed, 1, committed), 0..1_000, now_ms);
        assert!(audience.release(now_ms).is_none_or(|release| !release.on_one));
        let now_ms = now_ms + 500;
        audience.on_want(&want("b", committed, 1, committed), 0..1_000, now_ms);
        assert_eq!(audience.release(now_ms), Some(Release { below: committed, on_one: false }));
    }
}

#[test]
fn a_status_that_nobody_repeats_goes_stale() {
    let mut audience = audience();
    audience.on_status(&name("ghost"), true, T);
    audience.on_want(&want("a", 9, 1, 9), 0..10, T + STATUS_FRESH_MS + ALONE_AFTER_MS);
    // The ghost was last known to be there when the other node was first heard.
    let now_ms = T + STATUS_FRESH_MS + ALONE_AFTER_MS;
    assert_eq!(audience.release(now_ms), Some(Release { below: 9, on_one: true }));
}

#[test]
fn after_a_reconnect_all_nodes_get_time_to_be_heard() {
    let mut audience = audience();
    audience.on_disconnected();
    let now_ms = T + 100_000;
    audience.on_connected(now_ms);
    audience.on_want(&want("a", 9, 1, 9), 0..10, now_ms);
    assert_eq!(audience.release(now_ms + 1), None);
}

#[test]
fn a_node_that_lost_its_store_takes_its_word_back() {
    let mut audience = audience();
    audience.on_want(&want("a", 9, 1, 9), 0..10, T);
    audience.on_want(&want("b", 9, 1, 9), 0..10, T);
    audience.on_want(&want("b", 0, 1, 0), 0..10, T);
    assert_eq!(audience.release(T), None);
}

#[test]
fn a_report_beyond_the_newest_record_is_cut_to_it() {
    let mut audience = audience();
    audience.on_want(&want("a", 10, 1, u64::MAX), 0..10, T);
    audience.on_want(&want("b", 10, 1, u64::MAX), 0..10, T);
    assert_eq!(audience.release(T), Some(Release { below: 10, on_one: false }));
}

#[test]
fn nodes_are_bounded_and_a_node_that_is_gone_makes_room() {
    let mut audience = audience();
    for n in 0..NODES_MAX {
        assert_eq!(audience.on_want(&want(&format!("n{n}"), 0, 1, 0), 0..10, T), Answer::Serve);
    }
    assert_eq!(audience.on_want(&want("more", 0, 1, 0), 0..10, T), Answer::Refuse);
    audience.on_status(&name("n3"), false, T);
    assert_eq!(audience.on_want(&want("more", 0, 1, 0), 0..10, T), Answer::Serve);
}

#[test]
fn a_lost_connection_ends_all_wants() {
    let mut audience = audience();
    audience.on_want(&want("a", 0, 4, 0), 0..10, T);
    assert_eq!(audience.sessions(T), 1);
    audience.on_disconnected();
    assert_eq!(audience.sessions(T), 0);
    assert_eq!(serve(&mut audience, 10, T), []);
}

#[test]
fn silence_counts_from_the_last_live_node_and_from_each_connection() {
    let mut audience = audience();
    assert_eq!(audience.unheard_ms(T + 3), Some(3));
    audience.on_connected(T + 5);
    assert_eq!(audience.unheard_ms(T + 8), Some(3));
    audience.on_want(&want("a", 0, 1, 0), 0..10, T + 10);
    assert_eq!(audience.unheard_ms(T + 10), None);
    assert_eq!(audience.unheard_ms(T + 9_000), None);
    assert_eq!(
        audience.unheard_ms(T + 10 + WANT_FRESH_MS),
        Some(1_010),
        "it was last seen to be live at the look before"
    );
    audience.on_status(&name("b"), true, T + 20_000);
    assert_eq!(audience.unheard_ms(T + 20_000), None);
    audience.on_status(&name("b"), false, T + 21_000);
    assert_eq!(audience.unheard_ms(T + 25_000), Some(5_000));
}

#[test]
fn what_no_live_node_has_is_lost_since_all_have_lacked_it() {
    let mut audience = audience();
    assert_eq!(audience.lost(50, T), None, "nobody was heard yet");
    audience.on_want(&want("a", 7, 0, 7), 50..60, T);
    assert_eq!(audience.lost(50, T), Some(Lost { from: 7, for_ms: 0 }));
    audience.on_want(&want("b", 9, 0, 9), 50..60, T + 1_000);
    assert_eq!(audience.lost(50, T + 1_000), Some(Lost { from: 9, for_ms: 1_000 }), "the furthest counts");
    audience.on_want(&want("c", 55, 0, 55), 50..60, T + 2_000);
    assert_eq!(audience.lost(50, T + 2_000), None, "a node with the results is back");
    audience.on_status(&name("c"), false, T + 3_000);
    assert_eq!(audience.lost(50, T + 4_000).map(|lost| lost.for_ms), Some(0), "and gone again");
}

#[test]
fn the_time_in_which_no_node_is_live_counts_for_no_loss_and_takes_back_none_of_one() {
    let mut audience = audience();
    for round in 0..3 {
        let heard_ms = T + round * 30_000;
        audience.on_want(&want("a", 7, 0, 7), 50..60, heard_ms);
        for second in 0..30 {
            let lost = audience.lost(50, heard_ms + second * 1_000);
            let for_ms = (second < WANT_FRESH_MS / 1_000).then_some((9 * round + second) * 1_000);
            assert_eq!(lost.map(|lost| lost.for_ms), for_ms, "{round} {second}");
        }
    }
    let now_ms = T + 90_000;
    audience.on_status(&name("new"), true, now_ms);
    assert_eq!(audience.lost(50, now_ms), None, "it has reported nothing");
    audience.on_want(&want("a", 50, 0, 50), 50..60, now_ms);
    assert_eq!(audience.lost(50, now_ms), None);
    audience.on_want(&want("a", 7, 0, 7), 50..60, now_ms);
    assert_eq!(audience.lost(50, now_ms).map(|lost| lost.for_ms), Some(0), "a node had the results");
}

#[test]
fn a_node_inside_a_restarts_numbers_is_served_from_there_and_neither_loses_nor_frees_it() {
    let mut audience = audience();
    // The restart stands for 50 to 79.
    assert_eq!(audience.on_want(&want("a", 54, 4, 54), 50..90, T), Answer::Serve);
    let (node, asked) = audience.next_read(90, T).unwrap();
    assert_eq!((node.as_str(), asked), ("a", 54));
    assert!(audience.sent(&node, asked, 80));
    assert_eq!(serve(&mut audience, 90, T), of("a", 80..83));
    assert_eq!(audience.lost(50, T), None, "it can be had");
    audience.on_want(&want("b", 85, 0, 85), 50..90, T);
    let release = audience.release(T).unwrap();
    assert!(release.below < 80 && !release.on_one, "{release:?}: the restart ends at 80");
    audience.on_want(&want("a", 80, 1, 80), 50..90, T);
    assert_eq!(audience.release(T), Some(Release { below: 80, on_one: false }));
}

#[test]
fn what_nodes_that_are_away_had_reported_does_not_free_a_restart() {
    let mut audience = audience();
    for node in ["a", "b"] {
        audience.on_want(&want(node, 80, 0, 80), 0..90, T);
        audience.on_status(&name(node), false, T);
    }
    assert_eq!(audience.release(T), Some(Release { below: 80, on_one: false }));
    let now_ms = T + 60_000;
    audience.on_want(&want("c", 50, 1, 50), 80..90, now_ms);
    let lost = audience.lost(80, now_ms).unwrap();
    assert_eq!(lost.from, 50);
    audience.give_up(lost);
    assert_eq!(audience.lost(50, now_ms), None, "the restart begins there");
    assert!(audience.release(now_ms).is_none_or(|release| release.below <= 50));
    audience.on_want(&want("c", 80, 1, 80), 50..90, now_ms + 1_000);
    let taken = Some(Release { below: 80, on_one: true });
    assert_eq!(audience.release(now_ms + 1_000), taken, "the only one has taken it");
}
