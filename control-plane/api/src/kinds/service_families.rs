//! The address families of a Service: what its fields may say, and what an update may change of them.
//!
//! What depends on the cluster's ranges is settled where addresses are given away, after this.

use std::net::IpAddr;

use serde_json::Value;

use crate::field::{self, ErrorList};
use crate::validate::{Field, net};

pub const ONCE: &str = "may not change once set";

fn is_external(spec: &Value) -> bool {
    spec["type"] == "ExternalName"
}

fn is_headless(spec: &Value) -> bool {
    spec["clusterIPs"].as_array().is_some_and(|ips| ips.len() == 1 && ips[0] == "None")
}

/// `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` by themselves and beside each other.
pub fn fields(s: &Field, e: &mut ErrorList) {
    if is_external(s.value) {
        return;
    }
    let (ips, list) = (s.get("clusterIPs"), s.get("ipFamilies"));
    if !ips.is_empty() && ips.value[0].as_str().unwrap_or_default() != s.get("clusterIP").str() {
        let unset = s.get("clusterIP").is_empty();
        let words = if unset {
            "must be empty when `clusterIP` is not specified"
        } else {
            "first value must match `clusterIP`"
        };
        ips.invalid(e, words);
    }
    let mut seen: Vec<&str> = Vec::new();
    for family in list.items() {
        family.one_of(e, &["IPv4", "IPv6"]);
        if seen.contains(&family.str()) {
            family.duplicate(e);
        }
        seen.push(family.str());
    }
    s.get("ipFamilyPolicy").one_of(e, &["PreferDualStack", "RequireDualStack", "SingleStack"]);
    addresses(&ips, &list, e);
}

fn addresses(ips: &Field, list: &Field, e: &mut ErrorList) {
    let mut read: Vec<IpAddr> = Vec::new();
    for (i, ip) in ips.items().enumerate() {
        if i == 0 && ip.str() == "None" {
            if ips.len() > 1 {
                ips.invalid(e, "'None' must be the first and only value");
            }
            continue;
        }
        read.extend(net::ip(&ip, e));
    }
    if ips.len() > 2 {
        ips.invalid(e, "may only hold up to 2 values");
    }
    if read.len() != ips.len() {
        return;
    }
    if read.len() > 1 && (read.len() > 2 || read[0].is_ipv4() == read[1].is_ipv4()) {
        ips.invalid(e, "may specify no more than one IP for each IP family");
    }
    for (i, (ip, family)) in read.iter().zip(list.items()).enumerate() {
        let is = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        let wanted = family.str();
        if ["IPv4", "IPv6"].contains(&wanted) && wanted != is {
            let words = format!("expected an {wanted} value as indicated by `ipFamilies[{i}]`");
            e.push(field::invalid(&ips.path.index(i), &ips.value[i], words));
        }
    }
}

