//! Compiles `ebpf/programs` for the kernel.
//!
//! The target `bpfel-unknown-none` has no prebuilt `core`, so the compiler's own library sources are needed,
//! and bpf-linker, which has to load the same LLVM as the compiler. This build is nested in a cargo that may
//! run another toolchain: everything that one exports is taken away from it again.

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What to type when there is no compiler for the job.
const INSTALL_COMPILER: &str = "no compiler can build for BPF here: run `rustup toolchain install nightly --component rust-src`, \
     or on Debian `apt-get install rustc-web cargo-web rust-web-src`";
/// What to type when there is no linker.
const INSTALL_LINKER: &str = "bpf-linker is missing: run `cargo install bpf-linker --version 0.10.4 --locked` (with LLVM 22 for Debian's compiler)";

/// A compiler with the sources of its own library.
pub struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    /// The LLVM library that the compiler uses.
    llvm: PathBuf,
    /// Whether unstable options must be unlocked.
    stable: bool,
    /// Shown to the user.
    pub name: &'static str,
}

/// Builds the programs and returns the path of the object file, `target/bpf/programs.o`.
///
/// With `release` false the object keeps its source lines for `bpftool prog dump`; the code is the same,
/// because the kernel's verifier accepts optimized code only.
///
/// # Errors
/// One sentence on what to install when there is no usable compiler or linker; what the compiler printed is
/// left on stderr.
pub fn build(workspace: &Path, release: bool) -> Result<PathBuf> {
    let out = workspace.join("target/bpf");
    fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    let linker = linker().context(INSTALL_LINKER)?;
    let Some(toolchain) = toolchain() else { bail!(INSTALL_COMPILER) };
    let llvm = only_llvm(&out, &toolchain.llvm)?;
    let arch = std::env::consts::ARCH;
    let target = if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    let flags = [
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        // Without this, every memset and memmove is a call of a loop over bytes.
        "-Clink-arg=--disable-expand-memcpy-in-order".into(),
        "-Ctarget-cpu=v3".into(),
        format!("-Clinker={}", linker.display()),
    ];
    let mut cargo = Command::new(&toolchain.cargo);
    for (key, _) in std::env::vars_os() {
        if key.to_str().is_some_and(inherited_from_outer_cargo) {
            cargo.env_remove(key);
        }
    }
    cargo
        .current_dir(workspace)
        .args(["build", "--quiet", "--release", "-Zbuild-std=core", "--package", "fairlead-programs"])
        .args(["--bin", "programs", "--target", target, "--target-dir"])
        .arg(&out)
        .env("RUSTC", &toolchain.rustc)
        .env("LD_LIBRARY_PATH", &llvm)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
        .env("CARGO_PROFILE_RELEASE_STRIP", "none")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "2")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .stdin(Stdio::null());
    if toolchain.stable {
        cargo.env("RUSTC_BOOTSTRAP", "1");
    }
    let status = cargo.status().with_context(|| format!("run {}", toolchain.cargo.display()))?;
    ensure!(status.success(), "the eBPF programs did not compile ({})", toolchain.name);
    install(&out.join(target).join("release/programs"), &out.join("programs.o"), release)
}

