//! How many rows a page has.

use super::Problem;
use crate::dlq::filter::Fault;

/// Rows of a page: unless set, and at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub unless_set: usize,
    pub most: usize,
}

impl Limits {
    pub fn of(self, asked: Option<usize>) -> Result<usize, Problem> {
        let limit = asked.unwrap_or(self.unless_set);
        if (1..=self.most).contains(&limit) {
            return Ok(limit);
        }
        let why = format!("{limit} is not within 1 and {}; more come by `cursor`", self.most);
        Err(Fault::new("limit", 1, why).into())
    }
}
