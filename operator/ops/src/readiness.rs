//! Readiness as tokens: a process is ready when every subsystem has dropped what it held back.
//!
//! Each subsystem takes a [`Pending`] under its name before the process starts serving and drops it when
//! it has done its part. What is still held can be listed, so `/readyz` names the culprit instead of saying no.
//! Some waits come back (a kind that can no longer be listed): those are a [`Gate`], whose reason is set and cleared.
//!
//! What is wrong without holding readiness back (a kind that is refused after it was listed) is a [`Notice`]: `/readyz`
//! shows it and says yes.
//!
//! Invariant: ready means no name is pending. There is no second flag that could disagree.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// The names that still hold readiness back, each with the reason.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    pending: Arc<Mutex<BTreeMap<String, String>>>,
    notices: Arc<Mutex<BTreeMap<String, String>>>,
}

/// Holds readiness back until dropped.
#[derive(Debug)]
#[must_use = "readiness is granted as soon as this is dropped"]
pub struct Pending {
    readiness: Readiness,
    name: String,
}

/// A wait that may return: closed with a reason, open without one.
#[derive(Clone, Debug)]
pub struct Gate {
    readiness: Readiness,
    name: String,
}

/// Something wrong that does not hold readiness back, shown until dropped.
#[derive(Debug)]
#[must_use = "it is shown no longer as soon as this is dropped"]
pub struct Notice {
    readiness: Readiness,
    name: String,
}

impl Drop for Notice {
    fn drop(&mut self) {
        self.readiness.notices.lock().remove(&self.name);
    }
}

impl Readiness {
    /// Nothing pending, hence ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Holds readiness back under `name` until the returned token is dropped. Names are unique within a
    /// process; a name taken twice is pending until the first of its tokens goes.
    pub fn hold(&self, name: &str) -> Pending {
        self.pending.lock().insert(name.to_owned(), "starting".to_owned());
        Pending { readiness: self.clone(), name: name.to_owned() }
    }

    /// A gate under `name`, open until [`Gate::close`].
    pub fn gate(&self, name: &str) -> Gate {
        Gate { readiness: self.clone(), name: name.to_owned() }
    }

    /// Shows under `name` what is wrong without being less ready for it. Names are unique within a process.
    pub fn notice(&self, name: &str, text: impl Into<String>) -> Notice {
        self.notices.lock().insert(name.to_owned(), text.into());
        Notice { readiness: self.clone(), name: name.to_owned() }
    }

    /// What is wrong without holding readiness back, by name.
    pub fn notices(&self) -> BTreeMap<String, String> {
        self.notices.lock().clone()
    }

    /// Whether nothing is pending.
    pub fn is_ready(&self) -> bool {
        self.pending.lock().is_empty()
    }

    /// What is pending, by name, with the reason.
    pub fn pending(&self) -> BTreeMap<String, String> {
        self.pending.lock().clone()
    }
}

impl Pending {
    /// Says why this subsystem is not ready yet.
    pub fn because(&self, reason: impl Into<String>) {
        self.readiness.pending.lock().insert(self.name.clone(), reason.into());
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.readiness.pending.lock().remove(&self.name);
    }
}

impl Gate {
    /// Readiness is held back from now on, with this reason.
    pub fn close(&self, reason: impl Into<String>) {
        self.readiness.pending.lock().insert(self.name.clone(), reason.into());
    }

    /// Readiness is no longer held back by this gate.
    pub fn open(&self) {
        self.readiness.pending.lock().remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_when_the_last_token_is_dropped() {
        let readiness = Readiness::new();
        let first = readiness.hold("accounts");
        let second = readiness.hold("certificates");
        second.because("no CA yet");
        drop(first);
        assert!(!readiness.is_ready());
        assert_eq!(readiness.pending().get("certificates").map(String::as_str), Some("no CA yet"));
        drop(second);
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_gate_can_close_again() {
        let readiness = Readiness::new();
        let gate = readiness.gate("load-balancers");
        gate.close("list is forbidden");
        assert!(!readiness.is_ready());
        gate.open();
        assert!(readiness.is_ready());
    }
}
