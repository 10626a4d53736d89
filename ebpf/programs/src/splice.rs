//! Connections between two pods of this node whose bytes go from one socket to the other, without becoming packets.
//!
//! Policy stays what it is. A connection begins as packets, so that its flow was admitted, and every message is held
//! against that flow as a packet would be: against the revisions of both pods and, when one has changed, against
//! their rules. What is not allowed any more, or cannot be told, is sent as packets, and the packet path decides,
//! counts and reports.
//!
//! No byte overtakes another. A reader gets what was spliced before what came as packets, so a stream may leave the
//! splice at any message. It comes back only when the reader has read everything that went as packets, which is so when
//! both sockets have the same sequence number.
//!
//! No sender fills the node's memory. The kernel makes nobody wait who splices; so what waits for its reader is kept below
//! a part of the receive buffer, and a reader that is slower gets packets, whose window does make the sender wait. That
//! part must leave room for a whole window: a packet without room is dropped, and nothing tells its sender that the
//! reader has made some, because reading what was spliced sends no acknowledgement.

use crate::parse::proto;
use crate::world::{Maps, config};
use crate::{Addr, policy};
use fairlead_abi::{Be16, Config, CtEntry, CtKey, Endpoint, Metric, NetnsEntry, Rule, StreamKey};

/// Receive buffer that a spliced socket asks for. The kernel bounds it by `net.core.rmem_max`, and doubles it.
pub const RECEIVE_BUFFER: i32 = 1 << 20;

/// Send buffer that it asks for (the kernel doubles it): what is sent as packets is read soon, and the stream comes back.
pub const SEND_BUFFER: i32 = 128 << 10;

/// How long nobody waits for a reader that was too slow, so that little of a sender's time goes into it.
pub const REST_MILLISECONDS: u32 = 1;

/// How many more bytes may wait for a reader with that receive buffer; None when it is better to let it read first.
#[inline(always)]
pub const fn room(buffer: u32, waiting: u32) -> Option<u32> {
    let most = buffer / 4;
    if waiting <= most / 2 { Some(most - waiting) } else { None }
}

/// Pods whose bytes must be counted one by one, or that may not talk at all.
const NEVER: u32 = Endpoint::CLOSED | Endpoint::INGRESS_RATE | Endpoint::EGRESS_RATE;

/// Whether a socket that has just been connected may be spliced: it is a pod's, under the pod's own address, and its
/// peer is another pod of this node. A pod that gives itself the address of another gets nothing by it.
#[inline(always)]
pub fn enters<M: Maps>(maps: &M, key: &StreamKey, netns: u64) -> bool {
    if !is_on(maps) {
        return false;
    }
    let Some(NetnsEntry { role: NetnsEntry::POD, endpoint }) = maps.netns(netns) else { return false };
    let Some((own, peer)) = pods(maps, key) else { return false };
    own.id == *endpoint && peer.id != *endpoint
}

#[inline(always)]
fn is_on<M: Maps>(maps: &M) -> bool {
    config(maps).is_ok_and(|config| config.flags & Config::SPLICE != 0)
}

/// Both ends, if they are pods of this node that may be spliced.
#[inline(always)]
fn pods<'a, M: Maps>(maps: &'a M, key: &StreamKey) -> Option<(&'a Endpoint, &'a Endpoint)> {
    let (own, peer) = (maps.endpoint(&key.local)?, maps.endpoint(&key.remote)?);
    ((own.flags | peer.flags) & NEVER == 0).then_some((own, peer))
}

/// Whether a message may go from socket to socket, by what a packet of it would be judged by. The flow lives on as if it
/// had seen one.
#[inline(always)]
pub fn allows<M: Maps>(maps: &M, key: &StreamKey, bytes: u32) -> bool {
    if !is_on(maps) {
        return false;
    }
    let Some((own, peer)) = pods(maps, key) else { return false };
    let mut flow_key = CtKey::default();
    let high = flow_key.set(&key.local, key.local_port, &key.remote, key.remote_port, proto::TCP);
    let now = maps.now();
    let Some(mut flow) = maps.flow(&flow_key) else { return false };
    let plain = flow.flags & (CtEntry::DNAT | CtEntry::SNAT | CtEntry::NODE) == 0;
    if flow.expires < now || flow.state != CtEntry::ESTABLISHED || !plain {
        return false;
    }
    let reply = (flow.flags & CtEntry::HIGH_OPENED != 0) != high;
    let (opener, asked) = if reply { (peer, own) } else { (own, peer) };
    if flow.opener_revision != opener.revision || flow.asked_revision != asked.revision {
        let case = if reply {
            Case { opener: &key.remote, asked: &key.local, port: key.local_port }
        } else {
            Case { opener: &key.local, asked: &key.remote, port: key.remote_port }
        };
        if !judge(maps, &case, opener, asked, bytes) {
            return false;
        }
        flow.opener_revision = opener.revision;
        flow.asked_revision = asked.revision;
    }
    let expires = now.saturating_add(CtEntry::TCP_ESTABLISHED_SECONDS);
    if flow.expires != expires {
        flow.expires = expires;
    }
    true
}

/// A flow by who opened it.
struct Case<'a> {
    opener: &'a Addr,
    asked: &'a Addr,
    port: Be16,
}

/// Whether the rules of both pods still allow the flow. Only then is it counted: a refusal is the packet path's to say.
#[inline(always)]
fn judge<M: Maps>(maps: &M, case: &Case<'_>, opener: &Endpoint, asked: &Endpoint, bytes: u32) -> bool {
    let decide = |ruleset: u32, peer: &Addr| {
        if ruleset == 0 {
            return Rule { id: 0, flags: Rule::ALLOW };
        }
        policy::decide(maps, ruleset, peer, proto::TCP, case.port)
    };
    let egress = decide(opener.egress_ruleset, case.asked);
    let ingress = decide(asked.ingress_ruleset, case.opener);
    if egress.flags & ingress.flags & Rule::ALLOW == 0 {
        return false;
    }
    maps.count(Metric::PolicyEvaluated);
    for rule in [egress, ingress] {
        if rule.id != 0 {
            maps.count_rule(rule.id, true, bytes);
        }
    }
    true
}
