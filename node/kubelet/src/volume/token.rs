//! Service-account tokens of pods: asked for by TokenRequest, renewed well before their end.

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};

use super::payload::TokenKey;

/// A token is renewed after this share of its life, and at the latest after a day (upstream's rule).
const RENEW_AFTER: f64 = 0.8;
const RENEW_SECONDS: f64 = 86_400.0;

#[derive(Debug, Clone)]
struct Held {
    token: String,
    asked: Timestamp,
    expires: Timestamp,
}

/// Whether a token asked for at `asked` that ends at `expires` should be replaced.
fn is_due(asked: Timestamp, expires: Timestamp, now: Timestamp) -> bool {
    let life = expires.duration_since(asked).as_secs_f64();
    let age = now.duration_since(asked).as_secs_f64();
    age > RENEW_SECONDS || age > life * RENEW_AFTER
}

/// Tokens of one pod.
#[derive(Debug, Clone, Default)]
pub struct Tokens {
    held: BTreeMap<TokenKey, Held>,
}

impl Tokens {
    /// Tokens for all `keys`, asking for those that are missing or due. A token that cannot be renewed but is still
    /// good is kept.
    ///
    /// # Errors
    /// Fails when the API refuses and there is no token that is good.
    pub async fn get(
        &mut self,
        client: &Client,
        pod: &Pod,
        keys: &[TokenKey],
        now: Timestamp,
    ) -> Result<BTreeMap<TokenKey, String>, kube::Error> {
        for key in keys {
            let held = self.held.get(key);
            if held.is_some_and(|held| !is_due(held.asked, held.expires, now)) {
                continue;
            }
            let still_good = held.is_some_and(|held| held.expires > now);
            match request(client, pod, key, now).await {
                Ok(fresh) => {
                    self.held.insert(key.clone(), fresh);
                }
                Err(error) if still_good => tracing::warn!(%error, "cannot renew a token"),
                Err(error) => return Err(error),
            }
        }
        Ok(self.held.iter().map(|(key, held)| (key.clone(), held.token.clone())).collect())
    }
}

async fn request(client: &Client, pod: &Pod, key: &TokenKey, now: Timestamp) -> Result<Held, kube::Error> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let account =
        pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).filter(|name| !name.is_empty());
    let body = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(if key.0.is_empty() { Vec::new() } else { vec![key.0.clone()] }),
            expiration_seconds: Some(key.1),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
        }),
        ..Default::default()
    };
    let api = Api::<ServiceAccount>::namespaced(client.clone(), &namespace);
    let name = account.as_deref().unwrap_or("default");
    let answer = api.create_token_request(name, &PostParams::default(), &body).await?;
    let status = answer.status.unwrap_or_default();
    let expires = status.expiration_timestamp.map_or(now, |time| time.0);
    Ok(Held { token: status.token.unwrap_or_default(), asked: now, expires })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_after_most_of_their_life_or_a_day() {
        let at = |second| Timestamp::from_second(second).unwrap();
        for (life, age, due) in [
            (3600, 0, false),
            (3600, 2879, false),
            (3600, 2881, true),
            (31_536_000, 86_399, false),
            (31_536_000, 86_401, true),
        ] {
            assert_eq!(is_due(at(0), at(life), at(age)), due, "life {life}, age {age}");
        }
    }
}
