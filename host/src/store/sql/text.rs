//! Text as both engines keep it: Postgres has no U+0000 in text, and SQLite's `LIKE` ends at one. So it is written as two
//! characters that no text has (Unicode's noncharacters), and read back; what is searched for is written the same way.

use std::borrow::Cow;

use super::Error;
use super::engine::Row;
use super::row::column;

/// Begins a pair; itself it is written as a pair too, so that everything comes back as it was.
const MARK: char = '\u{fdd0}';
const NUL: char = '\u{fdd1}';
const SELF: char = '\u{fdd2}';

pub(super) fn stored(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', MARK]) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\0' => out.extend([MARK, NUL]),
            MARK => out.extend([MARK, SELF]),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

fn given(text: String) -> String {
    if !text.contains(MARK) {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let pair = (c == MARK).then(|| rest.peek().copied()).flatten();
        out.push(match pair {
            Some(NUL) => '\0',
            Some(SELF) => MARK,
            // Written by an older Helix, or by somebody's hand.
            _ => {
                out.push(c);
                continue;
            }
        });
        rest.next();
    }
    out
}

/// A column that [`stored`] was written to.
pub(super) fn text(row: &Row, name: &str) -> Result<String, Error> {
    column(row, name).map(given)
}

/// The same, where there may be none.
pub(super) fn maybe_text(row: &Row, name: &str) -> Result<Option<String>, Error> {
    Ok(column::<Option<String>>(row, name)?.map(given))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_text_is_written_as_it_is() {
        assert!(matches!(
            stored("a\u{1}\u{fdd1}é"),
            Cow::Borrowed("a\u{1}\u{fdd1}é")
        ));
        assert_eq!(given("\u{fdd0}".into()), "\u{fdd0}");
        assert_eq!(given("\u{fdd0}a\u{fdd0}".into()), "\u{fdd0}a\u{fdd0}");
    }

    proptest! {
        #[test]
        fn every_text_comes_back_and_none_has_a_nul(text in "[a\0\u{fdd0}\u{fdd1}\u{fdd2}é]{0,12}", other in "[a\0\u{fdd0}\u{fdd1}]{0,3}") {
            let kept = stored(&text).into_owned();
            prop_assert!(!kept.contains('\0'));
            prop_assert_eq!(given(kept.clone()), text.clone());
            // What is found in the text is found in what is kept.
            prop_assert!(!text.contains(&other) || kept.contains(&*stored(&other)));
            prop_assert_eq!(text == other, kept == stored(&other));
        }
    }
}
