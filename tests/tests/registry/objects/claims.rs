//! What objects claim, nobody else gets.

use super::*;

for_every_backend! {
    what_an_object_claims_nobody_else_gets,
    addresses_that_objects_claim_are_not_handed_out,
    prefixes_of_one_space_never_overlap,
    what_is_given_up_is_kept_from_others_for_as_long_as_it_says,
    many_writers_never_share_a_claim,
}

async fn what_an_object_claims_nobody_else_gets(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let mut with_mac = thing("anycast/m", vec![Reference::restrict(id("network/42"))]);
    with_mac.claims.push(Claim::Mac {
        vni: vni(42),
        mac: endpoint("x", 99).mac,
    });
    let changes = [
        create("web", 2),
        create("db", 3),
        put(&router("r1")),
        put(&port("r1", 42)),
        put(&block("web", 12, 0)),
        Change::PutObject(with_mac),
    ];
    registry.commit(&changes).await.unwrap();
    let gateway = Endpoint {
        addresses: vec!["7.7.0.1/16".parse().unwrap()],
        ..endpoint("green", 4)
    };
    let readdressed = Change::ReaddressEndpoint {
        name: name("db"),
        mac: endpoint("x", 99).mac,
        addresses: endpoint("db", 3).addresses,
        generation: registry
            .find_endpoint(&name("db"))
            .await
            .unwrap()
            .unwrap()
            .generation,
    };
    let second = Block {
        endpoint: name("db"),
        ..block("db", 12, 0)
    };
    let at = |ip: [u8; 4]| {
        let mut object = thing(
            "test-router-port/other",
            vec![Reference::restrict(id("network/42"))],
        );
        object.claims.push(Claim::Ip {
            vni: vni(42),
            ip: ip.into(),
        });
        Change::PutObject(object)
    };
    for (change, expected) in [
        (
            Change::CreateEndpoint(gateway),
            "IP 7.7.0.1 is taken by test-router-port 42: choose another or remove that one first",
        ),
        (
            Change::CreateEndpoint(Endpoint {
                mac: endpoint("x", 99).mac,
                ..endpoint("green", 4)
            }),
            "MAC 02:42:07:07:00:63 is taken by anycast m: choose another or remove that one first",
        ),
        (
            readdressed,
            "MAC 02:42:07:07:00:63 is taken by anycast m: choose another or remove that one first",
        ),
        (
            put(&second),
            "claim test-block 203.0.113.7/12 is taken by test-block web/0: choose another or remove that one first",
        ),
        (
            at([7, 7, 0, 2]),
            "IP 7.7.0.2 is taken by endpoint web (node h1): choose another or remove that one first",
        ),
        (
            at([7, 7, 0, 1]),
            "IP 7.7.0.1 is taken by test-router-port 42: choose another or remove that one first",
        ),
        (
            put(&Router {
                outside: Some("host".to_owned()),
                ..router("r1")
            }),
            "key r1 is taken by another test-router: choose another or remove that one first",
        ),
    ] {
        assert_eq!(refusal(&*registry, &[change]).await, expected);
    }
    // Of other networks the same address is free, and given up it is free at once for the same one.
    let elsewhere = Endpoint {
        vni: vni(43),
        addresses: vec!["7.7.0.1/16".parse().unwrap()],
        ..endpoint("green", 4)
    };
    let handed_over = [
        Change::CreateEndpoint(elsewhere),
        remove_object("test-router-port/42"),
        put(&port("r1", 42)),
    ];
    registry.commit(&handed_over).await.unwrap();
    assert_eq!(fixture_is_sound(&*registry).await, "");
}

async fn addresses_that_objects_claim_are_not_handed_out(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let gateway = RouterPort {
        gateway: [7, 7, 0, 2].into(),
        ..port("r1", 42)
    };
    registry
        .commit(&[put(&router("r1")), put(&gateway)])
        .await
        .unwrap();
    let free = registry
        .next_ip(&network(42, &["7.7.0.0/16"]), &BTreeSet::new())
        .await
        .unwrap();
    assert_eq!(free.unwrap().to_string(), "7.7.0.3/16");
    // Nobody lives there who could be asked.
    let at = Wanted::Ip([7, 7, 0, 2].into());
    assert_eq!(registry.find(vni(42), at).await.unwrap(), None);
    let removal = [remove_object("test-router-port/42")];
    registry.commit(&removal).await.unwrap();
    let free = registry
        .next_ip(&network(42, &["7.7.0.0/16"]), &BTreeSet::new())
        .await
        .unwrap();
    assert_eq!(
        free.unwrap().to_string(),
        "7.7.0.3/16",
        "it is in quarantine"
    );
}

async fn prefixes_of_one_space_never_overlap(fixture: Fixture) {
    let registry = fixture.furnished().await;
    registry
        .commit(&[put(&router("r1")), put(&router("r2")), put(&port("r1", 42))])
        .await
        .unwrap();
    for prefix in ["7.7.0.0/16", "7.7.9.0/24", "7.0.0.0/8"] {
        let overlapping = RouterPort {
            subnets: vec![prefix.parse().unwrap()],
            ..port("r1", 43)
        };
        assert_eq!(
            refusal(&*registry, &[put(&overlapping)]).await,
            format!(
                "prefix {prefix} is taken by test-router-port 42 (7.7.0.0/16): choose another or remove that one first"
            )
        );
    }
    let second = RouterPort {
        subnets: vec!["fd00::/64".parse().unwrap(), "7.6.0.0/16".parse().unwrap()],
        ..port("r1", 43)
    };
    registry.commit(&[put(&second)]).await.unwrap();
    // Its own prefix may grow over what it had.
    let previous = found(&*registry, "test-router-port/42").await.unwrap();
    let grown = RouterPort {
        subnets: vec![
            "7.7.0.0/17".parse().unwrap(),
            "7.7.128.0/17".parse().unwrap(),
        ],
        ..port("r1", 42)
    };
    let grown = grown.update(&previous).unwrap();
    registry.commit(&[Change::PutObject(grown)]).await.unwrap();
    assert_eq!(fixture_is_sound(&*registry).await, "");
}

