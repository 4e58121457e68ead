//! Letters that failed alike.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};

use super::super::{Api, Problem};
use super::parameters::{Words, filter, limit, words};
use crate::dlq::report::{Group, Groups};

pub(in crate::http) async fn list(
    State(api): State<Arc<Api>>,
    query: Result<Query<Words>, QueryRejection>,
) -> Result<Json<Groups>, Problem> {
    let mut words = words(query)?;
    let limit = limit(&mut words)?;
    let filter = filter(&words, &api)?;
    let found = api.letters.groups(&filter, limit).await?;
    Ok(Json(Groups {
        count: found.count,
        at_least: found.at_least,
        groups: found.groups.into_iter().map(Group::from).collect(),
    }))
}
