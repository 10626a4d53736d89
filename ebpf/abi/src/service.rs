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
    /// IP protocol number, 6 or 17.
    pub proto: u8,
    /// Zero.
    pub _pad: u8,
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
}

impl Service {
    /// Flag: without backends, drop instead of refusing (`externalTrafficPolicy: Local`, so that a load
    /// balancer in front tries another node).
    pub const LOCAL: u32 = 1 << 0;
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
    /// For `CHOICE` the backend's slot.
    pub slot: u32,
}
