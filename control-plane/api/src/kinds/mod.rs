//! The registry of kinds: one file each, one line here.

use crate::kind::Kind;

mod apiservice;
mod binding;
mod cells;
pub mod certificatesigningrequest;
mod clusterrole;
mod clusterrolebinding;
mod componentstatus;
mod configmap;
mod controllerrevision;
mod cronjob;
mod csidriver;
mod csinode;
mod csistoragecapacity;
mod customresourcedefinition;
mod daemonset;
mod deployment;
mod deviceclass;
mod devices;
mod endpoints;
mod endpointslice;
mod event;
mod event_v1;
mod fields;
mod flowschema;
mod horizontalpodautoscaler;
mod horizontalpodautoscaler_v1;
mod hpa;
mod ingress;
mod ingressclass;
mod ipaddress;
mod job;
mod job_status;
mod lease;
mod limitrange;
mod localsubjectaccessreview;
mod mutatingadmissionpolicy;
mod mutatingadmissionpolicybinding;
mod mutatingwebhookconfiguration;
mod namespace;
mod networkpolicy;
mod node;
mod persistentvolume;
mod persistentvolumeclaim;
mod pod;
mod poddisruptionbudget;
mod podtemplate;
mod policies;
mod priorityclass;
mod prioritylevelconfiguration;
mod rbac;
mod replicaset;
mod replicationcontroller;
mod resourceclaim;
mod resourceclaimtemplate;
mod resourcequota;
mod resourceslice;
mod role;
mod rolebinding;
mod runtimeclass;
mod secret;
mod selfsubjectaccessreview;
mod selfsubjectreview;
mod selfsubjectrulesreview;
mod service;
mod service_families;
mod service_update;
mod serviceaccount;
mod servicecidr;
mod statefulset;
mod storageclass;
mod strategy;
mod structural;
mod subjectaccessreview;
mod tokenreview;
mod validatingadmissionpolicy;
mod validatingadmissionpolicybinding;
mod validatingwebhookconfiguration;
mod volumeattachment;
mod volumeattributesclass;
mod warnings;
mod webhooks;

/// Every kind that is served, in upstream's discovery order.
pub static REGISTRY: &[&Kind] = &[
    &binding::KIND,
    &componentstatus::KIND,
    &configmap::KIND,
    &endpoints::KIND,
    &event::KIND,
    &limitrange::KIND,
    &namespace::KIND,
    &node::KIND,
    &persistentvolumeclaim::KIND,
    &persistentvolume::KIND,
    &pod::KIND,
    &podtemplate::KIND,
    &replicationcontroller::KIND,
    &resourcequota::KIND,
    &secret::KIND,
    &serviceaccount::KIND,
    &service::KIND,
    &apiservice::KIND,
    &controllerrevision::KIND,
    &daemonset::KIND,
    &deployment::KIND,
    &replicaset::KIND,
    &statefulset::KIND,
    &event_v1::KIND,
    &selfsubjectreview::KIND,
    &tokenreview::KIND,
    &localsubjectaccessreview::KIND,
    &selfsubjectaccessreview::KIND,
    &selfsubjectrulesreview::KIND,
    &subjectaccessreview::KIND,
    &horizontalpodautoscaler::KIND,
    &horizontalpodautoscaler_v1::KIND,
    &cronjob::KIND,
    &job::KIND,
    &certificatesigningrequest::KIND,
    &ingressclass::KIND,
    &ingress::KIND,
    &ipaddress::KIND,
    &networkpolicy::KIND,
    &servicecidr::KIND,
    &poddisruptionbudget::KIND,
    &clusterrolebinding::KIND,
    &clusterrole::KIND,
    &rolebinding::KIND,
    &role::KIND,
    &csidriver::KIND,
    &csinode::KIND,
    &csistoragecapacity::KIND,
    &storageclass::KIND,
    &volumeattachment::KIND,
    &volumeattributesclass::KIND,
    &mutatingadmissionpolicy::KIND,
    &mutatingadmissionpolicybinding::KIND,
    &mutatingwebhookconfiguration::KIND,
    &validatingadmissionpolicy::KIND,
    &validatingadmissionpolicybinding::KIND,
    &validatingwebhookconfiguration::KIND,
    &customresourcedefinition::KIND,
    &priorityclass::KIND,
    &lease::KIND,
    &runtimeclass::KIND,
    &endpointslice::KIND,
    &deviceclass::KIND,
    &resourceclaim::KIND,
    &resourceclaimtemplate::KIND,
    &resourceslice::KIND,
    &flowschema::KIND,
    &prioritylevelconfiguration::KIND,
];

pub(crate) use persistentvolumeclaim::claim_spec;

#[cfg(test)]
mod invalid_tests;
#[cfg(test)]
mod tests;
