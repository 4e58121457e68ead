import assert from "node:assert/strict";
import { test } from "node:test";
import { event, eventBatch, fetch, publishEvent, publishTask, reject, retry, task } from "../helix.js";
import { decode, encode } from "../text.js";
import { message, run } from "./index.mjs";

test("text goes both ways, also in pieces", () => {
  for (const text of ["", "plain", "ä€😀", "a".repeat(8191) + "😀" + "ü".repeat(70_000)]) {
    assert.equal(decode(encode(text)), text);
    assert.deepEqual(encode(text), new TextEncoder().encode(text));
  }
  assert.throws(() => decode(new Uint8Array([0xff])), URIError);
});

test("the failures arrive as the contract has them", () => {
  const throwing = (thrown) => run(task(() => { throw thrown; }), message()).failure;
  assert.deepEqual(throwing(retry("busy", { code: "b", afterMs: 5 })),
    { tag: "retry", val: { reason: "busy", code: "b", afterMs: 5 } });
  assert.deepEqual(throwing(reject("no")), { tag: "reject", val: { reason: "no", code: null } });
  assert.deepEqual(throwing("words"), { tag: "retry", val: { reason: "words", code: null, afterMs: null } });
});

test("an exception is a retry that names it", (context) => {
  context.mock.method(console, "error", () => {});
  const { failure } = run(task(() => null.x), message());
  assert.equal(failure.tag, "retry");
  assert.match(failure.val.reason, /^TypeError: /);
});

test("an async handler is told that it is none", () => {
  assert.equal(run(task(async () => {}), message()).failure.val.code, "handler.async");
});

test("payloads are read, and bad ones rejected", () => {
  const seen = [];
  const handler = event((it) => { seen.push(it.json()); });
  run(handler, message({ json: { a: "ä" } }));
  run(handler, message({ tombstone: true }));
  assert.deepEqual(seen, [{ a: "ä" }, null]);
  for (const payload of ["{", "", new Uint8Array([0x22, 0xff, 0x22])]) {
    assert.equal(run(handler, message({ payload })).failure.val.code, "payload.invalid");
  }
});

test("a message is the same whatever engine delivers it", () => {
  const handler = task((it) => {
    assert.equal(it.timeMs, 5);
    assert.equal(it.replyTo, null);
    assert.equal(it.isLastAttempt, true);
    assert.equal(it.header("X-Tenant"), "ä");
    assert.equal(it.header("none"), null);
  });
  const record = message({ timeMs: 5n, replyTo: undefined, attempt: 4, headers: [["x-tenant", encode("ä")]] });
  assert.equal(run(handler, record).failure, null);
});

test("what is published has every field of the contract", () => {
  const { tasks, events } = run(task(() => {
    publishTask({ type: "a", queue: "q", json: { b: 1 }, priority: 3, key: "k", headers: { x: "1" } });
    publishEvent({ type: "e", topic: "t", key: "k", tombstone: true });
  }), message());
  assert.deepEqual(tasks, [{
    messageType: "a", queue: "q", payload: encode('{"b":1}'), contentType: "application/json", schema: null, priority: 3,
    key: encode("k"), delayMs: null, deadlineMs: null, correlationId: null, replyTo: null, headers: [["x", encode("1")]],
    input: null,
  }]);
  assert.equal(events[0].tombstone, true);
  assert.equal(events[0].data.length, 0);
});

test("errors of the host become failures that wait or end", () => {
  const refused = (tag) => run(task(() => { publishEvent({ type: "e" }); }), message(), {
    onPublish: () => ({ tag, val: "why" }),
  }).failure;
  assert.deepEqual(refused("denied"),
    { tag: "reject", val: { reason: "publish failed, denied: why", code: "publish.denied" } });
  assert.equal(refused("unavailable").tag, "retry");
  const late = run(task(() => { fetch("https://a.example"); }), message(), { onFetch: () => { throw { tag: "timeout" }; } });
  assert.equal(late.failure.val.code, "fetch.timeout");
});

test("a batch keeps results and outputs with their events", () => {
  const handler = eventBatch((it) => {
    publishEvent({ type: "seen", key: it.id });
    if (it.json() > 1) throw reject("too much");
  });
  const { results, events } = run(handler, [message({ json: 1 }), message({ payload: "x" }), message({ json: 2 })]);
  assert.deepEqual(results.map(({ tag, val }) => val?.val.reason ?? tag).map((text) => text.split(":")[0]),
    ["ok", "payload", "too much"]);
  assert.deepEqual(events.map(({ input }) => input), [0, 1, 2]);
});
