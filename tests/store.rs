//! The simulator's disk and the real one give the same answers to the same operations.

use edge_agent::store::{Advance, SqliteStore, Store};
use microlambda::{Attempt, Head, StepMode};
use microlambda_faces::content::{Entry, PartialEntry};
use microlambda_faces::fold::{FoldState, Folded};
use microlambda_faces::proto::UnitOutcome;
use microlambda_faces::{FaceParams, Partial};
use microlambda_tests::name;
use microlambda_tests::sim::disk::SimStore;
use microlambda_tests::sim::random::Random;
use microlambda_tests::sim::truth::{self, Picture};
use microlambda_wire::{ChainClass, GapReason, Name, Record};

/// Histories compared, each of so many operations.
const HISTORIES: u64 = 40;
const OPERATIONS: u64 = 25;

/// Both stores, driven alike.
struct Pair {
    real: SqliteStore,
    double: SimStore,
    random: Random,
    seed: u64,
    chains: Vec<Name>,
    _dir: tempfile::TempDir,
}

impl Pair {
    fn new(seed: u64) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let real = SqliteStore::open(dir.path()).expect("a store");
        let mut pair = Self {
            real,
            double: SimStore::default(),
            random: Random::new(seed),
            seed,
            chains: vec![name("door-1"), name("yard-2")],
            _dir: dir,
        };
        let genesis = FoldState::genesis(FaceParams::default()).head();
        for (chain, class) in pair.chains.clone().iter().zip([ChainClass::Batch, ChainClass::Live]) {
            let camera = name("camera");
            let real = pair.real.add_chain(chain, &camera, class, genesis).expect("a chain");
            let double = pair.double.add_chain(chain, &camera, class, genesis).expect("a chain");
            assert_eq!(format!("{real:?}"), format!("{double:?}"));
        }
        pair
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
    fn advance(&mut self, chain: &Name) {
        let stored = self.double.chains().expect("chains");
        let stored = stored.into_iter().find(|stored| stored.name == *chain).expect("the chain");
        let mut from = stored.boundary.version.sequence;
        if self.random.permille(300) {
            from = self.random.below(from + 1);
            while self.double.boundary(chain, from).expect("a boundary").is_none() {
                from -= 1;
            }
        }
        let kernel = self.random.below(3) as u32;
        let boundary = self.double.boundary(chain, from).expect("a boundary").expect("one that is held");
        let gallery = self.double.gallery_at(chain, from).expect("a gallery");
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
        let thumbnails: Vec<(u64, u32, Vec<u8>)> =
            done.iter().map(|(entry, _)| (entry.sequence, 0, vec![7; 1 + entry.sequence as usize])).collect();
        let advance = Advance {
            chain,
            from_sequence: from,
            entries: done.iter().map(|(entry, folded)| (entry, folded)).collect(),
            partial: partial.as_ref(),
            head,
            holder: "node-a",
            fold: &fold,
            thumbnails: &thumbnails,
            then: self.random.permille(500).then_some(attempt),
        };
        self.real.advance(&advance).expect("a transaction");
        self.double.advance(&advance).expect("a transaction");
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

    fn operate(&mut self) {
        let chain = self.random.pick(&[0, 0, 1]);
        let chain = self.chains[chain].clone();
        let head = self.head(&chain);
        match self.random.below(8) {
            0 => {
                let attempt = Attempt { step: head, epoch: 3, mode: StepMode::Normal };
                self.real.begin(&chain, &attempt).expect("a transaction");
                self.double.begin(&chain, &attempt).expect("a transaction");
            }
            1 => {
                self.real.fail(&chain, &head, 2, "it aborted").expect("a transaction");
                self.double.fail(&chain, &head, 2, "it aborted").expect("a transaction");
            }
            2 => {
                self.real.withdraw(&chain).expect("a transaction");
                self.double.withdraw(&chain).expect("a transaction");
            }
            3 => {
                let waiting = self.double.events_not_on_bus().expect("events");
                let seen: Vec<String> = waiting.iter().step_by(2).map(|event| event.id.to_string()).collect();
                let pictures = vec![(format!("face-{}", self.random.below(3)), vec![1, 2, 3])];
                self.real.note_bus(&seen, &pictures).expect("a transaction");
                self.double.note_bus(&seen, &pictures).expect("a transaction");
            }
            _ => self.advance(&chain),
        }
    }

    fn head(&self, chain: &Name) -> Head {
        let stored = self.double.chains().expect("chains");
        stored.iter().find(|stored| stored.name == *chain).expect("the chain").head
    }

    /// Everything that can be asked of a store.
    fn answers(store: &impl Store, chains: &[Name]) -> Vec<String> {
        let mut answers = vec![
            format!("{:?}", store.chains().expect("chains")),
            format!("{:?}", store.newest_chains(2).expect("chains")),
            format!("{:?}", store.newest_chains(1).expect("chains")),
            format!("{:?}", store.chain(&chains[1]).expect("a chain")),
            format!("{:?}", store.events_not_on_bus().expect("events")),
            format!("{:?}", store.faces(None).expect("faces")),
            format!("{:?}", (0..3).map(|n| store.thumbnail(&format!("face-{n}")).expect("a read")).collect::<Vec<_>>()),
        ];
        for chain in chains {
            answers.push(format!("{:?}", store.locator(chain).expect("a locator")));
            answers.push(format!("{:?}", store.totals(chain).expect("totals")));
            answers.push(format!("{:?}", store.faces(Some(chain)).expect("faces")));
            for sequence in 0..20 {
                let boundary = store.boundary(chain, sequence).expect("a read");
                answers.push(format!("{sequence} {boundary:?}"));
                if boundary.is_some() {
                    answers.push(format!("{sequence} {:?}", store.gallery_at(chain, sequence).expect("a gallery")));
                    for bytes_max in [1, 900, 1 << 20] {
                        let entries = store.entries(chain, sequence, bytes_max).expect("entries");
                        answers.push(format!("{sequence} {bytes_max} {entries:?}"));
                    }
                }
            }
        }
        answers
    }
}

#[test]
fn generated_histories_give_equal_answers_on_the_double_and_on_sqlite() {
    for seed in 0..HISTORIES {
        let mut pair = Pair::new(seed);
        for operation in 0..OPERATIONS {
            pair.operate();
            let real = Pair::answers(&pair.real, &pair.chains);
            let double = Pair::answers(&pair.double, &pair.chains);
            for (real, double) in real.iter().zip(&double) {
                assert_eq!(real, double, "seed {seed}, operation {operation}");
            }
        }
        assert_eq!(pair.real.integrity().expect("a check"), Vec::<String>::new());
    }
}
