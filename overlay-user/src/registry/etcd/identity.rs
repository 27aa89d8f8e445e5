//! The store's identity, and transactions that only the store that is followed carries out.

use etcd_client::{Compare, CompareOp, KeyValue, Txn, TxnOp, TxnOpResponse, TxnResponse};

use super::{
    keys::IDENTITY,
    members::{Channel, Members, REQUEST},
    store_error::StoreError,
    values,
};
use crate::{model::RegistryId, registry::identity};

/// What a transaction has to compare. Nothing, before it is known which store is followed.
pub(super) fn guard(members: &Members) -> Option<Compare> {
    let followed = members.followed.get()?;
    Some(Compare::value(
        IDENTITY,
        CompareOp::Equal,
        followed.to_string(),
    ))
}

/// Carries out `ops` in one transaction, on the store that is followed.
pub(super) async fn transact(
    members: &Members,
    ops: Vec<TxnOp>,
) -> Result<TxnResponse, StoreError> {
    let compares: Vec<Compare> = guard(members).into_iter().collect();
    let response = members
        .call(REQUEST, |mut channel: Channel| {
            let txn = Txn::new()
                .when(compares.clone())
                .and_then(ops.clone())
                .or_else([TxnOp::get(IDENTITY, None)]);
            async move { channel.kv.txn(txn).await }
        })
        .await?;
    if response.succeeded() {
        return Ok(response);
    }
    let found = answers(&response).flatten().next();
    Err(refuse(members, found.as_ref()))
}

/// The rows of each get in a transaction.
pub(super) fn answers(response: &TxnResponse) -> std::vec::IntoIter<Vec<KeyValue>> {
    let rows = |response| match response {
        TxnOpResponse::Get(mut got) => got.take_kvs(),
        _ => Vec::new(),
    };
    let answers: Vec<_> = response.op_responses().into_iter().map(rows).collect();
    answers.into_iter()
}

/// The identity in the row of the key, if there is one.
pub(super) fn of(row: Option<&KeyValue>) -> Result<Option<RegistryId>, StoreError> {
    row.map(|kv| values::word(kv.key(), kv.value())).transpose()
}

/// Refuses a store whose identity, found in this row, is not the one that is followed.
pub(super) fn check(members: &Members, row: Option<&KeyValue>) -> Result<(), StoreError> {
    let called = format!("registry {}", members.url());
    Ok(members.followed.check(&called, of(row)?)?)
}

/// Why a transaction that compared the identity did nothing.
fn refuse(members: &Members, row: Option<&KeyValue>) -> StoreError {
    match check(members, row) {
        Err(failure) => failure,
        // It has changed in between.
        Ok(()) => StoreError::Refused("its identity has changed just now".to_owned()),
    }
}

/// Follows the store that is there; one that has no identity gets one.
pub(super) async fn follow_first(members: &Members) -> Result<(), StoreError> {
    let made = identity::random();
    let response = members
        .call(REQUEST, |mut channel: Channel| async move {
            let absent = Compare::create_revision(IDENTITY, CompareOp::Equal, 0);
            let put = TxnOp::put(IDENTITY, made.to_string(), None);
            let get = TxnOp::get(IDENTITY, None);
            let txn = Txn::new().when([absent]).and_then([put]).or_else([get]);
            channel.kv.txn(txn).await
        })
        .await?;
    let present = answers(&response).flatten().next();
    let identity = of(present.as_ref())?.unwrap_or(made);
    members.followed.follow_first(identity);
    Ok(())
}
