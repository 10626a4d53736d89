#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod kernel {
    use aya_ebpf::{macros::{classifier, map}, maps::Array, programs::TcContext};
    use fairlead_abi::Config;
    #[map]
    static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
    #[classifier]
    pub fn from_pod(_ctx: TcContext) -> i32 {
        match CONFIG.get(0) { Some(c) if c.abi_version == fairlead_abi::ABI_VERSION => 0, _ => 2 }
    }
    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! { loop {} }
}
#[cfg(not(target_arch = "bpf"))]
fn main() {}
