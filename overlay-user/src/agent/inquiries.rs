//! Questions between agents: asks and answers them through the registry.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use overlay_ebpf::abi::ABI_VERSION;
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, sleep},
};

use super::{
    api::{OperationError, PathState, Severity},
    doctor::Examination,
    service::Agent,
};
use crate::{
    model::{Answer, Inquiry, Name, PathTold, PathsTold, Question, QuestionId, Report, Subject},
    registry::Registry,
};

/// Inquiries that wait for the agent; more are left unanswered.
pub(super) const WAITING: usize = 64;
/// Inquiries that are answered at once.
const AT_ONCE: usize = 8;
/// The first wait for answers; doubles up to the last.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LAST_LOOK: Duration = Duration::from_secs(1);

impl Agent {
    /// Answers what other agents ask; does not end.
    pub(super) async fn answer_inquiries(self: Arc<Self>, mut questions: mpsc::Receiver<Question>) {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        while let Some(question) = questions.recv().await {
            let Some(inquiry) = question.inquiry else {
                continue;
            };
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let agent = Arc::clone(&self);
            tokio::spawn(async move {
                let _place = place;
                if let Some(answer) = agent.answer_to(inquiry).await {
                    agent.publish_answer(question.id, answer).await;
                }
            });
        }
    }

    /// `None`: somebody else is asked.
    async fn answer_to(&self, inquiry: Inquiry) -> Option<Answer> {
        let is_own = |node: &Name| *node == self.config.node;
        match inquiry {
            Inquiry::Paths => Some(Answer::Paths(Box::new(self.told_of_paths().await))),
            Inquiry::Seen { node, id } => is_own(&node).then(|| Answer::Seen(self.seen(id))),
            Inquiry::Ping { node, ping } => {
                if !is_own(&node) {
                    return None;
                }
                let pinging = async {
                    let nodes = self.registry.nodes().await?;
                    self.ping_from_here(&ping, nodes).await
                };
                Some(match pinging.await {
                    Ok(pinged) => Answer::Ping(Box::new(pinged)),
                    Err(error) => Answer::Failed(error.message),
                })
            }
            Inquiry::Explain { node, packet } => {
                if !is_own(&node) {
                    return None;
                }
                Some(match self.explain_from_here(&packet).await {
                    Ok(explained) => Answer::Explained(Box::new(explained)),
                    Err(error) => Answer::Failed(error.message),
                })
            }
            Inquiry::Arrival { node, frame } => {
                if !is_own(&node) {
                    return None;
                }
                Some(match self.explain_arrival(&frame).await {
                    Ok(leg) => Answer::Arrived(Box::new(leg)),
                    Err(error) => Answer::Failed(error.message),
                })
            }
        }
    }

    async fn publish_answer(&self, question: QuestionId, answer: Answer) {
        let report = Report {
            node: self.config.node.clone(),
            question: Some(question),
            revision: 0,
            digests: Vec::new(),
            rows: Vec::new(),
            answer: Some(answer),
        };
        if let Err(error) = self.registry.publish(&report).await {
            tracing::debug!(%error, "an answer could not be given");
        }
    }

    /// What this host finds of the ways to the others, tried now.
    pub(super) async fn told_of_paths(&self) -> PathsTold {
        let Examination {
            found,
            vteps,
            lost_networks,
        } = self.examine_all().await;
        let mut paths: Vec<PathTold> = vteps
            .into_iter()
            .filter_map(|vtep| {
                let (node, path) = (vtep.node, vtep.path?);
                Some(PathTold { node, path })
            })
            .collect();
        if paths.len() > PathsTold::MOST {
            paths.retain(|told| told.path.state != PathState::Ok || told.path.is_narrow());
            paths.truncate(PathsTold::MOST);
        }
        let own_problems = found.findings.iter().filter(|finding| {
            finding.severity == Severity::Problem
                // What every host says of each other, the paths say better.
                && !finding.subject.starts_with("path to ")
                && !finding.subject.starts_with("peer ")
        });
        PathsTold {
            at_ms: Timestamp::now().as_millisecond(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi: ABI_VERSION,
            paths,
            networks: lost_networks,
            problems: own_problems
                .map(|finding| {
                    format!(
                        "{}: {}: {}",
                        finding.subject, finding.message, finding.advice
                    )
                })
                .collect(),
        }
    }

    /// Asks one node. `None`: it has not answered in time, or to something else.
    pub(super) async fn inquire_of(
        &self,
        node: &Name,
        inquiry: Inquiry,
        patience: Duration,
    ) -> Result<Option<Answer>, OperationError> {
        let is_enough = |reports: &[Report]| reports.iter().any(|report| report.node == *node);
        let mut reports = self.inquire(inquiry, patience, is_enough).await?;
        reports.retain(|report| report.node == *node);
        Ok(reports.pop().and_then(|report| report.answer))
    }

    /// Asks every agent, until the answers are enough or time is over.
    pub(super) async fn inquire(
        &self,
        inquiry: Inquiry,
        patience: Duration,
        is_enough: impl Fn(&[Report]) -> bool,
    ) -> Result<Vec<Report>, OperationError> {
        let question = Question {
            id: QuestionId::random(),
            // What an agent answers that does not know the inquiry: not much.
            subject: Subject::Networks,
            revision: 0,
            inquiry: Some(inquiry),
        };
        ask(&*self.registry, &question, patience, is_enough).await
    }
}

/// Puts a question to every agent, and gives what came when the answers are enough or time is over.
pub(super) async fn ask(
    registry: &dyn Registry,
    question: &Question,
    patience: Duration,
    is_enough: impl Fn(&[Report]) -> bool,
) -> Result<Vec<Report>, OperationError> {
    registry.ask(question).await?;
    let deadline = Instant::now() + patience;
    let mut wait = FIRST_LOOK;
    loop {
        sleep(wait).await;
        wait = (wait * 2).min(LAST_LOOK);
        let reports = registry.reports(Some(question.id)).await?;
        if is_enough(&reports) || Instant::now() >= deadline {
            return Ok(reports);
        }
    }
}
