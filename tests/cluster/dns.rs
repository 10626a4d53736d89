//! Cluster DNS as pods ask it: every kind of record, the search path, stub domains, large answers, a killed server.

use std::fmt::Write as _;
use std::process::Command;

use crate::harness::{
    CLUSTER, Place, binaries, client, eventually, in_netns, kill, kubectl, pods, ready, rolled_out, run,
    service_address, text, web,
};

const SERVER: &str = "10.96.0.10";

/// What `toolbox dig` prints in a pod, whatever comes of it.
fn dig(namespace: &str, pod: &str, words: &[&str]) -> String {
    let mut all = vec!["-n", namespace, "exec", pod, "--", "toolbox", "dig"];
    all.extend_from_slice(words);
    let out = run(&all);
    text(&out.stdout) + &text(&out.stderr)
}

/// Waits until the answer holds a line with all these words.
#[track_caller]
fn answers(namespace: &str, pod: &str, words: &[&str], line: &[&str]) -> String {
    eventually(&format!("{words:?} to be answered with {line:?}"), 20, || {
        let seen = dig(namespace, pod, words);
        let found = seen.lines().any(|one| line.iter().all(|word| one.contains(word)));
        if found { Ok(seen) } else { Err(seen) }
    })
}

/// Two pods with names below a headless Service, and an alias.
fn heads() -> String {
    let mut yaml = String::new();
    for i in 0..2 {
        write!(
            yaml,
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: head-{i}, labels: {{app: heads}}}}
spec:
  nodeName: node{}
  hostname: head-{i}
  subdomain: heads
  terminationGracePeriodSeconds: 0
  containers:
  - {{name: c, image: "fairlead/toolbox:latest", imagePullPolicy: IfNotPresent, command: [sleep, "100000"]}}
---
"#,
            i + 1
        )
        .expect("a String grows");
    }
    yaml + r#"
apiVersion: v1
kind: Service
metadata: {name: heads}
spec:
  clusterIP: None
  selector: {app: heads}
  ports:
  - {name: http, port: 8080}
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: kubernetes.default.svc.cluster.local}
"#
}

#[test]
fn every_kind_of_record_is_answered_to_pods() {
    let place = Place::new("dns");
    let ns = place.namespace.as_str();
    place.apply(&web("web", 2));
    place.apply(&heads());
    place.apply(&client("client", "node1"));
    for pod in ["client", "head-0", "head-1"] {
        ready(ns, pod);
    }
    rolled_out(ns, "deployment/web");
    let address = service_address(ns, "web");
    let name = format!("web.{ns}.svc.cluster.local");

    let resolv = place.kubectl(&["exec", "client", "--", "cat", "/etc/resolv.conf"]);
    let search = format!("search {ns}.svc.cluster.local svc.cluster.local cluster.local");
    assert!(resolv.starts_with(&search), "{resolv}");
    assert!(resolv.contains(&format!("nameserver {SERVER}\n")), "{resolv}");
    assert!(resolv.contains("options ndots:5"), "{resolv}");

    answers(ns, "client", &[&name], &[&name, " A ", &address]);
    for short in ["web", &format!("web.{ns}"), &format!("web.{ns}.svc"), &name] {
        answers(ns, "client", &["--search", short], &[&name, " A ", &address]);
    }
    let seen = dig(ns, "client", &["-t", "AAAA", &name]);
    assert!(seen.contains("answers 0") && seen.contains("No Error") && seen.contains(" SOA "), "{seen}");
    let port = format!("_http._tcp.{name}");
    let seen = answers(ns, "client", &["-t", "SRV", &port], &[" SRV 0 100 80 ", &name]);
    assert!(seen.contains(&format!("+ {name}. 5 A {address}")), "the address comes along: {seen}");
    answers(ns, "client", &["-t", "PTR", &address], &[" PTR ", &name]);
    answers(ns, "client", &["-t", "TXT", "dns-version.cluster.local"], &["1.1.0"]);
    answers(ns, "client", &[&format!("10-1-2-3.{ns}.pod.cluster.local")], &[" A 10.1.2.3"]);

    let heads = pods(ns, "app=heads");
    for (pod, _, address) in &heads {
        let host = format!("{pod}.heads.{ns}.svc.cluster.local");
        answers(ns, "client", &[&format!("heads.{ns}.svc.cluster.local")], &[" A ", address]);
        answers(ns, "client", &[&host], &[" A ", address]);
        answers(ns, "client", &["-t", "PTR", address], &[" PTR ", &host]);
        let port = format!("_http._tcp.heads.{ns}.svc.cluster.local");
        answers(ns, "client", &["-t", "SRV", &port], &[" SRV 0 50 8080 ", &host]);
    }
    let alias = format!("alias.{ns}.svc.cluster.local");
    answers(ns, "client", &["-t", "CNAME", &alias], &[" CNAME kubernetes.default.svc.cluster.local."]);
    let seen = answers(ns, "client", &[&alias], &["kubernetes.default.svc.cluster.local. 5 A 10.96.0.1"]);
    assert!(seen.contains("answers 2"), "{seen}");
    for missing in [format!("nobody.{ns}.svc.cluster.local"), "web.nobody.svc.cluster.local".to_owned()] {
        let seen = dig(ns, "client", &[&missing]);
        assert!(seen.contains("Non-Existent Domain") && seen.contains("- cluster.local. 5 SOA"), "{seen}");
    }
    // What a Service stood for is not answered after it is gone.
    place.kubectl(&["delete", "service", "web"]);
    eventually("the name to be gone", 10, || {
        let seen = dig(ns, "client", &[&name]);
        if seen.contains("Non-Existent Domain") { Ok(()) } else { Err(seen) }
    });
}

