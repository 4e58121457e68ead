//! Parameters of lists: pages, and the words of a filter.

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;

use super::super::page::Limits;
use super::super::{Api, Problem};
use crate::dlq::filter::{self, Fault};
use crate::store::LetterFilter;

/// As they stand in the query.
pub(in crate::http) type Words = Vec<(String, String)>;

pub(in crate::http) const LIMITS: Limits = Limits {
    unless_set: 50,
    most: 1000,
};

pub(in crate::http) fn words(query: Result<Query<Words>, QueryRejection>) -> Result<Words, Problem> {
    query
        .map(|Query(words)| words)
        .map_err(|rejection| Problem::bad_request(rejection.body_text()))
}

pub(super) fn filter(words: &Words, api: &Api) -> Result<LetterFilter, Problem> {
    let pairs = words.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    Ok(filter::read(pairs, api.clock.now_ms())?)
}

/// Takes it out of the words. Given twice, the second one stays there and is refused.
pub(in crate::http) fn take(words: &mut Words, name: &str) -> Option<String> {
    let at = words.iter().position(|(found, _)| found == name)?;
    Some(words.remove(at).1)
}

pub(in crate::http) fn number(words: &mut Words, name: &str) -> Result<Option<usize>, Problem> {
    take(words, name)
        .map(|value| {
            value.parse().map_err(|_| {
                let stray = value.chars().position(|c| !c.is_ascii_digit());
                Fault::new(name, stray.unwrap_or_default() + 1, "it is no whole number").into()
            })
        })
        .transpose()
}

pub(super) fn limit(words: &mut Words) -> Result<usize, Problem> {
    LIMITS.of(number(words, "limit")?)
}

/// What is left means nothing here.
pub(in crate::http) fn no_more(words: &Words, known: &str) -> Result<(), Problem> {
    match words.first() {
        None => Ok(()),
        Some((name, _)) => Err(Fault::new(name, 1, format!("known here are {known}")).into()),
    }
}
