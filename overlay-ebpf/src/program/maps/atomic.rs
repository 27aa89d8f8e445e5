//! Changes what several CPUs change at once: the atomic instructions of Linux 5.12.
//!
//! `core` has none of them for this target, whose first version had no more than an addition.

use core::arch::asm;

/// The low six bits of a number, of which the compiler knows nothing: it checks an index as it stands, where the verifier
/// sees it. (An empty piece of assembly would make two source lines of one instruction, which the kernel refuses.)
#[inline(always)]
pub fn low_bits(mut number: u64) -> u64 {
    // SAFETY: changes no more than the register.
    unsafe { asm!("{number} &= 63", number = inout(reg) number) };
    number
}

/// Adds to a number.
///
/// # Safety
///
/// The pointer is to an aligned number of a map's value.
#[inline(always)]
pub unsafe fn add(number: *mut u64, more: u64) {
    // SAFETY: the caller's word.
    unsafe {
        asm!("lock *(u64 *)({number} + 0) += {more}", number = in(reg) number, more = in(reg) more);
    }
}

/// Sets bits; gives the number as it was.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub unsafe fn fetch_or(number: *mut u64, bits: u64) -> u64 {
    let mut held = bits;
    // SAFETY: the caller's word.
    unsafe {
        asm!("{held} = atomic_fetch_or((u64 *)({number} + 0), {held})", number = in(reg) number, held = inout(reg) held);
    }
    held
}

/// Keeps no other bits than these; gives the number as it was.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub unsafe fn fetch_and(number: *mut u64, bits: u64) -> u64 {
    let mut held = bits;
    // SAFETY: the caller's word.
    unsafe {
        asm!("{held} = atomic_fetch_and((u64 *)({number} + 0), {held})", number = in(reg) number, held = inout(reg) held);
    }
    held
}

/// Puts a number in the place of another. `false`: it was another one, and stays.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub unsafe fn exchange(number: *mut u64, from: u64, to: u64) -> bool {
    let mut held = from;
    // SAFETY: the caller's word.
    unsafe {
        asm!("r0 = cmpxchg_64({number} + 0, r0, {to})", number = in(reg) number, to = in(reg) to, inout("r0") held);
    }
    held == from
}
