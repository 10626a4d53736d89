//! The one task that holds all tables: it takes changes of the cluster and requests of the CNI plugin in order, and
//! carries out what the tables plan. [`start`] sets the node's network up, [`sandbox`] serves the CNI plugin.

mod sandbox;
mod start;
mod wanted;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use fairlead_abi::{ABI_VERSION, Endpoint, Rate, RateKey};
use fairlead_cni::{
    netlink::Socket,
    protocol::{Answer, Request},
};
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    Error, OverlayMode,
    announce::{Claims, rank::rank},
    endpoints::{Endpoints, Record},
    inspect::Entry,
    link::{
        LinkError, Links,
        devices::{self, Underlay},
        programs::{Options, Programs, Sizes},
    },
    maps::{
        Maps,
        carry::{self, Older},
    },
    model::{Change, Family, Key, Kind, Pod, Rates},
    overlay::{self, Hop, NodeTable, OverlayChange},
    policy::{
        Rules,
        rules::{Plan, Verdict},
    },
    service::{ServiceTable, table::Gone},
    settings::{Settings, Xdp},
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
    /// Metrics want names for numbers of sets.
    NameSets(Vec<u32>, oneshot::Sender<HashMap<u32, (String, String)>>),
    /// Somebody compares the maps with what should be in them.
    Wanted(oneshot::Sender<Vec<Entry>>),
    /// The programs are to answer for a load balancer's address, or no more; told whether they do.
    Announce {
        /// The address.
        address: IpAddr,
        /// Whether to answer.
        on: bool,
        /// Told when it is done, and how it went.
        done: oneshot::Sender<bool>,
    },
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
    /// Addresses of this node's pods, one block of each family at most, IPv4 first.
    pod_cidrs: Vec<IpNet>,
    underlay: Underlay,
    /// The uplink's number and hardware address.
    uplink: (u32, [u8; 6]),
    /// MTU of pods.
    mtu: u32,
    /// Cookie of the node's own network namespace.
    cookie: u64,
}

impl Running {
    /// The node's own addresses towards its pods, one of each family that pods have.
    fn gateways(&self) -> Vec<IpAddr> {
        self.pod_cidrs.iter().map(|cidr| overlay::gateway(*cidr)).collect()
    }

    /// That of one family.
    fn gateway(&self, family: Family) -> Option<IpAddr> {
        self.gateways().into_iter().find(|gateway| Family::of(*gateway) == family)
    }
}

