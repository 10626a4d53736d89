//! The kernel's side of `world`: maps and helpers.

pub mod splice;
pub mod xdp;

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM, BPF_F_TUNINFO_IPV6, BPF_NOEXIST,
    bpf_sock, bpf_sock_addr, bpf_tunnel_key,
};
use aya_ebpf::helpers::generated as helper;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf};
use core::ops::{Deref, DerefMut};
use core::ptr;
use fairlead_abi::*;
use fairlead_programs::socket::Sock;
use fairlead_programs::{Maps, Scratch, Skb};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Allocates entries one by one, so that an empty table costs little: `BPF_F_NO_PREALLOC`.
const SPARSE: u32 = 1;

#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
#[map]
static NETNS: HashMap<u64, NetnsEntry> = HashMap::with_max_entries(4096, SPARSE);
#[map]
static ENDPOINTS: HashMap<Addr, Endpoint> = HashMap::with_max_entries(4096, SPARSE);
#[map]
static ROUTES: LpmTrie<Addr, Route> = LpmTrie::with_max_entries(16384, 0);
#[map]
static NODES: HashMap<Addr, Node> = HashMap::with_max_entries(16384, SPARSE);
#[map]
static SERVICES: HashMap<ServiceKey, Service> = HashMap::with_max_entries(65536, SPARSE);
#[map]
static BACKENDS: HashMap<BackendKey, Backend> = HashMap::with_max_entries(262_144, SPARSE);
#[map]
static TABLES: HashMap<u32, Table> = HashMap::with_max_entries(4096, SPARSE);
#[map]
static RANGES: LpmTrie<RangeKey, u32> = LpmTrie::with_max_entries(65536, 0);
#[map]
static LOADS: LruHashMap<LoadKey, u32> = LruHashMap::with_max_entries(65536, 0);
#[map]
static DIRECT: LpmTrie<Addr, u32> = LpmTrie::with_max_entries(4096, 0);
#[map]
static ANNOUNCED: HashMap<Addr, u32> = HashMap::with_max_entries(4096, SPARSE);
#[map]
static RATES: HashMap<RateKey, Rate> = HashMap::with_max_entries(4096, SPARSE);
#[map]
static CURSORS: Array<u32> = Array::with_max_entries(Service::CURSORS, 0);
#[map]
static AFFINITY: LruHashMap<AffinityKey, AffinityValue> = LruHashMap::with_max_entries(16384, 0);
#[map]
static SOCKETS: LruHashMap<SocketKey, SocketValue> = LruHashMap::with_max_entries(65536, 0);
#[map]
static IDENTITIES: LpmTrie<Addr, u32> = LpmTrie::with_max_entries(262_144, 0);
#[map]
static RULES: LpmTrie<RuleKey, Rule> = LpmTrie::with_max_entries(262_144, 0);
#[map]
static CONNTRACK: LruHashMap<CtKey, CtEntry> = LruHashMap::with_max_entries(131_072, 0);
#[map]
static NAT: LruHashMap<NatKey, NatValue> = LruHashMap::with_max_entries(65536, 0);
#[map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentValue> = LruHashMap::with_max_entries(8192, 0);
#[map]
static DROPS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(Reason::ALL.len() as u32, 0);
#[map]
static RULE_HITS: PerCpuHashMap<u32, RuleHits> = PerCpuHashMap::with_max_entries(16384, SPARSE);
#[map]
static FLOWS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);
#[map]
static METRICS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Metric::ALL.len() as u32, 0);
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// A value in a map.
pub struct Slot<V>(*mut V);

impl<V> Deref for Slot<V> {
    type Target = V;

    #[inline(always)]
    fn deref(&self) -> &V {
        // SAFETY: the kernel returned the pointer from a look-up; entries of these maps are valid for any
        // bytes and stay mapped until the program ends (RCU).
        unsafe { &*self.0 }
    }
}

impl<V> DerefMut for Slot<V> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut V {
        // SAFETY: as above; other CPUs may write the same entry, every field of which stands alone.
        unsafe { &mut *self.0 }
    }
}

