//! The files every container gets from its kubelet: `/etc/hosts`, `/etc/resolv.conf`, `/etc/hostname`.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodDNSConfig};

use crate::docker::body::hostname;

/// Most search domains, and most octets of the line they make, that resolvers take.
const MAX_SEARCH: usize = 32;
const MAX_SEARCH_LENGTH: usize = 2048;
/// Longest search domain; glibc 2.28 ends programs over longer ones.
const MAX_SEARCH_DOMAIN: usize = 253;
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
                // The last line counts; the root adds nothing, and a dot at the end makes no other domain.
                Some("search") => {
                    let domains = words.filter(|word| *word != ".");
                    out.search = domains.map(|word| word.trim_end_matches('.').to_owned()).collect();
                }
                Some("options") => out.options.extend(words.map(str::to_owned)),
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

/// What an event says about a pod's resolver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// The event's reason, upstream's.
    pub reason: &'static str,
    /// Its message, upstream's.
    pub message: String,
}

/// What a pod's `dnsPolicy` and `dnsConfig` make of the node's and the cluster's resolvers, and what its owner should
/// hear about it.
#[must_use]
pub fn resolver(
    pod: &Pod,
    node: &Resolver,
    cluster_dns: &[IpAddr],
    cluster_domain: &str,
) -> (Resolver, Vec<Remark>) {
    let mut remarks = Vec::new();
    let spec = pod.spec.as_ref();
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let host_network = spec.and_then(|spec| spec.host_network) == Some(true);
    let cluster = match policy {
        "ClusterFirst" => !host_network,
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    if cluster && cluster_dns.is_empty() {
        let metadata = &pod.metadata;
        let name = metadata.name.as_deref().unwrap_or_default();
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let uid = metadata.uid.as_deref().unwrap_or_default();
        let message = format!(
            "pod: \"{name}_{namespace}({uid})\". kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" policy. Falling back to \"Default\" policy."
        );
        remarks.push(Remark { reason: "MissingClusterDNS", message });
    }
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
            for domain in &node.search {
                if !search.contains(domain) {
                    search.push(domain.clone());
                }
            }
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
    bound(&mut out, &mut remarks);
    (out, remarks)
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

/// Cuts what resolvers would not take.
fn bound(resolver: &mut Resolver, remarks: &mut Vec<Remark>) {
    let mut tell = |message| remarks.push(Remark { reason: "DNSConfigForming", message });
    if resolver.nameservers.len() > MAX_NAMESERVERS {
        resolver.nameservers.truncate(MAX_NAMESERVERS);
        tell(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            resolver.nameservers.join(" ")
        ));
    }
    let asked = resolver.search.len();
    resolver.search.truncate(MAX_SEARCH);
    resolver.search.retain(|domain| domain.len() <= MAX_SEARCH_DOMAIN);
    let mut length = resolver.search.join(" ").len();
    while length > MAX_SEARCH_LENGTH {
        // One domain and the space before it.
        length -= resolver.search.pop().map_or(length, |domain| domain.len() + 1);
    }
    if resolver.search.len() < asked {
        tell(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            resolver.search.join(" ")
        ));
    }
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

    /// The pod's resolv.conf on a node with a search domain of its own.
    fn text(spec: serde_json::Value) -> String {
        let node = Resolver::parse("nameserver 8.8.8.8\nsearch corp.example\noptions timeout:1\n");
        let dns = ["10.96.0.10".parse().unwrap()];
        resolver(&pod(spec), &node, &dns, "cluster.local").0.to_text()
    }

    const CLUSTER: &str =
        "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.96.0.10\n";
    const NODE: &str = "search corp.example\nnameserver 8.8.8.8\noptions timeout:1\n";

    #[test]
    fn dns_policy_chooses_between_node_and_cluster() {
        let cluster = format!("{CLUSTER}options ndots:5\n");
        for (spec, expected) in [
            (json!({}), cluster.as_str()),
            (json!({"dnsPolicy": "ClusterFirst"}), &cluster),
            (json!({"dnsPolicy": "Default"}), NODE),
            (json!({"hostNetwork": true}), NODE),
            (json!({"hostNetwork": true, "dnsPolicy": "ClusterFirst"}), NODE),
            (json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}), &cluster),
            (json!({"dnsPolicy": "ClusterFirstWithHostNet"}), &cluster),
            (json!({"dnsPolicy": "None"}), ""),
            (json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"]}}), "nameserver 1.1.1.1\n"),
        ] {
            assert_eq!(text(spec.clone()), expected, "{spec}");
        }
    }

    #[test]
    fn dns_config_adds_to_the_policy() {
        for (policy, config, expected) in [
            (
                "None",
                json!({"nameservers": ["1.1.1.1"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}),
                "search x\nnameserver 1.1.1.1\noptions ndots:2 edns0\n".to_owned(),
            ),
            (
                "ClusterFirst",
                json!({"options": [{"name": "ndots", "value": "1"}]}),
                format!("{CLUSTER}options ndots:1\n"),
            ),
            (
                "ClusterFirst",
                json!({"options": [{"name": "ndots", "value": ""}, {"value": "3"}]}),
                format!("{CLUSTER}options ndots\n"),
            ),
            (
                "ClusterFirst",
                json!({"nameservers": ["10.96.0.10", "1.1.1.1"], "searches": ["corp.example", "x"], "options": [{"name": "timeout", "value": "3"}]}),
                "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example x\nnameserver 10.96.0.10\nnameserver 1.1.1.1\noptions ndots:5 timeout:3\n".to_owned(),
            ),
            (
                "Default",
                json!({"nameservers": ["1.1.1.1"], "options": [{"name": "timeout", "value": "3"}]}),
                "search corp.example\nnameserver 8.8.8.8\nnameserver 1.1.1.1\noptions timeout:3\n".to_owned(),
            ),
        ] {
            let spec = json!({"dnsPolicy": policy, "dnsConfig": config});
            assert_eq!(text(spec.clone()), expected, "{spec}");
        }
    }

    #[test]
    fn a_node_without_cluster_dns_falls_back_and_says_so() {
        let node = Resolver::parse("nameserver 8.8.8.8\n");
        for (spec, told) in [
            (json!({}), true),
            (json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}), true),
            (json!({"hostNetwork": true}), false),
            (json!({"dnsPolicy": "Default"}), false),
        ] {
            let (resolver, remarks) = resolver(&pod(spec.clone()), &node, &[], "cluster.local");
            assert_eq!(resolver, node, "{spec}");
            assert_eq!(remarks.iter().any(|remark| remark.reason == "MissingClusterDNS"), told, "{spec}");
        }
    }

    #[test]
    fn what_resolvers_would_not_take_is_cut_and_told() {
        let config = |nameservers: usize, searches: &[String]| {
            let servers: Vec<_> = (0..nameservers).map(|i| format!("1.1.1.{i}")).collect();
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": servers, "searches": searches}})
        };
        let names = |count: usize, length: usize| -> Vec<String> {
            (0..count).map(|i| format!("{i:0length$}")).collect()
        };
        let long = "x".repeat(254);
        for (spec, servers, searches, remarks) in [
            (config(3, &names(32, 4)), 3, 32, 0),
            (config(4, &names(32, 4)), 3, 32, 1),
            (config(3, &names(33, 4)), 3, 32, 1),
            (config(4, &names(33, 4)), 3, 32, 2),
            // 8 names of 253 and one of 16 make a line of 2048 octets; one octet more is too long.
            (config(1, &[names(8, 253), names(1, 16)].concat()), 1, 9, 0),
            (config(1, &[names(8, 253), names(1, 17)].concat()), 1, 8, 1),
            (config(1, &[names(8, 253), names(1, 17), vec!["y".to_owned()]].concat()), 1, 8, 1),
            (config(1, &[vec![long], names(2, 4)].concat()), 1, 2, 1),
        ] {
            let (resolver, told) = resolver(&pod(spec.clone()), &Resolver::default(), &[], "cluster.local");
            assert_eq!(
                (resolver.nameservers.len(), resolver.search.len(), told.len()),
                (servers, searches, remarks),
                "{spec}"
            );
            assert!(told.iter().all(|remark| remark.reason == "DNSConfigForming"), "{told:?}");
        }
    }

    #[test]
    fn resolv_conf_is_read_as_resolvers_read_it() {
        let read = Resolver::parse(
            "# nameserver 9.9.9.9\nsearch old\nnameserver 8.8.8.8\nsearch a.example. . b.example\noptions a\noptions b:1\nnameserver\n",
        );
        assert_eq!(read.to_text(), "search a.example b.example\nnameserver 8.8.8.8\noptions a b:1\n");
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
