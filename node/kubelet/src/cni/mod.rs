//! The network of pods, by the standard contract (CNI 1.x): ADD, DEL and CHECK of a list of plugins.

pub mod cache;
pub mod conf;
pub mod result;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt as _;

use self::cache::{Attachment, Cache};
use self::conf::{Network, Plugin};
use self::result::PluginError;
use crate::settings::Args;

/// Interface of pods.
const INTERFACE: &str = "eth0";
/// How long one plugin may take.
const PLUGIN_TIMEOUT: Duration = Duration::from_secs(60);
/// Most bytes of a plugin's answer that are kept.
const MAX_ANSWER: usize = 1 << 20;

/// Why a network operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no network.
    #[error("cni config uninitialized: {0}")]
    Config(#[from] conf::Error),
    /// A plugin refused.
    #[error("plugin type=\"{plugin}\" failed ({command}): {error}")]
    Plugin {
        /// Its type.
        plugin: String,
        /// `add`, `delete` or `check`.
        command: &'static str,
        /// Its words.
        error: PluginError,
    },
    /// A plugin is not installed.
    #[error("failed to find plugin \"{plugin}\" in path [{path}]")]
    NoPlugin {
        /// Its type.
        plugin: String,
        /// Where it was looked for.
        path: String,
    },
    /// A plugin could not be run or did not end.
    #[error("plugin type=\"{plugin}\": {source}")]
    Run {
        /// Its type.
        plugin: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The record of an attachment could not be written.
    #[error("cannot record the attachment: {0}")]
    Cache(std::io::Error),
    /// A plugin answered something else than a result.
    #[error("plugin type=\"{plugin}\" answered {reason}")]
    Answer {
        /// Its type.
        plugin: String,
        /// What was wrong.
        reason: String,
    },
    /// The task that ran the plugins ended early.
    #[error("network operation was interrupted")]
    Interrupted,
}

/// The pod whose network is worked on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodNetwork {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its sandbox's id.
    pub sandbox: String,
    /// Path of its network namespace; empty when it is gone.
    pub netns: String,
    /// Host ports: `[{hostPort, containerPort, protocol, hostIP}]`.
    pub port_mappings: Vec<Value>,
    /// Bandwidth limits, as the capability has them.
    pub bandwidth: Option<Value>,
}

impl PodNetwork {
    fn args(&self) -> String {
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
            self.namespace, self.name, self.sandbox, self.uid
        )
    }

    fn capabilities(&self) -> Value {
        let mut all = Map::new();
        if !self.port_mappings.is_empty() {
            all.insert("portMappings".to_owned(), Value::Array(self.port_mappings.clone()));
        }
        if let Some(bandwidth) = &self.bandwidth {
            all.insert("bandwidth".to_owned(), bandwidth.clone());
        }
        Value::Object(all)
    }
}

/// What a plugin is given on its standard input.
#[must_use]
pub fn plugin_input(
    network: &Network,
    plugin: &Plugin,
    capabilities: &Value,
    previous: Option<&Value>,
) -> Value {
    let mut conf = plugin.conf.clone();
    conf.insert("name".to_owned(), json!(network.name));
    conf.insert("cniVersion".to_owned(), json!(network.version));
    let wanted = plugin.conf.get("capabilities").and_then(Value::as_object);
    let runtime: Map<String, Value> = wanted
        .into_iter()
        .flatten()
        .filter(|(name, _)| plugin.has_capability(name))
        .filter_map(|(name, _)| Some((name.clone(), capabilities.get(name)?.clone())))
        .collect();
    conf.remove("capabilities");
    if !runtime.is_empty() {
        conf.insert("runtimeConfig".to_owned(), Value::Object(runtime));
    }
    if let Some(previous) = previous {
        conf.insert("prevResult".to_owned(), previous.clone());
    }
    Value::Object(conf)
}

/// One plugin call.
struct Call<'a> {
    command: &'static str,
    plugin: &'a Plugin,
    input: Value,
    container: &'a str,
    netns: &'a str,
    args: &'a str,
}

/// Runs plugins for one node.
#[derive(Debug, Clone)]
pub struct Cni {
    conf_dir: PathBuf,
    bin_dir: PathBuf,
    node_root: Option<PathBuf>,
    cache: Cache,
    /// One operation at a time for each sandbox.
    locks: Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>,
}

impl Cni {
    /// With the paths of this node.
    #[must_use]
    pub fn new(args: &Args) -> Self {
        Self {
            conf_dir: args.on_machine(Path::new("/etc/cni/net.d")),
            bin_dir: args.on_machine(Path::new("/opt/cni/bin")),
            node_root: (args.node_root != Path::new("/")).then(|| args.node_root.clone()),
            cache: Cache::new(&args.on_machine(Path::new("/var/lib/cni/results"))),
            locks: Arc::default(),
        }
    }

