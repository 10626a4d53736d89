//! DNS messages as octets: reading a query's header, question and EDNS, and writing an answer within a limit.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::name::Asked;

/// Octets of a message's header.
pub const HEADER: usize = 12;
/// Octets of the OPT record that answers carry when the query had one.
const OPT: usize = 11;
/// The UDP payload that is announced, and the most that is sent over UDP: what passes without fragments
/// (https://dnsflagday.net/2020).
pub const UDP_PAYLOAD: usize = 1232;
/// UDP payload without EDNS (RFC 1035, 2.3.4).
pub const PLAIN_PAYLOAD: usize = 512;
/// Most octets over TCP: its length prefix has 16 bits.
pub const TCP_PAYLOAD: usize = 65_535;
/// Where the question's name is: what answers' names point at.
pub const QUESTION_POINTER: u16 = 0xc000 | HEADER as u16;
/// Class IN.
pub const IN: u16 = 1;

/// Types of records and questions.
pub mod kind {
    /// IPv4 address.
    pub const A: u16 = 1;
    /// Name server.
    pub const NS: u16 = 2;
    /// Alias.
    pub const CNAME: u16 = 5;
    /// Start of authority.
    pub const SOA: u16 = 6;
    /// Name of an address.
    pub const PTR: u16 = 12;
    /// Mail exchange.
    pub const MX: u16 = 15;
    /// Text.
    pub const TXT: u16 = 16;
    /// IPv6 address.
    pub const AAAA: u16 = 28;
    /// Service.
    pub const SRV: u16 = 33;
    /// EDNS.
    pub const OPT: u16 = 41;
    /// Incremental transfer.
    pub const IXFR: u16 = 251;
    /// Transfer.
    pub const AXFR: u16 = 252;
    /// Any type.
    pub const ANY: u16 = 255;
}

/// Response codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Rcode {
    /// No error.
    NoError = 0,
    /// The query is malformed.
    FormErr = 1,
    /// The server failed.
    ServFail = 2,
    /// The name does not exist.
    NxDomain = 3,
    /// The operation is not there.
    NotImp = 4,
    /// The server does not want to.
    Refused = 5,
    /// The version of EDNS is not known (needs an OPT record for its upper bits).
    BadVers = 16,
}

/// Flags of the header's second half-word.
pub mod flag {
    /// A response.
    pub const QR: u16 = 0x8000;
    /// Authoritative.
    pub const AA: u16 = 0x0400;
    /// Truncated.
    pub const TC: u16 = 0x0200;
    /// Recursion desired.
    pub const RD: u16 = 0x0100;
    /// Recursion available.
    pub const RA: u16 = 0x0080;
    /// Authentic data.
    pub const AD: u16 = 0x0020;
    /// Checking disabled.
    pub const CD: u16 = 0x0010;
    /// The operation.
    pub const OPCODE: u16 = 0x7800;
}

/// What a query's OPT record says (RFC 6891).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// The UDP payload the client takes.
    pub payload: u16,
    /// The version it speaks.
    pub version: u8,
    /// It wants DNSSEC records.
    pub dnssec: bool,
}

/// A query that can be answered.
#[derive(Clone)]
pub struct Query<'a> {
    /// Its number.
    pub id: u16,
    /// Its flags.
    pub flags: u16,
    /// Name, type and class as they came.
    pub question: &'a [u8],
    /// The name, lower case.
    pub name: Asked,
    /// The type asked for.
    pub kind: u16,
    /// The class asked for.
    pub class: u16,
    /// Its OPT record.
    pub edns: Option<Edns>,
}

/// What is done with octets that are no answerable query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Nothing: an answer to a response, or to less than a header, would be noise.
    Ignore,
    /// A header with this code.
    Refuse(Rcode),
}

/// The big-endian number at `at`.
#[must_use]
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let octets = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes(octets.try_into().ok()?))
}

/// The offset after the name at `at`, which may end in a pointer; the pointer is not followed.
#[must_use]
pub fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    let start = at;
    loop {
        let length = usize::from(*bytes.get(at)?);
        match length {
            0 => return Some(at + 1),
            1..=63 => at += 1 + length,
            0xc0.. => return bytes.get(at + 1).map(|_| at + 2),
            _ => return None,
        }
        if at - start > crate::name::MAX_NAME {
            return None;
        }
    }
}

/// One record's place in a message.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Its type.
    pub kind: u16,
    /// Where its TTL is.
    pub ttl: usize,
    /// Where its data start.
    pub data: usize,
    /// The offset after it.
    pub end: usize,
}

