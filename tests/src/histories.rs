//! Generated histories of a node's store: what a node could do, decided by a seed on the simulator's double, for the real store to
//! do alike.

use std::path::Path;

use edge_agent::store::{Advance, CHAINS_OPEN_MAX, Store, StoreError};
use microlambda::{Attempt, Digest, Head, StepMode};
use microlambda_faces::content::{Entry, PartialEntry};
use microlambda_faces::fold::{FoldState, Folded};
use microlambda_faces::proto::UnitOutcome;
use microlambda_faces::{
    Analysis, Encoding, FACES_MAX, Face, FaceAt, FaceOutcome, FaceParams, FrameAnalysis, Partial, Rect, SeenFace,
    Thumbnail,
};
use microlambda_wire::{ChainClass, GapReason, Name, Record};

use crate::name;
use crate::sim::disk::SimStore;
use crate::sim::random::Random;
use crate::sim::truth::{self, Picture};

/// Frames of a history of which a start looks at the newest only.
pub const LONG_FRAMES: u64 = 3_000;
/// Steps written in one transaction by [`extend`].
const BATCH_STEPS: u64 = 1_000;

/// Adds `frames` frames without faces to a chain, which is added unless it is there.
///
/// # Errors
/// What the store says.
///
/// # Panics
/// The chain was begun with other parameters than the defaults.
pub fn extend(store: &mut impl Store, chain: &Name, frames: u64) -> Result<(), StoreError> {
    extend_with(store, chain, FaceParams::default(), frames, |_| FrameAnalysis::default())
}

/// Somebody, `turned` away from their first view by that distance. Everybody is further than 0.9 from everybody else, as good as surely.
///
/// # Panics
/// `turned` is not finite.
pub fn somebody(person: u64, place: i32, turned: f32) -> Face {
    let bytes = Digest::of(&person.to_le_bytes()).0;
    let values = bytes.iter().flat_map(|byte| [0, 2, 4, 6].map(|shift| f32::from(byte >> shift & 3) * 0.1));
    let mut values: Vec<f32> = values.collect();
    values[0] += turned;
    let left = 100 * place;
    Face {
        seen: SeenFace { rect: Rect { left, top: 10, right: left + 79, bottom: 89 }, score: 1.0 },
        sharpness: 100.0,
        outcome: FaceOutcome::Encoded(Encoding::try_from(values).expect("an encoding")),
    }
}

/// A frame of [`FACES_MAX`] people whom no other frame shows.
pub fn crowd(sequence: u64) -> FrameAnalysis {
    let first = sequence * FACES_MAX as u64;
    let faces = (0..FACES_MAX as i32).zip(first..).map(|(place, person)| somebody(person, place, 0.0));
    FrameAnalysis { faces: faces.collect(), ..FrameAnalysis::default() }
}

/// The same with frames in which `analysis` says what was seen, folded with `params`.
///
/// # Errors
/// As for [`extend`].
///
/// # Panics
/// The chain was begun with other parameters.
pub fn extend_with(
    store: &mut impl Store,
    chain: &Name,
    params: FaceParams,
    frames: u64,
    analysis: impl Fn(u64) -> FrameAnalysis,
) -> Result<(), StoreError> {
    let held = store.add_chain(chain, &name("camera"), ChainClass::Live, FoldState::genesis(params).head())?;
    let mut fold = FoldState::restore(params, held.boundary, held.gallery);
    let end = held.boundary.version.sequence + frames;
    while fold.head().version.sequence < end {
        let from_sequence = fold.head().version.sequence;
        let mut done = Vec::new();
        for sequence in from_sequence..end.min(from_sequence + BATCH_STEPS) {
            let digest = Digest::of(&sequence.to_le_bytes());
            let record = Record::Frame { captured_at_ms: sequence, digest, label: String::new(), moved: None };
            let analysis = Some(Analysis::Frame(analysis(sequence)));
            let entry = Entry { sequence, record, analysis, engine: String::new() };
            let folded = fold.fold(&entry).expect("frames in order");
            done.push((entry, folded));
        }
        store.advance(&Advance {
            chain,
            from_sequence,
            entries: done.iter().map(|(entry, folded)| (entry, folded)).collect(),
            partial: None,
            head: fold.head(),
            holder: "node-a",
            fold: &fold,
            thumbnails: &[],
            then: None,
        })?;
    }
    Ok(())
}

