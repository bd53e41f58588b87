/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the list of kinds and finding one in it. */
#include "kind/kinds.h"

const struct kind_ops *const kind_table[KIND_COUNT] = {
#define KIND(name) [KIND_##name] = &kind_##name,
#include "kind/kinds.def"
#undef KIND
};

const struct kind_ops *kind_of_fd(const struct fd_view *view)
{
	for (size_t i = 0; i < KIND_COUNT; i++)
		if (kind_table[i]->owns && kind_table[i]->owns(view))
			return kind_table[i];
	return NULL;
}

const struct kind_ops *kind_of_type(int fd_type)
{
	for (size_t i = 0; i < KIND_COUNT; i++)
		if (kind_table[i]->fd_type >= 0 && kind_table[i]->fd_type == fd_type)
			return kind_table[i];
	return NULL;
}

const struct kind_ops *kind_of_vma(const struct vma_view *view)
{
	for (size_t i = 0; i < KIND_COUNT; i++)
		if (kind_table[i]->owns_vma && kind_table[i]->owns_vma(view))
			return kind_table[i];
	return NULL;
}

const struct kind_ops *kind_of_record(const VmaEntry *entry)
{
	for (size_t i = 0; i < KIND_COUNT; i++)
		if (kind_table[i]->owns_record && kind_table[i]->owns_record(entry))
			return kind_table[i];
	return NULL;
}
