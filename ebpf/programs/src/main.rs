//! Maps and entry points. Everything that decides is in the library.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod kernel;

#[cfg(target_arch = "bpf")]
mod hooks;

#[cfg(target_arch = "bpf")]
mod global;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: no path of the programs panics; the verifier refuses an object in which this is reachable,
    // because the loop below would not end.
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
