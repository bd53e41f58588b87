/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns finding the programs that choose among sockets of one port (SO_ATTACH_REUSEPORT_CBPF and _EBPF): there is no
 * call that tells them, but an iterator over the sockets of a network namespace can read them from the kernel's memory. Where its
 * structures have what is told by the kernel's own description of its types.
 *
 * Kernel interface: bpf(2) BPF_TRACE_ITER on bpf_iter_tcp and bpf_iter_udp (5.9), /sys/kernel/btf/vmlinux (5.4),
 * bpf_probe_read_kernel (5.5), bpf_seq_write (5.7).
 * Does not handle: a program that was attached to a socket before it was bound or listened; no iterator comes to it.
 */
#include "host/reuseport.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/btf.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/vec.h"

enum {
	REUSEPORT_BTF_MAX = 256 << 20,
	REUSEPORT_CODE_MAX = 256, /* instructions of our own */
	REUSEPORT_CHUNK = 256,    /* bytes; the stack of a program has 512 */
	REUSEPORT_CHUNK_INSTRUCTIONS = REUSEPORT_CHUNK / sizeof(struct sock_filter),
	REUSEPORT_HELPER_READ = 113,  /* bpf_probe_read_kernel */
	REUSEPORT_HELPER_WRITE = 127, /* bpf_seq_write */
};

/* ---------------------------------------------------------- the kernel's types */

struct reuseport_types {
	const char *types, *end, *strings;
	size_t string_bytes;
};

/* Of one type; 0 = it is none that we know. */
static size_t reuseport_type_bytes(const struct btf_type *t)
{
	static const uint8_t fixed[] = {[BTF_KIND_INT] = 4,
					[BTF_KIND_ARRAY] = sizeof(struct btf_array),
					[BTF_KIND_VAR] = 4,
					[17 /* BTF_KIND_DECL_TAG */] = 4,
					[19 /* BTF_KIND_ENUM64 */] = 0};
	static const uint8_t each[] = {[BTF_KIND_STRUCT] = sizeof(struct btf_member),
				       [BTF_KIND_UNION] = sizeof(struct btf_member),
				       [BTF_KIND_ENUM] = sizeof(struct btf_enum),
				       [BTF_KIND_FUNC_PROTO] = sizeof(struct btf_param),
				       [BTF_KIND_DATASEC] = sizeof(struct btf_var_secinfo),
				       [19] = 12};
	unsigned kind = BTF_INFO_KIND(t->info);
	if (!kind || kind >= ARRAY_SIZE(fixed))
		return 0;
	return sizeof(*t) + fixed[kind] + (size_t)each[kind] * BTF_INFO_VLEN(t->info);
}

static bool reuseport_is_named(const struct reuseport_types *b, uint32_t at, const char *name)
{
	size_t n = strlen(name) + 1;
	return at < b->string_bytes && b->string_bytes - at >= n && !memcmp(b->strings + at, name, n);
}

static int reuseport_types_open(const char *bytes, size_t n, struct reuseport_types *ret)
{
	const struct btf_header *h = (const void *)bytes;
	if (n < sizeof(*h) || h->magic != BTF_MAGIC || h->hdr_len > n || h->type_off > n - h->hdr_len ||
	    h->type_len > n - h->hdr_len - h->type_off || h->str_off > n - h->hdr_len ||
	    h->str_len > n - h->hdr_len - h->str_off)
		return -EOPNOTSUPP;
	*ret = (struct reuseport_types){.types = bytes + h->hdr_len + h->type_off,
					.end = bytes + h->hdr_len + h->type_off + h->type_len,
					.strings = bytes + h->hdr_len + h->str_off,
					.string_bytes = h->str_len};
	return 0;
}

/* Where things are. */
enum reuseport_place {
	AT_STATE,
	AT_SOCKET,
	AT_GROUP,
	AT_INODE, /* of a struct socket, which lies in front of its inode */
	AT_INODE_NUMBER,
	AT_PROGRAM,
	AT_MEMBERS,
	AT_SOCKETS,
	AT_CLASSIC,
	AT_LENGTH,
	AT_CODE,
	AT_COUNT,
};

