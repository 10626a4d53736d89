//! batch/v1 Job.

use super::{cells as c, fields::number, job_status, strategy};
use crate::kind::{Act, Kind, Subresource};
use crate::kind::{Deletion, FieldLabel, Printing};
use crate::validate::{Field, IMMUTABLE, names, same, selector, template};
use crate::{
    field::{self, ErrorList},
    pod::defaults as d,
    table,
};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "batch",
    kind: "Job",
    plural: "jobs",
    singular: "job",
    categories: &["all"],
    schema: "io.k8s.api.batch.v1.Job",
    message: "api.batch.v1.Job",
    storage: "jobs",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    default,
    prepare_create,
    prepare_update: strategy::update_counted,
    prepare_status: strategy::status,
    validate,
    validate_update,
    validate_status,
    warnings: super::warnings::workload,
    cells,
    fields: &[FieldLabel { label: "status.successful", value: |o| number(&o["status"]["succeeded"]) }],
    generation: true,
    deletion: Deletion::Orphan,
    ..Kind::BASE
};

const UID: &str = "batch.kubernetes.io/controller-uid";
const NAME: &str = "batch.kubernetes.io/job-name";

fn default(v: &mut Value) {
    let Some(spec) = d::object(v, "spec") else { return };
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        spec["completions"] = json!(1);
    }
    d::unset(spec, "parallelism", json!(1));
    let limit = if spec["backoffLimitPerIndex"].is_null() { json!(6) } else { json!(i32::MAX) };
    d::unset(spec, "backoffLimit", limit);
    d::unset(spec, "completionMode", json!("NonIndexed"));
    d::unset(spec, "suspend", json!(false));
    d::unset(spec, "manualSelector", json!(false));
    let replacement = if spec["podFailurePolicy"].is_null() { "TerminatingOrFailed" } else { "Failed" };
    d::unset(spec, "podReplacementPolicy", json!(replacement));
    d::with(spec, "podFailurePolicy", |p| {
        d::each(p, "rules", |r| d::each(r, "onPodConditions", |c| d::zero(c, "status", json!("True"))));
    });
    if let Some(template) = d::object(spec, "template") {
        d::template(template);
    }
    labels_of_template(v);
    if v["spec"]["completions"].is_null()
        && let Some(spec) = v["spec"].as_object_mut()
    {
        spec.remove("completions");
    }
}

/// A job without labels has those of its template.
fn labels_of_template(v: &mut Value) {
    let labels = v["spec"]["template"]["metadata"]["labels"].clone();
    let bare = v["metadata"]["labels"].as_object().is_none_or(|l| l.is_empty());
    let good = labels.as_object().is_some_and(|l| {
        !l.is_empty() && l.values().all(|t| names::label_value(t.as_str().unwrap_or_default()).is_empty())
    });
    if bare && good {
        v["metadata"]["labels"] = labels;
    }
}

fn prepare_create(v: &mut Value) {
    strategy::create_counted(v, json!({}));
    if v["spec"]["manualSelector"] != true {
        let (uid, name) = (v["metadata"]["uid"].clone(), v["metadata"]["name"].clone());
        if let Some(labels) = d::object(&mut v["spec"], "selector").and_then(|s| d::object(s, "matchLabels"))
        {
            labels[UID] = uid.clone();
        }
        let labels = d::object(&mut v["spec"], "template").and_then(|t| d::object(t, "metadata"));
        if let Some(labels) = labels.and_then(|m| d::object(m, "labels")) {
            for (key, value) in [(UID, &uid), ("controller-uid", &uid), (NAME, &name), ("job-name", &name)] {
                d::unset(labels, key, value.clone());
            }
        }
    }
    labels_of_template(v);
}

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let s = Field::root(v).get("spec");
    let choice = s.get("selector");
    if s.get("manualSelector").is_true() {
        if !choice.is_set() {
            choice.required(&mut e, "");
        }
    } else if !v["metadata"]["uid"].is_null() {
        let auto = json!({"matchLabels": {UID: v["metadata"]["uid"]}});
        let legacy = json!({"matchLabels": {"controller-uid": v["metadata"]["uid"]}});
        if choice.is_set() && !same(choice.value, &auto) && !same(choice.value, &legacy) {
            choice.invalid(&mut e, "`selector` not auto-generated");
        }
    }
    spec(&s, &mut e);
    selector::label_selector(&choice, &mut e);
    template::match_labels(&s.get("template"), &choice, &mut e);
    e
}

