//! Network configuration lists as CNI 1.x has them: found in a directory, the first valid one in order of name wins.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// Largest file that is read as a configuration.
const MAX_CONF_BYTES: u64 = 1 << 20;

/// Why there is no network configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing there.
    #[error("no networks found in {0}")]
    None(String),
    /// Only files that are not configurations.
    #[error("no valid networks found in {directory}: {reason}")]
    Invalid {
        /// The directory.
        directory: String,
        /// What was wrong with the last one.
        reason: String,
    },
}

/// One plugin of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Plugin {
    /// Name of its binary.
    pub type_: String,
    /// Everything the file says about it.
    pub conf: Map<String, Value>,
}

impl Plugin {
    /// Whether the plugin wants capability `name`.
    #[must_use]
    pub fn has_capability(&self, name: &str) -> bool {
        self.conf.get("capabilities").and_then(|all| all.get(name)).and_then(Value::as_bool) == Some(true)
    }
}

/// A network: its name and the plugins that make it, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Version of the specification.
    pub version: String,
    /// Whether CHECK must not be called.
    pub disable_check: bool,
    /// Plugins, in the order of ADD.
    pub plugins: Vec<Plugin>,
    /// The whole list, for the cache.
    pub source: Value,
}

/// Reads a list, or a single plugin as a list of one.
///
/// # Errors
/// Says what is missing.
pub fn parse(text: &[u8]) -> Result<Network, String> {
    let value: Value =
        serde_json::from_slice(text).map_err(|error| format!("error parsing configuration: {error}"))?;
    let object = value.as_object().ok_or("configuration is not an object")?;
    let string = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let name = string("name");
    if name.is_empty() {
        return Err("missing network name".to_owned());
    }
    let list = match object.get("plugins") {
        Some(plugins) => plugins.as_array().ok_or("'plugins' is not a list")?.clone(),
        None => vec![value.clone()],
    };
    if list.is_empty() {
        return Err("no plugins in list".to_owned());
    }
    let plugin = |conf: Value| {
        let Value::Object(conf) = conf else { return Err("a plugin is not an object".to_owned()) };
        let type_ = conf.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        // The type becomes a path: it must be one file name.
        if type_.is_empty() || type_.contains('/') || type_ == ".." {
            return Err(format!("missing or invalid plugin type {type_:?}"));
        }
        Ok(Plugin { type_, conf })
    };
    let plugins = list.into_iter().map(plugin).collect::<Result<Vec<_>, _>>()?;
    let version = Some(string("cniVersion")).filter(|version| !version.is_empty());
    Ok(Network {
        name,
        version: version.unwrap_or_else(|| "0.2.0".to_owned()),
        disable_check: object.get("disableCheck").and_then(Value::as_bool) == Some(true),
        plugins,
        source: value,
    })
}

/// Finds the network of a directory.
///
/// # Errors
/// [`Error`] says that there is none, and why.
pub fn discover(directory: &Path) -> Result<Network, Error> {
    let shown = directory.display().to_string();
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .map_err(|_| Error::None(shown.clone()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let extension = path.extension().and_then(|extension| extension.to_str());
            matches!(extension, Some("conf" | "conflist" | "json"))
        })
        .collect();
    files.sort();
    let mut reason = None;
    for file in files {
        let too_large = std::fs::metadata(&file).is_ok_and(|meta| meta.len() > MAX_CONF_BYTES);
        let parsed = match std::fs::read(&file) {
            _ if too_large => Err("file is too large".to_owned()),
            Ok(text) => parse(&text),
            Err(error) => Err(error.to_string()),
        };
        match parsed {
            Ok(network) => return Ok(network),
            Err(error) => reason = Some(format!("{}: {error}", file.display())),
        }
    }
    Err(match reason {
        Some(reason) => Error::Invalid { directory: shown, reason },
        None => Error::None(shown),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_single_plugins_are_networks() {
        let list = parse(br#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"a"},{"type":"portmap","capabilities":{"portMappings":true}}]}"#).unwrap();
        assert_eq!((list.name.as_str(), list.version.as_str(), list.plugins.len()), ("n", "1.0.0", 2));
        assert!(
            list.plugins[1].has_capability("portMappings") && !list.plugins[0].has_capability("portMappings")
        );
        let single = parse(br#"{"name":"n","type":"bridge"}"#).unwrap();
        assert_eq!((single.plugins.len(), single.version.as_str()), (1, "0.2.0"));
    }

    #[test]
    fn what_is_not_a_network_is_refused() {
        for (text, expected) in [
            ("", "error parsing configuration"),
            ("[]", "not an object"),
            (r#"{"plugins":[{"type":"a"}]}"#, "missing network name"),
            (r#"{"name":"n","plugins":[]}"#, "no plugins"),
            (r#"{"name":"n","plugins":[{}]}"#, "plugin type"),
            (r#"{"name":"n","plugins":[{"type":"../../bin/sh"}]}"#, "plugin type"),
            (r#"{"name":"n","plugins":7}"#, "not a list"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn the_first_valid_file_by_name_wins() {
        let directory = std::env::temp_dir().join(format!("cni-conf-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        assert_eq!(discover(&directory), Err(Error::None(directory.display().to_string())));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("05-bad.conf"), "{").unwrap();
        assert!(matches!(discover(&directory), Err(Error::Invalid { .. })));
        std::fs::write(directory.join("20-b.conflist"), r#"{"name":"b","plugins":[{"type":"x"}]}"#).unwrap();
        std::fs::write(directory.join("10-a.conf"), r#"{"name":"a","type":"x"}"#).unwrap();
        std::fs::write(directory.join("01-c.txt"), r#"{"name":"c","type":"x"}"#).unwrap();
        assert_eq!(discover(&directory).unwrap().name, "a");
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