/// The record at `at`.
#[must_use]
pub fn record_at(bytes: &[u8], at: usize) -> Option<Place> {
    let fixed = skip_name(bytes, at)?;
    let kind = u16_at(bytes, fixed)?;
    let length = usize::from(u16_at(bytes, fixed + 8)?);
    let data = fixed + 10;
    let end = data + length;
    (end <= bytes.len()).then_some(Place { kind, ttl: fixed + 4, data, end })
}

impl<'a> Query<'a> {
    /// Reads a query.
    ///
    /// # Errors
    /// What to do with it instead of answering.
    pub fn read(bytes: &'a [u8]) -> Result<Query<'a>, Malformed> {
        let field = |at| u16_at(bytes, at).ok_or(Malformed::Ignore);
        let (id, flags) = (field(0)?, field(2)?);
        let counts = [field(4)?, field(6)?, field(8)?, field(10)?];
        if flags & flag::QR != 0 {
            return Err(Malformed::Ignore);
        }
        if flags & flag::OPCODE != 0 {
            return Err(Malformed::Refuse(Rcode::NotImp));
        }
        let bad = Malformed::Refuse(Rcode::FormErr);
        if counts[0] != 1 {
            return Err(bad);
        }
        let name = bytes.get(HEADER..).and_then(Asked::read).ok_or(bad)?;
        let after = HEADER + name.wire().len();
        let (kind, class) = (u16_at(bytes, after).ok_or(bad)?, u16_at(bytes, after + 2).ok_or(bad)?);
        let question = bytes.get(HEADER..after + 4).ok_or(bad)?;
        let mut query = Query { id, flags, question, name, kind, class, edns: None };
        let mut at = after + 4;
        // Queries carry no answers; whoever sends some anyway is told so.
        let records = counts[1..].iter().map(|n| u32::from(*n)).sum::<u32>();
        for _ in 0..records {
            let place = record_at(bytes, at).ok_or(bad)?;
            if place.kind == kind::OPT {
                query.read_opt(bytes, at, place)?;
            }
            at = place.end;
        }
        Ok(query)
    }

    fn read_opt(&mut self, bytes: &[u8], at: usize, place: Place) -> Result<(), Malformed> {
        let bad = Malformed::Refuse(Rcode::FormErr);
        // One of them, owned by the root (RFC 6891, 6.1.1).
        if self.edns.is_some() || bytes.get(at) != Some(&0) {
            return Err(bad);
        }
        let payload = u16_at(bytes, place.ttl - 2).ok_or(bad)?;
        let version = *bytes.get(place.ttl + 1).ok_or(bad)?;
        let flags = u16_at(bytes, place.ttl + 2).ok_or(bad)?;
        self.edns = Some(Edns { payload, version, dnssec: flags & 0x8000 != 0 });
        Ok(())
    }

    /// How many octets an answer over UDP may have.
    #[must_use]
    pub fn udp_limit(&self) -> usize {
        self.edns.map_or(PLAIN_PAYLOAD, |edns| usize::from(edns.payload).clamp(PLAIN_PAYLOAD, UDP_PAYLOAD))
    }
}

/// A section of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// What was asked for.
    Answer = 1,
    /// Who says so.
    Authority = 2,
    /// What will be asked next.
    Additional = 3,
}

/// Who owns a record.
#[derive(Debug, Clone, Copy)]
pub enum Owner<'a> {
    /// The name at an offset of the message.
    At(u16),
    /// This wire name, uncompressed.
    Name(&'a [u8]),
}

/// Writes one answer. What does not fit into the limit is left out.
pub struct Writer<'q, 'o> {
    query: &'q Query<'q>,
    out: &'o mut Vec<u8>,
    limit: usize,
    counts: [u16; 3],
    truncated: bool,
}

impl<'q, 'o> Writer<'q, 'o> {
    /// Starts an answer of at most `limit` octets in `out`, whose content is replaced.
    pub fn new(query: &'q Query<'q>, limit: usize, out: &'o mut Vec<u8>) -> Self {
        out.clear();
        out.resize(HEADER, 0);
        out.extend_from_slice(query.question);
        let reserve = if query.edns.is_some() { OPT } else { 0 };
        Writer { query, out, limit: limit.saturating_sub(reserve), counts: [0; 3], truncated: false }
    }

