//! How the node is: Ready, and what it runs short of.

use k8s_openapi::api::core::v1::NodeCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::machine::{self, RESERVED_MEMORY};
use crate::settings::Args;

/// What conditions are made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// What Docker said, if it does not answer.
    pub runtime: Option<String>,
    /// What the network lacks.
    pub network: Option<String>,
    /// Memory is short.
    pub memory: bool,
    /// Disk is short.
    pub disk: bool,
    /// Process ids are short.
    pub pids: bool,
}

/// Reads what the machine runs short of.
#[must_use]
pub fn pressure(args: &Args) -> (bool, bool, bool) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let disk = machine::disk(&args.node_root).is_some_and(|(total, free)| free < total / 10);
    (
        available_memory(&read("/proc/meminfo")).is_some_and(|bytes| bytes < RESERVED_MEMORY),
        disk,
        few_pids(&read("/proc/loadavg"), &read("/proc/sys/kernel/pid_max")),
    )
}

fn available_memory(meminfo: &str) -> Option<i64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<i64>().ok().map(|kib| kib.saturating_mul(1024))
}

/// Fewer than a twentieth of the process ids are left.
fn few_pids(loadavg: &str, pid_max: &str) -> bool {
    let used = loadavg.split_whitespace().nth(3).and_then(|part| part.split('/').nth(1)?.parse::<u64>().ok());
    let most = pid_max.trim().parse::<u64>().ok();
    matches!((used, most), (Some(used), Some(most)) if used > most / 20 * 19)
}

/// The conditions, with the times of `old` kept where nothing changed.
#[must_use]
pub fn conditions(health: &Health, old: &[NodeCondition], now: Timestamp) -> Vec<NodeCondition> {
    let row = |bad: bool, type_: &str, reasons: (&str, &str), messages: (&str, &str)| {
        let (reason, message) = if bad { (reasons.1, messages.1) } else { (reasons.0, messages.0) };
        (type_.to_owned(), if bad { "True" } else { "False" }, reason.to_owned(), message.to_owned())
    };
    let mut rows = vec![
        row(
            health.memory,
            "MemoryPressure",
            ("KubeletHasSufficientMemory", "KubeletHasInsufficientMemory"),
            ("kubelet has sufficient memory available", "kubelet has insufficient memory available"),
        ),
        row(
            health.disk,
            "DiskPressure",
            ("KubeletHasNoDiskPressure", "KubeletHasDiskPressure"),
            ("kubelet has no disk pressure", "kubelet has disk pressure"),
        ),
        row(
            health.pids,
            "PIDPressure",
            ("KubeletHasSufficientPID", "KubeletHasInsufficientPID"),
            ("kubelet has sufficient PID available", "kubelet has insufficient PID available"),
        ),
    ];
    let problems: Vec<String> = [
        health.runtime.as_ref().map(|error| format!("container runtime is down: {error}")),
        health.network.as_ref().map(|reason| format!("container runtime network not ready: {reason}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    rows.push(if problems.is_empty() {
        ("Ready".to_owned(), "True", "KubeletReady".to_owned(), "kubelet is posting ready status".to_owned())
    } else {
        ("Ready".to_owned(), "False", "KubeletNotReady".to_owned(), problems.join(", "))
    });
    let finish = |(type_, status, reason, message): (String, &str, String, String)| {
        let unchanged = old.iter().find(|known| known.type_ == type_ && known.status == status);
        NodeCondition {
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: unchanged
                .and_then(|known| known.last_transition_time.clone())
                .or(Some(Time(now))),
            type_,
            status: status.to_owned(),
            reason: Some(reason),
            message: Some(message),
        }
    };
    rows.into_iter().map(finish).collect()
}

/// Why the network is not ready, in upstream's words.
#[must_use]
pub fn network_reason() -> String {
    "NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized"
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_needs_docker_and_a_network() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let find = |list: &[NodeCondition], type_: &str| {
            list.iter().find(|one| one.type_ == type_).cloned().unwrap()
        };
        let lacking = Health { network: Some(network_reason()), ..Default::default() };
        let before = conditions(&lacking, &[], at(0));
        let ready = find(&before, "Ready");
        assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("False", Some("KubeletNotReady")));
        assert!(
            ready.message.unwrap().starts_with("container runtime network not ready: NetworkReady=false")
        );
        let after = conditions(&Health::default(), &before, at(5));
        assert_eq!(find(&after, "Ready").last_transition_time, Some(Time(at(5))));
        assert_eq!(find(&after, "DiskPressure").last_transition_time, Some(Time(at(0))));
        assert_eq!(find(&after, "DiskPressure").last_heartbeat_time, Some(Time(at(5))));
    }

    #[test]
    fn shortages_are_read_from_proc() {
        assert_eq!(available_memory("MemTotal: 5 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
        assert_eq!(available_memory(""), None);
        assert!(few_pids("0.1 0.1 0.1 1/990 12", "1000"));
        assert!(!few_pids("0.1 0.1 0.1 1/90 12", "1000"));
        assert!(!few_pids("", ""));
    }
}
