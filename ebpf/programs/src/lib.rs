//! What the programs decide, as functions that compile for the kernel and for the host.
//!
//! A packet flows through `parse` (what is it), `service` (where does it go), `conntrack` and `policy` (may
//! it), `rewrite` (what must change) and leaves by `deliver`; `pod`, `overlay` and `uplink` put these together
//! for each hook, `socket` does the same for sockets. Maps, clock and packet are reached through the traits
//! of `world` only.
//!
//! Nothing here panics, indexes by a variable or loops without a bound. What is too big for the kernel's
//! 512 bytes of stack lives in [`Scratch`].
#![cfg_attr(not(test), no_std)]

pub mod announce;
pub mod conntrack;
pub mod deliver;
pub mod early;
pub mod family;
pub mod icmp;
pub mod masquerade;
pub mod overlay;
pub mod parse;
pub mod pod;
pub mod policy;
pub mod rate;
pub mod reject;
pub mod rewrite;
pub mod sctp;
pub mod service;
pub mod socket;
pub mod splice;
pub mod steps;
pub mod uplink;
pub mod world;

use fairlead_abi::{Addr, Be16, CtEntry, CtKey, FragmentKey, NatKey, NatValue, Reason};

pub use family::Family;
pub use parse::Packet;
pub use steps::Steps;
pub use world::{Maps, Skb, World};

/// What a hook answers to the kernel, or why the packet is dropped.
pub type Outcome = Result<i32, Reason>;

/// `TCX_NEXT`: the packet goes on, to the next program and then to the node's stack or the wire.
pub const NEXT: i32 = -1;
/// `TCX_DROP`.
pub const DROP: i32 = 2;

/// The two ends of a packet.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Ends {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port, or the identifier of an ICMP echo request.
    pub src_port: Be16,
    /// Destination port, or the identifier of an ICMP echo reply.
    pub dst_port: Be16,
}

/// Working memory of one packet, one per CPU: tc programs run with bottom halves disabled and never nest.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Scratch {
    /// What the packet is.
    pub packet: Packet,
    /// What its ends become; equal to the packet's own where nothing is translated.
    pub to: Ends,
    /// Key of the flow that was looked up last.
    pub key: CtKey,
    /// The entry to write if the packet opens a flow.
    pub fresh: CtEntry,
    /// Key in `NAT`.
    pub nat_key: NatKey,
    /// Value for `NAT`.
    pub nat: NatValue,
    /// Key in `FRAGMENTS`.
    pub fragment: FragmentKey,
    /// Where the walk along IPv6 extension headers is.
    pub chain: parse::Chain,
    /// Ends of the packet that an ICMP error is about.
    pub inner: Ends,
    /// What they become.
    pub quoted: Ends,
    /// What the error's own addresses become.
    pub outer: Ends,
    /// Offset of that packet's IP header.
    pub inner_l3: u32,
    /// Offset of that packet's transport header.
    pub inner_l4: u32,
    /// That packet's IP protocol number.
    pub inner_proto: u32,
    /// Whether it is of a known flow.
    pub inner_known: bool,
    /// Which backend a client gets.
    pub choice: service::Choice,
    /// The backend answers the client itself: the packet goes to its node as it is.
    pub direct: bool,
    /// Headers under construction.
    pub header: reject::Header,
    /// A neighbour advertisement under construction.
    pub neighbour: announce::Answer,
    /// The rule that decided.
    pub rule: u32,
    /// The endpoint whose rules decided.
    pub endpoint: u32,
}

impl Scratch {
    /// Forgets the packet before, so that no record shows its addresses.
    #[inline(always)]
    pub fn begin(&mut self) {
        self.packet = Packet::default();
        self.to = Ends::default();
        self.rule = 0;
        self.endpoint = 0;
    }
}
