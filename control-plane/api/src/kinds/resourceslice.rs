//! resource.k8s.io/v1 ResourceSlice.

use super::{cells as c, devices, fields::label, strategy};
use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{FieldLabel, Printing};
use crate::validate::{Field, Seen, names, scheduling, volume};
use serde_json::Value;

pub static KIND: Kind = Kind {
    group: "resource.k8s.io",
    kind: "ResourceSlice",
    plural: "resourceslices",
    singular: "resourceslice",
    namespaced: false,
    schema: "io.k8s.api.resource.v1.ResourceSlice",
    message: "api.resource.v1.ResourceSlice",
    storage: "resourceslices",
    prepare_create: strategy::first_generation,
    prepare_update: |new, old| strategy::count(new, old, |v| v["spec"].clone()),
    validate,
    validate_update: |new, old| {
        strategy::immutable(new, old, &["spec.driver", "spec.nodeName", "spec.pool.name"])
    },
    cells,
    generation: true,
    fields: &[
        FieldLabel { label: "spec.nodeName", value: |o| label(&o["spec"]["nodeName"]) },
        FieldLabel { label: "spec.driver", value: |o| label(&o["spec"]["driver"]) },
    ],
    ..Kind::BASE
};

const PLACE: &str =
    "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
const SLICE_MAX: usize = 128;
/// With taints or counters a device weighs more.
const HEAVY_MAX: usize = 64;
const COUNTER_SETS_MAX: usize = 8;
const COUNTERS_MAX: usize = 32;
const PROPERTIES_MAX: usize = 32;
const TAINTS_MAX: usize = 16;
const CONSUMED_MAX: usize = 2;

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let s = Field::root(v).get("spec");
    volume::csi_driver(&s.get("driver"), &mut e);
    let pool = s.get("pool");
    devices::pool_name(&pool.get("name"), &mut e);
    if pool.get("resourceSliceCount").num() <= 0 {
        pool.get("resourceSliceCount").invalid(&mut e, "must be greater than zero");
    }
    if pool.get("generation").num() < 0 {
        pool.get("generation").invalid(&mut e, "must be greater than or equal to zero");
    }
    let each = s.get("perDeviceNodeSelection");
    let unset = "must be either unset or set to";
    let mut places = places(&s, &format!("{unset} a non-empty string"), &format!("{unset} true"), &mut e);
    let terms = s.get("nodeSelector").get("nodeSelectorTerms");
    if s.get("nodeSelector").is_set() && terms.len() != 1 {
        terms.invalid(&mut e, "must have exactly one node selector term");
    }
    if each.is_true() {
        places.push("`perDeviceNodeSelection`");
    } else if each.is_set() {
        each.invalid(&mut e, format!("{unset} true"));
    }
    one_place(&s, &places, PLACE, ", but multiple fields are set", &mut e);
    let (list, counters) = (s.get("devices"), s.get("sharedCounters"));
    if list.is_set() && counters.is_set() {
        let words = "only one of `sharedCounters` or `devices` is allowed";
        Field::at(&Value::from(""), s.path.clone()).invalid(&mut e, words);
    }
    let heavy = list.items().any(|d| !d.get("taints").is_empty() || !d.get("consumesCounters").is_empty());
    let max = if heavy { HEAVY_MAX } else { SLICE_MAX };
    devices::set(&list, "name", max, &mut e, |device, e| self::device(device, each.is_true(), e));
    devices::set(&counters, "name", COUNTER_SETS_MAX, &mut e, |set, e| named_counters(set, "name", e));
    e
}

/// Where it is: which of the ways to say so are used.
fn places(f: &Field, name: &str, flag: &str, e: &mut ErrorList) -> Vec<&'static str> {
    let mut set = Vec::new();
    let (node, selector, all) = (f.get("nodeName"), f.get("nodeSelector"), f.get("allNodes"));
    if !node.is_empty() {
        set.push("`nodeName`");
        node.all(e, names::dns_subdomain(node.str()));
    } else if node.is_set() {
        node.invalid(e, name);
    }
    if selector.is_set() {
        set.push("`nodeSelector`");
        scheduling::node_selector(&selector, e);
    }
    if all.is_true() {
        set.push("`allNodes`");
    } else if all.is_set() {
        all.invalid(e, flag);
    }
    set
}

fn one_place(f: &Field, set: &[&str], words: &str, many: &str, e: &mut ErrorList) {
    match set.len() {
        0 => f.required(e, words),
        1 => {}
        _ => {
            let printed = Value::from(format!("{{{}}}", set.join(", ")));
            Field::at(&printed, f.path.clone()).invalid(e, format!("{words}{many}"));
        }
    }
}

