//! Which hosts a plugin may fetch from: `host`, `host:port`, `*.domain`. Pure.

/// Whether one of `grants` names `host` (lower case, as a parsed URL gives it) at `port`.
pub(super) fn allows(grants: &[String], host: &str, port: u16) -> bool {
    let host = host
        .trim_end_matches('.')
        .trim_start_matches('[')
        .trim_end_matches(']');
    grants.iter().any(|grant| matches(grant, host, port))
}

fn matches(grant: &str, host: &str, port: u16) -> bool {
    let (name, wanted) = split(grant);
    if wanted.is_some_and(|wanted| wanted != port) {
        return false;
    }
    match name.strip_prefix("*.") {
        Some(domain) => {
            // Subdomains only, and at a dot: `*.example.com` is neither `example.com` nor `badexample.com`.
            host.len() > domain.len() + 1
                && host.len().checked_sub(domain.len()).is_some_and(|at| {
                    host.is_char_boundary(at)
                        && host.split_at(at).1.eq_ignore_ascii_case(domain)
                        && host.split_at(at).0.ends_with('.')
                })
        }
        None => !name.is_empty() && name.eq_ignore_ascii_case(host),
    }
}

/// `[::1]:80`, `::1`, `host:80`, `host`.
fn split(grant: &str) -> (&str, Option<u16>) {
    if let Some(rest) = grant.strip_prefix('[')
        && let Some((name, port)) = rest.split_once(']')
    {
        return (name, port.strip_prefix(':').and_then(|p| p.parse().ok()));
    }
    match grant.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') => match port.parse() {
            Ok(port) => (name, Some(port)),
            // A port that is none grants nothing.
            Err(_) => ("", None),
        },
        _ => (grant, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(grant: &str, host: &str, port: u16) -> bool {
        allows(&[grant.to_owned()], host, port)
    }

    #[test]
    fn names_ports_and_subdomains() {
        assert!(ask("api.example.com", "api.example.com", 443));
        assert!(ask("api.example.com", "api.example.com.", 8080));
        assert!(ask("API.example.com:443", "api.example.com", 443));
        assert!(!ask("api.example.com:443", "api.example.com", 80));
        assert!(ask("*.example.com", "a.b.example.com", 443));
        assert!(!ask("*.example.com", "example.com", 443));
        assert!(!ask("*.example.com", "badexample.com", 443));
        assert!(!ask("*.example.com", ".example.com", 443));
        assert!(ask("[::1]:80", "[::1]", 80));
        assert!(ask("::1", "::1", 80));
        assert!(!ask("host:x", "host", 80));
        assert!(!ask("host:x", "", 80));
        assert!(!ask("*", "anything", 80));
    }
}
