//! Files and directories outside our own: CNI configuration and plugin, `subnet.env`, the cgroup2 root.

use std::{
    fs::{self, File},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use ipnet::IpNet;

use crate::{Error, endpoints::write_atomically, model::Family, overlay, settings::Settings};

/// Name of the configuration; runtimes take the first in lexical order.
pub const CNI_CONFIGURATION: &str = "10-fairlead.conflist";

/// Name of the plugin.
pub const CNI_PLUGIN: &str = "fairlead-cni";

/// Writes the plugin, then the configuration that names it: a runtime never sees the second without the first.
///
/// # Errors
/// [`Error::File`]
pub fn cni(settings: &Settings) -> Result<(), Error> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { path, source }
    };
    for directory in [&settings.cni_bin_dir, &settings.cni_conf_dir] {
        fs::create_dir_all(directory).map_err(at(directory))?;
    }
    let plugin = fs::read(&settings.cni_plugin).map_err(at(&settings.cni_plugin))?;
    let installed = settings.cni_bin_dir.join(CNI_PLUGIN);
    if fs::read(&installed).ok().as_deref() != Some(plugin.as_slice()) {
        write_atomically(&installed, &plugin, 0o755)?;
    }
    let configuration = serde_json::json!({
        "cniVersion": "1.0.0",
        "name": "fairlead",
        "plugins": [{
            "type": CNI_PLUGIN,
            // The path as the node sees it, which is where the DaemonSet mounts it.
            "socket": settings.run_dir.join(fairlead_cni::protocol::SOCKET),
            "capabilities": { "portMappings": true },
        }],
    });
    let text = format!("{configuration:#}\n");
    write_atomically(&settings.cni_conf_dir.join(CNI_CONFIGURATION), text.as_bytes(), 0o644)
}

/// Writes `subnet.env` in the form that flannel's users expect.
///
/// # Errors
/// [`Error::File`]
pub fn subnet_env(settings: &Settings, pod_cidrs: &[IpNet], mtu: u32) -> Result<(), Error> {
    let text = subnet_text(&settings.cluster_cidrs, pod_cidrs, mtu);
    write_atomically(&settings.run_dir.join("subnet.env"), text.as_bytes(), 0o644)
}

fn subnet_text(cluster_cidrs: &[IpNet], pod_cidrs: &[IpNet], mtu: u32) -> String {
    let mut text = String::new();
    for (family, infix) in [(Family::V4, ""), (Family::V6, "IPV6_")] {
        let of_family = |nets: &[IpNet]| nets.iter().copied().find(|net| Family::of(net.addr()) == family);
        if let (Some(cluster), Some(pods)) = (of_family(cluster_cidrs), of_family(pod_cidrs)) {
            let (gateway, length) = (overlay::gateway(pods), pods.prefix_len());
            text +=
                &format!("FAIRLEAD_{infix}NETWORK={cluster}\nFAIRLEAD_{infix}SUBNET={gateway}/{length}\n");
        }
    }
    text + &format!("FAIRLEAD_MTU={mtu}\nFAIRLEAD_IPMASQ=true\n")
}

/// The root of the cgroup2 hierarchy. It is mounted at /sys/fs/cgroup, or at /sys/fs/cgroup/unified beside version 1.
///
/// # Errors
/// [`Error::File`] when no cgroup2 is mounted.
pub fn cgroup_root() -> Result<OwnedFd, Error> {
    const MOUNTS: &str = "/proc/self/mountinfo";
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { path, source }
    };
    let mounts = fs::read_to_string(MOUNTS).map_err(at(Path::new(MOUNTS)))?;
    // Fields (proc(5)): 4 is the root within the file system, 5 the mount point; the type follows " - ".
    let found = mounts.lines().rev().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (kind.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(point))
    });
    let path = found.ok_or_else(|| {
        at(Path::new(MOUNTS))(std::io::Error::new(std::io::ErrorKind::NotFound, "no cgroup2 root is mounted"))
    })?;
    Ok(File::open(&path).map_err(at(&path))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnet_env_names_both_families_as_flannel_does() {
        let nets = |texts: &[&str]| -> Vec<IpNet> {
            texts.iter().map(|text| text.parse().expect("a CIDR")).collect()
        };
        let cluster = nets(&["10.244.0.0/16", "fd00:10:244::/56"]);
        assert_eq!(
            subnet_text(&cluster, &nets(&["10.244.1.0/24", "fd00:10:244:1::/64"]), 1450),
            "FAIRLEAD_NETWORK=10.244.0.0/16\nFAIRLEAD_SUBNET=10.244.1.1/24\n\
             FAIRLEAD_IPV6_NETWORK=fd00:10:244::/56\nFAIRLEAD_IPV6_SUBNET=fd00:10:244:1::1/64\n\
             FAIRLEAD_MTU=1450\nFAIRLEAD_IPMASQ=true\n"
        );
        assert_eq!(
            subnet_text(&cluster, &nets(&["10.244.1.0/24"]), 1450),
            "FAIRLEAD_NETWORK=10.244.0.0/16\nFAIRLEAD_SUBNET=10.244.1.1/24\n\
             FAIRLEAD_MTU=1450\nFAIRLEAD_IPMASQ=true\n"
        );
    }
}
