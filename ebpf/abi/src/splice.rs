//! Connections between pods of one node whose bytes go from socket to socket.

use crate::{Addr, Be16};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Key of `SPLICES` and `STREAMS`: a pod's TCP socket by its ends, IPv4 in mapped form.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StreamKey {
    /// The pod's own address.
    pub local: Addr,
    /// The other end's address.
    pub remote: Addr,
    /// The pod's own port.
    pub local_port: Be16,
    /// The other end's port.
    pub remote_port: Be16,
}

impl StreamKey {
    /// The same connection as the other end has it.
    #[inline(always)]
    pub const fn mirrored(&self) -> Self {
        Self {
            local: self.remote,
            remote: self.local,
            local_port: self.remote_port,
            remote_port: self.local_port,
        }
    }
}

/// Value of `STREAMS`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Stream {
    /// Where the kernel has the socket. Only read from, by a helper that fails for what is not mapped.
    pub sock: u64,
    /// Millisecond of the monotonic clock (its lower bits) until which nobody waits for the reader of what it sends.
    pub rests_until: u32,
    /// Zero.
    pub _pad: u32,
}
