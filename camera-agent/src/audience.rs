//! Who wants which records, and what all have committed: the agent's decisions, without clock or IO.
//!
//! Times are milliseconds of a monotonic clock. Every `on_…` may be called at any time; a repeated message changes
//! nothing.

use std::collections::BTreeMap;

use microlambda_wire::{Name, Want};

/// Nodes remembered at most.
pub const NODES_MAX: usize = 64;
/// A want lives no longer than this without renewal, ms.
pub const EXPIRY_MAX_MS: u64 = 60_000;
/// An open want that is extended again and again grows no further than this, records.
pub const CREDIT_MAX: u32 = 4_096;
/// A node that asked this recently is live, ms.
pub const WANT_FRESH_MS: u64 = 10_000;
/// A node whose status said `online` this recently is live, ms. Nodes repeat their status more often than that.
pub const STATUS_FRESH_MS: u64 = 30_000;
/// A frame is freed on one node's word only after no second node was live for this long, ms: a node that restarts, or
/// that a restarted camera has not heard yet, gets its chance.
pub const ALONE_AFTER_MS: u64 = 10_000;
/// A live node that has fallen behind another and committed nothing for this long, ms, is not waited for: it cannot write, or takes no part.
pub const STANDSTILL_MS: u64 = 300_000;

/// What to do about a want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Its records come.
    Serve,
    /// It asks for what is not held or for another chain: say again what is held.
    Announce,
    /// There are too many nodes.
    Refuse,
}

/// What may be freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// Records below this number.
    pub below: u64,
    /// True if only one node has committed them.
    pub on_one: bool,
}

/// Released records whose results no live node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// The furthest that a live node has committed: the first record that is lost.
    pub from: u64,
    /// Since when it has been so, ms.
    pub since_ms: u64,
}

/// All nodes that this camera has heard of.
#[derive(Debug, Clone)]
pub struct Audience {
    chain: Name,
    nodes: BTreeMap<Name, Node>,
    /// When a second node was last live, or listening began.
    not_alone_ms: u64,
    /// When a node was last live, or listening began.
    heard_ms: u64,
    /// The node served last, for taking turns.
    served_last: Option<Name>,
    /// Since when all live nodes have lacked what was released.
    lost_since_ms: Option<u64>,
}

#[derive(Debug, Clone, Default)]
struct Node {
    session: Option<Session>,
    /// What it reported for this chain; `None` before its first want.
    committed: Option<u64>,
    /// When it was first heard, or last reported more.
    moved_ms: u64,
    /// When its last want came.
    wanted_ms: Option<u64>,
    /// When its status last said `online`; `None` if it said the contrary since.
    online_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Session {
    cursor: u64,
    credit: u32,
    expires_ms: u64,
}

impl Node {
    fn is_live(&self, now_ms: u64) -> bool {
        let fresh = |heard: Option<u64>, fresh_ms: u64| heard.is_some_and(|at| now_ms < at.saturating_add(fresh_ms));
        fresh(self.wanted_ms, WANT_FRESH_MS) || fresh(self.online_ms, STATUS_FRESH_MS)
    }
}

impl Audience {
    /// Nobody yet; listening begins at `now_ms`.
    pub fn new(chain: Name, now_ms: u64) -> Self {
        let (nodes, served_last, lost_since_ms) = (BTreeMap::new(), None, None);
        Self { chain, nodes, not_alone_ms: now_ms, heard_ms: now_ms, served_last, lost_since_ms }
    }

    /// Whose records are asked for.
    pub fn chain(&self) -> &Name {
        &self.chain
    }

