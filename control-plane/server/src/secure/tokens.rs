//! Service-account tokens: JWTs signed with RS256, bound to the account and often to a Pod, Secret or Node
//! (`pkg/serviceaccount`, `pkg/registry/core/serviceaccount/storage/token.go`; KEP-1205, KEP-4193).

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fairlead_api::field::{self, Path};
use fairlead_api::status::{self, Status};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rsa::pkcs8::{DecodePrivateKey, EncodePublicKey, LineEnding};
use rsa::traits::PublicKeyParts;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::pki::PkiError;
use super::rules::quoted_list;
use super::{AUTHENTICATED, Objects, SERVICE_ACCOUNT_PREFIX, SERVICE_ACCOUNTS, User};

/// Issuer of our tokens, and the audience of tokens for this API.
pub const ISSUER: &str = "https://kubernetes.default.svc";

const GROUP: &str = "authentication.k8s.io";

/// What a projected token asks for when nobody says: it is renewed by the kubelet long before. Upstream lets such
/// tokens live for a year, so that clients which read their file only once go on working.
const PROJECTED_SECONDS: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

const DEFAULT_SECONDS: i64 = 3600;
const SHORTEST_SECONDS: i64 = 600;
const LONGEST_SECONDS: i64 = 1 << 32;

/// A deleted object's tokens go on for as long as its deletion may take to be seen everywhere.
const DELETION_LEEWAY_SECONDS: i64 = 60;

/// No token of ours is nearly this long; longer ones are not even decoded.
const MAX_TOKEN_BYTES: usize = 16 << 10;

/// Name and uid of an object, as claims hold them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Named {
    name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    uid: String,
}

/// The claim `kubernetes.io`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Private {
    namespace: String,
    serviceaccount: Named,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<Named>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<Named>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<Named>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    warnafter: Option<i64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Claims {
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    iss: String,
    jti: String,
    nbf: i64,
    sub: String,
    #[serde(rename = "kubernetes.io")]
    private: Private,
}

/// Why a token proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not ours, changed, expired, or of an object that is gone.
    #[error("invalid bearer token")]
    Invalid,
    /// Ours, but for somebody else.
    #[error("[invalid bearer token, token audiences {} is invalid for the target audiences {}]", quoted_list(.token), quoted_list(.wanted))]
    Audience { token: Vec<String>, wanted: Vec<String> },
}

/// Whom a token proves, and for which of the wanted audiences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    pub user: User,
    pub audiences: Vec<String>,
}

/// Issues and verifies service-account tokens.
pub struct Tokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
    kid: String,
    jwks: Value,
    audiences: Vec<String>,
}

impl Tokens {
    /// From the RSA key in [`super::Pki`] (PKCS #8 PEM).
    ///
    /// # Errors
    /// A key that is not one.
    pub fn new(key: &str) -> Result<Self, PkiError> {
        let failed = |error: &dyn std::fmt::Display| PkiError::Rsa(error.to_string());
        let private = rsa::RsaPrivateKey::from_pkcs8_pem(key).map_err(|e| failed(&e))?;
        let public = private.to_public_key();
        let der = public.to_public_key_der().map_err(|e| failed(&e))?;
        let pem = public.to_public_key_pem(LineEnding::LF).map_err(|e| failed(&e))?;
        let kid = URL_SAFE_NO_PAD.encode(Sha256::digest(der.as_bytes()));
        let number = |n: &rsa::BigUint| URL_SAFE_NO_PAD.encode(n.to_bytes_be());
        let jwks = json!({"keys": [{
            "use": "sig", "kty": "RSA", "kid": kid, "alg": "RS256",
            "n": number(public.n()), "e": number(public.e()),
        }]});
        Ok(Tokens {
            encoding: EncodingKey::from_rsa_pem(key.as_bytes()).map_err(|e| failed(&e))?,
            decoding: DecodingKey::from_rsa_pem(pem.as_bytes()).map_err(|e| failed(&e))?,
            kid,
            jwks,
            audiences: vec![ISSUER.to_owned()],
        })
    }

