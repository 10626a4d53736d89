//! The heartbeat: a Lease renewed every ten seconds.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::clock;

const NAMESPACE: &str = "kube-node-lease";
const PERIOD: Duration = Duration::from_secs(10);
/// How long others wait before they take the node for lost.
const DURATION_SECONDS: i32 = 40;

/// Renews until the process ends.
pub async fn run(client: Client, node: Node) {
    let name = node.metadata.name.clone().unwrap_or_default();
    let api = Api::<Lease>::namespaced(client, NAMESPACE);
    let mut failures: u32 = 0;
    loop {
        let pause = match renew(&api, &name, &node).await {
            Ok(()) => {
                failures = 0;
                PERIOD
            }
            Err(error) => {
                failures += 1;
                tracing::warn!(%error, "cannot renew the node's lease");
                Duration::from_millis(200 << failures.min(5))
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn renew(api: &Api<Lease>, name: &str, node: &Node) -> Result<(), kube::Error> {
    let now = MicroTime(clock::now());
    let patch =
        json!({"spec": {"renewTime": now, "holderIdentity": name, "leaseDurationSeconds": DURATION_SECONDS}});
    match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => return other.map(|_| ()),
    }
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: name.to_owned(),
                uid: node.metadata.uid.clone().unwrap_or_default(),
                ..Default::default()
            }]),
            ..Default::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.to_owned()),
            lease_duration_seconds: Some(DURATION_SECONDS),
            renew_time: Some(now),
            ..Default::default()
        }),
    };
    api.create(&PostParams::default(), &lease).await.map(|_| ())
}
