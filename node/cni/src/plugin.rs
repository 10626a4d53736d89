//! The commands of the plugin: VERSION, ADD, DEL, CHECK, STATUS and GC.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use ipnet::IpNet;

use crate::{
    netlink::{self, LinkChange, NetlinkError, Socket, VethEnd},
    netns, next_hop,
    protocol::{self, Answer, Network, PodRef, Request},
    spec::{self, AddResult, Attachment, Code, Config, Dns, Failure, Interface, Ip, Route},
    sysctl,
};

/// Where the dataplane's socket is when the configuration does not say.
const DEFAULT_SOCKET: &str = "/run/fairlead/cni.sock";

/// Longest interface name the kernel takes (IFNAMSIZ less the final zero).
const MAX_INTERFACE_NAME: usize = 15;

/// Who makes the routes inside pods (rtm_protocol of static routes).
const ROUTE_PROTOCOL: u8 = 4;

type Outcome = Result<String, Failure>;

/// Carries out the command that the environment names and gives what goes to standard output.
///
/// # Errors
/// A [`Failure`] in the specification's codes.
pub fn execute(environment: &HashMap<String, String>, input: &[u8]) -> Outcome {
    let command = required(environment, "CNI_COMMAND")?;
    if command == "VERSION" {
        return Ok(serde_json::json!({ "cniVersion": spec::NEWEST, "supportedVersions": spec::VERSIONS })
            .to_string());
    }
    let config: Config = serde_json::from_slice(input)
        .map_err(|error| Failure::new(Code::Decode, format!("network configuration: {error}")))?;
    if !spec::VERSIONS.contains(&config.cni_version.as_str()) {
        return Err(Failure::new(
            Code::IncompatibleVersion,
            format!("cniVersion {:?} is not one of {}", config.cni_version, spec::VERSIONS.join(", ")),
        ));
    }
    let call = Call { socket: socket_path(environment, &config)?, environment, config };
    match command {
        "ADD" => call.add(),
        "DEL" => call.delete(),
        "CHECK" => call.check(),
        "STATUS" => call.status(),
        "GC" => call.collect(),
        other => Err(Failure::new(Code::InvalidEnvironment, format!("CNI_COMMAND {other:?} is not known"))),
    }
}

fn required<'a>(environment: &'a HashMap<String, String>, name: &str) -> Result<&'a str, Failure> {
    match environment.get(name) {
        Some(value) if !value.is_empty() => Ok(value),
        _ => Err(Failure::new(Code::InvalidEnvironment, format!("{name} is not set"))),
    }
}

/// The socket as seen from here: below FAIRLEAD_NODE_ROOT when the node's file system is a directory of the machine.
fn socket_path(environment: &HashMap<String, String>, config: &Config) -> Result<PathBuf, Failure> {
    let socket = config.socket.as_deref().unwrap_or(DEFAULT_SOCKET);
    let Some(below_root) = socket.strip_prefix('/') else {
        return Err(Failure::new(Code::InvalidConfig, format!("socket {socket:?} is not an absolute path")));
    };
    let root = environment.get("FAIRLEAD_NODE_ROOT").map_or("/", String::as_str);
    Ok(Path::new(root).join(below_root))
}

struct Call<'a> {
    socket: PathBuf,
    environment: &'a HashMap<String, String>,
    config: Config,
}

