//! Users, passwords and certificates. No line holds a secret: `fixture::line` sees to that.

use std::{fs, path::PathBuf};

use overlay_lab::etcd::Certificates;
use overlay_user::{
    model::{Change, Node},
    registry::{self, Registry, RegistrySettings, WatchEvent},
};

use crate::{
    etcd::{Etcd, Options, file},
    fixture::{create, furnish, line, name, network, next, node, remove, session, until, vni},
};

fn settings(etcd: &Etcd) -> RegistrySettings {
    RegistrySettings::new(format!("etcd://{}", etcd.addresses()))
}

fn with_user(etcd: &Etcd, password: &str) -> (RegistrySettings, PathBuf) {
    let path = file(etcd.folder(), "password", &format!("{password}\n"));
    let settings = RegistrySettings {
        user: Some("overlay".to_owned()),
        password_file: Some(path.clone()),
        insecure: true,
        ..settings(etcd)
    };
    (settings, path)
}

async fn refusal(settings: &RegistrySettings) -> String {
    match registry::open(settings).await {
        Err(error) => line(&error),
        Ok(registry) => panic!("{} was opened", registry.url()),
    }
}

async fn works(registry: &dyn Registry, number: u32) {
    let change = Change::CreateNetwork(network(number, &[]));
    registry.commit(&[change]).await.unwrap();
    let networks = registry.snapshot().await.unwrap().networks;
    assert!(networks.iter().any(|network| network.vni.get() == number));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_asked_for_checked_and_taken_from_the_file_as_it_is_now() {
    let mut etcd = Etcd::start(Options::default());
    let (settings, password) = with_user(&etcd, "secret-1");
    // One that begins without: a cluster that asks for no login takes a user all the same.
    let registry = registry::open(&settings).await.unwrap();
    works(&*registry, 1).await;
    etcd.require_login("secret-1");
    works(&*registry, 2).await;
    let again = registry::open(&settings).await.unwrap();
    works(&*again, 3).await;

    let nobody = refusal(&RegistrySettings {
        user: None,
        password_file: None,
        ..settings.clone()
    })
    .await;
    assert!(
        nobody.ends_with("asks for a user: give --etcd-user and --etcd-password-file"),
        "{nobody}"
    );
    fs::write(&password, "secret-wrong\n").unwrap();
    let wrong = refusal(&settings).await;
    assert!(
        wrong.ends_with(&format!(
            "refuses the login: check --etcd-user and the password in {}",
            password.display()
        )),
        "{wrong}"
    );

    // Changed in both places while a registry is open and watched.
    let mut events = registry.watch().await.unwrap();
    etcd.change_password("secret-2");
    fs::write(&password, "secret-2\n").unwrap();
    works(&*registry, 4).await;
    works(&*registry::open(&settings).await.unwrap(), 5).await;
    etcd.require_no_login();
    works(&*registry, 6).await;
    assert!(
        !matches!(events.try_recv(), Ok(WatchEvent::Lost(_))),
        "the watch goes on"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_rights_is_told_which_it_needs() {
    let mut etcd = Etcd::start(Options::default());
    let (settings, _) = with_user(&etcd, "secret-1");
    let registry = registry::open(&settings).await.unwrap();
    let mut events = registry.watch().await.unwrap();
    etcd.require_login("secret-1");
    works(&*registry, 1).await;
    etcd.does("role revoke-permission overlay --prefix /overlay/");
    let expected = "does not let this user do that: grant it readwrite to the prefix /overlay/";
    let error = registry.snapshot().await.unwrap_err();
    assert!(line(&error).ends_with(expected), "{error}");
    assert!(refusal(&settings).await.ends_with(expected));
    drop(events.try_recv());
    etcd.does("role grant-permission overlay --prefix readwrite /overlay/");
    works(&*registry, 2).await;
    let other = registry::open(&settings).await.unwrap();
    other
        .commit(&[Change::RemoveNetwork(network(1, &[]).vni)])
        .await
        .unwrap();
    until("the watch hears of it", || {
        let heard = std::iter::from_fn(|| events.try_recv().ok()).any(
            |event| matches!(event, WatchEvent::Delta(delta) if !delta.networks_removed.is_empty()),
        );
        async move { heard }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_shown_and_checked() {
    let etcd = Etcd::start(Options {
        tls: true,
        ..Options::default()
    });
    let Certificates { ca, cert, key, .. } = etcd.certificates();
    let tls = |ca: &PathBuf, identity: Option<(&PathBuf, &PathBuf)>| RegistrySettings {
        ca: Some(ca.clone()),
        cert: identity.map(|(cert, _)| cert.clone()),
        key: identity.map(|(_, key)| key.clone()),
        ..settings(&etcd)
    };
    let registry = registry::open(&tls(ca, Some((cert, key)))).await.unwrap();
    works(&*registry, 1).await;
    let mut events = registry.watch().await.unwrap();
    let other = registry::open(&tls(ca, Some((cert, key)))).await.unwrap();
    works(&*other, 2).await;
    assert!(matches!(next(&mut events).await, WatchEvent::Delta(_)));

    let strange = etcd.folder().join("strange");
    fs::create_dir(&strange).unwrap();
    let strange = Certificates::make(&strange, &["127.0.0.1".parse().unwrap()]);
    for (what, settings, expected) in [
        ("no TLS", settings(&etcd), "give --etcd-ca"),
        ("no certificate of ours", tls(ca, None), "give --etcd-cert"),
        (
            "another authority's server",
            tls(&strange.ca, Some((cert, key))),
            "check that --etcd-ca is the authority",
        ),
        (
            "another authority's client",
            tls(ca, Some((&strange.cert, &strange.key))),
            "may not accept the certificate in",
        ),
        (
            "a key that does not fit",
            tls(ca, Some((cert, &strange.key))),
            "etcd's certificates can't be used",
        ),
        (
            "no certificate in the file",
            tls(key, None),
            "holds no certificate",
        ),
    ] {
        let text = refusal(&settings).await;
        eprintln!("{what}: {text}");
        assert!(text.contains(expected), "{what}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rotated_certificates_are_used_from_the_next_connection_on() {
    let mut etcd = Etcd::start(Options {
        tls: true,
        ..Options::default()
    });
    let Certificates {
        ca,
        server_cert,
        server_key,
        cert,
        key,
    } = etcd.certificates();
    let settings = RegistrySettings {
        ca: Some(ca.clone()),
        cert: Some(cert.clone()),
        key: Some(key.clone()),
        ..settings(&etcd)
    };
    let fresh = etcd.folder().join("fresh");
    fs::create_dir(&fresh).unwrap();
    let fresh = Certificates::make(&fresh, &["127.0.0.1".parse().unwrap()]);
    let registry = registry::open(&settings).await.unwrap();
    works(&*registry, 1).await;
    let mut events = registry.watch().await.unwrap();

    // Another authority, one file after the other, while etcd goes on with what it has read.
    let mut number = 1;
    for (from, to) in [
        (&fresh.cert, cert),
        (&fresh.key, key),
        (&fresh.ca, ca),
        (&fresh.server_cert, server_cert),
        (&fresh.server_key, server_key),
    ] {
        fs::rename(from, to).unwrap();
        number += 1;
        works(&*registry, number).await;
    }
    etcd.kill_member(0);
    etcd.start_member(0);
    etcd.await_healthy();
    number += 1;
    works(&*registry, number).await;
    until("the watch hears of it", || {
        let heard = std::iter::from_fn(|| events.try_recv().ok()).any(|event| {
            matches!(event, WatchEvent::Delta(delta)
                if delta.networks.iter().any(|network| network.vni.get() == number))
        });
        async move { heard }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_in_clear_is_refused_unless_told() {
    let etcd = Etcd::start(Options::default());
    let (settings, _) = with_user(&etcd, "secret-1");
    let plain = RegistrySettings {
        insecure: false,
        ..settings.clone()
    };
    let text = refusal(&plain).await;
    assert!(text.contains("--etcd-insecure"), "{text}");
    works(&*registry::open(&settings).await.unwrap(), 1).await;
}

/// A role for one host, as docs/operations.md has it.
const OF_ONE_HOST: [(&str, &str); 14] = [
    ("read", "--prefix /overlay/"),
    ("readwrite", "--prefix /overlay/v1/state/endpoint/"),
    ("readwrite", "--prefix /overlay/v1/state/question/"),
    ("readwrite", "/overlay/v1/state/tick"),
    ("readwrite", "--prefix /overlay/v1/claim/endpoint-name/"),
    ("readwrite", "--prefix /overlay/v1/claim/mac/"),
    ("readwrite", "--prefix /overlay/v1/claim/ip/"),
    ("readwrite", "--prefix /overlay/v1/claim/on-node/h1/"),
    ("readwrite", "--prefix /overlay/v1/quarantine/"),
    ("readwrite", "--prefix /overlay/v1/report/"),
    ("readwrite", "/overlay/v1/state/node/h1"),
    ("readwrite", "/overlay/v1/claim/vtep/010.000.000.001"),
    ("readwrite", "/overlay/v1/state/alive/h1"),
    ("readwrite", "/overlay/v1/seen/h1"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_a_role_of_its_own_does_its_work_and_changes_no_other_host() {
    let mut etcd = Etcd::start(Options::default());
    let everything = registry::open(&settings(&etcd)).await.unwrap();
    furnish(&*everything).await;
    etcd.does("user add of-h1 --new-user-password secret-h1");
    etcd.does("role add of-h1");
    for (kind, key) in OF_ONE_HOST {
        etcd.does(&format!("role grant-permission of-h1 {kind} {key}"));
    }
    etcd.does("user grant-role of-h1 of-h1");
    etcd.require_login("secret-all");
    let (of_all, _) = with_user(&etcd, "secret-h1");
    let of_h1 = RegistrySettings {
        user: Some("of-h1".to_owned()),
        ..of_all
    };
    let host = registry::open(&of_h1).await.unwrap();
    assert_eq!(host.identity(), everything.identity());
    host.heartbeat(&name("h1"), &session("one")).await.unwrap();
    // As after an upgrade.
    let newer = Node {
        version: Some("9.9.9".to_owned()),
        ..node("h1", "10.0.0.1")
    };
    host.commit(&[Change::PutNode(newer)]).await.unwrap();
    host.commit(&[create("blue", 2)]).await.unwrap();
    host.commit(&[remove("blue")]).await.unwrap();
    assert_eq!(host.snapshot().await.unwrap().nodes.len(), 2);
    // Not so: another host's VTEP, another host's session, networks.
    let refused = [
        host.commit(&[Change::PutNode(node("h2", "10.0.0.66"))])
            .await
            .err(),
        host.commit(&[Change::RemoveNode(name("h2"))]).await.err(),
        host.heartbeat(&name("h2"), &session("one")).await.err(),
        host.commit(&[Change::RemoveNetwork(vni(43))]).await.err(),
    ];
    for refusal in refused {
        let text = line(&refusal.expect("it is not allowed"));
        assert!(text.contains("does not let this user do that"), "{text}");
    }
    let as_h1 = |words: &str| {
        etcd.etcdctl(&format!("--user of-h1:secret-h1 {words}"))
            .code
    };
    assert_ne!(as_h1("del --prefix /overlay/"), 0);
    assert_ne!(as_h1("put /overlay/v1/state/identity x"), 0);
}
