//! A query and the zone -> an answer's octets, or what else has to be asked.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::message::{Owner, QUESTION_POINTER, Query, Rcode, Section, Writer, flag, kind, write_empty};
use crate::name::{Name, reverse};
use crate::zone::{Addresses, Entry, Node, SrvSet, SrvTarget, Zone};

/// Seconds that answers about the cluster are kept, negative ones too (CoreDNS' default).
pub const TTL: u32 = 5;
/// The version of the specification these records follow.
const VERSION: &[u8] = b"\x051.1.0";
/// The Service that leads to this server, whose addresses are those of `ns.dns`.
pub const OWN_SERVICE: &[u8] = b"\x08kube-dns\x0bkube-system";
/// Most names that one address is said to have.
const MAX_POINTERS: usize = 64;

/// Which part of the world a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// The cluster's domain.
    Cluster,
    /// Names of the cluster's addresses.
    Reverse,
    /// Everything else.
    Upstream,
}

/// What became of a query.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer is written.
    Answered(Area, Rcode),
    /// It is for an upstream server.
    Forward,
    /// It is an alias: the answer is this name's, after the alias.
    Chase(Name),
}

/// Chooses the order of addresses. It is no secret, so a fast generator does.
#[derive(Debug)]
pub struct Dice(SmallRng);

impl Default for Dice {
    fn default() -> Self {
        Dice(SmallRng::from_rng(&mut rand::rng()))
    }
}

impl Dice {
    /// The numbers below `count` in an order that starts anywhere: a random start and a random step that shares no
    /// factor with `count`, so that an answer cut short costs only what it holds.
    fn order(&mut self, count: usize) -> impl Iterator<Item = usize> + use<> {
        let bound = count.max(1);
        let start = self.0.random_range(0..bound);
        let mut step = self.0.random_range(0..bound).max(1);
        while gcd(step, bound) != 1 {
            step = step % bound + 1;
        }
        (0..count).map(move |i| (start + i * step) % bound)
    }
}

