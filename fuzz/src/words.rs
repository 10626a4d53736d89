//! Texts that the API gives a meaning to, or refuses.

pub const WORDS: &[&str] = &[
    "", "a", "b", "c", "x", "web", "default", "kube-system", "nginx:1.25", "a-b", "a.b", "A", "-a", "a-", "a_b", "a/b",
    "example.com/a", "kubernetes.io/hostname", "app", "node-role.kubernetes.io/control-plane", "*", "/", "..", ".",
    "/a/b", "../a", "a\n b", " a", "a ", "é", "\u{1f600}", "\u{0}", "\u{7f}", "\u{85}", "'", "\"", "\\", "#", ": ", "- a",
    "null", "true", "yes", "1", "-1", "0", "1.5", "1e3", "0x1f", "0o17", "~", "<<", "=", "1_000", ".5", "+1",
    "10%", "100%", "101%", "http", "https", "80", "65536",
    "1Gi", "500m", "0.5", "1e9", "100k", "-1Gi", "1.5Gi", "0.1m", "1n", "9223372036854775808", "1E", "1Ei",
    "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123456Z", "2026-01-01T01:00:00+01:00", "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z", "not a time",
    "10.0.0.1", "10.0.0.0/8", "10.0.0.1/8", "::1", "fd00::/64", "::ffff:1.2.3.4", "256.1.1.1", "010.0.0.1", "None",
    "* * * * *", "@daily", "*/5 0-3,7 1 1 MON", "TZ=UTC * * * * *", "UTC", "Europe/Berlin",
    "TCP", "UDP", "SCTP", "ClusterIP", "NodePort", "LoadBalancer", "ExternalName", "Cluster", "Local", "ClientIP",
    "SingleStack", "PreferDualStack", "RequireDualStack", "IPv4", "IPv6", "FQDN", "Always", "IfNotPresent", "Never",
    "OnFailure", "ClusterFirst", "ClusterFirstWithHostNet", "Default", "RollingUpdate", "Recreate", "OnDelete",
    "OrderedReady", "Parallel", "Allow", "Forbid", "Replace", "NonIndexed", "Indexed", "FailJob", "Ignore", "Count",
    "In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "Equal", "NoSchedule", "PreferNoSchedule", "NoExecute",
    "ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod", "Filesystem", "Block", "Retain", "Delete",
    "Recycle", "Immediate", "WaitForFirstConsumer", "Opaque", "kubernetes.io/tls", "kubernetes.io/dockerconfigjson",
    "kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token", "kubernetes.io/basic-auth",
    "User", "Group", "ServiceAccount", "Role", "ClusterRole", "rbac.authorization.k8s.io", "get", "list", "Ingress",
    "Egress", "Exact", "Prefix", "ImplementationSpecific", "Utilization", "Value", "AverageValue", "Resource", "Pods",
    "Object", "External", "ContainerResource", "Max", "Min", "Disabled", "Percent", "Active", "Terminating", "Running",
    "Succeeded", "Failed", "Pending", "True", "False", "Unknown", "Ready", "cpu", "memory", "ephemeral-storage", "pods",
    "hugepages-2Mi", "Container", "Pod", "PersistentVolumeClaim", "BestEffort", "NotBestEffort", "PriorityClass",
    "runtime/default", "Localhost", "RuntimeDefault", "Unconfined", "linux", "windows", "ALL", "NET_ADMIN",
    "kubernetes.io/kube-apiserver-client", "kubernetes.io/kubelet-serving", "client auth", "digital signature",
    "NamespacedName", "Exempt", "Limited", "Queue", "Reject", "Fail", "Warn", "Audit", "Deny", "NoneOnDryRun", "None",
    "Equivalent", "AllowAll", "CEL", "object.spec.replicas > 1", "v1", "apps/v1", "Deployment", "status.phase",
    "metadata.name", "metadata.namespace", "spec.nodeName", "limits.cpu", "metadata.labels['a']", "metadata.labels",
    "v1alpha1.example.com", "foregroundDeletion", "orphan", "replace", "merge", "delete", "retainKeys",
];

/// Keys of objects that no schema names, and directives of strategic merge patches.
pub const KEYS: &[&str] = &[
    "$patch", "$retainKeys", "$setElementOrder/containers", "$setElementOrder/finalizers", "$setElementOrder/ports",
    "$deleteFromPrimitiveList/finalizers", "$deleteFromPrimitiveList/", "$setElementOrder", "name", "key", "unknown", "",
];

pub const NUMBERS: &[i64] = &[
    0, 1, 2, 3, 10, 80, 100, 101, 1000, 30000, 65535, 65536, -1, -2, i32::MAX as i64, i32::MIN as i64,
    i32::MAX as i64 + 1, i64::MAX, i64::MIN, 1 << 53,
];
