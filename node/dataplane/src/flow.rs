//! Drop records of the programs -> structured log.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use aya::maps::{MapData, RingBuf};
use fairlead_abi::{FlowEvent, Reason};
use tokio::io::{Interest, unix::AsyncFd};
use tokio_util::sync::CancellationToken;
use zerocopy::FromBytes;

use crate::status::Status;

/// Lines logged per second at most; every drop is counted in metrics all the same.
const LINES_PER_SECOND: u32 = 20;

struct Readable(RingBuf<MapData>);

impl AsRawFd for Readable {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Readable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Reads the ring buffer until `shutdown` is cancelled.
///
/// # Errors
/// When the ring buffer cannot be polled.
pub async fn read(
    ring: RingBuf<MapData>,
    status: Arc<Status>,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    // SAFETY: `Readable` owns the ring buffer's descriptor and gives the same open one for as long as it lives.
    let mut ring = unsafe { AsyncFd::register_with_interest(Readable(ring), Interest::READABLE) }?;
    let (mut second, mut lines) = (Instant::now(), 0);
    loop {
        let mut guard = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            guard = ring.readable_mut() => guard?,
        };
        while let Some(record) = guard.get_inner_mut().0.next() {
            let Ok((event, _)) = FlowEvent::read_from_prefix(&record) else { continue };
            if second.elapsed() >= Duration::from_secs(1) {
                (second, lines) = (Instant::now(), 0);
            }
            lines += 1;
            if lines <= LINES_PER_SECOND {
                log(&event, &status);
            } else {
                status.unlogged.fetch_add(1, Ordering::Relaxed);
            }
        }
        guard.clear_ready();
    }
}

fn log(event: &FlowEvent, status: &Status) {
    let reason = Reason::from_u32(u32::from(event.reason)).map_or("unknown", Reason::name);
    let hook = match event.hook {
        FlowEvent::FROM_POD => "from_pod",
        FlowEvent::TO_POD => "to_pod",
        FlowEvent::FROM_OVERLAY => "from_overlay",
        FlowEvent::TO_OVERLAY => "to_overlay",
        FlowEvent::FROM_UPLINK => "from_uplink",
        FlowEvent::TO_UPLINK => "to_uplink",
        _ => "unknown",
    };
    tracing::info!(
        reason,
        src = %event.src,
        src_port = event.src_port.get(),
        dst = %event.dst,
        dst_port = event.dst_port.get(),
        proto = event.proto,
        hook,
        rule = status.rule_name(event.rule).as_deref().unwrap_or("-"),
        pod = status.pod_name(event.endpoint).as_deref().unwrap_or("-"),
        bytes = event.bytes,
        "packet dropped"
    );
}
