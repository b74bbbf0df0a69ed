//! Hints to the processor that memory will be used soon. Misses of many commands can then overlap,
//! where without it each waits for the one before; or one overlaps with what is done meanwhile.

/// Asks for the line of the cache that a pointer points to. The pointer need not be valid.
#[inline(always)]
pub(crate) fn prefetch<T: ?Sized>(pointer: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing and never faults, whatever the address; it is part of SSE,
        // which every x86_64 has.
        #[allow(unused_unsafe, reason = "safe to call in newer versions of the standard library")]
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(pointer.cast());
        }
    }
    // Elsewhere there is no stable way to ask.
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = pointer;
}

/// As [`prefetch`], for a line that will be written: it is taken from the other cores at once, where a
/// read would fetch a shared copy first, and the write ask them a second time.
#[inline(always)]
pub(crate) fn prefetch_to_write<T: ?Sized>(pointer: *const T) {
    // By hand: the intrinsic asks for a shared copy, unless the compiler is told of a processor that has
    // the instruction. On one that does not it does nothing.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!(
            "prefetchw [{}]",
            in(reg) pointer.cast::<u8>(),
            options(nostack, preserves_flags, readonly)
        );
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = pointer;
}
