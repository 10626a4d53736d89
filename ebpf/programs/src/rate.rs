//! What a pod may send and receive in a second.

use crate::{Scratch, World};
use fairlead_abi::{Endpoint, Rate, RateKey, Reason};

/// Takes the packet's bytes out of a pod's bucket, if it has one in that direction.
///
/// # Errors
/// `RateLimited` when there are not enough; `scratch` then names the endpoint.
#[inline(always)]
pub fn take<W: World>(
    world: &W,
    scratch: &mut Scratch,
    endpoint: &Endpoint,
    direction: u32,
) -> Result<(), Reason> {
    let flag = if direction == RateKey::EGRESS { Endpoint::EGRESS_RATE } else { Endpoint::INGRESS_RATE };
    if endpoint.flags & flag == 0 || draw(world, endpoint.id, direction, scratch.packet.l4) {
        return Ok(());
    }
    scratch.endpoint = endpoint.id;
    Err(Reason::RateLimited)
}

/// `header`: bytes that each segment of a GSO packet has of its own, but for the TCP header.
#[inline(never)]
fn draw<W: World>(world: &W, endpoint: u32, direction: u32, header: u32) -> bool {
    const TCP: u32 = 20;
    let more = world.segments().saturating_sub(1);
    let bytes = u64::from(world.length()) + u64::from(more) * u64::from(header + TCP);
    let now = world.nanoseconds();
    match world.rate(&RateKey { endpoint, direction }) {
        Some(mut rate) => spend(&mut rate, now, bytes),
        // The flag came before the bucket.
        None => true,
    }
}

/// Fills a bucket up to now and takes bytes out of it. Two CPUs that do so at once may both take the same bytes: the
/// bound then holds a little later.
#[inline(always)]
fn spend(rate: &mut Rate, now: u64, bytes: u64) -> bool {
    /// As long as any bucket takes to fill, and short enough that no rate overflows.
    const LONGEST: u64 = 16_000_000;
    let microseconds = now.saturating_sub(rate.time) / 1000;
    let (bytes_per_second, burst) = (rate.bytes_per_second, rate.burst);
    let mut tokens = rate.tokens;
    if microseconds > LONGEST {
        tokens = burst;
        rate.time = now;
    } else if microseconds > 0 {
        let total = microseconds.wrapping_mul(bytes_per_second);
        tokens = tokens.wrapping_add(total / 1_000_000);
        // What was too little for a token stays in the time.
        let rest = (total % 1_000_000 * 1000).checked_div(bytes_per_second).unwrap_or(0);
        rate.time = rate.time.wrapping_add((microseconds * 1000).saturating_sub(rest));
    }
    if tokens > burst {
        tokens = burst;
    }
    // What is larger than the bucket passes when that is full.
    let price = if bytes > burst { burst } else { bytes };
    let enough = tokens >= price;
    rate.tokens = if enough { tokens - price } else { tokens };
    enough
}

#[cfg(test)]
mod tests {
    use super::spend;
    use fairlead_abi::Rate;

    #[test]
    fn a_bucket_passes_its_burst_and_then_its_rate() {
        let mut rate = Rate { bytes_per_second: 125_000, burst: 10_000, tokens: 0, time: 0 };
        let mut now = 1_000_000_000_000;
        let mut passed = 0;
        for _ in 0..100_000 {
            passed += u64::from(spend(&mut rate, now, 1000)) * 1000;
            now += 100_000;
        }
        // Ten seconds.
        assert!((1_250_000..=1_262_000).contains(&passed), "{passed}");
    }

    #[test]
    fn a_packet_larger_than_the_burst_passes_a_full_bucket() {
        let mut rate = Rate { bytes_per_second: 1000, burst: 1500, tokens: 0, time: 0 };
        assert!(spend(&mut rate, 60_000_000_000, 65_000));
        assert!(!spend(&mut rate, 60_100_000_000, 65_000));
        assert!(spend(&mut rate, 62_000_000_000, 65_000));
    }

    #[test]
    fn slow_rates_lose_nothing_to_rounding() {
        let mut rate = Rate { bytes_per_second: 100, burst: 1000, tokens: 0, time: 0 };
        let mut now = 100_000_000_000;
        assert!(spend(&mut rate, now, 1000));
        for _ in 0..10_000 {
            now += 100_000;
            assert!(!spend(&mut rate, now, 1000));
        }
        assert!((99..=100).contains(&rate.tokens), "{}", rate.tokens);
    }
}
