//! Requests of the CNI plugin: a sandbox gets its addresses, its entries and its programs, and gives them back.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
};

use fairlead_abi::{NetnsEntry, RateKey, program};
use fairlead_cni::{
    netlink::{LinkChange, Route},
    protocol::{Answer, Network, Request},
    spec::{Attachment, PortMapping},
};

use super::{Engine, Outcome, Running};
use crate::{
    Error,
    endpoints::{Attached, Record},
    link::devices,
    model::{Family, Key, Protocol},
    service::table::HostPort,
};

impl Engine {
    pub(super) fn answer(&mut self, request: Request) -> Result<Outcome, Error> {
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
                    self.endpoints.allocate(&attachment, pod, netns_cookie, ports, &running.pod_cidrs)?;
                let Some(record) = given else {
                    return Ok(refused(true, format!("no address of {:?} is free", running.pod_cidrs)));
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
        devices::pod_interface(&record.host_interface, record.addresses())?;
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        self.netlink.change_link(attached.host_ifindex, up)?;
        for address in record.addresses() {
            self.netlink.replace_neighbour(attached.host_ifindex, address, attached.pod_mac)?;
            self.netlink.replace_route(Route {
                destination: address,
                prefix: devices::host_prefix(address),
                index: attached.host_ifindex,
                gateway: None,
                source: running.gateway(Family::of(address)),
                onlink: false,
                protocol: devices::ROUTE_PROTOCOL,
            })?;
        }
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
        for address in record.addresses() {
            self.maps.remove_endpoint(address)?;
        }
        self.maps.remove_netns(record.netns_cookie)?;
        self.services.set_host_ports(host_port_owner(attachment), Vec::new());
        self.endpoints.forget(attachment)?;
        self.status.pod(record.id, None);
        let key = record.key();
        for direction in [RateKey::INGRESS, RateKey::EGRESS] {
            self.maps.set_rate(RateKey { endpoint: record.id, direction }, None)?;
        }
        if self.endpoints.of_pod(&key).next().is_none() {
            self.rates.remove(&key);
            self.rules.remove_local(&key);
        }
        Ok(())
    }
}

pub(super) fn refused(retry: bool, message: String) -> Outcome {
    Outcome::Answer(Answer::Refused { retry, message })
}

fn network(record: &Record, running: &Running) -> Outcome {
    Outcome::Answer(Answer::Network(Network {
        address: record.address,
        secondary: record.secondary,
        mtu: running.mtu,
        host_interface: record.host_interface.clone(),
        attached: record.attached.is_some(),
    }))
}

pub(super) fn pod_pin(record: &Record, program: &str) -> String {
    format!("{}_{program}", record.host_interface)
}

/// Owner of a sandbox's hostPorts among the Services; no Service has an empty namespace.
pub(super) fn host_port_owner(attachment: &Attachment) -> Key {
    Key::new("", &format!("{} {}", attachment.container_id, attachment.ifname))
}

/// hostPorts of a sandbox. One that names no address is there for each family the pod has.
pub(super) fn host_ports(record: &Record) -> Vec<HostPort> {
    let port = |mapping: &PortMapping, pod: IpAddr| {
        let protocol = match mapping.protocol.to_ascii_lowercase().as_str() {
            "" | "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return None,
        };
        let address = match mapping.host_ip.as_str() {
            "" => Family::of(pod).unspecified(),
            text => text.parse().ok().filter(|address| Family::of(*address) == Family::of(pod))?,
        };
        (mapping.host_port != 0).then_some(HostPort {
            address,
            port: mapping.host_port,
            protocol,
            pod,
            pod_port: mapping.container_port,
        })
    };
    record
        .ports
        .iter()
        .flat_map(|mapping| record.addresses().filter_map(move |pod| port(mapping, pod)))
        .collect()
}
