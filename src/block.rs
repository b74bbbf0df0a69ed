//! Memory for short-lived objects that one thread makes and another may end: each thread keeps what
//! was freed on it for what it makes next, so that nothing is allocated once warm.
//!
//! A block starts on a line of the cache of its own, and is as many lines long as its type needs; so
//! two objects that different cores work on never share a line, and a small one is all on one.
//! Blocks of the same length are the same, whatever was in them.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ptr::{NonNull, null_mut};

/// The length of a line of the cache.
const LINE: usize = 64;

/// Blocks of up to this many lines are kept; longer ones go back to the allocator at once.
const MOST_LINES: usize = 8;

/// How many blocks of one length a thread keeps.
const MOST_BLOCKS: u32 = 1024;

/// Where a block goes that is kept.
struct Free {
    next: *mut Free,
}

/// The free blocks of one length.
struct List {
    head: Cell<*mut Free>,
    count: Cell<u32>,
}

struct Lists([List; MOST_LINES]);

thread_local! {
    static FREE: Lists = const {
        Lists([const { List { head: Cell::new(null_mut()), count: Cell::new(0) } }; MOST_LINES])
    };
}

const fn lines<T>() -> usize {
    size_of::<T>().div_ceil(LINE)
}

const fn is_kept<T>() -> bool {
    // loom counts on every model starting from nothing.
    align_of::<T>() <= LINE
        && 0 < lines::<T>()
        && lines::<T>() <= MOST_LINES
        && !cfg!(shardpool_loom)
}

const fn layout<T>() -> Layout {
    if !is_kept::<T>() {
        return Layout::new::<T>();
    }
    match Layout::from_size_align(lines::<T>() * LINE, LINE) {
        Ok(layout) => layout,
        Err(_) => panic!("a few lines of the cache are a valid layout"),
    }
}

/// Memory for a `T`, to be written, and then to be ended by [`end`].
#[inline]
pub(crate) fn begin<T>() -> NonNull<T> {
    const { assert!(size_of::<T>() != 0) }
    let kept = if is_kept::<T>() { take(lines::<T>() - 1) } else { None };
    let block = kept.unwrap_or_else(|| {
        let layout = layout::<T>();
        // SAFETY: the type has a size, and so has the layout.
        NonNull::new(unsafe { alloc(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
    });
    block.cast()
}

/// Drops the value, and keeps or frees its memory.
///
/// # Safety
///
/// The pointer came from `begin::<T>`, was written, and nobody uses it any more.
#[inline]
pub(crate) unsafe fn end<T>(place: NonNull<T>) {
    // SAFETY: as promised by the caller.
    unsafe { place.drop_in_place() };
    if !is_kept::<T>() || !put(lines::<T>() - 1, place.cast()) {
        // SAFETY: `begin` allocated it with this layout, or one as long: see `is_kept`.
        unsafe { dealloc(place.as_ptr().cast(), layout::<T>()) };
    }
}

#[inline]
fn take(list: usize) -> Option<NonNull<u8>> {
    // A thread that ends has no list any more.
    FREE.try_with(|lists| {
        let list = &lists.0[list];
        let block = NonNull::new(list.head.get())?;
        // SAFETY: what is on a list is a free block, with the link in it.
        list.head.set(unsafe { block.read() }.next);
        list.count.set(list.count.get() - 1);
        Some(block.cast())
    })
    .ok()
    .flatten()
}

/// False if the block is not kept.
#[inline]
fn put(list: usize, block: NonNull<u8>) -> bool {
    FREE.try_with(|lists| {
        let list = &lists.0[list];
        if list.count.get() == MOST_BLOCKS {
            return false;
        }
        let block = block.cast::<Free>();
        // SAFETY: the block is free, and a line long at least.
        unsafe { block.write(Free { next: list.head.get() }) };
        list.head.set(block.as_ptr());
        list.count.set(list.count.get() + 1);
        true
    })
    .unwrap_or(false)
}

impl Drop for Lists {
    fn drop(&mut self) {
        for (i, list) in self.0.iter().enumerate() {
            let mut head = list.head.replace(null_mut());
            while let Some(block) = NonNull::new(head) {
                // SAFETY: what is on a list is a free block, with the link in it, and was allocated with
                // this layout: some lines of the cache.
                unsafe {
                    head = block.read().next;
                    let layout = Layout::from_size_align_unchecked((i + 1) * LINE, LINE);
                    dealloc(block.as_ptr().cast(), layout);
                }
            }
        }
    }
}

#[cfg(all(test, not(shardpool_loom)))]
mod tests {
    use super::*;

    fn begin<T>(value: T) -> NonNull<T> {
        let place = super::begin::<T>();
        // SAFETY: it is memory for a `T`.
        unsafe { place.write(value) };
        place
    }

    #[test]
    fn a_block_is_used_again_by_another_type_of_the_same_length() {
        let first = begin([1u64; 9]);
        // SAFETY: used no more.
        unsafe { end(first) };
        let second = begin(([2u8; 100], 3u32));
        assert_eq!(first.cast::<u8>(), second.cast::<u8>());
        assert_eq!(second.as_ptr() as usize % LINE, 0);
        // SAFETY: used no more.
        unsafe { end(second) };
    }

    #[test]
    fn a_value_is_dropped_once_whatever_its_length_and_alignment() {
        #[repr(align(256))]
        struct Wide(#[expect(dead_code, reason = "held, to be dropped")] std::rc::Rc<()>);
        let count = std::rc::Rc::new(());
        let (wide, long) = (begin(Wide(count.clone())), begin((count.clone(), [0u8; 4096])));
        assert_eq!((wide.as_ptr() as usize % 256, std::rc::Rc::strong_count(&count)), (0, 3));
        // SAFETY: used no more.
        unsafe {
            end(wide);
            end(long);
        }
        assert_eq!(std::rc::Rc::strong_count(&count), 1);
    }

    #[test]
    fn a_thread_keeps_so_many_blocks_and_frees_them_at_its_end() {
        std::thread::spawn(|| {
            let blocks: Vec<_> = (0..MOST_BLOCKS + 9).map(begin).collect();
            for block in blocks {
                // SAFETY: used no more.
                unsafe { end(block) };
            }
            assert_eq!(FREE.with(|lists| lists.0[0].count.get()), MOST_BLOCKS);
        })
        .join()
        .unwrap();
    }
}
