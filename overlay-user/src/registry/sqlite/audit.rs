//! What the schema would not have let in: a file that was edited by hand, or is damaged.

use rusqlite::{Connection, TransactionBehavior};

use super::{
    super::integrity::{Findings, Repair},
    failure::Failure,
};

/// Findings of SQLite's own that are told.
const OF_SQLITE: u32 = 100;

/// Rows of tables that hang on others, and what they refer to: (table, column, target, its column).
const REFERENCES: [(&str, &str, &str, &str); 2] = [
    ("address", "endpoint", "endpoint", "id"),
    ("subnet", "vni", "network", "vni"),
];

/// Looks at the file as a whole, then at what refers to nothing.
pub(super) fn audit(connection: &mut Connection, repair: bool) -> Result<Findings, Failure> {
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
                UNION ALL SELECT revision FROM endpoint UNION ALL SELECT revision FROM tombstone)
             WHERE revision > (SELECT revision FROM meta)",
        ),
    ] {
        let count: u64 = transaction.query_row(sql, (), |row| row.get(0))?;
        if count > 0 {
            findings.add(Repair::ByHand, format!("{count} {what}"));
        }
    }
    transaction.commit()?;
    Ok(findings)
}
