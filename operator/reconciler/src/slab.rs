//! Values under small numbers, in pieces that never move: no copy when it grows, and nothing kept when it is empty.

/// Number of a value.
pub(crate) type Slot = u32;

const BITS: u32 = 9;
const PIECE: usize = 1 << BITS;

/// Values by slot. A freed slot keeps its value until it is used again, so free only what holds no memory.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    pieces: Vec<Vec<T>>,
    free: Vec<Slot>,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { pieces: Vec::new(), free: Vec::new(), len: 0 }
    }
}

impl<T> Slab<T> {
    pub(crate) fn insert(&mut self, value: T) -> Slot {
        self.len += 1;
        if let Some(slot) = self.free.pop() {
            *self.get_mut(slot) = value;
            return slot;
        }
        if self.pieces.last().is_none_or(|piece| piece.len() == PIECE) {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        let at = self.pieces.len() - 1;
        let piece = &mut self.pieces[at];
        piece.push(value);
        Slot::try_from(at * PIECE + piece.len() - 1).expect("fewer than 2^32 values")
    }

    pub(crate) fn free(&mut self, slot: Slot) {
        self.len -= 1;
        if self.len == 0 {
            *self = Self::default();
        } else {
            self.free.push(slot);
        }
    }

    pub(crate) fn get(&self, slot: Slot) -> &T {
        &self.pieces[(slot >> BITS) as usize][slot as usize & (PIECE - 1)]
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> &mut T {
        &mut self.pieces[(slot >> BITS) as usize][slot as usize & (PIECE - 1)]
    }

    /// The value of a slot that may be a leftover of one that was freed.
    pub(crate) fn find(&self, slot: Slot) -> Option<&T> {
        self.pieces.get((slot >> BITS) as usize)?.get(slot as usize & (PIECE - 1))
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// All slots with their values, freed ones included.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &T)> {
        (0..).zip(self.pieces.iter().flatten())
    }
}
