//! `overlay verify`: asks every host what its maps hold, and compares that with the registry.
//!
//! From the whole to the rows: a digest of each network, then of each part of those that differ, then
//! the rows of the parts that differ. Changes do not wait for that. So a difference counts only if it
//! is there twice, unchanged, with a pause between.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use tokio::time::sleep;

use super::{
    api::{Difference, ErrorKind, HostView, OperationError, Verdict, VerifyView},
    inquiries,
};
use crate::{
    model::{
        Digest, Name, Network, Node, Question, QuestionId, Report, Resolve, Revision, Subject, Vni,
    },
    reconcile::digest::{RowKey, Survey, key_of, part_of},
    registry::{Reading, Registry, Scope},
};

mod rows;

use rows::{Chunks, Rows, Wanted};

/// How long hosts have to answer a question. A host with a million rows takes a second or two.
const REPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at what differs: longer than any host is behind the registry.
const PAUSE: Duration = Duration::from_millis(500);
/// Rows in one answer at most, as long as a part has no more: it has to fit a registry's value.
const LONGEST_ANSWER: u64 = 2000;
/// Rows of all hosts that are compared at once: each time, the network is read from the registry.
const PASS: usize = 200_000;
/// Networks that are looked at at once.
const AT_ONCE: usize = 8;

/// What is to be compared.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Asked {
    /// The only network to look at; `None`: all of them.
    pub(super) vni: Option<Vni>,
}

/// What one look found.
#[derive(Default)]
struct Look {
    revision: Revision,
    hosts: Vec<HostView>,
    differences: Vec<Difference>,
    /// How much more differs at least that was not looked at row by row.
    more: BTreeMap<Name, usize>,
}

/// A network that some host does not have as it is wanted, or that no digest can tell that of.
#[derive(Debug, PartialEq, Eq)]
struct Suspect {
    network: Vni,
    resolve: Resolve,
    /// The hosts whose digest says so.
    differing: Vec<Name>,
}

/// Rows of one network, as hosts have them.
#[derive(Default)]
struct Gathered {
    parts: BTreeSet<u16>,
    hosts: BTreeMap<Name, Rows>,
    /// How many of all hosts.
    rows: usize,
}

/// What became of one network.
#[derive(Default)]
struct Compared {
    differences: Vec<Difference>,
    more: BTreeMap<Name, usize>,
}

/// Asks hosts through the registry that they share with it.
pub(super) struct Verifier<'a> {
    registry: &'a dyn Registry,
    patience: Duration,
}

impl<'a> Verifier<'a> {
    pub(super) fn new(registry: &'a dyn Registry) -> Self {
        Self {
            registry,
            patience: REPORT_TIMEOUT,
        }
    }

    /// Compares what every host has installed with the registry.
    pub(super) async fn compare(&self, request: Asked) -> Result<VerifyView, OperationError> {
        let first = self.look(request).await?;
        if first.differences.is_empty() {
            return Ok(concluded(first));
        }
        sleep(PAUSE).await;
        let mut second = self.look(request).await?;
        second
            .differences
            .retain(|difference| first.differences.contains(difference));
        Ok(concluded(second))
    }

    async fn look(&self, request: Asked) -> Result<Look, OperationError> {
        let scope = request.vni.map_or(Scope::All, Scope::Network);
        let mut reading = self.registry.read(scope).await?;
        let networks = networks(&reading, request)?;
        let (revision, nodes) = (reading.revision, reading.nodes.clone());
        let wanted = survey(&mut reading, &Subject::Networks).await?;
        let alive: BTreeSet<Name> = nodes
            .iter()
            .filter(|node| node.agent && node.alive)
            .map(|node| node.name.clone())
            .collect();
        let answers = self.ask(Subject::Networks, revision, &alive).await?;
        let hosts: BTreeSet<Name> = answers.keys().cloned().collect();
        let suspects = suspects(&networks, &wanted, &answers, request);
        let mut look = Look {
            revision,
            hosts: host_views(&nodes, &answers, request),
            ..Look::default()
        };
        // Boxed: the compiler can't tell that the stream of bare ones may be sent to other threads.
        let comparisons: Vec<_> = suspects
            .iter()
            .map(|suspect| self.compare_network(suspect, &hosts).boxed())
            .collect();
        let mut comparing = stream::iter(comparisons).buffered(AT_ONCE);
        let mut looked_at = 0;
        while let Some(compared) = comparing.try_next().await? {
            looked_at += 1;
            look.differences.extend(compared.differences);
            for (host, more) in compared.more {
                *look.more.entry(host).or_default() += more;
            }
            if look.differences.len() >= VerifyView::MOST {
                break;
            }
        }
        for host in suspects
            .iter()
            .skip(looked_at)
            .flat_map(|suspect| &suspect.differing)
        {
            *look.more.entry(host.clone()).or_default() += 1;
        }
        Ok(look)
    }

