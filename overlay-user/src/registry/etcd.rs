//! The registry in etcd, which the agents of a cluster share. docs/registry.md has the layout.
//!
//! - What must be unique is a key of its own (a claim), written by the transaction that writes the
//!   row and compares that the claim is not there. A generation is the revision of the row's key.
//! - A node's session, addresses in quarantine and questions are on leases.
//! - Only one prefix is watched; a watch goes on where it was after any interruption that etcd's
//!   history covers.
//! - Every transaction compares the store's identity: another store, or an emptied one, answers nothing
//!   and takes nothing.
//! - Every request has a limit and is repeated on another member while that may help.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{
    Findings, Reading, Registry, RegistryError, RegistrySettings, Scope, WatchEvent,
    identity::Followed,
};
use crate::model::{
    Change, Endpoint, Kind, Name, Node, Object, Question, QuestionId, RegistryId, Report, Revision,
    Session, Snapshot, Vni, Wanted, ipam::Block,
};

mod access;
mod audit;
mod changes;
mod commit;
mod delta;
mod follow;
mod identity;
mod keys;
mod layout;
mod lease;
mod members;
mod read;
mod rejected;
mod store_error;
mod txn_plan;
mod values;

use self::{
    access::Access,
    lease::{Quarantine, Sessions},
    members::Members,
    store_error::StoreError,
};

/// The registry in an etcd cluster.
#[derive(Debug)]
pub struct Etcd {
    members: Arc<Members>,
    quarantine: Arc<Quarantine>,
    sessions: Sessions,
    session_ttl: Duration,
}

impl Etcd {
    /// Connects; `members` is what follows `etcd://` in the URL. Refuses a store of a newer layout.
    pub(super) async fn open(
        members: &str,
        settings: &RegistrySettings,
    ) -> Result<Self, RegistryError> {
        let access = Access::new(members, settings)?;
        let followed = Followed::new(settings.identity);
        let etcd = Self {
            members: Arc::new(Members::new(settings.url.clone(), access, followed)),
            quarantine: Arc::new(Quarantine::new(settings.quarantine)),
            sessions: Sessions::default(),
            session_ttl: settings.session_ttl,
        };
        etcd.done(layout::check(&etcd.members).await)?;
        Ok(etcd)
    }

    /// The store that is there, whichever it is.
    pub(super) async fn peek(
        members: &str,
        settings: &RegistrySettings,
    ) -> Result<(Option<RegistryId>, Snapshot), RegistryError> {
        let access = Access::new(members, settings)?;
        let followed = Followed::default();
        let members = Arc::new(Members::new(settings.url.clone(), access, followed));
        let explain = |failure: StoreError| failure.explain(members.url());
        let identity = read::store_identity(&members).await.map_err(explain)?;
        let reading = read::read(&members, Scope::All).await.map_err(explain)?;
        Ok((identity, reading.collect().await?))
    }

    /// In the user's words if it has failed.
    fn done<T>(&self, result: Result<T, StoreError>) -> Result<T, RegistryError> {
        result.map_err(|failure| failure.explain(self.members.url()))
    }
}

#[async_trait]
impl Registry for Etcd {
    async fn read(&self, scope: Scope) -> Result<Reading, RegistryError> {
        self.done(read::read(&self.members, scope).await)
    }

    async fn find(&self, vni: Vni, wanted: Wanted) -> Result<Option<Endpoint>, RegistryError> {
        self.done(read::find(&self.members, vni, wanted).await)
    }

    async fn find_endpoint(&self, name: &Name) -> Result<Option<Endpoint>, RegistryError> {
        self.done(read::find_endpoint(&self.members, name).await)
    }

    async fn taken(&self, vni: Vni, block: Block) -> Result<BTreeSet<IpAddr>, RegistryError> {
        self.done(read::taken(&self.members, vni, block).await)
    }

    async fn nodes(&self) -> Result<Vec<Node>, RegistryError> {
        self.done(read::nodes(&self.members).await)
    }

    async fn objects(&self, kind: &Kind) -> Result<Vec<Object>, RegistryError> {
        self.done(read::objects(&self.members, kind).await)
    }

    async fn watch(&self) -> Result<mpsc::Receiver<WatchEvent>, RegistryError> {
        self.done(follow::start(&self.members).await)
    }

    async fn commit(&self, changes: &[Change]) -> Result<Revision, RegistryError> {
        let (members, quarantine) = (Arc::clone(&self.members), Arc::clone(&self.quarantine));
        let changes = changes.to_vec();
        // Carried through even if the caller gives up half-way.
        let committing =
            tokio::spawn(async move { commit::commit(&members, &quarantine, &changes).await });
        self.done(committing.await.unwrap_or_else(|_| {
            Err(StoreError::Refused(
                "the commit was cut off: see the log".to_owned(),
            ))
        }))
    }

    async fn heartbeat(&self, node: &Name, session: &Session) -> Result<(), RegistryError> {
        let ttl = self.session_ttl;
        self.done(
            self.sessions
                .heartbeat(&self.members, node, session, ttl)
                .await,
        )
    }

    async fn ask(&self, question: &Question) -> Result<(), RegistryError> {
        self.done(lease::ask(&self.members, question).await)
    }

    async fn publish(&self, report: &Report) -> Result<(), RegistryError> {
        self.done(lease::publish(&self.members, report).await)
    }

    async fn reports(&self, question: Option<QuestionId>) -> Result<Vec<Report>, RegistryError> {
        self.done(lease::reports(&self.members, question).await)
    }

    async fn audit(&self, repair: bool) -> Result<Findings, RegistryError> {
        self.done(audit::audit(&self.members, repair).await)
    }

    async fn adopt(&self, identity: Option<RegistryId>) -> Result<(), RegistryError> {
        let adoption = self.members.followed.adopt(identity);
        self.done(layout::check(&self.members).await)?;
        adoption.keep();
        Ok(())
    }

    fn identity(&self) -> Option<RegistryId> {
        self.members.followed.get()
    }

    fn url(&self) -> String {
        self.members.url().to_owned()
    }
}
