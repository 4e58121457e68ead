//! One contract for both engines of the store: each property is written once and runs on SQLite and on Postgres; what is drawn
//! by chance is given to both, and both have to say the same.

/// One test for each property on each engine: `contract::store::properties::postgres::every_text_is_kept`.
macro_rules! on_both {
    ($($property:ident)*) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $property() {
                super::$property(&super::Stage::new(super::Engine::Sqlite)).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $property() {
                super::$property(&super::Stage::new(super::Engine::Postgres)).await;
            })*
        }
    };
}

mod auto;
mod crash;
mod differential;
mod finding;
mod hosts;
mod pieces;
mod properties;
mod stage;
mod together;
mod unanswered;
