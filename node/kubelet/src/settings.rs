//! Flags of `fairlead-node kubelet` and what follows from them.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Flags of the kubelet.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Name of this node in the API.
    #[arg(long)]
    pub node_name: String,
    /// Kubeconfig with the node's own credentials.
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Address under which the node is reached; two, of one family each, for dual stack: the first is the primary one.
    #[arg(long, required = true, value_delimiter = ',')]
    pub node_ip: Vec<IpAddr>,
    /// Name of the cluster; several may share one Docker Engine.
    #[arg(long, default_value = "fairlead")]
    pub cluster_name: String,
    /// Certificate the kubelet's own API serves with (PEM).
    #[arg(long)]
    pub tls_cert_file: PathBuf,
    /// Private key of that certificate (PEM).
    #[arg(long)]
    pub tls_private_key_file: PathBuf,
    /// Certificate authority that signs clients of the kubelet's API (PEM).
    #[arg(long)]
    pub client_ca_file: PathBuf,
    /// Port of the kubelet's API; 0 chooses a free one.
    #[arg(long, default_value_t = 10250)]
    pub port: u16,
    /// Directory that stands for this node's file system.
    #[arg(long, default_value = "/")]
    pub node_root: PathBuf,
    /// Docker Engine's socket.
    #[arg(long, default_value = "unix:///var/run/docker.sock")]
    pub docker_host: String,
    /// Container whose network namespace is the node's; without it the machine's own.
    #[arg(long)]
    pub host_network_container: Option<String>,
    /// Image that holds a pod's namespaces.
    #[arg(long, default_value = "fairlead/pause:latest")]
    pub pause_image: String,
    /// Address of the cluster's DNS server (may be repeated).
    #[arg(long)]
    pub cluster_dns: Vec<IpAddr>,
    /// DNS domain of the cluster.
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// How many pods this node takes.
    #[arg(long, default_value_t = 110)]
    pub max_pods: u32,
}

/// Paths of the machine that `hostPath` never moves below the node's root.
const MACHINE_PATHS: [&str; 4] = ["/proc", "/dev", "/sys/fs/cgroup", "/lib/modules"];

impl Args {
    /// Where an absolute path of this node lies on the machine.
    #[must_use]
    pub fn on_machine(&self, path: &Path) -> PathBuf {
        if self.node_root == Path::new("/") || MACHINE_PATHS.iter().any(|machine| path.starts_with(machine)) {
            return path.to_path_buf();
        }
        self.node_root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The kubelet's own directory.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.on_machine(Path::new("/var/lib/kubelet"))
    }

    /// Where everything of one pod is kept.
    #[must_use]
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.state_dir().join("pods").join(uid)
    }

    /// The node's addresses, the primary one first: what status reports as `hostIPs`.
    #[must_use]
    pub fn host_ips(&self) -> Vec<String> {
        self.node_ip.iter().map(ToString::to_string).collect()
    }

    /// Whether the node's addresses are one, or one of each family.
    #[must_use]
    pub fn has_valid_addresses(&self) -> bool {
        match self.node_ip.as_slice() {
            [_] => true,
            [first, second] => first.is_ipv4() != second.is_ipv4(),
            _ => false,
        }
    }

    /// A pod's addresses in the order of the node's: the family of the node's primary address is the pods', too.
    #[must_use]
    pub fn in_order(&self, mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        let primary = self.node_ip.first().is_none_or(IpAddr::is_ipv4);
        addresses.sort_by_key(|address| address.is_ipv4() != primary);
        addresses
    }

    /// Docker's network mode for pods that share the node's network.
    #[must_use]
    pub fn host_network_mode(&self) -> String {
        match &self.host_network_container {
            Some(holder) => format!("container:{holder}"),
            None => "host".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    pub(crate) fn args(extra: &[&str]) -> Args {
        let mut line = vec![
            "x",
            "--node-name",
            "n",
            "--kubeconfig",
            "/k",
            "--node-ip",
            "10.0.0.1",
            "--tls-cert-file",
            "/c",
            "--tls-private-key-file",
            "/p",
            "--client-ca-file",
            "/ca",
        ];
        line.extend_from_slice(extra);
        Cli::parse_from(line).args
    }

    #[test]
    fn paths_of_the_node_lie_below_its_root_except_those_of_the_machine() {
        let node = args(&["--node-root", "/n/a"]);
        for (path, expected) in [
            ("/etc/cni/net.d", "/n/a/etc/cni/net.d"),
            ("/sys/fs/bpf", "/n/a/sys/fs/bpf"),
            ("/sys/fs/cgroup", "/sys/fs/cgroup"),
            ("/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified"),
            ("/proc/sys", "/proc/sys"),
            ("/processes", "/n/a/processes"),
            ("/lib/modules", "/lib/modules"),
            ("/", "/n/a/"),
        ] {
            assert_eq!(node.on_machine(Path::new(path)), Path::new(expected), "{path}");
        }
        assert_eq!(args(&[]).on_machine(Path::new("/etc")), Path::new("/etc"));
    }

    #[test]
    fn the_nodes_primary_family_is_the_pods_too() {
        let pair = || vec!["10.244.0.2".parse().unwrap(), "fd00::2".parse::<IpAddr>().unwrap()];
        let shown = |args: &Args| args.in_order(pair()).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown(&args(&[])), ["10.244.0.2", "fd00::2"]);
        let mut six = args(&["--node-ip", "fd00::1"]);
        assert!(six.has_valid_addresses());
        six.node_ip.reverse();
        assert_eq!(shown(&six), ["fd00::2", "10.244.0.2"]);
        assert_eq!(six.host_ips(), ["fd00::1", "10.0.0.1"]);
        assert_eq!(args(&["--node-ip", "fd00::1,10.0.0.2"]).node_ip.len(), 3);
        for extra in ["10.0.0.2", "fd00::1,fd00::2"] {
            assert!(!args(&["--node-ip", extra]).has_valid_addresses(), "{extra}");
        }
    }

    #[test]
    fn host_network_is_the_holders_when_there_is_one() {
        assert_eq!(args(&[]).host_network_mode(), "host");
        assert_eq!(args(&["--host-network-container", "h"]).host_network_mode(), "container:h");
    }
}
