//! Service address to backend, for sockets and for packets.

use crate::conntrack;
use crate::parse::{Packet, proto};
use crate::steps::outcome;
use crate::{Family, Scratch, World, world::Maps, world::is_own};
use fairlead_abi::*;

/// How many backends are tried before a packet is given up.
const ATTEMPTS: u32 = 4;
/// How many are looked at for one that is on this node.
const LOCAL_ATTEMPTS: u32 = 32;
/// How many source ports are tried.
const PORT_ATTEMPTS: u32 = 16;

/// The service at an address, or at this node's port, for a client that is `inside` (a pod or the node) or not.
#[inline(always)]
pub fn find<'a, M: Maps>(
    maps: &'a M,
    addr: &Addr,
    port: Be16,
    proto: u8,
    inside: bool,
) -> Option<&'a Service> {
    if !matches!(proto, proto::TCP | proto::UDP | proto::SCTP) {
        return None;
    }
    let mut key = ServiceKey { addr: *addr, port, proto, scope: 0 };
    let mut found = maps.service(&key);
    if found.is_none() {
        let own = Node::SELF | Node::NODE_PORTS;
        if maps.node(addr).is_none_or(|node| node.flags & own != own) {
            return None;
        }
        key.addr = Addr::UNSPECIFIED;
        found = maps.service(&key);
    }
    if !inside || found.is_none_or(|service| service.flags & Service::INSIDE == 0) {
        return found;
    }
    key.scope = ServiceKey::INSIDE;
    maps.service(&key).or(found)
}

/// The service that another node sends to this one without translation.
#[inline(always)]
pub fn find_direct<'a, W: World>(world: &'a W, addr: &Addr, port: Be16, proto: u8) -> Option<&'a Service> {
    let mut key = ServiceKey { addr: *addr, port, proto, scope: 0 };
    let mut found = world.service(&key);
    if found.is_none() && world.node(addr).is_some() {
        key.addr = Addr::UNSPECIFIED;
        found = world.service(&key);
    }
    found.filter(|service| service.flags & Service::DSR != 0)
}

/// The same number for a client on every node.
#[inline(always)]
pub fn hash_client(client: &Addr) -> u32 {
    client.0.into_iter().fold(0, mix)
}

/// The same number for a flow on every node.
#[inline(always)]
fn hash(packet: &Packet) -> u32 {
    let ports = u32::from(packet.src_port.get()) << 16 | u32::from(packet.dst_port.get());
    let hash = packet.dst.0.into_iter().fold(hash_client(&packet.src), mix);
    mix(mix(hash, ports.to_be()), u32::from(packet.proto).to_be())
}

/// One round of MurmurHash3's finalizer per word.
#[inline(always)]
fn mix(hash: u32, word: u32) -> u32 {
    let hash = (hash ^ u32::from_be(word)).wrapping_mul(0x85eb_ca6b);
    (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35) ^ hash >> 16
}

/// Who asks a service, and what was chosen.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Choice {
    /// Number by which Maglev chooses.
    pub hash: u32,
    /// IP protocol number.
    pub proto: u32,
    /// The client, and the service's id.
    pub key: AffinityKey,
    /// The backend chosen and its slot.
    pub value: AffinityValue,
    /// Another one that it was compared with.
    pub rival: AffinityValue,
    /// Under which its connections are counted.
    pub load: LoadKey,
}

