//! Lifecycle hooks: what a container wants done after its start and before its end.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::docker::{Engine, Error};
use crate::probe::http;

/// Runs one hook to its end.
///
/// # Errors
/// Says what failed, as the event then shows it.
pub async fn run(
    engine: &Engine,
    id: &str,
    container: &Container,
    hook: &LifecycleHandler,
    address: &str,
    limit: Duration,
) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        return match engine.exec(id, &command, limit).await {
            Ok(outcome) if outcome.code == 0 => Ok(()),
            Ok(outcome) => Err(format!(
                "command '{}' exited with {}: {}",
                command.join(" "),
                outcome.code,
                outcome.output
            )),
            Err(Error::Timeout) => Err(format!("command '{}' timed out", command.join(" "))),
            Err(error) => Err(error.to_string()),
        };
    }
    if let Some(action) = &hook.http_get {
        let target = http::Target::new(action, container, address)?;
        return http::get(&target, limit).await.map(|_| ());
    }
    if let Some(sleep) = &hook.sleep {
        let wanted = Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0));
        tokio::time::sleep(wanted.min(limit)).await;
        return Ok(());
    }
    Err("invalid handler: none of exec, httpGet and sleep".to_owned())
}
