//! A throw-away CA with a server and a client certificate, made by the openssl program.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::run::quiet;

/// Common name of the client certificate; RabbitMQ's EXTERNAL logs in under it.
const CLIENT: &str = "helix";

/// Writes `ca`, `server`, `client` and `other-ca` (`.pem`, `.key`), and `server-keystore.pem` for Kafka, into `dir`
/// unless they are there. Keys are EC P-256 without pass phrase: for tests on loopback only.
pub fn make(dir: &Path) -> Result<()> {
    let complete = dir.join(".complete");
    if complete.exists() {
        return Ok(());
    }
    crate::install::apt(&["openssl"], || !crate::run::exists("openssl"))?;
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    authority(dir, "ca", "Helix throw-away CA")?;
    authority(dir, "other-ca", "Some other CA")?;
    let server = "extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1\n";
    leaf(dir, "server", "localhost", server)?;
    let client = format!("extendedKeyUsage=clientAuth\nsubjectAltName=DNS:{CLIENT}\n");
    leaf(dir, "client", CLIENT, &client)?;
    fs::write(complete, "")?;
    Ok(())
}

fn openssl(dir: &Path, args: &[&str]) -> Result<()> {
    quiet(Command::new("openssl").args(args).current_dir(dir)).map(drop)
}

fn key(dir: &Path, name: &str) -> Result<()> {
    let file = format!("{name}.key");
    openssl(
        dir,
        &[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-out",
            &file,
        ],
    )
}

fn authority(dir: &Path, name: &str, common_name: &str) -> Result<()> {
    key(dir, name)?;
    // A configuration of our own: the system's adds extensions that -addext would then repeat.
    let config = "[req]\ndistinguished_name=dn\nx509_extensions=ext\n[dn]\n[ext]\nbasicConstraints=critical,CA:TRUE\n\
                  keyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n";
    let config_file = format!("{name}.cnf");
    fs::write(dir.join(&config_file), config)?;
    let (key, cert) = (format!("{name}.key"), format!("{name}.pem"));
    let subject = format!("/O=Helix tests/CN={common_name}");
    openssl(
        dir,
        &[
            "req",
            "-x509",
            "-new",
            "-config",
            &config_file,
            "-key",
            &key,
            "-sha256",
            "-days",
            "30",
            "-subj",
            &subject,
            "-out",
            &cert,
        ],
    )
}

fn leaf(dir: &Path, name: &str, common_name: &str, extensions: &str) -> Result<()> {
    key(dir, name)?;
    let extensions = format!("basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\n{extensions}");
    let file = |suffix: &str| format!("{name}.{suffix}");
    fs::write(dir.join(file("ext")), extensions)?;
    let subject = format!("/O=Helix tests/CN={common_name}");
    openssl(
        dir,
        &[
            "req",
            "-new",
            "-config",
            "ca.cnf",
            "-key",
            &file("key"),
            "-subj",
            &subject,
            "-out",
            &file("csr"),
        ],
    )?;
    openssl(
        dir,
        &[
            "x509",
            "-req",
            "-in",
            &file("csr"),
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-sha256",
            "-days",
            "30",
            "-extfile",
            &file("ext"),
            "-out",
            &file("pem"),
        ],
    )?;
    let mut store = fs::read(dir.join(file("key")))?;
    store.extend(fs::read(dir.join(file("pem")))?);
    store.extend(fs::read(dir.join("ca.pem"))?);
    fs::write(dir.join(format!("{name}-keystore.pem")), store)?;
    Ok(())
}
