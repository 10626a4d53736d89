//! What the kinds of RBAC share: rules, subjects, references.

use serde_json::{Value, json};

use super::cells as c;
use crate::{
    field::{self, Cause, ErrorList},
    kind::Printing,
    pod::defaults as d,
    validate::{self, Field, names, same},
};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Rules of a role; those of a namespace cannot reach what is no resource.
pub fn rules(v: &Value, namespaced: bool) -> ErrorList {
    let mut e = ErrorList::new();
    for rule in Field::root(v).get("rules").items() {
        let get = |name: &str| rule.get(name);
        if get("verbs").is_empty() {
            get("verbs").required(&mut e, "verbs must contain at least one value");
        }
        let urls = get("nonResourceURLs");
        if !urls.is_empty() {
            if namespaced {
                urls.invalid(&mut e, "namespaced rules cannot apply to non-resource URLs");
            }
            if ["apiGroups", "resources", "resourceNames"].iter().any(|n| !get(n).is_empty()) {
                urls.invalid(&mut e, "rules cannot apply to both regular resources and non-resource URLs");
            }
            continue;
        }
        if get("apiGroups").is_empty() {
            get("apiGroups").required(&mut e, "resource rules must supply at least one api group");
        }
        if get("resources").is_empty() {
            get("resources").required(&mut e, "resource rules must supply at least one resource");
        }
    }
    e
}

/// An empty list of rules is written as null, as it comes back from upstream's store.
pub fn rules_default(v: &mut Value) {
    if v["rules"].as_array().is_none_or(Vec::is_empty) {
        v["rules"] = Value::Null;
    }
}

/// Group of the role, and of each subject by its kind.
pub fn binding_default(v: &mut Value) {
    if let Some(role) = d::object(v, "roleRef") {
        d::zero(role, "apiGroup", json!(GROUP));
    }
    d::each(v, "subjects", |s| {
        if s["kind"] == "User" || s["kind"] == "Group" {
            d::zero(s, "apiGroup", json!(GROUP));
        }
    });
}

pub fn binding(v: &Value, namespaced: bool) -> ErrorList {
    let mut e = ErrorList::new();
    let role = Field::root(v).get("roleRef");
    let in_group = |f: &Field, e: &mut ErrorList| {
        if f.str() != GROUP {
            f.not_supported(e, &[GROUP]);
        }
    };
    in_group(&role.get("apiGroup"), &mut e);
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&role.get("kind").str()) {
        role.get("kind").not_supported(&mut e, kinds);
    }
    let name = role.get("name");
    if name.present(&mut e) {
        name.all(&mut e, names::path_segment(name.str()));
    }
    for s in Field::root(v).get("subjects").items() {
        let (name, group, kind) = (s.get("name"), s.get("apiGroup"), s.get("kind"));
        name.present(&mut e);
        match kind.str() {
            "ServiceAccount" => {
                if !name.is_empty() {
                    name.all(&mut e, names::dns_subdomain(name.str()));
                }
                if !group.is_empty() {
                    group.not_supported(&mut e, &[""]);
                }
                if !namespaced {
                    s.get("namespace").present(&mut e);
                }
            }
            "User" | "Group" => in_group(&group, &mut e),
            _ => kind.not_supported(&mut e, &["ServiceAccount", "User", "Group"]),
        }
    }
    e
}

/// The role that a binding gives cannot be swapped for another.
pub fn binding_update(new: &Value, old: &Value) -> ErrorList {
    let role = &new["roleRef"];
    if same(role, &old["roleRef"]) {
        return ErrorList::new();
    }
    let text = |name: &str| role[name].as_str().unwrap_or_default();
    let value = format!(
        "{{\"APIGroup\":{:?},\"Kind\":{:?},\"Name\":{:?}}}",
        text("apiGroup"),
        text("kind"),
        text("name")
    );
    let path = field::Path::new("roleRef");
    vec![validate::error(Cause::Invalid, &path, Some(value), "cannot change roleRef")]
}

pub fn binding_cells(o: &Value, p: &Printing) -> Vec<Value> {
    let role = &o["roleRef"];
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let mut groups: [Vec<String>; 3] = Default::default();
    for s in o["subjects"].as_array().into_iter().flatten() {
        match s["kind"].as_str().unwrap_or_default() {
            "User" => groups[0].push(text(&s["name"])),
            "Group" => groups[1].push(text(&s["name"])),
            "ServiceAccount" => groups[2].push(format!("{}/{}", text(&s["namespace"]), text(&s["name"]))),
            _ => {}
        }
    }
    let mut row =
        vec![c::name(o), json!(format!("{}/{}", text(&role["kind"]), text(&role["name"]))), c::age(o, p)];
    row.extend(groups.iter().map(|g| json!(g.join(", "))));
    row
}
