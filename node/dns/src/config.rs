//! Which servers are asked for names outside the cluster: resolv.conf, flags, and the ConfigMap
//! `kube-system/fairlead-dns`, in the form kube-dns' ConfigMap has.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::name::{Asked, Name};

/// Most servers of one list; resolvers take three.
const MAX_SERVERS: usize = 8;
/// Most stub domains.
const MAX_DOMAINS: usize = 256;
/// Keys of the ConfigMap.
const STUB_DOMAINS: &str = "stubDomains";
const UPSTREAMS: &str = "upstreamNameservers";

/// What the ConfigMap says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Domain -> its own servers.
    pub stubs: BTreeMap<Name, Vec<SocketAddr>>,
    /// Servers for everything else; none means those of the node.
    pub upstreams: Vec<SocketAddr>,
}

/// Why a ConfigMap is not taken; the configuration before it stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The value is no JSON of the right form.
    #[error("key {key}: {reason}; write {form}")]
    Form {
        /// Which key.
        key: &'static str,
        /// What is wrong.
        reason: String,
        /// An example.
        form: &'static str,
    },
    /// A domain is no name.
    #[error("key {STUB_DOMAINS}: domain {0:?}: {1}")]
    Domain(String, crate::name::NameError),
    /// A server is no address.
    #[error("key {key}: {text:?} is no server: write an IP address, with :PORT if it is not 53")]
    Server {
        /// Which key.
        key: &'static str,
        /// What is there.
        text: String,
    },
    /// There is nothing, or too much of it.
    #[error("key {key}: {what} has {count} entries: give 1 to {most}")]
    Count {
        /// Which key.
        key: &'static str,
        /// What is counted.
        what: String,
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// The key means nothing here.
    #[error("key {0:?} is not known: use {STUB_DOMAINS} and {UPSTREAMS}")]
    Unknown(String),
}

impl Config {
    /// Reads the ConfigMap's data.
    ///
    /// # Errors
    /// [`ConfigError`] names the key and what to write instead; nothing of such a ConfigMap is used.
    pub fn parse(data: &BTreeMap<String, String>) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        for (key, value) in data {
            match key.as_str() {
                STUB_DOMAINS => config.stubs = stub_domains(value)?,
                UPSTREAMS => config.upstreams = upstreams(value)?,
                // kube-dns' third key: nothing is federated any more.
                other => return Err(ConfigError::Unknown(other.to_owned())),
            }
        }
        Ok(config)
    }
}

fn stub_domains(value: &str) -> Result<BTreeMap<Name, Vec<SocketAddr>>, ConfigError> {
    let form = r#"{"corp.example": ["10.0.0.53", "10.0.1.53:5353"]}"#;
    let failed = |e: serde_json::Error| ConfigError::Form { key: STUB_DOMAINS, reason: e.to_string(), form };
    let domains: BTreeMap<String, Vec<String>> = serde_json::from_str(value).map_err(failed)?;
    if domains.len() > MAX_DOMAINS {
        let (what, count) = ("the object".to_owned(), domains.len());
        return Err(ConfigError::Count { key: STUB_DOMAINS, what, count, most: MAX_DOMAINS });
    }
    let mut stubs = BTreeMap::new();
    for (domain, servers) in domains {
        let name = Name::parse(&domain).map_err(|e| ConfigError::Domain(domain.clone(), e))?;
        stubs.insert(name, self::servers(STUB_DOMAINS, &format!("domain {domain:?}"), &servers)?);
    }
    Ok(stubs)
}

fn upstreams(value: &str) -> Result<Vec<SocketAddr>, ConfigError> {
    let form = r#"["10.0.0.53", "10.0.1.53:5353"]"#;
    let failed = |e: serde_json::Error| ConfigError::Form { key: UPSTREAMS, reason: e.to_string(), form };
    let list: Vec<String> = serde_json::from_str(value).map_err(failed)?;
    servers(UPSTREAMS, "the list", &list)
}

fn servers(key: &'static str, what: &str, list: &[String]) -> Result<Vec<SocketAddr>, ConfigError> {
    if list.is_empty() || list.len() > MAX_SERVERS {
        let what = what.to_owned();
        return Err(ConfigError::Count { key, what, count: list.len(), most: MAX_SERVERS });
    }
    let server = |text: &String| server(text).ok_or_else(|| ConfigError::Server { key, text: text.clone() });
    list.iter().map(server).collect()
}

/// Reads `1.2.3.4`, `1.2.3.4:53`, `fd00::1` or `[fd00::1]:53`; port 0 is none.
#[must_use]
pub fn server(text: &str) -> Option<SocketAddr> {
    let text = text.trim();
    let parsed = text.parse::<SocketAddr>().ok();
    parsed.or_else(|| text.parse::<IpAddr>().ok().map(|ip| (ip, 53).into())).filter(|a| a.port() != 0)
}

/// The servers of a resolv.conf; those that cannot be read (scoped addresses) are returned apart.
#[must_use]
pub fn resolv_conf(text: &str) -> (Vec<SocketAddr>, Vec<String>) {
    let (mut servers, mut unread) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        match words.next() {
            Some(word) => match word.parse::<IpAddr>() {
                Ok(ip) => servers.push((ip, 53).into()),
                Err(_) => unread.push(word.to_owned()),
            },
            None => unread.push(line.to_owned()),
        }
    }
    servers.truncate(MAX_SERVERS);
    (servers, unread)
}

