// SPDX-License-Identifier: GPL-2.0

//! What has happened: to the card since its driver was bound, to a guest since it was made.

use pdio::count::{
    Count,
    Level, //
};

use crate::mode::Route;

/// Numbers of a guest, or of all guests of a card together.
pub(crate) struct Statistics {
    /// Accesses that came through user space.
    pub(crate) trapped: Count,
    /// Accesses that were handled in the kernel.
    pub(crate) hooked: Count,
    /// Accesses that the model was told of.
    pub(crate) model_updates: Count,
    /// Writes that were dropped.
    pub(crate) denied: Count,
    /// Interrupts that were given to guests.
    pub(crate) interrupts: Count,
    /// How often the card was given to a guest.
    pub(crate) switches: Count,
    /// Nanoseconds that this took.
    pub(crate) switch_ns: Count,
    /// How often the card was taken from a guest in the middle of something.
    pub(crate) taken_away: Count,
    /// How often it was changed which ports a guest accesses directly.
    pub(crate) port_map_changes: Count,
    /// Frames that came for a guest while another had the card.
    pub(crate) frames_held: Count,
    /// Those of them that were put into the guest's ring.
    pub(crate) frames_delivered: Count,
    /// Those of them for which there was no room.
    pub(crate) frames_overflowed: Count,
    /// How often a guest was interrupted again for frames that it had left in its ring.
    pub(crate) reminders: Count,
    /// Pages that the card reaches now.
    pub(crate) pages_pinned: Level,
    /// How often a page was pinned for it.
    pub(crate) pins: Count,
    /// Writes that were dropped because a page could not be pinned, of memory that is there.
    pub(crate) pins_failed: Count,
}

impl Statistics {
    /// Nothing has happened.
    pub(crate) const fn new() -> Self {
        Self {
            trapped: Count::new(),
            hooked: Count::new(),
            model_updates: Count::new(),
            denied: Count::new(),
            interrupts: Count::new(),
            switches: Count::new(),
            switch_ns: Count::new(),
            taken_away: Count::new(),
            port_map_changes: Count::new(),
            frames_held: Count::new(),
            frames_delivered: Count::new(),
            frames_overflowed: Count::new(),
            reminders: Count::new(),
            pages_pinned: Level::new(),
            pins: Count::new(),
            pins_failed: Count::new(),
        }
    }

    /// The guest is gone; the next one of that number begins anew.
    pub(crate) fn reset(&self) {
        for count in [
            &self.trapped,
            &self.hooked,
            &self.model_updates,
            &self.denied,
            &self.interrupts,
            &self.switches,
            &self.switch_ns,
            &self.taken_away,
            &self.port_map_changes,
            &self.frames_held,
            &self.frames_delivered,
            &self.frames_overflowed,
            &self.reminders,
            &self.pins,
            &self.pins_failed,
        ] {
            count.reset();
        }
    }

    /// The accesses that took a way.
    pub(crate) fn accesses(&self, route: Route) -> &Count {
        match route {
            Route::Trapped => &self.trapped,
            Route::Hooked => &self.hooked,
        }
    }
}
