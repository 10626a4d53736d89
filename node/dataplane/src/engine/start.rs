//! From a listed cluster to a node whose network stands: devices, configuration, adopted pods, attached programs.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
};

use fairlead_abi::{ABI_VERSION, Addr, Be16, Config, NetnsEntry, Prefix, program};
use fairlead_cni::{netlink, netlink::Link, netns, sysctl};
use ipnet::IpNet;

use super::{Engine, Running, sandbox};
use crate::{
    Error, OverlayMode,
    bpf::Hook,
    endpoints::{Attached, Record},
    install,
    link::{
        LinkError,
        devices::{self, Underlay},
        programs,
    },
    maps::carry,
    model::{Family, Kind, Node},
    overlay,
    settings::Xdp,
};

/// Number of the loopback interface in every network namespace.
const LOOPBACK: u32 = 1;

impl Engine {
    pub(super) fn start_if_possible(&mut self) -> Result<(), Error> {
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
        let pod_cidrs: Vec<IpNet> =
            self.families().into_iter().filter_map(|family| own.pod_cidr(family)).collect();
        if pod_cidrs.is_empty() || own.addresses.is_empty() {
            self.wait_for(format!("Node {} to have an InternalIP and a podCIDR", own.name));
            return Ok(());
        }
        match self.start(pod_cidrs, &own) {
            // A device that is not there yet may come; everything else needs somebody to look.
            Err(Error::Link(error @ LinkError::Device { .. })) => {
                self.wait_for(format!("the node's devices: {error}"));
                self.running = None;
                Ok(())
            }
            other => other,
        }
    }

    /// Families that pods have: those of --cluster-cidr, as far as this kernel speaks them.
    fn families(&self) -> Vec<Family> {
        let of_cluster = |family: &Family| {
            self.settings.cluster_cidrs.iter().any(|cidr| Family::of(cidr.addr()) == *family)
        };
        let spoken = |family: &Family| *family == Family::V4 || sysctl::has_ipv6();
        Family::ALL.into_iter().filter(of_cluster).filter(spoken).collect()
    }

    /// Sets the node's network up, compares the maps with what should be in them, and only then lets the programs run.
    fn start(&mut self, pod_cidrs: Vec<IpNet>, own: &Node) -> Result<(), Error> {
        let uplink = devices::uplink(&mut self.netlink, self.settings.uplink.as_deref(), &own.addresses)?;
        let (underlay, mtu) = self.underlay(&uplink, own, &pod_cidrs)?;
        let cookie =
            netns::cookie().map_err(|source| Error::File { path: "SO_NETNS_COOKIE".into(), source })?;
        let running = Running { pod_cidrs, underlay, uplink: (uplink.index, uplink.mac), mtu, cookie };
        self.running = Some(running.clone());
        self.look_around()?;
        self.maps.set_config(&self.config(&running, own, &uplink))?;
        self.maps.set_direct(&self.settings.direct)?;
        self.maps.set_netns(cookie, NetnsEntry { role: NetnsEntry::NODE, endpoint: 0 })?;
        self.adopt_endpoints()?;
        self.settle()?;
        let removed = self.maps.remove_unplanned()?;
        if self.maps.policy_writes() > 0 {
            self.revise_all()?;
        }
        self.carry_flows(false);
        self.attach_everything(&uplink, underlay)?;
        self.carry_flows(true);
        self.older = None;
        carry::remove_others(&self.settings.pins)
            .map_err(|source| Error::File { path: self.settings.pins.clone(), source })?;
        install::subnet_env(&self.settings, &running.pod_cidrs, mtu)?;
        if self.settings.install_cni {
            install::cni(&self.settings)?;
        }
        self.status.ready();
        let pod_cidrs: Vec<String> = running.pod_cidrs.iter().map(ToString::to_string).collect();
        tracing::info!(
            pod_cidrs = pod_cidrs.join(","),
            node = %own.name,
            uplink = uplink.name,
            mtu,
            removed,
            "the node's network stands"
        );
        Ok(())
    }

