//! PostgreSQL and SQLite behind one implementation.
