//! The status of a Job: the one word that is printed, and what an update of it must hold together.

use serde_json::Value;

use crate::{
    field::{Cause, ErrorList, Path},
    validate::{Field, error},
};

fn holds(o: &Value, kind: &str) -> bool {
    let list = o["status"]["conditions"].as_array().into_iter().flatten();
    list.into_iter().any(|c| c["type"] == kind && c["status"] == "True")
}

/// `Complete`, `Failed`, `Running` …
pub fn word(o: &Value) -> &'static str {
    if holds(o, "Complete") {
        "Complete"
    } else if holds(o, "Failed") {
        "Failed"
    } else if !o["metadata"]["deletionTimestamp"].is_null() {
        "Terminating"
    } else if holds(o, "Suspended") {
        "Suspended"
    } else if holds(o, "FailureTarget") {
        "FailureTarget"
    } else if holds(o, "SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

/// An error about the conditions as a whole, which prints no value.
fn say(errors: &mut ErrorList, words: impl Into<String>) {
    let path = Path::new("status").child("conditions");
    errors.push(error(Cause::Invalid, &path, None, words));
}

/// Counts are not negative, and the conditions tell one story with the times.
pub fn validate(new: &Value, old: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let s = Field::root(new).get("status");
    s.non_negatives(&mut e, &["active", "succeeded", "failed", "ready", "terminating"]);
    let (complete, failed) = (holds(new, "Complete"), holds(new, "Failed"));
    let (start, end) = (s.get("startTime"), s.get("completionTime"));
    if complete && failed {
        say(&mut e, "cannot set Complete=True and Failed=true conditions");
    }
    if complete && !end.is_set() {
        end.required(&mut e, "completionTime is required for Complete jobs");
    }
    if complete && !holds(new, "SuccessCriteriaMet") && !holds(old, "Complete") {
        let words = "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
        say(&mut e, words);
    }
    if failed && !holds(new, "FailureTarget") && !holds(old, "Failed") {
        say(&mut e, "cannot set Failed=True condition without the FailureTarget=true condition");
    }
    if (complete || failed) && !start.is_set() {
        start.required(&mut e, "startTime is required for finished job");
    }
    if (complete || failed) && s.get("active").num() > 0 {
        s.get("active").invalid(&mut e, "active>0 is invalid for finished job");
    }
    if !complete && end.is_set() {
        end.invalid(&mut e, "cannot set completionTime when there is no Complete=True condition");
    }
    let time = |f: &Field| f.str().parse::<jiff::Timestamp>().ok();
    if let (Some(from), Some(to)) = (time(&start), time(&end))
        && to < from
    {
        end.invalid(&mut e, "must be equal to or after `startTime`");
    }
    for kind in ["Complete", "Failed", "SuccessCriteriaMet", "FailureTarget"] {
        if holds(old, kind) && !holds(new, kind) {
            say(&mut e, format!("cannot disable the terminal {kind}=True condition"));
        }
    }
    if !old["status"]["startTime"].is_null()
        && holds(old, "Complete")
        && *end.value != old["status"]["completionTime"]
    {
        end.invalid(&mut e, "field is immutable once set");
    }
    e
}
