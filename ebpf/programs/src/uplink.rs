//! The device that leads out of the cluster.
//!
//! Everything the node itself sends and receives passes here, too. What is not about pods and Services goes on
//! untouched, even when it does not parse: it is the stack's.

use crate::conntrack::{self, Parties, admit, forget_translation};
use crate::parse::{self, ETH_ARP, ETH_IPV4, ETH_IPV6, Ipv4, L3, Packet, icmpv6, proto};
use crate::service::{self, Origin, is_translated_port};
use crate::world::{config, is_own};
use crate::{
    Family, NEXT, Outcome, Scratch, World, announce, deliver, icmp, masquerade, overlay, pod, rewrite,
};
use fairlead_abi::{Addr, Be16, Config, CtEntry, Reason};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// What comes from outside.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub fn from_uplink<W: World>(world: &W, scratch: &mut Scratch) -> Outcome {
    let Ok(config) = config(world) else { return Ok(NEXT) };
    if world.ether_type() == ETH_ARP && announce::answer(world, scratch, config) {
        return Ok(world.redirect(world.ifindex()));
    }
    // A bridge floods what is for others; answering that, too, would double it.
    if world.ether_type() == ETH_IPV6
        && !world.is_for_us()
        && Family::has_v6(config)
        && announce::answer(world, scratch, config)
    {
        return Ok(world.redirect(world.ifindex()));
    }
    if !is_ip(world)
        || !world.is_for_us()
        || is_wrapped(world, config)
        || parse::ip(world, scratch, config).is_err()
    {
        return Ok(NEXT);
    }
    let net = Family::of(config, &scratch.packet);
    if is_overlay(net, &scratch.packet) {
        return Ok(NEXT);
    }
    if scratch.packet.is_link_local_noise() {
        let asks = scratch.packet.icmp_type == icmpv6::NEIGHBOUR_SOLICITATION;
        let answered = asks && announce::answer(world, scratch, config);
        return Ok(if answered { world.redirect(world.ifindex()) } else { NEXT });
    }
    forget_translation(scratch);
    let (src, dst) = (scratch.packet.src, scratch.packet.dst);
    let to_pod = net.pods().contains(&dst);
    let all_hidden = Config::OVERLAY | Config::MASQUERADE;
    if net.is_overlaid(&src) && (to_pod || config.flags & all_hidden == all_hidden) {
        // Pods of other nodes come by the overlay, and what they send here leaves their node masqueraded.
        return Err(Reason::SpoofedSource);
    }
    if !to_pod {
        if scratch.packet.is(Packet::ICMP_ERROR) {
            return error(world, scratch, net);
        }
        let ports = has_ports(&scratch.packet);
        if !ports || is_translated_port(config, scratch.packet.dst_port) {
            if let Some(ifindex) = overlay::answer(world, scratch)? {
                return overlay::to_client(world, scratch, ifindex);
            }
            if masquerade::back(world, scratch).is_some() {
                return inward(world, scratch);
            }
        }
        if service::translate(world, scratch, net, Origin::Uplink)? {
            return serve(world, scratch, net);
        }
        return Ok(NEXT);
    }
    inward(world, scratch)
}

#[inline(always)]
fn is_ip<W: World>(world: &W) -> bool {
    matches!(world.ether_type(), ETH_IPV4 | ETH_IPV6)
}

#[inline(always)]
fn has_ports(packet: &Packet) -> bool {
    matches!(packet.proto, proto::TCP | proto::UDP | proto::SCTP) || packet.is(Packet::ICMP)
}

/// Between nodes, VXLAN packets are not for any table.
#[inline(always)]
fn is_overlay(net: Family<'_>, packet: &Packet) -> bool {
    packet.proto == proto::UDP
        && packet.dst_port.0 == net.config.vxlan_port.0
        && net.config.flags & Config::OVERLAY != 0
        && !net.cluster().contains(&packet.src)
}

/// Where an overlay packet between IPv4 nodes has its ports.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Wrapped {
    ip: Ipv4,
    ports: [Be16; 2],
}

/// Tells [`is_overlay`] without parsing, for most of what nodes send each other. What it does not tell is parsed.
#[inline(always)]
fn is_wrapped<W: World>(world: &W, config: &Config) -> bool {
    const PLAIN: u8 = 0x45;
    const DONT_FRAGMENT: u16 = 0x4000;
    let mut head = Wrapped::default();
    config.flags & Config::OVERLAY != 0
        && world.ether_type() == ETH_IPV4
        && world.load(L3, &mut head)
        && head.ip.version_ihl == PLAIN
        && head.ip.proto == proto::UDP
        && head.ip.fragment.get() & !DONT_FRAGMENT == 0
        && head.ports[1].0 == config.vxlan_port.0
        && !config.cluster_v4.contains(&Addr::from_v4_word(head.ip.src))
}

/// To the pod `scratch.to.dst`.
#[inline(always)]
fn inward<W: World>(world: &W, scratch: &mut Scratch) -> Outcome {
    let dst = scratch.to.dst;
    let Some(endpoint) = deliver::pod(world, scratch, &dst)? else {
        if is_own(world, &dst) {
            // A flow of the node itself, on a port of the range.
            return Ok(NEXT);
        }
        return Err(Reason::UnknownEndpoint);
    };
    if scratch.packet.is(Packet::ICMP_ERROR)
        && icmp::read(world, scratch)
        && icmp::related(world, scratch, false)?.is_some()
    {
        return deliver::to_pod(world, scratch, endpoint);
    }
    let parties = Parties { source: None, destination: Some(endpoint), node: false };
    let seen = admit(world, scratch, &parties)?;
    if seen.is_translated_reply() {
        pod::restore(scratch, seen.flags);
    }
    rewrite::apply(world, scratch)?;
    deliver::to_pod(world, scratch, endpoint)
}

