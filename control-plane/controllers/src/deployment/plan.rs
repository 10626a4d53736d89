//! The sizes of a deployment's ReplicaSets, step by step. Pure: numbers in, numbers out.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::revision;

/// What a deployment allows while it rolls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Replicas asked for.
    pub replicas: i32,
    /// Replicas beyond those.
    pub max_surge: i32,
    /// Replicas of those that may be missing.
    pub max_unavailable: i32,
    /// Strategy Recreate: everything old goes before anything new comes.
    pub recreate: bool,
}

impl Limits {
    /// Reads the strategy; percentages are of the replicas, surge rounded up, unavailability down.
    pub fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.as_ref();
        let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let strategy = spec.and_then(|spec| spec.strategy.as_ref());
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
            return Self { replicas, max_surge: 0, max_unavailable: 0, recreate: true };
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let quarter = IntOrString::String("25%".to_owned());
        let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref()).unwrap_or(&quarter);
        let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&quarter);
        let max_surge = resolve(surge, replicas, true);
        let mut max_unavailable = resolve(unavailable, replicas, false);
        if max_surge == 0 && max_unavailable == 0 {
            // Both can round to nothing; then the roll could never move.
            max_unavailable = 1;
        }
        Self { replicas, max_surge, max_unavailable: max_unavailable.min(replicas), recreate: false }
    }

    /// The most replicas that may exist at once.
    pub fn most(&self) -> i32 {
        self.replicas.saturating_add(self.max_surge)
    }
}

/// A number, or a percentage of `of`.
pub fn resolve(value: &IntOrString, of: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(count) => (*count).max(0),
        IntOrString::String(text) => {
            let percent =
                text.strip_suffix('%').and_then(|number| number.parse::<i64>().ok()).unwrap_or_default();
            let product = percent.clamp(0, i64::from(i32::MAX)) * i64::from(of);
            let whole = if up { (product + 99) / 100 } else { product / 100 };
            i32::try_from(whole).unwrap_or(i32::MAX)
        }
    }
}

/// One ReplicaSet as the plan sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Which ReplicaSet.
    pub uid: String,
    /// Replicas it is asked for.
    pub replicas: i32,
    /// Replicas it reports as available.
    pub available: i32,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// The most replicas the deployment allowed when this set was last sized.
    pub most: Option<i32>,
    /// The replicas of the deployment when this set was last sized.
    pub desired: Option<i32>,
}

impl Scale {
    /// Reads one ReplicaSet.
    pub fn of(set: &ReplicaSet) -> Self {
        let status = set.status.as_ref();
        Self {
            uid: set.metadata.uid.clone().unwrap_or_default(),
            replicas: set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
            available: status.and_then(|status| status.available_replicas).unwrap_or_default(),
            created: set.metadata.creation_timestamp.as_ref().map(|time| time.0),
            most: revision::number(set, revision::MAX_REPLICAS),
            desired: revision::number(set, revision::DESIRED_REPLICAS),
        }
    }
}

/// A ReplicaSet and the size to give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which ReplicaSet.
    pub uid: String,
    /// Its new size.
    pub to: i32,
}

fn step(scale: &Scale, to: i32) -> Step {
    Step { uid: scale.uid.clone(), to }
}

fn total<'a>(scales: impl IntoIterator<Item = &'a Scale>) -> i32 {
    scales.into_iter().map(|scale| scale.replicas).sum()
}

/// Whether the deployment's size changed since its ReplicaSets were sized.
pub fn is_rescaled<'a>(limits: &Limits, sets: impl Iterator<Item = &'a ReplicaSet>) -> bool {
    let mut active = sets.map(Scale::of).filter(|scale| scale.replicas > 0);
    active.any(|scale| scale.desired.is_some_and(|desired| desired != limits.replicas))
}

/// The size a new ReplicaSet may start with, given all others.
pub fn first_size(limits: &Limits, others: &[Scale]) -> i32 {
    if limits.recreate {
        return limits.replicas;
    }
    (limits.most() - total(others)).clamp(0, limits.replicas)
}

/// Gives the new ReplicaSet as many replicas as the surge leaves room for. `all` includes it.
pub fn grow_new(limits: &Limits, all: &[Scale], new: Option<&Scale>) -> Vec<Step> {
    let Some(new) = new else { return Vec::new() };
    let to = if new.replicas > limits.replicas || limits.recreate {
        limits.replicas
    } else {
        let room = (limits.most() - total(all)).max(0);
        new.replicas + room.min(limits.replicas - new.replicas)
    };
    if to == new.replicas { Vec::new() } else { vec![step(new, to)] }
}

