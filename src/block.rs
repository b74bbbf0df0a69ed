//! Memory for short-lived objects that one thread makes and another may end: each thread keeps what
//! was freed on it for what it makes next, so that nothing is allocated once warm.
//!
//! A block starts on a line of the cache of its own, and is as many lines long as its type needs; so
//! two objects that different cores work on never share a line, and a small one is all on one.
//! Blocks of the same length are the same, whatever was in them.
//!
//! Where some threads make and others end, as with callers outside of the runtime, blocks go round
//! through a depot for each length, which all threads share, a batch at a time. (The scheme is that of
//! the magazines in Bonwick and Adams, "Magazines and Vmem", USENIX 2001.)
//!
//! # Who may touch what, and when
//!
//! A thread's `Lists` are its own. A batch is on one of them or in a [`Depot`], which hands it over
//! with the links in it.

use crate::depot::Depot;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ptr::{NonNull, null_mut};

/// The length of a line of the cache.
const LINE: usize = 64;

/// Blocks of up to this many lines are kept; longer ones go back to the allocator at once.
const MOST_LINES: usize = 8;

/// How many blocks go to the depot at a time. A thread keeps up to twice as many of each length.
const BATCH: u32 = 32;

/// How many batches of one length a depot holds.
const SLOTS: usize = 64;

/// Where a block goes that is kept.
struct Free {
    next: *mut Free,
}

/// The free blocks of one length.
struct List {
    head: Cell<*mut Free>,
    count: Cell<u32>,
    /// A whole batch, or null.
    batch: Cell<*mut Free>,
}

impl List {
    const fn new() -> Self {
        Self { head: Cell::new(null_mut()), count: Cell::new(0), batch: Cell::new(null_mut()) }
    }
}

struct Lists([List; MOST_LINES]);

thread_local! {
    static FREE: Lists = const { Lists([const { List::new() }; MOST_LINES]) };
}

/// Where threads leave batches of one length for each other.
#[cfg(not(shardpool_loom))]
fn depot(length: usize) -> &'static Depot<Free, SLOTS> {
    static DEPOT: [Depot<Free, SLOTS>; MOST_LINES] = [const { Depot::new() }; MOST_LINES];
    &DEPOT[length]
}

/// loom's atomics can't be in a static.
#[cfg(shardpool_loom)]
fn depot(_: usize) -> &'static Depot<Free, SLOTS> {
    unreachable!("nothing is kept in a model")
}

const fn lines<T>() -> usize {
    size_of::<T>().div_ceil(LINE)
}

const fn is_kept<T>() -> bool {
    // loom counts on every model starting from nothing.
    align_of::<T>() <= LINE && lines::<T>() <= MOST_LINES && !cfg!(shardpool_loom)
}

const fn layout<T>() -> Layout {
    if is_kept::<T>() { layout_of(lines::<T>()) } else { Layout::new::<T>() }
}

const fn layout_of(lines: usize) -> Layout {
    match Layout::from_size_align(lines * LINE, LINE) {
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
    FREE.try_with(|lists| lists.0[list].take(list)).ok().flatten()
}

/// False if the block is not kept.
#[inline]
fn put(list: usize, block: NonNull<u8>) -> bool {
    FREE.try_with(|lists| lists.0[list].put(list, block)).unwrap_or(false)
}

impl List {
    #[inline]
    fn take(&self, length: usize) -> Option<NonNull<u8>> {
        let block = match NonNull::new(self.head.get()) {
            Some(block) => block,
            None => self.refill(length)?,
        };
        // SAFETY: what is on a list is a free block, with the link in it.
        self.head.set(unsafe { block.read() }.next);
        self.count.set(self.count.get() - 1);
        Some(block.cast())
    }

    #[inline]
    fn put(&self, length: usize, block: NonNull<u8>) -> bool {
        if self.count.get() == BATCH && !self.make_room(length) {
            return false;
        }
        let block = block.cast::<Free>();
        // SAFETY: the block is free, and a line long at least.
        unsafe { block.write(Free { next: self.head.get() }) };
        self.head.set(block.as_ptr());
        self.count.set(self.count.get() + 1);
        true
    }

    /// The list is empty: makes a batch its own.
    #[cold]
    fn refill(&self, length: usize) -> Option<NonNull<Free>> {
        let own = NonNull::new(self.batch.replace(null_mut()));
        let first = own.or_else(|| depot(length).take())?;
        self.head.set(first.as_ptr());
        self.count.set(BATCH);
        Some(first)
    }

    /// The list is a batch: puts it aside. False if there is no place for it.
    #[cold]
    fn make_room(&self, length: usize) -> bool {
        let is_placed = match NonNull::new(self.batch.get()) {
            Some(batch) => depot(length).put(batch),
            None => true,
        };
        if is_placed {
            self.batch.set(self.head.replace(null_mut()));
            self.count.set(0);
        }
        is_placed
    }
}

impl Drop for Lists {
    fn drop(&mut self) {
        for (lines, list) in (1..).zip(&self.0) {
            for chain in [&list.head, &list.batch] {
                let mut head = chain.replace(null_mut());
                while let Some(block) = NonNull::new(head) {
                    // SAFETY: what is on a list is a free block, with the link in it, and was allocated
                    // with this layout: some lines of the cache.
                    unsafe {
                        head = block.read().next;
                        dealloc(block.as_ptr().cast(), layout_of(lines));
                    }
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
    fn what_one_thread_ends_another_makes_anew() {
        /// Of a length that no other test uses: the depot is everybody's.
        type Long = [u64; 8 * MOST_LINES];
        let count = 3 * BATCH as usize;
        let addresses = std::thread::spawn(move || {
            let blocks: Vec<_> = (0..count).map(|_| begin::<Long>([0; _])).collect();
            for &block in &blocks {
                // SAFETY: used no more.
                unsafe { end(block) };
            }
            // Two batches stay with the thread, and end with it.
            blocks[..BATCH as usize].iter().map(|block| block.as_ptr() as usize).collect::<Vec<_>>()
        })
        .join()
        .unwrap();
        let blocks: Vec<_> = addresses.iter().map(|_| begin::<Long>([0; _])).collect();
        let mut again: Vec<_> = blocks.iter().map(|block| block.as_ptr() as usize).collect();
        for block in blocks {
            // SAFETY: used no more.
            unsafe { end(block) };
        }
        again.reverse();
        assert_eq!(addresses, again);
    }

    /// How many blocks are on a list.
    fn length(list: &List) -> u32 {
        let (mut count, mut next) = (0, list.head.get());
        while let Some(block) = NonNull::new(next) {
            // SAFETY: what is on a list is a free block, with the link in it.
            next = unsafe { block.read() }.next;
            count += 1;
        }
        count
    }

    #[test]
    fn a_list_counts_its_blocks_and_keeps_all_that_there_is_room_for() {
        // As above: no other test uses it.
        const LINES: usize = MOST_LINES - 1;
        let lists = Lists([const { List::new() }; MOST_LINES]);
        let list = &lists.0[LINES - 1];
        let put = || {
            // SAFETY: a few lines are not nothing.
            let block = NonNull::new(unsafe { alloc(layout_of(LINES)) }).unwrap();
            assert!(list.put(LINES - 1, block));
        };
        for _ in 0..3 * BATCH {
            put();
            put();
            let block = list.take(LINES - 1).unwrap();
            // SAFETY: it was allocated so, and is on no list any more.
            unsafe { dealloc(block.as_ptr(), layout_of(LINES)) };
            assert_eq!(list.count.get(), length(list));
        }
        assert!(list.count.get() <= BATCH && !list.batch.get().is_null());
    }
}
