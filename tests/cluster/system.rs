//! What the machine shows: no packet filter rule, our programs at their hooks, and how much memory it all takes.

use std::fs;
use std::process::Command;

use crate::harness::{CLUSTER, Place, dataplane, in_netns, processes, text};

#[test]
fn no_node_has_a_packet_filter_rule() {
    let _place = Place::new("rules");
    for node in ["node1", "node2"] {
        let nft = in_netns(node, &["nft", "list", "ruleset"]);
        assert_eq!(nft.trim(), "", "{node}: {nft}");
        let rules = in_netns(node, &["iptables-save"]);
        let ours: Vec<&str> = rules
            .lines()
            .filter(|l| l.starts_with("-A") || l.starts_with(':') && !l.contains(" ACCEPT "))
            .collect();
        assert!(ours.is_empty(), "{node}: {ours:?}");
    }
}

#[test]
fn programs_are_loaded_and_pinned() {
    let _place = Place::new("programs");
    let out = Command::new("bpftool").args(["prog", "show"]).output().expect("bpftool starts");
    let shown = text(&out.stdout);
    for name in [
        "from_pod",
        "to_pod",
        "from_overlay",
        "to_overlay",
        "from_uplink",
        "to_uplink",
        "connect4",
        "sendmsg4",
        "recvmsg4",
    ] {
        assert!(shown.contains(&format!("name {name}")), "no program {name}: {shown}");
    }
    for node in ["node1", "node2"] {
        let pins = CLUSTER.state().join("nodes").join(node).join("root/sys/fs/bpf/fairlead");
        assert!(
            fs::read_dir(&pins).is_ok_and(|mut d| d.next().is_some()),
            "nothing is pinned at {}",
            pins.display()
        );
    }
}

/// MiB of resident memory.
fn resident(pid: i32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("VmRSS");
    line.split_whitespace().next().and_then(|n| n.parse::<f64>().ok()).expect("a number") / 1024.0
}

#[test]
fn control_plane_and_agents_stay_small() {
    let _place = Place::new("memory");
    let server = resident(processes(&["fairlead-server", "--data-dir"])[0]);
    assert!(server < 80.0, "the control plane takes {server:.1} MiB");
    for node in ["node1", "node2"] {
        let kubelet = resident(processes(&["fairlead-node", "kubelet", node])[0]);
        let data = resident(dataplane(node));
        assert!(kubelet + data < 60.0, "{node}: kubelet {kubelet:.1} MiB, dataplane {data:.1} MiB");
    }
}
