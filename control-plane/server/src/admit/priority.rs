//! Priority: resolves `priorityClassName` to a number, and lets at most one class be the default.

use fairlead_api::{registry, status::Status};
use futures::{FutureExt, future::BoxFuture};
use serde_json::Value;

use super::{Attributes, Operation, Plugin};
use crate::api::{Api, behind};

pub const PLUGIN: Plugin = Plugin { name: "Priority", mutate: Some(mutate), validate: Some(validate) };

fn mutate<'a>(
    api: &'a Api,
    attributes: &'a Attributes<'a>,
    pod: &'a mut Value,
) -> BoxFuture<'a, Result<(), Status>> {
    async move {
        match (attributes.is("pods"), attributes.operation, attributes.old) {
            (true, Operation::Create, _) => resolve(api, attributes, pod).await,
            (true, Operation::Update, Some(old)) => {
                keep(pod, old);
                Ok(())
            }
            _ => Ok(()),
        }
    }
    .boxed()
}

/// What was resolved at creation stays, also for clients that do not send it back.
fn keep(pod: &mut Value, old: &Value) {
    for field in ["priority", "preemptionPolicy"] {
        if let (None | Some(Value::Null), Some(was)) = (pod["spec"].get(field), old["spec"].get(field)) {
            pod["spec"][field] = was.clone();
        }
    }
}

async fn resolve(api: &Api, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
    let named = pod["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let class =
        if named.is_empty() { default_class(api) } else { Some(class(api, attributes, &named).await?) };
    let (priority, policy) = match &class {
        Some(class) => {
            (class["value"].as_i64().unwrap_or(0), class["preemptionPolicy"].as_str().map(str::to_owned))
        }
        None => (0, None),
    };
    if let Some(given) = pod["spec"]["priority"].as_i64()
        && given != priority
    {
        return Err(attributes.forbidden(&format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission \
             controller computed {priority} from the given PriorityClass name"
        )));
    }
    pod["spec"]["priority"] = priority.into();
    if named.is_empty()
        && let Some(name) = class.as_ref().and_then(|class| class["metadata"]["name"].as_str())
    {
        pod["spec"]["priorityClassName"] = name.into();
    }
    let policy = policy.unwrap_or_else(|| "PreemptLowerPriority".to_owned());
    match pod["spec"]["preemptionPolicy"].as_str() {
        Some(given) if given != policy => Err(attributes.forbidden(&format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
             controller computed {policy} from the given PriorityClass name"
        ))),
        _ => {
            pod["spec"]["preemptionPolicy"] = policy.into();
            Ok(())
        }
    }
}

async fn class(api: &Api, attributes: &Attributes<'_>, name: &str) -> Result<Value, Status> {
    let missing = || attributes.forbidden(&format!("no PriorityClass with name {name} was found"));
    let kind = registry::find("scheduling.k8s.io", "v1", "priorityclasses").ok_or_else(missing)?;
    let cache = api.cache(kind)?;
    if cache.get(name).is_none() {
        api.caches.fresh().await.map_err(behind)?;
    }
    cache.get(name).map(|item| item.value(kind)).ok_or_else(missing)
}

/// The class for pods that name none: of several defaults the lowest, as upstream chooses.
fn default_class(api: &Api) -> Option<Value> {
    let kind = registry::find("scheduling.k8s.io", "v1", "priorityclasses")?;
    let classes = api.caches.of(kind)?.all("");
    let defaults = classes.iter().map(|item| item.value(kind)).filter(|class| class["globalDefault"] == true);
    defaults.min_by_key(|class| class["value"].as_i64())
}

fn validate<'a>(
    api: &'a Api,
    attributes: &'a Attributes<'a>,
    object: &'a Value,
) -> BoxFuture<'a, Result<(), Status>> {
    let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
    let refused = writes && attributes.is("priorityclasses") && object["globalDefault"] == true;
    let other = if refused { default_class(api) } else { None };
    let other = other.and_then(|class| class["metadata"]["name"].as_str().map(str::to_owned));
    let answer = match other {
        Some(name) if attributes.operation == Operation::Create || name != attributes.name => Err(attributes
            .forbidden(&format!(
                "PriorityClass {name} is already marked as default. Only one default can exist"
            ))),
        _ => Ok(()),
    };
    std::future::ready(answer).boxed()
}
