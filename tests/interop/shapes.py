"""Every wire shape a message may come in, whole and broken, as clients that are not ours would write them."""

import base64
import hashlib
import json

ZERO = "0001-01-01T00:00:00Z"
NOW = "2026-01-18T10:11:12.5Z"


class Message:
    """What a client publishes: properties exist on AMQP only, a key on Kafka only, a body of None is a Kafka null."""

    def __init__(self, shape, client, report):
        self.shape = shape
        self.id = f"{client}-{shape}"
        self.type = f"probe.{shape}"
        self.order = json.dumps({"do": "echo", "report": report, "note": "äöü \u2028 \U0001f9ec"}, ensure_ascii=False)
        self.payload = self.order.encode()
        digest = hashlib.md5(self.id.encode()).hexdigest()
        self.traceparent = f"00-{digest}-{digest[:16]}-01"
        self.headers = {"interop-id": self.id}
        self.properties = {}
        self.key = None
        self.content_type = None
        self.body = self.payload

    def manifest(self):
        """What the test compares with what the handler, or the dead letter, got."""
        return {
            "shape": self.shape,
            "id": self.id,
            "type": self.type,
            "payload_bytes": len(self.payload),
            "traceparent": self.traceparent,
            "body": None if self.body is None else base64.b64encode(self.body).decode(),
        }


def b64(data):
    return base64.b64encode(data).decode()


def text(value):
    return json.dumps(value).encode()


def flat(m, kind, **more):
    """The manual's flat JSON; the payload stays the very text that it is."""
    rest = json.dumps({"id": m.id, "type": m.type, **more})
    member = "payload" if kind == "task" else "data"
    return (rest[:-1] + f', "{member}": {m.order}' + "}").encode()


def message_envelope(m, inner, **more):
    """HelixAgent's Message, with the fields and zero times that Go writes."""
    return text({
        "id": m.id, "type": m.type, "payload": inner, "headers": {"origin": "helixagent"}, "timestamp": NOW,
        "priority": 8, "retry_count": 0, "max_retries": 3, "trace_id": "tr-1", "correlation_id": "co-1",
        "expiration": ZERO, "delivery_mode": 2, "state": "pending", **more,
    })


def task_inside(m, payload):
    return text({
        "id": m.id, "type": m.type, "payload": payload, "priority": 8, "state": "pending", "max_retries": 3,
        "retry_count": 0, "deadline": ZERO, "created_at": NOW, "scheduled_at": ZERO, "started_at": ZERO,
        "completed_at": ZERO, "trace_id": "tr-1",
    })


def event_inside(m, data):
    return text({
        "id": m.id, "type": m.type, "source": "debate", "data": data, "data_content_type": "application/json",
        "timestamp": NOW, "headers": {"origin": "helixagent"}, "trace_id": "tr-1", "key": b64(b"inner-key"),
    })


def cloud_event(m, **more):
    event = {"specversion": "1.0", "id": m.id, "source": "/interop", "type": m.type, "traceparent": m.traceparent,
             "datacontenttype": "application/json", "subject": "s-1", "data": json.loads(m.order)}
    event.update(more)
    event = {name: value for name, value in event.items() if value is not None}
    return json.dumps(event, ensure_ascii=False).encode()


def binary(m, prefix):
    attributes = {"specversion": "1.0", "id": m.id, "source": "/interop", "type": m.type, "subject": "s-1",
                  "traceparent": m.traceparent}
    m.headers.update({prefix + name: value for name, value in attributes.items()})
    m.content_type = "application/json"


def helixagent_headers(m, kind):
    m.headers.update({"origin": "helixagent", "trace-id": "tr-1", "traceparent": m.traceparent})
    if kind == "task":
        m.properties.update(type=m.type, message_id=m.id)
        m.content_type = "application/json"
    else:
        m.headers.update(type=m.type, id=m.id)
        m.key = m.id


