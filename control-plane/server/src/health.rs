//! `/healthz`, `/livez`, `/readyz`: all checks, or one of them by its path.

use std::fmt::Write as _;

use http::Response;

use crate::{api::Api, body::Body, info::Params, reply};

/// The checks, with the endpoints that run them.
const CHECKS: [(&str, bool); 5] =
    [("ping", false), ("log", false), ("etcd", false), ("informer-sync", true), ("shutdown", true)];

async fn passes(api: &Api, check: &str) -> bool {
    match check {
        "etcd" => api.store.check().await.is_ok(),
        "informer-sync" => api.caches.applied() > 0,
        "shutdown" => !api.stopping.is_cancelled(),
        _ => true,
    }
}

/// Whether a path is a health endpoint.
pub fn is_health(path: &str) -> bool {
    matches!(path.split('/').nth(1), Some("healthz" | "livez" | "readyz"))
}

/// Answers a health endpoint; `None` if there is no such check.
pub async fn answer(api: &Api, path: &str, params: &Params) -> Option<Response<Body>> {
    let mut parts = path.trim_matches('/').splitn(2, '/');
    let endpoint = parts.next().unwrap_or_default();
    let checks = || CHECKS.iter().filter(|(_, ready)| endpoint == "readyz" || !ready).map(|(name, _)| *name);
    if let Some(one) = parts.next() {
        let check = checks().find(|check| *check == one)?;
        let passed = passes(api, check).await;
        return Some(if passed {
            reply::text(200, "ok")
        } else {
            reply::text(500, format!("internal server error: {one} failed\n"))
        });
    }
    let excluded: Vec<&str> = params.all("exclude").collect();
    let (mut text, mut failed) = (String::new(), false);
    for check in checks().filter(|check| !excluded.contains(check)) {
        if passes(api, check).await {
            let _ = writeln!(text, "[+]{check} ok");
        } else {
            failed = true;
            let _ = writeln!(text, "[-]{check} failed: reason withheld");
        }
    }
    if failed {
        return Some(reply::text(500, format!("{text}{endpoint} check failed\n")));
    }
    let verbose = params.get("verbose").is_some();
    Some(reply::text(200, if verbose { format!("{text}{endpoint} check passed\n") } else { "ok".into() }))
}
