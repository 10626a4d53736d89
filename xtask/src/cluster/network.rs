//! Namespaces, links and addresses: a bridge in a namespace of its own joins the nodes; the host outside is routed.

use std::fs;
use std::path::Path;

use anyhow::Context;

use super::{
    Cluster, OUTSIDE, OUTSIDE_ADDRESS, OUTSIDE_ADDRESS6, OUTSIDE_GATEWAY, OUTSIDE_GATEWAY6, SERVER_ADDRESS,
    SERVER_ADDRESS6,
};
use crate::process::{command, output, sh};

/// Makes what is missing of the cluster's network; a namespace whose holder was started anew is wired again.
pub fn make(cluster: &Cluster) -> anyhow::Result<()> {
    let net = cluster.namespace("net");
    if !named(&net) {
        sh(&["ip", "netns", "add", &net])?;
        ip(&net, "link set lo up")?;
        ip(&net, "link add br0 type bridge")?;
        ip(&net, "link set br0 up")?;
        ip(&net, &format!("addr add {SERVER_ADDRESS}/24 dev br0"))?;
        forward(&net)?;
        if cluster.dual_stack {
            enable_ipv6(&net)?;
            ip(&net, &format!("addr add {SERVER_ADDRESS6}/64 dev br0 nodad"))?;
        }
    }
    let outside = cluster.namespace(OUTSIDE);
    if !named(&outside) {
        sh(&["ip", "netns", "add", &outside])?;
        ip(&outside, "link set lo up")?;
        ip(&net, &format!("link add outside type veth peer name eth0 netns {outside}"))?;
        ip(&net, &format!("addr add {OUTSIDE_GATEWAY}/24 dev outside"))?;
        ip(&net, "link set outside up")?;
        ip(&outside, &format!("addr add {OUTSIDE_ADDRESS}/24 dev eth0"))?;
        ip(&outside, "link set eth0 up")?;
        ip(&outside, &format!("route add default via {OUTSIDE_GATEWAY}"))?;
        if cluster.dual_stack {
            enable_ipv6(&outside)?;
            ip(&net, &format!("addr add {OUTSIDE_GATEWAY6}/64 dev outside nodad"))?;
            ip(&outside, &format!("addr add {OUTSIDE_ADDRESS6}/64 dev eth0 nodad"))?;
            ip(&outside, &format!("-6 route add default via {OUTSIDE_GATEWAY6}"))?;
        }
    }
    for (i, node) in cluster.node_names().iter().enumerate() {
        make_node(cluster, &net, i, node).with_context(|| format!("wiring {node}"))?;
    }
    Ok(())
}

fn make_node(cluster: &Cluster, net: &str, i: usize, node: &str) -> anyhow::Result<()> {
    let pid = holder(cluster, node)?;
    let name = cluster.namespace(node);
    if named(&name) && same_namespace(&name, &pid) {
        return Ok(());
    }
    if named(&name) {
        sh(&["ip", "netns", "del", &name])?;
    }
    sh(&["ip", "netns", "attach", &name, &pid])?;
    ip(&name, "link set lo up")?;
    // The old end of a wire whose namespace is gone may still hang in the bridge.
    let _ = ip(net, &format!("link del {node}"));
    ip(net, &format!("link add {node} type veth peer name eth0 netns {name}"))?;
    ip(net, &format!("link set {node} master br0 up"))?;
    let addresses = cluster.node_addresses(i);
    if cluster.dual_stack {
        enable_ipv6(&name)?;
    }
    for address in &addresses {
        // Duplicate address detection would hold back the first packets of whoever binds to it.
        let suffix = if address.contains(':') { "/64 dev eth0 nodad" } else { "/24 dev eth0" };
        ip(&name, &format!("addr add {address}{suffix}"))?;
    }
    ip(&name, "link set eth0 up")?;
    ip(&name, &format!("route add default via {SERVER_ADDRESS}"))?;
    if cluster.dual_stack {
        ip(&name, &format!("-6 route add default via {SERVER_ADDRESS6}"))?;
    }
    Ok(())
}

/// Starts the container that holds a node's namespace, or finds it; returns its process id.
fn holder(cluster: &Cluster, node: &str) -> anyhow::Result<String> {
    let name = cluster.holder(node);
    let inspect = || sh(&["docker", "inspect", "--format", "{{.State.Running}} {{.State.Pid}}", &name]);
    match inspect() {
        Ok(state) if state.starts_with("true") => {}
        Ok(_) => {
            sh(&["docker", "start", &name])?;
        }
        Err(_) => {
            let labels = ["--label", &cluster.label(), "--label", "fairlead.io/role=node-network"];
            let mut run =
                command(&["docker", "run", "-d", "--name", &name, "--network", "none", "--hostname", node]);
            output(run.args(labels).arg("fairlead/pause:latest"))?;
        }
    }
    let state = inspect()?;
    state.split_whitespace().nth(1).map(str::to_owned).context("the holder container has no process")
}

fn named(namespace: &str) -> bool {
    Path::new("/run/netns").join(namespace).exists()
}

fn same_namespace(name: &str, pid: &str) -> bool {
    use std::os::unix::fs::MetadataExt;
    let inode = |path: &str| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    inode(&format!("/run/netns/{name}")) == inode(&format!("/proc/{pid}/ns/net"))
}

fn ip(namespace: &str, words: &str) -> anyhow::Result<()> {
    let mut ip = command(&["ip", "-n", namespace]);
    output(ip.args(words.split(' '))).map(|_| ())
}

/// Makes a namespace route; the sysctl belongs to that namespace alone.
fn forward(namespace: &str) -> anyhow::Result<()> {
    let net = format!("--net=/run/netns/{namespace}");
    sh(&["nsenter", &net, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]).map(|_| ())
}

/// Switches IPv6 on in a namespace, which Docker's have off, and forwards it; the sysctls belong to that namespace alone.
fn enable_ipv6(namespace: &str) -> anyhow::Result<()> {
    let net = format!("--net=/run/netns/{namespace}");
    let conf = "/proc/sys/net/ipv6/conf";
    let script = format!(
        "for scope in all default; do echo 0 > {conf}/$scope/disable_ipv6; echo 1 > {conf}/$scope/forwarding; done"
    );
    sh(&["nsenter", &net, "sh", "-c", &script]).map(|_| ())
}

/// Removes the namespaces of a cluster; links go with them.
pub fn remove(cluster: &Cluster) -> anyhow::Result<()> {
    let prefix = cluster.namespace("");
    let known = |name: &str| {
        name == "net"
            || name == OUTSIDE
            || name.strip_prefix("node").is_some_and(|n| n.parse::<u32>().is_ok())
    };
    let Ok(entries) = fs::read_dir("/run/netns") else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.strip_prefix(&prefix).is_some_and(known) {
            sh(&["ip", "netns", "del", &name])?;
        }
    }
    Ok(())
}