def whole(kind, make):
    m = make("flat")
    m.body = flat(m, kind, traceparent=m.traceparent, priority=7, metadata={"team": "x"})
    yield m

    m = make("flat-named-outside-too")
    m.body = flat(m, kind)
    helixagent_headers(m, kind)
    m.key = None if kind == "task" else "k-1"
    yield m

    # The type outside and inside, the id inside only.
    m = make("flat-type-outside-too")
    m.body = flat(m, kind, traceparent=m.traceparent)
    m.headers["type"] = m.type
    yield m

    # The other member name, and no content type at all.
    m = make("flat-other-member")
    m.body = flat(m, "event" if kind == "task" else "task", traceparent=m.traceparent)
    yield m

    m = make("helixagent")
    inside = task_inside if kind == "task" else event_inside
    m.body = message_envelope(m, b64(inside(m, b64(m.payload))))
    helixagent_headers(m, kind)
    yield m

    m = make("helixagent-without-headers")
    m.body = message_envelope(m, b64(inside(m, b64(m.payload))))
    m.traceparent = None
    yield m

    m = make("raw-type-id")
    m.headers.update({"type": m.type, "id": m.id, "trace-id": "tr-1", "traceparent": m.traceparent})
    yield m

    m = make("raw-message-type-message-id")
    m.headers.update({"message_type": m.type, "message_id": m.id, "trace_id": "tr-1", "traceparent": m.traceparent})
    yield m

    m = make("cloudevents-structured")
    m.body = cloud_event(m)
    m.content_type = "application/cloudevents+json; charset=utf-8"
    # The data is what stands in the event, not what we would have written ourselves.
    m.payload = json.dumps(json.loads(m.order), ensure_ascii=False).encode()
    yield m

    m = make("cloudevents-structured-base64")
    m.body = cloud_event(m, data=None, data_base64=b64(m.payload))
    m.content_type = "application/cloudevents+json"
    yield m

    if kind == "task":
        m = make("raw-properties")
        m.properties.update(type=m.type, message_id=m.id)
        m.headers.update({"trace_id": "tr-1", "traceparent": m.traceparent})
        yield m
        for name, prefix in [("underscore", "cloudEvents_"), ("colon", "cloudEvents:")]:
            m = make(f"cloudevents-binary-{name}")
            binary(m, prefix)
            yield m
    else:
        m = make("cloudevents-binary")
        binary(m, "ce_")
        m.key = "k-1"
        yield m


def broken(kind, make):
    def one(shape, body, **headers):
        m = make(shape)
        m.body = body(m) if callable(body) else body
        m.headers.update(headers)
        return m

    yield one("no-json", b"hello")
    yield one("cut-off", lambda m: flat(m, kind)[:20])
    yield one("not-utf8", lambda m: flat(m, kind).replace(b"note", b"n\xfft\xfe"))
    yield one("no-type", lambda m: flat(m, kind).replace(b'"type"', b'"kind"'))
    yield one("type-is-a-list", lambda m: flat(m, kind, type=[m.type]))
    yield one("id-is-a-number", lambda m: flat(m, kind, id=5))
    yield one("headers-are-text", lambda m: flat(m, kind, headers="a=b"))
    yield one("priority-is-a-word", lambda m: flat(m, kind, priority="high"))
    yield one("time-is-a-word", lambda m: flat(m, kind, timestamp="yesterday"))
    yield one("type-twice", lambda m: flat(m, kind)[:-1] + b', "type": "again"}')
    yield one("base64-outside", lambda m: message_envelope(m, "***"))
    inside = task_inside if kind == "task" else event_inside
    yield one("base64-inside", lambda m: message_envelope(m, b64(inside(m, "not base64!"))))
    structured = "application/cloudevents+json"
    for shape, more in [
        ("cloudevent-without-source", {"source": None}),
        ("cloudevent-id-is-a-number", {"id": 5}),
        ("cloudevent-of-version-2", {"specversion": "2.0"}),
        ("cloudevent-base64", {"data": None, "data_base64": "***"}),
    ]:
        m = one(shape, lambda m, more=more: cloud_event(m, **more))
        m.content_type = structured
        yield m
    m = one("cloudevents-batch", lambda m: b"[" + cloud_event(m) + b"]")
    m.content_type = "application/cloudevents-batch+json"
    yield m
    yield one("deadline-long-past", lambda m: flat(m, kind, deadline="2020-01-01T00:00:00Z"))
    m = make("of-no-route")
    m.type = "unknown.type"
    m.body = flat(m, kind)
    yield m
    if kind == "event":
        yield one("null-without-type", None)


def all_of(kind, client, report):
    """`kind`: task (AMQP) or event (Kafka)."""

    def make(shape):
        return Message(shape, client, report)

    return [*whole(kind, make), *broken(kind, make)]
