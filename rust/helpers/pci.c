// SPDX-License-Identifier: GPL-2.0

#include <linux/pci.h>

int pdio_pci_domain_nr(struct pci_bus *bus)
{
	return pci_domain_nr(bus);
}

/* Addresses on the bus that are routed to other devices, never to memory. */
void pdio_pci_walk_bridge_windows(struct pci_dev *pdev, pdio_pci_window_func f,
				  void *arg)
{
	struct pci_host_bridge *bridge = pci_find_host_bridge(pdev->bus);
	struct resource_entry *window;

	resource_list_for_each_entry(window, &bridge->windows) {
		if (resource_type(window->res) == IORESOURCE_MEM)
			f(arg, window->res->start - window->offset,
			  window->res->end - window->offset);
	}
}

bool pdio_pci_driver_managed_dma(struct pci_dev *pdev)
{
	struct device_driver *drv = READ_ONCE(pdev->dev.driver);

	return drv && to_pci_driver(drv)->driver_managed_dma;
}

bool pdio_pci_pasid_enabled(struct pci_dev *pdev)
{
#ifdef CONFIG_PCI_PASID
	return pdev->pasid_enabled;
#else
	return false;
#endif
}

bool pdio_pci_pri_enabled(struct pci_dev *pdev)
{
#ifdef CONFIG_PCI_PRI
	return pdev->pri_enabled;
#else
	return false;
#endif
}

bool pdio_pci_bar_is_memory(struct pci_dev *pdev, int bar)
{
	return !(pci_resource_flags(pdev, bar) & IORESOURCE_IO);
}

/* The ports of the bus that these are among; NULL if it does not lead there. */
struct resource *pdio_pci_bus_ports(struct pci_dev *pdev, unsigned int first,
				    unsigned int count)
{
	struct resource *res;

	pci_bus_for_each_resource(pdev->bus, res) {
		if (res && resource_type(res) == IORESOURCE_IO &&
		    res->start <= first && first + count - 1 <= res->end)
			return res;
	}

	return NULL;
}
