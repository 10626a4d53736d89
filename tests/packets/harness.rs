//! A node's maps and programs in the kernel, attached to nothing.

use crate::packet::{v4, v6};
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray, PerCpuHashMap};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use fairlead_abi::*;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Lets any layout of the abi be a key or value.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(transparent)]
pub struct Raw<T>(pub T);

// SAFETY: T has no padding and is valid for any bytes, which is all that a map asks for.
unsafe impl<T: IntoBytes + FromBytes + Immutable + Copy + 'static> aya::Pod for Raw<T> {}

pub trait Layout: IntoBytes + FromBytes + Immutable + Copy + 'static {}
impl<T: IntoBytes + FromBytes + Immutable + Copy + 'static> Layout for T {}

/// `TCX_NEXT`, `TCX_DROP` and `TCX_REDIRECT`.
pub const NEXT: i32 = -1;
pub const DROP: i32 = 2;
pub const REDIRECT: i32 = 7;

pub const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 9, 9];
pub const VXLAN_PORT: u16 = 8472;
/// `lo`, which is the device that test runs pretend to be on.
pub const LO: u32 = 1;
/// The VXLAN device, which need not be there.
pub const OVERLAY: u32 = 2;

#[derive(Clone, Copy)]
pub struct Pod {
    pub ip: IpAddr,
    pub id: u32,
    pub mac: [u8; 6],
    pub host_mac: [u8; 6],
}

const fn pod(ip: IpAddr, number: u8) -> Pod {
    Pod { ip, id: number as u32, mac: [2, 0, 0, 0, 1, number], host_mac: [2, 0, 0, 0, 2, number] }
}

/// The addresses of a node and its neighbourhood in one family. The node has both.
#[derive(Clone, Copy)]
pub struct Net {
    pub a: Pod,
    pub b: Pod,
    /// An address of this node's pods that none has.
    pub nobody: IpAddr,
    pub node: IpAddr,
    pub gateway: IpAddr,
    pub other_node: IpAddr,
    /// A pod of the other node.
    pub remote: IpAddr,
    /// In the range of pods, of no node.
    pub nowhere: IpAddr,
    pub outside: IpAddr,
    pub router: IpAddr,
    pub cluster_ip: IpAddr,
    pub other_cluster_ip: IpAddr,
    pub external_ip: IpAddr,
    pub pod_gateway: IpAddr,
    /// Bits of an address.
    pub bits: u32,
}

pub const V4: Net = Net {
    a: pod(v4(10, 244, 1, 10), 10),
    b: pod(v4(10, 244, 1, 20), 20),
    nobody: v4(10, 244, 1, 99),
    node: v4(192, 168, 7, 1),
    gateway: v4(10, 244, 1, 1),
    other_node: v4(192, 168, 7, 2),
    remote: v4(10, 244, 2, 30),
    nowhere: v4(10, 244, 9, 1),
    outside: v4(203, 0, 113, 9),
    router: v4(192, 168, 7, 254),
    cluster_ip: v4(10, 96, 0, 10),
    other_cluster_ip: v4(10, 96, 0, 11),
    external_ip: v4(198, 51, 100, 80),
    pod_gateway: v4(169, 254, 1, 1),
    bits: 32,
};

pub const V6: Net = Net {
    a: pod(v6(0xfd00, 0x244, 1, 0, 0x10), 10),
    b: pod(v6(0xfd00, 0x244, 1, 0, 0x20), 20),
    nobody: v6(0xfd00, 0x244, 1, 0, 0x99),
    node: v6(0x2001, 0xdb8, 7, 0, 1),
    gateway: v6(0xfd00, 0x244, 1, 0, 1),
    other_node: v6(0x2001, 0xdb8, 7, 0, 2),
    remote: v6(0xfd00, 0x244, 2, 0, 0x30),
    nowhere: v6(0xfd00, 0x244, 9, 0, 1),
    outside: v6(0x2001, 0xdb8, 0xffff, 0, 9),
    router: v6(0x2001, 0xdb8, 7, 0, 254),
    cluster_ip: v6(0xfd00, 0x96, 0, 0, 0x10),
    other_cluster_ip: v6(0xfd00, 0x96, 0, 0, 0x11),
    external_ip: v6(0x2001, 0xdb8, 0x80, 0, 0x80),
    pod_gateway: v6(0xfe80, 0, 0, 0, 1),
    bits: 128,
};

