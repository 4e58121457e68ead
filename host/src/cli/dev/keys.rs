//! The three words a developer may type: t (test message), r (reload), q (quit).

use std::io::IsTerminal;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, BufReader};

use crate::app::App;

/// Resolves on `q`; never when stdin is no terminal.
pub async fn listen(app: Arc<App>) {
    if !std::io::stdin().is_terminal() {
        return std::future::pending().await;
    }
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        match lines.next_line().await {
            Ok(Some(line)) => match line.trim() {
                "q" => return,
                "r" => {
                    if let Err(faults) = app.reload() {
                        tracing::error!("the configuration was refused, the last good one serves:\n{faults}");
                    }
                }
                "t" => match app.send_test_message().await {
                    Ok(sent) => tracing::info!("sent {sent}"),
                    Err(error) => tracing::error!("cannot send a test message: {error}"),
                },
                _ => {}
            },
            // End of input or a closed terminal: signals still end the host.
            Ok(None) | Err(_) => return std::future::pending().await,
        }
    }
}
