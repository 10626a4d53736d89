//! batch/v1 CronJob.

use crate::kind::{Act, Kind, Subresource};

pub static KIND: Kind = Kind {
    group: "batch",
    kind: "CronJob",
    plural: "cronjobs",
    singular: "cronjob",
    short_names: &["cj"],
    categories: &["all"],
    schema: "io.k8s.api.batch.v1.CronJob",
    message: "api.batch.v1.CronJob",
    storage: "cronjobs",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    ..Kind::BASE
};
