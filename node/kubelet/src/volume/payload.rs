//! What configMap, secret, downwardAPI and projected volumes hold. Pure: objects and tokens are given.

use std::collections::BTreeMap;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, ServiceAccountTokenProjection,
    VolumeProjection,
};

use super::atomic::{File, Payload};
use crate::env::build::Fetched;
use crate::env::fields::{self, Surroundings};
use crate::objects::Kind;

/// Mode of files when nothing is said.
const DEFAULT_MODE: u32 = 0o644;

/// Why a volume cannot be filled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The object does not exist.
    #[error("{} {name:?} not found", .kind.resource())]
    Missing {
        /// Which kind.
        kind: Kind,
        /// Its name.
        name: String,
    },
    /// A key that it does not have.
    #[error("{} references non-existent {} key: {key}", .kind.resource(), if *.kind == Kind::ConfigMap { "config" } else { "secret" })]
    Key {
        /// Which kind.
        kind: Kind,
        /// The key.
        key: String,
    },
    /// A downward API field.
    #[error(transparent)]
    Field(#[from] fields::Error),
    /// A token that was not given.
    #[error("no token for path {0:?}")]
    Token(String),
    /// A kind of projection that is not done.
    #[error("projected volume source {0} is not supported by this node")]
    Unsupported(&'static str),
}

/// One use of a ConfigMap or Secret.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectSource {
    /// Which kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Chosen keys; all when there are none.
    pub items: Vec<KeyToPath>,
    /// Whether it may be missing.
    pub optional: bool,
}

fn bits(mode: Option<i32>, default: u32) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(default)
}

/// Files of one object.
///
/// # Errors
/// Names what is missing and not optional.
pub fn object(source: &ObjectSource, default_mode: Option<i32>, fetched: &Fetched) -> Result<Payload, Error> {
    let default = bits(default_mode, DEFAULT_MODE);
    let content = match fetched.get(&(source.kind, source.name.clone())) {
        Some(Some(content)) => content,
        _ if source.optional => return Ok(Payload::new()),
        _ => return Err(Error::Missing { kind: source.kind, name: source.name.clone() }),
    };
    if source.items.is_empty() {
        let file = |(key, data): (&String, &Bytes)| (key.clone(), File { data: data.clone(), mode: default });
        return Ok(content.data.iter().map(file).collect());
    }
    let mut out = Payload::new();
    for item in &source.items {
        match content.data.get(&item.key) {
            Some(data) => {
                out.insert(item.path.clone(), File { data: data.clone(), mode: bits(item.mode, default) });
            }
            None if source.optional => {}
            None => return Err(Error::Key { kind: source.kind, key: item.key.clone() }),
        }
    }
    Ok(out)
}

/// Files of a downward API source.
///
/// # Errors
/// Names the field that does not exist.
pub fn downward(
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    default_mode: Option<i32>,
    around: &Surroundings,
) -> Result<Payload, Error> {
    let default = bits(default_mode, DEFAULT_MODE);
    let mut out = Payload::new();
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => fields::field(pod, &field.field_path, around)?,
            (None, Some(resource)) => {
                let container = resource.container_name.clone().unwrap_or_default();
                fields::resource(pod, &container, resource, around)?
            }
            (None, None) => continue,
        };
        out.insert(item.path.clone(), File { data: text.into(), mode: bits(item.mode, default) });
    }
    Ok(out)
}

/// What makes two token requests the same: audience and lifetime.
pub type TokenKey = (String, i64);

/// Lifetime of tokens when nothing is said, seconds.
const TOKEN_SECONDS: i64 = 3600;

/// The request behind a token projection.
#[must_use]
pub fn token_key(source: &ServiceAccountTokenProjection) -> TokenKey {
    (source.audience.clone().unwrap_or_default(), source.expiration_seconds.unwrap_or(TOKEN_SECONDS))
}

fn config_map(source: &VolumeProjection) -> Option<ObjectSource> {
    let source = source.config_map.as_ref()?;
    Some(ObjectSource {
        kind: Kind::ConfigMap,
        name: source.name.clone(),
        items: source.items.clone().unwrap_or_default(),
        optional: source.optional == Some(true),
    })
}

fn secret(source: &VolumeProjection) -> Option<ObjectSource> {
    let source = source.secret.as_ref()?;
    Some(ObjectSource {
        kind: Kind::Secret,
        name: source.name.clone(),
        items: source.items.clone().unwrap_or_default(),
        optional: source.optional == Some(true),
    })
}

