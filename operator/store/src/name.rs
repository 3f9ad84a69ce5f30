//! Interned texts: a name as a number, so that keys are small, `Copy`, and compared without following a pointer.
//!
//! A row holds [`Name`], its key the [`NameId`] of it. Whoever holds a row (a table, a snapshot, a change iterator) holds
//! its names, so the ids in the keys of what can be seen never mean another text.
//!
//! Guarantees: equal texts give equal names and equal ids in the whole process, for as long as anybody holds one of them;
//! the last to let go of a name releases text and number, and the number may be given to another text then.
//! Assumption: an id is kept only beside something that holds its name. One that outlives it may later stand for another
//! text, so it belongs into keys, never into state of its own.
//! Cost: about 110 bytes and the text per name that is held, once.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::{Arc, LazyLock, Weak};

use hashbrown::{DefaultHashBuilder, HashTable};
use parking_lot::RwLock;

/// An interned text, held. Ordered by text; equal names are one pointer.
#[derive(Clone)]
pub struct Name(Arc<Held>);

/// The number of a [`Name`]. Ordered by number, which differs from run to run: good for trees and groups, not for people.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameId(u32);

struct Held {
    id: u32,
    text: Arc<str>,
}

impl Drop for Held {
    fn drop(&mut self) {
        INTERNED.write().release(self.id);
    }
}

#[derive(Default)]
struct Interned {
    hasher: DefaultHashBuilder,
    ids: HashTable<u32>,
    slots: Vec<Option<(Arc<str>, Weak<Held>)>>,
    free: Vec<u32>,
    bytes: usize,
}

static INTERNED: LazyLock<RwLock<Interned>> = LazyLock::new(RwLock::default);

impl Interned {
    /// The name of a text, unless the last to hold it has let go.
    fn find(&self, text: &str) -> Option<Arc<Held>> {
        // While one is being released, its text may have a second number already: the first that is alive counts.
        let mut alive = None;
        let is_it = |id: &u32| {
            let Some((known, held)) = &self.slots[*id as usize] else { return false };
            if **known != *text {
                return false;
            }
            alive = held.upgrade();
            alive.is_some()
        };
        self.ids.find(self.hasher.hash_one(text), is_it)?;
        alive
    }

    fn insert(&mut self, text: &str) -> Arc<Held> {
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 names")
        });
        let text: Arc<str> = text.into();
        let held = Arc::new(Held { id, text: Arc::clone(&text) });
        let Self { hasher, ids, slots, .. } = self;
        self.bytes += text.len();
        let hash = hasher.hash_one(&*text);
        slots[id as usize] = Some((text, Arc::downgrade(&held)));
        let rehash = |id: &u32| slots[*id as usize].as_ref().map_or(0, |(text, _)| hasher.hash_one(&**text));
        ids.insert_unique(hash, id, rehash);
        held
    }

    fn release(&mut self, id: u32) {
        let Some((text, _)) = self.slots[id as usize].take() else { return };
        self.bytes -= text.len();
        if let Ok(entry) = self.ids.find_entry(self.hasher.hash_one(&*text), |known| *known == id) {
            entry.remove();
        }
        self.free.push(id);
        // What many names have grown is given back when they are released.
        if self.ids.len() * 4 < self.ids.capacity() {
            let Self { hasher, ids, slots, .. } = self;
            let rehash =
                |id: &u32| slots[*id as usize].as_ref().map_or(0, |(text, _)| hasher.hash_one(&**text));
            ids.shrink_to(ids.len() * 2, rehash);
        }
    }
}

impl Name {
    /// The name of a text.
    ///
    /// # Panics
    /// Beyond 2³² texts, which no memory holds.
    pub fn new(text: &str) -> Self {
        // What was found is let go of outside of the lock.
        let found = INTERNED.read().find(text);
        if let Some(held) = found {
            return Self(held);
        }
        let mut interned = INTERNED.write();
        // Somebody may have been faster.
        let held = interned.find(text).unwrap_or_else(|| interned.insert(text));
        drop(interned);
        Self(held)
    }

    /// The name of a text that somebody holds. For questions from outside.
    pub fn find(text: &str) -> Option<Self> {
        INTERNED.read().find(text).map(Self)
    }

    /// Its number, for keys.
    pub fn id(&self) -> NameId {
        NameId(self.0.id)
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// Its text, shared.
    pub fn text(&self) -> &Arc<str> {
        &self.0.text
    }

    /// How many texts are held in this process, and the bytes of them.
    pub fn interned() -> (usize, usize) {
        let interned = INTERNED.read();
        (interned.ids.len(), interned.bytes)
    }
}

impl NameId {
    /// The text that it stands for now; `None` if nobody holds its name.
    pub fn text(self) -> Option<Arc<str>> {
        let interned = INTERNED.read();
        interned.slots.get(self.0 as usize)?.as_ref().map(|(text, _)| Arc::clone(text))
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        if self == other { Ordering::Equal } else { self.as_str().cmp(other.as_str()) }
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As a `str` does, which it may be borrowed as.
        self.as_str().hash(state);
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for NameId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for NameId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            Some(text) => f.pad(&text),
            None => write!(f, "#{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_give_equal_names_from_every_thread() {
        let texts: Vec<String> = (0..200).map(|i| format!("name-test-{i}")).collect();
        let names = |texts: &[String]| texts.iter().map(|text| Name::new(text)).collect::<Vec<_>>();
        let all: Vec<Vec<Name>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| names(&texts))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
        assert!(all[0].iter().zip(&texts).all(|(name, text)| name.as_str() == text));
        assert!(Name::interned().0 >= 200 && Name::interned().1 >= 200 * 11);
    }

    #[test]
    fn names_are_ordered_by_text_and_ids_are_equal_with_them() {
        let (later, earlier) = (Name::new("order-z"), Name::new("order-a"));
        assert!(later > earlier);
        assert_eq!(later.cmp(&later.clone()), Ordering::Equal);
        assert_eq!(Name::new("order-z").id(), later.id());
        assert_ne!(earlier.id(), later.id());
        assert_eq!(format!("{later:?} {} {later:>9}", later.id()), "order-z order-z   order-z");
    }

    #[test]
    fn a_question_interns_nothing() {
        assert_eq!(Name::find("never-interned"), None);
        let name = Name::new("interned-once");
        assert_eq!(Name::find("interned-once"), Some(name));
    }

    #[test]
    fn the_last_to_let_go_of_a_name_releases_it() {
        let name = Name::new("released-later");
        let (copy, id) = (name.clone(), name.id());
        drop(name);
        assert_eq!(id.text().as_deref(), Some("released-later"));
        drop(copy);
        assert_eq!(Name::find("released-later"), None);
    }

    #[test]
    fn threads_that_intern_and_let_go_of_one_text_never_hold_two_numbers_at_once() {
        let held = RwLock::new(());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        let a = Name::new("contended");
                        let _held = held.read();
                        let b = Name::new("contended");
                        assert_eq!(a, b);
                        assert_eq!(a.id().text().as_deref(), Some("contended"));
                    }
                });
            }
        });
        assert_eq!(Name::find("contended"), None);
    }

    #[test]
    fn numbers_of_released_names_are_given_out_again() {
        let first: Vec<Name> = (0..100).map(|i| Name::new(&format!("wave-{i}"))).collect();
        let most = INTERNED.read().slots.len();
        drop(first);
        for wave in 0..50 {
            let _held: Vec<Name> = (0..100).map(|i| Name::new(&format!("wave-{wave}-{i}"))).collect();
        }
        // Other tests run beside this one.
        assert!(INTERNED.read().slots.len() < most + 1_000);
    }
}
