//! Everything outside of the programs: maps, clock and the packet.

use crate::Steps;
use core::ops::DerefMut;
use fairlead_abi::*;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Maps and clock. Look-ups return what stands there now; the caller checks expiry.
pub trait Maps {
    /// A flow that can be changed in place.
    type Flow<'a>: DerefMut<Target = CtEntry>
    where
        Self: 'a;
    /// A translation that can be changed in place.
    type Nat<'a>: DerefMut<Target = NatValue>
    where
        Self: 'a;

    /// A token bucket that can be changed in place.
    type Bucket<'a>: DerefMut<Target = Rate>
    where
        Self: 'a;

    /// Nanoseconds of the monotonic clock.
    fn nanoseconds(&self) -> u64;
    /// Seconds of the monotonic clock.
    fn now(&self) -> u32;
    /// A random number.
    fn random(&self) -> u32;

    /// `CONFIG`.
    fn config(&self) -> Option<&Config>;
    /// `NETNS`.
    fn netns(&self, cookie: u64) -> Option<&NetnsEntry>;
    /// `ENDPOINTS`.
    fn endpoint(&self, addr: &Addr) -> Option<&Endpoint>;
    /// `ROUTES`.
    fn route(&self, addr: &Addr) -> Option<&Route>;
    /// `NODES`.
    fn node(&self, addr: &Addr) -> Option<&Node>;
    /// `SERVICES`.
    fn service(&self, key: &ServiceKey) -> Option<&Service>;
    /// `BACKENDS`.
    fn backend(&self, key: &BackendKey) -> Option<&Backend>;
    /// A slot of `TABLES`.
    fn slot(&self, table: u32, index: u32) -> Option<u32>;
    /// Whether `RANGES` holds the client, asked with all 160 bits.
    fn is_in_range(&self, key: &RangeKey) -> bool;
    /// `LOADS`; 0 when nothing is open.
    fn load_of(&self, key: &LoadKey) -> u32;
    /// Counts one up or down in `LOADS`.
    fn count_load(&self, key: &LoadKey, up: bool);
    /// Whether `DIRECT` holds the destination.
    fn is_direct(&self, addr: &Addr) -> bool;
    /// Whether `ANNOUNCED` has the address.
    fn is_announced(&self, addr: &Addr) -> bool;
    /// `RATES`.
    fn rate(&self, key: &RateKey) -> Option<Self::Bucket<'_>>;
    /// Counts one up in `CURSORS` and returns the number before.
    fn cursor(&self, index: u32) -> u32;
    /// `AFFINITY`.
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue>;
    /// Writes `AFFINITY`.
    fn set_affinity(&self, key: &AffinityKey, value: &AffinityValue);
    /// `SOCKETS`.
    fn socket(&self, key: &SocketKey) -> Option<SocketValue>;
    /// Writes `SOCKETS`; false when there is no room.
    fn set_socket(&self, key: &SocketKey, value: &SocketValue) -> bool;
    /// Removes from `SOCKETS`.
    fn remove_socket(&self, key: &SocketKey);
    /// `IDENTITIES`; 0 when no prefix holds the address.
    fn identity(&self, addr: &Addr) -> u32;
    /// `RULES`, asked with all 96 bits.
    fn rule(&self, key: RuleKey) -> Option<Rule>;

    /// `CONNTRACK`.
    fn flow(&self, key: &CtKey) -> Option<Self::Flow<'_>>;
    /// Writes `CONNTRACK`, replacing what is there; false when there is no room.
    fn set_flow(&self, key: &CtKey, value: &CtEntry) -> bool;
    /// Writes `CONNTRACK` unless the key is there.
    fn claim_flow(&self, key: &CtKey, value: &CtEntry) -> bool;
    /// `NAT`.
    fn nat(&self, key: &NatKey) -> Option<Self::Nat<'_>>;
    /// Writes `NAT`, replacing what is there; false when there is no room.
    fn set_nat(&self, key: &NatKey, value: &NatValue) -> bool;
    /// Writes `NAT` unless the key is there.
    fn claim_nat(&self, key: &NatKey, value: &NatValue) -> bool;
    /// `FRAGMENTS`.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue>;
    /// Writes `FRAGMENTS`.
    fn set_fragment(&self, key: &FragmentKey, value: &FragmentValue);