/// Chooses a backend for a new client: the one it had, if the service has affinity, else by the service's algorithm. False
/// when there is none in the slot that was drawn.
#[inline(never)]
pub fn choose<M: Maps>(maps: &M, service: &Service, choice: &mut Choice, attempt: u32) -> bool {
    choice.key.service = service.id;
    let now = maps.now();
    // Maglev needs no memory: the client's hash leads to the same backend.
    let keeps = service.affinity_seconds != 0 && service.algorithm != Service::MAGLEV;
    if keeps
        && attempt == 0
        && let Some(before) = maps.affinity(&choice.key)
    {
        choice.value = before;
        let Choice { key, value, .. } = choice;
        if value.used.saturating_add(service.affinity_seconds) >= now
            && value.slot < service.backends
            && holds(maps, service.id, value.slot, &value.backend.addr, value.backend.port)
        {
            value.used = now;
            maps.set_affinity(key, value);
            return true;
        }
    }
    let Choice { hash, value, .. } = choice;
    if !draw(maps, service, hash.wrapping_add(attempt), value) {
        return false;
    }
    if service.algorithm == Service::LEAST {
        if !draw(maps, service, 0, &mut choice.rival) {
            return false;
        }
        choice.load.proto = choice.proto as u8;
        choice.load.service = service.id;
        let load = &mut choice.load;
        (load.addr, load.port) = (choice.rival.backend.addr, choice.rival.backend.port);
        let rivals = maps.load_of(load);
        (load.addr, load.port) = (choice.value.backend.addr, choice.value.backend.port);
        if rivals < maps.load_of(load) {
            choice.value = choice.rival;
        }
    }
    if keeps {
        choice.value.used = now;
        maps.set_affinity(&choice.key, &choice.value);
    }
    true
}

/// A backend by the service's algorithm. With a table, backends are drawn as often as they stand in it.
#[inline(never)]
fn draw<M: Maps>(maps: &M, service: &Service, hash: u32, value: &mut AffinityValue) -> bool {
    let number = match service.algorithm {
        Service::MAGLEV => hash,
        Service::RANDOM | Service::LEAST => maps.random(),
        _ => maps.cursor(Service::cursor(service.id)),
    };
    let slot = match service.table {
        0 => number,
        // While the table is being replaced it may name slots that are gone.
        table => maps.slot(table, number % Table::SIZE as u32).unwrap_or(number),
    };
    fill(maps, service, slot, value)
}

/// The backend in the slot of that number.
#[inline(always)]
fn fill<M: Maps>(maps: &M, service: &Service, number: u32, value: &mut AffinityValue) -> bool {
    let Some(slot) = number.checked_rem(service.backends) else { return false };
    let Some(backend) = maps.backend(&BackendKey { service: service.id, slot }) else { return false };
    (value.backend, value.slot) = (*backend, slot);
    true
}

/// The backend that was drawn or, if that is no pod of this node, one after it that is.
#[inline(never)]
fn prefer_local<W: World>(world: &W, service: &Service, choice: &mut Choice, attempt: u32) -> bool {
    let Choice { hash, value, .. } = choice;
    let found = match attempt {
        0 => draw(world, service, *hash, value),
        _ => fill(world, service, value.slot.wrapping_add(1), value),
    };
    found && world.endpoint(&value.backend.addr).is_some()
}

/// Whether a slot still has this backend.
#[inline(always)]
pub fn holds<M: Maps>(maps: &M, service: u32, slot: u32, addr: &Addr, port: Be16) -> bool {
    match maps.backend(&BackendKey { service, slot }) {
        Some(backend) => backend.addr == *addr && backend.port == port,
        None => false,
    }
}

/// Where a packet for a service comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Origin {
    /// A pod of this node.
    Pod = 0,
    /// The uplink. A backend elsewhere sees this node as the client, so that its answer comes back here, or answers the
    /// client itself.
    Uplink,
    /// Another node, which leaves the translation to this one. Only backends of this node come into question.
    Node,
}

