//! Command-line flags of `fairlead-node dataplane` and their checked form.

use std::{net::SocketAddr, path::PathBuf};

use clap::ValueEnum;
use ipnet::Ipv4Net;

use crate::Error;

/// How pod packets reach other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OverlayMode {
    /// Wrapped in VXLAN between node addresses.
    Vxlan,
    /// Routed as they are: the network between the nodes knows the pod CIDRs, or the nodes share a segment.
    Native,
}

/// Flags of `fairlead-node dataplane`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Name of this node's Node object.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,
    /// eBPF object with all programs.
    #[arg(long, default_value = "/usr/lib/fairlead/programs.o")]
    pub bpf_object: PathBuf,
    /// Mounted bpffs of this node; pins go below `fairlead/` in it.
    #[arg(long, default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
    /// Directory of the CNI socket, `subnet.env` and the record of pod addresses.
    #[arg(long, default_value = "/run/fairlead")]
    pub run_dir: PathBuf,
    /// Where the kubelet looks for CNI configuration.
    #[arg(long, default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// Where the kubelet looks for CNI plugins.
    #[arg(long, default_value = "/opt/cni/bin")]
    pub cni_bin_dir: PathBuf,
    /// The plugin that is installed into --cni-bin-dir.
    #[arg(long, default_value = "/usr/bin/fairlead-cni")]
    pub cni_plugin: PathBuf,
    /// Addresses of all pods of the cluster.
    #[arg(long, env = "FAIRLEAD_CLUSTER_CIDR", default_value = "10.244.0.0/16")]
    pub cluster_cidr: Ipv4Net,
    /// Addresses of Services.
    #[arg(long, env = "FAIRLEAD_SERVICE_CIDR", default_value = "10.96.0.0/16")]
    pub service_cluster_ip_range: Ipv4Net,
    /// Interface that carries node traffic; `auto` is the one that holds the node's InternalIP.
    #[arg(long, env = "FAIRLEAD_UPLINK", default_value = "auto")]
    pub uplink: String,
    /// How pod packets reach other nodes.
    #[arg(long, env = "FAIRLEAD_OVERLAY", value_enum, default_value = "vxlan")]
    pub overlay: OverlayMode,
    /// UDP port of the overlay.
    #[arg(long, default_value_t = 8472, value_parser = clap::value_parser!(u16).range(1..))]
    pub vxlan_port: u16,
    /// VXLAN network identifier (24 bits).
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=0x00ff_ffff))]
    pub vxlan_vni: u32,
    /// Where /metrics and /healthz are served; port 0 chooses a free one.
    #[arg(long, default_value = "127.0.0.1:9962")]
    pub metrics_address: SocketAddr,
    /// Credentials for the API server; without it, the service account of the pod is used.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
}

/// Checked settings of one dataplane, independent of how it reaches the API.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of this node's Node object.
    pub node_name: String,
    /// eBPF object with all programs.
    pub bpf_object: PathBuf,
    /// Directory of all pins of this node: `<bpffs>/fairlead`.
    pub pins: PathBuf,
    /// Directory of the CNI socket, `subnet.env` and the record of pod addresses.
    pub run_dir: PathBuf,
    /// Where the kubelet looks for CNI configuration.
    pub cni_conf_dir: PathBuf,
    /// Where the kubelet looks for CNI plugins.
    pub cni_bin_dir: PathBuf,
    /// The plugin that is installed.
    pub cni_plugin: PathBuf,
    /// Addresses of all pods of the cluster.
    pub cluster_cidr: Ipv4Net,
    /// Addresses of Services.
    pub service_cidr: Ipv4Net,
    /// Interface that carries node traffic; None chooses by the node's InternalIP.
    pub uplink: Option<String>,
    /// How pod packets reach other nodes.
    pub overlay: OverlayMode,
    /// UDP port of the overlay.
    pub vxlan_port: u16,
    /// VXLAN network identifier.
    pub vxlan_vni: u32,
    /// Where /metrics and /healthz are served.
    pub metrics_address: SocketAddr,
    /// Whether the CNI configuration and plugin are written when the dataplane is ready.
    pub install_cni: bool,
}

impl Args {
    /// Checks the flags against each other.
    ///
    /// # Errors
    /// [`Error::Settings`] when the cluster and service ranges overlap or the node name is empty.
    pub fn into_settings(self) -> Result<Settings, Error> {
        if self.node_name.is_empty() {
            return Err(Error::Settings("--node-name is empty".to_owned()));
        }
        let (pods, services) = (self.cluster_cidr.trunc(), self.service_cluster_ip_range.trunc());
        if pods.contains(&services) || services.contains(&pods) {
            return Err(Error::Settings(format!(
                "--cluster-cidr {pods} and --service-cluster-ip-range {services} overlap"
            )));
        }
        Ok(Settings {
            node_name: self.node_name,
            bpf_object: self.bpf_object,
            pins: self.bpffs.join("fairlead"),
            run_dir: self.run_dir,
            cni_conf_dir: self.cni_conf_dir,
            cni_bin_dir: self.cni_bin_dir,
            cni_plugin: self.cni_plugin,
            cluster_cidr: pods,
            service_cidr: services,
            uplink: (self.uplink != "auto").then_some(self.uplink),
            overlay: self.overlay,
            vxlan_port: self.vxlan_port,
            vxlan_vni: self.vxlan_vni,
            metrics_address: self.metrics_address,
            install_cni: true,
        })
    }
}
