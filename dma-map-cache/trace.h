/* SPDX-License-Identifier: GPL-2.0 */
/* Events of dma-map-cache. */

#undef TRACE_SYSTEM
#define TRACE_SYSTEM dma_map_cache

#if !defined(_DMA_MAP_CACHE_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _DMA_MAP_CACHE_TRACE_H

#include <linux/device.h>
#include <linux/tracepoint.h>

DECLARE_EVENT_CLASS(dma_map_cache_buffer,
	TP_PROTO(struct device *dev, u64 iova, u64 len),
	TP_ARGS(dev, iova, len),
	TP_STRUCT__entry(
		__string(device, dev_name(dev))
		__field(u64, iova)
		__field(u64, len)
	),
	TP_fast_assign(
		__assign_str(device);
		__entry->iova = iova;
		__entry->len = len;
	),
	TP_printk("%s iova=0x%llx len=%llu",
		  __get_str(device), __entry->iova, __entry->len)
);

/* A buffer, or a segment of a list, is given to the device. */
DEFINE_EVENT(dma_map_cache_buffer, dma_map_cache_map,
	TP_PROTO(struct device *dev, u64 iova, u64 len),
	TP_ARGS(dev, iova, len)
);

/* A buffer, or a segment of a list, is taken back from the device. */
DEFINE_EVENT(dma_map_cache_buffer, dma_map_cache_unmap,
	TP_PROTO(struct device *dev, u64 iova, u64 len),
	TP_ARGS(dev, iova, len)
);

/* Idle pages are withdrawn. */
TRACE_EVENT(dma_map_cache_evict,
	TP_PROTO(struct device *dev, u64 pages),
	TP_ARGS(dev, pages),
	TP_STRUCT__entry(
		__string(device, dev_name(dev))
		__field(u64, pages)
	),
	TP_fast_assign(
		__assign_str(device);
		__entry->pages = pages;
	),
	TP_printk("%s pages=%llu", __get_str(device), __entry->pages)
);

/* The IOTLB is invalidated. */
TRACE_EVENT(dma_map_cache_flush,
	TP_PROTO(struct device *dev),
	TP_ARGS(dev),
	TP_STRUCT__entry(
		__string(device, dev_name(dev))
	),
	TP_fast_assign(
		__assign_str(device);
	),
	TP_printk("%s", __get_str(device))
);

/* Another strategy is chosen; by number, in the order of the file "strategy". */
TRACE_EVENT(dma_map_cache_switch,
	TP_PROTO(struct device *dev, u8 from, u8 to),
	TP_ARGS(dev, from, to),
	TP_STRUCT__entry(
		__string(device, dev_name(dev))
		__field(u8, from)
		__field(u8, to)
	),
	TP_fast_assign(
		__assign_str(device);
		__entry->from = from;
		__entry->to = to;
	),
	TP_printk("%s from=%u to=%u",
		  __get_str(device), __entry->from, __entry->to)
);

#endif /* _DMA_MAP_CACHE_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
