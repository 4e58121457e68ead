use super::*;

const RABBIT: &[(&str, &str)] = &[("RABBITMQ_HOST", "mq.local"), ("RABBITMQ_PASSWORD", "s3cret")];

fn with<'a>(base: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    base.iter().chain(more).copied().collect()
}

#[test]
fn file_then_environment_then_flags() {
    let toml = "[host]\nlisten = \"127.0.0.1:1\"\ndrain = \"1s\"\nlog = \"warn\"\n";
    let loaded = loaded(
        toml,
        &[
            ("HELIX__HOST__LISTEN", "127.0.0.1:2"),
            ("HELIX__host__Drain", "2s"),
        ],
        &[("listen", "127.0.0.1:3"), ("limits.headers", "7")],
    );
    assert_eq!(loaded.settings.host.listen.port(), 3);
    assert_eq!(loaded.settings.host.drain.as_secs(), 2);
    assert_eq!(loaded.settings.limits.headers, 7);
    assert_eq!(
        explained(&loaded, "host.listen"),
        ("\"127.0.0.1:3\"", "flag --listen")
    );
    assert_eq!(
        explained(&loaded, "host.drain"),
        ("\"2s\"", "env HELIX__host__Drain")
    );
    assert_eq!(
        explained(&loaded, "host.log"),
        ("\"warn\"", "config/helix.toml:4")
    );
    assert_eq!(explained(&loaded, "host.state_dir"), ("\".helix\"", "default"));
    let listen = loaded.explain.iter().find(|e| e.path == "host.listen").unwrap();
    assert_eq!(listen.over, ["env HELIX__HOST__LISTEN", "config/helix.toml:2"]);
}

#[test]
fn the_manuals_variables_make_brokers() {
    let env = with(
        RABBIT,
        &[
            ("RABBITMQ_PORT", "5673"),
            ("RABBITMQ_USER", "1234"),
            ("RABBITMQ_VHOST", "helix"),
            ("KAFKA_BROKERS", "a:1, b:2"),
            ("KAFKA_CLIENT_ID", "me"),
        ],
    );
    let loaded = loaded(ROUTE, &env, &[]);
    let settings = &loaded.settings;
    assert_eq!(
        (settings.tasks_broker.as_str(), settings.events_broker.as_str()),
        ("rabbitmq", "kafka")
    );
    assert_eq!(&*settings.routes[0].broker, "rabbitmq");
    let valid::Broker::RabbitMq(mq) = &settings.brokers["rabbitmq"] else {
        panic!()
    };
    assert_eq!(
        (mq.host.as_str(), mq.port, mq.user.as_str(), mq.vhost.as_str()),
        ("mq.local", 5673, "1234", "helix")
    );
    assert_eq!(secrecy::ExposeSecret::expose_secret(&mq.password), "s3cret");
    let valid::Broker::Kafka(kafka) = &settings.brokers["kafka"] else {
        panic!()
    };
    assert_eq!(kafka.servers, ["a:1", "b:2"]);
    assert_eq!(kafka.group, "helixagent-workers");
    assert_eq!(kafka.properties["client.id"], "me");
    assert!(!settings.brokers.contains_key("embedded"), "nothing needs it");
    assert_eq!(
        explained(&loaded, "messaging.tasks"),
        ("\"rabbitmq\"", "env RABBITMQ_HOST")
    );
    assert_eq!(
        explained(&loaded, "brokers.rabbitmq.password"),
        ("***", "env RABBITMQ_PASSWORD")
    );
    assert_eq!(
        explained(&loaded, "brokers.kafka.properties.\"client.id\"").1,
        "env KAFKA_CLIENT_ID"
    );
    assert!(!format!("{:?}{:?}", loaded.explain, loaded.settings).contains("s3cret"));
}

#[test]
fn the_file_decides_which_broker_does_what() {
    let toml = format!("[messaging]\ntasks = \"embedded\"\n{ROUTE}");
    let loaded = loaded(&toml, RABBIT, &[]);
    assert_eq!(loaded.settings.tasks_broker, "embedded");
    assert!(loaded.settings.brokers.contains_key("rabbitmq"));
}

#[test]
fn variables_go_over_the_broker_of_their_kind_whatever_its_name() {
    let toml = "[brokers.mine]\nkind = \"rabbitmq\"\nhost = \"file\"\npassword = \"env:PW\"\n";
    let loaded = loaded(toml, &[("RABBITMQ_HOST", "env"), ("PW", "x")], &[]);
    let valid::Broker::RabbitMq(mq) = &loaded.settings.brokers["mine"] else {
        panic!()
    };
    assert_eq!(mq.host, "env");
    assert_eq!(explained(&loaded, "brokers.mine.password").0, "*** (env:PW)");
    assert!(!loaded.settings.brokers.contains_key("rabbitmq"));
}

#[test]
fn two_brokers_of_a_kind_are_ambiguous() {
    let two = "[brokers.a]\nkind = \"kafka\"\n[brokers.b]\nkind = \"kafka\"\n";
    let text = faults(two, &[("KAFKA_BROKERS", "x:1")]).to_string();
    assert!(
        text.contains("env KAFKA_BROKERS: could mean any of these brokers: a, b"),
        "{text}"
    );
    let named = "[brokers.a]\nkind = \"kafka\"\n[brokers.kafka]\nkind = \"kafka\"\n";
    assert!(Folder::new(named).load(&[("KAFKA_BROKERS", "x:1")], &[]).is_ok());
}

