//! Which fields a write of a part of a kind sets back, and so does not own: the strategies' `GetResetFields`.

use super::{Set, set::field, typed::Difference};
use crate::kind::{Act, Kind};

/// What a part of a kind does not let its writers own.
#[derive(Clone, Debug, Default)]
pub enum Filter {
    /// All can be owned.
    #[default]
    None,
    /// These fields, and what is below them, cannot.
    Reset(Set),
    /// Only what is below these can.
    Only(&'static [&'static [&'static str]]),
}

/// Kinds that say more than that `status` is reset through the main resource and `spec` through `/status`:
/// group, kind, subresource, fields.
const RESETS: &[(&str, &str, &str, &[&str])] = &[
    ("certificates.k8s.io", "CertificateSigningRequest", "", &["spec", "status"]),
    ("certificates.k8s.io", "CertificateSigningRequest", "status", &["spec", "status.conditions"]),
    ("certificates.k8s.io", "CertificateSigningRequest", "approval", &["spec", "status.certificate"]),
    ("", "Pod", "status", &["spec", "metadata.deletionTimestamp", "metadata.ownerReferences"]),
    ("", "Namespace", "finalize", &["status"]),
    ("apps", "Deployment", "status", &["spec", "metadata.labels"]),
    ("flowcontrol.apiserver.k8s.io", "FlowSchema", "status", &["spec", "metadata"]),
    ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration", "status", &["spec", "metadata"]),
    ("storage.k8s.io", "VolumeAttachment", "status", &["spec", "metadata"]),
    ("apiextensions.k8s.io", "CustomResourceDefinition", "status", &["spec", "metadata"]),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy", "status", &["spec", "metadata"]),
];

const EPHEMERAL: &[&[&str]] = &[&["spec", "ephemeralContainers"]];
const RESIZE: &[&[&str]] = &[
    &["spec", "containers", "*", "resources"],
    &["spec", "containers", "*", "resizePolicy"],
    &["spec", "initContainers", "*", "resources"],
    &["spec", "initContainers", "*", "resizePolicy"],
];

impl Filter {
    /// The filter of a part of a kind, `""` for the main resource.
    pub fn of(kind: &Kind, subresource: &str) -> Self {
        match subresource {
            "ephemeralcontainers" => return Filter::Only(EPHEMERAL),
            "resize" => return Filter::Only(RESIZE),
            _ => {}
        }
        let special = RESETS
            .iter()
            .find(|(group, name, part, _)| (*group, *name, *part) == (kind.group, kind.kind, subresource))
            .map(|(.., fields)| *fields);
        let has_status = kind.subresources.iter().any(|sub| sub.act == Act::Status);
        let usual: &[&str] = match subresource {
            "" if has_status => &["status"],
            "status" => &["spec"],
            _ => &[],
        };
        let mut set = Set::default();
        for path in special.unwrap_or(usual) {
            set.insert(&path.split('.').map(field).collect::<Vec<_>>());
        }
        Filter::Reset(set)
    }

    /// What of a set can be owned.
    pub fn apply(&self, set: &Set) -> Set {
        match self {
            Filter::None => set.clone(),
            Filter::Reset(reset) => set.without_trees(reset),
            Filter::Only(patterns) => set.along(patterns),
        }
    }

    pub(super) fn difference(&self, difference: Difference) -> Difference {
        difference.map(|set| self.apply(set))
    }
}
