//! rbac.authorization.k8s.io/v1 Role.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "rbac.authorization.k8s.io",
    kind: "Role",
    plural: "roles",
    singular: "role",
    schema: "io.k8s.api.rbac.v1.Role",
    message: "api.rbac.v1.Role",
    storage: "roles",
    ..Kind::BASE
};
