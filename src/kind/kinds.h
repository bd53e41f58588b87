/* SPDX-License-Identifier: Apache-2.0 */
/* All kinds, in the order of kinds.def. */
#pragma once

#include "model/kind.h"

enum kind_index {
#define KIND(name) KIND_##name,
#include "kind/kinds.def"
#undef KIND
	KIND_COUNT,
};

#define KIND(name) extern const struct kind_ops kind_##name;
#include "kind/kinds.def"
#undef KIND

/* kind_table[KIND_eventfd] == &kind_eventfd */
extern const struct kind_ops *const kind_table[KIND_COUNT];

/* The kind that owns a descriptor; NULL when none does. */
const struct kind_ops *kind_of_fd(const struct fd_view *view);

/* The kind of a record in files.img; NULL when none does it. */
const struct kind_ops *kind_of_type(int fd_type);

/* The kind that has a mapping, of a task or of the image; NULL: private anonymous memory, or nobody knows it. */
const struct kind_ops *kind_of_vma(const struct vma_view *view);
const struct kind_ops *kind_of_record(const VmaEntry *entry);
