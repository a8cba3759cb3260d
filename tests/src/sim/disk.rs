//! A node's disk, and the store on it: the double of `SqliteStore`, with power cuts.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use edge_agent::store::{
    Advance, ChainSummary, ChainTotals, Copying, EVENTS_MAX, FaceRow, FrameRow, Store, StoreError, StoredChain,
};
use microlambda::{Attempt, Digest, Head};
use microlambda_faces::content::{Entry, PartialEntry, to_bytes};
use microlambda_faces::fold::{FoldState, Gallery, event_id};
use microlambda_faces::{FaceAt, FaceParams};
use microlambda_wire::{ChainClass, EventKind, EventNote, Name, Record};

/// What a disk holds of one chain.
#[derive(Debug, Clone)]
pub struct DiskChain {
    /// Its place in the order of arrival.
    place: usize,
    /// The camera it comes from.
    pub camera: Name,
    /// Live or batch.
    pub class: ChainClass,
    lambda: Digest,
    /// The newest record boundary.
    pub boundary: Head,
    partial: Option<PartialEntry>,
    /// The newest state.
    pub head: Head,
    holder: Option<String>,
    /// Whether the end is folded.
    pub done: bool,
    /// The start that nobody ended.
    pub attempt: Option<Attempt>,
    failure: Option<(Digest, u32, String)>,
    /// Records with the state behind each.
    pub entries: BTreeMap<u64, (Entry, Head)>,
}

/// An event's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskEvent {
    /// The event.
    pub note: EventNote,
    /// Whether it was seen on the bus.
    pub on_bus: bool,
    /// Whether its fork lost.
    pub superseded: bool,
}

/// All that survives a power cut.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// By name.
    pub chains: BTreeMap<Name, DiskChain>,
    /// By id.
    pub events: BTreeMap<String, DiskEvent>,
    thumbnails: BTreeMap<String, Vec<u8>>,
    /// Raised by every transaction.
    pub transactions: u64,
}

/// What a fuse is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// The power fails.
    Crash,
    /// The connection breaks.
    Disconnect,
    /// The process stands still; what it says from there on is late.
    Pause,
}

/// Which kind of action a fuse waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// A transaction.
    Commit,
    /// A message to the bus.
    Publish,
}

/// The disk with what may befall its node: shared by the node's store, its world and the simulation.
#[derive(Debug, Default)]
pub struct Media {
    /// What is durable.
    pub disk: Disk,
    /// A disk that lies: what it held before its last transactions, if these are not synced.
    pub unsynced: Option<Disk>,
    /// Whether transactions are synced before they return. Only a sabotaged store's are not.
    pub lies: bool,
    /// The last copy of the disk that the store kept.
    pub copy: Option<Disk>,
    /// The next one is asked for so often before it is made.
    pub copy_questions: u32,
    /// The node is dead: nothing it does has an effect any more.
    pub dead: bool,
    /// Set off by the n-th action of a kind from now on.
    pub fuse: Option<(Blow, Trigger, u32)>,
    /// What has blown, until the simulation takes note.
    pub blown: Option<(Blow, Trigger)>,
}

impl Media {
    /// An action is about to happen; says whether the fuse blows at it.
    pub fn act(&mut self, kind: Trigger) -> Option<Blow> {
        let (blow, trigger, count) = self.fuse?;
        if trigger != kind {
            return None;
        }
        if count > 0 {
            self.fuse = Some((blow, trigger, count - 1));
            return None;
        }
        self.fuse = None;
        self.blown = Some((blow, trigger));
        self.dead |= blow == Blow::Crash;
        Some(blow)
    }

    /// The power comes back: what was not synced may be gone.
    pub fn restart(&mut self) {
        if let Some(before) = self.unsynced.take() {
            self.disk = before;
        }
        self.dead = false;
        self.fuse = None;
        self.blown = None;
    }

    /// A disk as new.
    pub fn replace(&mut self) {
        self.disk = Disk::default();
        self.unsynced = None;
    }
}

/// A [`Store`] on a simulated disk.
#[derive(Debug, Clone, Default)]
pub struct SimStore {
    media: Arc<Mutex<Media>>,
    /// What writes decide by chance: whether the transaction at which the power fails got through.
    luck: u64,
}

impl SimStore {
    /// A store on this disk.
    pub fn new(media: Arc<Mutex<Media>>, luck: u64) -> Self {
        Self { media, luck }
    }

    fn media(&self) -> MutexGuard<'_, Media> {
        self.media.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chain<T>(&self, name: &Name, read: impl FnOnce(&DiskChain) -> T) -> Result<T, StoreError> {
        self.media().disk.chains.get(name).map(read).ok_or_else(|| error("no such chain"))
    }

