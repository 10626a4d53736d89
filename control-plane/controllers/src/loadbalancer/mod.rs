//! Load balancers: Services of type LoadBalancer get addresses from pools that the administrator names.
//!
//! The status of the Services is the only record: whoever holds an address there holds it, also over a restart, and
//! of two the older one. Who answers for the addresses on the wire is the nodes' part.

mod ledger;
mod plan;
pub mod pool;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use parking_lot::Mutex;
use serde_json::{Value, json};

use self::ledger::{Holder, Ledger};
use self::plan::{Decision, FINALIZER};
use self::pool::Span;
use crate::Context;
use crate::event::Recorder;
use crate::informer::{Change, Informer, Key};
use crate::queue::{Failure, Outcome, Queue, Step, work};

/// The ConfigMap that holds the pools, and its key.
const NAMESPACE: &str = "kube-system";
const CONFIG: &str = "fairlead-load-balancer";
const POOLS: &str = "pools";

/// The pools, from both of their sources.
#[derive(Default)]
struct Pools {
    /// From the command line.
    fixed: Vec<Span>,
    /// From the ConfigMap, as it could be read last.
    named: Vec<Span>,
    /// Why the ConfigMap cannot be read now.
    trouble: Option<String>,
}

struct Controller {
    context: Context,
    recorder: Recorder,
    services: Informer<Service>,
    queue: Queue<Key>,
    pools: Mutex<Pools>,
    ledger: Mutex<Ledger>,
    /// Services that lack an address, and what they were told of it.
    waiting: Mutex<BTreeMap<Key, String>>,
}

/// Starts the controller.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let pools = Pools { fixed: context.options.load_balancer_pools.clone(), ..Pools::default() };
    let controller = Arc::new(Controller {
        recorder: context.recorder.of("service-controller"),
        services: context.informers.get(|_| {}),
        queue: Queue::default(),
        pools: Mutex::new(pools),
        ledger: Mutex::default(),
        waiting: Mutex::default(),
        context: context.clone(),
    });
    let listener = controller.clone();
    controller.services.on_change(move |change| listener.service_changed(change));
    let configs: Informer<ConfigMap> = Informer::new(|_| {});
    let listener = controller.clone();
    configs.on_change(move |change| listener.config_changed(change.new.map(|config| &**config)));
    async move {
        let (client, shutdown) = (controller.context.client.clone(), controller.context.shutdown.clone());
        let only = watcher::Config::default().fields(&format!("metadata.name={CONFIG}"));
        let follow = configs.clone().follow(Api::namespaced(client, NAMESPACE), only, shutdown.clone());
        let working = async {
            configs.synced().await;
            // Every holder must be known before the first address is given away.
            controller.services.synced().await;
            // One worker: two Services must not be given the same address.
            work("service-lb", &controller.queue, 1, &shutdown, |key| controller.sync(key)).await;
        };
        futures::join!(follow, working);
    }
    .boxed()
}

fn holder(service: &Service) -> Holder {
    Holder {
        created: service.metadata.creation_timestamp.as_ref().map(|time| time.0).unwrap_or_default(),
        uid: service.uid().unwrap_or_default(),
        key: Key::of(service),
    }
}

fn version(service: &Service) -> Option<u64> {
    service.metadata.resource_version.as_deref()?.parse().ok()
}

impl Controller {
    fn service_changed(&self, change: &Change<'_, Service>) {
        let Some(service) = change.latest() else { return };
        let key = Key::of(&**service);
        let held = plan::held(service);
        let mut ledger = self.ledger.lock();
        let freed = if change.new.is_some() {
            ledger.see(holder(service), held.clone(), version(service))
        } else {
            self.waiting.lock().remove(&key);
            ledger.gone(&key)
        };
        let rivals = ledger.rivals(&key, &held);
        drop(ledger);
        self.queue.add(key);
        self.queue.add_all(rivals);
        if freed {
            self.wake();
        }
    }

    /// Those that lack an address may get one now, the oldest first.
    fn wake(&self) {
        let mut waiting: Vec<Arc<Service>> =
            self.waiting.lock().keys().filter_map(|key| self.services.get(key)).collect();
        waiting.sort_by_cached_key(|service| holder(service));
        self.queue.add_all(waiting.iter().map(|service| Key::of(&**service)));
    }

    fn config_changed(&self, config: Option<&ConfigMap>) {
        let text = config.and_then(|config| config.data.as_ref()?.get(POOLS)).map_or("", String::as_str);
        let options = &self.context.options;
        let read = pool::parse(text).and_then(|spans| {
            match pool::overlap(&spans, &options.cluster_cidr, &options.service_cidr) {
                Some(words) => Err(words),
                None => Ok(spans),
            }
        });
        match read {
            Ok(spans) => {
                let mut pools = self.pools.lock();
                pools.named = spans;
                pools.trouble = None;
            }
            Err(words) => {
                self.pools.lock().trouble =
                    Some(format!("the pools in ConfigMap {NAMESPACE}/{CONFIG} are not valid: {words}"));
                if let Some(config) = config {
                    let message = format!("Error reading the pools, the earlier ones stay: {words}");
                    self.recorder.warning(config, "InvalidLoadBalancerPools", message);
                }
            }
        }
        self.wake();
    }

