// SPDX-License-Identifier: GPL-2.0

//! dma-map-cache: one device, one DMA-mapping strategy, switched live under any driver.
//!
//! A device is named to the file `attach`; from then on the DMA API calls of its driver are served
//! by a strategy that is chosen in sysfs, in an IOMMU domain of its own. See
//! `Documentation/dma-map-cache/`.

use kernel::{
    prelude::*,
    sync::Arc, //
};
use pdio::{
    bus::Registration,
    pci::Address,
    sysfs::{
        Directory,
        File,
        Parent, //
    }, //
};

mod armed;
mod attachment;
mod attributes;
#[expect(
    dead_code,
    unreachable_pub,
    reason = "the host tests compile the same files, and use all of them"
)]
mod strategy;

use armed::{
    Events,
    Registry, //
};

module! {
    type: DmaMapCache,
    name: "dma_map_cache",
    authors: ["PDIO developers"],
    description: "DMA-mapping strategies, switched live under unmodified drivers",
    license: "GPL",
}

const FILES: &[File<Registry>] = &[
    File {
        name: c"attach",
        show: None,
        store: Some(|registry, text| registry.attach(Address::try_from(text)?)),
    },
    File {
        name: c"detach",
        show: None,
        store: Some(|registry, text| registry.detach(Address::try_from(text)?)),
    },
    File {
        name: c"devices",
        show: Some(|registry, out| registry.show(out)),
        store: None,
    },
];

/// The module.
struct DmaMapCache {
    registry: Arc<Registry>,
    /// Taken away first, so that nobody attaches a device while all are given back.
    files: Option<Directory<Registry>>,
    /// Taken away last: giving a device back goes through it.
    _events: Pin<KBox<Registration<Events>>>,
}

impl kernel::Module for DmaMapCache {
    fn init(module: &'static ThisModule) -> Result<Self> {
        let registry = Arc::pin_init(Registry::new(), GFP_KERNEL)?;
        let events = KBox::pin_init(Registration::new(Events(registry.clone())), GFP_KERNEL)?;
        let files = Directory::new(Parent::Module(module), c"pci", FILES, registry.clone())?;

        Ok(Self {
            registry,
            files: Some(files),
            _events: events,
        })
    }
}

impl Drop for DmaMapCache {
    fn drop(&mut self) {
        self.files = None;
        self.registry.detach_all();
    }
}
