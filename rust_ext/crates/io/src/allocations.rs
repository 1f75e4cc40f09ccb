//! An allocator that counts, for tests that say "this allocates nothing". It is the system's in every other way, and no part of the product.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting by thread. A test makes it `#[global_allocator]`.
#[derive(Debug, Default)]
pub struct CountingAllocator;

/// How often the calling thread has asked for memory, or for more of it, if [`CountingAllocator`] is in force.
pub fn count() -> u64 {
    COUNT.try_with(Cell::get).unwrap_or(0)
}

fn note() {
    // A thread that ends allocates after its locals are gone: nobody asks about that.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes to `System` with the same arguments; counting touches a thread-local cell that needs no memory of its own.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above; the memory is `System`'s.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }
}
