//! One contract for both engines of the store: each property is written once and runs on SQLite and on Postgres; what is drawn
//! by chance is given to both, and both have to say the same.

mod crash;
mod differential;
mod hosts;
mod properties;
mod stage;
mod unanswered;
