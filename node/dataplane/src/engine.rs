//! The one task that holds all tables: it takes changes of the cluster and requests of the CNI plugin in order, and
//! carries out what the tables plan.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use fairlead_abi::{ABI_VERSION, Addr, Be16, Config, Endpoint, NetnsEntry, Prefix, program};
use fairlead_cni::{
    netlink::{Link, LinkChange, Route, Socket},
    netns,
    protocol::{Answer, Network, Request},
    spec::Attachment,
};
use ipnet::Ipv4Net;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    Error, OverlayMode,
    bpf::Hook,
    endpoints::{Attached, Endpoints, Record},
    install,
    link::{
        LinkError, Links,
        devices::{self, Underlay},
        programs::{CGROUP_HOOKS, Programs, Sizes},
    },
    maps::Maps,
    model::{Change, Key, Kind, Pod, Protocol},
    overlay::{self, NodeTable},
    policy::{
        Rules,
        rules::{Plan, Verdict},
    },
    service::{ServiceTable, table::HostPort},
    settings::Settings,
    status::Status,
};

/// Changes and requests that wait for the engine at most.
pub const QUEUE: usize = 1024;

/// How often the engine looks at the kernel's addresses, and tries again to start.
const LOOK_AROUND: Duration = Duration::from_secs(2);

/// What the engine is asked to do.
#[derive(Debug)]
pub enum Command {
    /// Something happened in the cluster.
    Change(Change),
    /// The CNI plugin asks.
    Cni(Request, oneshot::Sender<Outcome>),
}

/// The engine's answer to the plugin.
#[derive(Debug)]
pub enum Outcome {
    /// To be sent as it is.
    Answer(Answer),
    /// The pod is not known yet: send a [`Change::Pod`] with it and ask again.
    NeedPod,
}

/// What is known once the node's network stands.
#[derive(Clone, Debug)]
struct Running {
    pod_cidr: Ipv4Net,
    gateway: Ipv4Addr,
    underlay: Underlay,
    /// MTU of pods.
    mtu: u32,
}

/// All tables of one node with the maps they are written to.
pub struct Engine {
    settings: Settings,
    rules: Rules,
    services: ServiceTable,
    nodes: NodeTable,
    endpoints: Endpoints,
    maps: Maps,
    programs: Programs,
    links: Links,
    netlink: Socket,
    listed: BTreeSet<Kind>,
    /// Keys seen in lists that are under way.
    listing: HashMap<Kind, HashSet<Key>>,
    running: Option<Running>,
    /// Last number given to [`Endpoint::revision`].
    revision: u32,
    status: Arc<Status>,
    /// Why the node's network does not stand yet, as last said.
    waiting: String,
}

impl Engine {
    /// Loads the programs and adopts what is pinned. Nothing in the kernel changes yet.
    ///
    /// # Errors
    /// When the object does not load or a pinned map is of another layout.
    pub fn open(settings: Settings, status: Arc<Status>) -> Result<Self, Error> {
        // A changed layout gets maps of its own; the old ones stay for the links that still use them.
        let directory = settings.pins.join(format!("maps_v{ABI_VERSION}"));
        let sizes = Sizes::for_memory(status.memory_bytes());
        let programs = Programs::load(&settings.bpf_object, &directory, sizes)?;
        let maps = Maps::open(&directory)?;
        let services = ServiceTable::new(&settings.node_name, maps.adopted_backends()?);
        // Decisecond of the boot clock: above every number given since the last boot, even to pods that are gone.
        let revision = maps.greatest_revision()?.max((monotonic_millis() / 100) as u32);
        Ok(Engine {
            rules: Rules::default(),
            services,
            nodes: NodeTable::new(&settings.node_name),
            endpoints: Endpoints::open(settings.run_dir.join("endpoints"))?,
            maps,
            programs,
            links: Links::open(settings.pins.join("links"))?,
            netlink: Socket::open()?,
            listed: BTreeSet::new(),
            listing: HashMap::new(),
            running: None,
            revision,
            status,
            waiting: String::new(),
            settings,
        })
    }

    /// Programs and their ring buffer, for the task that reads it.
    pub fn programs_mut(&mut self) -> &mut Programs {
        &mut self.programs
    }

