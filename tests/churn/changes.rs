//! Changes at random: Services, their slices, pods with their networks, policies, nodes, and `kill -9` of the parts
//! that carry them out.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::{Context, ensure};
use hyper::Method;
use rand::{
    Rng, SeedableRng,
    rngs::StdRng,
    seq::{IndexedRandom as _, IteratorRandom as _},
};
use serde_json::{Value, json};

use crate::echo::Server;
use crate::ground::{Ground, on_both};
use crate::objects::{self, CALM, CHURN, PORT};
use crate::space::{Sandbox, Space, cni, given};
use crate::traffic::Rough;

/// Pods of one group stand behind the same Services.
const GROUPS: [&str; 3] = ["red", "green", "blue"];

const MAX_PODS: usize = 14;
const MAX_SERVICES: usize = 12;
const MAX_POLICIES: usize = 6;

/// The node that comes and goes.
const GUEST: &str = "gamma";
const GUEST_ADDRESS: u8 = 3;

/// A pod with its network.
pub struct Pod {
    pub namespace: &'static str,
    pub name: String,
    pub node: String,
    pub space: Space,
    /// None until the CNI plugin has given them.
    pub addresses: Vec<IpAddr>,
    group: String,
    _server: Option<Server>,
}

impl Pod {
    fn sandbox(&self) -> Sandbox<'_> {
        Sandbox { namespace: self.namespace, name: &self.name, uid: "", space: &self.space }
    }

    fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/pods/{}", self.namespace, self.name)
    }

    fn is_running(&self) -> bool {
        !self.addresses.is_empty()
    }
}

/// Makes a pod's object; its network comes by [`connect`].
pub fn make_pod(
    ground: &mut Ground,
    namespace: &'static str,
    name: &str,
    node: &str,
    (labels, annotations): (&Value, &Value),
) -> anyhow::Result<Pod> {
    let object = objects::pod(namespace, name, node, labels, annotations);
    ground.api.create(&format!("/api/v1/namespaces/{namespace}/pods"), &object)?;
    Ok(Pod {
        namespace,
        name: name.to_owned(),
        node: node.to_owned(),
        space: Space::new(),
        addresses: Vec::new(),
        group: String::new(),
        _server: None,
    })
}

/// Gives a pod its network, as a kubelet does, unless its node's dataplane is away; then the kubelet comes again.
pub fn connect(ground: &mut Ground, pod: &mut Pod) -> anyhow::Result<bool> {
    let Some(node) = ground.nodes.iter().find(|node| node.name == pod.node) else { return Ok(false) };
    let Ok(answer) = cni(&node.space, &node.socket(), &pod.sandbox(), "ADD") else { return Ok(false) };
    let addresses = given(&answer);
    ensure!(addresses.len() == 2, "{} got {addresses:?}", pod.name);
    pod._server = Some(Server::new(&pod.space, &pod.name, PORT));
    ground.api.patch(&format!("{}/status", pod.path()), &objects::pod_status(&addresses))?;
    pod.addresses = addresses;
    Ok(true)
}

/// A slice of a Service: its family, and pods with whether they are ready.
struct Slice {
    service: String,
    family: usize,
    pods: BTreeMap<String, bool>,
}

struct Service {
    group: String,
    number: usize,
    uid: String,
    addresses: Vec<IpAddr>,
    node_port: Option<u16>,
}

