//! helix dev.
