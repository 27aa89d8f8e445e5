//! Users, passwords and certificates. No line holds a secret: `bed::line` sees to that.

use std::{fs, path::PathBuf};

use overlay_tests::etcd::Certificates;
use overlay_user::{
    model::Change,
    registry::{self, Registry, Settings, WatchEvent},
};

use crate::{
    bed::{line, network, next, until},
    etcd::{Etcd, Options, file},
};

fn settings(etcd: &Etcd) -> Settings {
    Settings::new(format!("etcd://{}", etcd.addresses()))
}

fn with_user(etcd: &Etcd, password: &str) -> (Settings, PathBuf) {
    let path = file(etcd.folder(), "password", &format!("{password}\n"));
    let settings = Settings {
        user: Some("overlay".to_owned()),
        password_file: Some(path.clone()),
        insecure: true,
        ..settings(etcd)
    };
    (settings, path)
}

async fn refusal(settings: &Settings) -> String {
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

    let nobody = refusal(&Settings {
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
    let tls = |ca: &PathBuf, identity: Option<(&PathBuf, &PathBuf)>| Settings {
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
    let settings = Settings {
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
    let plain = Settings {
        insecure: false,
        ..settings.clone()
    };
    let text = refusal(&plain).await;
    assert!(text.contains("--etcd-insecure"), "{text}");
    works(&*registry::open(&settings).await.unwrap(), 1).await;
}
