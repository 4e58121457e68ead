//! TLS towards the broker: our roots and identity, read again for every connection so that files can be rotated live.

use std::path::Path;

use lapin::tcp::{RustlsConnector, RustlsConnectorConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::valid::Tls;

/// With a CA file only that CA is trusted, otherwise the system's roots. The error says which file and why.
pub fn connector(tls: &Tls) -> Result<RustlsConnector, String> {
    // Ring, explicitly: without a process-wide provider the connector would pick one by itself.
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        let _already_installed = rustls::crypto::ring::default_provider().install_default();
    }
    let identity = match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => {
            let chain = certificates(cert, "tls.cert")?;
            let key_der = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| format!("tls.key {}: no private key in PEM ({error})", key.display()))?;
            Some((chain, key_der))
        }
        (None, None) => None,
        (Some(_), None) => return Err("tls.cert is set, but tls.key is not".to_owned()),
        (None, Some(_)) => return Err("tls.key is set, but tls.cert is not".to_owned()),
    };
    let roots = match &tls.ca {
        Some(path) => {
            RustlsConnectorConfig::default().with_parsable_certificates(certificates(path, "tls.ca")?)
        }
        None => RustlsConnectorConfig::new_with_native_certs().map_err(|error| {
            format!("the system's root certificates cannot be read ({error}); set tls.ca")
        })?,
    };
    let connector = match identity {
        Some((chain, key)) => roots.connector_with_single_cert(chain, key),
        None => roots.connector_with_no_client_auth(),
    };
    connector.map_err(|error| match &tls.ca {
        Some(ca) => format!("{error} (tls.ca {})", ca.display()),
        None => error.to_string(),
    })
}

fn certificates(path: &Path, setting: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match found {
        Ok(found) if found.is_empty() => Err(format!("{setting} {}: no certificate in it", path.display())),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("{setting} {}: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests;
