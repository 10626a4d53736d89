//! Flows: what was allowed once goes on, in both directions, until the policy behind it changes.

use crate::parse::{Packet, proto, tcp};
use crate::{Scratch, World, policy, service, steps};
use fairlead_abi::{Addr, Be16, CtEntry, Endpoint, LoadKey, Metric, Reason};

/// Who a packet goes between, as far as this node has them.
pub struct Parties<'a> {
    /// The pod that sends it.
    pub source: Option<&'a Endpoint>,
    /// The pod that gets it.
    pub destination: Option<&'a Endpoint>,
    /// One end is this node itself: allowed, whatever the policy.
    pub node: bool,
}

/// What is known about the flow a packet belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The packet goes against the direction in which the flow was opened.
    pub reply: bool,
    /// [`CtEntry::flags`].
    pub flags: u8,
    /// [`CtEntry::ifindex`].
    pub ifindex: u32,
}

impl Seen {
    const REPLY: u64 = 1 << 8;

    /// As one number.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        let reply = if self.reply { Self::REPLY } else { 0 };
        (self.ifindex as u64) << 32 | reply | self.flags as u64
    }

    /// A refusal as such a number.
    #[inline(always)]
    pub fn refused(reason: Reason) -> u64 {
        u64::from(steps::code(Err(reason))) << 16
    }

    /// What a number stands for.
    #[inline(always)]
    fn unpack(packed: u64) -> Result<Self, Reason> {
        steps::outcome((packed >> 16) as u32 & 0xffff)?;
        Ok(Seen { reply: packed & Self::REPLY != 0, flags: packed as u8, ifindex: (packed >> 32) as u32 })
    }

    /// Whether this is the answer of a backend, to be translated back.
    #[inline(always)]
    pub const fn is_translated_reply(self) -> bool {
        self.reply && self.flags & CtEntry::DNAT != 0
    }
}

/// Finds or opens the flow of the packet whose ends are `scratch.to`. A new flow is judged by policy and
/// written with the translation in `scratch.fresh`. After a reply `scratch.fresh` is the entry found.
///
/// # Errors
/// `PolicyEgress` or `PolicyIngress`; `NatExhausted` when the ends are those of a flow that is translated
/// in another way.
#[inline(always)]
pub fn admit<W: World>(world: &W, scratch: &mut Scratch, parties: &Parties<'_>) -> Result<Seen, Reason> {
    Seen::unpack(world.admit(scratch, parties))
}

/// The body of [`admit`].
#[inline(always)]
pub fn judge<W: World>(world: &W, scratch: &mut Scratch, parties: &Parties<'_>) -> Result<Seen, Reason> {
    let now = world.now();
    let to = &scratch.to;
    let high = scratch.key.set(&to.src, to.src_port, &to.dst, to.dst_port, scratch.packet.proto);
    if let Some(mut flow) = world.flow(&scratch.key)
        && flow.expires >= now
    {
        let reply = (flow.flags & CtEntry::HIGH_OPENED != 0) != high;
        if !reopens(&scratch.packet, &flow, reply) {
            let fresh = &scratch.fresh;
            if !reply
                && ((flow.flags ^ fresh.flags) & CtEntry::DNAT != 0
                    || (fresh.flags & CtEntry::SNAT != 0 && !service::same(&flow, fresh)))
            {
                // The same ends are in use by a flow whose replies must be translated (or must not), or by another
                // client's.
                return Err(Reason::NatExhausted);
            }
            if flow.flags & CtEntry::NODE == 0 {
                renew(world, scratch, parties, &mut flow, reply)?;
            }
            if track(&scratch.packet, &mut flow, reply, now) {
                let to = &scratch.to;
                let (backend, port) = if reply { (&to.src, to.src_port) } else { (&to.dst, to.dst_port) };
                count(world, backend, port, scratch.packet.proto, flow.service << 1);
            }
            if reply {
                let fresh = &mut scratch.fresh;
                (fresh.client, fresh.client_port) = (flow.client, flow.client_port);
                (fresh.virtual_addr, fresh.virtual_port) = (flow.virtual_addr, flow.virtual_port);
            }
            return Ok(Seen { reply, flags: flow.flags, ifindex: flow.ifindex });
        }
    }
    if !parties.node {
        policy::evaluate(world, scratch, parties.source, parties.destination, false)?;
    }
    open(world, scratch, parties, high, now);
    Ok(Seen { reply: false, flags: scratch.fresh.flags, ifindex: scratch.fresh.ifindex })
}

/// Whether a SYN begins a new connection on the ends of an old one. One that comes from the end that was asked
/// is a flow of its own, too, and must not pass as a reply.
#[inline(always)]
fn reopens(packet: &Packet, flow: &CtEntry, reply: bool) -> bool {
    packet.is_syn()
        && (flow.state == CtEntry::CLOSED || (reply && flow.flags & (CtEntry::DNAT | CtEntry::SNAT) == 0))
}

