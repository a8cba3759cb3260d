//! Notes what this process does to the folders that are watched.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use super::disk::{Event, Image, NodeId, image_of};

/// Folders watched at the moment: while there are none, nothing is looked up.
static WATCHED: AtomicUsize = AtomicUsize::new(0);
static TAP: LazyLock<Mutex<Tap>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Tap {
    watches: BTreeMap<usize, Notes>,
    /// Open files: by which watch, and which node.
    files: HashMap<i32, (usize, NodeId)>,
    next: usize,
}

/// What is known of one watched folder.
struct Notes {
    root: PathBuf,
    /// The names in each folder, as programs see them now.
    names: BTreeMap<NodeId, BTreeMap<String, NodeId>>,
    nodes: NodeId,
    events: Vec<Event>,
}

/// A folder under watch until this is dropped.
pub struct Watch(usize);

impl Watch {
    /// Watches a folder that holds files only, or nothing; also what it holds now.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn start(root: &Path) -> (Self, Image) {
        let image = image_of(root).expect("a folder to watch");
        let names: BTreeMap<String, NodeId> = image.keys().cloned().zip(1..).collect();
        let nodes = names.len() + 1;
        let notes =
            Notes { root: root.to_owned(), names: [(0, names)].into_iter().collect(), nodes, events: Vec::new() };
        let mut tap = tap();
        tap.next += 1;
        let id = tap.next;
        tap.watches.insert(id, notes);
        WATCHED.fetch_add(1, Ordering::SeqCst);
        (Self(id), image)
    }

    /// How many events there were so far.
    pub fn moment(&self) -> usize {
        tap().watches.get(&self.0).map_or(0, |notes| notes.events.len())
    }

    /// Everything so far.
    pub fn events(&self) -> Vec<Event> {
        tap().watches.get(&self.0).map(|notes| notes.events.clone()).unwrap_or_default()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut tap = tap();
        tap.watches.remove(&self.0);
        tap.files.retain(|_, (watch, _)| *watch != self.0);
        WATCHED.fetch_sub(1, Ordering::SeqCst);
    }
}

fn tap() -> MutexGuard<'static, Tap> {
    TAP.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_idle() -> bool {
    WATCHED.load(Ordering::SeqCst) == 0
}

impl Tap {
    /// The watch that covers a path, the folder that holds its last part, and that part.
    fn find(&mut self, path: &Path) -> Option<(usize, NodeId, String)> {
        let (id, notes) = self.watches.iter().find(|(_, notes)| path.starts_with(&notes.root))?;
        let inside = path.strip_prefix(&notes.root).ok()?;
        let mut parts: Vec<String> = inside.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        let last = parts.pop()?;
        let folder = parts.iter().try_fold(0, |folder, part| notes.names.get(&folder)?.get(part).copied())?;
        Some((*id, folder, last))
    }

    fn note(&mut self, watch: usize, event: Event) {
        if let Some(notes) = self.watches.get_mut(&watch) {
            notes.events.push(event);
        }
    }

    /// The node of this name, made now if there was none.
    fn node(&mut self, watch: usize, folder: NodeId, name: &str, is_folder: bool) -> Option<NodeId> {
        let notes = self.watches.get_mut(&watch)?;
        if let Some(node) = notes.names.get(&folder).and_then(|names| names.get(name)) {
            return Some(*node);
        }
        let node = notes.nodes;
        notes.nodes += 1;
        notes.names.entry(folder).or_default().insert(name.to_owned(), node);
        if is_folder {
            notes.names.insert(node, BTreeMap::new());
        }
        notes.events.push(Event::Make { parent: folder, name: name.to_owned(), node, is_folder });
        Some(node)
    }
}

/// A file or folder was opened; a file that is not known was made by that.
pub fn opened(fd: i32, path: &Path, emptied: bool) {
    if is_idle() {
        return;
    }
    let mut tap = tap();
    tap.files.remove(&fd);
    let root = tap.watches.iter().find(|(_, notes)| notes.root == path).map(|(id, _)| *id);
    if let Some(watch) = root {
        tap.files.insert(fd, (watch, 0));
        return;
    }
    let Some((watch, folder, name)) = tap.find(path) else { return };
    let Some(node) = tap.node(watch, folder, &name, false) else { return };
    if emptied {
        tap.note(watch, Event::Truncate { node, bytes: 0 });
    }
    tap.files.insert(fd, (watch, node));
}

/// A descriptor was closed.
pub fn closed(fd: i32) {
    if !is_idle() {
        tap().files.remove(&fd);
    }
}

/// Bytes were written.
pub fn written(fd: i32, offset: u64, data: &[u8]) {
    on_file(fd, |node| Event::Write { node, offset, data: data.to_vec() });
}

/// A file was cut or lengthened.
pub fn truncated(fd: i32, bytes: u64) {
    on_file(fd, |node| Event::Truncate { node, bytes });
}

/// A file or folder was synced.
pub fn synced(fd: i32) {
    on_file(fd, |node| Event::Sync { node });
}

fn on_file(fd: i32, event: impl FnOnce(NodeId) -> Event) {
    if is_idle() {
        return;
    }
    let mut tap = tap();
    if let Some((watch, node)) = tap.files.get(&fd).copied() {
        tap.note(watch, event(node));
    }
}

/// A folder was made.
pub fn folder_made(path: &Path) {
    if is_idle() {
        return;
    }
    let mut tap = tap();
    if let Some((watch, folder, name)) = tap.find(path) {
        tap.node(watch, folder, &name, true);
    }
}

/// A name was removed.
pub fn unlinked(path: &Path) {
    if is_idle() {
        return;
    }
    let mut tap = tap();
    let Some((watch, parent, name)) = tap.find(path) else { return };
    if let Some(names) = tap.watches.get_mut(&watch).and_then(|notes| notes.names.get_mut(&parent)) {
        names.remove(&name);
    }
    tap.note(watch, Event::Unlink { parent, name });
}

/// A name was replaced by another.
pub fn renamed(before: &Path, after: &Path) {
    if is_idle() {
        return;
    }
    let mut tap = tap();
    let (Some((watch, folder, name)), Some((other, new_folder, new_name))) = (tap.find(before), tap.find(after)) else {
        return;
    };
    let node = tap.watches.get_mut(&watch).and_then(|notes| notes.names.get_mut(&folder)?.remove(&name));
    let Some(node) = node.filter(|_| watch == other) else { return };
    if let Some(notes) = tap.watches.get_mut(&watch) {
        notes.names.entry(new_folder).or_default().insert(new_name.clone(), node);
    }
    tap.note(watch, Event::Rename { from: (folder, name), to: (new_folder, new_name), node });
}
