//! Pools: runs of addresses that Services of type LoadBalancer are given. Pure.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// Bytes of pool text that are read; more is refused.
const LONGEST: usize = 64 * 1024;

/// A run of addresses of one family, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    first: IpAddr,
    last: IpAddr,
}

impl Span {
    /// Reads `192.0.2.0/28`, `192.0.2.5-192.0.2.9` or a single address.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let address =
            |text: &str| text.trim().parse::<IpAddr>().map_err(|_| format!("{text:?} is not an IP address"));
        let span = if text.contains('/') {
            let net: IpNet = text.parse().map_err(|_| format!("{text:?} is not a CIDR"))?;
            if net.addr() != net.network() {
                return Err(format!("{text:?} has bits set beyond the prefix length"));
            }
            Self { first: net.network(), last: last_of(&net) }
        } else if let Some((first, last)) = text.split_once('-') {
            Self { first: address(first)?, last: address(last)? }
        } else {
            let only = address(text)?;
            Self { first: only, last: only }
        };
        span.check(text).map(|()| span)
    }

    fn check(&self, text: &str) -> Result<(), String> {
        if self.first.is_ipv4() != self.last.is_ipv4() {
            return Err(format!("{text:?} begins in one address family and ends in another"));
        }
        if self.first > self.last {
            return Err(format!("{text:?} ends before it begins"));
        }
        for special in SPECIAL {
            let reserved: Option<IpNet> = special.parse().ok();
            if reserved.is_some_and(|net| self.overlaps(&net)) {
                return Err(format!("{text:?} overlaps {special}, which no Service can be reached at"));
            }
        }
        Ok(())
    }

    /// Whether an address lies in it.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.first.is_ipv4() && self.first <= ip && ip <= self.last
    }

    /// Whether it shares an address with a range.
    #[must_use]
    pub fn overlaps(&self, net: &IpNet) -> bool {
        let same = self.first.is_ipv4() == net.addr().is_ipv4();
        same && self.first <= last_of(net) && net.network() <= self.last
    }

    /// Whether it is of IPv4.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.first.is_ipv4()
    }

    /// The lowest address that `taken`, in ascending order and without repetition, does not hold.
    pub fn first_free(&self, taken: impl Iterator<Item = IpAddr>) -> Option<IpAddr> {
        let mut candidate = self.first;
        for ip in taken {
            if ip != candidate {
                break;
            }
            candidate = next(candidate).filter(|next| *next <= self.last)?;
        }
        Some(candidate)
    }

    /// Both ends, for looking up what is taken between them.
    #[must_use]
    pub fn ends(&self) -> (IpAddr, IpAddr) {
        (self.first, self.last)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Ranges that mean this host, one link, many hosts or none.
const SPECIAL: &[&str] = &[
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/3",
    "::/127",
    "::ffff:0:0/96",
    "fe80::/10",
    "ff00::/8",
];

/// The last address of a range, its broadcast address included: nothing on a link answers for a pool as a whole.
fn last_of(net: &IpNet) -> IpAddr {
    match net {
        IpNet::V4(net) => net.broadcast().into(),
        IpNet::V6(net) => net.broadcast().into(),
    }
}

fn next(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).checked_add(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(ip) => u128::from(ip).checked_add(1).map(|bits| IpAddr::V6(bits.into())),
    }
}

/// Reads the pools of a ConfigMap: spans between commas or on lines of their own; `#` begins a remark.
///
/// # Errors
/// The first span that cannot be read: a half-read text would give away less than was meant.
pub fn parse(text: &str) -> Result<Vec<Span>, String> {
    if text.len() > LONGEST {
        return Err(format!("longer than {LONGEST} bytes"));
    }
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let words = lines.flat_map(|line| line.split(',')).map(str::trim).filter(|word| !word.is_empty());
    words.map(Span::parse).collect()
}