/// One run of a program, with its context.
pub struct Run<C> {
    ctx: C,
}

const HOST_PREFIX: u32 = 128;
const RANGE_PREFIX: u32 = 32 + HOST_PREFIX;
const PACKET_HOST: u32 = 0;

impl<C> Maps for Run<C> {
    type Flow<'a>
        = Slot<CtEntry>
    where
        C: 'a;
    type Nat<'a>
        = Slot<NatValue>
    where
        C: 'a;
    type Bucket<'a>
        = Slot<Rate>
    where
        C: 'a;

    #[inline(always)]
    fn nanoseconds(&self) -> u64 {
        // SAFETY: the helper has no precondition.
        unsafe { helper::bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        // Seconds need no look at the hardware's clock (Linux 5.11).
        // SAFETY: the helper has no precondition.
        (unsafe { helper::bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper has no precondition.
        unsafe { helper::bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn config(&self) -> Option<&Config> {
        CONFIG.get(0)
    }

    #[inline(always)]
    fn netns(&self, cookie: u64) -> Option<&NetnsEntry> {
        // SAFETY: values are valid for any bytes; entries are freed after a grace period.
        unsafe { NETNS.get(&cookie) }
    }

    #[inline(always)]
    fn endpoint(&self, addr: &Addr) -> Option<&Endpoint> {
        // SAFETY: as above.
        unsafe { ENDPOINTS.get(addr) }
    }

    #[inline(always)]
    fn route(&self, addr: &Addr) -> Option<&Route> {
        ROUTES.get(Key::new(HOST_PREFIX, *addr))
    }

    #[inline(always)]
    fn node(&self, addr: &Addr) -> Option<&Node> {
        // SAFETY: as above.
        unsafe { NODES.get(addr) }
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        // SAFETY: as above.
        unsafe { SERVICES.get(key) }
    }

    #[inline(always)]
    fn backend(&self, key: &BackendKey) -> Option<&Backend> {
        // SAFETY: as above.
        unsafe { BACKENDS.get(key) }
    }

    #[inline(always)]
    fn slot(&self, table: u32, index: u32) -> Option<u32> {
        // The compiler knows that the index is a remainder and leaves the comparison out; the verifier does not.
        let index = core::hint::black_box(index) as usize;
        // SAFETY: as above.
        unsafe { TABLES.get(&table) }?.slots.get(index).map(|slot| u32::from(*slot))
    }

    #[inline(always)]
    fn is_in_range(&self, key: &RangeKey) -> bool {
        RANGES.get(Key::new(RANGE_PREFIX, *key)).is_some()
    }

    #[inline(always)]
    fn load_of(&self, key: &LoadKey) -> u32 {
        // SAFETY: as above; the value is copied at once.
        unsafe { LOADS.get(key) }.copied().unwrap_or(0)
    }

    #[inline(always)]
    fn count_load(&self, key: &LoadKey, up: bool) {
        let Some(load) = LOADS.get_ptr_mut(key) else {
            if up {
                let _ = LOADS.insert(key, 1u32, 0);
            }
            return;
        };
        // SAFETY: the pointer is to an entry of the map. Two CPUs may count as one, which userspace mends.
        unsafe {
            let number = ptr::read_volatile(load);
            let next = if up { number.saturating_add(1) } else { number.saturating_sub(1) };
            ptr::write_volatile(load, next);
        }
    }

    #[inline(always)]
    fn is_direct(&self, addr: &Addr) -> bool {
        DIRECT.get(Key::new(HOST_PREFIX, *addr)).is_some()
    }

    #[inline(always)]
    fn is_announced(&self, addr: &Addr) -> bool {
        // SAFETY: as above.
        unsafe { ANNOUNCED.get(addr) }.is_some()
    }

    #[inline(always)]
    fn rate(&self, key: &RateKey) -> Option<Slot<Rate>> {
        RATES.get_ptr_mut(key).map(Slot)
    }

    #[inline(always)]
    fn cursor(&self, index: u32) -> u32 {
        let Some(cursor) = CURSORS.get_ptr_mut(index) else { return 0 };
        // SAFETY: the pointer is to an entry of the array. Two CPUs may read the same number: they then
        // choose the same backend once, which is all that can happen.
        unsafe {
            let number = ptr::read_volatile(cursor);
            ptr::write_volatile(cursor, number.wrapping_add(1));
            number
        }
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue> {
        // SAFETY: as above; the value is copied at once.
        unsafe { AFFINITY.get(key) }.copied()
    }

    #[inline(always)]
    fn set_affinity(&self, key: &AffinityKey, value: &AffinityValue) {
        let _ = AFFINITY.insert(key, value, 0);
    }

    #[inline(always)]
    fn socket(&self, key: &SocketKey) -> Option<SocketValue> {
        // SAFETY: as above; the value is copied at once.
        unsafe { SOCKETS.get(key) }.copied()
    }

    #[inline(always)]
    fn set_socket(&self, key: &SocketKey, value: &SocketValue) -> bool {
        SOCKETS.insert(key, value, 0).is_ok()
    }

    #[inline(always)]
    fn remove_socket(&self, key: &SocketKey) {
        let _ = SOCKETS.remove(key);
    }

    #[inline(always)]
    fn identity(&self, addr: &Addr) -> u32 {
        IDENTITIES.get(Key::new(HOST_PREFIX, *addr)).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn rule(&self, key: RuleKey) -> Option<Rule> {
        RULES.get(Key::new(RuleKey::FULL, key)).copied()
    }

    #[inline(always)]
    fn flow(&self, key: &CtKey) -> Option<Slot<CtEntry>> {
        CONNTRACK.get_ptr_mut(key).map(Slot)
    }

    #[inline(always)]
    fn set_flow(&self, key: &CtKey, value: &CtEntry) -> bool {
        CONNTRACK.insert(key, value, 0).is_ok()
    }

    #[inline(always)]
    fn claim_flow(&self, key: &CtKey, value: &CtEntry) -> bool {
        CONNTRACK.insert(key, value, u64::from(BPF_NOEXIST)).is_ok()
    }

    #[inline(always)]
    fn nat(&self, key: &NatKey) -> Option<Slot<NatValue>> {
        NAT.get_ptr_mut(key).map(Slot)
    }

    #[inline(always)]
    fn set_nat(&self, key: &NatKey, value: &NatValue) -> bool {
        NAT.insert(key, value, 0).is_ok()
    }

    #[inline(always)]
    fn claim_nat(&self, key: &NatKey, value: &NatValue) -> bool {
        NAT.insert(key, value, u64::from(BPF_NOEXIST)).is_ok()
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        // SAFETY: as above; the value is copied at once.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn set_fragment(&self, key: &FragmentKey, value: &FragmentValue) {
        let _ = FRAGMENTS.insert(key, value, 0);
    }

    #[inline(always)]
    fn count_drop(&self, reason: Reason, bytes: u32) {
        if let Some(counter) = DROPS.get_ptr_mut(reason as u32) {
            // SAFETY: the entry is this CPU's own.
            let counter = unsafe { &mut *counter };
            counter.packets += 1;
            counter.bytes += u64::from(bytes);
        }
    }

    #[inline(always)]
    fn count_rule(&self, rule: u32, allowed: bool, bytes: u32) {
        if let Some(hits) = RULE_HITS.get_ptr_mut(&rule) {
            // SAFETY: the entry is this CPU's own.
            let hits = unsafe { &mut *hits };
            if allowed {
                hits.allowed += 1;
            } else {
                hits.dropped += 1;
            }
            hits.bytes += u64::from(bytes);
        }
    }

    #[inline(always)]
    fn count(&self, metric: Metric) {
        if let Some(counter) = METRICS.get_ptr_mut(metric as u32) {
            // SAFETY: the entry is this CPU's own.
            unsafe { *counter += 1 };
        }
    }

    #[inline(always)]
    fn report(&self, event: &FlowEvent) {
        if FLOWS.output::<FlowEvent>(event, 0).is_err() {
            self.count(Metric::FlowLost);
        }
    }
}

/// A run for a packet at a tc hook.
pub type Kernel = Run<*mut __sk_buff>;

impl Kernel {
    /// For one run of a program.
    #[inline(always)]
    pub fn new(skb: *mut __sk_buff) -> Self {
        Self { ctx: skb }
    }

    #[inline(always)]
    fn store_with<T: IntoBytes + Immutable>(&self, offset: u32, from: &T, flags: u64) -> bool {
        // SAFETY: the helper reads exactly the size of T, which has no padding.
        unsafe {
            helper::bpf_skb_store_bytes(
                self.ctx,
                offset,
                ptr::from_ref(from).cast(),
                size_of::<T>() as u32,
                flags,
            ) == 0
        }
    }

    /// What the kernel's helpers and functions are given.
    #[inline(always)]
    pub fn context(&self) -> *mut __sk_buff {
        self.ctx
    }

    /// This CPU's working memory.
    #[inline(always)]
    pub fn scratch(&self) -> Option<&'static mut Scratch> {
        // SAFETY: the entry is this CPU's own, tc programs run with bottom halves disabled, and each asks once.
        SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
    }
}

impl Skb for Kernel {
    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.ctx).len }
    }

    #[inline(always)]
    fn is_gso(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.ctx).gso_size != 0 }
    }

    #[inline(always)]
    fn segments(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.ctx).gso_segs }
    }

    #[inline(always)]
    fn is_for_us(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.ctx).pkt_type == PACKET_HOST }
    }

    #[inline(always)]
    fn ether_type(&self) -> u16 {
        // SAFETY: as above.
        u16::from_be(unsafe { (*self.ctx).protocol } as u16)
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.ctx).ifindex }
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.ctx).ingress_ifindex }
    }

    #[inline(always)]
    fn load<T: FromBytes + IntoBytes>(&self, offset: u32, into: &mut T) -> bool {
        // SAFETY: the helper writes exactly the size of T, for which any bytes are valid.
        unsafe {
            helper::bpf_skb_load_bytes(
                self.ctx.cast(),
                offset,
                ptr::from_mut(into).cast(),
                size_of::<T>() as u32,
            ) == 0
        }
    }

    #[inline(always)]
    fn store<T: IntoBytes + Immutable>(&self, offset: u32, from: &T) -> bool {
        self.store_with(offset, from, 0)
    }

    #[inline(always)]
    fn store_summed<T: IntoBytes + Immutable>(&self, offset: u32, from: &T) -> bool {
        self.store_with(offset, from, u64::from(BPF_F_RECOMPUTE_CSUM))
    }

    #[inline(always)]
    fn fix_l3(&self, offset: u32, from: u32, to: u32) -> bool {
        // SAFETY: the helper checks the offset.
        unsafe { helper::bpf_l3_csum_replace(self.ctx, offset, from.into(), to.into(), 4) == 0 }
    }

    #[inline(always)]
    fn fix_l4(&self, offset: u32, from: u32, to: u32, size: u64, pseudo: bool, udp: bool) -> bool {
        let mut flags = size;
        if pseudo {
            flags |= u64::from(BPF_F_PSEUDO_HDR);
        }
        if udp {
            flags |= u64::from(BPF_F_MARK_MANGLED_0);
        }
        // SAFETY: the helper checks the offset.
        unsafe { helper::bpf_l4_csum_replace(self.ctx, offset, from.into(), to.into(), flags) == 0 }
    }

    #[inline(always)]
    fn fix_l4_addr(&self, offset: u32, from: &Addr, to: &Addr, pseudo: bool, udp: bool) -> bool {
        const LEN: u32 = size_of::<Addr>() as u32;
        let words = |addr: &Addr| ptr::from_ref(addr).cast::<u32>().cast_mut();
        let mut flags = 0;
        if pseudo {
            flags |= u64::from(BPF_F_PSEUDO_HDR);
        }
        if udp {
            flags |= u64::from(BPF_F_MARK_MANGLED_0);
        }
        // SAFETY: the first helper reads the words of both addresses, the second checks the offset. Size 0 in the flags
        // says that a difference is given.
        unsafe {
            let difference = helper::bpf_csum_diff(words(from), LEN, words(to), LEN, 0);
            difference >= 0 && helper::bpf_l4_csum_replace(self.ctx, offset, 0, difference as u64, flags) == 0
        }
    }

    #[inline(always)]
    fn resize(&self, len: u32) -> bool {
        // SAFETY: the helper checks the length; no pointer into the packet is held.
        unsafe { helper::bpf_skb_change_tail(self.ctx, len, 0) == 0 }
    }

    #[inline(always)]
    fn accept(&self) -> bool {
        // SAFETY: the helper checks the type.
        unsafe { helper::bpf_skb_change_type(self.ctx, PACKET_HOST) == 0 }
    }

    #[inline(always)]
    fn tunnel(&self) -> Option<(u32, Addr)> {
        // SAFETY: all zero is a valid key.
        let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
        const LEN: u32 = size_of::<bpf_tunnel_key>() as u32;
        // SAFETY: the helper writes at most the size given. It fails for tunnels of the other family.
        let v4 = unsafe { helper::bpf_skb_get_tunnel_key(self.ctx, &mut key, LEN, 0) == 0 };
        if v4 {
            // SAFETY: for IPv4 tunnels the helper fills this member, in machine order.
            let from = unsafe { key.__bindgen_anon_1.remote_ipv4 }.to_be();
            return Some((key.tunnel_id, Addr::from_v4_word(from)));
        }
        let flags = u64::from(BPF_F_TUNINFO_IPV6);
        // SAFETY: as above.
        let v6 = unsafe { helper::bpf_skb_get_tunnel_key(self.ctx, &mut key, LEN, flags) == 0 };
        // SAFETY: for IPv6 tunnels the helper fills this member, in network order.
        v6.then(|| (key.tunnel_id, Addr(unsafe { key.__bindgen_anon_1.remote_ipv6 })))
    }

    #[inline(always)]
    fn set_tunnel(&self, vni: u32, node: &Addr) -> bool {
        const TTL: u8 = 64;
        // SAFETY: all zero is a valid key.
        let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
        key.tunnel_id = vni;
        key.tunnel_ttl = TTL;
        let flags = if node.is_v4() {
            key.__bindgen_anon_1.remote_ipv4 = u32::from_be(node.v4_word());
            0
        } else {
            key.__bindgen_anon_1.remote_ipv6 = node.0;
            u64::from(BPF_F_TUNINFO_IPV6)
        };
        // SAFETY: the helper reads at most the size given.
        unsafe {
            helper::bpf_skb_set_tunnel_key(self.ctx, &mut key, size_of::<bpf_tunnel_key>() as u32, flags) == 0
        }
    }

    #[inline(always)]
    fn redirect(&self, ifindex: u32) -> i32 {
        // SAFETY: the helper has no precondition.
        unsafe { helper::bpf_redirect(ifindex, 0) as i32 }
    }

    #[inline(always)]
    fn redirect_peer(&self, ifindex: u32) -> i32 {
        // SAFETY: the helper has no precondition.
        unsafe { helper::bpf_redirect_peer(ifindex, 0) as i32 }
    }

    #[inline(always)]
    fn redirect_neigh(&self, ifindex: u32) -> i32 {
        // SAFETY: without parameters the kernel looks the next hop up.
        unsafe { helper::bpf_redirect_neigh(ifindex, ptr::null_mut(), 0, 0) as i32 }
    }
}

