//! The layout's version in the store.

use etcd_client::{Compare, CompareOp, GetOptions, Txn, TxnOp};

use super::{
    super::RegistryError,
    failure::Failure,
    keys::{LAYOUT, LAYOUT_VERSION},
    members::{Link, Members, REQUEST},
    read, values,
};

/// Notes the version in a new store; refuses one that is newer than this binary.
pub(super) async fn check(members: &Members) -> Result<(), Failure> {
    let response = members
        .call(REQUEST, |mut link: Link| async move {
            let get = TxnOp::get(LAYOUT, None::<GetOptions>);
            link.kv.txn(Txn::new().and_then([get])).await
        })
        .await?;
    let present = read::answers(&response).flatten().next();
    let Some(kv) = present else {
        return note(members).await;
    };
    let version: u32 = values::word(kv.key(), kv.value())?;
    if version == LAYOUT_VERSION {
        return Ok(());
    }
    Err(RegistryError::Unavailable(format!(
        "registry {} has layout {version}, this binary knows {LAYOUT_VERSION}: use a binary that fits",
        members.url()
    ))
    .into())
}

async fn note(members: &Members) -> Result<(), Failure> {
    members
        .call(REQUEST, |mut link: Link| async move {
            let absent = Compare::create_revision(LAYOUT, CompareOp::Equal, 0);
            let put = TxnOp::put(LAYOUT, LAYOUT_VERSION.to_string(), None);
            link.kv.txn(Txn::new().when([absent]).and_then([put])).await
        })
        .await
        .map(drop)
}
