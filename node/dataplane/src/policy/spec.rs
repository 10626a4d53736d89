//! NetworkPolicy as the API has it -> checked selectors, blocks and ports.
//!
//! What cannot be expressed makes the whole policy [`Policy::closed`]: it still selects its pods and allows nothing.
//! A part is never left out, since a list that became empty would mean "everyone".

use std::fmt::Write as _;

use ipnet::IpNet;
use k8s_openapi::{
    api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use crate::model::{Key, Labels, Protocol};

/// Why a policy cannot be expressed. The text names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// Path of the field below `spec`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Invalid {
    Invalid { field: field.into(), problem: problem.into() }
}

/// One requirement of a label selector.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Requirement {
    /// The label is there with one of these values (sorted).
    In(String, Vec<String>),
    /// The label is not there, or has none of these values (sorted).
    NotIn(String, Vec<String>),
    /// The label is there.
    Exists(String),
    /// The label is not there.
    Absent(String),
}

/// A label selector; all requirements (sorted) must hold, none matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector(pub Vec<Requirement>);

impl Selector {
    /// Whether `labels` satisfy every requirement.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::NotIn(key, values) => !labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::Absent(key) => !labels.contains_key(key),
        })
    }

    fn parse(selector: &LabelSelector, field: &str) -> Result<Self, Invalid> {
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::In(key.clone(), vec![value.clone()]));
        }
        for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
            let at = || format!("{field}.matchExpressions[{index}]");
            let mut values = expression.values.clone().unwrap_or_default();
            values.sort();
            values.dedup();
            let key = expression.key.clone();
            let requirement = match (expression.operator.as_str(), values.is_empty()) {
                ("In", false) => Requirement::In(key, values),
                ("NotIn", false) => Requirement::NotIn(key, values),
                ("Exists", true) => Requirement::Exists(key),
                ("DoesNotExist", true) => Requirement::Absent(key),
                ("In" | "NotIn", true) => return Err(invalid(at(), "values must not be empty")),
                ("Exists" | "DoesNotExist", false) => return Err(invalid(at(), "values must be empty")),
                (other, _) => return Err(invalid(at(), format!("operator {other:?} is not known"))),
            };
            requirements.push(requirement);
        }
        requirements.sort();
        requirements.dedup();
        Ok(Selector(requirements))
    }
}

/// Whom a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// Pods by label, in one namespace or in the namespaces of a selector.
    Pods {
        /// The policy's own namespace, when there is no namespaceSelector.
        namespace: Option<std::sync::Arc<str>>,
        /// namespaceSelector
        namespaces: Selector,
        /// podSelector
        pods: Selector,
    },
    /// Addresses of a block less the exceptions (sorted).
    Block {
        /// The block.
        cidr: IpNet,
        /// Parts of it that do not count.
        except: Vec<IpNet>,
    },
    /// Marks a prefix that no block holds; no rule names it.
    Nobody,
}

/// Which ports of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortMatch {
    /// Every port of the protocol.
    Any,
    /// From the first to the last, both included.
    Range(u16, u16),
    /// The port of that name, as each pod numbers it.
    Named(String),
}

/// A port of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port {
    /// Its protocol.
    pub protocol: Protocol,
    /// Which ones.
    pub ports: PortMatch,
}

/// One rule; both lists must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Peers; None is everyone.
    pub peers: Option<Vec<Peer>>,
    /// Ports; None is every protocol and port.
    pub ports: Option<Vec<Port>>,
}

/// A checked policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its namespace and name.
    pub key: Key,
    /// Pods of its namespace that it is about.
    pub selects: Selector,
    /// Its ingress rules; None when it is not about ingress.
    pub ingress: Option<Vec<Rule>>,
    /// Its egress rules; None when it is not about egress.
    pub egress: Option<Vec<Rule>>,
    /// Why it could not be expressed, if so; then it allows nothing.
    pub problem: Option<Invalid>,
}

impl Policy {
    /// Checks a policy; one that cannot be expressed comes out closed, with the problem named.
    #[must_use]
    pub fn from_api(policy: &NetworkPolicy) -> Self {
        let key = Key::new(
            policy.metadata.namespace.as_deref().unwrap_or_default(),
            policy.metadata.name.as_deref().unwrap_or_default(),
        );
        let none = NetworkPolicySpec::default();
        let spec = policy.spec.as_ref().unwrap_or(&none);
        match parse(&key, spec) {
            Ok(parsed) => parsed,
            Err(problem) => Policy::closed(key, spec, problem),
        }
    }

