/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns BTF, the kernel's account of its types: a header, then types one behind the other, numbered from 1, then their names.
 * Documentation/bpf/btf.rst; since 4.18, of the kernel itself (/sys/kernel/btf/vmlinux) since 5.4.
 *
 * Does not handle: bit fields, byte orders other than ours, BTF that builds on another (of modules).
 */
#include "proc/btf.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/btf.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/fd.h"

enum {
	BTF_ENUM64 = 19, /* 6.0 */
	BTF_DEPTH = 8,   /* unnamed members within each other, and names for types */
	BTF_TYPES_MAX = 1 << 22,
	BTF_FIELD_BYTES = 8,
	BTF_KERNEL_MAX = 256 << 20,
};

/* Bytes that follow a type: of each entry, and in all. */
static const struct btf_tail {
	uint8_t entry, fixed;
	bool known;
} btf_tails[] = {
	[BTF_KIND_INT] = {.fixed = sizeof(uint32_t), .known = true},
	[BTF_KIND_PTR] = {.known = true},
	[BTF_KIND_ARRAY] = {.fixed = sizeof(struct btf_array), .known = true},
	[BTF_KIND_STRUCT] = {.entry = sizeof(struct btf_member), .known = true},
	[BTF_KIND_UNION] = {.entry = sizeof(struct btf_member), .known = true},
	[BTF_KIND_ENUM] = {.entry = sizeof(struct btf_enum), .known = true},
	[BTF_KIND_FWD] = {.known = true},
	[BTF_KIND_TYPEDEF] = {.known = true},
	[BTF_KIND_VOLATILE] = {.known = true},
	[BTF_KIND_CONST] = {.known = true},
	[BTF_KIND_RESTRICT] = {.known = true},
	[BTF_KIND_FUNC] = {.known = true},
	[BTF_KIND_FUNC_PROTO] = {.entry = sizeof(struct btf_param), .known = true},
	[BTF_KIND_VAR] = {.fixed = sizeof(struct btf_var), .known = true},
	[BTF_KIND_DATASEC] = {.entry = sizeof(struct btf_var_secinfo), .known = true},
	[BTF_KIND_FLOAT] = {.known = true},
	[BTF_KIND_DECL_TAG] = {.fixed = sizeof(struct btf_decl_tag), .known = true},
	[BTF_KIND_TYPE_TAG] = {.known = true},
	[BTF_ENUM64] = {.entry = 3 * sizeof(uint32_t), .known = true},
};

static uint32_t btf_kind(const struct btf_type *t)
{
	return BTF_INFO_KIND(t->info);
}

/* Bytes of a type with all that follows it; 0: it is none, or goes beyond the end. */
static size_t btf_bytes(const struct btf_type *t, size_t left)
{
	if (left < sizeof(*t) || btf_kind(t) >= ARRAY_SIZE(btf_tails) || !btf_tails[btf_kind(t)].known)
		return 0;
	const struct btf_tail *tail = &btf_tails[btf_kind(t)];
	size_t bytes = sizeof(*t) + tail->fixed + (size_t)tail->entry * BTF_INFO_VLEN(t->info);
	return bytes <= left ? bytes : 0;
}

static int btf_add(struct btf *b, size_t *room, const struct btf_type *t)
{
	if (b->n_types >= BTF_TYPES_MAX)
		return -EBADMSG;
	if (b->n_types == *room) {
		const struct btf_type **more = reallocarray(b->types, *room * 2, sizeof(const void *));
		if (!more)
			return -ENOMEM;
		b->types = more;
		*room *= 2;
	}
	b->types[b->n_types++] = t;
	return 0;
}

static int btf_parse_types(struct btf *b, const char *at, size_t left)
{
	size_t room = 1 << 16;
	b->types = calloc(room, sizeof(const void *));
	int r = b->types ? 0 : -ENOMEM;
	b->n_types = 1;
	for (size_t bytes; left && r >= 0; at += bytes, left -= bytes) {
		const struct btf_type *t = (const void *)at;
		bytes = btf_bytes(t, left);
		r = !bytes || t->name_off >= b->n_strings ? -EBADMSG : btf_add(b, &room, t);
	}
	return r;
}

/* Whether a part that a header tells lies within what follows it. */
static bool btf_within(uint32_t off, uint32_t len, size_t n)
{
	return off <= n && len <= n - off;
}

int btf_parse(const void *bytes, size_t n, struct btf *ret)
{
	const struct btf_header *h = bytes;
	struct btf b = {0};
	if (n < sizeof(*h) || h->magic != BTF_MAGIC || h->version != BTF_VERSION || h->hdr_len < sizeof(*h) ||
	    h->hdr_len > n)
		return -EBADMSG;
	const char *body = (const char *)bytes + h->hdr_len;
	n -= h->hdr_len;
	if (!btf_within(h->type_off, h->type_len, n) || !btf_within(h->str_off, h->str_len, n) ||
	    !h->str_len || (uintptr_t)(body + h->type_off) % sizeof(uint32_t) ||
	    body[h->str_off + h->str_len - 1])
		return -EBADMSG;
	b.strings = body + h->str_off;
	b.n_strings = h->str_len;
	int r = btf_parse_types(&b, body + h->type_off, h->type_len);
	if (r < 0)
		btf_release(&b);
	else
		*ret = b;
	return r;
}

void btf_release(struct btf *b)
{
	free(b->types);
	*b = (struct btf){0};
}

static const struct btf_type *btf_type(const struct btf *b, uint32_t id)
{
	return id && id < b->n_types ? b->types[id] : NULL;
}