/// All tables of one node with the maps they are written to.
pub struct Engine {
    settings: Settings,
    rules: Rules,
    services: ServiceTable,
    nodes: NodeTable,
    endpoints: Endpoints,
    maps: Maps,
    /// Maps of an older layout that the attached programs still use.
    older: Option<Older>,
    programs: Programs,
    links: Links,
    netlink: Socket,
    listed: BTreeSet<Kind>,
    /// Keys seen in lists that are under way.
    listing: HashMap<Kind, HashSet<Key>>,
    running: Option<Running>,
    /// Load balancer addresses that an earlier run answered for; None until they have been read.
    held: Option<Vec<IpAddr>>,
    /// Addresses of the uplink with the lengths of their prefixes.
    segment: Vec<(IpAddr, u8)>,
    segment_changed: bool,
    /// Bounds of the pods of this node.
    rates: HashMap<Key, Rates>,
    rates_changed: HashSet<Key>,
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
        let directory = carry::directory(&settings.pins, ABI_VERSION);
        let older = Older::find(&settings.pins)
            .map_err(|source| Error::File { path: settings.pins.clone(), source })?;
        let fresh = !directory.exists();
        let sizes = Sizes::for_memory(status.memory_bytes());
        let options = Options { splice: settings.splice, xdp: settings.xdp != Xdp::Off };
        let programs = Programs::load(&settings.bpf_object, &directory, sizes, options)?;
        if let Some(older) = older.as_ref().filter(|_| fresh) {
            match older.carry_state(&directory) {
                Ok(entries) => {
                    tracing::info!(layout = older.version(), entries, "state of older maps carried over")
                }
                // Everything of it is planned anew; flows are evaluated again.
                Err(error) => tracing::error!(%error, "state of older maps is lost"),
            }
        }
        let maps = Maps::open(&directory)?;
        let services =
            ServiceTable::new(&settings.node_name, settings.load_balancing, maps.adopted_backends()?);
        // Decisecond of the boot clock: above every number given since the last boot, even to pods that are gone.
        let revision = maps.greatest_revision()?.max((monotonic_millis() / 100) as u32);
        Ok(Engine {
            rules: Rules::default(),
            services,
            nodes: NodeTable::new(
                &settings.node_name,
                settings.overlay == OverlayMode::Native,
                settings.node_ports.clone(),
            ),
            endpoints: Endpoints::open(settings.run_dir.join("endpoints"))?,
            maps,
            older,
            programs,
            links: Links::open(settings.pins.join("links"))?,
            netlink: Socket::open()?,
            listed: BTreeSet::new(),
            listing: HashMap::new(),
            running: None,
            held: None,
            segment: Vec::new(),
            segment_changed: true,
            rates: HashMap::new(),
            rates_changed: HashSet::new(),
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
                    Command::NameSets(numbers, answer) => {
                        // Who asked may be ending.
                        let _ = answer.send(self.services.names(&numbers));
                    }
                    Command::Wanted(answer) => {
                        self.start_if_possible()?;
                        self.settle()?;
                        match self.wanted() {
                            // Who asked may have gone away.
                            Ok(entries) => drop(answer.send(entries)),
                            Err(error) => tracing::warn!(%error, "an inspection is not answered"),
                        }
                    }
                    Command::Announce { address, on, done } => {
                        let outcome = self.maps.announce(address, on);
                        if let Err(error) = &outcome {
                            tracing::error!(%error, %address, "a load balancer's address could not be announced");
                            self.status.map_error(error);
                        }
                        // The announcer may be stopping; the next run finds what is in the map.
                        let _ = done.send(outcome.is_ok());
                    }
                    Command::Cni(request, answer) => {
                        // What was received before the request must hold when it is answered.
                        self.start_if_possible()?;
                        self.settle()?;
                        let outcome = self.answer(request).unwrap_or_else(|error| {
                            tracing::warn!(%error, "a CNI request failed");
                            sandbox::refused(true, error.to_string())
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
                self.set_weights(&pod.key, (!pod.host_network).then_some(&pod));
                if self.endpoints.of_pod(&pod.key).next().is_some() {
                    self.set_rates(&pod.key, pod.rates);
                }
                self.rules.set_pod(pod);
            }
            Change::PodGone(key) => {
                self.set_weights(&key, None);
                self.rules.remove_pod(&key);
            }
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
        if !pod.host_network {
            let same = |record: &&Record| record.pod.uid.is_empty() || record.pod.uid == pod.uid;
            let unnamed = |address: &IpAddr| {
                !pod.addresses.iter().any(|known| Family::of(*known) == Family::of(*address))
            };
            let own: Vec<IpAddr> = self
                .endpoints
                .of_pod(&pod.key)
                .filter(same)
                .flat_map(Record::addresses)
                .filter(unnamed)
                .collect();
            pod.addresses.extend(own);
        }
        pod
    }

    /// Tells the Services what share a pod asks for, before the pod itself is replaced.
    fn set_weights(&mut self, key: &Key, pod: Option<&Pod>) {
        let before = self.rules.pod(key).map(|known| known.addresses.clone()).unwrap_or_default();
        let now = pod.map(|pod| pod.addresses.as_slice()).unwrap_or_default();
        for address in before.iter().filter(|address| !now.contains(address)) {
            self.services.set_weight(&key.namespace, *address, None);
        }
        for address in now {
            self.services.set_weight(&key.namespace, *address, pod.and_then(|pod| pod.weight));
        }
    }

    /// Notes the bounds of a pod of this node.
    fn set_rates(&mut self, key: &Key, rates: Rates) {
        if self.rates.insert(key.clone(), rates) != Some(rates) {
            self.rates_changed.insert(key.clone());
        }
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
                for key in stale(self.rules.pod_keys(), seen) {
                    self.set_weights(&key, None);
                    self.rules.remove_pod(&key);
                }
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
            let own = addresses.iter().map(|found| found.address).filter(|address| is_of_node(*address));
            self.nodes.set_own_addresses(own.collect());
            let uplink = self.running.as_ref().map(|running| running.uplink.0);
            let on_uplink =
                addresses.iter().filter(|found| Some(found.index) == uplink && is_of_node(found.address));
            let segment: Vec<(IpAddr, u8)> = on_uplink.map(|found| (found.address, found.prefix)).collect();
            self.segment_changed |= self.segment != segment;
            self.segment = segment;
            let answering = self.nodes.own_addresses().filter(|address| self.nodes.has_node_ports(*address));
            self.services.set_node_addresses(answering);
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

    /// Carries out everything the tables plan.
    fn settle(&mut self) -> Result<(), Error> {
        let Some(running) = self.running.clone() else { return Ok(()) };
        self.settle_overlay(&running)?;
        let mut changed = self.settle_services();
        self.settle_claims(&running)?;
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
        for key in std::mem::take(&mut self.rates_changed) {
            if let Err(error) = self.write_endpoints(&key) {
                tracing::error!(%error, pod = %key, "the pod's bandwidth could not be bounded");
                self.status.map_error(&error);
            }
        }
        if changed {
            self.status.tables(&self.rules, &self.services, &self.maps);
        }
        Ok(())
    }

    /// Writes the Services that are different; gives whether any was.
    fn settle_services(&mut self) -> bool {
        let zone = self.nodes.own().map(|own| own.zone.clone()).unwrap_or_default();
        self.services.set_zone(&zone);
        let changes = self.services.settle();
        for change in &changes {
            if let Err(error) = self.maps.apply_service(change) {
                tracing::error!(%error, "a Service could not be written");
                self.status.map_error(&error);
            }
        }
        if let Some(checks) = self.services.changed_checks() {
            self.status.set_checks(checks);
        }
        let gone: Vec<Gone> = changes.iter().flat_map(|change| change.gone.iter().cloned()).collect();
        if !gone.is_empty() {
            self.status.forget_flows(gone);
        }
        !changes.is_empty()
    }

    /// Says which place this node has among those that may answer for each load balancer address on the segment. A node's
    /// own addresses are answered for by itself.
    fn settle_claims(&mut self, running: &Running) -> Result<(), Error> {
        if !self.settings.announce || !self.status.is_ready() {
            return Ok(());
        }
        // Each is asked, so that none is asked about the same change again.
        let changes = [
            self.services.balancers_changed(),
            self.nodes.balancing_changed(),
            std::mem::take(&mut self.segment_changed),
        ];
        if changes == [false; 3] {
            return Ok(());
        }
        let on_segment = |address: IpAddr| {
            let net = |(own, length): &(IpAddr, u8)| {
                IpNet::new(*own, *length).is_ok_and(|net| net.contains(&address))
            };
            self.segment.iter().any(net) && !self.nodes.is_nodes(address)
        };
        let mut claims = Claims {
            uplink: running.uplink,
            own: self.segment.iter().map(|(own, _)| *own).collect(),
            held: self.held.take().map_or_else(|| self.maps.announced(), Ok)?.into_iter().collect(),
            ..Claims::default()
        };
        for (address, nodes) in
            self.services.balancers().into_iter().filter(|(address, _)| on_segment(*address))
        {
            let may = |node: &&str| nodes.as_ref().is_none_or(|nodes| nodes.contains(node));
            if let Some(rank) = rank(address, &self.settings.node_name, self.nodes.balancing().filter(may)) {
                claims.ranks.insert(address, rank);
            }
        }
        self.held = Some(claims.held.iter().copied().collect());
        self.status.set_claims(claims);
        Ok(())
    }

    fn settle_overlay(&mut self, running: &Running) -> Result<(), Error> {
        let change = self.nodes.settle();
        if change != OverlayChange::default() {
            self.services.set_peer_addresses(self.nodes.peers_with_node_ports());
        }
        self.maps.apply_overlay(&change)?;
        for (cidr, hop) in &change.set_routes {
            self.with_route(running, *cidr, *hop, devices::add_route)?;
        }
        for (cidr, hop) in &change.remove_routes {
            self.with_route(running, *cidr, *hop, devices::remove_route)?;
        }
        if !self.status.is_ready() {
            let wanted: BTreeMap<IpNet, Hop> = change.set_routes.iter().copied().collect();
            devices::retain_routes(&mut self.netlink, &wanted)?;
        }
        Ok(())
    }

    /// Makes or removes the kernel's route to another node's pods. Pods of a family that this node does not have cannot
    /// be asked for by anything here.
    fn with_route(
        &mut self,
        running: &Running,
        cidr: IpNet,
        hop: Hop,
        edit: fn(&mut Socket, Underlay, IpAddr, IpNet, Hop) -> Result<(), LinkError>,
    ) -> Result<(), Error> {
        match running.gateway(Family::of(cidr.addr())) {
            Some(gateway) => Ok(edit(&mut self.netlink, running.underlay, gateway, cidr, hop)?),
            None => Ok(()),
        }
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
            self.write_rates(&record)?;
            for address in record.addresses() {
                let present = self.maps.endpoint(address)?;
                let revision = present.map_or(0, |present| present.revision);
                endpoint.revision = revision;
                if revision == 0 || present != Some(endpoint) {
                    self.revision = self.revision.wrapping_add(1).max(1);
                    endpoint.revision = self.revision;
                }
                self.maps.set_endpoint(address, endpoint)?;
            }
        }
        Ok(())
    }

    /// Writes what bounds a sandbox; before the entry that says that something does.
    fn write_rates(&mut self, record: &Record) -> Result<(), crate::maps::MapError> {
        let rates = self.bounds(record);
        rates.into_iter().try_for_each(|(key, rate)| self.maps.set_rate(key, rate))
    }

    /// What should bound a sandbox, in each direction.
    fn bounds(&self, record: &Record) -> [(RateKey, Option<Rate>); 2] {
        let rates = self.rates.get(&record.key()).copied().unwrap_or_default();
        [(RateKey::INGRESS, rates.ingress), (RateKey::EGRESS, rates.egress)].map(|(direction, bits)| {
            let rate = bits.map(|bits| {
                let bytes_per_second = (bits / 8).max(1);
                // A tenth of a second, and never less than two of the longest packets a stack hands over at once.
                let burst = (bytes_per_second / 10).max(2 * 65_536);
                Rate { bytes_per_second, burst, tokens: burst, time: monotonic_millis() * 1_000_000 }
            });
            (RateKey { endpoint: record.id, direction }, rate)
        })
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
            flags: {
                let rates = self.rates.get(&record.key()).copied().unwrap_or_default();
                let flag = |set: bool, flag: u32| if set { flag } else { 0 };
                flag(verdict.closed, Endpoint::CLOSED)
                    | flag(rates.ingress.is_some(), Endpoint::INGRESS_RATE)
                    | flag(rates.egress.is_some(), Endpoint::EGRESS_RATE)
            },
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
                for address in record.addresses() {
                    self.maps.set_endpoint(address, Endpoint { revision: self.revision, ..endpoint })?;
                }
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
                let flags = endpoint.flags | Endpoint::CLOSED;
                let closed = Endpoint { flags, revision: self.revision, ..endpoint };
                for address in record.addresses() {
                    if let Err(error) = self.maps.set_endpoint(address, closed) {
                        tracing::error!(%error, pod = %record.key(), "the pod could not be closed");
                    }
                }
            }
        }
    }
}

/// Whether an address of an interface names the node: others reach it by it. Link-local ones are every link's.
fn is_of_node(address: IpAddr) -> bool {
    let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    !address.is_loopback() && !link_local
}

/// Milliseconds of the monotonic clock, which the programs read as well.
pub(crate) fn monotonic_millis() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec to `now`, which is one.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000
}
