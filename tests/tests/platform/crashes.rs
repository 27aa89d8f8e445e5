//! What a kill leaves, and who collects it.

use super::*;

#[tokio::test]
async fn a_crash_before_the_mark_leaves_a_port_that_is_found_and_finished() {
    let host = Host::new();
    let spec = host.spec("blue");
    let port = host.ensure(&spec).await;
    let unmark = ["link", "set", &port.host_ifname, "alias", ""];
    let unmarked = || assert!(Command::new("ip").args(unmark).status().unwrap().success());
    unmarked();
    assert_eq!(
        host.restarted().ports().await.unwrap(),
        [listed(port.clone())]
    );
    assert_eq!(host.restarted().ensure_port(&spec).await.unwrap(), port);
    assert_as_specified(&spec, &port);

    unmarked();
    host.restarted().remove_port(&spec.endpoint).await.unwrap();
    assert_eq!(links(None).len(), 1);
    assert!(!host.path("blue").exists());
}

#[tokio::test]
async fn a_crash_between_veth_and_namespace_leaves_an_orphan_that_is_collected() {
    let host = Host::new();
    let spec = host.spec("blue");
    let port = host.ensure(&spec).await;
    ip(&format!("link del {}", port.host_ifname));
    assert!(host.endpoints().await.is_empty());
    host.restarted().remove_orphan_namespaces().await.unwrap();
    assert!(!host.path("blue").exists());
}

#[tokio::test]
async fn a_crash_before_the_namespaces_mount_is_finished_or_collected() {
    let host = Host::new();
    let spec = host.spec("blue");
    let half_made = async || {
        host.ensure(&spec).await;
        ip(&format!("netns del {}", spec.netns()));
        fs::write(host.path("blue"), "").unwrap();
    };
    half_made().await;
    assert_as_specified(&spec, &ensure(&host.restarted(), &spec).await);
    half_made().await;
    host.restarted().remove_orphan_namespaces().await.unwrap();
    assert!(!host.path("blue").exists());
}

/// Makes and removes everything until it is killed.
#[tokio::test]
#[ignore = "a process of another test's"]
async fn churn() {
    let Ok(instance) = env::var(CHURN) else {
        return;
    };
    let host = Host::of(&instance);
    loop {
        let spec = host.spec("blue");
        host.platform.ensure_vxlan(UDP_PORT).await.unwrap();
        host.ensure(&spec).await;
        host.platform.remove_port(&spec.endpoint).await.unwrap();
        host.platform.remove_vxlan().await.unwrap();
    }
}

#[tokio::test]
async fn killed_at_any_point_it_leaves_nothing_that_the_next_start_does_not_collect() {
    let host = Host::new();
    let spec = host.spec("blue");
    for round in 0..30 {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "churn", "--include-ignored"])
            .env(CHURN, host.instance.as_str())
            .stdout(process::Stdio::null())
            .spawn()
            .unwrap();
        // The moment is the point: another one in each round.
        thread::sleep(Duration::from_micros(20_000 + 3_700 * round));
        child.kill().unwrap();
        child.wait().unwrap();

        let platform = host.restarted();
        if round % 2 == 0 {
            let port = ensure(&platform, &spec).await;
            assert_as_specified(&spec, &port);
            platform.ensure_vxlan(UDP_PORT).await.unwrap();
        }
        for port in platform.ports().await.unwrap() {
            platform.remove_port(&port.endpoint).await.unwrap();
        }
        platform.remove_orphan_namespaces().await.unwrap();
        platform.remove_vxlan().await.unwrap();
        assert_eq!(links(None).len(), 1, "round {round}");
        assert!(!host.path("blue").exists(), "round {round}");
        assert!(!host.records().exists(), "round {round}");
    }
}
