//! The host side of a pod's veth.

use crate::conntrack::{Parties, admit, forget_translation};
use crate::parse::{self, ETH_ARP, ETH_IPV4, ETH_IPV6, Packet, icmpv6};
use crate::service::{self, Origin};
use crate::world::{config, is_own};
use crate::{Family, Outcome, Scratch, World, deliver, icmp, rate, rewrite};
use fairlead_abi::{Addr, Config, CtEntry, Endpoint, RateKey, Reason};

/// What a pod sends.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub fn from_pod<W: World>(world: &W, scratch: &mut Scratch) -> Outcome {
    let config = config(world)?;
    match world.ether_type() {
        ETH_IPV4 | ETH_IPV6 => {}
        ETH_ARP => return arp(world, scratch),
        _ => return Err(Reason::UnknownEtherType),
    }
    let parsed = parse::ip(world, scratch, config);
    if scratch.packet.is_v6() && (!Family::has_v6(config) || scratch.packet.is_link_local_noise()) {
        parsed?;
        return neighbour(world, scratch);
    }
    let endpoint = own_endpoint(world, scratch, Reason::SpoofedSource)?;
    parsed?;
    let net = Family::of(config, &scratch.packet);
    rate::take(world, scratch, endpoint, RateKey::EGRESS)?;
    if parse::is_bad_destination(&scratch.packet) {
        return Err(Reason::BadDestination);
    }
    if parse::is_forged_overlay(world, config, &scratch.packet) {
        return Err(Reason::ForgedOverlay);
    }
    forget_translation(scratch);
    if scratch.packet.is(Packet::ICMP_ERROR) && endpoint.flags & Endpoint::CLOSED == 0 {
        let mine = icmp::read(world, scratch) && scratch.inner.dst == scratch.packet.src;
        if mine && icmp::related(world, scratch, true)?.is_some() {
            let dst = scratch.to.dst;
            let destination = deliver::pod(world, scratch, &dst)?;
            return leave(world, scratch, net, destination, false);
        }
    }
    let dst = scratch.packet.dst;
    let pods = net.cluster().contains(&dst) && dst != *net.gateway();
    let cluster = pods || dst == net.pod_gateway();
    let translated = !cluster && service::translate(world, scratch, net, Origin::Pod)?;
    let node = !cluster && is_own(world, &scratch.to.dst);
    if node && !translated {
        return deliver::to_stack(world);
    }
    send(world, scratch, net, endpoint, node, translated)
}

/// Judges, translates and sends what is not for the node itself.
#[inline(always)]
fn send<W: World>(
    world: &W,
    scratch: &mut Scratch,
    net: Family<'_>,
    endpoint: &Endpoint,
    node: bool,
    translated: bool,
) -> Outcome {
    if endpoint.flags & Endpoint::CLOSED != 0 && !node {
        scratch.endpoint = endpoint.id;
        return Err(Reason::EndpointClosed);
    }
    // A pod that talks to itself through a Service has the gateway as its peer.
    let gateway = net.pod_gateway();
    let hairpin = scratch.to.src == gateway || scratch.to.dst == gateway;
    let dst = scratch.to.dst;
    let destination = if hairpin {
        Some(endpoint)
    } else if net.pods().contains(&dst) {
        deliver::pod(world, scratch, &dst)?
    } else {
        None
    };
    let seen = admit(world, scratch, &Parties { source: Some(endpoint), destination, node })?;
    if hairpin && seen.flags & CtEntry::SNAT == 0 {
        return Err(Reason::BadDestination);
    }
    if seen.reply && seen.ifindex != 0 && seen.ifindex == net.config.overlay_ifindex {
        return deliver::to_overlay(world, net);
    }
    let back = seen.is_translated_reply() && destination.is_some();
    if back {
        restore(scratch, seen.flags);
    }
    leave(world, scratch, net, destination, translated || back)
}

/// The ends as the client knows them.
#[inline(always)]
pub fn restore(scratch: &mut Scratch, flags: u8) {
    let (to, found) = (&mut scratch.to, &scratch.fresh);
    (to.src, to.src_port) = (found.virtual_addr, found.virtual_port);
    if flags & CtEntry::SNAT != 0 {
        (to.dst, to.dst_port) = (found.client, found.client_port);
    }
}

/// To the pod that was judged, or away.
#[inline(always)]
fn leave<W: World>(
    world: &W,
    scratch: &mut Scratch,
    net: Family<'_>,
    destination: Option<&Endpoint>,
    changed: bool,
) -> Outcome {
    if changed {
        rewrite::apply(world, scratch)?;
    }
    match destination {
        Some(endpoint) => deliver::to_pod(world, scratch, endpoint),
        None => {
            let dst = scratch.to.dst;
            deliver::away(world, net, &dst)
        }
    }
}

