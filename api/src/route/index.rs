//! `GET /`: a plain page of links.

use axum::response::Html;

/// Where to go from here.
pub(crate) async fn index() -> Html<&'static str> {
    Html(include_str!("index.html"))
}
