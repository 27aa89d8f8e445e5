//! Keys and values that no agent wrote, or a newer one did.

use etcd_client::KeyValue;

use super::{
    keys::{self, State},
    store_error::StoreError,
};
use crate::model::{Rejected, RejectedRows, RowId};

/// What a key's value says. `None`: it can't be read, which is noted.
pub(super) fn unless_bad<T>(
    read: Result<T, StoreError>,
    kv: &KeyValue,
    rejected: &RejectedRows,
) -> Result<Option<T>, StoreError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(StoreError::Row(why)) => {
            rejected.push(Rejected::new(row_of(kv.key()), why));
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

/// What a key speaks of.
pub(super) fn row_of(key: &[u8]) -> RowId {
    match keys::parse(key) {
        Some(State::Network(vni)) => RowId::Network(vni),
        Some(State::Node(name)) => RowId::Node(name),
        Some(State::Endpoint(_, name)) => RowId::Endpoint(name),
        Some(State::Object(id)) => RowId::Object(id),
        _ => RowId::Other(String::from_utf8_lossy(key).into_owned()),
    }
}
