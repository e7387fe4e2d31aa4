//! Where the binary's memory comes from.

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::{c_int, c_long};
use std::ptr::{copy_nonoverlapping, null_mut};

use mimalloc::MiMalloc;
use rustix::mm::{MapFlags, MremapFlags, ProtFlags, mmap_anonymous, mremap, munmap};

/// From this size on, in bytes, blocks come from the system.
const LARGE: usize = 256 << 10;
/// What the system's blocks are aligned to at least, in bytes.
const PAGE: usize = 4 << 10;

/// How long mimalloc keeps memory that nothing is in, in ms, before the system has it back. In the second that is its default a
/// sender has 10 to 15 MB of it lying about; in this time most copies still find the memory of those before them.
const KEPT_MS: c_long = 50;
/// `mi_option_purge_delay` in `mimalloc.h`: options are known by their place.
const PURGE_DELAY: c_int = 15;

#[allow(unsafe_code)]
unsafe extern "C" {
    fn mi_option_set_default(option: c_int, value: c_long);
}

/// Sets mimalloc up; what the environment says (`MIMALLOC_PURGE_DELAY`) goes before it.
pub fn set_up() {
    // SAFETY: may be called at any time, by any thread
    #[allow(unsafe_code)]
    unsafe {
        mi_option_set_default(PURGE_DELAY, KEPT_MS);
    }
}

/// mimalloc, but for large tables. Those come as zeros that take no memory until they are written (the queue's library
/// asks for 21 MB of them, for histograms that nobody fills), and go back when they are given back. Octets stay with
/// mimalloc however many they are: a large letter is printed anew for every copy.
pub struct Allocator;

fn is_large(layout: Layout) -> bool {
    layout.size() >= LARGE && (align_of::<usize>()..=PAGE).contains(&layout.align())
}

// SAFETY: a block goes back to whoever gave it, as its layout tells, and both keep the promises of the trait; what the
// system gives is zero.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !is_large(layout) {
            return unsafe { MiMalloc.alloc(layout) };
        }
        let (access, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        unsafe { mmap_anonymous(null_mut(), layout.size(), access, kind) }.map_or(null_mut(), |block| block.cast())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) { unsafe { self.alloc(layout) } } else { unsafe { MiMalloc.alloc_zeroed(layout) } }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if !is_large(layout) {
            return unsafe { MiMalloc.dealloc(block, layout) };
        }
        // what cannot be given back stays mapped
        let _ = unsafe { munmap(block.cast(), layout.size()) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (is_large(layout), is_large(new)) {
            (false, false) => unsafe { MiMalloc.realloc(block, layout, size) },
            (true, true) => {
                let moved = unsafe { mremap(block.cast(), layout.size(), size, MremapFlags::MAYMOVE) };
                moved.map_or(null_mut(), |block| block.cast())
            }
            _ => {
                let moved = unsafe { self.alloc(new) };
                if !moved.is_null() {
                    unsafe { copy_nonoverlapping(block, moved, layout.size().min(size)) };
                    unsafe { self.dealloc(block, layout) };
                }
                moved
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block that grows and shrinks over the border keeps its content, and what is asked for as zeros is zero.
    #[test]
    fn blocks_keep_their_content_over_the_border() {
        let layout = |size| Layout::from_size_align(size, 16).unwrap();
        let sizes = [100, LARGE - 1, LARGE, 3 * LARGE + 5, LARGE + 1, LARGE - 1, 64];
        unsafe {
            let mut size = sizes[0];
            let mut block = Allocator.alloc_zeroed(layout(size));
            block.write_bytes(7, 64);
            for next in sizes {
                block = Allocator.realloc(block, layout(size), next);
                size = next;
                assert!((0..64).all(|at| *block.add(at) == 7), "{size}");
                block.add(size - 1).write(9);
            }
            Allocator.dealloc(block, layout(size));
            for size in [100, LARGE, 5 * LARGE] {
                let block = Allocator.alloc_zeroed(layout(size));
                assert!((0..size).all(|at| *block.add(at) == 0), "{size}");
                Allocator.dealloc(block, layout(size));
            }
        }
    }

    /// The option is the one that is meant: its default is the second that mimalloc's documentation tells.
    #[test]
    fn memory_that_nothing_is_in_is_kept_for_the_time_that_was_set() {
        unsafe extern "C" {
            fn mi_option_get(option: c_int) -> c_long;
        }
        let kept_ms = || unsafe { mi_option_get(PURGE_DELAY) };
        assert_eq!(kept_ms(), 1000);
        set_up();
        assert_eq!(kept_ms(), KEPT_MS);
    }

    #[test]
    fn what_must_be_aligned_to_more_than_a_page_is() {
        let layout = Layout::from_size_align(2 * LARGE, 16 * PAGE).unwrap();
        unsafe {
            let block = Allocator.alloc(layout);
            assert_eq!(block.addr() % layout.align(), 0);
            Allocator.dealloc(block, layout);
        }
    }
}
