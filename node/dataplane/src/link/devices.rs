//! The node's own devices: which interface is the uplink, the VXLAN device, kernel routes to other nodes' pods, and the
//! sysctls that make the node's network namespace forward.

use std::{collections::BTreeMap, net::IpAddr};

use fairlead_cni::{
    netlink::{Address, Link, LinkChange, NetlinkError, Route, Socket},
    sysctl,
};
use ipnet::IpNet;

use super::LinkError;
use crate::{
    model::Family,
    overlay::{self, Hop},
};

/// Name of the VXLAN device.
pub const OVERLAY_DEVICE: &str = "fairlead-vxlan";

/// Bytes that VXLAN over IPv4 puts around a pod's packet: Ethernet 14, IPv4 20, UDP 8, VXLAN 8.
pub const OVERLAY_OVERHEAD: u32 = 50;

/// The same over IPv6, whose header has 40 bytes.
pub const OVERLAY_OVERHEAD_V6: u32 = 70;

/// Who makes the kernel routes (rtm_protocol; a number that no routing daemon has in rt_protos).
pub const ROUTE_PROTOCOL: u8 = 0x46;

fn device_error(step: impl Into<String>) -> impl FnOnce(NetlinkError) -> LinkError {
    let step = step.into();
    move |source| LinkError::Device { step, source: source.into() }
}

/// Length of the prefix that is one address.
#[must_use]
pub fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The interface that carries node traffic: the one that is named, or the one that has an address of the node, the first
/// of them if possible.
///
/// # Errors
/// [`LinkError::Device`] when there is none.
pub fn uplink(netlink: &mut Socket, named: Option<&str>, node: &[IpAddr]) -> Result<Link, LinkError> {
    let none =
        |what: String| LinkError::Device { step: "looking for the uplink".to_owned(), source: what.into() };
    if let Some(name) = named {
        let found = netlink.link(name).map_err(device_error("looking for the uplink"))?;
        return found.ok_or_else(|| none(format!("there is no interface {name}")));
    }
    let addresses = netlink.addresses().map_err(device_error("looking for the uplink"))?;
    let holder = node.iter().find_map(|own| addresses.iter().find(|found| found.address == *own));
    let links = netlink.links().map_err(device_error("looking for the uplink"))?;
    links
        .into_iter()
        .find(|link| holder.is_some_and(|holder| holder.index == link.index))
        .ok_or_else(|| none(format!("no interface has an address of the node ({node:?})")))
}

/// The VXLAN device, made or mended so that it is up with the gateway addresses and the right MTU.
///
/// # Errors
/// [`LinkError::Device`]
pub fn overlay_device(
    netlink: &mut Socket,
    mac: [u8; 6],
    gateways: &[IpAddr],
    mtu: u32,
    port: u16,
) -> Result<Link, LinkError> {
    let step = || device_error(format!("setting up {OVERLAY_DEVICE}"));
    let mut found = netlink.link(OVERLAY_DEVICE).map_err(step())?;
    if let Some(link) = found.take_if(|link| link.kind != "vxlan" || link.mac != mac) {
        netlink.delete_link(link.index).map_err(step())?;
    }
    if found.is_none() {
        netlink.add_vxlan(OVERLAY_DEVICE, port, mtu, mac).map_err(step())?;
        found = netlink.link(OVERLAY_DEVICE).map_err(step())?;
    }
    let Some(link) = found else {
        return Err(LinkError::Device {
            step: format!("setting up {OVERLAY_DEVICE}"),
            source: "it vanished after it was made".into(),
        });
    };
    if link.mtu != mtu || !link.up {
        let change = LinkChange { up: Some(true), mtu: Some(mtu), ..LinkChange::default() };
        netlink.change_link(link.index, change).map_err(step())?;
    }
    for gateway in gateways {
        allow_ipv6(OVERLAY_DEVICE, *gateway)?;
        own_address(netlink, link.index, *gateway)?;
    }
    Ok(link)
}

/// Makes `address` the one address of its family of an interface of ours; link-local ones are the kernel's.
///
/// # Errors
/// [`LinkError::Device`]
pub fn own_address(netlink: &mut Socket, index: u32, address: IpAddr) -> Result<(), LinkError> {
    let step = || device_error(format!("giving the node {address}"));
    let wanted = Address { index, address, prefix: host_prefix(address) };
    let present = netlink.addresses().map_err(step())?;
    let ours = |found: &&Address| {
        let link_local = matches!(found.address, IpAddr::V6(address) if address.is_unicast_link_local());
        found.index == index && Family::of(found.address) == Family::of(address) && !link_local
    };
    for stale in present.iter().filter(ours).filter(|found| **found != wanted) {
        netlink.delete_address(*stale).map_err(step())?;
    }
    if !present.contains(&wanted) {
        netlink.add_address(wanted).map_err(step())?;
    }
    Ok(())
}

/// How the kernel reaches pods of other nodes.
#[derive(Clone, Copy, Debug)]
pub enum Underlay {
    /// Through the VXLAN device of that number; the next hop is the other node's gateway address.
    Vxlan(u32),
    /// Through the uplink of that number; the next hop is the other node.
    Native(u32),
}