    /// Whether pods can be given a network now.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn ready(&self) -> Result<(), Error> {
        let network = conf::discover(&self.conf_dir)?;
        network.plugins.iter().try_for_each(|plugin| self.binary(&plugin.type_).map(|_| ()))
    }

    fn binary(&self, plugin: &str) -> Result<PathBuf, Error> {
        let path = self.bin_dir.join(plugin);
        if path.is_file() {
            return Ok(path);
        }
        Err(Error::NoPlugin { plugin: plugin.to_owned(), path: self.bin_dir.display().to_string() })
    }

    /// Addresses of a sandbox that was attached before, by this process or an earlier one.
    #[must_use]
    pub fn attached(&self, sandbox: &str) -> Option<Vec<IpAddr>> {
        let attachment = self.cache.load(sandbox)?;
        Some(result::addresses(&attachment.result?)).filter(|addresses| !addresses.is_empty())
    }

    /// All attachments on record.
    #[must_use]
    pub fn attachments(&self) -> Vec<Attachment> {
        self.cache.all()
    }

    /// Attaches a sandbox. What was begun for it before is undone first, so that no address is held twice.
    ///
    /// # Errors
    /// Fails with the first plugin that does; what the others did is undone.
    pub async fn add(&self, pod: PodNetwork) -> Result<Vec<IpAddr>, Error> {
        let this = self.clone();
        // A task of its own: an ADD that is under way ends even when its pod is being deleted, and DEL comes after.
        let task = tokio::spawn(async move {
            let lock = this.lock(&pod.sandbox);
            let _held = lock.lock().await;
            if this.cache.load(&pod.sandbox).is_some() {
                this.del_locked(&pod.sandbox, &pod.netns).await?;
            }
            this.add_locked(&pod).await
        });
        task.await.map_err(|_| Error::Interrupted)?
    }

    async fn add_locked(&self, pod: &PodNetwork) -> Result<Vec<IpAddr>, Error> {
        let network = conf::discover(&self.conf_dir)?;
        let mut attachment = Attachment {
            kind: cache::KIND.to_owned(),
            container_id: pod.sandbox.clone(),
            if_name: INTERFACE.to_owned(),
            network_name: network.name.clone(),
            config: network.source.clone(),
            cni_args: pod.args(),
            capability_args: pod.capabilities(),
            pod_uid: pod.uid.clone(),
            result: None,
        };
        self.cache.store(&attachment).map_err(Error::Cache)?;
        match self.add_chain(pod, &network, &attachment).await {
            Ok(value) => {
                let addresses = result::addresses(&value);
                attachment.result = Some(value);
                self.cache.store(&attachment).map_err(Error::Cache)?;
                Ok(addresses)
            }
            Err(error) => {
                if let Err(undo) = self.del_locked(&pod.sandbox, &pod.netns).await {
                    tracing::warn!(sandbox = %pod.sandbox, error = %undo, "cannot undo a failed ADD");
                }
                Err(error)
            }
        }
    }

    async fn add_chain(
        &self,
        pod: &PodNetwork,
        network: &Network,
        attachment: &Attachment,
    ) -> Result<Value, Error> {
        let mut previous: Option<Value> = None;
        for plugin in &network.plugins {
            let call = Call {
                command: "ADD",
                plugin,
                input: plugin_input(network, plugin, &attachment.capability_args, previous.as_ref()),
                container: &pod.sandbox,
                netns: &pod.netns,
                args: &attachment.cni_args,
            };
            let stdout = self.call(call).await?;
            let answer: Value = serde_json::from_slice(&stdout)
                .map_err(|error| Error::Answer { plugin: plugin.type_.clone(), reason: error.to_string() })?;
            previous = Some(answer);
        }
        let value = previous.unwrap_or(Value::Null);
        if result::addresses(&value).is_empty() {
            let plugin = network.plugins.last().map(|plugin| plugin.type_.clone()).unwrap_or_default();
            return Err(Error::Answer { plugin, reason: "without an address".to_owned() });
        }
        Ok(value)
    }

    /// Detaches a sandbox; one that was never attached is fine.
    ///
    /// # Errors
    /// Fails with the first plugin that does; the record stays, so that it is tried again.
    pub async fn del(&self, sandbox: &str, netns: &str) -> Result<(), Error> {
        let (this, sandbox, netns) = (self.clone(), sandbox.to_owned(), netns.to_owned());
        let task = tokio::spawn(async move {
            let lock = this.lock(&sandbox);
            let outcome = {
                let _held = lock.lock().await;
                this.del_locked(&sandbox, &netns).await
            };
            if outcome.is_ok() {
                this.locks.lock().remove(&sandbox);
            }
            outcome
        });
        task.await.map_err(|_| Error::Interrupted)?
    }

    async fn del_locked(&self, sandbox: &str, netns: &str) -> Result<(), Error> {
        let Some(attachment) = self.cache.load(sandbox) else { return Ok(()) };
        let text = attachment.config.to_string();
        let network = conf::parse(text.as_bytes())
            .map_err(|reason| conf::Error::Invalid { directory: "the record of ADD".to_owned(), reason })?;
        for plugin in network.plugins.iter().rev() {
            self.call(Call {
                command: "DEL",
                plugin,
                input: plugin_input(
                    &network,
                    plugin,
                    &attachment.capability_args,
                    attachment.result.as_ref(),
                ),
                container: sandbox,
                netns,
                args: &attachment.cni_args,
            })
            .await?;
        }
        self.cache.remove(sandbox);
        Ok(())
    }

    /// Asks the plugins whether a sandbox is still attached as they left it.
    ///
    /// # Errors
    /// Fails with the first plugin that finds a difference.
    pub async fn check(&self, sandbox: &str, netns: &str) -> Result<(), Error> {
        let Some(attachment) = self.cache.load(sandbox) else { return Ok(()) };
        let text = attachment.config.to_string();
        let Ok(network) = conf::parse(text.as_bytes()) else { return Ok(()) };
        // CHECK came with 0.4.0.
        let old = ["0.1", "0.2", "0.3"].iter().any(|old| network.version.starts_with(old));
        if network.disable_check || old {
            return Ok(());
        }
        for plugin in &network.plugins {
            self.call(Call {
                command: "CHECK",
                plugin,
                input: plugin_input(
                    &network,
                    plugin,
                    &attachment.capability_args,
                    attachment.result.as_ref(),
                ),
                container: sandbox,
                netns,
                args: &attachment.cni_args,
            })
            .await?;
        }
        Ok(())
    }

    fn lock(&self, sandbox: &str) -> Arc<tokio::sync::Mutex<()>> {
        self.locks.lock().entry(sandbox.to_owned()).or_default().clone()
    }

    async fn call(&self, call: Call<'_>) -> Result<Vec<u8>, Error> {
        let name = &call.plugin.type_;
        let run = |source: std::io::Error| Error::Run { plugin: name.clone(), source };
        let mut command = tokio::process::Command::new(self.binary(name)?);
        command
            .env("CNI_COMMAND", call.command)
            .env("CNI_CONTAINERID", call.container)
            .env("CNI_NETNS", call.netns)
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_ARGS", call.args)
            .env("CNI_PATH", &self.bin_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if let Some(root) = &self.node_root {
            command.env("FAIRLEAD_NODE_ROOT", root);
        }
        let mut child = command.spawn().map_err(run)?;
        let input = call.input.to_string();
        let mut stdin = child.stdin.take();
        let talk = async move {
            if let Some(stdin) = stdin.as_mut() {
                // A plugin may end without reading; its exit code tells.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
            drop(stdin);
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(PLUGIN_TIMEOUT, talk)
            .await
            .map_err(|_| run(std::io::Error::new(std::io::ErrorKind::TimedOut, "did not end in time")))?
            .map_err(run)?;
        if output.stdout.len() > MAX_ANSWER {
            return Err(Error::Answer { plugin: name.clone(), reason: "more than 1 MiB".to_owned() });
        }
        if output.status.success() {
            return Ok(output.stdout);
        }
        let error = result::plugin_error(&output.stdout, &output.stderr, &output.status.to_string());
        let command = match call.command {
            "ADD" => "add",
            "DEL" => "delete",
            _ => "check",
        };
        Err(Error::Plugin { plugin: name.clone(), command, error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_get_only_the_capabilities_they_declare() {
        let network = conf::parse(
            br#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"a","x":1},{"type":"portmap","capabilities":{"portMappings":true,"bandwidth":false}}]}"#,
        )
        .unwrap();
        let capabilities = json!({"portMappings": [{"hostPort": 80}], "bandwidth": {"ingressRate": 1}});
        assert_eq!(
            plugin_input(&network, &network.plugins[0], &capabilities, None),
            json!({"type": "a", "x": 1, "name": "n", "cniVersion": "1.0.0"})
        );
        assert_eq!(
            plugin_input(&network, &network.plugins[1], &capabilities, Some(&json!({"ips": []}))),
            json!({"type": "portmap", "name": "n", "cniVersion": "1.0.0",
                "runtimeConfig": {"portMappings": [{"hostPort": 80}]}, "prevResult": {"ips": []}})
        );
    }
}
