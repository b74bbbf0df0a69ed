//! Hints to the processor that memory will be used soon. Misses of many commands can then overlap,
//! where without it each waits for the one before; or one overlaps with what is done meanwhile.

/// Whether there is a way to ask.
pub(crate) const CAN_ASK: bool = cfg!(all(target_arch = "x86_64", not(miri)));

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

/// Asks for lines that will be written, where the processor can be asked: they are taken from the other
/// cores at once, where a read would fetch a shared copy first, and the write ask them a second time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ToWrite {
    /// The processor has the instruction.
    can: bool,
}

impl ToWrite {
    /// Asks the processor what it can, once: in a virtual machine that takes microseconds.
    pub(crate) fn detect() -> Self {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            use std::sync::atomic::{AtomicU32, Ordering};
            // PREFETCHW has a bit of its own: the first 64-bit Intel processors lack it.
            const PREFETCHW: u32 = 1 << 8;
            static FEATURES: AtomicU32 = AtomicU32::new(0);
            // Relaxed: it stands for itself, and whoever asks as well gets the same answer.
            let mut features = FEATURES.load(Ordering::Relaxed);
            if features == 0 {
                #[allow(
                    unused_unsafe,
                    reason = "safe to call in newer versions of the standard library"
                )]
                // SAFETY: every x86_64 has CPUID, and this leaf, which tells of the 64-bit mode itself.
                let leaf = unsafe { std::arch::x86_64::__cpuid(0x8000_0001) };
                features = leaf.ecx;
                FEATURES.store(features, Ordering::Relaxed);
            }
            Self { can: features & PREFETCHW != 0 }
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        Self { can: false }
    }

    /// Asks for the line that a pointer points to. The pointer need not be valid.
    #[inline(always)]
    pub(crate) fn prefetch<T: ?Sized>(self, pointer: *const T) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if self.can {
            // By hand: the intrinsic asks for a shared copy, unless the compiler is told of a processor
            // that has the instruction.
            // SAFETY: the processor has it; it writes nothing and never faults, whatever the address.
            unsafe {
                std::arch::asm!(
                    "prefetchw [{}]",
                    in(reg) pointer.cast::<u8>(),
                    options(nostack, preserves_flags, readonly)
                );
            }
        }
        // Elsewhere there is no stable way to ask.
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = pointer;
    }
}
