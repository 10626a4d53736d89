//! Answers of upstream servers, kept as octets for as long as their TTLs say, within bounds of number and size.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;

use crate::message::{HEADER, Query, Rcode, flag, kind, record_at, skip_name, u16_at, write_opt};

/// Most answers that are kept.
pub const MAX_ENTRIES: usize = 10_000;
/// Most octets of kept answers.
pub const MAX_OCTETS: usize = 16 << 20;
/// Longest that an answer is kept, whatever its TTLs say.
const LONGEST: Duration = Duration::from_secs(3600);
/// Longest that a negative answer is kept.
const LONGEST_NEGATIVE: Duration = Duration::from_secs(900);
/// How many entries are looked at to find one to give up.
const SAMPLE: usize = 5;

/// What a kept answer answers: name, type, and the flags that change an answer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Key(Box<[u8]>);

/// Longest key: a name, a type, the flags.
const KEY: usize = crate::name::MAX_NAME + 3;

/// A key on the stack, to look up with.
pub struct KeyBytes {
    bytes: [u8; KEY],
    length: usize,
}

impl KeyBytes {
    /// The key of a question. `name` is a lower-case wire name of at most 255 octets.
    #[must_use]
    pub fn new(name: &[u8], kind: u16, checking_disabled: bool, dnssec: bool) -> KeyBytes {
        let [high, low] = kind.to_be_bytes();
        let tail = [high, low, u8::from(checking_disabled) | u8::from(dnssec) << 1];
        let mut key = KeyBytes { bytes: [0; KEY], length: 0 };
        for (to, from) in key.bytes.iter_mut().zip(name.iter().chain(&tail)) {
            *to = *from;
            key.length += 1;
        }
        key
    }

    /// The key of a query.
    #[must_use]
    pub fn of(query: &Query<'_>) -> KeyBytes {
        let dnssec = query.edns.is_some_and(|edns| edns.dnssec);
        KeyBytes::new(query.name.wire(), query.kind, query.flags & flag::CD != 0, dnssec)
    }

    fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// The key, kept.
    #[must_use]
    pub fn to_key(&self) -> Key {
        Key(self.as_slice().into())
    }
}

impl std::borrow::Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// An upstream server's answer.
#[derive(Debug)]
pub struct Kept {
    /// A whole message without an OPT record, whose question starts after the header.
    octets: Vec<u8>,
    /// Where its TTLs are.
    ttls: Vec<u32>,
    born: Instant,
    life: Duration,
    /// Seconds after the cache's start at which it was last given out.
    used: AtomicU32,
}

impl Kept {
    /// Takes a message that has one question and no OPT record; None when it does not hold together.
    #[must_use]
    pub fn new(octets: Vec<u8>, now: Instant) -> Option<Kept> {
        let counts = [u16_at(&octets, 6)?, u16_at(&octets, 8)?, u16_at(&octets, 10)?];
        let mut at = skip_name(&octets, HEADER)? + 4;
        let (mut ttls, mut least, mut negative) = (Vec::new(), u32::MAX, None);
        for (section, count) in counts.into_iter().enumerate() {
            for _ in 0..count {
                let place = record_at(&octets, at)?;
                let ttl = u32_at(&octets, place.ttl)?;
                ttls.push(u32::try_from(place.ttl).ok()?);
                least = least.min(ttl);
                if section == 1 && place.kind == kind::SOA {
                    // The last number of its data (RFC 2308, 5).
                    negative = Some(ttl.min(u32_at(&octets, place.end.checked_sub(4)?)?));
                }
                at = place.end;
            }
        }
        let rcode = octets.get(3)? & 0x0f;
        let seconds = |n: u32| Duration::from_secs(u64::from(n));
        let life = match (rcode, counts[0]) {
            (0, 1..) => seconds(least).min(LONGEST),
            // Without a SOA nothing says how long the name will not be there.
            (0 | 3, _) => negative.map_or(Duration::ZERO, seconds).min(LONGEST_NEGATIVE),
            _ => Duration::ZERO,
        };
        Some(Kept { octets, ttls, born: now, life, used: AtomicU32::new(0) })
    }

