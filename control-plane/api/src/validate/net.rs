//! Addresses and blocks of addresses, strictly read.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Field;
use crate::field::ErrorList;

/// An address as Go's `net.ParseIP` takes it: IPv4 octets may have leading zeros, which is told apart below.
fn loose(text: &str) -> Option<(IpAddr, bool)> {
    if let Ok(ip) = text.parse() {
        return Some((ip, false));
    }
    let octets: Vec<&str> = text.split('.').collect();
    if octets.len() != 4 || octets.iter().any(|o| o.is_empty() || o.len() > 8) {
        return None;
    }
    let plain: Vec<String> =
        octets.iter().map(|o| o.parse::<u8>().ok().map(|n| n.to_string())).collect::<Option<_>>()?;
    Some((plain.join(".").parse().ok()?, true))
}

/// Whether Go would read it as an address.
pub fn is_ip(text: &str) -> bool {
    loose(text).is_some()
}

fn mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

/// Must be an address; returns it when it could be read.
pub fn ip(f: &Field, errors: &mut ErrorList) -> Option<IpAddr> {
    let Some((ip, zeros)) = loose(f.str()) else {
        f.invalid_text(errors, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        return None;
    };
    if zeros {
        f.invalid_text(errors, "must not have leading 0s");
    }
    if mapped(ip) {
        f.invalid_text(errors, "must not be an IPv4-mapped IPv6 address");
    }
    Some(ip)
}

/// Must be a block whose address has no bits beyond the prefix.
pub fn cidr(f: &Field, errors: &mut ErrorList) -> Option<IpNet> {
    let parsed = f.str().split_once('/').and_then(|(a, p)| {
        let digits = !p.is_empty() && p.bytes().all(|c| c.is_ascii_digit());
        let (ip, zeros) = loose(a)?;
        let length = p.parse().ok().filter(|_| digits)?;
        Some((IpNet::new(ip, length).ok()?, zeros, p.len() > 1 && p.starts_with('0')))
    });
    let Some((net, zeros, long_prefix)) = parsed else {
        f.invalid_text(errors, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        return None;
    };
    if zeros {
        f.invalid_text(errors, "must not have leading 0s in IP");
    }
    if long_prefix {
        f.invalid_text(errors, "must not have leading 0s in prefix length");
    }
    if mapped(net.addr()) {
        f.invalid_text(errors, "must not have an IPv4-mapped IPv6 address");
    }
    if net.addr() != net.network() {
        f.invalid_text(errors, "must not have bits set beyond the prefix length");
    }
    Some(net)
}

/// Addresses that no backend may have: they mean the node itself or nothing.
pub fn endpoint_ip(f: &Field, errors: &mut ErrorList) {
    let Some((ip, _)) = loose(f.str()) else {
        f.invalid_text(errors, "must be a valid IP address");
        return;
    };
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    if ip.is_unspecified() {
        f.invalid_text(errors, "may not be unspecified (0.0.0.0 or ::)");
    }
    if ip.is_loopback() {
        f.invalid_text(errors, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link_local {
        f.invalid_text(errors, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_local_multicast {
        f.invalid_text(errors, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}