/// Cases that hold for both families run once for each.
pub const NETS: [Net; 2] = [V4, V6];

impl Net {
    /// One of many pods of the other node.
    pub fn remote_pod(&self, number: u8) -> IpAddr {
        if self.bits == 32 { v4(10, 244, 2, number) } else { v6(0xfd00, 0x244, 2, 0, number.into()) }
    }

    /// The address that keys what holds for every address of the node.
    pub fn any(&self) -> IpAddr {
        if self.bits == 32 { v4(0, 0, 0, 0) } else { v6(0, 0, 0, 0, 0) }
    }
}

pub const A: Pod = V4.a;
pub const B: Pod = V4.b;
pub const NODE: IpAddr = V4.node;
pub const OTHER_NODE: IpAddr = V4.other_node;
pub const GATEWAY: IpAddr = V4.gateway;
pub const REMOTE: IpAddr = V4.remote;
pub const OUTSIDE: IpAddr = V4.outside;
pub const CLUSTER_IP: IpAddr = V4.cluster_ip;

/// An address of this node that has its NodePorts, too.
pub fn own_address() -> Node {
    Node { flags: Node::SELF | Node::NODE_PORTS }
}

pub fn endpoint(pod: &Pod) -> Endpoint {
    Endpoint {
        ifindex: LO,
        id: pod.id,
        revision: 1,
        mac: pod.mac,
        host_mac: pod.host_mac,
        ..Endpoint::default()
    }
}

pub fn config() -> Config {
    Config {
        abi_version: ABI_VERSION,
        flags: Config::OVERLAY | Config::MASQUERADE,
        node_v4: V4.node.into(),
        node_v6: V6.node.into(),
        gateway_v4: V4.gateway.into(),
        gateway_v6: V6.gateway.into(),
        cluster_v4: Prefix::new(V4.a.ip, 16),
        cluster_v6: Prefix::new(V6.a.ip, 32),
        pods_v4: Prefix::new(V4.a.ip, 24),
        pods_v6: Prefix::new(V6.a.ip, 64),
        services_v4: Prefix::new(V4.cluster_ip, 16),
        services_v6: Prefix::new(V6.cluster_ip, 108),
        uplink_ifindex: LO,
        uplink_mac: UPLINK_MAC,
        overlay_ifindex: OVERLAY,
        vni: 1,
        vxlan_port: Be16::new(VXLAN_PORT),
        snat_port_min: Config::SNAT_PORT_MIN,
        snat_port_max: Config::SNAT_PORT_MAX,
        ..Config::default()
    }
}

pub struct Out {
    pub verdict: i32,
    pub bytes: Vec<u8>,
    pub nanoseconds: u128,
}

pub struct Bench {
    ebpf: Ebpf,
    loaded: BTreeSet<String>,
}

pub fn object() -> PathBuf {
    let path = std::env::var_os("FAIRLEAD_BPF_OBJECT").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/programs.o")),
        PathBuf::from,
    );
    assert!(path.is_file(), "{} is not there: run `cargo xtask build-ebpf`", path.display());
    path
}

impl Bench {
    /// Maps as on a node with pods A and B, one other node, and no Service and no policy.
    pub fn new() -> Self {
        Self::with_sizes(&[])
    }

