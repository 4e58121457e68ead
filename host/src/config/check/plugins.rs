//! Plugins: the declared ones and those that routes name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use super::Check;
use crate::config::source::quoted;
use crate::config::{raw, suggest, valid};
use crate::error;

impl Check<'_> {
    pub(super) fn plugins(
        &mut self,
        raw: &raw::Raw,
        routes: &[valid::Route],
        plugins_dir: &Path,
    ) -> BTreeMap<String, valid::Plugin> {
        self.misspelt(routes);
        let default = raw::Plugin::default();
        let used = routes.iter().map(|r| r.plugin.to_string());
        let names: BTreeSet<String> = raw.plugins.keys().cloned().chain(used).collect();
        names
            .into_iter()
            .map(|name| {
                let declared = raw.plugins.get(&name);
                if declared.is_some() {
                    self.plain_name(&name, &["plugins", &name]);
                }
                let plugin = self.plugin(&name, declared.unwrap_or(&default), routes, plugins_dir);
                (name, plugin)
            })
            .collect()
    }

    /// A route may name a plugin that has no table. But a table nobody uses, and a name one slip away from it, is a slip.
    fn misspelt(&mut self, routes: &[valid::Route]) {
        let used: BTreeSet<&str> = routes.iter().map(|r| &*r.plugin).collect();
        let idle: Vec<String> = self
            .declared
            .plugins
            .iter()
            .filter(|name| !used.contains(name.as_str()))
            .cloned()
            .collect();
        for route in routes {
            if self.declared.plugins.contains(&*route.plugin) {
                continue;
            }
            if let Some(near) = suggest::nearest(&route.plugin, idle.iter().map(String::as_str)) {
                let place = self.route_place(route, "plugin");
                let message = format!("no plugin is named {}", quoted(&route.plugin));
                let also = (
                    self.key_place(&["plugins", near]),
                    "no route uses this one".to_owned(),
                );
                let mut fault =
                    crate::config::Fault::new(error::CONFIG_REFERENCE, place, message).help(format!(
                        "did you mean `{near}`? If not, declare [plugins.{}]",
                        route.plugin
                    ));
                fault.also = Some(also);
                self.push(fault);
            }
        }
    }

    fn plugin(
        &mut self,
        name: &str,
        raw: &raw::Plugin,
        routes: &[valid::Route],
        dir: &Path,
    ) -> valid::Plugin {
        let file = raw.file.clone().unwrap_or_else(|| format!("{name}.wasm"));
        let inside = Path::new(&file)
            .components()
            .all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !inside || file.is_empty() {
            self.fault(
                error::PLUGIN_PATH,
                &["plugins", name, "file"],
                format!("{} is outside the plugins folder", quoted(&file)),
            )
            .help = Some(format!("put the file into {} and name it alone", dir.display()));
        }
        for (n, grant) in raw.fetch.iter().enumerate() {
            if let Some(help) = wrong_host(grant) {
                let path = ["plugins", name, "fetch", &n.to_string()];
                self.fault(
                    error::CONFIG_VALUE,
                    &path,
                    format!("{} is no host to fetch from", quoted(grant)),
                )
                .help = Some(help);
            }
        }
        for (n, grant) in raw.publish.iter().enumerate() {
            if grant.is_empty() {
                self.fault(
                    error::CONFIG_VALUE,
                    &["plugins", name, "publish", &n.to_string()],
                    "an empty name",
                );
            }
        }
        let env = raw
            .env
            .iter()
            .map(|(key, value)| (key.clone(), self.reference(value, &["plugins", name, "env", key])))
            .collect();
        let demand: usize = routes
            .iter()
            .filter(|r| &*r.plugin == name)
            .map(|r| r.concurrency)
            .sum();
        valid::Plugin {
            name: name.to_owned(),
            file: dir.join(file),
            publish: raw
                .publish
                .iter()
                .map(|p| valid::Pattern::new(p.as_str()))
                .collect(),
            fetch: raw.fetch.iter().map(|host| host.to_ascii_lowercase()).collect(),
            fetch_private: raw.fetch_private,
            fetch_timeout: raw.fetch_timeout.0,
            env,
            memory_bytes: raw.memory.0,
            table_elements: raw.table_elements,
            handles: raw.handles,
            outputs: raw.outputs,
            output_bytes: raw.output_size.0,
            log_lines: raw.log_lines,
            instances: raw
                .instances
                .unwrap_or(if demand == 0 { raw::CONCURRENCY } else { demand }),
            calls_per_instance: raw.calls_per_instance,
            digest: raw.digest.as_ref().and_then(|digest| self.digest(digest, name)),
            declared_at: self.declared_at(&["plugins", name]),
        }
    }

    /// As [`crate::model::Digest`] shows itself.
    fn digest(&mut self, text: &str, name: &str) -> Option<String> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text).to_ascii_lowercase();
        if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Some(format!("sha256:{hex}"));
        }
        self.fault(
            error::CONFIG_VALUE,
            &["plugins", name, "digest"],
            format!("{} is no digest", quoted(text)),
        )
        .help = Some("64 hex digits, as `helix plugin inspect` and `sha256sum` print them".into());
        None
    }
}

/// What is wrong with a fetch grant.
fn wrong_host(grant: &str) -> Option<String> {
    if let Some((_, rest)) = grant.split_once("://") {
        let host = rest.split('/').next().unwrap_or_default();
        return Some(format!(
            "a grant is a host without a scheme: \"{}\"",
            host.escape_default()
        ));
    }
    if let Some((host, _)) = grant.split_once('/') {
        return Some(format!(
            "a grant covers a whole host, paths cannot be granted: \"{}\"",
            host.escape_default()
        ));
    }
    if grant == "*" || grant == "*." {
        return Some("every host is too many; name them, or their domain: \"*.example.com\"".into());
    }
    let v6 = grant.strip_prefix('[').and_then(|g| g.split_once(']'));
    let (host, port) = match v6 {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.trim_start_matches(':'))),
        None => grant
            .rsplit_once(':')
            .map_or((grant, None), |(host, port)| (host, Some(port))),
    };
    let name = host.strip_prefix("*.").unwrap_or(host);
    let named = !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    let good_host = if v6.is_some() {
        host.parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        named
    };
    let good_port = port.is_none_or(|p| p.parse::<u16>().is_ok_and(|p| p > 0));
    (!good_host || !good_port).then(|| {
        "a grant is \"host\", \"host:port\" or \"*.example.com\"; the star covers subdomains only".into()
    })
}
