/* SPDX-License-Identifier: Apache-2.0 */
/* Features of a kernel by the names that CRIU's users ask for them. */
#pragma once

#include <stddef.h>

#include "base/macros.h"
#include "kernel/caps.h"

/* 1: it is there; 0: it is not; -ENOENT: there is no feature of that name. */
must_check int kern_feature(struct kern_caps *caps, const char *word);

/* All names, one after the other; NULL beyond the last. */
const char *kern_feature_word(size_t i);
