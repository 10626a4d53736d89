//! Services: even spread, UDP, scale-down, refusal without backends, NodePort, node and pod as clients, hairpin.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::Value;

use crate::harness::{
    CLUSTER, Place, client, eventually, in_netns, json, load, load_at, ok, pods, ready, rolled_out, run,
    service_address, text, web,
};

/// Waits until a Service answers a pod.
#[track_caller]
fn answers(namespace: &str, pod: &str, target: &str) {
    eventually("the Service to answer", 20, || {
        let seen = load(namespace, pod, &[target, "--timeout", "500"]);
        if ok(&seen) == 1 { Ok(()) } else { Err(seen.to_string()) }
    });
}

fn counts(report: &Value) -> BTreeMap<String, u64> {
    let map = report["backends"].as_object().cloned().unwrap_or_default();
    map.into_iter().map(|(name, n)| (name, n.as_u64().unwrap_or(0))).collect()
}

#[test]
fn connections_spread_evenly_over_backends_on_both_nodes() {
    let place = Place::new("spread");
    let ns = place.namespace.as_str();
    place.apply(&web("web", 4));
    for node in ["node1", "node2"] {
        place.apply(&client(&format!("from-{node}"), node));
    }
    rolled_out(ns, "deployment/web");
    let nodes: std::collections::BTreeSet<String> = pods(ns, "app=web").into_iter().map(|p| p.1).collect();
    assert_eq!(nodes.len(), 2, "replicas of one Deployment stand on both nodes: {nodes:?}");
    let address = service_address(ns, "web");
    for node in ["node1", "node2"] {
        let pod = format!("from-{node}");
        ready(ns, &pod);
        answers(ns, &pod, &format!("{address}:80"));
        // 1,000 draws over 4 backends have a standard deviation of 14 around 250; within 15 % of the mean over both
        // nodes' 4,000 draws a fair choice stays out of the bounds less than once in a million runs.
        let seen = load(ns, &pod, &[&format!("{address}:80"), "-n", "4000", "-c", "4", "--strict"]);
        assert_eq!(ok(&seen), 4000, "{seen}");
        let counts = counts(&seen);
        assert_eq!(counts.len(), 4, "{counts:?}");
        assert!(counts.values().all(|n| (850..=1150).contains(n)), "from {node}: {counts:?}");
        let udp = load(ns, &pod, &[&format!("{address}:7"), "--protocol", "udp", "-n", "400", "--strict"]);
        assert_eq!(ok(&udp), 400, "{udp}");
        assert_eq!(counts_len(&udp), 4, "{udp}");
        let tcp = load(ns, &pod, &[&format!("{address}:7"), "--protocol", "tcp", "-n", "100", "--strict"]);
        assert_eq!(ok(&tcp), 100, "{tcp}");
    }
}

fn counts_len(report: &Value) -> usize {
    counts(report).len()
}

#[test]
fn pods_reach_each_other_by_their_own_addresses() {
    let place = Place::new("direct");
    let ns = place.namespace.as_str();
    place.apply(&web("web", 4));
    place.apply(&client("c", "node1"));
    rolled_out(ns, "deployment/web");
    ready(ns, "c");
    let own = place.kubectl(&["get", "pod", "c", "-o", "jsonpath={.status.podIP}"]);
    for (name, node, address) in pods(ns, "app=web") {
        let seen = load(ns, "c", &[&format!("{address}:8080"), "-n", "20", "--strict"]);
        assert_eq!(counts(&seen), BTreeMap::from([(name, 20)]), "{seen}");
        assert_eq!(seen["clients"][&own], 20, "the pod on {node} sees the client's own address: {seen}");
    }
}

