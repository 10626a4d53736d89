//! Quality of service of a pod (`pods/qos`).

use serde_json::Value;

use crate::validate::quantity::Quantity;

const COMPUTE: [&str; 2] = ["cpu", "memory"];

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn class(pod: &Value) -> &'static str {
    let spec = &pod["spec"];
    let asks = |r: &Value| {
        ["requests", "limits"].iter().any(|l| COMPUTE.iter().any(|c| positive(&r[*l][*c]).is_some()))
    };
    if asks(&spec["resources"]) {
        return if guaranteed(&spec["resources"]) { "Guaranteed" } else { "Burstable" };
    }
    let containers: Vec<&Value> = ["containers", "initContainers"]
        .iter()
        .flat_map(|l| spec[*l].as_array().into_iter().flatten())
        .map(|c| &c["resources"])
        .collect();
    if !containers.iter().any(|r| asks(r)) {
        "BestEffort"
    } else if containers.iter().all(|r| guaranteed(r)) {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

fn positive(amount: &Value) -> Option<Quantity> {
    Quantity::of(amount).filter(|q| q.0 > 0)
}

/// Both compute resources are limited, and requested in full.
fn guaranteed(r: &Value) -> bool {
    COMPUTE.iter().all(|c| {
        let limit = positive(&r["limits"][*c]);
        let request = &r["requests"][*c];
        limit.is_some() && (request.is_null() || Quantity::of(request) == limit)
    })
}
