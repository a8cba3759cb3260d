//! A folder on a disk: what is certain, what is not, and one of the many ways it may look after a power cut.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use crate::sim::random::Random;

/// What a disk writes whole or not at all, bytes.
const SECTOR_BYTES: usize = 512;

/// A file or folder, whatever its names. The folder that is watched is 0.
pub type NodeId = usize;

/// Something done to the folder, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A new file or folder got a name.
    Make {
        /// In which folder.
        parent: NodeId,
        /// Under which name.
        name: String,
        /// The new one.
        node: NodeId,
        /// Whether it is a folder.
        is_folder: bool,
    },
    /// A name was removed.
    Unlink {
        /// In which folder.
        parent: NodeId,
        /// Which name.
        name: String,
    },
    /// A name was replaced by another, in the same folder or in another.
    Rename {
        /// Folder and name before.
        from: (NodeId, String),
        /// Folder and name after.
        to: (NodeId, String),
        /// Which file.
        node: NodeId,
    },
    /// Bytes were written.
    Write {
        /// To which file.
        node: NodeId,
        /// Where, bytes.
        offset: u64,
        /// What.
        data: Vec<u8>,
    },
    /// A file was cut or lengthened.
    Truncate {
        /// Which.
        node: NodeId,
        /// To so many bytes.
        bytes: u64,
    },
    /// A file's content was synced, or a folder's names.
    Sync {
        /// Of which.
        node: NodeId,
    },
}

/// A change of a file's content that is not synced.
#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Truncate(usize),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data } => write(content, *offset, data),
            Self::Truncate(bytes) => content.resize(*bytes, 0),
        }
    }
}

fn write(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(data);
}

/// What becomes of the names in a folder: removed, then made. One change happens as a whole or not at all.
#[derive(Debug, Clone, Default)]
struct NameChange {
    gone: Option<(NodeId, String)>,
    made: Option<(NodeId, String, NodeId)>,
}

impl NameChange {
    fn concerns(&self, folder: NodeId) -> bool {
        self.gone.as_ref().is_some_and(|(at, _)| *at == folder)
            || self.made.as_ref().is_some_and(|(at, ..)| *at == folder)
    }

    fn apply(&self, folders: &mut BTreeMap<NodeId, Names>) {
        if let Some((folder, name)) = &self.gone {
            folders.entry(*folder).or_default().remove(name);
        }
        if let Some((folder, name, node)) = &self.made {
            folders.entry(*folder).or_default().insert(name.clone(), *node);
        }
    }
}

type Names = BTreeMap<String, NodeId>;

#[derive(Debug, Clone, Default)]
struct FileState {
    synced: Vec<u8>,
    changes: Vec<Change>,
}

/// The disk at one moment of a recording.
#[derive(Debug, Clone, Default)]
pub struct Replay {
    files: BTreeMap<NodeId, FileState>,
    folders: BTreeMap<NodeId, Names>,
    name_changes: Vec<NameChange>,
}

/// How a disk is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing that was not synced is there.
    Lost,
    /// Everything is there, as after a killed process.
    Kept,
    /// Of what was not synced some is there, some is not, some in part.
    Mixed,
}

/// A folder's content: every file by its path in it, every folder with `None`.
pub type Image = BTreeMap<String, Option<Vec<u8>>>;

impl Replay {
    /// A watched folder that holds this for certain.
    ///
    /// # Panics
    /// If it has folders inside: only a folder of files can be watched from its middle on.
    pub fn of(image: &Image) -> Self {
        let mut replay = Self::default();
        replay.folders.insert(0, Names::new());
        for (node, (name, content)) in (1..).zip(image) {
            let synced = content.clone().expect("a folder of files");
            replay.files.insert(node, FileState { synced, changes: Vec::new() });
            replay.folders.entry(0).or_default().insert(name.clone(), node);
        }
        replay
    }