#[test]
fn large_answers_come_over_tcp() {
    let place = Place::new("dnsbig");
    let ns = place.namespace.as_str();
    let mut yaml = "
apiVersion: v1
kind: Service
metadata: {name: big}
spec: {clusterIP: None, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: big-1, labels: {kubernetes.io/service-name: big}}
addressType: IPv4
ports: [{name: http, port: 80}]
endpoints:
"
    .to_owned();
    for i in 0..600 {
        writeln!(yaml, "- {{addresses: [10.9.{}.{}]}}", i / 200, i % 200 + 1).expect("a String grows");
    }
    place.apply(&yaml);
    place.apply(&client("client", "node2"));
    ready(ns, "client");
    let name = format!("big.{ns}.svc.cluster.local");
    answers(ns, "client", &[&name], &["answers 600"]);
    let seen = dig(ns, "client", &["--no-retry", &name]);
    assert!(seen.lines().next().is_some_and(|line| line.ends_with("truncated")), "{seen}");
    let addresses = seen.lines().filter(|line| line.contains(" A ")).count();
    assert!((60..80).contains(&addresses), "1232 octets hold about 74 addresses: {addresses}");
}

#[test]
fn stub_domains_come_from_the_config_map() {
    let place = Place::new("dnsstub");
    let ns = place.namespace.as_str();
    place.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: stub}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: fairlead/toolbox:latest
    imagePullPolicy: IfNotPresent
    command: [toolbox, dnsserve, --record, a.stub.example=192.0.2.7, --record, b.other.example=192.0.2.8, --ttl, "1"]
