//! A broker that is not there.
