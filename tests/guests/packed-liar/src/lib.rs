//! Hostile: a packed handler whose answer breaks the layout, in the way that the first byte of the first event's data
//! names: `n` wrong number · `s` short · `l` long · `v` wrong version · `u` text that is not UTF-8 · `t` unknown outcome ·
//! `h` a length beyond the buffer · anything else: right.
//! Its `event-handler` is honest.
#![cfg(target_family = "wasm")]

wit_bindgen::generate!({ path: "../../../wit", world: "packed-worker" });

use exports::helix::messaging::{event_handler, packed_handler};

struct Liar;

impl event_handler::Guest for Liar {
    fn handle(_: event_handler::Event) -> Result<(), event_handler::Failure> {
        Ok(())
    }
}

impl packed_handler::Guest for Liar {
    fn handle(batch: Vec<u8>) -> Vec<u8> {
        let count = number(&batch, 4);
        let data = 8 + number(&batch, 8 + 48 + 4 * 3) as usize;
        let mut out = vec![1, 1, 0, 0];
        out.extend(count.to_le_bytes());
        out.extend(vec![0; count as usize]);
        match batch[data] {
            b'n' => out[4..8].copy_from_slice(&(count + 1).to_le_bytes()),
            b's' => out.truncate(out.len() - 1),
            b'l' => out.push(0),
            b'v' => out[0] = 2,
            b't' => out[8] = 7,
            b'u' => reject(&mut out, &[0xff, 0xfe], 2),
            b'h' => reject(&mut out, b"ab", u32::MAX - 1),
            _ => {}
        }
        out
    }
}

/// Puts a reject in place of the first outcome; its reason claims to have `length` bytes.
fn reject(out: &mut Vec<u8>, reason: &[u8], length: u32) {
    let mut outcome = vec![2];
    outcome.extend([0xff; 8]);
    outcome.extend(length.to_le_bytes());
    outcome.extend(reason);
    outcome.extend([0xff; 4]);
    out.splice(8..9, outcome);
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

export!(Liar);