/// Takes replicas from the old ReplicaSets: unhealthy ones first, then as many as availability allows.
pub fn shrink_old(limits: &Limits, old: &[Scale], new: Option<&Scale>) -> Vec<Step> {
    if total(old) == 0 {
        return Vec::new();
    }
    let least = limits.replicas - limits.max_unavailable;
    let (new_replicas, new_available) = new.map_or((0, 0), |new| (new.replicas, new.available));
    let mut budget = total(old) + new_replicas - least - (new_replicas - new_available);
    if budget <= 0 {
        return Vec::new();
    }
    let mut sizes: Vec<(&Scale, i32)> = old.iter().map(|scale| (scale, scale.replicas)).collect();
    sizes.sort_by_key(|(scale, _)| scale.created);
    for (scale, size) in &mut sizes {
        let unhealthy = (*size - scale.available).clamp(0, budget);
        *size -= unhealthy;
        budget -= unhealthy;
    }
    let available: i32 = old.iter().map(|scale| scale.available).sum::<i32>() + new_available;
    let mut spare = (available - least).max(0);
    for (_, size) in &mut sizes {
        let taken = (*size).min(spare);
        *size -= taken;
        spare -= taken;
    }
    let changed = sizes.into_iter().filter(|(scale, size)| *size != scale.replicas);
    changed.map(|(scale, size)| step(scale, size)).collect()
}

/// Takes every replica from the old ReplicaSets.
pub fn empty(old: &[Scale]) -> Vec<Step> {
    old.iter().filter(|scale| scale.replicas > 0).map(|scale| step(scale, 0)).collect()
}

/// Brings the ReplicaSets to the deployment's size without rolling: the only active one takes all of it, several
/// share it in proportion. `reported` is the deployment's last reported size.
pub fn rescale(limits: &Limits, old: &[Scale], new: Option<&Scale>, reported: i32) -> Vec<Step> {
    let active: Vec<&Scale> = old.iter().chain(new).filter(|scale| scale.replicas > 0).collect();
    match active.as_slice() {
        [] => {
            let latest = new.or_else(|| old.iter().max_by_key(|scale| scale.created));
            return latest.map(|scale| step(scale, limits.replicas)).into_iter().collect();
        }
        [only] => return vec![step(only, limits.replicas)],
        _ => {}
    }
    let saturated = new.is_some_and(|new| {
        let size = Some(limits.replicas);
        new.desired == size && Some(new.replicas) == size && Some(new.available) == size
    });
    if saturated {
        return empty(old);
    }
    if limits.recreate { Vec::new() } else { share(limits, active, reported) }
}

