//! Claims of devices (`resource.k8s.io`): defaults and checks of their requests.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::webhooks::balanced;
use crate::{
    field::{ErrorList, Path},
    pod::defaults as d,
    validate::{Field, Seen, names, scheduling, volume},
};

/// Requests, constraints, configurations and selectors that there may be.
pub(super) const DEVICES_MAX: usize = 32;
const FIRST_AVAILABLE_MAX: usize = 8;
/// Of an expression, and of what is meant for a driver.
const BYTES_MAX: usize = 10 * 1024;
const ID_MAX: usize = 32;
const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];

/// Fills in how many devices a request means.
pub fn default(spec: &mut Value) {
    let exact = |r: &mut Value| {
        d::zero(r, "allocationMode", json!("ExactCount"));
        if r["allocationMode"] == "ExactCount" {
            d::zero(r, "count", json!(1));
        }
        d::each(r, "tolerations", |t| d::zero(t, "operator", json!("Equal")));
    };
    d::with(spec, "devices", |devices| {
        d::each(devices, "requests", |r| {
            d::with(r, "exactly", exact);
            d::each(r, "firstAvailable", exact);
        });
    });
}

/// A list that is not too long, each element checked.
pub(super) fn slice<'a>(
    f: &Field<'a>,
    max: usize,
    e: &mut ErrorList,
    mut check: impl FnMut(&Field<'a>, &mut ErrorList),
) {
    if f.len() > max {
        f.too_many(e, max);
        return;
    }
    for item in f.items() {
        check(&item, e);
    }
}

/// `slice`, and no two elements have the same key.
pub(super) fn set<'a>(
    f: &Field<'a>,
    key: &str,
    max: usize,
    e: &mut ErrorList,
    check: impl FnMut(&Field<'a>, &mut ErrorList),
) {
    slice(f, max, e, check);
    if f.len() > max {
        return;
    }
    let mut seen = Seen::default();
    for item in f.items() {
        let own = if key.is_empty() { item.value } else { item.get(key).value };
        seen.once(&Field::at(own, item.path.clone()), e);
    }
}

/// A label that must be there.
pub(super) fn label(f: &Field, e: &mut ErrorList) {
    f.all(e, names::dns_label(f.str()));
}

/// Names of the requests of a claim, with their subrequests.
type Requests<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

fn requests<'a>(devices: &Field<'a>) -> Requests<'a> {
    let subs = |request: &Field<'a>| {
        request.get("firstAvailable").items().map(|sub| sub.get("name").str()).collect::<BTreeSet<_>>()
    };
    devices.get("requests").items().map(|request| (request.get("name").str(), subs(&request))).collect()
}

/// `request` or `request/subrequest`.
fn reference(f: &Field, known: &Requests, e: &mut ErrorList) {
    let steps: Vec<&str> = f.str().split('/').collect();
    for step in steps.iter().filter(|_| steps.len() <= 2) {
        for words in names::dns_label(step) {
            let text = Value::from(*step);
            Field::at(&text, f.path.clone()).invalid(e, words);
        }
    }
    let found = match steps[..] {
        [request] => known.contains_key(request),
        [request, sub] => known.get(request).is_some_and(|subs| subs.contains(sub)),
        _ => false,
    };
    if !found {
        f.invalid(e, "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'");
    }
}

/// The spec of a claim, alone or in a template.
pub fn spec(f: &Field, e: &mut ErrorList) {
    let devices = f.get("devices");
    let known = requests(&devices);
    set(&devices.get("requests"), "name", DEVICES_MAX, e, request);
    slice(&devices.get("constraints"), DEVICES_MAX, e, |constraint, e| {
        set(&constraint.get("requests"), "", DEVICES_MAX, e, |name, e| reference(name, &known, e));
        let (same, distinct) = (constraint.get("matchAttribute"), constraint.get("distinctAttribute"));
        match (same.is_set(), distinct.is_set()) {
            (true, _) => full_name(&same, e),
            (false, true) => full_name(&distinct, e),
            (false, false) => constraint.required(e, "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set"),
        }
    });
    slice(&devices.get("config"), DEVICES_MAX, e, |config, e| {
        set(&config.get("requests"), "", DEVICES_MAX, e, |name, e| reference(name, &known, e));
        configuration(config, e);
    });
}