    async fn sync(&self, key: Key) -> Outcome {
        let Some(service) = self.services.get(&key) else { return Ok(None) };
        if self.ledger.lock().is_promised(&key) {
            // The informer is about to show what was written, and then this is looked at again.
            return Ok(None);
        }
        let decision = {
            let pools = self.pools.lock();
            let spans = [pools.fixed.as_slice(), pools.named.as_slice()].concat();
            plan::decide(&service, &spans, pools.trouble.as_deref(), &self.ledger.lock())
        };
        match decision {
            Decision::Leave => {
                self.waiting.lock().remove(&key);
                Ok(None)
            }
            Decision::Clean => self.clean(&service).await,
            Decision::Assign { addresses, shortage, complete } => {
                if !complete && shortage.is_none() {
                    // Content with less than it prefers, which is no news, until there is more.
                    self.waiting.lock().insert(key, String::new());
                }
                self.assign(&service, addresses, shortage, complete).await
            }
        }
    }

    async fn assign(
        &self,
        service: &Service,
        addresses: Vec<IpAddr>,
        shortage: Option<String>,
        complete: bool,
    ) -> Outcome {
        let key = Key::of(service);
        let finalized = service.finalizers().iter().any(|known| known == FINALIZER);
        let news = match &shortage {
            Some(words) => self.waiting.lock().insert(key.clone(), words.clone()).as_ref() != Some(words),
            None if complete => self.waiting.lock().remove(&key).is_some(),
            None => false,
        };
        if plan::differs(service, &addresses) || !finalized {
            self.recorder.normal(service, "EnsuringLoadBalancer", "Ensuring load balancer".to_owned());
            let mut finalizers = service.finalizers().to_vec();
            if !finalized {
                finalizers.push(FINALIZER.to_owned());
            }
            self.ledger.lock().promise(holder(service), addresses.clone());
            let written = self.write(service, &addresses, &finalizers).await;
            match written {
                Ok(written) => self.ledger.lock().written(&key, version(&written)),
                Err(failure) => {
                    let freed = self.ledger.lock().failed(&key);
                    if freed {
                        self.wake();
                    }
                    return self.failed(service, failure);
                }
            }
            if shortage.is_none() {
                self.recorder.normal(service, "EnsuredLoadBalancer", "Ensured load balancer".to_owned());
            }
        }
        if let Some(words) = shortage.filter(|_| news) {
            let message = format!("Error syncing load balancer: failed to ensure load balancer: {words}");
            self.recorder.warning(service, "SyncLoadBalancerFailed", message);
        }
        Ok(None)
    }

    /// The type changed or the Service goes: its addresses are free once this is written.
    async fn clean(&self, service: &Service) -> Outcome {
        self.waiting.lock().remove(&Key::of(service));
        self.recorder.normal(service, "DeletingLoadBalancer", "Deleting load balancer".to_owned());
        let mut finalizers = service.finalizers().to_vec();
        finalizers.retain(|known| known != FINALIZER);
        match self.write(service, &[], &finalizers).await {
            Ok(_) => {
                self.recorder.normal(service, "DeletedLoadBalancer", "Deleted load balancer".to_owned());
                Ok(None)
            }
            Err(failure) if failure.is_not_found() => Ok(None),
            Err(failure) => self.failed(service, failure),
        }
    }

    fn failed(&self, service: &Service, failure: Failure) -> Outcome {
        if !failure.is_conflict() && !failure.is_not_found() {
            let cause = std::error::Error::source(&failure).map(ToString::to_string).unwrap_or_default();
            let message = format!("Error syncing load balancer: {failure}: {cause}");
            self.recorder.warning(service, "SyncLoadBalancerFailed", message);
        }
        Err(failure)
    }

    /// Writes addresses and finalizers in one: neither is ever there without the other.
    async fn write(
        &self,
        service: &Service,
        addresses: &[IpAddr],
        finalizers: &[String],
    ) -> Result<Service, Failure> {
        let ingress: Vec<Value> =
            addresses.iter().map(|ip| json!({"ip": ip.to_string(), "ipMode": "VIP"})).collect();
        let ingress = if ingress.is_empty() { Value::Null } else { json!(ingress) };
        let patch = json!({
            "metadata": {
                "uid": service.uid(),
                "resourceVersion": service.resource_version(),
                "finalizers": if finalizers.is_empty() { Value::Null } else { json!(finalizers) },
            },
            "status": {"loadBalancer": {"ingress": ingress}},
        });
        let namespace = service.namespace().unwrap_or_default();
        let api: Api<Service> = Api::namespaced(self.context.client.clone(), &namespace);
        let answer =
            api.patch_status(&service.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await;
        answer.step("write the status and finalizers of the Service")
    }
}