    /// Looks at a network part by part, and at the parts in question row by row.
    async fn compare_network(
        &self,
        asked: &Suspect,
        hosts: &BTreeSet<Name>,
    ) -> Result<Compared, OperationError> {
        let parts = Subject::Parts(asked.network);
        let mut reading = self.registry.read(Scope::Network(asked.network)).await?;
        let wanted = survey(&mut reading, &parts).await?;
        let answers = self.ask(parts, reading.revision, hosts).await?;
        let digests = answers
            .iter()
            .map(|(host, report)| (host, report.digests.as_slice()))
            .collect();
        let Chunks(chunks) = match asked.resolve {
            Resolve::Proactive => rows::differing(&wanted, &digests, LONGEST_ANSWER),
            Resolve::OnDemand => rows::occupied(&wanted, &digests, LONGEST_ANSWER),
        };
        let mut compared = Compared::default();
        let mut chunks = chunks.into_iter().peekable();
        let mut gathered = Gathered::default();
        while let Some(chunk) = chunks.next() {
            self.gather(&mut gathered, asked, hosts, chunk).await?;
            if gathered.rows >= PASS || chunks.peek().is_none() {
                let differences = self.judge(asked, std::mem::take(&mut gathered)).await?;
                compared.differences.extend(differences);
                if compared.differences.len() >= VerifyView::MOST {
                    break;
                }
            }
        }
        if asked.resolve == Resolve::Proactive {
            let left: BTreeSet<u16> = chunks.flatten().collect();
            compared.more = rows::left_out(&wanted, &digests, &left);
        }
        Ok(compared)
    }

    /// Asks for the rows of some parts of a network.
    async fn gather(
        &self,
        gathered: &mut Gathered,
        asked: &Suspect,
        hosts: &BTreeSet<Name>,
        parts: Vec<u16>,
    ) -> Result<(), OperationError> {
        let revision = self
            .registry
            .read(Scope::Network(asked.network))
            .await?
            .revision;
        let subject = Subject::Rows(asked.network, parts.clone());
        let mut answers = self.ask(subject, revision, hosts).await?;
        if asked.resolve == Resolve::Proactive {
            // The digests of the others have said that they are well.
            answers.retain(|host, _| asked.differing.contains(host));
        }
        gathered.parts.extend(parts);
        for (host, report) in answers {
            gathered.rows += report.rows.len();
            let rows = gathered.hosts.entry(host).or_default();
            rows.extend(report.rows.into_iter().map(|row| (key_of(&row), row)));
        }
        Ok(())
    }

    /// Compares what was gathered with the registry.
    async fn judge(
        &self,
        asked: &Suspect,
        gathered: Gathered,
    ) -> Result<Vec<Difference>, OperationError> {
        let Gathered { parts, hosts, .. } = gathered;
        let known: BTreeSet<RowKey> = hosts.values().flat_map(BTreeMap::keys).copied().collect();
        let mut wanted = BTreeMap::new();
        let mut unknown = 0;
        let mut reading = self.registry.read(Scope::Network(asked.network)).await?;
        for_each_row(&mut reading, |wants| {
            let key = key_of(&wants.row);
            let is_known = known.contains(&key);
            // Of an on-demand network's rows a host needs those of its own endpoints; to name some
            // that nobody has is enough.
            let matters = is_known
                || asked.resolve == Resolve::Proactive
                || (hosts.contains_key(&wants.node) && unknown < VerifyView::MOST);
            if matters && parts.contains(&part_of(&wants.row)) {
                unknown += usize::from(!is_known);
                wanted.insert(key, wants);
            }
        })
        .await?;
        let hosts = hosts.iter();
        Ok(hosts
            .flat_map(|(host, installed)| {
                rows::differences(host, asked.resolve, &wanted, installed)
            })
            .collect())
    }

    /// Puts a question to every host and gives the answers of `hosts`, as many as come in time.
    async fn ask(
        &self,
        subject: Subject,
        revision: Revision,
        hosts: &BTreeSet<Name>,
    ) -> Result<BTreeMap<Name, Report>, OperationError> {
        let question = Question {
            id: QuestionId::random(),
            subject,
            revision,
            inquiry: None,
        };
        let is_asked = |report: &&Report| hosts.contains(&report.node);
        let reports = inquiries::ask(self.registry, &question, self.patience, |reports| {
            reports.iter().filter(is_asked).count() == hosts.len()
        });
        let reports = reports.await?.into_iter();
        Ok(reports
            .filter(|report| is_asked(&report))
            .map(|report| (report.node.clone(), report))
            .collect())
    }
}

