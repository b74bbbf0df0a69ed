//! A hint to the processor that memory will be used soon. Misses of many commands can then overlap,
//! where without it each waits for the one before.

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
