//! An allocator that gives large tables huge pages.
//!
//! A connection table of hundreds of MiB is hit at random; with 4 KiB pages every hit also misses the TLB. Memory of
//! 2 MiB and more therefore comes from its own mapping, aligned to 2 MiB, with the advice to back it with transparent
//! huge pages. Everything smaller goes to the system allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;

/// Size of a huge page in bytes, and the least allocation that gets its own mapping.
pub const HUGE_PAGE_LEN: usize = 2 << 20;

/// The allocator; use it as `#[global_allocator]`.
#[derive(Clone, Copy, Default, Debug)]
pub struct HugeAlloc;

/// Bytes mapped for `len`, or `None` when that overflows.
fn mapped_len(len: usize) -> Option<usize> {
    len.checked_next_multiple_of(HUGE_PAGE_LEN)
}

/// Maps zeroed memory of `len` bytes at a multiple of `align`, which is a power of two.
fn map(len: usize, align: usize) -> *mut u8 {
    let align = align.max(HUGE_PAGE_LEN);
    let Some((len, spread)) = mapped_len(len).and_then(|len| Some((len, len.checked_add(align)?))) else {
        return null_mut();
    };
    // SAFETY: a new private anonymous mapping at a place that the kernel chooses touches nothing that exists.
    let base = unsafe {
        libc::mmap(
            null_mut(),
            spread,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return null_mut();
    }
    let base = base.cast::<u8>();
    let before = base.align_offset(align);
    let behind = spread - before - len;
    let start = base.wrapping_add(before);
    // SAFETY: head and tail are parts of the mapping made above that nobody was given yet. `align_offset` of a byte
    // pointer is below `align`, so `before + len` lies within `spread`. The advice may be refused: the memory then
    // has small pages and works all the same.
    unsafe {
        if before > 0 {
            libc::munmap(base.cast(), before);
        }
        if behind > 0 {
            libc::munmap(start.add(len).cast(), behind);
        }
        libc::madvise(start.cast(), len, libc::MADV_HUGEPAGE);
    }
    start
}

// SAFETY: both halves are decided by the layout's size alone, which is the same in `alloc` and `dealloc`; each half
// keeps the contract: `System` by itself, a mapping by being of at least the size and alignment asked for.
unsafe impl GlobalAlloc for HugeAlloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= HUGE_PAGE_LEN {
            map(layout.size(), layout.align())
        } else {
            // SAFETY: the caller keeps the contract of `alloc`.
            unsafe { System.alloc(layout) }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= HUGE_PAGE_LEN {
            // Fresh anonymous memory is zero already.
            map(layout.size(), layout.align())
        } else {
            // SAFETY: the caller keeps the contract of `alloc_zeroed`.
            unsafe { System.alloc_zeroed(layout) }
        }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        if layout.size() >= HUGE_PAGE_LEN {
            // The length is the one that `map` computed for the same layout, so it cannot overflow here.
            let len = mapped_len(layout.size()).unwrap_or(layout.size());
            // SAFETY: `ptr` came from `map` with this layout.
            unsafe { libc::munmap(ptr.cast(), len) };
        } else {
            // SAFETY: the caller keeps the contract of `dealloc`, and `ptr` came from `System`.
            unsafe { System.dealloc(ptr, layout) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(len: usize, align: usize) {
        let layout = Layout::from_size_align(len, align).unwrap();
        // SAFETY: the layout has a size above zero; the memory is used within it and freed once.
        unsafe {
            let ptr = HugeAlloc.alloc_zeroed(layout);
            assert!(!ptr.is_null());
            assert_eq!(ptr as usize % align, 0);
            if len >= HUGE_PAGE_LEN {
                assert_eq!(ptr as usize % HUGE_PAGE_LEN, 0);
            }
            let bytes = std::slice::from_raw_parts_mut(ptr, len);
            assert!(bytes.iter().all(|byte| *byte == 0));
            bytes.fill(0xa5);
            HugeAlloc.dealloc(ptr, layout);
        }
    }

    #[test]
    fn memory_is_aligned_zeroed_and_writable_at_every_size() {
        for len in [1, 64, HUGE_PAGE_LEN - 1, HUGE_PAGE_LEN, HUGE_PAGE_LEN + 1, 5 * HUGE_PAGE_LEN + 123] {
            check(len, 1);
            check(len, 64);
        }
        check(HUGE_PAGE_LEN, 4 * HUGE_PAGE_LEN);
    }

    #[test]
    fn a_growing_vector_keeps_its_content_across_the_boundary() {
        let small = Layout::from_size_align(HUGE_PAGE_LEN - 8, 8).unwrap();
        // SAFETY: grows and frees with the layouts that the memory was made with, and stays within them.
        unsafe {
            let ptr = HugeAlloc.alloc(small);
            ptr.write_bytes(7, small.size());
            let grown = HugeAlloc.realloc(ptr, small, 3 * HUGE_PAGE_LEN);
            assert!(std::slice::from_raw_parts(grown, small.size()).iter().all(|byte| *byte == 7));
            HugeAlloc.dealloc(grown, Layout::from_size_align(3 * HUGE_PAGE_LEN, 8).unwrap());
        }
    }

    #[test]
    fn an_impossible_size_is_refused_not_rounded() {
        let layout = Layout::from_size_align(isize::MAX as usize, 1).unwrap();
        // SAFETY: a refused allocation returns null and needs no freeing.
        assert!(unsafe { HugeAlloc.alloc(layout) }.is_null());
    }
}
