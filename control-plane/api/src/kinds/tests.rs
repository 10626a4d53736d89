//! Every registered kind holds these, because it is registered.

use serde_json::{Value, json};

use super::REGISTRY;
use crate::{
    kind::{Kind, Printing},
    table,
};

const NOW: Printing = Printing { now: 1_767_225_600 };

fn label(kind: &Kind) -> String {
    format!("{}/{}", kind.api_version(), kind.kind)
}

fn stored() -> impl Iterator<Item = &'static Kind> {
    REGISTRY.iter().copied().filter(|k| k.verbs.contains(&"list"))
}

/// An object that says nothing but its name.
fn bare(kind: &Kind) -> Value {
    json!({
        "apiVersion": kind.api_version(),
        "kind": kind.kind,
        "metadata": {"name": "x", "namespace": "n", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
    })
}

#[test]
fn every_kind_is_registered_once_and_completely() {
    let mut seen = Vec::new();
    for kind in REGISTRY {
        let id = (kind.group, kind.version, kind.plural);
        assert!(!seen.contains(&id), "{} twice", label(kind));
        seen.push(id);
        for text in [kind.kind, kind.plural, kind.singular, kind.schema, kind.message, kind.storage] {
            assert!(!text.is_empty(), "{} leaves an identity field empty", label(kind));
        }
        assert!(crate::schema::of(kind.schema).is_some(), "{} has no schema {}", label(kind), kind.schema);
    }
}

/// What v1.36 lists as stable, in its own words.
const STABLE: &str = include_str!("../../tables/resources.txt");

#[test]
fn every_stable_resource_is_registered_as_upstream_lists_it() {
    let registered: Vec<String> = REGISTRY.iter().map(|k| listed(k)).collect();
    let stable: Vec<&str> = STABLE.lines().filter(|line| !line.starts_with('#')).collect();
    let missing: Vec<&&str> = stable.iter().filter(|line| !registered.iter().any(|r| r == **line)).collect();
    // What else is served is an older version of a stable resource.
    let other = |line: &&String| {
        let plural = line.split('\t').nth(2);
        !stable.contains(&line.as_str()) && !stable.iter().any(|s| s.split('\t').nth(2) == plural)
    };
    let unknown: Vec<&String> = registered.iter().filter(other).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "missing: {missing:#?}\nunknown: {unknown:#?}");
}

/// A kind as a line of the table.
fn listed(kind: &Kind) -> String {
    let words = |list: &[&str]| if list.is_empty() { "-".to_owned() } else { list.join(",") };
    let mut verbs = kind.verbs.to_vec();
    verbs.sort_unstable();
    [
        kind.api_version(),
        kind.kind.into(),
        kind.plural.into(),
        words(kind.short_names),
        if kind.namespaced { "namespaced" } else { "cluster" }.into(),
        words(&verbs),
        words(kind.categories),
    ]
    .join("\t")
}

#[test]
fn versions_of_one_storage_convert_into_each_other() {
    for kind in REGISTRY.iter().filter(|k| k.convert.is_some()) {
        let main = REGISTRY.iter().filter(|k| k.storage == kind.storage && k.convert.is_none()).count();
        assert_eq!(main, 1, "{} has no stored version", label(kind));
        let Some(conversion) = &kind.convert else { continue };
        let mut object = bare(kind);
        (kind.default)(&mut object);
        (conversion.to_storage)(&mut object);
        (conversion.from_storage)(&mut object);
        let once = object.clone();
        (conversion.to_storage)(&mut object);
        (conversion.from_storage)(&mut object);
        assert_eq!(object, once, "{} does not survive its store", label(kind));
        assert_eq!(object["apiVersion"], kind.api_version().as_str());
    }
}

#[test]
fn every_row_has_a_cell_for_each_column() {
    for kind in stored() {
        let mut object = bare(kind);
        let bare = (kind.cells)(&object, &NOW).len();
        (kind.default)(&mut object);
        let full = (kind.cells)(&object, &NOW).len();
        let columns = table::columns(kind).len();
        assert_eq!((bare, full), (columns, columns), "{}", label(kind));
    }
}

#[test]
fn defaults_do_not_change_what_they_have_set() {
    for kind in stored() {
        let mut object = bare(kind);
        (kind.default)(&mut object);
        let once = object.clone();
        (kind.default)(&mut object);
        assert_eq!(object, once, "{}", label(kind));
    }
}

#[test]
fn an_update_without_change_keeps_the_generation_and_the_status() {
    for kind in stored() {
        let mut old = bare(kind);
        (kind.default)(&mut old);
        (kind.prepare_create)(&mut old);
        (kind.default)(&mut old);
        let mut new = old.clone();
        (kind.prepare_update)(&mut new, &old);
        assert_eq!(new["metadata"]["generation"], old["metadata"]["generation"], "{}", label(kind));
        assert_eq!(new["status"], old["status"], "{}", label(kind));
        assert!((kind.validate_update)(&new, &old).is_empty(), "{} may not stay as it is", label(kind));
    }
}

#[test]
fn a_status_update_cannot_change_the_spec() {
    for kind in stored().filter(|k| k.subresources.iter().any(|s| s.name == "status")) {
        let mut old = bare(kind);
        (kind.default)(&mut old);
        (kind.prepare_create)(&mut old);
        let mut new = old.clone();
        new["spec"] = json!({"smuggled": true});
        (kind.prepare_status)(&mut new, &old);
        assert_eq!(new["spec"], old["spec"], "{}", label(kind));
    }
}

#[test]
fn objects_of_any_shape_are_judged_without_panic() {
    let odd =
        [json!(null), json!([]), json!("x"), json!(-1), json!({}), json!([{}]), json!({"x": [{"y": null}]})];
    for kind in stored() {
        for spec in &odd {
            for field in ["spec", "status", "template", "webhooks", "rules", "data", "subsets", "endpoints"] {
                let mut object = bare(kind);
                object[field] = spec.clone();
                (kind.default)(&mut object);
                let _ = (kind.validate)(&object);
                let _ = (kind.warnings)(&object, None);
                let _ = (kind.cells)(&object, &NOW);
                for f in kind.fields {
                    let _ = (f.value)(&object);
                }
            }
        }
    }
}

#[test]
fn every_column_has_words_but_the_one_that_upstream_left_without() {
    for kind in stored() {
        for column in table::definitions(kind).as_array().into_iter().flatten() {
            let silent = column["description"].as_str().is_none_or(str::is_empty);
            let upstream = (kind.kind, column["name"].as_str()) == ("RuntimeClass", Some("Handler"));
            assert_eq!(silent, upstream, "{}: {column}", label(kind));
        }
    }
}
