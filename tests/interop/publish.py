"""Publishes every shape with one client: publish.py pika|confluent|kcat '{"to": …, "report": …, …}'; or removes a queue.

Prints one line of JSON per message: what was sent. Ends with an error when the broker did not take one.
"""

import contextlib
import json
import ssl
import subprocess
import sys
import tempfile

import shapes


def amqp(job):
    import pika

    options = None
    if job.get("ca"):
        options = pika.SSLOptions(ssl.create_default_context(cafile=job["ca"]), "localhost")
    login = pika.PlainCredentials(job["user"], job["password"])
    host = "localhost" if options else job["host"]
    return pika.BlockingConnection(pika.ConnectionParameters(host, job["port"], credentials=login, ssl_options=options))


def pika_client(job, messages):
    import pika

    with amqp(job) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for m in messages:
            properties = pika.BasicProperties(headers=m.headers, content_type=m.content_type, delivery_mode=2, **m.properties)
            channel.basic_publish("", job["to"], m.body, properties, mandatory=True)


def kafka_headers(m):
    more = {"content-type": m.content_type} if m.content_type else {}
    return {**m.headers, **more}


def confluent_client(job, messages):
    from confluent_kafka import Producer

    producer = Producer({**job["config"], "acks": "all"})
    failed = []
    for m in messages:
        headers = [(name, value.encode()) for name, value in kafka_headers(m).items()]
        producer.produce(job["to"], m.body, m.key, headers=headers, on_delivery=lambda error, _: error and failed.append(error))
    left = producer.flush(30)
    if failed or left:
        sys.exit(f"Kafka did not take {len(failed) + left} messages: {failed}")


def kcat_client(job, messages):
    options = [part for name, value in job["config"].items() for part in ("-X", f"{name}={value}")]
    running, files = [], contextlib.ExitStack()
    for m in messages:
        headers = [part for name, value in kafka_headers(m).items() for part in ("-H", f"{name}={value}")]
        command = ["kcat", "-P", "-t", job["to"], *options, *headers]
        if m.key:
            command += ["-k", m.key]
        file = files.enter_context(tempfile.NamedTemporaryFile())
        file.write(b"k-1:\n" if m.body is None else m.body)
        file.flush()
        file.seek(0)
        # A file is one message, whatever is in it; of standard input each line is, and -Z makes an empty value a null.
        command += ["-Z", "-K", ":"] if m.body is None else [file.name]
        running.append((m, subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)))
    for m, process in running:
        said, _ = process.communicate(timeout=30)
        if process.returncode:
            sys.exit(f"kcat failed with {m.shape}: {said.decode()}")
    files.close()


def main():
    client, job = sys.argv[1], json.loads(sys.argv[2])
    if client == "delete-queue":
        with amqp(job) as connection:
            connection.channel().queue_delete(job["to"])
        return
    kind = "task" if client == "pika" else "event"
    messages = shapes.all_of(kind, client, job["report"])
    {"pika": pika_client, "confluent": confluent_client, "kcat": kcat_client}[client](job, messages)
    for m in messages:
        print(json.dumps(m.manifest()))


main()
