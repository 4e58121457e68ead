//! Outcomes into the buffer that goes back.

use super::{EVENTS, PROLOGUE, VERSION};
use crate::failure::{Handled, Verdict};

const OK: u8 = 0;
const RETRY: u8 = 1;
const REJECT: u8 = 2;

/// One outcome per event, in their order.
pub(crate) fn outcomes(count: u32, results: impl Iterator<Item = Handled>) -> Vec<u8> {
    let mut out = Vec::with_capacity(PROLOGUE + count as usize);
    out.extend([VERSION, EVENTS, 0, 0]);
    out.extend(count.to_le_bytes());
    for result in results {
        let Err(failure) = result else {
            out.push(OK);
            continue;
        };
        let (tag, after_ms) = match failure.verdict {
            Verdict::Retry { after } => {
                // All ones mean "none", so the longest wait is one less.
                (
                    RETRY,
                    after.map(|after| {
                        u64::try_from(after.as_millis())
                            .unwrap_or(u64::MAX)
                            .min(u64::MAX - 1)
                    }),
                )
            }
            Verdict::Reject => (REJECT, None),
        };
        out.push(tag);
        out.extend(after_ms.unwrap_or(u64::MAX).to_le_bytes());
        text(&mut out, Some(&failure.reason));
        text(&mut out, failure.code.as_deref());
    }
    out
}

fn text(out: &mut Vec<u8>, text: Option<&str>) {
    let Some(text) = text else {
        out.extend(u32::MAX.to_le_bytes());
        return;
    };
    let length = u32::try_from(text.len()).unwrap_or(0);
    out.extend(length.to_le_bytes());
    out.extend(text.as_bytes().get(..length as usize).unwrap_or_default());
}
