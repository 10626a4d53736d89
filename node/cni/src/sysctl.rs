//! Network sysctls of the calling thread's network namespace.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where sysctls are. Container engines mount /proc/sys read-only; the node's own /proc, mounted beside it, shows the
/// network sysctls of whoever opens them, and so the same namespace.
const ROOTS: [&str; 2] = ["/proc/sys/net", "/host/proc/sys/net"];

/// Sets a sysctl, such as `ipv4/ip_forward`, unless it is so already.
///
/// # Errors
/// NotFound when the kernel does not have it, and what it says otherwise.
pub fn set(name: &str, value: &str) -> io::Result<()> {
    let [own, node] = ROOTS.map(|root| PathBuf::from(root).join(name));
    if fs::read_to_string(&own).is_ok_and(|current| current.trim() == value) {
        return Ok(());
    }
    match fs::write(&own, value) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => fs::write(&node, value),
        other => other,
    }
}

/// Reads a sysctl; None when the kernel does not have it.
#[must_use]
pub fn get(name: &str) -> Option<String> {
    fs::read_to_string(Path::new(ROOTS[0]).join(name)).ok().map(|text| text.trim().to_owned())
}

/// Whether this kernel speaks IPv6 at all.
#[must_use]
pub fn has_ipv6() -> bool {
    Path::new(ROOTS[0]).join("ipv6").is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_so_already_is_not_written() {
        let current = get("ipv4/ip_forward").expect("every kernel forwards or not");
        set("ipv4/ip_forward", &current).expect("nothing to do");
        assert_eq!(get("ipv4/no_such_thing"), None);
        assert_eq!(set("ipv4/no_such_thing", "1").expect_err("none").kind(), io::ErrorKind::NotFound);
    }
}
