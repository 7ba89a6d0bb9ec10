//! The two databases have one schema, and every statement is one on both.

use super::{Fixture, on_both};

on_both! {
    async fn every_statement_can_be_prepared(fixture: Fixture) {
        let refused = fixture.check.refused_statements().await;
        assert!(refused.is_empty(), "{}", refused.join("\n"));
    }
}

#[tokio::test]
async fn both_databases_have_the_same_tables_and_columns() {
    let sqlite = super::sqlite().await.check.columns().await.unwrap();
    let postgres = super::postgres().await.check.columns().await.unwrap();
    assert!(sqlite.len() > 50, "{sqlite:?}");
    assert_eq!(sqlite, postgres);
}
