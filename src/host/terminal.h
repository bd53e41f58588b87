/* SPDX-License-Identifier: Apache-2.0 */
/* Pseudo terminals of a wanted number. */
#pragma once

#include <stdint.h>

#include "base/macros.h"

/*
 * The master of terminal `index`, opened through path (a ptmx, relative to dir): the kernel gives out the lowest free number, so others
 * are opened until it comes, and given back. flags: of open(2). Returns the descriptor; -EEXIST when the number is in use, or -errno.
 */
must_check int terminal_open_master(int dir, const char *path, int flags, uint32_t index);
