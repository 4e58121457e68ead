// Types of helix.js. Meanings of the fields: wit/messages.wit.

export interface Message {
  readonly id: string;
  readonly messageType: string;
  /** Tasks. */
  readonly queue?: string;
  /** Events. */
  readonly topic?: string;
  readonly payload: Uint8Array;
  readonly contentType: string | null;
  readonly schema: string | null;
  readonly priority?: number;
  readonly key: Uint8Array | null;
  readonly timeMs: number;
  readonly deadlineMs?: number | null;
  readonly source?: string | null;
  readonly subject?: string | null;
  readonly tombstone?: boolean;
  readonly partition?: number | null;
  readonly offset?: number | null;
  readonly attempt: number;
  /** 0 = never gives up. */
  readonly maxAttempts: number;
  readonly isLastAttempt: boolean;
  readonly redelivered: boolean;
  readonly reprocessed: number;
  readonly replay: string | null;
  readonly correlationId: string | null;
  readonly replyTo?: string | null;
  readonly traceparent: string | null;
  readonly tracestate: string | null;
  readonly headers: [string, Uint8Array][];
  /** The payload as text; rejected with `payload.invalid` when it is not UTF-8. */
  text(): string;
  /** The payload as JSON; rejected with `payload.invalid` when it is none. */
  json<T = unknown>(): T;
  /** The first header of that name as text. */
  header(name: string): string | null;
}

export interface FailureOptions {
  /** Short and stable: dead letters are grouped by it. */
  code?: string;
}

export class Failure extends Error {
  readonly verdict: "retry" | "reject";
  readonly code: string | null;
  readonly afterMs: number | null;
}

export function retry(reason: unknown, options?: FailureOptions & { afterMs?: number }): Failure;
export function reject(reason: unknown, options?: FailureOptions): Failure;

export type Handler<Record> = { handle(record: Record): unknown };
export function task(handle: (message: Message) => void): Handler<object>;
export function event(handle: (message: Message) => void): Handler<object>;
/** Called for each event of the batch. */
export function eventBatch(handle: (message: Message) => void): Handler<object[]>;

type Bytes = Uint8Array | string;
type HeaderPairs = [string, Bytes][] | { [name: string]: Bytes };

interface Outgoing {
  type: string;
  json?: unknown;
  payload?: Bytes;
  contentType?: string;
  schema?: string;
  key?: Bytes;
  correlationId?: string;
  headers?: HeaderPairs;
  /** In a batch, when it is not the event at hand: the place of the event it belongs to. */
  input?: number;
}

export interface NewTask extends Outgoing {
  queue?: string;
  /** 0 to 10. */
  priority?: number;
  delayMs?: number;
  deadlineMs?: number;
  replyTo?: string;
}

export interface NewEvent extends Outgoing {
  topic?: string;
  subject?: string;
  tombstone?: boolean;
}

/** The id it will have. */
export function publishTask(task: NewTask): string;
export function publishEvent(event: NewEvent): string;

export interface Answer {
  status: number;
  ok: boolean;
  headers: [string, string][];
  body: Uint8Array;
  text(): string;
  json<T = unknown>(): T;
}

/** Waits for the whole answer: not the web's `fetch`. */
export function fetch(
  url: string,
  options?: { method?: string; headers?: HeaderPairs; body?: Bytes; json?: unknown; timeoutMs?: number },
): Answer;
