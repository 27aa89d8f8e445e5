//! Operations on external addresses: `overlay float` and `overlay pool`, and a network's SNAT.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use super::router::invalid;
use crate::{
    agent::{
        api::{
            AddFloat, CreatePool, ErrorKind, FloatView, ListFloats, ListPools, MoveFloat,
            OperationError, PoolView, RemoveFloat, RemovePool, RemovedView,
        },
        outside::{Host, Known},
        server::{Handle, Outcome},
        service::Agent,
    },
    model::{
        Block, BlockKey, Change, Endpoint, Float, Key, Name, Network, Object, Outside,
        OutsideHistory, Owner, Pool, Resource, Router, RouterPort, Snat, SnatChoice, Vni,
    },
    reconcile::View,
};

impl Handle<AddFloat> for Agent {
    async fn handle(&self, request: AddFloat) -> Outcome<AddFloat> {
        self.check_reach().await?;
        let float = self
            .float(request.ip, &request.endpoint, request.own)
            .await?;
        if let Some(there) = self.find_float(request.ip).await? {
            if there.0 == float {
                return Ok(self.view_of_float(float).await);
            }
            return Err(OperationError::new(
                ErrorKind::Conflict,
                format_args!(
                    "{} is endpoint {}'s: move it with `overlay float move {} --endpoint {}`",
                    request.ip, there.0.endpoint, request.ip, request.endpoint
                ),
            ));
        }
        let object = float.to_object().map_err(invalid)?;
        let history = self.history_of(&float).await?;
        self.commit(&[Change::PutObject(object), history]).await?;
        Ok(self.view_of_float(float).await)
    }
}

impl Handle<MoveFloat> for Agent {
    async fn handle(&self, request: MoveFloat) -> Outcome<MoveFloat> {
        self.check_reach().await?;
        let float = self
            .float(request.ip, &request.endpoint, request.own)
            .await?;
        let Some((there, object)) = self.find_float(request.ip).await? else {
            return Err(OperationError::new(
                ErrorKind::NotFound,
                format_args!(
                    "{} is no float: see `overlay float ls`, or make it one with `overlay float add`",
                    request.ip
                ),
            ));
        };
        if there != float {
            let object = float.update(&object).map_err(invalid)?;
            let history = self.history_of(&float).await?;
            self.commit(&[Change::PutObject(object), history]).await?;
        }
        Ok(self.view_of_float(float).await)
    }
}

impl Handle<ListFloats> for Agent {
    async fn handle(&self, _: ListFloats) -> Outcome<ListFloats> {
        self.check_reach().await?;
        let mut views = Vec::new();
        for float in self.all::<Float>().await? {
            views.push(self.view_of_float(float).await);
        }
        views.sort_by_key(|view| view.ip);
        Ok(views)
    }
}

impl Handle<RemoveFloat> for Agent {
    async fn handle(&self, RemoveFloat { ip }: RemoveFloat) -> Outcome<RemoveFloat> {
        self.check_reach().await?;
        let removed = self.find_float(ip).await?.is_some();
        let id = Float::id(IpAddr::V4(ip).into());
        let of = OutsideHistory::key_of_float(ip);
        let there = self.history(&of).await?;
        let ended = OutsideHistory::ended(&of, there.as_ref()).filter(|_| removed);
        let ended = ended.transpose().map_err(invalid)?;
        let changes = [Some(Change::RemoveObject(id)), ended.map(Change::PutObject)];
        let changes: Vec<Change> = changes.into_iter().flatten().collect();
        self.commit(&changes).await?;
        Ok(RemovedView { removed })
    }
}