---
apiVersion: v1
kind: Service
metadata: {name: ext}
spec: {type: ExternalName, externalName: a.stub.example}
"#,
    );
    place.apply(&client("client", "node1"));
    ready(ns, "client");
    ready(ns, "stub");
    let server =
        kubectl(&["-n", ns, "get", "pod", "stub", "-o", "jsonpath={.status.podIP}"]).trim().to_owned()
            + ":5353";
    let config = |stubs: &str, upstreams: &str| {
        let literals = [
            format!("--from-literal=stubDomains={stubs}"),
            format!("--from-literal=upstreamNameservers={upstreams}"),
        ];
        run(&["-n", "kube-system", "delete", "configmap", "fairlead-dns", "--ignore-not-found"]);
        kubectl(&["-n", "kube-system", "create", "configmap", "fairlead-dns", &literals[0], &literals[1]]);
    };
    let own = format!(r#"["{server}"]"#);
    config(&format!(r#"{{"stub.example": {own}}}"#), r#"["192.0.2.99"]"#);
    answers(ns, "client", &["a.stub.example"], &["a.stub.example. ", " A 192.0.2.7"]);
    let seen = answers(ns, "client", &[&format!("ext.{ns}.svc.cluster.local")], &[" A 192.0.2.7"]);
    assert!(seen.contains(" CNAME a.stub.example."), "{seen}");
    let seen = dig(ns, "client", &["x.stub.example"]);
    assert!(seen.contains("Non-Existent Domain"), "{seen}");
    // Bad content is told, and changes nothing.
    let bad = r#"{"data": {"stubDomains": "{\"stub.example\": [\"ns.example\"]}"}}"#;
    kubectl(&["-n", "kube-system", "patch", "configmap", "fairlead-dns", "--type=merge", "-p", bad]);
    eventually("the Event", 20, || {
        let seen =
            kubectl(&["-n", "kube-system", "get", "events", "--field-selector=reason=InvalidConfiguration"]);
        if seen.contains("ns.example") { Ok(()) } else { Err(seen) }
    });
    answers(ns, "client", &["a.stub.example"], &[" A 192.0.2.7"]);
    // Other upstream servers.
    config("{\"x.example\": [\"192.0.2.99\"]}", &own);
    answers(ns, "client", &["b.other.example"], &[" A 192.0.2.8"]);
    kubectl(&["-n", "kube-system", "delete", "configmap", "fairlead-dns"]);
}

/// Process id of the container that answers for a node, and of the server in it.
#[track_caller]
fn server(node: &str) -> (i32, i32) {
    let mut docker = Command::new("docker");
    docker.args(["ps", "-q", "--filter", "label=io.kubernetes.container.name=dns"]);
    docker.args(["--filter", &format!("label=fairlead.io/cluster={}", CLUSTER.name)]);
    let out =
        docker.args(["--filter", &format!("label=fairlead.io/node={node}")]).output().expect("docker starts");
    let id = text(&out.stdout).lines().next().expect("dns runs").to_owned();
    let out = Command::new("docker").args(["inspect", "--format", "{{.State.Pid}}", &id]).output();
    let parent: i32 = text(&out.expect("docker starts").stdout).trim().parse().expect("a process id");
    let children = format!("/proc/{parent}/task/{parent}/children");
    let child = eventually("the server to run", 10, || {
        let seen = std::fs::read_to_string(&children).map_err(|e| e.to_string())?;
        seen.split_whitespace().next().and_then(|word| word.parse().ok()).ok_or(seen)
    });
    (parent, child)
}

/// Waits until a killed process reads nothing more: a question that it had read already is the client's to repeat.
#[track_caller]
fn ended(pid: i32) {
    eventually("the killed server to end", 5, || {
        match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) if !stat.contains(") Z ") => Err(stat),
            _ => Ok(()),
        }
    });
}

/// Milliseconds until a node's server answers about the cluster, to a client that asks again after `timeout` of them.
#[track_caller]
fn answered_after(node: &str, timeout: &str) -> u64 {
    let toolbox = binaries().join("toolbox").display().to_string();
    let name = "kubernetes.default.svc.cluster.local";
    let words = ["dig", "--server", SERVER, "--timeout", timeout, "--patience", "20000", name];
    let mut all = vec![toolbox.as_str()];
    all.extend_from_slice(&words);
    let seen = in_netns(node, &all);
    let after = seen.lines().find_map(|line| line.strip_prefix(";; after_ms ")?.parse().ok());
    after.unwrap_or_else(|| panic!("{seen}"))
}

#[test]
fn killed_server_answers_within_a_second_and_loses_no_question() {
    let place = Place::alone("dnskill");
    let ns = place.namespace.as_str();
    place.apply(&client("client", "node1"));
    ready(ns, "client");
    answers(ns, "client", &["--search", "kubernetes.default"], &[" A 10.96.0.1"]);
    // The server again and again: its parent holds the sockets, so that the question waits for the next one.
    for round in 0..3 {
        let (_, child) = server("node1");
        kill(child);
        ended(child);
        // A lost question would take the client five seconds.
        let after = answered_after("node1", "5000");
        eprintln!("round {round}: answered {after} ms after the server was killed");
        assert!(after < 1000, "round {round}: {after} ms");
    }
    // The whole container, and with it the sockets and the questions in them: the kubelet starts it again, at once the
    // first time and after its usual waits later.
    let (parent, _) = server("node1");
    kill(parent);
    let after = answered_after("node1", "200");
    eprintln!("answered {after} ms after the container was killed");
    assert!(after < 10_000, "{after} ms");
    answers(ns, "client", &["--search", "kubernetes.default"], &[" A 10.96.0.1"]);
}
