/* SPDX-License-Identifier: Apache-2.0 */
/* A mount namespace out of an image; see struct ns_ops. */
#pragma once

#include "model/kind.h"

must_check int mounts_restore(struct opener *o, struct plan_ns *ns, struct ferry_error *err);
must_check int mounts_finish(struct opener *o, struct plan_ns *ns, struct ferry_error *err);
