//! The documents as they are served.

use serde_json::{Map, Value, json};

use super::{
    COMPRESSED, paths, prose,
    types::{Format, Types},
};
use crate::{discovery, kinds::REGISTRY, registry};

fn info() -> Value {
    json!({"title": "Kubernetes", "version": "v1.36.2+fairlead"})
}

/// `/openapi/v3`: where each group and version's document is, by a name that changes when the document does.
pub fn index() -> Value {
    let paths: Map<String, Value> = discovery::groups()
        .iter()
        .flat_map(|(group, versions)| versions.iter().map(|version| (*group, *version)))
        .map(|(group, version)| {
            let path = match group {
                "" => format!("api/{version}"),
                group => format!("apis/{group}/{version}"),
            };
            let url = format!("/openapi/v3/{path}?hash={}", hash(group, version));
            (path, json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}

/// Names the content of a group and version's document without building it.
pub fn hash(group: &str, version: &str) -> String {
    let mut high = Fnv::new();
    high.write(env!("CARGO_PKG_VERSION").as_bytes());
    high.write(COMPRESSED);
    for kind in registry::of_version(group, version) {
        high.write(kind.schema.as_bytes());
        kind.verbs.iter().for_each(|verb| high.write(verb.as_bytes()));
        kind.subresources.iter().for_each(|sub| high.write(sub.name.as_bytes()));
    }
    let mut low = Fnv::new();
    low.write(&high.0.to_be_bytes());
    low.write(group.as_bytes());
    low.write(version.as_bytes());
    format!("{:016X}{:016X}", high.0, low.0)
}

/// FNV-1a, 64 bit.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// `/openapi/v3/api/v1`, `/openapi/v3/apis/{group}/{version}`. `None` for what is not served.
pub fn v3(group: &str, version: &str) -> Option<Value> {
    let prose = prose();
    let mut types = Types::new(Format::V3, &prose);
    let mut all = Map::new();
    for kind in registry::of_version(group, version) {
        paths::add(Format::V3, kind, &mut types, &mut all);
    }
    if all.is_empty() {
        return None;
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": all,
        "components": {
            "schemas": types.finish(),
            "securitySchemes": {"BearerToken": {
                "type": "apiKey",
                "description": "Bearer Token authentication",
                "name": "authorization",
                "in": "header",
            }},
        },
    }))
}

/// `/openapi/v2`, one document for everything.
pub fn v2() -> Value {
    let prose = prose();
    let mut types = Types::new(Format::V2, &prose);
    let mut all = Map::new();
    for kind in REGISTRY {
        paths::add(Format::V2, kind, &mut types, &mut all);
    }
    json!({"swagger": "2.0", "info": info(), "paths": all, "definitions": types.finish()})
}
