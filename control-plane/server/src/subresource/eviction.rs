//! `pods/eviction`: a deletion that PodDisruptionBudgets can refuse.

use std::sync::Arc;

use bytes::Bytes;
use fairlead_api::{
    decode::Expected,
    registry,
    selector::LabelSelector,
    status::{self, Status},
};
use http::HeaderMap;
use serde_json::{Value, json};

use crate::{
    api::{Api, Call},
    delete::{self, Options},
    ingest::{self, Verb, WriteOptions},
    managed::Tracking,
    reply::Answer,
    write::{self, Part, Writing},
};

/// POST.
pub async fn evict(api: &Arc<Api>, call: &Call, headers: &HeaderMap, body: &Bytes) -> Answer {
    let options = WriteOptions::parse(Verb::Create, &call.params)?;
    let eviction = read(headers, body, &options)?;
    let own = eviction["metadata"]["name"].as_str().unwrap_or_default();
    if own != call.resource.name {
        return Err(status::bad_request("name in URL does not match name in Eviction object"));
    }
    ingest::check_namespace(&eviction, &call.resource.namespace)?;
    let mut deletion = Options::from_value(&eviction["deleteOptions"])?;
    deletion.dry_run |= options.dry_run;
    let pod = write::current(api, call.kind, &call.key()).await?.ok_or_else(|| call.not_found())?;
    if !exempt(&pod.object) {
        disrupt(api, call, &pod.object, deletion.dry_run).await?;
    }
    delete::one(api, call, &call.resource.name, &deletion).await?;
    Ok(super::done(call))
}

/// Both versions of the kind are taken, as upstream does.
fn read(headers: &HeaderMap, body: &Bytes, options: &WriteOptions) -> Result<Value, Status> {
    let media = ingest::media(headers);
    let decoded = ingest::tree("Eviction", media, body)?;
    let beta = decoded.value["apiVersion"] == "policy/v1beta1";
    let version = if beta { "v1beta1" } else { "v1" };
    let expected =
        Expected { group: "policy", version, kind: "Eviction", schema: "io.k8s.api.policy.v1.Eviction" };
    let (eviction, _) = fairlead_api::decode::typed(&expected, decoded, body, options.validation)?;
    Ok(eviction)
}

/// Pods that run nothing that a budget protects.
fn exempt(pod: &Value) -> bool {
    !pod["metadata"]["deletionTimestamp"].is_null()
        || matches!(pod["status"]["phase"].as_str(), Some("Pending" | "Succeeded" | "Failed"))
}

/// Takes one disruption from the budget that covers the pod.
async fn disrupt(api: &Arc<Api>, call: &Call, pod: &Value, dry_run: bool) -> Result<(), Status> {
    let Some(kind) = registry::find("policy", "v1", "poddisruptionbudgets") else { return Ok(()) };
    let prefix = format!("{}/", call.resource.namespace);
    let budgets: Vec<Value> = api
        .cache(kind)?
        .all(&prefix)
        .iter()
        .map(|item| item.value(kind))
        .filter(|budget| {
            LabelSelector::from_object(&budget["spec"]["selector"])
                .is_ok_and(|selector| selector.matches(&pod["metadata"]["labels"]))
        })
        .collect();
    let [budget] = budgets.as_slice() else {
        return if budgets.is_empty() {
            Ok(())
        } else {
            let words = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            Err(status::failure(500, "", words, None))
        };
    };
    let name = budget["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let mut resource = call.resource.clone();
    resource.name.clone_from(&name);
    resource.subresource = "status".into();
    let budget_call = Call { kind, ..call.named(resource) };
    let options = WriteOptions {
        dry_run,
        validation: fairlead_api::decode::FieldValidation::Ignore,
        manager: None,
        force: false,
    };
    let mut writing = Writing::new(api, &budget_call, options, Part::Inner);
    writing.tracking = Tracking::Nobody;
    writing.derived = true;
    writing.update(&name, |_, current| taken(&current.object, &call.resource.name, &name)).await?;
    Ok(())
}

/// The budget with one disruption less.
fn taken(budget: &Value, pod: &str, name: &str) -> Result<Value, Status> {
    let state = &budget["status"];
    let refuse = |why: &str| {
        let words = "Cannot evict pod as it would violate the pod's disruption budget.";
        let details = json!({"causes": [{"reason": "DisruptionBudget", "message": why}]});
        Err(status::failure(429, "TooManyRequests", words, Some(details)))
    };
    if state["observedGeneration"].as_i64().unwrap_or(0)
        < budget["metadata"]["generation"].as_i64().unwrap_or(0)
    {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return refuse(&why).map_err(|status: Status| status.with_retry_after(10));
    }
    let allowed = state["disruptionsAllowed"].as_i64().unwrap_or(0);
    if allowed <= 0 {
        let healthy = |field: &str| state[field].as_i64().unwrap_or(0);
        return refuse(&format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            healthy("desiredHealthy"),
            healthy("currentHealthy")
        ));
    }
    let mut new = budget.clone();
    new["status"]["disruptionsAllowed"] = (allowed - 1).into();
    new["status"]["disruptedPods"][pod] = write::now().into();
    Ok(new)
}