    /// The policy that selects what `spec` selects, or the whole namespace if that cannot be told, and allows nothing.
    fn closed(key: Key, spec: &NetworkPolicySpec, problem: Invalid) -> Self {
        let selects = spec
            .pod_selector
            .as_ref()
            .map(|selector| Selector::parse(selector, "podSelector"))
            .transpose()
            .ok()
            .flatten()
            .unwrap_or_default();
        let (ingress, egress) = directions(spec).unwrap_or((true, true));
        Policy {
            key,
            selects,
            ingress: ingress.then(Vec::new),
            egress: egress.then(Vec::new),
            problem: Some(problem),
        }
    }
}

/// Whether a policy is about ingress and about egress.
fn directions(spec: &NetworkPolicySpec) -> Result<(bool, bool), Invalid> {
    let types = spec.policy_types.as_deref().unwrap_or_default();
    if types.is_empty() {
        return Ok((true, spec.egress.as_ref().is_some_and(|rules| !rules.is_empty())));
    }
    let mut about = (false, false);
    for (index, name) in types.iter().enumerate() {
        match name.as_str() {
            "Ingress" => about.0 = true,
            "Egress" => about.1 = true,
            other => return Err(invalid(format!("policyTypes[{index}]"), format!("{other:?} is not known"))),
        }
    }
    Ok(about)
}

fn parse(key: &Key, spec: &NetworkPolicySpec) -> Result<Policy, Invalid> {
    let selects = match &spec.pod_selector {
        Some(selector) => Selector::parse(selector, "podSelector")?,
        None => Selector::default(),
    };
    let (about_ingress, about_egress) = directions(spec)?;
    let mut ingress = Vec::new();
    for (index, rule) in spec.ingress.iter().flatten().enumerate() {
        let field = format!("ingress[{index}]");
        ingress.push(Rule {
            peers: parse_peers(key, rule.from.as_deref(), &format!("{field}.from"))?,
            ports: parse_ports(rule.ports.as_deref(), &field)?,
        });
    }
    let mut egress = Vec::new();
    for (index, rule) in spec.egress.iter().flatten().enumerate() {
        let field = format!("egress[{index}]");
        egress.push(Rule {
            peers: parse_peers(key, rule.to.as_deref(), &format!("{field}.to"))?,
            ports: parse_ports(rule.ports.as_deref(), &field)?,
        });
    }
    Ok(Policy {
        key: key.clone(),
        selects,
        ingress: about_ingress.then_some(ingress),
        egress: about_egress.then_some(egress),
        problem: None,
    })
}

fn parse_peers(
    key: &Key,
    peers: Option<&[NetworkPolicyPeer]>,
    field: &str,
) -> Result<Option<Vec<Peer>>, Invalid> {
    let Some(peers) = peers.filter(|peers| !peers.is_empty()) else { return Ok(None) };
    let parsed: Result<Vec<Peer>, Invalid> = peers
        .iter()
        .enumerate()
        .map(|(index, peer)| parse_peer(key, peer, &format!("{field}[{index}]")))
        .collect();
    parsed.map(Some)
}

fn parse_peer(key: &Key, peer: &NetworkPolicyPeer, field: &str) -> Result<Peer, Invalid> {
    if let Some(block) = &peer.ip_block {
        if peer.pod_selector.is_some() || peer.namespace_selector.is_some() {
            return Err(invalid(field, "ipBlock must stand alone"));
        }
        return parse_block(
            &block.cidr,
            block.except.as_deref().unwrap_or_default(),
            &format!("{field}.ipBlock"),
        );
    }
    if peer.pod_selector.is_none() && peer.namespace_selector.is_none() {
        return Err(invalid(field, "has neither a selector nor an ipBlock"));
    }
    let selector = |selector: Option<&LabelSelector>, name: &str| {
        selector.map(|selector| Selector::parse(selector, &format!("{field}.{name}"))).transpose()
    };
    let namespaces = selector(peer.namespace_selector.as_ref(), "namespaceSelector")?;
    let pods = selector(peer.pod_selector.as_ref(), "podSelector")?.unwrap_or_default();
    Ok(Peer::Pods {
        namespace: namespaces.is_none().then(|| key.namespace.clone()),
        namespaces: namespaces.unwrap_or_default(),
        pods,
    })
}