    /// Takes the next event.
    pub fn advance(&mut self, event: &Event) {
        match event {
            Event::Make { parent, name, node, is_folder } => {
                if *is_folder {
                    self.folders.insert(*node, Names::new());
                } else {
                    self.files.insert(*node, FileState::default());
                }
                self.name_changes.push(NameChange { gone: None, made: Some((*parent, name.clone(), *node)) });
            }
            Event::Unlink { parent, name } => {
                self.name_changes.push(NameChange { gone: Some((*parent, name.clone())), made: None });
            }
            Event::Rename { from, to, node } => {
                let made = Some((to.0, to.1.clone(), *node));
                self.name_changes.push(NameChange { gone: Some(from.clone()), made });
            }
            Event::Write { node, offset, data } => {
                let offset = usize::try_from(*offset).expect("a file that fits memory");
                self.change(*node, Change::Write { offset, data: data.clone() });
            }
            Event::Truncate { node, bytes } => {
                self.change(*node, Change::Truncate(usize::try_from(*bytes).expect("a file that fits memory")));
            }
            Event::Sync { node } => self.sync(*node),
        }
    }

    fn change(&mut self, node: NodeId, change: Change) {
        self.files.entry(node).or_default().changes.push(change);
    }

    fn sync(&mut self, node: NodeId) {
        if let Some(file) = self.files.get_mut(&node) {
            for change in std::mem::take(&mut file.changes) {
                change.apply(&mut file.synced);
            }
            return;
        }
        let (synced, open) = std::mem::take(&mut self.name_changes).into_iter().partition(|c| c.concerns(node));
        self.name_changes = open;
        let synced: Vec<NameChange> = synced;
        synced.iter().for_each(|change| change.apply(&mut self.folders));
    }

    /// Changes that a power cut now may or may not undo.
    pub fn uncertain(&self) -> usize {
        self.name_changes.len() + self.files.values().map(|file| file.changes.len()).sum::<usize>()
    }

    /// One of the folders that may be there after a power cut now.
    pub fn draw(&self, fate: Fate, random: &mut Random) -> Image {
        let mut folders = self.folders.clone();
        for change in &self.name_changes {
            if fate == Fate::Kept || fate == Fate::Mixed && random.permille(500) {
                change.apply(&mut folders);
            }
        }
        let mut image = Image::new();
        self.collect(&folders, 0, "", fate, random, &mut image);
        image
    }

    fn collect(
        &self,
        folders: &BTreeMap<NodeId, Names>,
        folder: NodeId,
        path: &str,
        fate: Fate,
        random: &mut Random,
        image: &mut Image,
    ) {
        for (name, node) in folders.get(&folder).into_iter().flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            match self.files.get(node) {
                Some(file) => {
                    image.insert(path, Some(file.draw(fate, random)));
                }
                None => {
                    self.collect(folders, *node, &path, fate, random, image);
                    image.insert(path, None);
                }
            }
        }
    }
}

impl FileState {
    fn draw(&self, fate: Fate, random: &mut Random) -> Vec<u8> {
        let mut content = self.synced.clone();
        // Some disks lose nearly nothing, some nearly everything.
        let kept_permille = random.pick(&[100, 500, 900]);
        for change in &self.changes {
            match fate {
                Fate::Lost => {}
                Fate::Kept => change.apply(&mut content),
                Fate::Mixed => match change {
                    Change::Write { offset, data } if random.permille(250) => {
                        tear(&mut content, *offset, data, random);
                    }
                    _ if random.permille(kept_permille) => change.apply(&mut content),
                    _ => {}
                },
            }
        }
        content
    }
}

/// Writes some of the sectors that `data` touches.
fn tear(content: &mut Vec<u8>, offset: usize, data: &[u8], random: &mut Random) {
    let mut at = 0;
    while at < data.len() {
        let end = data.len().min(at + SECTOR_BYTES - (offset + at) % SECTOR_BYTES);
        if random.permille(500) {
            write(content, offset + at, &data[at..end]);
        }
        at = end;
    }
}

/// Writes an image into a new folder.
///
/// # Errors
/// What the system says.
pub fn materialise(image: &Image, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for (path, content) in image {
        let path = folder.join(path);
        match content {
            Some(content) => {
                path.parent().map_or(Ok(()), fs::create_dir_all)?;
                fs::write(path, content)?;
            }
            None => fs::create_dir_all(path)?,
        }
    }
    Ok(())
}

/// The files of a folder, without folders inside.
///
/// # Errors
/// What the system says.
pub fn image_of(folder: &Path) -> io::Result<Image> {
    let mut image = Image::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            image.insert(entry.file_name().to_string_lossy().into_owned(), Some(fs::read(entry.path())?));
        }
    }
    Ok(image)
}
