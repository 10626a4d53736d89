//! Puts a container's environment together: Services, then `envFrom`, then `env`, later ones winning.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod};

use super::expand::expand;
use super::fields::{self, Surroundings};
use crate::objects::{Content, Kind};

/// Why an environment cannot be built; the container waits with `CreateContainerConfigError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A ConfigMap or Secret that does not exist.
    #[error("{} {name:?} not found", .kind.resource())]
    Missing {
        /// Which kind.
        kind: Kind,
        /// Its name.
        name: String,
    },
    /// A key that it does not have.
    #[error("couldn't find key {key} in {} {namespace}/{name}", .kind.title())]
    Key {
        /// Which kind.
        kind: Kind,
        /// The pod's namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The key.
        key: String,
    },
    /// A downward API field.
    #[error(transparent)]
    Field(#[from] fields::Error),
    /// Something this kubelet does not do.
    #[error("{0} is not supported by this node")]
    Unsupported(&'static str),
}

/// ConfigMaps and Secrets that were fetched; `None` for those that do not exist.
pub type Fetched = BTreeMap<(Kind, String), Option<Content>>;

/// Which objects a container's environment reads.
#[must_use]
pub fn references(container: &Container) -> Vec<(Kind, String)> {
    let mut out = Vec::new();
    for from in container.env_from.iter().flatten() {
        out.extend(from.config_map_ref.as_ref().map(|source| (Kind::ConfigMap, source.name.clone())));
        out.extend(from.secret_ref.as_ref().map(|source| (Kind::Secret, source.name.clone())));
    }
    for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
        out.extend(source.config_map_key_ref.as_ref().map(|key| (Kind::ConfigMap, key.name.clone())));
        out.extend(source.secret_key_ref.as_ref().map(|key| (Kind::Secret, key.name.clone())));
    }
    out.sort();
    out.dedup();
    out
}

/// Builds the environment in the order in which Docker is given it.
///
/// # Errors
/// Names what is missing and not optional.
pub fn build(
    pod: &Pod,
    container: &Container,
    services: BTreeMap<String, String>,
    fetched: &Fetched,
    around: &Surroundings,
) -> Result<Vec<(String, String)>, Error> {
    let mut seen: BTreeMap<String, String> = services;
    let mut order: Vec<String> = seen.keys().cloned().collect();
    let mut set = |seen: &mut BTreeMap<String, String>, name: String, value: String| {
        if seen.insert(name.clone(), value).is_none() {
            order.push(name);
        }
    };
    for (name, value) in from_sources(container, fetched)? {
        set(&mut seen, name, value);
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(source)) => match source_value(pod, container, source, fetched, around)? {
                Some(value) => value,
                None => continue,
            },
            (Some(value), None) => expand(value, |name| seen.get(name).cloned()),
            (None, None) => String::new(),
        };
        set(&mut seen, variable.name.clone(), value);
    }
    Ok(order
        .into_iter()
        .filter_map(|name| {
            let value = seen.remove(&name)?;
            Some((name, value))
        })
        .collect())
}

fn from_sources(container: &Container, fetched: &Fetched) -> Result<Vec<(String, String)>, Error> {
    let mut out = Vec::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (kind, name, optional) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(source), _) => (Kind::ConfigMap, source.name.clone(), source.optional),
            (None, Some(source)) => (Kind::Secret, source.name.clone(), source.optional),
            (None, None) => continue,
        };
        match fetched.get(&(kind, name.clone())) {
            Some(Some(content)) => {
                let text = content.text().filter(|(key, _)| is_variable_name(&format!("{prefix}{key}")));
                out.extend(text.map(|(key, value)| (format!("{prefix}{key}"), value)));
            }
            _ if optional == Some(true) => {}
            _ => return Err(Error::Missing { kind, name }),
        }
    }
    Ok(out)
}

/// Environment names may hold anything printable but `=` (KEP-4369).
fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'=')
}

