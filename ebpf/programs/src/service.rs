//! Service address to backend, for sockets and for packets.

use crate::conntrack;
use crate::parse::{Packet, proto};
use crate::{Family, Scratch, World, world::Maps, world::is_own};
use fairlead_abi::*;

/// How many backends are tried before a packet is given up.
const ATTEMPTS: u32 = 4;
/// How many source ports are tried.
const PORT_ATTEMPTS: u32 = 16;

/// The service at an address, or at this node's port.
#[inline(always)]
pub fn find<'a, M: Maps>(maps: &'a M, addr: &Addr, port: Be16, proto: u8) -> Option<&'a Service> {
    if !matches!(proto, proto::TCP | proto::UDP | proto::SCTP) {
        return None;
    }
    let mut key = ServiceKey { addr: *addr, port, proto, _pad: 0 };
    if let Some(service) = maps.service(&key) {
        return Some(service);
    }
    if !is_own(maps, addr) {
        return None;
    }
    key.addr = Addr::UNSPECIFIED;
    maps.service(&key)
}

/// Chooses a backend for a new client: the one it had, if the service has affinity, else the next in turn.
/// The slot comes with it.
#[inline(always)]
pub fn choose<M: Maps>(maps: &M, service: &Service, client: &Addr, first: bool) -> Option<(Backend, u32)> {
    let id = service.id;
    let key = AffinityKey { client: *client, service: id };
    let now = maps.now();
    if service.affinity_seconds != 0
        && first
        && let Some(mut choice) = maps.affinity(&key)
        && choice.used.saturating_add(service.affinity_seconds) >= now
        && choice.slot < service.backends
        && holds(maps, id, choice.slot, &choice.backend.addr, choice.backend.port)
    {
        choice.used = now;
        maps.set_affinity(&key, &choice);
        return Some((choice.backend, choice.slot));
    }
    let slot = maps.cursor(Service::cursor(id)).checked_rem(service.backends)?;
    let backend = *maps.backend(&BackendKey { service: id, slot })?;
    if service.affinity_seconds != 0 {
        maps.set_affinity(&key, &AffinityValue { backend, slot, used: now });
    }
    Some((backend, slot))
}

/// Whether a slot still has this backend.
#[inline(always)]
pub fn holds<M: Maps>(maps: &M, service: u32, slot: u32, addr: &Addr, port: Be16) -> bool {
    match maps.backend(&BackendKey { service, slot }) {
        Some(backend) => backend.addr == *addr && backend.port == port,
        None => false,
    }
}

/// If the packet is for a service, sets `scratch.to` to the ends its backend sees and `scratch.fresh` to the
/// translation. With `outside` the packet came in by the uplink: a backend elsewhere then sees this node as
/// the client, so that its answer comes back here.
///
/// # Errors
/// `NoBackend`, `NoLocalBackend`, `NatExhausted`; `NoService` for an address that only services have.
#[inline(always)]
pub fn translate<W: World>(
    world: &W,
    scratch: &mut Scratch,
    net: Family<'_>,
    outside: bool,
) -> Result<bool, Reason> {
    let packet = &scratch.packet;
    let Some(service) = find(world, &packet.dst, packet.dst_port, packet.proto) else {
        let unused = net.services().contains(&packet.dst);
        return if unused { Err(Reason::NoService) } else { Ok(false) };
    };
    let key = &mut scratch.nat_key;
    (key.src, key.src_port) = (packet.src, packet.src_port);
    (key.dst, key.dst_port) = (packet.dst, packet.dst_port);
    (key.proto, key.kind, key._pad) = (packet.proto, NatKey::SERVICE, 0);
    let fresh = &mut scratch.fresh;
    (fresh.client, fresh.client_port) = (packet.src, packet.src_port);
    (fresh.virtual_addr, fresh.virtual_port) = (packet.dst, packet.dst_port);
    fresh.service = service.id;
    fresh.flags = CtEntry::DNAT;
    fresh.ifindex = if outside { world.ifindex() } else { 0 };
    if follow(world, scratch, service.id) {
        return Ok(true);
    }
    if service.backends == 0 {
        let local = service.flags & Service::LOCAL != 0;
        return Err(if local { Reason::NoLocalBackend } else { Reason::NoBackend });
    }
    let (mut missed, mut found) = (true, None);
    for attempt in 0..ATTEMPTS {
        let Some((backend, slot)) = choose(world, service, &scratch.packet.src, attempt == 0) else {
            continue;
        };
        if backend.addr.is_v4() == scratch.packet.is_v6() {
            // The families of a dual-stack Service do not mix.
            continue;
        }
        missed = false;
        let ends = assign(world, scratch, net, &backend, outside);
        if !matches!(ends, Ends::Taken) {
            found = Some((slot, matches!(ends, Ends::Elsewhere)));
            break;
        }
    }
    match found {
        Some((slot, elsewhere)) if !elsewhere || claim(world, scratch, net) => {
            remember(world, scratch, slot);
            world.count(Metric::ServiceFlow);
            Ok(true)
        }
        _ => Err(if missed { Reason::NoBackend } else { Reason::NatExhausted }),
    }
}

