//! Operations on routers: `overlay router`.

#![expect(
    clippy::similar_names,
    reason = "routers, ports and routes are called so"
)]

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::{
    agent::{
        api::{
            AddRoute, AttachRouter, CreateRouter, DetachRouter, ErrorKind, GATEWAY_MAC,
            ListRouters, OperationError, RemoveRoute, RemoveRouter, RemovedView, RouteView,
            RouterPortView, RouterView, SetRouter, ShowRouter,
        },
        server::{Handle, Outcome},
        service::Agent,
    },
    model::{
        Change, Mac, Name, Network, Outside, Resource, Route, RouteKey, RouteTarget, Router,
        RouterPort, gateway_of,
    },
    registry::RegistryError,
};

/// How often a free number may turn out to be taken by somebody faster.
const ID_ATTEMPTS: usize = 64;

impl Handle<CreateRouter> for Agent {
    async fn handle(&self, CreateRouter { name, mac }: CreateRouter) -> Outcome<CreateRouter> {
        self.check_reach().await?;
        let mac = match mac {
            Some(mac) => mac,
            None => Mac::try_from(GATEWAY_MAC)
                .map_err(|error| OperationError::new(ErrorKind::Internal, error))?,
        };
        let mut refused = BTreeSet::new();
        for _ in 0..ID_ATTEMPTS {
            let routers = self.all::<Router>().await?;
            if let Some(router) = routers.iter().find(|router| router.name == name) {
                return self.made_already(router, mac).await;
            }
            let taken = routers.iter().map(|router| router.id);
            let taken: BTreeSet<u32> = taken.chain(refused.iter().copied()).collect();
            let Some(id) = (1..RouteKey::INSIDE).find(|id| !taken.contains(id)) else {
                break;
            };
            let router = Router {
                name: name.clone(),
                id,
                mac,
                outside: Outside::None,
            };
            let object = router.to_object().map_err(invalid)?;
            match self.in_registry(&[Change::PutObject(object)]).await? {
                Ok(revision) => {
                    self.carried_over(revision).await?;
                    return Ok(view(&router, &[], &[], &[]));
                }
                // Somebody was faster, or it was another's until a moment ago.
                Err(
                    RegistryError::Conflict { what: "claim", .. }
                    | RegistryError::Quarantined { .. },
                ) => drop(refused.insert(id)),
                Err(error) => return Err(error.into()),
            }
        }
        Err(OperationError::new(
            ErrorKind::Unavailable,
            format_args!(
                "{ID_ATTEMPTS} numbers were taken by others before router {name} could have one: try again"
            ),
        ))
    }
}

impl Handle<ListRouters> for Agent {
    async fn handle(&self, _: ListRouters) -> Outcome<ListRouters> {
        self.check_reach().await?;
        let (ports, routes) = (self.all().await?, self.all().await?);
        let networks = self.networks_here().await;
        let routers = self.all::<Router>().await?;
        let routers = routers.iter();
        Ok(routers
            .map(|router| view(router, &ports, &routes, &networks))
            .collect())
    }
}

impl Handle<ShowRouter> for Agent {
    async fn handle(&self, ShowRouter { name }: ShowRouter) -> Outcome<ShowRouter> {
        self.check_reach().await?;
        self.view_of_router(&self.router(&name).await?).await
    }
}

impl Handle<SetRouter> for Agent {
    /// Its ports say the same: a row of the kernel's follows from one object.
    async fn handle(&self, request: SetRouter) -> Outcome<SetRouter> {
        self.check_reach().await?;
        let router = self.router(&request.name).await?;
        let Some(outside) = request.outside.filter(|it| *it != router.outside) else {
            return self.view_of_router(&router).await;
        };
        let changed = Router { outside, ..router };
        let mut changes = Vec::new();
        for object in self.registry.objects(&Router::KIND).await? {
            if object.id == Router::id(changed.key()) {
                changes.push(Change::PutObject(changed.update(&object).map_err(invalid)?));
            }
        }
        for object in self.registry.objects(&RouterPort::KIND).await? {
            if let Ok(port) = RouterPort::of(&object)
                && port.router == changed.name
            {
                let port = RouterPort { outside, ..port };
                changes.push(Change::PutObject(port.update(&object).map_err(invalid)?));
            }
        }
        self.commit(&changes).await?;
        self.view_of_router(&changed).await
    }
}

