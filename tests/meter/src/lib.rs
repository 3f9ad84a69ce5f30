//! What benchmarks count instead of estimating: live heap and CPU time.
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: epic_meter::Counting = epic_meter::Counting;
//!
//! let (before, begun) = (epic_meter::live(), epic_meter::of_thread());
//! let rows = vec![0u64; 1_000];
//! assert!(epic_meter::live() - before >= 8_000);
//! assert!(epic_meter::of_thread() >= begun);
//! # drop(rows);
//! ```

#![expect(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

static LIVE: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, counted. What it adds to each piece is not.
#[derive(Clone, Copy, Debug)]
pub struct Counting;

// SAFETY: all work is the system allocator's; the counter allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Bytes that are allocated now; 0 unless [`Counting`] is the global allocator.
pub fn live() -> usize {
    LIVE.load(Ordering::Relaxed)
}

/// How long this thread has run so far, in the kernel too: other load on the machine adds what it takes of the caches only.
///
/// # Panics
/// Without that clock, which every Linux has.
pub fn of_thread() -> Duration {
    Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock of the thread"))
}

/// How long all threads of this process have run so far, in the kernel too.
///
/// # Panics
/// Without that clock, which every Linux has.
pub fn of_process() -> Duration {
    Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("a clock of the process"))
}