    /// `/openid/v1/jwks`, of type `application/jwk-set+json`.
    pub fn jwks(&self) -> &Value {
        &self.jwks
    }

    /// `/.well-known/openid-configuration`; `server` is host and port as the client or `--advertise-address` names it.
    pub fn openid_configuration(&self, server: &str) -> Value {
        json!({
            "issuer": ISSUER,
            "jwks_uri": format!("https://{server}/openid/v1/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        })
    }

    /// Whom a token proves, for one of `audiences` (empty: this API).
    ///
    /// # Errors
    /// [`TokenError`]; more is not told to whoever shows a bad token.
    pub fn verify(
        &self,
        token: &str,
        audiences: &[String],
        objects: &dyn Objects,
    ) -> Result<Proven, TokenError> {
        self.verify_at(token, audiences, objects, now())
    }

    fn verify_at(
        &self,
        token: &str,
        audiences: &[String],
        objects: &dyn Objects,
        now: i64,
    ) -> Result<Proven, TokenError> {
        let wanted = if audiences.is_empty() { &self.audiences } else { audiences };
        let claims = self.decode(token).ok_or(TokenError::Invalid)?;
        if claims.iss != ISSUER || claims.exp <= now || claims.nbf > now {
            return Err(TokenError::Invalid);
        }
        let shared: Vec<String> = wanted.iter().filter(|one| claims.aud.contains(one)).cloned().collect();
        if shared.is_empty() {
            return Err(TokenError::Audience { token: claims.aud, wanted: wanted.to_vec() });
        }
        check_objects(&claims, objects, now).ok_or(TokenError::Invalid)?;
        Ok(Proven { user: user_of(&claims), audiences: shared })
    }

    fn decode(&self, token: &str) -> Option<Claims> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let mut validation = Validation::new(Algorithm::RS256);
        // Times are compared here, without leeway, by one clock.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation).ok().map(|data| data.claims)
    }

    fn encode(&self, claims: &Claims) -> Result<String, Status> {
        let header = Header { typ: None, kid: Some(self.kid.clone()), ..Header::new(Algorithm::RS256) };
        jsonwebtoken::encode(&header, claims, &self.encoding)
            .map_err(|error| status::internal(&error.to_string()))
    }

    /// POST of a TokenRequest to `serviceaccounts/NAME/token`: the answer's body (201).
    ///
    /// # Errors
    /// 404 for an absent account or bound object, 400, 409 and 422 as upstream.
    pub fn request(
        &self,
        objects: &dyn Objects,
        namespace: &str,
        name: &str,
        body: &Value,
    ) -> Result<Value, Status> {
        let now = now();
        let asked = Asked::read(body, name, namespace, &self.audiences)?;
        let account = objects
            .find("", "serviceaccounts", namespace, name)
            .ok_or_else(|| status::not_found("", "serviceaccounts", name))?;
        let errors = asked.validate();
        if !errors.is_empty() {
            return Err(status::invalid(GROUP, "TokenRequest", "", &errors));
        }
        let uid = text(&account, "/metadata/uid");
        let mut private = Private {
            namespace: namespace.to_owned(),
            serviceaccount: Named { name: name.to_owned(), uid: uid.to_owned() },
            ..Private::default()
        };
        if let Some(bound) = asked.bound {
            bind(&mut private, bound, objects)?;
        }
        let mut lifetime = asked.seconds;
        let for_us = asked.audiences.iter().all(|audience| self.audiences.contains(audience));
        if private.pod.is_some() && lifetime == PROJECTED_SECONDS && for_us {
            private.warnafter = Some(now + lifetime);
            lifetime = EXTENDED_SECONDS;
        }
        let claims = Claims {
            aud: asked.audiences.clone(),
            exp: now + lifetime,
            iat: now,
            iss: ISSUER.to_owned(),
            jti: uuid::Uuid::new_v4().to_string(),
            nbf: now,
            sub: format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
            private,
        };
        let token = self.encode(&claims)?;
        Ok(json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "uid": uid,
                "creationTimestamp": time(now),
            },
            "spec": {
                "audiences": asked.audiences,
                "expirationSeconds": asked.seconds,
                "boundObjectRef": asked.bound.cloned().unwrap_or_default(),
            },
            "status": {"token": token, "expirationTimestamp": time(now + asked.seconds)},
        }))
    }

    /// POST of a TokenReview: the answer's body (201).
    ///
    /// # Errors
    /// 400 without a token.
    pub fn review(&self, objects: &dyn Objects, body: &Value) -> Result<Value, Status> {
        let token = text(body, "/spec/token");
        if token.is_empty() {
            return Err(status::bad_request("token is required for TokenReview in authentication"));
        }
        let outcome = self.verify(token, &strings(body, "/spec/audiences"), objects);
        let review = match outcome {
            Ok(proven) => json!({
                "authenticated": true,
                "user": proven.user.to_json(),
                "audiences": proven.audiences,
            }),
            Err(error) => json!({"user": {}, "error": error.to_string()}),
        };
        let mut answer = body.clone();
        answer["apiVersion"] = "authentication.k8s.io/v1".into();
        answer["kind"] = "TokenReview".into();
        if answer.get("metadata").is_none_or(Value::is_null) {
            answer["metadata"] = json!({});
        }
        answer["status"] = review;
        Ok(answer)
    }
}

