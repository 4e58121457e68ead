// Helix handlers in JavaScript, for QuickJS components (componentize-qjs).
//
//   import { task, retry, reject } from "…/sdk/js/helix.js";
//   export const taskHandler = task((message) => {
//     const { name } = message.json();
//     if (!name) throw reject("no name given", { code: "name.missing" });
//     console.log(`hello ${name}`);
//   });
//
// `task`, `event` and `eventBatch` make a function a handler; export it as `taskHandler`, `eventHandler` or
// `eventBatchHandler`. Returning is done; `throw retry(…)` and `throw reject(…)` are the two failures; any other
// exception is a retry with its text. JSON that cannot be read is rejected with the code `payload.invalid`.
//
// QuickJS has no TextDecoder, no console and no fetch: they are here.

import publisher from "helix:messaging/publisher@0.1.0";
import client from "helix:messaging/fetch@0.1.0";
import { decode, encode, toBytes } from "./text.js";
import "./console.js";

/** "Not now" or "never". Made by `retry` and `reject`, thrown by handlers. */
export class Failure extends Error {
  constructor(verdict, reason, { code, afterMs } = {}) {
    super(reason);
    this.name = "Failure";
    this.verdict = verdict;
    this.code = code ?? null;
    this.afterMs = afterMs ?? null;
  }
}

/** Try again by the route's policy, or not before `afterMs` from now. */
export function retry(reason, options) {
  return new Failure("retry", String(reason), options);
}

/** No retry can help: straight to the dead letter queue. */
export function reject(reason, options) {
  return new Failure("reject", String(reason), options);
}

/** What a handler gets: the record of the contract in camelCase, and these. An event's `data` is also its `payload`. */
class Message {
  constructor(record) {
    // u64 is a number in QuickJS and a bigint elsewhere; none is null there and undefined elsewhere.
    for (const [name, value] of Object.entries(record)) {
      this[name] = typeof value === "bigint" ? Number(value) : (value ?? null);
    }
    this.payload ??= this.data;
  }

  get isLastAttempt() {
    return this.maxAttempts !== 0 && this.attempt >= this.maxAttempts;
  }

  /** The payload as text. */
  text() {
    try {
      return decode(this.payload);
    } catch {
      throw reject("payload is not UTF-8", { code: "payload.invalid" });
    }
  }

  /** The payload as JSON; that of a tombstone is null. */
  json() {
    if (this.tombstone) return null;
    const text = this.text();
    try {
      return JSON.parse(text);
    } catch (error) {
      throw reject(`payload: ${error.message}`, { code: "payload.invalid" });
    }
  }

  /** The first header of that name as text, compared without case; null when there is none. */
  header(name) {
    const wanted = name.toLowerCase();
    const found = (this.headers ?? []).find(([other]) => other.toLowerCase() === wanted);
    return found ? decode(found[1]) : null;
  }
}

/** A handler of tasks: `export const taskHandler = task((message) => { … })`. */
export function task(handle) {
  return { handle: (record) => outcome(() => handle(new Message(record))) };
}

/** A handler of events: `export const eventHandler = event((message) => { … })`. */
export function event(handle) {
  return { handle: (record) => outcome(() => handle(new Message(record))) };
}

/**
 * A handler of many events: `export const eventBatchHandler = eventBatch((message) => { … })`. It is called for each event
 * of the batch; what it publishes meanwhile belongs to that event.
 */
export function eventBatch(handle) {
  return {
    handle: (records) =>
      records.map((record, place) => {
        input = place;
        try {
          outcome(() => handle(new Message(record)));
          return { tag: "ok" };
        } catch (failure) {
          return { tag: "err", val: failure };
        } finally {
          input = null;
        }
      }),
  };
}

let input = null;

