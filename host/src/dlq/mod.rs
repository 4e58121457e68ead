//! Dead letters as people see them. Their full life (reprocess, discard, sweep) comes with a later issue.

pub mod view;
