//! From what an earlier run left to what is planned now, under traffic. Pure.
//!
//! A verdict comes from two maps: which identity the peer has, and what the pod's ruleset says to that identity. A run
//! that goes on where it was adds the rules for both sides of a change first. One that starts anew does not know what
//! the rulesets and identities of before meant: between its own identities and the rulesets of before, and the other way
//! round, there is no rule, and what both allow would be dropped. So every prefix whose identity changes is first given
//! a number of its own, to which the rulesets of before say what they said to its old identity, and those of now what
//! they say to its new one. Then pods can change over one by one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use fairlead_abi::{Be32, Rule};
use zerocopy::IntoBytes;

use super::{Plan, identity::hashed};
use crate::maps::{
    prefix_key,
    table::{AddrPrefix, RulePrefix},
};

/// What to write before any pod obeys another ruleset: rules, then identities.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Bridge {
    /// Entries to add to RULES.
    pub rules: Vec<(RulePrefix, Rule)>,
    /// Entries to write to IDENTITIES.
    pub identities: Vec<(AddrPrefix, u32)>,
}

/// Identities by prefix, to be asked for the longest that holds.
struct Assigned<'a> {
    exact: &'a HashMap<AddrPrefix, u32>,
    lengths: BTreeSet<u32>,
}

impl<'a> Assigned<'a> {
    fn new(exact: &'a HashMap<AddrPrefix, u32>) -> Self {
        Assigned { exact, lengths: exact.keys().map(|prefix| prefix.length).collect() }
    }

    /// The identity that addresses in a prefix have; 0 is none.
    fn of(&self, prefix: AddrPrefix) -> u32 {
        let around = self.lengths.range(..=prefix.length).rev();
        let mut found = around.filter_map(|length| self.exact.get(&shortened(prefix, *length)).copied());
        found.next().unwrap_or(0)
    }
}

/// The prefix of that length around another.
fn shortened(prefix: AddrPrefix, length: u32) -> AddrPrefix {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(prefix.addr.as_bytes());
    let mask = u128::MAX.checked_shl(128_u32.saturating_sub(length)).unwrap_or(0);
    let kept = std::net::Ipv6Addr::from(u128::from_be_bytes(bytes) & mask);
    AddrPrefix { length, addr: fairlead_abi::Addr::from(kept) }
}

/// What leads from the entries of an earlier run to a plan that knows nothing of them.
#[must_use]
pub fn bridge(
    identities: &HashMap<AddrPrefix, u32>,
    rules: &HashMap<RulePrefix, Rule>,
    plan: &Plan,
) -> Bridge {
    let mut bridge = Bridge::default();
    if rules.is_empty() {
        // No pod obeys anything yet.
        return bridge;
    }
    let wanted: HashMap<AddrPrefix, u32> =
        plan.set_identities.iter().map(|(prefix, number)| (prefix_key(*prefix), *number)).collect();
    let (before, now) = (Assigned::new(identities), Assigned::new(&wanted));
    let mut taken: HashSet<u32> = identities.values().chain(wanted.values()).copied().collect();
    let mut numbers: BTreeMap<(u32, u32), u32> = BTreeMap::new();
    for prefix in identities.keys().chain(wanted.keys().filter(|prefix| !identities.contains_key(prefix))) {
        let pair = (before.of(*prefix), now.of(*prefix));
        if pair.0 == pair.1 {
            continue;
        }
        let number = *numbers.entry(pair).or_insert_with(|| {
            let mut number = hashed(&format!("bridge {} {}", pair.0, pair.1));
            while number == 0 || !taken.insert(number) {
                number = number.wrapping_add(1);
            }
            number
        });
        bridge.identities.push((*prefix, number));
    }
    let known: HashSet<u32> = plan.add_rules.iter().map(|((_, key), _)| key.ruleset.get()).collect();
    let mut said: BTreeMap<u32, Vec<(RulePrefix, Rule)>> = BTreeMap::new();
    for (prefix, rule) in rules.iter().filter(|(prefix, _)| !known.contains(&prefix.key.ruleset.get())) {
        said.entry(prefix.key.identity.get()).or_default().push((*prefix, *rule));
    }
    let mut says: BTreeMap<u32, Vec<(RulePrefix, Rule)>> = BTreeMap::new();
    for ((length, key), rule) in &plan.add_rules {
        let prefix = RulePrefix { length: *length, key: *key };
        says.entry(key.identity.get()).or_default().push((prefix, *rule));
    }
    for ((old, new), number) in numbers {
        // Without an identity there is nothing to say beyond what is said to everyone.
        let of = |rules: &BTreeMap<u32, Vec<(RulePrefix, Rule)>>, identity: u32| {
            rules.get(&identity).filter(|_| identity != 0).cloned().unwrap_or_default()
        };
        for (mut prefix, rule) in of(&said, old).into_iter().chain(of(&says, new)) {
            prefix.key.identity = Be32::new(number);
            bridge.rules.push((prefix, rule));
        }
    }
    bridge
}