/// A run for a socket that is being closed.
pub type Closing = Run<*mut bpf_sock>;

impl Closing {
    /// For one run of a program.
    #[inline(always)]
    pub fn new(ctx: *mut bpf_sock) -> Self {
        Self { ctx }
    }

    /// The socket's number.
    #[inline(always)]
    pub fn cookie(&self) -> u64 {
        // SAFETY: the context is valid while the program runs.
        unsafe { helper::bpf_get_socket_cookie(self.ctx.cast()) }
    }

    /// IP protocol number.
    #[inline(always)]
    pub fn proto(&self) -> u8 {
        // SAFETY: as above.
        unsafe { (*self.ctx).protocol as u8 }
    }

    /// Where it is connected to; IPv4 in mapped form.
    #[inline(always)]
    pub fn peer(&self) -> (Addr, Be16) {
        const AF_INET: u32 = 2;
        // SAFETY: as above. The verifier wants each word of the context read by itself, and not at an address that
        // depends on the family.
        unsafe {
            let port = Be16(ptr::read_volatile(&raw const (*self.ctx).dst_port));
            let v4 = ptr::read_volatile(&raw const (*self.ctx).dst_ip4);
            let words = (&raw const (*self.ctx).dst_ip6).cast::<u32>();
            let v6 = Addr([
                ptr::read_volatile(words),
                ptr::read_volatile(words.add(1)),
                ptr::read_volatile(words.add(2)),
                ptr::read_volatile(words.add(3)),
            ]);
            let family = ptr::read_volatile(&raw const (*self.ctx).family);
            (if family == AF_INET { Addr::from_v4_word(v4) } else { v6 }, port)
        }
    }
}