/// The first span that shares addresses with the cluster's own ranges, in words.
#[must_use]
pub fn overlap(spans: &[Span], pods: &[IpNet], services: &[IpNet]) -> Option<String> {
    let ranges = pods.iter().map(|net| ("cluster", net)).chain(services.iter().map(|net| ("service", net)));
    let mut clashes = ranges.flat_map(|(what, net)| {
        spans.iter().filter(|span| span.overlaps(net)).map(move |span| (what, net, span))
    });
    clashes.next().map(|(what, net, span)| format!("pool {span} overlaps the {what} range {net}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_ranges_in_every_notation() {
        for (text, expected) in [
            ("192.0.2.0/30", Ok("192.0.2.0-192.0.2.3")),
            (" 192.0.2.5 - 192.0.2.9 ", Ok("192.0.2.5-192.0.2.9")),
            ("192.0.2.7", Ok("192.0.2.7-192.0.2.7")),
            ("2001:db8::/126", Ok("2001:db8::-2001:db8::3")),
            ("fd00::1-fd00::ff", Ok("fd00::1-fd00::ff")),
            ("192.0.2.1/30", Err("bits set beyond")),
            ("192.0.2.0/33", Err("not a CIDR")),
            ("192.0.2.9-192.0.2.5", Err("ends before")),
            ("192.0.2.9-fd00::1", Err("another")),
            ("x", Err("not an IP address")),
            ("", Err("not an IP address")),
            ("127.0.0.0/30", Err("overlaps 127.0.0.0/8")),
            ("0.0.0.0/0", Err("overlaps")),
            ("fe80::/64", Err("overlaps fe80::/10")),
        ] {
            let seen = Span::parse(text).map(|span| span.to_string());
            match (&seen, expected) {
                (Ok(span), Ok(expected)) => assert_eq!(span, expected),
                (Err(error), Err(words)) => assert!(error.contains(words), "{text}: {error}"),
                _ => panic!("{text}: {seen:?}"),
            }
        }
    }

    #[test]
    fn a_pool_text_is_lines_and_lists_and_one_bad_word_spoils_it() {
        let spans = parse("192.0.2.0/30, 198.51.100.1\n# a remark\nfd00::/120 # and one more\n\n").unwrap();
        assert_eq!(spans.len(), 3);
        assert_eq!(parse("").unwrap(), []);
        assert!(parse("192.0.2.0/30, nonsense").unwrap_err().contains("nonsense"));
        assert!(parse(&"192.0.2.1,".repeat(10_000)).is_err());
    }

    #[test]
    fn the_lowest_free_address_is_found_between_the_taken_ones() {
        let span = Span::parse("192.0.2.1-192.0.2.3").unwrap();
        for (taken, expected) in [
            (vec![], Some("192.0.2.1")),
            (vec!["192.0.2.2"], Some("192.0.2.1")),
            (vec!["192.0.2.1", "192.0.2.3"], Some("192.0.2.2")),
            (vec!["192.0.2.1", "192.0.2.2"], Some("192.0.2.3")),
            (vec!["192.0.2.1", "192.0.2.2", "192.0.2.3"], None),
        ] {
            let free = span.first_free(taken.iter().map(|text| text.parse().unwrap()));
            assert_eq!(free, expected.map(|text| text.parse().unwrap()), "{taken:?}");
        }
        let last = Span::parse("ffff::/128").err();
        assert!(last.is_some());
    }

    #[test]
    fn pools_stay_out_of_the_clusters_ranges() {
        let net = |text: &str| vec![text.parse().unwrap()];
        let spans = parse("192.0.2.0/24, 10.96.255.0/24").unwrap();
        assert_eq!(overlap(&spans, &net("10.244.0.0/16"), &net("10.97.0.0/16")), None);
        let words = overlap(&spans, &net("10.244.0.0/16"), &net("10.96.0.0/16")).unwrap();
        assert_eq!(words, "pool 10.96.255.0-10.96.255.255 overlaps the service range 10.96.0.0/16");
        assert!(overlap(&spans, &net("192.0.2.128/25"), &[]).unwrap().contains("cluster range"));
    }
}
