//! The files every container gets from its kubelet: `/etc/hosts`, `/etc/resolv.conf`, `/etc/hostname`.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodDNSConfig};

use crate::docker::body::hostname;

/// Most search domains and their summed length that resolvers take.
const MAX_SEARCH: usize = 32;
const MAX_SEARCH_LENGTH: usize = 2048;
/// Most name servers that resolvers take.
const MAX_NAMESERVERS: usize = 3;

/// `/etc/hosts` of a pod. `machine` is the node's own file, for pods on its network.
#[must_use]
pub fn hosts(pod: &Pod, addresses: &[IpAddr], cluster_domain: &str, machine: Option<&str>) -> String {
    let mut out = match machine {
        Some(text) => format!("# Kubernetes-managed hosts file (host network).\n{text}"),
        None => "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n".to_owned(),
    };
    let spec = pod.spec.as_ref();
    if machine.is_none() {
        let name = hostname(pod);
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let subdomain = spec.and_then(|spec| spec.subdomain.as_deref()).filter(|domain| !domain.is_empty());
        for address in addresses {
            match subdomain {
                Some(domain) => {
                    let full = format!("{name}.{domain}.{namespace}.svc.{cluster_domain}");
                    out.push_str(&format!("{address}\t{full}\t{name}\n"));
                }
                None => out.push_str(&format!("{address}\t{name}\n")),
            }
        }
    }
    let aliases: Vec<_> = spec.and_then(|spec| spec.host_aliases.as_deref()).unwrap_or_default().to_vec();
    if !aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.unwrap_or_default().join("\t");
            out.push_str(&format!("{}\t{names}\n", alias.ip));
        }
    }
    out
}

/// A resolver's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Servers.
    pub nameservers: Vec<String>,
    /// Search domains.
    pub search: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

impl Resolver {
    /// Reads a `resolv.conf`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut out = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => out.nameservers.extend(words.next().map(str::to_owned)),
                Some("search") => out.search = words.map(str::to_owned).collect(),
                Some("options") => out.options = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        out
    }

    /// Writes a `resolv.conf`.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        if !self.search.is_empty() {
            out.push_str(&format!("search {}\n", self.search.join(" ")));
        }
        for server in &self.nameservers {
            out.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            out.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        out
    }
}

/// What a pod's `dnsPolicy` and `dnsConfig` make of the node's and the cluster's resolvers.
#[must_use]
pub fn resolver(pod: &Pod, node: &Resolver, cluster_dns: &[IpAddr], cluster_domain: &str) -> Resolver {
    let spec = pod.spec.as_ref();
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let host_network = spec.and_then(|spec| spec.host_network) == Some(true);
    let cluster = match policy {
        "ClusterFirst" => !host_network,
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut out = match policy {
        "None" => Resolver::default(),
        // Without a cluster DNS server upstream falls back to the node's.
        _ if !cluster || cluster_dns.is_empty() => node.clone(),
        _ => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let mut search = vec![
                format!("{namespace}.svc.{cluster_domain}"),
                format!("svc.{cluster_domain}"),
                cluster_domain.to_owned(),
            ];
            search.extend(node.search.iter().filter(|domain| *domain != ".").cloned());
            Resolver {
                nameservers: cluster_dns.iter().map(ToString::to_string).collect(),
                search,
                options: vec!["ndots:5".to_owned()],
            }
        }
    };
    if let Some(extra) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        merge(&mut out, extra);
    }
    bound(&mut out);
    out
}

fn merge(into: &mut Resolver, extra: &PodDNSConfig) {
    let add = |list: &mut Vec<String>, more: &Option<Vec<String>>| {
        for item in more.iter().flatten() {
            if !list.contains(item) {
                list.push(item.clone());
            }
        }
    };
    add(&mut into.nameservers, &extra.nameservers);
    add(&mut into.search, &extra.searches);
    for option in extra.options.iter().flatten() {
        let Some(name) = &option.name else { continue };
        into.options.retain(|known| known.split(':').next() != Some(name.as_str()));
        into.options.push(match &option.value {
            Some(value) if !value.is_empty() => format!("{name}:{value}"),
            _ => name.clone(),
        });
    }
}

fn bound(resolver: &mut Resolver) {
    resolver.nameservers.truncate(MAX_NAMESERVERS);
    let mut seen = Vec::new();
    let mut length = 0;
    for domain in &resolver.search {
        length += domain.len() + 1;
        if seen.len() < MAX_SEARCH && length <= MAX_SEARCH_LENGTH && !seen.contains(domain) {
            seen.push(domain.clone());
        }
    }
    resolver.search = seen;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec})).unwrap()
    }

    #[test]
    fn dns_policy_chooses_between_node_and_cluster() {
        let node = Resolver::parse("nameserver 8.8.8.8\nsearch corp.example\noptions timeout:1\n");
        let dns = ["10.96.0.10".parse().unwrap()];
        for (spec, expected) in [
            (
                json!({}),
                "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.96.0.10\noptions ndots:5\n",
            ),
            (json!({"dnsPolicy": "Default"}), "search corp.example\nnameserver 8.8.8.8\noptions timeout:1\n"),
            (json!({"hostNetwork": true}), "search corp.example\nnameserver 8.8.8.8\noptions timeout:1\n"),
            (
                json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
                "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.96.0.10\noptions ndots:5\n",
            ),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
                "search x\nnameserver 1.1.1.1\noptions ndots:2 edns0\n",
            ),
            (
                json!({"dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}}),
                "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.96.0.10\noptions ndots:1\n",
            ),
        ] {
            assert_eq!(
                resolver(&pod(spec.clone()), &node, &dns, "cluster.local").to_text(),
                expected,
                "{spec}"
            );
        }
        let without = resolver(&pod(json!({})), &node, &[], "cluster.local");
        assert_eq!(without, node);
    }

    #[test]
    fn hosts_name_the_pod_and_its_aliases() {
        let pod = pod(
            json!({"hostname": "h", "subdomain": "s", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}),
        );
        let both = ["10.244.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let text = hosts(&pod, &both, "cluster.local", None);
        for address in ["10.244.0.2", "fd00::2"] {
            assert!(text.contains(&format!("{address}\th.s.ns.svc.cluster.local\th\n")), "{text}");
        }
        assert!(text.ends_with("1.2.3.4\ta\tb\n"), "{text}");
        let text =
            hosts(&pod, &["10.0.0.1".parse().unwrap()], "cluster.local", Some("127.0.0.1 localhost\n"));
        assert!(
            text.starts_with("# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n"),
            "{text}"
        );
        assert!(!text.contains("10.0.0.1"));
    }
}
