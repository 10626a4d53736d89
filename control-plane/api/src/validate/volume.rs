//! Volumes of a pod.

use super::{Field, container, names, quantity::Quantity};
use crate::field::{self, ErrorList};

const HOST_PATH_TYPES: &[&str] =
    &["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];
const DOWNWARD: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const ONE_TYPE: &str = "may not specify more than 1 volume type";

type Check = fn(&Field, &mut ErrorList);

/// Every source a volume can have. Upstream looks at them in this order.
const SOURCES: &[(&str, Check)] = &[
    ("emptyDir", empty_dir),
    ("hostPath", host_path),
    ("gitRepo", git_repo),
    ("gcePersistentDisk", |f, e| text(f, "pdName", e)),
    ("awsElasticBlockStore", |f, e| text(f, "volumeID", e)),
    ("secret", secret),
    ("nfs", nfs),
    ("iscsi", iscsi),
    ("glusterfs", glusterfs),
    ("flocker", flocker),
    ("persistentVolumeClaim", |f, e| text(f, "claimName", e)),
    ("rbd", rbd),
    ("cephfs", |f, e| text(f, "monitors", e)),
    ("quobyte", quobyte),
    ("azureFile", azure_file),
    ("fc", fibre_channel),
    ("flexVolume", |f, e| text(f, "driver", e)),
    ("configMap", config_map),
    ("cinder", |f, e| text(f, "volumeID", e)),
    ("downwardAPI", downward_api),
    ("projected", projected),
    ("azureDisk", azure_disk),
    ("storageos", |_, _| ()),
    ("portworxVolume", |f, e| text(f, "volumeID", e)),
    ("photonPersistentDisk", |f, e| text(f, "pdID", e)),
    ("vsphereVolume", |f, e| text(f, "volumePath", e)),
    ("scaleIO", scale_io),
    ("csi", csi),
    ("ephemeral", ephemeral),
    ("image", image),
];

fn text(f: &Field, name: &str, errors: &mut ErrorList) {
    f.get(name).present(errors);
}

/// All volumes of a pod: their names, and exactly one source each.
pub fn volumes(f: &Field, errors: &mut ErrorList) {
    let mut seen: Vec<&str> = Vec::new();
    for v in f.items() {
        let before = errors.len();
        source(&v, errors);
        let name = v.get("name");
        if name.is_empty() {
            name.required(errors, "");
        } else {
            name.all(errors, names::dns_label(name.str()));
        }
        if seen.contains(&name.str()) {
            name.duplicate(errors);
        }
        if errors.len() == before {
            seen.push(name.str());
        }
    }
}

fn source(v: &Field, errors: &mut ErrorList) {
    let mut found = 0;
    for (name, check) in SOURCES {
        let at = v.get(name);
        if !at.is_set() {
            continue;
        }
        found += 1;
        if found > 1 {
            at.forbidden(errors, ONE_TYPE);
        } else {
            check(&at, errors);
        }
    }
    if found == 0 {
        v.required(errors, "must specify a volume type");
    }
}

fn empty_dir(f: &Field, errors: &mut ErrorList) {
    let limit = f.get("sizeLimit");
    if Quantity::of(limit.value).is_some_and(|q| q.0 < 0) {
        limit.forbidden(errors, "SizeLimit field must be a valid resource quantity");
    }
}

/// A path of the node, also the source of a PersistentVolume.
pub fn host_path(f: &Field, errors: &mut ErrorList) {
    if !f.get("path").present(errors) {
        return;
    }
    container::no_backsteps(&f.get("path"), errors);
    f.get("type").one_of(errors, HOST_PATH_TYPES);
}

fn git_repo(f: &Field, errors: &mut ErrorList) {
    text(f, "repository", errors);
    container::descending_path(&f.get("directory"), errors);
}

fn mode(f: &Field, errors: &mut ErrorList) {
    if f.int().is_some_and(|n| !(0..=0o777).contains(&n)) {
        f.invalid(errors, MODE);
    }
}

/// A relative path that does not begin with `..`: what lands in a volume.
fn local_path(f: &Field, errors: &mut ErrorList) {
    container::descending_path(f, errors);
    if f.str().starts_with("..") && !f.str().starts_with("../") {
        f.invalid(errors, "must not start with '..'");
    }
}

fn items(f: &Field, errors: &mut ErrorList) {
    for item in f.get("items").items() {
        text(&item, "key", errors);
        text(&item, "path", errors);
        local_path(&item.get("path"), errors);
        mode(&item.get("mode"), errors);
    }
}

fn secret(f: &Field, errors: &mut ErrorList) {
    text(f, "secretName", errors);
    mode(&f.get("defaultMode"), errors);
    items(f, errors);
}

fn config_map(f: &Field, errors: &mut ErrorList) {
    text(f, "name", errors);
    mode(&f.get("defaultMode"), errors);
    items(f, errors);
}

/// Also the source of a PersistentVolume.
pub fn nfs(f: &Field, errors: &mut ErrorList) {
    text(f, "server", errors);
    if f.get("path").present(errors) && !f.get("path").str().starts_with('/') {
        f.get("path").invalid(errors, "must be an absolute path");
    }
}

/// Also the source of a PersistentVolume.
pub fn iscsi(f: &Field, errors: &mut ErrorList) {
    text(f, "targetPortal", errors);
    let iqn = f.get("iqn");
    if iqn.present(errors) && !["iqn", "eui", "naa"].iter().any(|p| iqn.str().starts_with(p)) {
        iqn.invalid(errors, "must be valid format starting with iqn, eui, or naa");
    }
    let lun = f.get("lun");
    if !(0..=255).contains(&lun.num()) {
        lun.invalid(errors, "must be between 0 and 255, inclusive");
    }
    let chap = f.get("chapAuthDiscovery").is_true() || f.get("chapAuthSession").is_true();
    if chap && !f.get("secretRef").is_set() {
        f.get("secretRef").required(errors, "");
    }
}

fn glusterfs(f: &Field, errors: &mut ErrorList) {
    text(f, "endpoints", errors);
    text(f, "path", errors);
    container::no_backsteps(&f.get("path"), errors);
}

fn flocker(f: &Field, errors: &mut ErrorList) {
    let (name, id) = (f.get("datasetName"), f.get("datasetUUID"));
    if name.is_empty() && id.is_empty() {
        f.required(errors, "one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && !id.is_empty() {
        f.invalid(errors, "resource");
    }
    if name.str().contains('/') {
        name.invalid(errors, "must not contain '/'");
    }
}

fn rbd(f: &Field, errors: &mut ErrorList) {
    text(f, "monitors", errors);
    text(f, "image", errors);
}

fn quobyte(f: &Field, errors: &mut ErrorList) {
    text(f, "registry", errors);
    text(f, "volume", errors);
}

fn azure_file(f: &Field, errors: &mut ErrorList) {
    text(f, "secretName", errors);
    text(f, "shareName", errors);
}

fn fibre_channel(f: &Field, errors: &mut ErrorList) {
    let (targets, ids) = (f.get("targetWWNs"), f.get("wwids"));
    if targets.is_empty() && ids.is_empty() {
        targets.required(errors, "must specify either targetWWNs or wwids, but not both");
    } else if !targets.is_empty() && !ids.is_empty() {
        targets.invalid(errors, "targetWWNs and wwids can not be specified simultaneously");
    }
    let lun = f.get("lun");
    if !targets.is_empty() {
        if !lun.is_set() {
            lun.required(errors, "lun is required if targetWWNs is specified");
        } else if !(0..=255).contains(&lun.num()) {
            lun.invalid(errors, "must be between 0 and 255, inclusive");
        }
    }
}

fn azure_disk(f: &Field, errors: &mut ErrorList) {
    text(f, "diskName", errors);
    text(f, "diskURI", errors);
    f.get("cachingMode").one_of(errors, &["None", "ReadOnly", "ReadWrite"]);
    f.get("kind").one_of(errors, &["Dedicated", "Managed", "Shared"]);
}

fn scale_io(f: &Field, errors: &mut ErrorList) {
    for name in ["gateway", "system", "volumeName"] {
        text(f, name, errors);
    }
}

fn csi(f: &Field, errors: &mut ErrorList) {
    csi_driver(&f.get("driver"), errors);
    let secret = f.get("nodePublishSecretRef");
    if secret.is_set() {
        super::security::reference(&secret.get("name"), errors);
    }
}

/// The name of a CSI driver.
pub fn csi_driver(f: &Field, errors: &mut ErrorList) {
    if f.is_empty() {
        f.required(errors, "");
        return;
    }
    if f.len() > 63 {
        f.too_long(errors, 63);
    }
    f.all(errors, names::dns_subdomain(&f.str().to_lowercase()));
}

fn ephemeral(f: &Field, errors: &mut ErrorList) {
    let template = f.get("volumeClaimTemplate");
    if !template.is_set() {
        template.required(errors, "");
        return;
    }
    super::meta::template(&template, errors);
    crate::kinds::claim_spec(&template.get("spec"), errors);
}

fn image(f: &Field, errors: &mut ErrorList) {
    text(f, "reference", errors);
    f.get("pullPolicy").one_of(errors, &["Always", "IfNotPresent", "Never"]);
}

fn downward_file(item: &Field, errors: &mut ErrorList) {
    text(item, "path", errors);
    local_path(&item.get("path"), errors);
    let (field_ref, resource) = (item.get("fieldRef"), item.get("resourceFieldRef"));
    match (field_ref.is_set(), resource.is_set()) {
        (true, both) => {
            container::field_ref(&field_ref, DOWNWARD, true, errors);
            if both {
                resource.invalid(errors, "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
        }
        (false, true) => container::resource_field_ref(&resource, true, errors),
        (false, false) => item.required(errors, "one of fieldRef and resourceFieldRef is required"),
    }
    mode(&item.get("mode"), errors);
}

fn downward_api(f: &Field, errors: &mut ErrorList) {
    mode(&f.get("defaultMode"), errors);
    for item in f.get("items").items() {
        downward_file(&item, errors);
    }
}

fn projected(f: &Field, errors: &mut ErrorList) {
    mode(&f.get("defaultMode"), errors);
    let mut paths: Vec<&str> = Vec::new();
    for s in f.get("sources").items() {
        let mut found = 0;
        for name in [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ] {
            let at = s.get(name);
            if !at.is_set() {
                continue;
            }
            found += 1;
            if found > 1 {
                at.forbidden(errors, ONE_TYPE);
                continue;
            }
            projection(name, &at, errors);
            let own = at.get("path");
            for path in at.get("items").items().map(|i| i.get("path")).chain([own]) {
                if !path.is_empty() && paths.contains(&path.str()) {
                    errors.push(field::invalid(&f.path, path.value, "conflicting duplicate paths"));
                }
                paths.push(path.str());
            }
        }
        if found == 0 {
            s.required(errors, "must specify a source");
        }
    }
}

fn projection(name: &str, at: &Field, errors: &mut ErrorList) {
    match name {
        "secret" | "configMap" => {
            text(at, "name", errors);
            items(at, errors);
        }
        "downwardAPI" => {
            for item in at.get("items").items() {
                downward_file(&item, errors);
            }
        }
        "serviceAccountToken" => {
            let seconds = at.get("expirationSeconds");
            if seconds.int().is_some_and(|n| n < 600) {
                seconds.invalid(errors, "may not specify a duration less than 10 minutes");
            }
            if seconds.int().is_some_and(|n| n > 1 << 32) {
                seconds.invalid(errors, "may not specify a duration larger than 2^32 seconds");
            }
            text(at, "path", errors);
            local_path(&at.get("path"), errors);
        }
        _ => {
            text(at, "path", errors);
        }
    }
}