/// What a TokenRequest asks for.
struct Asked<'a> {
    audiences: Vec<String>,
    seconds: i64,
    bound: Option<&'a Value>,
}

impl<'a> Asked<'a> {
    fn read(body: &'a Value, name: &str, namespace: &str, ours: &[String]) -> Result<Self, Status> {
        let metadata = Path::new("metadata");
        let mut errors = Vec::new();
        for (key, wanted) in [("name", name), ("namespace", namespace)] {
            let given = text(body, &format!("/metadata/{key}"));
            if !given.is_empty() && given != wanted {
                let detail = format!("must match the service account {key} if specified");
                errors.push(field::invalid_str(&metadata.child(key), given, detail));
            }
        }
        if !errors.is_empty() {
            return Err(status::invalid(GROUP, "TokenRequest", name, &errors));
        }
        let audiences = strings(body, "/spec/audiences");
        let bound = body.pointer("/spec/boundObjectRef").filter(|bound| !bound.is_null());
        Ok(Asked {
            audiences: if audiences.is_empty() { ours.to_vec() } else { audiences },
            seconds: body
                .pointer("/spec/expirationSeconds")
                .and_then(Value::as_i64)
                .unwrap_or(DEFAULT_SECONDS),
            bound,
        })
    }

    fn validate(&self) -> field::ErrorList {
        let path = Path::new("spec").child("expirationSeconds");
        let mut errors = field::ErrorList::new();
        if self.seconds < SHORTEST_SECONDS {
            let detail = "may not specify a duration less than 10 minutes";
            errors.push(field::invalid(&path, &self.seconds.into(), detail));
        }
        if self.seconds > LONGEST_SECONDS {
            let detail = "may not specify a duration larger than 2^32 seconds";
            errors.push(field::invalid(&path, &self.seconds.into(), detail));
        }
        errors
    }
}

