//! Takes over what another tool kept: `overlay import`.

use crate::agent::service::Agent;
use crate::{
    agent::{
        api::{ErrorKind, ImportArpd, ImportView, OperationError},
        server::{Handle, Outcome},
    },
    integration::arpd,
    registry::Scope,
};

impl Handle<ImportArpd> for Agent {
    async fn handle(&self, ImportArpd { vni, dir }: ImportArpd) -> Outcome<ImportArpd> {
        let folder = tokio::task::spawn_blocking(move || arpd::Folder::read(&dir))
            .await
            .map_err(|error| OperationError::new(ErrorKind::Internal, error))?;
        self.check_reach().await?;
        let vni = self.vni_of(&vni).await?;
        let snapshot = self
            .registry
            .read(Scope::Network(vni))
            .await?
            .collect()
            .await?;
        let plan = arpd::plan(&folder, vni, self.config.port, &snapshot)
            .map_err(|error| OperationError::new(ErrorKind::Refused, error))?;
        self.commit(&plan.changes).await?;
        Ok(ImportView {
            vni,
            endpoints: plan.endpoints,
            vteps: plan.vteps,
        })
    }
}
