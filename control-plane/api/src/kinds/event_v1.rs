//! events.k8s.io/v1 Event.

use crate::kind::Kind;

pub static KIND: Kind = Kind {
    group: "events.k8s.io",
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    schema: "io.k8s.api.events.v1.Event",
    message: "api.events.v1.Event",
    storage: "events",
    ..Kind::BASE
};