    /// A node asks for records; `held` is the range of numbers there are. The want replaces the
    /// node's former one, or extends it if it begins inside it or at its end.
    pub fn on_want(&mut self, want: &Want, held: std::ops::Range<u64>, now_ms: u64) -> Answer {
        if want.chain != self.chain {
            return Answer::Announce;
        }
        let Some(node) = self.node(&want.node, now_ms) else { return Answer::Refuse };
        node.wanted_ms = Some(now_ms);
        // Nobody can have committed what was never written: such a report is of no use.
        let committed = Some(want.committed.min(held.end));
        if committed > node.committed {
            node.moved_ms = now_ms;
        }
        node.committed = committed;
        let open = node.session.take().filter(|session| now_ms < session.expires_ms);
        self.look_around(now_ms);
        if want.credit == 0 {
            return Answer::Serve;
        }
        // A want that continues the open one extends it: what is on its way is not sent twice, and nothing is passed over.
        let continues =
            |open: &Session| (open.cursor..=open.cursor.saturating_add(open.credit.into())).contains(&want.cursor);
        if let Some(open) = open.filter(continues) {
            let end = want.cursor.saturating_add(want.credit.into());
            let credit = u32::try_from(end.saturating_sub(open.cursor)).unwrap_or(u32::MAX).min(CREDIT_MAX);
            let expires_ms = now_ms.saturating_add(u64::from(want.expires_ms).min(EXPIRY_MAX_MS));
            if let Some(node) = self.nodes.get_mut(&want.node) {
                node.session = Some(Session { cursor: open.cursor, credit, expires_ms });
            }
            return Answer::Serve;
        }
        if !(held.start..=held.end).contains(&want.cursor) {
            return Answer::Announce;
        }
        let expires_ms = now_ms.saturating_add(u64::from(want.expires_ms).min(EXPIRY_MAX_MS));
        if let Some(node) = self.nodes.get_mut(&want.node) {
            node.session = Some(Session { cursor: want.cursor, credit: want.credit, expires_ms });
        }
        Answer::Serve
    }

    /// A node's status arrived.
    pub fn on_status(&mut self, name: &Name, online: bool, now_ms: u64) {
        if let Some(node) = self.node(name, now_ms) {
            node.online_ms = online.then_some(now_ms);
            if !online {
                node.wanted_ms = None;
                node.session = None;
            }
        }
        self.look_around(now_ms);
    }

    /// The connection to the broker was lost: whoever still wants records asks again.
    pub fn on_disconnected(&mut self) {
        for node in self.nodes.values_mut() {
            node.session = None;
        }
    }

    /// The connection is there (again): give all nodes time to be heard.
    pub fn on_connected(&mut self, now_ms: u64) {
        self.not_alone_ms = now_ms;
        self.heard_ms = now_ms;
    }

    /// For how long no node has been live, ms; `None` while one is.
    pub fn unheard_ms(&mut self, now_ms: u64) -> Option<u64> {
        self.look_around(now_ms);
        let is_live = self.live(now_ms).next().is_some();
        (!is_live).then(|| now_ms.saturating_sub(self.heard_ms))
    }

    /// Whose record comes next, and which; the nodes take turns. `next` is one more than the newest record.
    pub fn next_read(&self, next: u64, now_ms: u64) -> Option<(Name, u64)> {
        let wants = |(name, node): (&Name, &Node)| {
            let session = node.session.filter(|s| s.credit > 0 && s.cursor < next && now_ms < s.expires_ms)?;
            Some((name.clone(), session.cursor))
        };
        let after = |name: &&Name| self.served_last.as_ref().is_none_or(|last| *name > last);
        let later = self.nodes.iter().filter(|(name, _)| after(name)).find_map(wants);
        later.or_else(|| self.nodes.iter().find_map(wants))
    }

    /// The record asked for by [`next_read`](Self::next_read) is on its way; the node goes on at `cursor`. False if the
    /// node no longer wants it: it asked for something else, or went.
    pub fn sent(&mut self, name: &Name, asked: u64, cursor: u64) -> bool {
        self.served_last = Some(name.clone());
        match self.nodes.get_mut(name).and_then(|node| node.session.as_mut()) {
            Some(session) if session.cursor == asked && session.credit > 0 => {
                session.cursor = cursor;
                session.credit -= 1;
                true
            }
            _ => false,
        }
    }

