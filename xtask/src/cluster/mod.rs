//! A cluster on one machine: names, addresses and folders, all derived from the cluster's name, so that whatever
//! was killed can be found again.

pub mod down;
pub mod network;
pub mod supervise;
pub mod up;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::process::{command, sh};

/// The network that joins the nodes, and the API server's address in it.
pub const NODE_NETWORK: &str = "172.30.0";
pub const SERVER_ADDRESS: &str = "172.30.0.1";
/// The network of the host outside, routed to the nodes' one.
pub const OUTSIDE_GATEWAY: &str = "172.31.0.1";
pub const OUTSIDE_ADDRESS: &str = "172.31.0.2";
const CLUSTER_CIDR: &str = "10.244.0.0/16";
const SERVICE_CIDR: &str = "10.96.0.0/16";
/// Tenth address of the Services' range, as kubeadm and its kin give it.
pub const CLUSTER_DNS: &str = "10.96.0.10";
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// The same for IPv6, in a cluster that has both: unique local addresses (RFC 4193).
const NODE_NETWORK6: &str = "fd00:172:30::";
pub const SERVER_ADDRESS6: &str = "fd00:172:30::1";
pub const OUTSIDE_GATEWAY6: &str = "fd00:172:31::1";
pub const OUTSIDE_ADDRESS6: &str = "fd00:172:31::2";
const CLUSTER_CIDR6: &str = "fd00:10:244::/56";
const SERVICE_CIDR6: &str = "fd00:10:96::/112";
/// The name under which `node` and `outside` find the host outside.
pub const OUTSIDE: &str = "outside";
/// Clusters that exist on this machine, one folder each.
const RECORDS: &str = "/run/fairlead/clusters";

/// Which cluster.
#[derive(clap::Args, Clone)]
pub struct Name {
    /// Name of the cluster; clusters with different names do not see each other.
    #[arg(long, default_value = "fairlead", value_parser = valid_name)]
    pub name: String,
}

fn valid_name(text: &str) -> Result<String, String> {
    let fits = (1..=20).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    if fits { Ok(text.into()) } else { Err("use 1 to 20 of a-z, 0-9 and -, not at the ends".into()) }
}

/// Where the objects are stored.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    Embedded,
    Etcd,
}

/// One cluster: what `up` was asked for and where its things are.
#[derive(Clone, Serialize, Deserialize)]
pub struct Cluster {
    pub name: String,
    pub workspace: PathBuf,
    pub nodes: usize,
    pub store: Backend,
    /// IPv6 beside IPv4; not in the records of before there was a choice.
    #[serde(default)]
    pub dual_stack: bool,
    #[serde(default)]
    pub overlay: Overlay,
    #[serde(default)]
    pub splice: bool,
}

/// How pods reach those of other nodes.
#[derive(clap::ValueEnum, Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlay {
    /// Wrapped in VXLAN between the nodes.
    #[default]
    Vxlan,
    /// Routed as they are.
    Native,
}

