//! The ports of sockets in namespaces that the agent made: those of the endpoint's block of external ports.
//!
//! Address translation keeps a port that lies in the block, so inside and outside are the same number.

use std::fs;

use super::{Context as _, PlatformError, linux::Linux, netns::Netns, netns_port::NetnsPort};

/// First and last port that a socket gets which asks for none; each network namespace has its own.
const LOCAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";

impl Linux {
    /// Gives sockets in an endpoint's namespace, which the agent made, the ports that `spec` says; or those back that they
    /// had before.
    pub(super) async fn set_local_ports(
        &self,
        netns: &Netns,
        spec: &NetnsPort<'_>,
    ) -> Result<(), PlatformError> {
        let setting = || format!("setting the ports of endpoint {}'s sockets", spec.endpoint);
        let (records, endpoint) = (&self.records.local_ports, spec.endpoint.as_str());
        let before = records.get(endpoint).context(setting)?;
        let wanted = match (spec.local_ports, &before) {
            (Some((first, last)), _) => format!("{first}\t{last}"),
            (None, Some(before)) => before.clone(),
            (None, None) => return Ok(()),
        };
        let held = netns.run(|| fs::read_to_string(LOCAL_PORTS)).await;
        let held = held.context(setting)?.trim().to_owned();
        if spec.local_ports.is_some() && before.is_none() {
            records.put(endpoint, &held).context(setting)?;
        }
        if held != wanted {
            let write = move || fs::write(LOCAL_PORTS, format!("{wanted}\n"));
            netns.run(write).await.context(setting)?;
        }
        if spec.local_ports.is_none() {
            records.remove(endpoint).context(setting)?;
        }
        Ok(())
    }
}
