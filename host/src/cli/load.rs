//! The configuration as the command line asks for it.

use super::{Exit, Global};
use crate::config::{self, LoadRequest, Loaded};

pub fn request(global: &Global, flags: Vec<(String, String)>) -> Result<LoadRequest, Exit> {
    let mut all = Vec::new();
    for set in &global.set {
        let (path, value) = set
            .split_once('=')
            .ok_or_else(|| Exit::usage(format!("--set takes PATH=VALUE, got `{set}`")))?;
        all.push((path.to_owned(), value.to_owned()));
    }
    all.extend(flags);
    Ok(LoadRequest {
        path: global.config.clone(),
        flags: all,
        env: std::env::vars().collect(),
        cwd: std::env::current_dir()
            .map_err(|error| Exit::failed(format!("no working directory: {error}")))?,
    })
}

pub fn load(global: &Global) -> Result<Loaded, Exit> {
    Ok(config::load(request(global, Vec::new())?)?)
}