    /// Works until `shutdown` is cancelled or every sender is gone.
    ///
    /// # Errors
    /// When policy entries cannot be written: then the pods they are for are closed, and a new start must plan anew.
    pub async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let mut look_around = tokio::time::interval(LOOK_AROUND);
        look_around.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(QUEUE);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                received = commands.recv_many(&mut batch, QUEUE) => if received == 0 { return Ok(()) },
                _ = look_around.tick() => self.look_around()?,
            }
            let began = Instant::now();
            let changed = !batch.is_empty();
            for command in batch.drain(..) {
                match command {
                    Command::Change(change) => self.change(change),
                    Command::Cni(request, answer) => {
                        // What was received before the request must hold when it is answered.
                        self.start_if_possible()?;
                        self.settle()?;
                        let outcome = self.answer(request).unwrap_or_else(|error| {
                            tracing::warn!(%error, "a CNI request failed");
                            refused(true, error.to_string())
                        });
                        // The plugin may have gone away; there is nobody to tell then.
                        let _ = answer.send(outcome);
                    }
                }
            }
            self.start_if_possible()?;
            self.settle()?;
            if changed {
                self.status.settled(began.elapsed());
            }
        }
    }

    fn change(&mut self, change: Change) {
        let note = |listing: &mut HashMap<Kind, HashSet<Key>>, kind: Kind, key: &Key| {
            if let Some(seen) = listing.get_mut(&kind) {
                seen.insert(key.clone());
            }
        };
        match change {
            Change::Pod(pod) => {
                note(&mut self.listing, Kind::Pod, &pod.key);
                let pod = self.with_own_address(pod);
                self.rules.set_pod(pod);
            }
            Change::PodGone(key) => self.rules.remove_pod(&key),
            Change::Namespace(namespace) => {
                note(&mut self.listing, Kind::Namespace, &Key::new("", &namespace.name));
                self.rules.set_namespace(namespace);
            }
            Change::NamespaceGone(name) => self.rules.remove_namespace(&name),
            Change::Node(node) => {
                note(&mut self.listing, Kind::Node, &Key::new("", &node.name));
                self.nodes.set_node(node);
            }
            Change::NodeGone(name) => self.nodes.remove_node(&name),
            Change::Service(service) => {
                note(&mut self.listing, Kind::Service, &service.key);
                self.services.set_service(service);
            }
            Change::ServiceGone(key) => self.services.remove_service(&key),
            Change::Slice(slice) => {
                note(&mut self.listing, Kind::Slice, &slice.key);
                self.services.set_slice(slice);
            }
            Change::SliceGone(key) => self.services.remove_slice(&key),
            Change::Policy(policy) => {
                note(&mut self.listing, Kind::Policy, &policy.key);
                self.rules.set_policy(*policy);
            }
            Change::PolicyGone(key) => self.rules.remove_policy(&key),
            Change::Listing(kind) => {
                self.listing.insert(kind, HashSet::new());
            }
            Change::Listed(kind) => {
                if let Some(seen) = self.listing.remove(&kind) {
                    self.remove_unlisted(kind, &seen);
                }
                self.listed.insert(kind);
            }
        }
    }

    /// A pod's status names its address only some time after CNI gave it; its packets must not wait for that.
    fn with_own_address(&self, mut pod: Pod) -> Pod {
        if pod.addresses.is_empty() && !pod.host_network {
            let same = |record: &&Record| record.pod.uid.is_empty() || record.pod.uid == pod.uid;
            let own: Vec<Ipv4Addr> =
                self.endpoints.of_pod(&pod.key).filter(same).map(|record| record.address).collect();
            pod.addresses = own;
        }
        pod
    }

    fn remove_unlisted(&mut self, kind: Kind, seen: &HashSet<Key>) {
        fn stale<'a>(keys: impl Iterator<Item = &'a Key>, seen: &HashSet<Key>) -> Vec<Key> {
            keys.filter(|key| !seen.contains(key)).cloned().collect()
        }
        fn stale_names<'a>(names: impl Iterator<Item = &'a Arc<str>>, seen: &HashSet<Key>) -> Vec<Arc<str>> {
            names.filter(|name| !seen.contains(&Key::new("", name))).cloned().collect()
        }
        match kind {
            Kind::Pod => {
                stale(self.rules.pod_keys(), seen).iter().for_each(|key| self.rules.remove_pod(key));
            }
            Kind::Policy => {
                stale(self.rules.policy_keys(), seen).iter().for_each(|key| self.rules.remove_policy(key));
            }
            Kind::Service => {
                stale(self.services.service_keys(), seen)
                    .iter()
                    .for_each(|key| self.services.remove_service(key));
            }
            Kind::Slice => {
                stale(self.services.slice_keys(), seen)
                    .iter()
                    .for_each(|key| self.services.remove_slice(key));
            }
            Kind::Namespace => {
                let names = stale_names(self.rules.namespace_names(), seen);
                names.iter().for_each(|name| self.rules.remove_namespace(name));
            }
            Kind::Node => {
                stale_names(self.nodes.names(), seen).iter().for_each(|name| self.nodes.remove_node(name));
            }
        }
    }

    fn look_around(&mut self) -> Result<(), Error> {
        if self.running.is_some() {
            let addresses = self.netlink.addresses()?;
            let own = addresses.iter().map(|found| found.address).filter(|address| !address.is_loopback());
            self.nodes.set_own_addresses(own.collect());
        }
        Ok(())
    }

    /// Says once, not every two seconds, what the start waits for.
    fn wait_for(&mut self, what: String) {
        if self.waiting != what {
            tracing::info!("waiting for {what}");
            self.waiting.clone_from(&what);
            self.status.not_ready(what);
        }
    }

    fn start_if_possible(&mut self) -> Result<(), Error> {
        if self.running.is_some() {
            return Ok(());
        }
        if let Some(missing) = Kind::ALL.into_iter().find(|kind| !self.listed.contains(kind)) {
            self.wait_for(format!("the API server to list every {missing:?}"));
            return Ok(());
        }
        let Some(own) = self.nodes.own().cloned() else {
            self.wait_for(format!("Node {} to exist", self.settings.node_name));
            return Ok(());
        };
        let (Some(pod_cidr), Some(address)) = (own.pod_cidr, own.addresses.first().copied()) else {
            self.wait_for(format!("Node {} to have an InternalIP and a podCIDR", own.name));
            return Ok(());
        };
        match self.start(pod_cidr.trunc(), address) {
            // A device that is not there yet may come; everything else needs somebody to look.
            Err(Error::Link(error @ LinkError::Device { .. })) => {
                self.wait_for(format!("the node's devices: {error}"));
                self.running = None;
                Ok(())
            }
            other => other,
        }
    }

    /// Sets the node's network up, compares the maps with what should be in them, and only then lets the programs run.
    fn start(&mut self, pod_cidr: Ipv4Net, node: Ipv4Addr) -> Result<(), Error> {
        let gateway = overlay::gateway(pod_cidr);
        let uplink = devices::uplink(&mut self.netlink, self.settings.uplink.as_deref(), node)?;
        let (underlay, mtu) = self.underlay(&uplink, node, gateway)?;
        self.running = Some(Running { pod_cidr, gateway, underlay, mtu });
        self.look_around()?;
        let cookie =
            netns::cookie().map_err(|source| Error::File { path: "SO_NETNS_COOKIE".into(), source })?;
        self.maps.set_config(&self.config(pod_cidr, node, gateway, cookie, &uplink, underlay))?;
        self.maps.set_netns(cookie, NetnsEntry { role: NetnsEntry::NODE, endpoint: 0 })?;
        self.adopt_endpoints()?;
        self.settle()?;
        let removed = self.maps.remove_unplanned()?;
        if self.maps.policy_writes() > 0 {
            self.revise_all()?;
        }
        self.attach_everything(&uplink, underlay)?;
        install::subnet_env(&self.settings, pod_cidr, gateway, mtu)?;
        if self.settings.install_cni {
            install::cni(&self.settings)?;
        }
        self.status.ready();
        tracing::info!(%pod_cidr, %node, uplink = uplink.name, mtu, removed, "the node's network stands");
        Ok(())
    }

    fn underlay(
        &mut self,
        uplink: &Link,
        node: Ipv4Addr,
        gateway: Ipv4Addr,
    ) -> Result<(Underlay, u32), Error> {
        match self.settings.overlay {
            OverlayMode::Vxlan => {
                let mtu = uplink.mtu.saturating_sub(devices::OVERLAY_OVERHEAD);
                let port = self.settings.vxlan_port;
                let device = devices::overlay_device(&mut self.netlink, node, gateway, mtu, port)?;
                devices::forwarding(&[&uplink.name, devices::OVERLAY_DEVICE])?;
                Ok((Underlay::Vxlan(device.index), mtu))
            }
            OverlayMode::Native => {
                devices::forwarding(&[&uplink.name])?;
                let held = self.netlink.addresses()?.iter().any(|found| found.address == gateway);
                if !held {
                    const LOOPBACK: u32 = 1;
                    self.netlink.add_address(fairlead_cni::netlink::Address {
                        index: LOOPBACK,
                        address: gateway,
                        prefix: 32,
                    })?;
                }
                Ok((Underlay::Native(uplink.index), uplink.mtu))
            }
        }
    }

    fn config(
        &self,
        pod_cidr: Ipv4Net,
        node: Ipv4Addr,
        gateway: Ipv4Addr,
        cookie: u64,
        uplink: &Link,
        underlay: Underlay,
    ) -> Config {
        let prefix = |net: Ipv4Net| Prefix::new(net.network().into(), net.prefix_len());
        let (overlay_flag, overlay_ifindex) = match underlay {
            Underlay::Vxlan(index) => (Config::OVERLAY, index),
            Underlay::Native(_) => (0, 0),
        };
        Config {
            abi_version: ABI_VERSION,
            flags: overlay_flag | Config::MASQUERADE,
            node_v4: Addr::from(node),
            gateway_v4: Addr::from(gateway),
            cluster_v4: prefix(self.settings.cluster_cidr),
            pods_v4: prefix(pod_cidr),
            services_v4: prefix(self.settings.service_cidr),
            netns_cookie: cookie,
            uplink_ifindex: uplink.index,
            overlay_ifindex,
            vni: self.settings.vxlan_vni,
            vxlan_port: Be16::new(self.settings.vxlan_port),
            snat_port_min: Config::SNAT_PORT_MIN,
            snat_port_max: Config::SNAT_PORT_MAX,
            ..Config::default()
        }
    }

    /// Takes up the pods that earlier runs attached. A veth that is gone, or of which nothing is recorded, belongs to
    /// a sandbox that will be made anew.
    fn adopt_endpoints(&mut self) -> Result<(), Error> {
        let links = self.netlink.links()?;
        let stands = |record: &Record| {
            record.attached.is_some_and(|attached| {
                links
                    .iter()
                    .any(|link| link.index == attached.host_ifindex && link.name == record.host_interface)
            })
        };
        let records: Vec<Record> = self.endpoints.iter().cloned().collect();
        for record in &records {
            if record.attached.is_some() && !stands(record) {
                self.endpoints.save(Record { attached: None, ..record.clone() })?;
            }
        }
        let attached: HashSet<&str> = records
            .iter()
            .filter(|record| stands(record))
            .map(|record| record.host_interface.as_str())
            .collect();
        for link in links.iter().filter(|link| link.kind == "veth" && link.name.starts_with("flp")) {
            if !attached.contains(link.name.as_str()) {
                self.netlink.delete_link(link.index)?;
            }
        }
        let records: Vec<Record> = self.endpoints.iter().cloned().collect();
        for record in records {
            self.adopt_pod(&record);
            if record.attached.is_some() {
                let entry = NetnsEntry { role: NetnsEntry::POD, endpoint: record.id };
                self.maps.set_netns(record.netns_cookie, entry)?;
            }
        }
        Ok(())
    }

    /// Lets the tables know of a sandbox.
    fn adopt_pod(&mut self, record: &Record) {
        let key = record.key();
        if let Some(pod) = self.rules.pod(&key).cloned() {
            let pod = self.with_own_address(pod);
            self.rules.set_pod(pod);
        }
        self.rules.add_local(key);
        self.services.set_host_ports(host_port_owner(&record.attachment), host_ports(record));
        self.status.pod(record.id, Some(record.key()));
    }

    fn attach_everything(&mut self, uplink: &Link, underlay: Underlay) -> Result<(), Error> {
        let mut names = BTreeSet::new();
        let records: Vec<Record> = self.endpoints.iter().cloned().collect();
        for record in &records {
            if let Some(attached) = record.attached {
                self.attach_pod(record, attached, &mut names)?;
            }
        }
        let mut tcx = |name: &'static str, ifindex: u32, ingress: bool| -> Result<(), Error> {
            names.insert(name.to_owned());
            Ok(self.links.ensure(name, self.programs.get(name)?, Hook::Tcx { ifindex, ingress })?)
        };
        if let Underlay::Vxlan(index) = underlay {
            tcx(program::FROM_OVERLAY, index, true)?;
            tcx(program::TO_OVERLAY, index, false)?;
        }
        tcx(program::FROM_UPLINK, uplink.index, true)?;
        tcx(program::TO_UPLINK, uplink.index, false)?;
        let root = install::cgroup_root()?;
        for (name, attach_type) in CGROUP_HOOKS {
            names.insert(name.to_owned());
            let directory = std::os::fd::AsFd::as_fd(&root);
            self.links.ensure(name, self.programs.get(name)?, Hook::Cgroup { directory, attach_type })?;
        }
        Ok(self.links.retain(&names)?)
    }

    fn attach_pod(
        &self,
        record: &Record,
        attached: Attached,
        names: &mut BTreeSet<String>,
    ) -> Result<(), Error> {
        for (name, ingress) in [(program::FROM_POD, true), (program::TO_POD, false)] {
            let pin = pod_pin(record, name);
            let hook = Hook::Tcx { ifindex: attached.host_ifindex, ingress };
            self.links.ensure(&pin, self.programs.get(name)?, hook)?;
            names.insert(pin);
        }
        Ok(())
    }

    /// Carries out everything the tables plan.
    fn settle(&mut self) -> Result<(), Error> {
        let Some(running) = self.running.clone() else { return Ok(()) };
        self.settle_overlay(&running)?;
        let mut changed = false;
        for change in self.services.settle() {
            changed = true;
            if let Err(error) = self.maps.apply_service(&change) {
                tracing::error!(%error, "a Service could not be written");
                self.status.map_error(&error);
            }
        }
        loop {
            let plan = self.rules.settle();
            changed |= !plan.is_empty();
            if !plan.is_empty()
                && let Err(error) = self.apply_policies(&plan)
            {
                self.status.map_error(&error);
                self.close_selected();
                return Err(error.into());
            }
            if !plan.more {
                break;
            }
        }
        if changed {
            self.status.tables(&self.rules, &self.services, &self.maps);
        }
        Ok(())
    }

    fn settle_overlay(&mut self, running: &Running) -> Result<(), Error> {
        let change = self.nodes.settle();
        self.maps.apply_overlay(&change)?;
        for (cidr, node) in &change.set_routes {
            devices::add_route(&mut self.netlink, running.underlay, running.gateway, *cidr, *node)?;
        }
        for (cidr, node) in &change.remove_routes {
            devices::remove_route(&mut self.netlink, running.underlay, running.gateway, *cidr, *node)?;
        }
        if !self.status.is_ready() {
            let wanted: BTreeMap<Ipv4Net, Ipv4Addr> = change.set_routes.iter().copied().collect();
            devices::retain_routes(&mut self.netlink, &wanted)?;
        }
        Ok(())
    }

    fn apply_policies(&mut self, plan: &Plan) -> Result<(), crate::maps::MapError> {
        self.maps.apply_rules_first(plan)?;
        for (key, _) in &plan.verdicts {
            self.write_endpoints(key)?;
        }
        self.maps.apply_rules_last(plan)?;
        if plan.recheck && self.status.is_ready() {
            self.revise_all()?;
        }
        let alive = self.rules.rule_names().map(|(number, _)| number).collect();
        self.maps.forget_rules(&alive)?;
        self.status.rule_names(&self.rules);
        Ok(())
    }

    /// Writes the entries of a pod's sandboxes. An entry that says the same keeps its revision, so that established
    /// flows are not evaluated again for nothing.
    fn write_endpoints(&mut self, key: &Key) -> Result<(), crate::maps::MapError> {
        let records: Vec<Record> = self.endpoints.of_pod(key).cloned().collect();
        for record in records {
            let Some(mut endpoint) = self.endpoint(&record) else { continue };
            let present = self.maps.endpoint(record.address)?;
            let revision = present.map_or(0, |present| present.revision);
            endpoint.revision = revision;
            if revision == 0 || present != Some(endpoint) {
                self.revision = self.revision.wrapping_add(1).max(1);
                endpoint.revision = self.revision;
            }
            self.maps.set_endpoint(record.address, endpoint)?;
        }
        Ok(())
    }

    fn endpoint(&self, record: &Record) -> Option<Endpoint> {
        let attached = record.attached?;
        let verdict =
            self.rules.verdict(&record.key()).unwrap_or(Verdict { closed: true, ..Verdict::default() });
        Some(Endpoint {
            ifindex: attached.host_ifindex,
            id: record.id,
            ingress_ruleset: verdict.ingress,
            egress_ruleset: verdict.egress,
            revision: 0,
            flags: if verdict.closed { Endpoint::CLOSED } else { 0 },
            mac: attached.pod_mac,
            host_mac: attached.host_mac,
            _pad: 0,
        })
    }

    /// Gives every pod of the node a new revision, so that established flows are evaluated again.
    fn revise_all(&mut self) -> Result<(), crate::maps::MapError> {
        self.revision = self.revision.wrapping_add(1).max(1);
        let records: Vec<Record> = self.endpoints.iter().cloned().collect();
        for record in records {
            if let Some(endpoint) = self.endpoint(&record) {
                self.maps.set_endpoint(record.address, Endpoint { revision: self.revision, ..endpoint })?;
            }
        }
        Ok(())
    }

    /// Rules could not be written, so every pod that some policy selects is closed.
    fn close_selected(&mut self) {
        self.revision = self.revision.wrapping_add(1).max(1);
        let records: Vec<Record> = self.endpoints.iter().cloned().collect();
        for record in records {
            let Some(endpoint) = self.endpoint(&record) else { continue };
            if endpoint.ingress_ruleset != 0 || endpoint.egress_ruleset != 0 {
                let closed = Endpoint { flags: Endpoint::CLOSED, revision: self.revision, ..endpoint };
                if let Err(error) = self.maps.set_endpoint(record.address, closed) {
                    tracing::error!(%error, pod = %record.key(), "the pod could not be closed");
                }
            }
        }
    }
}