/// Everything that changes.
pub struct Changes {
    random: StdRng,
    pods: Vec<Pod>,
    /// Pods that go, whose sandboxes are still there.
    leaving: Vec<Pod>,
    services: BTreeMap<String, Service>,
    slices: BTreeMap<String, Slice>,
    policies: BTreeSet<(&'static str, String)>,
    ghosts: BTreeSet<u8>,
    count: usize,
    /// How often each kind of change was made.
    pub done: BTreeMap<&'static str, usize>,
    /// Changes of Services that the API refused.
    pub refused: usize,
}

type Change = fn(&mut Changes, &mut Ground) -> anyhow::Result<String>;

/// Kinds of change, with how often each is chosen.
const CHANGES: [(&str, u32, Change); 13] = [
    ("pod added", 12, Changes::add_pod),
    ("pod removed", 8, Changes::remove_pod),
    ("pod marked", 6, Changes::mark_pod),
    ("service added", 8, Changes::add_service),
    ("service changed", 12, Changes::change_service),
    ("service removed", 4, Changes::remove_service),
    ("slice written", 24, Changes::write_slice),
    ("slice removed", 4, Changes::remove_slice),
    ("policy written", 8, Changes::write_policy),
    ("policy removed", 5, Changes::remove_policy),
    ("ghost node", 4, Changes::change_ghost),
    ("node joins or leaves", 1, Changes::change_guest),
    ("dataplane killed", 3, Changes::kill_agent),
];

/// Of so many changes one is a `kill -9` of the control plane.
const SERVER_EVERY: usize = 150;

impl Changes {
    pub fn new(seed: u64) -> Changes {
        Changes {
            random: StdRng::seed_from_u64(seed),
            pods: Vec::new(),
            leaving: Vec::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            policies: BTreeSet::new(),
            ghosts: BTreeSet::new(),
            count: 0,
            done: BTreeMap::new(),
            refused: 0,
        }
    }

    /// Makes one change; gives what it was.
    pub fn step(&mut self, ground: &mut Ground) -> anyhow::Result<String> {
        self.count += 1;
        let (kind, change) = if self.count.is_multiple_of(SERVER_EVERY) {
            ("server killed", Changes::kill_server as Change)
        } else {
            let weights: u32 = CHANGES.iter().map(|(_, weight, _)| weight).sum();
            let mut drawn = self.random.random_range(0..weights);
            let chosen = CHANGES.iter().find(|(_, weight, _)| {
                let here = drawn < *weight;
                drawn = drawn.saturating_sub(*weight);
                here
            });
            let (kind, _, change) = chosen.unwrap_or(&CHANGES[0]);
            (*kind, *change)
        };
        let what = change(self, ground).context(kind)?;
        if !what.is_empty() {
            *self.done.entry(kind).or_default() += 1;
        }
        self.kubelets(ground)?;
        Ok(if what.is_empty() { what } else { format!("{kind}: {what}") })
    }

    /// How long the next change waits, in milliseconds.
    pub fn pause(&mut self) -> u64 {
        self.random.random_range(5..80)
    }

    /// What is asked for while it changes: by pods, and by the outside at a node's address.
    pub fn frontends(&self, node: [IpAddr; 2]) -> [Vec<Rough>; 2] {
        let rough = |service: &Service, address: IpAddr, port: u16| Rough {
            to: (address, port).into(),
            group: service.group.clone(),
            uid: service.uid.clone(),
        };
        let all = || self.services.values();
        let inside = all().flat_map(|one| one.addresses.iter().map(move |address| rough(one, *address, 80)));
        let outside = all().filter_map(|one| Some((one, one.node_port?))).flat_map(|(one, port)| {
            let has = |address: &&IpAddr| one.addresses.iter().any(|own| own.is_ipv4() == address.is_ipv4());
            let addresses: Vec<IpAddr> = node.iter().filter(has).copied().collect();
            addresses.into_iter().map(move |address| rough(one, address, port))
        });
        [inside.collect(), outside.collect()]
    }

    /// What kubelets come back to: pods without a network, and sandboxes that are still there.
    fn kubelets(&mut self, ground: &mut Ground) -> anyhow::Result<()> {
        for pod in self.pods.iter_mut().filter(|pod| !pod.is_running()) {
            connect(ground, pod)?;
        }
        self.leaving.retain(|pod| match ground.nodes.iter().find(|node| node.name == pod.node) {
            Some(node) => cni(&node.space, &node.socket(), &pod.sandbox(), "DEL").is_err(),
            None => false,
        });
        Ok(())
    }

    /// Ends every change: nothing waits any more. Pods and Services stay.
    pub fn finish(&mut self, ground: &mut Ground) -> anyhow::Result<()> {
        ground.wait_for_agents()?;
        self.kubelets(ground)?;
        ensure!(self.pods.iter().all(Pod::is_running), "a pod has no network with every dataplane ready");
        ensure!(self.leaving.is_empty(), "a sandbox stays with every dataplane ready");
        Ok(())
    }

    /// Pods that have a network now.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter()
    }

    fn next(&mut self, prefix: &str) -> String {
        format!("{prefix}{}", self.count)
    }

