//! What plugins answer: results and errors in CNI's JSON.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

/// A plugin's refusal.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PluginError {
    /// CNI's error code.
    #[serde(default)]
    pub code: u32,
    /// One line.
    #[serde(default)]
    pub msg: String,
    /// More.
    #[serde(default)]
    pub details: String,
}

impl std::fmt::Display for PluginError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.msg)?;
        if !self.details.is_empty() {
            write!(formatter, "; {}", self.details)?;
        }
        Ok(())
    }
}

/// Reads a failed plugin's words; falls back to what it wrote when that is not JSON.
#[must_use]
pub fn plugin_error(stdout: &[u8], stderr: &[u8], status: &str) -> PluginError {
    if let Ok(error) = serde_json::from_slice::<PluginError>(stdout)
        && !error.msg.is_empty()
    {
        return error;
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let (out, err) = (text(stdout), text(stderr));
    let msg = if !out.is_empty() {
        format!("netplugin failed: {out}")
    } else if !err.is_empty() {
        format!("netplugin failed: {err}")
    } else {
        format!("netplugin failed with no error message: {status}")
    };
    PluginError { code: 0, msg, details: String::new() }
}

/// The pod's addresses in a result of any version since 0.1, first of each family first seen.
#[must_use]
pub fn addresses(result: &Value) -> Vec<IpAddr> {
    let parse = |text: &str| text.split('/').next().and_then(|address| address.parse::<IpAddr>().ok());
    let listed = result.get("ips").and_then(Value::as_array).into_iter().flatten();
    let modern = listed.filter_map(|ip| ip.get("address").and_then(Value::as_str));
    let old = ["ip4", "ip6"].into_iter().filter_map(|family| result.get(family)?.get("ip")?.as_str());
    let mut out: Vec<IpAddr> = Vec::new();
    for address in modern.chain(old).filter_map(parse) {
        if !out.iter().any(|known| known.is_ipv4() == address.is_ipv4()) {
            out.push(address);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_are_read_from_every_version_of_the_result() {
        for (result, expected) in [
            (json!({"ips": [{"address": "10.244.0.2/32"}]}), vec!["10.244.0.2"]),
            (
                json!({"ips": [{"address": "10.244.0.2/24"}, {"address": "fd00::2/64"}, {"address": "10.9.9.9/24"}]}),
                vec!["10.244.0.2", "fd00::2"],
            ),
            (json!({"ip4": {"ip": "10.1.0.5/16"}}), vec!["10.1.0.5"]),
            (json!({"ips": [{"address": "nonsense"}, {}]}), vec![]),
            (json!({}), vec![]),
        ] {
            let seen: Vec<_> = addresses(&result).iter().map(ToString::to_string).collect();
            assert_eq!(seen, expected, "{result}");
        }
    }

    #[test]
    fn failures_keep_the_plugins_words() {
        let shown =
            |out: &str, err: &str| plugin_error(out.as_bytes(), err.as_bytes(), "exit status 1").to_string();
        assert_eq!(shown(r#"{"code":11,"msg":"try again","details":"busy"}"#, ""), "try again; busy");
        assert_eq!(shown("", "boom\n"), "netplugin failed: boom");
        assert_eq!(shown("not json", "boom"), "netplugin failed: not json");
        assert_eq!(shown("", ""), "netplugin failed with no error message: exit status 1");
    }
}
