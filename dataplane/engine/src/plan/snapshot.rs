//! The snapshot of a [`Spec`] whose slots are known.

use std::sync::Arc;

use super::Planner;
use super::difference::Difference;
use super::slots::pair_keys;
use super::spec::{RealSpec, ServiceSpec, Spec};
use crate::addr::Addr;
use crate::deal::Deal;
use crate::hash::{AddressSet, EndpointMap};
use crate::ids::{PairId, RealId, ServiceId};
use crate::sched;
use crate::snapshot::{Real, Service, Snapshot};

impl Planner {
    /// Shares with the last one what has not changed.
    pub(super) fn snapshot(&self, spec: &Spec, difference: &Difference<'_>) -> Snapshot {
        let mut services = self.last.services.clone();
        services.resize(self.services.next as usize, None);
        for slot in difference.gone.iter().filter_map(|key| self.services.leaving.get(key)) {
            services[*slot as usize] = None;
        }
        for spec in &difference.changed {
            let service = self.service(spec);
            let slot = service.id.index();
            services[slot] = Some(Arc::new(service));
        }
        let mut resetting = vec![false; self.services.next as usize];
        for key in &self.resetting {
            let leaving = || self.services.leaving.get(key).copied();
            if let Some(slot) = self.services.get(key).or_else(leaving) {
                resetting[slot as usize] = true;
            }
        }
        let dealt = self.deal.iter().flat_map(Deal::owned);
        Snapshot {
            generation: spec.generation,
            services,
            by_endpoint: match difference.moves_listens {
                true => self.by_endpoint(spec),
                false => self.last.by_endpoint.clone(),
            },
            locals: AddressSet::new(self.locals.keys().map(Addr::from)),
            dealt: dealt.map(|(address, worker)| (address.into(), worker)).collect(),
            virtuals: AddressSet::new(self.virtuals.keys().map(Addr::from)),
            by_client: AddressSet::new(self.by_client.iter().map(|address| (*address).into())),
            tunnels: self.tunnels.clone(),
            bare_tunnels: self.bare_tunnels.clone(),
            ended: self.ended.clone(),
            resetting,
            ends: self.ends,
            templates: self.templates.clone(),
        }
    }

    fn by_endpoint(&self, spec: &Spec) -> EndpointMap {
        let mut map = EndpointMap::default();
        for service in &spec.services {
            let id = ServiceId(self.services[&service.key()]);
            for listen in service.listens() {
                map.insert(listen.protocol, listen.address.into(), listen.ports, id);
            }
        }
        map
    }

    fn service(&self, spec: &ServiceSpec) -> Service {
        let reals: Vec<Real> = spec.reals.iter().map(|real| self.real(spec, real)).collect();
        let id = ServiceId(self.services[&spec.key()]);
        let weights = || reals.iter().map(Real::usable_weight).filter(|w| *w > 0);
        Service {
            id,
            protocol: spec.protocol,
            virtual_: spec.virtual_.into(),
            tenant: self.tenants.get(id.index()).copied().unwrap_or(0),
            scheduler: spec.scheduler,
            flags: spec.flags,
            lookup: sched::prepare_or_share(self.last.service(id), spec.scheduler, spec.flags, &reals),
            toa: spec.toa,
            timeouts: spec.timeouts,
            options: spec.options,
            sorry: spec.sorry.as_ref().map(|real| self.real(spec, real)),
            weight_max: weights().max().unwrap_or(0),
            weight_gcd: weights().fold(0, gcd).max(1),
            reals,
        }
    }

    fn real(&self, service: &ServiceSpec, spec: &RealSpec) -> Real {
        Real {
            id: RealId(self.reals[&(service.protocol, service.virtual_, spec.real)]),
            endpoint: spec.real.into(),
            mode: spec.mode,
            weight: spec.weight,
            up: spec.up,
            ramp_percent: spec.ramp_percent,
            upper: spec.upper,
            lower: spec.lower,
            locals: pair_keys(service, spec).map(|key| (key.1.into(), PairId(self.pairs[&key]))).collect(),
        }
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