/// Judges an established flow again when a policy of one of its ends has changed.
#[inline(always)]
fn renew<W: World>(
    world: &W,
    scratch: &mut Scratch,
    parties: &Parties<'_>,
    flow: &mut CtEntry,
    reply: bool,
) -> Result<(), Reason> {
    let (opener, asked) =
        if reply { (parties.destination, parties.source) } else { (parties.source, parties.destination) };
    let (opener_revision, asked_revision) = (revision(opener), revision(asked));
    if flow.opener_revision == opener_revision && flow.asked_revision == asked_revision {
        return Ok(());
    }
    if !parties.node {
        policy::evaluate(world, scratch, opener, asked, reply)?;
    }
    flow.opener_revision = opener_revision;
    flow.asked_revision = asked_revision;
    Ok(())
}

#[inline(always)]
fn revision(endpoint: Option<&Endpoint>) -> u32 {
    match endpoint {
        Some(endpoint) => endpoint.revision,
        None => 0,
    }
}

#[inline(always)]
fn open<W: World>(world: &W, scratch: &mut Scratch, parties: &Parties<'_>, high: bool, now: u32) {
    let fresh = &mut scratch.fresh;
    if high {
        fresh.flags |= CtEntry::HIGH_OPENED;
    }
    if parties.node {
        fresh.flags |= CtEntry::NODE;
    }
    fresh.opener_revision = revision(parties.source);
    fresh.asked_revision = revision(parties.destination);
    fresh.state = CtEntry::NEW;
    track(&scratch.packet, fresh, false, now);
    if fresh.flags & CtEntry::COUNTED != 0 {
        count(world, &scratch.to.dst, scratch.to.dst_port, scratch.packet.proto, fresh.service << 1 | 1);
    }
    world.count(if world.set_flow(&scratch.key, fresh) { Metric::FlowOpened } else { Metric::ConntrackFull });
}

/// Counts a connection of a backend up or down: `change` is twice the service, and one more for up.
#[inline(never)]
pub fn count<W: World>(world: &W, backend: &Addr, port: Be16, proto: u8, change: u32) {
    let key = LoadKey { addr: *backend, port, proto, _pad: 0, service: change >> 1 };
    world.count_load(&key, change & 1 != 0);
}

/// Moves the state and pushes the expiry on. True when the flow has just ended and counts in `LOADS` no more.
#[inline(always)]
pub fn track(packet: &Packet, flow: &mut CtEntry, reply: bool, now: u32) -> bool {
    let (mut state, mut flags) = (flow.state, flow.flags);
    if state == CtEntry::NEW && reply {
        state = CtEntry::ESTABLISHED;
    }
    if packet.tcp_flags & tcp::FIN != 0 {
        flags |= if reply { CtEntry::FIN_ASKED } else { CtEntry::FIN_OPENER };
    }
    let finished = CtEntry::FIN_ASKED | CtEntry::FIN_OPENER;
    if packet.tcp_flags & tcp::RST != 0 || flags & finished == finished {
        state = CtEntry::CLOSED;
    }
    let ended = state == CtEntry::CLOSED && flags & CtEntry::COUNTED != 0;
    if ended {
        flags &= !CtEntry::COUNTED;
    }
    let seconds = if packet.proto == proto::TCP {
        match state {
            CtEntry::NEW => CtEntry::TCP_NEW_SECONDS,
            CtEntry::ESTABLISHED => CtEntry::TCP_ESTABLISHED_SECONDS,
            _ => CtEntry::TCP_CLOSED_SECONDS,
        }
    } else if state == CtEntry::NEW {
        CtEntry::OTHER_NEW_SECONDS
    } else {
        CtEntry::OTHER_ESTABLISHED_SECONDS
    };
    let expires = now.saturating_add(seconds);
    // The line is shared between CPUs: it is written only when something changes.
    if flow.expires != expires {
        flow.expires = expires;
    }
    if flow.state != state {
        flow.state = state;
    }
    if flow.flags != flags {
        flow.flags = flags;
    }
    ended
}

/// An entry without translation, to be filled.
#[inline(always)]
pub fn forget_translation(scratch: &mut Scratch) {
    let fresh = &mut scratch.fresh;
    fresh.flags = 0;
    fresh._pad = 0;
    fresh.ifindex = 0;
    fresh.service = 0;
    fresh.client = Addr::UNSPECIFIED;
    fresh.virtual_addr = Addr::UNSPECIFIED;
    fresh.client_port.0 = 0;
    fresh.virtual_port.0 = 0;
}