    /// The offset at which the next record starts.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.out.len()
    }

    /// Whether no answer was written, nor left out for want of room.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts[0] == 0 && !self.truncated
    }

    /// Adds a record; false, and nothing is added, when it does not fit. The answer then counts as truncated unless
    /// the record was an additional one (RFC 2181, 9).
    pub fn record(
        &mut self,
        section: Section,
        owner: Owner<'_>,
        kind: u16,
        ttl: u32,
        data: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        let start = self.out.len();
        match owner {
            Owner::At(offset) => self.out.extend_from_slice(&(0xc000 | offset).to_be_bytes()),
            Owner::Name(name) => self.out.extend_from_slice(name),
        }
        self.out.extend_from_slice(&kind.to_be_bytes());
        self.out.extend_from_slice(&IN.to_be_bytes());
        self.out.extend_from_slice(&ttl.to_be_bytes());
        let length = self.out.len();
        self.out.extend_from_slice(&[0, 0]);
        data(self.out);
        let size = u16::try_from(self.out.len() - length - 2);
        let slot = self.counts.get_mut(section as usize - 1);
        let (Ok(size), Some(slot), true) = (size, slot, self.out.len() <= self.limit) else {
            self.out.truncate(start);
            self.truncated |= section != Section::Additional;
            return false;
        };
        *slot = slot.saturating_add(1);
        if let Some(field) = self.out.get_mut(length..length + 2) {
            field.copy_from_slice(&size.to_be_bytes());
        }
        true
    }

    /// Adds an A record.
    pub fn v4(&mut self, section: Section, owner: Owner<'_>, ttl: u32, address: Ipv4Addr) -> bool {
        self.record(section, owner, kind::A, ttl, |out| out.extend_from_slice(&address.octets()))
    }

    /// Adds an AAAA record.
    pub fn v6(&mut self, section: Section, owner: Owner<'_>, ttl: u32, address: Ipv6Addr) -> bool {
        self.record(section, owner, kind::AAAA, ttl, |out| out.extend_from_slice(&address.octets()))
    }

    /// Takes the truncation back: over TCP a client has nowhere else to go, and gets what fits.
    pub fn accept_truncation(&mut self) {
        self.truncated = false;
    }

    /// Writes the header and the OPT record.
    pub fn finish(self, flags: u16, rcode: Rcode) {
        let truncated = if self.truncated { flag::TC } else { 0 };
        let flags = flag::QR | flag::RA | flags | truncated | (self.query.flags & (flag::RD | flag::CD));
        let additional = self.counts[2] + u16::from(self.query.edns.is_some());
        write_header(self.out, self.query.id, flags, rcode, [1, self.counts[0], self.counts[1], additional]);
        if let Some(edns) = self.query.edns {
            write_opt(self.out, edns.dnssec, rcode);
        }
    }
}

fn write_header(out: &mut [u8], id: u16, flags: u16, rcode: Rcode, counts: [u16; 4]) {
    let low = u16::from(rcode as u8 & 0x0f);
    let fields = [id, flags & !0x0f | low, counts[0], counts[1], counts[2], counts[3]];
    for (to, from) in out.chunks_exact_mut(2).zip(fields) {
        to.copy_from_slice(&from.to_be_bytes());
    }
}

/// Adds the OPT record that answers one.
pub fn write_opt(out: &mut Vec<u8>, dnssec: bool, rcode: Rcode) {
    out.push(0);
    out.extend_from_slice(&kind::OPT.to_be_bytes());
    out.extend_from_slice(&(UDP_PAYLOAD as u16).to_be_bytes());
    out.extend_from_slice(&[rcode as u8 >> 4, 0, if dnssec { 0x80 } else { 0 }, 0, 0, 0]);
}

/// An answer without records.
pub fn write_empty(query: &Query<'_>, rcode: Rcode, out: &mut Vec<u8>) {
    Writer::new(query, PLAIN_PAYLOAD, out).finish(0, rcode);
}

/// A header alone that refuses octets whose question cannot be read; the octets must hold a header.
pub fn write_refusal(bytes: &[u8], rcode: Rcode, out: &mut Vec<u8>) {
    out.clear();
    let (Some(id), Some(flags)) = (u16_at(bytes, 0), u16_at(bytes, 2)) else { return };
    out.resize(HEADER, 0);
    write_header(out, id, flag::QR | (flags & (flag::OPCODE | flag::RD)), rcode, [0; 4]);
}

