//! EndpointSlice: keeps the slices of every Service that selects pods.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::slicing::{self, Change};
use super::{HEADLESS_LABEL, families, is_headless, pod_changed, selection};
use crate::event::Recorder;
use crate::expectation::Expectations;
use crate::informer::{Informer, Key};
use crate::pod::Pod;
use crate::queue::{Failure, Outcome, Queue, Step, work};
use crate::selector::Labels;
use crate::{Context, clock, owner, replica, selector, write};

pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";
pub const MANAGER_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const BY_SERVICE: &str = "service";

struct Controller {
    context: Context,
    recorder: Recorder,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    expectations: Expectations,
}

/// The Service of a slice that this controller manages.
fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let labels = slice.metadata.labels.as_ref()?;
    let ours = labels.get(MANAGER_LABEL).is_some_and(|manager| manager == MANAGER);
    let name = labels.get(SERVICE_LABEL).filter(|_| ours)?;
    Some(Key::new(slice.metadata.namespace.as_deref().unwrap_or_default(), name))
}

/// Starts the controller.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let controller = Arc::new(Controller {
        recorder: context.recorder.of("endpoint-slice-controller"),
        services: context.informers.get(|_| {}),
        slices: context.informers.get(|_| {}),
        pods: context.pods(),
        nodes: context.nodes(),
        expectations: Expectations::default(),
        context: context.clone(),
    });
    controller.slices.index(BY_SERVICE, |slice| service_of(slice).iter().map(ToString::to_string).collect());
    let queue: Queue<Key> = Queue::default();
    controller.listen(&queue);
    async move {
        controller.services.synced().await;
        controller.slices.synced().await;
        controller.pods.synced().await;
        controller.nodes.synced().await;
        let shutdown = controller.context.shutdown.clone();
        work("endpointslice", &queue, 5, &shutdown, |key| controller.sync(key)).await;
    }
    .boxed()
}

impl Controller {
    fn listen(self: &Arc<Self>, queue: &Queue<Key>) {
        let target = queue.clone();
        let listener = self.clone();
        self.services.on_change(move |change| {
            let Some(key) = change.latest().map(|service| Key::of(&**service)) else { return };
            if change.new.is_none() {
                listener.expectations.forget(&key);
            }
            target.add(key);
        });
        let target = queue.clone();
        let listener = self.clone();
        self.slices.on_change(move |change| {
            let Some(slice) = change.latest() else { return };
            if let Some(key) = service_of(slice) {
                if change.old.is_none() {
                    listener.expectations.created(&key, 1);
                }
                if change.new.is_none() {
                    listener.expectations.deleted(&key, &slice.uid().unwrap_or_default());
                }
                target.add(key);
            }
            target.add_all(change.old.and_then(|old| service_of(old)));
        });
        let (target, services) = (queue.clone(), self.services.clone());
        self.pods.on_change(move |change| pod_changed(&services, &target, change));
        let (target, services) = (queue.clone(), self.services.clone());
        let zone = |node: &Arc<Node>| node.labels().get(ZONE_LABEL).cloned();
        self.nodes.on_change(move |change| {
            if change.old.map(zone) != change.new.map(zone) && change.both().any(|node| zone(node).is_some())
            {
                target.add_all(services.list().iter().map(|service| Key::of(&**service)));
            }
        });
    }

    async fn sync(&self, key: Key) -> Outcome {
        let Some(service) = self.services.get(&key) else { return Ok(None) };
        let Some(selected) = selection(&service) else { return Ok(None) };
        if service.metadata.deletion_timestamp.is_some()
            || !self.expectations.satisfied(&key, clock::instant())
        {
            return Ok(None);
        }
        let mut pods = self.pods.list_in(&key.namespace);
        pods.retain(|pod| selector::covers(selected, pod.metadata.labels.as_ref()));
        let existing = self.slices.find(BY_SERVICE, &key.to_string());
        let families = families(&service);
        let mut writes = Vec::new();
        for family in &families {
            let (mine, labels) = self.of_family(&service, family, &existing);
            let zone = |node: &str| self.nodes.get(&Key::new("", node))?.labels().get(ZONE_LABEL).cloned();
            let groups = slicing::group(&service, family, &pods, zone);
            let changes = slicing::plan(&mine, groups);
            writes.extend(changes.into_iter().map(|change| Write::of(change, &mine, family)));
            // Labels follow the Service even where no endpoint changed.
            for slice in mine.iter().filter(|slice| slice.metadata.labels.as_ref() != Some(&labels)) {
                writes.push(Write::Relabel(slice.clone(), labels.clone()));
            }
        }
        let other = existing.iter().filter(|slice| !families.contains(&slice.address_type.as_str()));
        writes.extend(other.map(|slice| Write::Delete(slice.clone())));
        self.write(&key, &service, writes).await
    }

