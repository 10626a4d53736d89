//! Holds the namespaces of a pod: sleeps, reaps orphans when it is PID 1 of a shared PID namespace, and leaves on
//! SIGTERM or SIGINT.
//!
//! It needs no runtime and no allocation, so that one per pod costs next to nothing.

/// The set of signals this process takes synchronously.
fn blocked_signals() -> libc::sigset_t {
    // SAFETY: `sigset_t` is a plain array of integers; all-zero is a value of the type and `sigemptyset` sets it up.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a valid, exclusively borrowed `sigset_t` for the length of these calls.
    unsafe {
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGCHLD] {
            libc::sigaddset(&raw mut set, signal);
        }
        // Blocked rather than handled: PID 1 gets no default action, and `sigwait` takes them without a handler.
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
    set
}

/// Collects every child that has ended, so that none stays a zombie.
fn reap() {
    loop {
        // SAFETY: a null status pointer is allowed; WNOHANG never blocks.
        let pid = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
        if pid <= 0 {
            return;
        }
    }
}

fn main() {
    let set = blocked_signals();
    reap();
    loop {
        let mut signal: libc::c_int = 0;
        // SAFETY: both pointers are to live locals of the right types.
        let result = unsafe { libc::sigwait(&raw const set, &raw mut signal) };
        match (result, signal) {
            (0, libc::SIGCHLD) => reap(),
            (0, _) => return,
            _ => std::process::exit(1),
        }
    }
}
