/* SPDX-License-Identifier: Apache-2.0 */
/* What the running kernel says about its own types (BTF): ids of functions, places of fields. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

struct btf_type;

struct btf {
	const char *strings;
	size_t n_strings;
	const struct btf_type **types; /* by id; the first is NULL */
	uint32_t n_types;
};

/* Look through the bytes of BTF, which have to outlive *ret. -EBADMSG, -ENOMEM. */
must_check int btf_parse(const void *bytes, size_t n, struct btf *ret);
void btf_release(struct btf *b);

/* That of the running kernel; root: AT_FDCWD, or a directory below which /sys is. A kernel without it: -ENOENT. */
struct btf_kernel {
	struct btf btf;
	void *mapped; /* MAP_FAILED: it was copied */
	char *copy;
	size_t n;
};
must_check int btf_of_kernel(int root, struct btf_kernel *ret);
void btf_kernel_release(struct btf_kernel *k);

/* The id of a function; -ENOENT. */
must_check int btf_function(const struct btf *b, const char *name);

/* Where a field of 64 bits, a number or a pointer, lies in a structure, also inside unnamed members. */
struct btf_field {
	uint32_t offset; /* bytes */
	uint32_t around; /* bytes of the member of the structure that it is, or that it lies in */
};

/* The bytes of a structure; -ENOENT. */
must_check int btf_bytes_of(const struct btf *b, const char *structure);

/* The same for a field of so many bytes, which may be an address or an array; 0: of any type. */
must_check int btf_place(const struct btf *b, const char *structure, const char *field, uint32_t bytes,
			 struct btf_field *ret);

/* -ENOENT: there is none, or it has another size. */
must_check int btf_field(const struct btf *b, const char *structure, const char *field,
			 struct btf_field *ret);