/// Sets `scratch.nat_key` and the ends in `scratch.fresh` to those of a client that asks a service.
///
/// # Errors
/// `SourceRange` for one that may not.
#[inline(always)]
pub fn ask<W: World>(world: &W, scratch: &mut Scratch, service: &Service) -> Result<(), Reason> {
    let packet = &scratch.packet;
    if service.flags & Service::RANGES != 0
        && !world.is_in_range(&RangeKey { service: Be32::new(service.id), addr: packet.src })
    {
        return Err(Reason::SourceRange);
    }
    let key = &mut scratch.nat_key;
    (key.src, key.src_port) = (packet.src, packet.src_port);
    (key.dst, key.dst_port) = (packet.dst, packet.dst_port);
    (key.proto, key.kind, key._pad) = (packet.proto, NatKey::SERVICE, 0);
    let fresh = &mut scratch.fresh;
    (fresh.client, fresh.client_port) = (packet.src, packet.src_port);
    (fresh.virtual_addr, fresh.virtual_port) = (packet.dst, packet.dst_port);
    Ok(())
}

/// If the packet is for a service, sets `scratch.to` to the ends its backend sees and `scratch.fresh` to the
/// translation.
///
/// # Errors
/// As for [`translate_for`]; `NoService` for an address that only services have.
#[inline(always)]
pub fn translate<W: World>(
    world: &W,
    scratch: &mut Scratch,
    net: Family<'_>,
    origin: Origin,
) -> Result<bool, Reason> {
    let packet = &scratch.packet;
    let inside = origin == Origin::Pod;
    let Some(service) = find(world, &packet.dst, packet.dst_port, packet.proto, inside) else {
        let unused = net.services().contains(&packet.dst);
        return if unused { Err(Reason::NoService) } else { Ok(false) };
    };
    translate_for(world, scratch, net.config, service, origin)?;
    Ok(true)
}

/// Sets `scratch.to` to the ends that a backend of the service sees and `scratch.fresh` to the translation, or
/// `scratch.direct` when that is another node's to do.
///
/// # Errors
/// `SourceRange`, `NoBackend`, `NoLocalBackend`, `NatExhausted`.
#[inline(always)]
pub fn translate_for<W: World>(
    world: &W,
    scratch: &mut Scratch,
    config: &Config,
    service: &Service,
    origin: Origin,
) -> Result<(), Reason> {
    outcome(world.translate(scratch, config, service, origin))
}

/// The body of [`translate_for`].
#[inline(always)]
pub fn choose_ends<W: World>(
    world: &W,
    scratch: &mut Scratch,
    config: &Config,
    service: &Service,
    origin: Origin,
) -> Result<(), Reason> {
    let net = Family::of(config, &scratch.packet);
    ask(world, scratch, service)?;
    let fresh = &mut scratch.fresh;
    fresh.service = service.id;
    let counted = if service.algorithm == Service::LEAST { CtEntry::COUNTED } else { 0 };
    fresh.flags = CtEntry::DNAT | counted;
    fresh.ifindex = if origin == Origin::Uplink { world.ifindex() } else { 0 };
    scratch.direct = false;
    let direct = origin == Origin::Uplink
        && service.flags & Service::DSR != 0
        && net.config.flags & Config::OVERLAY != 0;
    if follow(world, scratch, service.id)
        && (origin != Origin::Node || world.endpoint(&scratch.to.dst).is_some())
    {
        scratch.direct =
            direct && scratch.to.src == scratch.packet.src && is_elsewhere(world, &scratch.to.dst);
        return Ok(());
    }
    if service.backends == 0 {
        let silent = service.flags & Service::LOCAL != 0 || origin == Origin::Node;
        return Err(if silent { Reason::NoLocalBackend } else { Reason::NoBackend });
    }
    let choice = &mut scratch.choice;
    choice.key.client = scratch.packet.src;
    choice.proto = u32::from(scratch.packet.proto);
    let affine = service.affinity_seconds != 0;
    choice.hash = if affine { hash_client(&scratch.packet.src) } else { hash(&scratch.packet) };
    let attempts = if origin == Origin::Node { LOCAL_ATTEMPTS } else { ATTEMPTS };
    let (mut missed, mut taken) = (true, true);
    for attempt in 0..attempts {
        let chosen = match origin {
            Origin::Node => prefer_local(world, service, &mut scratch.choice, attempt),
            _ => choose(world, service, &mut scratch.choice, attempt),
        };
        // The families of a dual-stack Service do not mix.
        if !chosen || scratch.choice.value.backend.addr.is_v4() == scratch.packet.is_v6() {
            continue;
        }
        missed = false;
        taken = !assign(world, scratch, net.config, origin);
        if !taken {
            break;
        }
    }
    if taken {
        return Err(match (missed, origin) {
            (false, _) => Reason::NatExhausted,
            (_, Origin::Node) => Reason::NoLocalBackend,
            _ => Reason::NoBackend,
        });
    }
    if origin == Origin::Uplink && is_elsewhere(world, &scratch.to.dst) {
        scratch.direct = direct;
        if !direct && !claim(world, scratch, net.config) {
            return Err(Reason::NatExhausted);
        }
    }
    remember(world, scratch);
    world.count(Metric::ServiceFlow);
    Ok(())
}