    fn of_family(
        &self,
        service: &Service,
        family: &str,
        existing: &[Arc<EndpointSlice>],
    ) -> (Vec<Arc<EndpointSlice>>, Labels) {
        let mine = existing.iter().filter(|slice| slice.address_type == family);
        let mine = mine.filter(|slice| slice.metadata.deletion_timestamp.is_none()).cloned().collect();
        (mine, labels_for(service))
    }

    async fn write(&self, key: &Key, service: &Service, writes: Vec<Write>) -> Outcome {
        let creations = writes.iter().filter(|write| matches!(write, Write::Create(..))).count();
        let deletions = writes.iter().filter_map(|write| match write {
            Write::Delete(slice) => slice.uid(),
            _ => None,
        });
        self.expectations.expect(key, creations, deletions, clock::instant());
        let mut first_error = None;
        for write in writes {
            if let Err(failure) = self.write_one(key, service, write).await {
                first_error = first_error.or(Some(failure));
            }
        }
        match first_error {
            None => Ok(None),
            Some(failure) => {
                if !failure.is_conflict() {
                    let cause = std::error::Error::source(&failure).map(ToString::to_string);
                    let message = format!(
                        "Error updating Endpoint Slices for Service {key}: {failure}: {}",
                        cause.unwrap_or_default()
                    );
                    self.recorder.warning(service, "FailedToUpdateEndpointSlices", message);
                }
                Err(failure)
            }
        }
    }

    async fn write_one(&self, key: &Key, service: &Service, write: Write) -> Result<(), Failure> {
        let api: Api<EndpointSlice> = Api::namespaced(self.context.client.clone(), &key.namespace);
        match write {
            Write::Create(family, ports, endpoints) => {
                let slice = compose(service, family, ports, endpoints);
                match api.create(&PostParams::default(), &slice).await {
                    Ok(_) => Ok(()),
                    Err(error) => {
                        self.expectations.created(key, 1);
                        if replica::is_namespace_terminating(&error) {
                            Ok(())
                        } else {
                            Err(error).step("create a slice")
                        }
                    }
                }
            }
            Write::Update(slice, endpoints) => {
                let patch = json!({"endpoints": endpoints});
                gone_is_fine(write::guarded(&api, &*slice, patch, "update a slice").await)
            }
            Write::Relabel(slice, labels) => {
                let old = serde_json::to_value(slice.labels()).unwrap_or_default();
                let new = serde_json::to_value(&labels).unwrap_or_default();
                let patch =
                    json!({"metadata": {"labels": write::difference(&old, &new), "uid": slice.uid()}});
                let patch = kube::api::Patch::Merge(patch);
                let written = api.patch(&slice.name_any(), &kube::api::PatchParams::default(), &patch).await;
                gone_is_fine(written.step("label a slice"))
            }
            Write::Delete(slice) => {
                let uid = slice.uid();
                let same = Preconditions { uid: uid.clone(), resource_version: None };
                let answer =
                    api.delete(&slice.name_any(), &DeleteParams::default().preconditions(same)).await;
                if answer.is_err() {
                    self.expectations.deleted(key, &uid.unwrap_or_default());
                }
                gone_is_fine(answer.step("delete a slice"))
            }
        }
    }
}

pub fn gone_is_fine<T>(answer: Result<T, Failure>) -> Result<(), Failure> {
    match answer {
        Ok(_) => Ok(()),
        Err(failure) if failure.is_not_found() => Ok(()),
        Err(failure) => Err(failure),
    }
}

enum Write {
    Create(String, Vec<EndpointPort>, Vec<Endpoint>),
    Update(Arc<EndpointSlice>, Vec<Endpoint>),
    Relabel(Arc<EndpointSlice>, Labels),
    Delete(Arc<EndpointSlice>),
}

impl Write {
    fn of(change: Change, slices: &[Arc<EndpointSlice>], family: &str) -> Self {
        match change {
            Change::Create(ports, endpoints) => Self::Create(family.to_owned(), ports, endpoints),
            Change::Update(place, endpoints) => Self::Update(slices[place].clone(), endpoints),
            Change::Delete(place) => Self::Delete(slices[place].clone()),
        }
    }
}

/// The Service's labels, and those by which slices are found.
fn labels_for(service: &Service) -> Labels {
    let own = [SERVICE_LABEL, MANAGER_LABEL, HEADLESS_LABEL];
    let copied = service.labels().iter().filter(|(key, _)| !own.contains(&key.as_str()));
    let mut labels: Labels = copied.map(|(key, value)| (key.clone(), value.clone())).collect();
    labels.insert(SERVICE_LABEL.to_owned(), service.name_any());
    labels.insert(MANAGER_LABEL.to_owned(), MANAGER.to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels
}

fn compose(
    service: &Service,
    family: String,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.name_any())),
            namespace: service.namespace(),
            labels: Some(labels_for(service)),
            owner_references: Some(vec![owner::reference(service)]),
            ..Default::default()
        },
        address_type: family,
        endpoints: Some(endpoints),
        ports: Some(ports),
    }
}
