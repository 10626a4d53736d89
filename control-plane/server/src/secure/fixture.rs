//! What the tests of this module share.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::{AUTHENTICATED, Authorizer, NODES, Objects, User, bootstrap};

/// Objects by resource, namespace and name.
#[derive(Default)]
pub struct Shelf(HashMap<(String, String, String), Value>);

impl Shelf {
    pub fn put(&mut self, resource: &str, object: Value) {
        let text =
            |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let key = (resource.to_owned(), text("/metadata/namespace"), text("/metadata/name"));
        self.0.insert(key, object);
    }

    pub fn remove(&mut self, resource: &str, namespace: &str, name: &str) {
        self.0.remove(&(resource.to_owned(), namespace.to_owned(), name.to_owned()));
    }
}

impl Objects for Shelf {
    fn find(&self, _group: &str, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.0.get(&(resource.to_owned(), namespace.to_owned(), name.to_owned())).cloned()
    }
}

/// A key for the tests of tokens: making one takes long.
pub fn signing_key() -> &'static str {
    use rsa::pkcs8::{EncodePrivateKey, LineEnding};
    static KEY: LazyLock<String> = LazyLock::new(|| {
        let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).expect("key");
        key.to_pkcs8_pem(LineEnding::LF).expect("pem").to_string()
    });
    &KEY
}

/// A directory that goes with the test.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("fairlead-secure-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("directory");
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What is left of a failed test is of use to nobody.
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

pub fn user(name: &str) -> User {
    User { name: name.to_owned(), groups: vec![AUTHENTICATED.to_owned()], ..User::default() }
}

pub fn kubelet(node: &str) -> User {
    let groups = vec![NODES.to_owned(), AUTHENTICATED.to_owned()];
    User { name: format!("system:node:{node}"), groups, ..User::default() }
}

pub fn observe(authorizer: &Authorizer, resource: &str, object: &Value) {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let bytes = serde_json::to_vec(object).expect("json");
    authorizer.observe(resource, text("/metadata/namespace"), text("/metadata/name"), Some(&bytes));
}

/// An authorizer that knows the default roles and bindings.
pub fn with_defaults() -> Authorizer {
    let authorizer = Authorizer::new();
    for default in bootstrap::objects() {
        observe(&authorizer, default.resource, &default.object);
    }
    authorizer
}

/// Gives `user` these rules in `namespace` (empty: everywhere) through a role and a binding named `name`.
pub fn grant(authorizer: &Authorizer, namespace: &str, name: &str, user: &str, rules: Value) {
    let (roles, bindings, kind) = match namespace {
        "" => ("clusterroles", "clusterrolebindings", "ClusterRole"),
        _ => ("roles", "rolebindings", "Role"),
    };
    let metadata = json!({"namespace": namespace, "name": name});
    observe(authorizer, roles, &json!({"metadata": metadata, "rules": rules}));
    let subjects = json!([{"kind": "User", "name": user}]);
    let role = json!({"kind": kind, "name": name});
    observe(authorizer, bindings, &json!({"metadata": metadata, "roleRef": role, "subjects": subjects}));
}