    fn add_pod(&mut self, ground: &mut Ground) -> anyhow::Result<String> {
        if self.pods.len() >= MAX_PODS {
            return Ok(String::new());
        }
        let group = (*GROUPS.choose(&mut self.random).unwrap_or(&GROUPS[0])).to_owned();
        let node = ground.nodes.choose(&mut self.random).context("no node")?.name.clone();
        let name = self.next(&format!("{group}-"));
        let (labels, annotations) = objects::pod_marks(&mut self.random, &group);
        let mut pod = make_pod(ground, CHURN, &name, &node, (&labels, &annotations))?;
        pod.group = group;
        self.pods.push(pod);
        Ok(format!("{name} on {node}"))
    }

    fn remove_pod(&mut self, ground: &mut Ground) -> anyhow::Result<String> {
        let Some(index) = (0..self.pods.len()).choose(&mut self.random) else { return Ok(String::new()) };
        let pod = self.pods.swap_remove(index);
        let name = pod.name.clone();
        self.forget_in_slices(ground, &[&name])?;
        let sandbox_first = self.random.random_bool(0.5);
        let path = pod.path();
        if sandbox_first {
            self.leaving.push(pod);
            self.kubelets(ground)?;
            ground.api.delete(&path)?;
        } else {
            ground.api.delete(&path)?;
            self.leaving.push(pod);
        }
        Ok(name)
    }

    fn forget_in_slices(&mut self, ground: &mut Ground, gone: &[&str]) -> anyhow::Result<()> {
        let names: Vec<String> = self.slices.keys().cloned().collect();
        for name in names {
            let Some(slice) = self.slices.get_mut(&name) else { continue };
            let before = slice.pods.len();
            slice.pods.retain(|pod, _| !gone.contains(&pod.as_str()));
            if slice.pods.len() != before {
                self.send_slice(ground, &name, false)?;
            }
        }
        Ok(())
    }

    fn mark_pod(&mut self, ground: &mut Ground) -> anyhow::Result<String> {
        let Some(pod) = self.pods.choose(&mut self.random) else { return Ok(String::new()) };
        let (labels, annotations) = objects::pod_marks(&mut self.random, &pod.group);
        // What the new marks do not name goes.
        let mut all = json!({"fairlead.io/weight": null, "kubernetes.io/ingress-bandwidth": null,
                             "kubernetes.io/egress-bandwidth": null});
        for (key, value) in annotations.as_object().into_iter().flatten() {
            all[key] = value.clone();
        }
        ground.api.patch(&pod.path(), &json!({"metadata": {"labels": labels, "annotations": all}}))?;
        Ok(format!("{} {labels} {annotations}", pod.name))
    }

    fn add_service(&mut self, ground: &mut Ground) -> anyhow::Result<String> {
        if self.services.len() >= MAX_SERVICES {
            return Ok(String::new());
        }
        let name = self.next("svc-");
        let group = (*GROUPS.choose(&mut self.random).unwrap_or(&GROUPS[0])).to_owned();
        let object = objects::any_service(&mut self.random, &name, self.count);
        let path = format!("/api/v1/namespaces/{CHURN}/services");
        let (code, answer) = ground.api.ask(Method::POST, &path, Some(&object))?;
        self.accepted(ground, &name, Some(group), code, &answer)?;
        Ok(format!("{name} {}", object["spec"]))
    }

    fn change_service(&mut self, ground: &mut Ground) -> anyhow::Result<String> {
        let Some((name, number)) =
            self.services.iter().map(|(name, one)| (name.clone(), one.number)).choose(&mut self.random)
        else {
            return Ok(String::new());
        };
        let patch = objects::service_change(&mut self.random, number);
        let path = format!("/api/v1/namespaces/{CHURN}/services/{name}");
        let (code, answer) = ground.api.ask(Method::PATCH, &path, Some(&patch))?;
        self.accepted(ground, &name, None, code, &answer)?;
        Ok(format!("{name} {patch}"))
    }

