//! The current view of every identity, and those who wait for the next.
//!
//! Guarantees: a stream is woken only when its own view changed; a reader gets the latest view and never a history;
//! publishing never waits for a stream. Before the first [`Views::publish`] no stream sees anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::engine::View;
use crate::identity::Identity;

/// A view with the moment it was published, for measuring how long clients take.
#[derive(Clone, Debug)]
pub struct Published {
    /// The view.
    pub view: Arc<View>,
    /// When it became the current one.
    pub at: tokio::time::Instant,
}

type Slot = watch::Sender<Option<Published>>;

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
        let slot = slots.entry(identity.clone()).or_insert_with(|| watch::Sender::new(None));
        slot.send_if_modified(|current| {
            if current.as_ref().is_some_and(|published| *published.view == view) {
                return false;
            }
            *current = Some(Published { view: Arc::new(view), at: tokio::time::Instant::now() });
            true
        });
    }

    /// Takes the view of a LoadBalancer away that is gone. Its open streams keep what they have; new ones get nothing.
    pub fn withdraw(&self, identity: &Identity) {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(identity) {
            slot.send_if_modified(|current| {
                *current = None;
                false
            });
            if slot.receiver_count() == 0 {
                slots.remove(identity);
            }
        }
    }

    /// The current view of an identity.
    pub fn current(&self, identity: &Identity) -> Option<Arc<View>> {
        self.slots.lock().get(identity).and_then(|slot| slot.borrow().as_ref().map(|p| Arc::clone(&p.view)))
    }

    /// Follows the view of an identity, which may not have one yet.
    pub(crate) fn follow(&self, identity: &Identity) -> watch::Receiver<Option<Published>> {
        let mut slots = self.slots.lock();
        // Identities of streams that ended before they had a view.
        slots.retain(|_, slot| slot.receiver_count() > 0 || slot.borrow().is_some());
        slots.entry(identity.clone()).or_insert_with(|| watch::Sender::new(None)).subscribe()
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
        drop(views.follow(&identity("ghost")));
        let _web = views.follow(&identity("web"));
        assert_eq!(views.slots.lock().len(), 1);
    }
}
