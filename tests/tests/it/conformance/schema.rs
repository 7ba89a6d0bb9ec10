//! The two databases have one schema, and every statement is one on both.

use super::{Fixture, on_both};

on_both! {
    async fn every_statement_can_be_prepared(fixture: Fixture) {
        let refused = fixture.check.refused_statements().await;
        assert!(refused.is_empty(), "{}", refused.join("\n"));
    }

    async fn a_program_that_lacks_the_last_migration_can_prepare_all_of_its_statements(fixture: Fixture) {
        // Beside this program, and after a rollback to it, the last one goes on. This is all it says; kept from when its
        // migrations ended so, and replaced when the next migration has been released.
        const STATEMENTS: &str = include_str!("statements_at_0007.txt");
        assert!(STATEMENTS.lines().count() > 100);
        let refused = fixture.check.refused_of(STATEMENTS).await;
        assert!(refused.is_empty(), "{}", refused.join("\n"));
        let refused = fixture.check.refused_of("GONE\tSELECT colour FROM jobs").await;
        assert!(refused.len() == 1 && refused[0].starts_with("GONE"), "{refused:?}");
    }
}

#[tokio::test]
async fn both_databases_have_the_same_tables_and_columns() {
    let sqlite = super::sqlite().await.check.columns().await.unwrap();
    let postgres = super::postgres().await.check.columns().await.unwrap();
    assert!(sqlite.len() > 50, "{sqlite:?}");
    assert_eq!(sqlite, postgres);
}
