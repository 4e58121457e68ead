//! Topics: compare with what should be, create what is missing, count what waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::log_fold::{Link, Quiet};
use super::scan::SharedScan;
use crate::broker::{Comparison, Destination, Error, Topology};
use crate::model::MessageKind;

/// The one argument that is no topic configuration. Without it the brokers' default applies.
const REPLICATION: &str = "replication.factor";
const ANSWER: Duration = Duration::from_secs(15);
/// How often a new topic is asked for until brokers know it.
const LOOK: Duration = Duration::from_millis(50);

pub struct KafkaTopology {
    pub config: ClientConfig,
    pub link: Arc<Link>,
    pub scan: SharedScan,
}

impl KafkaTopology {
    /// Made when needed: creating topics is rare, an idle client keeps two threads and a connection.
    fn admin(&self) -> Result<AdminClient<Quiet>, Error> {
        let client = self.config.create_with_context(Quiet(self.link.clone()));
        client.map_err(|e| Error::Other(format!("Kafka settings: {e}")))
    }

    fn error(&self, name: &str, error: &KafkaError) -> Error {
        match error {
            KafkaError::AdminOp(code) => self.refused(name, *code),
            _ => match error.rdkafka_error_code() {
                Some(code) => self.refused(name, code),
                None => Error::Other(format!("{name}: {error}")),
            },
        }
    }

    fn refused(&self, name: &str, code: RDKafkaErrorCode) -> Error {
        use RDKafkaErrorCode as Code;
        match code {
            Code::UnknownTopicOrPartition | Code::UnknownTopic => Error::UnknownDestination(name.to_owned()),
            Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => Error::Refused(format!(
                "{name}: {code}. Give this user the permission to create and describe topics"
            )),
            Code::InvalidConfig
            | Code::InvalidPartitions
            | Code::InvalidReplicationFactor
            | Code::InvalidTopic
            | Code::PolicyViolation => Error::Unsupported(format!(
                "{name}: the broker does not accept these properties: {code}"
            )),
            _ => self.link.away(&format!("{name}: {code}")),
        }
    }

    /// Partitions, replicas; none when there is no such topic.
    async fn size(&self, name: &str) -> Result<Option<(usize, usize)>, Error> {
        self.size_by(Arc::new(self.admin()?), name).await
    }

    async fn size_by(
        &self,
        admin: Arc<AdminClient<Quiet>>,
        name: &str,
    ) -> Result<Option<(usize, usize)>, Error> {
        let topic = name.to_owned();
        let asked = tokio::task::spawn_blocking(move || {
            let metadata = admin.inner().fetch_metadata(Some(&topic), ANSWER)?;
            let Some(found) = metadata.topics().first() else {
                return Ok(None);
            };
            match found.error() {
                Some(error) => Err(KafkaError::MetadataFetch(error.into())),
                None => {
                    let replicas = found.partitions().first().map_or(0, |p| p.replicas().len());
                    Ok(Some((found.partitions().len(), replicas)))
                }
            }
        });
        match asked
            .await
            .map_err(|e| Error::Other(e.to_string()))?
            .map_err(|e| self.error(name, &e))
        {
            Err(Error::UnknownDestination(_)) => Ok(None),
            other => other,
        }
    }

