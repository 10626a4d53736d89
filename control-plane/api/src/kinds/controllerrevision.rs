//! apps/v1 ControllerRevision.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "apps",
    kind: "ControllerRevision",
    plural: "controllerrevisions",
    singular: "controllerrevision",
    schema: "io.k8s.api.apps.v1.ControllerRevision",
    message: "api.apps.v1.ControllerRevision",
    storage: "controllerrevisions",
    ..Kind::BASE
};