fn share(limits: &Limits, mut active: Vec<&Scale>, reported: i32) -> Vec<Step> {
    let allowed = if limits.replicas > 0 { limits.most() } else { 0 };
    let to_add = allowed - total(active.iter().copied());
    // The largest set takes the rounding; among equals the newest when growing, the oldest when shrinking.
    active.sort_by(|a, b| {
        let by_age = if to_add > 0 { b.created.cmp(&a.created) } else { a.created.cmp(&b.created) };
        b.replicas.cmp(&a.replicas).then(by_age)
    });
    let mut added = 0;
    let mut sizes = Vec::with_capacity(active.len());
    for scale in &active {
        let left = to_add - added;
        let share = fraction(limits, scale, reported);
        let share = if left == 0 {
            0
        } else if to_add > 0 {
            share.min(left)
        } else {
            share.max(left)
        };
        added += share;
        sizes.push(scale.replicas + share);
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    active.iter().zip(sizes).map(|(scale, size)| step(scale, size)).collect()
}

/// What one set gains or loses when the whole grows or shrinks in proportion.
fn fraction(limits: &Limits, scale: &Scale, reported: i32) -> i32 {
    if limits.replicas == 0 {
        return -scale.replicas;
    }
    let before = scale.most.filter(|most| *most > 0).unwrap_or(reported).max(1);
    let product = i64::from(scale.replicas) * i64::from(limits.most());
    let before = i64::from(before);
    let rounded = (2 * product + before) / (2 * before);
    i32::try_from(rounded).unwrap_or(i32::MAX) - scale.replicas
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(replicas: i32, max_surge: i32, max_unavailable: i32) -> Limits {
        Limits { replicas, max_surge, max_unavailable, recreate: false }
    }

    fn scale(uid: &str, replicas: i32, available: i32) -> Scale {
        Scale { uid: uid.into(), replicas, available, created: None, most: None, desired: None }
    }

    fn sizes(steps: Vec<Step>) -> Vec<(String, i32)> {
        steps.into_iter().map(|step| (step.uid, step.to)).collect()
    }

    fn expected(list: &[(&str, i32)]) -> Vec<(String, i32)> {
        list.iter().map(|(uid, to)| ((*uid).to_owned(), *to)).collect()
    }

    #[test]
    fn percentages_round_surge_up_and_unavailability_down() {
        let quarter = IntOrString::String("25%".into());
        assert_eq!(resolve(&quarter, 10, true), 3);
        assert_eq!(resolve(&quarter, 10, false), 2);
        assert_eq!(resolve(&IntOrString::Int(4), 10, true), 4);
        let deployment: Deployment = serde_json::from_value(serde_json::json!({"spec": {
            "replicas": 1, "selector": {}, "template": {},
            "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "25%"}}}}))
        .unwrap();
        assert_eq!(Limits::of(&deployment).max_unavailable, 1);
    }

    #[track_caller]
    fn grows(limits: Limits, old: i32, new: i32, to: Option<i32>) {
        let new = scale("new", new, 0);
        let all = [scale("old", old, old), new.clone()];
        let steps = grow_new(&limits, &all, Some(&new));
        assert_eq!(steps.first().map(|step| step.to), to);
    }

    #[test]
    fn the_new_set_grows_into_the_surge_only() {
        grows(limits(4, 1, 1), 4, 0, Some(1));
        grows(limits(4, 1, 1), 4, 1, None);
        grows(limits(4, 1, 1), 2, 1, Some(3));
        grows(limits(4, 4, 0), 4, 0, Some(4));
        grows(limits(4, 1, 1), 0, 6, Some(4));
        grows(limits(4, 1, 1), 0, 4, None);
        grows(Limits { recreate: true, ..limits(4, 0, 0) }, 0, 0, Some(4));
    }

    #[track_caller]
    fn shrinks(limits: Limits, old: &[Scale], new: Scale, to: &[(&str, i32)]) {
        assert_eq!(sizes(shrink_old(&limits, old, Some(&new))), expected(to));
    }

    #[test]
    fn old_sets_shrink_as_far_as_availability_allows() {
        shrinks(limits(4, 1, 1), &[scale("a", 4, 4)], scale("new", 1, 0), &[("a", 3)]);
        shrinks(limits(4, 1, 0), &[scale("a", 4, 4)], scale("new", 1, 0), &[]);
        shrinks(limits(4, 1, 0), &[scale("a", 4, 4)], scale("new", 1, 1), &[("a", 3)]);
        shrinks(limits(4, 1, 1), &[scale("a", 1, 1)], scale("new", 4, 4), &[("a", 0)]);
        // Unhealthy replicas cost no availability and go first.
        shrinks(limits(4, 1, 1), &[scale("a", 4, 2)], scale("new", 1, 0), &[("a", 3)]);
        shrinks(limits(4, 4, 1), &[scale("a", 4, 0)], scale("new", 4, 1), &[("a", 2)]);
    }

    #[test]
    fn a_whole_roll_ends_and_never_breaks_its_limits() {
        for (replicas, surge, unavailable) in [(4, 1, 0), (4, 0, 1), (10, 3, 2), (1, 1, 0), (3, 3, 3)] {
            let limits = limits(replicas, surge, unavailable);
            let (mut old, mut new) = (scale("old", replicas, replicas), scale("new", 0, 0));
            for _ in 0..100 {
                let mut steps = grow_new(&limits, &[old.clone(), new.clone()], Some(&new));
                if steps.is_empty() {
                    steps = shrink_old(&limits, std::slice::from_ref(&old), Some(&new));
                }
                for step in steps {
                    if step.uid == "old" { old.replicas = step.to } else { new.replicas = step.to }
                }
                old.available = old.available.min(old.replicas);
                assert!(old.replicas + new.replicas <= limits.most());
                assert!(old.available + new.available >= replicas - unavailable);
                // One new replica becomes available at a time.
                new.available = (new.available + 1).min(new.replicas);
            }
            assert_eq!((old.replicas, new.replicas), (0, replicas));
        }
    }

    #[test]
    fn scaling_in_the_middle_of_a_roll_is_shared_in_proportion() {
        let sized =
            |uid, replicas| Scale { most: Some(13), desired: Some(10), ..scale(uid, replicas, replicas) };
        let steps = rescale(&limits(15, 3, 2), &[sized("old", 8)], Some(&sized("new", 5)), 13);
        assert_eq!(sizes(steps), expected(&[("old", 11), ("new", 7)]));
        let steps = rescale(&limits(0, 1, 1), &[sized("old", 8)], Some(&sized("new", 5)), 13);
        assert_eq!(sizes(steps), expected(&[("old", 0), ("new", 0)]));
        let steps = rescale(&limits(7, 1, 1), &[sized("old", 0)], Some(&sized("new", 5)), 5);
        assert_eq!(sizes(steps), expected(&[("new", 7)]));
    }
}