/// The value of a reference; `None` when it is optional and missing.
fn source_value(
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    fetched: &Fetched,
    around: &Surroundings,
) -> Result<Option<String>, Error> {
    if let Some(field) = &source.field_ref {
        return Ok(Some(fields::field(pod, &field.field_path, around)?));
    }
    if let Some(resource) = &source.resource_field_ref {
        return Ok(Some(fields::resource(pod, &container.name, resource, around)?));
    }
    let (kind, name, key, optional) = match (&source.config_map_key_ref, &source.secret_key_ref) {
        (Some(reference), _) => {
            (Kind::ConfigMap, reference.name.clone(), reference.key.clone(), reference.optional)
        }
        (None, Some(reference)) => {
            (Kind::Secret, reference.name.clone(), reference.key.clone(), reference.optional)
        }
        (None, None) => {
            return Err(Error::Unsupported(
                "env valueFrom other than field, resource, configMapKeyRef and secretKeyRef",
            ));
        }
    };
    let optional = optional == Some(true);
    match fetched.get(&(kind, name.clone())) {
        Some(Some(content)) => match content.data.get(&key) {
            Some(bytes) => Ok(Some(String::from_utf8_lossy(bytes).into_owned())),
            None if optional => Ok(None),
            None => Err(Error::Key {
                kind,
                namespace: pod.metadata.namespace.clone().unwrap_or_default(),
                name,
                key,
            }),
        },
        _ if optional => Ok(None),
        _ => Err(Error::Missing { kind, name }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fetched() -> Fetched {
        let content = |pairs: &[(&str, &str)]| {
            let data = pairs.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec().into()));
            Some(Content { data: data.collect(), immutable: false })
        };
        BTreeMap::from([
            ((Kind::ConfigMap, "cm".to_owned()), content(&[("key", "from-cm"), ("B", "cm-b")])),
            ((Kind::Secret, "sec".to_owned()), content(&[("pw", "s3cret")])),
            ((Kind::ConfigMap, "gone".to_owned()), None),
        ])
    }

    #[track_caller]
    fn check(container: serde_json::Value, expected: Result<&[(&str, &str)], &str>) {
        let container: Container = serde_json::from_value(container).unwrap();
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [&container]}}),
        )
        .unwrap();
        let services = BTreeMap::from([("SVC".to_owned(), "1.2.3.4".to_owned())]);
        let seen = build(&pod, &container, services, &fetched(), &Surroundings::default());
        let seen = seen.map_err(|error| error.to_string());
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        assert_eq!(seen, expected.map(|list| list.iter().map(pair).collect()).map_err(str::to_owned));
    }

    #[test]
    fn later_sources_win_and_values_see_earlier_ones() {
        check(
            json!({"name": "c",
                "envFrom": [{"configMapRef": {"name": "cm"}}, {"prefix": "P_", "secretRef": {"name": "sec"}}],
                "env": [
                    {"name": "A", "value": "$(SVC):$(B)"},
                    {"name": "B", "value": "own"},
                    {"name": "C", "value": "$(B) $(LATER) $$(B)"},
                    {"name": "LATER", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "key"}}},
                    {"name": "EMPTY"}]}),
            Ok(&[
                ("SVC", "1.2.3.4"),
                ("B", "own"),
                ("key", "from-cm"),
                ("P_pw", "s3cret"),
                ("A", "1.2.3.4:cm-b"),
                ("C", "own $(LATER) $(B)"),
                ("LATER", "p"),
                ("K", "from-cm"),
                ("EMPTY", ""),
            ]),
        );
    }

    #[test]
    fn missing_objects_are_errors_unless_optional() {
        check(
            json!({"name": "c", "envFrom": [{"configMapRef": {"name": "gone"}}]}),
            Err("configmap \"gone\" not found"),
        );
        check(
            json!({"name": "c", "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "no"}}}]}),
            Err("couldn't find key no in Secret ns/sec"),
        );
        check(
            json!({"name": "c",
                "envFrom": [{"configMapRef": {"name": "gone", "optional": true}}],
                "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "no", "optional": true}}}]}),
            Ok(&[("SVC", "1.2.3.4")]),
        );
    }
}
