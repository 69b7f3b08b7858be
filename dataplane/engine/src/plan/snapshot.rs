//! The snapshot of a [`Spec`] whose slots are known.

use super::Planner;
use super::slots::pair_keys;
use super::spec::{RealSpec, ServiceSpec, Spec};
use crate::deal::Deal;
use crate::hash::{AddressSet, EndpointMap};
use crate::ids::{PairId, RealId, ServiceId};
use crate::sched;
use crate::snapshot::{Real, Service, Snapshot};

impl Planner {
    pub(super) fn snapshot(&self, spec: &Spec) -> Snapshot {
        let mut services = vec![None; self.services.next as usize];
        let mut by_endpoint = EndpointMap::default();
        for spec in &spec.services {
            let service = self.service(spec);
            for listen in spec.listens() {
                by_endpoint.insert(listen.protocol, listen.address.into(), listen.ports, service.id);
            }
            let slot = service.id.index();
            services[slot] = Some(service);
        }
        let mut resetting = vec![false; self.services.next as usize];
        let slots = self.services.by_key.iter().chain(&self.services.leaving);
        for (_, slot) in slots.filter(|(key, _)| self.resetting.contains(key)) {
            resetting[*slot as usize] = true;
        }
        let locals = self.pairs.by_key.keys().chain(self.pairs.leaving.keys()).map(|key| key.1.into());
        let dealt = self.deal.iter().flat_map(Deal::owned);
        let virtuals = self.addresses.values().flatten().map(|address| (*address).into());
        Snapshot {
            generation: spec.generation,
            services,
            by_endpoint,
            locals: AddressSet::new(locals),
            dealt: dealt.map(|(address, worker)| (address.into(), worker)).collect(),
            virtuals: AddressSet::new(virtuals),
            by_client: AddressSet::new(self.by_client.iter().map(|address| (*address).into())),
            tunnels: self.tunnels.clone(),
            ended: self.ended.clone(),
            resetting,
            ends: self.ends,
            templates: self.templates.clone(),
        }
    }

    fn service(&self, spec: &ServiceSpec) -> Service {
        let reals: Vec<Real> = spec.reals.iter().map(|real| self.real(spec, real)).collect();
        let id = ServiceId(self.services.by_key[&(spec.protocol, spec.virtual_)]);
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
            id: RealId(self.reals.by_key[&(service.protocol, service.virtual_, spec.real)]),
            endpoint: spec.real.into(),
            mode: spec.mode,
            weight: spec.weight,
            up: spec.up,
            ramp_percent: spec.ramp_percent,
            upper: spec.upper,
            lower: spec.lower,
            locals: pair_keys(service, spec)
                .map(|key| (key.1.into(), PairId(self.pairs.by_key[&key])))
                .collect(),
        }
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
