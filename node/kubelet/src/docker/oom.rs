//! The kernel's choice of whom to kill for memory, by quality of service.

use k8s_openapi::api::core::v1::Container;

use crate::pod::qos::Qos;
use crate::quantity;

/// CAP_SYS_RESOURCE in `/proc/self/status`'s CapEff.
const CAP_SYS_RESOURCE: u64 = 1 << 24;

/// The value of a container in a pod of class `qos` on a machine with `memory` bytes, as upstream computes it.
#[must_use]
pub fn score(qos: Qos, container: &Container, memory: i64) -> i64 {
    match qos {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = container
                .resources
                .as_ref()
                .and_then(|resources| resources.requests.as_ref()?.get("memory"))
                .and_then(quantity::units)
                .unwrap_or(0);
            let share = i128::from(request) * 1000 / i128::from(memory.max(1));
            let score = 1000 - i64::try_from(share).unwrap_or(1000);
            // Never as safe as Guaranteed, never as exposed as BestEffort.
            score.clamp(3, 999)
        }
    }
}

/// Whether this machine lets a process lower its score below zero.
///
/// Without CAP_SYS_RESOURCE the kernel refuses, and runc then fails with "can't get final child's PID".
#[must_use]
pub fn negative_allowed() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    has_capability(&status)
}

fn has_capability(status: &str) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|bits| bits & CAP_SYS_RESOURCE != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn burstable_lies_between_the_others() {
        let container = |memory: &str| -> Container {
            serde_json::from_value(json!({"name": "c", "resources": {"requests": {"memory": memory}}}))
                .unwrap()
        };
        let machine = 1 << 30;
        for (qos, memory, expected) in [
            (Qos::Guaranteed, "1Gi", -997),
            (Qos::BestEffort, "0", 1000),
            (Qos::Burstable, "0", 999),
            (Qos::Burstable, "512Mi", 500),
            (Qos::Burstable, "1Gi", 3),
            (Qos::Burstable, "8Gi", 3),
        ] {
            assert_eq!(score(qos, &container(memory), machine), expected, "{qos:?} {memory}");
        }
    }

    #[test]
    fn the_capability_is_read_from_the_effective_set() {
        assert!(has_capability("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(!has_capability("CapPrm:\t000001ffffffffff\nCapEff:\t000001fffeffffff\n"));
        assert!(!has_capability(""));
    }
}
