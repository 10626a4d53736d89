//! The spec of a pod, alone or in a template.

use super::{Field, container, names, net, os, resources, scheduling, security, selector, volume};
use crate::field::{self, ErrorList};

const DNS_POLICIES: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const RESTART_POLICIES: &[&str] = &["Always", "OnFailure", "Never"];

/// Everything in a pod's spec.
pub fn spec(f: &Field, errors: &mut ErrorList) {
    volume::volumes(&f.get("volumes"), errors);
    let scope = container::Scope {
        volumes: f.get("volumes").items().map(|v| v.get("name").str()).collect(),
        host_network: f.get("hostNetwork").is_true(),
        grace: f.get("terminationGracePeriodSeconds").num(),
        claims: f.get("resourceClaims").items().map(|c| c.get("name").str()).collect(),
    };
    container::all(f, &scope, errors);
    f.get("restartPolicy").required_one_of(errors, RESTART_POLICIES);
    f.get("dnsPolicy").required_one_of(errors, DNS_POLICIES);
    selector::labels(&f.get("nodeSelector"), errors);
    security::pod(f, errors);
    for secret in f.get("imagePullSecrets").items() {
        secret.get("name").present(errors);
    }
    scheduling::affinity(&f.get("affinity"), errors);
    dns(f, errors);
    scheduling::gates(f, errors);
    scheduling::spread(&f.get("topologySpreadConstraints"), errors);
    identity(f, errors);
    scheduling::tolerations(&f.get("tolerations"), errors);
    aliases(&f.get("hostAliases"), errors);
    system(f, errors);
    resource_claims(&f.get("resourceClaims"), errors);
}

/// Names that the pod carries or points to.
fn identity(f: &Field, errors: &mut ErrorList) {
    for name in ["serviceAccountName", "nodeName", "priorityClassName"] {
        let at = f.get(name);
        if !at.is_empty() {
            at.all(errors, names::dns_subdomain(at.str()));
        }
    }
    let runtime = f.get("runtimeClassName");
    if runtime.is_set() {
        runtime.all(errors, names::dns_subdomain(runtime.str()));
    }
    for name in ["hostname", "subdomain"] {
        let at = f.get(name);
        if !at.is_empty() {
            at.all(errors, names::dns_label(at.str()));
        }
    }
    let deadline = f.get("activeDeadlineSeconds");
    if deadline.int().is_some_and(|n| !(1..=i64::from(i32::MAX)).contains(&n)) {
        deadline.invalid(errors, "must be between 1 and 2147483647, inclusive");
    }
    let scheduler = f.get("schedulerName");
    if !scheduler.is_empty() {
        scheduler.all(errors, names::qualified(scheduler.str()));
    }
    f.get("preemptionPolicy").one_of(errors, &["Never", "PreemptLowerPriority"]);
}

fn dns(f: &Field, errors: &mut ErrorList) {
    let config = f.get("dnsConfig");
    let servers = config.get("nameservers");
    if f.get("dnsPolicy").str() == "None" {
        if !config.is_set() {
            config.required(errors, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if servers.is_empty() {
            servers.required(errors, "must provide at least one DNS nameserver when `dnsPolicy` is None");
            return;
        }
    }
    if servers.len() > 3 {
        servers.invalid(errors, "must not have more than 3 nameservers");
    }
    for server in servers.items() {
        net::ip(&server, errors);
    }
    let searches = config.get("searches");
    if searches.len() > 32 {
        searches.invalid(errors, "must not have more than 32 search paths");
    }
    for search in searches.items() {
        let name = search.str().strip_suffix('.').unwrap_or(search.str());
        let name = name.replace('_', "-");
        if search.str() != "." {
            search.all(errors, names::dns_subdomain(&name));
        }
    }
    for option in config.get("options").items() {
        if option.get("name").is_empty() {
            field_required(&option, errors);
        }
    }
}

fn field_required(option: &Field, errors: &mut ErrorList) {
    // Upstream names the list's element, not its `name`.
    errors.push(field::required(&option.path, "must not be empty"));
}

fn aliases(f: &Field, errors: &mut ErrorList) {
    for alias in f.items() {
        net::ip(&alias.get("ip"), errors);
        for host in alias.get("hostnames").items() {
            let at = Field::at(host.value, alias.path.child("hostnames"));
            at.all(errors, names::dns_subdomain(host.str()));
        }
    }
}

fn system(f: &Field, errors: &mut ErrorList) {
    resources::list(&f.get("overhead"), errors);
    os::spec(f, errors);
    if f.get("resources").is_set() {
        resources::pod_requirements(&f.get("resources"), errors);
    }
}

fn resource_claims(f: &Field, errors: &mut ErrorList) {
    let mut seen = Vec::new();
    for claim in f.items() {
        let name = claim.get("name");
        if name.is_empty() {
            name.required(errors, "");
        } else {
            name.all(errors, names::dns_label(name.str()));
            if seen.contains(&name.str()) {
                name.duplicate(errors);
            }
        }
        seen.push(name.str());
        let (by_name, by_template) = (claim.get("resourceClaimName"), claim.get("resourceClaimTemplateName"));
        match (by_name.is_set(), by_template.is_set()) {
            (true, true) => claim.invalid(
                errors,
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
            (false, false) => claim
                .required(errors, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"),
            _ => {}
        }
        for at in [by_name, by_template] {
            if at.is_set() {
                at.all(errors, names::dns_subdomain(at.str()));
            }
        }
    }
}
