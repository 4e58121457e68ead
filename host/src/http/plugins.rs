//! What serves, what is stale, what it imports and was granted.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::Api;
use crate::guest::PluginStatus;

pub(super) async fn list(State(api): State<Arc<Api>>) -> Json<Vec<PluginStatus>> {
    Json(api.plugins.list())
}
