//! Operations on limits: `overlay qos`, and who has them.

use crate::{
    agent::{
        api::{
            CreateQos, EndpointQosView, EndpointView, ErrorKind, ListQos, OperationError, QosView,
            RemoveQos, RemovedView, SetQos, ShowQos, qos_counts,
        },
        server::{Handle, Outcome},
        service::Agent,
    },
    model::{Change, Name, PortCounts, Qos, QosBinding, QosSubject, Resource as _},
};

impl Handle<CreateQos> for Agent {
    async fn handle(&self, request: CreateQos) -> Outcome<CreateQos> {
        self.check_reach().await?;
        let qos = Qos {
            name: request.name,
            egress: request.egress,
            ingress: request.ingress,
            burst: request.burst,
            pps: request.pps,
            dscp: request.dscp,
            priority: request.priority,
        };
        let all = self.all::<Qos>().await?;
        match all.iter().find(|it| it.name == qos.name) {
            None => {
                let object = qos.to_object().map_err(refused)?;
                self.commit(&[Change::PutObject(object)]).await?;
            }
            Some(there) if *there == qos => {}
            Some(_) => {
                let name = &qos.name;
                return Err(OperationError::new(
                    ErrorKind::Conflict,
                    format_args!(
                        "qos {name} is there with other limits: change it with `overlay qos set {name}`, or choose \
                         another name"
                    ),
                ));
            }
        }
        self.view_of_qos(&qos).await
    }
}

impl Handle<SetQos> for Agent {
    async fn handle(&self, request: SetQos) -> Outcome<SetQos> {
        self.check_reach().await?;
        let id = Qos::id((&request.name).into());
        let objects = self.registry.objects(&Qos::KIND).await?;
        let previous = objects.iter().find(|object| object.id == id);
        let previous = previous.ok_or_else(|| no_qos(&request.name))?;
        let mut qos = Qos::of(previous).map_err(refused)?;
        replace(&mut qos.egress, request.egress);
        replace(&mut qos.ingress, request.ingress);
        replace(&mut qos.burst, request.burst);
        replace(&mut qos.pps, request.pps);
        replace(&mut qos.dscp, request.dscp);
        replace(&mut qos.priority, request.priority);
        let object = qos.update(previous).map_err(refused)?;
        self.commit(&[Change::PutObject(object)]).await?;
        self.view_of_qos(&qos).await
    }
}

impl Handle<ListQos> for Agent {
    async fn handle(&self, _: ListQos) -> Outcome<ListQos> {
        self.check_reach().await?;
        let bindings = self.all::<QosBinding>().await?;
        let all = self.all::<Qos>().await?;
        Ok(all.iter().map(|qos| view(qos, &bindings)).collect())
    }
}

impl Handle<ShowQos> for Agent {
    async fn handle(&self, ShowQos { name }: ShowQos) -> Outcome<ShowQos> {
        self.check_reach().await?;
        let mut all = self.all::<Qos>().await?.into_iter();
        let qos = all
            .find(|qos| qos.name == name)
            .ok_or_else(|| no_qos(&name))?;
        self.view_of_qos(&qos).await
    }
}

impl Handle<RemoveQos> for Agent {
    async fn handle(&self, RemoveQos { name }: RemoveQos) -> Outcome<RemoveQos> {
        self.check_reach().await?;
        let removed = self.all::<Qos>().await?.iter().any(|qos| qos.name == name);
        let bindings = self.all::<QosBinding>().await?;
        if let Some(user) = bindings.iter().find(|binding| binding.qos == name) {
            let (user, verb) = match &user.subject {
                QosSubject::Endpoint(user) => (format!("endpoint {user}"), "endpoint set ENDPOINT"),
                QosSubject::Network(vni) => (format!("network {vni}"), "network set NETWORK"),
            };
            return Err(OperationError::new(
                ErrorKind::Refused,
                format_args!(
                    "qos {name} is in use by {user}: take it away with `overlay {verb} --qos none` first; \
                     `overlay qos show {name}` lists all"
                ),
            ));
        }
        self.commit(&[Change::RemoveObject(Qos::id((&name).into()))])
            .await?;
        Ok(RemovedView { removed })
    }
}

impl Agent {
    async fn view_of_qos(&self, qos: &Qos) -> Result<QosView, OperationError> {
        Ok(view(qos, &self.all().await?))
    }

    /// What gives an endpoint or a network these limits, or takes its own away. `None`: it is so already.
    pub(super) async fn binding_change(
        &self,
        subject: QosSubject,
        qos: Option<Name>,
    ) -> Result<Option<Change>, OperationError> {
        let id = subject.binding();
        let objects = self.registry.objects(&QosBinding::KIND).await?;
        let previous = objects.iter().find(|object| object.id == id);
        let Some(qos) = qos else {
            return Ok(previous.map(|_| Change::RemoveObject(id)));
        };
        if !self.all::<Qos>().await?.iter().any(|it| it.name == qos) {
            return Err(no_qos(&qos));
        }
        let binding = QosBinding { subject, qos };
        let object = match previous {
            Some(previous) if QosBinding::known(previous).as_ref() == Some(&binding) => {
                return Ok(None);
            }
            Some(previous) => binding.update(previous),
            None => binding.to_object(),
        };
        Ok(Some(Change::PutObject(object.map_err(refused)?)))
    }

    /// What an endpoint or a network itself has.
    pub(super) async fn qos_at(&self, subject: &QosSubject) -> Option<Name> {
        let view = self.observer.view().await;
        view.mirror.qos_at(subject).map(|qos| qos.name)
    }

    /// The view with the endpoint's limits, and what came of them here.
    pub(in crate::agent) async fn with_qos(
        &self,
        endpoint: EndpointView,
        counts: Option<&PortCounts>,
    ) -> EndpointView {
        let view = self.observer.view().await;
        let qos = view.mirror.qos_of(&endpoint.name, endpoint.vni);
        let qos = qos.map(|(subject, qos)| EndpointQosView {
            name: qos.name,
            of_network: matches!(subject, QosSubject::Network(_)),
            egress: qos.egress,
            ingress: qos.ingress,
            pps: qos.pps,
            counts: counts.and_then(|counts| counts.metered).map(qos_counts),
        });
        EndpointView { qos, ..endpoint }
    }
}

fn replace<T>(held: &mut Option<T>, wanted: Option<crate::agent::api::OrNone<T>>) {
    if let Some(wanted) = wanted {
        *held = wanted.into_option();
    }
}

fn refused(reason: String) -> OperationError {
    OperationError::new(ErrorKind::Refused, reason)
}

fn no_qos(name: &Name) -> OperationError {
    OperationError::new(
        ErrorKind::NotFound,
        format_args!(
            "there is no qos {name}: see `overlay qos ls`, or make one with `overlay qos create {name} --egress RATE`"
        ),
    )
}

fn view(qos: &Qos, bindings: &[QosBinding]) -> QosView {
    let (mut endpoints, mut networks) = (Vec::new(), Vec::new());
    for binding in bindings.iter().filter(|binding| binding.qos == qos.name) {
        match &binding.subject {
            QosSubject::Endpoint(name) => endpoints.push(name.clone()),
            QosSubject::Network(vni) => networks.push(*vni),
        }
    }
    endpoints.sort_unstable();
    networks.sort_unstable();
    QosView {
        name: qos.name.clone(),
        egress: qos.egress,
        ingress: qos.ingress,
        burst: qos.burst,
        pps: qos.pps,
        dscp: qos.dscp,
        priority: qos.priority,
        endpoints,
        networks,
    }
}
