//! From results to verdicts: a value and a function, no clock and no IO.
//!
//! Invariants: the first result that says anything decides; after it a verdict changes only by as many results in a row
//! as its threshold says, or by one answer that decides. A result that says nothing changes nothing.

use crate::check::{Check, WrongAnswer};

/// What one probe showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The wanted answer.
    Good,
    /// No answer: refused, unreachable, cut off, too late.
    Silent,
    /// An answer, not the wanted one.
    Wrong,
    /// The probe could not be made, for a reason of this node: it says nothing of the target.
    NotMade,
}

/// What is known of a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Nothing yet.
    #[default]
    Unknown,
    /// It serves.
    Healthy,
    /// It does not.
    Unhealthy,
}

/// How many results make a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Good results in a row until healthy; zero counts as one.
    pub healthy: u32,
    /// Failures in a row until unhealthy; zero counts as one.
    pub unhealthy: u32,
    /// What a wrong answer does.
    pub wrong_answer: WrongAnswer,
}

impl From<&Check> for Thresholds {
    fn from(check: &Check) -> Self {
        Self {
            healthy: check.healthy_threshold,
            unhealthy: check.unhealthy_threshold,
            wrong_answer: check.wrong_answer,
        }
    }
}

/// A verdict, and how many results in a row have spoken against it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    health: Health,
    against: u32,
}

impl State {
    /// What is known.
    pub fn health(self) -> Health {
        self.health
    }

    /// The state after one more result. It is a new verdict if the health differs.
    #[must_use]
    pub fn after(self, outcome: Outcome, thresholds: Thresholds) -> Self {
        let (says, needed) = match outcome {
            Outcome::NotMade => return self,
            Outcome::Good => (Health::Healthy, thresholds.healthy),
            Outcome::Wrong if thresholds.wrong_answer == WrongAnswer::Decides => (Health::Unhealthy, 1),
            Outcome::Silent | Outcome::Wrong => (Health::Unhealthy, thresholds.unhealthy),
        };
        if self.health == says {
            return Self { health: says, against: 0 };
        }
        let against = self.against.saturating_add(1);
        if self.health == Health::Unknown || against >= needed {
            Self { health: says, against: 0 }
        } else {
            Self { against, ..self }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use Outcome::{Good, NotMade, Silent, Wrong};

    const THREE_TO_TWO: Thresholds =
        Thresholds { healthy: 2, unhealthy: 3, wrong_answer: WrongAnswer::Counts };

    fn run(outcomes: &[Outcome], thresholds: Thresholds) -> String {
        let mut state = State::default();
        let letter = |outcome: &Outcome| {
            state = state.after(*outcome, thresholds);
            match state.health() {
                Health::Unknown => '?',
                Health::Healthy => 'H',
                Health::Unhealthy => 'U',
            }
        };
        outcomes.iter().map(letter).collect()
    }

    #[test]
    fn thresholds_decide_after_the_first_result() {
        let decides = Thresholds { wrong_answer: WrongAnswer::Decides, ..THREE_TO_TWO };
        let zero = Thresholds { healthy: 0, unhealthy: 0, wrong_answer: WrongAnswer::Counts };
        let never_unhealthy = Thresholds { unhealthy: u32::MAX, ..THREE_TO_TWO };
        let table: &[(&str, &[Outcome], Thresholds, &str)] = &[
            ("the first good result decides", &[Good], THREE_TO_TWO, "H"),
            ("the first failure decides", &[Silent], THREE_TO_TWO, "U"),
            ("the third failure in a row decides", &[Good, Silent, Silent, Silent], THREE_TO_TWO, "HHHU"),
            (
                "a good one begins the count anew",
                &[Good, Silent, Silent, Good, Silent, Silent],
                THREE_TO_TWO,
                "HHHHHH",
            ),
            ("the second good one in a row decides", &[Silent, Good, Good], THREE_TO_TWO, "UUH"),
            ("a failure begins that count anew", &[Silent, Good, Silent, Good, Good], THREE_TO_TWO, "UUUUH"),
            ("silence and wrong answers count alike", &[Good, Silent, Wrong, Silent], THREE_TO_TWO, "HHHU"),
            ("a wrong answer decides if told so", &[Good, Wrong], decides, "HU"),
            ("silence still counts then", &[Good, Silent, Silent, Good], decides, "HHHH"),
            (
                "what was not made says nothing",
                &[NotMade, Good, Silent, Silent, NotMade, Silent],
                THREE_TO_TWO,
                "?HHHHU",
            ),
            ("zero counts as one", &[Good, Silent, Good], zero, "HUH"),
            ("no count overflows", &[Good, Silent, Silent], never_unhealthy, "HHH"),
        ];
        for (what, outcomes, thresholds, expected) in table {
            assert_eq!(run(outcomes, *thresholds), *expected, "{what}");
        }
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![Just(Good), Just(Silent), Just(Wrong), Just(NotMade)]
    }

    /// The same rule told over the whole history: the latest point at which enough results in a row said one thing, or
    /// the first result of all.
    fn told_by_history(outcomes: &[Outcome], thresholds: Thresholds) -> Health {
        let said: Vec<_> = outcomes.iter().copied().filter(|outcome| *outcome != NotMade).collect();
        let good = |outcome: Outcome| outcome == Good;
        let mut health = Health::Unknown;
        for end in 1..=said.len() {
            let last = said[end - 1];
            let in_a_row =
                said[..end].iter().rev().take_while(|one| good(**one) == good(last)).count() as u32;
            let needed = if good(last) { thresholds.healthy } else { thresholds.unhealthy };
            let decides = last == Wrong && thresholds.wrong_answer == WrongAnswer::Decides;
            if end == 1 || in_a_row >= needed || decides {
                health = if good(last) { Health::Healthy } else { Health::Unhealthy };
            }
        }
        health
    }

    proptest! {
        #[test]
        fn a_state_is_what_its_history_says(
            outcomes in vec(outcome(), 0..40),
            healthy in 0_u32..5,
            unhealthy in 0_u32..5,
            decides: bool,
        ) {
            let wrong_answer = if decides { WrongAnswer::Decides } else { WrongAnswer::Counts };
            let thresholds = Thresholds { healthy, unhealthy, wrong_answer };
            let state = outcomes.iter().fold(State::default(), |state, one| state.after(*one, thresholds));
            prop_assert_eq!(state.health(), told_by_history(&outcomes, thresholds));
        }

        #[test]
        fn a_verdict_never_returns_to_unknown_and_changes_only_to_what_the_last_result_said(
            outcomes in vec(outcome(), 0..40),
        ) {
            let mut state = State::default();
            for outcome in outcomes {
                let next = state.after(outcome, THREE_TO_TWO);
                if next.health() != state.health() {
                    let said = if outcome == Good { Health::Healthy } else { Health::Unhealthy };
                    prop_assert!(outcome != NotMade && next.health() == said);
                }
                state = next;
            }
        }
    }
}
