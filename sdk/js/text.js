// UTF-8 both ways, on the engine's own C functions: QuickJS has no TextDecoder, and a loop over bytes is slow in it.

// Arguments of one call are kept on the stack; 65536 is too many for QuickJS.
const CHUNK = 8192;

/** Bytes to text; throws URIError on what is not UTF-8. */
export function decode(bytes) {
  let latin = "";
  for (let at = 0; at < bytes.length; at += CHUNK) {
    latin += String.fromCharCode.apply(null, bytes.subarray(at, at + CHUNK));
  }
  return /[\x80-\xff]/.test(latin) ? decodeURIComponent(escape(latin)) : latin;
}

/** Text to bytes. */
export function encode(text) {
  const latin = /[^\x00-\x7f]/.test(text) ? unescape(encodeURIComponent(text)) : text;
  const bytes = new Uint8Array(latin.length);
  for (let at = 0; at < latin.length; at += 1) bytes[at] = latin.charCodeAt(at);
  return bytes;
}

/** Bytes as they are, anything else as its text. */
export function toBytes(value) {
  return value instanceof Uint8Array ? value : encode(String(value));
}
