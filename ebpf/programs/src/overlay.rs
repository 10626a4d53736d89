//! The VXLAN device.

use crate::conntrack::{self, Parties, admit, forget_translation};
use crate::parse::{self, ETH_IPV4, ETH_IPV6, Ipv4, L3, Packet};
use crate::service::{self, Origin};
use crate::world::{config, is_own};
use crate::{Family, NEXT, Outcome, Scratch, World, deliver, icmp, pod, rewrite};
use fairlead_abi::{Addr, Config, CtEntry, Metric, Node, Reason};

/// What comes from other nodes.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub fn from_overlay<W: World>(world: &W, scratch: &mut Scratch) -> Outcome {
    let config = config(world)?;
    if !matches!(world.ether_type(), ETH_IPV4 | ETH_IPV6) {
        return Err(Reason::UnknownEtherType);
    }
    parse::ip(world, scratch, config)?;
    if scratch.packet.is_link_local_noise() {
        return Err(Reason::LinkLocalNoise);
    }
    let net = Family::of(config, &scratch.packet);
    let owned = authentic(world, scratch, config)?;
    if !world.accept() {
        return Err(Reason::Malformed);
    }
    forget_translation(scratch);
    if !owned {
        return direct(world, scratch, net);
    }
    let dst = scratch.packet.dst;
    if dst == *net.gateway() || is_own(world, &dst) {
        return to_node(world, scratch);
    }
    let Some(endpoint) = deliver::pod(world, scratch, &dst)? else {
        return Err(Reason::UnknownEndpoint);
    };
    if scratch.packet.is(Packet::ICMP_ERROR)
        && icmp::read(world, scratch)
        && icmp::related(world, scratch, false)?.is_some()
    {
        return deliver::to_pod(world, scratch, endpoint);
    }
    if !net.cluster().contains(&scratch.packet.src) {
        // A node asks with an address that the uplink leads to, too: the answer must go back this way.
        scratch.fresh.ifindex = config.overlay_ifindex;
    }
    let parties = Parties { source: None, destination: Some(endpoint), node: false };
    let seen = admit(world, scratch, &parties)?;
    if seen.is_translated_reply() {
        pod::restore(scratch, seen.flags);
        rewrite::apply(world, scratch)?;
    }
    deliver::to_pod(world, scratch, endpoint)
}

/// A client's packet for a Service whose answers leave from here, not from the node that the client asked.
#[inline(always)]
fn direct<W: World>(world: &W, scratch: &mut Scratch, net: Family<'_>) -> Outcome {
    let src = scratch.packet.src;
    if net.cluster().contains(&src) || is_own(world, &src) {
        return Err(Reason::ForgedOverlay);
    }
    if scratch.packet.is(Packet::ICMP_ERROR) {
        return direct_error(world, scratch);
    }
    let packet = &scratch.packet;
    let Some(service) = service::find_direct(world, &packet.dst, packet.dst_port, packet.proto) else {
        return Err(Reason::ForgedOverlay);
    };
    service::translate_for(world, scratch, net.config, service, Origin::Node)?;
    let dst = scratch.to.dst;
    let Some(endpoint) = deliver::pod(world, scratch, &dst)? else {
        return Err(Reason::NoLocalBackend);
    };
    admit(world, scratch, &Parties { source: None, destination: Some(endpoint), node: false })?;
    rewrite::apply(world, scratch)?;
    deliver::to_pod(world, scratch, endpoint)
}

/// An error about an answer that left from here, brought by the node that has the Service's address.
#[inline(always)]
fn direct_error<W: World>(world: &W, scratch: &mut Scratch) -> Outcome {
    let quoted = icmp::read(world, scratch);
    let (inner, proto) = (&scratch.inner, scratch.inner_proto as u8);
    if !quoted
        || service::find_direct(world, &inner.src, inner.src_port, proto).is_none()
        || icmp::related(world, scratch, false)?.is_none()
    {
        return Err(Reason::ForgedOverlay);
    }
    let dst = scratch.to.dst;
    match deliver::pod(world, scratch, &dst)? {
        Some(endpoint) => deliver::to_pod(world, scratch, endpoint),
        None => Err(Reason::UnknownEndpoint),
    }
}