fn gcd(mut a: usize, mut b: usize) -> usize {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Answers from the zone into `out`, within `limit` octets. `stream` says that the client has no larger way to ask.
pub fn answer(
    zone: &Zone,
    query: &Query<'_>,
    limit: usize,
    stream: bool,
    dice: &mut Dice,
    out: &mut Vec<u8>,
) -> Outcome {
    if query.edns.is_some_and(|edns| edns.version > 0) {
        write_empty(query, Rcode::BadVers, out);
        return Outcome::Answered(Area::Upstream, Rcode::BadVers);
    }
    if query.class != crate::message::IN {
        write_empty(query, Rcode::Refused, out);
        return Outcome::Answered(Area::Upstream, Rcode::Refused);
    }
    if matches!(query.kind, kind::AXFR | kind::IXFR | kind::OPT) {
        write_empty(query, Rcode::NotImp, out);
        return Outcome::Answered(Area::Upstream, Rcode::NotImp);
    }
    let mut answer = Answer { zone, query, dice, writer: Writer::new(query, limit, out) };
    if let Some(own) = query.name.before(zone.domain()) {
        if !zone.synced() {
            answer.writer.finish(0, Rcode::ServFail);
            return Outcome::Answered(Area::Cluster, Rcode::ServFail);
        }
        let node = zone.find(&query.name, own);
        if let Node::External(target) = node {
            if query.kind != kind::CNAME {
                return Outcome::Chase(target.clone());
            }
            let target = target.wire();
            answer.own(kind::CNAME, |out| out.extend_from_slice(target));
        }
        let exists = answer.node(&node, own);
        return answer.finish(Area::Cluster, exists, own, stream);
    }
    match reverse(&query.name).map(|address| zone.names_of(address)) {
        Some(names) if !names.is_empty() => {
            answer.pointers(names);
            answer.finish(Area::Reverse, true, 0, stream)
        }
        _ => Outcome::Forward,
    }
}

struct Answer<'q, 'o, 'z, 'd> {
    zone: &'z Zone,
    query: &'q Query<'q>,
    dice: &'d mut Dice,
    writer: Writer<'q, 'o>,
}

impl Answer<'_, '_, '_, '_> {
    /// A record of the name asked for.
    fn own(&mut self, kind: u16, data: impl FnOnce(&mut Vec<u8>)) -> bool {
        self.writer.record(Section::Answer, Owner::At(QUESTION_POINTER), kind, TTL, data)
    }

    fn wants(&self, kind: u16) -> bool {
        self.query.kind == kind || self.query.kind == kind::ANY
    }

    /// Where the domain stands in the question.
    fn domain_at(&self, own: usize) -> u16 {
        // A name has at most 255 octets.
        QUESTION_POINTER + self.query.name.start(own) as u16
    }

    /// Writes what is at a node; false when nothing is there.
    fn node(&mut self, node: &Node<'_>, own: usize) -> bool {
        match node {
            Node::Absent => return false,
            Node::Empty | Node::External(_) => {}
            Node::Apex => self.apex(own),
            Node::NameServer => {
                if let Some(addresses) = self.zone.addresses(OWN_SERVICE) {
                    self.addresses(addresses);
                }
            }
            Node::Version => {
                if self.wants(kind::TXT) {
                    self.own(kind::TXT, |out| out.extend_from_slice(VERSION));
                }
            }
            Node::Service(entry) => {
                self.addresses(&entry.addresses);
                // Every port, as CoreDNS answers SRV at the Service's own name.
                if self.query.kind == kind::SRV {
                    self.services(entry, &entry.srv.iter().collect::<Vec<_>>(), 0);
                }
            }
            Node::Host(host) => self.addresses(&host.addresses),
            Node::Port(entry, set) => {
                if self.wants(kind::SRV) {
                    self.services(entry, &[set], 2);
                }
            }
            Node::Pod(address) => {
                let mut one = Addresses::default();
                match address {
                    std::net::IpAddr::V4(v4) => one.v4.push(*v4),
                    std::net::IpAddr::V6(v6) => one.v6.push(*v6),
                }
                self.addresses(&one);
            }
        }
        true
    }

    fn addresses(&mut self, addresses: &Addresses) {
        let owner = Owner::At(QUESTION_POINTER);
        if self.wants(kind::A) {
            for i in self.dice.order(addresses.v4.len()) {
                let Some(address) = addresses.v4.get(i) else { break };
                if !self.writer.v4(Section::Answer, owner, TTL, *address) {
                    return;
                }
            }
        }
        if self.wants(kind::AAAA) {
            for i in self.dice.order(addresses.v6.len()) {
                let Some(address) = addresses.v6.get(i) else { break };
                if !self.writer.v6(Section::Answer, owner, TTL, *address) {
                    return;
                }
            }
        }
    }

    /// SRV records, and the addresses of their targets as additional ones. The Service's name starts `skip` labels
    /// into the question.
    fn services(&mut self, entry: &Entry, sets: &[&SrvSet], skip: usize) {
        let mut written = Vec::new();
        'sets: for set in sets {
            // Weights of equal targets sum up to about 100, as CoreDNS' do.
            let weight = (100 / set.targets.len().max(1)).max(1) as u16;
            for i in self.dice.order(set.targets.len()) {
                let Some(target) = set.targets.get(i) else { break };
                match self.service(entry, target, weight, skip) {
                    Some(at) => written.push((*target, at)),
                    None => break 'sets,
                }
            }
        }
        let mut told = std::collections::HashSet::new();
        for (target, at) in written {
            if !told.insert(target.host) {
                continue;
            }
            let host = target.host.and_then(|number| entry.hosts.get(number as usize));
            let addresses = host.map_or(&entry.addresses, |host| &host.addresses);
            for address in &addresses.v4 {
                if !self.writer.v4(Section::Additional, at.owner(), TTL, *address) {
                    return;
                }
            }
            for address in &addresses.v6 {
                if !self.writer.v6(Section::Additional, at.owner(), TTL, *address) {
                    return;
                }
            }
        }
    }

    /// Writes one SRV record; says where its target's name stands.
    fn service(&mut self, entry: &Entry, target: &SrvTarget, weight: u16, skip: usize) -> Option<TargetName> {
        let host = target.host.and_then(|number| entry.hosts.get(number as usize));
        // The question's own spelling, from the Service's label on (RFC 2782 forbids compression here).
        let name = self.query.question.get(self.query.name.start(skip)..self.query.name.wire().len())?;
        let priority = 0_u16;
        let start = self.writer.offset();
        let fits = self.own(kind::SRV, |out| {
            for field in [priority, weight, target.port] {
                out.extend_from_slice(&field.to_be_bytes());
            }
            out.extend_from_slice(host.map_or(&[], |host| host.label.wire()));
            out.extend_from_slice(name);
        });
        // Owner pointer, type, class, TTL, length, three fields.
        const BEFORE_NAME: usize = 2 + 2 + 2 + 4 + 2 + 6;
        fits.then(|| match (host, start + BEFORE_NAME) {
            (Some(_), at @ ..0x4000) => TargetName::At(at as u16),
            (Some(host), _) => TargetName::Name([host.label.wire(), name].concat()),
            (None, _) => TargetName::At(QUESTION_POINTER + self.query.name.start(skip) as u16),
        })
    }

    fn apex(&mut self, own: usize) {
        let domain = self.domain_at(own);
        let name_server = name_server(domain);
        if self.wants(kind::SOA) {
            self.own(kind::SOA, |out| soa(out, domain));
        }
        if self.wants(kind::NS) {
            let start = self.writer.offset();
            let fits = self.own(kind::NS, |out| out.extend_from_slice(&name_server));
            if let Some(addresses) = self.zone.addresses(OWN_SERVICE).filter(|_| fits) {
                // After owner pointer, type, class, TTL and length.
                let owner = Owner::At((start + 12) as u16);
                addresses.v4.iter().for_each(|a| {
                    self.writer.v4(Section::Additional, owner, TTL, *a);
                });
                addresses.v6.iter().for_each(|a| {
                    self.writer.v6(Section::Additional, owner, TTL, *a);
                });
            }
        }
    }

    fn pointers(&mut self, names: &[Box<[u8]>]) {
        if !self.wants(kind::PTR) {
            return;
        }
        let domain = self.zone.domain().wire();
        for name in names.iter().take(MAX_POINTERS) {
            let fits = self.own(kind::PTR, |out| {
                out.extend_from_slice(name);
                out.extend_from_slice(b"\x03svc");
                out.extend_from_slice(domain);
            });
            if !fits {
                return;
            }
        }
    }

    /// Adds the zone's SOA when nothing else answers, and writes the header.
    fn finish(mut self, area: Area, exists: bool, own: usize, stream: bool) -> Outcome {
        let rcode = if exists { Rcode::NoError } else { Rcode::NxDomain };
        if self.writer.is_empty() {
            match area {
                Area::Cluster => {
                    let domain = self.domain_at(own);
                    self.writer.record(Section::Authority, Owner::At(domain), kind::SOA, TTL, |out| {
                        soa(out, domain);
                    });
                }
                _ => {
                    // The reverse zone is the address itself: no other name of it is ours.
                    let owner = Owner::At(QUESTION_POINTER);
                    self.writer.record(Section::Authority, owner, kind::SOA, TTL, |out| {
                        soa(out, QUESTION_POINTER);
                    });
                }
            }
        }
        if stream {
            self.writer.accept_truncation();
        }
        self.writer.finish(flag::AA, rcode);
        Outcome::Answered(area, rcode)
    }
}

/// Where a target's name can be pointed at, or the name itself when it is beyond what pointers reach.
enum TargetName {
    At(u16),
    Name(Vec<u8>),
}

impl TargetName {
    fn owner(&self) -> Owner<'_> {
        match self {
            TargetName::At(offset) => Owner::At(*offset),
            TargetName::Name(name) => Owner::Name(name),
        }
    }
}

/// `ns.dns` below the domain.
fn name_server(domain: u16) -> Vec<u8> {
    let mut out = b"\x02ns\x03dns".to_vec();
    out.extend_from_slice(&(0xc000 | domain).to_be_bytes());
    out
}

/// Data of the SOA record. Nothing is transferred, so the serial need not move.
fn soa(out: &mut Vec<u8>, domain: u16) {
    out.extend_from_slice(&name_server(domain));
    out.extend_from_slice(b"\x0ahostmaster");
    out.extend_from_slice(&(0xc000 | domain).to_be_bytes());
    let (serial, refresh, retry, expire, minimum) = (1, 7200, 1800, 86_400, TTL);
    for number in [serial, refresh, retry, expire, minimum] {
        out.extend_from_slice(&u32::to_be_bytes(number));
    }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