#[test]
fn node_processes_use_the_service_too() {
    let place = Place::new("fromnode");
    let ns = place.namespace.as_str();
    place.apply(&web("web", 4));
    rolled_out(ns, "deployment/web");
    let address = service_address(ns, "web");
    for node in ["node1", "node2"] {
        eventually("the Service to answer the node", 20, || {
            let seen = load_at(node, &[&format!("{address}:80"), "--timeout", "500"]);
            if ok(&seen) == 1 { Ok(()) } else { Err(seen.to_string()) }
        });
        let seen = load_at(node, &[&format!("{address}:80"), "-n", "100"]);
        assert_eq!(ok(&seen), 100, "{seen}");
        assert_eq!(counts_len(&seen), 4, "{seen}");
    }
}

#[test]
fn scaled_down_backend_gets_no_new_connection() {
    let place = Place::new("scaledown");
    let ns = place.namespace.as_str();
    place.apply(&web("web", 4));
    place.apply(&client("c", "node1"));
    rolled_out(ns, "deployment/web");
    ready(ns, "c");
    let target = format!("{}:80", service_address(ns, "web"));
    answers(ns, "c", &target);
    place.kubectl(&["scale", "deployment/web", "--replicas=1"]);
    let left = eventually("the EndpointSlice to name one backend", 30, || {
        let slices = json(&["-n", ns, "get", "endpointslices", "-l", "kubernetes.io/service-name=web"]);
        let none = Vec::new();
        let ready: Vec<String> = slices["items"]
            .as_array()
            .unwrap_or(&none)
            .iter()
            .flat_map(|s| s["endpoints"].as_array().cloned().unwrap_or_default())
            .filter(|e| e["conditions"]["ready"] == true)
            .map(|e| e["targetRef"]["name"].as_str().unwrap_or_default().to_owned())
            .collect();
        if ready.len() == 1 { Ok(ready[0].clone()) } else { Err(format!("{ready:?}")) }
    });
    // The node hears of the update by its own watch; from then on no connection goes elsewhere.
    eventually("connections to go to the one backend", 5, || {
        let seen = load(ns, "c", &[&target, "-n", "50"]);
        if counts(&seen) == BTreeMap::from([(left.clone(), 50)]) { Ok(()) } else { Err(seen.to_string()) }
    });
    let seen = load(ns, "c", &[&target, "-n", "500", "--strict"]);
    assert_eq!(counts(&seen), BTreeMap::from([(left, 500)]), "{seen}");
}

#[test]
fn service_without_backends_refuses_at_once() {
    let place = Place::new("empty");
    let ns = place.namespace.as_str();
    place.apply(&web("web", 1));
    place.apply(&client("c", "node2"));
    rolled_out(ns, "deployment/web");
    ready(ns, "c");
    let target = format!("{}:80", service_address(ns, "web"));
    answers(ns, "c", &target);
    place.kubectl(&["scale", "deployment/web", "--replicas=0"]);
    eventually("refusal", 30, || {
        let seen = load(ns, "c", &[&target, "--timeout", "1000"]);
        if seen["errors"]["refused"] == 1 { Ok(()) } else { Err(seen.to_string()) }
    });
    let start = Instant::now();
    let seen = load(ns, "c", &[&target, "-n", "50", "--timeout", "1000"]);
    assert_eq!(seen["errors"]["refused"], 50, "{seen}");
    assert!(start.elapsed().as_millis() < 3000, "50 refusals took {:?}", start.elapsed());
    let seen = load_at("node1", &[&target, "-n", "5", "--timeout", "1000"]);
    assert_eq!(seen["errors"]["refused"], 5, "{seen}");
}

#[test]
fn node_port_answers_outside_over_every_node() {
    let place = Place::new("nodeport");
    let ns = place.namespace.as_str();
    place.apply(&web("web", 2));
    place.kubectl(&[
        "expose",
        "deployment",
        "web",
        "--name=outside",
        "--type=NodePort",
        "--port=80",
        "--target-port=8080",
    ]);
    rolled_out(ns, "deployment/web");
    let port = place.kubectl(&["get", "service", "outside", "-o", "jsonpath={.spec.ports[0].nodePort}"]);
    assert!(port.parse::<u16>().is_ok_and(|p| (30000..32768).contains(&p)), "{port}");
    for node in ["172.30.0.11", "172.30.0.12"] {
        let target = format!("{node}:{port}");
        eventually("the NodePort to answer", 20, || {
            let seen = load_at("outside", &[&target, "--timeout", "500"]);
            if ok(&seen) == 1 { Ok(()) } else { Err(seen.to_string()) }
        });
        let seen = load_at("outside", &[&target, "-n", "300", "-c", "4"]);
        assert_eq!(ok(&seen), 300, "over {node}: {seen}");
        assert_eq!(counts_len(&seen), 2, "over {node}: {seen}");
    }
}

