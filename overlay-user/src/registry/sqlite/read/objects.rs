//! Rows to objects.

use rusqlite::{Connection, Params, Row};

use super::{
    super::{super::object::ObjectValue, store_error::StoreError},
    parse,
};
use crate::model::{Kind, Object, ObjectId, Rejected, Revision, RowId};

const OBJECTS: &str = "SELECT kind, key, value, revision FROM object WHERE revision > ?1
    ORDER BY kind, key";
const OBJECTS_OF_KIND: &str =
    "SELECT kind, key, value, revision FROM object WHERE kind = ?1 ORDER BY key";
const OBJECT: &str = "SELECT kind, key, value, revision FROM object WHERE kind = ?1 AND key = ?2";

const TOMBSTONES: &str = "SELECT kind, key FROM object_tombstone WHERE revision > ?1";

/// What was made or changed after `since`.
pub(super) fn since(
    connection: &Connection,
    since: Revision,
    rejected: &mut Vec<Rejected>,
) -> Result<Vec<Object>, StoreError> {
    query(connection, OBJECTS, [since], rejected)
}

/// What was removed after `since`.
pub(super) fn removed_since(
    connection: &Connection,
    since: Revision,
) -> Result<Vec<ObjectId>, StoreError> {
    let mut statement = connection.prepare_cached(TOMBSTONES)?;
    let mut rows = statement.query([since])?;
    let mut removed = Vec::new();
    while let Some(row) = rows.next()? {
        removed.push(object_id(row)?);
    }
    Ok(removed)
}

/// Every object that can be read.
pub(in crate::registry::sqlite) fn every_object(
    connection: &Connection,
) -> Result<Vec<Object>, StoreError> {
    since(connection, 0, &mut Vec::new())
}

/// Every object of a kind, by key.
pub(in crate::registry::sqlite) fn objects_of(
    connection: &Connection,
    kind: &Kind,
) -> Result<Vec<Object>, StoreError> {
    query(
        connection,
        OBJECTS_OF_KIND,
        [kind.as_str()],
        &mut Vec::new(),
    )
}

/// One object.
pub(in crate::registry::sqlite) fn object(
    connection: &Connection,
    id: &ObjectId,
) -> Result<Option<Object>, StoreError> {
    let mut statement = connection.prepare_cached(OBJECT)?;
    let mut rows = statement.query((id.kind.as_str(), id.key.as_str()))?;
    rows.next()?.map(object_of).transpose()
}

pub(in crate::registry::sqlite) fn object_id(row: &Row<'_>) -> Result<ObjectId, StoreError> {
    Ok(ObjectId {
        kind: parse(row, 0)?,
        key: parse(row, 1)?,
    })
}

fn query(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
    rejected: &mut Vec<Rejected>,
) -> Result<Vec<Object>, StoreError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    let mut objects = Vec::new();
    while let Some(row) = rows.next()? {
        match object_of(row) {
            Ok(object) => objects.push(object),
            Err(failure) => {
                let why = failure.of_row()?;
                let named = match object_id(row) {
                    Ok(id) => RowId::Object(id),
                    Err(_) => RowId::Other("a row of table object".to_owned()),
                };
                rejected.push(Rejected::new(named, why));
            }
        }
    }
    Ok(objects)
}

fn object_of(row: &Row<'_>) -> Result<Object, StoreError> {
    let text: String = row.get(2)?;
    let value: ObjectValue =
        serde_json::from_str(&text).map_err(|error| StoreError::Row(error.to_string()))?;
    Ok(value.into_object(object_id(row)?, row.get(3)?))
}
