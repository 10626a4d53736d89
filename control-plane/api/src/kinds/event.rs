//! v1 Event.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    schema: "io.k8s.api.core.v1.Event",
    message: "api.core.v1.Event",
    storage: "events",
    ..Kind::BASE
};