/// Looks up the object that the token shall be bound to and adds it to the claims.
fn bind(private: &mut Private, bound: &Value, objects: &dyn Objects) -> Result<(), Status> {
    let (api_version, kind, name) = (text(bound, "/apiVersion"), text(bound, "/kind"), text(bound, "/name"));
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let (resource, namespace) = match (group, kind) {
        ("", "Pod") => ("pods", private.namespace.as_str()),
        ("", "Secret") => ("secrets", private.namespace.as_str()),
        ("", "Node") => ("nodes", ""),
        _ => {
            let message = format!("cannot bind token to object of type {group}/{version}, Kind={kind}");
            return Err(status::bad_request(message));
        }
    };
    let object = objects.find("", resource, namespace, name);
    let object = object.ok_or_else(|| status::not_found("", resource, name))?;
    let account = &private.serviceaccount.name;
    if kind == "Pod" && text(&object, "/spec/serviceAccountName") != account {
        return Err(status::bad_request(format!(
            "cannot bind token for serviceaccount {} to pod running with different serviceaccount name.",
            status::quoted(account)
        )));
    }
    let uid = text(&object, "/metadata/uid");
    let wanted = text(bound, "/uid");
    if !wanted.is_empty() && wanted != uid {
        let message = format!(
            "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(status::conflict("", kind, name, &message));
    }
    let named = Some(Named { name: name.to_owned(), uid: uid.to_owned() });
    match kind {
        "Pod" => {
            private.pod = named;
            let node = text(&object, "/spec/nodeName");
            if !node.is_empty() {
                let uid = objects.find("", "nodes", "", node);
                let uid = uid.as_ref().map(|node| text(node, "/metadata/uid")).unwrap_or_default();
                private.node = Some(Named { name: node.to_owned(), uid: uid.to_owned() });
            }
        }
        "Secret" => private.secret = named,
        _ => private.node = named,
    }
    Ok(())
}

/// Whether the account and the bound object are still those of the token.
fn check_objects(claims: &Claims, objects: &dyn Objects, now: i64) -> Option<()> {
    let private = &claims.private;
    let namespace = private.namespace.as_str();
    let expected = format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{}", private.serviceaccount.name);
    if claims.sub != expected {
        return None;
    }
    let alive = |resource: &str, namespace: &str, named: &Named| -> Option<()> {
        let object = objects.find("", resource, namespace, &named.name)?;
        if text(&object, "/metadata/uid") != named.uid {
            return None;
        }
        let deleted = text(&object, "/metadata/deletionTimestamp");
        if deleted.is_empty() {
            return Some(());
        }
        let deleted: jiff::Timestamp = deleted.parse().ok()?;
        (now <= deleted.as_second() + DELETION_LEEWAY_SECONDS).then_some(())
    };
    alive("serviceaccounts", namespace, &private.serviceaccount)?;
    if let Some(secret) = &private.secret {
        alive("secrets", namespace, secret)?;
    }
    match (&private.pod, &private.node) {
        (Some(pod), _) => alive("pods", namespace, pod),
        (None, Some(node)) => alive("nodes", "", node),
        (None, None) => Some(()),
    }
}

fn user_of(claims: &Claims) -> User {
    let private = &claims.private;
    let mut extra = BTreeMap::new();
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        }
    };
    if !claims.jti.is_empty() {
        add("credential-id", &format!("JTI={}", claims.jti));
    }
    if let Some(pod) = &private.pod {
        add("pod-name", &pod.name);
        add("pod-uid", &pod.uid);
    }
    if let Some(node) = &private.node {
        add("node-name", &node.name);
        add("node-uid", &node.uid);
    }
    let mut groups = service_account_groups(&private.namespace);
    groups.push(AUTHENTICATED.to_owned());
    User { name: claims.sub.clone(), uid: private.serviceaccount.uid.clone(), groups, extra }
}

/// The groups of every service account of a namespace.
pub fn service_account_groups(namespace: &str) -> Vec<String> {
    vec![SERVICE_ACCOUNTS.to_owned(), format!("{SERVICE_ACCOUNTS}:{namespace}")]
}

fn text<'a>(of: &'a Value, pointer: &str) -> &'a str {
    of.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn strings(of: &Value, pointer: &str) -> Vec<String> {
    let list = of.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
