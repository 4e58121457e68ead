use proptest::prelude::*;

use super::*;

const WHOLE: &str = r#"
[host]
listen = "127.0.0.1:7061"
drain = "25s"
[messaging]
tasks = "rabbitmq"
unrouted = "ignore"
[limits]
message_size = "1MiB"
headers = 0x64
[brokers.rabbitmq]
kind = "rabbitmq"
password = "env:PW"
tls = { ca = "ca.pem" }
[brokers.kafka]
kind = "kafka"
servers = ["a:1", "b:2"]
sasl = { mechanism = "PLAIN", user = "u", password = "env:PW" }
properties = { "client.id" = "x" }
[[routes]]
queue = "helixagent.tasks.*"
plugin = "p"
retry = { max_retries = 1, multiplier = 1.5 }
[plugins.p]
fetch = ["*.example.com"]
env = { A = "b" }
[[formats]]
destination = "*"
format = "raw"
"#;

/// A file with one change: a stretch replaced by something that hurts.
fn mutated() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just(String::new()),
        Just("\"".into()),
        Just("[".into()),
        Just("]]".into()),
        Just("{".into()),
        Just(" = ".into()),
        Just("\n".into()),
        Just("é\u{1b}\0".into()),
        Just("1979-05-27".into()),
        Just("-9223372036854775809".into()),
        Just("nan".into()),
        Just("[[a]]\n[a]\n".into()),
        "[a-z_]{1,12}",
        ".{0,6}",
    ];
    (0..WHOLE.len(), 0..12_usize, piece).prop_map(|(at, len, piece)| {
        let end = (at + len).min(WHOLE.len());
        format!("{}{piece}{}", &WHOLE[..at], &WHOLE[end..])
    })
}

fn check(folder: &Folder, toml: &str) -> Result<(), TestCaseError> {
    folder.write("config/helix.toml", toml);
    if let Err(faults) = folder.load(&[("PW", "s3cret")], &[]) {
        prop_assert!(!faults.0.is_empty());
        for fault in &faults.0 {
            prop_assert!(fault.place.line().is_some(), "no line: {:?}", fault);
            prop_assert!(!fault.message.is_empty());
        }
        let text = faults.render(Style::Plain);
        prop_assert!(!text.contains('\u{1b}') && !text.contains("s3cret"), "{}", text);
        let _ = faults.to_json().to_string();
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_change_of_a_file_makes_a_panic_and_every_fault_has_its_line(toml in mutated()) {
        check(&Folder::new(""), &toml)?;
    }

    #[test]
    fn no_text_makes_a_panic(toml in "(?s).{0,200}") {
        check(&Folder::new(""), &toml)?;
    }

    #[test]
    fn no_variable_makes_a_panic(key in "[A-Z_0-9]{0,20}", section in "(HOST|LIMITS|ROUTES|BROKERS|PLUGINS|MESSAGING)", value in ".{0,20}") {
        let name = format!("HELIX__{section}__{key}");
        if let Err(faults) = Folder::new(ROUTE).load(&[(&name, &value)], &[]) {
            prop_assert!(faults.0.iter().all(|f| matches!(f.place, Place::Env(_)) || f.place.line().is_some()), "{:?}", faults);
            let _ = faults.render(Style::Fancy);
        }
    }
}
