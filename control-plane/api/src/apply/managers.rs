//! `metadata.managedFields` as a map: who owns which fields, since when.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Actor, Set};
use crate::status::quoted;

/// `Update` managers that an object keeps apart; older ones are counted together.
const MAX_UPDATERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

/// What tells one entry from another, in upstream's order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id {
    pub manager: String,
    /// `Apply` comes first.
    pub update: bool,
    /// Empty for appliers: they are the same one in every version.
    pub api_version: String,
    pub subresource: String,
}

impl Id {
    pub fn of(actor: &Actor<'_>, apply: bool) -> Self {
        Id {
            manager: if actor.manager.is_empty() { "unknown" } else { actor.manager }.into(),
            update: !apply,
            api_version: if apply { String::new() } else { actor.api_version.into() },
            subresource: actor.subresource.into(),
        }
    }

    /// As conflicts name it.
    pub fn shown(&self) -> String {
        let mut text = quoted(&self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {}", quoted(&self.subresource)));
        }
        if self.update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub fields: Set,
    /// The version that the fields are named in.
    pub api_version: String,
    /// Absent for an apply that changed nothing.
    pub time: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Managers(pub BTreeMap<Id, Entry>);

/// Entries that are read; what a client sends beyond is as good as malformed.
const MAX_ENTRIES: usize = 1000;

impl Managers {
    /// Reads `metadata.managedFields`. `None` when an entry is malformed.
    pub fn read(list: &Value) -> Option<Self> {
        if list.as_array().is_some_and(|list| list.len() > MAX_ENTRIES) {
            return None;
        }
        let mut managers = BTreeMap::new();
        for entry in list.as_array().into_iter().flatten() {
            let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
            let update = match entry["operation"].as_str() {
                Some("Apply") => false,
                Some("Update") => true,
                _ => return None,
            };
            let api_version = text("apiVersion");
            if api_version.is_empty() || text("fieldsType") != "FieldsV1" {
                return None;
            }
            let fields = match &entry["fieldsV1"] {
                Value::Null => Set::default(),
                fields => Set::from_json(fields)?,
            };
            let id = Id {
                manager: text("manager"),
                update,
                api_version: if update { api_version.clone() } else { String::new() },
                subresource: text("subresource"),
            };
            let time = entry["time"].as_str().map(Into::into);
            managers.insert(id, Entry { fields, api_version, time });
        }
        Some(Managers(managers))
    }

    /// `metadata.managedFields`, oldest first, appliers before updaters.
    pub fn write(&self) -> Value {
        let mut entries: Vec<(&Id, &Entry)> = self.0.iter().collect();
        entries.sort_by_key(|(id, entry)| {
            (id.update, &entry.time, &id.manager, &entry.api_version, &id.subresource)
        });
        let write = |(id, entry): (&Id, &Entry)| {
            let mut map = Map::new();
            map.insert("manager".into(), id.manager.clone().into());
            map.insert("operation".into(), if id.update { "Update" } else { "Apply" }.into());
            map.insert("apiVersion".into(), entry.api_version.clone().into());
            map.insert("fieldsType".into(), "FieldsV1".into());
            map.insert("fieldsV1".into(), entry.fields.to_json());
            if let Some(time) = &entry.time {
                map.insert("time".into(), time.clone().into());
            }
            if !id.subresource.is_empty() {
                map.insert("subresource".into(), id.subresource.clone().into());
            }
            Value::Object(map)
        };
        Value::Array(entries.into_iter().map(write).collect())
    }

    pub fn drop_empty(&mut self) {
        self.0.retain(|_, entry| !entry.fields.is_empty());
    }

    /// Counts the oldest updaters of one version together until there are few enough.
    pub fn cap(&mut self) {
        let mut updaters: Vec<(Option<String>, Id)> = self
            .0
            .iter()
            .filter(|(id, _)| id.update)
            .map(|(id, entry)| (entry.time.clone(), id.clone()))
            .collect();
        let mut excess = updaters.len().saturating_sub(MAX_UPDATERS);
        updaters.sort();
        let mut first: BTreeMap<String, Id> = BTreeMap::new();
        for (time, id) in updaters {
            if excess == 0 {
                return;
            }
            let Some(api_version) = self.0.get(&id).map(|entry| entry.api_version.clone()) else { continue };
            let bucket = Id {
                manager: ANCIENT.into(),
                update: true,
                api_version: api_version.clone(),
                subresource: String::new(),
            };
            let Some(oldest) = first.get(&api_version).cloned() else {
                first.insert(api_version, id);
                continue;
            };
            if !self.0.contains_key(&bucket)
                && let Some(entry) = self.0.remove(&oldest)
            {
                self.0.insert(bucket.clone(), entry);
            }
            if id != bucket
                && let Some(entry) = self.0.remove(&id)
                && let Some(together) = self.0.get_mut(&bucket)
            {
                together.fields = together.fields.union(&entry.fields);
                // The younger of the two says when.
                together.time = time;
            }
            excess -= 1;
        }
    }
}

/// Takes the managed fields out of an object.
pub(super) fn take(object: &mut Value) -> Value {
    object
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
        .and_then(|meta| meta.remove("managedFields"))
        .unwrap_or_default()
}

/// Puts them in. None at all are absent.
pub(super) fn put(object: &mut Value, managers: &Managers) {
    if managers.0.is_empty() {
        take(object);
        return;
    }
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["metadata"]["managedFields"] = managers.write();
}
