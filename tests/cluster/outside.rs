//! What the outside gets: node ports and load balancers' addresses over every node, by either traffic policy, and while
//! pods are replaced.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fairlead_cni::netns;
use serde_json::Value;

use crate::harness::{CLUSTER, Place, eventually, in_netns, json, load_at, ok, pods, rolled_out, web};

const NODES: [(&str, &str); 2] = [("node1", "172.30.0.11"), ("node2", "172.30.0.12")];

/// The host outside.
const CLIENT: &str = "172.31.0.2";

/// Addresses that lie in no network of the cluster, so that routes choose the node that is asked.
const POOL: &str = "198.51.100.0/28";

/// A Service of type LoadBalancer over the pods of `web`.
fn balancer(name: &str, policy: &str, annotation: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: {name}, annotations: {{{annotation}}}}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: {policy}
  selector: {{app: web}}
  ports:
  - {{name: http, port: 80, targetPort: http}}
  - {{name: echo-udp, port: 7, targetPort: echo-udp, protocol: UDP}}
---
"#
    )
}

/// Gives the cluster its pool of addresses; it is the same for every test.
fn pool() -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: fairlead-load-balancer, namespace: kube-system}}\ndata: {{pools: \"{POOL}\"}}\n---\n"
    )
}

/// Leads an address to a node, as a router in front of the cluster does.
fn lead(address: &str, node: &str) {
    in_netns("net", &["ip", "route", "replace", &format!("{address}/32"), "via", node]);
}

struct Balancer {
    address: String,
    /// Node ports of `http` and `echo-udp`.
    ports: [u64; 2],
    health: u64,
}

