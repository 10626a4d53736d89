//! May this flow be? NetworkPolicy only allows, so any rule that matches decides.

use crate::{Ends, Maps, Scratch, World};
use fairlead_abi::{Addr, Be16, Be32, Endpoint, Metric, Reason, Rule, RuleKey};

/// Judges a flow by the egress rules of the pod that opens it and the ingress rules of the pod that is asked,
/// as far as they are pods of this node. `reply`: the packet at hand goes the other way.
///
/// # Errors
/// The reason; `scratch` then names rule and endpoint.
#[inline(always)]
pub fn evaluate<W: World>(
    world: &W,
    scratch: &mut Scratch,
    opener: Option<&Endpoint>,
    asked: Option<&Endpoint>,
    reply: bool,
) -> Result<(), Reason> {
    if let (Some(a), Some(b)) = (opener, asked)
        && a.id == b.id
    {
        // "You cannot block a pod from accessing itself" (Kubernetes documentation, Network Policies).
        return Ok(());
    }
    world.count(Metric::PolicyEvaluated);
    if let Some(endpoint) = opener
        && endpoint.egress_ruleset != 0
    {
        let (peer, port) = asked_end(&scratch.to, reply);
        judge(world, scratch, endpoint.egress_ruleset, endpoint.id, &peer, port, Reason::PolicyEgress)?;
    }
    if let Some(endpoint) = asked
        && endpoint.ingress_ruleset != 0
    {
        let peer = if reply { scratch.to.dst } else { scratch.to.src };
        let (_, port) = asked_end(&scratch.to, reply);
        judge(world, scratch, endpoint.ingress_ruleset, endpoint.id, &peer, port, Reason::PolicyIngress)?;
    }
    Ok(())
}

#[inline(always)]
fn asked_end(to: &Ends, reply: bool) -> (Addr, Be16) {
    if reply { (to.src, to.src_port) } else { (to.dst, to.dst_port) }
}

#[inline(always)]
fn judge<W: World>(
    world: &W,
    scratch: &mut Scratch,
    ruleset: u32,
    endpoint: u32,
    peer: &Addr,
    port: Be16,
    reason: Reason,
) -> Result<(), Reason> {
    let rule = decide(world, ruleset, peer, scratch.packet.proto, port);
    let allowed = rule.flags & Rule::ALLOW != 0;
    world.count_rule(rule.id, allowed, world.length());
    if allowed {
        return Ok(());
    }
    scratch.rule = rule.id;
    scratch.endpoint = endpoint;
    Err(reason)
}

/// The rule that decides about a peer. Without `ALLOW` it is the ruleset's default, or empty when userspace
/// wrote none.
#[inline(always)]
pub fn decide<M: Maps>(world: &M, ruleset: u32, peer: &Addr, proto: u8, port: Be16) -> Rule {
    let mut key = RuleKey {
        ruleset: Be32::new(ruleset),
        identity: Be32::new(world.identity(peer)),
        proto: Be16::new(u16::from(proto)),
        port,
    };
    let mut default = Rule { id: 0, flags: 0 };
    if key.identity.0 != 0
        && let Some(rule) = world.rule(key)
    {
        if rule.flags & Rule::ALLOW != 0 {
            return rule;
        }
        default = rule;
    }
    key.identity = Be32(0);
    match world.rule(key) {
        Some(rule) => rule,
        None => default,
    }
}
