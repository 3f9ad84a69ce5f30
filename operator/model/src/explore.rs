//! Explicit-state exploration for the protocols' models: every state that any interleaving can reach, breadth first,
//! so the first wrong one comes with a shortest run to it. Tests only.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Debug;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// A protocol and the world it runs in.
pub(crate) trait Model {
    /// All of the world.
    type State: Clone + Eq + Hash;
    /// What may happen.
    type Step: Debug + Clone;

    /// Where it begins.
    fn initial(&self) -> Self::State;
    /// Everything that may happen in a state.
    fn steps(&self, state: &Self::State, out: &mut Vec<(Self::Step, Self::State)>);
    /// What is wrong with a state, if anything.
    fn wrong(&self, state: &Self::State) -> Option<String>;
    /// What must be true once users and faults have stopped and the protocol has run on from this state.
    fn wrong_in_the_end(&mut self, state: &Self::State) -> Option<String>;
}

/// What was found.
pub(crate) enum Found {
    /// Every reachable state is right.
    AllRight {
        /// How many there are.
        states: usize,
    },
    /// A run that goes wrong.
    Wrong {
        /// What is wrong.
        what: String,
        /// The steps to it.
        run: Vec<String>,
    },
}

/// FNV-1a; states are small and many.
#[derive(Default)]
pub(crate) struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    fn write_u8(&mut self, byte: u8) {
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    fn write_usize(&mut self, number: usize) {
        self.0 = (self.0 ^ number as u64).wrapping_mul(0x0100_0000_01b3);
    }
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }
}

/// Explores a model.
///
/// # Panics
/// If more than `limit` states are reachable: then nothing has been shown, and the test must be made smaller.
pub(crate) fn explore<M: Model>(model: &mut M, limit: usize) -> Found {
    let mut known: HashMap<M::State, usize, BuildHasherDefault<Fnv>> = HashMap::default();
    let mut came_by: Vec<(usize, Option<M::Step>)> = vec![(0, None)];
    let mut open = std::collections::VecDeque::new();
    let first = model.initial();
    known.insert(first.clone(), 0);
    open.push_back((0, first));
    let mut next = Vec::new();
    while let Some((index, state)) = open.pop_front() {
        if let Some(what) = model.wrong(&state).or_else(|| model.wrong_in_the_end(&state)) {
            return Found::Wrong { what, run: run_to(&came_by, index) };
        }
        model.steps(&state, &mut next);
        for (step, state) in next.drain(..) {
            if let Entry::Vacant(vacant) = known.entry(state) {
                let number = came_by.len();
                assert!(number < limit, "more than {limit} states; the model is too large for this test");
                open.push_back((number, vacant.key().clone()));
                vacant.insert(number);
                came_by.push((index, Some(step)));
            }
        }
    }
    Found::AllRight { states: came_by.len() }
}

fn run_to<S: Debug>(came_by: &[(usize, Option<S>)], mut index: usize) -> Vec<String> {
    let mut run = Vec::new();
    while let (before, Some(step)) = &came_by[index] {
        run.push(format!("{step:?}"));
        index = *before;
    }
    run.reverse();
    run
}

impl Found {
    /// The number of states.
    ///
    /// # Panics
    /// With the run, if something is wrong.
    pub(crate) fn expect_right(self) -> usize {
        match self {
            Found::AllRight { states } => states,
            Found::Wrong { what, run } => panic!("{what}:\n  {}", run.join("\n  ")),
        }
    }

    /// What is wrong.
    ///
    /// # Panics
    /// If nothing is: then the rule that was left out is not needed, or the model does not show it.
    pub(crate) fn expect_wrong(self) -> String {
        match self {
            Found::AllRight { states } => panic!("nothing goes wrong in {states} states"),
            Found::Wrong { what, .. } => what,
        }
    }
}
