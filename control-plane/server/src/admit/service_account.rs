//! ServiceAccount: every pod has an account, and the account's token in a projected volume.

use std::{sync::Arc, time::Duration};

use fairlead_api::{registry, status::Status};
use futures::{FutureExt, future::BoxFuture};
use serde_json::{Value, json};

use super::{Attributes, Operation, Plugin};
use crate::{
    api::{Api, behind},
    cache::{Cache, Item},
    write::suffix,
};

pub const PLUGIN: Plugin = Plugin { name: "ServiceAccount", mutate: Some(mutate), ..Plugin::BASE };

/// The account of pods that name none. A controller makes it in every new namespace, so it is looked for more often.
const DEFAULT: &str = "default";
const TRIES: usize = 10;
/// Where every container finds the token.
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Marks accounts whose pods use only the secrets that the account lists.
const MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";
/// An hour and seven seconds: clients that look for tokens of an hour can tell these apart.
const EXPIRES: i64 = 3607;

fn mutate<'a>(
    api: &'a Api,
    attributes: &'a Attributes<'a>,
    pod: &'a mut Value,
) -> BoxFuture<'a, Result<(), Status>> {
    async move {
        if attributes.is("pods") && attributes.operation == Operation::Create {
            admit(api, attributes, pod).await?;
        }
        Ok(())
    }
    .boxed()
}

async fn admit(api: &Api, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
    if !pod["metadata"]["annotations"][MIRROR].is_null() {
        return mirror(attributes, pod);
    }
    let account = match pod["spec"]["serviceAccountName"].as_str() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => DEFAULT.to_owned(),
    };
    pod["spec"]["serviceAccountName"] = account.as_str().into();
    pod["spec"]["serviceAccount"] = account.as_str().into();
    let found = find(api, attributes.namespace, &account).await?.ok_or_else(|| {
        attributes.forbidden(&format!(
            "error looking up service account {}/{account}: serviceaccount {account:?} not found",
            attributes.namespace
        ))
    })?;
    let mounts = match (&pod["spec"]["automountServiceAccountToken"], &found["automountServiceAccountToken"])
    {
        (Value::Bool(pod), _) => *pod,
        (_, Value::Bool(account)) => *account,
        _ => true,
    };
    if mounts {
        mount(pod);
    }
    let own = pod["spec"]["imagePullSecrets"].as_array().is_some_and(|secrets| !secrets.is_empty());
    if !own && found["imagePullSecrets"].as_array().is_some_and(|secrets| !secrets.is_empty()) {
        pod["spec"]["imagePullSecrets"] = found["imagePullSecrets"].clone();
    }
    if found["metadata"]["annotations"][MOUNTABLE] == "true" {
        mountable(&account, &found, pod).map_err(|words| attributes.forbidden(&words))?;
    }
    Ok(())
}

/// An account that is marked so lets its pods use the secrets that it lists, and no others.
fn mountable(account: &str, found: &Value, pod: &Value) -> Result<(), String> {
    let listed = |list: &str, name: &Value| {
        found[list].as_array().into_iter().flatten().any(|own| own["name"] == *name)
    };
    let refused = |what: String, kind: &str| {
        Err(format!("{what} is not allowed because service account {account} does not reference that {kind}"))
    };
    let quoted = |name: &Value| fairlead_api::status::quoted(name.as_str().unwrap_or_default());
    let items = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for volume in items(&pod["spec"]["volumes"]) {
        let name = &volume["secret"]["secretName"];
        if !volume["secret"].is_null() && !listed("secrets", name) {
            return refused(format!("volume with secret.secretName={}", quoted(name)), "secret");
        }
    }
    for (list, word) in [("initContainers", "init container"), ("containers", "container")] {
        for container in items(&pod["spec"][list]) {
            let own = container["name"].as_str().unwrap_or_default();
            for env in items(&container["env"]) {
                let secret = &env["valueFrom"]["secretKeyRef"];
                if !secret.is_null() && !listed("secrets", &secret["name"]) {
                    let variable = env["name"].as_str().unwrap_or_default();
                    let name = quoted(&secret["name"]);
                    let what =
                        format!("{word} {own} with envVar {variable} referencing secret.secretName={name}");
                    return refused(what, "secret");
                }
            }
            for from in items(&container["envFrom"]) {
                let secret = &from["secretRef"];
                if !secret.is_null() && !listed("secrets", &secret["name"]) {
                    let name = quoted(&secret["name"]);
                    let what = format!("{word} {own} with envFrom referencing secret.secretName={name}");
                    return refused(what, "secret");
                }
            }
        }
    }
    for (i, secret) in items(&pod["spec"]["imagePullSecrets"]).iter().enumerate() {
        if !listed("imagePullSecrets", &secret["name"]) {
            let what = format!("imagePullSecrets[{i}].name={}", quoted(&secret["name"]));
            return refused(what, "imagePullSecret");
        }
    }
    Ok(())
}