/// Objects that a projected volume reads.
#[must_use]
pub fn projected_objects(source: &ProjectedVolumeSource) -> Vec<ObjectSource> {
    source
        .sources
        .iter()
        .flatten()
        .filter_map(|source| config_map(source).or_else(|| secret(source)))
        .collect()
}

/// Files of a projected volume. `private` says that no group is given the files: tokens then are for root alone.
///
/// # Errors
/// Names what is missing.
pub fn projected(
    pod: &Pod,
    volume: &ProjectedVolumeSource,
    fetched: &Fetched,
    tokens: &BTreeMap<TokenKey, String>,
    around: &Surroundings,
) -> Result<Payload, Error> {
    let mut out = Payload::new();
    for source in volume.sources.iter().flatten() {
        if let Some(reference) = config_map(source).or_else(|| secret(source)) {
            out.extend(object(&reference, volume.default_mode, fetched)?);
        } else if let Some(fields) = &source.downward_api {
            let items = fields.items.as_deref().unwrap_or_default();
            out.extend(downward(pod, items, volume.default_mode, around)?);
        } else if let Some(token) = &source.service_account_token {
            let text = tokens.get(&token_key(token)).ok_or_else(|| Error::Token(token.path.clone()))?;
            let mode = bits(volume.default_mode, DEFAULT_MODE);
            out.insert(token.path.clone(), File { data: text.clone().into(), mode });
        } else if source.cluster_trust_bundle.is_some() {
            return Err(Error::Unsupported("clusterTrustBundle"));
        } else if source.pod_certificate.is_some() {
            return Err(Error::Unsupported("podCertificate"));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Content;
    use serde_json::json;

    fn fetched() -> Fetched {
        let data = BTreeMap::from([("a".to_owned(), Bytes::from("1")), ("b".to_owned(), Bytes::from("2"))]);
        BTreeMap::from([
            ((Kind::ConfigMap, "cm".to_owned()), Some(Content { data, immutable: false })),
            ((Kind::Secret, "gone".to_owned()), None),
        ])
    }

    fn source(kind: Kind, name: &str, items: serde_json::Value, optional: bool) -> ObjectSource {
        ObjectSource { kind, name: name.to_owned(), items: serde_json::from_value(items).unwrap(), optional }
    }

    #[test]
    fn objects_become_files() {
        for (source, expected) in [
            (source(Kind::ConfigMap, "cm", json!([]), false), Ok(vec![("a", 0o640), ("b", 0o640)])),
            (
                source(Kind::ConfigMap, "cm", json!([{"key": "a", "path": "x/y", "mode": 256}]), false),
                Ok(vec![("x/y", 0o400)]),
            ),
            (
                source(Kind::ConfigMap, "cm", json!([{"key": "z", "path": "z"}]), false),
                Err("configmap references non-existent config key: z"),
            ),
            (source(Kind::ConfigMap, "cm", json!([{"key": "z", "path": "z"}]), true), Ok(vec![])),
            (source(Kind::Secret, "gone", json!([]), false), Err("secret \"gone\" not found")),
            (source(Kind::Secret, "gone", json!([]), true), Ok(vec![])),
        ] {
            let seen = object(&source, Some(0o640), &fetched()).map_err(|error| error.to_string());
            let seen =
                seen.map(|files| files.into_iter().map(|(path, file)| (path, file.mode)).collect::<Vec<_>>());
            let expected = expected
                .map(|list| list.into_iter().map(|(path, mode)| (path.to_owned(), mode)).collect())
                .map_err(str::to_owned);
            assert_eq!(seen, expected, "{source:?}");
        }
    }

    #[test]
    fn a_service_account_volume_holds_token_ca_and_namespace() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}})).unwrap();
        let volume: ProjectedVolumeSource = serde_json::from_value(json!({"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "cm", "items": [{"key": "a", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}
        ]})).unwrap();
        let tokens = BTreeMap::from([((String::new(), 3607), "tok".to_owned())]);
        let files = projected(&pod, &volume, &fetched(), &tokens, &Surroundings::default()).unwrap();
        let shown: Vec<_> = files.iter().map(|(path, file)| (path.as_str(), &file.data[..])).collect();
        assert_eq!(shown, [("ca.crt", &b"1"[..]), ("namespace", &b"ns"[..]), ("token", &b"tok"[..])]);
        let without = projected(&pod, &volume, &fetched(), &BTreeMap::new(), &Surroundings::default());
        assert_eq!(without, Err(Error::Token("token".to_owned())));
    }
}
