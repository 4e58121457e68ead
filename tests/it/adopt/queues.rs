//! Queues of RabbitMQ as another program makes and uses them, and a connection that stops saying anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use helix_tests::variable;
use lapin::options::{
    BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

pub struct Queues {
    _connection: Connection,
    channel: Channel,
    names: Vec<String>,
}

impl Queues {
    pub async fn new() -> Self {
        let uri = format!(
            "amqp://{}:{}@{}:{}/%2f",
            variable("HELIX_TEST_RABBITMQ_USER"),
            variable("HELIX_TEST_RABBITMQ_PASSWORD"),
            variable("HELIX_TEST_RABBITMQ_HOST"),
            variable("HELIX_TEST_RABBITMQ_PORT"),
        );
        let connection = Connection::connect(&uri, ConnectionProperties::default())
            .await
            .unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .unwrap();
        Self {
            _connection: connection,
            channel,
            names: Vec::new(),
        }
    }

    /// Durable; `arguments` besides the one that dead-letters to `dlq`, where that is not empty.
    pub async fn make(&mut self, queue: &str, dlq: &str, arguments: &[(&str, AMQPValue)]) {
        let mut table = FieldTable::default();
        if !dlq.is_empty() {
            let text = |text: &str| AMQPValue::LongString(LongString::from(text));
            table.insert("x-dead-letter-exchange".into(), text(""));
            table.insert("x-dead-letter-routing-key".into(), text(dlq));
        }
        for (name, value) in arguments {
            table.insert((*name).into(), value.clone());
        }
        let durable = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        self.channel
            .queue_declare(queue.into(), durable, table)
            .await
            .unwrap();
        self.names.push(queue.to_owned());
    }

    pub async fn send(&self, queue: &str, body: &[u8]) {
        self.send_with(queue, body, BasicProperties::default()).await;
    }

    pub async fn send_with(&self, queue: &str, body: &[u8], properties: BasicProperties) {
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let properties = properties.with_delivery_mode(2);
        let sent = self
            .channel
            .basic_publish("".into(), queue.into(), options, body, properties)
            .await
            .unwrap();
        assert!(sent.await.unwrap().is_ack());
    }

    /// Takes one and refuses it; `requeue` puts it back.
    pub async fn refuse(&self, queue: &str, requeue: bool) {
        let taken = self
            .channel
            .basic_get(queue.into(), BasicGetOptions::default())
            .await
            .unwrap()
            .expect("a message");
        let options = BasicNackOptions {
            requeue,
            ..BasicNackOptions::default()
        };
        taken.delivery.acker.nack(options).await.unwrap();
    }

    /// Messages that nobody has taken.
    pub async fn waiting(&self, queue: &str) -> u32 {
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        self.channel
            .queue_declare(queue.into(), passive, FieldTable::default())
            .await
            .unwrap()
            .message_count()
    }

    pub async fn delete(self) {
        for name in &self.names {
            self.channel
                .queue_delete(name.as_str().into(), QueueDeleteOptions::default())
                .await
                .unwrap();
        }
    }
}

/// Between a host and RabbitMQ: what the host says can be swallowed, while it hears everything.
pub struct Muzzle {
    pub port: u16,
    muzzled: Arc<AtomicBool>,
    cut: Arc<Notify>,
}

impl Muzzle {
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let muzzle = Self {
            port,
            muzzled: Arc::default(),
            cut: Arc::default(),
        };
        let (muzzled, cut) = (Arc::clone(&muzzle.muzzled), Arc::clone(&muzzle.cut));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (muzzled, cut) = (Arc::clone(&muzzled), Arc::clone(&cut));
                tokio::spawn(async move {
                    tokio::select! {
                        () = carry(client, &muzzled) => {}
                        () = cut.notified() => {}
                    }
                });
            }
        });
        muzzle
    }

    pub fn muzzle(&self, on: bool) {
        self.muzzled.store(on, Ordering::SeqCst);
    }

    /// The broker learns that its client is gone.
    pub fn cut(&self) {
        self.cut.notify_waiters();
    }
}

async fn carry(client: TcpStream, muzzled: &AtomicBool) {
    let host = variable("HELIX_TEST_RABBITMQ_HOST");
    let port: u16 = variable("HELIX_TEST_RABBITMQ_PORT").parse().unwrap();
    let Ok(server) = TcpStream::connect((host.as_str(), port)).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(n @ 1..) = from_client.read(&mut buffer).await {
            if !muzzled.load(Ordering::SeqCst) && to_server.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
        // A client that is gone says nothing either.
        std::future::pending::<()>().await;
    };
    let down = async {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
    };
    tokio::join!(up, down);
}
