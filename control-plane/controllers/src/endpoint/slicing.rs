//! From pods to slices: what a Service's EndpointSlices should hold, and the fewest writes that lead there. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use kube::ResourceExt;

use super::{addresses, hostname, ports, publishes_not_ready, target, target_port};
use crate::pod;
use crate::pod::Pod;

/// Endpoints in one slice.
pub const CAPACITY: usize = 100;

/// Endpoints that share their ports, by the ports' key.
pub type Groups = BTreeMap<String, (Vec<EndpointPort>, Vec<Endpoint>)>;

/// The endpoints of a family, by ports. `zone_of` tells the zone of a node.
pub fn group(
    service: &Service,
    family: &str,
    pods: &[Arc<Pod>],
    zone_of: impl Fn(&str) -> Option<String>,
) -> Groups {
    let mut groups = Groups::new();
    for pod in pods.iter().filter(|pod| !pod::is_finished(pod)) {
        let Some(endpoint) = endpoint(service, family, pod, &zone_of) else { continue };
        let ports = endpoint_ports(service, pod);
        groups.entry(key_of(&ports)).or_insert_with(|| (ports, Vec::new())).1.push(endpoint);
    }
    groups
}

/// Ports that serve the same have the same key, whether an empty name is written out or left away.
pub fn key_of(ports: &[EndpointPort]) -> String {
    let mut parts: Vec<String> = ports
        .iter()
        .map(|port| {
            let text = |field: &Option<String>| field.clone().unwrap_or_default();
            let number = port.port.map(|port| port.to_string()).unwrap_or_default();
            [text(&port.name), number, text(&port.protocol), text(&port.app_protocol)].join("|")
        })
        .collect();
    parts.sort();
    parts.join(",")
}

fn endpoint_ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let found = ports(service).iter().filter_map(|port| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(target_port(pod, port)?),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            app_protocol: port.app_protocol.clone(),
        })
    });
    found.collect()
}

fn endpoint(
    service: &Service,
    family: &str,
    pod: &Pod,
    zone_of: &impl Fn(&str) -> Option<String>,
) -> Option<Endpoint> {
    let addresses: Vec<String> = addresses(pod, family).map(ToOwned::to_owned).collect();
    if addresses.is_empty() {
        return None;
    }
    let serving = pod::is_ready(pod);
    let terminating = pod::is_terminating(pod);
    let ready = publishes_not_ready(service) || (serving && !terminating);
    let node = pod::node_of(pod);
    let zone = node.and_then(zone_of);
    Some(Endpoint {
        hints: hints(service, node, zone.as_deref()).filter(|_| ready),
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        node_name: node.map(ToOwned::to_owned),
        zone,
        hostname: hostname(pod, service),
        target_ref: Some(target(pod)),
        ..Default::default()
    })
}

/// Annotations by which older Services ask for another way of choosing endpoints near by, which then goes first.
const TOPOLOGY: [&str; 2] =
    ["service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints"];

/// Whom a ready endpoint is for, as `spec.trafficDistribution` says (KEP-4444, KEP-3015).
fn hints(service: &Service, node: Option<&str>, zone: Option<&str>) -> Option<EndpointHints> {
    let distribution = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    let older =
        |name: &&str| service.annotations().get(*name).is_some_and(|mode| mode == "Auto" || mode == "auto");
    if TOPOLOGY.iter().any(older)
        || !["PreferClose", "PreferSameZone", "PreferSameNode"].contains(&distribution)
    {
        return None;
    }
    let node = node.filter(|_| distribution == "PreferSameNode");
    let hints = EndpointHints {
        for_zones: zone.map(|zone| vec![ForZone { name: zone.to_owned() }]),
        for_nodes: node.map(|node| vec![ForNode { name: node.to_owned() }]),
    };
    (hints.for_zones.is_some() || hints.for_nodes.is_some()).then_some(hints)
}

/// One write to a slice.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A new slice with those ports and endpoints.
    Create(Vec<EndpointPort>, Vec<Endpoint>),
    /// New content for the slice at that place of the existing ones.
    Update(usize, Vec<Endpoint>),
    /// The slice at that place is needed no more.
    Delete(usize),
}

