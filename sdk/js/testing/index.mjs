// Running handlers in unit tests, without a host: `run(taskHandler, message({ type: "greet", json: { name: "A" } }))`.

import { encode, toBytes } from "../text.js";
import { reset, state } from "./double.mjs";

/** A task or event as the host delivers it: id `test-1`, first of four attempts. Every field can be given. */
export function message({ type = "test", json, payload, ...fields } = {}) {
  const body = json === undefined ? toBytes(payload ?? "") : encode(JSON.stringify(json));
  return {
    id: "test-1", messageType: type, queue: "test", topic: "test", payload: body, data: body, tombstone: false,
    priority: 0, timeMs: 1_700_000_000_000, attempt: 1, maxAttempts: 4, redelivered: false, reprocessed: 0, headers: [],
    ...fields,
  };
}

/**
 * What the handler did with it: `{ failure, tasks, events, requests }`; `failure` is null or `{ tag, val }`. As the host
 * does, it forgets what a failed handler published. `onFetch(request)` answers, `onPublish(target)` returns a refusal.
 */
export function run(handler, record, settings) {
  reset(settings);
  try {
    const results = handler.handle(record);
    return { ...state, results, failure: null };
  } catch (failure) {
    if (typeof failure?.tag !== "string") throw failure;
    return { ...state, tasks: [], events: [], failure };
  }
}
