// npm test
import assert from "node:assert/strict";
import { test } from "node:test";
import { message, run } from "../../sdk/js/testing/index.mjs";
import { taskHandler } from "./notify.js";

function notify(t, json, attempt = 1) {
  const log = t.mock.method(console, "log", () => {});
  const { failure } = run(taskHandler, message({ type: "notification", json, attempt }));
  return { failure, lines: log.mock.calls.map((call) => call.arguments[0]) };
}

test("writes the notification to the log", (t) => {
  const { failure, lines } = notify(t, { channel: "mail", subject: "disk", text: "full" });
  assert.equal(failure, null);
  assert.deepEqual(lines, ["[mail] disk: full (attempt 1)"]);
});

test("a flaky one is retried once", (t) => {
  const first = notify(t, { text: "x", flaky: true });
  assert.equal(first.failure.tag, "retry");
  assert.equal(first.failure.val.code, "channel.busy");
  assert.deepEqual(first.lines, []);
  assert.equal(notify(t, { text: "x", flaky: true }, 2).failure, null);
});

test("what no retry can help is rejected", (t) => {
  for (const [json, code] of [
    [{ text: "x", channel: "invalid" }, "channel.unknown"],
    [{ channel: "log" }, "text.missing"],
    [null, "text.missing"],
  ]) {
    const { failure } = notify(t, json);
    assert.equal(failure.tag, "reject");
    assert.equal(failure.val.code, code);
  }
});