impl Cluster {
    /// The record of an existing cluster.
    pub fn load(name: &str) -> anyhow::Result<Option<Cluster>> {
        let file = Path::new(RECORDS).join(name).join("cluster.json");
        match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("reading {}", file.display()))
                .map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
        }
    }

    /// Writes the record; from here on `down` finds everything.
    pub fn record(&self) -> anyhow::Result<()> {
        fs::create_dir_all(self.run())?;
        let file = self.run().join("cluster.json");
        fs::write(&file, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("writing {}", file.display()))
    }

    /// Volatile state: the record, the supervisor's plan.
    pub fn run(&self) -> PathBuf {
        Path::new(RECORDS).join(&self.name)
    }
    /// Durable state: keys, objects, node folders, logs.
    pub fn state(&self) -> PathBuf {
        self.workspace.join(".fairlead").join(&self.name)
    }
    pub fn server_data(&self) -> PathBuf {
        self.state().join("server")
    }
    pub fn logs(&self) -> PathBuf {
        self.state().join("logs")
    }
    pub fn node_state(&self, node: &str) -> PathBuf {
        self.state().join("nodes").join(node)
    }
    /// The folder that stands for the file system of a node.
    pub fn node_root(&self, node: &str) -> PathBuf {
        self.node_state(node).join("root")
    }
    /// What users point KUBECONFIG at.
    pub fn kubeconfig(&self) -> PathBuf {
        let file =
            if self.name == "fairlead" { "kubeconfig".into() } else { format!("{}.kubeconfig", self.name) };
        self.workspace.join(".fairlead").join(file)
    }
    pub fn node_names(&self) -> Vec<String> {
        (1..=self.nodes).map(|i| format!("node{i}")).collect()
    }
    /// Primary address of the node with index `i` from 0.
    pub fn node_address(i: usize) -> String {
        format!("{NODE_NETWORK}.{}", 11 + i)
    }
    /// All its addresses, the primary one first.
    pub fn node_addresses(&self, i: usize) -> Vec<String> {
        // The same digits in both, so that people find the one from the other.
        let six = self.dual_stack.then(|| format!("{NODE_NETWORK6}{}", 11 + i));
        std::iter::once(Cluster::node_address(i)).chain(six).collect()
    }
    /// The ranges of pods, as flags have them.
    pub fn cluster_cidr(&self) -> String {
        if self.dual_stack { format!("{CLUSTER_CIDR},{CLUSTER_CIDR6}") } else { CLUSTER_CIDR.into() }
    }
    /// The ranges of Services, as flags have them.
    pub fn service_cidr(&self) -> String {
        if self.dual_stack { format!("{SERVICE_CIDR},{SERVICE_CIDR6}") } else { SERVICE_CIDR.into() }
    }
    /// Name of a network namespace: `net`, `outside` or a node.
    pub fn namespace(&self, what: &str) -> String {
        namespace(&self.name, what)
    }
    /// The container that holds a node's network namespace.
    pub fn holder(&self, node: &str) -> String {
        format!("fl-{}-{node}", self.name)
    }
    pub fn label(&self) -> String {
        format!("fairlead.io/cluster={}", self.name)
    }
    pub fn kubectl(&self, words: &[&str]) -> std::process::Command {
        let mut kubectl = command(&["kubectl", "--kubeconfig"]);
        kubectl.arg(self.kubeconfig()).args(words);
        kubectl
    }
}

fn namespace(cluster: &str, what: &str) -> String {
    format!("fl-{cluster}-{what}")
}

/// Replaces this process by a command in a namespace of the cluster.
pub fn enter(cluster: &str, what: &str, words: &[String]) -> anyhow::Result<ExitCode> {
    let Some(record) = Cluster::load(cluster)? else {
        bail!("there is no cluster `{cluster}` on this machine: start one with `cargo xtask up`");
    };
    if what != OUTSIDE && !record.node_names().iter().any(|n| n == what) {
        bail!("cluster `{cluster}` has no node `{what}`; it has {}", record.node_names().join(", "));
    }
    let net = format!("--net=/run/netns/{}", namespace(cluster, what));
    // nsenter keeps the mounts, and with them /sys/fs/cgroup, which `ip netns exec` would hide.
    let error = command(&["nsenter", &net, "--"]).args(words).exec();
    Err(error).context("starting nsenter")
}

/// Running processes whose environment says that the supervisor of this state folder started them.
pub fn processes(state: &Path) -> Vec<i32> {
    let mark = format!("{}={}", supervise::MARK, state.display());
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let own = std::process::id();
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| u32::try_from(*pid) != Ok(own))
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|environ| environ.split(|b| *b == 0).any(|var| var == mark.as_bytes()))
        })
        .collect()
}

/// Containers of a cluster, by its label.
pub fn containers(cluster: &str) -> anyhow::Result<Vec<String>> {
    let list = sh(&[
        "docker",
        "ps",
        "-aq",
        "--no-trunc",
        "--filter",
        &format!("label=fairlead.io/cluster={cluster}"),
    ])?;
    Ok(list.lines().map(str::to_owned).collect())
}

/// The last lines of every log of a cluster, for whoever has to find out why it failed.
pub fn print_log_tails(cluster: &str) {
    let Ok(Some(cluster)) = Cluster::load(cluster) else { return };
    let Ok(entries) = fs::read_dir(cluster.logs()) else { return };
    for file in entries.flatten().map(|entry| entry.path()) {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        eprintln!("--- {}", file.display());
        for line in &lines[lines.len().saturating_sub(40)..] {
            eprintln!("{line}");
        }
    }
}