    fn write<T>(&mut self, work: impl FnOnce(&mut Disk) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.luck = self.luck.rotate_left(7).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let got_through = self.luck >> 63 == 1;
        let mut media = self.media();
        if media.dead {
            return Err(error("the power is off"));
        }
        let crashed = media.act(Trigger::Commit) == Some(Blow::Crash);
        if crashed && !got_through {
            return Err(error("the power fails before the transaction is durable"));
        }
        if media.lies && media.unsynced.is_none() {
            media.unsynced = Some(media.disk.clone());
        }
        let value = work(&mut media.disk)?;
        media.disk.transactions += 1;
        if crashed { Err(error("the power fails right behind the transaction")) } else { Ok(value) }
    }
}

fn error(what: &str) -> StoreError {
    StoreError::Directory { path: "simulated".into(), source: io::Error::other(what.to_owned()) }
}

fn gallery(chain: &DiskChain, sequence: u64) -> Result<Gallery, StoreError> {
    let mut fold = FoldState::genesis(FaceParams::default());
    for (entry, _) in chain.entries.range(..sequence).map(|(_, entry)| entry) {
        fold.fold(entry).map_err(|why| error(&why.to_string()))?;
    }
    Ok(fold.gallery().clone())
}

fn boundary_at(chain: &DiskChain, sequence: u64) -> Option<Head> {
    if sequence == 0 {
        return Some(Head::genesis(chain.lambda));
    }
    let (_, (entry, head)) = chain.entries.range(..sequence).next_back()?;
    (entry.next_sequence() == sequence).then_some(*head)
}

fn stored(name: &Name, chain: &DiskChain) -> Result<StoredChain, StoreError> {
    let at_head = |digest: &Digest| *digest == chain.head.digest;
    Ok(StoredChain {
        name: name.clone(),
        camera: chain.camera.clone(),
        class: chain.class,
        lambda: chain.lambda,
        boundary: chain.boundary,
        partial: chain.partial.clone(),
        head: chain.head,
        gallery: gallery(chain, chain.boundary.version.sequence)?,
        holder: chain.holder.clone(),
        done: chain.done,
        attempt: chain.attempt.filter(|attempt| at_head(&attempt.step.digest)),
        failure: chain.failure.clone().filter(|(digest, ..)| at_head(digest)).map(|(_, times, why)| (times, why)),
    })
}

fn summary(name: &Name, chain: &DiskChain) -> ChainSummary {
    let (name, camera) = (name.clone(), chain.camera.clone());
    ChainSummary { name, camera, class: chain.class, head: chain.head, done: chain.done }
}

impl Store for SimStore {
    fn chain(&self, name: &Name) -> Result<Option<StoredChain>, StoreError> {
        self.media().disk.chains.get(name).map(|chain| stored(name, chain)).transpose()
    }

    fn chain_summary(&self, name: &Name) -> Result<Option<ChainSummary>, StoreError> {
        Ok(self.media().disk.chains.get(name).map(|chain| summary(name, chain)))
    }

    fn finished_chain(&self, behind: Option<&Name>, lambda: &Digest) -> Result<Option<ChainSummary>, StoreError> {
        let media = self.media();
        let mut finished = media.disk.chains.iter().filter(|(_, chain)| chain.done && chain.lambda == *lambda);
        let next = finished.find(|(name, _)| behind.is_none_or(|behind| *name > behind));
        Ok(next.map(|(name, chain)| summary(name, chain)))
    }

    fn newest_chains(&self, max: usize) -> Result<Vec<StoredChain>, StoreError> {
        let media = self.media();
        let mut chains: Vec<(&Name, &DiskChain)> = media.disk.chains.iter().collect();
        let is_former = |chain: &DiskChain| {
            let mut of_camera = media.disk.chains.values().filter(|other| other.camera == chain.camera);
            of_camera.any(|other| other.place > chain.place)
        };
        chains.sort_by_key(|(_, chain)| (chain.done, is_former(chain), std::cmp::Reverse(chain.place)));
        chains.into_iter().take(max).map(|(name, chain)| stored(name, chain)).collect()
    }

    fn add_chain(
        &mut self,
        name: &Name,
        camera: &Name,
        class: ChainClass,
        genesis: Head,
    ) -> Result<StoredChain, StoreError> {
        let chain = DiskChain {
            place: 0,
            camera: camera.clone(),
            class,
            lambda: genesis.digest,
            boundary: genesis,
            partial: None,
            head: genesis,
            holder: None,
            done: false,
            attempt: None,
            failure: None,
            entries: BTreeMap::new(),
        };
        self.write(|disk| {
            let place = disk.chains.len();
            let chain = disk.chains.entry(name.clone()).or_insert(DiskChain { place, ..chain });
            stored(name, chain)
        })
    }

