//! The caller as a route asks for one: with a scope.

use std::{
    marker::PhantomData,
    net::{IpAddr, SocketAddr},
    ops::Deref,
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::request::Parts,
};
use errand_common::port::store::Scope;

use super::Caller;
use crate::{problem::Problem, state::App};

/// The scopes of which a route asks for one, by type, so that its signature says who may call it.
pub(crate) trait Needs: Send + Sync {
    const ANY_OF: &'static [Scope];
}

macro_rules! needs {
    ($($name:ident = $($scope:ident)|+),+ $(,)?) => {
        $(
            #[derive(Debug)]
            pub(crate) struct $name;
            impl Needs for $name {
                const ANY_OF: &'static [Scope] = &[$(Scope::$scope),+];
            }
        )+
    };
}
needs! { Read = JobsRead, Write = JobsWrite, Cancel = JobsCancel, Approve = Approve, Admin = Admin, Fleet = Fleet, Operate = Admin | Fleet, Look = JobsRead | JobsWrite, Answer = Approve | JobsWrite }

/// A caller who has the scope `S`.
#[derive(Debug)]
pub(crate) struct Permit<S>(pub(crate) Arc<Caller>, PhantomData<S>);

impl<S> Deref for Permit<S> {
    type Target = Caller;
    fn deref(&self) -> &Caller {
        &self.0
    }
}

impl<S: Needs> FromRequestParts<Arc<App>> for Permit<S> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let caller = app.auth.authenticate(&parts.headers, peer(parts)).await?;
        caller.require_any(S::ANY_OF)?;
        Ok(Self(caller, PhantomData))
    }
}

/// The address a request came from.
pub(crate) fn peer(parts: &Parts) -> IpAddr {
    let unknown = IpAddr::from([0, 0, 0, 0]);
    parts.extensions.get::<ConnectInfo<SocketAddr>>().map_or(unknown, |info| info.0.ip())
}