/// Which servers a name is asked of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes {
    stubs: BTreeMap<Name, Vec<SocketAddr>>,
    upstreams: Vec<SocketAddr>,
}

impl Routes {
    /// The ConfigMap's servers, the node's where it names none. Servers that are this one itself are left out: a
    /// question sent there would come back for ever.
    #[must_use]
    pub fn new(config: &Config, node: &[SocketAddr], is_own: impl Fn(&SocketAddr) -> bool) -> Routes {
        let upstreams = if config.upstreams.is_empty() { node } else { &config.upstreams };
        let others = |list: &[SocketAddr]| -> Vec<SocketAddr> {
            list.iter().filter(|server| !is_own(server)).copied().collect()
        };
        let stubs = config.stubs.iter().map(|(domain, list)| (domain.clone(), others(list)));
        Routes { stubs: stubs.collect(), upstreams: others(upstreams) }
    }

    /// The servers for a name: those of the longest stub domain it is in, else the upstream ones.
    #[must_use]
    pub fn servers(&self, asked: &Asked) -> &[SocketAddr] {
        if !self.stubs.is_empty() {
            for label in 0..=asked.count() {
                let suffix = asked.wire().get(asked.start(label)..).unwrap_or_default();
                if let Some(servers) = self.stubs.get(suffix) {
                    return servers;
                }
            }
        }
        &self.upstreams
    }
}

impl std::borrow::Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        self.wire()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Config, String> {
        let data = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Config::parse(&data).map_err(|e| e.to_string())
    }

    #[test]
    fn config_maps_are_taken_whole_or_refused_with_the_key() {
        assert_eq!(parse(&[]), Ok(Config::default()));
        let good = parse(&[
            ("stubDomains", r#"{"Corp.Example": ["10.0.0.1", "10.0.0.2:5353", "[fd00::1]:53", "fd00::2"]}"#),
            ("upstreamNameservers", r#"["1.1.1.1"]"#),
        ]);
        let good = good.expect("a good one");
        assert_eq!(good.stubs.keys().map(ToString::to_string).collect::<Vec<_>>(), ["corp.example."]);
        assert_eq!(good.stubs.values().map(Vec::len).collect::<Vec<_>>(), [4]);
        assert_eq!(good.upstreams, ["1.1.1.1:53".parse().expect("an address")]);
        for (key, value, told) in [
            ("stubDomains", "", "key stubDomains: EOF"),
            ("stubDomains", r#"["10.0.0.1"]"#, "write {\"corp.example\""),
            ("stubDomains", r#"{"a": "10.0.0.1"}"#, "write {\"corp.example\""),
            ("stubDomains", r#"{"a..b": ["10.0.0.1"]}"#, "domain \"a..b\""),
            ("stubDomains", r#"{"a": []}"#, "domain \"a\" has 0 entries"),
            ("stubDomains", r#"{"a": ["ns.example"]}"#, "\"ns.example\" is no server"),
            ("upstreamNameservers", r#"["1.1.1.1:0"]"#, "\"1.1.1.1:0\" is no server"),
            ("upstreamNameservers", r#"{"a": ["1.1.1.1"]}"#, "write [\"10.0.0.53\""),
            ("upstreamNameservers", "[1]", "key upstreamNameservers: invalid type"),
            ("federations", "{}", "\"federations\" is not known"),
        ] {
            let said = parse(&[(key, value)]).expect_err(value);
            assert!(said.contains(told), "{value}: {said}");
        }
    }

    #[test]
    fn resolv_conf_names_servers() {
        let (servers, unread) = resolv_conf(
            "# x\nsearch a b\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\n  nameserver fd00::1\n",
        );
        assert_eq!(servers, [server("10.0.0.1"), server("fd00::1")].map(|s| s.expect("an address")));
        assert_eq!(unread, ["fe80::1%eth0"]);
    }

    #[test]
    fn the_longest_stub_domain_counts_and_no_server_is_this_one() {
        let config = parse(&[(
            "stubDomains",
            r#"{"example": ["10.0.0.1"], "corp.example": ["10.0.0.2", "10.96.0.10"], ".": ["10.0.0.4"]}"#,
        )]);
        let node = ["10.0.0.3:53".parse().expect("an address")];
        let own: SocketAddr = "10.96.0.10:53".parse().expect("an address");
        let routes = Routes::new(&config.expect("a good one"), &node, |server| *server == own);
        let asked = |text: &str| Asked::read(Name::parse(text).expect(text).wire()).expect(text);
        for (name, server) in [
            ("a.corp.example", "10.0.0.2:53"),
            ("corp.example", "10.0.0.2:53"),
            ("xcorp.example", "10.0.0.1:53"),
            ("other", "10.0.0.4:53"),
        ] {
            assert_eq!(routes.servers(&asked(name)), [server.parse().expect(server)], "{name}");
        }
        let plain = Routes::new(&Config::default(), &node, |_| false);
        assert_eq!(plain.servers(&asked("a.example")), node);
    }
}
