//! The printed row of a pod: one word that sums up its containers.

use serde_json::{Value, json};

use crate::{
    kind::Printing,
    table::{age, human_duration},
};

fn list<'a>(v: &'a Value, key: &str) -> &'a [Value] {
    v[key].as_array().map_or(&[], Vec::as_slice)
}

fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a Value> {
    list(&pod["status"], "conditions").iter().find(|c| c["type"] == kind)
}

fn is_true(condition: Option<&Value>) -> bool {
    condition.is_some_and(|c| c["status"] == "True")
}

/// What the walk over the containers has found so far.
struct Summary {
    reason: String,
    ready: usize,
    restarts: i64,
    /// When a container last ended before it was restarted, in seconds since the epoch.
    last_restart: Option<i64>,
}

/// The cells of a pod's row.
pub fn cells(pod: &Value, p: &Printing) -> Vec<Value> {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let sidecars = list(spec, "initContainers").iter().filter(|c| c["restartPolicy"] == "Always").count();
    let total = list(spec, "containers").len() + sidecars;
    let s = summary(pod);
    let restarts = match s.last_restart {
        Some(at) if s.restarts != 0 => {
            format!("{} ({} ago)", s.restarts, human_duration((p.now - at).max(0)))
        }
        _ => s.restarts.to_string(),
    };
    let or_none = |v: &Value| match v.as_str() {
        Some(text) if !text.is_empty() => json!(text),
        _ => json!("<none>"),
    };
    let ip = match list(status, "podIPs").first() {
        Some(first) => &first["ip"],
        None => &status["podIP"],
    };
    vec![
        pod["metadata"]["name"].clone(),
        json!(format!("{}/{total}", s.ready)),
        json!(s.reason),
        json!(restarts),
        json!(age(&pod["metadata"]["creationTimestamp"], p)),
        or_none(ip),
        or_none(&spec["nodeName"]),
        or_none(&status["nominatedNodeName"]),
        json!(gates(pod)),
    ]
}

fn gates(pod: &Value) -> String {
    let gates = list(&pod["spec"], "readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let good = gates
        .iter()
        .filter(|g| is_true(condition(pod, g["conditionType"].as_str().unwrap_or_default())))
        .count();
    format!("{good}/{}", gates.len())
}

fn summary(pod: &Value) -> Summary {
    let status = &pod["status"];
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let mut reason = text(&status["phase"]);
    if !text(&status["reason"]).is_empty() {
        reason = text(&status["reason"]);
    }
    if condition(pod, "PodScheduled").is_some_and(|c| c["reason"] == "SchedulingGated") {
        reason = "SchedulingGated".into();
    }
    let mut s = Summary { reason, ready: 0, restarts: 0, last_restart: None };
    let (initializing, sidecar) = init_containers(pod, &mut s);
    if !initializing || is_true(condition(pod, "Initialized")) {
        (s.restarts, s.last_restart) = sidecar;
        containers(pod, &mut s);
    }
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        if status["reason"] == "NodeLost" {
            s.reason = "Unknown".into();
        } else if !["Failed", "Succeeded"].iter().any(|p| status["phase"] == *p) {
            s.reason = "Terminating".into();
        }
    }
    s
}

fn count(s: &mut Summary, status: &Value) {
    s.restarts += status["restartCount"].as_i64().unwrap_or_default();
    let ended = status["lastState"]["terminated"]["finishedAt"].as_str();
    let ended = ended.and_then(|t| t.parse::<jiff::Timestamp>().ok()).map(|t| t.as_second());
    s.last_restart = s.last_restart.max(ended);
}

/// `Signal:9` or `ExitCode:1`.
fn ended(terminated: &Value) -> String {
    match terminated["signal"].as_i64() {
        Some(n) if n != 0 => format!("Signal:{n}"),
        _ => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or_default()),
    }
}

/// Whether an init container is still at work, and the restarts of sidecars alone.
fn init_containers(pod: &Value, s: &mut Summary) -> (bool, (i64, Option<i64>)) {
    let specs = list(&pod["spec"], "initContainers");
    let mut sidecar = Summary { reason: String::new(), ready: 0, restarts: 0, last_restart: None };
    for (i, status) in list(&pod["status"], "initContainerStatuses").iter().enumerate() {
        count(s, status);
        let restartable = specs.iter().any(|c| c["name"] == status["name"] && c["restartPolicy"] == "Always");
        if restartable {
            count(&mut sidecar, status);
        }
        let (terminated, waiting) = (&status["state"]["terminated"], &status["state"]["waiting"]);
        if terminated["exitCode"] == 0 {
            continue;
        }
        if restartable && status["started"] == true {
            s.ready += usize::from(status["ready"] == true);
            continue;
        }
        let word = |v: &Value| v["reason"].as_str().unwrap_or_default().to_owned();
        s.reason = if terminated.is_object() {
            let why = word(terminated);
            format!("Init:{}", if why.is_empty() { ended(terminated) } else { why })
        } else if !["", "PodInitializing"].contains(&word(waiting).as_str()) {
            format!("Init:{}", word(waiting))
        } else {
            format!("Init:{i}/{}", specs.len())
        };
        return (true, (sidecar.restarts, sidecar.last_restart));
    }
    (false, (sidecar.restarts, sidecar.last_restart))
}

fn containers(pod: &Value, s: &mut Summary) {
    let mut running = false;
    for status in list(&pod["status"], "containerStatuses").iter().rev() {
        count(s, status);
        let (terminated, waiting) = (&status["state"]["terminated"], &status["state"]["waiting"]);
        let word = |v: &Value| v["reason"].as_str().unwrap_or_default().to_owned();
        if !word(waiting).is_empty() {
            s.reason = word(waiting);
        } else if !word(terminated).is_empty() {
            s.reason = word(terminated);
        } else if terminated.is_object() {
            s.reason = ended(terminated);
        } else if status["ready"] == true && status["state"]["running"].is_object() {
            running = true;
            s.ready += 1;
        }
    }
    if s.reason == "Completed" && running {
        let ready = is_true(condition(pod, "Ready"));
        s.reason = if ready { "Running" } else { "NotReady" }.into();
    }
}