/* Each name is there once, so that comparing places compares names. 0: there is none. */
static uint32_t btf_name(const struct btf *b, const char *name)
{
	size_t n = strlen(name) + 1;
	for (const char *at = b->strings, *end = at + b->n_strings, *found;
	     (found = memmem(at, (size_t)(end - at), name, n)); at = found + 1)
		if (found > b->strings && !found[-1])
			return (uint32_t)(found - b->strings);
	return 0;
}

static int btf_find(const struct btf *b, const char *name, uint32_t kind)
{
	uint32_t at = btf_name(b, name);
	for (uint32_t id = 1; at && id < b->n_types; id++)
		if (b->types[id]->name_off == at && btf_kind(b->types[id]) == kind)
			return (int)id;
	return -ENOENT;
}

int btf_function(const struct btf *b, const char *name)
{
	return btf_find(b, name, BTF_KIND_FUNC);
}

/* Of what a value of a type takes, and of what an array of such takes; 0: not known. */
static uint32_t btf_scalar_size(const struct btf *b, uint32_t id)
{
	for (int depth = 0; depth < BTF_DEPTH; depth++) {
		const struct btf_type *t = btf_type(b, id);
		switch (t ? btf_kind(t) : BTF_KIND_UNKN) {
		case BTF_KIND_INT:
		case BTF_KIND_STRUCT:
		case BTF_KIND_UNION: return t->size;
		case BTF_KIND_PTR: return sizeof(uint64_t);
		case BTF_KIND_TYPEDEF:
		case BTF_KIND_VOLATILE:
		case BTF_KIND_CONST: id = t->type; break;
		default: return 0;
		}
	}
	return 0;
}

static uint32_t btf_size(const struct btf *b, uint32_t id)
{
	const struct btf_type *t = btf_type(b, id);
	if (!t || btf_kind(t) != BTF_KIND_ARRAY)
		return btf_scalar_size(b, id);
	const struct btf_array *array = (const void *)(t + 1);
	uint32_t bytes;
	return __builtin_mul_overflow(btf_scalar_size(b, array->type), array->nelems, &bytes) ? 0 : bytes;
}

/* bytes: how many it has; 0: any number. */
static int btf_field_in(const struct btf *b, const struct btf_type *t, uint32_t name, uint32_t bytes,
			int depth, struct btf_field *ret)
{
	const struct btf_member *m = (const void *)(t + 1);
	bool bits = BTF_INFO_KFLAG(t->info);
	for (uint32_t i = 0; i < BTF_INFO_VLEN(t->info); i++) {
		const struct btf_type *inner = m[i].name_off ? NULL : btf_type(b, m[i].type);
		uint32_t at = bits ? BTF_MEMBER_BIT_OFFSET(m[i].offset) : m[i].offset;
		if (m[i].name_off == name) {
			if ((bits && BTF_MEMBER_BITFIELD_SIZE(m[i].offset)) || at % 8 ||
			    (bytes && btf_size(b, m[i].type) != bytes))
				return -ENOENT;
			*ret = (struct btf_field){at / 8, bytes};
			return 0;
		}
		if (!inner || depth == BTF_DEPTH || at % 8 ||
		    (btf_kind(inner) != BTF_KIND_STRUCT && btf_kind(inner) != BTF_KIND_UNION) ||
		    btf_field_in(b, inner, name, bytes, depth + 1, ret) < 0)
			continue;
		ret->offset += at / 8;
		ret->around = inner->size;
		return 0;
	}
	return -ENOENT;
}

int btf_place(const struct btf *b, const char *structure, const char *field, uint32_t bytes,
	      struct btf_field *ret)
{
	int id = btf_find(b, structure, BTF_KIND_STRUCT);
	uint32_t name = btf_name(b, field);
	return id < 0 || !name ? -ENOENT : btf_field_in(b, b->types[id], name, bytes, 0, ret);
}

int btf_field(const struct btf *b, const char *structure, const char *field, struct btf_field *ret)
{
	return btf_place(b, structure, field, BTF_FIELD_BYTES, ret);
}

int btf_bytes_of(const struct btf *b, const char *structure)
{
	int id = btf_find(b, structure, BTF_KIND_STRUCT);
	return id < 0 ? id : (int)MIN(b->types[id]->size, (uint32_t)INT32_MAX);
}

int btf_of_kernel(int root, struct btf_kernel *ret)
{
	struct stat st;
	struct btf_kernel k = {.mapped = MAP_FAILED};
	const char *path = root == AT_FDCWD ? "/sys/kernel/btf/vmlinux" : "sys/kernel/btf/vmlinux";
	_cleanup_close_ int fd = fd_open(root, path, O_RDONLY, 0);
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) == 0 && st.st_size > 0 && st.st_size <= BTF_KERNEL_MAX)
		k.mapped = mmap(NULL, k.n = (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	/* It can be mapped since 6.16. */
	int r = k.mapped != MAP_FAILED ? 0 : fd_read_whole(fd, BTF_KERNEL_MAX, &k.copy, &k.n);
	if (r >= 0)
		r = btf_parse(k.copy ? k.copy : k.mapped, k.n, &k.btf);
	if (r < 0)
		btf_kernel_release(&k);
	else
		*ret = k;
	return r;
}

void btf_kernel_release(struct btf_kernel *k)
{
	btf_release(&k->btf);
	if (k->mapped != MAP_FAILED)
		munmap(k->mapped, k->n);
	free(k->copy);
}
