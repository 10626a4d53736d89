//! The packet as a driver has it, before there is an `skb`.

use super::{CONFIG, Run, SCRATCH};
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_OUTPUT, bpf_fib_lookup, xdp_action, xdp_md,
};
use aya_ebpf::helpers::generated as helper;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use core::ptr;
use fairlead_abi::{Addr, Be16, Counter};
use fairlead_programs::early::Wire;
use fairlead_programs::parse::L3;
use fairlead_programs::{Ends, Packet, Scratch, Skb, Steps, rewrite};
use zerocopy::{FromBytes, Immutable, IntoBytes};

#[map]
static EARLY: PerCpuArray<Counter> = PerCpuArray::with_max_entries(1, 0);

const ETHER_TYPE: u32 = 12;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A run for a packet that a driver has just received.
pub type Frame = Run<*mut xdp_md>;

impl Frame {
    /// For one run of a program.
    #[inline(always)]
    pub fn new(ctx: *mut xdp_md) -> Self {
        Self { ctx }
    }

    /// This CPU's working memory.
    #[inline(always)]
    pub fn scratch(&self) -> Option<&'static mut Scratch> {
        // SAFETY: the entry is this CPU's own. Drivers receive with bottom halves disabled, and what they run is over
        // before a tc program sees the packet.
        SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
    }

    /// Sends the packet back by the interface that it came by.
    #[inline(always)]
    pub fn reflect(&self) -> u32 {
        if let Some(counter) = EARLY.get_ptr_mut(0) {
            // SAFETY: the entry is this CPU's own.
            let counter = unsafe { &mut *counter };
            counter.packets += 1;
            counter.bytes += u64::from(self.length());
        }
        xdp_action::XDP_TX
    }

    /// Mends a checksum for what has changed: RFC 1624, `~(~sum + ~from + to)`.
    #[inline(always)]
    fn fix(&self, offset: u32, change: u64, optional: bool) -> bool {
        let mut sum = 0u16;
        if !self.load(offset, &mut sum) {
            return false;
        }
        if optional && sum == 0 {
            return true;
        }
        sum = rewrite::mended(sum, change);
        if optional && sum == 0 {
            sum = 0xffff;
        }
        self.store(offset, &sum)
    }
}

impl Skb for Frame {
    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: the helper takes the context alone.
        unsafe { helper::bpf_xdp_get_buff_len(self.ctx) as u32 }
    }

    #[inline(always)]
    fn is_gso(&self) -> bool {
        false
    }

    #[inline(always)]
    fn segments(&self) -> u32 {
        1
    }

    #[inline(always)]
    fn is_for_us(&self) -> bool {
        let mut mac = [0u8; 6];
        self.load(0, &mut mac) && CONFIG.get(0).is_some_and(|config| config.uplink_mac == mac)
    }

    #[inline(always)]
    fn ether_type(&self) -> u16 {
        let mut kind = Be16::default();
        if self.load(ETHER_TYPE, &mut kind) { kind.get() } else { 0 }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.ctx).ingress_ifindex }
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        self.ifindex()
    }

    #[inline(always)]
    fn load<T: FromBytes + IntoBytes>(&self, offset: u32, into: &mut T) -> bool {
        // SAFETY: the helper writes exactly the size of T, for which any bytes are valid.
        unsafe {
            helper::bpf_xdp_load_bytes(self.ctx, offset, ptr::from_mut(into).cast(), size_of::<T>() as u32)
                == 0
        }
    }

    #[inline(always)]
    fn store<T: IntoBytes + Immutable>(&self, offset: u32, from: &T) -> bool {
        let from = ptr::from_ref(from).cast_mut().cast();
        // SAFETY: the helper reads exactly the size of T, which has no padding.
        unsafe { helper::bpf_xdp_store_bytes(self.ctx, offset, from, size_of::<T>() as u32) == 0 }
    }

    #[inline(always)]
    fn store_summed<T: IntoBytes + Immutable>(&self, offset: u32, from: &T) -> bool {
        self.store(offset, from)
    }

    #[inline(always)]
    fn fix_l3(&self, offset: u32, from: u32, to: u32) -> bool {
        self.fix(offset, rewrite::change(from, to), false)
    }

    #[inline(always)]
    fn fix_l4(&self, offset: u32, from: u32, to: u32, _: u64, _: bool, udp: bool) -> bool {
        self.fix(offset, rewrite::change(from, to), udp)
    }

    #[inline(always)]
    fn fix_l4_addr(&self, offset: u32, from: &Addr, to: &Addr, _: bool, udp: bool) -> bool {
        let change = rewrite::change(from.0[0], to.0[0])
            + rewrite::change(from.0[1], to.0[1])
            + rewrite::change(from.0[2], to.0[2])
            + rewrite::change(from.0[3], to.0[3]);
        self.fix(offset, change, udp)
    }

    #[inline(always)]
    fn resize(&self, _: u32) -> bool {
        false
    }

    #[inline(always)]
    fn accept(&self) -> bool {
        false
    }

    #[inline(always)]
    fn tunnel(&self) -> Option<(u32, Addr)> {
        None
    }

    #[inline(always)]
    fn set_tunnel(&self, _: u32, _: &Addr) -> bool {
        false
    }

    #[inline(always)]
    fn redirect(&self, _: u32) -> i32 {
        xdp_action::XDP_PASS as i32
    }

    #[inline(always)]
    fn redirect_peer(&self, _: u32) -> i32 {
        xdp_action::XDP_PASS as i32
    }

    #[inline(always)]
    fn redirect_neigh(&self, _: u32) -> i32 {
        xdp_action::XDP_PASS as i32
    }
}

/// Only few of the steps are taken here, each in one place.
impl Steps for Frame {}

impl Wire for Frame {
    #[inline(always)]
    fn next_hop(&self, packet: &Packet, to: &Ends) -> Option<[[u8; 6]; 2]> {
        const LEN: i32 = size_of::<bpf_fib_lookup>() as i32;
        // SAFETY: all zero is a valid question.
        let mut fib: bpf_fib_lookup = unsafe { core::mem::zeroed() };
        fib.l4_protocol = packet.proto;
        fib.ifindex = self.ifindex();
        fib.__bindgen_anon_1.tot_len = (packet.l4.wrapping_sub(L3).wrapping_add(packet.l4_len)) as u16;
        if packet.is_v6() {
            fib.family = AF_INET6;
            fib.__bindgen_anon_3.ipv6_src = to.src.0;
            fib.__bindgen_anon_4.ipv6_dst = to.dst.0;
        } else {
            fib.family = AF_INET;
            fib.__bindgen_anon_3.ipv4_src = to.src.v4_word();
            fib.__bindgen_anon_4.ipv4_dst = to.dst.v4_word();
        }
        let flags = BPF_FIB_LOOKUP_OUTPUT;
        // SAFETY: the helper reads and writes the question, whose size is given.
        let found = unsafe { helper::bpf_fib_lookup(self.ctx.cast(), &raw mut fib, LEN, flags) };
        let here = found == i64::from(BPF_FIB_LKUP_RET_SUCCESS) && fib.ifindex == self.ifindex();
        here.then_some([fib.dmac, fib.smac])
    }
}