impl Call<'_> {
    fn attachment(&self) -> Result<Attachment, Failure> {
        let container_id = required(self.environment, "CNI_CONTAINERID")?.to_owned();
        let ifname = required(self.environment, "CNI_IFNAME")?.to_owned();
        let valid_id = container_id.starts_with(|first: char| first.is_ascii_alphanumeric())
            && container_id.len() <= 256
            && container_id.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        if !valid_id {
            return Err(Failure::new(
                Code::InvalidEnvironment,
                format!("CNI_CONTAINERID {container_id:?} is malformed"),
            ));
        }
        let valid_name = ifname.len() <= MAX_INTERFACE_NAME
            && ifname != "."
            && ifname != ".."
            && !ifname.contains(|c: char| c == '/' || c == ':' || c.is_whitespace());
        if !valid_name {
            return Err(Failure::new(
                Code::InvalidEnvironment,
                format!("CNI_IFNAME {ifname:?} is malformed"),
            ));
        }
        Ok(Attachment { container_id, ifname })
    }

    fn pod(&self) -> Result<PodRef, Failure> {
        let arguments: HashMap<&str, &str> = self
            .environment
            .get("CNI_ARGS")
            .map_or("", String::as_str)
            .split(';')
            .filter_map(|pair| pair.split_once('='))
            .collect();
        let value = |name: &str| {
            let found = arguments.get(name).copied().filter(|value| !value.is_empty());
            found.ok_or_else(|| Failure::new(Code::InvalidEnvironment, format!("CNI_ARGS lack {name}")))
        };
        Ok(PodRef {
            namespace: value("K8S_POD_NAMESPACE")?.to_owned(),
            name: value("K8S_POD_NAME")?.to_owned(),
            uid: arguments.get("K8S_POD_UID").copied().unwrap_or_default().to_owned(),
        })
    }

    fn ask(&self, request: &Request) -> Result<Answer, Failure> {
        match protocol::call(&self.socket, request) {
            Ok(Answer::Refused { retry, message }) => {
                Err(Failure::new(if retry { Code::TryAgain } else { Code::Refused }, message))
            }
            Ok(answer) => Ok(answer),
            Err(error) => Err(Failure::new(
                Code::TryAgain,
                format!("the dataplane at {} does not answer: {error}", self.socket.display()),
            )),
        }
    }

    fn network(&self, request: &Request) -> Result<Network, Failure> {
        match self.ask(request)? {
            Answer::Network(network) => Ok(network),
            _ => Err(Failure::new(Code::Io, "the dataplane's answer is not the expected one")),
        }
    }

    fn add(&self) -> Outcome {
        let attachment = self.attachment()?;
        let path = required(self.environment, "CNI_NETNS")?;
        let namespace = open_namespace(path)?;
        let netns_cookie = inside(namespace.as_fd(), || netns::cookie().map_err(io_failure))?;
        let network = self.network(&Request::Allocate {
            attachment: attachment.clone(),
            pod: self.pod()?,
            netns_cookie,
            ports: self.config.runtime_config.port_mappings.clone(),
        })?;
        let made = match plug(namespace.as_fd(), &attachment.ifname, &network) {
            Ok(made) => made,
            Err(failure) => {
                // Nothing may stay behind of an ADD that failed; its own error is the one to report.
                let _ = self.ask(&Request::Delete { attachment });
                return Err(failure);
            }
        };
        let attach = Request::Attach {
            attachment: attachment.clone(),
            host_ifindex: made.host_index,
            host_mac: made.host_mac,
            pod_mac: made.pod_mac,
        };
        if let Err(failure) = self.ask(&attach) {
            let _ = self.ask(&Request::Delete { attachment });
            let _ = unplug_host(&network.host_interface);
            return Err(failure);
        }
        self.result(&attachment, path, &network, &made)
    }

    fn result(&self, attachment: &Attachment, path: &str, network: &Network, made: &Plugged) -> Outcome {
        let version = self.config.cni_version.as_str();
        let mtu = (version == "1.1.0").then_some(network.mtu);
        let legacy = version.starts_with("0.");
        let ip = |address: IpAddr| Ip {
            address: IpNet::from(address),
            gateway: Some(next_hop(address)),
            interface: Some(1),
            version: legacy.then(|| if address.is_ipv4() { "4" } else { "6" }.to_owned()),
        };
        let route = |address: IpAddr| Route { dst: everything(address), gw: Some(next_hop(address)) };
        let result = AddResult {
            cni_version: self.config.cni_version.clone(),
            interfaces: vec![
                Interface {
                    name: network.host_interface.clone(),
                    mac: spec::format_mac(made.host_mac),
                    mtu,
                    sandbox: None,
                },
                Interface {
                    name: attachment.ifname.clone(),
                    mac: spec::format_mac(made.pod_mac),
                    mtu,
                    sandbox: Some(path.to_owned()),
                },
            ],
            ips: network.addresses().map(ip).collect(),
            routes: network.addresses().map(route).collect(),
            dns: Dns {},
        };
        serde_json::to_string(&result).map_err(|error| Failure::new(Code::Io, error.to_string()))
    }

    fn delete(&self) -> Outcome {
        let attachment = self.attachment()?;
        self.ask(&Request::Delete { attachment: attachment.clone() })?;
        // The dataplane deletes the host side, and the peer goes with it. What is left is an interface of an ADD
        // that the dataplane has never heard of; its namespace may well be gone.
        if let Some(path) = self.environment.get("CNI_NETNS").filter(|path| !path.is_empty())
            && let Ok(namespace) = netns::open(Path::new(path))
        {
            inside(namespace.as_fd(), || {
                let mut socket = Socket::open().map_err(netlink_failure)?;
                match socket.link(&attachment.ifname).map_err(netlink_failure)? {
                    Some(link) if link.kind == "veth" => {
                        socket.delete_link(link.index).map_err(netlink_failure)
                    }
                    _ => Ok(()),
                }
            })?;
        }
        Ok(String::new())
    }

    fn check(&self) -> Outcome {
        let attachment = self.attachment()?;
        let network = self.network(&Request::Check { attachment: attachment.clone() })?;
        let namespace = open_namespace(required(self.environment, "CNI_NETNS")?)?;
        if let Some(previous) = &self.config.prev_result {
            for expected in network.addresses().map(|address| IpNet::from(address).to_string()) {
                let listed = previous["ips"]
                    .as_array()
                    .is_some_and(|ips| ips.iter().any(|ip| ip["address"] == expected.as_str()));
                if !listed {
                    return Err(Failure::new(
                        Code::CheckFailed,
                        format!("prevResult does not list {expected}"),
                    ));
                }
            }
        }
        let mut host = Socket::open().map_err(netlink_failure)?;
        match host.link(&network.host_interface).map_err(netlink_failure)? {
            Some(link) if link.up => {}
            Some(_) => {
                return Err(Failure::new(Code::CheckFailed, format!("{} is down", network.host_interface)));
            }
            None => {
                return Err(Failure::new(Code::CheckFailed, format!("{} is gone", network.host_interface)));
            }
        }
        inside(namespace.as_fd(), || check_inside(&attachment.ifname, &network))?;
        Ok(String::new())
    }

    fn status(&self) -> Outcome {
        match self.ask(&Request::Status) {
            Ok(_) => Ok(String::new()),
            Err(failure) => Err(Failure::new(Code::NotAvailable, failure.msg)),
        }
    }

    fn collect(&self) -> Outcome {
        let valid = self.config.valid_attachments.iter().chain(&self.config.attachments).cloned().collect();
        self.ask(&Request::Gc { valid })?;
        Ok(String::new())
    }
}

