//! apiextensions.k8s.io/v1 CustomResourceDefinition.

use super::{cells as c, strategy, structural, webhooks};
use crate::field::{self, ErrorList};
use crate::kind::{Act, Kind, Subresource};
use crate::pod::defaults as d;
use crate::validate::{Field, names, same};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "apiextensions.k8s.io",
    kind: "CustomResourceDefinition",
    plural: "customresourcedefinitions",
    singular: "customresourcedefinition",
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    namespaced: false,
    schema: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    message: "apiextensions_apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    storage: "customresourcedefinitions",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    default,
    prepare_create,
    prepare_update,
    prepare_status: strategy::status_only,
    validate,
    validate_update,
    validate_status: |new, _| accepted_names(new),
    cells: c::name_and_created,
    unconditional_update: false,
    generation: true,
    ..Kind::BASE
};

fn default(v: &mut Value) {
    let Some(spec) = d::object(v, "spec") else { return };
    if let Some(names) = d::object(spec, "names") {
        let kind = names["kind"].as_str().unwrap_or_default().to_owned();
        if !kind.is_empty() {
            d::zero(names, "singular", json!(kind.to_lowercase()));
            d::zero(names, "listKind", json!(format!("{kind}List")));
        }
    }
    if let Some(conversion) = d::object(spec, "conversion") {
        d::zero(conversion, "strategy", json!("None"));
        d::with(conversion, "webhook", |w| {
            d::with(w, "clientConfig", |c| d::with(c, "service", |s| d::unset(s, "port", json!(443))));
        });
    }
}

/// The version that objects are stored in.
fn storage_version(v: &Value) -> Option<&Value> {
    let versions = v["spec"]["versions"].as_array()?;
    versions.iter().find(|version| version["storage"] == true).map(|version| &version["name"])
}

fn prepare_create(v: &mut Value) {
    let stored: Vec<Value> = storage_version(v).into_iter().cloned().collect();
    let stored = if stored.is_empty() { Value::Null } else { Value::Array(stored) };
    let names = json!({"kind": "", "plural": ""});
    strategy::create_counted(
        v,
        json!({"acceptedNames": names, "conditions": null, "storedVersions": stored}),
    );
}

fn prepare_update(new: &mut Value, old: &Value) {
    strategy::update_counted(new, old);
    let Some(version) = storage_version(new).cloned() else { return };
    let Some(status) = d::object(new, "status") else { return };
    match status["storedVersions"].as_array_mut() {
        Some(list) if list.contains(&version) => {}
        Some(list) => list.push(version),
        None => status["storedVersions"] = json!([version]),
    }
}

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let f = Field::root(v);
    let s = f.get("spec");
    let (group, plural) = (s.get("group"), s.get("names").get("plural"));
    let name = f.get("metadata").get("name");
    if strategy::is_new(v) && name.str() != format!("{}.{}", plural.str(), group.str()) {
        name.invalid(&mut e, "must be spec.names.plural+\".\"+spec.group");
    }
    if group.present(&mut e) {
        let wrong = names::dns_subdomain(group.str());
        if wrong.is_empty() && !group.str().contains('.') {
            group.invalid(&mut e, "should be a domain with at least one dot");
        }
        group.joined(&mut e, &wrong);
    }
    s.get("scope").required_one_of(&mut e, &["Cluster", "Namespaced"]);
    let preserve = s.get("preserveUnknownFields");
    if preserve.is_true() {
        let words = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        preserve.invalid(&mut e, words);
    }
    versions(&s, &mut e);
    for name in ["plural", "singular", "kind", "listKind"] {
        s.get("names").get(name).present(&mut e);
    }
    self::names(&s.get("names"), &mut e);
    conversion(&s.get("conversion"), &mut e);
    e.extend(accepted_names(v));
    stored_versions(v, &mut e);
    e
}

fn names(f: &Field, e: &mut ErrorList) {
    const MIXED: &str = "may have mixed case, but should otherwise match: ";
    for (name, before) in [("plural", ""), ("singular", ""), ("kind", MIXED), ("listKind", MIXED)] {
        let at = f.get(name);
        if !at.is_empty() {
            let text = if before.is_empty() { at.str().to_owned() } else { at.str().to_lowercase() };
            let wrong = names::dns1035_label(&text);
            if !wrong.is_empty() {
                at.invalid(e, format!("{before}{}", wrong.join(",")));
            }
        }
    }
    let (kind, list) = (f.get("kind"), f.get("listKind"));
    if !kind.is_empty() && kind.str() == list.str() {
        list.invalid(e, "kind and listKind may not be the same");
    }
    for word in f.get("shortNames").items().chain(f.get("categories").items()) {
        word.joined(e, &names::dns1035_label(word.str()));
    }
}

