/* SPDX-License-Identifier: Apache-2.0 */
/* Maps of ids, between images and namespaces. */
#pragma once

#include "base/arena.h"
#include "base/macros.h"
#include "host/userns.h"
#include "image/proto/ferry.pb-c.h"

/* Records belong to the arena. 0 or -ENOMEM. */
must_check int userns_record_extents(struct arena *a, const struct userns_extent *from, uint32_t n,
				     size_t *ret_n, FerryUsernsExtent ***ret);

/* to has room for USERNS_EXTENTS. -EBADMSG: too many. */
must_check int userns_take_extents(FerryUsernsExtent *const *from, size_t n, struct userns_extent *to,
				   uint32_t *ret_n);
