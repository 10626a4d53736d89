//! What all pods of the node share.

use std::sync::Arc;

use kube::Client;
use tokio::sync::{Semaphore, watch};

use crate::cni::Cni;
use crate::docker::Engine;
use crate::env::fields::Surroundings;
use crate::env::watch::Services;
use crate::events::Recorder;
use crate::image::Images;
use crate::metrics::Metrics;
use crate::objects::Objects;
use crate::settings::Args;
use crate::volume::Volumes;

/// Containers that are made and started at the same time.
pub const PARALLEL_STARTS: usize = 4;

/// Handles that every pod's worker uses.
pub struct Shared {
    /// Flags.
    pub args: Arc<Args>,
    /// The API.
    pub client: Client,
    /// Docker.
    pub engine: Engine,
    /// The network of pods.
    pub cni: Cni,
    /// Events.
    pub events: Recorder,
    /// Services, for variables.
    pub services: Services,
    /// ConfigMaps and Secrets.
    pub objects: Objects,
    /// Volumes.
    pub volumes: Volumes,
    /// Images.
    pub images: Images,
    /// Why pods get no network yet; `None` when they do.
    pub network: watch::Receiver<Option<String>>,
    /// What the node gives to pods.
    pub surroundings: Surroundings,
    /// Memory of the machine, bytes.
    pub memory: i64,
    /// Whether OOM scores may be negative.
    pub negative_oom: bool,
    /// Turns at starting containers.
    pub starts: Semaphore,
    /// Counters.
    pub metrics: Metrics,
}