impl Handle<CreatePool> for Agent {
    async fn handle(&self, request: CreatePool) -> Outcome<CreatePool> {
        self.check_reach().await?;
        if matches!(request.name.as_str(), "none" | "host") {
            return Err(invalid(format!(
                "a pool can't be called {}: `overlay network set --snat {}` means something else",
                request.name, request.name
            )));
        }
        let pool = Pool {
            name: request.name,
            ranges: request.ips,
            block: request.block,
            max_blocks: request.max_blocks,
            filter: request.filter,
            ports_in_endpoint: request.ports_in_endpoint,
        };
        let pools = self.all::<Pool>().await?;
        match pools.iter().find(|it| it.name == pool.name) {
            Some(there) if *there == pool => {}
            Some(_) => {
                return Err(OperationError::new(
                    ErrorKind::Conflict,
                    format_args!(
                        "pool {} is there and differs: see `overlay pool ls`, choose another name or remove it",
                        pool.name
                    ),
                ));
            }
            None => {
                let object = pool.to_object().map_err(invalid)?;
                self.commit(&[Change::PutObject(object)]).await?;
            }
        }
        self.view_of_pool(&pool).await
    }
}

impl Handle<ListPools> for Agent {
    async fn handle(&self, _: ListPools) -> Outcome<ListPools> {
        self.check_reach().await?;
        let mut views = Vec::new();
        for pool in self.all::<Pool>().await? {
            views.push(self.view_of_pool(&pool).await?);
        }
        Ok(views)
    }
}

impl Handle<RemovePool> for Agent {
    async fn handle(&self, RemovePool { name }: RemovePool) -> Outcome<RemovePool> {
        self.check_reach().await?;
        let removed = self
            .all::<Pool>()
            .await?
            .iter()
            .any(|pool| pool.name == name);
        self.commit(&[Change::RemoveObject(Pool::id((&name).into()))])
            .await?;
        Ok(RemovedView { removed })
    }
}

impl Agent {
    /// The float that is asked for: of the endpoint's first IPv4 address unless it says which.
    async fn float(
        &self,
        ip: Ipv4Addr,
        endpoint: &Name,
        own: Option<Ipv4Addr>,
    ) -> Result<Float, OperationError> {
        let found = self.find(endpoint).await?;
        let mut ips = ipv4s(&found);
        let own = match own {
            None => ips.next().ok_or_else(|| {
                invalid(format!(
                    "endpoint {endpoint} has no IPv4 address to give {ip} to"
                ))
            })?,
            Some(own) if ips.any(|its| its == own) => own,
            Some(own) => {
                return Err(invalid(format!(
                    "{own} is no address of endpoint {endpoint}: see `overlay endpoint show {endpoint}`"
                )));
            }
        };
        Ok(Float {
            ip,
            endpoint: endpoint.clone(),
            vni: found.vni,
            own,
        })
    }

    async fn history(&self, of: &Key) -> Result<Option<Object>, OperationError> {
        let objects = self.registry.objects(&OutsideHistory::KIND).await?;
        Ok(objects.into_iter().find(|object| object.id.key == *of))
    }

    /// The change that remembers who has a float from now on.
    async fn history_of(&self, float: &Float) -> Result<Change, OperationError> {
        let of = OutsideHistory::key_of_float(float.ip);
        let there = self.history(&of).await?;
        let begun = OutsideHistory::begun(&of, Owner::from(float), there.as_ref());
        begun.map(Change::PutObject).map_err(invalid)
    }

    async fn find_float(&self, ip: Ipv4Addr) -> Result<Option<(Float, Object)>, OperationError> {
        let objects = self.registry.objects(&Float::KIND).await?.into_iter();
        let mut floats = objects.filter_map(|object| Some((Float::of(&object).ok()?, object)));
        Ok(floats.find(|(float, _)| float.ip == ip))
    }

    async fn view_of_float(&self, float: Float) -> FloatView {
        let view = self.observer.view().await;
        let known = view.mirror.endpoint(&float.endpoint);
        let node = known.as_ref().map(|known| known.node().clone());
        let problem = match &known {
            Some(known) if !known.ips().any(|ip| ip == float.own) => Some(format!(
                "endpoint {} does not have {} any more",
                float.endpoint, float.own
            )),
            _ => no_way_out(&view, float.vni),
        };
        FloatView {
            ip: float.ip,
            endpoint: float.endpoint,
            vni: float.vni,
            own: float.own,
            node,
            problem,
        }
    }

