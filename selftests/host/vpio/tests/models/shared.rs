// SPDX-License-Identifier: GPL-2.0

//! A card that a model watches, as `vpio.ko` uses it.

use crate::model::access::Access;
use crate::model::card::Card;
use crate::model::device::{DeviceModel, Verdict};
use crate::model::dma::GuestMemory;

/// A card with the model of the guest that has it.
pub(crate) struct Shared<C, M> {
    pub(crate) card: C,
    pub(crate) model: M,
    /// Accesses of the guest.
    pub(crate) accesses: u64,
    /// Those that were hooked.
    pub(crate) hooked: u64,
}

impl<C: Card, M: DeviceModel> Shared<C, M> {
    pub(crate) fn new(card: C, model: M) -> Self {
        Self {
            card,
            model,
            accesses: 0,
            hooked: 0,
        }
    }

    fn is_hooked(&mut self, access: Access) -> bool {
        let hooked = access.meets(self.model.hooked());

        self.accesses += 1;
        self.hooked += u64::from(hooked);
        hooked
    }

    /// The guest reads.
    pub(crate) fn input(&mut self, access: Access) -> u32 {
        let value = self.card.read(access);

        if self.is_hooked(access) {
            self.model.read(access, value, &mut self.card)
        } else {
            value
        }
    }

    /// The guest writes.
    pub(crate) fn output(
        &mut self,
        access: Access,
        value: u32,
        memory: &impl GuestMemory,
    ) -> Verdict {
        if !self.is_hooked(access) {
            self.card.write(access, value);
            return Verdict::Allow;
        }

        let verdict = self.model.check(access, value, memory);

        if verdict.allows() {
            self.card.write(access, value);
            self.model.wrote(access, value, verdict, &mut self.card);
        }
        verdict
    }
}
