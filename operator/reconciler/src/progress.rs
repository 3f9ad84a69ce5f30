//! How far reconciliation is: derived from what is behind, never written back to the tables.
//!
//! Guarantees: [`Progress::covers`] is true only if the maps hold every change up to that revision, whatever commits one
//! round took in together; [`Progress::covers_scope`] asks that of the rows of one scope, whatever fails elsewhere; who is
//! behind for a while only, is behind, and who fails is named with a text and since when.
//! What it costs: it is cheap to clone, and a change costs what changed.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::{Duration, Instant};

use imbl::OrdMap;

/// How far the maps are, for rows named `I` and scopes `S`.
#[derive(Clone)]
pub struct Progress<I, S> {
    /// Revision of the tables up to which every change is accounted for: it is in the maps, or something is behind.
    pub seen: u64,
    /// Lowest revision of changes that were not yet looked at; their scopes are not known.
    pub arrived: Option<u64>,
    /// Lowest revision of a change that the maps do not hold yet, over all rows.
    pub lowest: Option<u64>,
    /// The same over rows that do not fail: they are only not written yet.
    pub lowest_pending: Option<u64>,
    /// Scopes with rows that are behind; `None` is that of the whole node.
    pub behind: OrdMap<Option<S>, Behind>,
    /// Rows of scopes that fail.
    pub failing: OrdMap<I, Failing>,
    /// Rows of the whole node that fail.
    pub failing_of_node: OrdMap<I, Failing>,
    /// Map writes so far.
    pub writes: u64,
    /// State for people.
    pub health: Health,
}

/// How far a scope is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// Lowest revision of a change that the maps do not hold yet.
    pub lowest: u64,
}

/// Why a row is behind, if it is not just under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// What is wrong, with the entry.
    pub text: Arc<str>,
    /// Since when it fails, for whatever reason.
    pub since: Instant,
    /// Tells rows apart that had the same name one after the other.
    pub(crate) slot: u32,
}

/// How a row stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It was not tried yet, or is being written.
    Pending,
    /// The maps hold what it wants.
    Done,
    /// It cannot be written for now; it is tried again by itself.
    Error(Arc<str>),
}

impl<I, S> Default for Progress<I, S> {
    fn default() -> Self {
        Self {
            seen: 0,
            arrived: None,
            lowest: None,
            lowest_pending: None,
            behind: OrdMap::new(),
            failing: OrdMap::new(),
            failing_of_node: OrdMap::new(),
            writes: 0,
            health: Health::default(),
        }
    }
}

impl<I: Debug, S> Debug for Progress<I, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress")
            .field("seen", &self.seen)
            .field("lowest", &self.lowest)
            .field("writes", &self.writes)
            .finish_non_exhaustive()
    }
}

impl<I: Ord + Copy, S: Ord + Copy> Progress<I, S> {
    /// Whether the maps hold all changes up to this revision.
    pub fn covers(&self, revision: u64) -> bool {
        self.has_seen(revision) && self.lowest.is_none_or(|lowest| lowest > revision)
    }

    /// Whether the maps hold all changes of rows of this scope up to this revision.
    pub fn covers_scope(&self, scope: S, revision: u64) -> bool {
        self.covers_rows_of(Some(scope), revision)
    }

    /// Whether the maps hold all changes of rows that concern the whole node, up to this revision.
    pub fn covers_node(&self, revision: u64) -> bool {
        self.covers_rows_of(None, revision)
    }

    fn covers_rows_of(&self, scope: Option<S>, revision: u64) -> bool {
        self.has_seen(revision) && self.behind.get(&scope).is_none_or(|behind| behind.lowest > revision)
    }

    /// Whether every change up to this revision was tried: it is in the maps, fails, or waits to be removed.
    pub fn has_attempted(&self, revision: u64) -> bool {
        self.has_seen(revision) && self.lowest_pending.is_none_or(|lowest| lowest > revision)
    }

    fn has_seen(&self, revision: u64) -> bool {
        self.seen >= revision && self.arrived.is_none_or(|arrived| arrived > revision)
    }

    /// How a row stands that has this revision in the tables.
    pub fn status(&self, row: I, row_revision: u64) -> Status {
        if let Some(failing) = self.failure(row) {
            Status::Error(Arc::clone(&failing.text))
        } else if !self.has_attempted(row_revision) {
            Status::Pending
        } else {
            Status::Done
        }
    }

    /// Why a row fails, if it does.
    pub fn failure(&self, row: I) -> Option<&Failing> {
        self.failing.get(&row).or_else(|| self.failing_of_node.get(&row))
    }
}