/// Changes the state that a record leads to in a database that nobody has open: no page is malformed, and only folding the record again tells.
///
/// # Panics
/// There is no such database or record.
pub fn spoil_record(state_dir: &Path, sequence: u64) {
    let database = rusqlite::Connection::open(state_dir.join("edge.sqlite")).expect("a database");
    let spoilt = "UPDATE entry SET digest = zeroblob(32) WHERE sequence = ?1";
    assert_eq!(database.execute(spoilt, [sequence.cast_signed()]).expect("a write"), 1, "records {sequence}");
}

/// One write to a store, with everything it needs.
#[derive(Debug, Clone)]
pub enum Operation {
    /// A chain is added.
    AddChain {
        /// Its name.
        chain: Name,
        /// Live or batch.
        class: ChainClass,
    },
    /// A start is recorded.
    Begin(Name, Attempt),
    /// A unit failed.
    Fail(Name, Head),
    /// A start is taken back.
    Withdraw(Name),
    /// Events were seen on the bus, and pictures.
    NoteBus(Vec<String>, Vec<(String, Vec<u8>)>),
    /// A head moves.
    Advance(Box<Move>),
}

/// What [`Advance`] borrows.
#[derive(Debug, Clone)]
pub struct Move {
    chain: Name,
    from_sequence: u64,
    done: Vec<(Entry, Folded)>,
    partial: Option<PartialEntry>,
    head: Head,
    fold: FoldState,
    thumbnails: Vec<Thumbnail>,
    then: Option<Attempt>,
}

impl Operation {
    /// Does it.
    ///
    /// # Errors
    /// What the store says.
    pub fn apply(&self, store: &mut impl Store) -> Result<(), StoreError> {
        match self {
            Self::AddChain { chain, class } => {
                let genesis = FoldState::genesis(FaceParams::default()).head();
                store.add_chain(chain, &name("camera"), *class, genesis).map(|_| ())
            }
            Self::Begin(chain, attempt) => store.begin(chain, attempt),
            Self::Fail(chain, head) => store.fail(chain, head, 2, "it aborted"),
            Self::Withdraw(chain) => store.withdraw(chain),
            Self::NoteBus(seen, pictures) => store.note_bus(seen, pictures),
            Self::Advance(step) => store.advance(&Advance {
                chain: &step.chain,
                from_sequence: step.from_sequence,
                entries: step.done.iter().map(|(entry, folded)| (entry, folded)).collect(),
                partial: step.partial.as_ref(),
                head: step.head,
                holder: "node-a",
                fold: &step.fold,
                thumbnails: &step.thumbnails,
                then: step.then,
            }),
        }
    }
}

/// A history that goes on for ever.
pub struct History {
    /// What the store must hold after the operations so far.
    pub double: SimStore,
    random: Random,
    seed: u64,
    chains: [Name; 2],
    added: usize,
}

impl History {
    /// The history of a seed: two chains, then whatever comes.
    pub fn new(seed: u64) -> Self {
        Self {
            double: SimStore::default(),
            random: Random::new(seed),
            seed,
            chains: [name("door-1"), name("yard-2")],
            added: 0,
        }
    }

    /// The chains in it.
    pub fn chains(&self) -> &[Name] {
        &self.chains
    }

    /// The next operation; the double has done it.
    pub fn step(&mut self) -> Operation {
        let operation = self.choose();
        operation.apply(&mut self.double).expect("the double fails only if it is told to");
        operation
    }

    fn choose(&mut self) -> Operation {
        if let Some(chain) = self.chains.get(self.added) {
            let class = if self.added == 0 { ChainClass::Batch } else { ChainClass::Live };
            self.added += 1;
            return Operation::AddChain { chain: chain.clone(), class };
        }
        let chain = self.random.pick(&[0, 0, 1]);
        let chain = self.chains[chain].clone();
        let head = self.head(&chain);
        match self.random.below(8) {
            0 => Operation::Begin(chain, Attempt { step: head, epoch: 3, mode: StepMode::Normal }),
            1 => Operation::Fail(chain, head),
            2 => Operation::Withdraw(chain),
            3 => {
                let waiting = self.double.events_not_on_bus().expect("events");
                let seen = waiting.iter().step_by(2).map(|event| event.id.to_string()).collect();
                Operation::NoteBus(seen, vec![(format!("face-{}", self.random.below(3)), vec![1, 2, 3])])
            }
            _ => self.advance(chain),
        }
    }

