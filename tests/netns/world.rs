//! Two nodes with their dataplanes, their pods and a host outside the cluster, as network namespaces of this process.

use std::{
    collections::HashMap,
    fs,
    future::Future,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use fairlead_cni::{
    netlink::{LinkChange, Socket},
    protocol::{self, Answer, PodRef, Request},
};
use fairlead_dataplane::{
    OverlayMode, Settings, Xdp,
    engine::{Command, QUEUE},
    link::remove_pins,
    model::{
        Algorithm, Change, Endpoint, EndpointSlice, Key, Kind, Labels, NamedPort, Namespace, Node, Pod,
        Protocol, Rates, Service, ServicePort, SlicePort,
    },
    overlay::NodePorts,
    policy::spec::Policy,
    server::PodLookup,
    status::Status,
};
use ipnet::IpNet;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::space::{self, OUTSIDE, OUTSIDE_V6, Sandbox, Space, on_segment};

/// How long a state may take to come about.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Programs of every node of every world hang at the one cgroup root, so worlds come one after another.
static ONE_WORLD: Mutex<()> = Mutex::new(());
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Pods that the fake API knows.
#[derive(Default)]
pub struct Pods(Mutex<HashMap<(String, String), Pod>>);

impl PodLookup for Pods {
    fn pod<'a>(
        &'a self,
        pod: &'a PodRef,
    ) -> Pin<Box<dyn Future<Output = Result<Option<Pod>, String>> + Send + 'a>> {
        let found = self.0.lock().expect("the pods").get(&(pod.namespace.clone(), pod.name.clone())).cloned();
        Box::pin(std::future::ready(Ok(found)))
    }
}

/// A running dataplane.
struct Agent {
    commands: mpsc::Sender<Command>,
    stop: CancellationToken,
    thread: JoinHandle<Result<(), fairlead_dataplane::Error>>,
}

/// A node.
pub struct TestNode {
    pub name: &'static str,
    pub address: IpAddr,
    pub v6: IpAddr,
    pub pod_cidrs: Vec<IpNet>,
    pub space: Space,
    pub settings: Settings,
    agent: Option<Agent>,
}

/// A pod that has its network.
#[derive(Clone)]
pub struct TestPod {
    pub key: Key,
    pub node: usize,
    pub address: IpAddr,
    /// Its IPv6 address, in a dual-stack world.
    pub v6: Option<IpAddr>,
    pub space: Space,
    labels: Labels,
    ports: Vec<NamedPort>,
}

pub struct World {
    pub nodes: Vec<TestNode>,
    pub outside: Space,
    directory: PathBuf,
    pods: Arc<Pods>,
    history: Vec<Change>,
    dual: bool,
    _switch: Space,
    _alone: MutexGuard<'static, ()>,
}

fn bpf_object() -> PathBuf {
    let path = std::env::var_os("FAIRLEAD_BPF_OBJECT").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/programs.o"),
        PathBuf::from,
    );
    assert!(path.exists(), "{} is missing: run `cargo xtask build-ebpf`", path.display());
    path
}

impl World {
    /// Two nodes with running dataplanes, and a host outside. Pods have IPv4 addresses.
    pub fn new() -> Self {
        Self::make(false)
    }

    /// The same with IPv4 and IPv6.
    pub fn dual() -> Self {
        Self::make(true)
    }