/// An error that is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedError {
    /// Row and reason.
    pub text: Arc<str>,
    /// Since when it fails.
    pub since: Instant,
}

/// What fails: some of it by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errors {
    /// At most ten.
    pub named: Vec<NamedError>,
    /// How many more there are.
    pub more: usize,
    /// Since when the one fails that has failed longest of those that are named.
    pub since: Option<Instant>,
}

impl Errors {
    /// Errors that are named.
    pub const NAMED: usize = 10;

    pub(crate) fn of(total: usize, errors: impl Iterator<Item = NamedError>) -> Self {
        let named: Vec<NamedError> = errors.take(Self::NAMED).collect();
        let since = named.iter().map(|error| error.since).min();
        Self { more: total - named.len(), named, since }
    }

    /// Whether nothing fails.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// Whether something has failed for so long.
    pub fn has_lasted(&self, now: Instant, for_as_long_as: Duration) -> bool {
        self.since.is_some_and(|since| now.saturating_duration_since(since) >= for_as_long_as)
    }
}

/// State of a reconciler for people and for health endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Entries that the maps hold.
    pub entries: usize,
    /// Errors of rows that concern the whole node, and of entries that no row wants.
    pub node: Errors,
    /// Errors of rows of scopes: they concern those scopes alone.
    pub scopes: Errors,
    /// Initializers that have not completed: nothing that may be of their sources is removed before.
    pub waiting_for: Vec<Arc<str>>,
    /// Entries that no row wants and that wait for these.
    pub unlisted: usize,
    /// Entries whose removal waits for confirmation.
    pub unconfirmed: usize,
    /// Why the maps could not be read back the last time.
    pub unread: Option<Arc<str>>,
}

impl Health {
    /// Whether the maps hold what is wanted.
    pub fn is_ok(&self) -> bool {
        self.is_node_ok() && self.scopes.is_empty() && self.unconfirmed == 0
    }

    /// Whether nothing fails that concerns the whole node.
    pub fn is_node_ok(&self) -> bool {
        self.node.is_empty() && self.unread.is_none()
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.is_ok() { "OK" } else { "degraded" };
        write!(f, "{state}, {} entries", self.entries)?;
        for error in self.node.named.iter().chain(&self.scopes.named) {
            write!(f, "; {}", error.text)?;
        }
        let more = self.node.more + self.scopes.more;
        if more > 0 {
            write!(f, "; and {more} more")?;
        }
        if let Some(why) = &self.unread {
            write!(f, "; the maps could not be read back: {why}")?;
        }
        if self.unconfirmed > 0 {
            write!(f, "; removal of {} entries waits for confirmation", self.unconfirmed)?;
        }
        if !self.waiting_for.is_empty() {
            write!(f, "; not pruning before {} has listed", self.waiting_for.join(", "))?;
            if self.unlisted > 0 {
                write!(f, " (entries that wait for it: {})", self.unlisted)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_one_line_that_names_what_fails() {
        let now = Instant::now();
        let error = |text: &str| NamedError { text: text.into(), since: now };
        let errors = |texts: &[&str], total| Errors::of(total, texts.iter().map(|text| error(text)));
        let mut health = Health { entries: 3, ..Health::default() };
        assert_eq!(health.to_string(), "OK, 3 entries");
        health.node = errors(&["nodes n1: no"], 1);
        health.scopes = errors(&["services a: full"], 8);
        health.waiting_for = vec!["file".into(), "cluster".into()];
        health.unconfirmed = 2;
        health.unlisted = 4;
        assert_eq!(
            health.to_string(),
            "degraded, 3 entries; nodes n1: no; services a: full; and 7 more; removal of 2 entries waits for \
             confirmation; not pruning before file, cluster has listed (entries that wait for it: 4)"
        );
        assert!(!health.is_node_ok());
    }

    #[test]
    fn errors_of_a_scope_are_none_of_the_node_and_only_what_lasts_has_lasted() {
        let now = Instant::now();
        let error = NamedError { text: "x".into(), since: now };
        let health = Health { scopes: Errors::of(1, std::iter::once(error.clone())), ..Health::default() };
        assert!(health.is_node_ok() && !health.is_ok());
        let second = Duration::from_secs(1);
        assert!(!health.node.has_lasted(now + second, second));
        assert!(health.scopes.has_lasted(now + second, second));
        assert!(!health.scopes.has_lasted(now + second / 2, second));
    }

    #[test]
    fn of_many_errors_ten_are_named() {
        let errors = (0..25).map(|i| NamedError { text: format!("{i}").into(), since: Instant::now() });
        let errors = Errors::of(25, errors);
        assert_eq!((errors.named.len(), errors.more), (10, 15));
    }
}
