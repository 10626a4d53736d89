//! rbac.authorization.k8s.io/v1 RoleBinding.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "rbac.authorization.k8s.io",
    kind: "RoleBinding",
    plural: "rolebindings",
    singular: "rolebinding",
    schema: "io.k8s.api.rbac.v1.RoleBinding",
    message: "api.rbac.v1.RoleBinding",
    storage: "rolebindings",
    ..Kind::BASE
};