impl Engine {
    fn answer(&mut self, request: Request) -> Result<Outcome, Error> {
        let Some(running) = self.running.clone() else {
            return Ok(refused(true, format!("the dataplane is not ready: waiting for {}", self.waiting)));
        };
        match request {
            Request::Status => Ok(Outcome::Answer(Answer::Done)),
            Request::Allocate { attachment, pod, netns_cookie, ports } => {
                let key = Key::new(&pod.namespace, &pod.name);
                let known =
                    self.rules.pod(&key).is_some_and(|known| pod.uid.is_empty() || known.uid == pod.uid);
                if !known {
                    return Ok(Outcome::NeedPod);
                }
                let given =
                    self.endpoints.allocate(&attachment, pod, netns_cookie, ports, running.pod_cidr)?;
                let Some(record) = given else {
                    return Ok(refused(true, format!("no address of {} is free", running.pod_cidr)));
                };
                self.adopt_pod(&record);
                Ok(network(&record, &running))
            }
            Request::Attach { attachment, host_ifindex, host_mac, pod_mac } => {
                self.attach(&attachment, Attached { host_ifindex, host_mac, pod_mac }, &running)
            }
            Request::Delete { attachment } => {
                self.delete(&attachment)?;
                Ok(Outcome::Answer(Answer::Done))
            }
            Request::Check { attachment } => match self.endpoints.get(&attachment) {
                Some(record) if record.attached.is_some() => Ok(network(record, &running)),
                _ => Ok(refused(
                    false,
                    format!("{} of {} is not attached", attachment.ifname, attachment.container_id),
                )),
            },
            Request::Gc { valid } => {
                let valid: HashSet<Attachment> = valid.into_iter().collect();
                let stale: Vec<Attachment> = self
                    .endpoints
                    .iter()
                    .map(|record| &record.attachment)
                    .filter(|a| !valid.contains(a))
                    .cloned()
                    .collect();
                for attachment in stale {
                    self.delete(&attachment)?;
                }
                Ok(Outcome::Answer(Answer::Done))
            }
        }
    }

