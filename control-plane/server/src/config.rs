//! What the server is told on its command line.

use std::{
    net::{IpAddr, Ipv4Addr, UdpSocket},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;

/// How a control plane is run.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeArgs {
    /// Directory for the store, certificates and admin.kubeconfig
    #[arg(long)]
    pub data_dir: PathBuf,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub bind_address: IpAddr,
    /// Port to listen on; 0 takes any free one
    #[arg(long, default_value_t = 6443)]
    pub secure_port: u16,
    /// Address that nodes and pods reach this server at [default: the bind address, or the one of the default route]
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,
    /// Further names and addresses for the serving certificate
    #[arg(long, value_delimiter = ',')]
    pub tls_san: Vec<String>,
    /// Address ranges of pods; each node gets a part
    #[arg(long, value_delimiter = ',', default_value = "10.244.0.0/16")]
    pub cluster_cidr: Vec<IpNet>,
    /// Prefix length of a node's part of a single range of pods [default: 24 of IPv4, 64 of IPv6]
    #[arg(long)]
    pub node_cidr_mask_size: Option<u8>,
    /// Prefix length of a node's part of the IPv4 range of pods, beside an IPv6 one [default: 24]
    #[arg(long)]
    pub node_cidr_mask_size_ipv4: Option<u8>,
    /// Prefix length of a node's part of the IPv6 range of pods, beside an IPv4 one [default: 64]
    #[arg(long)]
    pub node_cidr_mask_size_ipv6: Option<u8>,
    /// Address ranges of Services, at most one of a family; the first is the one of Services that ask for none
    #[arg(long, value_delimiter = ',', default_value = "10.96.0.0/16")]
    pub service_cluster_ip_range: Vec<IpNet>,
    /// Addresses for Services of type LoadBalancer, as a range like 192.0.2.0/28 or 192.0.2.5-192.0.2.9; may be
    /// repeated. More can be given in ConfigMap kube-system/fairlead-load-balancer, key `pools`
    #[arg(long, value_delimiter = ',', value_parser = fairlead_controllers::pool::Span::parse)]
    pub load_balancer_pool: Vec<fairlead_controllers::pool::Span>,
    /// Ports of Services of type NodePort and LoadBalancer
    #[arg(long, default_value = "30000-32767", value_parser = port_range)]
    pub service_node_port_range: RangeInclusive<u16>,
    /// Client URLs of an etcd cluster, in place of the embedded store
    #[arg(long, value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    /// Authority that signed the certificates of etcd (PEM)
    #[arg(long)]
    pub etcd_cafile: Option<PathBuf>,
    /// Client certificate for etcd (PEM)
    #[arg(long, requires = "etcd_keyfile")]
    pub etcd_certfile: Option<PathBuf>,
    /// Key of the client certificate for etcd (PEM)
    #[arg(long, requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
    /// What stands before every key in etcd
    #[arg(long, default_value = "/registry")]
    pub etcd_prefix: String,
    /// How long changes stay available to watches and lists at older revisions, as 5m0s; 0 leaves compaction to others
    #[arg(long, default_value = "5m0s", value_parser = duration)]
    pub etcd_compaction_interval: Duration,
    /// How long Events are kept
    #[arg(long, default_value = "1h0m0s", value_parser = duration)]
    pub event_ttl: Duration,
    /// Controllers to run: `*` for all, `none`, or names with `-` before those to leave out
    #[arg(long, default_value = "*", allow_hyphen_values = true)]
    pub controllers: String,
    /// Whether to run the scheduler
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub scheduler: bool,
    /// Seconds that a node may be silent before its pods are looked after elsewhere
    #[arg(long, default_value_t = 40)]
    pub node_monitor_grace_seconds: u64,
    /// Beside the other arguments on the command line: an optional group of arguments cannot hold another group.
    #[arg(skip)]
    pub limits: Limits,
}

/// What the server bounds, so that no client takes it from the others. Names and defaults are upstream's where it
/// has them.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Limits {
    /// Reads that are worked on at once; more wait a little and are then refused with 429. 0 is no bound
    #[arg(long, default_value_t = 400)]
    pub max_requests_inflight: usize,
    /// Writes that are worked on at once; more wait a little and are then refused with 429. 0 is no bound
    #[arg(long, default_value_t = 200)]
    pub max_mutating_requests_inflight: usize,
    /// Seconds that a request may take, its body included; watches and streams may take longer
    #[arg(long, default_value_t = 60)]
    pub request_timeout_seconds: u64,
    /// Seconds after which a client that takes nothing of its answer is cut off
    #[arg(long, default_value_t = 60)]
    pub stall_timeout_seconds: u64,
    /// Seconds after which a connection without a request is closed
    #[arg(long, default_value_t = 90)]
    pub idle_timeout_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_requests_inflight: 400,
            max_mutating_requests_inflight: 200,
            request_timeout_seconds: 60,
            stall_timeout_seconds: 60,
            idle_timeout_seconds: 90,
        }
    }
}

impl Limits {
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout_seconds)
    }

    pub fn stall_timeout(&self) -> Duration {
        Duration::from_secs(self.stall_timeout_seconds)
    }

    pub fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_seconds)
    }
}

impl ServeArgs {
    /// The address that others reach the server at.
    pub fn advertised(&self) -> IpAddr {
        let chosen =
            self.advertise_address.or((!self.bind_address.is_unspecified()).then_some(self.bind_address));
        chosen.or_else(default_route).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    /// Prefix lengths of a node's parts: of IPv4, of IPv6.
    pub fn node_masks(&self) -> (u8, u8) {
        let single = self.node_cidr_mask_size.filter(|_| self.cluster_cidr.len() == 1);
        let mask = |own: Option<u8>, default: u8| own.or(single).unwrap_or(default);
        (mask(self.node_cidr_mask_size_ipv4, 24), mask(self.node_cidr_mask_size_ipv6, 64))
    }

    pub fn node_monitor_grace(&self) -> Duration {
        Duration::from_secs(self.node_monitor_grace_seconds)
    }
}

/// The address of the interface that the default route leaves by. Nothing is sent.
fn default_route() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').ok_or("expected FIRST-LAST")?;
    let port = |text: &str| text.trim().parse::<u16>().map_err(|error| format!("{text:?}: {error}"));
    let (first, last) = (port(first)?, port(last)?);
    if first == 0 || first > last {
        return Err("the first port must be above 0 and not above the last".into());
    }
    Ok(first..=last)
}

/// A duration as Go writes it: `1h30m`, `1.5s`, `0`.
fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 6] =
        [("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
    let bad = || format!("{text:?} is not a duration like 1h30m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        let unit = UNITS.iter().find(|(unit, _)| rest[digits..].starts_with(unit)).ok_or_else(bad)?;
        seconds += number * unit.1;
        rest = &rest[digits + unit.0.len()..];
    }
    if text.is_empty() {
        return Err(bad());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_in_go() {
        for (text, millis) in
            [("5m0s", 300_000), ("1h0m0s", 3_600_000), ("0", 0), ("1.5s", 1500), ("1h2m3s4ms", 3_723_004)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "m", "-1s", "1s2", "1x", "1..2s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
