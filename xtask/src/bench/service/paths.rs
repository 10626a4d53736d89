//! What the cluster is compared with: the same shape of hosts, nodes and pods in namespaces without Fairlead. One set is
//! left alone, one has an nftables ruleset of the shape that kube-proxy writes, one a kernel `vxlan` device.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;

use crate::process::{command, feed, output, sh};

/// Where the lean server listens.
pub const PORT: u16 = 7000;
/// The virtual address that the nftables ruleset translates.
pub const VIRTUAL: &str = "10.52.0.1";
/// The far pod by the near node.
pub const DETOUR: &str = "10.50.3.3";

/// How the two nodes of a set are joined, or what stands on them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Routed, with nothing loaded.
    Clean,
    /// Routed, with a Service proxy of nftables rules.
    Nftables,
    /// Pods of the other node by a kernel `vxlan` device.
    Vxlan,
}

/// Servers of a set, and of any namespace that is measured. They end with their owner.
pub struct Servers(Vec<Child>);

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended; then there is nothing to do.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Servers {
    /// Starts the lean server in each of these network namespaces.
    pub fn start(toolbox: &Path, namespaces: &[PathBuf]) -> anyhow::Result<Servers> {
        let mut servers = Servers(Vec::new());
        for namespace in namespaces {
            let mut answer = inside(namespace);
            answer.arg(toolbox).args(["answer", "--port", &PORT.to_string()]);
            answer.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            servers.0.push(answer.spawn().context("starting a server")?);
        }
        Ok(servers)
    }
}

/// A command that will run in a network namespace.
pub fn inside(namespace: &Path) -> Command {
    let mut nsenter = command(&["nsenter"]);
    nsenter.arg(format!("--net={}", namespace.display())).arg("--");
    nsenter
}

/// One set: a client pod, a pod on its node (`near`) and one on the other node (`far`), and a host outside.
pub struct Set {
    kind: Kind,
    _servers: Option<Servers>,
}

const NAMES: [&str; 7] = ["client", "near", "far", "nodea", "nodeb", "net", "outside"];

impl Set {
    /// Makes the namespaces anew and starts the servers.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn make(kind: Kind, toolbox: &Path) -> anyhow::Result<Set> {
        let mut set = Set { kind, _servers: None };
        set.remove()?;
        for name in NAMES {
            sh(&["ip", "netns", "add", &set.name(name)])?;
            set.ip(name, "link set lo up")?;
        }
        for name in ["nodea", "nodeb", "net"] {
            let forward =
                "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv4/conf/all/send_redirects";
            output(inside(&set.path(name)).args(["sh", "-c", forward]))?;
        }
        set.ip("net", "link add br0 type bridge")?;
        set.ip("net", "link set br0 up")?;
        set.ip("net", "addr add 10.51.0.254/24 dev br0")?;
        for (node, number) in [("nodea", 1), ("nodeb", 2)] {
            set.wire("net", node, node, "eth0")?;
            set.ip("net", &format!("link set {node} master br0"))?;
            set.ip(node, &format!("addr add 10.51.0.{number}/24 dev eth0"))?;
            set.ip(node, "route add default via 10.51.0.254")?;
        }
        for (pod, node, address) in
            [("client", "nodea", "10.50.1.2"), ("near", "nodea", "10.50.1.3"), ("far", "nodeb", "10.50.2.3")]
        {
            set.wire(node, pod, pod, "eth0")?;
            set.ip(node, &format!("addr add 169.254.1.1/32 dev {pod}"))?;
            set.ip(node, &format!("route add {address}/32 dev {pod}"))?;
            set.ip(pod, &format!("addr add {address}/32 dev eth0"))?;
            set.ip(pod, "route add 169.254.1.1/32 dev eth0")?;
            set.ip(pod, "route add default via 169.254.1.1")?;
        }
        set.wire("net", "outside", "outside", "eth0")?;
        set.ip("net", "addr add 10.53.0.254/24 dev outside")?;
        set.ip("outside", "addr add 10.53.0.2/24 dev eth0")?;
        set.ip("outside", "route add default via 10.53.0.254")?;
        set.ip("net", "route add 10.50.1.0/24 via 10.51.0.1")?;
        set.ip("net", "route add 10.50.2.0/24 via 10.51.0.2")?;
        set.ip("net", &format!("route add {VIRTUAL}/32 via 10.51.0.1"))?;
        set.join()?;
        set.detour()?;
        let pods = ["near", "far"].map(|pod| set.path(pod));
        set._servers = Some(Servers::start(toolbox, &pods)?);
        Ok(set)
    }

    /// Leads each node to the other's pods.
    fn join(&self) -> anyhow::Result<()> {
        for (node, own, other, pods) in [("nodea", 1, 2, "10.50.2.0/24"), ("nodeb", 2, 1, "10.50.1.0/24")] {
            if self.kind == Kind::Vxlan {
                let (local, remote) = (format!("10.51.0.{own}"), format!("10.51.0.{other}"));
                let ends = format!("local {local} remote {remote} dev eth0");
                self.ip(node, &format!("link add vx type vxlan id 7 dstport 4790 {ends}"))?;
                self.ip(node, &format!("addr add 10.54.0.{own}/24 dev vx"))?;
                self.ip(node, "link set vx up")?;
                self.ip(node, &format!("route add {pods} via 10.54.0.{other}"))?;
            } else {
                self.ip(node, &format!("route add {pods} via 10.51.0.{other}"))?;
            }
        }
        Ok(())
    }

    /// Gives `far` a second address, [`DETOUR`], that the outside reaches by the other node, both ways: the path that a
    /// NodePort's packets take by a node between.
    fn detour(&self) -> anyhow::Result<()> {
        self.ip("far", &format!("addr add {DETOUR}/32 dev eth0"))?;
        self.ip("nodeb", &format!("route add {DETOUR}/32 dev far"))?;
        self.ip("nodea", &format!("route add {DETOUR}/32 via 10.51.0.2"))?;
        self.ip("net", &format!("route add {DETOUR}/32 via 10.51.0.1"))?;
        self.ip("nodeb", &format!("rule add from {DETOUR} lookup 7"))?;
        self.ip("nodeb", "route add default via 10.51.0.1 table 7")
    }

    fn name(&self, what: &str) -> String {
        format!("fl-bench-{}-{what}", format!("{:?}", self.kind).to_lowercase())
    }

    /// A namespace of the set.
    pub fn path(&self, what: &str) -> PathBuf {
        PathBuf::from("/run/netns").join(self.name(what))
    }

    fn ip(&self, what: &str, words: &str) -> anyhow::Result<()> {
        let mut ip = command(&["ip", "-n", &self.name(what)]);
        output(ip.args(words.split(' '))).map(drop)
    }

    fn wire(&self, from: &str, device: &str, to: &str, peer: &str) -> anyhow::Result<()> {
        self.ip(from, &format!("link add {device} type veth peer name {peer} netns {}", self.name(to)))?;
        self.ip(from, &format!("link set {device} up"))?;
        self.ip(to, &format!("link set {peer} up"))
    }

    /// Loads a ruleset for so many Services on both nodes; [`VIRTUAL`] leads to the two pods' ports, one port each for pods
    /// and one each for the outside.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn load_rules(&self, services: usize) -> anyhow::Result<()> {
        let rules = ruleset(services);
        for node in ["nodea", "nodeb"] {
            feed(inside(&self.path(node)).args(["nft", "-f", "-"]), rules.as_bytes())?;
        }
        Ok(())
    }

    fn remove(&self) -> anyhow::Result<()> {
        for name in NAMES.map(|name| self.name(name)) {
            if fs::exists(Path::new("/run/netns").join(&name))? {
                sh(&["ip", "netns", "del", &name])?;
            }
        }
        Ok(())
    }
}