static const struct {
	const char *structure, *member;
} reuseport_members[AT_COUNT] = {
	[AT_STATE] = {"sock_common", "skc_state"},      [AT_SOCKET] = {"sock", "sk_socket"},
	[AT_GROUP] = {"sock", "sk_reuseport_cb"},       [AT_INODE] = {"socket_alloc", "vfs_inode"},
	[AT_INODE_NUMBER] = {"inode", "i_ino"},         [AT_PROGRAM] = {"sock_reuseport", "prog"},
	[AT_MEMBERS] = {"sock_reuseport", "num_socks"}, [AT_SOCKETS] = {"sock_reuseport", "socks"},
	[AT_CLASSIC] = {"bpf_prog", "orig_prog"},       [AT_LENGTH] = {"sock_fprog_kern", "len"},
	[AT_CODE] = {"sock_fprog_kern", "filter"},
};

struct reuseport_layout {
	int at[AT_COUNT];
	int functions[2]; /* what is attached to: TCP, UDP */
};

/* Bytes from the start of a structure to a member; -ENOENT. */
static int reuseport_offset(const struct reuseport_types *b, const struct btf_type *t, const char *member)
{
	const struct btf_member *m = (const void *)(t + 1);
	for (unsigned i = 0; i < BTF_INFO_VLEN(t->info); i++)
		if (reuseport_is_named(b, m[i].name_off, member))
			return (int)((BTF_INFO_KFLAG(t->info) ? BTF_MEMBER_BIT_OFFSET(m[i].offset)
							      : m[i].offset) /
				     8);
	return -ENOENT;
}

/* One type of a hundred thousand: most are not meant. */
static void reuseport_look(const struct reuseport_types *b, const struct btf_type *t, int id,
			   struct reuseport_layout *ret)
{
	static const char *const functions[] = {"bpf_iter_tcp", "bpf_iter_udp"};
	unsigned kind = BTF_INFO_KIND(t->info);
	for (size_t i = 0; kind == BTF_KIND_FUNC && i < ARRAY_SIZE(functions); i++)
		if (reuseport_is_named(b, t->name_off, functions[i]))
			ret->functions[i] = id;
	for (size_t i = 0; kind == BTF_KIND_STRUCT && i < AT_COUNT; i++)
		if (ret->at[i] < 0 && reuseport_is_named(b, t->name_off, reuseport_members[i].structure))
			ret->at[i] = reuseport_offset(b, t, reuseport_members[i].member);
}

static int reuseport_layout_of(const char *bytes, size_t n, struct reuseport_layout *ret)
{
	struct reuseport_types b;
	int r = reuseport_types_open(bytes, n, &b);
	if (r < 0)
		return r;
	*ret = (struct reuseport_layout){.functions = {-1, -1}};
	for (size_t i = 0; i < AT_COUNT; i++)
		ret->at[i] = -ENOENT;
	int id = 1;
	for (const char *p = b.types; (size_t)(b.end - p) >= sizeof(struct btf_type); id++) {
		const struct btf_type *t = (const void *)p;
		size_t type_bytes = reuseport_type_bytes(t);
		if (!type_bytes || type_bytes > (size_t)(b.end - p))
			return -EOPNOTSUPP;
		reuseport_look(&b, t, id, ret);
		p += type_bytes;
	}
	for (size_t i = 0; i < AT_COUNT; i++)
		if (ret->at[i] < 0)
			return -EOPNOTSUPP;
	return ret->functions[0] < 0 || ret->functions[1] < 0 ? -EOPNOTSUPP : 0;
}