#[inline(always)]
fn is_elsewhere<W: World>(world: &W, backend: &Addr) -> bool {
    world.endpoint(backend).is_none() && !is_own(world, backend)
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
    if again && nat.src != packet.src && !is_ours(world, scratch, &nat) {
        return false;
    }
    let packet = &scratch.packet;
    nat.expires = now.saturating_add(lifetime(packet.proto));
    let to = &mut scratch.to;
    (to.src, to.src_port, to.dst, to.dst_port) = (nat.src, nat.src_port, nat.dst, nat.dst_port);
    if to.src != packet.src {
        scratch.fresh.flags |= CtEntry::SNAT;
    }
    true
}

/// Whether the port that a client was given is its own yet, or has gone to another one since.
#[inline(never)]
fn is_ours<W: World>(world: &W, scratch: &mut Scratch, nat: &NatValue) -> bool {
    scratch.key.set(&nat.src, nat.src_port, &nat.dst, nat.dst_port, scratch.packet.proto);
    let Some(flow) = world.flow(&scratch.key) else { return false };
    flow.expires >= world.now() && same(&flow, &scratch.fresh)
}

/// How long a translation is kept after its last packet: as long as its flow at most.
#[inline(always)]
pub fn lifetime(proto: u8) -> u32 {
    if proto == proto::TCP { CtEntry::TCP_ESTABLISHED_SECONDS } else { CtEntry::OTHER_ESTABLISHED_SECONDS }
}

#[inline(always)]
fn remember<W: World>(world: &W, scratch: &mut Scratch) {
    let (nat, to) = (&mut scratch.nat, &scratch.to);
    (nat.src, nat.src_port, nat.dst, nat.dst_port) = (to.src, to.src_port, to.dst, to.dst_port);
    nat.expires = world.now().saturating_add(lifetime(scratch.packet.proto));
    (nat.slot, nat._pad) = (scratch.choice.value.slot, 0);
    if !world.set_nat(&scratch.nat_key, nat) {
        world.count(Metric::ConntrackFull);
    }
}

/// Sets the ends for the backend that was chosen; false when another flow has the same. The claim of a source for one
/// elsewhere comes later.
#[inline(never)]
fn assign<W: World>(world: &W, scratch: &mut Scratch, config: &Config, origin: Origin) -> bool {
    let net = Family::of(config, &scratch.packet);
    let Scratch { to, packet, fresh, choice, .. } = scratch;
    let backend = &choice.value.backend;
    (to.dst, to.dst_port) = (backend.addr, backend.port);
    (to.src, to.src_port) = (packet.src, packet.src_port);
    let counted = fresh.flags & CtEntry::COUNTED;
    fresh.flags = CtEntry::DNAT | counted;
    if origin == Origin::Uplink && is_elsewhere(world, &to.dst) {
        return true;
    }
    if to.dst == packet.src {
        to.src = net.pod_gateway();
        fresh.flags |= CtEntry::SNAT;
    }
    scratch.key.set(&to.src, to.src_port, &to.dst, to.dst_port, packet.proto);
    match world.flow(&scratch.key) {
        Some(flow) if flow.expires >= world.now() && flow.state != CtEntry::CLOSED => same(&flow, fresh),
        _ => true,
    }
}