fn kernel_route(underlay: Underlay, gateway: IpAddr, cidr: IpNet, hop: Hop) -> Route {
    let (index, hop) = match underlay {
        Underlay::Vxlan(index) => (index, overlay::gateway(cidr)),
        Underlay::Native(index) => (index, hop.node),
    };
    Route {
        destination: cidr.network(),
        prefix: cidr.prefix_len(),
        index,
        gateway: Some(hop),
        source: Some(gateway),
        onlink: true,
        protocol: ROUTE_PROTOCOL,
    }
}

/// Routes the pod CIDR of another node.
///
/// # Errors
/// [`LinkError::Device`]
pub fn add_route(
    netlink: &mut Socket,
    underlay: Underlay,
    gateway: IpAddr,
    cidr: IpNet,
    hop: Hop,
) -> Result<(), LinkError> {
    let step = || device_error(format!("routing {cidr} to {}", hop.node));
    if let Underlay::Vxlan(index) = underlay {
        netlink.replace_neighbour(index, overlay::gateway(cidr), hop.mac).map_err(step())?;
    }
    netlink.replace_route(kernel_route(underlay, gateway, cidr, hop)).map_err(step())
}

/// Takes the route to another node's pod CIDR away.
///
/// # Errors
/// [`LinkError::Device`]
pub fn remove_route(
    netlink: &mut Socket,
    underlay: Underlay,
    gateway: IpAddr,
    cidr: IpNet,
    hop: Hop,
) -> Result<(), LinkError> {
    let step = || device_error(format!("removing the route to {cidr}"));
    netlink.delete_route(kernel_route(underlay, gateway, cidr, hop)).map_err(step())?;
    if let Underlay::Vxlan(index) = underlay {
        netlink.delete_neighbour(index, overlay::gateway(cidr)).map_err(step())?;
    }
    Ok(())
}

/// Removes routes of ours that are not among `wanted`: those an earlier run made for nodes that left meanwhile.
///
/// # Errors
/// [`LinkError::Device`]
pub fn retain_routes(netlink: &mut Socket, wanted: &BTreeMap<IpNet, Hop>) -> Result<(), LinkError> {
    let step = || device_error("comparing routes");
    for route in netlink.routes().map_err(step())? {
        let known = IpNet::new(route.destination, route.prefix).is_ok_and(|cidr| wanted.contains_key(&cidr));
        // Routes to pods of this node have no next hop; they go with their veth.
        if route.protocol == ROUTE_PROTOCOL && route.gateway.is_some() && !known {
            netlink.delete_route(route).map_err(step())?;
        }
    }
    Ok(())
}

/// Sets a sysctl of the calling thread's network namespace unless it is so already.
///
/// # Errors
/// [`LinkError::Device`]
pub fn set_sysctl(name: &str, value: &str) -> Result<(), LinkError> {
    sysctl::set(name, value).map_err(|error| LinkError::Device {
        step: format!("setting net/{name} to {value}"),
        source: error.into(),
    })
}

/// Lets an interface have `address` if that is IPv6. Routers are not listened to on interfaces of ours: nobody but the
/// dataplane speaks for them.
///
/// # Errors
/// [`LinkError::Device`]
pub fn allow_ipv6(interface: &str, address: IpAddr) -> Result<(), LinkError> {
    if address.is_ipv6() {
        set_sysctl(&format!("ipv6/conf/{interface}/disable_ipv6"), "0")?;
        set_sysctl(&format!("ipv6/conf/{interface}/accept_ra"), "0")?;
    }
    Ok(())
}

/// Prepares the node's side of a pod's veth.
///
/// # Errors
/// [`LinkError::Device`]
pub fn pod_interface(name: &str, addresses: impl Iterator<Item = IpAddr>) -> Result<(), LinkError> {
    set_sysctl(&format!("ipv4/conf/{name}/rp_filter"), "2")?;
    for address in addresses {
        allow_ipv6(name, address)?;
    }
    Ok(())
}

/// Makes the namespace forward, and accept packets of pods on an interface that routing would not choose.
///
/// # Errors
/// [`LinkError::Device`]
pub fn forwarding(netlink: &mut Socket, interfaces: &[&str], ipv6: bool) -> Result<(), LinkError> {
    set_sysctl("ipv4/ip_forward", "1")?;
    // The kernel takes the greater of "all" and the interface's own value; 2 (loose) overrides a strict "all".
    for interface in interfaces {
        set_sysctl(&format!("ipv4/conf/{interface}/rp_filter"), "2")?;
    }
    if !ipv6 || sysctl::get("ipv6/conf/all/forwarding").as_deref() == Some("1") {
        return Ok(());
    }
    // A namespace that forwards is a router and listens to no other; 2 makes the interfaces that did so go on, since
    // the node's own default route may come from there.
    for link in netlink.links().map_err(device_error("listing interfaces"))? {
        let name = format!("ipv6/conf/{}/accept_ra", link.name);
        if sysctl::get(&name).as_deref() == Some("1") {
            set_sysctl(&name, "2")?;
        }
    }
    set_sysctl("ipv6/conf/all/forwarding", "1")
}
