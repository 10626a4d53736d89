//! Server-side apply and `metadata.managedFields` (KEP-555): who set which field, and what applying a partial object
//! changes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    decode::{self, FieldValidation},
    kind::Kind,
    registry,
    schema::{self, Schema},
    status::{self, Status},
};

mod check;
mod managers;
mod reset;
mod scale;
mod set;
mod typed;

use managers::{Entry, Id, Managers, put, take};
pub use reset::Filter;
pub use scale::Replicas;
pub use set::Set;
use typed::Difference;

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

/// Who owns what an object had before anybody was asked.
const BEFORE: &str = "before-first-apply";
/// The manager whose applies go on from `kubectl apply` without `--server-side`.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What `managedFields` are about: a kind, or one of its subresources.
#[derive(Clone)]
pub struct Fields {
    schema: &'static Schema,
    filter: Filter,
    /// The kind whose other versions fields may be named in; `None` where there is one version.
    kind: Option<&'static Kind>,
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

/// The object that a create starts from: what Go writes for a value that nobody set.
fn blank(schema: &Schema, new: &Value) -> Value {
    let mut blank = json!({"apiVersion": new["apiVersion"], "kind": new["kind"]});
    schema::normalize(schema, &mut blank);
    blank
}

/// Whether a client asks for the managed fields to be forgotten.
fn is_reset(sent: &Value) -> bool {
    sent.as_array().is_some_and(|list| match list.as_slice() {
        [] => true,
        [one] => one.as_object().is_some_and(serde_json::Map::is_empty),
        _ => false,
    })
}

/// Whether two objects differ in nothing but the times of their managed fields: then nothing is written.
pub fn same_but_times(a: &Value, b: &Value) -> bool {
    let strip = |object: &Value| {
        let mut object = object.clone();
        let mut managed = take(&mut object);
        for entry in managed.as_array_mut().into_iter().flatten() {
            if let Some(entry) = entry.as_object_mut() {
                entry.remove("time");
            }
        }
        (object, managed)
    };
    strip(a) == strip(b)
}

/// The body of an apply patch.
#[derive(Clone, Debug)]
pub struct Config {
    pub value: Value,
    /// Fields that come twice, in the words of the YAML library.
    duplicates: Option<String>,
}

impl Config {
    /// What is said about the body itself once it has been applied.
    ///
    /// # Errors
    /// 400 under Strict. As a warning the words are lost upstream: no header takes more than one line.
    pub fn strict(&self, validation: FieldValidation) -> Result<(), Status> {
        match (validation, &self.duplicates) {
            (FieldValidation::Strict, Some(words)) => {
                Err(status::bad_request(format!("error strict decoding YAML: {words}")))
            }
            _ => Ok(()),
        }
    }
}

/// Reads the body of an apply patch and checks that it is about `kind`.
///
/// Names are not compared here: the request's path knows them.
pub fn config(api_version: &str, kind: &str, body: &[u8]) -> Result<Config, Status> {
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
    if value["metadata"]["managedFields"].is_array() {
        return Err(status::bad_request("metadata.managedFields must be nil"));
    }
    let duplicates = (!decoded.strict.is_empty()).then(|| {
        let lines = decoded.strict.join("\n  ");
        format!("error converting YAML to JSON: yaml: unmarshal errors:\n  {lines}")
    });
    Ok(Config { value, duplicates })
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

/// What one try to apply made: the object, its managers, and whether the object changed.
type Outcome = (Value, Managers, bool);
type Conflicts = Vec<(Id, Set)>;

impl Fields {
    /// Of a kind (`""`) or of one of its subresources that writes the kind's own objects.
    pub fn of(kind: &'static Kind, subresource: &str) -> Option<Self> {
        let schema = schema::of(kind.schema)?;
        Some(Fields { schema, filter: Filter::of(kind, subresource), kind: Some(kind) })
    }

    /// Of a Scale.
    pub fn of_scale() -> Option<Self> {
        let schema = schema::of("io.k8s.api.autoscaling.v1.Scale")?;
        Some(Fields { schema, filter: Filter::None, kind: None })
    }

    /// The schema of another version of the kind, `None` for a version that nobody serves.
    fn schema_in(&self, from: &str, version: &str) -> Option<&'static Schema> {
        if from == version {
            return Some(self.schema);
        }
        schema::of(registry::sibling(self.kind?, version)?.schema)
    }

    /// An object of this kind in another version.
    fn convert(&self, object: &Value, from: &str, to: &str) -> Option<Value> {
        if from == to {
            return Some(object.clone());
        }
        let kind = self.kind?;
        registry::convert(registry::sibling(kind, from)?, registry::sibling(kind, to)?, object)
    }

    /// Follows a create (`live` is `None`) or an update: gives `new`, which is complete and defaulted, its managed
    /// fields. `new` carries in their place what the client sent, if anything: what is malformed there is ignored, an
    /// empty list or one empty entry resets them.
    pub fn update(&self, live: Option<&Value>, new: &mut Value, actor: &Actor<'_>) {
        let sent = take(new);
        let mut old = live.cloned().unwrap_or_else(|| blank(self.schema, new));
        let before = take(&mut old);
        let known = || Managers::read(&before).unwrap_or_default();
        let mut managers = match Managers::read(&sent).filter(|sent| !sent.0.is_empty()) {
            _ if !actor.subresource.is_empty() => known(),
            _ if is_reset(&sent) => Managers::default(),
            Some(managers) => managers,
            None => known(),
        };
        // Nobody is tracked on an object whose owners were forgotten, until somebody applies.
        if !managers.0.is_empty() || live.is_none() {
            self.follow(&old, new, &mut managers, actor);
            managers.cap();
        }
        put(new, &managers);
    }

    /// Gives the actor what differs, as an update.
    fn follow(&self, old: &Value, new: &Value, managers: &mut Managers, actor: &Actor<'_>) {
        *managers = self.reconciled(managers, actor.api_version);
        let (difference, _) = self.settle(old, new, managers, None, actor.api_version);
        let owned = difference.taken().difference(&system_fields());
        if owned.is_empty() {
            return;
        }
        let entry = managers.0.entry(Id::of(actor, false)).or_insert_with(|| Entry {
            fields: Set::default(),
            api_version: actor.api_version.into(),
            time: None,
        });
        entry.fields = entry.fields.union(&owned);
        entry.time = Some(actor.now.into());
    }

    /// The managers under the schemas of today, without those of versions that nobody serves.
    fn reconciled(&self, managers: &Managers, api_version: &str) -> Managers {
        let reconciled = managers.0.iter().filter_map(|(id, entry)| {
            let schema = self.schema_in(api_version, &entry.api_version)?;
            let fields = typed::reconcile(schema, &entry.fields);
            Some((id.clone(), Entry { fields, ..entry.clone() }))
        });
        Managers(reconciled.collect())
    }

    /// What differs, in the version of the request, and what of it other managers own and would lose: these lose it.
    fn settle(
        &self,
        old: &Value,
        new: &Value,
        managers: &mut Managers,
        applier: Option<&Id>,
        api_version: &str,
    ) -> (Difference, Conflicts) {
        let compare = |version: &str| -> Option<Difference> {
            let schema = self.schema_in(api_version, version)?;
            let difference = if version == api_version {
                typed::compare(schema, old, new)
            } else {
                let side = |object: &Value| self.convert(object, api_version, version);
                typed::compare(schema, &side(old)?, &side(new)?)
            };
            Some(self.filter.difference(difference))
        };
        let mut versions: BTreeMap<String, Option<Difference>> = BTreeMap::new();
        versions.insert(api_version.into(), compare(api_version));
        let mut conflicts = Conflicts::new();
        managers.0.retain(|id, entry| {
            if applier == Some(id) {
                return true;
            }
            let version = entry.api_version.as_str();
            if !versions.contains_key(version) {
                versions.insert(version.into(), compare(version));
            }
            let Some(Some(difference)) = versions.get(version) else { return false };
            let lost = entry.fields.intersection(&difference.taken());
            entry.fields = entry.fields.difference(&lost).difference(&difference.removed);
            if !lost.is_empty() {
                conflicts.push((id.clone(), lost));
            }
            true
        });
        managers.drop_empty();
        (versions.remove(api_version).flatten().unwrap_or_default(), conflicts)
    }

    /// Applies `config` over `live` (`None`: the object is created). Fields that others own and that would change are
    /// a conflict unless `force`. The object has its new managed fields and is not yet defaulted.
    ///
    /// # Errors
    /// 409 for conflicts, 500 for a body that is not of the kind, both as upstream.
    pub fn apply(
        &self,
        live: Option<&Value>,
        config: &Value,
        force: bool,
        actor: &Actor<'_>,
    ) -> Result<Value, Status> {
        if let Err(words) = check::validate(self.schema, config) {
            return Err(status::plain(format!(
                "failed to create typed patch object ({}): {words}",
                named(config)
            )));
        }
        let mut old = live.cloned().unwrap_or_else(|| blank(self.schema, config));
        let before = take(&mut old);
        let mut managers = Managers::read(&before)
            .ok_or_else(|| status::plain("failed to decode managed fields: an entry is malformed"))?;
        if managers.0.is_empty() && live.is_some() {
            let first = Actor { manager: BEFORE, ..*actor };
            self.follow(&blank(self.schema, config), &old, &mut managers, &first);
        }
        let (mut object, managers, _) = match self.attempt(&old, config, &managers, force, actor) {
            Ok(outcome) => outcome,
            Err(conflicts) if actor.manager == KUBECTL => {
                let left = self.without_last_applied(&old, conflicts, actor.api_version);
                if !left.is_empty() {
                    return Err(conflict(&left));
                }
                self.attempt(&old, config, &managers, true, actor).map_err(|left| conflict(&left))?
            }
            Err(conflicts) => return Err(conflict(&conflicts)),
        };
        if actor.manager == KUBECTL {
            renew_last_applied(&mut object, config);
        }
        put(&mut object, &managers);
        Ok(object)
    }

    fn attempt(
        &self,
        old: &Value,
        config: &Value,
        managers: &Managers,
        force: bool,
        actor: &Actor<'_>,
    ) -> Result<Outcome, Conflicts> {
        let mut managers = self.reconciled(managers, actor.api_version);
        let id = Id::of(actor, true);
        let merged = typed::merge(self.schema, old, config);
        let last = managers.0.get(&id).cloned();
        let fields = self.filter.apply(&typed::to_set(self.schema, config));
        let time = last.as_ref().and_then(|last| last.time.clone());
        managers.0.insert(id.clone(), Entry { fields, api_version: actor.api_version.into(), time });
        let new = self.prune(merged, &managers, actor.api_version, last.as_ref());
        let (_, conflicts) = self.settle(old, &new, &mut managers, Some(&id), actor.api_version);
        if !force && !conflicts.is_empty() {
            return Err(conflicts);
        }
        let changed = !same_value(old, &new);
        let system = system_fields();
        if let Some(entry) = managers.0.get_mut(&id) {
            entry.fields = entry.fields.difference(&system);
            if changed {
                entry.time = Some(actor.now.into());
            }
        }
        managers.drop_empty();
        Ok((if changed { new } else { old.clone() }, managers, changed))
    }

    /// Drops what the applier set the last time, sets no more, and nobody else owns.
    fn prune(&self, merged: Value, managers: &Managers, api_version: &str, last: Option<&Entry>) -> Value {
        let Some(last) = last.filter(|last| !last.fields.is_empty()) else { return merged };
        let version = last.api_version.as_str();
        let (Some(schema), Some(whole)) =
            (self.schema_in(api_version, version), self.convert(&merged, api_version, version))
        else {
            return merged;
        };
        let last = typed::named_members(schema, &last.fields);
        let pruned = typed::remove(schema, &whole, &last);
        let pruned = self.with_owned(&whole, pruned, version, managers, api_version);
        // What was dropped along with a parent though it was never the applier's comes back.
        let members = |value: &Value| typed::named_members(schema, &typed::to_set(schema, value));
        let lost = members(&whole).difference(&members(&pruned)).intersection(&last);
        let pruned = typed::remove(schema, &whole, &lost);
        self.convert(&pruned, version, api_version).unwrap_or(merged)
    }

    /// `pruned` (of `whole`, both in `version`) with what managers own, whatever version they name it in.
    fn with_owned(
        &self,
        whole: &Value,
        mut pruned: Value,
        version: &str,
        managers: &Managers,
        api_version: &str,
    ) -> Value {
        let mut owned: BTreeMap<&str, Set> = BTreeMap::new();
        for entry in managers.0.values() {
            let set = owned.entry(&entry.api_version).or_default();
            set.extend(&entry.fields);
        }
        let own = owned.remove_entry(version);
        for (other, owned) in own.into_iter().chain(owned) {
            let side = |object: &Value| self.convert(object, version, other);
            let (Some(schema), Some(all), Some(some)) =
                (self.schema_in(api_version, other), side(whole), side(&pruned))
            else {
                continue;
            };
            let members = |set: &Set| typed::named_members(schema, set);
            let keep = members(&typed::to_set(schema, &some)).union(&members(&owned));
            let gone = members(&typed::to_set(schema, &all)).difference(&keep);
            let kept = typed::remove(schema, &all, &gone);
            pruned = self.convert(&kept, other, version).unwrap_or(pruned);
        }
        pruned
    }

    /// The conflicts about anything but what the annotation of a client-side apply names and the object still has:
    /// who applied there goes on here.
    fn without_last_applied(&self, live: &Value, conflicts: Conflicts, api_version: &str) -> Conflicts {
        let Some(allowed) = self.last_applied(live, api_version) else { return conflicts };
        conflicts
            .into_iter()
            .map(|(id, set)| (id, set.difference(&allowed)))
            .filter(|(_, set)| !set.is_empty())
            .collect()
    }

    fn last_applied(&self, live: &Value, api_version: &str) -> Option<Set> {
        let text = live["metadata"]["annotations"][LAST_APPLIED].as_str()?;
        let last = decode::json(text.as_bytes()).ok()?.value;
        if last["apiVersion"] != api_version || check::validate(self.schema, &last).is_err() {
            return None;
        }
        let Difference { added, modified, removed } = typed::compare(self.schema, &last, live);
        let set = typed::to_set(self.schema, &last);
        Some(set.difference(&modified).difference(&added).difference(&removed))
    }
}

/// Keeps the annotation of client-side applies up to date, where there is one.
fn renew_last_applied(object: &mut Value, config: &Value) {
    let Some(text) = object.pointer_mut("/metadata/annotations").and_then(|all| all.get_mut(LAST_APPLIED))
    else {
        return;
    };
    if text.as_str().is_none_or(str::is_empty) {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
    *text = format!("{config}\n").into();
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
