//! Files and directories outside our own: CNI configuration and plugin, `subnet.env`, the cgroup2 root.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use ipnet::Ipv4Net;

use crate::{Error, endpoints::write_atomically, settings::Settings};

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
pub fn subnet_env(settings: &Settings, pod_cidr: Ipv4Net, gateway: Ipv4Addr, mtu: u32) -> Result<(), Error> {
    let text = format!(
        "FAIRLEAD_NETWORK={}\nFAIRLEAD_SUBNET={gateway}/{}\nFAIRLEAD_MTU={mtu}\nFAIRLEAD_IPMASQ=true\n",
        settings.cluster_cidr,
        pod_cidr.prefix_len()
    );
    write_atomically(&settings.run_dir.join("subnet.env"), text.as_bytes(), 0o644)
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