fn device(f: &Field, places_itself: bool, e: &mut ErrorList) {
    devices::label(&f.get("name"), e);
    let (attributes, capacity) = (f.get("attributes"), f.get("capacity"));
    let count = attributes.len() + capacity.len();
    if count > PROPERTIES_MAX {
        let words = format!("the total number of attributes and capacities must not exceed {PROPERTIES_MAX}");
        Field::at(&Value::from(count), f.path.clone()).invalid(e, words);
    }
    for (name, attribute) in attributes.entries() {
        devices::attribute_name(name, &attributes.path, e);
        self::attribute(&attribute, e);
    }
    for (name, amount) in capacity.entries() {
        devices::attribute_name(name, &capacity.path, e);
        if amount.get("requestPolicy").is_set() && !f.get("allowMultipleAllocations").is_true() {
            amount.get("requestPolicy").forbidden(e, "allowMultipleAllocations must be true");
        }
    }
    devices::slice(&f.get("taints"), TAINTS_MAX, e, devices::taint);
    devices::set(&f.get("consumesCounters"), "counterSet", CONSUMED_MAX, e, |used, e| {
        named_counters(used, "counterSet", e);
    });
    if places_itself {
        let set = places(f, "must not be empty", "must be either unset or set to true", e);
        let words = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
        one_place(f, &set, words, "", e);
    } else if ["nodeName", "nodeSelector", "allNodes"].iter().any(|name| f.get(name).is_set()) {
        let words = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
        Field::at(&Value::Null, f.path.clone()).invalid(e, words);
    }
    bindings(f, e);
}

fn named_counters(f: &Field, name: &str, e: &mut ErrorList) {
    if f.get(name).present(e) {
        devices::label(&f.get(name), e);
    }
    let counters = f.get("counters");
    if !counters.present(e) {
        return;
    }
    if counters.len() > COUNTERS_MAX {
        counters.too_many(e, COUNTERS_MAX);
        return;
    }
    for (key, _) in counters.entries() {
        Field::at(&Value::from(key), counters.path.clone()).all(e, names::dns_label(key));
    }
}

/// One value of one type.
fn attribute(f: &Field, e: &mut ErrorList) {
    const VALUE_MAX: usize = 64;
    const KINDS: &[&str] = &["bool", "int", "string", "version", "bools", "ints", "strings", "versions"];
    for name in ["string", "version"] {
        let (single, list) = (f.get(name), f.get(&format!("{name}s")));
        for text in list.items().chain(single.is_set().then_some(single)) {
            if name == "version" && !is_semantic(text.str()) {
                text.invalid(e, "must be a string compatible with semver.org spec 2.0.0");
            }
            if text.len() > VALUE_MAX {
                text.too_long(e, VALUE_MAX);
            }
        }
    }
    for list in ["bools", "ints", "strings", "versions"].iter().map(|name| f.get(name)) {
        if list.is_set() && list.is_empty() {
            list.invalid(e, "must not be empty if specified");
        }
    }
    match KINDS.iter().filter(|kind| f.get(kind).is_set()).count() {
        0 => Field::at(&Value::from(""), f.path.clone()).invalid(e, "exactly one value must be specified"),
        1 => {}
        _ => f.invalid(e, "exactly one value must be specified"),
    }
}

/// `1.2.3-pre.1+build`: numbers have no leading zeros.
fn is_semantic(text: &str) -> bool {
    let number =
        |s: &str| s == "0" || (!s.starts_with('0') && !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit()));
    let word = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
    let (core, before) = text.split_once('-').map_or((text, None), |(core, before)| (core, Some(before)));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    core.split('.').count() == 3
        && core.split('.').all(number)
        && before.is_none_or(|b| b.split('.').all(|s| word(s) && (!digits(s) || number(s))))
        && build.is_none_or(|b| b.split('.').all(word))
}

/// Conditions that binding waits for, and those that end it: both or none, and none in both.
fn bindings(f: &Field, e: &mut ErrorList) {
    const MAX: usize = 4;
    let (good, bad) = (f.get("bindingConditions"), f.get("bindingFailureConditions"));
    let mut known = Seen::default();
    for (list, other) in [(&good, "bindingFailureConditions"), (&bad, "bindingConditions")] {
        devices::slice(list, MAX, e, |name, e| name.all(e, names::qualified(name.str())));
        if list.is_empty() && !f.get(other).is_empty() {
            let own =
                if other == "bindingConditions" { "bindingFailureConditions" } else { "bindingConditions" };
            list.invalid(e, format!("{own} are required to use {other}"));
        }
    }
    good.items().for_each(|name| known.once(&name, e));
    let mut failing = Seen::default();
    for name in bad.items() {
        failing.once(&name, e);
        if known.has(name.str()) {
            name.invalid(e, "bindingFailureConditions must not overlap with bindingConditions");
        }
    }
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let s = &o["spec"];
    let node =
        if s["nodeName"].is_string() { c::text(&s["nodeName"]) } else { c::text_or(&Value::Null, "<unset>") };
    vec![c::name(o), node, c::text(&s["driver"]), c::text(&s["pool"]["name"]), c::age(o, p)]
}
