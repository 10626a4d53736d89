use serde_json::json;

use super::super::fixture::{Shelf, grant, signing_key, user, with_defaults};
use super::super::{MASTERS, tls};
use super::*;

fn authenticator(authorizer: Authorizer) -> (Authenticator, Arc<Tokens>, Arc<Shelf>) {
    let tokens = Arc::new(Tokens::new(signing_key()).expect("tokens"));
    let mut shelf = Shelf::default();
    shelf.put("serviceaccounts", json!({"metadata": {"namespace": "a", "name": "robot", "uid": "u"}}));
    let shelf = Arc::new(shelf);
    (Authenticator::new(tokens.clone(), Arc::new(authorizer), shelf.clone()), tokens, shelf)
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name: header::HeaderName = name.parse().expect("name");
        headers.append(name, value.parse().expect("value"));
    }
    headers
}

#[test]
fn certificate_then_token_then_anonymous() {
    let (authenticator, tokens, shelf) = authenticator(with_defaults());
    let answer = tokens.request(shelf.as_ref(), "a", "robot", &json!({})).expect("token");
    let token = answer["status"]["token"].as_str().expect("token");
    let with_token = headers(&[("authorization", &format!("Bearer {token}"))]);
    let nobody = authenticator.authenticate(None, &HeaderMap::new()).expect("anonymous");
    assert_eq!(
        (nobody.name.as_str(), nobody.groups.as_slice()),
        (ANONYMOUS, &[UNAUTHENTICATED.to_owned()][..])
    );
    let robot = authenticator.authenticate(None, &with_token).expect("robot");
    assert_eq!(robot.name, "system:serviceaccount:a:robot");
    let alice = Arc::new(user("alice"));
    assert_eq!(authenticator.authenticate(Some(&alice), &with_token).expect("alice"), alice);
    let refused = authenticator.authenticate(None, &headers(&[("authorization", "Bearer bad")]));
    let refused = refused.expect_err("refused");
    assert_eq!((refused.code(), refused.message()), (401, "Unauthorized"));
    let protocol = format!("v5.channel.k8s.io, {SUBPROTOCOL}{}", URL_SAFE_NO_PAD.encode(token));
    let robot = authenticator.authenticate(None, &headers(&[("sec-websocket-protocol", &protocol)]));
    assert_eq!(robot.expect("robot").name, "system:serviceaccount:a:robot");
}

#[track_caller]
fn check_impersonation(pairs: &[(&str, &str)], name: &str, groups: &[&str]) {
    let admin = Arc::new(User { groups: vec![MASTERS.to_owned()], ..user("admin") });
    let (authenticator, ..) = authenticator(with_defaults());
    let user = authenticator.authenticate(Some(&admin), &headers(pairs)).expect("impersonated");
    assert_eq!(
        (user.name.as_str(), user.groups.iter().map(String::as_str).collect::<Vec<_>>()),
        (name, groups.to_vec())
    );
}

#[test]
fn an_impersonated_user_has_the_groups_that_upstream_gives() {
    check_impersonation(&[("impersonate-user", "alice")], "alice", &[AUTHENTICATED]);
    check_impersonation(
        &[("impersonate-user", "bob"), ("impersonate-group", "g1"), ("impersonate-group", "g2")],
        "bob",
        &["g1", "g2", AUTHENTICATED],
    );
    check_impersonation(
        &[("impersonate-user", "system:serviceaccount:a:default")],
        "system:serviceaccount:a:default",
        &["system:serviceaccounts", "system:serviceaccounts:a", AUTHENTICATED],
    );
    check_impersonation(&[("impersonate-user", ANONYMOUS)], ANONYMOUS, &[UNAUTHENTICATED]);
    check_impersonation(
        &[("impersonate-user", "system:serviceaccount:bad")],
        "system:serviceaccount:bad",
        &[AUTHENTICATED],
    );
}

#[test]
fn impersonation_needs_a_name_and_the_right() {
    let admin = Arc::new(User { groups: vec![MASTERS.to_owned()], ..user("admin") });
    let (auth, ..) = authenticator(with_defaults());
    for (pair, shown) in [
        (
            ("impersonate-group", "devs"),
            r#"Name:"", UID:"", Groups:[]string{"devs"}, Extra:map[string][]string(nil)"#,
        ),
        (
            ("impersonate-uid", "x"),
            r#"Name:"", UID:"x", Groups:[]string(nil), Extra:map[string][]string(nil)"#,
        ),
        (
            ("impersonate-extra-a", "b"),
            r#"Name:"", UID:"", Groups:[]string(nil), Extra:map[string][]string{"a":[]string{"b"}}"#,
        ),
    ] {
        let refused = auth.authenticate(Some(&admin), &headers(&[pair])).expect_err("refused");
        let words = format!("requested &user.DefaultInfo{{{shown}}} without impersonating a user name");
        assert_eq!((refused.code(), refused.message()), (400, words.as_str()));
    }
    let alice = Arc::new(user("alice"));
    let as_bob = headers(&[
        ("impersonate-user", "bob"),
        ("impersonate-group", "g"),
        ("impersonate-extra-scopes", "view"),
    ]);
    let refused = auth.authenticate(Some(&alice), &as_bob).expect_err("refused");
    let words = r#"users "bob" is forbidden: User "alice" cannot impersonate resource "users" in API group "" at the cluster scope"#;
    assert_eq!((refused.code(), refused.message()), (403, words));
    let authorizer = with_defaults();
    grant(
        &authorizer,
        "",
        "imp",
        "alice",
        json!([
        {"apiGroups": [""], "resources": ["users"], "resourceNames": ["bob"], "verbs": ["impersonate"]},
        {"apiGroups": [""], "resources": ["groups"], "verbs": ["impersonate"]},
        {"apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scopes"], "verbs": ["impersonate"]}]),
    );
    let (auth, ..) = authenticator(authorizer);
    let bob = auth.authenticate(Some(&alice), &as_bob).expect("bob");
    assert_eq!((bob.name.as_str(), &bob.extra["scopes"]), ("bob", &vec!["view".to_owned()]));
    let as_eve = headers(&[("impersonate-user", "eve")]);
    assert_eq!(auth.authenticate(Some(&alice), &as_eve).expect_err("refused").code(), 403);
}

#[test]
fn no_certificate_names_nobody() {
    assert_eq!(tls::peer_user(None), None);
    assert_eq!(tls::peer_user(Some(&[])), None);
    let garbage = rustls::pki_types::CertificateDer::from(vec![0x30, 0x82, 0xff]);
    assert_eq!(tls::peer_user(Some(&[garbage])), None);
}
