//! Server-side apply and `metadata.managedFields` (KEP-555): who set which field, and what applying a partial object
//! changes.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{
    decode,
    kind::{Act, Kind},
    schema::{self, Schema},
    status::{self, Status, quoted},
};

mod set;
mod typed;

pub use set::Set;

/// Who writes, as what.
#[derive(Clone, Copy, Debug)]
pub struct Actor<'a> {
    /// `fieldManager`, or the first part of the User-Agent.
    pub manager: &'a str,
    /// Version of the object that the fields are written in.
    pub api_version: &'a str,
    /// `""` for the main resource.
    pub subresource: &'a str,
    /// RFC 3339.
    pub now: &'a str,
}

/// `Update` managers that an object keeps apart; older ones are counted together.
const MAX_UPDATERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

/// What tells one entry from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    manager: String,
    apply: bool,
    /// Empty for appliers: they are the same one in every version.
    api_version: String,
    subresource: String,
}

impl Id {
    fn of(actor: &Actor<'_>, apply: bool) -> Self {
        Id {
            manager: actor.manager.into(),
            apply,
            api_version: if apply { String::new() } else { actor.api_version.into() },
            subresource: actor.subresource.into(),
        }
    }

    /// As conflicts name it.
    fn shown(&self) -> String {
        let mut text = quoted(&self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {}", quoted(&self.subresource)));
        }
        if !self.apply {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    fields: Set,
    api_version: String,
    /// Absent for an apply that changed nothing.
    time: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Managers(BTreeMap<Id, Entry>);

impl Managers {
    /// Reads `metadata.managedFields`. `None` when an entry is malformed.
    fn read(list: &Value) -> Option<Self> {
        let mut managers = BTreeMap::new();
        for entry in list.as_array().into_iter().flatten() {
            let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
            let apply = match entry["operation"].as_str() {
                Some("Apply") => true,
                Some("Update") => false,
                _ => return None,
            };
            let fields = match &entry["fieldsV1"] {
                Value::Null => Set::default(),
                fields => Set::from_json(fields)?,
            };
            let api_version = text("apiVersion");
            let id = Id {
                manager: text("manager"),
                apply,
                api_version: if apply { String::new() } else { api_version.clone() },
                subresource: text("subresource"),
            };
            let time = entry["time"].as_str().map(Into::into);
            managers.insert(id, Entry { fields, api_version, time });
        }
        Some(Managers(managers))
    }

    /// `metadata.managedFields`, oldest first, appliers before updaters.
    fn write(&self) -> Value {
        let mut entries: Vec<(&Id, &Entry)> = self.0.iter().collect();
        entries.sort_by(|(a, x), (b, y)| {
            (!a.apply, &x.time, &a.manager, &x.api_version, &a.subresource).cmp(&(
                !b.apply,
                &y.time,
                &b.manager,
                &y.api_version,
                &b.subresource,
            ))
        });
        let write = |(id, entry): (&Id, &Entry)| {
            let mut map = Map::new();
            map.insert("manager".into(), id.manager.clone().into());
            map.insert("operation".into(), if id.apply { "Apply" } else { "Update" }.into());
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

    fn drop_empty(&mut self) {
        self.0.retain(|_, entry| !entry.fields.is_empty());
    }

    /// Counts the oldest updaters of one version together until there are few enough.
    fn cap(&mut self) {
        let mut updaters: Vec<(Option<String>, Id)> = self
            .0
            .iter()
            .filter(|(id, _)| !id.apply && id.subresource.is_empty())
            .map(|(id, entry)| (entry.time.clone(), id.clone()))
            .collect();
        let mut excess = updaters.len().saturating_sub(MAX_UPDATERS);
        updaters.sort();
        let mut first: BTreeMap<String, Id> = BTreeMap::new();
        for (time, id) in updaters {
            if excess == 0 {
                return;
            }
            let bucket = Id { manager: ANCIENT.into(), ..id.clone() };
            let Some(oldest) = first.get(&id.api_version).cloned() else {
                first.insert(id.api_version.clone(), id);
                continue;
            };
            let fields =
                |managers: &mut Self, id: &Id| managers.0.remove(id).map(|e| e.fields).unwrap_or_default();
            let mut together = fields(self, &bucket).union(&fields(self, &id));
            if oldest != bucket {
                together = together.union(&fields(self, &oldest));
                first.insert(id.api_version.clone(), bucket.clone());
            }
            self.0.insert(bucket, Entry { fields: together, api_version: id.api_version, time });
            excess -= 1;
        }
    }
}

/// Paths that are never owned: the system sets them.
fn system_fields() -> Set {
    let mut set = Set::default();
    for name in ["apiVersion", "kind", "metadata"] {
        set.insert(&[set::field(name)]);
    }
    for name in [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ] {
        set.insert(&[set::field("metadata"), set::field(name)]);
    }
    set
}

/// What a write of this part of the kind resets, and so does not own: `status` through the main resource, all but
/// status through `/status`.
pub fn reset_fields(kind: &Kind, subresource: &str) -> Set {
    let mut set = Set::default();
    match subresource {
        "" if kind.subresources.iter().any(|s| s.act == Act::Status) => set.insert(&[set::field("status")]),
        "status" => {
            set.insert(&[set::field("spec")]);
            if kind.kind == "Deployment" {
                set.insert(&[set::field("metadata"), set::field("labels")]);
            }
        }
        _ => {}
    }
    set
}

fn take_managed(object: &mut Value) -> Value {
    object
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
        .and_then(|meta| meta.remove("managedFields"))
        .unwrap_or_default()
}

fn put_managed(object: &mut Value, managers: &Managers) {
    if managers.0.is_empty() {
        take_managed(object);
        return;
    }
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["metadata"]["managedFields"] = managers.write();
}

/// The object that a create starts from: what Go writes for a value that nobody set.
fn blank(schema: &Schema, new: &Value) -> Value {
    let mut blank = json!({"apiVersion": new["apiVersion"], "kind": new["kind"]});
    schema::normalize(schema, &mut blank);
    blank
}

/// Follows a create (`live` is `None`) or an update: gives `new`, which is complete and defaulted, its managed fields.
/// `new` carries in their place what the client sent, if anything. What is malformed there is ignored, one empty entry
/// resets them.
pub fn track_update(schema: &Schema, kind: &Kind, live: Option<&Value>, new: &mut Value, actor: &Actor<'_>) {
    let sent = take_managed(new);
    let before = live.map(|l| l["metadata"]["managedFields"].clone()).unwrap_or_default();
    let old = match live {
        Some(live) => {
            let mut old = live.clone();
            take_managed(&mut old);
            old
        }
        None => blank(schema, new),
    };
    let reset = sent.as_array().is_some_and(|list| match list.as_slice() {
        [one] => one.as_object().is_some_and(Map::is_empty),
        _ => false,
    });
    let mut managers = match Managers::read(&sent).filter(|m| !m.0.is_empty()) {
        _ if reset => Managers::default(),
        Some(managers) if actor.subresource.is_empty() => managers,
        _ => Managers::read(&before).unwrap_or_default(),
    };
    let difference = typed::compare(schema, &old, new).without(&reset_fields(kind, actor.subresource));
    let taken = difference.added.union(&difference.modified);
    for entry in managers.0.values_mut() {
        entry.fields = entry.fields.difference(&taken).difference(&difference.removed);
    }
    let owned = taken.difference(&system_fields());
    if !owned.is_empty() {
        let entry = managers.0.entry(Id::of(actor, false)).or_insert_with(|| Entry {
            fields: Set::default(),
            api_version: actor.api_version.into(),
            time: None,
        });
        entry.fields = entry.fields.union(&owned);
        entry.time = Some(actor.now.into());
    }
    managers.drop_empty();
    managers.cap();
    put_managed(new, &managers);
}

/// Whether two objects differ in nothing but the times of their managed fields: then nothing is written.
pub fn same_but_times(a: &Value, b: &Value) -> bool {
    let strip = |object: &Value| {
        let mut object = object.clone();
        let mut managed = take_managed(&mut object);
        for entry in managed.as_array_mut().into_iter().flatten() {
            if let Some(entry) = entry.as_object_mut() {
                entry.remove("time");
            }
        }
        (object, managed)
    };
    strip(a) == strip(b)
}

/// Reads the body of an apply patch and checks that it is about `kind`.
///
/// Names are not compared here: the request's path knows them.
pub fn config(api_version: &str, kind: &str, body: &[u8]) -> Result<Value, Status> {
    let decoded = decode::yaml(body).map_err(|error| {
        status::bad_request(format!("error decoding YAML: error converting YAML to JSON: {error}"))
    })?;
    let value = decoded.value;
    let text = |field: &str| value[field].as_str().unwrap_or_default();
    if text("apiVersion") != api_version || text("kind") != kind {
        let version = text("apiVersion");
        let version = if version.contains('/') { version.to_owned() } else { format!("/{version}") };
        return Err(status::bad_request(format!("invalid object type: {version}, Kind={}", text("kind"))));
    }
    if value["metadata"]["managedFields"].as_array().is_some_and(|list| !list.is_empty()) {
        return Err(status::bad_request("metadata.managedFields must be nil"));
    }
    Ok(value)
}

/// What applying made of an object.
#[derive(Clone, Debug)]
pub struct Applied {
    /// With the new `managedFields`. Not yet defaulted.
    pub object: Value,
    /// False when only the ownership changed.
    pub changed: bool,
}

/// Applies `config` over `live` (`None`: the object is created). Fields that others own and that would change are a
/// conflict unless `force`.
pub fn apply(
    schema: &Schema,
    kind: &Kind,
    live: Option<&Value>,
    config: &Value,
    force: bool,
    actor: &Actor<'_>,
) -> Result<Applied, Status> {
    if let Err(words) = typed::validate(schema, config) {
        return Err(status::plain(format!(
            "failed to create typed patch object ({}): {words}",
            named(config)
        )));
    }
    let mut old = live.cloned().unwrap_or_else(|| blank(schema, config));
    let before = take_managed(&mut old);
    let mut managers = Managers::read(&before).unwrap_or_default();
    let reset = reset_fields(kind, actor.subresource);
    let id = Id::of(actor, true);
    let last = managers.0.get(&id).cloned();
    let merged = typed::merge(schema, &old, config);
    let fields = typed::to_set(schema, config).without_trees(&reset);
    let entry = Entry {
        fields,
        api_version: actor.api_version.into(),
        time: last.as_ref().and_then(|l| l.time.clone()),
    };
    managers.0.insert(id.clone(), entry);
    let new = prune(schema, merged, &managers, actor.api_version, last.as_ref());
    let difference = typed::compare(schema, &old, &new).without(&reset);
    settle(&mut managers, &id, &difference, force)?;
    let changed = !same_value(&old, &new);
    let system = system_fields();
    if let Some(entry) = managers.0.get_mut(&id) {
        entry.fields = entry.fields.difference(&system);
        if changed {
            entry.time = Some(actor.now.into());
        }
    }
    managers.drop_empty();
    let mut object = if changed { new } else { old };
    put_managed(&mut object, &managers);
    Ok(Applied { object, changed })
}

/// Null and absent are the same to whoever reads the object.
fn same_value(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.iter().all(|(k, v)| same_value(v, b.get(k).unwrap_or(&Value::Null)))
                && b.iter().all(|(k, v)| a.contains_key(k) || v.is_null())
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_value(a, b))
        }
        _ => a == b,
    }
}

/// `ns/name; group/version, Kind=X`
fn named(config: &Value) -> String {
    let meta = |field: &str| config["metadata"][field].as_str().unwrap_or_default();
    let version = config["apiVersion"].as_str().unwrap_or_default();
    let version = if version.contains('/') { version.to_owned() } else { format!("/{version}") };
    let kind = config["kind"].as_str().unwrap_or_default();
    format!("{}/{}; {version}, Kind={kind}", meta("namespace"), meta("name"))
}

/// Drops what the applier set the last time, sets no more, and nobody else owns.
fn prune(
    schema: &Schema,
    merged: Value,
    managers: &Managers,
    api_version: &str,
    last: Option<&Entry>,
) -> Value {
    let Some(last) = last.filter(|l| !l.fields.is_empty() && l.api_version == api_version) else {
        return merged;
    };
    let named = |set: &Set| typed::named_members(schema, set);
    let last = named(&last.fields);
    let pruned = typed::remove(schema, &merged, &last);
    let owned = managers
        .0
        .values()
        .filter(|entry| entry.api_version == api_version)
        .fold(Set::default(), |all, entry| all.union(&entry.fields));
    let keep = named(&typed::to_set(schema, &pruned)).union(&named(&owned));
    let pruned = typed::remove(schema, &merged, &named(&typed::to_set(schema, &merged)).difference(&keep));
    // What was dropped along with a parent though it was never the applier's comes back.
    let lost = named(&typed::to_set(schema, &merged)).difference(&named(&typed::to_set(schema, &pruned)));
    typed::remove(schema, &merged, &lost.intersection(&last))
}

/// Takes the changed fields from the other managers, or refuses.
fn settle(
    managers: &mut Managers,
    applier: &Id,
    difference: &typed::Difference,
    force: bool,
) -> Result<(), Status> {
    let taken = difference.added.union(&difference.modified);
    let conflicts: Vec<(Id, Set)> = managers
        .0
        .iter()
        .filter(|(id, _)| *id != applier)
        .map(|(id, entry)| (id.clone(), entry.fields.intersection(&taken)))
        .filter(|(_, set)| !set.is_empty())
        .collect();
    if !force && !conflicts.is_empty() {
        return Err(conflict(&conflicts));
    }
    for (id, entry) in &mut managers.0 {
        if id != applier {
            entry.fields = entry.fields.difference(&taken).difference(&difference.removed);
        }
    }
    Ok(())
}

fn conflict(conflicts: &[(Id, Set)]) -> Status {
    let all: Vec<(String, Vec<String>)> =
        conflicts.iter().map(|(id, set)| (id.shown(), set.paths())).collect();
    let count: usize = all.iter().map(|(_, paths)| paths.len()).sum();
    let message = match all.as_slice() {
        [(manager, paths)] if paths.len() == 1 => {
            format!("Apply failed with 1 conflict: conflict with {manager}: {}", paths.concat())
        }
        _ => {
            let blocks: Vec<String> = all
                .iter()
                .map(|(manager, paths)| format!("conflicts with {manager}:\n- {}", paths.join("\n- ")))
                .collect();
            format!("Apply failed with {count} conflicts: {}", blocks.join("\n"))
        }
    };
    let mut status = status::failure(409, "Conflict", message, Some(json!({})));
    for (manager, paths) in &all {
        for path in paths {
            status = status.with_cause("FieldManagerConflict", &format!("conflict with {manager}"), path);
        }
    }
    status
}