/// The endpoint whose veth the program is attached to, found by the packet's source.
#[inline(always)]
fn own_endpoint<'a, W: World>(
    world: &'a W,
    scratch: &Scratch,
    otherwise: Reason,
) -> Result<&'a Endpoint, Reason> {
    if scratch.packet.src == Addr::UNSPECIFIED {
        // Not even an address was read.
        return Err(Reason::Malformed);
    }
    match world.endpoint(&scratch.packet.src) {
        Some(endpoint) if endpoint.ifindex == world.ifindex() => Ok(endpoint),
        _ => Err(otherwise),
    }
}

/// A pod may ask and answer for its own address only. The node's neighbour table takes what it says.
#[inline(always)]
fn arp<W: World>(world: &W, scratch: &mut Scratch) -> Outcome {
    parse::arp(world, scratch)?;
    own_endpoint(world, scratch, Reason::SpoofedSource)?;
    deliver::to_stack(world)
}

/// Neighbour discovery (RFC 4861) between a pod and its gateway. The node's stack answers, and believes what a pod says
/// about its own addresses: the one it was given, and link-local ones, which hold on its own link only. The rest of what
/// interfaces send by themselves ends here.
#[inline(always)]
fn neighbour<W: World>(world: &W, scratch: &mut Scratch) -> Outcome {
    let packet = &scratch.packet;
    let advertises = packet.icmp_type == icmpv6::NEIGHBOUR_ADVERTISEMENT;
    if !advertises && packet.icmp_type != icmpv6::NEIGHBOUR_SOLICITATION || packet.src == Addr::UNSPECIFIED {
        // Without a source it asks whether its address is free (RFC 4862), which nobody here doubts.
        return Err(Reason::LinkLocalNoise);
    }
    if packet.is(Packet::FRAGMENT) {
        // RFC 6980.
        return Err(Reason::Malformed);
    }
    if !parse::is_link_local(&packet.dst) {
        return Err(Reason::BadDestination);
    }
    let mut target = packet.src;
    if advertises && !world.load(packet.l4 + 8, &mut target) {
        return Err(Reason::Malformed);
    }
    for addr in [packet.src, target] {
        let own = world.endpoint(&addr).is_some_and(|endpoint| endpoint.ifindex == world.ifindex());
        if !own && (!parse::is_link_local(&addr) || addr == Config::POD_GATEWAY_V6) {
            return Err(Reason::SpoofedSource);
        }
    }
    deliver::to_stack(world)
}

/// What the node's stack sends to a pod: its own traffic, and what it routed.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub fn to_pod<W: World>(world: &W, scratch: &mut Scratch) -> Outcome {
    let config = config(world)?;
    match world.ether_type() {
        ETH_IPV4 | ETH_IPV6 => {}
        ETH_ARP => return deliver::to_stack(world),
        _ => return Err(Reason::UnknownEtherType),
    }
    parse::ip(world, scratch, config)?;
    // Only what the node itself made has never come in by an interface.
    let node = world.ingress_ifindex() == 0;
    if scratch.packet.is_link_local_noise() {
        let kind = scratch.packet.icmp_type;
        let discovery = matches!(kind, icmpv6::NEIGHBOUR_SOLICITATION | icmpv6::NEIGHBOUR_ADVERTISEMENT);
        return if discovery && node { deliver::to_stack(world) } else { Err(Reason::LinkLocalNoise) };
    }
    let dst = scratch.packet.dst;
    let endpoint = match world.endpoint(&dst) {
        Some(endpoint) if endpoint.ifindex == world.ifindex() => endpoint,
        _ => return Err(Reason::UnknownEndpoint),
    };
    if endpoint.flags & Endpoint::CLOSED != 0 && !node {
        scratch.endpoint = endpoint.id;
        return Err(Reason::EndpointClosed);
    }
    forget_translation(scratch);
    rate::take(world, scratch, endpoint, RateKey::INGRESS)?;
    if scratch.packet.is(Packet::ICMP_ERROR)
        && icmp::read(world, scratch)
        && icmp::related(world, scratch, false)?.is_some()
    {
        return deliver::to_stack(world);
    }
    let seen = admit(world, scratch, &Parties { source: None, destination: Some(endpoint), node })?;
    if seen.is_translated_reply() {
        restore(scratch, seen.flags);
        rewrite::apply(world, scratch)?;
    }
    deliver::to_stack(world)
}
