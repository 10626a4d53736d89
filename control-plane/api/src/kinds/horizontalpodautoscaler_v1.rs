//! autoscaling/v1 HorizontalPodAutoscaler.

use crate::kind::{Act, Kind, Subresource};

pub static KIND: Kind = Kind {
    group: "autoscaling",
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
    singular: "horizontalpodautoscaler",
    short_names: &["hpa"],
    categories: &["all"],
    schema: "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler",
    message: "api.autoscaling.v1.HorizontalPodAutoscaler",
    storage: "horizontalpodautoscalers",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    ..Kind::BASE
};
