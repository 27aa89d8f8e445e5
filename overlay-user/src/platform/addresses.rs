//! The addresses of an endpoint's interface.

use std::io;

use ipnet::IpNet;
use nix::errno::Errno;

use super::{
    Context, PlatformError, errno, linux::Linux, netlink::Netlink, netns::Netns,
    netns_port::NetnsPort,
};

impl Linux {
    /// Gives the inside the addresses of `spec`, and takes those off that the endpoint had before. All
    /// others are the affair of whoever owns the namespace, and are not even looked at: there may be
    /// any number of them. Gives those that were not there.
    pub(super) async fn set_addresses(
        &self,
        netns: &Netns,
        inner: &Netlink,
        index: u32,
        spec: &NetnsPort<'_>,
    ) -> Result<Vec<IpNet>, PlatformError> {
        let setting = || format!("setting the addresses of endpoint {}", spec.endpoint);
        let records = &self.records.addresses;
        let endpoint = spec.endpoint.as_str();
        let recorded = records.get(endpoint).context(setting)?;
        let wanted: Vec<_> = spec.addresses.iter().map(ToString::to_string).collect();
        let mut previous: Vec<_> = recorded.iter().flat_map(|text| text.lines()).collect();
        previous.retain(|net| !wanted.iter().any(|wanted| wanted == net));
        let is_as_recorded = recorded.as_ref() == Some(&wanted.join("\n"));
        if !is_as_recorded {
            let all = wanted.iter().map(String::as_str);
            let all: Vec<_> = all.chain(previous.iter().copied()).collect();
            records.put(endpoint, &all.join("\n")).context(setting)?;
            for net in previous.iter().filter_map(|net| net.parse().ok()) {
                inner.remove_address(index, net).await.context(setting)?;
            }
        }
        let mut missed = Vec::new();
        // Afterwards: with a primary IPv4 address the kernel removes its secondaries.
        for net in spec.addresses {
            match inner.add_address(index, *net).await {
                Err(error) if errno(&error) == Errno::EACCES && net.addr().is_ipv6() => {
                    let added = self.add_disabled(netns, inner, index, *net, spec).await?;
                    missed.extend(added.then_some(*net));
                }
                added => missed.extend(added.context(setting)?.then_some(*net)),
            }
        }
        if !is_as_recorded {
            records.put(endpoint, &wanted.join("\n")).context(setting)?;
            // Nobody took away what it has for the first time.
            missed.clear();
        }
        Ok(missed)
    }

    /// Gives the inside an IPv6 address that IPv6 is off for: container runtimes turn it off for all that
    /// come, and an endpoint that has such an address is to have it.
    async fn add_disabled(
        &self,
        netns: &Netns,
        inner: &Netlink,
        index: u32,
        net: IpNet,
        spec: &NetnsPort<'_>,
    ) -> Result<bool, PlatformError> {
        let setting = || format!("setting the addresses of endpoint {}", spec.endpoint);
        let gone = || io::Error::from(Errno::ENODEV);
        let link = inner.link(index).await.context(setting)?;
        let name = link.ok_or_else(gone).context(setting)?.name;
        let enabled = match self.enable_ipv6(netns, &name).await {
            Ok(()) => inner.add_address(index, net).await,
            Err(error) => Err(error),
        };
        enabled.map_err(|error| {
            PlatformError::Refused(format!(
                "{net} can't be set: IPv6 is off in namespace {} and can't be turned on there ({error}): write \
                 0 to net.ipv6.conf.{name}.disable_ipv6 in it, or leave the IPv6 addresses out",
                spec.netns
            ))
        })
    }
}