/// Every address of that address's family.
fn everything(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

fn check_inside(ifname: &str, network: &Network) -> Result<(), Failure> {
    let mut socket = Socket::open().map_err(netlink_failure)?;
    let Some(link) = socket.link(ifname).map_err(netlink_failure)? else {
        return Err(Failure::new(Code::CheckFailed, format!("{ifname} is gone")));
    };
    let addresses = socket.addresses().map_err(netlink_failure)?;
    let routes = socket.routes().map_err(netlink_failure)?;
    for address in network.addresses() {
        if !addresses.iter().any(|found| found.index == link.index && found.address == address) {
            return Err(Failure::new(Code::CheckFailed, format!("{ifname} does not have {address}")));
        }
        let hop = next_hop(address);
        if !routes.iter().any(|route| route.prefix == 0 && route.gateway == Some(hop)) {
            return Err(Failure::new(Code::CheckFailed, format!("there is no default route by {hop}")));
        }
    }
    Ok(())
}

/// What was made for a pod.
#[derive(Clone, Copy, Debug)]
pub struct Plugged {
    /// Number of the host side in the node's namespace.
    pub host_index: u32,
    /// Hardware address of the host side.
    pub host_mac: [u8; 6],
    /// Hardware address of the pod's side.
    pub pod_mac: [u8; 6],
}

/// Makes the veth pair between the calling namespace and `namespace` and sets the pod's side up. The host side
/// stays down until the dataplane has attached its programs.
///
/// # Errors
/// When a step of the kernel work fails; what was made until then is deleted again.
pub fn plug(namespace: BorrowedFd<'_>, ifname: &str, network: &Network) -> Result<Plugged, Failure> {
    let mut host = Socket::open().map_err(netlink_failure)?;
    // A host side of that name was left by an ADD that was killed half-way; its pod side goes with it.
    if let Some(stale) = host.link(&network.host_interface).map_err(netlink_failure)? {
        host.delete_link(stale.index).map_err(netlink_failure)?;
    }
    let near = VethEnd { name: &network.host_interface, namespace: None, mac: None };
    let far = VethEnd { name: ifname, namespace: Some(namespace), mac: None };
    host.add_veth(near, far, network.mtu).map_err(|error| {
        let taken = error.errno() == Some(libc::EEXIST);
        let code = if taken { Code::InvalidEnvironment } else { Code::Io };
        Failure::new(code, error.to_string())
    })?;
    let made = configure(&mut host, namespace, ifname, network);
    if made.is_err() {
        let _ = unplug_host(&network.host_interface);
    }
    made
}

fn configure(
    host: &mut Socket,
    namespace: BorrowedFd<'_>,
    ifname: &str,
    network: &Network,
) -> Result<Plugged, Failure> {
    let missing =
        || Failure::new(Code::Io, format!("{} vanished while it was set up", network.host_interface));
    let link = host.link(&network.host_interface).map_err(netlink_failure)?.ok_or_else(missing)?;
    let pod_mac = inside(namespace, || set_up_pod_side(ifname, network, link.mac))?;
    Ok(Plugged { host_index: link.index, host_mac: link.mac, pod_mac })
}

/// Addresses, routes and neighbours inside the pod's namespace; gives the hardware address of its side.
fn set_up_pod_side(ifname: &str, network: &Network, host_mac: [u8; 6]) -> Result<[u8; 6], Failure> {
    let mut socket = Socket::open().map_err(netlink_failure)?;
    let up = LinkChange { up: Some(true), ..LinkChange::default() };
    let mut mac = [0; 6];
    for link in socket.links().map_err(netlink_failure)? {
        if link.name == ifname {
            mac = link.mac;
            if network.addresses().any(|address| address.is_ipv6()) {
                // Container engines make namespaces in which IPv6 is off. Routers are not listened to: the one next
                // hop is known.
                for interface in [ifname, "lo"] {
                    set_sysctl(&format!("ipv6/conf/{interface}/disable_ipv6"), "0")?;
                }
                set_sysctl(&format!("ipv6/conf/{ifname}/accept_ra"), "0")?;
            }
            socket.change_link(link.index, up).map_err(netlink_failure)?;
            for address in network.addresses() {
                set_up_family(&mut socket, link.index, address, host_mac).map_err(netlink_failure)?;
            }
        } else if link.name == "lo" {
            socket.change_link(link.index, up).map_err(netlink_failure)?;
        }
    }
    Ok(mac)
}

fn set_sysctl(name: &str, value: &str) -> Result<(), Failure> {
    sysctl::set(name, value)
        .map_err(|error| Failure::new(Code::Io, format!("setting {name} to {value}: {error}")))
}

fn set_up_family(
    socket: &mut Socket,
    index: u32,
    address: IpAddr,
    host_mac: [u8; 6],
) -> Result<(), NetlinkError> {
    let hop = next_hop(address);
    let (bits, unspecified) = match address {
        IpAddr::V4(_) => (32, Ipv4Addr::UNSPECIFIED.into()),
        IpAddr::V6(_) => (128, Ipv6Addr::UNSPECIFIED.into()),
    };
    socket.add_address(netlink::Address { index, address, prefix: bits })?;
    socket.replace_neighbour(index, hop, host_mac)?;
    let to_hop = netlink::Route {
        destination: hop,
        prefix: bits,
        index,
        gateway: None,
        source: None,
        onlink: false,
        protocol: ROUTE_PROTOCOL,
    };
    // An IPv6 next hop that is link-local is on the link by itself.
    if address.is_ipv4() {
        socket.replace_route(to_hop)?;
    }
    socket.replace_route(netlink::Route { destination: unspecified, prefix: 0, gateway: Some(hop), ..to_hop })
}

fn unplug_host(name: &str) -> Result<(), NetlinkError> {
    let mut socket = Socket::open()?;
    match socket.link(name)? {
        Some(link) => socket.delete_link(link.index),
        None => Ok(()),
    }
}

fn open_namespace(path: &str) -> Result<std::os::fd::OwnedFd, Failure> {
    netns::open(Path::new(path))
        .map_err(|error| Failure::new(Code::InvalidEnvironment, format!("CNI_NETNS {path}: {error}")))
}

fn inside<T: Send>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    netns::within(namespace, work).map_err(io_failure)?
}

