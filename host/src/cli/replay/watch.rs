//! Shows a replay until it ends: a bar on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use super::super::client::Client;
use super::super::output::{self, Format};
use super::super::{Exit, Global};
use super::{path, print};
use crate::replay::view::View;
use crate::telemetry::logs::printable;

const LOOK: Duration = Duration::from_millis(250);
/// Without a terminal, every so many looks.
const LINE_EVERY: u32 = 20;
const WIDTH: u64 = 30;

/// Ends with 1 when the replay failed or was cancelled. Ctrl-C ends the showing only.
pub(super) async fn until_it_ends(global: &Global, client: &Client, mut view: View) -> Result<(), Exit> {
    let terminal = std::io::stderr().is_terminal();
    let mut looks = 0;
    // One for all looks: an interrupt that comes while the host is asked is seen right after.
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    while !view.is_final() {
        if terminal {
            draw(&bar(&view));
        } else if looks % LINE_EVERY == 0 {
            output::talk(&bar(&view));
        }
        looks += 1;
        tokio::select! {
            _ = &mut interrupted => {
                if terminal {
                    draw("");
                }
                let id = printable(&view.request_id);
                output::talk(&format!(
                    "the replay goes on: `helix replay show {id} --watch` shows it, `helix replay cancel {id}` stops it"
                ));
                return Ok(());
            }
            () = tokio::time::sleep(LOOK) => {}
        }
        view = client.get(&path(&view.request_id), &[]).await?;
    }
    if terminal {
        draw("");
    }
    print(global, &view)?;
    if view.status == "completed" {
        return Ok(());
    }
    let exit = Exit::failed(format!("the replay was not completed: it is {}", view.status));
    Err(if global.output == Format::Json {
        exit.silent()
    } else {
        exit
    })
}

fn bar(view: &View) -> String {
    let (done, total) = (view.done, view.total_messages.max(1));
    let filled = usize::try_from(done.min(total) * WIDTH / total).unwrap_or(0);
    let empty = usize::try_from(WIDTH).unwrap_or(0).saturating_sub(filled);
    let eta = view
        .eta_seconds
        .map_or_else(String::new, |seconds| format!(", {seconds} s left"));
    let error = view
        .error_message
        .as_ref()
        .map_or_else(String::new, |error| format!("; {}", printable(error)));
    format!(
        "[{}{}] {:>3} % {done}/{} {}, {} replayed, {} skipped, {} failed, {:.0}/s{eta}{error}",
        "#".repeat(filled),
        "-".repeat(empty),
        done.min(total) * 100 / total,
        view.total_messages,
        view.status,
        view.matching_count.unwrap_or(view.replayed_count),
        view.skipped_count,
        view.failed_count,
        view.rate_per_second,
    )
}

/// In place of the last one.
fn draw(text: &str) {
    let mut stderr = std::io::stderr();
    // A closed stderr is no reason to stop.
    let _ = write!(stderr, "\r\x1b[K{text}");
    let _ = stderr.flush();
}
