//! Where things are in this checkout.

use std::path::PathBuf;
use std::sync::OnceLock;

/// Root of the checkout. Cargo names the package folder at run time, which stays right when target folders are shared.
pub fn root() -> PathBuf {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(find_root).clone()
}

/// Forgets what `cargo run` says about xtask's own package. Build scripts look at it (ring's, below all of TLS): left in
/// the environment, everything above them is compiled again each time cargo is called with it after being called without.
pub fn leave_package() {
    root();
    let told = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    let names: Vec<_> = std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| name.to_str().is_some_and(told))
        .collect();
    for name in names {
        // SAFETY: called first thing in `main`, before there is a second thread that could read the environment.
        unsafe { std::env::remove_var(name) };
    }
}

fn find_root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .map(PathBuf::from)
        .filter(|path| path.ends_with("xtask"))
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    package.parent().map_or_else(|| package.clone(), PathBuf::from)
}

/// Cargo's target folder, absolute.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Target folder of WebAssembly builds: apart, so that they never wait for the host's build lock.
pub fn wasm_target() -> PathBuf {
    target().join("wasm")
}

/// The host's binary as `cargo build` leaves it.
pub fn host_binary() -> PathBuf {
    target().join("debug").join("helix")
}

/// The cargo that runs us.
pub fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
