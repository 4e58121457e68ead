//! What guests write to stdout and stderr: the end of it for the outcome, and so many lines per second for the log.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Longer lines are cut.
const LINE: usize = 8 << 10;
/// Kept per call. Panic texts lie at most 204 bytes before the end in all five languages tried.
const TAIL: usize = 8 << 10;
/// One write of a guest.
const CHUNK: usize = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// Lets a plugin's lines into the log, so many per second, all its instances together.
pub(super) struct Gate {
    plugin: String,
    limiter: Option<DefaultDirectRateLimiter>,
    /// Since the last line that passed.
    dropped: AtomicU64,
}

impl Gate {
    /// `lines` per second; 0 = none.
    pub(super) fn new(plugin: &str, lines: u32) -> Self {
        let limiter = NonZeroU32::new(lines).map(|n| RateLimiter::direct(Quota::per_second(n)));
        Self {
            plugin: plugin.to_owned(),
            limiter,
            dropped: AtomicU64::new(0),
        }
    }

    fn pass(&self) -> bool {
        let open = self
            .limiter
            .as_ref()
            .is_some_and(|limiter| limiter.check().is_ok());
        if !open {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        open
    }

    fn emit(&self, stream: Stream, line: &str) {
        if !self.pass() {
            return;
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!(plugin = %self.plugin, dropped, "lines of the plugin were left out, see log_lines");
        }
        tracing::info!(plugin = %self.plugin, ?stream, "{line}");
    }
}

/// The two streams of one instance. Clones share the buffer.
#[derive(Clone)]
pub(super) struct Capture {
    buffer: Arc<Mutex<Buffer>>,
}

struct Buffer {
    gate: Arc<Gate>,
    lines: VecDeque<(Stream, String)>,
    /// Of all lines.
    bytes: usize,
    stdout: Partial,
    stderr: Partial,
}

#[derive(Default)]
struct Partial {
    bytes: Vec<u8>,
    cut: bool,
}

impl Capture {
    pub(super) fn new(gate: Arc<Gate>) -> Self {
        let buffer = Buffer {
            gate,
            lines: VecDeque::new(),
            bytes: 0,
            stdout: Partial::default(),
            stderr: Partial::default(),
        };
        Self {
            buffer: Arc::new(Mutex::new(buffer)),
        }
    }

    pub(super) fn stream(&self, stream: Stream) -> CaptureStream {
        CaptureStream {
            capture: self.clone(),
            stream,
        }
    }

    /// The end of what was written since the last time, oldest first.
    pub(super) fn take(&self) -> Vec<(Stream, String)> {
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        buffer.finish(Stream::Stdout);
        buffer.finish(Stream::Stderr);
        buffer.bytes = 0;
        // The usual case: silent guests cost no allocation.
        if buffer.lines.is_empty() {
            Vec::new()
        } else {
            buffer.lines.drain(..).collect()
        }
    }

    fn write(&self, stream: Stream, bytes: &[u8]) {
        self.buffer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(stream, bytes);
    }
}

impl Buffer {
    fn partial(&mut self, stream: Stream) -> &mut Partial {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn write(&mut self, stream: Stream, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            let (text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let partial = self.partial(stream);
            let room = LINE.saturating_sub(partial.bytes.len());
            partial.cut |= text.len() > room;
            partial.bytes.extend(text.iter().take(room));
            if ends {
                self.line(stream);
            }
        }
    }

    fn finish(&mut self, stream: Stream) {
        if !self.partial(stream).bytes.is_empty() {
            self.line(stream);
        }
    }

    fn line(&mut self, stream: Stream) {
        let partial = self.partial(stream);
        let mut line = escape(&String::from_utf8_lossy(&partial.bytes));
        // A byte that is shown as `\u{1b}` is six.
        if cut(&mut line, LINE) || partial.cut {
            line.push('…');
        }
        partial.bytes.clear();
        partial.cut = false;
        if line.is_empty() {
            return;
        }
        self.gate.emit(stream, &line);
        self.bytes += line.len() + 1;
        self.lines.push_back((stream, line));
        while self.bytes > TAIL && self.lines.len() > 1 {
            if let Some((_, old)) = self.lines.pop_front() {
                self.bytes -= old.len() + 1;
            }
        }
    }
}

/// Makes text safe for a terminal: control characters (ANSI sequences begin with one) and marks that turn the direction
/// of writing become `\u{…}`.
pub(super) fn escape(text: &str) -> String {
    let text = text.strip_suffix('\r').unwrap_or(text);
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let hidden = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if c == '\t' {
            out.push(' ');
        } else if c.is_control() || hidden {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// Whether something had to go.
fn cut(text: &mut String, most: usize) -> bool {
    let long = text.len() > most;
    text.truncate(text.floor_char_boundary(most));
    long
}

/// A guest's text where a name belongs: safe for a terminal, at most so many bytes and a mark.
pub(super) fn brief(text: &str, most: usize) -> String {
    let mut shown = escape(text.get(..text.floor_char_boundary(most)).unwrap_or_default());
    if cut(&mut shown, most) || text.len() > most {
        shown.push('…');
    }
    shown
}

pub(super) struct CaptureStream {
    capture: Capture,
    stream: Stream,
}

impl IsTerminal for CaptureStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for CaptureStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.capture.stream(self.stream))
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.capture.stream(self.stream))
    }
}

impl OutputStream for CaptureStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.capture.write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(CHUNK)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for CaptureStream {
    async fn ready(&mut self) {}
}

impl AsyncWrite for CaptureStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.capture.write(self.stream, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests")]

    use super::*;

    fn capture(lines: u32) -> Capture {
        Capture::new(Arc::new(Gate::new("p", lines)))
    }

    #[test]
    fn lines_are_joined_over_writes_and_the_last_needs_no_end() {
        let c = capture(10);
        c.write(Stream::Stdout, b"he");
        c.write(Stream::Stderr, b"oh\n");
        c.write(Stream::Stdout, b"llo\r\nrest");
        let got = c.take();
        assert_eq!(
            got,
            [
                (Stream::Stderr, "oh".into()),
                (Stream::Stdout, "hello".into()),
                (Stream::Stdout, "rest".to_owned())
            ]
        );
        assert!(c.take().is_empty());
    }

    #[test]
    fn a_flood_is_bounded_and_its_end_is_kept() {
        let c = capture(0);
        for n in 0..100_000 {
            c.write(Stream::Stderr, format!("line {n}\n").as_bytes());
        }
        let got = c.take();
        assert_eq!(got.last().map(|(_, l)| l.as_str()), Some("line 99999"));
        assert!(got.iter().map(|(_, l)| l.len() + 1).sum::<usize>() <= TAIL);
        let dropped = c
            .buffer
            .lock()
            .map(|b| b.gate.dropped.load(Ordering::Relaxed))
            .unwrap_or(0);
        assert_eq!(dropped, 100_000);
    }

    #[test]
    fn a_line_without_end_takes_no_more_than_its_share() {
        let c = capture(1);
        for _ in 0..100 {
            c.write(Stream::Stdout, &[b'x'; 64 << 10]);
        }
        let got = c.take();
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].1.len(), LINE + '…'.len_utf8());
    }

    #[test]
    fn nothing_reaches_a_terminal_unescaped() {
        assert_eq!(
            escape("a\u{1b}[31mred\u{7}\u{9b}0m\t\u{202e}x"),
            r"a\u{1b}[31mred\u{7}\u{9b}0m \u{202e}x"
        );
        assert_eq!(escape("grün 🚀"), "grün 🚀");
    }
}