#[track_caller]
fn balanced(place: &Place, name: &str) -> Balancer {
    eventually(&format!("{name} to have an address"), 20, || {
        let service = json(&["-n", &place.namespace, "get", "service", name]);
        let address = service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str();
        let address = address.ok_or_else(|| service["status"].to_string())?.to_owned();
        let ports = [0, 1].map(|port| service["spec"]["ports"][port]["nodePort"].as_u64().unwrap_or(0));
        Ok(Balancer { address, ports, health: service["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0) })
    })
}

fn counts(report: &Value, field: &str) -> BTreeMap<String, u64> {
    let map = report[field].as_object().cloned().unwrap_or_default();
    map.into_iter().map(|(name, n)| (name, n.as_u64().unwrap_or(0))).collect()
}

/// How a Service treats what comes from outside.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Cluster,
    Local,
    Direct,
}

/// A node's own address towards its pods: the first of their block.
#[track_caller]
fn gateway(node: &str) -> String {
    let node = json(&["get", "node", node]);
    let block = node["spec"]["podCIDR"].as_str().unwrap_or_default();
    let start = block.strip_suffix(".0/24").unwrap_or_else(|| panic!("an odd block: {block}"));
    format!("{start}.1")
}

/// Asks over a node and checks who answered, and which client they saw.
#[track_caller]
fn check(kind: Kind, target: &str, protocol: &str, node: &str, homes: &BTreeMap<String, String>) {
    let what = format!("{kind:?} at {target} over {node}, {protocol}");
    let seen = eventually(&format!("{what} to answer"), 20, || {
        let seen =
            load_at("outside", &[target, "--protocol", protocol, "-n", "80", "-c", "2", "--timeout", "1000"]);
        if ok(&seen) == 80 { Ok(seen) } else { Err(seen.to_string()) }
    });
    let (mut here, mut elsewhere) = (0, 0);
    for (pod, count) in counts(&seen, "backends") {
        *(if homes[&pod] == node { &mut here } else { &mut elsewhere }) += count;
    }
    let clients = counts(&seen, "clients");
    let of = |address: &str| clients.get(address).copied().unwrap_or(0);
    match kind {
        Kind::Local => assert_eq!((elsewhere, of(CLIENT)), (0, 80), "{what}: {seen}"),
        Kind::Direct => assert_eq!(of(CLIENT), 80, "{what}: {seen}"),
        // What goes on to another node comes there from the one that was asked, by its address towards pods.
        Kind::Cluster => {
            assert_eq!((of(CLIENT), of(&gateway(node))), (here, elsewhere), "{what}: {seen}");
        }
    }
    if kind != Kind::Local {
        assert!(here > 0 && elsewhere > 0, "{what} leads to both nodes: {seen}");
    }
}

/// The answer of a health check port: code and local endpoints.
fn health(at: &str, port: u64) -> Result<(String, u64), String> {
    let url = format!("http://{at}:{port}/");
    let said = in_netns("outside", &["curl", "-sS", "-m", "2", "-w", "\n%{http_code}", &url]);
    let (body, code) = said.rsplit_once('\n').ok_or("no code")?;
    let body: Value = serde_json::from_str(body).map_err(|e| format!("{e}: {body}"))?;
    Ok((code.to_owned(), body["localEndpoints"].as_u64().ok_or("no count")?))
}

#[test]
fn either_traffic_policy_holds_over_every_node() {
    let place = Place::new("outside");
    let ns = place.namespace.as_str();
    let direct = r#"fairlead.io/direct-server-return: "true""#;
    let services = balancer("cluster", "Cluster", "")
        + &balancer("local", "Local", "")
        + &balancer("direct", "Cluster", direct);
    place.apply(&web("web", 4));
    crate::harness::apply("kube-system", &pool());
    place.apply(&services);
    rolled_out(ns, "deployment/web");
    let homes = || -> BTreeMap<String, String> {
        pods(ns, "app=web").into_iter().map(|(pod, node, _)| (pod, node)).collect()
    };
    let four = homes();
    let local = balanced(&place, "local");
    for (name, kind) in [("cluster", Kind::Cluster), ("local", Kind::Local), ("direct", Kind::Direct)] {
        let Balancer { address, ports, .. } = balanced(&place, name);
        for (node, at) in NODES {
            lead(&address, at);
            for (protocol, port, node_port) in [("http", 80, ports[0]), ("udp", 7, ports[1])] {
                check(kind, &format!("{address}:{port}"), protocol, node, &four);
                check(kind, &format!("{at}:{node_port}"), protocol, node, &four);
            }
        }
    }
    let each =
        |node: &str, homes: &BTreeMap<String, String>| homes.values().filter(|home| *home == node).count();
    for (node, at) in NODES {
        let expected = ("200".to_owned(), each(node, &four) as u64);
        assert_eq!(health(at, local.health), Ok(expected), "{node}");
    }
    // One pod is left: the node without it says so and takes nothing.
    place.kubectl(&["scale", "deployment/web", "--replicas=1"]);
    let one = eventually("one pod to be left", 30, || {
        let left = homes();
        if left.len() == 1 { Ok(left) } else { Err(format!("{left:?}")) }
    });
    for (node, at) in NODES {
        let count = each(node, &one);
        let expected = if count == 1 { ("200".to_owned(), 1) } else { ("503".to_owned(), 0) };
        eventually(&format!("the health check of {node} to say {expected:?}"), 20, || {
            let seen = health(at, local.health)?;
            if seen == expected { Ok(()) } else { Err(format!("{seen:?}")) }
        });
        let target = format!("{at}:{}", local.ports[0]);
        if count == 1 {
            check(Kind::Local, &target, "http", node, &one);
        } else {
            // Pods that terminate serve on as long as they are there.
            eventually(&format!("{node} to take nothing"), 20, || {
                let seen = load_at("outside", &[&target, "-n", "4", "-c", "4", "--timeout", "400"]);
                if ok(&seen) == 0 { Ok(()) } else { Err(seen.to_string()) }
            });
        }
    }
}

/// Asks for a page over a connection of its own; gives the code.
fn page(to: SocketAddr) -> io::Result<String> {
    let patience = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    answer.split_whitespace().nth(1).map(str::to_owned).ok_or(io::ErrorKind::UnexpectedEof.into())
}

/// A load balancer outside: it asks the health check port of every node, and sends requests to those that are well.
struct Front {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    served: [Arc<AtomicU64>; 2],
    failed: Arc<Mutex<Vec<String>>>,
}

/// How often a node's health is asked for.
const INTERVAL: Duration = Duration::from_millis(500);

impl Front {
    fn new(port: u16, health: u16) -> Front {
        let mut front = Front {
            stop: Arc::default(),
            threads: Vec::new(),
            served: Default::default(),
            failed: Arc::default(),
        };
        let addresses = NODES.map(|(_, at)| at.parse().expect("an address"));
        let well: Arc<[AtomicBool; 2]> = Arc::default();
        for (index, at) in addresses.into_iter().enumerate() {
            let (stop, well) = (front.stop.clone(), well.clone());
            front.outside(move || {
                while !stop.load(Ordering::Relaxed) {
                    let answered = page(SocketAddr::new(at, health)).is_ok_and(|code| code == "200");
                    well[index].store(answered, Ordering::Relaxed);
                    thread::sleep(INTERVAL);
                }
            });
        }
        for number in 0..4 {
            let (stop, well, served) = (front.stop.clone(), well.clone(), front.served.clone());
            let failed = front.failed.clone();
            front.outside(move || {
                // The first health checks must have been answered.
                while !well.iter().any(|one| one.load(Ordering::Relaxed)) && !stop.load(Ordering::Relaxed) {
                    thread::sleep(INTERVAL / 10);
                }
                let mut turn: usize = number;
                while !stop.load(Ordering::Relaxed) {
                    turn += 1;
                    let chosen =
                        [turn % 2, (turn + 1) % 2].into_iter().find(|n| well[*n].load(Ordering::Relaxed));
                    let outcome = match chosen {
                        Some(node) => page(SocketAddr::new(addresses[node], port))
                            .map_err(|error| format!("{} at {}", error, addresses[node]))
                            .and_then(|code| if code == "200" { Ok(node) } else { Err(code) }),
                        None => Err("no node is well".to_owned()),
                    };
                    match outcome {
                        Ok(node) => drop(served[node].fetch_add(1, Ordering::Relaxed)),
                        Err(error) => failed.lock().expect("the failures").push(error),
                    }
                    thread::sleep(Duration::from_millis(5));
                }
            });
        }
        front
    }

    fn outside(&mut self, work: impl FnOnce() + Send + 'static) {
        let namespace = netns::open(Path::new(&CLUSTER.netns("outside"))).expect("the host outside");
        self.threads.push(thread::spawn(move || {
            netns::enter(std::os::fd::AsFd::as_fd(&namespace)).expect("the host outside");
            work();
        }));
    }

    fn served(&self) -> [u64; 2] {
        self.served.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    fn failed(&self) -> Vec<String> {
        self.failed.lock().expect("the failures").clone()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

#[test]
fn a_rollout_under_load_with_a_local_policy_loses_no_request() {
    let place = Place::new("rollout");
    let ns = place.namespace.as_str();
    place.apply(&web("web", 2));
    // What a careful owner has: no pod fewer than wanted, and one that goes serves on until load balancers know.
    let careful = r#"{"spec": {"strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": {"spec": {"terminationGracePeriodSeconds": 10, "containers": [
            {"name": "web", "lifecycle": {"preStop": {"exec": {"command": ["sleep", "4"]}}}}]}}}}"#;
    place.kubectl(&["patch", "deployment", "web", "-p", careful]);
    crate::harness::apply("kube-system", &pool());
    place.apply(&balancer("front", "Local", ""));
    rolled_out(ns, "deployment/web");
    let service = balanced(&place, "front");
    let port = |number: u64| u16::try_from(number).expect("a port");
    eventually("some node to be well", 20, || {
        let well = NODES.iter().any(|(_, at)| health(at, service.health).is_ok_and(|seen| seen.0 == "200"));
        if well { Ok(()) } else { Err("none".to_owned()) }
    });
    let front = Front::new(port(service.ports[0]), port(service.health));
    let wait_for = |more: u64| {
        let before: u64 = front.served().iter().sum();
        eventually("requests to be served", 30, || {
            let now: u64 = front.served().iter().sum();
            if now >= before + more {
                Ok(())
            } else {
                Err(format!("{now} after {before}: {:?}", front.failed()))
            }
        });
    };
    wait_for(200);
    let names = || -> Vec<String> { pods(ns, "app=web").into_iter().map(|pod| pod.0).collect() };
    // Every pod anew where the scheduler likes; then all of them on one node, and all on the other: each time a node is
    // left without any.
    let only_on = |node: &str| {
        format!(
            r#"{{"spec":{{"template":{{"spec":{{"nodeSelector":{{"kubernetes.io/hostname":"{node}"}}}}}}}}}}"#
        )
    };
    let moves = [only_on("node1"), only_on("node2")];
    for (round, words) in [
        ["rollout", "restart", "deployment/web"].as_slice(),
        &["patch", "deployment", "web", "-p", &moves[0]],
        &["patch", "deployment", "web", "-p", &moves[1]],
    ]
    .into_iter()
    .enumerate()
    {
        let before = names();
        place.kubectl(words);
        rolled_out(ns, "deployment/web");
        eventually("the old pods to be gone", 40, || {
            let list = json(&["-n", ns, "get", "pods", "-l", "app=web"]);
            let all = list["items"].as_array().expect("a list");
            let old =
                all.iter().filter(|pod| before.iter().any(|name| pod["metadata"]["name"] == name.as_str()));
            let left = old.count();
            if left == 0 { Ok(()) } else { Err(format!("{left} are left")) }
        });
        wait_for(200);
        assert_eq!(front.failed(), [""; 0], "round {round}: of {:?} requests", front.served());
    }
    println!("served over either node: {:?}", front.served());
}