/// Goes where the flow went before. A new connection and a datagram do not go to a backend that has left.
#[inline(always)]
fn follow<W: World>(world: &W, scratch: &mut Scratch, service: u32) -> bool {
    let now = world.now();
    let Some(mut nat) = world.nat(&scratch.nat_key) else { return false };
    let packet = &scratch.packet;
    let again = packet.is_syn() || packet.is(Packet::INIT) || packet.proto == proto::UDP;
    if nat.expires < now || (again && !holds(world, service, nat.slot, &nat.dst, nat.dst_port)) {
        return false;
    }
    nat.expires = now.saturating_add(lifetime(packet.proto));
    let to = &mut scratch.to;
    (to.src, to.src_port, to.dst, to.dst_port) = (nat.src, nat.src_port, nat.dst, nat.dst_port);
    if to.src != packet.src {
        scratch.fresh.flags |= CtEntry::SNAT;
    }
    true
}

/// How long a translation is kept after its last packet: as long as its flow at most.
#[inline(always)]
pub fn lifetime(proto: u8) -> u32 {
    if proto == proto::TCP { CtEntry::TCP_ESTABLISHED_SECONDS } else { CtEntry::OTHER_ESTABLISHED_SECONDS }
}

#[inline(always)]
fn remember<W: World>(world: &W, scratch: &mut Scratch, slot: u32) {
    let (nat, to) = (&mut scratch.nat, &scratch.to);
    (nat.src, nat.src_port, nat.dst, nat.dst_port) = (to.src, to.src_port, to.dst, to.dst_port);
    nat.expires = world.now().saturating_add(lifetime(scratch.packet.proto));
    (nat.slot, nat._pad) = (slot, 0);
    if !world.set_nat(&scratch.nat_key, nat) {
        world.count(Metric::ConntrackFull);
    }
}

/// What stands in the way of a flow to a backend.
enum Ends {
    /// Nothing.
    Free,
    /// The backend is not on this node: the flow needs a source here.
    Elsewhere,
    /// Another flow has the same ends.
    Taken,
}

/// Sets the ends for a backend.
#[inline(always)]
fn assign<W: World>(
    world: &W,
    scratch: &mut Scratch,
    net: Family<'_>,
    backend: &Backend,
    outside: bool,
) -> Ends {
    let (to, packet) = (&mut scratch.to, &scratch.packet);
    (to.dst, to.dst_port) = (backend.addr, backend.port);
    (to.src, to.src_port) = (packet.src, packet.src_port);
    scratch.fresh.flags = CtEntry::DNAT;
    if outside && world.endpoint(&backend.addr).is_none() && !is_own(world, &backend.addr) {
        return Ends::Elsewhere;
    }
    if backend.addr == packet.src {
        to.src = net.pod_gateway();
        scratch.fresh.flags = CtEntry::DNAT | CtEntry::SNAT;
    }
    scratch.key.set(&to.src, to.src_port, &to.dst, to.dst_port, packet.proto);
    match world.flow(&scratch.key) {
        Some(flow) if flow.expires >= world.now() && flow.state != CtEntry::CLOSED => {
            if same(&flow, &scratch.fresh) { Ends::Free } else { Ends::Taken }
        }
        _ => Ends::Free,
    }
}

/// Whether the flow that is there is this one, whose `NAT` entry was lost.
#[inline(always)]
fn same(flow: &CtEntry, fresh: &CtEntry) -> bool {
    flow.flags & CtEntry::DNAT != 0
        && flow.client == fresh.client
        && flow.client_port == fresh.client_port
        && flow.virtual_addr == fresh.virtual_addr
        && flow.virtual_port == fresh.virtual_port
}

/// Takes an address of this node and a free port as the source. Writing the flow is the claim.
#[inline(always)]
fn claim<W: World>(world: &W, scratch: &mut Scratch, net: Family<'_>) -> bool {
    let now = world.now();
    let to = &mut scratch.to;
    to.src = if net.is_overlaid(&to.dst) { *net.gateway() } else { *net.node() };
    if to.src == Addr::UNSPECIFIED {
        return false;
    }
    let fresh = &mut scratch.fresh;
    (fresh.opener_revision, fresh.asked_revision, fresh.state) = (0, 0, CtEntry::NEW);
    conntrack::track(&scratch.packet, fresh, false, now);
    let unordered = CtEntry::DNAT | CtEntry::SNAT | (fresh.flags & CtEntry::FIN_OPENER);
    for _ in 0..PORT_ATTEMPTS {
        to.src_port = port(world, net.config);
        let high = scratch.key.set(&to.src, to.src_port, &to.dst, to.dst_port, scratch.packet.proto);
        fresh.flags = unordered | if high { CtEntry::HIGH_OPENED } else { 0 };
        if world.claim_flow(&scratch.key, fresh) {
            world.count(Metric::FlowOpened);
            return true;
        }
        if world.flow(&scratch.key).is_some_and(|flow| flow.expires < now)
            && world.set_flow(&scratch.key, fresh)
        {
            return true;
        }
    }
    false
}

/// A port of the range that is this node's for translation.
#[inline(always)]
pub fn port<W: World>(world: &W, config: &Config) -> Be16 {
    let count = u64::from(config.snat_port_max.saturating_sub(config.snat_port_min)) + 1;
    let offset = (u64::from(world.random()) * count) >> 32;
    Be16::new(config.snat_port_min.wrapping_add(offset as u16))
}

/// Whether a port is of that range.
#[inline(always)]
pub fn is_translated_port(config: &Config, port: Be16) -> bool {
    (config.snat_port_min..=config.snat_port_max).contains(&port.get())
}
