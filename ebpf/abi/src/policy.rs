//! NetworkPolicy as tables.
//!
//! The peer's address gives an identity (`IDENTITIES`, longest prefix; 0 when there is none). `RULES` is then
//! asked twice with (ruleset, identity, protocol, destination port): once for the identity, once for identity
//! 0, which stands for every peer. The packet is allowed when either answer is a rule with [`Rule::ALLOW`].

use crate::{Be16, Be32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Data of the keys in the LPM trie `RULES`; the prefix length says where wildcards begin.
///
/// | prefix length | matches |
/// |---|---|
/// | [`RuleKey::DEFAULT`] | every packet of the ruleset: its default-deny, a rule without `ALLOW` |
/// | [`RuleKey::ANY_PROTO`] | every protocol (ICMP too) of an identity |
/// | [`RuleKey::ANY_PORT`] | every port of a protocol |
/// | [`RuleKey::ANY_PORT`]` + n` | ports that agree in their first n bits; all 16 for one port |
///
/// A range of ports becomes at most 30 keys.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RuleKey {
    /// Which set of rules; never 0. Ingress and egress sets have different numbers.
    pub ruleset: Be32,
    /// Which peers; 0 for all.
    pub identity: Be32,
    /// IP protocol number.
    pub proto: Be16,
    /// Destination port; 0 for protocols without ports.
    pub port: Be16,
}

impl RuleKey {
    /// Prefix length of a ruleset's default.
    pub const DEFAULT: u32 = 32;
    /// Prefix length that leaves protocol and port open.
    pub const ANY_PROTO: u32 = 64;
    /// Prefix length that leaves the port open.
    pub const ANY_PORT: u32 = 80;
    /// Prefix length of a key with one port.
    pub const FULL: u32 = 96;
}

/// Value of `RULES`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Rule {
    /// Number that userspace can name a policy by; key of `RULE_HITS`.
    pub id: u32,
    /// `Rule::*` bits.
    pub flags: u32,
}

impl Rule {
    /// Flag: packets that match are allowed.
    pub const ALLOW: u32 = 1 << 0;
}
