//! What the schema would not have let in: a file that was edited by hand, or is damaged.

use std::collections::BTreeSet;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::{
    super::integrity::{Findings, Repair},
    read,
    store_error::StoreError,
};
use crate::model::{Object, Reference};

/// Findings of SQLite's own that are told.
const OF_SQLITE: u32 = 100;

/// Rows of tables that hang on others, and what they refer to: (table, column, target, its column).
const REFERENCES: [(&str, &str, &str, &str); 4] = [
    ("address", "endpoint", "endpoint", "id"),
    ("subnet", "vni", "network", "vni"),
    ("object_claim", "object", "object", "id"),
    ("object_reference", "object", "object", "id"),
];

/// Looks at the file as a whole, then at what refers to nothing.
pub(super) fn audit(connection: &mut Connection, repair: bool) -> Result<Findings, StoreError> {
    let mut findings = Findings::default();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let mut statement = transaction.prepare(&format!("PRAGMA integrity_check({OF_SQLITE})"))?;
        let mut rows = statement.query(())?;
        while let Some(row) = rows.next()? {
            let said: String = row.get(0)?;
            if said != "ok" {
                findings.add(
                    Repair::ByHand,
                    format!("SQLite: {}", said.replace('\n', " ")),
                );
            }
        }
    }
    for (table, column, target, key) in REFERENCES {
        let orphans = format!("{column} NOT IN (SELECT {key} FROM {target})");
        let count: u64 = transaction.query_row(
            &format!("SELECT count(*) FROM {table} WHERE {orphans}"),
            (),
            |row| row.get(0),
        )?;
        if count > 0 {
            let done = if repair {
                transaction.execute(&format!("DELETE FROM {table} WHERE {orphans}"), ())?;
                Repair::Done
            } else {
                Repair::Possible
            };
            findings.add(
                done,
                format!("{count} rows of table {table} belong to no {target}"),
            );
        }
    }
    for (what, sql) in [
        (
            "endpoints in networks that do not exist",
            "SELECT count(*) FROM endpoint WHERE vni NOT IN (SELECT vni FROM network)",
        ),
        (
            "endpoints on nodes that do not exist",
            "SELECT count(*) FROM endpoint WHERE node NOT IN (SELECT id FROM node)",
        ),
        (
            "addresses that are in another network than their endpoints",
            "SELECT count(*) FROM address a JOIN endpoint e ON e.id = a.endpoint WHERE e.vni <> a.vni",
        ),
        (
            "rows of a revision that the registry has not reached",
            "SELECT count(*) FROM (SELECT revision FROM network UNION ALL SELECT revision FROM node
                UNION ALL SELECT revision FROM endpoint UNION ALL SELECT revision FROM tombstone
                UNION ALL SELECT revision FROM object UNION ALL SELECT revision FROM object_tombstone)
             WHERE revision > (SELECT revision FROM meta)",
        ),
    ] {
        let count: u64 = transaction.query_row(sql, (), |row| row.get(0))?;
        if count > 0 {
            findings.add(Repair::ByHand, format!("{count} {what}"));
        }
    }
    for object in read::every_object(&transaction)? {
        check_indexes(&transaction, &object, repair, &mut findings)?;
    }
    transaction.commit()?;
    Ok(findings)
}

/// Compares what is noted of an object's claims and references with its value, and notes that anew.
fn check_indexes(
    transaction: &Transaction<'_>,
    object: &Object,
    repair: bool,
    findings: &mut Findings,
) -> Result<(), StoreError> {
    let claims = object.claims.iter().map(|claim| {
        let slot = claim.slot();
        format!("{} {} {}", slot.network(), slot.space, slot.value)
    });
    let references = object.references.iter().map(|reference| {
        let Reference { target, on_removal } = reference;
        format!("{} {target}", on_removal.to_word())
    });
    let wanted: BTreeSet<String> = claims.chain(references).collect();
    let mut statement = transaction.prepare_cached(
        "WITH o AS (SELECT id FROM object WHERE kind = ?1 AND key = ?2)
         SELECT vni || ' ' || space || ' ' || value FROM object_claim WHERE object IN o
         UNION ALL SELECT on_removal || ' ' || kind || ' ' || key FROM object_reference WHERE object IN o",
    )?;
    let id = (object.id.kind.as_str(), object.id.key.as_str());
    let noted = statement.query_map(id, |row| row.get(0))?;
    if noted.collect::<Result<BTreeSet<String>, _>>()? == wanted {
        return Ok(());
    }
    let done = if repair {
        note_anew(transaction, object)?
    } else {
        Repair::Possible
    };
    let what = format!(
        "the claims and references that are noted of {} are not its own",
        object.id
    );
    findings.add(done, what);
    Ok(())
}

fn note_anew(transaction: &Transaction<'_>, object: &Object) -> Result<Repair, StoreError> {
    let row: i64 = transaction.query_row(
        "SELECT id FROM object WHERE kind = ?1 AND key = ?2",
        (object.id.kind.as_str(), object.id.key.as_str()),
        |row| row.get(0),
    )?;
    for table in ["object_claim", "object_reference"] {
        transaction.execute(&format!("DELETE FROM {table} WHERE object = ?1"), [row])?;
    }
    for Reference { target, on_removal } in &object.references {
        transaction.execute(
            "INSERT OR IGNORE INTO object_reference (object, kind, key, on_removal) VALUES (?1, ?2, ?3, ?4)",
            (
                row,
                target.kind.as_str(),
                target.key.as_str(),
                on_removal.to_word(),
            ),
        )?;
    }
    let mut done = Repair::Done;
    for claim in &object.claims {
        let slot = claim.slot();
        let noted = transaction.execute(
            "INSERT INTO object_claim (object, vni, space, value) VALUES (?1, ?2, ?3, ?4)",
            (row, slot.network(), slot.space, slot.value),
        );
        match noted.map_err(StoreError::from) {
            // Somebody else has it.
            Err(failure) if failure.is_constraint() => done = Repair::ByHand,
            noted => drop(noted?),
        }
    }
    Ok(done)
}
