//! flowcontrol.apiserver.k8s.io/v1 PriorityLevelConfiguration.

use super::{cells as c, strategy};
use crate::kind::Printing;
use crate::kind::{Act, Kind, Subresource};
use crate::validate::Field;
use crate::{field::ErrorList, pod::defaults as d};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "flowcontrol.apiserver.k8s.io",
    kind: "PriorityLevelConfiguration",
    plural: "prioritylevelconfigurations",
    singular: "prioritylevelconfiguration",
    namespaced: false,
    schema: "io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration",
    message: "api.flowcontrol.v1.PriorityLevelConfiguration",
    storage: "prioritylevelconfigurations",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    default,
    prepare_create: strategy::create_blank_counted,
    prepare_update: strategy::update_counted,
    prepare_status: strategy::status_only,
    validate,
    cells,
    generation: true,
    ..Kind::BASE
};

fn default(v: &mut Value) {
    let Some(spec) = d::object(v, "spec") else { return };
    d::with(spec, "exempt", |x| {
        d::unset(x, "nominalConcurrencyShares", json!(0));
        d::unset(x, "lendablePercent", json!(0));
    });
    d::with(spec, "limited", |l| {
        d::unset(l, "nominalConcurrencyShares", json!(30));
        d::unset(l, "lendablePercent", json!(0));
        d::with(l, "limitResponse", |r| {
            d::with(r, "queuing", |q| {
                d::zero(q, "handSize", json!(8));
                d::zero(q, "queues", json!(64));
                d::zero(q, "queueLengthLimit", json!(50));
            });
        });
    });
}

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let f = Field::root(v);
    let s = f.get("spec");
    let (kind, limited, exempt) = (s.get("type"), s.get("limited"), s.get("exempt"));
    let named_exempt = f.get("metadata").get("name").str() == "exempt";
    if (kind.str() == "Exempt") != named_exempt && (kind.str() == "Exempt" || named_exempt) {
        kind.invalid(&mut e, "must be 'Exempt' if and only if `name` is 'exempt'");
    }
    match kind.str() {
        "Exempt" => {
            if limited.is_set() {
                limited.forbidden(&mut e, "must be nil if the type is not Limited");
            }
            shares(&exempt, &mut e);
        }
        "Limited" => {
            if exempt.is_set() {
                exempt.forbidden(&mut e, "must be nil if the type is Limited");
            }
            if limited.is_set() {
                self::limited(&limited, &mut e);
            } else {
                limited.required(&mut e, "must not be empty when type is Limited");
            }
        }
        _ => kind.not_supported(&mut e, &["Exempt", "Limited"]),
    }
    e
}

/// How many bits of a hash it takes to deal a hand.
const HASH_BITS: i64 = 60;

fn entropy(queues: i64, hand: i64) -> i64 {
    ((queues as f64).log2() * hand as f64).ceil() as i64
}

/// How much of the server's concurrency it has, and how much of that it lends.
fn shares(f: &Field, e: &mut ErrorList) {
    let (nominal, lent) = (f.get("nominalConcurrencyShares"), f.get("lendablePercent"));
    if nominal.num() < 0 {
        nominal.invalid(e, "must be a non-negative integer");
    }
    if !(0..=100).contains(&lent.num()) {
        lent.invalid(e, "must be between 0 and 100, inclusive");
    }
}

fn limited(f: &Field, e: &mut ErrorList) {
    shares(f, e);
    let borrowed = f.get("borrowingLimitPercent");
    if borrowed.num() < 0 {
        borrowed.invalid(e, "if specified, must be a non-negative integer");
    }
    let response = f.get("limitResponse");
    let queuing = response.get("queuing");
    match response.get("type").str() {
        "Reject" => {
            if queuing.is_set() {
                queuing.forbidden(e, "must be nil if limited.limitResponse.type is not Limited");
            }
        }
        "Queue" => {
            if !queuing.is_set() {
                queuing.required(e, "must not be empty if limited.limitResponse.type is Limited");
                return;
            }
            let (queues, hand, length) =
                (queuing.get("queues"), queuing.get("handSize"), queuing.get("queueLengthLimit"));
            if length.num() <= 0 {
                length.invalid(e, "must be positive");
            }
            if queues.num() <= 0 {
                queues.invalid(e, "must be positive");
            } else if queues.num() > 10_000_000 {
                queues.invalid(e, "must not be greater than 10000000");
            }
            if hand.num() <= 0 {
                hand.invalid(e, "must be positive");
            } else if hand.num() > queues.num() {
                hand.invalid(e, format!("should not be greater than queues ({})", queues.num()));
            } else if entropy(queues.num(), hand.num()) > HASH_BITS {
                let words = "should not be greater than";
                hand.invalid(
                    e,
                    format!(
                        "required entropy bits of deckSize {} and handSize {} {words} {HASH_BITS}",
                        queues.num(),
                        hand.num()
                    ),
                );
            }
        }
        _ => response.get("type").not_supported(e, &["Queue", "Reject"]),
    }
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let s = &o["spec"];
    let queuing = &s["limited"]["limitResponse"]["queuing"];
    let number = |v: &Value| v.as_i64().map_or_else(|| json!("<none>"), |n| json!(n));
    let shares = if s["limited"].is_object() { &s["limited"] } else { &s["exempt"] };
    vec![
        c::name(o),
        c::text(&s["type"]),
        number(&shares["nominalConcurrencyShares"]),
        number(&queuing["queues"]),
        number(&queuing["handSize"]),
        number(&queuing["queueLengthLimit"]),
        c::age(o, p),
    ]
}
