//! Network namespaces on one segment, and pods in them. Nothing of it has a name: namespaces live as long as their
//! descriptors and mounts are the test's own, so that whatever happens to the test, the kernel takes everything away
//! with it.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
    thread::JoinHandle,
};

use fairlead_cni::{
    netlink::{Address, LinkChange, Route, Socket, VethEnd},
    netns, plugin,
    spec::Failure,
    sysctl,
};
use ipnet::IpNet;

/// Addresses of the host outside the cluster.
pub const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 100));
pub const OUTSIDE_V6: IpAddr = IpAddr::V6(on_segment(100));

/// An IPv6 address on the segment that the nodes share.
pub const fn on_segment(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)
}

/// Gives the calling thread, and those it starts, mounts of their own.
pub fn private_mounts() {
    // SAFETY: unshare() takes a flag and touches no memory.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    assert_eq!(result, 0, "a mount namespace (run as root): {}", io::Error::last_os_error());
    let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).expect("private mounts");
}

/// A network namespace.
#[derive(Clone)]
pub struct Space(Arc<OwnedFd>);

impl Space {
    pub fn new() -> Self {
        let made = std::thread::spawn(|| {
            // SAFETY: unshare() takes a flag and touches no memory; it changes only this short-lived thread.
            let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(result, 0, "a network namespace (run as root): {}", io::Error::last_os_error());
            netns::open(Path::new("/proc/thread-self/ns/net")).expect("the namespace that was just made")
        });
        let space = Space(Arc::new(made.join().expect("a network namespace")));
        space.run(|| {
            let mut socket = Socket::open().expect("a netlink socket");
            socket.change_link(1, LinkChange { up: Some(true), ..LinkChange::default() }).expect("lo up");
            sysctl::set("ipv6/bindv6only", "1").expect("sockets of one family");
        });
        space
    }

    /// One with a bridge that others can be plugged into.
    pub fn switch() -> Self {
        let switch = Space::new();
        switch.run(|| {
            let mut socket = Socket::open().expect("netlink");
            socket.add_bridge("switch").expect("a bridge");
            let bridge = socket.link("switch").expect("a look-up").expect("the bridge");
            let up = LinkChange { up: Some(true), ..LinkChange::default() };
            socket.change_link(bridge.index, up).expect("up");
        });
        switch
    }

    /// Path under which another thread of this process can open the namespace.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs `work` inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::within(self.0.as_fd(), work).expect("work inside the namespace")
    }

    /// Runs `work` inside on a thread that goes on.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let fd = self.0.clone();
        std::thread::spawn(move || {
            netns::enter(fd.as_fd()).expect("the namespace");
            work()
        })
    }

    /// Joins the namespace to a switch, as interface `eth0` with addresses in 192.0.2.0/24 and 2001:db8::/64.
    pub fn plug_into(&self, switch: &Space, port: &str, addresses: &[IpAddr]) {
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        switch.run(|| {
            let mut socket = Socket::open().expect("netlink");
            let near = VethEnd { name: port, namespace: None, mac: None };
            let far = VethEnd { name: "eth0", namespace: Some(self.0.as_fd()), mac: None };
            socket.add_veth(near, far, 1500).expect("a veth pair");
            let bridge = socket.link("switch").expect("a look-up").expect("the bridge");
            let near = socket.link(port).expect("a look-up").expect("the near side");
            socket
                .change_link(near.index, LinkChange { master: Some(bridge.index), ..up })
                .expect("in the bridge");
        });
        self.run(|| {
            let mut socket = Socket::open().expect("netlink");
            let link = socket.link("eth0").expect("a look-up").expect("eth0");
            socket.change_link(link.index, up).expect("up");
            for address in addresses {
                let prefix = if address.is_ipv4() { 24 } else { 64 };
                socket
                    .add_address(Address { index: link.index, address: *address, prefix })
                    .expect("an address");
            }
            let mut routes = socket.routes().expect("routes");
            routes.retain(|route: &Route| route.index == link.index);
            assert!(!routes.is_empty(), "the segment is reachable");
        });
    }

    /// Reaches a network over a gateway on the segment.
    pub fn route(&self, to: IpNet, gateway: IpAddr) {
        self.run(|| {
            let mut socket = Socket::open().expect("netlink");
            let link = socket.link("eth0").expect("a look-up").expect("eth0");
            let route = Route {
                destination: to.network(),
                prefix: to.prefix_len(),
                index: link.index,
                gateway: Some(gateway),
                source: None,
                onlink: false,
                protocol: 4,
            };
            socket.replace_route(route).expect("a route");
        });
    }
}

impl AsFd for Space {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A pod's sandbox as the CNI plugin is told of it.
pub struct Sandbox<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub uid: &'a str,
    pub space: &'a Space,
}

/// Runs the CNI plugin's own code for a sandbox, in its node; `socket` is the dataplane's.
pub fn cni(node: &Space, socket: &Path, sandbox: &Sandbox<'_>, command: &str) -> Result<String, Failure> {
    let Sandbox { namespace, name, uid, space } = sandbox;
    let pairs = [
        ("CNI_COMMAND", command.to_owned()),
        ("CNI_CONTAINERID", format!("sandbox-{namespace}-{name}")),
        ("CNI_NETNS", space.path()),
        ("CNI_IFNAME", "eth0".to_owned()),
        (
            "CNI_ARGS",
            format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}"),
        ),
    ];
    let environment: HashMap<String, String> =
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let config = serde_json::json!({"cniVersion": "1.0.0", "name": "fairlead", "type": "fairlead-cni", "socket": socket});
    node.run(|| plugin::execute(&environment, config.to_string().as_bytes()))
}

/// The addresses in a plugin's answer to ADD.
pub fn given(answer: &str) -> Vec<IpAddr> {
    let result: serde_json::Value = serde_json::from_str(answer).expect("JSON");
    let list = result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .filter_map(|one| Some(one["address"].as_str()?.parse::<IpNet>().expect("a CIDR").addr()))
        .collect()
}
