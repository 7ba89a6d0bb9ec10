//! A limit for every answer of a database across a network: one that is cut off takes calls and stays silent.

use std::{future::Future, time::Duration};

use super::dialect::{Param, Sql, SqlTx};
use crate::port::StoreError;

/// Waits for an answer so long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience(pub(crate) Duration);

impl Patience {
    /// When the time is up, whether it was done is not known, as with a connection that broke.
    pub(crate) async fn with<T>(
        self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(self.0, call).await {
            Ok(answer) => answer,
            Err(elapsed) => Err(StoreError::Unavailable(Box::new(elapsed))),
        }
    }
}

/// A transaction whose statements have a limit each.
pub(crate) struct PatientTx<T> {
    pub(crate) tx: T,
    pub(crate) patience: Patience,
}

impl<T: SqlTx> SqlTx for PatientTx<T> {
    type Row = T::Row;

    async fn fetch(&mut self, sql: &'static Sql, params: Vec<Param>) -> Result<Vec<T::Row>, StoreError> {
        self.patience.with(self.tx.fetch(sql, params)).await
    }

    async fn execute(&mut self, sql: &'static Sql, params: Vec<Param>) -> Result<u64, StoreError> {
        self.patience.with(self.tx.execute(sql, params)).await
    }

    async fn commit(self) -> Result<(), StoreError> {
        self.patience.with(self.tx.commit()).await
    }
}
