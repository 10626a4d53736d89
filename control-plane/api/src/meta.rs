//! `metav1.ObjectMeta`: what the server sets, and what every object must satisfy
//! (`k8s.io/apimachinery/pkg/api/validation/objectmeta.go`).

use serde_json::{Map, Value, json};

use crate::{
    field::{ErrorList, Path, forbidden, invalid, invalid_str, required, too_long},
    kind::{Kind, NameRule},
    validate::names,
};

/// All annotations of an object together, keys and values, in bytes.
pub const MAX_ANNOTATIONS: usize = 256 * 1024;
const MAX_GENERATED_BASE: usize = 58;
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// Sets what the system owns on a new object, whatever the client sent.
pub fn prepare_create(kind: &Kind, v: &mut Value, namespace: Option<&str>, uid: &str, now_rfc3339: &str) {
    if !v["metadata"].is_object() {
        v["metadata"] = json!({});
    }
    let Some(meta) = v["metadata"].as_object_mut() else { return };
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
        meta.remove(field);
    }
    meta.insert("uid".into(), uid.into());
    meta.insert("creationTimestamp".into(), now_rfc3339.into());
    match namespace {
        Some(namespace) if kind.namespaced => {
            meta.insert("namespace".into(), namespace.into());
        }
        _ => {}
    }
    if kind.generation {
        meta.insert("generation".into(), 1.into());
    }
}

/// A name from `metadata.generateName` and five random characters.
pub fn generate_name(base: &str, random: &str) -> String {
    let mut end = base.len().min(MAX_GENERATED_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{random}", base.get(..end).unwrap_or_default())
}

/// The characters that generated names are made of: no vowels, so no words; none that look alike.
pub const RANDOM_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

fn text<'a>(meta: &'a Value, field: &str) -> &'a str {
    meta[field].as_str().unwrap_or_default()
}

/// Upstream's `ValidateObjectMeta`, for a create.
pub fn validate_create(kind: &Kind, v: &Value) -> ErrorList {
    let meta = &v["metadata"];
    let path = Path::new("metadata");
    let mut errors = ErrorList::new();
    let (name, base, namespace) = (text(meta, "name"), text(meta, "generateName"), text(meta, "namespace"));
    if !base.is_empty() {
        for detail in name_errors(kind.name, base, true) {
            errors.push(invalid_str(&path.child("generateName"), base, detail));
        }
    }
    if name.is_empty() {
        errors.push(required(&path.child("name"), "name or generateName is required"));
    } else {
        for detail in name_errors(kind.name, name, false) {
            errors.push(invalid_str(&path.child("name"), name, detail));
        }
    }
    if kind.namespaced {
        if namespace.is_empty() {
            errors.push(required(&path.child("namespace"), ""));
        } else {
            for detail in names::dns_label(namespace) {
                errors.push(invalid_str(&path.child("namespace"), namespace, detail));
            }
        }
    } else if !namespace.is_empty() {
        errors.push(forbidden(&path.child("namespace"), "not allowed on this type"));
    }
    if let Some(generation) = meta["generation"].as_i64().filter(|g| *g < 0) {
        let path = path.child("generation");
        errors.push(invalid(&path, &json!(generation), "must be greater than or equal to 0"));
    }
    errors.extend(common(meta, &path));
    errors.extend(finalizers(meta, &path));
    errors.extend(managed_fields(meta, &path));
    errors.extend(kube_finalizers(meta, &path));
    errors
}

/// What is wrong with `name` under `rule`. A prefix (generateName) may end in what no name may end in.
pub fn name_errors(rule: NameRule, name: &str, prefix: bool) -> Vec<String> {
    let masked;
    let name = match name.strip_suffix('-') {
        Some(rest) if prefix && !rest.is_empty() && rule != NameRule::PathSegment => {
            masked = format!("{rest}a");
            &masked
        }
        _ => name,
    };
    match rule {
        NameRule::DnsSubdomain => names::dns_subdomain(name),
        NameRule::DnsLabel => names::dns_label(name),
        NameRule::Dns1035Label => names::dns1035_label(name),
        NameRule::PathSegment => names::path_segment(name),
    }
}

/// Labels, annotations and owner references: checked at create and at update.
fn common(meta: &Value, path: &Path) -> ErrorList {
    let mut errors = labels(&meta["labels"], &path.child("labels"));
    errors.extend(annotations(&meta["annotations"], &path.child("annotations")));
    errors.extend(owner_references(&meta["ownerReferences"], &path.child("ownerReferences")));
    errors
}

/// `metav1validation.ValidateLabels`, in the order of keys. Errors name the map, whether key or value is wrong.
pub fn labels(labels: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for (key, value) in labels.as_object().into_iter().flatten() {
        for detail in names::qualified(key) {
            errors.push(invalid_str(path, key, detail));
        }
        let value = value.as_str().unwrap_or_default();
        for detail in names::label_value(value) {
            errors.push(invalid_str(path, value, detail));
        }
    }
    errors
}

/// `ValidateAnnotations`: keys may be in upper case, and the whole is bounded.
pub fn annotations(annotations: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        for detail in names::qualified(&key.to_ascii_lowercase()) {
            errors.push(invalid_str(path, key, detail));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATIONS {
        errors.push(too_long(path, MAX_ANNOTATIONS));
    }
    errors
}

fn owner_references(owners: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut controller: Option<&Value> = None;
    for owner in owners.as_array().into_iter().flatten() {
        errors.extend(owner_reference(owner, path));
        if owner["controller"] == Value::Bool(true) {
            if let Some(first) = controller {
                errors.push(invalid(
                    path,
                    owners,
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {} and {}",
                        text(first, "name"),
                        text(owner, "name")
                    ),
                ));
            } else {
                controller = Some(owner);
            }
        }
    }
    errors
}

