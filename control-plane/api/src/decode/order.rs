//! Findings about a body in the order in which its fields come.

use std::collections::HashMap;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::path_text;
use crate::status::quoted;

/// Sorts `findings` (`unknown field "a.b"`, `duplicate field "a.b"`) by where `body` has them. Findings that are not in
/// `body` come last.
pub fn sort(body: &[u8], findings: &mut [String]) {
    if findings.len() < 2 || body.first() != Some(&b'{') {
        return;
    }
    let mut log = Log { path: Vec::new(), length: 0, seen: HashMap::new(), clock: 0, places: HashMap::new() };
    for finding in findings.iter() {
        if let Some((_, path)) = finding.split_once(" field ") {
            log.seen.insert(path.to_owned(), 0);
        }
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    // The body has been read before: it is well formed.
    if (Walk { log: &mut log }).deserialize(&mut reader).is_ok() {
        findings.sort_by_key(|finding| log.places.get(finding).copied().unwrap_or(usize::MAX));
    }
}

/// Paths that are longer, in bytes, are not looked for: putting one together for each field below it would take long.
const MAX_PATH: usize = 4096;

struct Log {
    path: Vec<String>,
    /// Bytes of the steps in `path`.
    length: usize,
    /// Quoted path -> how often it came.
    seen: HashMap<String, usize>,
    clock: usize,
    /// Finding -> when.
    places: HashMap<String, usize>,
}

impl Log {
    fn enter(&mut self, step: String) {
        self.length += step.len();
        self.path.push(step);
    }

    fn leave(&mut self) {
        self.length -= self.path.pop().map_or(0, |step| step.len());
    }

    fn meet(&mut self, key: &str) {
        if self.length + key.len() > MAX_PATH {
            return;
        }
        let path = quoted(&path_text(&self.path, key));
        let Some(times) = self.seen.get_mut(&path) else { return };
        *times += 1;
        self.clock += 1;
        let what = if *times == 1 { "unknown" } else { "duplicate" };
        self.places.entry(format!("{what} field {path}")).or_insert(self.clock);
    }
}

struct Walk<'l> {
    log: &'l mut Log,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut i = 0;
        loop {
            self.log.enter(format!("[{i}]"));
            let item = seq.next_element_seed(Walk { log: self.log })?;
            self.log.leave();
            i += 1;
            if item.is_none() {
                return Ok(());
            }
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            self.log.meet(&key);
            if self.log.path.len() > super::MAX_DEPTH {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            self.log.enter(key);
            map.next_value_seed(Walk { log: self.log })?;
            self.log.leave();
        }
        Ok(())
    }
}
