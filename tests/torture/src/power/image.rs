//! What is left of changes that were never synced.

/// What a disk writes as a whole, or not at all.
const SECTOR: usize = 512;

pub enum Change {
    /// Offset and bytes.
    Write(usize, Box<[u8]>),
    Resize(usize),
}

impl Change {
    pub fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Write(offset, bytes) => put(image, *offset, bytes),
            Self::Resize(size) => image.resize(*size, 0),
        }
    }
}

fn put(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    if let Some(place) = image.get_mut(offset..end) {
        place.copy_from_slice(bytes);
    }
}

/// Each change survives with probability `share`. Of the others half are gone, half are torn: any of their sectors may be
/// there. Bytes that were not written stay as they are, as SQLite assumes of a disk (`SQLITE_IOCAP_POWERSAFE_OVERWRITE`).
pub fn survivors(kept: &[u8], pending: &[Change], share: f64, rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut image = kept.to_vec();
    let last = pending.len().saturating_sub(1);
    for (place, change) in pending.iter().enumerate() {
        // The one that was being written when the power went is the likeliest to be torn.
        if rng.f64() < share && (place < last || rng.bool()) {
            change.apply(&mut image);
        } else if let Change::Write(offset, bytes) = change
            && share > 0.0
            && rng.bool()
        {
            for (at, sector) in sectors(*offset, bytes) {
                if rng.bool() {
                    put(&mut image, at, sector);
                }
            }
        }
    }
    image
}

/// The pieces of a write that lie in one sector each.
fn sectors(offset: usize, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let (mut at, mut rest) = (offset, bytes);
    std::iter::from_fn(move || {
        let here = (SECTOR - at % SECTOR).min(rest.len());
        let (piece, after) = rest
            .split_at_checked(here)
            .filter(|(piece, _)| !piece.is_empty())?;
        let found = (at, piece);
        at += here;
        rest = after;
        Some(found)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests")]

    use super::*;

    #[test]
    fn a_write_is_cut_at_the_borders_of_sectors() {
        let bytes = vec![1; 1_000];
        let pieces: Vec<_> = sectors(500, &bytes)
            .map(|(at, piece)| (at, piece.len()))
            .collect();
        assert_eq!(pieces, [(500, 12), (512, 512), (1_024, 476)]);
    }

    #[test]
    fn what_was_not_written_stays_and_every_outcome_happens() {
        let kept = vec![7; 2_048];
        let pending = [
            Change::Write(100, vec![9; 1_500].into()),
            Change::Write(3_000, vec![8; 10].into()),
        ];
        let mut seen = std::collections::BTreeSet::new();
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..5_000 {
            let image = survivors(&kept, &pending, 0.5, &mut rng);
            assert!(
                image[..100]
                    .iter()
                    .chain(&image[1_600..2_048])
                    .all(|byte| *byte == 7)
            );
            let sector = |range: std::ops::Range<usize>| image[range].iter().all(|byte| *byte == 9);
            let later = image.len() == 3_010;
            seen.insert((
                sector(100..512),
                sector(512..1_024),
                sector(1_024..1_536),
                sector(1_536..1_600),
                later,
            ));
        }
        assert_eq!(
            seen.len(),
            32,
            "each of four sectors and the later write, in any combination"
        );
    }
}
