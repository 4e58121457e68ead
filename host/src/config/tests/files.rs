use std::collections::BTreeSet;

use super::*;

#[test]
fn looks_in_the_usual_places_in_order() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let request = |env: &[(&str, &str)], path: Option<&str>| LoadRequest {
        path: path.map(Into::into),
        flags: vec![],
        env: pairs(env).into_iter().collect(),
        cwd: folder.path().into(),
    };
    let home = folder.path().join("xdg").display().to_string();
    let text = load(request(&[("XDG_CONFIG_HOME", &home)], None))
        .map(|_| ())
        .unwrap_err()
        .to_string();
    for place in [
        "HX0106",
        "config/helix.toml",
        "xdg/helix/helix.toml",
        "/etc/helix/helix.toml",
    ] {
        assert!(
            text.replace("\n  │ ", "").contains(place),
            "{place} is not in {text}"
        );
    }
    let text = load(request(&[], Some("gone.toml")))
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(text.contains("gone.toml: cannot be read"), "{text}");
    let found = |env: &[(&str, &str)], path: Option<&str>| load(request(env, path)).unwrap().files[0].clone();
    for name in ["xdg/helix/helix.toml", "helix.toml", "config/helix.toml"] {
        folder.write(name, "");
        assert_eq!(
            found(&[("XDG_CONFIG_HOME", &home)], None),
            folder.path().join(name)
        );
    }
    assert_eq!(found(&[], Some("helix.toml")), folder.path().join("helix.toml"));
}

