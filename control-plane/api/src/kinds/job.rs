//! batch/v1 Job.

use crate::kind::{Act, Kind, Subresource};

pub static KIND: Kind = Kind {
    group: "batch",
    kind: "Job",
    plural: "jobs",
    singular: "job",
    categories: &["all"],
    schema: "io.k8s.api.batch.v1.Job",
    message: "api.batch.v1.Job",
    storage: "jobs",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    ..Kind::BASE
};
