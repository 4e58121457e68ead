//! Output that is too much, too long or meant for the terminal of whoever reads it.

use super::*;

/// Writes the `length` bytes at 16384 so often.
fn writes(data: &str, length: u32, times: u32) -> Vec<u8> {
    let code = format!(
        "(drop (memory.grow (i32.const 2))) (local.set $out (call $stdout)) (loop $l
            (call $write (local.get $out) (i32.const 16384) (i32.const {length}) (i32.const 12288))
            (if (i32.load8_u (i32.const 12288)) (then unreachable))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $l (i32.lt_u (local.get $i) (i32.const {times}))))
        (i32.const 16)"
    );
    let body = format!(
        "{data} {}",
        wat::with_code(
            "task",
            &format!("(local $i i32) (local $out i32) {UNLESS_EMPTY} {code}")
        )
    );
    wasi::component(wasi::STDOUT, &body)
}

async fn kept(component: &[u8]) -> Vec<String> {
    let range = Range::with(component, |p| p.log_lines = 5).await;
    let before = status_kib("VmRSS:");
    let done = range.attack_for(Duration::from_secs(60)).await;
    assert_eq!(done.outcome, Outcome::Done);
    let grown = status_kib("VmRSS:").saturating_sub(before);
    assert!(grown < 200 << 10, "{grown} KiB");
    let bytes: usize = done.log.iter().map(String::len).sum();
    assert!(bytes <= 2 * (8 << 10), "{bytes} bytes are kept of one call");
    range.stands().await;
    done.log
}

#[tokio::test]
async fn a_hundred_thousand_lines_keep_their_end_only() {
    let log = kept(&writes(r#"(data (i32.const 16384) "spam\0a")"#, 5, 100_000)).await;
    assert!(
        log.len() > 100 && log.iter().all(|l| l == "spam"),
        "{} lines",
        log.len()
    );
}

#[tokio::test]
async fn a_line_without_an_end_is_cut() {
    let log = kept(&writes("", 65_536, 500)).await;
    assert_eq!(log.len(), 1);
}

#[tokio::test]
async fn a_line_of_control_characters_is_no_longer_than_any_other() {
    // Each is shown as six characters or more.
    let data = format!(r#"(data (i32.const 16384) "{}")"#, r"\1b".repeat(16_000));
    let log = kept(&writes(&data, 16_000, 3)).await;
    assert!(
        log.iter()
            .all(|l| l.len() <= (8 << 10) + 3 && l.starts_with("\\u{1b}")),
        "{log:?}"
    );
}

#[tokio::test]
async fn a_line_that_is_no_text_is_no_longer_than_any_other() {
    let data = format!(r#"(data (i32.const 16384) "{}")"#, r"\ff".repeat(16_000));
    let log = kept(&writes(&data, 16_000, 3)).await;
    assert!(log.iter().all(|l| l.len() <= (8 << 10) + 3), "{}", log[0].len());
}

#[tokio::test]
async fn sequences_for_the_terminal_are_shown_not_sent() {
    // Clear the screen, set the title, ring, return to the line's start, turn the direction of writing.
    let data = r#"(data (i32.const 16384) "\1b[2J\1b]0;owned\07\0dfake\e2\80\aeevil\0a")"#;
    let log = kept(&writes(data, 28, 1)).await;
    let text = log.concat();
    assert!(
        text.contains("\\u{1b}[2J") && text.contains("\\u{202e}"),
        "{text}"
    );
    assert!(
        !text.chars().any(|c| c.is_control() || c == '\u{202e}'),
        "{text:?}"
    );
}
