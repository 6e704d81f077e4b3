// SPDX-License-Identifier: GPL-2.0

#include <linux/workqueue.h>

void pdio_init_delayed_work(struct delayed_work *work, work_func_t func)
{
	INIT_DELAYED_WORK(work, func);
}

void pdio_mod_delayed_work(struct delayed_work *work, unsigned int ms)
{
	mod_delayed_work(system_dfl_wq, work, msecs_to_jiffies(ms));
}

void pdio_queue_delayed_work(struct delayed_work *work, unsigned int ms)
{
	queue_delayed_work(system_dfl_wq, work, msecs_to_jiffies(ms));
}
