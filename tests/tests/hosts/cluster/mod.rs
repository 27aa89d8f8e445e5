//! Agents on hosts that share a real etcd cluster, and its failures: no packet of a flow is
//! lost meanwhile, and afterwards all hosts have the same in their maps.

mod access;
mod clock;
mod faults;
mod fixture;
mod members;
mod nodes;
mod on_demand;
mod partition;
mod store;
