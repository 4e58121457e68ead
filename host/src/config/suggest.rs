//! Did you mean …? Nearest name by edit distance.

/// Edits (insert, delete, replace, swap of neighbours) between two words, counted in characters.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let b: Vec<char> = b.chars().take(64).collect();
    let width = b.len() + 1;
    let mut two_back: Vec<usize> = vec![0; width];
    let mut back: Vec<usize> = (0..width).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut row = Vec::with_capacity(width);
        row.push(i + 1);
        for (j, cb) in b.iter().enumerate() {
            let at = |r: &[usize], k: usize| r.get(k).copied().unwrap_or(usize::MAX / 2);
            let mut best = (at(&back, j) + usize::from(ca != cb))
                .min(at(&back, j + 1) + 1)
                .min(at(&row, j) + 1);
            if i > 0 && j > 0 && a.get(i - 1) == Some(cb) && b.get(j - 1) == Some(ca) {
                best = best.min(at(&two_back, j - 1) + 1);
            }
            row.push(best);
        }
        two_back = std::mem::replace(&mut back, row);
    }
    back.last().copied().unwrap_or(0)
}

/// The nearest of `known`, when it is near enough to be a slip of the hand.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = word.to_lowercase().replace('-', "_");
    let limit = (word.chars().count() / 3).min(4);
    known
        .into_iter()
        .map(|name| (distance(&folded, &name.to_lowercase().replace('-', "_")), name))
        .filter(|(d, _)| *d <= limit)
        .min()
        .map(|(_, name)| name)
}

/// Help text for a name that is not known.
pub(super) fn help<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match nearest(word, known.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None if known.is_empty() => "there are none yet".into(),
        None if known.len() > 24 => format!("one of {} names; none is near it", known.len()),
        None => format!("known here: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        assert_eq!(distance("concurency", "concurrency"), 1);
        assert_eq!(distance("retyr", "retry"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("same", "same"), 0);
    }

    #[test]
    fn suggests_only_what_is_near() {
        assert_eq!(
            nearest("concurency", ["order", "concurrency"]),
            Some("concurrency")
        );
        assert_eq!(nearest("max-retries", ["max_retries"]), Some("max_retries"));
        assert_eq!(nearest("zebra", ["order", "concurrency"]), None);
        assert_eq!(nearest("p", ["q"]), None, "one letter is no slip");
    }
}
