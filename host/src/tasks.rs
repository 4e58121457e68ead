//! Long-lived tasks.
