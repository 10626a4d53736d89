//! Sockets are pointed to a backend when they connect or send, so that their packets need no translation.

use crate::parse::proto;
use crate::service::{self, Choice};
use crate::world::Maps;
use fairlead_abi::{Addr, AffinityValue, Be16, LoadKey, Metric, NetnsEntry, Service, SocketKey, SocketValue};

/// How many slots are tried when one has just gone.
const ATTEMPTS: u32 = 4;

/// A socket at a `cgroup_sock_addr` hook, and the address that the call names.
pub trait Sock {
    /// Number that is the socket's alone.
    fn cookie(&self) -> u64;
    /// Number of its network namespace.
    fn netns(&self) -> u64;
    /// IP protocol number.
    fn proto(&self) -> u8;
    /// The peer that the call names; IPv4 in mapped form.
    fn peer(&self) -> (Addr, Be16);
    /// Puts another in its place.
    fn set_peer(&self, addr: &Addr, port: Be16);
    /// Makes the call fail with `ECONNREFUSED`.
    fn refuse(&self);
}

/// `connect()`. False when the call must fail.
#[inline(always)]
pub fn connect<M: Maps, S: Sock>(maps: &M, sock: &S) -> bool {
    translate(maps, sock, false)
}

/// `sendto()` and `sendmsg()` with an address. False when the call must fail.
#[inline(always)]
pub fn sendmsg<M: Maps, S: Sock>(maps: &M, sock: &S) -> bool {
    translate(maps, sock, true)
}

/// `recvfrom()`, `recvmsg()` and `getpeername()`: a backend shows up as the service that was asked.
#[inline(always)]
pub fn restore<M: Maps, S: Sock>(maps: &M, sock: &S) {
    let (addr, port) = sock.peer();
    let key =
        SocketKey { cookie: sock.cookie(), addr, port, proto: sock.proto(), kind: SocketKey::REPLY, _pad: 0 };
    if let Some(service) = maps.socket(&key) {
        sock.set_peer(&service.addr, service.port);
    }
}

/// `close()` of a socket that is connected to `addr`.
#[inline(always)]
pub fn release<M: Maps>(maps: &M, cookie: u64, proto: u8, addr: &Addr, port: Be16) {
    let key = SocketKey { cookie, addr: *addr, port, proto, kind: SocketKey::REPLY, _pad: 0 };
    let Some(value) = maps.socket(&key) else { return };
    maps.remove_socket(&key);
    if value.slot != 0 {
        maps.count_load(&LoadKey { addr: *addr, port, proto, _pad: 0, service: value.slot }, false);
    }
}

#[inline(always)]
fn translate<M: Maps, S: Sock>(maps: &M, sock: &S, datagram: bool) -> bool {
    let proto = sock.proto();
    if proto != proto::TCP && proto != proto::UDP {
        return true;
    }
    let netns = sock.netns();
    let Some(NetnsEntry { role, .. }) = maps.netns(netns).copied() else { return true };
    let (addr, port) = sock.peer();
    let Some(found) = service::find(maps, &addr, port, proto, true) else { return true };
    if found.flags & Service::RANGES != 0 && role == NetnsEntry::POD {
        // Whether the client may ask is seen by the address of its packets, which are translated then.
        return true;
    }
    if found.backends == 0 {
        maps.count(Metric::SocketRefused);
        sock.refuse();
        return false;
    }
    let cookie = sock.cookie();
    let mut key = SocketKey { cookie, addr, port, proto, kind: SocketKey::CHOICE, _pad: 0 };
    if datagram
        && let Some(choice) = maps.socket(&key)
        && choice.slot < found.backends
        && service::holds(maps, found.id, choice.slot, &choice.addr, choice.port)
    {
        sock.set_peer(&choice.addr, choice.port);
        return true;
    }
    // Affinity is by client address; a network namespace stands for it here.
    let client = Addr([0, 0, (netns >> 32) as u32, netns as u32]);
    let mut choice = Choice { proto: u32::from(proto), ..Choice::default() };
    choice.key.client = client;
    choice.hash = if found.affinity_seconds != 0 { service::hash_client(&client) } else { maps.random() };
    let mut chosen = false;
    for attempt in 0..ATTEMPTS {
        chosen = service::choose(maps, found, &mut choice, attempt);
        if chosen {
            break;
        }
    }
    if !chosen {
        maps.count(Metric::SocketRefused);
        sock.refuse();
        return false;
    }
    let AffinityValue { backend, slot, .. } = choice.value;
    if datagram {
        maps.set_socket(&key, &SocketValue { addr: backend.addr, port: backend.port, _pad: 0, slot });
    }
    (key.addr, key.port, key.kind) = (backend.addr, backend.port, SocketKey::REPLY);
    let counted = found.algorithm == Service::LEAST && !datagram;
    let value = SocketValue { addr, port, _pad: 0, slot: if counted { found.id } else { 0 } };
    if maps.set_socket(&key, &value) && counted {
        maps.count_load(&LoadKey { addr: key.addr, port: key.port, proto, _pad: 0, service: found.id }, true);
    }
    maps.count(Metric::SocketTranslated);
    sock.set_peer(&backend.addr, backend.port);
    true
}