    async fn view_of_pool(&self, pool: &Pool) -> Result<PoolView, OperationError> {
        let blocks = self.all::<Block>().await?;
        let snats = self.all::<Snat>().await?;
        let view = self.observer.view().await;
        let users = snats
            .iter()
            .filter(|snat| snat.pool.as_ref() == Some(&pool.name));
        let networks = users.filter_map(|snat| view.mirror.network(snat.vni));
        Ok(PoolView {
            name: pool.name.clone(),
            ips: pool.ranges.clone(),
            block: pool.block,
            max_blocks: pool.max_blocks,
            filter: pool.filter,
            ports_in_endpoint: pool.ports_in_endpoint,
            used: blocks
                .iter()
                .filter(|block| block.pool.as_ref() == Some(&pool.name))
                .count() as u64,
            blocks: pool.blocks(),
            networks: networks.map(|network| network.name.clone()).collect(),
        })
    }

    /// The change that has a network's endpoints share other addresses, and those that it has shared no more. `None`: none
    /// is needed.
    pub(super) async fn snat_change(
        &self,
        network: &Network,
        choice: &SnatChoice,
    ) -> Result<Option<Change>, OperationError> {
        let objects = self.registry.objects(&Snat::KIND).await?;
        let id = Snat::id(network.vni.into());
        let there = objects.iter().find(|object| object.id == id);
        let pool = match choice {
            SnatChoice::None => return Ok(there.map(|_| Change::RemoveObject(id))),
            SnatChoice::Host => None,
            SnatChoice::Pool(name) => {
                let pools = self.all::<Pool>().await?;
                if !pools.iter().any(|pool| pool.name == *name) {
                    return Err(OperationError::new(
                        ErrorKind::NotFound,
                        format_args!(
                            "there is no pool {name}: see `overlay pool ls`, or make one with `overlay pool create \
                             {name} --ip CIDR`"
                        ),
                    ));
                }
                Some(name.clone())
            }
        };
        let snat = Snat {
            vni: network.vni,
            pool,
        };
        let object = match there {
            Some(there) if Snat::of(there).ok().as_ref() == Some(&snat) => return Ok(None),
            Some(there) => snat.update(there).map_err(invalid)?,
            None => snat.to_object().map_err(invalid)?,
        };
        Ok(Some(Change::PutObject(object)))
    }
}

impl Agent {
    /// The block of ports that a new endpoint of this host begins with, and the changes that claim it. None is no reason
    /// to refuse the endpoint: `overlay nat ls` says who has none.
    pub(super) async fn block_for(
        &self,
        endpoint: &Endpoint,
        refused: &BTreeSet<BlockKey>,
    ) -> Option<(BlockKey, Vec<Change>)> {
        if endpoint.node != self.config.node || ipv4s(endpoint).next().is_none() {
            return None;
        }
        let uplink = self.way_out.borrow().uplink;
        let host = Host {
            node: self.config.node.clone(),
            address: uplink.and_then(|uplink| uplink.address).map(|it| it.addr()),
            ports: self.config.snat_ports.clone(),
        };
        let view = self.observer.view().await;
        let known = Known::of(&view.mirror);
        let claim = known.claim(&endpoint.name, endpoint.vni, &host, refused);
        let (block, changes) = claim.ok()?;
        let key = BlockKey {
            ip: block.ip,
            number: block.number,
        };
        Some((key, changes))
    }
}

fn ipv4s(endpoint: &Endpoint) -> impl Iterator<Item = Ipv4Addr> {
    endpoint.ips().filter_map(|ip| match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    })
}

/// Why packets of a network do not get out, in a line. `None`: they may.
fn no_way_out(view: &View, vni: Vni) -> Option<String> {
    let port = view.mirror.object(&RouterPort::id(vni.into()));
    let Some(port) = port.and_then(|port| RouterPort::of(port).ok()) else {
        return Some(format!(
            "VNI {vni} has no router: attach one with `overlay router attach`"
        ));
    };
    let router = view.mirror.object(&Router::id((&port.router).into()));
    let router = router.and_then(|router| Router::of(router).ok())?;
    (router.outside == Outside::None).then(|| {
        format!(
            "router {} leads nowhere: `overlay router set {} --outside host`",
            router.name, router.name
        )
    })
}