/// The changes that make `existing` (of one family) hold exactly `groups`.
///
/// An endpoint stays in the slice where it is. New ones fill up slices that are written anyway, then one slice that
/// has room for all of the rest, then new slices; a slice that changes nothing is not written.
pub fn plan(existing: &[Arc<EndpointSlice>], mut groups: Groups) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut kept: BTreeMap<String, Vec<Draft>> = BTreeMap::new();
    for (place, slice) in existing.iter().enumerate() {
        let key = key_of(slice.ports.as_deref().unwrap_or_default());
        let draft = match groups.get_mut(&key) {
            Some((_, wanted)) => Draft::keep(place, slice, wanted),
            None => Draft { place, endpoints: Vec::new(), dirty: true },
        };
        kept.entry(key).or_default().push(draft);
    }
    let placeholder = groups.is_empty();
    for (key, (ports, rest)) in groups {
        let drafts = kept.entry(key).or_default();
        let overflow = fill(drafts, rest);
        for endpoints in overflow.chunks(CAPACITY) {
            changes.push(Change::Create(ports.clone(), endpoints.to_vec()));
        }
    }
    // A Service without endpoints keeps one empty slice, so that "none" differs from "not looked at yet".
    let mut drafts: Vec<Draft> = kept.into_values().flatten().collect();
    drafts.sort_by_key(|draft| draft.place);
    let mut spared = !placeholder;
    for draft in drafts {
        if draft.endpoints.is_empty() && spared {
            changes.push(Change::Delete(draft.place));
            continue;
        }
        let was = existing.get(draft.place).and_then(|slice| slice.endpoints.as_deref()).unwrap_or_default();
        if draft.dirty && was != draft.endpoints {
            changes.push(Change::Update(draft.place, draft.endpoints));
        }
        spared = true;
    }
    if !spared {
        changes.push(Change::Create(Vec::new(), Vec::new()));
    }
    changes
}

struct Draft {
    place: usize,
    endpoints: Vec<Endpoint>,
    dirty: bool,
}

impl Draft {
    /// What of a slice is still wanted, in its newest form; that is taken out of `wanted`.
    fn keep(place: usize, slice: &EndpointSlice, wanted: &mut Vec<Endpoint>) -> Self {
        let mut draft = Self { place, endpoints: Vec::new(), dirty: false };
        for known in slice.endpoints.iter().flatten() {
            let same = wanted.iter().position(|endpoint| is_same(endpoint, known));
            match same.map(|index| wanted.swap_remove(index)) {
                Some(endpoint) => {
                    draft.dirty |= endpoint != *known;
                    draft.endpoints.push(endpoint);
                }
                None => draft.dirty = true,
            }
        }
        draft
    }
}

fn is_same(a: &Endpoint, b: &Endpoint) -> bool {
    let uid = |endpoint: &Endpoint| endpoint.target_ref.as_ref().and_then(|target| target.uid.clone());
    a.addresses == b.addresses && uid(a) == uid(b)
}

