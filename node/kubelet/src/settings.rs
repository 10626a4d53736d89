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
    /// Address under which the node is reached (may be given twice for dual stack).
    #[arg(long, required = true)]
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

    /// The node's first address: the one status reports as `hostIP`.
    #[must_use]
    pub fn host_ip(&self) -> String {
        self.node_ip.first().map(ToString::to_string).unwrap_or_default()
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
    fn host_network_is_the_holders_when_there_is_one() {
        assert_eq!(args(&[]).host_network_mode(), "host");
        assert_eq!(args(&["--host-network-container", "h"]).host_network_mode(), "container:h");
    }
}
