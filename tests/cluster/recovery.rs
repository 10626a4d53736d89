//! `kill -9` of each part: nothing acknowledged is lost, no container restarts, no connection breaks.

use std::process::Stdio;

use crate::harness::{
    Place, client, command, containers, dataplane, eventually, json, kill, load, ok, processes, ready,
    rolled_out, run, service_address, text, web,
};

/// Waits until the process with these words runs under another number.
#[track_caller]
fn restarted(words: &[&str], old: i32) {
    eventually(&format!("{words:?} to run again"), 30, || match processes(words).as_slice() {
        [new] if *new != old => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn killed_api_server_keeps_every_acknowledged_write() {
    let place = Place::alone("killserver");
    place.apply(&web("web", 2));
    rolled_out(&place.namespace, "deployment/web");
    let before = containers(&["kube-system", &place.namespace]);
    assert!(before.len() >= 8, "{before:?}");
    for round in 0..3 {
        for i in 0..10 {
            place.kubectl(&[
                "create",
                "configmap",
                &format!("c{round}-{i}"),
                &format!("--from-literal=n={i}"),
            ]);
        }
        let words = ["fairlead-server", "--data-dir"];
        let old = processes(&words)[0];
        kill(old);
        restarted(&words, old);
        eventually("all ConfigMaps", 30, || {
            let out = run(&["-n", &place.namespace, "get", "configmaps", "-o", "name"]);
            let seen = text(&out.stdout).lines().filter(|l| l.contains("/c")).count();
            if seen == 10 * (round + 1) { Ok(()) } else { Err(format!("{seen}: {}", text(&out.stderr))) }
        });
    }
    assert_eq!(containers(&["kube-system", &place.namespace]), before, "no container was restarted");
    place.apply(&web("after", 2));
    rolled_out(&place.namespace, "deployment/after");
}

#[test]
fn killed_kubelet_adopts_what_runs() {
    let place = Place::alone("killkubelet");
    place.apply(&web("web", 4));
    rolled_out(&place.namespace, "deployment/web");
    let before = containers(&["kube-system", &place.namespace]);
    for node in ["node1", "node2"] {
        let words = ["fairlead-node", "kubelet", node];
        let old = processes(&words)[0];
        kill(old);
        restarted(&words, old);
    }
    // A status that only the new kubelet can have written: the lease is renewed.
    let lease = || json(&["-n", "kube-node-lease", "get", "lease", "node1"])["spec"]["renewTime"].clone();
    let first = lease();
    eventually(
        "the lease to be renewed",
        40,
        || if lease() == first { Err(first.to_string()) } else { Ok(()) },
    );
    assert_eq!(containers(&["kube-system", &place.namespace]), before, "no container was restarted");
    let pods = json(&["-n", &place.namespace, "get", "pods"]);
    for pod in pods["items"].as_array().expect("a list") {
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "{}", pod["status"]);
    }
    place.kubectl(&["scale", "deployment/web", "--replicas=5"]);
    rolled_out(&place.namespace, "deployment/web");
}

#[test]
fn killed_dataplane_breaks_no_connection_and_opens_no_policy() {
    let place = Place::alone("killdata");
    let ns = place.namespace.as_str();
    place.apply(&web("web", 2));
    for (name, node) in [("friend", "node1"), ("stranger", "node2")] {
        place.apply(&client(name, node));
    }
    place.apply(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: friends}\nspec:\n  podSelector: {matchLabels: {app: web}}\n  ingress:\n  - from: [{podSelector: {matchLabels: {role: friend}}}]\n",
    );
    rolled_out(ns, "deployment/web");
    ready(ns, "friend");
    ready(ns, "stranger");
    let address = service_address(ns, "web");
    eventually("the friend to get through", 20, || {
        let seen = load(ns, "friend", &[&format!("{address}:80"), "-n", "4", "--timeout", "500"]);
        if ok(&seen) == 4 { Ok(()) } else { Err(seen.to_string()) }
    });
    eventually("the stranger to be kept out", 20, || {
        let seen =
            load(ns, "stranger", &[&format!("{address}:80"), "-n", "16", "-c", "8", "--timeout", "100"]);
        if ok(&seen) == 0 { Ok(()) } else { Err(seen.to_string()) }
    });
    let stream = |seconds: &str| {
        command(&[
            "-n",
            ns,
            "exec",
            "friend",
            "--",
            "toolbox",
            "stream",
            &format!("{address}:7"),
            "--seconds",
            seconds,
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl starts")
    };
    let streams: Vec<_> = (0..4).map(|_| stream("12")).collect();
    for node in ["node1", "node2"] {
        let old = dataplane(node);
        kill(old);
        let seen =
            load(ns, "stranger", &[&format!("{address}:80"), "-n", "200", "-c", "16", "--timeout", "100"]);
        assert_eq!(ok(&seen), 0, "the policy stayed closed on {node}: {seen}");
        eventually(&format!("the dataplane of {node} to run again"), 40, || {
            let found = std::panic::catch_unwind(|| dataplane(node)).map_err(|_| "none".to_owned())?;
            if found != old { Ok(()) } else { Err("the old one".into()) }
        });
    }
    for stream in streams {
        let out = stream.wait_with_output().expect("kubectl ends");
        assert!(out.status.success(), "a stream broke: {}{}", text(&out.stdout), text(&out.stderr));
        let report: serde_json::Value = serde_json::from_str(text(&out.stdout).trim()).expect("a report");
        assert!(report["blocks"].as_u64().is_some_and(|n| n > 500), "{report}");
    }
    // The new dataplane takes changes: the policy goes and the stranger is let in.
    place.kubectl(&["delete", "networkpolicy", "friends"]);
    eventually("the stranger to get through", 40, || {
        let seen = load(ns, "stranger", &[&format!("{address}:80"), "-n", "4", "--timeout", "500"]);
        if ok(&seen) == 4 { Ok(()) } else { Err(seen.to_string()) }
    });
}
