use super::*;

fn shows(helix: &str, parts: &[&str]) -> String {
    let text = faults(helix, &[]).render(Style::Plain);
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    text
}

#[test]
fn a_typo_gives_line_column_and_suggestion() {
    let text = shows(
        "[[routes]]\nqueue = \"helixagent.tasks.llm\"\nplugin = \"p\"\nconcurency = 2\n",
        &[
            "HX0102",
            "unknown key `concurency`",
            "config/helix.toml:4:1",
            "concurency = 2",
            "did you mean `concurrency`?",
        ],
    );
    assert!(!text.contains('\u{1b}'), "plain means no colours");
    assert!(faults("x = 1", &[]).render(Style::Fancy).contains('\u{1b}'));
}

#[test]
fn all_faults_at_once_in_the_order_of_the_file() {
    let toml = "[host]\nlisten = \"here\"\ndrain = 25\nstate-dir = \"x\"\n[limits]\nheaders = 0\n[[routes]]\nqueue = \"helixagent.tasks.lm\"\n";
    let text = shows(
        toml,
        &[
            "`host.listen` cannot be `here`",
            "must be a duration, not a whole number",
            "\"25s\" for seconds",
            "did you mean `state_dir`?",
            "`limits.headers` is 0; it must be from 1 to 10000",
            "`routes[0]` lacks `plugin`",
            "no queue is named `helixagent.tasks.lm`",
            "did you mean `helixagent.tasks.llm`?",
            "6 faults",
        ],
    );
    let lines: Vec<usize> = faults(toml, &[])
        .0
        .iter()
        .filter_map(|f| f.place.line())
        .collect();
    assert_eq!(lines, [2, 3, 4, 6, 7, 8], "{text}");
}

#[test]
fn every_unknown_key_of_one_table_is_named() {
    let found = faults("[host]\nlistn = 1\nfoo = 2\ndrian = \"1s\"\n", &[]);
    let keys: Vec<(usize, String)> = found
        .0
        .iter()
        .filter_map(|f| Some((f.place.line()?, f.message.clone())))
        .collect();
    let wanted = ["listn", "foo", "drian"].map(|key| format!("unknown key `{key}` in `host`"));
    assert_eq!(keys, (2..5).zip(wanted).collect::<Vec<_>>());
}

#[test]
fn json_has_the_same_facts() {
    let json = faults("[host]\nlistn = 1\n", &[]).to_json();
    let fault = &json["faults"][0];
    assert_eq!(fault["code"], "HX0102");
    assert_eq!(
        (fault["line"].as_u64(), fault["column"].as_u64()),
        (Some(2), Some(1))
    );
    assert_eq!(fault["file"], "config/helix.toml");
    assert_eq!(fault["help"], "did you mean `listen`?");
    assert_eq!(fault["docs"], "docs/errors/HX0102.md");
}

#[test]
fn broken_syntax_has_its_line() {
    shows("[host]\nlog = \"info\n", &["HX0101", "config/helix.toml:2"]);
}

#[test]
fn a_key_cannot_be_parked_where_no_order_keeps_it() {
    for order in ["", "order = \"none\"\n", "order = \"partition\"\n"] {
        let toml = format!("{ROUTE}{order}on_dead_letter = \"park\"\n");
        let found = faults(&toml, &[]);
        assert_eq!(found.0.len(), 1, "{found}");
        assert_eq!(found.0[0].place.line(), Some(toml.lines().count()), "{found}");
        shows(&toml, &["HX0103", "no key to park", "set order = \"key\""]);
    }
    shows(
        &format!("{ROUTE}order = \"key\"\non_dead_letter = \"park\"\npark = {{ limit = 0 }}\n"),
        &["it must be from 1 to 10000000"],
    );
}

