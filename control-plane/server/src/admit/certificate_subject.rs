//! CertificateSubjectRestriction: nobody asks for a client certificate that is almighty.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fairlead_api::status::Status;
use futures::{FutureExt, future::BoxFuture};
use serde_json::Value;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use super::{Attributes, Operation, Plugin};
use crate::api::Api;

pub const PLUGIN: Plugin =
    Plugin { name: "CertificateSubjectRestriction", validate: Some(validate), ..Plugin::BASE };

const SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const MASTERS: &str = "system:masters";

fn validate<'a>(
    _api: &'a Api,
    attributes: &'a Attributes<'a>,
    request: &'a Value,
) -> BoxFuture<'a, Result<(), Status>> {
    let concerned = attributes.is("certificatesigningrequests")
        && attributes.operation == Operation::Create
        && request["spec"]["signerName"] == SIGNER;
    let answer = if concerned { subject(attributes, request) } else { Ok(()) };
    std::future::ready(answer).boxed()
}

fn subject(attributes: &Attributes<'_>, request: &Value) -> Result<(), Status> {
    let groups = groups(request["spec"]["request"].as_str().unwrap_or_default());
    let groups = groups.ok_or_else(|| attributes.forbidden("failed to parse CSR"))?;
    if groups.iter().any(|group| group == MASTERS) {
        let words = format!("use of {SIGNER} signer with {MASTERS} group is not allowed");
        return Err(attributes.forbidden(&words));
    }
    Ok(())
}

/// The organizations of a request: base64 of PEM of PKCS #10.
fn groups(text: &str) -> Option<Vec<String>> {
    let pem = STANDARD.decode(text).ok()?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).ok()?;
    let subject = &request.certification_request_info.subject;
    Some(subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned).collect())
}