    pub fn with_sizes(sizes: &[(&'static str, u32)]) -> Self {
        let mut loader = EbpfLoader::new();
        for name in ["CONNTRACK", "NAT", "FRAGMENTS", "SOCKETS", "AFFINITY"] {
            loader.map_max_entries(name, 4096);
        }
        for (name, size) in sizes {
            loader.map_max_entries(name, *size);
        }
        let ebpf = loader.load_file(object()).expect("the object's maps load (as root, with BTF)");
        let mut node = Self { ebpf, loaded: BTreeSet::new() };
        node.configure(config());
        for net in NETS {
            for pod in [net.a, net.b] {
                node.put::<Addr, _>("ENDPOINTS", pod.ip.into(), endpoint(&pod));
            }
            for own in [net.node, net.gateway] {
                node.put::<Addr, _>("NODES", own.into(), own_address());
            }
            node.put::<Addr, _>("NODES", net.other_node.into(), Node { flags: 0 });
            let route = Route { node: OTHER_NODE.into(), flags: 0 };
            node.put_prefix("ROUTES", net.remote_pod(0), if net.bits == 32 { 24 } else { 64 }, route);
        }
        node
    }

    pub fn configure(&mut self, config: Config) {
        let mut map: Array<&mut MapData, Raw<Config>> =
            Array::try_from(self.ebpf.map_mut("CONFIG").expect("CONFIG")).expect("its layout");
        map.set(0, Raw(config), 0).expect("write CONFIG");
    }

    pub fn put<K: Layout, V: Layout>(&mut self, map: &str, key: K, value: V) {
        let mut map: HashMap<&mut MapData, Raw<K>, Raw<V>> =
            HashMap::try_from(self.ebpf.map_mut(map).expect("a map of the object")).expect("its layout");
        map.insert(Raw(key), Raw(value), 0).expect("write a map");
    }

    pub fn remove<K: Layout, V: Layout>(&mut self, map: &str, key: K) {
        let mut map: HashMap<&mut MapData, Raw<K>, Raw<V>> =
            HashMap::try_from(self.ebpf.map_mut(map).expect("a map of the object")).expect("its layout");
        map.remove(&Raw(key)).expect("remove from a map");
    }

    pub fn all<K: Layout, V: Layout>(&self, map: &str) -> Vec<(K, V)> {
        let map: HashMap<&MapData, Raw<K>, Raw<V>> =
            HashMap::try_from(self.ebpf.map(map).expect("a map of the object")).expect("its layout");
        map.iter().map(|entry| entry.map(|(k, v)| (k.0, v.0)).expect("read a map")).collect()
    }

    pub fn put_prefix<V: Layout>(&mut self, map: &str, ip: IpAddr, len: u32, value: V) {
        let more = if ip.is_ipv4() { 96 } else { 0 };
        self.put_lpm(map, more + len, Addr::from(ip), value);
    }

    pub fn put_lpm<K: Layout, V: Layout>(&mut self, map: &str, len: u32, key: K, value: V) {
        let mut map: LpmTrie<&mut MapData, Raw<K>, Raw<V>> =
            LpmTrie::try_from(self.ebpf.map_mut(map).expect("a map of the object")).expect("its layout");
        map.insert(&Key::new(len, Raw(key)), Raw(value), 0).expect("write a trie");
    }

    pub fn service(&mut self, addr: IpAddr, port: u16, proto: u8, id: u32, backends: &[(IpAddr, u16)]) {
        let value = Service { id, backends: backends.len() as u32, ..Service::default() };
        self.service_with(addr, port, proto, value, backends);
    }

    /// What pods get at the address instead of others.
    pub fn service_inside(
        &mut self,
        addr: IpAddr,
        port: u16,
        proto: u8,
        id: u32,
        backends: &[(IpAddr, u16)],
    ) {
        let value = Service { id, backends: backends.len() as u32, ..Service::default() };
        self.service_for(addr, port, (proto, ServiceKey::INSIDE), value, backends);
    }

    /// An unspecified address makes a NodePort.
    pub fn service_with(
        &mut self,
        addr: IpAddr,
        port: u16,
        proto: u8,
        value: Service,
        backends: &[(IpAddr, u16)],
    ) {
        self.service_for(addr, port, (proto, 0), value, backends);
    }

    fn service_for(
        &mut self,
        addr: IpAddr,
        port: u16,
        (proto, scope): (u8, u8),
        value: Service,
        backends: &[(IpAddr, u16)],
    ) {
        for (slot, (ip, port)) in backends.iter().enumerate() {
            let key = BackendKey { service: value.id, slot: slot as u32 };
            self.put("BACKENDS", key, Backend { addr: (*ip).into(), port: Be16::new(*port), flags: 0 });
        }
        let addr = if addr.is_unspecified() { Addr::UNSPECIFIED } else { addr.into() };
        self.put("SERVICES", ServiceKey { addr, port: Be16::new(port), proto, scope }, value);
    }

    /// Replaces what is known about a pod.
    pub fn endpoint(&mut self, pod: &Pod, change: impl FnOnce(&mut Endpoint)) {
        let mut value = endpoint(pod);
        change(&mut value);
        self.put::<Addr, _>("ENDPOINTS", pod.ip.into(), value);
    }

    pub fn identity(&mut self, ip: IpAddr, len: u32, identity: u32) {
        self.put_prefix("IDENTITIES", ip, len, identity);
    }

    /// `matched`: identity, protocol and port.
    pub fn rule(&mut self, ruleset: u32, len: u32, matched: (u32, u8, u16), id: u32, allow: bool) {
        let (identity, proto, port) = matched;
        let key = RuleKey {
            ruleset: Be32::new(ruleset),
            identity: Be32::new(identity),
            proto: Be16::new(proto.into()),
            port: Be16::new(port),
        };
        self.put_lpm("RULES", len, key, Rule { id, flags: if allow { Rule::ALLOW } else { 0 } });
    }

    pub fn count_rule(&mut self, id: u32) {
        let cpus = aya::util::nr_cpus().expect("CPUs");
        let values =
            aya::maps::PerCpuValues::try_from(vec![Raw(RuleHits::default()); cpus]).expect("one per CPU");
        let mut map: PerCpuHashMap<&mut MapData, u32, Raw<RuleHits>> =
            PerCpuHashMap::try_from(self.ebpf.map_mut("RULE_HITS").expect("RULE_HITS")).expect("its layout");
        map.insert(id, values, 0).expect("write RULE_HITS");
    }

    pub fn hits(&self, id: u32) -> RuleHits {
        let map: PerCpuHashMap<&MapData, u32, Raw<RuleHits>> =
            PerCpuHashMap::try_from(self.ebpf.map("RULE_HITS").expect("RULE_HITS")).expect("its layout");
        let mut sum = RuleHits::default();
        for Raw(hits) in map.get(&id, 0).expect("read RULE_HITS").iter() {
            sum.allowed += hits.allowed;
            sum.dropped += hits.dropped;
            sum.bytes += hits.bytes;
        }
        sum
    }

    pub fn drops(&self, reason: Reason) -> Counter {
        let map: PerCpuArray<&MapData, Raw<Counter>> =
            PerCpuArray::try_from(self.ebpf.map("DROPS").expect("DROPS")).expect("its layout");
        let mut sum = Counter::default();
        for Raw(counter) in map.get(&(reason as u32), 0).expect("read DROPS").iter() {
            sum.packets += counter.packets;
            sum.bytes += counter.bytes;
        }
        sum
    }

    /// Every reason with a count.
    pub fn all_drops(&self) -> Vec<(Reason, u64)> {
        let counts = Reason::ALL.iter().map(|reason| (*reason, self.drops(*reason).packets));
        counts.filter(|(_, packets)| *packets > 0).collect()
    }

    pub fn metric(&self, metric: Metric) -> u64 {
        let map: PerCpuArray<&MapData, u64> =
            PerCpuArray::try_from(self.ebpf.map("METRICS").expect("METRICS")).expect("its layout");
        map.get(&(metric as u32), 0).expect("read METRICS").iter().sum()
    }

    /// Drop records that are waiting.
    pub fn records(&mut self) -> Vec<FlowEvent> {
        let mut ring =
            aya::maps::RingBuf::try_from(self.ebpf.map_mut("FLOWS").expect("FLOWS")).expect("its kind");
        let mut records = Vec::new();
        while let Some(item) = ring.next() {
            records.push(FlowEvent::read_from_bytes(&item).expect("a whole record"));
        }
        records
    }

    fn program(&mut self, name: &str) -> &mut SchedClassifier {
        let program = self.ebpf.program_mut(name).expect("a program of the object");
        let program: &mut SchedClassifier = program.try_into().expect("a tc program");
        if self.loaded.insert(name.to_owned()) {
            program.load().expect("the kernel accepts the program");
        }
        program
    }

    pub fn run(&mut self, program: &str, frame: &[u8]) -> Out {
        self.run_as(program, frame, 0, 1)
    }

    /// A run for a packet that came into the node by an interface.
    pub fn run_as(&mut self, program: &str, frame: &[u8], ingress_ifindex: u32, repeat: u32) -> Out {
        let mut ctx = [0u8; 192];
        ctx[36..40].copy_from_slice(&ingress_ifindex.to_ne_bytes());
        let mut bytes = vec![0; frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut bytes);
        options.ctx_in = Some(&ctx);
        options.repeat = repeat;
        let result = self.program(program).test_run(options).expect("test run");
        bytes.truncate(result.data_size_out as usize);
        Out { verdict: result.return_value as i32, bytes, nanoseconds: result.duration.as_nanos() }
    }

    /// A run of the uplink driver's program.
    pub fn run_early(&mut self, frame: &[u8]) -> Out {
        const NAME: &str = "from_wire";
        let program = self.ebpf.program_mut(NAME).expect("a program of the object");
        let program: &mut Xdp = program.try_into().expect("an XDP program");
        if self.loaded.insert(NAME.to_owned()) {
            program.load().expect("the kernel accepts the program");
        }
        let mut bytes = vec![0; frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut bytes);
        let result = program.test_run(options).expect("test run");
        bytes.truncate(result.data_size_out as usize);
        Out { verdict: result.return_value as i32, bytes, nanoseconds: result.duration.as_nanos() }
    }

    /// Expects a drop for this reason and no other.
    #[track_caller]
    pub fn expect_drop(&mut self, program: &str, frame: &[u8], reason: Reason) {
        let before = self.drops(reason);
        let total: u64 = self.all_drops().iter().map(|(_, packets)| packets).sum();
        let out = self.run(program, frame);
        assert_eq!(out.verdict, DROP, "verdict; drops {:?}", self.all_drops());
        let after = self.drops(reason);
        let drops = self.all_drops();
        assert_eq!(after.packets, before.packets + 1, "drops for {reason:?}; all: {drops:?}");
        assert_eq!(after.bytes, before.bytes + frame.len() as u64, "bytes for {reason:?}");
        assert_eq!(
            drops.iter().map(|(_, packets)| packets).sum::<u64>(),
            total + 1,
            "other drops: {drops:?}"
        );
    }

    /// Expects that the packet goes on as it is.
    #[track_caller]
    pub fn expect_untouched(&mut self, program: &str, frame: &[u8]) {
        let out = self.run(program, frame);
        assert_eq!((out.verdict, &out.bytes[..]), (NEXT, frame), "drops {:?}", self.all_drops());
    }

    /// Expects a verdict, and exactly these bytes with right checksums.
    #[track_caller]
    pub fn expect(&mut self, program: &str, frame: &[u8], verdict: i32, bytes: &[u8]) {
        let out = self.run(program, frame);
        assert_eq!(out.verdict, verdict, "verdict; drops {:?}", self.all_drops());
        assert_eq!(out.bytes, bytes, "bytes out");
        crate::packet::assert_sums(&out.bytes);
    }
}