#[cfg(test)]
mod tests {
    use fairlead_abi::{Be16, RuleKey};

    use super::*;

    fn prefix(text: &str) -> AddrPrefix {
        prefix_key(text.parse().expect("a prefix"))
    }

    fn rule(ruleset: u32, identity: u32) -> (RulePrefix, Rule) {
        let key = RuleKey {
            ruleset: Be32::new(ruleset),
            identity: Be32::new(identity),
            proto: Be16::new(0),
            port: Be16::new(0),
        };
        (RulePrefix { length: RuleKey::ANY_PROTO, key }, Rule { id: ruleset, flags: Rule::ALLOW })
    }

    /// Whether a ruleset allows an address, by the rules and identities in the maps.
    fn allows(
        rules: &HashMap<RulePrefix, Rule>,
        identities: &HashMap<AddrPrefix, u32>,
        ruleset: u32,
        address: &str,
    ) -> bool {
        let identity = Assigned::new(identities).of(prefix(address));
        [identity, 0].into_iter().any(|identity| rules.contains_key(&rule(ruleset, identity).0))
    }

    /// Rulesets 1 and 2 of before allow identity 10, that is 10.0.0.1 and a block; 3 of now allows identities 20 and 30.
    fn maps() -> (HashMap<AddrPrefix, u32>, HashMap<RulePrefix, Rule>, Plan) {
        let identities = [("10.0.0.1/32", 10), ("10.0.0.2/32", 11), ("10.1.0.0/16", 10), ("10.9.0.0/16", 12)]
            .map(|(text, number)| (prefix(text), number));
        let rules = [rule(1, 10), rule(2, 10), rule(2, 12)];
        let entry = |(prefix, value): (RulePrefix, Rule)| ((prefix.length, prefix.key), value);
        let plan = Plan {
            add_rules: vec![entry(rule(3, 20)), entry(rule(3, 30)), entry(rule(3, 12))],
            // 10.0.0.1 is told apart no more, 10.0.0.2 otherwise, the block is as it was for those who ask.
            set_identities: [
                ("10.0.0.0/24", 20),
                ("10.0.0.2/32", 30),
                ("10.1.0.0/16", 31),
                ("10.9.0.0/16", 12),
            ]
            .map(|(text, number)| (text.parse().expect("a prefix"), number))
            .to_vec(),
            ..Plan::default()
        };
        (identities.into(), rules.into(), plan)
    }

    #[test]
    fn rulesets_of_before_and_of_now_say_to_everyone_what_they_mean() {
        let (mut identities, mut rules, plan) = maps();
        let addresses = ["10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32", "10.1.2.3/32", "10.9.0.1/32"];
        let before = addresses.map(|address| [1, 2].map(|set| allows(&rules, &identities, set, address)));
        let bridge = bridge(&identities, &rules, &plan);
        rules.extend(
            plan.add_rules
                .iter()
                .map(|((length, key), rule)| (RulePrefix { length: *length, key: *key }, *rule)),
        );
        rules.extend(bridge.rules.iter().copied());
        for (prefix, number) in &bridge.identities {
            // One after the other: at no time does a ruleset of before say something else.
            identities.insert(*prefix, *number);
            let seen = addresses.map(|address| [1, 2].map(|set| allows(&rules, &identities, set, address)));
            assert_eq!(seen, before, "after {prefix:?}");
        }
        let seen = addresses.map(|address| allows(&rules, &identities, 3, address));
        assert_eq!(seen, [true, true, true, false, true], "what the ruleset of now means");
        // Then the identities of now, in whose place the others go.
        for (prefix, number) in &plan.set_identities {
            identities.insert(prefix_key(*prefix), *number);
            let seen = addresses.map(|address| allows(&rules, &identities, 3, address));
            assert_eq!(seen, [true, true, true, false, true], "after {prefix}");
        }
    }

    #[test]
    fn what_stays_as_it_was_needs_no_bridge() {
        let (identities, rules, mut plan) = maps();
        plan.set_identities = vec![
            ("10.0.0.1/32".parse().expect("a prefix"), 10),
            ("10.0.0.2/32".parse().expect("a prefix"), 11),
            ("10.1.0.0/16".parse().expect("a prefix"), 10),
            ("10.9.0.0/16".parse().expect("a prefix"), 12),
        ];
        assert_eq!(bridge(&identities, &rules, &plan), Bridge::default());
        assert_eq!(
            bridge(&identities, &HashMap::new(), &maps().2),
            Bridge::default(),
            "nobody obeys anything"
        );
    }
}