#[test]
fn both_spellings_and_which_one_won() {
    let group = |env: &[(&str, &str)]| {
        let loaded = loaded("[brokers.kafka]\nkind = \"kafka\"\n", env, &[]);
        let line = loaded
            .explain
            .iter()
            .find(|e| e.path == "brokers.kafka.group")
            .unwrap()
            .clone();
        (line.value, line.source, line.over)
    };
    assert_eq!(group(&[("KAFKA_GROUP_ID", "a")]).0, "\"a\"");
    let both = group(&[("KAFKA_GROUP_ID", "a"), ("KAFKA_CONSUMER_GROUP", "b")]);
    assert_eq!(
        both,
        (
            "\"b\"".into(),
            "env KAFKA_CONSUMER_GROUP".into(),
            vec!["env KAFKA_GROUP_ID".into()]
        )
    );
    let exact = group(&[
        ("KAFKA_CONSUMER_GROUP", "b"),
        ("HELIX__BROKERS__KAFKA__GROUP", "c"),
    ]);
    assert_eq!(
        (exact.0.as_str(), exact.1.as_str()),
        ("\"c\"", "env HELIX__BROKERS__KAFKA__GROUP")
    );

    let fallback = |env: &[(&str, &str)]| {
        explained(&loaded("", env, &[]), "messaging.fallback")
            .0
            .to_owned()
    };
    assert_eq!(fallback(&[("MESSAGING_FALLBACK_INMEMORY", "false")]), "false");
    assert_eq!(
        fallback(&[
            ("MESSAGING_FALLBACK_ENABLED", "true"),
            ("MESSAGING_FALLBACK_INMEMORY", "false")
        ]),
        "true"
    );
}

#[test]
fn only_the_word_false_switches_off() {
    for (text, on) in [
        ("false", false),
        ("0", true),
        ("FALSE", true),
        ("", true),
        ("true", true),
    ] {
        assert_eq!(
            loaded("", &[("MESSAGING_ENABLED", text)], &[])
                .settings
                .host
                .messaging,
            on,
            "{text}"
        );
    }
}

#[test]
fn port_keeps_the_address_and_times_are_milliseconds() {
    let toml = "[host]\nlisten = \"[::1]:1\"\n";
    assert_eq!(
        loaded(toml, &[("PORT", "8080")], &[])
            .settings
            .host
            .listen
            .to_string(),
        "[::1]:8080"
    );
    let env = [
        ("KAFKA_BROKERS", "k:1"),
        ("KAFKA_SESSION_TIMEOUT_MS", "30000"),
        ("KAFKA_HEARTBEAT_INTERVAL_MS", "10000"),
    ];
    let loaded = loaded("", &env, &[]);
    let valid::Broker::Kafka(kafka) = &loaded.settings.brokers["kafka"] else {
        panic!()
    };
    assert_eq!(
        (
            kafka.session_timeout.as_secs(),
            kafka.heartbeat_interval.as_secs()
        ),
        (30, 10)
    );
    let text = faults(
        "",
        &[("KAFKA_BROKERS", "k:1"), ("KAFKA_SESSION_TIMEOUT_MS", "soon")],
    )
    .to_string();
    assert!(text.contains("env KAFKA_SESSION_TIMEOUT_MS"), "{text}");
    assert!(faults("", &[("PORT", "http")]).to_string().contains("env PORT"));
}

#[test]
fn log_level_over_debug() {
    let log = |env: &[(&str, &str)]| loaded("", env, &[]).settings.host.log;
    assert_eq!(log(&[("MESSAGING_DEBUG", "true")]), "debug");
    assert_eq!(log(&[("MESSAGING_DEBUG", "false")]), "info");
    assert_eq!(
        log(&[("MESSAGING_DEBUG", "true"), ("LOG_LEVEL", "WARNING")]),
        "warn"
    );
}

#[test]
fn what_kubernetes_and_compose_leave_behind_is_not_ours() {
    let loaded = loaded(
        "",
        &[
            ("RABBITMQ_PORT", "tcp://10.0.0.1:5672"),
            ("RABBITMQ_HOST", ""),
            ("KAFKA_BROKERS", " "),
        ],
        &[],
    );
    assert_eq!(loaded.settings.tasks_broker, "embedded");
    assert_eq!(loaded.settings.brokers.len(), 1);
}

#[test]
fn names_and_positions_in_variables() {
    let toml = format!("{ROUTE}[plugins.My-Plugin]\n");
    let loaded = loaded(
        &toml,
        &[
            ("HELIX__PLUGINS__MY_PLUGIN__MEMORY", "1MiB"),
            ("HELIX__ROUTES__0__CONCURRENCY", "9"),
        ],
        &[],
    );
    assert_eq!(loaded.settings.plugins["My-Plugin"].memory_bytes, 1 << 20);
    assert_eq!(loaded.settings.routes[0].concurrency, 9);
    let text = faults(
        ROUTE,
        &[
            ("HELIX__ROUTES__7__CONCURRENCY", "9"),
            ("HELIX__HOST__LISTN", "x"),
            ("HELIX__HOST____LOG", "x"),
        ],
    )
    .to_string();
    assert!(text.contains("env HELIX__ROUTES__7__CONCURRENCY"), "{text}");
    assert!(
        text.contains("env HELIX__HOST__LISTN: unknown key `listn`")
            && text.contains("did you mean `listen`?"),
        "{text}"
    );
    assert!(
        text.contains("an empty part in the path") && text.contains("3 faults"),
        "{text}"
    );
}