#[test]
fn pod_behind_a_service_reaches_itself_through_it() {
    let place = Place::new("hairpin");
    let ns = place.namespace.as_str();
    place.apply(&web("web", 1));
    rolled_out(ns, "deployment/web");
    let (pod, _, _) = pods(ns, "app=web").remove(0);
    let target = format!("{}:80", service_address(ns, "web"));
    answers(ns, &pod, &target);
    let seen = load(ns, &pod, &[&target, "-n", "50"]);
    assert_eq!(counts(&seen), BTreeMap::from([(pod, 50)]), "{seen}");
}

#[test]
fn pods_reach_the_outside_with_the_nodes_address() {
    let place = Place::new("masquerade");
    let ns = place.namespace.as_str();
    place.apply(&client("c", "node2"));
    ready(ns, "c");
    let toolbox = crate::harness::binaries().join("toolbox").display().to_string();
    let net = format!("--net={}", CLUSTER.netns("outside"));
    let mut server = std::process::Command::new("nsenter")
        .args([
            &net, "--", &toolbox, "serve", "--name", "beyond", "--http", "18080", "--tcp", "19000", "--udp",
            "19001",
        ])
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("nsenter starts");
    let checked = std::panic::catch_unwind(|| {
        eventually("the host outside to answer", 10, || {
            let seen = load(ns, "c", &["172.31.0.2:18080", "--timeout", "500"]);
            if ok(&seen) == 1 { Ok(()) } else { Err(seen.to_string()) }
        });
        for words in
            [&["172.31.0.2:18080", "-n", "50"][..], &["172.31.0.2:19001", "--protocol", "udp", "-n", "50"]]
        {
            let seen = load(ns, "c", words);
            assert_eq!(ok(&seen), 50, "{seen}");
            assert_eq!(
                seen["clients"]["172.30.0.12"], 50,
                "the host outside sees the node's address: {seen}"
            );
        }
    });
    server.kill().expect("the server can be ended");
    server.wait().expect("the server ends");
    assert!(checked.is_ok(), "requests to the outside failed");
}

#[test]
fn outside_reaches_no_pod_address() {
    let place = Place::new("closed");
    let ns = place.namespace.as_str();
    place.apply(&web("web", 1));
    rolled_out(ns, "deployment/web");
    let (_, _, address) = pods(ns, "app=web").remove(0);
    let seen = load_at("outside", &[&format!("{address}:8080"), "--timeout", "500"]);
    assert_eq!(ok(&seen), 0, "{seen}");
}

#[test]
fn kubernetes_service_is_the_api_server() {
    let place = Place::new("api");
    let ns = place.namespace.as_str();
    place.apply(&client("c", "node1"));
    ready(ns, "c");
    eventually("a TCP connection to the API server", 20, || {
        let out = run(&[
            "-n",
            ns,
            "exec",
            "c",
            "--",
            "sh",
            "-c",
            "nc -w 2 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT </dev/null && echo open",
        ]);
        if text(&out.stdout).contains("open") { Ok(()) } else { Err(text(&out.stderr)) }
    });
    let env = in_netns(
        "node1",
        &["cat", &CLUSTER.state().join("nodes/node1/root/run/fairlead/subnet.env").display().to_string()],
    );
    for name in
        ["FAIRLEAD_NETWORK=10.244.0.0/16", "FAIRLEAD_SUBNET=10.244.", "FAIRLEAD_MTU=", "FAIRLEAD_IPMASQ=true"]
    {
        assert!(env.contains(name), "{env}");
    }
}