    fn begin(&mut self, chain: &Name, attempt: &Attempt) -> Result<(), StoreError> {
        self.write(|disk| {
            disk.chains.get_mut(chain).ok_or_else(|| error("no such chain"))?.attempt = Some(*attempt);
            Ok(())
        })
    }

    fn withdraw(&mut self, chain: &Name) -> Result<(), StoreError> {
        self.write(|disk| {
            disk.chains.get_mut(chain).ok_or_else(|| error("no such chain"))?.attempt = None;
            Ok(())
        })
    }

    fn fail(&mut self, chain: &Name, head: &Head, times: u32, why: &str) -> Result<(), StoreError> {
        self.write(|disk| {
            let chain = disk.chains.get_mut(chain).ok_or_else(|| error("no such chain"))?;
            chain.attempt = None;
            chain.failure = Some((head.digest, times, why.to_owned()));
            Ok(())
        })
    }

    fn advance(&mut self, advance: &Advance<'_>) -> Result<(), StoreError> {
        self.write(|disk| {
            let events = events_of(disk, advance)?;
            let chain = disk.chains.get_mut(advance.chain).ok_or_else(|| error("no such chain"))?;
            chain.entries.split_off(&advance.from_sequence);
            for (entry, folded) in &advance.entries {
                chain.entries.insert(entry.sequence, ((*entry).clone(), folded.head));
                chain.done = folded.done;
            }
            chain.boundary = advance.fold.head();
            chain.partial = advance.partial.cloned();
            chain.head = advance.head;
            chain.holder = Some(advance.holder.to_owned());
            chain.attempt = advance.then;
            chain.failure = None;
            for event in disk.events.values_mut().filter(|event| event.note.chain == *advance.chain) {
                event.superseded |= event.note.sequence >= advance.from_sequence;
            }
            for (note, thumbnail) in events {
                if let (EventKind::NewFace, Some(jpeg)) = (note.kind, thumbnail) {
                    disk.thumbnails.entry(note.face.to_string()).or_insert(jpeg);
                }
                let known = disk.events.get(note.id.as_str()).is_some_and(|event| event.on_bus);
                disk.events.insert(note.id.to_string(), DiskEvent { note, on_bus: known, superseded: false });
            }
            Ok(())
        })
    }

    fn boundary(&self, chain: &Name, sequence: u64) -> Result<Option<Head>, StoreError> {
        Ok(self.media().disk.chains.get(chain).and_then(|chain| boundary_at(chain, sequence)))
    }

    fn locator(&self, chain: &Name) -> Result<Vec<(u64, Digest)>, StoreError> {
        self.chain(chain, |chain| {
            let mut locator = Vec::new();
            let (mut bound, mut distance) = (u64::MAX, 1_u64);
            while let Some((_, (entry, head))) =
                chain.entries.iter().rev().find(|(_, (entry, _))| entry.next_sequence() <= bound)
            {
                locator.push((entry.next_sequence(), head.digest));
                if locator.len() >= 4 {
                    distance = distance.saturating_mul(2);
                }
                match entry.next_sequence().checked_sub(distance) {
                    Some(next) => bound = next,
                    None => break,
                }
            }
            locator.push((0, chain.lambda));
            locator
        })
    }

    fn entries(&self, chain: &Name, sequence: u64, bytes_max: usize) -> Result<(Vec<Entry>, Option<Head>), StoreError> {
        self.chain(chain, |chain| {
            let (mut entries, mut bytes) = (Vec::<Entry>::new(), 0);
            for (entry, _) in chain.entries.range(sequence..).map(|(_, entry)| entry) {
                bytes += to_bytes(entry).map_or(0, |bytes| bytes.len());
                if !entries.is_empty() && bytes > bytes_max {
                    break;
                }
                entries.push(entry.clone());
            }
            let behind = entries.last().and_then(|entry| boundary_at(chain, entry.next_sequence()));
            (entries, behind)
        })
    }

    fn gallery_at(&self, chain: &Name, sequence: u64) -> Result<Gallery, StoreError> {
        self.chain(chain, |chain| gallery(chain, sequence))?
    }

    fn events_not_on_bus(&self) -> Result<Vec<EventNote>, StoreError> {
        let media = self.media();
        let mut waiting: Vec<EventNote> = media
            .disk
            .events
            .values()
            .filter(|event| !event.on_bus && !event.superseded)
            .map(|event| event.note.clone())
            .collect();
        waiting.sort_by(|a, b| (&a.chain, a.sequence, a.face_index).cmp(&(&b.chain, b.sequence, b.face_index)));
        waiting.truncate(EVENTS_MAX);
        Ok(waiting)
    }

