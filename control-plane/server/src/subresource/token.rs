//! `serviceaccounts/token`: a token that expires.

use std::sync::Arc;

use bytes::Bytes;
use fairlead_api::decode::Expected;
use http::HeaderMap;

use crate::{
    api::{Api, Call, behind},
    ingest::{self, Verb, WriteOptions},
    reply::Answer,
};

const TOKEN_REQUEST: Expected<'static> = Expected {
    group: "authentication.k8s.io",
    version: "v1",
    kind: "TokenRequest",
    schema: "io.k8s.api.authentication.v1.TokenRequest",
};

/// POST.
pub async fn request(api: &Arc<Api>, call: &Call, headers: &HeaderMap, body: &Bytes) -> Answer {
    let options = WriteOptions::parse(Verb::Create, &call.params)?;
    let (mut asked, _) = ingest::typed(&TOKEN_REQUEST, ingest::media(headers), body, options.validation)?;
    // A token is bound to objects that may have been made a moment ago.
    api.caches.fresh().await.map_err(behind)?;
    let (namespace, name) = (&call.resource.namespace, &call.resource.name);
    super::admit(api, call, &mut asked, options.dry_run).await?;
    let answer = api.tokens.request(&*api.caches, namespace, name, &asked)?;
    Ok(super::reviewed(call, &answer))
}
