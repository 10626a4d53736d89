//! The slow path: questions that an upstream server answers, and aliases whose target is asked for in turn.

use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use hickory_proto::op::Message;
use hickory_proto::rr::{Name as WireName, RData, Record, rdata::CNAME};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};
use parking_lot::RwLock;

use crate::answer::{Area, Dice, Outcome, TTL, answer};
use crate::forward::{ForwardError, Forwarder, Question};
use crate::message::{
    HEADER, Malformed, Query, Rcode, TCP_PAYLOAD, flag, query_octets, u16_at, write_empty, write_opt,
    write_refusal,
};
use crate::name::{Asked, Name};
use crate::zone::Zone;

/// Aliases that are followed before the chain counts as broken.
const MAX_ALIASES: usize = 8;

/// What answers need.
#[derive(Clone)]
pub struct Resolver {
    /// The cluster's names.
    pub zone: Arc<RwLock<Zone>>,
    /// Everybody else's.
    pub forwarder: Arc<Forwarder>,
}

/// What a query came to at once.
#[derive(Debug, PartialEq, Eq)]
pub enum First {
    /// The answer is written. The type is 0 when the question could not be read.
    Answered(Area, u16, Rcode),
    /// Nothing is sent.
    Ignored,
    /// [`Resolver::finish`] has to be asked.
    Slow,
}

/// How a query came, and how long an answer it may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// Over a connection.
    Tcp,
}

impl Transport {
    fn limit(self, query: &Query<'_>) -> usize {
        match self {
            Transport::Udp => query.udp_limit(),
            Transport::Tcp => TCP_PAYLOAD,
        }
    }
}

impl Resolver {
    /// Answers from memory what can be: `zone` is this resolver's, locked by the caller for a whole batch.
    pub fn first(
        &self,
        zone: &Zone,
        bytes: &[u8],
        transport: Transport,
        now: Instant,
        dice: &mut Dice,
        out: &mut Vec<u8>,
    ) -> First {
        let query = match Query::read(bytes) {
            Ok(query) => query,
            Err(Malformed::Ignore) => return First::Ignored,
            Err(Malformed::Refuse(rcode)) => {
                write_refusal(bytes, rcode, out);
                return First::Answered(Area::Upstream, 0, rcode);
            }
        };
        let limit = transport.limit(&query);
        match answer(zone, &query, limit, transport == Transport::Tcp, dice, out) {
            Outcome::Answered(area, rcode) => First::Answered(area, query.kind, rcode),
            Outcome::Chase(_) => First::Slow,
            Outcome::Forward => match self.forwarder.cache.answer(&query, now, limit, out) {
                Some(rcode) => First::Answered(Area::Upstream, query.kind, rcode),
                None => First::Slow,
            },
        }
    }

    /// Answers what [`Resolver::first`] could not; None when the octets are no query.
    pub async fn finish(&self, bytes: &[u8], transport: Transport) -> Option<(Vec<u8>, Area, u16, Rcode)> {
        let query = Query::read(bytes).ok()?;
        let limit = transport.limit(&query);
        let mut out = Vec::new();
        let found = self.lookup(query.name.clone(), &query, 0).await;
        let answered = match &found {
            Ok(Looked { area, body: Body::Octets(octets), rcode, .. }) => {
                write_octets(&query, octets, *area, limit, transport, &mut out).then_some((*area, *rcode))
            }
            Ok(Looked { area, body: Body::Kept(kept, age), rcode, .. }) => {
                kept.write(&query, *age, limit, &mut out);
                Some((*area, *rcode))
            }
            Err(error) => {
                tracing::debug!(%error, name = ?query.name.wire().escape_ascii().to_string(), "no answer");
                None
            }
        };
        let (area, rcode) = answered.unwrap_or_else(|| {
            write_empty(&query, Rcode::ServFail, &mut out);
            (Area::Upstream, Rcode::ServFail)
        });
        Some((out, area, query.kind, rcode))
    }

