//! Publishes what this host has installed: a digest of each changed network, and answers to questions.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Reconciler, wake::Completion};
use crate::{
    model::{Digest, Installed, Question, QuestionId, Report},
    registry::{QUESTION_TTL, RegistryError},
};

/// How long changes are gathered before they are told of.
const DEBOUNCE: Duration = Duration::from_secs(3);
/// How far apart two reports are at least, for each network that they speak of: all reports of all
/// hosts end up in one registry.
const PER_NETWORK: Duration = Duration::from_millis(50);

/// What is to be told, and when.
#[derive(Debug)]
pub(super) struct Reporter {
    /// When the next report without a question goes out; `None`: nothing has changed.
    due: Option<Instant>,
    not_before: Instant,
    questions: Vec<(Instant, Question)>,
}

impl Reporter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            due: None,
            not_before: now,
            questions: Vec::new(),
        }
    }

    /// Rows have changed.
    pub(super) fn note(&mut self) {
        let due = (Instant::now() + DEBOUNCE).max(self.not_before);
        self.due.get_or_insert(due);
    }

    /// A question came.
    pub(super) fn ask(&mut self, question: Question, now: Instant) {
        self.questions.push((now, question));
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.due
    }

    /// A report has arrived, or has not.
    pub(super) fn take(
        &mut self,
        question: Option<QuestionId>,
        reported: Result<(), RegistryError>,
    ) {
        if let Err(error) = reported {
            tracing::debug!(%error, "what is installed could not be told");
            if question.is_none() {
                self.note();
            }
        }
    }
}

impl Reconciler {
    /// Answers the questions whose revision is reached, and tells of changes if it is time.
    pub(super) async fn report(&mut self, now: Instant) {
        if !self.reader.is_settled() {
            return;
        }
        let questions = &mut self.reporter.questions;
        questions.retain(|(asked, _)| *asked + QUESTION_TTL > now);
        let is_due = self.reporter.due.is_some_and(|due| due <= now);
        if questions.is_empty() && !is_due {
            return;
        }
        let revision = self.view.read().await.mirror.revision();
        let ready = questions.extract_if(.., |(_, question)| question.revision <= revision);
        for (asked, question) in ready.collect::<Vec<_>>() {
            match self.applier.survey(&question.subject) {
                Ok(survey) => {
                    let (digests, rows) = survey.answer();
                    self.tell(Some(question.id), digests, rows).await;
                }
                Err(error) => {
                    self.errors.push(error.to_string());
                    self.reporter.questions.push((asked, question));
                }
            }
        }
        if is_due {
            let digests: Vec<Digest> = self.applier.digests.installed.digests().collect();
            let networks = u32::try_from(digests.len()).unwrap_or(u32::MAX);
            self.reporter.due = None;
            self.reporter.not_before = now + PER_NETWORK * networks;
            self.tell(None, digests, Vec::new()).await;
        }
    }

    async fn tell(
        &mut self,
        question: Option<QuestionId>,
        digests: Vec<Digest>,
        rows: Vec<Installed>,
    ) {
        let report = Report {
            node: self.own_node.name.clone(),
            question,
            revision: self.view.read().await.mirror.revision(),
            digests,
            rows,
            answer: None,
        };
        let registry = Arc::clone(&self.registry);
        self.wake.spawn_request(async move {
            Completion::Reported(question, registry.publish(&report).await)
        });
    }
}
