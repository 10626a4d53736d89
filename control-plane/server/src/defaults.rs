//! Objects that every cluster has: made at the start, and made again when somebody removes them.

use std::{net::IpAddr, sync::Arc, time::Duration};

use fairlead_api::{kind::Kind, status::Status};
use futures::{StreamExt, TryStreamExt};
use http::{Method, Request, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{Api, key},
    body,
    cache::parse,
    route::{self, Peer},
    secure::{User, bootstrap},
    start::Error,
};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// Writes under way at once: the store commits them together.
const AT_ONCE: usize = 32;
const AGAIN: Duration = Duration::from_secs(30);

/// One object that must exist.
struct Wanted {
    kind: &'static Kind,
    namespace: String,
    name: String,
    object: Value,
}

impl Wanted {
    fn new(group: &str, plural: &str, namespace: &str, name: &str, object: Value) -> Option<Wanted> {
        let kind = crate::api::kind_of(group, plural)?;
        Some(Wanted { kind, namespace: namespace.into(), name: name.into(), object })
    }

    fn path(&self, name: &str) -> String {
        let root =
            if self.kind.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", self.kind.group) };
        let scope =
            if self.namespace.is_empty() { String::new() } else { format!("namespaces/{}/", self.namespace) };
        let slash = if name.is_empty() { "" } else { "/" };
        format!("{root}/{}/{scope}{}{slash}{name}", self.kind.version, self.kind.plural)
    }
}

/// A request of the server to itself.
async fn call(api: &Arc<Api>, method: Method, path: &str, object: &Value) -> Result<Value, Status> {
    let mut request = Request::new(body::full(object.to_string()));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    headers.insert(header::USER_AGENT, http::HeaderValue::from_static("kube-apiserver"));
    request.extensions_mut().insert(Peer(Some(Arc::new(User::server()))));
    let response = route::handle(api.clone(), request).await;
    let success = response.status().is_success();
    let bytes =
        response.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let answer = parse(&bytes);
    if success { Ok(answer) } else { Err(Status(answer)) }
}

/// Makes everything that is missing.
///
/// # Errors
/// The first refusal.
pub async fn ensure(api: &Arc<Api>, service_ip: IpAddr) -> Result<(), Error> {
    let namespaces = NAMESPACES
        .iter()
        .filter_map(|name| Wanted::new("", "namespaces", "", name, json!({"metadata": {"name": name}})));
    make_all(api, namespaces.collect()).await?;
    make_all(api, priority_classes().into_iter().chain(service(service_ip, api.advertise.1)).collect())
        .await?;
    endpoints(api).await?;
    let (roles, bindings): (Vec<_>, Vec<_>) =
        bootstrap::objects().into_iter().partition(|wanted| !wanted.resource.ends_with("bindings"));
    let controllers = roles.iter().filter_map(|role| controller(role.name)).collect();
    roles_of(api, roles).await?;
    roles_of(api, bindings).await?;
    make_all(api, controllers).await
}

/// Upstream gives each controller a service account of its own; ours run as one user, who holds the roles of all.
fn controller(role: &str) -> Option<Wanted> {
    let name =
        format!("fairlead:{}", role.strip_prefix("system:").filter(|rest| rest.starts_with("controller:"))?);
    let group = "rbac.authorization.k8s.io";
    let object = json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": group, "kind": "User", "name": "system:kube-controller-manager"}],
    });
    Wanted::new(group, "clusterrolebindings", "", &name, object)
}

/// Looks again from time to time, until `shutdown`.
///
/// # Errors
/// None: what cannot be made now is tried again.
pub async fn keep(api: Arc<Api>, service_ip: IpAddr, shutdown: CancellationToken) -> Result<(), Error> {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(AGAIN) => {}
        }
        if let Err(error) = ensure(&api, service_ip).await {
            tracing::warn!(%error, "default objects could not be made");
        }
    }
}

fn failed(wanted: &Wanted, refused: &Status) -> Error {
    Error::Defaults(format!("{} {:?}: {refused}", wanted.kind.plural, wanted.name))
}

async fn make_all(api: &Arc<Api>, all: Vec<Wanted>) -> Result<(), Error> {
    futures::stream::iter(all.into_iter().map(|wanted| make(api.clone(), wanted)))
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}

async fn make(api: Arc<Api>, wanted: Wanted) -> Result<(), Error> {
    let api = &api;
    if present(api, &wanted).is_some() {
        return Ok(());
    }
    match call(api, Method::POST, &wanted.path(""), &wanted.object).await {
        Ok(_) => Ok(()),
        Err(refused) if refused.reason() == "AlreadyExists" => Ok(()),
        Err(refused) => Err(failed(&wanted, &refused)),
    }
}