#[test]
fn contradictions_name_both_values() {
    shows(
        &format!("{ROUTE}retry = {{ delay = \"1m\", max_delay = \"5s\" }}\n"),
        &["delay 1m is longer than max_delay 5s", "against this"],
    );
    shows(
        "[brokers.kafka]\nkind = \"kafka\"\nsession_timeout = \"6s\"\nheartbeat_interval = \"5s\"\n",
        &[
            "heartbeat_interval 5s",
            "session_timeout 6s",
            "config/helix.toml:4",
        ],
    );
    shows(
        &format!("{ROUTE}topic = \"helixagent.events.audit\"\n"),
        &["`queue` or `topic`, not both"],
    );
    shows(
        &format!("{ROUTE}{ROUTE}"),
        &["never reached", "config/helix.toml:1"],
    );
    shows(
        "[brokers.kafka]\nkind = \"kafka\"\ntls = { cert = \"x.pem\" }\n",
        &["`cert` but no `key`", "there is no file `x.pem`"],
    );
    shows(
        "[brokers.a]\nkind = \"embedded\"\n[brokers.b]\nkind = \"embedded\"\n",
        &["brokers `a` and `b` use one file"],
    );
}

#[test]
fn names_that_refer_to_nothing() {
    shows(
        &format!(
            "{ROUTE}broker = \"rabitmq\"\n[brokers.rabbitmq]\nkind = \"rabbitmq\"\npassword = \"env:NONE\"\n"
        ),
        &[
            "HX0104",
            "no broker is named `rabitmq`",
            "did you mean `rabbitmq`?",
            "HX0107",
            "variable `NONE` is not set",
        ],
    );
    shows(
        "[messaging]\ntasks = \"kafak\"\n[brokers.kafka]\nkind = \"kafka\"\n",
        &["did you mean `kafka`?"],
    );
    shows(
        &format!("{ROUTE}[plugins.q]\n")
            .replace("\"p\"", "\"llm-requets\"")
            .replace("plugins.q", "plugins.llm-request"),
        &["no plugin is named `llm-requets`", "did you mean `llm-request`?"],
    );
    shows(
        "[[routes]]\nqueue = \"helixagent.events.audit\"\nplugin = \"p\"\n",
        &["write topic = \"helixagent.events.audit\""],
    );
    shows(
        "[[routes]]\nqueue = \"orders\"\nplugin = \"p\"\n",
        &["[[queues]] name = \"orders\"", "topology.toml"],
    );
    // A broker whose table is wrong is not unknown as well.
    let text = shows(
        "[messaging]\nevents = \"kafka\"\n[brokers.kafka]\nkind = \"kafkaa\"\n",
        &["did you mean `kafka`?"],
    );
    assert!(!text.contains("no broker is named"), "{text}");
}

#[test]
fn values_of_the_wrong_kind() {
    shows(
        "[messaging]\nunrouted = \"deadletter\"\n",
        &["did you mean `dead-letter`?"],
    );
    shows(
        "[brokers.x]\nhost = \"y\"\n",
        &[
            "`brokers.x` lacks `kind`",
            "kind = \"embedded\" or kind = \"rabbitmq\" or kind = \"kafka\"",
        ],
    );
    shows(
        "[brokers.x]\nkind = \"embedded\"\nport = 1\n",
        &[
            "unknown key `port` in `brokers.x`",
            "known here: group, kind, path",
        ],
    );
    shows(
        "[brokers.x]\nkind = \"kafka\"\ntls = \"yes\"\n",
        &["must be true or false or a table, not a string"],
    );
    shows("host = 1\n", &["`host` must be a table"]);
    shows(
        "[[routes]]\nqueue = [\"a\"]\nplugin = \"p\"\n",
        &["must be a string, not an array"],
    );
    shows(
        &format!("{ROUTE}retry = {{ jitter = nan }}\n"),
        &["jitter` is NaN"],
    );
    shows("[limits]\nheaders = 99999999999999999999\n", &["too large"]);
    shows(
        "[plugins.p]\nfetch = [\"https://api.example.com/v1\", \"*\", \"a:b\"]\n",
        &[
            "without a scheme: \"api.example.com\"",
            "every host is too many",
            "`a:b` is no host",
        ],
    );
    shows(
        "[plugins.p]\nfile = \"../x.wasm\"\ndigest = \"abc\"\nmemory = \"1B\"\n",
        &["HX0304", "is no digest", "from 64KiB to 4GiB"],
    );
    shows("[host]\nlog = \"helix=shout\"\n", &["`host.log` cannot be"]);
}