/// A packet is believed when its outer source is a node, and its inner source is that node's or its pods'. False for
/// one from a node with the source of somebody else.
#[inline(always)]
fn authentic<W: World>(world: &W, scratch: &Scratch, config: &Config) -> Result<bool, Reason> {
    let Some((vni, from)) = world.tunnel() else { return Err(Reason::ForgedOverlay) };
    let src = scratch.packet.src;
    let home = match world.route(&src) {
        Some(route) => route.node,
        // A node's own address; never one of this node's.
        None => src,
    };
    let known = world.node(&from).is_some_and(|node| node.flags & Node::SELF == 0);
    if vni == config.vni && known { Ok(home == from) } else { Err(Reason::ForgedOverlay) }
}

/// Answers to what this node asked: its own packets, and those of NodePort clients that it sent on.
#[inline(always)]
fn to_node<W: World>(world: &W, scratch: &mut Scratch) -> Outcome {
    if scratch.packet.is(Packet::ICMP_ERROR) {
        return match icmp::read(world, scratch)
            && icmp::related(world, scratch, false)?.is_some_and(|f| f != 0)
        {
            true => to_client(world, scratch, scratch.fresh.ifindex),
            false => deliver::to_stack(world),
        };
    }
    match answer(world, scratch)? {
        Some(ifindex) => to_client(world, scratch, ifindex),
        None => deliver::to_stack(world),
    }
}

/// Rewrites a backend's answer for the client outside; returns the interface that leads there. None when the
/// packet is not such an answer.
///
/// # Errors
/// `Malformed` when the kernel refuses a write.
#[inline(always)]
pub fn answer<W: World>(world: &W, scratch: &mut Scratch) -> Result<Option<u32>, Reason> {
    let now = world.now();
    let to = &scratch.to;
    let high = scratch.key.set(&to.src, to.src_port, &to.dst, to.dst_port, scratch.packet.proto);
    let Some(mut flow) = world.flow(&scratch.key) else { return Ok(None) };
    let reply = (flow.flags & CtEntry::HIGH_OPENED != 0) != high;
    if flow.expires < now || !reply || flow.flags & CtEntry::SNAT == 0 {
        return Ok(None);
    }
    let to = &mut scratch.to;
    if conntrack::track(&scratch.packet, &mut flow, true, now) {
        conntrack::count(world, &to.src, to.src_port, scratch.packet.proto, flow.service << 1);
    }
    (to.src, to.src_port) = (flow.virtual_addr, flow.virtual_port);
    (to.dst, to.dst_port) = (flow.client, flow.client_port);
    let ifindex = flow.ifindex;
    rewrite::apply(world, scratch)?;
    Ok(Some(ifindex))
}

/// Sends to a client outside. The stack would refuse a packet from outside that has its own address as the
/// source, so the next hop is looked up without it.
#[inline(always)]
pub fn to_client<W: World>(world: &W, scratch: &mut Scratch, ifindex: u32) -> Outcome {
    deliver::hop(world, scratch)?;
    world.count(Metric::ToClient);
    Ok(world.redirect_neigh(ifindex))
}

/// What this node sends to other nodes, from its pods and its stack.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub fn to_overlay<W: World>(world: &W, scratch: &mut Scratch) -> Outcome {
    let config = config(world)?;
    match world.ether_type() {
        ETH_IPV4 => {
            let mut ip = Ipv4::default();
            if !world.load(L3, &mut ip) {
                return Err(Reason::Malformed);
            }
            scratch.packet.proto = ip.proto;
            scratch.packet.src = Addr::from_v4_word(ip.src);
            scratch.packet.dst = Addr::from_v4_word(ip.dst);
        }
        ETH_IPV6 => {
            parse::ip(world, scratch, config)?;
            if scratch.packet.is_link_local_noise() {
                return Err(Reason::LinkLocalNoise);
            }
        }
        _ => return Err(Reason::UnknownEtherType),
    }
    let dst = scratch.packet.dst;
    scratch.to.dst = dst;
    let home = match world.route(&dst) {
        Some(route) => route.node,
        // An answer to a node that asked by the overlay.
        None if world.node(&dst).is_some_and(|node| node.flags & Node::SELF == 0) => dst,
        // A client's packet, sent here with the backend's node by `from_uplink`.
        None if world.tunnel().is_some() => return Ok(NEXT),
        None => return Err(Reason::NoRoute),
    };
    if world.set_tunnel(config.vni, &home) { Ok(NEXT) } else { Err(Reason::NoRoute) }
}
