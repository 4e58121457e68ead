use super::*;
use crate::broker::Capabilities;
use crate::model::BrokerKind;

fn can(kind: BrokerKind) -> Capabilities {
    let (tasks, events) = (kind != BrokerKind::Kafka, kind != BrokerKind::RabbitMq);
    Capabilities {
        kind,
        tasks,
        events,
        shared: kind != BrokerKind::Embedded,
        key_order_shared: kind == BrokerKind::Kafka,
        priorities: tasks,
        delays: false,
        scan: events,
        redelivery_flag: tasks,
        tombstones: events,
    }
}

fn by_name(name: &str) -> Capabilities {
    can(match name {
        "rabbitmq" => BrokerKind::RabbitMq,
        "kafka" => BrokerKind::Kafka,
        _ => BrokerKind::Embedded,
    })
}

const ENV: &[(&str, &str)] = &[("RABBITMQ_PASSWORD", "x"), ("KAFKA_BROKERS", "k:1")];

fn broken(toml: &str) -> String {
    let text = loaded(toml, ENV, &[])
        .check_promises(by_name)
        .map_or_else(|faults| faults.to_string(), |()| String::new());
    // Long lines are wrapped.
    text.split_whitespace()
        .filter(|word| *word != "│")
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn key_order_over_shared_queues_is_refused_with_a_way_out() {
    let text = broken(&format!("{ROUTE}order = \"key\"\n"));
    for part in [
        "HX0105",
        "config/helix.toml:1",
        "[[routes]]",
        "order = \"key\"",
        "single_active_consumer = true",
        "broker `rabbitmq`",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(broken(&format!("{ROUTE}order = \"partition\"\n")).contains("single consumer"));
}

#[test]
fn order_is_fine_where_it_can_be_kept() {
    assert_eq!(broken(ROUTE), "");
    assert_eq!(
        broken(&format!("{ROUTE}order = \"key\"\nbroker = \"embedded\"\n")),
        ""
    );
    assert_eq!(
        broken("[[routes]]\ntopic = \"helixagent.events.audit\"\nplugin = \"p\"\norder = \"key\"\n"),
        ""
    );
}

#[test]
fn queues_on_kafka_and_topics_on_rabbitmq_do_not_exist() {
    assert!(broken(&format!("{ROUTE}broker = \"kafka\"\n")).contains("has no queues"));
    let topic = "[[routes]]\ntopic = \"helixagent.events.audit\"\nplugin = \"p\"\nbroker = \"rabbitmq\"\n";
    assert!(broken(topic).contains("has no topics"));
}

#[test]
fn without_the_file_the_line_is_still_named() {
    let loaded = loaded(&format!("\n{ROUTE}broker = \"kafka\"\n"), ENV, &[]);
    let faults = check_promises(&loaded.settings, by_name);
    assert_eq!(
        (faults[0].place.file(), faults[0].place.line()),
        (Some("config/helix.toml"), Some(2))
    );
}