#[test]
fn secrets_never_show() {
    let toml = "[brokers.r]\nkind = \"rabbitmq\"\npassword = \"hunter2\"\nprot = 1\n[brokers.k]\nkind = \"kafka\"\n\
                sasl = { user = \"u\", pasword = \"hunter2\" }\nproperties = { \"ssl.key.password\" = \"hunter2\" }\n";
    let text = shows(
        toml,
        &[
            "HX0107",
            "is a secret in plain text",
            "env:NAME",
            "`ssl.key.password` is a secret",
            "did you mean `password`?",
        ],
    );
    assert!(!text.contains("hunter2"), "{text}");
    assert!(!format!("{:?} {}", faults(toml, &[]), faults(toml, &[]).to_json()).contains("hunter2"));
    assert!(
        !text.contains("has no password"),
        "one fault for one mistake:\n{text}"
    );
    shows(
        "[brokers.r]\nkind = \"rabbitmq\"\n",
        &["broker `r` has no password", "RABBITMQ_PASSWORD"],
    );
    // A flag is seen by everybody who can list processes.
    let folder = Folder::new("[brokers.r]\nkind = \"rabbitmq\"\n");
    let text = folder
        .load(&[], &[("brokers.r.password", "hunter2")])
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(text.contains("HX0107") && !text.contains("hunter2"), "{text}");
}

#[test]
fn the_url_of_the_store_is_a_reference_or_holds_no_password() {
    for url in [
        "postgres://u:hunter2@h/d",
        "postgresql://u:hunter2@h:1/d?sslmode=require",
        "postgres://h/d?user=u&password=hunter2",
        "postgres://u:hun@ter2/hunter2@h/d",
    ] {
        let text = shows(
            &format!("[store]\nurl = \"{url}\"\n"),
            &[
                "HX0107",
                "`store.url` has a password in plain text",
                "env:HELIX_STORE_URL",
            ],
        );
        assert!(!text.contains("hunter2"), "{text}");
    }
    shows(
        "[store]\nurl = \"mysql://h/d\"\n",
        &["HX0103", "postgres://user@host"],
    );
    shows(
        "[store]\nurl = \"env:NOWHERE\"\n",
        &["HX0107", "`NOWHERE` is not set"],
    );
    let led = faults(
        "[store]\nurl = \"env:THERE\"\n",
        &[("THERE", "mysql://u:hunter2@h/d")],
    )
    .to_string();
    assert!(
        led.contains("no URL of a Postgres database") && !led.contains("hunter2"),
        "{led}"
    );
    for schema in ["", "Helix", "1a", "a-b", "pg_x", "a\\\"; DROP"] {
        shows(
            &format!("[store]\nschema = \"{schema}\"\n"),
            &["HX0103", "`store.schema` cannot be"],
        );
    }
    let fine = "[store]\nurl = \"postgres://u@h:5432/d?sslmode=verify-full\"\nschema = \"helix_2\"\n";
    assert!(Folder::new(fine).load(&[], &[]).is_ok());
}

#[test]
fn a_terminal_is_not_steered_by_a_file() {
    let text = shows("\"\\u001b[31mred\" = 1\n", &["unknown key"]);
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn dead_letters_are_adopted_and_exported_only_where_that_can_be() {
    shows(
        "[dlq]\nadopt = \"helixagent.dql\"\n",
        &[
            "no queue is named `helixagent.dql`",
            "did you mean `helixagent.dlq`?",
        ],
    );
    shows("[dlq]\nadopt = \"*.dlq\"\n", &["`*.dlq` is a pattern"]);
    let taken = "[[routes]]\nqueue = \"helixagent.dlq\"\nplugin = \"p\"\n";
    shows(
        &format!("[dlq]\nadopt = \"helixagent.dlq\"\n{taken}"),
        &["a route takes `helixagent.dlq` too (config/helix.toml:3)"],
    );
    shows(
        "[dlq]\nexport = true\nexport_tasks = \"nowhere\"\n",
        &["no topic is named `nowhere`"],
    );
}