/// To the backend that was chosen.
#[inline(always)]
fn serve<W: World>(world: &W, scratch: &mut Scratch, net: Family<'_>) -> Outcome {
    let dst = scratch.to.dst;
    if scratch.direct {
        return to_backends_node(world, scratch, net);
    }
    let destination = deliver::pod(world, scratch, &dst)?;
    let node = destination.is_none() && is_own(world, &dst);
    admit(world, scratch, &Parties { source: None, destination, node })?;
    rewrite::apply(world, scratch)?;
    if let Some(endpoint) = destination {
        return deliver::to_pod(world, scratch, endpoint);
    }
    if node {
        return deliver::to_stack(world);
    }
    deliver::hop(world, scratch)?;
    if net.is_overlaid(&dst) {
        return deliver::to_overlay(world, net);
    }
    // The stack would refuse a packet from outside that has its own address as the source.
    Ok(world.redirect_neigh(world.ifindex()))
}

/// To the node of the backend `scratch.to.dst`, as it came.
#[inline(always)]
fn to_backends_node<W: World>(world: &W, scratch: &mut Scratch, net: Family<'_>) -> Outcome {
    let Some(route) = world.route(&scratch.to.dst) else { return Err(Reason::NoRoute) };
    deliver::hop(world, scratch)?;
    match world.set_tunnel(net.config.vni, &route.node) {
        true => deliver::to_overlay(world, net),
        false => Err(Reason::NoRoute),
    }
}

/// An ICMP error for the node's address: about what was masqueraded, or about an answer of a Service.
#[inline(always)]
fn error<W: World>(world: &W, scratch: &mut Scratch, net: Family<'_>) -> Outcome {
    if !icmp::read(world, scratch) {
        return Ok(NEXT);
    }
    if net.config.flags & Config::OVERLAY != 0 && icmp::is_direct(world, scratch) {
        return to_backends_node(world, scratch, net);
    }
    let masqueraded = icmp::unmasquerade(world, scratch)?;
    let Some(ifindex) = icmp::related(world, scratch, false)? else {
        // Without a flow behind it, it may not enter; and with the node as its destination it need not.
        return if masqueraded { Err(Reason::PolicyIngress) } else { Ok(NEXT) };
    };
    let dst = scratch.to.dst;
    if let Some(endpoint) = deliver::pod(world, scratch, &dst)? {
        return deliver::to_pod(world, scratch, endpoint);
    }
    if is_own(world, &dst) {
        return Ok(NEXT);
    }
    if net.is_overlaid(&dst) {
        deliver::hop(world, scratch)?;
        return deliver::to_overlay(world, net);
    }
    let out = if ifindex != 0 { ifindex } else { world.ifindex() };
    overlay::to_client(world, scratch, out)
}

/// What leaves for the outside.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub fn to_uplink<W: World>(world: &W, scratch: &mut Scratch) -> Outcome {
    let Ok(config) = config(world) else { return Ok(NEXT) };
    if !is_ip(world) || is_wrapped(world, config) {
        return Ok(NEXT);
    }
    let parsed = parse::ip(world, scratch, config);
    let net = Family::of(config, &scratch.packet);
    if let Err(reason) = parsed {
        return if net.pods().contains(&scratch.packet.src) { Err(reason) } else { Ok(NEXT) };
    }
    let packet = &scratch.packet;
    if is_overlay(net, packet) || packet.is_link_local_noise() {
        return Ok(NEXT);
    }
    let now = world.now();
    if packet.is(Packet::ICMP_ERROR) && icmp::read(world, scratch) {
        if icmp::related(world, scratch, false)?.is_some() && scratch.to.src == *net.node() {
            return Ok(NEXT);
        }
        if icmp::masquerade(world, scratch)? {
            return Ok(NEXT);
        }
    }
    let (to, packet) = (&scratch.to, &scratch.packet);
    let high = scratch.key.set(&to.src, to.src_port, &to.dst, to.dst_port, packet.proto);
    if let Some(mut flow) = world.flow(&scratch.key)
        && flow.expires >= now
    {
        let reply = (flow.flags & CtEntry::HIGH_OPENED != 0) != high;
        if reply && flow.flags & CtEntry::DNAT != 0 {
            let to = &mut scratch.to;
            if conntrack::track(&scratch.packet, &mut flow, true, now) {
                conntrack::count(world, &to.src, to.src_port, scratch.packet.proto, flow.service << 1);
            }
            (to.src, to.src_port) = (flow.virtual_addr, flow.virtual_port);
            rewrite::apply(world, scratch)?;
            return Ok(NEXT);
        }
        if reply || flow.flags & CtEntry::SNAT != 0 {
            return Ok(NEXT);
        }
    }
    if !leaves_hidden(world, net, &scratch.packet) {
        return Ok(NEXT);
    }
    masquerade::leave(world, scratch, net)?;
    rewrite::apply(world, scratch)?;
    Ok(NEXT)
}

/// Pods' packets to the outside; and the node's own ones on a port of the range, so that no pod's flow can be
/// given the same ends.
#[inline(always)]
fn leaves_hidden<W: World>(world: &W, net: Family<'_>, packet: &Packet) -> bool {
    if net.config.flags & Config::MASQUERADE == 0
        || net.cluster().contains(&packet.dst)
        || *net.node() == Addr::UNSPECIFIED
    {
        return false;
    }
    let direct = net.config.flags & Config::DIRECT != 0 && world.is_direct(&packet.dst);
    (net.pods().contains(&packet.src) && !direct)
        || (packet.src == *net.node()
            && is_translated_port(net.config, packet.src_port)
            && !parse::is_bad_destination(packet))
}