    /// The order closes every gap: verdict entries, then programs, then routes, then the interface goes up.
    fn attach(
        &mut self,
        attachment: &Attachment,
        attached: Attached,
        running: &Running,
    ) -> Result<Outcome, Error> {
        let Some(record) = self.endpoints.get(attachment).cloned() else {
            return Ok(refused(true, "the sandbox has no address yet".to_owned()));
        };
        let found = self.netlink.link(&record.host_interface)?;
        if found.is_none_or(|link| link.index != attached.host_ifindex) {
            return Ok(refused(
                true,
                format!("{} is not interface {}", record.host_interface, attached.host_ifindex),
            ));
        }
        let record = Record { attached: Some(attached), ..record };
        self.endpoints.save(record.clone())?;
        self.write_endpoints(&record.key())?;
        let entry = NetnsEntry { role: NetnsEntry::POD, endpoint: record.id };
        self.maps.set_netns(record.netns_cookie, entry)?;
        self.attach_pod(&record, attached, &mut BTreeSet::new())?;
        devices::set_sysctl(&format!("ipv4/conf/{}/rp_filter", record.host_interface), "2")?;
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        self.netlink.change_link(attached.host_ifindex, up)?;
        self.netlink.replace_neighbour(attached.host_ifindex, record.address, attached.pod_mac)?;
        self.netlink.replace_route(Route {
            destination: record.address,
            prefix: 32,
            index: attached.host_ifindex,
            gateway: None,
            source: Some(running.gateway),
            onlink: false,
            protocol: devices::ROUTE_PROTOCOL,
        })?;
        Ok(Outcome::Answer(Answer::Done))
    }