fn accepted_names(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    names(&Field::root(v).get("status").get("acceptedNames"), &mut e);
    e
}

/// What each version says for itself, and where upstream keeps it when all of them say the same.
const SHARED: &[(&str, &str)] = &[
    ("schema", "validation"),
    ("subresources", "subresources"),
    ("additionalPrinterColumns", "additionalPrinterColumns"),
    ("selectableFields", "selectableFields"),
];

fn versions(s: &Field, e: &mut ErrorList) {
    let list = s.get("versions");
    let all: Vec<Field> = list.items().collect();
    let shared = |key: &str| all.windows(2).all(|w| same(w[0].get(key).value, w[1].get(key).value));
    let mut seen: Vec<&str> = Vec::new();
    let mut unique = true;
    for version in &all {
        let name = version.get("name");
        unique &= !seen.contains(&name.str());
        seen.push(name.str());
        name.joined(e, &names::dns1035_label(name.str()));
        if !version.get("schema").get("openAPIV3Schema").is_set() {
            version.get("schema").get("openAPIV3Schema").required(e, "");
        }
        deprecation(version, e);
    }
    let storing = all.iter().filter(|version| version.get("storage").is_true()).count();
    let printed = || Some(internal(list.value, &|key| shared(key)));
    let mut whole = |words: &str| {
        e.push(crate::validate::error(field::Cause::Invalid, &list.path, printed(), words));
    };
    if !unique {
        whole("must contain unique version names");
    }
    if storing != 1 {
        whole("must have exactly one version marked as storage version");
    }
    if let Some(first) = all.first() {
        let version = Field::at(first.get("name").value, s.path.child("version"));
        version.joined(e, &names::dns1035_label(version.str()));
    }
    for (key, hub) in SHARED {
        let common = shared(key);
        for version in all.iter().take(if common { 1 } else { all.len() }) {
            let at = if common { s.path.child(hub) } else { version.path.child(key) };
            part(key, version, Field::at(version.get(key).value, at), e);
        }
    }
}

/// The versions as upstream prints them: what all share is not in them.
fn internal(versions: &Value, shared: &dyn Fn(&str) -> bool) -> String {
    let versions = versions.as_array().map_or(&[][..], Vec::as_slice);
    let one = |v: &Value| {
        let own = |key: &str| if shared(key) { "null".into() } else { v[key].to_string() };
        format!(
            "{{\"Name\":{},\"Served\":{},\"Storage\":{},\"Deprecated\":{},\"DeprecationWarning\":{},\"Schema\":{},\"Subresources\":{},\"AdditionalPrinterColumns\":{},\"SelectableFields\":{}}}",
            v["name"],
            v["served"] == true,
            v["storage"] == true,
            v["deprecated"] == true,
            v["deprecationWarning"],
            own("schema"),
            own("subresources"),
            own("additionalPrinterColumns"),
            own("selectableFields"),
        )
    };
    format!("[{}]", versions.iter().map(one).collect::<Vec<_>>().join(","))
}

fn deprecation(version: &Field, e: &mut ErrorList) {
    let warning = version.get("deprecationWarning");
    if !warning.is_set() {
        return;
    }
    if !version.get("deprecated").is_true() {
        warning.invalid(e, "can only be set for deprecated versions");
    }
    if warning.str().is_empty() {
        warning.invalid(e, "must not be an empty string");
    }
    if warning.len() > 256 {
        warning.invalid(e, "must be <= 256 characters long");
    }
    if let Some((at, _)) = warning.str().char_indices().find(|(_, c)| c.is_control()) {
        let words = "must only contain printable UTF-8 characters; non-printable character found at index";
        warning.invalid(e, format!("{words} {at}"));
    }
}

fn part(key: &str, version: &Field, f: Field, e: &mut ErrorList) {
    match key {
        "schema" => structural::root(&f.get("openAPIV3Schema"), e),
        "subresources" => scale(&f, e),
        "additionalPrinterColumns" => f.items().for_each(|column| printed_column(&column, e)),
        _ => selectable(&version.get("schema").get("openAPIV3Schema"), &f, e),
    }
}

fn scale(f: &Field, e: &mut ErrorList) {
    let scale = f.get("scale");
    if !scale.is_set() {
        return;
    }
    for (name, root, needed) in [
        ("specReplicasPath", ".spec.", true),
        ("statusReplicasPath", ".status.", true),
        ("labelSelectorPath", "", false),
    ] {
        let at = scale.get(name);
        if at.is_empty() {
            if needed {
                at.required(e, "");
            }
        } else if !simple_path(&at, e) {
        } else if root.is_empty() {
            if !at.str().starts_with(".status.") && !at.str().starts_with(".spec.") {
                at.invalid(e, "should be a json path under either .spec or .status");
            }
        } else if !at.str().starts_with(root) {
            at.invalid(e, format!("should be a json path under {}", root.trim_end_matches('.')));
        }
    }
}

