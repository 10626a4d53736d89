//! The node's own devices: which interface is the uplink, the VXLAN device, kernel routes to other nodes' pods, and the
//! sysctls that make the node's network namespace forward.

use std::{collections::BTreeMap, fs, io, net::Ipv4Addr, path::PathBuf};

use fairlead_cni::netlink::{Address, Link, LinkChange, NetlinkError, Route, Socket};
use ipnet::Ipv4Net;

use super::LinkError;
use crate::overlay;

/// Name of the VXLAN device.
pub const OVERLAY_DEVICE: &str = "fairlead-vxlan";

/// Bytes that VXLAN over IPv4 puts around a pod's packet: Ethernet 14, IPv4 20, UDP 8, VXLAN 8.
pub const OVERLAY_OVERHEAD: u32 = 50;

/// Who makes the kernel routes (rtm_protocol; a number that no routing daemon has in rt_protos).
pub const ROUTE_PROTOCOL: u8 = 0x46;

fn device_error(step: impl Into<String>) -> impl FnOnce(NetlinkError) -> LinkError {
    let step = step.into();
    move |source| LinkError::Device { step, source: source.into() }
}

/// The interface that carries node traffic: the one that is named, or the one that has the node's address.
///
/// # Errors
/// [`LinkError::Device`] when there is none.
pub fn uplink(netlink: &mut Socket, named: Option<&str>, node: Ipv4Addr) -> Result<Link, LinkError> {
    let none =
        |what: String| LinkError::Device { step: "looking for the uplink".to_owned(), source: what.into() };
    if let Some(name) = named {
        let found = netlink.link(name).map_err(device_error("looking for the uplink"))?;
        return found.ok_or_else(|| none(format!("there is no interface {name}")));
    }
    let addresses = netlink.addresses().map_err(device_error("looking for the uplink"))?;
    let holder = addresses.iter().find(|found| found.address == node);
    let links = netlink.links().map_err(device_error("looking for the uplink"))?;
    links
        .into_iter()
        .find(|link| holder.is_some_and(|holder| holder.index == link.index))
        .ok_or_else(|| none(format!("no interface has the node's address {node}")))
}

/// The VXLAN device, made or mended so that it is up with the gateway address and the right MTU.
///
/// # Errors
/// [`LinkError::Device`]
pub fn overlay_device(
    netlink: &mut Socket,
    node: Ipv4Addr,
    gateway: Ipv4Addr,
    mtu: u32,
    port: u16,
) -> Result<Link, LinkError> {
    let step = || device_error(format!("setting up {OVERLAY_DEVICE}"));
    let mac = overlay::device_mac(node);
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
    own_address(netlink, link.index, gateway)?;
    Ok(link)
}

/// Makes `address` the one IPv4 address of an interface of ours.
///
/// # Errors
/// [`LinkError::Device`]
pub fn own_address(netlink: &mut Socket, index: u32, address: Ipv4Addr) -> Result<(), LinkError> {
    let step = || device_error(format!("giving the node {address}"));
    let wanted = Address { index, address, prefix: 32 };
    let present = netlink.addresses().map_err(step())?;
    for stale in present.iter().filter(|found| found.index == index && **found != wanted) {
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

fn kernel_route(underlay: Underlay, gateway: Ipv4Addr, cidr: Ipv4Net, node: Ipv4Addr) -> Route {
    let (index, hop) = match underlay {
        Underlay::Vxlan(index) => (index, overlay::gateway(cidr)),
        Underlay::Native(index) => (index, node),
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
    gateway: Ipv4Addr,
    cidr: Ipv4Net,
    node: Ipv4Addr,
) -> Result<(), LinkError> {
    let step = || device_error(format!("routing {cidr} to {node}"));
    if let Underlay::Vxlan(index) = underlay {
        netlink.replace_neighbour(index, overlay::gateway(cidr), overlay::device_mac(node)).map_err(step())?;
    }
    netlink.replace_route(kernel_route(underlay, gateway, cidr, node)).map_err(step())
}

/// Takes the route to another node's pod CIDR away.
///
/// # Errors
/// [`LinkError::Device`]
pub fn remove_route(
    netlink: &mut Socket,
    underlay: Underlay,
    gateway: Ipv4Addr,
    cidr: Ipv4Net,
    node: Ipv4Addr,
) -> Result<(), LinkError> {
    let step = || device_error(format!("removing the route to {cidr}"));
    netlink.delete_route(kernel_route(underlay, gateway, cidr, node)).map_err(step())?;
    if let Underlay::Vxlan(index) = underlay {
        netlink.delete_neighbour(index, overlay::gateway(cidr)).map_err(step())?;
    }
    Ok(())
}

/// Removes routes of ours that are not among `wanted`: those an earlier run made for nodes that left meanwhile.
///
/// # Errors
/// [`LinkError::Device`]
pub fn retain_routes(netlink: &mut Socket, wanted: &BTreeMap<Ipv4Net, Ipv4Addr>) -> Result<(), LinkError> {
    let step = || device_error("comparing routes");
    for route in netlink.routes().map_err(step())? {
        let known =
            Ipv4Net::new(route.destination, route.prefix).is_ok_and(|cidr| wanted.contains_key(&cidr));
        // Routes to pods of this node have no next hop; they go with their veth.
        if route.protocol == ROUTE_PROTOCOL && route.gateway.is_some() && !known {
            netlink.delete_route(route).map_err(step())?;
        }
    }
    Ok(())
}

/// Where sysctls are. Container engines mount /proc/sys read-only; the node's own /proc, mounted beside it, shows the
/// network sysctls of whoever opens them, and so the same namespace.
const SYSCTL_ROOTS: [&str; 2] = ["/proc/sys/net", "/host/proc/sys/net"];

/// Sets a sysctl of the calling thread's network namespace unless it is so already.
///
/// # Errors
/// [`LinkError::Device`]
pub fn set_sysctl(name: &str, value: &str) -> Result<(), LinkError> {
    let [own, node] = SYSCTL_ROOTS.map(|root| PathBuf::from(root).join(name));
    if fs::read_to_string(&own).is_ok_and(|current| current.trim() == value) {
        return Ok(());
    }
    let failed = |error: io::Error| LinkError::Device {
        step: format!("setting {} to {value}", own.display()),
        source: error.into(),
    };
    match fs::write(&own, value) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            fs::write(&node, value).map_err(failed)
        }
        other => other.map_err(failed),
    }
}

/// Makes the namespace forward IPv4, and accept packets of pods on an interface that routing would not choose.
///
/// # Errors
/// [`LinkError::Device`]
pub fn forwarding(interfaces: &[&str]) -> Result<(), LinkError> {
    set_sysctl("ipv4/ip_forward", "1")?;
    // The kernel takes the greater of "all" and the interface's own value; 2 (loose) overrides a strict "all".
    for interface in interfaces {
        set_sysctl(&format!("ipv4/conf/{interface}/rp_filter"), "2")?;
    }
    Ok(())
}
