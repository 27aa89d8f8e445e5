//! The layout's version in the store.

use etcd_client::{Compare, CompareOp, GetOptions, Txn, TxnOp};

use super::{
    super::RegistryError,
    keys::{IDENTITY, LAYOUT, LAYOUT_VERSION},
    members::{Channel, Members, REQUEST},
    store_error::StoreError,
    values,
};

/// Notes the version in a new store, and an identity; refuses a store that is newer than this binary, or
/// that is not the one that is followed.
pub(super) async fn check(members: &Members) -> Result<(), StoreError> {
    let response = members
        .call(REQUEST, |mut channel: Channel| async move {
            let gets = [IDENTITY, LAYOUT].map(|key| TxnOp::get(key, None::<GetOptions>));
            channel.kv.txn(Txn::new().and_then(gets)).await
        })
        .await?;
    let mut answers = super::identity::answers(&response);
    let mut next = || answers.next().unwrap_or_default().into_iter().next();
    let (identity, layout) = (next(), next());
    super::identity::check(members, identity.as_ref())?;
    let version = if let Some(kv) = layout {
        values::word(kv.key(), kv.value())?
    } else {
        note(members).await?;
        LAYOUT_VERSION
    };
    if version == LAYOUT_VERSION {
        return match super::identity::of(identity.as_ref())? {
            // A user without the right to write it need not try.
            Some(identity) => {
                members.followed.follow_first(identity);
                Ok(())
            }
            None => super::identity::follow_first(members).await,
        };
    }
    Err(RegistryError::Unavailable(format!(
        "registry {} has layout {version}, this binary knows {LAYOUT_VERSION}: use a binary that fits",
        members.url()
    ))
    .into())
}

async fn note(members: &Members) -> Result<(), StoreError> {
    members
        .call(REQUEST, |mut channel: Channel| async move {
            let absent = Compare::create_revision(LAYOUT, CompareOp::Equal, 0);
            let put = TxnOp::put(LAYOUT, LAYOUT_VERSION.to_string(), None);
            channel
                .kv
                .txn(Txn::new().when([absent]).and_then([put]))
                .await
        })
        .await
        .map(drop)
}