fn request(f: &Field, e: &mut ErrorList) {
    request_name(&f.get("name"), e);
    let (exactly, first) = (f.get("exactly"), f.get("firstAvailable"));
    match (exactly.is_set(), !first.is_empty()) {
        (true, true) => Field::at(&Value::Null, f.path.clone()).invalid(
            e,
            "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
        ),
        (false, false) => f.required(e, "exactly one of `exactly` or `firstAvailable` is required"),
        (true, false) => one(&exactly, e),
        (false, true) => set(&first, "name", FIRST_AVAILABLE_MAX, e, |sub, e| {
            request_name(&sub.get("name"), e);
            one(sub, e);
        }),
    }
}

fn request_name(f: &Field, e: &mut ErrorList) {
    if f.present(e) {
        label(f, e);
    }
}

fn one(f: &Field, e: &mut ErrorList) {
    let class = f.get("deviceClassName");
    if class.present(e) {
        class.all(e, names::dns_subdomain(class.str()));
    }
    selectors(&f.get("selectors"), e);
    let (mode, count) = (f.get("allocationMode"), f.get("count"));
    match mode.str() {
        "All" => {
            if count.num() != 0 {
                count.invalid(e, "must not be specified when allocationMode is 'All'");
            }
        }
        "ExactCount" => {
            if count.num() <= 0 {
                count.invalid(e, "must be greater than zero");
            }
        }
        _ => mode.not_supported(e, &["All", "ExactCount"]),
    }
    for toleration in f.get("tolerations").items() {
        self::toleration(&toleration, e);
    }
}

fn toleration(f: &Field, e: &mut ErrorList) {
    let (key, value, operator) = (f.get("key"), f.get("value"), f.get("operator"));
    if !key.is_empty() {
        key.all(e, names::qualified(key.str()));
    }
    match operator.str() {
        "Exists" if !value.is_empty() => value.invalid(e, "must be empty for operator `Exists`"),
        "Exists" => {}
        "Equal" => value.all(e, names::label_value(value.str())),
        _ => {
            operator.required_one_of(e, &["Equal", "Exists"]);
        }
    }
    if !f.get("effect").is_empty() {
        f.get("effect").one_of(e, EFFECTS);
    }
}

/// A taint of a device.
pub(super) fn taint(f: &Field, e: &mut ErrorList) {
    f.get("key").all(e, names::qualified(f.get("key").str()));
    f.get("value").all(e, names::label_value(f.get("value").str()));
    f.get("effect").required_one_of(e, EFFECTS);
}

/// Expressions that pick devices.
pub fn selectors(f: &Field, e: &mut ErrorList) {
    slice(f, DEVICES_MAX, e, |selector, e| {
        let cel = selector.get("cel");
        if !cel.is_set() {
            cel.required(e, "");
            return;
        }
        let expression = cel.get("expression");
        if expression.is_empty() {
            expression.required(e, "");
        } else if expression.len() > BYTES_MAX {
            expression.too_long(e, BYTES_MAX);
        } else if let Err(words) = balanced(expression.str()) {
            expression.invalid(e, words);
        }
    });
}

/// Parameters for a driver: an object that only it understands.
pub(super) fn configuration(f: &Field, e: &mut ErrorList) {
    let opaque = f.get("opaque");
    if !opaque.is_set() {
        opaque.required(e, "");
        return;
    }
    volume::csi_driver(&opaque.get("driver"), e);
    let parameters = opaque.get("parameters");
    match parameters.value {
        Value::Null => parameters.required(e, ""),
        Value::Object(_) if parameters.value.to_string().len() > BYTES_MAX => {
            parameters.too_long(e, BYTES_MAX)
        }
        Value::Object(_) => {}
        _ => Field::at(&Value::from("<value omitted>"), parameters.path.clone())
            .invalid(e, "must be a valid JSON object"),
    }
}

