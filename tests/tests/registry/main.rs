//! The registry's rules, held by every backend, and what only etcd has to bear: members that die,
//! history that is compacted, a store that is full, logins and certificates.
//!
//! The SQLite backend's own tests are beside it, in overlay-user.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "what fails fails the test, with its line"
)]

mod backup;
mod etcd;
mod faults;
mod fixture;
mod logins;
mod nodes;
mod objects;
mod proxy;
mod rules;
mod scale;
mod sessions;
mod watching;

/// Each test once for every backend.
macro_rules! for_every_backend {
    ($($test:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(crate::fixture::Fixture::sqlite()).await;
            })+
        }
        mod etcd {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(crate::fixture::Fixture::etcd()).await;
            })+
        }
    };
}
pub(crate) use for_every_backend;
