//! `pods/eviction`: a deletion that PodDisruptionBudgets can refuse.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use fairlead_api::{
    decode::{Expected, FieldValidation},
    registry,
    selector::LabelSelector,
    status::{self, Status},
};
use http::HeaderMap;
use serde_json::{Value, json};

use crate::{
    api::{Api, Call},
    cache::parse,
    delete::{self, Options},
    ingest::{self, Verb, WriteOptions},
    managed::Tracking,
    reply::Answer,
    secure::User,
    write::{self, Part, Writing},
};

/// Evictions that a budget has counted and not seen go yet, at most.
const MAX_DISRUPTED: usize = 2000;
/// How often, and how long apart, the deletion of an exempt pod is tried while others write to it
/// (`EvictionsRetry`).
const RETRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(500);
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// POST.
pub async fn evict(api: &Arc<Api>, call: &Call, headers: &HeaderMap, body: &Bytes) -> Answer {
    let options = WriteOptions::parse(Verb::Create, &call.params)?;
    let mut eviction = read(headers, body, &options)?;
    ingest::check_namespace(&eviction, &call.resource.namespace)?;
    if eviction["metadata"]["name"].as_str().unwrap_or_default() != call.resource.name {
        return Err(status::bad_request("name in URL does not match name in Eviction object"));
    }
    super::admit(api, call, &mut eviction, options.dry_run).await?;
    let mut deletion = Options::from_value(&eviction["deleteOptions"])?;
    deletion.dry_run |= options.dry_run;
    let retry = deletion.version.is_none();
    let mut pod = write::current(api, call.kind, &call.key()).await?.ok_or_else(|| call.not_found())?;
    let mut tries = 1;
    while exempt(&pod.object) {
        let pending = pod.object["status"]["phase"] == "Pending";
        let guarded = pending && pod.object["metadata"]["deletionTimestamp"].is_null();
        match remove(api, call, &deletion, guarded.then_some(pod.revision)).await {
            Err(error) if retry && tries < RETRIES && error.code() == 409 => tokio::time::sleep(PAUSE).await,
            removed => return removed.map(|()| super::done(call)),
        }
        tries += 1;
        pod = write::current(api, call.kind, &call.key()).await?.ok_or_else(|| call.not_found())?;
    }
    let spared = disrupt(api, call, &pod.object, deletion.dry_run).await?;
    match remove(api, call, &deletion, spared.as_ref().map(|_| pod.revision)).await {
        // It may have become ready, and a disruption, in the meantime: the client is to ask again.
        Err(error) if retry && error.code() == 409 && spared.is_some() => {
            Err(processing(&spared.unwrap_or_default()))
        }
        removed => removed.map(|()| super::done(call)),
    }
}

/// Deletes the pod. One that went unbudgeted for the state it was in, at `version`, must still be in that state.
async fn remove(api: &Arc<Api>, call: &Call, deletion: &Options, version: Option<u64>) -> Result<(), Status> {
    let mut deletion = deletion.clone();
    deletion.version = deletion.version.or_else(|| version.map(|version| version.to_string()));
    if !deletion.dry_run {
        announce(api, call, &mut deletion).await?;
    }
    delete::one(api, call, &call.resource.name, &deletion).await.map(drop)
}

/// The budget's controller has not caught up.
fn processing(budget: &str) -> Status {
    let why = format!("The disruption budget {budget} is still being processed by the server.");
    status::too_many_requests(REFUSED, 0).with_cause("DisruptionBudget", &why, "").with_retry_after(10)
}

/// Says in the pod's status why it goes.
async fn announce(api: &Arc<Api>, call: &Call, deletion: &mut Options) -> Result<(), Status> {
    let server = Call { user: Arc::new(User::server()), ..call.named(call.resource.clone()) };
    let mut writing = Writing::new(api, &server, quiet(false), Part::Inner);
    writing.tracking = Tracking::Nobody;
    writing.derived = true;
    let name = &call.resource.name;
    let written = writing
        .update(name, |_, current| {
            delete::precondition(call.kind, name, deletion, current)?;
            let mut pod = current.object.clone();
            disrupted(&mut pod);
            Ok(pod)
        })
        .await?;
    let version = parse(&written.bytes)["metadata"]["resourceVersion"].as_str().map(str::to_owned);
    deletion.version = deletion.version.take().and(version);
    Ok(())
}