/// The first address and family stay for as long as the Service has addresses; the second may come and go.
pub fn update(s: &Field, was: &Value, e: &mut ErrorList) {
    if is_external(s.value) || is_external(was) || (is_headless(was) && is_headless(s.value)) {
        return;
    }
    let count = |list: &Value| list.as_array().map_or(0, Vec::len);
    let ips = s.get("clusterIPs");
    let (before, after) = (count(&was["clusterIPs"]), ips.len());
    if after == 0 && before > 0 {
        e.push(field::invalid(&ips.path.index(0), ips.value, "primary clusterIP can not be unset"));
    } else if before == after {
        for i in (0..before).filter(|i| ips.value[*i] != was["clusterIPs"][*i]) {
            e.push(field::invalid(&ips.path.index(i), ips.value, ONCE));
        }
    } else if before > 0 && ips.value[0] != was["clusterIPs"][0] {
        e.push(field::invalid(&ips.path.index(0), ips.value, ONCE));
    }
    if is_headless(was) != is_headless(s.value) {
        return;
    }
    let list = s.get("ipFamilies");
    let (before, after) = (count(&was["ipFamilies"]), list.len());
    // Families that the client leaves out are those of the addresses.
    if before == 0 || after == 0 {
        return;
    }
    if before == after {
        for _ in (0..before).filter(|i| list.value[*i] != was["ipFamilies"][*i]) {
            e.push(field::invalid(&list.path.index(0), list.value, ONCE));
        }
    } else if list.value[0] != was["ipFamilies"][0] {
        e.push(field::invalid(&list.path.index(0), ips.value, ONCE));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Paths and the beginnings of the words of what is refused.
    #[track_caller]
    fn compare(errors: &ErrorList, expected: &[(&str, &str)], shown: &Value) {
        let seen: Vec<(&str, &str)> =
            errors.iter().map(|error| (error.path.as_str(), error.detail.as_str())).collect();
        assert_eq!(seen.len(), expected.len(), "{shown}: {seen:?}");
        for ((path, detail), (at, words)) in seen.iter().zip(expected) {
            assert!(path == at && detail.starts_with(words), "{shown}: {seen:?}");
        }
    }

    #[test]
    fn addresses_are_one_of_each_family_and_match_what_is_declared() {
        for (spec, expected) in [
            (json!({}), vec![]),
            (json!({"clusterIP": "1.1.1.1", "clusterIPs": ["1.1.1.1", "fd00::1"]}), vec![]),
            (json!({"clusterIP": "None", "clusterIPs": ["None"], "ipFamilies": ["IPv6"]}), vec![]),
            (json!({"clusterIPs": ["1.1.1.1"]}), vec![("clusterIPs", "must be empty when")]),
            (
                json!({"clusterIP": "1.1.1.2", "clusterIPs": ["1.1.1.1"]}),
                vec![("clusterIPs", "first value must match")],
            ),
            (
                json!({"clusterIP": "1.1.1.1", "clusterIPs": ["1.1.1.1", "1.1.1.2"]}),
                vec![("clusterIPs", "may specify no more than one IP for each IP family")],
            ),
            (
                json!({"clusterIP": "1.1.1.1", "clusterIPs": ["1.1.1.1", "fd00::1"], "ipFamilies": ["IPv6", "IPv4"]}),
                vec![
                    ("clusterIPs[0]", "expected an IPv6 value as indicated by `ipFamilies[0]`"),
                    ("clusterIPs[1]", "expected an IPv4 value as indicated by `ipFamilies[1]`"),
                ],
            ),
            (json!({"ipFamilies": ["IPv4", "IPv4"]}), vec![("ipFamilies[1]", "")]),
            (json!({"ipFamilies": ["IPv5"]}), vec![("ipFamilies[0]", "")]),
            (json!({"ipFamilyPolicy": "Both"}), vec![("ipFamilyPolicy", "")]),
        ] {
            let mut errors = ErrorList::new();
            fields(&Field::root(&spec), &mut errors);
            compare(&errors, &expected, &spec);
        }
    }

    #[test]
    fn an_update_changes_the_second_address_alone() {
        let one = || json!({"clusterIPs": ["1.1.1.1"], "ipFamilies": ["IPv4"]});
        let two = || json!({"clusterIPs": ["1.1.1.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"]});
        let headless = || json!({"clusterIPs": ["None"], "ipFamilies": ["IPv4"]});
        for (old, new, expected) in [
            (one(), two(), vec![]),
            (two(), one(), vec![]),
            (two(), two(), vec![]),
            (one(), headless(), vec![("clusterIPs[0]", ONCE)]),
            (headless(), json!({"clusterIPs": ["None"], "ipFamilies": ["IPv6"]}), vec![]),
            (one(), json!({"type": "ExternalName"}), vec![]),
            (one(), json!({}), vec![("clusterIPs[0]", "primary clusterIP can not be unset")]),
            (
                one(),
                json!({"clusterIPs": ["1.1.1.2", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"]}),
                vec![("clusterIPs[0]", ONCE)],
            ),
            (
                two(),
                json!({"clusterIPs": ["1.1.1.1", "fd00::2"], "ipFamilies": ["IPv4", "IPv6"]}),
                vec![("clusterIPs[1]", ONCE)],
            ),
            (
                two(),
                json!({"clusterIPs": ["1.1.1.1"], "ipFamilies": ["IPv6"]}),
                vec![("ipFamilies[0]", ONCE)],
            ),
        ] {
            let mut errors = ErrorList::new();
            update(&Field::root(&new), &old, &mut errors);
            compare(&errors, &expected, &new);
        }
    }
}
