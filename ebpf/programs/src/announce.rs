//! Addresses on the uplink's segment that this node answers for without having them: those of LoadBalancers.

use crate::parse::{Arp, ETH_ARP, ETH_IPV4, Ipv6, L3, icmpv6, proto};
use crate::reject::{add, addresses, fold};
use crate::{Scratch, World};
use fairlead_abi::{Addr, Be16, Config};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Neighbour solicitation and advertisement with one link-layer address (RFC 4861 sections 4.3 and 4.4).
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Neighbour {
    kind: u8,
    code: u8,
    checksum: u16,
    flags: u32,
    target: Addr,
    option: [u8; 2],
    mac: [u8; 6],
}

/// An answer under construction.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Answer {
    arp: Arp,
    ip: Ipv6,
    /// Up to the target: the option may be missing (RFC 4861 section 4.3).
    question: [u32; 6],
    message: Neighbour,
}

/// Turns a question for an announced address into its answer; false when it is none, and the packet is as it was.
#[inline(always)]
pub fn answer<W: World>(world: &W, scratch: &mut Scratch, config: &Config) -> bool {
    world.announce(scratch, config)
}

/// The body of [`answer`].
#[inline(always)]
pub fn reply<W: World>(world: &W, scratch: &mut Scratch, config: &Config) -> bool {
    if config.uplink_mac == [0; 6] {
        return false;
    }
    if world.ether_type() == ETH_ARP {
        arp(world, scratch, config)
    } else {
        neighbour(world, scratch, config)
    }
}

#[inline(always)]
fn arp<W: World>(world: &W, scratch: &mut Scratch, config: &Config) -> bool {
    const REQUEST: Be16 = Be16::new(1);
    const REPLY: Be16 = Be16::new(2);
    let arp = &mut scratch.neighbour.arp;
    if !world.load(L3, arp)
        || arp.protocol.get() != ETH_IPV4
        || arp.lengths != [6, 4]
        || arp.operation != REQUEST
        || arp.sender_ip == arp.target_ip
        || !world.is_announced(&Addr::v4(arp.target_ip))
    {
        return false;
    }
    (arp.target_mac, arp.sender_mac) = (arp.sender_mac, config.uplink_mac);
    (arp.target_ip, arp.sender_ip) = (arp.sender_ip, arp.target_ip);
    arp.operation = REPLY;
    world.store(L3, arp) && world.store(0, &[arp.target_mac, config.uplink_mac])
}

#[inline(always)]
fn neighbour<W: World>(world: &W, scratch: &mut Scratch, config: &Config) -> bool {
    /// Solicited, and to be believed at once.
    const FLAGS: u32 = 0x6000_0000_u32.to_be();
    const TARGET_ADDRESS: [u8; 2] = [2, 1];
    const LEN: u16 = size_of::<Neighbour>() as u16;
    let mut mac = [0u8; 6];
    let Answer { ip, question, message, .. } = &mut scratch.neighbour;
    if !world.load(6, &mut mac)
        || !world.load(L3, ip)
        || ip.next != proto::ICMPV6
        || ip.hops != 255
        || ip.src == Addr::UNSPECIFIED
        || !world.load(L3 + Ipv6::LEN, question)
        || question[0].to_ne_bytes()[0] != icmpv6::NEIGHBOUR_SOLICITATION
    {
        return false;
    }
    let target = Addr([question[2], question[3], question[4], question[5]]);
    if !world.is_announced(&target) {
        return false;
    }
    *message = Neighbour {
        kind: icmpv6::NEIGHBOUR_ADVERTISEMENT,
        flags: FLAGS,
        target,
        option: TARGET_ADDRESS,
        mac: config.uplink_mac,
        ..Neighbour::default()
    };
    let [a, b, c, d, e, f] = config.uplink_mac;
    let mut sum = addresses(0, true, &target, &ip.src);
    for word in target.0 {
        sum = add(sum, word);
    }
    sum = add(sum, u32::from_ne_bytes([0, proto::ICMPV6, 0, LEN as u8]));
    sum = add(
        sum,
        u32::from_ne_bytes([icmpv6::NEIGHBOUR_ADVERTISEMENT, 0, TARGET_ADDRESS[0], TARGET_ADDRESS[1]]),
    );
    sum = add(add(add(sum, FLAGS), u32::from_ne_bytes([a, b, c, d])), u32::from_ne_bytes([e, f, 0, 0]));
    message.checksum = fold(sum);
    (ip.src, ip.dst) = (target, ip.src);
    ip.payload_len = Be16::new(LEN);
    world.resize(L3 + Ipv6::LEN + u32::from(LEN))
        && world.store(L3, ip)
        && world.store(L3 + Ipv6::LEN, message)
        && world.store(0, &[mac, config.uplink_mac])
}