    /// Takes over the flows of an older layout's maps: all of them, or those that opened while links were switched.
    fn carry_flows(&self, missing_only: bool) {
        let Some(older) = &self.older else { return };
        match older.carry_flows(&carry::directory(&self.settings.pins, ABI_VERSION), missing_only) {
            Ok(flows) => tracing::info!(layout = older.version(), flows, "flows of older maps carried over"),
            // A node that does not start would cut every connection, not only those that could not be carried over.
            Err(error) => tracing::error!(%error, "flows of older maps are lost"),
        }
    }

    fn underlay(&mut self, uplink: &Link, own: &Node, pod_cidrs: &[IpNet]) -> Result<(Underlay, u32), Error> {
        let gateways: Vec<IpAddr> = pod_cidrs.iter().map(|cidr| overlay::gateway(*cidr)).collect();
        let ipv6 = gateways.iter().any(IpAddr::is_ipv6);
        match self.settings.overlay {
            OverlayMode::Vxlan => {
                let overhead = match own.address(Family::V4) {
                    Some(_) => devices::OVERLAY_OVERHEAD,
                    None => devices::OVERLAY_OVERHEAD_V6,
                };
                let mac = overlay::device_mac(own).unwrap_or_default();
                let mtu = uplink.mtu.saturating_sub(overhead);
                let port = self.settings.vxlan_port;
                let device = devices::overlay_device(&mut self.netlink, mac, &gateways, mtu, port)?;
                devices::forwarding(&mut self.netlink, &[&uplink.name, devices::OVERLAY_DEVICE], ipv6)?;
                Ok((Underlay::Vxlan(device.index), mtu))
            }
            OverlayMode::Native => {
                devices::forwarding(&mut self.netlink, &[&uplink.name], ipv6)?;
                let held = self.netlink.addresses()?;
                for gateway in gateways {
                    if held.iter().any(|found| found.address == gateway) {
                        continue;
                    }
                    devices::allow_ipv6("lo", gateway)?;
                    self.netlink.add_address(netlink::Address {
                        index: LOOPBACK,
                        address: gateway,
                        prefix: devices::host_prefix(gateway),
                    })?;
                }
                Ok((Underlay::Native(uplink.index), uplink.mtu))
            }
        }
    }