/* Megabytes, of which a read gives a page at a time; since 6.16 they can be mapped. */
static int reuseport_layout(struct reuseport_layout *ret)
{
	struct stat st;
	_cleanup_free_ char *copy = NULL;
	_cleanup_close_ int fd = open("/sys/kernel/btf/vmlinux", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return errno == ENOENT ? -EOPNOTSUPP : -errno;
	size_t n = (size_t)st.st_size;
	char *bytes = mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0);
	if (bytes != MAP_FAILED) {
		int r = reuseport_layout_of(bytes, n, ret);
		munmap(bytes, n);
		return r;
	}
	int r = fd_read_whole(fd, REUSEPORT_BTF_MAX, &copy, &n);
	return r < 0 ? r : reuseport_layout_of(copy, n, ret);
}

/* ------------------------------------------------------------------ the program */

/* What it says of a socket; instructions in chunks follow. */
struct reuseport_said {
	uint64_t inode, group, program, classic, code;
	uint64_t members, length; /* the lowest 16 bits count */
	uint64_t self;
	uint64_t sockets[REUSEPORT_PLACES_MAX];
};

_Static_assert(sizeof(struct reuseport_said) <= 512 - 16, "it is put together on the stack");

struct reuseport_code {
	struct bpf_insn v[REUSEPORT_CODE_MAX];
	size_t n;
};

static size_t emit(struct reuseport_code *c, uint8_t code, int to, int from, int offset, int32_t value)
{
	c->v[c->n] = (struct bpf_insn){.code = code,
				       .dst_reg = (uint8_t)(to & 15),
				       .src_reg = (uint8_t)(from & 15),
				       .off = (int16_t)offset,
				       .imm = value};
	return c->n++;
}

static void emit_move(struct reuseport_code *c, int to, int from, int32_t plus)
{
	emit(c, BPF_ALU64 | BPF_MOV | BPF_X, to, from, 0, 0);
	emit(c, BPF_ALU64 | BPF_ADD | BPF_K, to, 0, 0, plus);
}

/* Where a member of what is said lies on the stack. */
#define SAID(member) ((int)offsetof(struct reuseport_said, member) - (int)sizeof(struct reuseport_said))

/* Read n bytes of the kernel, at what a register has and so many bytes behind, to the stack. */
static void emit_read(struct reuseport_code *c, int stack, int32_t n, int base, int32_t plus)
{
	emit_move(c, BPF_REG_3, base, plus);
	emit_move(c, BPF_REG_1, BPF_REG_10, stack);
	emit(c, BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_2, 0, 0, n);
	emit(c, BPF_JMP | BPF_CALL, 0, 0, 0, REUSEPORT_HELPER_READ);
}

/* The same, at a pointer that lies on the stack. */
static void emit_follow(struct reuseport_code *c, int stack, int32_t n, int pointer, int32_t plus)
{
	emit(c, BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_4, BPF_REG_10, pointer, 0);
	emit_read(c, stack, n, BPF_REG_4, plus);
}

static void emit_write(struct reuseport_code *c, int stack, int32_t n)
{
	emit(c, BPF_ALU64 | BPF_MOV | BPF_X, BPF_REG_1, BPF_REG_6, 0, 0);
	emit_move(c, BPF_REG_2, BPF_REG_10, stack);
	emit(c, BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_3, 0, 0, n);
	emit(c, BPF_JMP | BPF_CALL, 0, 0, 0, REUSEPORT_HELPER_WRITE);
}

static void emit_here(struct reuseport_code *c, size_t jump)
{
	c->v[jump].off = (int16_t)(c->n - jump - 1);
}