/// The spec, alone or in a CronJob.
pub(super) fn spec(s: &Field, e: &mut ErrorList) {
    const COUNTS: &[&str] = &[
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    s.non_negatives(e, COUNTS);
    let manager = s.get("managedBy");
    if manager.is_set() {
        manager.all(e, names::domain_prefixed_path(manager.str()));
        if manager.len() > 63 {
            manager.too_long(e, 63);
        }
    }
    indexes(s, e);
    let replacement = s.get("podReplacementPolicy");
    if s.get("podFailurePolicy").is_set() {
        replacement.one_of(e, &["Failed"]);
        failure_policy(s, e);
    } else {
        replacement.one_of(e, &["Failed", "TerminatingOrFailed"]);
    }
    let at = s.get("template");
    template::template(&at, e);
    let restart = at.get("spec").get("restartPolicy");
    if ["", "Always"].contains(&restart.str()) {
        restart.required(e, "valid values: \"OnFailure\", \"Never\"");
    } else if !["OnFailure", "Never"].contains(&restart.str()) {
        restart.not_supported(e, &["OnFailure", "Never"]);
    } else if s.get("podFailurePolicy").is_set() && restart.str() != "Never" {
        restart.invalid(e, "only \"Never\" is supported when podFailurePolicy is specified");
    }
}

fn indexes(s: &Field, e: &mut ErrorList) {
    const MAX: i64 = 100_000;
    let (mode, completions) = (s.get("completionMode"), s.get("completions"));
    mode.one_of(e, &["NonIndexed", "Indexed"]);
    if mode.str() == "Indexed" {
        if !completions.is_set() {
            completions.required(e, "when completion mode is Indexed");
        }
        if s.get("parallelism").num() > MAX {
            s.get("parallelism")
                .invalid(e, "must be less than or equal to 100000 when completion mode is Indexed");
        }
        let (per_index, failed) = (s.get("backoffLimitPerIndex"), s.get("maxFailedIndexes"));
        if failed.is_set() && !per_index.is_set() {
            per_index.required(e, "when maxFailedIndexes is specified");
        }
        if completions.is_set() && failed.num() > completions.num() {
            failed.invalid(e, "must be less than or equal to completions");
        }
    } else {
        for name in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if s.get(name).is_set() {
                s.get(name).invalid(e, "requires indexed completion mode");
            }
        }
    }
    let success = s.get("successPolicy");
    if success.is_set() {
        if mode.str() != "Indexed" {
            success.invalid(e, "requires indexed completion mode");
        }
        if success.get("rules").is_empty() {
            success
                .get("rules")
                .required(e, "at least one rules must be specified when the successPolicy is specified");
        }
        for rule in success.get("rules").items() {
            if !rule.get("succeededCount").is_set() && !rule.get("succeededIndexes").is_set() {
                rule.required(e, "at least one of succeededCount or succeededIndexes must be specified");
            }
        }
    }
}

