//! What a run left behind.

use crate::failure::{Failure, Handled};
use crate::fetch::Request;
use crate::publish::{NewEvent, NewTask};

/// The outcome of one message, and what it did.
#[derive(Debug, Clone)]
#[must_use = "look at the result"]
pub struct Report {
    pub result: Handled,
    /// Tasks the host would send; empty after a failure.
    pub tasks: Vec<NewTask>,
    /// Events the host would send; empty after a failure.
    pub events: Vec<NewEvent>,
    /// Messages published before a failure, and therefore thrown away.
    pub discarded: usize,
    /// Requests made, answered or not.
    pub requests: Vec<Request>,
}

impl Report {
    pub fn failure(&self) -> Option<&Failure> {
        self.result.as_ref().err()
    }
}

/// The outcomes of a batch, in its order, and what it did.
#[derive(Debug, Clone)]
#[must_use = "look at the results"]
pub struct BatchReport {
    pub results: Vec<Handled>,
    /// Tasks of the inputs that are done; `input` says whose.
    pub tasks: Vec<NewTask>,
    /// Events of the inputs that are done; `input` says whose.
    pub events: Vec<NewEvent>,
    /// Messages of inputs that failed.
    pub discarded: usize,
    pub requests: Vec<Request>,
}