/// A `cgroup_sock_addr` context of address family `FAMILY` (4 or 6).
pub struct SockAddr<const FAMILY: u8>(*mut bpf_sock_addr);

/// A run for a socket.
pub type Socket<const FAMILY: u8> = Run<SockAddr<FAMILY>>;

impl<const FAMILY: u8> Socket<FAMILY> {
    /// For one run of a program.
    #[inline(always)]
    pub fn new(ctx: *mut bpf_sock_addr) -> Self {
        Self { ctx: SockAddr(ctx) }
    }
}

impl<const FAMILY: u8> Sock for Socket<FAMILY> {
    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: the context is valid while the program runs.
        unsafe { helper::bpf_get_socket_cookie(self.ctx.0.cast()) }
    }

    #[inline(always)]
    fn netns(&self) -> u64 {
        // SAFETY: as above.
        unsafe { helper::bpf_get_netns_cookie(self.ctx.0.cast()) }
    }

    #[inline(always)]
    fn proto(&self) -> u8 {
        // SAFETY: as above.
        unsafe { (*self.ctx.0).protocol as u8 }
    }

    #[inline(always)]
    fn peer(&self) -> (Addr, Be16) {
        // SAFETY: as above. The verifier wants each word of the context read by itself.
        unsafe {
            let port = Be16(ptr::read_volatile(&raw const (*self.ctx.0).user_port) as u16);
            let addr = if FAMILY == 4 {
                Addr::from_v4_word(ptr::read_volatile(&raw const (*self.ctx.0).user_ip4))
            } else {
                let words = (&raw const (*self.ctx.0).user_ip6).cast::<u32>();
                Addr([
                    ptr::read_volatile(words),
                    ptr::read_volatile(words.add(1)),
                    ptr::read_volatile(words.add(2)),
                    ptr::read_volatile(words.add(3)),
                ])
            };
            (addr, port)
        }
    }

    #[inline(always)]
    fn set_peer(&self, addr: &Addr, port: Be16) {
        // SAFETY: as above.
        unsafe {
            if FAMILY == 4 {
                ptr::write_volatile(&raw mut (*self.ctx.0).user_ip4, addr.v4_word());
            } else {
                let words = (&raw mut (*self.ctx.0).user_ip6).cast::<u32>();
                ptr::write_volatile(words, addr.0[0]);
                ptr::write_volatile(words.add(1), addr.0[1]);
                ptr::write_volatile(words.add(2), addr.0[2]);
                ptr::write_volatile(words.add(3), addr.0[3]);
            }
            ptr::write_volatile(&raw mut (*self.ctx.0).user_port, u32::from(port.0));
        }
    }

    #[inline(always)]
    fn refuse(&self) {
        const ECONNREFUSED: i32 = 111;
        // SAFETY: the helper has no precondition.
        unsafe { helper::bpf_set_retval(-ECONNREFUSED) };
    }
}