/// Mirror pods show what a kubelet runs by itself: they reach for nothing in the API.
fn mirror(attributes: &Attributes<'_>, pod: &Value) -> Result<(), Status> {
    if !pod["spec"]["serviceAccountName"].as_str().unwrap_or_default().is_empty() {
        return Err(attributes.forbidden("a mirror pod may not reference service accounts"));
    }
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let token = |volume: &Value| {
        volume["projected"]["sources"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|s| !s["serviceAccountToken"].is_null())
    };
    for volume in volumes {
        if !volume["secret"].is_null() {
            return Err(attributes.forbidden("a mirror pod may not reference secrets"));
        }
        if token(volume) {
            return Err(
                attributes.forbidden("a mirror pod may not use ServiceAccountToken volume projections")
            );
        }
    }
    Ok(())
}

async fn find(api: &Api, namespace: &str, name: &str) -> Result<Option<Value>, Status> {
    let Some(kind) = registry::find("", "v1", "serviceaccounts") else { return Ok(None) };
    let cache: &Arc<Cache> = api.cache(kind)?;
    let key = format!("{namespace}/{name}");
    let read = || -> Option<Arc<Item>> { cache.get(&key) };
    let tries = if name == DEFAULT { TRIES } else { 1 };
    let pause = Duration::from_millis(rand::random_range(100..200));
    for attempt in 0..tries {
        if attempt > 0 {
            tokio::time::sleep(pause).await;
        }
        if read().is_none() {
            api.caches.fresh().await.map_err(behind)?;
        }
        if let Some(item) = read() {
            return Ok(Some(item.value(kind)));
        }
    }
    Ok(None)
}

/// Adds the token's volume, and mounts it where a container mounts nothing else in its place.
fn mount(pod: &mut Value) {
    let volume = pod["spec"]["volumes"].as_array().into_iter().flatten().find(|volume| {
        volume["name"].as_str().is_some_and(|name| name.starts_with("kube-api-access-"))
            && !volume["projected"].is_null()
    });
    let existing = volume.and_then(|volume| volume["name"].as_str()).map(str::to_owned);
    let name = existing.clone().unwrap_or_else(|| format!("kube-api-access-{}", suffix()));
    let mut used = false;
    for list in ["initContainers", "containers"] {
        let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let mounted = container["volumeMounts"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|mount| mount["mountPath"] == MOUNT);
            if mounted {
                continue;
            }
            used = true;
            let mount = json!({"name": name, "mountPath": MOUNT, "readOnly": true});
            match container["volumeMounts"].as_array_mut() {
                Some(mounts) => mounts.push(mount),
                None => container["volumeMounts"] = json!([mount]),
            }
        }
    }
    if !used || existing.is_some() {
        return;
    }
    let volume = token_volume(&name);
    match pod["spec"]["volumes"].as_array_mut() {
        Some(volumes) => volumes.push(volume),
        None => pod["spec"]["volumes"] = json!([volume]),
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": EXPIRES, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace",
            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        {"configMap": {"name": "openshift-service-ca.crt",
            "items": [{"key": "service-ca.crt", "path": "service-ca.crt"}]}},
    ]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_container_gets_the_token_unless_it_mounts_something_there() {
        let own = json!([{"name": "x", "mountPath": MOUNT}]);
        let mut pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "volumeMounts": own}]}});
        mount(&mut pod);
        let name = pod["spec"]["volumes"][0]["name"].clone();
        assert!(name.as_str().unwrap().starts_with("kube-api-access-"));
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["name"], name);
        assert_eq!(pod["spec"]["containers"][1]["volumeMounts"], own);
        let mut none = json!({"spec": {"containers": [{"name": "b", "volumeMounts": own}]}});
        mount(&mut none);
        assert!(none["spec"]["volumes"].is_null());
    }
}