fn parse_block(cidr: &str, except: &[String], field: &str) -> Result<Peer, Invalid> {
    let network = |text: &str, at: String| {
        text.parse::<IpNet>().map_err(|error| invalid(at, format!("{text:?}: {error}")))
    };
    let block = network(cidr, format!("{field}.cidr"))?.trunc();
    let mut parts = Vec::new();
    for (index, text) in except.iter().enumerate() {
        let at = format!("{field}.except[{index}]");
        let part = network(text, at.clone())?.trunc();
        if !block.contains(&part) {
            return Err(invalid(at, format!("{text} is not inside {cidr}")));
        }
        parts.push(part);
    }
    parts.sort();
    parts.dedup();
    Ok(Peer::Block { cidr: block, except: parts })
}

fn parse_ports(ports: Option<&[NetworkPolicyPort]>, field: &str) -> Result<Option<Vec<Port>>, Invalid> {
    let Some(ports) = ports.filter(|ports| !ports.is_empty()) else { return Ok(None) };
    let parsed: Result<Vec<Port>, Invalid> = ports
        .iter()
        .enumerate()
        .map(|(index, port)| parse_port(port, &format!("{field}.ports[{index}]")))
        .collect();
    parsed.map(Some)
}

fn parse_port(port: &NetworkPolicyPort, field: &str) -> Result<Port, Invalid> {
    let protocol = Protocol::parse(port.protocol.as_deref())
        .ok_or_else(|| invalid(format!("{field}.protocol"), format!("{:?} is not known", port.protocol)))?;
    let number = |value: i32, name: &str| {
        u16::try_from(value)
            .ok()
            .filter(|value| *value > 0)
            .ok_or_else(|| invalid(format!("{field}.{name}"), format!("{value} is not between 1 and 65535")))
    };
    let ports = match (&port.port, port.end_port) {
        (None, None) => PortMatch::Any,
        (Some(IntOrString::Int(first)), last) => {
            let first = number(*first, "port")?;
            let last = last.map_or(Ok(first), |last| number(last, "endPort"))?;
            if last < first {
                return Err(invalid(format!("{field}.endPort"), format!("{last} is below port {first}")));
            }
            PortMatch::Range(first, last)
        }
        (Some(IntOrString::String(name)), None) if !name.is_empty() => PortMatch::Named(name.clone()),
        _ => return Err(invalid(format!("{field}.endPort"), "needs a port number")),
    };
    Ok(Port { protocol, ports })
}

/// Splits a range of ports into aligned blocks: (first port, length of its prefix in bits).
#[must_use]
pub fn port_prefixes(first: u16, last: u16) -> Vec<(u16, u8)> {
    let (mut next, last) = (u32::from(first), u32::from(last));
    let mut prefixes = Vec::new();
    while next <= last {
        let mut bits = if next == 0 { 16 } else { next.trailing_zeros().min(16) };
        while next + (1 << bits) - 1 > last {
            bits -= 1;
        }
        prefixes.push((next as u16, 16 - bits as u8));
        next += 1 << bits;
    }
    prefixes
}

