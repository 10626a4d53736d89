//! What pods send out of the cluster leaves with the node's address.

use crate::parse::{Packet, proto};
use crate::service::{is_over, is_translated_port, lifetime, port};
use crate::steps::outcome;
use crate::{Family, Scratch, World};
use fairlead_abi::{Addr, Config, CtEntry, Metric, NatKey, Reason};

/// How many source ports are tried.
const ATTEMPTS: u32 = 16;

/// Sets `scratch.to` to the ends that the outside sees, claiming a port for a new flow.
///
/// # Errors
/// `NatExhausted` when no port is free.
#[inline(always)]
pub fn leave<W: World>(world: &W, scratch: &mut Scratch, net: Family<'_>) -> Result<(), Reason> {
    outcome(world.masquerade(scratch, net.config))
}

/// The body of [`leave`].
#[inline(always)]
pub fn hide<W: World>(world: &W, scratch: &mut Scratch, config: &Config) -> Result<(), Reason> {
    let net = Family::of(config, &scratch.packet);
    let now = world.now();
    let packet = &scratch.packet;
    let (key, to) = (&mut scratch.nat_key, &mut scratch.to);
    (key.src, key.src_port) = (packet.src, packet.src_port);
    (key.dst, key.dst_port) = (packet.dst, packet.dst_port);
    (key.proto, key.kind, key._pad) = (packet.proto, NatKey::MASQUERADE, 0);
    to.src = *net.node();
    // The flow's key was set by who looked it up; a connection that is over soon gives its port back.
    let over = world.flow(&scratch.key).is_some_and(|flow| is_over(&flow));
    let life = if over { CtEntry::TCP_CLOSED_SECONDS } else { lifetime(packet.proto) };
    if let Some(mut nat) = world.nat(key)
        && nat.expires >= now
        && nat.src == *net.node()
    {
        to.src_port = nat.src_port;
        let until = now.saturating_add(life);
        // Written only now and then: the line is shared, and the way back must be refreshed with it.
        if until.abs_diff(nat.expires) < life / 8 {
            return Ok(());
        }
        nat.expires = until;
        drop(nat);
        if own_claim(world, scratch, now, life) {
            return Ok(());
        }
        // The claim was evicted and has gone to another flow.
    }
    claim(world, scratch, net, now)
}

/// Whether the claim for `scratch.to` is this flow's, made again if it is gone.
#[inline(always)]
fn own_claim<W: World>(world: &W, scratch: &mut Scratch, now: u32, life: u32) -> bool {
    fill_claim(scratch, now, life);
    if let Some(mut nat) = world.nat(&scratch.nat_key)
        && nat.expires >= now
    {
        let own = nat.dst == scratch.packet.src && nat.dst_port == scratch.packet.src_port;
        if own {
            nat.expires = scratch.nat.expires;
        }
        return own;
    }
    world.set_nat(&scratch.nat_key, &scratch.nat)
}

/// Key and value of the way back.
#[inline(always)]
fn fill_claim(scratch: &mut Scratch, now: u32, life: u32) {
    let (packet, to) = (&scratch.packet, &scratch.to);
    let (key, nat) = (&mut scratch.nat_key, &mut scratch.nat);
    (key.src, key.src_port) = (packet.dst, packet.dst_port);
    (key.dst, key.dst_port) = (to.src, to.src_port);
    (key.proto, key.kind, key._pad) = (packet.proto, NatKey::UNMASQUERADE, 0);
    (nat.src, nat.src_port) = (packet.dst, packet.dst_port);
    (nat.dst, nat.dst_port) = (packet.src, packet.src_port);
    nat.expires = now.saturating_add(life).saturating_add(life / 8);
    (nat.slot, nat._pad) = (0, 0);
}

#[inline(always)]
fn claim<W: World>(world: &W, scratch: &mut Scratch, net: Family<'_>, now: u32) -> Result<(), Reason> {
    let has_ports = matches!(scratch.packet.proto, proto::TCP | proto::UDP | proto::SCTP)
        || scratch.packet.is(Packet::ECHO_REQUEST);
    for attempt in 0..ATTEMPTS {
        // A port that is in the range already is kept if it can be. What has no ports can only be kept.
        let own = scratch.packet.src_port;
        scratch.to.src_port = if !has_ports || (attempt == 0 && is_translated_port(net.config, own)) {
            own
        } else {
            port(world, net.config, &scratch.packet.src, own, attempt)
        };
        let life = lifetime(scratch.packet.proto);
        fill_claim(scratch, now, life);
        // As for NodePorts: with many connections a second, ports of those that are over must do.
        let ended = attempt >= ATTEMPTS / 2 && scratch.packet.is_syn();
        let mut claimed = world.claim_nat(&scratch.nat_key, &scratch.nat);
        if !claimed && let Some(mut nat) = world.nat(&scratch.nat_key) {
            let own = nat.dst == scratch.packet.src && nat.dst_port == scratch.packet.src_port;
            claimed = own || nat.expires < now;
            if !claimed && ended {
                let key = &mut scratch.key;
                key.set(&nat.dst, nat.dst_port, &nat.src, nat.src_port, scratch.packet.proto);
                claimed = world.flow(key).is_some_and(|flow| is_over(&flow));
            }
            if claimed {
                *nat = scratch.nat;
            }
        }
        if claimed {
            remember(world, scratch, now);
            return Ok(());
        }
        if !has_ports {
            break;
        }
    }
    Err(Reason::NatExhausted)
}

/// The way out, for the next packets of the flow.
#[inline(always)]
fn remember<W: World>(world: &W, scratch: &mut Scratch, now: u32) {
    let (packet, to) = (&scratch.packet, &scratch.to);
    let (key, nat) = (&mut scratch.nat_key, &mut scratch.nat);
    (key.src, key.src_port) = (packet.src, packet.src_port);
    (key.dst, key.dst_port) = (packet.dst, packet.dst_port);
    key.kind = NatKey::MASQUERADE;
    (nat.src, nat.src_port) = (to.src, to.src_port);
    (nat.dst, nat.dst_port) = (packet.dst, packet.dst_port);
    nat.expires = now.saturating_add(lifetime(packet.proto));
    world.count(if world.set_nat(key, nat) { Metric::MasqueradeFlow } else { Metric::ConntrackFull });
}

/// If the packet answers something masqueraded, sets `scratch.to` to the pod's ends and returns its address.
#[inline(always)]
pub fn back<W: World>(world: &W, scratch: &mut Scratch) -> Option<Addr> {
    let (packet, key) = (&scratch.packet, &mut scratch.nat_key);
    (key.src, key.src_port) = (packet.src, packet.src_port);
    (key.dst, key.dst_port) = (packet.dst, packet.dst_port);
    (key.proto, key.kind, key._pad) = (packet.proto, NatKey::UNMASQUERADE, 0);
    let nat = world.nat(key)?;
    if nat.expires < world.now() {
        return None;
    }
    (scratch.to.dst, scratch.to.dst_port) = (nat.dst, nat.dst_port);
    Some(nat.dst)
}
