//! Where a packet goes once it may.

use crate::{Family, NEXT, Outcome, Scratch, World};
use fairlead_abi::{Addr, Endpoint, Metric, Reason};

/// Hands the packet to a pod of this node. `redirect_peer` skips the pod's own hook, so ingress policy must
/// have been judged.
#[inline(always)]
pub fn to_pod<W: World>(world: &W, endpoint: &Endpoint) -> Outcome {
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
    if net.is_overlaid(dst) && !gateway {
        return to_overlay(world, net);
    }
    to_stack(world)
}

/// Sends the packet into the overlay, whose own hook looks the node up.
#[inline(always)]
pub fn to_overlay<W: World>(world: &W, net: Family<'_>) -> Outcome {
    world.count(Metric::ToOverlay);
    Ok(world.redirect(net.config.overlay_ifindex))
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
