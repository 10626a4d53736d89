//! Endpoints: the older form of the same, one object per Service, for clients that still read it.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service};
use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::{
    HEADLESS_LABEL, addresses, families, hostname, is_headless, pod_changed, ports, publishes_not_ready,
    selection, target, target_port,
};
use crate::informer::{Informer, Key};
use crate::pod::Pod;
use crate::queue::{Outcome, Queue, Step, work};
use crate::selector::Labels;
use crate::{Context, pod, replica, selector, write};

/// The most addresses of one object; what is beyond is left out and noted.
const CAPACITY: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGER_LABEL: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";

struct Controller {
    context: Context,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    pods: Informer<Pod>,
}

/// Starts the controller.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let controller = Arc::new(Controller {
        services: context.informers.get(|_| {}),
        endpoints: context.informers.get(|_| {}),
        pods: context.pods(),
        context: context.clone(),
    });
    let queue: Queue<Key> = Queue::default();
    let target = queue.clone();
    controller.services.on_change(move |change| {
        target.add_all(change.latest().map(|service| Key::of(&**service)));
    });
    let target = queue.clone();
    controller.endpoints.on_change(move |change| {
        target.add_all(change.latest().map(|endpoints| Key::of(&**endpoints)));
    });
    let (target, services) = (queue.clone(), controller.services.clone());
    controller.pods.on_change(move |change| pod_changed(&services, &target, change));
    async move {
        controller.services.synced().await;
        controller.endpoints.synced().await;
        controller.pods.synced().await;
        let shutdown = controller.context.shutdown.clone();
        work("endpoints", &queue, 5, &shutdown, |key| controller.sync(key)).await;
    }
    .boxed()
}

impl Controller {
    async fn sync(&self, key: Key) -> Outcome {
        let api: Api<Endpoints> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let known = self.endpoints.get(&key);
        let Some(service) = self.services.get(&key) else {
            return self.remove(&api, known.as_deref()).await;
        };
        let Some(selected) = selection(&service) else { return Ok(None) };
        let mut pods = self.pods.list_in(&key.namespace);
        pods.retain(|pod| selector::covers(selected, pod.metadata.labels.as_ref()));
        let (subsets, truncated) = truncate(subsets(&service, &pods));
        let labels = labels_for(&service);
        let Some(known) = known else {
            let endpoints = compose(&service, labels, subsets, truncated);
            return match api.create(&PostParams::default(), &endpoints).await {
                Ok(_) => Ok(None),
                Err(error) if replica::is_namespace_terminating(&error) => Ok(None),
                Err(error) => Err(error).step("create the Endpoints"),
            };
        };
        let noted = known.annotations().contains_key(OVER_CAPACITY);
        let same = known.subsets.as_deref().unwrap_or_default() == subsets.as_slice();
        if same && *known.labels() == labels && noted == truncated {
            return Ok(None);
        }
        let old = serde_json::to_value(known.labels()).unwrap_or_default();
        let new = serde_json::to_value(&labels).unwrap_or_default();
        let note = if truncated { json!("truncated") } else { json!(null) };
        let mut patch = json!({"metadata": {"annotations": {OVER_CAPACITY: note}}, "subsets": subsets});
        if let Some(labels) = write::difference(&old, &new) {
            patch["metadata"]["labels"] = labels;
        }
        write::guarded(&api, &*known, patch, "update the Endpoints").await?;
        Ok(None)
    }

    /// A Service that is gone takes its Endpoints along; those that somebody else wrote stay.
    async fn remove(&self, api: &Api<Endpoints>, known: Option<&Endpoints>) -> Outcome {
        let ours = |endpoints: &&Endpoints| {
            endpoints.labels().get(MANAGER_LABEL).is_some_and(|manager| manager == MANAGER)
        };
        let Some(known) = known.filter(ours) else { return Ok(None) };
        let same = Preconditions { uid: known.uid(), resource_version: None };
        match api.delete(&known.name_any(), &DeleteParams::default().preconditions(same)).await {
            Ok(_) => Ok(None),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
            Err(error) => Err(error).step("delete the Endpoints"),
        }
    }
}

fn labels_for(service: &Service) -> Labels {
    let mut labels = service.labels().clone();
    labels.insert(MANAGER_LABEL.to_owned(), MANAGER.to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS_LABEL);
    }
    labels
}