/// The octets of a query for `name` (wire form) as they are sent upstream: with EDNS, recursion desired.
#[must_use]
pub fn query_octets(id: u16, name: &[u8], kind: u16, checking_disabled: bool, dnssec: bool) -> Vec<u8> {
    let mut out = vec![0; HEADER];
    let flags = flag::RD | if checking_disabled { flag::CD } else { 0 };
    write_header(&mut out, id, flags, Rcode::NoError, [1, 0, 0, 1]);
    out.extend_from_slice(name);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&IN.to_be_bytes());
    write_opt(&mut out, dnssec, Rcode::NoError);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets(edns: &[u8]) -> Vec<u8> {
        let mut out = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, u8::from(!edns.is_empty())];
        out.extend_from_slice(b"\x03Www\x07Example\x00\x00\x01\x00\x01");
        out.extend_from_slice(edns);
        out
    }

    #[test]
    fn queries_are_read() {
        let bytes = octets(&[]);
        let query = Query::read(&bytes).unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!((query.id, query.kind, query.class, query.edns), (0x1234, kind::A, IN, None));
        assert_eq!(query.name.wire(), b"\x03www\x07example\x00");
        assert_eq!(query.question, &bytes[12..]);
        assert_eq!(query.udp_limit(), 512);
    }

    #[test]
    fn buffer_sizes_are_bounded_both_ways() {
        for (asked, limit) in [(0, 512), (511, 512), (512, 512), (700, 700), (1232, 1232), (65_535, 1232)] {
            let [high, low] = u16::to_be_bytes(asked);
            let bytes = octets(&[0, 0, 41, high, low, 0, 0, 0x80, 0, 0, 0]);
            let query = Query::read(&bytes).unwrap_or_else(|e| panic!("{asked}: {e:?}"));
            assert_eq!(query.edns, Some(Edns { payload: asked, version: 0, dnssec: true }));
            assert_eq!(query.udp_limit(), limit, "{asked}");
        }
    }

    #[test]
    fn queries_cut_at_any_length_are_refused_or_ignored() {
        let whole = octets(&[0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 4, 0, 10, 0, 0]);
        assert!(Query::read(&whole).is_ok());
        for length in 0..whole.len() {
            let expected =
                if length < HEADER { Malformed::Ignore } else { Malformed::Refuse(Rcode::FormErr) };
            assert_eq!(Query::read(&whole[..length]).err(), Some(expected), "{length}");
        }
    }

    #[test]
    fn what_is_no_query_is_told_so() {
        let opt = [0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0];
        let edit = |at: usize, value: u8| {
            let mut bytes = octets(&opt);
            bytes[at] = value;
            bytes
        };
        let formerr = Some(Malformed::Refuse(Rcode::FormErr));
        for (what, bytes, expected) in [
            ("a response", edit(2, 0x81), Some(Malformed::Ignore)),
            ("an update", edit(2, 0x28), Some(Malformed::Refuse(Rcode::NotImp))),
            ("no question", edit(5, 0), formerr),
            ("two questions", edit(5, 2), formerr),
            ("a pointer to itself", edit(12, 0xc0), formerr),
            ("a label of 64", edit(12, 64), formerr),
            ("more records than there are", edit(11, 2), formerr),
            ("65,280 answers", edit(6, 255), formerr),
            ("an OPT that is not the root's", octets(&[&b"\x01a"[..], &opt].concat()), formerr),
        ] {
            assert_eq!(Query::read(&bytes).err(), expected, "{what}");
        }
        let mut twice = octets(&opt);
        twice[11] = 2;
        twice.extend_from_slice(&opt);
        assert_eq!(Query::read(&twice).err(), formerr, "two OPT records");
    }

    #[test]
    fn records_that_do_not_fit_are_left_out_and_told() {
        let bytes = octets(&[]);
        let query = Query::read(&bytes).unwrap_or_else(|e| panic!("{e:?}"));
        let mut out = Vec::new();
        let mut writer = Writer::new(&query, bytes.len() + 16, &mut out);
        assert!(writer.v4(Section::Answer, Owner::At(12), 5, Ipv4Addr::LOCALHOST));
        assert!(!writer.v6(Section::Additional, Owner::At(12), 5, Ipv6Addr::LOCALHOST));
        assert!(!writer.truncated, "additional records are no loss");
        assert!(!writer.v4(Section::Answer, Owner::At(12), 5, Ipv4Addr::LOCALHOST));
        writer.finish(flag::AA, Rcode::NoError);
        assert_eq!(out.len(), bytes.len() + 16);
        assert_eq!(u16_at(&out, 2), Some(flag::QR | flag::AA | flag::TC | flag::RD | flag::RA));
        assert_eq!((u16_at(&out, 6), u16_at(&out, 10)), (Some(1), Some(0)));
    }

    #[test]
    fn names_with_loops_are_walked_once() {
        let mut bytes = vec![0; HEADER];
        bytes.extend_from_slice(&[0xc0, 12]);
        assert_eq!(skip_name(&bytes, 12), Some(14));
        assert_eq!(skip_name(&[0xc0], 0), None);
        assert_eq!(skip_name(&[0x80, 0], 0), None);
        let endless = [1_u8; 600];
        assert_eq!(skip_name(&endless, 0), None, "longer than any name");
    }
}