fn failure_policy(s: &Field, e: &mut ErrorList) {
    const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
    let containers = s.get("template").get("spec").get("containers");
    let known: Vec<&str> = containers.items().map(|c| c.get("name").str()).collect();
    for rule in s.get("podFailurePolicy").get("rules").items() {
        let action = rule.get("action");
        action.required_one_of(e, ACTIONS);
        if action.str() == "FailIndex" && !s.get("backoffLimitPerIndex").is_set() {
            action.invalid(e, "requires the backoffLimitPerIndex to be set");
        }
        let (codes, conditions) = (rule.get("onExitCodes"), rule.get("onPodConditions"));
        match (codes.is_set(), !conditions.is_empty()) {
            (true, true) => {
                rule.invalid(e, "specifying both OnExitCodes and OnPodConditions is not supported")
            }
            (false, false) => {
                rule.invalid(e, "specifying one of OnExitCodes and OnPodConditions is required")
            }
            _ => {}
        }
        if codes.is_set() {
            codes.get("operator").required_one_of(e, &["In", "NotIn"]);
            let name = codes.get("containerName");
            if name.is_set() && !known.contains(&name.str()) {
                name.invalid(e, "must be one of the container or initContainer names in the pod template");
            }
            let values = codes.get("values");
            if values.is_empty() {
                values.invalid(e, "at least one value is required");
            }
            for value in values.items() {
                if value.num() == 0 && codes.get("operator").str() == "In" {
                    value.invalid(e, "must not be 0 for the In operator");
                }
            }
        }
        for condition in conditions.items() {
            condition.get("type").all(e, names::qualified(condition.get("type").str()));
            condition.get("status").required_one_of(e, &["False", "True", "Unknown"]);
        }
    }
}

fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut e = strategy::immutable(
        new,
        old,
        &[
            "spec.selector",
            "spec.completionMode",
            "spec.podFailurePolicy",
            "spec.backoffLimitPerIndex",
            "spec.managedBy",
            "spec.successPolicy",
        ],
    );
    let (s, was) = (Field::root(new).get("spec"), &old["spec"]);
    let completions = s.get("completions");
    if !same(completions.value, &was["completions"]) {
        let indexed = s.get("completionMode").str() == "Indexed";
        if !indexed {
            completions.invalid(&mut e, IMMUTABLE);
        } else if completions.value != s.get("parallelism").value {
            completions.invalid(
                &mut e,
                format!("can only be modified in tandem with {}", s.get("parallelism").path),
            );
        }
    }
    let mut pods = new["spec"]["template"].clone();
    let suspended = was["suspend"] == true && old["status"]["startTime"].is_null();
    if suspended {
        // A job that has not started may still be told where its pods go.
        for name in ["nodeSelector", "tolerations", "schedulingGates"] {
            pods["spec"][name] = was["template"]["spec"][name].clone();
        }
        pods["spec"]["affinity"]["nodeAffinity"] =
            was["template"]["spec"]["affinity"]["nodeAffinity"].clone();
        if !was["template"]["spec"]["affinity"].is_object()
            && same(&pods["spec"]["affinity"], &json!({"nodeAffinity": null}))
        {
            pods["spec"]["affinity"] = Value::Null;
        }
        for name in ["labels", "annotations"] {
            pods["metadata"][name] = was["template"]["metadata"][name].clone();
        }
    }
    if !same(&pods, &was["template"]) {
        let at = s.get("template");
        e.push(field::invalid(&at.path, at.value, IMMUTABLE));
    }
    e
}

fn validate_status(new: &Value, old: &Value) -> ErrorList {
    job_status::validate(new, old)
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let (spec, status) = (&o["spec"], &o["status"]);
    let succeeded = status["succeeded"].as_i64().unwrap_or_default();
    let parallel = spec["parallelism"].as_i64().unwrap_or_default();
    let completions = match spec["completions"].as_i64() {
        Some(n) => format!("{succeeded}/{n}"),
        None if parallel > 1 => format!("{succeeded}/1 of {parallel}"),
        None => format!("{succeeded}/1"),
    };
    let time = |v: &Value| v.as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok()).map(|t| t.as_second());
    let duration = match (time(&status["startTime"]), time(&status["completionTime"])) {
        (None, _) => String::new(),
        (Some(start), end) => table::human_duration((end.unwrap_or(p.now) - start).max(0)),
    };
    let [names, images] = c::containers(&spec["template"]);
    vec![
        c::name(o),
        json!(job_status::word(o)),
        json!(completions),
        json!(duration),
        c::age(o, p),
        names,
        images,
        c::selector(&spec["selector"]),
    ]
}