async fn what_is_given_up_is_kept_from_others_for_as_long_as_it_says(fixture: Fixture) {
    // Addresses have no quarantine here: a claim that says so has one all the same.
    let registry = fixture.open_with(|s| s.quarantine = Duration::ZERO).await;
    furnish(&*registry).await;
    let web = [create("web", 2), put(&block("web", 12, 120))];
    registry.commit(&web).await.unwrap();
    registry
        .commit(&[create("db", 3), remove("web")])
        .await
        .unwrap();
    let error = registry.commit(&[put(&block("db", 12, 120))]).await;
    let error = error.unwrap_err();
    assert!(
        line(&error).starts_with(
            "claim test-block 203.0.113.7/12 was test-block web/0's until a moment ago and is kept free for at most 1"
        ),
        "{error}"
    );
    let RegistryError::Quarantined { for_at_most, .. } = error else {
        panic!("{error:?}");
    };
    // A lease of etcd may last a quarter longer.
    let range = Duration::from_secs(110)..=Duration::from_secs(150);
    assert!(range.contains(&for_at_most), "{for_at_most:?}");
    // The same one may have it back at once, and hand it over in one commit.
    registry.commit(&web).await.unwrap();
    registry
        .commit(&[remove_object("test-block/web/0"), put(&block("db", 12, 1))])
        .await
        .unwrap();
    // One second, and it is anybody's.
    registry
        .commit(&[remove_object("test-block/db/0")])
        .await
        .unwrap();
    crate::fixture::until("the quarantine is over", || async {
        registry.commit(&[put(&block("web", 12, 0))]).await.is_ok()
    })
    .await;
    // Without one it is free at once.
    registry
        .commit(&[remove_object("test-block/web/0")])
        .await
        .unwrap();
    registry.commit(&[put(&block("db", 12, 0))]).await.unwrap();
    assert_eq!(fixture_is_sound(&*registry).await, "");

    // A gateway's address has the quarantine of addresses, from endpoints too.
    let with_quarantine = fixture.open().await;
    let gateway = [put(&router("r1")), put(&port("r1", 42))];
    with_quarantine.commit(&gateway).await.unwrap();
    let removal = [remove_object("test-router-port/42")];
    with_quarantine.commit(&removal).await.unwrap();
    let newcomer = Endpoint {
        addresses: vec!["7.7.0.1/16".parse().unwrap()],
        ..endpoint("new", 9)
    };
    let text = refusal(
        &*with_quarantine,
        &[Change::CreateEndpoint(newcomer.clone())],
    )
    .await;
    assert!(
        text.starts_with("IP 7.7.0.1 was test-router-port 42's until a moment ago"),
        "{text}"
    );
    // And the other way round.
    with_quarantine
        .commit(&[put(&port("r1", 42)), remove("db")])
        .await
        .unwrap();
    let previous = found(&*with_quarantine, "test-router-port/42")
        .await
        .unwrap();
    let at_db = RouterPort {
        gateway: [7, 7, 0, 3].into(),
        ..port("r1", 42)
    };
    let at_db = Change::PutObject(at_db.update(&previous).unwrap());
    let text = refusal(&*with_quarantine, &[at_db]).await;
    assert!(
        text.starts_with("IP 7.7.0.3 was endpoint db's until a moment ago"),
        "{text}"
    );
}

async fn many_writers_never_share_a_claim(fixture: Fixture) {
    let registry = fixture.furnished().await;
    let mut writers = Vec::new();
    for writer in 0..4_u16 {
        let registry = fixture.open().await;
        writers.push(tokio::spawn(async move {
            let mut made = 0;
            for round in 0..30_u16 {
                let text = format!("e{writer}-{round}");
                let number = (round * 7 + writer * 3) % 20;
                // With the endpoint, and of a prefix and a gateway that others want as well.
                let mut block = block(&text, number, 0).to_object().unwrap();
                block.claims.push(Claim::Disjoint {
                    space: key("outside"),
                    prefix: IpNet::new([9, 9, 0, u8::try_from(number).unwrap() & !1].into(), 31)
                        .unwrap(),
                });
                let changes = [
                    create(&text, writer * 100 + round + 300),
                    Change::PutObject(block),
                ];
                match registry.commit(&changes).await {
                    Ok(_) => made += 1,
                    Err(error @ RegistryError::Conflict { .. }) => {
                        let line = line(&error);
                        assert!(line.contains(" is taken by test-block e"), "{line}");
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            made
        }));
    }
    let mut made = 0;
    for writer in writers {
        made += writer.await.unwrap();
    }
    let snapshot = registry.snapshot().await.unwrap();
    assert_eq!(snapshot.objects.len(), made);
    assert_eq!(snapshot.endpoints.len(), made, "all or nothing");
    assert_eq!(made, 10, "there are so many pairs of numbers");
    assert_eq!(fixture_is_sound(&*registry).await, "");
}
