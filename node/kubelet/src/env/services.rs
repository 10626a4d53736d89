//! Variables that tell containers where Services are, as upstream and Docker links write them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;

/// What is kept of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its ClusterIP.
    pub address: String,
    /// Its ports: name, number, protocol.
    pub ports: Vec<(String, i32, String)>,
}

/// Reads a Service; `None` when it has no address to tell.
#[must_use]
pub fn entry(service: &Service) -> Option<Entry> {
    let spec = service.spec.as_ref()?;
    let address = spec.cluster_ip.clone().filter(|address| !address.is_empty() && address != "None")?;
    let ports = spec.ports.iter().flatten().map(|port| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        (port.name.clone().unwrap_or_default(), port.port, protocol)
    });
    Some(Entry { address, ports: ports.collect() })
}

fn upper(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

fn host_port(address: &str, port: i32) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// The variables of one Service.
#[must_use]
pub fn variables(name: &str, entry: &Entry) -> Vec<(String, String)> {
    let prefix = upper(name);
    let Some((_, first_port, first_protocol)) = entry.ports.first() else { return Vec::new() };
    let mut out = vec![
        (format!("{prefix}_SERVICE_HOST"), entry.address.clone()),
        (format!("{prefix}_SERVICE_PORT"), first_port.to_string()),
    ];
    for (port_name, port, _) in entry.ports.iter().filter(|(port_name, ..)| !port_name.is_empty()) {
        out.push((format!("{prefix}_SERVICE_PORT_{}", upper(port_name)), port.to_string()));
    }
    let url = |protocol: &str, port: i32| {
        format!("{}://{}", protocol.to_lowercase(), host_port(&entry.address, port))
    };
    out.push((format!("{prefix}_PORT"), url(first_protocol, *first_port)));
    for (_, port, protocol) in &entry.ports {
        let link = format!("{prefix}_PORT_{port}_{}", protocol.to_uppercase());
        out.push((link.clone(), url(protocol, *port)));
        out.push((format!("{link}_PROTO"), protocol.to_lowercase()));
        out.push((format!("{link}_PORT"), port.to_string()));
        out.push((format!("{link}_ADDR"), entry.address.clone()));
    }
    out
}

/// All variables for a pod in `namespace`: its own Services when `links`, and always the API server's.
#[must_use]
pub fn for_pod(
    services: &BTreeMap<(String, String), Entry>,
    namespace: &str,
    links: bool,
) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    if let Some(api) = services.get(&("default".to_owned(), "kubernetes".to_owned())) {
        out.extend(variables("kubernetes", api));
    }
    if links {
        let from = (namespace.to_owned(), String::new());
        let own = services.range(from..).take_while(|((space, _), _)| space == namespace);
        for ((_, name), entry) in own {
            out.extend(variables(name, entry));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_becomes_upstreams_variables() {
        let entry = Entry {
            address: "10.96.0.10".to_owned(),
            ports: vec![("http".to_owned(), 80, "TCP".to_owned()), ("dns".to_owned(), 53, "UDP".to_owned())],
        };
        let seen: Vec<_> = variables("redis-primary", &entry)
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(
            seen,
            [
                "REDIS_PRIMARY_SERVICE_HOST=10.96.0.10",
                "REDIS_PRIMARY_SERVICE_PORT=80",
                "REDIS_PRIMARY_SERVICE_PORT_HTTP=80",
                "REDIS_PRIMARY_SERVICE_PORT_DNS=53",
                "REDIS_PRIMARY_PORT=tcp://10.96.0.10:80",
                "REDIS_PRIMARY_PORT_80_TCP=tcp://10.96.0.10:80",
                "REDIS_PRIMARY_PORT_80_TCP_PROTO=tcp",
                "REDIS_PRIMARY_PORT_80_TCP_PORT=80",
                "REDIS_PRIMARY_PORT_80_TCP_ADDR=10.96.0.10",
                "REDIS_PRIMARY_PORT_53_UDP=udp://10.96.0.10:53",
                "REDIS_PRIMARY_PORT_53_UDP_PROTO=udp",
                "REDIS_PRIMARY_PORT_53_UDP_PORT=53",
                "REDIS_PRIMARY_PORT_53_UDP_ADDR=10.96.0.10",
            ]
        );
    }

    #[test]
    fn links_are_of_the_own_namespace_and_the_api_server_is_always_there() {
        let entry = |address: &str| Entry {
            address: address.to_owned(),
            ports: vec![(String::new(), 443, "TCP".to_owned())],
        };
        let services: BTreeMap<_, _> = [("default", "kubernetes"), ("a", "web"), ("ab", "other")]
            .map(|(space, name)| ((space.to_owned(), name.to_owned()), entry("1.1.1.1")))
            .into();
        let with = for_pod(&services, "a", true);
        assert!(with.contains_key("KUBERNETES_SERVICE_HOST") && with.contains_key("WEB_SERVICE_HOST"));
        assert!(!with.contains_key("OTHER_SERVICE_HOST"));
        let without = for_pod(&services, "a", false);
        assert!(without.contains_key("KUBERNETES_SERVICE_HOST") && !without.contains_key("WEB_SERVICE_HOST"));
    }
}