/* r6 the file, r7 the socket; r8 and r9 what is left of the instructions, and where they are. */
static void reuseport_program(const struct reuseport_layout *l, bool tcp, struct reuseport_code *c)
{
	size_t out[6], n_out = 0;
	const int start = SAID(inode);
	emit(c, BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_6, BPF_REG_1, 0, 0);
	emit(c, BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_6, BPF_REG_6, 0, 0);
	emit(c, BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_7, BPF_REG_1, 8, 0);
	out[n_out++] = emit(c, BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_7, 0, 0, 0);
	emit(c, BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 0);
	for (int at = start; at < 0; at += 8)
		emit(c, BPF_STX | BPF_MEM | BPF_DW, BPF_REG_10, BPF_REG_0, at, 0);
	/* Connections have no group, and what waits for its end is no whole socket. */
	emit_read(c, SAID(length), 1, BPF_REG_7, l->at[AT_STATE]);
	emit(c, BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_1, BPF_REG_10, SAID(length), 0);
	if (tcp)
		out[n_out++] = emit(c, BPF_JMP | BPF_JNE | BPF_K, BPF_REG_1, 0, 0, TCP_LISTEN);
	emit_read(c, SAID(group), 8, BPF_REG_7, l->at[AT_GROUP]);
	emit_follow(c, SAID(program), 8, SAID(group), l->at[AT_PROGRAM]);
	emit(c, BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_1, BPF_REG_10, SAID(program), 0);
	out[n_out++] = emit(c, BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_1, 0, 0, 0);
	emit(c, BPF_STX | BPF_MEM | BPF_DW, BPF_REG_10, BPF_REG_7, SAID(self), 0);
	emit_read(c, SAID(inode), 8, BPF_REG_7, l->at[AT_SOCKET]);
	emit_follow(c, SAID(inode), 8, SAID(inode), l->at[AT_INODE] + l->at[AT_INODE_NUMBER]);
	emit_follow(c, SAID(members), 2, SAID(group), l->at[AT_MEMBERS]);
	emit_follow(c, SAID(sockets), sizeof(((struct reuseport_said *)NULL)->sockets), SAID(group),
		    l->at[AT_SOCKETS]);
	emit_follow(c, SAID(classic), 8, SAID(program), l->at[AT_CLASSIC]);
	emit(c, BPF_ST | BPF_MEM | BPF_DW, BPF_REG_10, 0, SAID(length), 0);
	emit_follow(c, SAID(length), 2, SAID(classic), l->at[AT_LENGTH]);
	emit_follow(c, SAID(code), 8, SAID(classic), l->at[AT_CODE]);
	emit_write(c, start, sizeof(struct reuseport_said));
	emit(c, BPF_LDX | BPF_MEM | BPF_H, BPF_REG_8, BPF_REG_10, SAID(length), 0);
	emit(c, BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_9, BPF_REG_10, SAID(code), 0);
	out[n_out++] = emit(c, BPF_JMP | BPF_JGT | BPF_K, BPF_REG_8, 0, 0, REUSEPORT_INSTRUCTIONS_MAX);
	size_t again = c->n;
	out[n_out++] = emit(c, BPF_JMP | BPF_JSLE | BPF_K, BPF_REG_8, 0, 0, 0);
	emit_read(c, start, REUSEPORT_CHUNK, BPF_REG_9, 0);
	emit_write(c, start, REUSEPORT_CHUNK);
	emit(c, BPF_ALU64 | BPF_ADD | BPF_K, BPF_REG_9, 0, 0, REUSEPORT_CHUNK);
	emit(c, BPF_ALU64 | BPF_SUB | BPF_K, BPF_REG_8, 0, 0, REUSEPORT_CHUNK_INSTRUCTIONS);
	emit(c, BPF_JMP | BPF_JA, 0, 0, (int)again - (int)c->n - 1, 0);
	for (size_t i = 0; i < n_out; i++)
		emit_here(c, out[i]);
	emit(c, BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 0);
	emit(c, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

static int reuseport_bpf(int command, union bpf_attr *attr)
{
	long r = syscall(SYS_bpf, command, attr, sizeof(*attr));
	return r < 0 ? -errno : (int)r;
}

/* What the program says, as a file. */
static int reuseport_open(const struct reuseport_layout *l, bool tcp)
{
	struct reuseport_code code = {.n = 0};
	reuseport_program(l, tcp, &code);
	union bpf_attr load = {.prog_type = BPF_PROG_TYPE_TRACING,
			       .insn_cnt = (uint32_t)code.n,
			       .insns = (uintptr_t)code.v,
			       .license = (uintptr_t) "GPL",
			       .expected_attach_type = BPF_TRACE_ITER,
			       .attach_btf_id = (uint32_t)l->functions[!tcp]};
	_cleanup_close_ int program = reuseport_bpf(BPF_PROG_LOAD, &load);
	if (program < 0)
		return program == -EINVAL || program == -EACCES ? -EOPNOTSUPP : program;
	union bpf_attr make = {.link_create = {.prog_fd = (uint32_t)program, .attach_type = BPF_TRACE_ITER}};
	_cleanup_close_ int link = reuseport_bpf(BPF_LINK_CREATE, &make);
	if (link < 0)
		return link;
	union bpf_attr walk = {.iter_create = {.link_fd = (uint32_t)link}};
	return reuseport_bpf(BPF_ITER_CREATE, &walk);
}

/* --------------------------------------------------------------------- the list */

typedef VEC(struct reuseport) reuseport_vec;

static uint32_t reuseport_place_of(const struct reuseport_said *said)
{
	for (uint32_t i = 0; i < MIN((uint32_t)(said->members & UINT16_MAX), (uint32_t)REUSEPORT_PLACES_MAX);
	     i++)
		if (said->sockets[i] == said->self)
			return i;
	return UINT32_MAX;
}

/* Returns how many bytes it takes; -EBADMSG: more than there are. */
static ssize_t reuseport_take(const char *bytes, size_t left, reuseport_vec *list)
{
	struct reuseport_said said;
	if (left < sizeof(said))
		return -EBADMSG;
	memcpy(&said, bytes, sizeof(said));
	uint32_t n = said.classic ? (uint32_t)(said.length & UINT16_MAX) : 0;
	uint32_t told = n > REUSEPORT_INSTRUCTIONS_MAX ? 0 : n;
	size_t chunks = (told + REUSEPORT_CHUNK_INSTRUCTIONS - 1) / REUSEPORT_CHUNK_INSTRUCTIONS;
	if ((left - sizeof(said)) / REUSEPORT_CHUNK < chunks)
		return -EBADMSG;
	struct reuseport *r = vec_push(list);
	if (!r)
		return -ENOMEM;
	*r = (struct reuseport){.inode = said.inode,
				.group = said.group,
				.members = (uint32_t)(said.members & UINT16_MAX),
				.place = reuseport_place_of(&said),
				.n = n,
				.code = told ? malloc(told * sizeof(*r->code)) : NULL};
	if (told && !r->code)
		return -ENOMEM;
	if (told)
		memcpy(r->code, bytes + sizeof(said), told * sizeof(*r->code));
	return (ssize_t)(sizeof(said) + chunks * REUSEPORT_CHUNK);
}

static int reuseport_walk(const struct reuseport_layout *l, bool tcp, reuseport_vec *list)
{
	_cleanup_close_ int fd = reuseport_open(l, tcp);
	_cleanup_free_ char *bytes = NULL;
	size_t n = 0;
	int r = fd < 0 ? fd : fd_read_whole(fd, REUSEPORT_BTF_MAX, &bytes, &n);
	for (size_t at = 0; at < n && r >= 0;) {
		ssize_t took = reuseport_take(bytes + at, n - at, list);
		r = took < 0 ? (int)took : 0;
		at += took < 0 ? 0 : (size_t)took;
	}
	return r;
}

int reuseport_list(struct reuseport **ret, size_t *ret_n)
{
	struct reuseport_layout l;
	reuseport_vec list = {0};
	int r = reuseport_layout(&l);
	if (r >= 0)
		r = reuseport_walk(&l, true, &list);
	if (r >= 0)
		r = reuseport_walk(&l, false, &list);
	if (r < 0) {
		reuseport_free(list.v, list.n);
		return r == -ENOENT ? -EOPNOTSUPP : r;
	}
	*ret = list.v;
	*ret_n = list.n;
	return 0;
}

void reuseport_free(struct reuseport *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(list[i].code);
	free(list);
}