#[test]
fn topology_file_or_the_built_in_list() {
    let folder = Folder::new("[[routes]]\nqueue = \"orders\"\nplugin = \"p\"\n");
    folder.write(
        "config/topology.toml",
        "[[queues]]\nname = \"orders\"\narguments = { x-queue-type = \"quorum\", x-max-length = 5 }\n",
    );
    let loaded = folder.load(&[], &[]).unwrap();
    assert_eq!(loaded.settings.topology.len(), 1);
    assert_eq!(loaded.settings.topology[0].arguments["x-max-length"], "5");
    assert_eq!(loaded.files.len(), 2);
    folder.write(
        "config/topology.toml",
        "[[queues]]\nname = \"orders\"\n[[queues]]\nname = \"orders\"\nmax_priority = 300\n[[topics]]\n",
    );
    let text = folder.load(&[], &[]).map(|_| ()).unwrap_err().to_string();
    for part in [
        "config/topology.toml:4",
        "declared twice",
        "max_priority` is 300",
        "lacks `name`",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let folder = Folder::new("[messaging]\ntopology = \"other.toml\"\n");
    let text = folder.load(&[], &[]).map(|_| ()).unwrap_err().to_string();
    assert!(
        text.contains("HX0106") && text.contains("config/helix.toml:2"),
        "{text}"
    );
}

#[test]
fn the_built_in_list_is_the_manuals() {
    let manual = manual_topology();
    let count = |kind| manual.iter().filter(|d| d.kind == kind).count();
    assert_eq!(
        (
            count(crate::model::MessageKind::Task),
            count(crate::model::MessageKind::Event)
        ),
        (6, 10)
    );
    let llm = manual
        .iter()
        .find(|d| &*d.name == "helixagent.tasks.llm")
        .unwrap();
    assert_eq!((llm.max_priority, llm.ttl.unwrap().as_secs()), (10, 300));
    let audit = manual
        .iter()
        .find(|d| &*d.name == "helixagent.events.audit")
        .unwrap();
    assert_eq!((audit.partitions, audit.ttl.unwrap().as_secs()), (6, 90 * 86400));
}

#[test]
fn secrets_from_files_and_guest_environment() {
    let folder = Folder::new(
        "[brokers.r]\nkind = \"rabbitmq\"\npassword = \"file:pw\"\n[plugins.p]\nenv = { KEY = \"env:K\", PLAIN = \"x\" }\n",
    );
    folder.write("pw", "s3cret\n");
    let loaded = folder.load(&[("K", "key")], &[]).unwrap();
    let valid::Broker::RabbitMq(mq) = &loaded.settings.brokers["r"] else {
        panic!()
    };
    assert_eq!(secrecy::ExposeSecret::expose_secret(&mq.password), "s3cret");
    assert_eq!(loaded.settings.plugins["p"].env["KEY"], "key");
    assert_eq!(explained(&loaded, "plugins.p.env.PLAIN").0, "***");
}

#[test]
fn routes_and_plugins_get_their_defaults() {
    let loaded = loaded(
        &format!(
            "{ROUTE}[[routes]]\ntopic = \"helixagent.events.*\"\nplugin = \"p\"\nconcurrency = 3\n[plugins.q]\n"
        ),
        &[],
        &[],
    );
    let route = &loaded.settings.routes[0];
    assert_eq!(&*route.name, "helixagent.tasks.llm:*");
    assert_eq!(
        (route.concurrency, route.timeout.as_secs(), route.order),
        (4, 30, valid::Order::None)
    );
    assert_eq!(
        (
            route.retry.max_retries,
            route.retry.delay.as_secs(),
            route.retry.max_delay.as_secs()
        ),
        (3, 1, 30)
    );
    assert_eq!(route.declared_at, "config/helix.toml:1");
    let plugin = &loaded.settings.plugins["p"];
    assert_eq!(plugin.instances, 7);
    assert_eq!(wasm_bytes_of("2000"), 2000);
    assert_eq!(wasm_bytes_of("\"2kB\""), 2000);
    assert!(plugin.publish.is_empty() && plugin.fetch.is_empty());
    assert!(plugin.file.ends_with("plugins/p.wasm"));
    assert_eq!(plugin.declared_at, "config/helix.toml:9");
    assert_eq!(loaded.settings.plugins["q"].declared_at, "config/helix.toml:8");
}

fn wasm_bytes_of(wasm_size: &str) -> u64 {
    loaded(&format!("[limits]\nwasm_size = {wasm_size}\n"), &[], &[])
        .settings
        .limits
        .wasm_bytes
}

#[test]
fn the_shipped_files_load() {
    let env = [
        ("RABBITMQ_PASSWORD", "x"),
        ("KAFKA_PASSWORD", "x"),
        ("HELIX_TOKEN_ANN", "x"),
    ];
    for name in [
        "config/helix.toml",
        "config/cluster.toml",
        "config/helix.reference.toml",
    ] {
        let request = LoadRequest {
            path: Some(name.into()),
            flags: vec![],
            env: pairs(&env).into_iter().collect(),
            cwd: root().into(),
        };
        let loaded = load(request).unwrap_or_else(|faults| panic!("{name}\n{faults}"));
        assert!(!loaded.settings.routes.is_empty(), "{name}");
    }
}

#[test]
fn generated_files_are_committed_as_they_are_generated() {
    for (path, content) in generated() {
        let path = root().join(path);
        if std::env::var_os("HELIX_WRITE_GENERATED").is_some() {
            std::fs::write(&path, &content).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == content,
            "{} differs from what the code generates",
            path.display()
        );
    }
}

#[test]
fn the_reference_shows_every_key() {
    let reference = reference::text();
    let defs = schema::helix()["$defs"].as_object().unwrap();
    for (name, def) in defs {
        let tables = def
            .get("oneOf")
            .and_then(|o| o.as_array())
            .cloned()
            .unwrap_or_else(|| vec![def.clone()]);
        for key in tables
            .iter()
            .filter_map(|t| t.get("properties")?.as_object())
            .flat_map(|p| p.keys())
        {
            // A line, or a table of its own.
            let shown = [format!("{key} = "), format!(".{key}]\n")];
            assert!(
                shown.iter().any(|shown| reference.contains(shown)),
                "{name}.{key} is missing"
            );
        }
    }
    assert!(
        !reference.contains(" = …"),
        "a key has neither default nor example"
    );
}

#[test]
fn every_error_code_has_its_page_and_every_page_its_code() {
    let pages: BTreeSet<String> = std::fs::read_dir(root().join("docs/errors"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("HX"))
        .collect();
    let codes: BTreeSet<String> = crate::error::ALL
        .iter()
        .map(|code| format!("{code}.md"))
        .collect();
    assert_eq!(pages, codes);
    for page in pages {
        let text = std::fs::read_to_string(root().join("docs/errors").join(&page)).unwrap();
        for part in [page.trim_end_matches(".md"), "## Why", "## What to do"] {
            assert!(text.contains(part), "{page} lacks {part}");
        }
    }
}

#[test]
fn the_queue_of_dead_letters_is_adopted_unless_something_else_has_it() {
    let adopts = |helix: &str| loaded(helix, &[], &[]).settings.dlq_adopt;
    let queue = Some("helixagent.dlq");
    let route = |queue: &str| format!("[[routes]]\nqueue = \"{queue}\"\nplugin = \"p\"\n");
    assert_eq!(adopts("").as_deref(), queue);
    assert_eq!(
        adopts(&route("helixagent.*")).as_deref(),
        queue,
        "no pattern takes it"
    );
    assert_eq!(adopts(&route("helixagent.dlq")), None);
    assert_eq!(adopts("[dlq]\nadopt = \"\"\n"), None);
    let folder = Folder::new("");
    folder.write("config/topology.toml", "[[queues]]\nname = \"work\"\n");
    let settings = folder.load(&[], &[]).unwrap_or_else(|f| panic!("{f}")).settings;
    assert_eq!(settings.dlq_adopt, None, "it is in no topology");

    let exports = |helix: &str| loaded(helix, &[], &[]).settings.dlq_export;
    assert_eq!(exports(""), valid::Export::default());
    let both = exports("[dlq]\nexport = true\n");
    assert_eq!(both.tasks.as_deref(), Some("helixagent.dlq.tasks"));
    assert_eq!(both.events.as_deref(), Some("helixagent.dlq.events"));
    let one = exports("[dlq]\nexport = true\nexport_events = \"\"\n");
    assert_eq!((one.tasks.is_some(), one.events), (true, None));
}
