//! The current view of every identity, and those who wait for the next.
//!
//! Guarantees: a stream is woken only when its own view changed; a reader gets the latest view and never a history;
//! publishing never waits for a stream; no call costs more the more identities there are, but for the search. Before the first [`Views::publish`] no stream sees anything.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::engine::View;
use crate::identity::Identity;

/// A view with the moments since which it says what it says, for measuring how long clients take.
#[derive(Clone, Debug)]
pub struct Published {
    /// The view.
    pub view: Arc<View>,
    /// Since when it has its revision: these clusters and listeners.
    pub at: Instant,
    /// Since when it has these assignments.
    pub assignments_at: Instant,
}

impl Published {
    fn after(before: Option<&Published>, view: View, now: Instant) -> Self {
        let same = |same: fn(&View, &View) -> bool, at: fn(&Published) -> Instant| {
            before.filter(|before| same(&before.view, &view)).map_or(now, at)
        };
        let at = same(|before, view| before.revision() == view.revision(), |before| before.at);
        let assignments_at =
            same(|before, view| before.assignments() == view.assignments(), |before| before.assignments_at);
        Self { view: Arc::new(view), at, assignments_at }
    }
}

/// What an identity has: a view, streams, or both.
#[derive(Debug)]
struct Slot {
    view: watch::Sender<Option<Published>>,
    streams: usize,
}

impl Default for Slot {
    fn default() -> Self {
        Self { view: watch::Sender::new(None), streams: 0 }
    }
}

impl Slot {
    fn is_idle(&self) -> bool {
        self.streams == 0 && self.view.borrow().is_none()
    }
}

/// Views by identity.
#[derive(Debug, Default)]
pub struct Views {
    slots: Mutex<BTreeMap<Identity, Slot>>,
}

impl Views {
    /// No views yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Makes `view` the current one of `identity`. Streams of other identities are not woken, and neither are its own
    /// if nothing differs.
    pub fn publish(&self, identity: &Identity, view: View) {
        let mut slots = self.slots.lock();
        let slot = slots.entry(identity.clone()).or_default();
        slot.view.send_if_modified(|current| {
            if current.as_ref().is_some_and(|published| *published.view == view) {
                return false;
            }
            *current = Some(Published::after(current.as_ref(), view, Instant::now()));
            true
        });
    }

    /// Takes the view of a LoadBalancer away that is gone. Its open streams keep what they have; new ones get nothing.
    pub fn withdraw(&self, identity: &Identity) {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(identity) {
            slot.view.send_if_modified(|current| {
                *current = None;
                false
            });
            if slot.is_idle() {
                slots.remove(identity);
            }
        }
    }

    /// The current view of an identity.
    pub fn current(&self, identity: &Identity) -> Option<Arc<View>> {
        self.slots
            .lock()
            .get(identity)
            .and_then(|slot| slot.view.borrow().as_ref().map(|p| Arc::clone(&p.view)))
    }

    /// Follows the view of an identity, which may not have one yet.
    pub(crate) fn follow(self: &Arc<Self>, identity: &Identity) -> Following {
        let mut slots = self.slots.lock();
        let slot = slots.entry(identity.clone()).or_default();
        slot.streams += 1;
        Following { view: slot.view.subscribe(), views: Arc::clone(self), identity: identity.clone() }
    }
}

/// The view of an identity as one stream follows it.
#[derive(Debug)]
pub(crate) struct Following {
    view: watch::Receiver<Option<Published>>,
    views: Arc<Views>,
    identity: Identity,
}

impl Deref for Following {
    type Target = watch::Receiver<Option<Published>>;

    fn deref(&self) -> &Self::Target {
        &self.view
    }
}

impl DerefMut for Following {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.view
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut slots = self.views.slots.lock();
        if let Some(slot) = slots.get_mut(&self.identity) {
            slot.streams -= 1;
            if slot.is_idle() {
                slots.remove(&self.identity);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Kind, Resource};

    fn identity(name: &str) -> Identity {
        Identity::new("red", name, "u")
    }

    fn view(text: &str) -> View {
        View::new(1, [Resource::new(Kind::Cluster, "a", text.into())])
    }

    #[test]
    fn only_a_change_of_its_own_view_wakes_a_stream() {
        let views = Views::new();
        let mut web = views.follow(&identity("web"));
        views.publish(&identity("dns"), view("1"));
        assert!(!web.has_changed().unwrap());
        views.publish(&identity("web"), view("1"));
        assert!(web.has_changed().unwrap());
        web.mark_unchanged();
        views.publish(&identity("web"), view("1"));
        assert!(!web.has_changed().unwrap());
        views.publish(&identity("web"), view("2"));
        assert!(web.has_changed().unwrap());
    }

    #[test]
    fn a_withdrawn_view_wakes_nobody_and_can_come_back() {
        let views = Views::new();
        views.publish(&identity("web"), view("1"));
        let mut web = views.follow(&identity("web"));
        web.mark_unchanged();
        views.withdraw(&identity("web"));
        assert!(!web.has_changed().unwrap());
        assert_eq!(views.current(&identity("web")), None);
        views.publish(&identity("web"), view("1"));
        assert!(web.has_changed().unwrap());
    }

    #[test]
    fn identities_without_view_and_stream_are_forgotten() {
        let views = Views::new();
        let (one, other) = (views.follow(&identity("ghost")), views.follow(&identity("ghost")));
        drop(one);
        assert_eq!(views.slots.lock().len(), 1);
        drop(other);
        assert_eq!(views.slots.lock().len(), 0, "with its last stream, before anybody else comes");
        views.publish(&identity("web"), view("1"));
        let web = views.follow(&identity("web"));
        views.withdraw(&identity("web"));
        assert_eq!(views.slots.lock().len(), 1);
        drop(web);
        assert_eq!(views.slots.lock().len(), 0);
        views.publish(&identity("web"), view("1"));
        drop(views.follow(&identity("web")));
        assert_eq!(views.current(&identity("web")), Some(Arc::new(view("1"))));
    }
}