    /// The controller has made it; until brokers have heard of it they call it unknown, and publishers believe them.
    async fn until_known(&self, admin: AdminClient<Quiet>, name: &str) -> Result<(), Error> {
        let (admin, deadline) = (Arc::new(admin), Instant::now() + ANSWER);
        while self.size_by(Arc::clone(&admin), name).await?.is_none() {
            if Instant::now() >= deadline {
                let text = format!("{name}: created, but not known to the brokers after {ANSWER:?}");
                return Err(Error::Other(text));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    async fn settings(&self, name: &str) -> Result<BTreeMap<String, String>, Error> {
        let admin = self.admin()?;
        let found = admin
            .describe_configs(&[ResourceSpecifier::Topic(name)], &options())
            .await;
        let found = found.map_err(|e| self.error(name, &e))?;
        match found.into_iter().next() {
            Some(Ok(resource)) => Ok(resource
                .entries
                .into_iter()
                .map(|e| (e.name, e.value.unwrap_or_default()))
                .collect()),
            Some(Err(code)) => Err(self.refused(name, code)),
            None => Err(Error::UnknownDestination(name.to_owned())),
        }
    }
}

#[async_trait]
impl Topology for KafkaTopology {
    async fn compare(&self, want: &Destination) -> Result<Comparison, Error> {
        topics_only(want.kind)?;
        let Some((partitions, replicas)) = self.size(&want.name).await? else {
            return Ok(Comparison::Missing);
        };
        let settings = self.settings(&want.name).await?;
        let differences = differences(want, partitions, replicas, &settings);
        Ok(if differences.is_empty() {
            Comparison::Same
        } else {
            Comparison::Differs { differences }
        })
    }

    async fn create(&self, want: &Destination) -> Result<(), Error> {
        topics_only(want.kind)?;
        let partitions = i32::try_from(want.partitions.max(1)).unwrap_or(i32::MAX);
        let replicas = match want.arguments.get(REPLICATION) {
            None => -1,
            Some(text) => text.parse().map_err(|_| {
                Error::Unsupported(format!("{}: {REPLICATION} = {text} is no number", want.name))
            })?,
        };
        let configs = configs(want);
        let topic = configs.iter().fold(
            NewTopic::new(&want.name, partitions, TopicReplication::Fixed(replicas)),
            |topic, (name, value)| topic.set(name, value),
        );
        let admin = self.admin()?;
        let made = admin
            .create_topics([&topic], &options())
            .await
            .map_err(|e| self.error(&want.name, &e))?;
        match made.into_iter().next() {
            Some(Err((_, code))) if code != RDKafkaErrorCode::TopicAlreadyExists => {
                Err(self.refused(&want.name, code))
            }
            _ => self.until_known(admin, &want.name).await,
        }
    }

    async fn depth(&self, kind: MessageKind, name: &str) -> Result<u64, Error> {
        topics_only(kind)?;
        self.scan.depth(name).await
    }
}

fn topics_only(kind: MessageKind) -> Result<(), Error> {
    match kind {
        MessageKind::Event => Ok(()),
        MessageKind::Task => Err(Error::Unsupported("Kafka has topics only, no queues".to_owned())),
    }
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(ANSWER))
        .operation_timeout(Some(ANSWER))
}

/// What the topic configuration should say.
fn configs(want: &Destination) -> BTreeMap<String, String> {
    let mut configs = want.arguments.clone();
    configs.remove(REPLICATION);
    if let Some(ttl) = want.ttl {
        configs
            .entry("retention.ms".to_owned())
            .or_insert_with(|| ttl.as_millis().to_string());
    }
    configs
}

fn differences(
    want: &Destination,
    partitions: usize,
    replicas: usize,
    is: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut out = Vec::new();
    let mut compare = |name: &str, want: &str, is: &str| {
        if want != is {
            out.push(format!("{name} is {is}, should be {want}"));
        }
    };
    compare(
        "partitions",
        &want.partitions.max(1).to_string(),
        &partitions.to_string(),
    );
    if let Some(text) = want.arguments.get(REPLICATION).filter(|text| *text != "-1") {
        compare(REPLICATION, text, &replicas.to_string());
    }
    for (name, value) in configs(want) {
        compare(
            &name,
            &value,
            is.get(&name).map_or("unknown to the broker", String::as_str),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want() -> Destination {
        Destination {
            kind: MessageKind::Event,
            name: "t".into(),
            max_priority: 0,
            ttl: Some(Duration::from_secs(1)),
            partitions: 6,
            arguments: [("cleanup.policy", "compact"), (REPLICATION, "3")]
                .map(|(n, v)| (n.to_owned(), v.to_owned()))
                .into(),
        }
    }

    #[test]
    fn each_difference_is_one_line() {
        let is = [("retention.ms", "1000"), ("cleanup.policy", "delete")]
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .into();
        assert_eq!(
            differences(&want(), 3, 1, &is),
            [
                "partitions is 3, should be 6",
                "replication.factor is 1, should be 3",
                "cleanup.policy is delete, should be compact"
            ]
        );
    }

    #[test]
    fn replication_is_no_topic_configuration() {
        let names: Vec<_> = configs(&want()).into_keys().collect();
        assert_eq!(names, ["cleanup.policy", "retention.ms"]);
    }
}