/// Variables that a surrounding cargo, rustup or user set for the host's build.
fn inherited_from_outer_cargo(key: &str) -> bool {
    const EXACT: [&str; 8] = [
        "CARGO",
        "RUSTC",
        "RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTUP_TOOLCHAIN",
        "RUSTDOC",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUST_RECURSION_COUNT",
    ];
    const PREFIXES: [&str; 7] = [
        "CARGO_ENCODED_",
        "CARGO_BUILD_",
        "CARGO_TARGET_",
        "CARGO_PROFILE_",
        "CARGO_PKG_",
        "CARGO_MANIFEST_",
        "CARGO_CFG_",
    ];
    EXACT.contains(&key) || PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

/// Puts the object in its place in one step, so that nobody maps half a file.
fn install(built: &Path, object: &Path, release: bool) -> Result<PathBuf> {
    let fresh = object.with_extension("o.new");
    fs::copy(built, &fresh).with_context(|| format!("copy {}", built.display()))?;
    if release {
        // BTF stays: only DWARF, which the kernel never reads, goes. Without llvm-objcopy it stays, too.
        let _ = Command::new("llvm-objcopy").arg("--strip-debug").arg(&fresh).stderr(Stdio::null()).status();
    }
    fs::rename(&fresh, object).with_context(|| format!("rename to {}", object.display()))?;
    Ok(object.to_owned())
}

/// Where bpf-linker is: on the PATH, or where `cargo install` puts it.
pub fn linker() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    folders.push(crate::host::home_bin());
    folders.into_iter().map(|folder| folder.join("bpf-linker")).find(|path| path.is_file())
}

/// The compiler that [`build`] would use; none when nothing on this machine can compile for BPF.
pub fn toolchain() -> Option<Toolchain> {
    rustup_nightly().or_else(debian)
}

/// A nightly of rustup that has the component rust-src.
fn rustup_nightly() -> Option<Toolchain> {
    let cargo = PathBuf::from(
        output(Command::new("rustup").args(["which", "--toolchain", "nightly", "cargo"]))?.trim(),
    );
    let rustc = cargo.parent()?.join("rustc");
    let sysroot = sysroot_with_sources(&rustc)?;
    let llvm = find_llvm(&rustc, &[sysroot.join("lib")])?;
    Some(Toolchain { cargo, rustc, llvm, stable: false, name: "rustup nightly" })
}

/// Debian's compiler, whose sources are a package of their own (`rust-web-src` or `rust-src`).
fn debian() -> Option<Toolchain> {
    let (cargo, rustc) = (PathBuf::from("/usr/bin/cargo"), PathBuf::from("/usr/bin/rustc"));
    sysroot_with_sources(&rustc)?;
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let llvm = find_llvm(&rustc, &[multiarch.into(), "/usr/lib64".into(), "/usr/lib".into()])?;
    cargo.is_file().then_some(Toolchain { cargo, rustc, llvm, stable: true, name: "Debian's rustc" })
}

/// The compiler's sysroot, if the sources of its library are in it.
fn sysroot_with_sources(rustc: &Path) -> Option<PathBuf> {
    let sysroot = PathBuf::from(output(Command::new(rustc).args(["--print", "sysroot"]))?.trim());
    sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file().then_some(sysroot)
}

/// The LLVM library of the compiler's version in one of the folders.
fn find_llvm(rustc: &Path, folders: &[PathBuf]) -> Option<PathBuf> {
    let about = output(Command::new(rustc).arg("-vV"))?;
    let version = about.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    let mut parts = version.split('.');
    let (major, minor) = (parts.next()?, parts.next()?);
    let names = [format!("libLLVM.so.{major}.{minor}"), format!("libLLVM-{major}.so")];
    let files = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    files
        .filter(|file| {
            file.file_name().to_str().is_some_and(|file| names.iter().any(|name| file.starts_with(name)))
        })
        .map(|file| file.path())
        .next()
}

/// A folder with a link to that library and nothing else: bpf-linker loads the first LLVM that it meets.
fn only_llvm(out: &Path, library: &Path) -> Result<PathBuf> {
    let folder = out.join("llvm");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("empty {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let link = folder.join(library.file_name().context("a library has a file name")?);
    std::os::unix::fs::symlink(library, &link).with_context(|| format!("link {}", link.display()))?;
    Ok(folder)
}

fn output(command: &mut Command) -> Option<String> {
    // rustup must not take the toolchain of the cargo around us for an answer.
    let done =
        command.env_remove("RUSTUP_TOOLCHAIN").stderr(Stdio::null()).stdin(Stdio::null()).output().ok()?;
    done.status.success().then(|| String::from_utf8_lossy(&done.stdout).into_owned())
}