fn compose(service: &Service, labels: Labels, subsets: Vec<EndpointSubset>, truncated: bool) -> Endpoints {
    let note = || BTreeMap::from([(OVER_CAPACITY.to_owned(), "truncated".to_owned())]);
    Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.namespace(),
            labels: Some(labels),
            annotations: truncated.then(note),
            ..Default::default()
        },
        subsets: (!subsets.is_empty()).then_some(subsets),
    }
}

/// Addresses by the ports they share, in the order that the API's own canonical form has.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let family = families(service).first().copied().unwrap_or("IPv4");
    let publishes = publishes_not_ready(service);
    let mut groups: BTreeMap<String, EndpointSubset> = BTreeMap::new();
    for pod in pods {
        let leaving = pod::is_terminating(pod) && !publishes;
        let Some(ip) = addresses(pod, family).next().filter(|_| !leaving && !pod::is_finished(pod)) else {
            continue;
        };
        let ports = subset_ports(service, pod);
        if ports.is_empty() && !(is_headless(service) && super::ports(service).is_empty()) {
            continue;
        }
        let key = serde_json::to_string(&ports).unwrap_or_default();
        let subset = groups.entry(key).or_insert_with(|| EndpointSubset {
            ports: (!ports.is_empty()).then_some(ports),
            ..Default::default()
        });
        let address = EndpointAddress {
            ip: ip.to_owned(),
            hostname: hostname(pod, service),
            node_name: pod::node_of(pod).map(ToOwned::to_owned),
            target_ref: Some(target(pod)),
        };
        let ready = publishes || pod::is_ready(pod);
        let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.get_or_insert_default().push(address);
    }
    let mut subsets: Vec<EndpointSubset> = groups.into_values().collect();
    for subset in &mut subsets {
        for list in [&mut subset.addresses, &mut subset.not_ready_addresses].into_iter().flatten() {
            list.sort_by_cached_key(|address| (address.ip.clone(), uid_of(address)));
        }
    }
    subsets
}

fn uid_of(address: &EndpointAddress) -> String {
    address.target_ref.as_ref().and_then(|target| target.uid.clone()).unwrap_or_default()
}

fn subset_ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let found = ports(service).iter().filter_map(|port| {
        Some(EndpointPort {
            name: port.name.clone().filter(|name| !name.is_empty()),
            port: target_port(pod, port)?,
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            app_protocol: port.app_protocol.clone(),
        })
    });
    found.collect()
}

/// Cuts the addresses at the object's capacity, those that are not ready first.
fn truncate(mut subsets: Vec<EndpointSubset>) -> (Vec<EndpointSubset>, bool) {
    let mut room = CAPACITY;
    let mut truncated = false;
    for ready in [true, false] {
        for subset in &mut subsets {
            let slot = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
            let Some(list) = slot else { continue };
            truncated |= list.len() > room;
            list.truncate(room);
            room -= list.len();
            if list.is_empty() {
                *slot = None;
            }
        }
    }
    subsets.retain(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some());
    (subsets, truncated)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(number: usize, ready: &str, port: i32) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": format!("p{number}"), "uid": format!("u{number}")},
                "spec": {"containers": [{"name": "c", "ports": [{"name": "web", "containerPort": port}]}]},
                "status": {"podIP": format!("10.0.{}.{}", number / 250, number % 250),
                    "conditions": [{"type": "Ready", "status": ready}]}
            }))
            .unwrap(),
        )
    }

    fn service() -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "s"},
            "spec": {"selector": {"a": "b"}, "ports": [{"port": 80, "targetPort": "web"}]}
        }))
        .unwrap()
    }

    #[test]
    fn pods_are_grouped_by_their_ports_and_readiness() {
        let subsets = subsets(&service(), &[pod(2, "True", 80), pod(1, "True", 80), pod(3, "False", 81)]);
        assert_eq!(subsets.len(), 2);
        let ips: Vec<_> = subsets[0].addresses.iter().flatten().map(|address| address.ip.as_str()).collect();
        assert_eq!(ips, ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(subsets[1].not_ready_addresses.as_ref().map(Vec::len), Some(1));
    }

    #[test]
    fn addresses_beyond_the_capacity_are_left_out_and_noted() {
        let pods: Vec<_> = (0..1001).map(|number| pod(number, "True", 80)).collect();
        let (subsets, truncated) = truncate(subsets(&service(), &pods));
        assert_eq!(subsets[0].addresses.as_ref().map(Vec::len), Some(CAPACITY));
        assert!(truncated);
    }
}
