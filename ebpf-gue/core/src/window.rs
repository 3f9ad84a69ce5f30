//! Reading and writing headers where they lie.

use core::marker::PhantomData;

use epic_abi::Ip;

/// So many bytes at the start of a frame: a length the compiler knows. A type, because it is made of constants of
/// families, which const generics cannot be made of.
pub trait Span {
    /// Bytes.
    const LEN: usize;
}

/// What can be read from a packet and written to it as it is: integers without padding for which all bits are good.
///
/// # Safety
/// Any bytes are a value, and all bytes of a value are written.
pub unsafe trait Wire: Copy {}

// SAFETY: integers and arrays of them.
unsafe impl Wire for u8 {}
// SAFETY: as above.
unsafe impl Wire for u16 {}
// SAFETY: as above.
unsafe impl Wire for u32 {}
// SAFETY: as above.
unsafe impl Wire for [u16; 3] {}
// SAFETY: four words in network order, as a packet has them.
unsafe impl Wire for Ip {}

/// The first `S::LEN` bytes of a frame, there to be read and written. It borrows the frame, so none outlives a change of it.
pub struct Window<'f, S> {
    base: *mut u8,
    frame: PhantomData<(&'f mut [u8], S)>,
}

impl<S: Span> Window<'_, S> {
    /// The window at `base`.
    ///
    /// # Safety
    /// `S::LEN` bytes behind `base` belong to the frame for as long as the window lives.
    #[inline(always)]
    pub unsafe fn new(base: *mut u8) -> Self {
        Self { base, frame: PhantomData }
    }

    /// The value at offset `at`, as it lies there. Offsets are constants after inlining: in the programs this check is
    /// made by the compiler, and one that fails there fails the build.
    #[inline(always)]
    pub fn get<T: Wire>(&self, at: usize) -> T {
        assert!(at + size_of::<T>() <= S::LEN, "a read within the window");
        // SAFETY: within the window; any bytes are a value.
        unsafe { read(self.base.add(at)) }
    }

    /// Writes `value` at offset `at`, as it lies in memory. As for [`Self::get`].
    #[inline(always)]
    pub fn set<T: Wire>(&mut self, at: usize, value: T) {
        assert!(at + size_of::<T>() <= S::LEN, "a write within the window");
        // SAFETY: within the window.
        unsafe { write(self.base.add(at), value) }
    }
}

/// # Safety
/// As for `ptr::read_unaligned`. BPF on our targets does unaligned access, where the unaligned read of the language would
/// become one of single bytes, which costs more than the rest of a program.
#[inline(always)]
unsafe fn read<T: Copy>(at: *mut u8) -> T {
    // SAFETY: the caller's.
    unsafe { if cfg!(target_arch = "bpf") { *at.cast::<T>() } else { at.cast::<T>().read_unaligned() } }
}

/// # Safety
/// As for [`read`].
#[inline(always)]
unsafe fn write<T: Copy>(at: *mut u8, value: T) {
    // SAFETY: the caller's.
    unsafe {
        if cfg!(target_arch = "bpf") {
            *at.cast::<T>() = value;
        } else {
            at.cast::<T>().write_unaligned(value);
        }
    }
}
