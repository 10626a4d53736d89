//! Mirroring: Endpoints that somebody writes for a Service without selector become EndpointSlices, which is all that
//! nodes read.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{self, EndpointAddress, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::slice::{MANAGER_LABEL, SERVICE_LABEL, gone_is_fine};
use super::slicing::key_of;
use crate::event::Recorder;
use crate::expectation::Expectations;
use crate::informer::{Informer, Key};
use crate::queue::{Failure, Outcome, Queue, Step, work};
use crate::selector::Labels;
use crate::{Context, clock, owner, replica, write};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations of the Endpoints that say nothing about their slices.
const OWN_ANNOTATIONS: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];
/// The most addresses of a subset that are mirrored.
const CAPACITY: usize = 1000;
const BY_ENDPOINTS: &str = "mirrored";

struct Controller {
    context: Context,
    recorder: Recorder,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: Informer<EndpointSlice>,
    expectations: Expectations,
}

/// The Endpoints that a slice of this controller mirrors.
fn mirrored(slice: &EndpointSlice) -> Option<Key> {
    let labels = slice.metadata.labels.as_ref()?;
    let ours = labels.get(MANAGER_LABEL).is_some_and(|manager| manager == MANAGER);
    let name = labels.get(SERVICE_LABEL).filter(|_| ours)?;
    Some(Key::new(slice.metadata.namespace.as_deref().unwrap_or_default(), name))
}

/// Starts the controller.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let controller = Arc::new(Controller {
        recorder: context.recorder.of("endpoint-slice-mirroring-controller"),
        services: context.informers.get(|_| {}),
        endpoints: context.informers.get(|_| {}),
        slices: context.informers.get(|_| {}),
        expectations: Expectations::default(),
        context: context.clone(),
    });
    controller.slices.index(BY_ENDPOINTS, |slice| mirrored(slice).iter().map(ToString::to_string).collect());
    let queue: Queue<Key> = Queue::default();
    let target = queue.clone();
    controller.services.on_change(move |change| {
        // A Service with a selector before and after has nothing to do with this.
        if change.both().any(|service| is_selectorless(service)) {
            target.add_all(change.latest().map(|service| Key::of(&**service)));
        }
    });
    let target = queue.clone();
    let listener = controller.clone();
    controller.endpoints.on_change(move |change| {
        if change.both().any(|endpoints| is_wanted(endpoints)) {
            let key = change.latest().map(|endpoints| Key::of(&**endpoints));
            if let (Some(key), None) = (&key, change.new) {
                listener.expectations.forget(key);
            }
            target.add_all(key);
        }
    });
    let target = queue.clone();
    let listener = controller.clone();
    controller.slices.on_change(move |change| {
        for slice in change.both() {
            let Some(key) = mirrored(slice) else { continue };
            if change.old.is_none() {
                listener.expectations.created(&key, 1);
            }
            if change.new.is_none() {
                listener.expectations.deleted(&key, &slice.uid().unwrap_or_default());
            }
            target.add(key);
        }
    });
    async move {
        controller.services.synced().await;
        controller.endpoints.synced().await;
        controller.slices.synced().await;
        let shutdown = controller.context.shutdown.clone();
        work("endpointslicemirroring", &queue, 5, &shutdown, |key| controller.sync(key)).await;
    }
    .boxed()
}

/// Whether nobody else looks after a Service's slices.
fn is_selectorless(service: &Service) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_none_or(BTreeMap::is_empty)
}

/// Endpoints that are not kept out by label, and that no leader election uses as its lock.
fn is_wanted(endpoints: &Endpoints) -> bool {
    let skipped = endpoints.labels().get(SKIP_LABEL).is_some_and(|value| value == "true");
    !skipped && !endpoints.annotations().contains_key(LEADER)
}

impl Controller {
    async fn sync(&self, key: Key) -> Outcome {
        if !self.expectations.satisfied(&key, clock::instant()) {
            return Ok(None);
        }
        let existing = self.slices.find(BY_ENDPOINTS, &key.to_string());
        let endpoints = self.endpoints.get(&key).filter(|endpoints| is_wanted(endpoints));
        let wanted = self.services.get(&key).is_some_and(|service| is_selectorless(&service));
        let Some(endpoints) = endpoints.filter(|_| wanted) else {
            return self
                .write(&key, existing.iter().map(|slice| Write::Delete(slice.clone())).collect())
                .await;
        };
        if endpoints.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let mirror = mirror(&endpoints);
        if mirror.invalid > 0 {
            let message =
                format!("Skipped {} invalid IP addresses when mirroring to EndpointSlices", mirror.invalid);
            self.recorder.warning(&*endpoints, "InvalidIPAddress", message);
        }
        if mirror.skipped > 0 {
            let message = format!(
                "A max of {CAPACITY} addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were skipped",
                mirror.skipped
            );
            self.recorder.warning(&*endpoints, "TooManyAddressesToMirror", message);
        }
        self.write(&key, plan(&endpoints, mirror.groups, &existing)).await
    }

