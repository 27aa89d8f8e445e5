//! Which endpoints have which limits.

use super::{Mirror, OnFact};
use crate::model::{Name, Object, Qos, QosBinding, QosSubject, Resource as _, Vni};

impl Mirror {
    /// The limits of an endpoint, and whose they are: its own, or else its network's.
    #[must_use]
    pub fn qos_of(&self, endpoint: &Name, vni: Vni) -> Option<(QosSubject, Qos)> {
        let subjects = [
            QosSubject::Endpoint(endpoint.clone()),
            QosSubject::Network(vni),
        ];
        subjects
            .into_iter()
            .find_map(|subject| self.qos_at(&subject).map(|qos| (subject, qos)))
    }

    /// What an endpoint or a network itself has.
    #[must_use]
    pub fn qos_at(&self, subject: &QosSubject) -> Option<Qos> {
        let binding = QosBinding::known(self.object(&subject.binding())?)?;
        Qos::known(self.object(&Qos::id((&binding.qos).into()))?)
    }

    /// Every binding.
    pub fn qos_bindings(&self) -> impl Iterator<Item = QosBinding> {
        self.objects().filter_map(QosBinding::known)
    }

    /// Tells of the endpoints of this host whose limits come, change or go with an object.
    pub(super) fn tell_of_limited(&self, object: &Object, on_fact: OnFact<'_>) {
        if let Some(binding) = QosBinding::known(object) {
            self.tell_of_subject(&binding.subject, on_fact);
        }
        if object.id.kind == Qos::KIND {
            let is_bound = |binding: &QosBinding| Qos::id((&binding.qos).into()) == object.id;
            for binding in self.qos_bindings().filter(is_bound) {
                self.tell_of_subject(&binding.subject, on_fact);
            }
        }
    }

    fn tell_of_subject(&self, subject: &QosSubject, on_fact: OnFact<'_>) {
        match subject {
            QosSubject::Endpoint(name) => self.notify_of(name, on_fact),
            QosSubject::Network(vni) => {
                let its = self.local_endpoints().filter(|known| known.vni() == *vni);
                its.for_each(|known| on_fact(self, &known.fact()));
            }
        }
    }
}