    /// Looks a name up for a query, through aliases.
    fn lookup<'a>(
        &'a self,
        name: Asked,
        query: &'a Query<'a>,
        depth: usize,
    ) -> BoxFuture<'a, Result<Looked, LookupError>> {
        async move {
            if depth > MAX_ALIASES {
                return Err(LookupError::Aliases);
            }
            let dnssec = query.edns.is_some_and(|edns| edns.dnssec);
            let checking_disabled = query.flags & flag::CD != 0;
            let octets = query_octets(query.id, name.wire(), query.kind, checking_disabled, dnssec);
            let inner = Query::read(&octets).map_err(|_| LookupError::Message)?;
            let mut out = Vec::new();
            let outcome =
                answer(&self.zone.read(), &inner, TCP_PAYLOAD, true, &mut Dice::default(), &mut out);
            match outcome {
                Outcome::Answered(area, rcode) => Ok(Looked { area, body: Body::Octets(out), rcode }),
                Outcome::Forward => {
                    let kind = query.kind;
                    let question = Question { name, kind, checking_disabled, dnssec };
                    let (kept, age) = self.forwarder.ask(question).await?;
                    let rcode = kept.rcode();
                    Ok(Looked { area: Area::Upstream, body: Body::Kept(kept, age), rcode })
                }
                Outcome::Chase(target) => {
                    let asked = Asked::read(target.wire()).ok_or(LookupError::Message)?;
                    let found = self.lookup(asked, query, depth + 1).await?;
                    let body = Body::Octets(with_alias(name.wire(), &target, inner.question, &found)?);
                    Ok(Looked { area: Area::Cluster, body, rcode: found.rcode })
                }
            }
        }
        .boxed()
    }
}

/// What was found.
struct Looked {
    area: Area,
    body: Body,
    rcode: Rcode,
}

enum Body {
    /// A message, as large as it comes.
    Octets(Vec<u8>),
    /// An upstream server's, so many seconds old.
    Kept(Arc<crate::cache::Kept>, u32),
}

#[derive(Debug, thiserror::Error)]
enum LookupError {
    #[error(transparent)]
    Forward(#[from] ForwardError),
    #[error("more than {MAX_ALIASES} aliases")]
    Aliases,
    #[error("a message does not hold together")]
    Message,
}

/// The message that says `name` is an alias of `target`, and then what was found for that.
fn with_alias(name: &[u8], target: &Name, question: &[u8], found: &Looked) -> Result<Vec<u8>, LookupError> {
    let octets = match &found.body {
        Body::Octets(octets) => octets,
        Body::Kept(kept, _) => kept.octets(),
    };
    let age = if let Body::Kept(_, age) = &found.body { *age } else { 0 };
    let mut message = Message::from_vec(octets).map_err(|_| LookupError::Message)?;
    message.edns = None;
    for record in message.answers.iter_mut().chain(&mut message.authorities).chain(&mut message.additionals) {
        record.ttl = record.ttl.saturating_sub(age);
    }
    let wire = |octets: &[u8]| WireName::from_bytes(octets).map_err(|_| LookupError::Message);
    let alias = Record::from_rdata(wire(name)?, TTL, RData::CNAME(CNAME(wire(target.wire())?)));
    message.answers.insert(0, alias);
    let query = hickory_proto::op::Query::read(&mut BinDecoder::new(question));
    message.queries = vec![query.map_err(|_| LookupError::Message)?];
    message.to_vec().map_err(|_| LookupError::Message)
}

/// Writes a composed message as the answer to `query`; without records and marked when it does not fit. False when
/// it does not belong to the query.
fn write_octets(
    query: &Query<'_>,
    octets: &[u8],
    area: Area,
    limit: usize,
    transport: Transport,
    out: &mut Vec<u8>,
) -> bool {
    let kept = Message::from_vec(octets).map(|mut message| {
        message.edns = None;
        message.to_vec()
    });
    let Ok(Ok(octets)) = kept else { return false };
    let question_end = HEADER + query.question.len();
    let reserve = if query.edns.is_some() { 11 } else { 0 };
    let fits = octets.len() + reserve <= limit;
    out.clear();
    out.extend_from_slice(&octets);
    if !fits {
        out.truncate(question_end);
        out.iter_mut().skip(6).take(6).for_each(|octet| *octet = 0);
    }
    let Some(question) = out.get_mut(HEADER..question_end) else { return false };
    question.copy_from_slice(query.question);
    let truncated = if fits || transport == Transport::Tcp { 0 } else { flag::TC };
    let authoritative = if area == Area::Upstream { 0 } else { flag::AA };
    let rcode = u16_at(&octets, 2).unwrap_or_default() & 0x0f;
    let flags = flag::QR | flag::RA | authoritative | truncated | rcode | query.flags & (flag::RD | flag::CD);
    for (at, value) in [(0, query.id), (2, flags)] {
        if let Some(field) = out.get_mut(at..at + 2) {
            field.copy_from_slice(&value.to_be_bytes());
        }
    }
    if let Some(edns) = query.edns {
        let count = u16_at(out, 10).unwrap_or_default().saturating_add(1);
        if let Some(field) = out.get_mut(10..12) {
            field.copy_from_slice(&count.to_be_bytes());
        }
        write_opt(out, edns.dnssec, Rcode::NoError);
    }
    true
}
