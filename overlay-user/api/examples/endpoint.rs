//! Adds an endpoint on this host, lists its network's endpoints, and removes it.
//!
//! ```sh
//! cargo run -p overlay-api --example endpoint -- NAME NETWORK [INSTANCE]
//! ```
//!
//! Its stripped size is what a plug-in pays for this crate.

use std::{env, error::Error, process::ExitCode};

use overlay_api::{
    AddEndpoint, Client, ListEndpoints, Name, NetworkRef, RemoveEndpoint, default_instance,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let (Some(name), Some(network)) = (args.next(), args.next()) else {
        return Err("usage: endpoint NAME NETWORK [INSTANCE]".into());
    };
    let (name, network): (Name, NetworkRef) = (name.parse()?, network.parse()?);
    let instance = match args.next() {
        Some(instance) => instance.parse()?,
        None => default_instance(),
    };
    let client = Client::new(instance);

    let added = client
        .call(&AddEndpoint::new(name.clone(), network.clone()))
        .await?;
    println!("{} has {:?} and {}", added.name, added.ips, added.mac);

    let filter = ListEndpoints {
        vni: Some(network),
        node: None,
    };
    let mut endpoints = client.pages(&filter).await?;
    while let Some(page) = endpoints.page().await? {
        for endpoint in page {
            println!("{} on {}", endpoint.name, endpoint.node);
        }
    }

    let gone = client.call(&RemoveEndpoint { name }).await?;
    println!("removed: {}", gone.removed);
    Ok(())
}