    fn note_bus(&mut self, events: &[String], thumbnails: &[(String, Vec<u8>)]) -> Result<(), StoreError> {
        self.write(|disk| {
            for id in events {
                if let Some(event) = disk.events.get_mut(id) {
                    event.on_bus = true;
                }
            }
            for (face, jpeg) in thumbnails {
                disk.thumbnails.entry(face.clone()).or_insert_with(|| jpeg.clone());
            }
            Ok(())
        })
    }

    fn faces(&self, chain: Option<&Name>) -> Result<Vec<FaceRow>, StoreError> {
        let media = self.media();
        let mut rows = Vec::new();
        for (name, kept) in media.disk.chains.iter().filter(|(name, _)| chain.is_none_or(|only| only == *name)) {
            let people = people(name, kept)?;
            rows.extend(people.into_iter().map(|(row, _)| FaceRow {
                thumbnail_bytes: media.disk.thumbnails.get(&row.face).map_or(0, |jpeg| jpeg.len() as u64),
                ..row
            }));
        }
        Ok(rows)
    }

    fn people(&self, name: &Name, max: usize) -> Result<Vec<String>, StoreError> {
        let people = self.chain(name, |chain| people(name, chain))??;
        Ok(people.into_iter().map(|(row, _)| row.face).take(max).collect())
    }

    fn thumbnail(&self, face: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.media().disk.thumbnails.get(face).cloned())
    }

    fn totals(&self, chain: &Name) -> Result<ChainTotals, StoreError> {
        self.chain(chain, |chain| {
            chain.entries.values().fold(ChainTotals::default(), |totals, (entry, _)| totals.with(entry))
        })
    }

    fn keep_copy(&mut self) -> Copying {
        let mut media = self.media();
        if media.copy_questions > 0 {
            media.copy_questions -= 1;
            return Copying::UnderWay;
        }
        media.copy = Some(media.disk.clone());
        Copying::Made("simulated".into())
    }

    /// Whatever the end, the next start checks nothing.
    fn note_clean_end(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// All people of a chain with the frames they were seen in, by folding its entries once more.
fn people(name: &Name, chain: &DiskChain) -> Result<Vec<(FaceRow, usize)>, StoreError> {
    let mut fold = FoldState::genesis(FaceParams::default());
    let mut frames: BTreeMap<usize, Vec<FrameRow>> = BTreeMap::new();
    for (entry, _) in chain.entries.values() {
        let folded = fold.fold(entry).map_err(|why| error(&why.to_string()))?;
        let Record::Frame { label, .. } = &entry.record else { continue };
        for sighting in folded.sightings {
            let row = FrameRow { sequence: entry.sequence, label: label.clone() };
            let seen = frames.entry(sighting.person).or_default();
            if seen.last() != Some(&row) {
                seen.push(row);
            }
        }
    }
    let row = |person: &Arc<microlambda_faces::fold::Person>| {
        let row = FaceRow {
            face: event_id(name.as_str(), person.first),
            name: String::new(),
            camera: chain.camera.to_string(),
            chain: name.to_string(),
            first_seen_ms: person.first_seen_ms,
            last_seen_ms: person.last_seen_ms,
            frames: frames.get(&person.number).cloned().unwrap_or_default(),
            thumbnail_bytes: 0,
        };
        (row, person.number)
    };
    Ok(fold.gallery().people.iter().map(row).collect())
}

/// An event with the picture kept of it.
type Pictured = (EventNote, Option<Vec<u8>>);

/// The events of an advance.
fn events_of(disk: &Disk, advance: &Advance<'_>) -> Result<Vec<Pictured>, StoreError> {
    let chain = disk.chains.get(advance.chain).ok_or_else(|| error("no such chain"))?;
    let mut events = Vec::new();
    for (entry, folded) in &advance.entries {
        let Record::Frame { captured_at_ms, label, .. } = &entry.record else { continue };
        for sighting in &folded.sightings {
            let Some(kind) = sighting.event else { continue };
            let id = |at| Name::new(event_id(advance.chain.as_str(), at)).map_err(|why| error(&why.to_string()));
            let at = FaceAt { sequence: entry.sequence, face_index: sighting.face_index };
            let picture = advance.thumbnails.iter().find(|picture| picture.at == at);
            let note = EventNote {
                id: id(at)?,
                kind,
                face: id(sighting.first)?,
                camera: chain.camera.clone(),
                chain: advance.chain.clone(),
                sequence: at.sequence,
                face_index: at.face_index,
                captured_at_ms: *captured_at_ms,
                label: label.clone(),
            };
            events.push((note, picture.map(|picture| picture.jpeg.clone())));
        }
    }
    Ok(events)
}
