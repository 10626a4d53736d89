//! Command-line flags of `fairlead-node dataplane` and their checked form.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use ipnet::IpNet;

use crate::{
    Error,
    model::{Algorithm, Family},
    overlay::NodePorts,
};

/// How pod packets reach other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OverlayMode {
    /// Wrapped in VXLAN between node addresses.
    Vxlan,
    /// Routed as they are: the network between the nodes knows the pod CIDRs, or the nodes share a segment.
    Native,
}

/// Whether packets that only pass through the node are forwarded by the uplink's driver (XDP).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Xdp {
    /// Where the uplink is hardware whose driver does it by itself.
    Auto,
    /// Never.
    Off,
    /// On any device that can, also where it makes things slower (veth); it is an error when the uplink cannot.
    Force,
}

/// Flags of `fairlead-node dataplane`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Name of this node's Node object.
    #[arg(long, env = "NODE_NAME", default_value = "")]
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
    /// Addresses of all pods of the cluster: one CIDR, or one of each family, separated by a comma.
    #[arg(long, env = "FAIRLEAD_CLUSTER_CIDR", default_value = "10.244.0.0/16", value_delimiter = ',')]
    pub cluster_cidr: Vec<IpNet>,
    /// Addresses of Services: one CIDR, or one of each family, separated by a comma.
    #[arg(long, env = "FAIRLEAD_SERVICE_CIDR", default_value = "10.96.0.0/16", value_delimiter = ',')]
    pub service_cluster_ip_range: Vec<IpNet>,
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
    /// How connections from pods and nodes to a Service are spread, unless its annotation `fairlead.io/load-balancing` says
    /// otherwise. Those from outside go by Maglev.
    #[arg(long, env = "FAIRLEAD_LOAD_BALANCING", value_enum, default_value = "round-robin")]
    pub load_balancing: Algorithm,
    /// On which of the node's addresses NodePorts answer: CIDRs separated by commas, or `primary`; all without it.
    #[arg(long, env = "FAIRLEAD_NODEPORT_ADDRESSES", value_delimiter = ',')]
    pub nodeport_addresses: Vec<String>,
    /// Destinations outside the cluster that pods reach with their own address. Can be given more than once.
    #[arg(long, env = "FAIRLEAD_NON_MASQUERADE_CIDR", value_delimiter = ',')]
    pub non_masquerade_cidr: Vec<IpNet>,
    /// Whether addresses of load balancers that lie in the uplink's own network are answered for by ARP and neighbour
    /// discovery, each by one node.
    #[arg(long, env = "FAIRLEAD_ANNOUNCE", default_value_t = true, action = clap::ArgAction::Set)]
    pub announce_load_balancers: bool,
    /// Whether TCP connections between two pods of this node go from socket to socket, as far as policies allow them. Not
    /// for programs that read sockets by splice(2), MSG_WAITALL or urgent data, use the kernel's TLS, or block in two
    /// threads on one socket. Needs Linux 6.13 with BTF.
    #[arg(long, env = "FAIRLEAD_SPLICE", default_value_t = false, action = clap::ArgAction::Set)]
    pub splice: bool,
    /// Whether packets of NodePorts and load balancers that only pass through this node are forwarded by the uplink's
    /// driver (XDP).
    #[arg(long, env = "FAIRLEAD_XDP", value_enum, default_value = "auto")]
    pub xdp: Xdp,
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
    /// Addresses of all pods of the cluster, one block of each family at most.
    pub cluster_cidrs: Vec<IpNet>,
    /// Addresses of Services, one block of each family at most.
    pub service_cidrs: Vec<IpNet>,
    /// Interface that carries node traffic; None chooses by the node's InternalIP.
    pub uplink: Option<String>,
    /// How pod packets reach other nodes.
    pub overlay: OverlayMode,
    /// UDP port of the overlay.
    pub vxlan_port: u16,
    /// VXLAN network identifier.
    pub vxlan_vni: u32,
    /// How connections from pods and nodes are spread when a Service does not say.
    pub load_balancing: Algorithm,
    /// On which of the node's addresses NodePorts answer.
    pub node_ports: NodePorts,
    /// Destinations outside the cluster that pods reach with their own address.
    pub direct: Vec<IpNet>,
    /// Whether addresses of load balancers are answered for.
    pub announce: bool,
    /// Whether connections between pods of this node go from socket to socket.
    pub splice: bool,
    /// Whether the uplink's driver forwards packets that only pass through.
    pub xdp: Xdp,
    /// Where /metrics and /healthz are served.
    pub metrics_address: SocketAddr,
    /// Whether the CNI configuration and plugin are written when the dataplane is ready.
    pub install_cni: bool,
}

