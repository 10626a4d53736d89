//! scheduling.k8s.io/v1 PriorityClass.

use super::{cells as c, strategy};
use crate::kind::Kind;
use crate::kind::Printing;
use crate::validate::Field;
use crate::{field::ErrorList, pod::defaults as d};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "scheduling.k8s.io",
    kind: "PriorityClass",
    plural: "priorityclasses",
    singular: "priorityclass",
    short_names: &["pc"],
    namespaced: false,
    schema: "io.k8s.api.scheduling.v1.PriorityClass",
    message: "api.scheduling.v1.PriorityClass",
    storage: "priorityclasses",
    prepare_create: strategy::first_generation,
    default: |v| d::unset(v, "preemptionPolicy", json!("PreemptLowerPriority")),
    validate,
    validate_update,
    cells,
    generation: true,
    ..Kind::BASE
};

/// Users' priorities end here; what lies above belongs to the system.
const USER_MAX: i64 = 1_000_000_000;
const SYSTEM: &[(&str, i64)] =
    &[("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let f = Field::root(v);
    let (name, value) = (f.get("metadata").get("name"), f.get("value"));
    if name.str().starts_with("system-") {
        if let Some(why) = not_of_the_system(name.str(), value.num(), f.get("globalDefault").is_true()) {
            let words = "priority class names with 'system-' prefix are reserved for system use only. error:";
            name.forbidden(&mut e, format!("{words} {why}"));
        }
    } else if value.num() > USER_MAX {
        value.forbidden(&mut e, format!("maximum allowed value of a user defined priority is {USER_MAX}"));
    }
    f.get("preemptionPolicy").required_one_of(&mut e, &["PreemptLowerPriority", "Never"]);
    e
}

/// Why this is none of the classes that the system makes.
fn not_of_the_system(name: &str, value: i64, default: bool) -> Option<String> {
    let Some((_, wanted)) = SYSTEM.iter().find(|(known, _)| *known == name) else {
        return Some(format!("{name} is not a known system priority class"));
    };
    if value != *wanted {
        return Some(format!("value of {name} PriorityClass must be {wanted}"));
    }
    default.then(|| format!("globalDefault of {name} PriorityClass must be false"))
}

fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    if new["value"].as_i64().unwrap_or(0) != old["value"].as_i64().unwrap_or(0) {
        Field::root(new).get("value").forbidden(&mut e, "may not be changed in an update.");
    }
    e.extend(strategy::immutable(new, old, &["preemptionPolicy"]));
    e
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    vec![
        c::name(o),
        c::int(&o["value"]),
        json!(o["globalDefault"] == true),
        c::age(o, p),
        c::text(&o["preemptionPolicy"]),
    ]
}
