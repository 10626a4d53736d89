use serde_json::json;

use super::super::fixture::{Shelf, signing_key};
use super::*;

fn shelf() -> Shelf {
    let mut shelf = Shelf::default();
    for name in ["default", "other"] {
        shelf.put(
            "serviceaccounts",
            json!({"metadata": {"namespace": "a", "name": name, "uid": format!("uid-{name}")}}),
        );
    }
    shelf.put(
        "pods",
        json!({"metadata": {"namespace": "a", "name": "p", "uid": "uid-p"},
        "spec": {"serviceAccountName": "default", "nodeName": "n1"}}),
    );
    shelf.put("nodes", json!({"metadata": {"name": "n1", "uid": "uid-n1"}}));
    shelf.put("secrets", json!({"metadata": {"namespace": "a", "name": "s", "uid": "uid-s"}}));
    shelf
}

fn tokens() -> Tokens {
    Tokens::new(signing_key()).expect("tokens")
}

fn request(spec: Value) -> Result<Value, Status> {
    tokens().request(&shelf(), "a", "default", &json!({"spec": spec}))
}

fn token(answer: &Value) -> String {
    text(answer, "/status/token").to_owned()
}

fn part(token: &str, place: usize) -> Value {
    let part = token.split('.').nth(place).expect("three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("json")
}

#[test]
fn a_token_has_upstreams_header_and_claims() {
    let answer =
        request(json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "uid-p"}}))
            .expect("token");
    let (header, claims) = (part(&token(&answer), 0), part(&token(&answer), 1));
    assert_eq!(header, json!({"alg": "RS256", "kid": tokens().kid}));
    assert_eq!(claims["sub"], "system:serviceaccount:a:default");
    assert_eq!(claims["aud"], json!([ISSUER]));
    assert_eq!(
        claims["kubernetes.io"],
        json!({"namespace": "a", "serviceaccount": {"name": "default", "uid": "uid-default"},
            "pod": {"name": "p", "uid": "uid-p"}, "node": {"name": "n1", "uid": "uid-n1"}})
    );
    assert_eq!(claims["exp"].as_i64(), claims["iat"].as_i64().map(|issued| issued + 3600));
    assert_eq!(answer["spec"]["expirationSeconds"], 3600);
    assert_eq!(answer["metadata"]["uid"], "uid-default");
}