/// Whether a flow is of the client and the Service's address that an entry names.
#[inline(always)]
pub fn same(flow: &CtEntry, fresh: &CtEntry) -> bool {
    flow.flags & CtEntry::DNAT != 0
        && flow.client == fresh.client
        && flow.client_port == fresh.client_port
        && flow.virtual_addr == fresh.virtual_addr
        && flow.virtual_port == fresh.virtual_port
}

/// Takes an address of this node and a free port as the source. Writing the flow is the claim.
#[inline(never)]
fn claim<W: World>(world: &W, scratch: &mut Scratch, config: &Config) -> bool {
    let net = Family::of(config, &scratch.packet);
    let now = world.now();
    let to = &mut scratch.to;
    to.src = if net.is_overlaid(&to.dst) { *net.gateway() } else { *net.node() };
    if to.src == Addr::UNSPECIFIED {
        return false;
    }
    let fresh = &mut scratch.fresh;
    (fresh.opener_revision, fresh.asked_revision, fresh.state) = (0, 0, CtEntry::NEW);
    conntrack::track(&scratch.packet, fresh, false, now);
    let counted = fresh.flags & CtEntry::COUNTED;
    let unordered = CtEntry::DNAT | CtEntry::SNAT | counted | (fresh.flags & CtEntry::FIN_OPENER);
    for attempt in 0..PORT_ATTEMPTS {
        to.src_port = port(world, net.config, &fresh.client, fresh.client_port, attempt);
        let high = scratch.key.set(&to.src, to.src_port, &to.dst, to.dst_port, scratch.packet.proto);
        fresh.flags = unordered | if high { CtEntry::HIGH_OPENED } else { 0 };
        // Connections that are over hold their ports a little longer; with many a second, no other is left.
        let ended = attempt >= PORT_ATTEMPTS / 2 && scratch.packet.is_syn();
        let free = |flow: &CtEntry| flow.expires < now || (ended && is_over(flow)) || same(flow, fresh);
        if world.claim_flow(&scratch.key, fresh)
            || (world.flow(&scratch.key).is_some_and(|flow| free(&flow))
                && world.set_flow(&scratch.key, fresh))
        {
            if counted != 0 {
                conntrack::count(world, &to.dst, to.dst_port, scratch.packet.proto, fresh.service << 1 | 1);
            }
            world.count(Metric::FlowOpened);
            return true;
        }
    }
    false
}

/// Whether a TCP connection has ended, so that another may begin on its ends.
#[inline(always)]
pub fn is_over(flow: &CtEntry) -> bool {
    flow.state == CtEntry::CLOSED
}

/// A port of the range that is this node's for translation. The first that is tried follows from the client's: whoever
/// connects again from a port is seen again with the same one, so that a server that remembers the connection before it
/// (TIME-WAIT) finds sequence number and timestamp gone on (RFC 6191) and answers at once. Linux connects from every
/// second port of 28,232; a range of half as many has one for each.
#[inline(always)]
pub fn port<W: World>(world: &W, config: &Config, client: &Addr, own: Be16, attempt: u32) -> Be16 {
    let count = u32::from(config.snat_port_max.saturating_sub(config.snat_port_min)) + 1;
    let number = match attempt {
        0 => (hash_client(client) >> 16) + u32::from(own.get() >> 1),
        _ => world.random(),
    };
    Be16::new(config.snat_port_min.wrapping_add(number.checked_rem(count).unwrap_or_default() as u16))
}

/// Whether a port is of that range.
#[inline(always)]
pub fn is_translated_port(config: &Config, port: Be16) -> bool {
    (config.snat_port_min..=config.snat_port_max).contains(&port.get())
}