    fn make(dual: bool) -> Self {
        let alone = ONE_WORLD.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        // The test's thread and those it starts get mounts of their own.
        space::private_mounts();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("fairlead-netns-{}-{number}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        let switch = Space::switch();
        let outside = Space::new();
        outside.plug_into(&switch, "outside", &[OUTSIDE, OUTSIDE_V6]);
        let mut world = World {
            nodes: Vec::new(),
            outside,
            directory,
            pods: Arc::default(),
            history: vec![],
            dual,
            _switch: switch,
            _alone: alone,
        };
        for (index, name) in ["node-a", "node-b"].into_iter().enumerate() {
            world.make_node(name, index as u8);
        }
        for kind in Kind::ALL {
            world.send(Change::Listing(kind));
        }
        for index in 0..world.nodes.len() {
            let node = &world.nodes[index];
            world.send(Change::Node(Node {
                name: node.name.into(),
                pod_cidrs: node.pod_cidrs.clone(),
                addresses: if dual { vec![node.address, node.v6] } else { vec![node.address] },
                zone: String::new(),
                balances: true,
            }));
        }
        for namespace in ["one", "two"] {
            let labels =
                Labels::new([("kubernetes.io/metadata.name".to_owned(), namespace.to_owned())].into());
            world.send(Change::Namespace(Namespace { name: namespace.into(), labels }));
        }
        for kind in Kind::ALL {
            world.send(Change::Listed(kind));
        }
        for index in 0..world.nodes.len() {
            world.start(index);
        }
        world
    }

    fn make_node(&mut self, name: &'static str, index: u8) {
        let space = Space::new();
        let address = IpAddr::from(Ipv4Addr::new(192, 0, 2, index + 1));
        let v6 = IpAddr::from(on_segment(u16::from(index) + 1));
        space.plug_into(&self._switch, name, &[address, v6]);
        let directory = self.directory.join(name);
        let bpffs = directory.join("bpf");
        fs::create_dir_all(&bpffs).expect("a directory");
        rustix::mount::mount("bpf", &bpffs, "bpf", rustix::mount::MountFlags::empty(), None).expect("bpffs");
        let plugin = directory.join("plugin");
        fs::write(&plugin, "the plugin").expect("a file");
        let settings = Settings {
            node_name: name.to_owned(),
            bpf_object: bpf_object(),
            pins: bpffs.join("fairlead"),
            run_dir: directory.join("run"),
            cni_conf_dir: directory.join("net.d"),
            cni_bin_dir: directory.join("bin"),
            cni_plugin: plugin,
            cluster_cidrs: self.nets(&["10.244.0.0/16", "fd00:10:244::/56"]),
            service_cidrs: self.nets(&["10.96.0.0/16", "fd00:96::/112"]),
            uplink: None,
            overlay: OverlayMode::Vxlan,
            vxlan_port: 8472,
            vxlan_vni: 1,
            load_balancing: Algorithm::RoundRobin,
            node_ports: NodePorts::Everywhere,
            direct: Vec::new(),
            announce: true,
            splice: false,
            xdp: Xdp::Auto,
            metrics_address: "127.0.0.1:9962".parse().expect("an address"),
            install_cni: true,
        };
        let pod_cidrs = self.nets(&[&format!("10.244.{index}.0/24"), &format!("fd00:10:244:{index}::/64")]);
        self.nodes.push(TestNode { name, address, v6, pod_cidrs, space, settings, agent: None });
    }

    /// The networks that a world of this kind has: of both families, or the first alone.
    fn nets(&self, texts: &[&str]) -> Vec<IpNet> {
        let count = if self.dual { texts.len() } else { 1 };
        texts.iter().take(count).map(|text| text.parse().expect("a CIDR")).collect()
    }

    /// Starts the dataplane of a node, gives it the whole history, and waits until it is ready.
    pub fn start(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let (commands, receiver) = mpsc::channel(QUEUE);
        let stop = CancellationToken::new();
        let status = Arc::new(Status::default());
        let (settings, sender) = (node.settings.clone(), commands.clone());
        let (token, pods, state) = (stop.clone(), self.pods.clone(), status.clone());
        let thread = node.space.spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(fairlead_dataplane::run_with(settings, sender, receiver, pods, state, token))
        });
        for change in &self.history {
            commands.blocking_send(Command::Change(change.clone())).expect("a running dataplane");
        }
        let began = Instant::now();
        while !status.is_ready() {
            assert!(!thread.is_finished(), "{}: {:?}", node.name, thread.join());
            assert!(began.elapsed() < DEADLINE, "{} is not ready: {status:?}", node.name);
            std::thread::sleep(Duration::from_millis(5));
        }
        node.agent = Some(Agent { commands, stop, thread });
    }

    /// Ends the dataplane of a node as abruptly as its thread can: every descriptor is closed, nothing is undone.
    pub fn kill(&mut self, index: usize) {
        let Some(agent) = self.nodes[index].agent.take() else { return };
        agent.stop.cancel();
        agent.thread.join().expect("the dataplane's thread").expect("a clean end");
    }

    /// Tells every running dataplane, and those that start later.
    pub fn send(&mut self, change: Change) {
        self.history.push(change.clone());
        for agent in self.nodes.iter().filter_map(|node| node.agent.as_ref()) {
            agent.commands.blocking_send(Command::Change(change.clone())).expect("a running dataplane");
        }
    }

    /// Waits until every dataplane has carried out what it was told.
    pub fn settle(&self) {
        for node in self.nodes.iter().filter(|node| node.agent.is_some()) {
            let answer = protocol::call(&node.settings.run_dir.join(protocol::SOCKET), &Request::Status);
            assert!(matches!(answer, Ok(Answer::Done)), "{}: {answer:?}", node.name);
        }
    }

    /// Makes a pod with its network, through the CNI plugin's own code.
    pub fn pod(&mut self, node: usize, namespace: &str, name: &str, labels: &[(&str, &str)]) -> TestPod {
        self.pod_with_ports(node, namespace, name, labels, Vec::new())
    }

    pub fn pod_with_ports(
        &mut self,
        node: usize,
        namespace: &str,
        name: &str,
        labels: &[(&str, &str)],
        ports: Vec<NamedPort>,
    ) -> TestPod {
        let labels: Labels =
            Labels::new(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect());
        let mut pod = TestPod {
            key: Key::new(namespace, name),
            node,
            address: Ipv4Addr::UNSPECIFIED.into(),
            v6: None,
            space: Space::new(),
            labels,
            ports,
        };
        let known = self.object(&pod, false);
        self.pods.0.lock().expect("the pods").insert((namespace.to_owned(), name.to_owned()), known);
        let answer = self.cni(&pod, "ADD").expect("ADD");
        let given = space::given(&answer);
        pod.address = *given.first().expect("an address");
        pod.v6 = given.get(1).copied();
        assert_eq!(pod.v6.is_some(), self.dual, "{answer}");
        let object = self.object(&pod, true);
        self.send(Change::Pod(object));
        self.settle();
        pod
    }

    fn object(&self, pod: &TestPod, with_address: bool) -> Pod {
        Pod {
            key: pod.key.clone(),
            uid: format!("uid-{}", pod.key),
            labels: pod.labels.clone(),
            addresses: if with_address {
                [Some(pod.address), pod.v6].into_iter().flatten().collect()
            } else {
                Vec::new()
            },
            node: self.nodes[pod.node].name.to_owned(),
            host_network: false,
            weight: None,
            rates: Rates::default(),
            finished: false,
            ports: pod.ports.clone(),
        }
    }

    /// Runs the plugin for a pod, in its node.
    pub fn cni(&self, pod: &TestPod, command: &str) -> Result<String, fairlead_cni::spec::Failure> {
        let node = &self.nodes[pod.node];
        let socket = node.settings.run_dir.join(protocol::SOCKET);
        let uid = format!("uid-{}", pod.key);
        let Key { namespace, name } = &pod.key;
        space::cni(&node.space, &socket, &Sandbox { namespace, name, uid: &uid, space: &pod.space }, command)
    }

    /// A Service over pods, with one address or (separated by a comma) one of each family; every backend is ready.
    pub fn service(
        &mut self,
        name: &str,
        cluster_ip: &str,
        protocol: Protocol,
        node_port: u16,
        port: u16,
        backends: &[&TestPod],
    ) {
        let key = Key::new("one", name);
        self.send(Change::Service(Service {
            cluster_ips: cluster_ip.split(',').map(|text| text.parse().expect("an address")).collect(),
            ports: vec![ServicePort { name: String::new(), protocol, port: 80, node_port }],
            ..Service::new(key.clone())
        }));
        let of_family: [fn(&TestPod) -> Option<IpAddr>; 2] = [|pod| Some(pod.address), |pod| pod.v6];
        for (family, address) in ["v4", "v6"].into_iter().zip(of_family) {
            let endpoint = |pod: &&TestPod| {
                Some(Endpoint {
                    addresses: vec![address(pod)?],
                    node: self.nodes[pod.node].name.to_owned(),
                    ready: true,
                    serving: true,
                    ..Endpoint::default()
                })
            };
            self.send(Change::Slice(EndpointSlice {
                key: Key::new("one", &format!("{name}-{family}")),
                service: key.clone(),
                ports: vec![SlicePort { name: String::new(), protocol, port }],
                endpoints: backends.iter().filter_map(endpoint).collect(),
            }));
        }
        self.settle();
    }

    /// Sets a NetworkPolicy.
    pub fn policy(&mut self, namespace: &str, name: &str, spec: serde_json::Value) {
        let object = serde_json::json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec});
        let policy = Policy::from_api(&serde_json::from_value(object).expect("a NetworkPolicy"));
        assert_eq!(policy.problem, None);
        self.send(Change::Policy(Box::new(policy)));
        self.settle();
    }

    /// Removes a NetworkPolicy.
    pub fn no_policy(&mut self, namespace: &str, name: &str) {
        self.send(Change::PolicyGone(Key::new(namespace, name)));
        self.settle();
    }

    /// Takes a node off the segment, as its death does.
    pub fn unplug(&self, index: usize) {
        self.set_port(index, false);
    }

    /// Puts it back.
    pub fn plug(&self, index: usize) {
        self.set_port(index, true);
    }

    fn set_port(&self, index: usize, up: bool) {
        self._switch.run(|| {
            let mut socket = Socket::open().expect("netlink");
            let port = socket.link(self.nodes[index].name).expect("a look-up").expect("the port");
            socket
                .change_link(port.index, LinkChange { up: Some(up), ..LinkChange::default() })
                .expect("changed");
        });
    }

    /// A node's own network, as a backend.
    pub fn host(&self, index: usize) -> TestPod {
        let node = &self.nodes[index];
        TestPod {
            key: Key::new("one", node.name),
            node: index,
            address: node.address,
            v6: self.dual.then_some(node.v6),
            space: node.space.clone(),
            labels: Labels::default(),
            ports: Vec::new(),
        }
    }

    /// Makes the switch's port of a node send it whole packets with finished checksums, as a wire does, and take what the
    /// node's driver sends, which a veth does only with a program of its own. That is one without a configuration: it
    /// passes everything on.
    pub fn make_port_a_wire(&self, index: usize) -> aya::Ebpf {
        const SIOCETHTOOL: libc::c_ulong = 0x8946;
        const ETHTOOL_STXCSUM: u32 = 0x17;
        let port = self.nodes[index].name;
        self._switch.run(|| {
            let mut request = [ETHTOOL_STXCSUM, 0];
            // SAFETY: all zero is a valid request.
            let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
            for (to, from) in ifreq.ifr_name.iter_mut().zip(port.bytes()) {
                *to = from as libc::c_char;
            }
            ifreq.ifr_ifru.ifru_data = request.as_mut_ptr().cast();
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
            // SAFETY: the kernel reads the request and the two words it points to, which live across the call.
            let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut ifreq) };
            assert_eq!(result, 0, "ethtool: {}", std::io::Error::last_os_error());
            let mut ebpf = aya::Ebpf::load_file(bpf_object()).expect("the object");
            let program = ebpf.program_mut("from_wire").expect("its XDP program");
            let program: &mut aya::programs::Xdp = program.try_into().expect("an XDP program");
            program.load().expect("it loads");
            program.attach(port, aya::programs::xdp::XdpMode::Driver).expect("it is attached");
            ebpf
        })
    }

    /// Starts a node's dataplane again with other settings.
    pub fn reconfigure(&mut self, index: usize, change: impl FnOnce(&mut Settings)) {
        self.kill(index);
        change(&mut self.nodes[index].settings);
        self.start(index);
    }

    /// Gives the host outside a route to a node's pods.
    pub fn outside_knows_pods(&self, index: usize) {
        let node = &self.nodes[index];
        for cidr in node.pod_cidrs.iter().filter(|cidr| cidr.addr().is_ipv4()) {
            self.outside.route(*cidr, node.address);
        }
    }

    /// Bytes that an interface of a node has received.
    pub fn received(&self, index: usize, interface: &str) -> u64 {
        let text =
            self.nodes[index].space.run(|| fs::read_to_string("/proc/thread-self/net/dev")).expect("it");
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'));
        let word = line.and_then(|line| line.split_whitespace().next());
        word.unwrap_or_else(|| panic!("no {interface} in {text}")).parse().expect("a number")
    }

    /// Bounds what a pod receives and sends.
    pub fn bound(&mut self, pod: &TestPod, rates: Rates) {
        let object = Pod { rates, ..self.object(pod, true) };
        self.send(Change::Pod(object));
        self.settle();
    }

    /// Removes what a node has pinned, as the end of a cluster does.
    pub fn remove_pins(&self, index: usize) {
        remove_pins(&self.nodes[index].settings.pins).expect("pins removed");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for index in 0..self.nodes.len() {
            if let Some(agent) = self.nodes[index].agent.take() {
                agent.stop.cancel();
                let _ = agent.thread.join();
            }
            let _ = remove_pins(&self.nodes[index].settings.pins);
            let bpffs = self.directory.join(self.nodes[index].name).join("bpf");
            let _ = rustix::mount::unmount(bpffs, rustix::mount::UnmountFlags::DETACH);
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}
