// `console` for QuickJS: log, info and debug go to stdout, warn and error to stderr, a line each.

import stdout from "wasi:cli/stdout@0.2.12";
import stderr from "wasi:cli/stderr@0.2.12";
import { encode } from "./text.js";

// What one call of blocking-write-and-flush takes at most.
const PIECE = 4096;

function writer(open) {
  return (...values) => {
    const bytes = encode(`${values.map(shown).join(" ")}\n`);
    const stream = open();
    for (let at = 0; at < bytes.length; at += PIECE) {
      stream.blockingWriteAndFlush(bytes.slice(at, at + PIECE));
    }
    stream[Symbol.dispose]?.();
  };
}

function shown(value) {
  if (value instanceof Error) return `${value.name}: ${value.message}`;
  return typeof value === "object" && value !== null ? JSON.stringify(value) : String(value);
}

if (globalThis.console === undefined) {
  const out = writer(() => stdout.getStdout());
  const err = writer(() => stderr.getStderr());
  globalThis.console = { log: out, info: out, debug: out, warn: err, error: err };
}
