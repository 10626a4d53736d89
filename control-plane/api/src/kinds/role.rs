//! rbac.authorization.k8s.io/v1 Role.

use super::{cells as c, rbac};
use crate::kind::Kind;
use crate::kind::NameRule;

pub static KIND: Kind = Kind {
    group: "rbac.authorization.k8s.io",
    kind: "Role",
    plural: "roles",
    singular: "role",
    schema: "io.k8s.api.rbac.v1.Role",
    message: "api.rbac.v1.Role",
    storage: "roles",
    name: NameRule::PathSegment,
    default: rbac::rules_default,
    validate: |v| rbac::rules(v, true),
    cells: c::name_and_created,
    create_on_update: true,
    ..Kind::BASE
};
