//! What the machine shows: no packet filter rule, our programs at their hooks, and how much memory it all takes.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::harness::{CLUSTER, Place, in_netns, text};

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

#[test]
fn idle_control_plane_and_agents_are_small() {
    let _place = Place::new("memory");
    // What `up` measured and printed when the nodes were Ready, before any test used the cluster.
    let file = CLUSTER.state().join("memory.json");
    let measured: Value = serde_json::from_slice(&fs::read(&file).expect("`up` wrote it")).expect("JSON");
    let mib = |name: &str| measured[name].as_f64().unwrap_or_else(|| panic!("no {name} in {measured}"));
    let server = mib("fairlead-server");
    assert!(server > 1.0 && server < 80.0, "the control plane takes {server:.1} MiB");
    for node in ["node1", "node2"] {
        let (kubelet, data) = (mib(&format!("kubelet {node}")), mib(&format!("dataplane {node}")));
        assert!(
            data > 1.0 && kubelet + data < 60.0,
            "{node}: kubelet {kubelet:.1} MiB, dataplane {data:.1} MiB"
        );
    }
}
