//! Dead letters: how long they are kept, and what the host does with them by itself.

use std::time::Duration;

use super::Check;
use crate::config::raw;
use crate::config::units::Span;
use crate::config::valid::{AutoPolicy, DlqAuto, Keep, Pattern, RetryPolicy};
use crate::error;
use crate::model::FailureClass;

impl Check<'_> {
    /// What is wrong is found also while it is switched off.
    pub(super) fn auto(&mut self, raw: &raw::Auto) -> Option<DlqAuto> {
        if let Some(n) = raw.classes.iter().position(|c| *c == FailureClass::Expired) {
            self.fault(
                error::CONFIG_VALUE,
                &["dlq", "auto", "classes", &n.to_string()],
                "`expired` letters cannot be sent again: their deadline is over",
            )
            .help = Some("leave it out".into());
        }
        self.delays(raw.delay, raw.max_delay, &["dlq", "auto", "delay"]);
        let policy = AutoPolicy {
            retry: RetryPolicy {
                max_retries: raw.max_retries,
                delay: raw.delay.0,
                multiplier: raw.multiplier,
                max_delay: raw.max_delay.0,
                jitter: 0.0,
            },
            on_exhausted: raw.on_exhausted,
        };
        let mut types: Vec<(Pattern, Option<AutoPolicy>)> = raw
            .types
            .iter()
            .enumerate()
            .map(|(n, of_type)| self.auto_type(raw, n, of_type))
            .collect();
        // Stable: what is equally specific stays in the order of the file.
        types.sort_by_key(|(pattern, _)| (!pattern.is_literal(), std::cmp::Reverse(pattern.0.len())));
        raw.enabled.then(|| DlqAuto {
            classes: raw.classes.clone(),
            policy,
            types,
            processing_timeout: raw.processing_timeout.0,
            batch_size: raw.batch_size,
            poll_interval: raw.poll_interval.0,
        })
    }

    fn auto_type(
        &mut self,
        auto: &raw::Auto,
        n: usize,
        raw: &raw::AutoType,
    ) -> (Pattern, Option<AutoPolicy>) {
        let number = n.to_string();
        let at = |key: &'static str| ["dlq", "auto", "types", number.as_str(), key];
        if raw.message_type.is_empty() && self.tree.at(&at("type")).is_some() {
            self.fault(error::CONFIG_VALUE, &at("type"), "an empty type").help =
                Some("\"*\" stands for all".into());
        }
        let delay = raw.delay.unwrap_or(auto.delay);
        let max_delay = raw.max_delay.unwrap_or(auto.max_delay);
        // What stands in the table above is told there.
        if raw.delay.is_some() || raw.max_delay.is_some() {
            let key = if raw.delay.is_some() { "delay" } else { "max_delay" };
            self.delays(delay, max_delay, &at(key));
        }
        let policy = (!raw.never).then(|| AutoPolicy {
            retry: RetryPolicy {
                max_retries: raw.max_retries.unwrap_or(auto.max_retries),
                delay: delay.0,
                multiplier: raw.multiplier.unwrap_or(auto.multiplier),
                max_delay: max_delay.0,
                jitter: 0.0,
            },
            on_exhausted: raw.on_exhausted.unwrap_or(auto.on_exhausted),
        });
        (Pattern::new(raw.message_type.as_str()), policy)
    }

    fn delays(&mut self, delay: Span, max_delay: Span, path: &[&str]) {
        if delay > max_delay {
            let message = format!("dlq.auto: delay {delay} is longer than max_delay {max_delay}");
            self.fault(error::CONFIG_VALUE, path, message).help =
                Some("max_delay bounds every delay, the first one too".into());
        }
    }
}

/// Zero stands for ever.
pub(super) fn keep(raw: &raw::Dlq) -> Keep {
    let kept = |span: Span| Some(span.0).filter(|kept| *kept > Duration::ZERO);
    Keep {
        retention: kept(raw.retention),
        closed: kept(raw.keep_closed),
    }
}
