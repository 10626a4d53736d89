//! Endpoints of Services: which pods serve, by EndpointSlice and by the older Endpoints.

pub mod legacy;
pub mod mirror;
pub mod slice;
mod slicing;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::informer::{Change, Informer, Key};
use crate::pod::{Container, Pod};
use crate::queue::Queue;
use crate::{pod, selector};

/// Marks the objects of headless Services.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// The pods that a Service selects; none for a Service that selects nothing or names an outside host.
fn selection(service: &Service) -> Option<&selector::Labels> {
    let spec = service.spec.as_ref()?;
    let outside = spec.type_.as_deref() == Some("ExternalName");
    spec.selector.as_ref().filter(|selector| !outside && !selector.is_empty())
}

fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

fn ports(service: &Service) -> &[ServicePort] {
    service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default()
}

fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
}

/// The address families of a Service, as EndpointSlice calls them; the first is the primary one.
pub fn families(service: &Service) -> Vec<&'static str> {
    let spec = service.spec.as_ref();
    let named = spec.and_then(|spec| spec.ip_families.as_deref()).unwrap_or_default();
    let mut families: Vec<_> = named
        .iter()
        .filter_map(|family| match family.as_str() {
            "IPv4" => Some("IPv4"),
            "IPv6" => Some("IPv6"),
            _ => None,
        })
        .collect();
    if families.is_empty() {
        let six = spec.and_then(|spec| spec.cluster_ip.as_deref()).is_some_and(|ip| ip.contains(':'));
        families.push(if six { "IPv6" } else { "IPv4" });
    }
    families
}

/// The pod's addresses of one family.
fn addresses<'a>(pod: &'a Pod, family: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    let six = family == "IPv6";
    let status = pod.status.as_ref();
    let all = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten();
    let single = status.and_then(|status| status.pod_ip.as_deref());
    let many = status.is_some_and(|status| status.pod_ips.as_ref().is_some_and(|ips| !ips.is_empty()));
    let found = all.map(|ip| ip.ip.as_str()).chain(single.filter(|_| !many));
    found.filter(move |ip| !ip.is_empty() && ip.contains(':') == six)
}

/// The number of a Service's target port on one pod; none when the pod has no port of that name.
fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten().filter(|container| is_sidecar(container));
            let mut ports =
                spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
            let named = ports.find(|candidate| {
                candidate.name.as_deref() == Some(name)
                    && candidate.protocol.as_deref().unwrap_or("TCP") == protocol
            });
            named.map(|port| port.container_port)
        }
    }
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Enqueues the Services that a change of a pod can matter to.
fn pod_changed(services: &Informer<Service>, queue: &Queue<Key>, change: &Change<'_, Pod>) {
    if let (Some(old), Some(new)) = (change.old, change.new)
        && matter(old) == matter(new)
    {
        return;
    }
    let Some(namespace) = change.latest().and_then(|pod| pod.namespace()) else { return };
    for service in services.list_in(&namespace) {
        let Some(selected) = selection(&service) else { continue };
        if change.both().any(|pod| selector::covers(selected, pod.metadata.labels.as_ref())) {
            queue.add(Key::of(&*service));
        }
    }
}

/// What endpoints are made of: as long as this stays, a change of the pod is no change of endpoints.
type Matter<'a> = (
    Option<&'a selector::Labels>,
    Option<&'a str>,
    Vec<&'a str>,
    bool,
    bool,
    bool,
    Option<&'a String>,
    Option<&'a str>,
);

fn matter(pod: &Pod) -> Matter<'_> {
    let addresses = addresses(pod, "IPv4").chain(addresses(pod, "IPv6")).collect();
    let hostname = pod.spec.as_ref().and_then(|spec| spec.hostname.as_deref());
    (
        pod.metadata.labels.as_ref(),
        pod.metadata.uid.as_deref(),
        addresses,
        pod::is_ready(pod),
        pod::is_terminating(pod),
        pod::is_finished(pod),
        pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()),
        hostname,
    )
}

/// The name under which a headless Service's DNS knows the pod.
fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let ours = spec.subdomain == service.metadata.name && spec.subdomain.is_some();
    spec.hostname.clone().filter(|hostname| ours && !hostname.is_empty())
}

fn target(pod: &Pod) -> k8s_openapi::api::core::v1::ObjectReference {
    k8s_openapi::api::core::v1::ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.namespace(),
        name: pod.metadata.name.clone(),
        uid: pod.uid(),
        ..Default::default()
    }
}
