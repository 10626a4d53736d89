//! Services and the sockets that use them.

use crate::{Addr, Be16};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Key of `SERVICES`: a ClusterIP, external or load balancer address with its port; a NodePort has
/// [`Addr::UNSPECIFIED`] and holds for every address of this node (`NODES` with `Node::SELF`).
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ServiceKey {
    /// The service's address.
    pub addr: Addr,
    /// The service's port.
    pub port: Be16,
    /// IP protocol number: TCP, UDP or SCTP.
    pub proto: u8,
    /// Zero, or [`ServiceKey::INSIDE`].
    pub scope: u8,
}

impl ServiceKey {
    /// Scope of what pods and the node itself get instead of others, where [`Service::INSIDE`] says that there is such.
    pub const INSIDE: u8 = 1;
}

/// Value of `SERVICES`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Service {
    /// First half of the keys in `BACKENDS`. Two service keys may share it.
    pub id: u32,
    /// How many slots of `BACKENDS` take new connections. Zero answers "refused" at once.
    pub backends: u32,
    /// `Service::*` bits.
    pub flags: u32,
    /// How long a client keeps its backend, in seconds (`sessionAffinity: ClientIP`); 0 for not at all.
    pub affinity_seconds: u32,
    /// `Service::*` algorithm by which new connections are spread.
    pub algorithm: u32,
    /// Key in `TABLES`; 0 when there is no table.
    pub table: u32,
}

impl Service {
    /// Flag: without backends, drop instead of refusing (`externalTrafficPolicy: Local`, so that a load
    /// balancer in front tries another node).
    pub const LOCAL: u32 = 1 << 0;
    /// Flag: only clients that a prefix of `RANGES` holds may ask (`loadBalancerSourceRanges`); others are dropped
    /// (`SourceRange`).
    pub const RANGES: u32 = 1 << 1;
    /// Flag: a backend on another node answers the client itself (direct server return): the packet goes there by the
    /// overlay as it came, and that node translates it. Needs [`Service::MAGLEV`], so that both choose alike.
    pub const DSR: u32 = 1 << 2;
    /// Flag: pods and the node itself are served by another entry, that of [`ServiceKey::INSIDE`]: they are no concern of
    /// `externalTrafficPolicy`.
    pub const INSIDE: u32 = 1 << 3;

    /// Algorithm: backends in turn.
    pub const ROUND_ROBIN: u32 = 0;
    /// Algorithm: any backend with the same probability.
    pub const RANDOM: u32 = 1;
    /// Algorithm: by the flow's addresses and ports and the table, so that every node chooses alike (Maglev, NSDI 2016).
    pub const MAGLEV: u32 = 2;
    /// Algorithm: of two backends drawn at random the one with fewer open connections.
    pub const LEAST: u32 = 3;

    /// Number of entries of `CURSORS`, a power of two.
    pub const CURSORS: u32 = 16384;

    /// Index in `CURSORS`.
    #[inline(always)]
    pub const fn cursor(id: u32) -> u32 {
        id & (Self::CURSORS - 1)
    }
}

/// Key of `BACKENDS`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BackendKey {
    /// [`Service::id`].
    pub service: u32,
    /// 0 to `Service::backends - 1`.
    pub slot: u32,
}

/// Value of `TABLES`, keyed by [`Service::table`]: which slot each hash leads to. With weights a backend stands in it as
/// often as it weighs; algorithms other than Maglev then draw from the table, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Table {
    /// Slots of `BACKENDS`.
    pub slots: [u16; Table::SIZE],
    /// Zero.
    pub _pad: u16,
}

impl Table {
    /// Entries, a prime: with 100 backends each gets its share to within 5 %.
    pub const SIZE: usize = 2039;
}

/// Data of the keys in the LPM trie `RANGES`; prefix lengths count the service's 32 bits and, for IPv4, 96 more.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RangeKey {
    /// [`Service::id`].
    pub service: crate::Be32,
    /// The client's address.
    pub addr: Addr,
}

/// Key of `LOADS`: how many connections a backend has open through a service.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LoadKey {
    /// Where the backend listens.
    pub addr: Addr,
    /// The port it listens on.
    pub port: Be16,
    /// IP protocol number.
    pub proto: u8,
    /// Zero.
    pub _pad: u8,
    /// [`Service::id`].
    pub service: u32,
}

/// Value of `BACKENDS`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Backend {
    /// Where it listens.
    pub addr: Addr,
    /// The port it listens on.
    pub port: Be16,
    /// Zero.
    pub flags: u16,
}

/// Key of `AFFINITY`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AffinityKey {
    /// The client's address; for sockets the netns cookie in the last two words.
    pub client: Addr,
    /// [`Service::id`].
    pub service: u32,
}

/// Value of `AFFINITY`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AffinityValue {
    /// The backend chosen.
    pub backend: Backend,
    /// Its slot then; the choice holds while the slot still has this backend.
    pub slot: u32,
    /// When it was last used, in seconds of the monotonic clock.
    pub used: u32,
}

/// Key of `SOCKETS`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SocketKey {
    /// The socket's cookie.
    pub cookie: u64,
    /// The peer: for `REPLY` the backend, for `CHOICE` the service.
    pub addr: Addr,
    /// The peer's port.
    pub port: Be16,
    /// IP protocol number.
    pub proto: u8,
    /// `SocketKey::REPLY` or `SocketKey::CHOICE`.
    pub kind: u8,
    /// Zero.
    pub _pad: u32,
}

impl SocketKey {
    /// What the socket should see in place of a backend: the value is the service's address.
    pub const REPLY: u8 = 0;
    /// Where a socket's datagrams to a service go: the value is the backend.
    pub const CHOICE: u8 = 1;
}

/// Value of `SOCKETS`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SocketValue {
    /// Service or backend.
    pub addr: Addr,
    /// Its port.
    pub port: Be16,
    /// Zero.
    pub _pad: u16,
    /// For `CHOICE` the backend's slot; for `REPLY` the [`Service::id`] if the connection counts in `LOADS`, else 0.
    pub slot: u32,
}