/// Puts `rest` into the drafts; returns what needs slices of its own.
fn fill(drafts: &mut [Draft], mut rest: Vec<Endpoint>) -> Vec<Endpoint> {
    for draft in drafts.iter_mut().filter(|draft| draft.dirty) {
        let room = CAPACITY.saturating_sub(draft.endpoints.len()).min(rest.len());
        draft.endpoints.extend(rest.drain(..room));
    }
    if rest.is_empty() || rest.len() >= CAPACITY {
        return rest;
    }
    // The fullest slice that has room for all: fewer slices over time, and one write now.
    let fits = drafts.iter_mut().filter(|draft| draft.endpoints.len() + rest.len() <= CAPACITY);
    if let Some(draft) = fits.max_by_key(|draft| draft.endpoints.len()) {
        draft.endpoints.append(&mut rest);
        draft.dirty = true;
    }
    rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, ready: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "d", "uid": name},
                "spec": {"nodeName": "n1", "containers": [
                    {"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
                "status": {"phase": "Running", "podIPs": [{"ip": format!("10.0.0.{name}")}],
                    "conditions": [{"type": "Ready", "status": status}]}
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

    fn groups(pods: &[Arc<Pod>]) -> Groups {
        group(&service(), "IPv4", pods, |_| None)
    }

    fn written(change: &Change) -> Arc<EndpointSlice> {
        let Change::Create(ports, endpoints) = change else { panic!("not a creation: {change:?}") };
        Arc::new(EndpointSlice {
            ports: Some(ports.clone()),
            endpoints: Some(endpoints.clone()),
            ..Default::default()
        })
    }

    #[test]
    fn named_ports_and_conditions_are_those_of_the_pod() {
        let groups = groups(&[pod("1", true), pod("2", false)]);
        let (ports, endpoints) = groups.values().next().unwrap();
        assert_eq!(ports[0].port, Some(8080));
        let ready: Vec<_> =
            endpoints.iter().map(|endpoint| endpoint.conditions.as_ref().unwrap().ready).collect();
        assert_eq!(ready, [Some(true), Some(false)]);
    }

    #[test]
    fn ready_endpoints_carry_hints_as_the_traffic_distribution_says() {
        for (distribution, annotations, zone, expected) in [
            (None, json!({}), Some("z1"), json!(null)),
            (Some("PreferClose"), json!({}), Some("z1"), json!({"forZones": [{"name": "z1"}]})),
            (Some("PreferSameZone"), json!({}), None, json!(null)),
            (Some("PreferSameNode"), json!({}), None, json!({"forNodes": [{"name": "n1"}]})),
            (
                Some("PreferSameNode"),
                json!({}),
                Some("z1"),
                json!({"forZones": [{"name": "z1"}], "forNodes": [{"name": "n1"}]}),
            ),
            (
                Some("PreferClose"),
                json!({"service.kubernetes.io/topology-mode": "Auto"}),
                Some("z1"),
                json!(null),
            ),
            (Some("Elsewhere"), json!({}), Some("z1"), json!(null)),
        ] {
            let mut service = service();
            service.metadata.annotations = serde_json::from_value(annotations).unwrap();
            service.spec.as_mut().unwrap().traffic_distribution = distribution.map(ToOwned::to_owned);
            let pods = [pod("1", true), pod("2", false)];
            let groups = group(&service, "IPv4", &pods, |_| zone.map(ToOwned::to_owned));
            let (_, endpoints) = groups.values().next().unwrap();
            assert_eq!(json!(endpoints[0].hints), expected, "{distribution:?} {zone:?}");
            assert_eq!(endpoints[1].hints, None, "not ready");
        }
    }

    #[test]
    fn each_family_has_endpoints_of_its_own() {
        let mut both = (*pod("1", true)).clone();
        let status = both.status.as_mut().unwrap();
        status.pod_ips = serde_json::from_value(json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}])).unwrap();
        let pods = [Arc::new(both), pod("2", true)];
        for (family, expected) in [("IPv4", vec!["10.0.0.1", "10.0.0.2"]), ("IPv6", vec!["fd00::1"])] {
            let groups = group(&service(), family, &pods, |_| None);
            let (_, endpoints) = groups.values().next().unwrap();
            let seen: Vec<&str> =
                endpoints.iter().flat_map(|endpoint| &endpoint.addresses).map(String::as_str).collect();
            assert_eq!(seen, expected, "{family}");
        }
    }

    #[test]
    fn a_terminating_pod_serves_and_is_not_ready_unless_all_are_published() {
        let mut leaving = (*pod("1", true)).clone();
        leaving.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        let leaving = [Arc::new(leaving)];
        for (publish, ready) in [(false, false), (true, true)] {
            let mut service = service();
            service.spec.as_mut().unwrap().publish_not_ready_addresses = Some(publish);
            let groups = group(&service, "IPv4", &leaving, |_| None);
            let conditions = groups.values().next().unwrap().1[0].conditions.clone().unwrap();
            assert_eq!(
                (conditions.ready, conditions.serving, conditions.terminating),
                (Some(ready), Some(true), Some(true))
            );
        }
    }

    #[test]
    fn nothing_is_written_when_nothing_changed() {
        let pods = [pod("1", true), pod("2", true)];
        let first = plan(&[], groups(&pods));
        assert_eq!(first.len(), 1);
        assert_eq!(plan(&[written(&first[0])], groups(&pods)), []);
    }

    #[test]
    fn one_changed_pod_is_one_update_of_its_slice() {
        let slice = written(&plan(&[], groups(&[pod("1", true), pod("2", true)]))[0]);
        let changes = plan(&[slice], groups(&[pod("1", true), pod("2", false)]));
        let [Change::Update(0, endpoints)] = changes.as_slice() else { panic!("{changes:?}") };
        assert_eq!(endpoints.len(), 2);
    }

    #[test]
    fn slices_hold_a_hundred_and_a_full_one_is_left_alone() {
        let pods: Vec<_> = (0..150).map(|number| pod(&number.to_string(), true)).collect();
        let first = plan(&[], groups(&pods));
        let sizes: Vec<_> =
            first.iter().map(|change| written(change).endpoints.as_ref().unwrap().len()).collect();
        assert_eq!(sizes, [100, 50]);
        let slices: Vec<_> = first.iter().map(written).collect();
        let more: Vec<_> = (0..151).map(|number| pod(&number.to_string(), true)).collect();
        let changes = plan(&slices, groups(&more));
        let [Change::Update(1, endpoints)] = changes.as_slice() else { panic!("{changes:?}") };
        assert_eq!(endpoints.len(), 51);
    }

    #[test]
    fn a_service_without_pods_keeps_one_empty_slice() {
        let empty = plan(&[], groups(&[]));
        assert_eq!(empty, [Change::Create(Vec::new(), Vec::new())]);
        assert_eq!(plan(&[written(&empty[0])], groups(&[])), []);
        let slice = written(&plan(&[], groups(&[pod("1", true)]))[0]);
        assert_eq!(plan(&[slice], groups(&[])), [Change::Update(0, Vec::new())]);
        // The placeholder goes when there is a real one.
        let changes = plan(&[written(&empty[0])], groups(&[pod("1", true)]));
        assert!(matches!(changes.as_slice(), [Change::Create(..), Change::Delete(0)]), "{changes:?}");
    }
}