impl Handle<RemoveRouter> for Agent {
    async fn handle(&self, RemoveRouter { name }: RemoveRouter) -> Outcome<RemoveRouter> {
        self.check_reach().await?;
        let removed = self.all::<Router>().await?.iter().any(|it| it.name == name);
        self.commit(&[Change::RemoveObject(Router::id((&name).into()))])
            .await?;
        Ok(RemovedView { removed })
    }
}

impl Handle<AttachRouter> for Agent {
    async fn handle(&self, request: AttachRouter) -> Outcome<AttachRouter> {
        self.check_reach().await?;
        let router = self.router(&request.router).await?;
        let network = self.network(&request.network).await?;
        let port = RouterPort {
            vni: network.vni,
            router: router.name.clone(),
            router_id: router.id,
            mac: router.mac,
            addresses: gateways(&request, &network)?,
            outside: router.outside,
            nptv6: request.nptv6,
        };
        let ports = self.all::<RouterPort>().await?;
        if let Some(there) = ports
            .iter()
            .find(|it| it.vni == network.vni && **it != port)
        {
            return Err(OperationError::new(
                ErrorKind::Conflict,
                format_args!(
                    "network {} is attached to router {} with {}: detach it first with `overlay router detach {} {}`",
                    network.name,
                    there.router,
                    addresses(&there.addresses),
                    there.router,
                    network.name
                ),
            ));
        }
        let object = port.to_object().map_err(invalid)?;
        self.commit(&[Change::PutObject(object)]).await?;
        self.view_of_router(&router).await
    }
}

impl Handle<DetachRouter> for Agent {
    async fn handle(&self, request: DetachRouter) -> Outcome<DetachRouter> {
        self.check_reach().await?;
        let network = self.network(&request.network).await?;
        let ports = self.all::<RouterPort>().await?;
        let Some(port) = ports.iter().find(|it| it.vni == network.vni) else {
            return Ok(RemovedView { removed: false });
        };
        if port.router != request.router {
            return Err(OperationError::new(
                ErrorKind::Refused,
                format_args!(
                    "network {} is attached to router {}, not to {}",
                    network.name, port.router, request.router
                ),
            ));
        }
        self.commit(&[Change::RemoveObject(RouterPort::id(port.key()))])
            .await?;
        Ok(RemovedView { removed: true })
    }
}

impl Handle<AddRoute> for Agent {
    async fn handle(&self, request: AddRoute) -> Outcome<AddRoute> {
        self.check_reach().await?;
        let router = self.router(&request.router).await?;
        let prefix = request.prefix.trunc();
        let vni = match request.target {
            RouteTarget::Via(hop) => {
                let ports = self.all::<RouterPort>().await?;
                let mut ports = ports.iter().filter(|port| port.router == router.name);
                let port = ports.find(|port| port.contains(hop)).ok_or_else(|| {
                    OperationError::new(
                        ErrorKind::Refused,
                        format_args!(
                            "next hop {hop} is in no network of router {}: see `overlay router show {}`",
                            router.name, router.name
                        ),
                    )
                })?;
                Some(port.vni)
            }
            RouteTarget::Blackhole | RouteTarget::Outside => None,
        };
        let route = Route {
            router: router.name.clone(),
            router_id: router.id,
            prefix,
            target: request.target,
            vni,
        };
        let routes = self.all::<Route>().await?;
        if let Some(there) = routes
            .iter()
            .find(|it| it.key() == route.key() && **it != route)
        {
            return Err(OperationError::new(
                ErrorKind::Conflict,
                format_args!(
                    "router {} has a route to {prefix} {}: remove it first with `overlay router route rm {} {prefix}`",
                    router.name, there.target, router.name
                ),
            ));
        }
        let object = route.to_object().map_err(invalid)?;
        self.commit(&[Change::PutObject(object)]).await?;
        Ok(RouteView {
            prefix,
            target: route.target,
        })
    }
}

