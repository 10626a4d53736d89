//! What must be true once nothing changes any more: by the dataplane's own comparison, by a reading of the API's
//! objects that shares no code with it, and after a fresh start.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use fairlead_abi::map;
use fairlead_dataplane::inspect::Entry;
use serde_json::Value;

use crate::ground::{Ground, Node};

/// How long the nodes may take to carry out the last changes.
const DEADLINE: Duration = Duration::from_secs(20);

/// Frontends with the sets of backends that each may lead to: more than one where Services ask for the same address.
type Frontends = BTreeMap<String, Vec<BTreeSet<SocketAddr>>>;

/// Waits until this holds, or fails with what was last said.
fn eventually(what: &str, mut check: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let end = Instant::now() + DEADLINE;
    loop {
        match check() {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > end => return Err(error.context(what.to_owned())),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Everything of the API that decides about maps.
struct Wanted {
    services: Vec<Value>,
    slices: Vec<Value>,
    nodes: Vec<Value>,
    pods: Vec<Value>,
}

/// Proves it on every node.
pub fn prove(ground: &mut Ground) -> anyhow::Result<()> {
    let mut list = |path: &str| -> anyhow::Result<Vec<Value>> {
        Ok(ground.api.get(path)?["items"].as_array().cloned().unwrap_or_default())
    };
    let wanted = Wanted {
        services: list("/api/v1/services")?,
        slices: list("/apis/discovery.k8s.io/v1/endpointslices")?,
        nodes: list("/api/v1/nodes")?,
        pods: list("/api/v1/pods")?,
    };
    for node in &ground.nodes {
        eventually(&format!("the maps of {}", node.name), || compare(node, &wanted))?;
        let out = ground.status(node)?;
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        ensure!(out.status.success(), "`dataplane status` on {} finds differences:\n{said}", node.name);
    }
    eventually("load balancer addresses", || one_node_answers(&ground.nodes, &wanted))?;
    restart(ground)
}

/// Maps as the agent wants them, and as the objects say.
fn compare(node: &Node, wanted: &Wanted) -> anyhow::Result<()> {
    let (found, agent) = node.entries()?;
    differ("the maps", &shown(&found), "the agent", &shown(&agent))?;
    let frontends = frontends(&found)?;
    let (expected, on_node) = wanted.frontends(node);
    for (key, backends) in &frontends {
        let expected = expected.get(key).or_else(|| on_node.get(key));
        let Some(sets) = expected else { bail!("no Service asks for {key} -> {backends:?}") };
        ensure!(sets.contains(backends), "{key} leads to {backends:?}, not to {sets:?}");
    }
    if let Some(missing) = expected.keys().find(|key| !frontends.contains_key(*key)) {
        bail!("there is no frontend {missing}");
    }
    let keys = |name: &str| -> BTreeSet<String> {
        found.iter().filter(|entry| entry.map == name).map(|entry| entry.key.clone()).collect()
    };
    differ("ROUTES", &keys(map::ROUTES), "the Nodes", &wanted.routes(node))?;
    differ("ENDPOINTS", &keys(map::ENDPOINTS), "the Pods", &wanted.endpoints(node))
}

/// Every entry in one line; announced addresses are looked at for all nodes together.
fn shown(entries: &[Entry]) -> BTreeSet<String> {
    let others = entries.iter().filter(|entry| entry.map != map::ANNOUNCED);
    others.map(|entry| format!("{} {} -> {}", entry.map, entry.key, entry.value)).collect()
}

fn differ(one: &str, left: &BTreeSet<String>, other: &str, right: &BTreeSet<String>) -> anyhow::Result<()> {
    let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| -> Vec<String> {
        a.difference(b).take(10).cloned().collect()
    };
    let (more, less) = (only(left, right), only(right, left));
    ensure!(more.is_empty() && less.is_empty(), "{one} alone: {more:#?}, {other} alone: {less:#?}");
    Ok(())
}

/// Frontends and their backends, as the maps have them.
fn frontends(found: &[Entry]) -> anyhow::Result<BTreeMap<String, BTreeSet<SocketAddr>>> {
    let mut sets: BTreeMap<&str, BTreeSet<SocketAddr>> = BTreeMap::new();
    for entry in found.iter().filter(|entry| entry.map == map::BACKENDS) {
        let set = entry.key.split('[').next().unwrap_or_default();
        ensure!(sets.entry(set).or_default().insert(entry.value.parse()?), "a backend twice: {entry:?}");
    }
    let mut frontends = BTreeMap::new();
    for entry in found.iter().filter(|entry| entry.map == map::SERVICES) {
        let words: Vec<&str> = entry.value.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        let ["set", set, count, "backends", ..] = words[..] else { bail!("an odd frontend: {entry:?}") };
        let backends = sets.get(set).cloned().unwrap_or_default();
        ensure!(backends.len() == count.parse::<usize>()?, "{entry:?} counts other than {backends:?}");
        frontends.insert(entry.key.clone(), backends);
    }
    for entry in found.iter().filter(|entry| entry.map == map::SERVICES) {
        let other = match entry.key.strip_suffix(INSIDE) {
            Some(outside) => found.iter().any(|of| of.key == outside && of.value.contains("others-inside")),
            None => {
                !entry.value.contains("others-inside")
                    || frontends.contains_key(&(entry.key.clone() + INSIDE))
            }
        };
        ensure!(other, "{entry:?} has no counterpart");
    }
    Ok(frontends)
}

/// What a frontend for pods and the node alone ends with.
const INSIDE: &str = " from inside";

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().map(Vec::as_slice).unwrap_or_default().iter().filter_map(Value::as_str)
}

fn addresses<'a>(list: &'a Value, field: &'a str) -> impl Iterator<Item = IpAddr> + 'a {
    let all = list.as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().filter_map(move |one| one[field].as_str()?.parse().ok())
}

impl Wanted {
    /// Frontends that must be there on a node, and those of node ports, which are there on every address of the node.
    fn frontends(&self, node: &Node) -> (Frontends, Frontends) {
        let (mut named, mut on_node) = (Frontends::new(), Frontends::new());
        // Whether they are there depends on whose Service has an address that several ask for.
        let inside = RefCell::new(Frontends::new());
        for service in &self.services {
            let spec = &service["spec"];
            let clusters: Vec<IpAddr> = texts(&spec["clusterIPs"]).filter_map(|ip| ip.parse().ok()).collect();
            for port in spec["ports"].as_array().map(Vec::as_slice).unwrap_or_default() {
                for v4 in [true, false] {
                    let of_family = |address: &IpAddr| address.is_ipv4() == v4;
                    if !clusters.iter().any(of_family) {
                        continue;
                    }
                    let protocol = port["protocol"].as_str().unwrap_or("TCP").to_lowercase();
                    let add = |into: &mut Frontends, address: &str, number: &Value, policy: &str| {
                        let local = (spec[policy] == "Local").then_some(node.name.as_str());
                        let backends = self.backends(service, port, v4, local);
                        let key = format!("{address}:{number}/{protocol}");
                        into.entry(key.clone()).or_default().push(backends);
                        if policy == "externalTrafficPolicy" && local.is_some() {
                            let all = self.backends(service, port, v4, None);
                            inside.borrow_mut().entry(key + INSIDE).or_default().push(all);
                        }
                    };
                    let bracketed = |address: IpAddr| {
                        if v4 { address.to_string() } else { format!("[{address}]") }
                    };
                    for address in clusters.iter().copied().filter(of_family) {
                        add(&mut named, &bracketed(address), &port["port"], "internalTrafficPolicy");
                    }
                    let external = texts(&spec["externalIPs"]).filter_map(|ip| ip.parse().ok());
                    let balanced = addresses(&service["status"]["loadBalancer"]["ingress"], "ip");
                    for address in external.chain(balanced).filter(of_family) {
                        add(&mut named, &bracketed(address), &port["port"], "externalTrafficPolicy");
                    }
                    if port["nodePort"].is_null() {
                        continue;
                    }
                    let number = &port["nodePort"];
                    let certain = if v4 { "*".to_owned() } else { bracketed(node.addresses[1]) };
                    add(&mut named, &certain, number, "externalTrafficPolicy");
                    if !v4 {
                        // The node's address towards its pods is one of its own as well.
                        let gateway = fairlead_dataplane::overlay::gateway(node.cidrs[1]);
                        add(&mut on_node, &bracketed(gateway), number, "externalTrafficPolicy");
                        // What other nodes are asked for comes here as it was when backends answer directly.
                        let others = self
                            .nodes
                            .iter()
                            .flat_map(|other| addresses(&other["status"]["addresses"], "address"));
                        for address in
                            others.filter(|address| of_family(address) && *address != node.addresses[1])
                        {
                            if service["metadata"]["annotations"]["fairlead.io/direct-server-return"]
                                == "true"
                            {
                                add(&mut on_node, &bracketed(address), number, "externalTrafficPolicy");
                            }
                        }
                    }
                }
            }
        }
        on_node.extend(inside.into_inner());
        (named, on_node)
    }

    /// Who takes new connections: the ready ones, or else those that still serve.
    fn backends(&self, service: &Value, port: &Value, v4: bool, local: Option<&str>) -> BTreeSet<SocketAddr> {
        let (mut ready, mut leaving) = (BTreeSet::new(), BTreeSet::new());
        let meta = &service["metadata"];
        let family = if v4 { "IPv4" } else { "IPv6" };
        let of_service = self.slices.iter().filter(|slice| {
            slice["metadata"]["namespace"] == meta["namespace"]
                && slice["metadata"]["labels"]["kubernetes.io/service-name"] == meta["name"]
                && slice["addressType"] == family
        });
        for slice in of_service {
            let same = |one: &&Value| one["name"] == port["name"] && one["protocol"] == port["protocol"];
            let numbers = slice["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
            let Some(number) = numbers.iter().find(same).and_then(|one| one["port"].as_u64()) else {
                continue;
            };
            for endpoint in slice["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default() {
                if local.is_some_and(|node| endpoint["nodeName"] != node) {
                    continue;
                }
                let conditions = &endpoint["conditions"];
                let into = if conditions["ready"] != false {
                    &mut ready
                } else if conditions["serving"] == true && conditions["terminating"] == true {
                    &mut leaving
                } else {
                    continue;
                };
                let all = texts(&endpoint["addresses"]).filter_map(|address| address.parse::<IpAddr>().ok());
                into.extend(all.map(|address| SocketAddr::new(address, number as u16)));
            }
        }
        if ready.is_empty() { leaving } else { ready }
    }

    /// Blocks of pods that other nodes have.
    fn routes(&self, node: &Node) -> BTreeSet<String> {
        let others = self.nodes.iter().filter(|other| other["metadata"]["name"] != node.name.as_str());
        others.flat_map(|other| texts(&other["spec"]["podCIDRs"])).map(str::to_owned).collect()
    }

    /// Addresses of the node's pods.
    fn endpoints(&self, node: &Node) -> BTreeSet<String> {
        let own = self.pods.iter().filter(|pod| pod["spec"]["nodeName"] == node.name.as_str());
        own.flat_map(|pod| addresses(&pod["status"]["podIPs"], "ip")).map(|ip| ip.to_string()).collect()
    }

    /// Load balancers' addresses on the segment that somebody must answer for, and those that somebody may.
    fn balancers(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let (mut must, mut may) = (BTreeSet::new(), BTreeSet::new());
        for service in &self.services {
            let all = addresses(&service["status"]["loadBalancer"]["ingress"], "ip");
            for address in all.map(|address| address.to_string()).filter(|ip| ip.starts_with("192.0.2.")) {
                if service["spec"]["externalTrafficPolicy"] != "Local" {
                    must.insert(address.clone());
                }
                may.insert(address);
            }
        }
        (must, may)
    }
}

/// Each load balancer's address is answered for by one node, and no other address is.
fn one_node_answers(nodes: &[Node], wanted: &Wanted) -> anyhow::Result<()> {
    let mut holders: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for node in nodes {
        let (found, _) = node.entries()?;
        for entry in found.into_iter().filter(|entry| entry.map == map::ANNOUNCED) {
            holders.entry(entry.key).or_default().push(&node.name);
        }
    }
    let (must, may) = wanted.balancers();
    if let Some(nobody) = must.iter().find(|address| !holders.contains_key(*address)) {
        bail!("nobody answers for {nobody}");
    }
    for (address, nodes) in &holders {
        ensure!(nodes.len() == 1, "{nodes:?} answer for {address}");
        ensure!(may.contains(address), "{nodes:?} answer for {address}, which no Service has");
    }
    Ok(())
}

/// Dataplanes that start anew make the same of the objects as those that went through every change.
fn restart(ground: &mut Ground) -> anyhow::Result<()> {
    let mut before = Vec::new();
    for index in 0..ground.nodes.len() {
        before.push(shown(&ground.nodes[index].entries()?.0));
        ground.kill_agent(index)?;
    }
    ground.wait_for_agents()?;
    for (node, before) in ground.nodes.iter().zip(&before) {
        let (found, agent) = node.entries()?;
        differ("before a new start", before, "after it", &shown(&found))?;
        differ("the maps", &shown(&found), "the new agent", &shown(&agent))?;
    }
    Ok(())
}