/** The host takes nothing but the two failures: what else is thrown would look like a broken engine to it. */
function outcome(work) {
  try {
    const result = work();
    if (typeof result?.then === "function") {
      throw reject("the handler is async, which QuickJS components are not", { code: "handler.async" });
    }
  } catch (error) {
    const failure = error instanceof Failure ? error : retry(describe(error));
    if (!(error instanceof Failure) && error?.stack) console.error(`${describe(error)}\n${error.stack}`);
    const { message: reason, code, afterMs } = failure;
    throw failure.verdict === "reject"
      ? { tag: "reject", val: { reason, code } }
      : { tag: "retry", val: { reason, code, afterMs } };
  }
}

function describe(error) {
  return error instanceof Error ? `${error.name}: ${error.message}` : String(error);
}

/** Publishes a task: `{ type, queue, payload | json, priority, key, delayMs, deadlineMs, replyTo, … }`. Its id. */
export function publishTask(task) {
  const { body, contentType } = bodyOf(task);
  return call("publish", () =>
    publisher.publishTask({
      messageType: task.type,
      queue: task.queue ?? null,
      payload: body,
      contentType,
      schema: task.schema ?? null,
      priority: task.priority ?? null,
      key: bytesOrNull(task.key),
      delayMs: task.delayMs ?? null,
      deadlineMs: task.deadlineMs ?? null,
      correlationId: task.correlationId ?? null,
      replyTo: task.replyTo ?? null,
      headers: headersOf(task.headers),
      input: task.input ?? input,
    }),
  );
}

/** Publishes an event: `{ type, topic, payload | json, key, subject, tombstone, … }`. Its id. */
export function publishEvent(event) {
  const { body, contentType } = event.tombstone ? { body: new Uint8Array(), contentType: null } : bodyOf(event);
  return call("publish", () =>
    publisher.publishEvent({
      messageType: event.type,
      topic: event.topic ?? null,
      subject: event.subject ?? null,
      data: body,
      tombstone: event.tombstone ?? false,
      contentType,
      schema: event.schema ?? null,
      key: bytesOrNull(event.key),
      correlationId: event.correlationId ?? null,
      headers: headersOf(event.headers),
      input: event.input ?? input,
    }),
  );
}

/** Sends a request and waits: `fetch(url, { method, headers, body | json, timeoutMs })` → `{ status, ok, text(), json() }`. */
export function fetch(url, { method = "GET", headers, timeoutMs, ...rest } = {}) {
  const { body, contentType } = bodyOf({ ...rest, payload: rest.body });
  const list = headersOf(headers);
  if (contentType) list.push(["content-type", encode(contentType)]);
  const answer = call("fetch", () =>
    client.send({ method, url, headers: list, body, timeoutMs: timeoutMs ?? null }),
  );
  return {
    status: answer.status,
    ok: answer.status >= 200 && answer.status < 300,
    headers: answer.headers.map(([name, value]) => [name, decode(value)]),
    body: answer.body,
    text: () => decode(answer.body),
    json: () => JSON.parse(decode(answer.body)),
  };
}

// What waiting can mend; the other errors of the host are final.
const LATER = new Set(["unavailable", "timeout", "connection", "other"]);

/** Errors of the host, as failures with a code: `publish.denied`, `fetch.timeout`. */
function call(what, work) {
  try {
    return work();
  } catch (thrown) {
    const error = thrown?.payload ?? thrown;
    if (typeof error?.tag !== "string") throw thrown;
    const words = error.val === undefined || error.val === null ? "" : `: ${error.val}`;
    const make = LATER.has(error.tag) ? retry : reject;
    throw make(`${what} failed, ${error.tag}${words}`, { code: `${what}.${error.tag}` });
  }
}

function bodyOf({ json, payload, contentType }) {
  return json === undefined
    ? { body: toBytes(payload ?? ""), contentType: contentType ?? null }
    : { body: encode(JSON.stringify(json)), contentType: contentType ?? "application/json" };
}

function bytesOrNull(value) {
  return value === undefined || value === null ? null : toBytes(value);
}

function headersOf(headers) {
  const pairs = Array.isArray(headers) ? headers : Object.entries(headers ?? {});
  return pairs.map(([name, value]) => [name, toBytes(value)]);
}
