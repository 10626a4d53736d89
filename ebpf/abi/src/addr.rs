//! Addresses and ports as they stand on the wire.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Sixteen bits in network order.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Be16(
    /// The bytes of the wire read as a native integer.
    pub u16,
);

impl Be16 {
    /// From a number in the machine's order.
    #[inline(always)]
    pub const fn new(value: u16) -> Self {
        Self(value.to_be())
    }

    /// The number in the machine's order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

impl core::fmt::Debug for Be16 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.get().fmt(f)
    }
}

/// Thirty-two bits in network order.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Be32(
    /// The bytes of the wire read as a native integer.
    pub u32,
);

impl Be32 {
    /// From a number in the machine's order.
    #[inline(always)]
    pub const fn new(value: u32) -> Self {
        Self(value.to_be())
    }

    /// The number in the machine's order.
    #[inline(always)]
    pub const fn get(self) -> u32 {
        u32::from_be(self.0)
    }
}

impl core::fmt::Debug for Be32 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.get().fmt(f)
    }
}

/// An IPv6 address, or an IPv4 address in its mapped form (`::ffff:a.b.c.d`). Four words of wire bytes,
/// so that programs compare and copy words instead of bytes.
#[derive(Clone, Copy, Default, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Addr(
    /// The sixteen bytes of the wire, as four native integers.
    pub [u32; 4],
);

impl Addr {
    /// `::`, which keys what holds for every address of the node (NodePorts).
    pub const UNSPECIFIED: Self = Self([0; 4]);
    const MAPPED: u32 = 0xffff_u32.to_be();

    /// An IPv4 address given as the four bytes of the wire.
    #[inline(always)]
    pub const fn v4(bytes: [u8; 4]) -> Self {
        Self::from_v4_word(u32::from_ne_bytes(bytes))
    }

    /// An IPv4 address given as the native integer read from the wire.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self([0, 0, Self::MAPPED, word])
    }

    /// The native integer whose bytes are the IPv4 address on the wire. Meaningless for IPv6.
    #[inline(always)]
    pub const fn v4_word(self) -> u32 {
        self.0[3]
    }

    /// An IPv6 address given as the sixteen bytes of the wire.
    pub const fn v6(b: [u8; 16]) -> Self {
        Self([
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
            u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
            u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
        ])
    }

    /// Whether this is an IPv4 address in mapped form.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == Self::MAPPED
    }

    /// The sixteen bytes of the wire.
    pub fn octets(self) -> [u8; 16] {
        let mut out = [0; 16];
        for (chunk, word) in out.chunks_exact_mut(4).zip(self.0) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        out
    }

    /// The address as the standard library has it; mapped addresses become IPv4.
    pub fn to_ip(self) -> IpAddr {
        let v6 = Ipv6Addr::from(self.octets());
        v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
    }
}

impl PartialEq for Addr {
    /// By words: comparing the array would be a call of `memcmp` in a program.
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (&self.0, &other.0);
        (a[3] ^ b[3]) | (a[2] ^ b[2]) | (a[1] ^ b[1]) | (a[0] ^ b[0]) == 0
    }
}

impl core::hash::Hash for Addr {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(ip: Ipv4Addr) -> Self {
        Self::v4(ip.octets())
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(ip: Ipv6Addr) -> Self {
        Self::v6(ip.octets())
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl core::fmt::Debug for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.to_ip(), f)
    }
}

impl core::fmt::Display for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.to_ip(), f)
    }
}

/// A CIDR as an address and a mask. All zero contains nothing (an unset prefix), because a mapped IPv4
/// address never equals `::` under a mask that is not empty.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Prefix {
    /// The first address.
    pub addr: Addr,
    /// One bits where addresses must agree; 96 bits more for IPv4.
    pub mask: Addr,
}

impl Prefix {
    /// A prefix of `len` bits in the address's own family (0 to 32 for IPv4, 0 to 128 for IPv6); longer
    /// lengths count as the longest. Host bits are cleared.
    pub fn new(ip: IpAddr, len: u8) -> Self {
        let bits = u32::from(len) + if ip.is_ipv4() { 96 } else { 0 };
        let bits = bits.min(128);
        let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits) };
        let mask = Addr::v6(mask.to_be_bytes());
        let mut addr = Addr::from(ip);
        for (word, keep) in addr.0.iter_mut().zip(mask.0) {
            *word &= keep;
        }
        Self { addr, mask }
    }

    /// Whether the prefix is set and holds `addr`.
    #[inline(always)]
    pub const fn contains(&self, addr: &Addr) -> bool {
        let (m, a) = (&self.mask.0, &self.addr.0);
        (addr.0[3] & m[3]) == a[3]
            && (addr.0[2] & m[2]) == a[2]
            && (addr.0[1] & m[1]) == a[1]
            && (addr.0[0] & m[0]) == a[0]
            && (m[0] | m[1] | m[2] | m[3]) != 0
    }
}