    /// Adds to `DROPS`.
    fn count_drop(&self, reason: Reason, bytes: u32);
    /// Adds to `RULE_HITS` if the rule has a counter there.
    fn count_rule(&self, rule: u32, allowed: bool, bytes: u32);
    /// Adds one to `METRICS`.
    fn count(&self, metric: Metric);
    /// Puts a record on `FLOWS`.
    fn report(&self, event: &FlowEvent);
}

/// The packet a tc program runs for. Offsets count from the Ethernet header.
pub trait Skb {
    /// Length, which for a GSO packet is that of all its segments.
    fn length(&self) -> u32;
    /// Whether the packet stands for several segments.
    fn is_gso(&self) -> bool;
    /// How many segments it stands for; 0 or 1 when it is one packet.
    fn segments(&self) -> u32;
    /// Whether the link layer brought the packet to this machine alone, not to all or to another.
    fn is_for_us(&self) -> bool;
    /// `ETH_P_*`, machine order.
    fn ether_type(&self) -> u16;
    /// The interface the program is attached to.
    fn ifindex(&self) -> u32;
    /// The interface the packet came into the node by; 0 when the node itself made it.
    fn ingress_ifindex(&self) -> u32;
    /// Copies bytes out of the packet; false when it ends before.
    fn load<T: FromBytes + IntoBytes>(&self, offset: u32, into: &mut T) -> bool;
    /// Copies bytes into the packet.
    fn store<T: IntoBytes + Immutable>(&self, offset: u32, from: &T) -> bool;
    /// Copies bytes into the packet and into the sum that the network card made of it (CHECKSUM_COMPLETE): for bytes
    /// that no other change of the packet makes up for.
    fn store_summed<T: IntoBytes + Immutable>(&self, offset: u32, from: &T) -> bool;
    /// Mends the IPv4 header checksum at `offset` for a changed word.
    fn fix_l3(&self, offset: u32, from: u32, to: u32) -> bool;
    /// Mends a transport checksum at `offset` for a changed word (`size` 4) or half word (`size` 2).
    /// `pseudo`: the word is part of the pseudo header, too. `udp`: zero means no checksum.
    fn fix_l4(&self, offset: u32, from: u32, to: u32, size: u64, pseudo: bool, udp: bool) -> bool;
    /// Mends a transport checksum at `offset` for a changed IPv6 address, which is part of the pseudo header or, in what
    /// an ICMPv6 error quotes, of the data.
    fn fix_l4_addr(&self, offset: u32, from: &Addr, to: &Addr, pseudo: bool, udp: bool) -> bool;
    /// Cuts or grows the packet to this length.
    fn resize(&self, len: u32) -> bool;
    /// Marks the packet as meant for this node, whatever its link-layer destination.
    fn accept(&self) -> bool;
    /// VXLAN network number and outer source of a packet that came out of the overlay.
    fn tunnel(&self) -> Option<(u32, Addr)>;
    /// Sets network number and outer destination for the overlay device.
    fn set_tunnel(&self, vni: u32, node: &Addr) -> bool;
    /// Sends the packet out of an interface.
    fn redirect(&self, ifindex: u32) -> i32;
    /// Hands the packet to the other side of a veth.
    fn redirect_peer(&self, ifindex: u32) -> i32;
    /// Sends the packet out of an interface to the next hop that routing finds.
    fn redirect_neigh(&self, ifindex: u32) -> i32;
}

/// All of it.
pub trait World: Steps {}

impl<T: Steps> World for T {}

/// The node's configuration, if it is written in this version's layout.
#[inline(always)]
pub fn config<W: Maps>(world: &W) -> Result<&Config, Reason> {
    match world.config() {
        Some(config) if config.abi_version == ABI_VERSION => Ok(config),
        _ => Err(Reason::NotConfigured),
    }
}

/// Whether the address is one of this node's.
#[inline(always)]
pub fn is_own<W: Maps>(world: &W, addr: &Addr) -> bool {
    world.node(addr).is_some_and(|node| node.flags & Node::SELF != 0)
}