fn present(api: &Arc<Api>, wanted: &Wanted) -> Option<Value> {
    let item = api.caches.of(wanted.kind)?.get(&key(wanted.kind, &wanted.namespace, &wanted.name))?;
    Some(item.value(wanted.kind))
}

fn priority_classes() -> Vec<Wanted> {
    let classes = [
        (
            "system-node-critical",
            2_000_001_000_i64,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ];
    let wanted = classes.iter().filter_map(|(name, value, description)| {
        let object = json!({"metadata": {"name": name}, "value": value, "description": description});
        Wanted::new("scheduling.k8s.io", "priorityclasses", "", name, object)
    });
    wanted.collect()
}

/// Service `default/kubernetes`: how pods reach this API.
fn service(ip: IpAddr, port: u16) -> Option<Wanted> {
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let object = json!({
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {
            "type": "ClusterIP", "clusterIP": ip.to_string(), "sessionAffinity": "None",
            // One family, as upstream has it: the server advertises one address.
            "ipFamilyPolicy": "SingleStack", "ipFamilies": [family_of(ip)],
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}],
        },
    });
    Wanted::new("", "services", "default", "kubernetes", object)
}

fn family_of(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The backends of that Service: this server at the address that it advertises.
async fn endpoints(api: &Arc<Api>) -> Result<(), Error> {
    let (ip, port) = api.advertise;
    if ip.is_loopback() {
        // Nobody else could reach it there, and the API refuses loopback addresses as endpoints.
        return Ok(());
    }
    let family = family_of(ip);
    let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    let endpoints = json!({
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": ip.to_string()}], "ports": ports}],
    });
    let slice = json!({
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": family,
        "endpoints": [{"addresses": [ip.to_string()], "conditions": {"ready": true}}],
        "ports": ports,
    });
    let wanted = [
        Wanted::new("", "endpoints", "default", "kubernetes", endpoints),
        Wanted::new("discovery.k8s.io", "endpointslices", "default", "kubernetes", slice),
    ];
    for wanted in wanted.into_iter().flatten() {
        let Some(existing) = present(api, &wanted) else {
            make(api.clone(), wanted).await?;
            continue;
        };
        let stale = |field: &&str| existing[*field] != wanted.object[*field];
        if stale(&"addressType") {
            // The advertised address is of the other family now, and the type of a slice cannot change.
            let gone = call(api, Method::DELETE, &wanted.path(&wanted.name), &json!({})).await;
            gone.map_err(|refused| failed(&wanted, &refused))?;
            let made = call(api, Method::POST, &wanted.path(""), &wanted.object).await;
            made.map_err(|refused| failed(&wanted, &refused))?;
            continue;
        }
        if ["subsets", "endpoints", "ports"].iter().any(stale) {
            let answer = call(api, Method::PUT, &wanted.path(&wanted.name), &wanted.object).await;
            answer.map_err(|refused| failed(&wanted, &refused))?;
        }
    }
    Ok(())
}

async fn roles_of(api: &Arc<Api>, defaults: Vec<bootstrap::Default>) -> Result<(), Error> {
    futures::stream::iter(defaults.into_iter().map(|wanted| role(api.clone(), wanted)))
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}

/// Makes a default role or binding, or completes one that lacks something.
async fn role(api: Arc<Api>, default: bootstrap::Default) -> Result<(), Error> {
    let api = &api;
    let group = "rbac.authorization.k8s.io";
    let wanted =
        Wanted::new(group, default.resource, default.namespace, default.name, default.object.clone());
    let Some(wanted) = wanted else { return Ok(()) };
    let Some(existing) = present(api, &wanted) else { return make(api.clone(), wanted).await };
    let path = wanted.path(&wanted.name);
    if bootstrap::refers_elsewhere(&default, &existing) {
        let gone = call(api, Method::DELETE, &path, &json!({})).await;
        gone.map_err(|refused| failed(&wanted, &refused))?;
        let made = call(api, Method::POST, &wanted.path(""), &wanted.object).await;
        return made.map(|_| ()).map_err(|refused| failed(&wanted, &refused));
    }
    match bootstrap::reconcile(&default, &existing) {
        None => Ok(()),
        Some(completed) => {
            let put = call(api, Method::PUT, &path, &completed).await;
            put.map(|_| ()).map_err(|refused| failed(&wanted, &refused))
        }
    }
}
