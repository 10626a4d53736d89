//! batch/v1 CronJob.

use super::{cells as c, job, strategy};
use crate::kind::Printing;
use crate::kind::{Act, Kind, Subresource};
use crate::validate::{Field, error};
use crate::{
    field::{self, ErrorList},
    pod::defaults as d,
    table,
};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "batch",
    kind: "CronJob",
    plural: "cronjobs",
    singular: "cronjob",
    short_names: &["cj"],
    categories: &["all"],
    schema: "io.k8s.api.batch.v1.CronJob",
    message: "api.batch.v1.CronJob",
    storage: "cronjobs",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    default,
    prepare_create: strategy::create_blank_counted,
    prepare_update: strategy::update_counted,
    prepare_status: strategy::status,
    validate,
    warnings: |new, old| super::warnings::template(new, old, &["spec", "jobTemplate", "spec", "template"]),
    cells,
    generation: true,
    ..Kind::BASE
};

/// A job's own name adds eleven characters and must still be a label.
const NAME_MAX: usize = 52;

fn default(v: &mut Value) {
    let Some(spec) = d::object(v, "spec") else { return };
    d::zero(spec, "concurrencyPolicy", json!("Allow"));
    d::unset(spec, "suspend", json!(false));
    d::unset(spec, "successfulJobsHistoryLimit", json!(3));
    d::unset(spec, "failedJobsHistoryLimit", json!(1));
    if let Some(job) = d::object(spec, "jobTemplate") {
        d::object(job, "metadata");
        if let Some(template) = d::object(job, "spec").and_then(|s| d::object(s, "template")) {
            d::template(template);
        }
    }
}

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let s = Field::root(v).get("spec");
    let name = Field::root(v).get("metadata").get("name");
    if name.len() > NAME_MAX {
        name.invalid(&mut e, format!("must be no more than {NAME_MAX} characters"));
    }
    let (schedule, zone) = (s.get("schedule"), s.get("timeZone"));
    if schedule.present(&mut e) {
        if let Err(words) = cron(schedule.str()) {
            schedule.invalid(&mut e, words);
        }
        if schedule.str().contains("TZ") {
            schedule.invalid(&mut e, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
        }
    }
    if zone.is_set() {
        if zone.is_empty() {
            zone.invalid(&mut e, "timeZone must be nil or non-empty string");
        } else if zone.str().eq_ignore_ascii_case("local") {
            zone.invalid(
                &mut e,
                "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
            );
        } else if jiff::tz::TimeZone::get(zone.str()).is_err() {
            zone.invalid(&mut e, format!("unknown time zone {}", zone.str()));
        }
    }
    s.get("startingDeadlineSeconds").non_negative(&mut e);
    let policy = s.get("concurrencyPolicy");
    policy.required_one_of(&mut e, &["Allow", "Forbid", "Replace"]);
    s.non_negatives(&mut e, &["successfulJobsHistoryLimit", "failedJobsHistoryLimit"]);
    job_template(&s.get("jobTemplate").get("spec"), &mut e);
    e
}

fn job_template(f: &Field, e: &mut ErrorList) {
    job::spec(f, e);
    let (choice, manual) = (f.get("selector"), f.get("manualSelector"));
    if choice.is_set() {
        choice.invalid(e, "`selector` will be auto-generated");
    }
    if manual.is_true() {
        let words = "supported values: \"nil\", \"false\"";
        e.push(error(field::Cause::NotSupported, &manual.path, Some("true".into()), words));
    }
}

/// Minute, hour, day of month, month, day of week: the bounds of each field.
const FIELDS: [(u32, u32, &[&str]); 5] = [
    (0, 59, &[]),
    (0, 23, &[]),
    (1, 31, &[]),
    (1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    (0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];

/// The standard cron format of five fields, and the `@` words.
fn cron(text: &str) -> Result<(), String> {
    const WORDS: &[&str] = &["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
    if text.starts_with('@') {
        return match text.strip_prefix("@every ") {
            Some(rest) if rest.ends_with(['h', 'm', 's']) => Ok(()),
            _ if WORDS.contains(&text) => Ok(()),
            _ => Err(format!("unrecognized descriptor: {text}")),
        };
    }
    let parts: Vec<&str> = text.split_whitespace().collect();
    if parts.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" ")));
    }
    for (part, (min, max, names)) in parts.iter().zip(FIELDS) {
        for range in part.split(',') {
            cron_range(range, min, max, names)?;
        }
    }
    Ok(())
}

fn cron_range(text: &str, min: u32, max: u32, names: &[&str]) -> Result<(), String> {
    let (range, step) = match text.split_once('/') {
        Some((range, step)) => (range, Some(step)),
        None => (text, None),
    };
    if let Some(step) = step {
        match step.parse::<u32>() {
            Ok(0) => return Err(format!("step of range should be a positive number: {text}")),
            Ok(_) => {}
            Err(_) => return Err(format!("failed to parse int from {step}")),
        }
    }
    if range == "*" || range == "?" {
        return Ok(());
    }
    let number = |word: &str| {
        let named = names.iter().position(|n| *n == word.to_lowercase());
        let first = if names.len() == 12 { 1 } else { 0 };
        match named {
            Some(i) => u32::try_from(i).map(|i| i + first).map_err(|e| e.to_string()),
            None => word.parse::<u32>().map_err(|_| format!("failed to parse int from {word}")),
        }
    };
    let (low, high) = match range.split_once('-') {
        Some((low, high)) => (number(low)?, number(high)?),
        None => (number(range)?, number(range)?),
    };
    if low < min {
        return Err(format!("beginning of range ({low}) below minimum ({min}): {text}"));
    }
    if high > max {
        return Err(format!("end of range ({high}) above maximum ({max}): {text}"));
    }
    if low > high {
        return Err(format!("beginning of range ({low}) beyond end of range ({high}): {text}"));
    }
    Ok(())
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let (spec, status) = (&o["spec"], &o["status"]);
    let suspend = if spec["suspend"] == true { "True" } else { "False" };
    let last = if status["lastScheduleTime"].is_null() {
        "<none>".into()
    } else {
        table::age(&status["lastScheduleTime"], p)
    };
    let [names, images] = c::containers(&spec["jobTemplate"]["spec"]["template"]);
    vec![
        c::name(o),
        c::text(&spec["schedule"]),
        c::text_or(&spec["timeZone"], "<none>"),
        json!(suspend),
        json!(status["active"].as_array().map_or(0, Vec::len)),
        json!(last),
        c::age(o, p),
        names,
        images,
        c::selector(&spec["jobTemplate"]["spec"]["selector"]),
    ]
}