fn io_failure(error: io::Error) -> Failure {
    Failure::new(Code::Io, format!("entering the sandbox's network namespace: {error}"))
}

fn netlink_failure(error: NetlinkError) -> Failure {
    Failure::new(Code::Io, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[track_caller]
    fn check_refused(pairs: &[(&str, &str)], input: &str, code: Code) {
        let failure = execute(&environment(pairs), input.as_bytes()).expect_err("a failure");
        assert_eq!(failure.code, code, "{}", failure.msg);
    }

    #[test]
    fn version_lists_what_is_spoken() {
        let answer = execute(&environment(&[("CNI_COMMAND", "VERSION")]), b"{}").expect("an answer");
        let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(answer["cniVersion"], "1.1.0");
        assert_eq!(
            answer["supportedVersions"],
            serde_json::json!(["0.3.1", "0.4.0", "1.0.0", "1.0.1", "1.1.0"])
        );
    }

    #[test]
    fn bad_calls_get_the_code_of_the_specification() {
        let good = r#"{"cniVersion":"1.0.0","name":"fairlead","socket":"/nowhere/cni.sock"}"#;
        check_refused(&[], good, Code::InvalidEnvironment);
        check_refused(&[("CNI_COMMAND", "FLY")], good, Code::InvalidEnvironment);
        check_refused(&[("CNI_COMMAND", "ADD")], "{", Code::Decode);
        check_refused(&[("CNI_COMMAND", "ADD")], r#"{"cniVersion":"9.0.0"}"#, Code::IncompatibleVersion);
        check_refused(&[("CNI_COMMAND", "ADD")], good, Code::InvalidEnvironment);
        check_refused(
            &[("CNI_COMMAND", "ADD")],
            r#"{"cniVersion":"1.0.0","socket":"x"}"#,
            Code::InvalidConfig,
        );
        let named = [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "../x"), ("CNI_IFNAME", "eth0")];
        check_refused(&named, good, Code::InvalidEnvironment);
        let long = [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "x"), ("CNI_IFNAME", "sixteen-letters!")];
        check_refused(&long, good, Code::InvalidEnvironment);
        check_refused(&[("CNI_COMMAND", "STATUS")], good, Code::NotAvailable);
    }

    #[test]
    fn socket_is_below_the_node_root() {
        let config: Config =
            serde_json::from_str(r#"{"socket":"/run/fairlead/cni.sock"}"#).expect("a configuration");
        let path = socket_path(&environment(&[("FAIRLEAD_NODE_ROOT", "/srv/node-1")]), &config);
        assert_eq!(path.expect("a path"), Path::new("/srv/node-1/run/fairlead/cni.sock"));
    }

    #[test]
    fn failures_name_code_and_version() {
        let text = Failure::new(Code::TryAgain, "later").to_json("1.0.0");
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json, serde_json::json!({"cniVersion": "1.0.0", "code": 11, "msg": "later"}));
    }
}
