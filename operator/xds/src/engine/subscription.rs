//! Which names of one type a stream wants.
//!
//! Rules (incremental variant), all from the xDS protocol:
//! - `*` means every name. For clusters and listeners a first request that names nothing means `*` too.
//! - `*` and names add up; giving one up keeps the other. A stream that gave up everything wants nothing, it does not
//!   fall back to `*`.
//! - Giving up a name under `*` obliges the server to say what it is now; giving up an unknown name means nothing.
//! - Wanting a name again always means "send it again".

use std::collections::BTreeSet;
use std::sync::Arc;

use super::kind::Kind;

const WILDCARD: &str = "*";

/// Wanted names of one type on one stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subscription {
    opened: bool,
    wildcard: bool,
    names: BTreeSet<Arc<str>>,
}

/// What a request changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shift {
    /// This was the first request of the type.
    pub(crate) first: bool,
    /// `*` was asked for, by name or implicitly.
    pub(crate) wildcard: bool,
    /// Names asked for.
    pub(crate) wanted: Vec<Arc<str>>,
    /// Those of them that were not named before.
    pub(crate) newly_named: BTreeSet<Arc<str>>,
    /// Names given up that `*` still covers: to be answered.
    pub(crate) still_covered: Vec<Arc<str>>,
    /// Names given up.
    pub(crate) dropped: Vec<Arc<str>>,
    /// `*` was given up: whatever is not named is no longer held by the client.
    pub(crate) wildcard_dropped: bool,
}

impl Subscription {
    pub(crate) fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    pub(crate) fn names(&self) -> &BTreeSet<Arc<str>> {
        &self.names
    }

    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    pub(crate) fn covers(&self, name: &str) -> bool {
        self.wildcard || self.is_named(name)
    }

    /// Applies one request. What is given up goes first, so a name in both lists is wanted, and sent again.
    pub(crate) fn apply(&mut self, kind: Kind, subscribe: &[String], unsubscribe: &[String]) -> Shift {
        let mut shift = Shift { first: !self.opened, ..Shift::default() };
        self.opened = true;
        if shift.first && subscribe.is_empty() && kind.has_implicit_wildcard() {
            self.wildcard = true;
            shift.wildcard = true;
        }
        for name in unsubscribe {
            if name == WILDCARD {
                shift.wildcard_dropped |= std::mem::take(&mut self.wildcard);
            }
        }
        for name in unsubscribe {
            if let Some(name) = self.names.take(name.as_str()) {
                let list = if self.wildcard { &mut shift.still_covered } else { &mut shift.dropped };
                list.push(name);
            }
        }
        for name in subscribe {
            if name == WILDCARD {
                self.wildcard = true;
                shift.wildcard = true;
            } else {
                let name: Arc<str> = name.as_str().into();
                if self.names.insert(Arc::clone(&name)) {
                    shift.newly_named.insert(Arc::clone(&name));
                }
                shift.wanted.push(name);
            }
        }
        shift
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    fn after(kind: Kind, requests: &[(&[&str], &[&str])]) -> (bool, Vec<String>) {
        let mut subscription = Subscription::default();
        for (subscribe, unsubscribe) in requests {
            subscription.apply(kind, &names(subscribe), &names(unsubscribe));
        }
        (subscription.is_wildcard(), subscription.names().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_first_request_without_names_means_all_clusters_and_listeners_but_no_assignment() {
        assert_eq!(after(Kind::Cluster, &[(&[], &[])]), (true, vec![]));
        assert_eq!(after(Kind::Listener, &[(&[], &[])]), (true, vec![]));
        assert_eq!(after(Kind::Assignment, &[(&[], &[])]), (false, vec![]));
        assert_eq!(after(Kind::Assignment, &[(&["*"], &[])]), (true, vec![]));
    }

    #[test]
    fn a_name_after_the_implicit_wildcard_adds_to_it() {
        assert_eq!(after(Kind::Cluster, &[(&[], &[]), (&["a"], &[])]), (true, names(&["a"])));
        assert_eq!(after(Kind::Cluster, &[(&[], &[]), (&["a"], &[]), (&[], &["*"])]), (false, names(&["a"])));
    }

    #[test]
    fn giving_up_everything_does_not_fall_back_to_the_wildcard() {
        assert_eq!(after(Kind::Cluster, &[(&["a"], &[]), (&[], &["a"]), (&[], &[])]), (false, vec![]));
        assert_eq!(after(Kind::Listener, &[(&[], &[]), (&[], &["*"]), (&[], &[])]), (false, vec![]));
    }

    #[test]
    fn unknown_names_given_up_mean_nothing() {
        let mut subscription = Subscription::default();
        subscription.apply(Kind::Cluster, &[], &[]);
        let shift = subscription.apply(Kind::Cluster, &[], &names(&["ghost"]));
        assert_eq!(shift, Shift::default());
    }
}