/// Writes a selector in a form that is the same on every node and in every version.
pub(crate) fn canonical_selector(out: &mut String, selector: &Selector) {
    for requirement in &selector.0 {
        // Labels cannot hold these separators, so two selectors never read the same.
        let (operator, key, values) = match requirement {
            Requirement::In(key, values) => ("=", key, values.as_slice()),
            Requirement::NotIn(key, values) => ("!", key, values.as_slice()),
            Requirement::Exists(key) => ("+", key, &[][..]),
            Requirement::Absent(key) => ("-", key, &[][..]),
        };
        let _ = write!(out, "{operator}{key}({});", values.join(","));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(spec: serde_json::Value) -> Policy {
        let object = serde_json::json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec});
        Policy::from_api(&serde_json::from_value(object).expect("a NetworkPolicy"))
    }

    #[track_caller]
    fn check_closed(spec: serde_json::Value, field: &str) {
        let parsed = policy(spec);
        let problem = parsed.problem.as_ref().expect("a problem");
        assert_eq!(problem.field, field, "{problem}");
        assert!(parsed.ingress.is_none_or(|rules| rules.is_empty()));
        assert!(parsed.egress.is_none_or(|rules| rules.is_empty()));
    }

    #[test]
    fn malformed_policies_allow_nothing_and_say_why() {
        let rule = |from: serde_json::Value| serde_json::json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}, from]}]});
        check_closed(
            rule(serde_json::json!({"ipBlock": {"cidr": "10.0.0.0/33"}})),
            "ingress[0].from[1].ipBlock.cidr",
        );
        check_closed(
            rule(serde_json::json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/9"]}})),
            "ingress[0].from[1].ipBlock.except[0]",
        );
        check_closed(
            rule(serde_json::json!({"ipBlock": {"cidr": "fd00::/8", "except": ["10.0.0.0/8"]}})),
            "ingress[0].from[1].ipBlock.except[0]",
        );
        check_closed(rule(serde_json::json!({})), "ingress[0].from[1]");
        check_closed(
            rule(
                serde_json::json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}),
            ),
            "ingress[0].from[1].podSelector.matchExpressions[0]",
        );
        check_closed(
            serde_json::json!({"podSelector": {}, "ingress": [{"ports": [{"port": 90, "endPort": 80}]}]}),
            "ingress[0].ports[0].endPort",
        );
        check_closed(
            serde_json::json!({"podSelector": {}, "egress": [{"ports": [{"port": 70000}]}]}),
            "egress[0].ports[0].port",
        );
        check_closed(serde_json::json!({"podSelector": {}, "policyTypes": ["Sideways"]}), "policyTypes[0]");
    }

    #[test]
    fn a_malformed_pod_selector_closes_the_whole_namespace() {
        let parsed = policy(
            serde_json::json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
        );
        assert_eq!(parsed.selects, Selector::default());
        assert!(parsed.problem.is_some());
    }

    #[test]
    fn directions_follow_policy_types_and_rules() {
        let about = |spec| {
            let parsed = policy(spec);
            (parsed.ingress.is_some(), parsed.egress.is_some())
        };
        assert_eq!(about(serde_json::json!({"podSelector": {}})), (true, false));
        assert_eq!(about(serde_json::json!({"podSelector": {}, "egress": [{}]})), (true, true));
        assert_eq!(about(serde_json::json!({"podSelector": {}, "policyTypes": ["Egress"]})), (false, true));
    }

    #[test]
    fn an_empty_peer_list_is_everyone_and_a_block_is_of_either_family() {
        let parsed = policy(serde_json::json!({"podSelector": {}, "ingress": [{"from": []}]}));
        assert_eq!(parsed.ingress, Some(vec![Rule { peers: None, ports: None }]));
        let parsed = policy(
            serde_json::json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "fd00::1/8", "except": ["fd00:1::/32"]}}]}]}),
        );
        let network = |text: &str| text.parse::<IpNet>().expect("a CIDR");
        let block = Peer::Block { cidr: network("fd00::/8"), except: vec![network("fd00:1::/32")] };
        assert_eq!(parsed.ingress, Some(vec![Rule { peers: Some(vec![block]), ports: None }]));
    }

    #[test]
    fn port_ranges_become_aligned_blocks_that_cover_exactly_the_range() {
        assert_eq!(port_prefixes(80, 80), [(80, 16)]);
        assert_eq!(port_prefixes(0, 65535), [(0, 0)]);
        assert_eq!(port_prefixes(8000, 8010), [(8000, 13), (8008, 15), (8010, 16)]);
        for (first, last) in [(1, 65535), (1023, 1025), (32000, 32768), (65535, 65535), (5, 6)] {
            let covered: Vec<u32> = port_prefixes(first, last)
                .into_iter()
                .flat_map(|(port, bits)| u32::from(port)..u32::from(port) + (1 << (16 - bits)))
                .collect();
            assert_eq!(covered, (u32::from(first)..=u32::from(last)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn selectors_match_as_the_api_defines() {
        let labels: Labels = Labels::new([("app".to_owned(), "web".to_owned())].into());
        let check = |requirement| Selector(vec![requirement]).matches(&labels);
        assert!(check(Requirement::In("app".into(), vec!["db".into(), "web".into()])));
        assert!(!check(Requirement::In("tier".into(), vec!["web".into()])));
        assert!(check(Requirement::NotIn("tier".into(), vec!["web".into()])));
        assert!(!check(Requirement::NotIn("app".into(), vec!["web".into()])));
        assert!(check(Requirement::Exists("app".into())) && !check(Requirement::Exists("tier".into())));
        assert!(check(Requirement::Absent("tier".into())) && !check(Requirement::Absent("app".into())));
        assert!(Selector::default().matches(&labels));
    }
}