fn owner_reference(owner: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let api_version = text(owner, "apiVersion");
    if api_version.is_empty() || api_version.matches('/').count() > 1 || api_version.ends_with('/') {
        errors.push(invalid_str(&path.child("apiVersion"), api_version, "version must not be empty"));
    }
    for (field, detail) in
        [("kind", "must not be empty"), ("name", "must not be empty"), ("uid", "must not be empty")]
    {
        if text(owner, field).is_empty() {
            errors.push(invalid_str(&path.child(field), "", detail));
        }
    }
    if api_version == "v1" && text(owner, "kind") == "Event" {
        errors.push(invalid(path, owner, "/v1, Kind=Event is disallowed from being an owner"));
    }
    errors
}

fn finalizer_list(meta: &Value) -> Vec<&str> {
    meta["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn finalizers(meta: &Value, path: &Path) -> ErrorList {
    let path = path.child("finalizers");
    let mut errors = ErrorList::new();
    let list = finalizer_list(meta);
    for name in &list {
        for detail in names::qualified(name) {
            errors.push(invalid_str(&path, name, detail));
        }
    }
    if list.contains(&"orphan") && list.contains(&"foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(invalid(&path, &meta["finalizers"], detail));
    }
    errors
}

fn kube_finalizers(meta: &Value, path: &Path) -> ErrorList {
    let path = path.child("finalizers");
    finalizer_list(meta)
        .iter()
        .enumerate()
        .filter(|(_, name)| !name.contains('/') && !STANDARD_FINALIZERS.contains(name))
        .map(|(i, name)| {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            invalid_str(&path.index(i), name, detail)
        })
        .collect()
}

fn managed_fields(meta: &Value, path: &Path) -> ErrorList {
    let path = path.child("managedFields");
    let mut errors = ErrorList::new();
    for (i, entry) in meta["managedFields"].as_array().into_iter().flatten().enumerate() {
        let path = path.index(i);
        if !matches!(text(entry, "operation"), "Apply" | "Update") {
            let detail = "must be `Apply` or `Update`";
            errors.push(invalid_str(&path.child("operation"), text(entry, "operation"), detail));
        }
        if !matches!(text(entry, "fieldsType"), "" | "FieldsV1") {
            let detail = "must be `FieldsV1`";
            errors.push(invalid_str(&path.child("fieldsType"), text(entry, "fieldsType"), detail));
        }
        if text(entry, "manager").len() > 128 {
            errors.push(too_long(&path.child("manager"), 128));
        }
    }
    errors
}

/// Carries over to `new` what an update may not change and upstream silently keeps.
pub fn prepare_update(new: &mut Value, old: &Value) {
    if !new["metadata"].is_object() {
        new["metadata"] = Value::Object(Map::new());
    }
    let Some(meta) = new["metadata"].as_object_mut() else { return };
    let before = &old["metadata"];
    meta.remove("selfLink");
    for field in ["creationTimestamp", "generation"] {
        keep(meta, before, field);
    }
    // An object can never lose its deletion timestamp, nor its grace period.
    if !before["deletionTimestamp"].is_null() {
        keep(meta, before, "deletionTimestamp");
        if !meta.contains_key("deletionGracePeriodSeconds") {
            keep(meta, before, "deletionGracePeriodSeconds");
        }
    }
    if meta.get("uid").and_then(Value::as_str).unwrap_or_default().is_empty() {
        keep(meta, before, "uid");
    }
}

fn keep(meta: &mut Map<String, Value>, before: &Value, field: &str) {
    match before.get(field) {
        Some(value) => meta.insert(field.into(), value.clone()),
        None => meta.remove(field),
    };
}

/// Upstream's `ValidateObjectMetaUpdate`. Upstream runs it twice (generic registry and the kind's strategy), and the
/// causes show it: so do these.
pub fn validate_update(kind: &Kind, new: &Value, old: &Value) -> ErrorList {
    let once = validate_update_once(kind, new, old);
    let mut errors = once.clone();
    errors.extend(once);
    errors.extend(kube_finalizers(&new["metadata"], &Path::new("metadata")));
    errors
}

fn validate_update_once(_kind: &Kind, new: &Value, old: &Value) -> ErrorList {
    let (meta, before) = (&new["metadata"], &old["metadata"]);
    let path = Path::new("metadata");
    let mut errors = ErrorList::new();
    for field in ["deletionGracePeriodSeconds", "deletionTimestamp"] {
        if !meta[field].is_null() && meta[field] != before[field] {
            let detail = "field is immutable";
            errors.push(invalid(&path.child(field), &meta[field], detail));
        }
    }
    if !before["deletionTimestamp"].is_null() {
        errors.extend(new_finalizers(meta, before, &path));
    }
    errors.extend(finalizers(meta, &path));
    if let (Some(now), Some(then)) = (meta["generation"].as_i64(), before["generation"].as_i64())
        && now < then
    {
        errors.push(invalid(&path.child("generation"), &json!(now), "must not be decremented"));
    }
    for field in ["name", "namespace", "uid"] {
        if text(meta, field) != text(before, field) {
            errors.push(invalid_str(&path.child(field), text(meta, field), "field is immutable"));
        }
    }
    errors.extend(common(meta, &path));
    errors.extend(managed_fields(meta, &path));
    errors
}

fn new_finalizers(meta: &Value, before: &Value, path: &Path) -> ErrorList {
    let known = finalizer_list(before);
    let mut added: Vec<&str> = finalizer_list(meta).into_iter().filter(|f| !known.contains(f)).collect();
    if added.is_empty() {
        return ErrorList::new();
    }
    added.sort_unstable();
    let shown: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
    vec![forbidden(
        &path.child("finalizers"),
        format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            shown.join(", ")
        ),
    )]
}
