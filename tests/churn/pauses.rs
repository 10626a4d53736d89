//! Times at which the machine itself stood still: what is late by them is not the network's doing. One thread on each
//! processor asks for a short sleep again and again, and notes when it was much longer.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// The sleep that is asked for.
const NAP: Duration = Duration::from_millis(5);

/// What more is counted as standing still.
const NOTICED: Duration = Duration::from_millis(50);

#[derive(Default)]
pub struct Pauses {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<(Instant, Instant)>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pauses {
    /// Starts to watch.
    pub fn watch() -> Pauses {
        let mut pauses = Pauses::default();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        for processor in 0..processors {
            let (stop, seen) = (pauses.stop.clone(), pauses.seen.clone());
            pauses.threads.push(std::thread::spawn(move || {
                stay_on(processor);
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    std::thread::sleep(NAP);
                    if began.elapsed() > NAP + NOTICED {
                        seen.lock().expect("the pauses").push((began + NAP, Instant::now()));
                    }
                }
            }));
        }
        pauses
    }

    /// How much of the time since `began` some processor stood still; what it stands still at the moment is not known.
    pub fn since(&self, began: Instant) -> Duration {
        let seen = self.seen.lock().expect("the pauses");
        seen.iter().map(|(from, to)| to.saturating_duration_since(*from.max(&began))).sum()
    }

    /// The longest one.
    pub fn longest(&self) -> Duration {
        let seen = self.seen.lock().expect("the pauses");
        seen.iter().map(|(from, to)| to.duration_since(*from)).max().unwrap_or_default()
    }
}

impl Drop for Pauses {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

/// Keeps the calling thread on one processor, if that is there.
fn stay_on(processor: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(processor);
    // Where it may not choose, it notices what it can.
    let _chosen = rustix::thread::sched_setaffinity(None, &set);
}