    /// The whole message.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// Its response code; those above 15 count as a failure.
    #[must_use]
    pub fn rcode(&self) -> Rcode {
        match self.octets.get(3).map(|octet| octet & 0x0f) {
            Some(0) => Rcode::NoError,
            Some(1) => Rcode::FormErr,
            Some(3) => Rcode::NxDomain,
            Some(4) => Rcode::NotImp,
            Some(5) => Rcode::Refused,
            _ => Rcode::ServFail,
        }
    }

    /// Seconds that passed since it came, if it is still to be given out.
    fn age(&self, now: Instant) -> Option<u32> {
        let age = now.saturating_duration_since(self.born);
        (age < self.life).then_some(age.as_secs() as u32)
    }

    /// Writes it as the answer to `query`, `age` seconds old, in at most `limit` octets: without records and marked
    /// as truncated when there are too many.
    pub fn write(&self, query: &Query<'_>, age: u32, limit: usize, out: &mut Vec<u8>) {
        const OPT: usize = 11;
        out.clear();
        let reserve = if query.edns.is_some() { OPT } else { 0 };
        let fits = self.octets.len() + reserve <= limit;
        if fits {
            out.extend_from_slice(&self.octets);
            for at in &self.ttls {
                let Some(field) = out.get_mut(*at as usize..*at as usize + 4) else { continue };
                let Ok(octets) = <[u8; 4]>::try_from(&*field) else { continue };
                field.copy_from_slice(&u32::from_be_bytes(octets).saturating_sub(age).to_be_bytes());
            }
        } else {
            out.extend_from_slice(self.octets.get(..HEADER).unwrap_or_default());
            out.resize(HEADER + query.question.len(), 0);
            out.iter_mut().skip(6).take(6).for_each(|octet| *octet = 0);
        }
        // The question in the spelling of whoever asks; its length is that of the kept one.
        if let Some(question) = out.get_mut(HEADER..HEADER + query.question.len()) {
            question.copy_from_slice(query.question);
        }
        let kept = u16_at(&self.octets, 2).unwrap_or_default() & (flag::AD | 0x0f);
        let truncated = if fits { 0 } else { flag::TC };
        let flags = flag::QR | flag::RA | truncated | kept | (query.flags & (flag::RD | flag::CD));
        for (at, value) in [(0, query.id), (2, flags)] {
            if let Some(field) = out.get_mut(at..at + 2) {
                field.copy_from_slice(&value.to_be_bytes());
            }
        }
        if let Some(edns) = query.edns {
            let additional = u16_at(out, 10).unwrap_or_default().saturating_add(1);
            if let Some(field) = out.get_mut(10..12) {
                field.copy_from_slice(&additional.to_be_bytes());
            }
            write_opt(out, edns.dnssec, Rcode::NoError);
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[derive(Default)]
struct Slots {
    /// Key -> number of its slot.
    index: HashMap<Key, usize>,
    slots: Vec<(Key, Arc<Kept>)>,
    octets: usize,
}

/// The answers that are kept.
pub struct Cache {
    slots: RwLock<Slots>,
    start: Instant,
    entries: usize,
    octets: usize,
    /// Answers given out of it.
    pub hits: AtomicU64,
    /// Questions it could not answer.
    pub misses: AtomicU64,
}

impl Cache {
    /// An empty cache with these bounds.
    #[must_use]
    pub fn new(entries: usize, octets: usize, start: Instant) -> Cache {
        let (hits, misses) = (AtomicU64::new(0), AtomicU64::new(0));
        Cache { slots: RwLock::default(), start, entries, octets, hits, misses }
    }

    /// How many answers and octets of them are kept.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        let slots = self.slots.read();
        (slots.slots.len(), slots.octets)
    }

    /// Writes the kept answer to `query`, if there is one that still lives; says its response code.
    pub fn answer(&self, query: &Query<'_>, now: Instant, limit: usize, out: &mut Vec<u8>) -> Option<Rcode> {
        let key = KeyBytes::of(query);
        let slots = self.slots.read();
        let found = slots.index.get(key.as_slice()).and_then(|at| slots.slots.get(*at));
        let Some((kept, age)) = found.and_then(|(_, kept)| Some((kept, kept.age(now)?))) else {
            self.misses.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        kept.write(query, age, limit, out);
        kept.used.store(self.second(now), Ordering::Relaxed);
        self.hits.fetch_add(1, Ordering::Relaxed);
        Some(kept.rcode())
    }

    /// The kept answer with this key and its age, if it still lives.
    #[must_use]
    pub fn get(&self, key: &KeyBytes, now: Instant) -> Option<(Arc<Kept>, u32)> {
        let slots = self.slots.read();
        let (_, kept) = slots.index.get(key.as_slice()).and_then(|at| slots.slots.get(*at))?;
        Some((kept.clone(), kept.age(now)?))
    }

    fn second(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.start).as_secs() as u32
    }

    /// Keeps an answer, in place of older ones when the bounds are reached.
    pub fn put(&self, key: Key, kept: Arc<Kept>, now: Instant) {
        let size = kept.octets.len();
        if kept.life.is_zero() || size > self.octets / 8 {
            return;
        }
        kept.used.store(self.second(now), Ordering::Relaxed);
        let mut slots = self.slots.write();
        if let Some(at) = slots.index.get(&key).copied() {
            slots.remove(at);
        }
        while slots.slots.len() >= self.entries || slots.octets + size > self.octets {
            let Some(at) = slots.worst(now) else { return };
            slots.remove(at);
        }
        let at = slots.slots.len();
        slots.octets += size;
        slots.index.insert(key.clone(), at);
        slots.slots.push((key, kept));
    }

    /// Forgets everything, as other servers may answer otherwise.
    pub fn clear(&self) {
        *self.slots.write() = Slots::default();
    }
}

impl Slots {
    fn remove(&mut self, at: usize) {
        if at >= self.slots.len() {
            return;
        }
        let (key, kept) = self.slots.swap_remove(at);
        self.octets -= kept.octets.len();
        self.index.remove(&key);
        // What was the last slot has this number now.
        if let Some((moved, _)) = self.slots.get(at)
            && let Some(number) = self.index.get_mut(moved)
        {
            *number = at;
        }
    }

    /// Of a few slots, one that is over, else the one not used for the longest.
    fn worst(&self, now: Instant) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let sample = (0..SAMPLE).map(|_| rand::random_range(0..self.slots.len()));
        sample.min_by_key(|at| {
            let kept = self.slots.get(*at).map(|(_, kept)| kept);
            kept.map(|kept| (kept.age(now).is_some(), kept.used.load(Ordering::Relaxed)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::query_octets;

    fn name(text: &str) -> crate::name::Name {
        crate::name::Name::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    /// A response to `query_octets` with A records, or with a SOA whose minimum is `ttl`.
    fn response(of: &str, rcode: u8, addresses: u16, ttl: u32) -> Vec<u8> {
        let mut out = query_octets(0, name(of).wire(), kind::A, false, false);
        out.truncate(out.len() - 11);
        (out[2], out[3], out[11]) = (0x81, 0x80 | rcode, 0);
        out[6..8].copy_from_slice(&addresses.to_be_bytes());
        for i in 0..addresses {
            out.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
            out.extend_from_slice(&ttl.to_be_bytes());
            out.extend_from_slice(&[0, 4, 10, 0]);
            out.extend_from_slice(&i.to_be_bytes());
        }
        if addresses == 0 {
            out[9] = 1;
            out.extend_from_slice(&[0xc0, 12, 0, 6, 0, 1, 0, 1, 0, 0, 0, 22, 0, 0]);
            out.extend_from_slice(&[0; 16]);
            out.extend_from_slice(&ttl.to_be_bytes());
        }
        out
    }

    #[test]
    fn answers_age_and_die() {
        let start = Instant::now();
        let cache = Cache::new(10, 10_000, start);
        let bytes = query_octets(7, name("a.example").wire(), kind::A, false, false);
        let mut upper = bytes.clone();
        upper[13] = b'A';
        let query = Query::read(&upper).unwrap_or_else(|e| panic!("{e:?}"));
        let mut out = Vec::new();
        assert_eq!(cache.answer(&query, start, 512, &mut out), None);
        let kept = Kept::new(response("a.example", 0, 2, 30), start).expect("a message");
        cache.put(KeyBytes::of(&query).to_key(), Arc::new(kept), start);
        for (seconds, expected) in [(0, Some(30)), (10, Some(20)), (29, Some(1)), (30, None)] {
            let now = start + Duration::from_secs(seconds);
            let answered = cache.answer(&query, now, 512, &mut out);
            assert_eq!(answered.is_some(), expected.is_some(), "{seconds}");
            if let Some(ttl) = expected {
                let place = record_at(&out, 12 + query.question.len()).expect("a record");
                assert_eq!(u32_at(&out, place.ttl), Some(ttl), "{seconds}");
                assert_eq!(&out[..2], [0, 7]);
                assert_eq!(&out[12..12 + query.question.len()], query.question, "the spelling is kept");
            }
        }
        assert_eq!((cache.hits.into_inner(), cache.misses.into_inner()), (3, 2));
    }

    #[test]
    fn negative_answers_live_as_their_soa_says() {
        let now = Instant::now();
        for (rcode, ttl, life) in [(3, 30, 30), (0, 30, 30), (3, 100_000, 900), (2, 30, 0), (5, 30, 0)] {
            let kept = Kept::new(response("a.example", rcode, 0, ttl), now).expect("a message");
            assert_eq!(kept.life.as_secs(), life, "{rcode} {ttl}");
        }
        let kept = Kept::new(response("a.example", 0, 1, 100_000), now).expect("a message");
        assert_eq!(kept.life, LONGEST);
        let mut without_soa = response("a.example", 3, 0, 30);
        without_soa.truncate(without_soa.len() - 34);
        without_soa[9] = 0;
        assert_eq!(Kept::new(without_soa, now).map(|kept| kept.life), Some(Duration::ZERO));
    }

    #[test]
    fn messages_cut_at_any_length_are_not_kept() {
        let whole = response("a.example", 0, 2, 30);
        for length in 0..whole.len() {
            assert!(Kept::new(whole[..length].to_vec(), Instant::now()).is_none(), "{length}");
        }
    }

    #[test]
    fn what_does_not_fit_is_marked() {
        let now = Instant::now();
        let kept = Kept::new(response("a.example", 0, 60, 30), now).expect("a message");
        let bytes = query_octets(7, name("a.example").wire(), kind::A, false, false);
        let query = Query::read(&bytes).unwrap_or_else(|e| panic!("{e:?}"));
        let mut out = Vec::new();
        kept.write(&query, 0, 512, &mut out);
        assert_eq!(out.len(), bytes.len());
        assert_ne!(u16_at(&out, 2).expect("flags") & flag::TC, 0);
        assert_eq!((u16_at(&out, 6), u16_at(&out, 10)), (Some(0), Some(1)));
        kept.write(&query, 0, 65_535, &mut out);
        assert_eq!(u16_at(&out, 6), Some(60));
    }

    #[test]
    fn bounds_hold() {
        let now = Instant::now();
        for (entries, octets) in [(20, 1 << 20), (1000, 1000)] {
            let cache = Cache::new(entries, octets, now);
            for i in 0..200 {
                let of = format!("n{i}.example");
                let key = KeyBytes::new(name(&of).wire(), kind::A, false, false);
                let kept = Kept::new(response(&of, 0, 1, 30), now).expect("a message");
                cache.put(key.to_key(), Arc::new(kept), now);
                assert!(cache.get(&key, now).is_some(), "what came last is there");
                let (count, size) = cache.sizes();
                assert!(count <= entries && size <= octets, "{count} {size}");
            }
            let slots = cache.slots.read();
            assert_eq!(slots.index.len(), slots.slots.len());
            for (key, at) in &slots.index {
                assert_eq!(&slots.slots[*at].0, key);
            }
        }
    }
}
