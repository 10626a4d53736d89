//! Quality-of-service class of a pod, from its requests and limits.

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::quantity;

/// Class that decides who is squeezed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// Every container has cpu and memory limits equal to its requests.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl Qos {
    /// The API's word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// Computes a pod's class as upstream does.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else { return Self::BestEffort };
        let containers: Vec<&Container> =
            spec.containers.iter().chain(spec.init_containers.iter().flatten()).collect();
        let nonzero = |container: &Container, limits: bool, resource: &str| -> Option<i64> {
            let resources = container.resources.as_ref()?;
            let map = if limits { resources.limits.as_ref() } else { resources.requests.as_ref() };
            map?.get(resource).and_then(quantity::milli).filter(|milli| *milli > 0)
        };
        let mut anything = false;
        let mut guaranteed = true;
        for container in containers {
            for resource in ["cpu", "memory"] {
                let limit = nonzero(container, true, resource);
                let request = nonzero(container, false, resource).or(limit);
                anything |= limit.is_some() || request.is_some();
                guaranteed &= limit.is_some() && limit == request;
            }
        }
        match (anything, guaranteed) {
            (false, _) => Self::BestEffort,
            (true, true) => Self::Guaranteed,
            (true, false) => Self::Burstable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes_follow_requests_and_limits() {
        for (resources, expected) in [
            (json!([{}]), Qos::BestEffort),
            (json!([{"requests": {"cpu": "100m"}}]), Qos::Burstable),
            (json!([{"limits": {"cpu": "1", "memory": "1Gi"}}]), Qos::Guaranteed),
            (json!([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}]), Qos::Burstable),
            (
                json!([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}]),
                Qos::Guaranteed,
            ),
            (json!([{"limits": {"cpu": "1", "memory": "1Gi"}}, {}]), Qos::Burstable),
            (json!([{"limits": {"cpu": "0"}}]), Qos::BestEffort),
        ] {
            let containers: Vec<_> = resources
                .as_array()
                .unwrap()
                .iter()
                .enumerate()
                .map(|(index, resources)| json!({"name": format!("c{index}"), "resources": resources}))
                .collect();
            let pod: Pod =
                serde_json::from_value(json!({"metadata": {}, "spec": {"containers": containers}})).unwrap();
            assert_eq!(Qos::of(&pod), expected, "{resources}");
        }
    }
}
