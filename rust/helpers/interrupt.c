// SPDX-License-Identifier: GPL-2.0

#include <linux/interrupt.h>

void pdio_tasklet_schedule(struct tasklet_struct *t)
{
	tasklet_schedule(t);
}