    /// Notes what the API made of a Service, and plays the controller that gives away load balancers' addresses.
    fn accepted(
        &mut self,
        ground: &mut Ground,
        name: &str,
        group: Option<String>,
        code: u16,
        answer: &Value,
    ) -> anyhow::Result<()> {
        if code == 422 {
            self.refused += 1;
            return Ok(());
        }
        ensure!((200..300).contains(&code), "{name} was answered with {code}: {answer}");
        let known = self.services.remove(name);
        let number = known.as_ref().map_or(self.count, |known| known.number);
        let group = group.or(known.map(|known| known.group)).context("a Service without a group")?;
        let list = answer["spec"]["clusterIPs"].as_array().map(Vec::as_slice).unwrap_or_default();
        let addresses = list.iter().filter_map(|ip| ip.as_str()?.parse().ok()).collect();
        let uid = answer["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let node_port =
            answer["spec"]["ports"][0]["nodePort"].as_u64().and_then(|port| u16::try_from(port).ok());
        self.services.insert(name.to_owned(), Service { group, number, uid, addresses, node_port });
        let balanced = answer["spec"]["type"] == "LoadBalancer";
        let address = balanced.then(|| on_both(151 + (number % 90) as u8)[0]);
        let path = format!("/api/v1/namespaces/{CHURN}/services/{name}/status");
        ground.api.patch(&path, &objects::balancer_status(address))?;
        Ok(())
    }

    fn remove_service(&mut self, ground: &mut Ground) -> anyhow::Result<String> {
        let Some(name) = self.services.keys().choose(&mut self.random).cloned() else {
            return Ok(String::new());
        };
        self.services.remove(&name);
        let mut deletions = vec![format!("/api/v1/namespaces/{CHURN}/services/{name}")];
        let of_it: Vec<String> = self
            .slices
            .iter()
            .filter(|(_, slice)| slice.service == name)
            .map(|(name, _)| name.clone())
            .collect();
        for slice in of_it {
            self.slices.remove(&slice);
            deletions.push(slice_path(&slice));
        }
        if self.random.random_bool(0.5) {
            deletions.reverse();
        }
        deletions.iter().try_for_each(|path| ground.api.delete(path).map(drop))?;
        Ok(name)
    }

    fn write_slice(&mut self, ground: &mut Ground) -> anyhow::Result<String> {
        let Some((service, group)) = self
            .services
            .iter()
            .map(|(name, one)| (name.clone(), one.group.clone()))
            .choose(&mut self.random)
        else {
            return Ok(String::new());
        };
        let family = self.random.random_range(0..2);
        let name = format!("{service}-{family}-{}", self.random.random_range(0..2));
        let fresh = !self.slices.contains_key(&name);
        let mut pods = BTreeMap::new();
        for pod in self.pods.iter().filter(|pod| pod.group == group && pod.is_running()) {
            if self.random.random_bool(0.6) {
                pods.insert(pod.name.clone(), self.random.random_bool(0.85));
            }
        }
        let what = format!("{name} {pods:?}");
        self.slices.insert(name.clone(), Slice { service, family, pods });
        self.send_slice(ground, &name, fresh)?;
        Ok(what)
    }

    fn send_slice(&self, ground: &mut Ground, name: &str, fresh: bool) -> anyhow::Result<()> {
        let slice = self.slices.get(name).context("a slice")?;
        let endpoint = |pod: &Pod| {
            let ready = slice.pods.get(&pod.name)?;
            Some(objects::endpoint(pod.addresses[slice.family], &pod.node, *ready))
        };
        let endpoints: Vec<Value> = self.pods.iter().filter_map(endpoint).collect();
        if fresh {
            let family = ["IPv4", "IPv6"][slice.family];
            let object = objects::slice(CHURN, name, &slice.service, family, &endpoints);
            let path = format!("/apis/discovery.k8s.io/v1/namespaces/{CHURN}/endpointslices");
            ground.api.create(&path, &object)?;
        } else {
            ground.api.patch(&slice_path(name), &json!({"endpoints": endpoints}))?;
        }
        Ok(())
    }

    fn remove_slice(&mut self, ground: &mut Ground) -> anyhow::Result<String> {
        let Some(name) = self.slices.keys().choose(&mut self.random).cloned() else {
            return Ok(String::new());
        };
        self.slices.remove(&name);
        ground.api.delete(&slice_path(&name))?;
        Ok(name)
    }

    fn write_policy(&mut self, ground: &mut Ground) -> anyhow::Result<String> {
        if self.policies.len() >= MAX_POLICIES {
            return Ok(String::new());
        }
        let name = self.next("policy-");
        let (namespace, object) = if self.random.random_bool(0.5) {
            (CALM, objects::harmless_policy(&mut self.random, &name))
        } else {
            (CHURN, objects::any_policy(&mut self.random, &name))
        };
        ground.api.create(&policies_path(namespace), &object)?;
        self.policies.insert((namespace, name));
        Ok(format!("{namespace} {}", object["spec"]))
    }

    fn remove_policy(&mut self, ground: &mut Ground) -> anyhow::Result<String> {
        let Some((namespace, name)) = self.policies.iter().choose(&mut self.random).cloned() else {
            return Ok(String::new());
        };
        ground.api.delete(&format!("{}/{name}", policies_path(namespace)))?;
        self.policies.remove(&(namespace, name.clone()));
        Ok(format!("{namespace} {name}"))
    }

    /// A Node object without a machine comes, or goes.
    fn change_ghost(&mut self, ground: &mut Ground) -> anyhow::Result<String> {
        let number = self.random.random_range(0..4);
        let name = format!("ghost-{number}");
        let path = format!("/api/v1/nodes/{name}");
        if self.ghosts.remove(&number) {
            ground.api.delete(&path)?;
            return Ok(format!("{name} goes"));
        }
        let cidrs = [format!("10.244.{}.0/24", 240 + number), format!("fd00:10:244:{:x}::/64", 240 + number)];
        ground.api.create("/api/v1/nodes", &objects::node(&name, &cidrs))?;
        ground.api.patch(&format!("{path}/status"), &objects::node_status(&on_both(140 + number), false))?;
        self.ghosts.insert(number);
        Ok(format!("{name} comes"))
    }

    /// The guest joins as a new machine with new addresses for its pods, or leaves: in order, or as by its death.
    fn change_guest(&mut self, ground: &mut Ground) -> anyhow::Result<String> {
        let Some(index) = ground.nodes.iter().position(|node| node.name == GUEST) else {
            let block = 3 + (self.count % 200) as u8;
            ground.add_machine(GUEST, GUEST_ADDRESS, block)?;
            register(ground, ground.nodes.len() - 1)?;
            return Ok(format!("{GUEST} joins with block {block}"));
        };
        let (mine, others) = std::mem::take(&mut self.pods).into_iter().partition(|pod| pod.node == GUEST);
        self.pods = others;
        let mine: Vec<Pod> = mine;
        let names: Vec<&str> = mine.iter().map(|pod| pod.name.as_str()).collect();
        let orderly = self.random.random_bool(0.5);
        let machine_first = !orderly;
        if machine_first {
            ground.remove_machine(index);
        }
        self.forget_in_slices(ground, &names)?;
        for pod in mine {
            ground.api.delete(&pod.path())?;
            self.leaving.push(pod);
        }
        self.kubelets(ground)?;
        ground.api.delete(&format!("/api/v1/nodes/{GUEST}"))?;
        if orderly {
            ground.remove_machine(index);
        }
        Ok(format!("{GUEST} leaves, {}", if orderly { "in order" } else { "by its death" }))
    }

    fn kill_agent(&mut self, ground: &mut Ground) -> anyhow::Result<String> {
        let index = self.random.random_range(0..ground.nodes.len());
        ground.kill_agent(index)?;
        Ok(ground.nodes[index].name.clone())
    }

    fn kill_server(&mut self, ground: &mut Ground) -> anyhow::Result<String> {
        ground.kill_server()?;
        Ok("it is ready again".to_owned())
    }
}

/// Makes the Node object of a machine, as its kubelet and the controllers do.
pub fn register(ground: &mut Ground, index: usize) -> anyhow::Result<()> {
    let node = &ground.nodes[index];
    let (name, addresses) = (node.name.clone(), node.addresses);
    let cidrs = node.cidrs.map(|cidr| cidr.to_string());
    ground.api.create("/api/v1/nodes", &objects::node(&name, &cidrs))?;
    let status = objects::node_status(&addresses, true);
    ground.api.patch(&format!("/api/v1/nodes/{name}/status"), &status)?;
    Ok(())
}

fn slice_path(name: &str) -> String {
    format!("/apis/discovery.k8s.io/v1/namespaces/{CHURN}/endpointslices/{name}")
}

fn policies_path(namespace: &str) -> String {
    format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies")
}
