/* SPDX-License-Identifier: GPL-2.0 */
/* Events of iopf. */

#undef TRACE_SYSTEM
#define TRACE_SYSTEM iopf

#if !defined(_IOPF_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _IOPF_TRACE_H

#include <linux/device.h>
#include <linux/tracepoint.h>

/* A device asks for a page. */
TRACE_EVENT(iopf_fault,
	TP_PROTO(struct device *dev, u32 pasid, u64 addr, bool write),
	TP_ARGS(dev, pasid, addr, write),
	TP_STRUCT__entry(
		__string(device, dev_name(dev))
		__field(u32, pasid)
		__field(u64, addr)
		__field(bool, write)
	),
	TP_fast_assign(
		__assign_str(device);
		__entry->pasid = pasid;
		__entry->addr = addr;
		__entry->write = write;
	),
	TP_printk("%s pasid=%u addr=0x%llx write=%d",
		  __get_str(device), __entry->pasid, __entry->addr,
		  __entry->write)
);

/* A group of such requests is answered, with 0 or an errno. */
TRACE_EVENT(iopf_resolved,
	TP_PROTO(struct device *dev, u32 pasid, u64 requests, u64 mapped,
		 u64 ns, int error),
	TP_ARGS(dev, pasid, requests, mapped, ns, error),
	TP_STRUCT__entry(
		__string(device, dev_name(dev))
		__field(u32, pasid)
		__field(u64, requests)
		__field(u64, mapped)
		__field(u64, ns)
		__field(int, error)
	),
	TP_fast_assign(
		__assign_str(device);
		__entry->pasid = pasid;
		__entry->requests = requests;
		__entry->mapped = mapped;
		__entry->ns = ns;
		__entry->error = error;
	),
	TP_printk("%s pasid=%u requests=%llu mapped=%llu ns=%llu error=%d",
		  __get_str(device), __entry->pasid, __entry->requests,
		  __entry->mapped, __entry->ns, __entry->error)
);

DECLARE_EVENT_CLASS(iopf_pages,
	TP_PROTO(struct device *dev, u32 pasid, u64 addr, u64 pages),
	TP_ARGS(dev, pasid, addr, pages),
	TP_STRUCT__entry(
		__string(device, dev_name(dev))
		__field(u32, pasid)
		__field(u64, addr)
		__field(u64, pages)
	),
	TP_fast_assign(
		__assign_str(device);
		__entry->pasid = pasid;
		__entry->addr = addr;
		__entry->pages = pages;
	),
	TP_printk("%s pasid=%u addr=0x%llx pages=%llu",
		  __get_str(device), __entry->pasid, __entry->addr,
		  __entry->pages)
);

/* Pages are taken from a device to keep within the budget. */
DEFINE_EVENT(iopf_pages, iopf_evicted,
	TP_PROTO(struct device *dev, u32 pasid, u64 addr, u64 pages),
	TP_ARGS(dev, pasid, addr, pages)
);

/* Pages are taken from a device because the process has them no more, or not so. */
DEFINE_EVENT(iopf_pages, iopf_invalidated,
	TP_PROTO(struct device *dev, u32 pasid, u64 addr, u64 pages),
	TP_ARGS(dev, pasid, addr, pages)
);

#endif /* _IOPF_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
