/* SPDX-License-Identifier: Apache-2.0 */
/* The network device behind a descriptor of /dev/net/tun: looked at for a dump, made again for a restore. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/log.h"
#include "base/macros.h"
#include "image/proto/ferry.pb-c.h"

struct ferry_error;

/* What stands in the way of making the device again; called before anything stops, too. */
must_check int tun_device_check(const char *name, const char *who, struct ferry_error *err);

/* Of a descriptor that is attached to it; mode as TUNGETIFF tells it. *ret belongs to the arena. */
must_check int tun_device_collect(struct arena *a, int fd, const char *name, uint32_t mode,
				  FerryDeviceEntry **ret, struct ferry_error *err);

/* Whether a record of the image makes sense; what the kernel verifies is left to it. */
bool tun_device_valid(const FerryDeviceEntry *d);

/* Whether the network namespace has a device of this name. */
bool tun_device_exists(const char *name);

/* fd was attached to the device. fresh: which was made by that, so everything else about it is to be set. */
must_check int tun_device_restore(int fd, const FerryDeviceEntry *d, bool fresh, const struct log_sink *log,
				  struct ferry_error *err);
