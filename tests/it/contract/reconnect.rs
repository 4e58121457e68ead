//! A connection that is cut.