    /// The veth goes first, so that nothing passes without its programs.
    fn delete(&mut self, attachment: &Attachment) -> Result<(), Error> {
        let Some(record) = self.endpoints.get(attachment).cloned() else { return Ok(()) };
        if let Some(link) = self.netlink.link(&record.host_interface)? {
            self.netlink.delete_link(link.index)?;
        }
        for name in [program::FROM_POD, program::TO_POD] {
            self.links.remove(&pod_pin(&record, name))?;
        }
        self.maps.remove_endpoint(record.address)?;
        self.maps.remove_netns(record.netns_cookie)?;
        self.services.set_host_ports(host_port_owner(attachment), Vec::new());
        self.endpoints.forget(attachment)?;
        self.status.pod(record.id, None);
        let key = record.key();
        if self.endpoints.of_pod(&key).next().is_none() {
            self.rules.remove_local(&key);
        }
        Ok(())
    }
}

fn refused(retry: bool, message: String) -> Outcome {
    Outcome::Answer(Answer::Refused { retry, message })
}

fn network(record: &Record, running: &Running) -> Outcome {
    Outcome::Answer(Answer::Network(Network {
        address: record.address,
        mtu: running.mtu,
        host_interface: record.host_interface.clone(),
        attached: record.attached.is_some(),
    }))
}

fn pod_pin(record: &Record, program: &str) -> String {
    format!("{}_{program}", record.host_interface)
}

/// Owner of a sandbox's hostPorts among the Services; no Service has an empty namespace.
fn host_port_owner(attachment: &Attachment) -> Key {
    Key::new("", &format!("{} {}", attachment.container_id, attachment.ifname))
}

fn host_ports(record: &Record) -> Vec<HostPort> {
    let port = |mapping: &fairlead_cni::spec::PortMapping| {
        let protocol = match mapping.protocol.to_ascii_lowercase().as_str() {
            "" | "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return None,
        };
        let address = match mapping.host_ip.as_str() {
            "" => Ipv4Addr::UNSPECIFIED,
            text => text.parse().ok()?,
        };
        (mapping.host_port != 0).then_some(HostPort {
            address,
            port: mapping.host_port,
            protocol,
            pod: record.address,
            pod_port: mapping.container_port,
        })
    };
    record.ports.iter().filter_map(port).collect()
}

/// Milliseconds of the monotonic clock, which the programs read as well.
pub(crate) fn monotonic_millis() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec to `now`, which is one.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000
}
