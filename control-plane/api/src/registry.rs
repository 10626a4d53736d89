//! Look-ups over `kinds::REGISTRY`.

use std::{collections::HashMap, sync::LazyLock};

use crate::{kind::Kind, kinds::REGISTRY};

type Key = (&'static str, &'static str, &'static str);

static BY_RESOURCE: LazyLock<HashMap<Key, &'static Kind>> =
    LazyLock::new(|| REGISTRY.iter().map(|k| ((k.group, k.version, k.plural), *k)).collect());

static BY_KIND: LazyLock<HashMap<Key, &'static Kind>> =
    LazyLock::new(|| REGISTRY.iter().map(|k| ((k.group, k.version, k.kind), *k)).collect());

/// The kind that is served under `/apis/{group}/{version}/…/{plural}` (`group` is `""` for `/api/v1`).
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    lookup(&BY_RESOURCE, group, version, plural)
}

/// The kind that a body's `apiVersion` and `kind` name.
pub fn find_kind(api_version: &str, kind: &str) -> Option<&'static Kind> {
    let (group, version) = split_api_version(api_version);
    lookup(&BY_KIND, group, version, kind)
}

/// The kind's descriptor in another version, by the objects that both show. `None` when nobody serves it.
pub fn sibling(kind: &'static Kind, api_version: &str) -> Option<&'static Kind> {
    let is = |other: &Kind| split_api_version(api_version) == (other.group, other.version);
    if is(kind) {
        return Some(kind);
    }
    REGISTRY
        .iter()
        .copied()
        .find(|other| other.storage == kind.storage && other.kind == kind.kind && is(other))
}

/// An object in another version of its kind, with nothing set that is not set.
pub fn convert(
    from: &'static Kind,
    to: &'static Kind,
    object: &serde_json::Value,
) -> Option<serde_json::Value> {
    if from.storage != to.storage {
        return None;
    }
    let mut object = object.clone();
    if let Some(conversion) = &from.convert {
        (conversion.lift)(&mut object);
    }
    if let Some(conversion) = &to.convert {
        (conversion.from_storage)(&mut object);
    }
    object["apiVersion"] = to.api_version().into();
    Some(object)
}

/// Every served kind of one group and version, in discovery order.
pub fn of_version<'a>(group: &'a str, version: &'a str) -> impl Iterator<Item = &'static Kind> + 'a {
    REGISTRY.iter().copied().filter(move |k| k.group == group && k.version == version)
}

/// `("apps", "v1")` of `apps/v1`, `("", "v1")` of `v1`.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// One lifetime for map and key: a map with static keys is also one with shorter-lived ones.
fn lookup<'a>(
    map: &'a HashMap<(&'a str, &'a str, &'a str), &'static Kind>,
    group: &'a str,
    version: &'a str,
    name: &'a str,
) -> Option<&'static Kind> {
    map.get(&(group, version, name)).copied()
}
