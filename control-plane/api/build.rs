//! Writes the schema tables that the crate embeds: the structure of every served type with its merge rules
//! (`schema.txt`, read lazily type by type) and the descriptions (`prose.z`, compressed, for OpenAPI only).

use std::{collections::BTreeMap, env, error::Error, fmt::Write as _, fs, io::Write as _, path::Path};

use k8s_openapi::{
    Resource,
    api::{
        admissionregistration::v1 as admission, apps::v1 as apps, authentication::v1 as authentication,
        authorization::v1 as authorization, autoscaling, batch::v1 as batch,
        certificates::v1 as certificates, coordination::v1 as coordination, core::v1 as core,
        discovery::v1 as discovery, events::v1 as events, flowcontrol::v1 as flowcontrol,
        networking::v1 as networking, node::v1 as node, policy::v1 as policy, rbac::v1 as rbac,
        resource::v1 as resource, scheduling::v1 as scheduling, storage::v1 as storage,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1 as extensions,
    apimachinery::pkg::apis::meta::v1 as meta,
    kube_aggregator::pkg::apis::apiregistration::v1 as registration,
    schemars::{SchemaGenerator, generate::SchemaSettings},
};
use serde_json::{Map, Value};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Types that are API kinds: name in the schema tree -> `group/version/kind`.
#[derive(Default)]
struct Kinds(BTreeMap<String, String>);

fn kind<T: Resource + k8s_openapi::schemars::JsonSchema>(generator: &mut SchemaGenerator, kinds: &mut Kinds) {
    generator.subschema_for::<T>();
    kinds.0.insert(T::schema_name().into_owned(), format!("{}/{}/{}", T::GROUP, T::VERSION, T::KIND));
}

macro_rules! kinds {
    ($generator:expr, $kinds:expr, $($module:path: $($name:ident)*;)*) => {
        $({ use $module as module; $(kind::<module::$name>($generator, $kinds);)* })*
    };
}

fn definitions() -> (Map<String, Value>, Kinds) {
    let mut generator = SchemaGenerator::new(SchemaSettings::draft2020_12());
    let mut kinds = Kinds::default();
    kinds!(&mut generator, &mut kinds,
        core: Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume
            PersistentVolumeClaim Pod PodTemplate ReplicationController ResourceQuota Secret Service ServiceAccount;
        admission: MutatingAdmissionPolicy MutatingAdmissionPolicyBinding MutatingWebhookConfiguration
            ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration;
        extensions: CustomResourceDefinition;
        registration: APIService;
        apps: ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet;
        authentication: SelfSubjectReview TokenRequest TokenReview;
        authorization: LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview;
        autoscaling::v1: HorizontalPodAutoscaler Scale;
        autoscaling::v2: HorizontalPodAutoscaler;
        batch: CronJob Job;
        certificates: CertificateSigningRequest;
        coordination: Lease;
        discovery: EndpointSlice;
        events: Event;
        flowcontrol: FlowSchema PriorityLevelConfiguration;
        networking: Ingress IngressClass IPAddress NetworkPolicy ServiceCIDR;
        node: RuntimeClass;
        policy: Eviction PodDisruptionBudget;
        rbac: ClusterRole ClusterRoleBinding Role RoleBinding;
        resource: DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice;
        scheduling: PriorityClass;
        storage: CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass;
    );
    generator.subschema_for::<meta::DeleteOptions>();
    generator.subschema_for::<meta::Status>();
    generator.subschema_for::<meta::ListMeta>();
    generator.subschema_for::<meta::Patch>();
    generator.subschema_for::<meta::APIGroup>();
    generator.subschema_for::<meta::APIGroupList>();
    generator.subschema_for::<meta::APIResourceList>();
    generator.subschema_for::<meta::APIVersions>();
    (generator.definitions().clone(), kinds)
}

/// A struct that has no fields, which the generator's crate takes for any JSON.
const FIELDLESS: &str =
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceSubresourceStatus";

/// Merge marks: (type, field) -> marks; the field is `-` for the type itself.
fn merge_marks(table: &str) -> BTreeMap<(&str, &str), &str> {
    table
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut cells = line.split('\t');
            Some(((cells.next()?, cells.next()?), cells.next()?))
        })
        .collect()
}

/// The type of a field in the table's own letters, see `schema.rs`.
fn shape(schema: &Value) -> Result<String> {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().unwrap_or(name);
        return Ok(match name.rsplit('.').next().unwrap_or(name) {
            "Quantity" => "q".into(),
            "IntOrString" => "x".into(),
            "Time" => "t".into(),
            "MicroTime" => "u".into(),
            "FieldsV1" | "RawExtension" => "o".into(),
            "JSON" | "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrBool" | "JSONSchemaPropsOrStringArray" => {
                format!("*{name}")
            }
            _ => format!("@{name}"),
        });
    }
    if let Some([only]) = schema["allOf"].as_array().map(Vec::as_slice) {
        return shape(only);
    }
    let format = schema["format"].as_str().unwrap_or_default();
    Ok(match (schema["type"].as_str().unwrap_or_default(), format) {
        ("string", "byte") => "y".into(),
        ("string", "") => "s".into(),
        ("integer", "int32") => "i".into(),
        ("integer", _) => "l".into(),
        ("number", _) => "n".into(),
        ("boolean", _) => "b".into(),
        ("array", _) => format!("[{}", shape(&schema["items"])?),
        ("object", _) if schema["additionalProperties"].is_object() => {
            format!("{{{}", shape(&schema["additionalProperties"])?)
        }
        ("object", _) => "o".into(),
        other => return Err(format!("no letter for {other:?} in {schema}").into()),
    })
}

fn prose_line(out: &mut String, schema: &Value) {
    let text = schema["description"].as_str().unwrap_or_default();
    out.push_str(&text.replace('\n', "\u{1}"));
    out.push('\n');
}

fn tables() -> Result<(String, String)> {
    let (definitions, kinds) = definitions();
    let merge_table = fs::read_to_string("tables/merge.txt")?;
    let marks = merge_marks(&merge_table);
    let (mut structure, mut prose) = (String::new(), String::new());
    let none = serde_json::Map::new();
    for (name, schema) in &definitions {
        let properties = match schema["properties"].as_object() {
            Some(properties) => properties,
            None if name == FIELDLESS => &none,
            None => continue,
        };
        let gvk = kinds.0.get(name).map(String::as_str).unwrap_or_default();
        let own = marks.get(&(name.as_str(), "-")).copied().unwrap_or_default();
        writeln!(structure, "={name}\t{own}\t{gvk}")?;
        prose_line(&mut prose, schema);
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (field, child) in properties {
            // The generator's crate calls every kind's metadata required; the API does not.
            let needed = required.contains(&field.as_str()) && (field != "metadata" || gvk.is_empty());
            let own = marks.get(&(name.as_str(), field.as_str())).copied().unwrap_or_default();
            let needed = if needed { "!" } else { "" };
            writeln!(structure, "{field}\t{}\t{needed}\t{own}", shape(child)?)?;
            prose_line(&mut prose, child);
        }
    }
    Ok((structure, prose))
}

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=tables/merge.txt");
    let out = env::var("OUT_DIR")?;
    let (structure, prose) = tables()?;
    fs::write(Path::new(&out).join("schema.txt"), structure)?;
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(prose.as_bytes())?;
    fs::write(Path::new(&out).join("prose.z"), encoder.finish()?)?;
    Ok(())
}