impl Drop for Set {
    fn drop(&mut self) {
        self._servers = None;
        if let Err(error) = self.remove() {
            eprintln!("namespaces of the comparison are left: {error:#}");
        }
    }
}

/// The shape that kube-proxy's nftables mode gives its rules (KEP-3866): one map from address and port to a chain a
/// Service, whose rule draws one of its endpoints' chains, each of which translates. Services but the first two lead to
/// addresses that nobody has.
fn ruleset(services: usize) -> String {
    use std::fmt::Write;
    let mut text = String::from("table ip proxy\ndelete table ip proxy\ntable ip proxy {\n");
    let mut elements = Vec::with_capacity(services + 2);
    let own = [("near", "10.50.1.3", 80), ("far", "10.50.2.3", 81)];
    let endpoint = |text: &mut String, name: &str, address: &str, port: u16| {
        let _ = write!(
            text,
            "chain e-{name} {{ ip saddr {address} meta mark set 0x4000; meta l4proto tcp dnat to {address}:{port}; }}\n"
        );
    };
    for (name, address, port) in own {
        endpoint(&mut text, name, address, PORT);
        let _ = write!(text, "chain s-{name} {{ numgen random mod 1 vmap {{ 0 : goto e-{name} }}; }}\n");
        let _ = write!(text, "chain x-{name} {{ meta mark set 0x4000; goto s-{name}; }}\n");
        elements.push(format!("{VIRTUAL} . tcp . {port} : goto s-{name}"));
        elements.push(format!("{VIRTUAL} . tcp . {} : goto x-{name}", port + 10));
    }
    for n in 0..services.saturating_sub(own.len()) {
        let mut draws = Vec::new();
        for e in 0..4 {
            let name = format!("{n}-{e}");
            let address = format!("10.50.{}.{}", 3 + (n / 250) % 250, 1 + (n + e) % 250);
            endpoint(&mut text, &name, &address, 8080);
            draws.push(format!("{e} : goto e-{name}"));
        }
        let _ = write!(text, "chain s-{n} {{ numgen random mod 4 vmap {{ {} }}; }}\n", draws.join(", "));
        elements.push(format!("10.52.{}.{} . tcp . 80 : goto s-{n}", 1 + n / 250, 1 + n % 250));
    }
    let _ = write!(
        text,
        "map ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {} }} }}\n",
        elements.join(", ")
    );
    let jump = "ip daddr . meta l4proto . th dport vmap @ips;";
    let _ = write!(text, "chain services {{ {jump} }}\n");
    let _ = write!(text, "chain pre {{ type nat hook prerouting priority dstnat; jump services; }}\n");
    let _ = write!(text, "chain out {{ type nat hook output priority -100; jump services; }}\n");
    let mark = "meta mark 0x4000 masquerade fully-random;";
    let _ = write!(text, "chain post {{ type nat hook postrouting priority srcnat; {mark} }}\n}}\n");
    text
}