    /// The record at `asked` is not held: the node's want ends, and what is held is to be said again.
    pub fn not_held(&mut self, name: &Name, asked: u64) {
        if let Some(node) = self.nodes.get_mut(name)
            && node.session.is_some_and(|session| session.cursor == asked)
        {
            node.session = None;
        }
    }

    /// What may be freed now: what two nodes have committed; or what the only live one has, if it has long been alone.
    pub fn release(&mut self, now_ms: u64) -> Option<Release> {
        self.look_around(now_ms);
        let mut committed: Vec<u64> = self.nodes.values().filter_map(|node| node.committed).collect();
        committed.sort_unstable_by(|a, b| b.cmp(a));
        let on_two = committed.get(1).copied().unwrap_or(0);
        let alone = now_ms >= self.not_alone_ms.saturating_add(ALONE_AFTER_MS);
        let on_one = if alone { self.live(now_ms).map(|node| node.committed.unwrap_or(0)).max() } else { None };
        match on_one {
            Some(below) if below > on_two => Some(Release { below, on_one: true }),
            _ if on_two > 0 => Some(Release { below: on_two, on_one: false }),
            _ => None,
        }
    }

    /// What live nodes ask for in vain, `oldest` being the oldest record held: its results were on disks that are gone, or on nodes that
    /// are away.
    pub fn lost(&mut self, oldest: u64, now_ms: u64) -> Option<Lost> {
        // One that has reported nothing yet is a node that has just been heard of, or one that takes no part in this chain.
        let from = self.live(now_ms).filter_map(|node| node.committed).max().filter(|from| *from < oldest);
        let since_ms = from.map(|_| self.lost_since_ms.unwrap_or(now_ms));
        self.lost_since_ms = since_ms;
        from.zip(since_ms).map(|(from, since_ms)| Lost { from, since_ms })
    }

    /// Something was done about what was lost: it counts from now.
    pub fn forget_lost(&mut self) {
        self.lost_since_ms = None;
    }

    /// Nodes with an open want.
    pub fn sessions(&self, now_ms: u64) -> usize {
        self.nodes.values().filter(|node| node.session.is_some_and(|s| s.credit > 0 && now_ms < s.expires_ms)).count()
    }

    fn live(&self, now_ms: u64) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(move |node| node.is_live(now_ms))
    }

    fn look_around(&mut self, now_ms: u64) {
        let furthest = self.live(now_ms).filter_map(|node| node.committed).max();
        let moves = |node: &&Node| node.committed == furthest || now_ms < node.moved_ms.saturating_add(STANDSTILL_MS);
        if self.live(now_ms).filter(moves).nth(1).is_some() {
            self.not_alone_ms = now_ms;
        }
        if self.live(now_ms).next().is_some() {
            self.heard_ms = now_ms;
        }
    }

    /// The node of this name, remembered from now on; `None` if there are too many live ones.
    fn node(&mut self, name: &Name, now_ms: u64) -> Option<&mut Node> {
        if !self.nodes.contains_key(name) && self.nodes.len() >= NODES_MAX {
            // A node that is gone makes room; what it had committed no longer counts, which only frees later.
            let gone = self.nodes.iter().find(|(_, node)| !node.is_live(now_ms)).map(|(name, _)| name.clone())?;
            self.nodes.remove(&gone);
        }
        Some(self.nodes.entry(name.clone()).or_insert_with(|| Node { moved_ms: now_ms, ..Node::default() }))
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(audience.lost(50, T), Some(Lost { from: 7, since_ms: T }));
        audience.on_want(&want("b", 9, 0, 9), 50..60, T + 1_000);
        assert_eq!(audience.lost(50, T + 1_000), Some(Lost { from: 9, since_ms: T }), "the furthest counts");
        audience.on_want(&want("c", 55, 0, 55), 50..60, T + 2_000);
        assert_eq!(audience.lost(50, T + 2_000), None, "a node with the results is back");
        audience.on_status(&name("c"), false, T + 3_000);
        assert_eq!(audience.lost(50, T + 4_000).map(|lost| lost.since_ms), Some(T + 4_000), "and gone again");
    }
}