fn simple_path(f: &Field, e: &mut ErrorList) -> bool {
    let good = f.str().starts_with('.');
    if !good {
        f.invalid(e, "must be a simple json path starting with .");
    }
    good
}

fn printed_column(f: &Field, e: &mut ErrorList) {
    const TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
    const FORMATS: &[&str] = &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    f.get("name").present(e);
    let (kind, format) = (f.get("type"), f.get("format"));
    let types = format!("must be one of {}", TYPES.join(","));
    if kind.is_empty() {
        kind.required(e, &types);
    } else if !TYPES.contains(&kind.str()) {
        kind.invalid(e, types);
    }
    if !format.is_empty() && !FORMATS.contains(&format.str()) {
        format.invalid(e, format!("must be one of {}", FORMATS.join(",")));
    }
    let path = Field::at(f.get("jsonPath").value, f.path.child("JSONPath"));
    if path.present(e) {
        simple_path(&path, e);
    }
}

/// Selectable fields are scalars that the schema names, a few of them, each once.
fn selectable(schema: &Field, f: &Field, e: &mut ErrorList) {
    const MAX: usize = 8;
    if f.len() > MAX {
        f.too_many(e, MAX);
    }
    let mut seen: Vec<&str> = Vec::new();
    for (index, item) in f.items().enumerate() {
        let path = item.get("jsonPath");
        if path.is_empty() {
            path.required(e, "");
            continue;
        }
        if seen.contains(&path.str()) {
            Field::at(path.value, f.path.index(index).child("jsonPath")).duplicate(e);
        }
        seen.push(path.str());
        if !path.str().starts_with('.') {
            path.invalid(e, "is an invalid path: must be a simple json path starting with .");
            continue;
        }
        let found = path.str().split('.').skip(1).try_fold(schema.clone(), |at, step| {
            let next = at.get("properties").get(step);
            next.is_set().then_some(next)
        });
        match found.filter(|_| !path.str().starts_with(".metadata.")) {
            None => path.invalid(e, "is an invalid path: does not refer to a valid field"),
            Some(at) if !["string", "integer", "boolean"].contains(&at.get("type").str()) => {
                let words = format!(
                    "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed. Found type {:?}",
                    at.get("type").str()
                );
                path.invalid(e, words);
            }
            Some(_) => {}
        }
    }
}

/// How objects go from one version to another; upstream's paths are those of its own form.
fn conversion(f: &Field, e: &mut ErrorList) {
    let kind = f.get("strategy");
    if !kind.required_one_of(e, &["None", "Webhook"]) {
        return;
    }
    let webhook = f.get("webhook");
    let client = Field::at(webhook.get("clientConfig").value, f.path.child("webhookClientConfig"));
    let reviews =
        Field::at(webhook.get("conversionReviewVersions").value, f.path.child("conversionReviewVersions"));
    if kind.str() == "None" {
        for at in [client, reviews] {
            if !at.is_empty() {
                at.forbidden(e, "should not be set when strategy is not set to Webhook");
            }
        }
        return;
    }
    if client.is_set() {
        webhooks::client(&client, e);
    } else {
        client.required(e, "required when strategy is set to Webhook");
    }
    if reviews.is_empty() {
        reviews.required(e, "");
    } else {
        webhooks::reviews(&reviews, e);
    }
}

/// Objects that are stored in a version keep that version alive.
fn stored_versions(v: &Value, e: &mut ErrorList) {
    let f = Field::root(v).get("status").get("storedVersions");
    if f.is_empty() {
        f.invalid(e, "must have at least one stored version");
        return;
    }
    let versions = Field::root(v).get("spec").get("versions");
    let stored: Vec<&str> = f.items().map(|item| item.str()).collect();
    for version in versions.items().filter(|version| version.get("storage").is_true()) {
        let name = version.get("name").str();
        if !stored.contains(&name) {
            f.invalid(e, format!("must have the storage version {name}"));
        }
    }
    for item in f.items() {
        let name = item.str();
        if !versions.items().any(|version| version.get("name").str() == name) {
            item.invalid(e, format!("missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"));
        }
    }
}

fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut fixed = vec!["spec.group", "spec.names.plural"];
    let conditions = old["status"]["conditions"].as_array().into_iter().flatten();
    if conditions.into_iter().any(|c| c["type"] == "Established" && c["status"] == "True") {
        fixed.extend(["spec.scope", "spec.names.kind"]);
    }
    strategy::immutable(new, old, &fixed)
}