#[test]
fn a_projected_token_outlives_clients_that_read_it_once() {
    let spec = json!({"expirationSeconds": 3607, "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}});
    let answer = request(spec).expect("token");
    let claims = part(&token(&answer), 1);
    let issued = claims["iat"].as_i64().expect("iat");
    assert_eq!(claims["exp"].as_i64(), Some(issued + EXTENDED_SECONDS));
    assert_eq!(claims["kubernetes.io"]["warnafter"].as_i64(), Some(issued + 3607));
    assert_eq!(answer["spec"]["expirationSeconds"], 3607);
    let for_others = request(json!({"expirationSeconds": 3607, "audiences": ["x"],
        "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}}));
    let claims = part(&token(&for_others.expect("token")), 1);
    assert_eq!(claims["exp"].as_i64(), claims["iat"].as_i64().map(|issued| issued + 3607));
}

#[track_caller]
fn check_refused(name: &str, body: Value, code: u16, words: &str) {
    let status = tokens().request(&shelf(), "a", name, &body).expect_err("refused");
    assert_eq!((status.code(), status.message()), (code, words));
}

#[test]
fn requests_are_refused_in_upstreams_words() {
    let bound = |kind: &str, name: &str, uid: &str| json!({"spec": {"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name, "uid": uid}}});
    check_refused("nope", json!({}), 404, r#"serviceaccounts "nope" not found"#);
    check_refused(
        "default",
        json!({"spec": {"expirationSeconds": 5}}),
        422,
        r#"TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes"#,
    );
    check_refused(
        "default",
        json!({"spec": {"expirationSeconds": 99_999_999_999_i64}}),
        422,
        r#"TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 99999999999: may not specify a duration larger than 2^32 seconds"#,
    );
    check_refused(
        "default",
        json!({"metadata": {"name": "other"}}),
        422,
        r#"TokenRequest.authentication.k8s.io "default" is invalid: metadata.name: Invalid value: "other": must match the service account name if specified"#,
    );
    check_refused(
        "default",
        bound("Nope", "x", ""),
        400,
        "cannot bind token to object of type /v1, Kind=Nope",
    );
    check_refused("default", bound("Pod", "nope", ""), 404, r#"pods "nope" not found"#);
    check_refused(
        "other",
        bound("Pod", "p", "uid-p"),
        400,
        r#"cannot bind token for serviceaccount "other" to pod running with different serviceaccount name."#,
    );
    check_refused(
        "default",
        bound("Pod", "p", "wrong"),
        409,
        r#"Operation cannot be fulfilled on Pod "p": the UID in the bound object reference (wrong) does not match the UID in record. The object might have been deleted and then recreated"#,
    );
}

#[test]
fn a_token_proves_its_account() {
    let answer = request(json!({"boundObjectRef": {"kind": "Secret", "apiVersion": "v1", "name": "s"}}))
        .expect("token");
    let proven = tokens().verify(&token(&answer), &[], &shelf()).expect("proven");
    assert_eq!(proven.user.name, "system:serviceaccount:a:default");
    assert_eq!(proven.user.uid, "uid-default");
    assert_eq!(
        proven.user.groups,
        ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]
    );
    let credential = &proven.user.extra["authentication.kubernetes.io/credential-id"];
    assert!(credential[0].starts_with("JTI="));
    assert_eq!(proven.audiences, [ISSUER]);
}

#[test]
fn a_token_ends_with_its_time_its_account_and_what_it_is_bound_to() {
    let bound = json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}});
    let token = token(&request(bound).expect("token"));
    let check = |shelf: &Shelf, later: i64| tokens().verify_at(&token, &[], shelf, now() + later).map(|_| ());
    assert_eq!(check(&shelf(), 3590), Ok(()));
    assert_eq!(check(&shelf(), 3610), Err(TokenError::Invalid));
    assert_eq!(check(&shelf(), -30), Err(TokenError::Invalid), "not yet");
    for (resource, name) in [("serviceaccounts", "default"), ("pods", "p")] {
        let mut gone = shelf();
        gone.remove(resource, "a", name);
        assert_eq!(check(&gone, 0), Err(TokenError::Invalid), "{resource}");
        gone.put(resource, json!({"metadata": {"namespace": "a", "name": name, "uid": "made-anew"}}));
        assert_eq!(check(&gone, 0), Err(TokenError::Invalid), "{resource}");
        let uid = if name == "p" { "uid-p" } else { "uid-default" };
        gone.put(resource, json!({"metadata": {"namespace": "a", "name": name, "uid": uid, "deletionTimestamp": time(now())}}));
        assert_eq!(check(&gone, 0), Ok(()), "{resource} ends only");
        assert_eq!(check(&gone, 120), Err(TokenError::Invalid), "{resource} is long deleted");
    }
}

#[test]
fn a_changed_or_foreign_token_proves_nothing() {
    let good = token(&request(json!({})).expect("token"));
    let verify = |token: &str| tokens().verify(token, &[], &shelf());
    assert!(verify(&good).is_ok());
    let parts: Vec<&str> = good.split('.').collect();
    let mut claims = part(&good, 1);
    claims["sub"] = "system:serviceaccount:kube-system:root".into();
    let forged = URL_SAFE_NO_PAD.encode(claims.to_string());
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let by_public_key = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
    for bad in [
        format!("{}.{forged}.{}", parts[0], parts[2]),
        format!("{none}.{}.", parts[1]),
        format!("{by_public_key}.{}.{}", parts[1], parts[2]),
        format!("{}.{}", parts[0], parts[1]),
        good.repeat(100),
        "x".to_owned(),
        String::new(),
    ] {
        assert_eq!(verify(&bad).map(|_| ()), Err(TokenError::Invalid), "{bad:.80}");
    }
}

#[test]
fn reviews_tell_whom_a_token_proves() {
    let (tokens, shelf) = (tokens(), shelf());
    let good = token(&request(json!({})).expect("token"));
    let review =
        |spec: Value| tokens.review(&shelf, &json!({"spec": spec})).map(|answer| answer["status"].clone());
    let status = review(json!({"token": good})).expect("answer");
    assert_eq!((&status["authenticated"], &status["audiences"]), (&json!(true), &json!([ISSUER])));
    assert_eq!(status["user"]["username"], "system:serviceaccount:a:default");
    assert_eq!(review(json!({"token": "bad"})), Ok(json!({"user": {}, "error": "invalid bearer token"})));
    let words = r#"[invalid bearer token, token audiences ["https://kubernetes.default.svc"] is invalid for the target audiences ["other"]]"#;
    assert_eq!(
        review(json!({"token": good, "audiences": ["other"]})),
        Ok(json!({"user": {}, "error": words}))
    );
    let refused = review(json!({"token": ""})).expect_err("refused");
    assert_eq!(
        (refused.code(), refused.message()),
        (400, "token is required for TokenReview in authentication")
    );
}

#[test]
fn the_published_key_verifies_tokens() {
    let tokens = tokens();
    let jwk = &tokens.jwks()["keys"][0];
    let key = DecodingKey::from_rsa_components(text(jwk, "/n"), text(jwk, "/e")).expect("key");
    let mut validation = Validation::new(Algorithm::RS256);
    validation.validate_aud = false;
    let good = token(&request(json!({})).expect("token"));
    assert!(jsonwebtoken::decode::<Value>(&good, &key, &validation).is_ok());
    assert_eq!(tokens.openid_configuration("h:1")["jwks_uri"], "https://h:1/openid/v1/jwks");
}