/// The networks that are to be looked at.
fn networks(reading: &Reading, request: Asked) -> Result<BTreeMap<Vni, Resolve>, OperationError> {
    let is_asked = |network: &&Network| request.vni.is_none_or(|vni| vni == network.vni);
    let networks: BTreeMap<Vni, Resolve> = reading
        .networks
        .iter()
        .filter(is_asked)
        .map(|network| (network.vni, network.resolve))
        .collect();
    match request.vni {
        Some(vni) if networks.is_empty() => Err(OperationError::new(
            ErrorKind::NotFound,
            format_args!("there is no network with VNI {vni}: see `overlay network ls`"),
        )),
        _ => Ok(networks),
    }
}

/// The networks that have to be looked at, of those that are asked for.
fn suspects(
    networks: &BTreeMap<Vni, Resolve>,
    wanted: &[Digest],
    answers: &BTreeMap<Name, Report>,
    request: Asked,
) -> Vec<Suspect> {
    let of = |digests: &[Digest]| -> BTreeMap<Vni, (u64, u64)> {
        let digests = digests.iter();
        digests
            .map(|digest| (digest.vni, (digest.rows, digest.hash)))
            .collect()
    };
    let wanted = of(wanted);
    // A network that the registry doesn't have has no rows there either.
    let resolve = |vni: &Vni| networks.get(vni).copied().unwrap_or_default();
    let mut suspects: BTreeMap<Vni, Vec<Name>> = BTreeMap::new();
    for (host, report) in answers {
        let has = of(&report.digests);
        let vnis: BTreeSet<&Vni> = wanted.keys().chain(has.keys()).collect();
        for vni in vnis {
            let is_asked = request.vni.is_none_or(|asked| asked == *vni);
            match resolve(vni) {
                Resolve::OnDemand if is_asked => drop(suspects.entry(*vni).or_default()),
                Resolve::Proactive if is_asked && wanted.get(vni) != has.get(vni) => {
                    suspects.entry(*vni).or_default().push(host.clone());
                }
                _ => {}
            }
        }
    }
    suspects
        .into_iter()
        .map(|(network, differing)| Suspect {
            network,
            resolve: resolve(&network),
            differing,
        })
        .collect()
}

/// A digest of what the registry wants.
async fn survey(reading: &mut Reading, subject: &Subject) -> Result<Vec<Digest>, OperationError> {
    let mut survey = Survey::new(subject);
    for_each_row(reading, |wanted| survey.see(wanted.row)).await?;
    let (digests, _) = survey.answer();
    Ok(digests)
}

/// Shows every row that a reading's endpoints make.
async fn for_each_row(
    reading: &mut Reading,
    mut visit: impl FnMut(Wanted),
) -> Result<(), OperationError> {
    let vteps = rows::vteps(&reading.nodes);
    while let Some(page) = reading.endpoints.recv().await {
        for endpoint in page? {
            let Some(vtep) = vteps.get(&endpoint.node) else {
                continue;
            };
            for row in rows::rows_of(&endpoint, *vtep) {
                visit(Wanted {
                    endpoint: endpoint.name.clone(),
                    node: endpoint.node.clone(),
                    row,
                });
            }
        }
    }
    Ok(())
}

/// Every node that has an agent, with what it said; whether it agrees is found out later.
fn host_views(nodes: &[Node], answers: &BTreeMap<Name, Report>, request: Asked) -> Vec<HostView> {
    let nodes = nodes.iter().filter(|node| node.agent);
    let mut views: Vec<_> = nodes
        .map(|node| {
            let answer = answers.get(&node.name);
            let rows = |report: &Report| {
                let digests = report.digests.iter();
                let asked =
                    digests.filter(|digest| request.vni.is_none_or(|vni| vni == digest.vni));
                asked.map(|digest| digest.rows).sum()
            };
            HostView {
                node: node.name.clone(),
                verdict: match answer {
                    Some(_) => Verdict::Agrees,
                    None if node.alive => Verdict::Silent,
                    None => Verdict::Down,
                },
                revision: answer.map(|report| report.revision),
                rows: answer.map(rows),
            }
        })
        .collect();
    views.sort_by(|one, other| one.node.cmp(&other.node));
    views
}

/// The verdict over all that a look found.
fn concluded(look: Look) -> VerifyView {
    let Look {
        revision,
        mut hosts,
        mut differences,
        more: left_out,
    } = look;
    // What was not looked at row by row counts only beside what was found to differ for sure.
    let (mut more, is_certain) = (0, !differences.is_empty());
    for host in &mut hosts {
        let left_out = left_out.get(&host.node).filter(|_| is_certain);
        let of_host = |difference: &Difference| difference.node == host.node;
        if left_out.is_some() || differences.iter().any(of_host) {
            host.verdict = Verdict::Differs;
            more += left_out.copied().unwrap_or_default();
        }
    }
    more += differences.len().saturating_sub(VerifyView::MOST);
    differences.truncate(VerifyView::MOST);
    VerifyView {
        agree: hosts.iter().all(|host| host.verdict == Verdict::Agrees),
        revision,
        hosts,
        differences,
        more,
    }
}

#[cfg(test)]
mod tests;