    fn head(&self, chain: &Name) -> Head {
        self.double.chain(chain).expect("chains").expect("the chain").head
    }

    /// The picture of a record; every seventh record is a gap.
    fn picture(&self, sequence: u64) -> Picture {
        truth::picture(self.seed, 0, sequence, false)
    }

    fn entry(&self, sequence: u64, kernel: u32) -> Entry {
        if sequence % 7 == 6 {
            let record = Record::Gap { count: 2, reason: GapReason::SpoolFull };
            return Entry { sequence, record, analysis: None, engine: String::new() };
        }
        truth::entry(self.seed, 0, sequence, kernel)
    }

    /// Goes on from some boundary held, the newest one most of the time, with analyses of some kernel.
    fn advance(&mut self, chain: Name) -> Operation {
        let stored = self.double.chain(&chain).expect("chains").expect("the chain");
        let mut from_sequence = stored.boundary.version.sequence;
        if self.random.permille(300) {
            from_sequence = self.random.below(from_sequence + 1);
            while self.double.boundary(&chain, from_sequence).expect("a boundary").is_none() {
                from_sequence -= 1;
            }
        }
        let kernel = self.random.below(3) as u32;
        let boundary = self.double.boundary(&chain, from_sequence).expect("a boundary").expect("one that is held");
        let gallery = self.double.gallery_at(&chain, from_sequence).expect("a gallery");
        let mut fold = FoldState::restore(FaceParams::default(), boundary, gallery);
        let mut done: Vec<(Entry, Folded)> = Vec::new();
        for _ in 0..self.random.below(5) {
            let entry = self.entry(fold.head().version.sequence, kernel);
            let folded = fold.fold(&entry).expect("a record in order");
            done.push((entry, folded));
        }
        let partial = self.partial(fold.head().version.sequence, kernel);
        let head = partial.as_ref().map_or(fold.head(), |partial| fold.partial_head(partial).expect("a state"));
        let attempt = Attempt { step: head, epoch: 1, mode: StepMode::OneUnit };
        let thumbnail = |(entry, _): &(Entry, Folded)| Thumbnail {
            at: FaceAt { sequence: entry.sequence, face_index: 0 },
            jpeg: vec![7; 1 + entry.sequence as usize],
        };
        let thumbnails = done.iter().map(thumbnail).collect();
        let then = self.random.permille(500).then_some(attempt);
        Operation::Advance(Box::new(Move { chain, from_sequence, done, partial, head, fold, thumbnails, then }))
    }

    /// A state inside the next record, if it is a picture of several units.
    fn partial(&mut self, sequence: u64, kernel: u32) -> Option<PartialEntry> {
        if sequence % 7 == 6 || !self.random.permille(500) {
            return None;
        }
        let picture = self.picture(sequence);
        let mut partial: Partial = picture.plan().begin();
        match picture.advance(&mut partial, kernel) {
            UnitOutcome::Partial(partial) => Some(PartialEntry { sequence, partial }),
            UnitOutcome::Done(_) => None,
        }
    }
}

/// Everything that a store holds, as text: equal for stores that hold the same.
///
/// # Errors
/// What the store says.
pub fn everything(store: &impl Store) -> Result<Vec<String>, StoreError> {
    let chains = store.newest_chains(CHAINS_OPEN_MAX)?;
    let mut all = vec![
        format!("{:?}", store.events_not_on_bus()?),
        format!("{:?}", store.faces(None)?),
        format!("{:?}", (0..3).map(|n| store.thumbnail(&format!("face-{n}"))).collect::<Result<Vec<_>, _>>()?),
    ];
    for chain in chains {
        all.push(format!("{:?}", store.entries(&chain.name, 0, usize::MAX)?));
        all.push(format!("{chain:?}"));
    }
    Ok(all)
}