    async fn write(&self, key: &Key, writes: Vec<Write>) -> Outcome {
        if writes.is_empty() {
            return Ok(None);
        }
        let creations = writes.iter().filter(|write| matches!(write, Write::Create(_))).count();
        let deletions = writes.iter().filter_map(|write| match write {
            Write::Delete(slice) => slice.uid(),
            _ => None,
        });
        self.expectations.expect(key, creations, deletions, clock::instant());
        let mut first_error = None;
        for write in writes {
            if let Err(failure) = self.write_one(key, write).await {
                first_error = first_error.or(Some(failure));
            }
        }
        first_error.map_or(Ok(None), Err)
    }

    async fn write_one(&self, key: &Key, write: Write) -> Result<(), Failure> {
        let api: Api<EndpointSlice> = Api::namespaced(self.context.client.clone(), &key.namespace);
        match write {
            Write::Create(slice) => match api.create(&PostParams::default(), &slice).await {
                Ok(_) => Ok(()),
                Err(error) => {
                    self.expectations.created(key, 1);
                    if replica::is_namespace_terminating(&error) {
                        return Ok(());
                    }
                    Err(error).step("create a mirrored slice")
                }
            },
            Write::Update(slice, patch) => {
                gone_is_fine(write::guarded(&api, &*slice, patch, "update a mirrored slice").await)
            }
            Write::Delete(slice) => {
                let uid = slice.uid();
                let same = Preconditions { uid: uid.clone(), resource_version: None };
                let answer =
                    api.delete(&slice.name_any(), &DeleteParams::default().preconditions(same)).await;
                if answer.is_err() {
                    self.expectations.deleted(key, &uid.unwrap_or_default());
                }
                gone_is_fine(answer.step("delete a mirrored slice"))
            }
        }
    }
}

/// One slice of a mirror: a family, its ports and endpoints.
type Group = (&'static str, Vec<EndpointPort>, Vec<Endpoint>);

/// What the slices of Endpoints should hold, by family and ports.
#[derive(Default)]
struct Mirror {
    groups: BTreeMap<(&'static str, String), Group>,
    /// Addresses that are none.
    invalid: usize,
    /// Addresses beyond the capacity.
    skipped: usize,
}

fn mirror(endpoints: &Endpoints) -> Mirror {
    let mut out = Mirror::default();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<EndpointPort> = subset.ports.iter().flatten().map(port).collect();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        let mut added = 0;
        for (address, ready) in ready.chain(unready) {
            if added == CAPACITY {
                out.skipped += 1;
                continue;
            }
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                out.invalid += 1;
                continue;
            };
            added += 1;
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            let group = out.groups.entry((family, key_of(&ports)));
            let (_, _, list) = group.or_insert_with(|| (family, ports.clone(), Vec::new()));
            let endpoint = endpoint(address, ip, ready);
            if list.len() < CAPACITY && !list.iter().any(|known| known.addresses == endpoint.addresses) {
                list.push(endpoint);
            }
        }
    }
    out
}

fn port(port: &v1::EndpointPort) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    }
}

fn endpoint(address: &EndpointAddress, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..Default::default() }),
        hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Default::default()
    }
}

#[derive(Debug, PartialEq)]
enum Write {
    Create(Box<EndpointSlice>),
    Update(Arc<EndpointSlice>, Value),
    Delete(Arc<EndpointSlice>),
}

/// The writes that make `existing` the mirror: one slice of each family and set of ports.
fn plan(
    endpoints: &Endpoints,
    mut groups: BTreeMap<(&'static str, String), Group>,
    existing: &[Arc<EndpointSlice>],
) -> Vec<Write> {
    let (labels, annotations) = (labels_for(endpoints), annotations_for(endpoints));
    let mut writes = Vec::new();
    for slice in existing.iter().filter(|slice| slice.metadata.deletion_timestamp.is_none()) {
        let family = if slice.address_type == "IPv6" { "IPv6" } else { "IPv4" };
        let key = (family, key_of(slice.ports.as_deref().unwrap_or_default()));
        let Some((_, _, list)) = groups.remove(&key) else {
            writes.push(Write::Delete(slice.clone()));
            continue;
        };
        let mut patch = json!({});
        if slice.endpoints.as_deref().unwrap_or_default() != list.as_slice() {
            patch["endpoints"] = json!(list);
        }
        for (field, old, new) in
            [("labels", slice.labels(), &labels), ("annotations", slice.annotations(), &annotations)]
        {
            if let Some(difference) = write::difference(&json!(old), &json!(new)) {
                patch["metadata"][field] = difference;
            }
        }
        if patch.as_object().is_some_and(|patch| !patch.is_empty()) {
            writes.push(Write::Update(slice.clone(), patch));
        }
    }
    for (family, ports, list) in groups.into_values() {
        writes.push(Write::Create(Box::new(EndpointSlice {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-", endpoints.name_any())),
                namespace: endpoints.namespace(),
                labels: Some(labels.clone()),
                annotations: Some(annotations.clone()).filter(|annotations| !annotations.is_empty()),
                owner_references: Some(vec![owner::reference(endpoints)]),
                ..Default::default()
            },
            address_type: family.to_owned(),
            endpoints: Some(list),
            ports: Some(ports),
        })));
    }
    writes
}

