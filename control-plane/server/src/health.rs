//! `/healthz`, `/livez`, `/readyz`: all checks, or one of them by its path.

use std::fmt::Write as _;

use fairlead_api::{registry, status};
use futures::{FutureExt, future::BoxFuture};
use http::Response;

use crate::{api::Api, body::Body, info::Params, reply};

/// The endpoints.
pub const ENDPOINTS: [&str; 3] = ["healthz", "livez", "readyz"];

/// Something that must hold for the server to be well.
pub struct Check {
    pub name: &'static str,
    /// The endpoints that run it.
    pub endpoints: &'static [&'static str],
    passes: fn(&Api) -> BoxFuture<'_, bool>,
}

/// All checks, in the order in which they are shown.
pub static CHECKS: &[Check] = &[
    Check { name: "ping", endpoints: &ENDPOINTS, passes: |_| std::future::ready(true).boxed() },
    Check { name: "log", endpoints: &ENDPOINTS, passes: |_| std::future::ready(true).boxed() },
    Check {
        name: "etcd",
        endpoints: &ENDPOINTS,
        passes: |api| api.store.check().map(|it| it.is_ok()).boxed(),
    },
    Check {
        name: "etcd-readiness",
        endpoints: &["readyz"],
        passes: |api| api.store.check().map(|it| it.is_ok()).boxed(),
    },
    Check {
        name: "informer-sync",
        endpoints: &["readyz"],
        passes: |api| std::future::ready(api.caches.applied() > 0).boxed(),
    },
    Check {
        name: "poststarthook/rbac/bootstrap-roles",
        endpoints: &ENDPOINTS,
        passes: |api| present(api, "rbac.authorization.k8s.io", "clusterroles", "cluster-admin"),
    },
    Check {
        name: "poststarthook/scheduling/bootstrap-system-priority-classes",
        endpoints: &ENDPOINTS,
        passes: |api| present(api, "scheduling.k8s.io", "priorityclasses", "system-node-critical"),
    },
    Check {
        name: "poststarthook/start-system-namespaces-controller",
        endpoints: &ENDPOINTS,
        passes: |api| present(api, "", "namespaces", "kube-system"),
    },
    Check {
        name: "shutdown",
        endpoints: &["readyz"],
        passes: |api| std::future::ready(!api.stopping.is_cancelled()).boxed(),
    },
];

/// Whether an object that the server makes at its start is there.
fn present<'a>(api: &'a Api, group: &str, plural: &str, name: &str) -> BoxFuture<'a, bool> {
    let cache = registry::find(group, "v1", plural).and_then(|kind| api.caches.of(kind));
    std::future::ready(cache.is_some_and(|cache| cache.get(name).is_some())).boxed()
}

/// Whether a path is a health endpoint.
pub fn is_health(path: &str) -> bool {
    path.split('/').nth(1).is_some_and(|first| ENDPOINTS.contains(&first))
}

/// Answers a health endpoint; `None` if there is no such check.
pub async fn answer(api: &Api, path: &str, params: &Params) -> Option<Response<Body>> {
    let mut parts = path.trim_matches('/').splitn(2, '/');
    let endpoint = parts.next().unwrap_or_default();
    let checks = || CHECKS.iter().filter(|check| check.endpoints.contains(&endpoint));
    if let Some(one) = parts.next() {
        let check = checks().find(|check| check.name == one)?;
        let passed = (check.passes)(api).await;
        return Some(if passed {
            reply::text(200, "ok")
        } else {
            reply::text(500, format!("internal server error: {one} failed\n"))
        });
    }
    let excluded: Vec<&str> = params.all("exclude").filter(|name| !name.is_empty()).collect();
    let (mut text, mut failed) = (String::new(), false);
    for check in checks() {
        let name = check.name;
        if excluded.contains(&name) {
            let _ = writeln!(text, "[+]{name} excluded: ok");
        } else if (check.passes)(api).await {
            let _ = writeln!(text, "[+]{name} ok");
        } else {
            failed = true;
            let _ = writeln!(text, "[-]{name} failed: reason withheld");
        }
    }
    let unknown = excluded.iter().filter(|name| !checks().any(|check| check.name == **name));
    let unknown: Vec<String> = unknown.map(|name| status::quoted(name)).collect();
    if !unknown.is_empty() {
        let names = unknown.join(", ");
        let _ = writeln!(text, "warn: some health checks cannot be excluded: no matches for {names}");
    }
    if failed {
        return Some(reply::text(500, format!("{text}{endpoint} check failed\n")));
    }
    let verbose = params.get("verbose").is_some();
    Some(reply::text(200, if verbose { format!("{text}{endpoint} check passed\n") } else { "ok".into() }))
}
