/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A name by which anybody finds out that memory of a process still comes from an image, and from whom. It is gone when the process
 * is that holds it.
 */
#pragma once

#include <sys/types.h>

#include "base/macros.h"

/* Take the name. Returns a descriptor that holds it, or -1. */
int latecomer_name(pid_t pid);

/* Who made the name of a process, if that is root or our own user; 0 = nobody. */
pid_t latecomer_find(pid_t pid);