fn labels_for(endpoints: &Endpoints) -> Labels {
    let mut labels = endpoints.labels().clone();
    labels.insert(SERVICE_LABEL.to_owned(), endpoints.name_any());
    labels.insert(MANAGER_LABEL.to_owned(), MANAGER.to_owned());
    labels
}

fn annotations_for(endpoints: &Endpoints) -> Labels {
    let mut annotations = endpoints.annotations().clone();
    annotations.retain(|key, _| !OWN_ANNOTATIONS.contains(&key.as_str()));
    annotations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(subsets: Value) -> Endpoints {
        serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "n", "uid": "u", "labels": {"a": "b"},
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "c": "d"}},
            "subsets": subsets
        }))
        .unwrap()
    }

    fn made(writes: &[Write]) -> Vec<Arc<EndpointSlice>> {
        let slice = |write: &Write| match write {
            Write::Create(slice) => Arc::new((**slice).clone()),
            other => panic!("not a creation: {other:?}"),
        };
        writes.iter().map(slice).collect()
    }

    #[test]
    fn one_slice_of_each_family_and_set_of_ports_mirrors_the_addresses() {
        let given = endpoints(json!([
            {"addresses": [{"ip": "198.51.100.1", "hostname": "h"}, {"ip": "2001:db8::1"}],
                "notReadyAddresses": [{"ip": "198.51.100.2"}], "ports": [{"port": 5432}]},
            {"addresses": [{"ip": "198.51.100.3"}], "ports": [{"name": "x", "port": 1, "protocol": "UDP"}]}
        ]));
        let slices = made(&plan(&given, mirror(&given).groups, &[]));
        let shown: Vec<(&str, usize)> = slices
            .iter()
            .map(|slice| (slice.address_type.as_str(), slice.endpoints.as_ref().unwrap().len()))
            .collect();
        assert_eq!(shown, [("IPv4", 1), ("IPv4", 2), ("IPv6", 1)]);
        let main = &slices[1];
        let ready: Vec<_> = main
            .endpoints
            .iter()
            .flatten()
            .map(|endpoint| endpoint.conditions.as_ref().unwrap().ready)
            .collect();
        assert_eq!(ready, [Some(true), Some(false)]);
        assert_eq!(main.endpoints.as_ref().unwrap()[0].hostname.as_deref(), Some("h"));
        assert_eq!(main.labels()[MANAGER_LABEL], MANAGER);
        assert_eq!((main.labels()["a"].as_str(), main.labels()[SERVICE_LABEL].as_str()), ("b", "db"));
        assert_eq!(main.annotations().keys().collect::<Vec<_>>(), ["c"]);
        assert_eq!(main.owner_references()[0].kind, "Endpoints");
        assert_eq!(plan(&given, mirror(&given).groups, &slices), [], "nothing is written twice");
    }

    #[test]
    fn a_changed_address_is_one_update_and_ports_that_went_take_their_slice_along() {
        let before = endpoints(json!([{"addresses": [{"ip": "198.51.100.1"}], "ports": [{"port": 1}]}]));
        let slices = made(&plan(&before, mirror(&before).groups, &[]));
        let after = endpoints(json!([{"addresses": [{"ip": "198.51.100.2"}], "ports": [{"port": 1}]}]));
        let writes = plan(&after, mirror(&after).groups, &slices);
        assert!(matches!(writes.as_slice(), [Write::Update(..)]), "{writes:?}");
        let after = endpoints(json!([{"addresses": [{"ip": "198.51.100.1"}], "ports": [{"port": 2}]}]));
        let writes = plan(&after, mirror(&after).groups, &slices);
        assert!(matches!(writes.as_slice(), [Write::Delete(_), Write::Create(_)]), "{writes:?}");
        let double = [slices[0].clone(), slices[0].clone()];
        let writes = plan(&before, mirror(&before).groups, &double);
        assert!(matches!(writes.as_slice(), [Write::Delete(_)]), "{writes:?}");
    }

    #[test]
    fn what_cannot_be_mirrored_is_counted() {
        let many: Vec<Value> =
            (0..1003).map(|n| json!({"ip": format!("198.18.{}.{}", n / 250, n % 250)})).collect();
        let mirrored = mirror(&endpoints(json!([{"addresses": many}])));
        assert_eq!((mirrored.skipped, mirrored.invalid), (3, 0));
        let mirrored = mirror(&endpoints(json!([{"addresses": [{"ip": "x"}, {"ip": "198.51.100.1"}]}])));
        assert_eq!((mirrored.skipped, mirrored.invalid, mirrored.groups.len()), (0, 1, 1));
    }

    #[test]
    fn locks_and_skipped_endpoints_are_left_alone() {
        let mut lock = endpoints(json!([]));
        assert!(is_wanted(&lock));
        lock.annotations_mut().insert(LEADER.to_owned(), "{}".to_owned());
        assert!(!is_wanted(&lock));
        let mut skipped = endpoints(json!([]));
        skipped.labels_mut().insert(SKIP_LABEL.to_owned(), "true".to_owned());
        assert!(!is_wanted(&skipped));
    }
}
