//! What should be in the maps, by the tables: what the maps are compared with.

use fairlead_abi::{NetnsEntry, map};

use super::Engine;
use crate::{
    Error,
    endpoints::Record,
    inspect::{Entry, entry},
    maps::{prefix_key, table::RulePrefix},
};

impl Engine {
    /// Every entry of the maps that only this agent writes.
    pub(super) fn wanted(&self) -> Result<Vec<Entry>, Error> {
        let Some(running) = &self.running else { return Ok(Vec::new()) };
        let mut entries = self.services.wanted();
        entries.extend(self.nodes.wanted_entries());
        self.want_policies(&mut entries);
        for record in self.endpoints.iter() {
            self.want_sandbox(record, &mut entries);
        }
        let node = NetnsEntry { role: NetnsEntry::NODE, endpoint: 0 };
        entries.push(Entry::new(map::NETNS, entry::netns(running.cookie, node), "the node"));
        let direct = self.settings.direct.iter().map(|prefix| entry::direct(&prefix_key(*prefix)));
        entries.extend(direct.map(|shown| Entry::new(map::DIRECT, shown, "the settings")));
        // Which node answers for an address is settled on their segment, not here: what can be told is that one is
        // answered for which no Service has.
        let balancers = self.services.balancers();
        let answered = self.maps.announced()?.into_iter().filter(|address| balancers.contains_key(address));
        entries.extend(
            answered.map(|address| Entry::new(map::ANNOUNCED, entry::announced(address.into()), "services")),
        );
        Ok(entries)
    }

    fn want_policies(&self, entries: &mut Vec<Entry>) {
        for (prefix, number) in self.rules.identified() {
            let shown = entry::identity(&prefix_key(prefix), number);
            entries.push(Entry::new(map::IDENTITIES, shown, "policies"));
        }
        for ((length, key), rule) in self.rules.entries() {
            let shown = entry::rule(&RulePrefix { length, key }, rule);
            entries.push(Entry::new(map::RULES, shown, &self.rules.rule_name(rule.id)));
        }
    }

    fn want_sandbox(&self, record: &Record, entries: &mut Vec<Entry>) {
        let Some(endpoint) = self.endpoint(record) else { return };
        let pod = record.key().to_string();
        let shown = record.addresses().map(|address| entry::endpoint(address.into(), &endpoint));
        entries.extend(shown.map(|shown| Entry::new(map::ENDPOINTS, shown, &pod)));
        let role = NetnsEntry { role: NetnsEntry::POD, endpoint: record.id };
        entries.push(Entry::new(map::NETNS, entry::netns(record.netns_cookie, role), &pod));
        for (key, rate) in self.bounds(record) {
            entries.extend(rate.map(|rate| Entry::new(map::RATES, entry::rate(key, &rate), &pod)));
        }
    }
}