impl Handle<RemoveRoute> for Agent {
    async fn handle(&self, request: RemoveRoute) -> Outcome<RemoveRoute> {
        self.check_reach().await?;
        let key = Route::key_of(&request.router, request.prefix);
        let removed = self.all::<Route>().await?.iter().any(|it| it.key() == key);
        self.commit(&[Change::RemoveObject(Route::id(key))]).await?;
        Ok(RemovedView { removed })
    }
}

impl Agent {
    /// The resources of a kind, as the registry has them now. One that makes no sense is left out: `status` names it.
    pub(in crate::agent) async fn all<R: Resource>(&self) -> Result<Vec<R>, OperationError> {
        let objects = self.registry.objects(&R::KIND).await?;
        let objects = objects.iter();
        Ok(objects.filter_map(|object| R::of(object).ok()).collect())
    }

    async fn router(&self, name: &Name) -> Result<Router, OperationError> {
        let mut routers = self.all::<Router>().await?.into_iter();
        routers.find(|router| router.name == *name).ok_or_else(|| {
            OperationError::new(
                ErrorKind::NotFound,
                format_args!(
                    "there is no router {name}: see `overlay router ls`, or make one with `overlay router create {name}`"
                ),
            )
        })
    }

    async fn networks_here(&self) -> Vec<Network> {
        let view = self.observer.view().await;
        view.mirror.networks().cloned().collect()
    }

    async fn view_of_router(&self, router: &Router) -> Result<RouterView, OperationError> {
        let (ports, routes) = (self.all().await?, self.all().await?);
        Ok(view(router, &ports, &routes, &self.networks_here().await))
    }

    /// The answer to whoever makes a router that is there: itself, if it is as asked for.
    async fn made_already(&self, router: &Router, mac: Mac) -> Result<RouterView, OperationError> {
        if router.mac == mac {
            return self.view_of_router(router).await;
        }
        Err(OperationError::new(
            ErrorKind::Conflict,
            format_args!(
                "router {} is there with MAC {}: choose another name, or remove it first",
                router.name, router.mac
            ),
        ))
    }
}

pub(super) fn invalid(reason: String) -> OperationError {
    OperationError::new(ErrorKind::Refused, reason)
}

/// The gateway's addresses: those that are asked for, or the first of each subnet.
fn gateways(request: &AttachRouter, network: &Network) -> Result<Vec<IpNet>, OperationError> {
    if !request.ips.is_empty() {
        let ips = request.ips.iter();
        return ips
            .map(|ip| ip.in_network(&network.name, &network.subnets))
            .collect();
    }
    let gateways: Vec<IpNet> = network.subnets.iter().filter_map(gateway_of).collect();
    if gateways.is_empty() {
        return Err(OperationError::new(
            ErrorKind::Refused,
            format_args!(
                "network {} has no subnet to take the gateway's address from: give it with --ip A/LEN",
                network.name
            ),
        ));
    }
    Ok(gateways)
}

fn addresses(addresses: &[IpNet]) -> String {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(", ")
}

fn view(
    router: &Router,
    ports: &[RouterPort],
    routes: &[Route],
    networks: &[Network],
) -> RouterView {
    let ports = ports.iter().filter(|port| port.router == router.name);
    let routes = routes.iter().filter(|route| route.router == router.name);
    let mut view = RouterView {
        name: router.name.clone(),
        id: router.id,
        mac: router.mac,
        outside: router.outside,
        ports: ports
            .map(|port| RouterPortView {
                vni: port.vni,
                nptv6: port.nptv6,
                network: networks
                    .iter()
                    .find(|network| network.vni == port.vni)
                    .map(|network| network.name.clone()),
                addresses: port.addresses.clone(),
            })
            .collect(),
        routes: routes
            .map(|route| RouteView {
                prefix: route.prefix,
                target: route.target,
            })
            .collect(),
    };
    view.ports.sort_by_key(|port| port.vni);
    view.routes.sort_by_key(|route| route.prefix);
    view
}
