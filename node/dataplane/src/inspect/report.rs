//! Entries -> tables for people, and differences. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
};

use fairlead_abi::{Addr, Config, map};

use super::{Entry, Maps};

/// Names of the objects behind entries, by map and key.
type Owners<'a> = BTreeMap<(&'a str, &'a str), &'a str>;

/// Maps that Services have entries in.
pub(super) const OF_SERVICES: [&str; 4] = [map::SERVICES, map::BACKENDS, map::TABLES, map::RANGES];

/// One entry in which maps and API do not agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// It should be there and is not.
    Missing(Entry),
    /// It is there and should not be.
    Stray(Entry),
    /// It says something else.
    Other {
        /// What should be there.
        wanted: Entry,
        /// What it says.
        found: String,
    },
}

impl Difference {
    /// The entry, as it should be or as it is.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        match self {
            Difference::Missing(entry)
            | Difference::Stray(entry)
            | Difference::Other { wanted: entry, .. } => entry,
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Entry { map, key, value, owner } = self.entry();
        let owner = if owner.is_empty() { "nobody" } else { owner };
        match self {
            Difference::Missing(_) => write!(f, "difference: {map} lacks {key} -> {value} of {owner}"),
            Difference::Stray(_) => write!(f, "difference: {map} has {key} -> {value}, which nobody wants"),
            Difference::Other { found, .. } => {
                write!(f, "difference: {map} has {key} -> {found}, and {owner} wants {value}")
            }
        }
    }
}

/// Every difference between what is there and what should be.
pub(super) fn differences(found: &[Entry], wanted: &[Entry]) -> Vec<Difference> {
    let index = |entries: &[Entry]| -> BTreeMap<(String, String), Entry> {
        entries.iter().map(|entry| ((entry.map.clone(), entry.key.clone()), entry.clone())).collect()
    };
    let (mut found, wanted) = (index(found), index(wanted));
    let mut differences = Vec::new();
    for (key, entry) in wanted {
        match found.remove(&key) {
            None => differences.push(Difference::Missing(entry)),
            Some(there) if there.value != entry.value => {
                differences.push(Difference::Other { wanted: entry, found: there.value });
            }
            Some(_) => {}
        }
    }
    differences.extend(found.into_values().map(Difference::Stray));
    differences
}

/// Lines with columns as wide as their widest cell.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

fn head(titles: &[&str]) -> Vec<Vec<String>> {
    vec![titles.iter().map(ToString::to_string).collect()]
}

fn owner<'a>(owners: &Owners<'a>, entry: &Entry) -> &'a str {
    owners.get(&(entry.map.as_str(), entry.key.as_str())).copied().unwrap_or("-")
}

fn of_map<'a>(maps: &'a Maps, name: &'a str) -> impl Iterator<Item = &'a Entry> {
    maps.entries.iter().filter(move |entry| entry.map == name)
}

/// One line for each frontend.
pub(super) fn services(maps: &Maps, owners: &Owners<'_>) -> String {
    let mut lines: Vec<Vec<String>> = of_map(maps, map::SERVICES)
        .map(|entry| vec![owner(owners, entry).to_owned(), entry.key.clone(), entry.value.clone()])
        .collect();
    lines.sort();
    let mut rows = head(&["SERVICE", "FRONTEND", "LEADS TO"]);
    rows.extend(lines);
    columns(&rows)
}

/// Everything of one Service.
pub(super) fn service(maps: &Maps, owners: &Owners<'_>, name: &str) -> String {
    let mut rows = head(&["MAP", "ENTRY", "VALUE"]);
    for name_of_map in OF_SERVICES {
        let mut entries: Vec<&Entry> =
            of_map(maps, name_of_map).filter(|entry| owner(owners, entry) == name).collect();
        entries.sort();
        rows.extend(
            entries.iter().map(|entry| vec![entry.map.clone(), entry.key.clone(), entry.value.clone()]),
        );
    }
    if rows.len() == 1 {
        return format!("no map has an entry of Service {name}\n");
    }
    columns(&rows)
}

/// The node at one look.
pub(super) fn status(maps: &Maps, owners: &Owners<'_>) -> String {
    let mut text = configuration(maps.config.as_ref());
    let announced: BTreeSet<&str> = of_map(maps, map::ANNOUNCED).map(|entry| entry.key.as_str()).collect();
    if !announced.is_empty() {
        let _ = writeln!(text, "announced: {}", announced.into_iter().collect::<Vec<_>>().join(", "));
    }
    let mut rows = head(&["MAP", "ENTRIES", "CAPACITY", "FULL"]);
    for (name, entries, capacity) in &maps.fill {
        let percent = entries * 100 / u64::from((*capacity).max(1));
        rows.push(vec![
            (*name).to_owned(),
            entries.to_string(),
            capacity.to_string(),
            format!("{percent} %"),
        ]);
    }
    text += &format!("\n{}\n", columns(&rows));
    let mut rows = head(&["POD", "ADDRESS", "ENTRY"]);
    let mut pods: Vec<Vec<String>> = of_map(maps, map::ENDPOINTS)
        .map(|entry| vec![owner(owners, entry).to_owned(), entry.key.clone(), entry.value.clone()])
        .collect();
    pods.sort();
    rows.extend(pods);
    text += &columns(&rows);
    let mut rows = head(&["DROPPED", "PACKETS"]);
    let seen = maps.drops.iter().filter(|(_, packets)| *packets > 0);
    rows.extend(seen.map(|(reason, packets)| vec![(*reason).to_owned(), packets.to_string()]));
    if rows.len() > 1 {
        text += &format!("\n{}", columns(&rows));
    }
    text
}

fn configuration(config: Option<&Config>) -> String {
    let Some(config) = config else { return "the node is not configured yet\n".to_owned() };
    if config.abi_version == 0 {
        return "the node is not configured yet\n".to_owned();
    }
    let set = |addr: &Addr| *addr != Addr::UNSPECIFIED;
    let pair = |v4: Addr, v6: Addr| -> String {
        [v4, v6].iter().filter(|addr| set(addr)).map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let overlay = match config.flags & Config::OVERLAY {
        0 => "native".to_owned(),
        _ => format!("vxlan {} on port {}", config.vni, config.vxlan_port.get()),
    };
    format!(
        "layout: {}\nnode: {}\ngateway: {}\noverlay: {overlay}\nmasquerade: {}\nuplink: interface {}\n",
        config.abi_version,
        pair(config.node_v4, config.node_v6),
        pair(config.gateway_v4, config.gateway_v6),
        if config.flags & Config::MASQUERADE != 0 { "yes" } else { "no" },
        config.uplink_ifindex
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, value: &str, owner: &str) -> Entry {
        Entry::new("SERVICES", (key.to_owned(), value.to_owned()), owner)
    }

    #[test]
    fn every_kind_of_difference_is_found_and_names_the_object() {
        let found = [entry("a", "1", ""), entry("b", "2", ""), entry("stray", "3", "")];
        let wanted = [entry("a", "1", "shop/a"), entry("b", "9", "shop/b"), entry("c", "4", "shop/c")];
        let text: Vec<String> = differences(&found, &wanted).iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "difference: SERVICES has b -> 2, and shop/b wants 9",
                "difference: SERVICES lacks c -> 4 of shop/c",
                "difference: SERVICES has stray -> 3, which nobody wants",
            ]
        );
        assert_eq!(differences(&found[..1], &wanted[..1]), []);
    }

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let mut rows = head(&["A", "LONG"]);
        rows.push(vec!["wide".to_owned(), "x".to_owned()]);
        assert_eq!(columns(&rows), "A     LONG\nwide  x\n");
    }
}
