//! Steps of a computation whose units need something prepared that no checkpoint holds.

use std::cell::Cell;

use microlambda::{Budget, CostClass, Lambda, Next, StepLimit, Stop, UnitCost, run_step};

const PREPARE: CostClass = CostClass(1);
const RUN: CostClass = CostClass(2);
const PREPARE_US: u64 = 70_000;
const RUN_US: u64 = 60_000;

/// How soon it shows that a picture is damaged.
const DAMAGE_US: u64 = 1_000;

/// Units that need a decoded picture, which outlives a step as long as the process does.
struct Pictures<'a> {
    now_us: &'a Cell<u64>,
    is_damaged: bool,
    decoded: bool,
    decodings: u32,
}

impl<'a> Pictures<'a> {
    fn new(now_us: &'a Cell<u64>, is_damaged: bool) -> Self {
        Self { now_us, is_damaged, decoded: false, decodings: 0 }
    }
}

/// A budget that knows what both take.
fn budget(run_us: u64) -> Budget {
    let mut budget = Budget::default();
    budget.observe(PREPARE, 1, PREPARE_US);
    budget.observe(RUN, 1, run_us);
    budget
}

impl Lambda for Pictures<'_> {
    type State = u32;
    type Error = std::convert::Infallible;

    fn next(&mut self, state: &u32) -> Next {
        let prepare = (!self.decoded).then_some((PREPARE, 1));
        if *state < 5 { Next::Unit(UnitCost { run: (RUN, 1), prepare }) } else { Next::Done }
    }

    fn prepare(&mut self, _state: &u32) -> Result<(), Self::Error> {
        let took_us = if self.is_damaged { DAMAGE_US } else { PREPARE_US };
        self.now_us.set(self.now_us.get() + took_us);
        self.decoded = true;
        self.decodings += 1;
        Ok(())
    }

    fn advance(&mut self, state: &mut u32) -> Result<(), Self::Error> {
        self.now_us.set(self.now_us.get() + RUN_US);
        *state += 1;
        Ok(())
    }

    fn ran_in_full(&self) -> bool {
        !self.is_damaged
    }
}

#[test]
fn a_preparation_that_does_not_fit_with_its_unit_gets_a_step_of_its_own() {
    let now_us = Cell::new(0);
    let mut budget = budget(RUN_US);
    let mut pictures = Pictures::new(&now_us, false);
    let (mut state, mut stops) = (0, Vec::new());
    for _ in 0..10 {
        let step = run_step(&mut pictures, &mut state, &mut budget, StepLimit::new(100_000), &mut || now_us.get())
            .expect("no errors");
        assert!(step.used_us <= 100_000);
        stops.push((step.stop, step.units));
        if step.stop == Stop::Done {
            break;
        }
    }
    assert_eq!(stops[0], (Stop::Prepared, 0));
    assert_eq!(stops[1], (Stop::Limit, 1));
    assert_eq!(stops.last().map(|(stop, _)| *stop), Some(Stop::Done));
    assert_eq!(stops.iter().map(|(_, units)| units).sum::<u32>(), 5);
    assert_eq!(pictures.decodings, 1);
}

#[test]
fn a_step_that_only_prepared_says_how_long_that_took() {
    let now_us = Cell::new(5_000);
    let mut pictures = Pictures::new(&now_us, false);
    let step = run_step(&mut pictures, &mut 0, &mut budget(RUN_US), StepLimit::new(100_000), &mut || now_us.get())
        .expect("no errors");
    assert_eq!((step.stop, step.units), (Stop::Prepared, 0));
    assert_eq!((step.used_us, step.busy_us), (PREPARE_US, PREPARE_US));
    assert_eq!((step.first_unit_start_us, step.last_unit_end_us), (5_000, 5_000 + PREPARE_US));
}

#[test]
fn a_preparation_that_ended_early_teaches_nothing() {
    let limits_us = [(100_000, Stop::Prepared), (1_000_000, Stop::Done)];
    for (limit_us, stop) in limits_us {
        let now_us = Cell::new(0);
        let mut budget = budget(RUN_US);
        let before = budget.table();
        let mut pictures = Pictures::new(&now_us, true);
        let step = run_step(&mut pictures, &mut 4, &mut budget, StepLimit::new(limit_us), &mut || now_us.get());
        assert_eq!(step.expect("no errors").stop, stop);
        assert_eq!(pictures.decodings, 1);
        assert_eq!(budget.table(), before);
    }
}

/// Units of 20 ms, until the computer stands still in one of them.
struct Frozen<'a> {
    now_us: &'a Cell<u64>,
    freeze_at: u32,
}

impl Lambda for Frozen<'_> {
    type State = u32;
    type Error = std::convert::Infallible;

    fn next(&mut self, state: &u32) -> Next {
        if *state < 50 { Next::Unit(UnitCost::run(RUN, 1)) } else { Next::Done }
    }

    fn advance(&mut self, state: &mut u32) -> Result<(), Self::Error> {
        let took_us = if *state == self.freeze_at { 1_000_000 } else { 20_000 };
        self.now_us.set(self.now_us.get() + took_us);
        *state += 1;
        Ok(())
    }
}

#[test]
fn a_budget_that_met_one_freeze_of_ten_limits_goes_on_once_it_is_relaxed() {
    for freeze_at in [0, 30] {
        let now_us = Cell::new(0);
        let (mut lambda, mut state) = (Frozen { now_us: &now_us, freeze_at }, 0);
        let mut budget = Budget::default();
        let mut step = |lambda: &mut Frozen<'_>, budget: &mut Budget| {
            let report = run_step(lambda, &mut state, budget, StepLimit::new(100_000), &mut || now_us.get());
            (report.expect("no errors").stop, state)
        };
        let (at, cost) = (freeze_at + 1, UnitCost::run(RUN, 1));
        while step(&mut lambda, &mut budget) != (Stop::TooLarge, at) {}
        assert_eq!(step(&mut lambda, &mut budget), (Stop::TooLarge, at), "it does not forget by itself");
        let mut relaxed = 0;
        while step(&mut lambda, &mut budget).0 == Stop::TooLarge {
            budget.relax(&cost);
            relaxed += 1;
        }
        assert!((1..=5).contains(&relaxed), "{relaxed} times");
        let mut steps = 0;
        while step(&mut lambda, &mut budget).0 != Stop::Done {
            steps += 1;
            assert!(steps < 50, "it stands still");
        }
    }
}

#[test]
fn a_unit_that_does_not_fit_even_alone_is_too_large() {
    let now_us = Cell::new(0);
    let mut budget = budget(101_000);
    let mut pictures = Pictures::new(&now_us, false);
    let step = run_step(&mut pictures, &mut 0, &mut budget, StepLimit::new(100_000), &mut || now_us.get());
    assert_eq!(step.expect("no errors").stop, Stop::TooLarge);
    assert_eq!(pictures.decodings, 0);
}
