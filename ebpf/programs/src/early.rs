//! What the uplink's driver runs (XDP): packets that only pass through this node leave before the stack has seen them.
//!
//! These are packets of flows that the tc programs have opened: from clients outside to backends on other nodes that the
//! uplink itself leads to, and their answers. Everything else is passed on as it came, before anything is changed: tc
//! decides about it, as it does where no driver runs this. The one exception is who may not ask a Service at all.

use crate::parse::{self, ETH_IPV4, ETH_IPV6, L3, Packet, proto};
use crate::service::{self, is_translated_port};
use crate::world::{World, config};
use crate::{Ends, Family, Scratch, conntrack, deliver, rewrite};
use fairlead_abi::{Config, CtEntry, Metric, Reason};

/// A packet that a driver has just received.
pub trait Wire: World {
    /// Link-layer destination and source of the next hop to `to.dst`, if that is reached by the interface that the packet
    /// came by and the packet fits.
    fn next_hop(&self, packet: &Packet, to: &Ends) -> Option<[[u8; 6]; 2]>;
}

/// True when the packet is to leave by the interface that it came by; false when it goes on as it came.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub fn from_wire<W: Wire>(world: &W, scratch: &mut Scratch) -> Result<bool, Reason> {
    let Ok(config) = config(world) else { return Ok(false) };
    if !matches!(world.ether_type(), ETH_IPV4 | ETH_IPV6)
        || !world.is_for_us()
        || parse::ip(world, scratch, config).is_err()
    {
        return Ok(false);
    }
    let packet = &scratch.packet;
    let net = Family::of(config, packet);
    let plain = matches!(packet.proto, proto::TCP | proto::UDP) && !packet.is(Packet::FRAGMENT);
    if !plain || net.pods().contains(&packet.dst) || net.is_overlaid(&packet.src) {
        return Ok(false);
    }
    if is_translated_port(config, packet.dst_port) {
        Ok(answer(world, scratch))
    } else {
        question(world, scratch, config)
    }
}

/// A client's packet to a Service.
#[inline(always)]
fn question<W: Wire>(world: &W, scratch: &mut Scratch, config: &Config) -> Result<bool, Reason> {
    let net = Family::of(config, &scratch.packet);
    let packet = &scratch.packet;
    let Some(service) = service::find(world, &packet.dst, packet.dst_port, packet.proto, false) else {
        return Ok(false);
    };
    service::ask(world, scratch, service)?;
    let packet = &scratch.packet;
    if packet.is_syn() {
        return Ok(false);
    }
    let now = world.now();
    let Some(mut nat) = world.nat(&scratch.nat_key) else { return Ok(false) };
    // A datagram does not go to a backend that has left.
    let stands =
        packet.proto == proto::TCP || service::holds(world, service.id, nat.slot, &nat.dst, nat.dst_port);
    if nat.expires < now || nat.src == packet.src || net.is_overlaid(&nat.dst) || !stands {
        return Ok(false);
    }
    let to = &mut scratch.to;
    (to.src, to.src_port, to.dst, to.dst_port) = (nat.src, nat.src_port, nat.dst, nat.dst_port);
    let high = scratch.key.set(&to.src, to.src_port, &to.dst, to.dst_port, packet.proto);
    let Some(mut flow) = world.flow(&scratch.key) else { return Ok(false) };
    let reply = (flow.flags & CtEntry::HIGH_OPENED != 0) != high;
    // The port that the client was given may have gone to another since.
    let ours = !reply && flow.flags & CtEntry::SNAT != 0 && service::same(&flow, &scratch.fresh);
    if flow.expires < now || !ours || !leave(world, scratch, &mut flow, false) {
        return Ok(false);
    }
    nat.expires = now.saturating_add(service::lifetime(scratch.packet.proto));
    Ok(true)
}

/// A backend's packet to a client that this node has given its own address.
#[inline(always)]
fn answer<W: Wire>(world: &W, scratch: &mut Scratch) -> bool {
    let to = &mut scratch.to;
    let high = scratch.key.set(&to.src, to.src_port, &to.dst, to.dst_port, scratch.packet.proto);
    let Some(mut flow) = world.flow(&scratch.key) else { return false };
    let reply = (flow.flags & CtEntry::HIGH_OPENED != 0) != high;
    let ours = reply && flow.flags & CtEntry::SNAT != 0 && flow.ifindex == world.ifindex();
    if flow.expires < world.now() || !ours {
        return false;
    }
    (to.src, to.src_port) = (flow.virtual_addr, flow.virtual_port);
    (to.dst, to.dst_port) = (flow.client, flow.client_port);
    if !leave(world, scratch, &mut flow, true) {
        return false;
    }
    world.count(Metric::ToClient);
    true
}

/// Gives the packet the ends `scratch.to` and the next hop; false, with nothing changed, when there is none for it.
#[inline(never)]
fn leave<W: Wire>(world: &W, scratch: &mut Scratch, flow: &mut CtEntry, reply: bool) -> bool {
    if !has_hops(world, &scratch.packet) {
        return false;
    }
    let Some(macs) = world.next_hop(&scratch.packet, &scratch.to) else { return false };
    let backend = if reply {
        (scratch.packet.src, scratch.packet.src_port)
    } else {
        (scratch.to.dst, scratch.to.dst_port)
    };
    if conntrack::track(&scratch.packet, flow, reply, world.now()) {
        conntrack::count(world, &backend.0, backend.1, scratch.packet.proto, flow.service << 1);
    }
    // What was read can be written, and a packet with hops left has one to lose.
    rewrite::apply(world, scratch).is_ok() && deliver::hop(world, scratch).is_ok() && world.store(0, &macs)
}

/// Whether the packet outlives this node. If not, tc says so.
#[inline(always)]
fn has_hops<W: World>(world: &W, packet: &Packet) -> bool {
    let at = L3 + if packet.is_v6() { 7 } else { 8 };
    let mut hops = 0u8;
    world.load(at, &mut hops) && hops > 1
}
