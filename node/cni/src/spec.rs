//! Types of the CNI specification 1.1.0 (configuration, result, error) as JSON.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Versions of the specification that the plugin speaks, oldest first.
pub const VERSIONS: [&str; 5] = ["0.3.1", "0.4.0", "1.0.0", "1.0.1", "1.1.0"];

/// The version that is answered when a configuration names none.
pub const NEWEST: &str = "1.1.0";

/// Longest configuration read from standard input, in bytes.
pub const MAX_CONFIG: u64 = 1 << 20;

/// Configuration of one plugin as the runtime hands it over on standard input.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Version of the specification the configuration follows.
    #[serde(default)]
    pub cni_version: String,
    /// Name of the network.
    #[serde(default)]
    pub name: String,
    /// Dataplane socket on the node's file system.
    pub socket: Option<String>,
    /// Values for the capabilities this plugin declares.
    #[serde(default)]
    pub runtime_config: RuntimeConfig,
    /// Result of the plugin before this one, or of the earlier ADD.
    pub prev_result: Option<serde_json::Value>,
    /// Attachments that GC keeps (CNI 1.1.0).
    #[serde(rename = "cni.dev/valid-attachments", default)]
    pub valid_attachments: Vec<Attachment>,
    /// Older name of the same list, sent by some runtimes.
    #[serde(rename = "cni.dev/attachments", default)]
    pub attachments: Vec<Attachment>,
}

/// Capability arguments.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeConfig {
    /// Ports of the node that lead to this pod.
    #[serde(default)]
    pub port_mappings: Vec<PortMapping>,
}

/// One hostPort of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// Port on the node.
    pub host_port: u16,
    /// Port in the pod.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    #[serde(default)]
    pub protocol: String,
    /// Address on the node; empty is every address.
    #[serde(default, rename = "hostIP")]
    pub host_ip: String,
}

/// One interface of one container.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// The runtime's name of the sandbox.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// Interface inside the sandbox.
    pub ifname: String,
}

/// Result of ADD.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddResult {
    /// Version of the specification this result follows.
    pub cni_version: String,
    /// Interfaces made, the host side first.
    pub interfaces: Vec<Interface>,
    /// Addresses given.
    pub ips: Vec<Ip>,
    /// Routes inside the sandbox.
    pub routes: Vec<Route>,
    /// Name servers; this plugin gives none.
    pub dns: Dns,
}

/// An interface of a result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address as `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// Its MTU in bytes (CNI 1.1.0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Path of the network namespace; absent on the host side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
}

/// An address of a result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ip {
    /// Address with prefix length.
    pub address: IpNet,
    /// Next hop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Index into the result's interfaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    /// `4` or `6`; only for versions before 1.0.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// A route of a result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Next hop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
}

/// Name servers of a result.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Dns {}

/// Error codes of the specification that are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The configuration's version is not spoken.
    IncompatibleVersion = 1,
    /// A `CNI_*` variable is missing or malformed.
    InvalidEnvironment = 4,
    /// Reading from or writing to a file or the kernel failed.
    Io = 5,
    /// The configuration does not decode.
    Decode = 6,
    /// The configuration decodes but cannot be used.
    InvalidConfig = 7,
    /// A passing condition; the runtime should try again.
    TryAgain = 11,
    /// The plugin cannot serve ADD requests (answer to STATUS).
    NotAvailable = 50,
    /// What CHECK found differs from what ADD made.
    CheckFailed = 100,
    /// The dataplane refused.
    Refused = 101,
}

/// An error in the shape the specification wants on standard output.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{msg}")]
pub struct Failure {
    /// Which kind of error.
    pub code: Code,
    /// What happened, in one sentence.
    pub msg: String,
}

impl Failure {
    /// An error of the given kind.
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Failure { code, msg: msg.into() }
    }

    /// The JSON that goes to standard output.
    #[must_use]
    pub fn to_json(&self, version: &str) -> String {
        let version = if VERSIONS.contains(&version) { version } else { NEWEST };
        serde_json::json!({ "cniVersion": version, "code": self.code as u32, "msg": self.msg }).to_string()
    }
}

/// Writes a hardware address as `aa:bb:cc:dd:ee:ff`.
#[must_use]
pub fn format_mac(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}