/// Sets condition DisruptionTarget.
fn disrupted(pod: &mut Value) {
    let mut condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastProbeTime": null, "lastTransitionTime": write::now(),
    });
    let conditions = &mut pod["status"]["conditions"];
    let Some(list) = conditions.as_array_mut() else {
        *conditions = json!([condition]);
        return;
    };
    match list.iter_mut().find(|own| own["type"] == "DisruptionTarget") {
        Some(own) => {
            if own["status"] == "True" {
                condition["lastTransitionTime"] = own["lastTransitionTime"].clone();
            }
            *own = condition;
        }
        None => list.push(condition),
    }
}

/// The options of a write that the server makes on its own.
fn quiet(dry_run: bool) -> WriteOptions {
    WriteOptions { dry_run, validation: FieldValidation::Ignore, manager: None, force: false }
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

/// Takes one disruption from the budget that covers the pod. Returns the budget's name if it does not count the pod.
async fn disrupt(api: &Arc<Api>, call: &Call, pod: &Value, dry_run: bool) -> Result<Option<String>, Status> {
    let Some(kind) = registry::find("policy", "v1", "poddisruptionbudgets") else { return Ok(None) };
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
    let budget = match budgets.as_slice() {
        [] => return Ok(None),
        [one] => one,
        _ => {
            let words = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(status::failure(500, "", words, None));
        }
    };
    let name = budget["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if uncounted(pod, budget) {
        return Ok(Some(name));
    }
    let mut resource = call.resource.clone();
    resource.name.clone_from(&name);
    resource.subresource = "status".into();
    let server = Arc::new(User::server());
    let budget_call = Call { kind, user: server, ..call.named(resource) };
    let mut writing = Writing::new(api, &budget_call, quiet(dry_run), Part::Inner);
    writing.tracking = Tracking::Nobody;
    writing.derived = true;
    writing.update(&name, |_, current| taken(&current.object, &call.resource.name, &name)).await?;
    Ok(None)
}

/// A pod that is not ready costs nothing where enough others are, or where the budget says so.
fn uncounted(pod: &Value, budget: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.clone().any(|c| c["type"] == "Ready" && c["status"] == "True");
    let healthy = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let enough = healthy("currentHealthy") >= healthy("desiredHealthy") && healthy("desiredHealthy") > 0;
    !ready && (enough || budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow")
}

/// The budget with one disruption less.
fn taken(budget: &Value, pod: &str, name: &str) -> Result<Value, Status> {
    let state = &budget["status"];
    let number = |field: &str| state[field].as_i64().unwrap_or(0);
    let refuse = |why: String| status::too_many_requests(REFUSED, 0).with_cause("DisruptionBudget", &why, "");
    let forbidden = |why: &str| status::forbidden("policy", "poddisruptionbudget", name, why);
    if number("observedGeneration") < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
        return Err(processing(name));
    }
    let allowed = number("disruptionsAllowed");
    if allowed < 0 {
        return Err(forbidden("pdb disruptions allowed is negative"));
    }
    if state["disruptedPods"].as_object().is_some_and(|pods| pods.len() > MAX_DISRUPTED) {
        return Err(forbidden(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    if allowed == 0 {
        let failed = state["conditions"].as_array().into_iter().flatten().find(|c| {
            c["type"] == "DisruptionAllowed" && c["status"] == "False" && c["reason"] == "SyncFailed"
        });
        let why = failed.and_then(|c| c["message"].as_str()).filter(|text| !text.is_empty());
        return Err(refuse(match why {
            Some(text) => format!(
                "The disruption budget {name} does not allow evicting pods currently because it failed sync: {text}"
            ),
            None => format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                number("desiredHealthy"),
                number("currentHealthy")
            ),
        }));
    }
    let mut new = budget.clone();
    new["status"]["disruptionsAllowed"] = (allowed - 1).into();
    new["status"]["disruptedPods"][pod] = write::now().into();
    Ok(new)
}
