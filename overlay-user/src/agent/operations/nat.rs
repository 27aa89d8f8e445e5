//! Operations on what address translation has in use: `overlay nat` and `overlay flow`.

use std::collections::BTreeMap;

use crate::{
    agent::{
        api::{
            BlockView, CheckNat, ErrorKind, FlowView, FlowsEndedView, ListFlows, ListNat,
            MappingView, NatView, OperationError, OwnerView, RemoveFlows, UsedView,
            WithoutBlockView,
        },
        server::{Handle, Outcome},
        service::{Agent, names_of},
    },
    datapath::{DatapathError, Translator},
    model::{Block, BlockKey, BlockUse, Name, OutsideHistory, Owner, Resource as _, SharedAddress},
};

impl Handle<ListNat> for Agent {
    async fn handle(&self, filter: ListNat) -> Outcome<ListNat> {
        let uses = self.translate(Translator::block_uses).await?;
        let uses: BTreeMap<BlockKey, BlockUse> = uses.into_iter().map(|it| (it.key, it)).collect();
        let mappings = self.translate(Translator::mappings).await?;
        let without = self.way_out.borrow().without_block.clone();
        let view = self.observer.view().await;
        let is_wanted = |name: &Name| filter.endpoint.as_ref().is_none_or(|only| only == name);
        let blocks = view.mirror.objects().filter_map(Block::known);
        let blocks = blocks.filter(|block| {
            is_wanted(&block.endpoint) && (filter.pool.is_none() || block.pool == filter.pool)
        });
        let names = names_of(&view).endpoints;
        let name = |ifindex| names.get(&ifindex).cloned();
        let mappings = mappings.into_iter().map(|it| MappingView {
            protocol: protocol(it.protocol),
            endpoint: name(it.ifindex),
            own: it.own,
            own_port: it.own_port,
            ip: it.ip,
            port: it.port,
            established: it.established,
            idle_s: it.idle_s,
        });
        let without = without.into_iter();
        Ok(NatView {
            blocks: blocks.map(|block| block_view(block, &uses)).collect(),
            mappings: mappings
                .filter(|it| filter.endpoint.is_none() || it.endpoint == filter.endpoint)
                .collect(),
            without_block: without
                .filter(|(endpoint, _)| is_wanted(endpoint))
                .map(|(endpoint, reason)| WithoutBlockView { endpoint, reason })
                .collect(),
        })
    }
}

impl Handle<CheckNat> for Agent {
    async fn handle(&self, request: CheckNat) -> Outcome<CheckNat> {
        self.check_reach().await?;
        let mut keys = vec![OutsideHistory::key_of_float(request.ip)];
        for shared in self.all::<SharedAddress>().await? {
            if shared.ip == request.ip {
                keys.push(OutsideHistory::key_of_port(&shared, request.port));
            }
        }
        let histories = self.all::<OutsideHistory>().await?.into_iter();
        let histories = histories.filter(|history| keys.contains(&history.of));
        let owners = histories.filter_map(|history| match request.at {
            Some(at) => history.at(at).cloned(),
            None => history
                .owners
                .last()
                .filter(|it| it.until.is_none())
                .cloned(),
        });
        Ok(owners.map(owner_view).collect())
    }
}

impl Handle<ListFlows> for Agent {
    async fn handle(&self, filter: ListFlows) -> Outcome<ListFlows> {
        let flows = self.translate(Translator::flows).await?.into_iter();
        let view = self.observer.view().await;
        let names = names_of(&view).endpoints;
        let flows = flows.map(|flow| FlowView {
            protocol: protocol(flow.protocol),
            endpoint: flow
                .ifindex
                .and_then(|ifindex| names.get(&ifindex).cloned()),
            own: flow.own,
            own_port: flow.own_port,
            ip: flow.ip,
            port: flow.port,
            remote: flow.remote,
            remote_port: flow.remote_port,
            state: flow.state.to_owned(),
            idle_s: flow.idle_s,
        });
        let wanted =
            flows.filter(|flow| filter.endpoint.is_none() || flow.endpoint == filter.endpoint);
        Ok(wanted.collect())
    }
}

impl Handle<RemoveFlows> for Agent {
    async fn handle(&self, request: RemoveFlows) -> Outcome<RemoveFlows> {
        let ifindex = match &request.endpoint {
            None => None,
            Some(endpoint) => {
                let view = self.observer.view().await;
                let ifindex = view.ifindex(endpoint).ok_or_else(|| {
                    OperationError::new(
                        ErrorKind::NotFound,
                        format_args!(
                            "endpoint {endpoint} is not ready on this host: see `overlay endpoint show {endpoint}`"
                        ),
                    )
                })?;
                Some(ifindex)
            }
        };
        let ended = self.translate(move |it| it.end_flows(ifindex)).await?;
        Ok(FlowsEndedView { ended })
    }
}

impl Agent {
    /// Asks the kernel's side of address translation, on a thread that may wait.
    pub(in crate::agent) async fn translate<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&dyn Translator) -> Result<T, DatapathError> + Send + 'static,
    ) -> Result<T, OperationError> {
        let translator = std::sync::Arc::clone(&self.translator);
        self.maps.wait_for(move || ask(&*translator)).await
    }
}

fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        other => other.to_string(),
    }
}

fn block_view(block: Block, in_use: &BTreeMap<BlockKey, BlockUse>) -> BlockView {
    let key = BlockKey {
        ip: block.ip,
        number: block.number,
    };
    let used = in_use.get(&key).map(|it| {
        let [tcp, udp, icmp] = it.used;
        UsedView {
            tcp,
            udp,
            icmp,
            early: it.early,
        }
    });
    BlockView {
        first_port: *block.port_range().start(),
        endpoint: block.endpoint,
        vni: block.vni,
        node: block.node,
        pool: block.pool,
        ip: block.ip,
        ports: block.ports,
        filter: block.filter,
        used,
    }
}

fn owner_view(owner: Owner) -> OwnerView {
    OwnerView {
        endpoint: owner.endpoint,
        vni: owner.vni,
        node: owner.node,
        from: owner.from,
        until: owner.until,
    }
}
