//! Who wants which records, and what all have committed: the agent's decisions, without clock or IO.
//!
//! Times are milliseconds of a monotonic clock. Every `on_…` may be called at any time; a repeated message changes
//! nothing.

use std::collections::BTreeMap;

use microlambda_wire::{CREDIT_MAX, Name, Want};

/// Nodes remembered at most.
pub const NODES_MAX: usize = 64;
/// A want lives no longer than this without renewal, ms.
pub const EXPIRY_MAX_MS: u64 = 60_000;
/// A spool is crowded from here on …
const CROWDED_PERMILLE: u64 = 500;
/// … until it is less full than this: freeing on one node's word would end by itself at once otherwise.
const ROOMY_PERMILLE: u64 = 100;
/// A node that asked this recently is live, ms.
pub const WANT_FRESH_MS: u64 = 10_000;
/// A node whose status said `online` this recently is live, ms. Nodes repeat their status more often than that.
pub const STATUS_FRESH_MS: u64 = 30_000;
/// A frame is freed on one node's word only after no second node was live and waited for during this long, ms: a node that restarts, or
/// that a restarted camera has not heard yet, gets its chance.
pub const ALONE_AFTER_MS: u64 = 10_000;
/// A live node that has fallen behind another and committed nothing for this long, ms, is not waited for: it cannot write, or takes no part.
pub const STANDSTILL_MS: u64 = 300_000;

/// What to do about a want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The records that it asks for are sent.
    Serve,
    /// It asks for what is not held or for another chain: say again what is held.
    Announce,
    /// There are too many nodes, and this one is not served.
    Refuse,
}

/// What may be freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// Records below this number may be freed.
    pub below: u64,
    /// True if only one node has committed them.
    pub on_one: bool,
}

/// Released records whose results no live node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// The furthest that a live node has committed: the first record that is lost.
    pub from: u64,
    /// For how long it has been so, ms. While nobody is there to ask, that stands still.
    pub for_ms: u64,
}

/// All nodes that this camera has heard of.
#[derive(Debug, Clone)]
pub struct Audience {
    chain: Name,
    nodes: BTreeMap<Name, Node>,
    /// When a second node that is waited for was last live, or listening began.
    not_alone_ms: u64,
    /// When a node was last live, or listening began.
    heard_ms: u64,
    /// The node served last, for taking turns.
    served_last: Option<Name>,
    /// Whether the spool is half full or more.
    crowded: bool,
    /// For how long all live nodes have lacked what was released, ms, and when that was last looked at, if one was live then.
    lacked_ms: u64,
    lacked_at_ms: Option<u64>,
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
        Self {
            chain,
            nodes: BTreeMap::new(),
            not_alone_ms: now_ms,
            heard_ms: now_ms,
            served_last: None,
            crowded: false,
            lacked_ms: 0,
            lacked_at_ms: None,
        }
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
        let expires_ms = now_ms.saturating_add(u64::from(want.expires_ms).min(EXPIRY_MAX_MS));
        // A want that continues the open one extends it: what is on its way is not sent twice, and nothing is passed over.
        let continues =
            |open: &Session| (open.cursor..=open.cursor.saturating_add(open.credit.into())).contains(&want.cursor);
        let session = match open.filter(continues) {
            Some(open) => {
                let end = want.cursor.saturating_add(want.credit.into());
                // However often it is extended.
                let credit = u32::try_from(end.saturating_sub(open.cursor)).unwrap_or(u32::MAX).min(CREDIT_MAX);
                Session { cursor: open.cursor, credit, expires_ms }
            }
            None if (held.start..=held.end).contains(&want.cursor) => {
                Session { cursor: want.cursor, credit: want.credit, expires_ms }
            }
            None => return Answer::Announce,
        };
        if let Some(node) = self.nodes.get_mut(&want.node) {
            node.session = Some(session);
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

    /// How full the spool is; to be told before [`release`](Self::release) where what finds no room is lost. From half full on, until there is
    /// much room again, a node that lags behind the furthest live one is no company: it can get from that one what it lacks, and nobody a
    /// frame that found no room.
    pub fn on_spool(&mut self, filled_permille: u64) {
        self.crowded = filled_permille >= if self.crowded { ROOMY_PERMILLE } else { CROWDED_PERMILLE };
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
    /// are away. To be called often: time counts from one call to the next, if a node was live at both.
    pub fn lost(&mut self, oldest: u64, now_ms: u64) -> Option<Lost> {
        // One that has reported nothing yet is a node that has just been heard of, or one that takes no part in this chain.
        let Some(from) = self.live(now_ms).filter_map(|node| node.committed).max() else {
            self.lacked_at_ms = None;
            return None;
        };
        if from >= oldest {
            (self.lacked_ms, self.lacked_at_ms) = (0, None);
            return None;
        }
        let since_ms = self.lacked_at_ms.replace(now_ms).unwrap_or(now_ms);
        self.lacked_ms += now_ms.saturating_sub(since_ms);
        Some(Lost { from, for_ms: self.lacked_ms })
    }

    /// What is lost is given up, and a restart takes its place: losses count from now. What a node that is away had reported beyond was
    /// of the former generation; it must not free a restart that nobody has asked for yet.
    pub fn give_up(&mut self, lost: Lost) {
        (self.lacked_ms, self.lacked_at_ms) = (0, None);
        for node in self.nodes.values_mut() {
            node.committed = node.committed.map(|committed| committed.min(lost.from));
        }
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
        let crowded = self.crowded;
        let is_waited_for = |node: &&Node| {
            node.committed == furthest || (!crowded && now_ms < node.moved_ms.saturating_add(STANDSTILL_MS))
        };
        if self.live(now_ms).filter(is_waited_for).nth(1).is_some() {
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
mod tests;
