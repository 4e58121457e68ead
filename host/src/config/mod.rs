//! Settings: file < environment < flags, checked as a whole, with every fault reported at once.

pub mod valid;
