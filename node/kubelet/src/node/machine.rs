//! What the machine is and has.

use std::collections::BTreeMap;
use std::path::Path;

use bollard::models::SystemInfo;
use k8s_openapi::api::core::v1::NodeSystemInfo;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use sha2::{Digest as _, Sha256};

use crate::settings::Args;

/// Version the kubelet reports.
pub const VERSION: &str = "v1.36.2+fairlead";
/// Memory that pods are not given: upstream evicts at 100 MiB left.
pub const RESERVED_MEMORY: i64 = 100 << 20;

/// Amounts of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Processors.
    pub cpus: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of disk below the node's root.
    pub storage: i64,
}

impl Capacity {
    /// From Docker's view of the machine and the node's file system.
    #[must_use]
    pub fn read(info: &SystemInfo, args: &Args) -> Self {
        Self {
            cpus: info.ncpu.unwrap_or(1),
            memory: info.mem_total.unwrap_or_default(),
            storage: disk(&args.node_root).map_or(0, |(total, _)| i64::try_from(total).unwrap_or(i64::MAX)),
        }
    }

    /// Bytes of memory that pods are given.
    #[must_use]
    pub fn allocatable_memory(&self) -> i64 {
        (self.memory - RESERVED_MEMORY).max(0)
    }

    /// Bytes of disk that pods are given: upstream evicts at 10 % left.
    #[must_use]
    pub fn allocatable_storage(&self) -> i64 {
        self.storage / 10 * 9
    }

    /// As the API has it: `(capacity, allocatable)`.
    #[must_use]
    pub fn quantities(&self, pods: u32) -> (BTreeMap<String, Quantity>, BTreeMap<String, Quantity>) {
        let map = |memory: i64, storage: String| {
            BTreeMap::from([
                ("cpu".to_owned(), Quantity(self.cpus.to_string())),
                ("memory".to_owned(), Quantity(format!("{}Ki", memory / 1024))),
                ("ephemeral-storage".to_owned(), Quantity(storage)),
                ("pods".to_owned(), Quantity(pods.to_string())),
            ])
        };
        (
            map(self.memory, format!("{}Ki", self.storage / 1024)),
            map(self.allocatable_memory(), self.allocatable_storage().to_string()),
        )
    }
}

/// Total and available bytes of the file system at `path`.
#[must_use]
pub fn disk(path: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some((stat.f_blocks.saturating_mul(stat.f_frsize), stat.f_bavail.saturating_mul(stat.f_frsize)))
}

fn first_line(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}

/// The API's name of this processor architecture.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `status.nodeInfo`.
#[must_use]
pub fn system_info(info: &SystemInfo, args: &Args) -> NodeSystemInfo {
    let mut machine = first_line("/etc/machine-id").unwrap_or_default();
    let mut system = first_line("/sys/class/dmi/id/product_uuid").unwrap_or_else(|| machine.clone());
    // Several nodes of one machine must still be told apart.
    if args.node_root != Path::new("/") {
        let own = |text: &str| {
            let hash = Sha256::digest(format!("{text}/{}/{}", args.cluster_name, args.node_name));
            hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        (machine, system) = (own(&machine), own(&system));
    }
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: first_line("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
        container_runtime_version: format!("docker://{}", info.server_version.clone().unwrap_or_default()),
        kernel_version: first_line("/proc/sys/kernel/osrelease").unwrap_or_default(),
        kube_proxy_version: String::new(),
        kubelet_version: VERSION.to_owned(),
        machine_id: machine,
        operating_system: "linux".to_owned(),
        os_image: info.operating_system.clone().unwrap_or_else(|| "Linux".to_owned()),
        swap: None,
        system_uuid: system,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocatable_leaves_what_upstream_leaves() {
        let capacity = Capacity { cpus: 2, memory: 1 << 30, storage: 1000 * 1024 };
        let (all, free) = capacity.quantities(110);
        assert_eq!(all["memory"].0, "1048576Ki");
        assert_eq!(free["memory"].0, "946176Ki");
        assert_eq!(free["ephemeral-storage"].0, "921600");
        assert_eq!((all["pods"].0.as_str(), all["cpu"].0.as_str()), ("110", "2"));
    }
}