/// The name of a pool: subdomains with slashes between them.
pub(super) fn pool_name(f: &Field, e: &mut ErrorList) {
    const MAX: usize = 253;
    if !f.present(e) {
        return;
    }
    if f.len() > MAX {
        f.too_long(e, MAX);
    }
    for part in f.str().split('/') {
        for words in names::dns_subdomain(part) {
            Field::at(&Value::from(part), f.path.clone()).invalid(e, words);
        }
    }
}

/// A C identifier, behind a domain when there is a slash.
pub(super) fn attribute_name(name: &str, path: &Path, e: &mut ErrorList) {
    let text = |text: &str| Value::from(text);
    let id = match name.split('/').collect::<Vec<_>>()[..] {
        [id] => id,
        [domain, id] => {
            if domain.is_empty() {
                Field::at(&text(""), path.clone()).invalid(e, "the domain must not be empty");
            } else {
                volume::csi_driver(&Field::at(&text(domain), path.clone()), e);
            }
            if id.is_empty() {
                Field::at(&text(""), path.clone()).invalid(e, "the name must not be empty");
                return;
            }
            id
        }
        _ => {
            Field::at(&text(name), path.clone()).invalid(e, "must not contain more than one slash");
            return;
        }
    };
    let value = text(id);
    let at = Field::at(&value, path.clone());
    if id.len() > ID_MAX {
        at.too_long(e, ID_MAX);
    }
    at.all(e, names::c_identifier(id));
}

fn full_name(f: &Field, e: &mut ErrorList) {
    attribute_name(f.str(), &f.path, e);
    if !f.str().contains('/') {
        f.invalid(e, "a fully qualified name must be a domain and a name separated by a slash");
    }
}

/// What has been given to a claim, and who uses it.
pub(super) fn claim_status(new: &Value, old: &Value) -> ErrorList {
    const USERS_MAX: usize = 256;
    let mut e = ErrorList::new();
    let s = Field::root(new).get("status");
    let (users, allocation) = (s.get("reservedFor"), s.get("allocation"));
    set(&users, "uid", USERS_MAX, &mut e, |user, e| {
        for name in ["resource", "name", "uid"] {
            user.get(name).present(e);
        }
    });
    if !users.is_empty() && !allocation.is_set() {
        users.forbidden(&mut e, "may not be specified when `allocated` is not set");
    }
    let was = old["status"]["reservedFor"].as_array().map_or(&[][..], Vec::as_slice);
    if !new["metadata"]["deletionTimestamp"].is_null() && users.items().any(|user| !was.contains(user.value))
    {
        let words =
            "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        users.forbidden(&mut e, words);
    }
    if allocation.is_set() && !old["status"]["allocation"].is_null() {
        allocation.immutable(&mut e, &old["status"]["allocation"]);
    } else if allocation.is_set() {
        self::allocation(&allocation, &requests(&Field::root(new).get("spec").get("devices")), &mut e);
    }
    e
}

fn allocation(f: &Field, known: &Requests, e: &mut ErrorList) {
    let devices = f.get("devices");
    slice(&devices.get("results"), DEVICES_MAX, e, |result, e| {
        reference(&result.get("request"), known, e);
        volume::csi_driver(&result.get("driver"), e);
        pool_name(&result.get("pool"), e);
        label(&result.get("device"), e);
        result.get("tolerations").items().for_each(|t| toleration(&t, e));
    });
    slice(&devices.get("config"), 2 * DEVICES_MAX, e, |config, e| {
        config.get("source").required_one_of(e, &["FromClaim", "FromClass"]);
        set(&config.get("requests"), "", DEVICES_MAX, e, |name, e| reference(name, known, e));
        configuration(config, e);
    });
    if f.get("nodeSelector").is_set() {
        scheduling::node_selector(&f.get("nodeSelector"), e);
    }
}
