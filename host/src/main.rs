//! Parse, call the library, map the error to an exit code.

use std::process::ExitCode;

use clap::Parser;
use helix_host::cli::{Cli, Exit};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Two providers in one build would panic at the first handshake; the choice is made once, here.
    drop(rustls::crypto::ring::default_provider().install_default());
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Exit::failed(format!("cannot start the async runtime: {error}")).report(),
    };
    let result = runtime.block_on(cli.run());
    // Blocking work that overstays (a compile) must not hold the process open.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => exit.report(),
    }
}
