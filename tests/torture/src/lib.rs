//! Kills, cuts and disturbs a real host under load, and proves from one history that nothing was lost.

pub mod power;
