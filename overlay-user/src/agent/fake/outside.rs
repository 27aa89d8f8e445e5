//! What the fake agent tells of external addresses.

use super::{super::api::*, network};

pub(crate) fn float() -> FloatView {
    FloatView {
        ip: "203.0.113.5".parse().unwrap(),
        endpoint: "web".parse().unwrap(),
        vni: network().vni,
        own: "7.7.7.2".parse().unwrap(),
        node: Some("h1".parse().unwrap()),
        problem: None,
    }
}

pub(crate) fn pool() -> PoolView {
    PoolView {
        name: "public".parse().unwrap(),
        ips: vec!["203.0.113.8/29".parse().unwrap()],
        block: 1024,
        max_blocks: 8,
        filter: Filter::Flow,
        ports_in_endpoint: false,
        used: 3,
        blocks: 504,
        networks: vec![network().name],
    }
}

pub(crate) fn nat() -> NatView {
    NatView {
        blocks: vec![BlockView {
            endpoint: "web".parse().unwrap(),
            vni: network().vni,
            node: "h1".parse().unwrap(),
            pool: Some("public".parse().unwrap()),
            ip: "203.0.113.8".parse().unwrap(),
            first_port: 40_960,
            ports: 1024,
            filter: Filter::Flow,
            used: Some(UsedView {
                tcp: 2,
                ..UsedView::default()
            }),
        }],
        mappings: vec![MappingView {
            protocol: "tcp".to_owned(),
            endpoint: Some("web".parse().unwrap()),
            own: "7.7.7.2".parse().unwrap(),
            own_port: 50_000,
            ip: "203.0.113.8".parse().unwrap(),
            port: 40_961,
            established: 1,
            idle_s: 5,
        }],
        without_block: vec![WithoutBlockView {
            endpoint: "db".parse().unwrap(),
            reason: "all blocks of ports are taken: give the pool more addresses".to_owned(),
        }],
    }
}

pub(crate) fn owner() -> OwnerView {
    OwnerView {
        endpoint: "web".parse().unwrap(),
        vni: network().vni,
        node: Some("h1".parse().unwrap()),
        from: 1_790_000_000,
        until: None,
    }
}

pub(crate) fn flow() -> FlowView {
    FlowView {
        protocol: "tcp".to_owned(),
        endpoint: Some("web".parse().unwrap()),
        own: "7.7.7.2".parse().unwrap(),
        own_port: 50_000,
        ip: "203.0.113.8".parse().unwrap(),
        port: 40_961,
        remote: "198.51.100.9".parse().unwrap(),
        remote_port: 443,
        state: "established".to_owned(),
        idle_s: 5,
    }
}

pub(crate) fn dhcp() -> DhcpView {
    DhcpView {
        vni: network().vni,
        network: Some(network().name),
        on: true,
        server: Some("7.7.7.1".parse().unwrap()),
        dns: vec!["8.8.8.8".parse().unwrap()],
        domain: Some("cloud.example".to_owned()),
        ntp: Vec::new(),
        lease_s: DEFAULT_LEASE_S,
        routes: vec!["10.9.0.0/16=7.7.7.9".parse().unwrap()],
        pxe: None,
    }
}

pub(crate) fn router() -> RouterView {
    RouterView {
        name: "r1".parse().unwrap(),
        id: 1,
        mac: GATEWAY_MAC.try_into().unwrap(),
        outside: Outside::None,
        ports: vec![RouterPortView {
            vni: network().vni,
            network: Some(network().name),
            nptv6: None,
            addresses: vec!["7.7.7.1/24".parse().unwrap()],
        }],
        routes: vec![RouteView {
            prefix: "10.9.0.0/16".parse().unwrap(),
            target: "via 7.7.7.9".parse().unwrap(),
        }],
    }
}
