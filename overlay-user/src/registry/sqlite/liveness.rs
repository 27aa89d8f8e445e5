//! Sessions of nodes, and questions to them: rows that are no part of the desired state.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use serde::de::DeserializeOwned;

use super::{
    super::{QUESTION_TTL, rules},
    clock::{BootTime, milliseconds},
    connection::Limits,
    store_error::StoreError,
};
use crate::model::{Name, Question, QuestionId, Report, Session};

/// Notes that a node's agent lives. Refused while another session does.
pub(super) fn heartbeat(
    connection: &mut Connection,
    node: &Name,
    session: &Session,
    limits: Limits,
) -> Result<(), StoreError> {
    let now = BootTime::now()?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let claimed = transaction
        .prepare_cached(
            "INSERT INTO session (node, session, boot, seen) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (node) DO UPDATE SET
                 session = excluded.session, boot = excluded.boot, seen = excluded.seen
             WHERE session = excluded.session OR boot <> excluded.boot OR seen < ?5",
        )?
        .execute((
            node.as_str(),
            session.as_str(),
            now.boot,
            now.ms,
            now.before(limits.session_ttl).ms,
        ))?;
    if claimed == 0 {
        let vtep: Option<String> = transaction
            .query_row(
                "SELECT ' (VTEP ' || vtep_ip || ')' FROM node WHERE name = ?1",
                [node.as_str()],
                |row| row.get(0),
            )
            .optional()?;
        return Err(rules::node_taken(node, vtep.as_deref().unwrap_or_default()).into());
    }
    transaction
        .prepare_cached("UPDATE node SET last_seen = ?2 WHERE name = ?1")?
        .execute((node.as_str(), wall_milliseconds(SystemTime::now())))?;
    transaction.commit()?;
    Ok(())
}

/// Milliseconds since 1970.
pub(super) fn wall_milliseconds(time: SystemTime) -> i64 {
    milliseconds(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Puts a question, and forgets old ones with their answers.
pub(super) fn ask(connection: &mut Connection, question: &Question) -> Result<(), StoreError> {
    let now = BootTime::now()?;
    let until = now.after(QUESTION_TTL);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for sql in [
        "DELETE FROM question WHERE boot <> ?1 OR until <= ?2",
        "DELETE FROM report WHERE question <> '' AND (boot <> ?1 OR until <= ?2)",
    ] {
        transaction.execute(sql, (now.boot, now.ms))?;
    }
    transaction.execute(
        "INSERT OR REPLACE INTO question (id, body, boot, until) VALUES (?1, ?2, ?3, ?4)",
        (
            question.id.to_string(),
            to_json(question)?,
            until.boot,
            until.ms,
        ),
    )?;
    transaction.commit()?;
    Ok(())
}

/// The number of the last question; 0: there was none.
pub(super) fn last_question(connection: &Connection) -> Result<i64, StoreError> {
    Ok(connection
        .prepare_cached("SELECT ifnull(max(number), 0) FROM question")?
        .query_row((), |row| row.get(0))?)
}

/// The questions after number `since`, with their numbers.
pub(super) fn questions(
    connection: &Connection,
    since: i64,
) -> Result<Vec<(i64, Question)>, StoreError> {
    let now = BootTime::now()?;
    let mut statement = connection.prepare_cached(
        "SELECT number, body FROM question
         WHERE number > ?1 AND boot = ?2 AND until > ?3 ORDER BY number",
    )?;
    let mut rows = statement.query((since, now.boot, now.ms))?;
    let mut questions = Vec::new();
    while let Some(row) = rows.next()? {
        // A question that this version does not know gets no answer.
        if let Ok(question) = from_json(&row.get::<_, String>(1)?) {
            questions.push((row.get(0)?, question));
        }
    }
    Ok(questions)
}

/// Writes a report in place of the host's earlier one to the same question.
pub(super) fn publish(connection: &Connection, report: &Report) -> Result<(), StoreError> {
    let kept = report.question.map_or(Duration::ZERO, |_| QUESTION_TTL);
    let until = BootTime::now()?.after(kept);
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO report (question, node, body, boot, until)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute((
            key(report.question),
            report.node.as_str(),
            to_json(report)?,
            until.boot,
            until.ms,
        ))?;
    Ok(())
}

/// The answers to a question, by node.
pub(super) fn reports(
    connection: &Connection,
    question: Option<QuestionId>,
) -> Result<Vec<Report>, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT body FROM report WHERE question = ?1 ORDER BY node")?;
    let mut rows = statement.query([key(question)])?;
    let mut reports = Vec::new();
    while let Some(row) = rows.next()? {
        reports.push(from_json(&row.get::<_, String>(0)?)?);
    }
    Ok(reports)
}

fn key(question: Option<QuestionId>) -> String {
    question.map(String::from).unwrap_or_default()
}

fn to_json(body: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(body).map_err(|error| StoreError::Row(error.to_string()))
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Row(error.to_string()))
}
