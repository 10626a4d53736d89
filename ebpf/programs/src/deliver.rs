//! Where a packet goes once it may.

use crate::parse::L3;
use crate::steps::outcome;
use crate::{Family, NEXT, Outcome, Scratch, World, rate};
use fairlead_abi::{Addr, Config, Endpoint, Metric, RateKey, Reason};

/// Hands the packet to a pod of this node. `redirect_peer` skips the pod's own hook, so ingress policy must
/// have been judged.
#[inline(always)]
pub fn to_pod<W: World>(world: &W, scratch: &mut Scratch, endpoint: &Endpoint) -> Outcome {
    rate::take(world, scratch, endpoint, RateKey::INGRESS)?;
    let macs: [[u8; 6]; 2] = [endpoint.mac, endpoint.host_mac];
    if !world.store(0, &macs) {
        return Err(Reason::Malformed);
    }
    world.count(Metric::ToLocalPod);
    Ok(world.redirect_peer(endpoint.ifindex))
}

/// Hands the packet to the node's own stack.
#[inline(always)]
pub fn to_stack<W: World>(world: &W) -> Outcome {
    world.count(Metric::ToStack);
    Ok(NEXT)
}

/// Sends what a pod of this node has sent to an address that is no pod's of this node.
#[inline(always)]
pub fn away<W: World>(world: &W, net: Family<'_>, dst: &Addr) -> Outcome {
    let gateway = dst == net.gateway();
    if net.pods().contains(dst) && !gateway {
        return Err(Reason::UnknownEndpoint);
    }
    if gateway || !net.cluster().contains(dst) {
        return to_stack(world);
    }
    if net.config.flags & Config::OVERLAY != 0 {
        return to_overlay(world, net);
    }
    // The stack would send it there, too, and take longer.
    if world.route(dst).is_none() {
        return to_stack(world);
    }
    world.count(Metric::ToNode);
    Ok(world.redirect_neigh(net.config.uplink_ifindex))
}

/// Sends the packet into the overlay, whose own hook looks the node up.
#[inline(always)]
pub fn to_overlay<W: World>(world: &W, net: Family<'_>) -> Outcome {
    world.count(Metric::ToOverlay);
    Ok(world.redirect(net.config.overlay_ifindex))
}

/// Takes one hop off a packet that came by one wire and leaves by another: whatever two nodes make of each other's
/// Services, it ends. What stays on this node, or begins or ends here, has the hops that it was sent with: pods are on
/// one network.
///
/// # Errors
/// `HopLimit` when that was the last one.
#[inline(always)]
pub fn hop<W: World>(world: &W, scratch: &mut Scratch) -> Result<(), Reason> {
    outcome(world.hop(scratch))
}

/// The body of [`hop`].
#[inline(always)]
pub fn take_hop<W: World>(world: &W, scratch: &Scratch) -> Result<(), Reason> {
    const HOPS_V4: u32 = L3 + 8;
    const CHECKSUM_V4: u32 = L3 + 10;
    const HOPS_V6: u32 = L3 + 7;
    if scratch.packet.is_v6() {
        let mut hops = 0u8;
        if !world.load(HOPS_V6, &mut hops) {
            return Err(Reason::Malformed);
        }
        return match hops.checked_sub(1) {
            None | Some(0) => Err(Reason::HopLimit),
            Some(left) if world.store_summed(HOPS_V6, &left) => Ok(()),
            Some(_) => Err(Reason::Malformed),
        };
    }
    let mut word = [0u8; 2];
    if !world.load(HOPS_V4, &mut word) {
        return Err(Reason::Malformed);
    }
    let [hops, proto] = word;
    let pair = |hops: u8| u32::from_ne_bytes([hops, proto, 0, 0]);
    match hops.checked_sub(1) {
        None | Some(0) => Err(Reason::HopLimit),
        Some(left) if world.fix_l3(CHECKSUM_V4, pair(hops), pair(left)) && world.store(HOPS_V4, &left) => {
            Ok(())
        }
        Some(_) => Err(Reason::Malformed),
    }
}

/// The pod of this node with that address, unless it is closed.
///
/// # Errors
/// `EndpointClosed`; `scratch` then names the endpoint.
#[inline(always)]
pub fn pod<'a, W: World>(
    world: &'a W,
    scratch: &mut Scratch,
    addr: &Addr,
) -> Result<Option<&'a Endpoint>, Reason> {
    match world.endpoint(addr) {
        Some(endpoint) if endpoint.flags & Endpoint::CLOSED != 0 => {
            scratch.endpoint = endpoint.id;
            Err(Reason::EndpointClosed)
        }
        found => Ok(found),
    }
}