    fn config(&self, running: &Running, own: &Node, uplink: &Link) -> Config {
        let find = |nets: &[IpNet], family: Family| {
            let net = nets.iter().find(|net| Family::of(net.addr()) == family);
            net.map(|net| Prefix::new(net.network(), net.prefix_len())).unwrap_or_default()
        };
        let (cluster, services) = (&self.settings.cluster_cidrs, &self.settings.service_cidrs);
        let gateway = |family: Family| running.gateway(family).map(Addr::from).unwrap_or_default();
        // What pods cannot have is nobody's: without a pod CIDR the programs are told of no address either.
        let of_pods = |family: Family, prefix: Prefix| match running.gateway(family) {
            Some(_) => prefix,
            None => Prefix::default(),
        };
        let node = |family: Family| match running.gateway(family) {
            Some(_) => own.address(family).map(Addr::from).unwrap_or_default(),
            None => Addr::default(),
        };
        let (overlay_flag, overlay_ifindex) = match running.underlay {
            Underlay::Vxlan(index) => (Config::OVERLAY, index),
            Underlay::Native(_) => (0, 0),
        };
        Config {
            abi_version: ABI_VERSION,
            flags: overlay_flag
                | Config::MASQUERADE
                | if self.settings.direct.is_empty() { 0 } else { Config::DIRECT }
                | if self.settings.splice { Config::SPLICE } else { 0 },
            node_v4: node(Family::V4),
            node_v6: node(Family::V6),
            gateway_v4: gateway(Family::V4),
            gateway_v6: gateway(Family::V6),
            cluster_v4: of_pods(Family::V4, find(cluster, Family::V4)),
            cluster_v6: of_pods(Family::V6, find(cluster, Family::V6)),
            pods_v4: find(&running.pod_cidrs, Family::V4),
            pods_v6: find(&running.pod_cidrs, Family::V6),
            services_v4: of_pods(Family::V4, find(services, Family::V4)),
            services_v6: of_pods(Family::V6, find(services, Family::V6)),
            netns_cookie: running.cookie,
            uplink_ifindex: uplink.index,
            overlay_ifindex,
            vni: self.settings.vxlan_vni,
            vxlan_port: Be16::new(self.settings.vxlan_port),
            snat_port_min: Config::SNAT_PORT_MIN,
            snat_port_max: Config::SNAT_PORT_MAX,
            uplink_mac: uplink.mac,
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
    pub(super) fn adopt_pod(&mut self, record: &Record) {
        let key = record.key();
        if let Some(pod) = self.rules.pod(&key).cloned() {
            let pod = self.with_own_address(pod);
            self.set_weights(&key, (!pod.host_network).then_some(&pod));
            self.set_rates(&key, pod.rates);
            self.rules.set_pod(pod);
        }
        self.rules.add_local(key);
        let owner = sandbox::host_port_owner(&record.attachment);
        self.services.set_host_ports(owner, sandbox::host_ports(record));
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
        self.attach_early(uplink, &mut names)?;
        let root = install::cgroup_root()?;
        for (name, attach_type) in self.programs.cgroup_hooks() {
            names.insert(name.to_owned());
            let directory = std::os::fd::AsFd::as_fd(&root);
            self.links.ensure(name, self.programs.get(name)?, Hook::Cgroup { directory, attach_type })?;
        }
        if let Some(map) = self.programs.splices() {
            // Sockets are given the map's program as they enter it, so that comes first.
            let (send, enter) = (program::SPLICE_SEND, program::SPLICE_ENTER);
            let sockets = Hook::Sockets { map, attach_type: programs::SK_MSG_VERDICT };
            self.links.ensure(send, self.programs.get(send)?, sockets)?;
            let directory = std::os::fd::AsFd::as_fd(&root);
            let hook = Hook::Cgroup { directory, attach_type: programs::SOCK_OPS };
            self.links.ensure(enter, self.programs.get(enter)?, hook)?;
            names.extend([send, enter].map(str::to_owned));
        }
        Ok(self.links.retain(&names)?)
    }

    /// Gives the uplink's driver its program, where one is wanted. It is a short cut: without it everything is done by tc.
    fn attach_early(&self, uplink: &Link, names: &mut BTreeSet<String>) -> Result<(), Error> {
        // What has a kind is made of software: the kernel would give it a driver's hook that costs more than it saves.
        let hardware = uplink.kind.is_empty() && uplink.index != LOOPBACK;
        match self.settings.xdp {
            Xdp::Force => {}
            Xdp::Auto if hardware => {}
            Xdp::Auto | Xdp::Off => return Ok(()),
        }
        let (name, hook) = (program::FROM_WIRE, Hook::Xdp { ifindex: uplink.index });
        match self.links.ensure(name, self.programs.get(name)?, hook) {
            Err(error @ LinkError::Attach { .. }) if self.settings.xdp == Xdp::Auto => {
                tracing::info!(%error, uplink = uplink.name, "the uplink's driver takes no program; tc does without");
                return Ok(());
            }
            other => other?,
        }
        names.insert(name.to_owned());
        Ok(())
    }

    pub(super) fn attach_pod(
        &self,
        record: &Record,
        attached: Attached,
        names: &mut BTreeSet<String>,
    ) -> Result<(), Error> {
        for (name, ingress) in [(program::FROM_POD, true), (program::TO_POD, false)] {
            let pin = sandbox::pod_pin(record, name);
            let hook = Hook::Tcx { ifindex: attached.host_ifindex, ingress };
            self.links.ensure(&pin, self.programs.get(name)?, hook)?;
            names.insert(pin);
        }
        Ok(())
    }
}