impl Args {
    /// Checks the flags against each other.
    ///
    /// # Errors
    /// [`Error::Settings`] when the cluster and service ranges overlap or do not fit each other, or the node name is empty.
    pub fn into_settings(self) -> Result<Settings, Error> {
        if self.node_name.is_empty() {
            return Err(Error::Settings("--node-name is empty".to_owned()));
        }
        let (pods, services) = ranges(&self.cluster_cidr, &self.service_cluster_ip_range)?;
        Ok(Settings {
            node_name: self.node_name,
            bpf_object: self.bpf_object,
            pins: pins(&self.bpffs),
            run_dir: self.run_dir,
            cni_conf_dir: self.cni_conf_dir,
            cni_bin_dir: self.cni_bin_dir,
            cni_plugin: self.cni_plugin,
            cluster_cidrs: pods,
            service_cidrs: services,
            uplink: (self.uplink != "auto").then_some(self.uplink),
            overlay: self.overlay,
            vxlan_port: self.vxlan_port,
            vxlan_vni: self.vxlan_vni,
            load_balancing: self.load_balancing,
            node_ports: node_ports(&self.nodeport_addresses)?,
            direct: self.non_masquerade_cidr.iter().map(IpNet::trunc).collect(),
            announce: self.announce_load_balancers,
            splice: self.splice,
            xdp: self.xdp,
            metrics_address: self.metrics_address,
            install_cni: true,
        })
    }
}

/// Where everything of a node is pinned in its bpffs.
#[must_use]
pub fn pins(bpffs: &Path) -> PathBuf {
    bpffs.join("fairlead")
}

/// Reads --nodeport-addresses.
fn node_ports(texts: &[String]) -> Result<NodePorts, Error> {
    match texts {
        [] => Ok(NodePorts::Everywhere),
        [one] if one == "primary" => Ok(NodePorts::Primary),
        _ => {
            let block = |text: &String| {
                text.parse().map_err(|error| {
                    Error::Settings(format!(
                        "--nodeport-addresses {text:?} is neither a CIDR nor `primary`: {error}"
                    ))
                })
            };
            texts.iter().map(block).collect::<Result<_, _>>().map(NodePorts::Within)
        }
    }
}

/// Checks the ranges of pods and Services; gives them without host bits.
fn ranges(pods: &[IpNet], services: &[IpNet]) -> Result<(Vec<IpNet>, Vec<IpNet>), Error> {
    let refused = |text: String| Err(Error::Settings(text));
    let [pods, services] = [pods, services].map(|nets| nets.iter().map(IpNet::trunc).collect::<Vec<_>>());
    for (flag, nets) in [("--cluster-cidr", &pods), ("--service-cluster-ip-range", &services)] {
        let families: Vec<Family> = nets.iter().map(|net| Family::of(net.addr())).collect();
        match families.as_slice() {
            [_] => {}
            [one, other] if one != other => {}
            _ => return refused(format!("{flag} takes one CIDR, or two of different families")),
        }
    }
    for service in &services {
        let of_family = |net: &&IpNet| Family::of(net.addr()) == Family::of(service.addr());
        match pods.iter().find(of_family) {
            None => {
                return refused(format!(
                    "--service-cluster-ip-range {service} is of a family that --cluster-cidr does not have"
                ));
            }
            Some(cluster) if cluster.contains(service) || service.contains(cluster) => {
                return refused(format!(
                    "--cluster-cidr {cluster} and --service-cluster-ip-range {service} overlap"
                ));
            }
            Some(_) => {}
        }
    }
    Ok((pods, services))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_port_addresses_are_blocks_or_the_primary_ones() {
        let parse = |texts: &[&str]| node_ports(&texts.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(parse(&[]).expect("all"), NodePorts::Everywhere);
        assert_eq!(parse(&["primary"]).expect("those"), NodePorts::Primary);
        let blocks = parse(&["192.0.2.0/24", "2001:db8::/32"]).expect("blocks");
        assert!(matches!(blocks, NodePorts::Within(blocks) if blocks.len() == 2));
        parse(&["192.0.2.0/24", "primary"]).expect_err("not both");
    }

    #[test]
    fn ranges_are_one_of_each_family_and_do_not_meet() {
        let nets =
            |text: &str| -> Vec<IpNet> { text.split(',').map(|net| net.parse().expect("a CIDR")).collect() };
        let check =
            |pods: &str, services: &str| ranges(&nets(pods), &nets(services)).map_err(|e| e.to_string());
        let (pods, _) =
            check("10.244.0.1/16,fd00:10::/56", "10.96.0.0/16,fd00:96::/112").expect("dual stack");
        assert_eq!(pods, nets("10.244.0.0/16,fd00:10::/56"));
        check("10.244.0.0/16,fd00:10::/56", "10.96.0.0/16").expect("pods alone may be dual stack");
        check("fd00:10::/56", "fd00:96::/112").expect("IPv6 alone");
        for (pods, services, problem) in [
            ("10.244.0.0/16,10.245.0.0/16", "10.96.0.0/16", "--cluster-cidr takes"),
            ("10.244.0.0/16", "10.96.0.0/16,fd00:96::/112", "does not have"),
            ("10.0.0.0/8", "10.96.0.0/16", "overlap"),
            ("10.244.0.0/16,fd00::/16", "10.96.0.0/16,fd00:0:1::/112", "overlap"),
        ] {
            let error = check(pods, services).expect_err(problem);
            assert!(error.contains(problem), "{error}");
        }
    }
}
