/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns reading what the kernel keeps of many threads by a BPF iterator over the tasks of a process, where /proc takes ten links and
 * three texts for each thread. All that is concluded is that what is equal is equal; where the iterator cannot be had, or does not tell
 * of a thread, that one is asked as if it were alone.
 *
 * Kernel interface: bpf(2), iterator task (5.8) for one process (6.1), bpf_probe_read_kernel (5.5), CONFIG_DEBUG_INFO_BTF, CAP_BPF with
 * CAP_PERFMON or CAP_SYS_ADMIN. For the licence see mapper.c.
 *
 * Does not handle: numbers of threads as another PID namespace than ours has them.
 */
#include "proc/looker.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/vec.h"
#include "kernel/syscalls.h"
#include "kernel/uapi.h"
#include "proc/btf.h"

enum {
	LOOKER_THREADS = 64, /* below that it is not worth it */
	LOOKER_CHUNK = 64 << 10,
	LOOKER_INSNS_MAX = 256,
	/* The kernel's struct bpf_iter__task, and the number in its struct upid. */
	LOOKER_CTX_META = 0,
	LOOKER_CTX_TASK = 8,
	LOOKER_META_SEQ = 0,
	LOOKER_UPID_BYTES = 16,
	/* On the stack of the program: the look, and below it an address. */
	LOOKER_AT = -(int)sizeof(struct proc_thread_look),
	LOOKER_PID_AT = LOOKER_AT - 8,
};

_Static_assert(sizeof(struct proc_thread_look) % 8 == 0, "zeroed by words");

struct proc_looker {
	int root, program;
	bool tried;
	uint32_t level;                     /* of our PID namespace */
	uint32_t children_at;               /* in a task */
	pid_t pid;                          /* which was looked at */
	VEC(struct proc_thread_look) looks; /* of one process, by tid */
};

/* ------------------------------------------------------------- the iterator */

#define LOOKER_FIELD(name) \
	offsetof(struct proc_thread_look, name), sizeof(((struct proc_thread_look *)0)->name)

enum { LOOKER_CHILDREN };

/* Where each field is found: in task_struct, or in a structure that is a member of it. */
static const struct looker_field {
	uint16_t at, bytes;
	const char *member, *structure, *field;
	bool optional; /* not every kernel is configured to have it */
} looker_fields[] = {
	[LOOKER_CHILDREN] = {LOOKER_FIELD(children), "children", "list_head", "next", false},
	{LOOKER_FIELD(clear_tid), NULL, NULL, "clear_child_tid", false},
	{LOOKER_FIELD(comm), NULL, NULL, "comm", false},
	{LOOKER_FIELD(words.nsproxy), NULL, NULL, "nsproxy", false},
	{LOOKER_FIELD(words.fs), NULL, NULL, "fs", false},
	{LOOKER_FIELD(words.files), NULL, NULL, "files", false},
	{LOOKER_FIELD(words.cred), NULL, NULL, "cred", false},
	{LOOKER_FIELD(words.real_cred), NULL, NULL, "real_cred", false},
	{LOOKER_FIELD(words.mempolicy), NULL, NULL, "mempolicy", true},
	{LOOKER_FIELD(words.cgroups), NULL, NULL, "cgroups", true},
	{LOOKER_FIELD(words.atomic_flags), NULL, NULL, "atomic_flags", false},
	{LOOKER_FIELD(words.timer_slack), NULL, NULL, "timer_slack_ns", false},
	{LOOKER_FIELD(words.stack_address), NULL, NULL, "sas_ss_sp", false},
	{LOOKER_FIELD(words.stack_bytes), NULL, NULL, "sas_ss_size", false},
	{LOOKER_FIELD(words.stack_flags), NULL, NULL, "sas_ss_flags", false},
	{LOOKER_FIELD(words.flags), NULL, NULL, "flags", false},
	{LOOKER_FIELD(words.personality), NULL, NULL, "personality", false},
	{LOOKER_FIELD(words.death_signal), NULL, NULL, "pdeath_signal", false},
	{LOOKER_FIELD(words.info_flags), "thread_info", "thread_info", "flags", false},
	{LOOKER_FIELD(words.seccomp_mode), "seccomp", "seccomp", "mode", true},
	{LOOKER_FIELD(words.seccomp_filter), "seccomp", "seccomp", "filter", true},
};

struct looker_places {
	uint32_t function, thread_pid, level, numbers;
	int64_t field[ARRAY_SIZE(looker_fields)]; /* -1 = there is none */
};

static int looker_place(const struct btf *b, const struct looker_field *f, int64_t *ret)
{
	struct btf_field outer = {0}, inner;
	int r = f->member ? btf_place(b, "task_struct", f->member, 0, &outer) : 0;
	if (r >= 0)
		r = btf_place(b, f->member ? f->structure : "task_struct", f->field, f->bytes, &inner);
	*ret = r < 0 ? -1 : (int64_t)outer.offset + inner.offset;
	return r < 0 && f->optional ? 0 : r;
}

static int looker_find_places(const struct btf *b, struct looker_places *ret)
{
	struct btf_field thread_pid, level, numbers, number;
	int id = btf_function(b, "bpf_iter_task");
	int r = id < 0 ? id : btf_place(b, "task_struct", "thread_pid", 8, &thread_pid);
	if (r >= 0)
		r = btf_place(b, "pid", "level", sizeof(uint32_t), &level);
	if (r >= 0)
		r = btf_place(b, "pid", "numbers", 0, &numbers);
	if (r >= 0)
		r = btf_place(b, "upid", "nr", sizeof(uint32_t), &number);
	if (r >= 0 && (number.offset || btf_bytes_of(b, "upid") != LOOKER_UPID_BYTES))
		r = -EOPNOTSUPP;
	for (size_t i = 0; i < ARRAY_SIZE(looker_fields) && r >= 0; i++)
		r = looker_place(b, &looker_fields[i], &ret->field[i]);
	if (r < 0)
		return r;
	ret->function = (uint32_t)id;
	ret->thread_pid = thread_pid.offset;
	ret->level = level.offset;
	ret->numbers = numbers.offset;
	return 0;
}

static int looker_places(int root, struct looker_places *ret)
{
	struct btf_kernel kernel;
	int r = btf_of_kernel(root, &kernel);
	if (r < 0)
		return r;
	r = looker_find_places(&kernel.btf, ret);
	btf_kernel_release(&kernel);
	return r;
}

struct looker_code {
	struct bpf_insn insns[LOOKER_INSNS_MAX];
	uint32_t n;
};

static void looker_insn(struct looker_code *c, uint8_t code, uint8_t to, uint8_t from, int off, int64_t imm)
{
	c->insns[c->n++] = (struct bpf_insn){
		.code = code, .dst_reg = to, .src_reg = from, .off = (int16_t)off, .imm = (int32_t)imm};
}

static void looker_move(struct looker_code *c, uint8_t to, uint8_t from, int64_t plus)
{
	looker_insn(c, BPF_ALU64 | BPF_MOV | BPF_X, to, from, 0, 0);
	if (plus)
		looker_insn(c, BPF_ALU64 | BPF_ADD | BPF_K, to, 0, 0, plus);
}

/* Read bytes that lie so far behind an address, which is in a register, to the stack; what cannot be read is 0. */
static void looker_read_at(struct looker_code *c, int to, uint32_t bytes, uint8_t from, int64_t plus)
{
	looker_move(c, BPF_REG_3, from, plus);
	looker_move(c, BPF_REG_1, BPF_REG_10, to);
	looker_insn(c, BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_2, 0, 0, bytes);
	looker_insn(c, BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_probe_read_kernel);
}

/* For each thread a struct proc_thread_look, with its number at a level of PID namespaces. */
static void looker_build(struct looker_code *c, const struct looker_places *p, uint32_t level)
{
	const int word = BPF_LDX | BPF_MEM | BPF_DW, last = LOOKER_INSNS_MAX - 2;
	looker_insn(c, word, BPF_REG_6, BPF_REG_1, LOOKER_CTX_TASK, 0);
	looker_insn(c, word, BPF_REG_7, BPF_REG_1, LOOKER_CTX_META, 0);
	uint32_t skip = c->n;
	looker_insn(c, BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_6, 0, last, 0);
	looker_insn(c, word, BPF_REG_7, BPF_REG_7, LOOKER_META_SEQ, 0);
	for (int at = LOOKER_PID_AT; at < 0; at += 8)
		looker_insn(c, BPF_ST | BPF_MEM | BPF_DW, BPF_REG_10, 0, at, 0);
	looker_insn(c, BPF_STX | BPF_MEM | BPF_DW, BPF_REG_10, BPF_REG_6,
		    LOOKER_AT + (int)offsetof(struct proc_thread_look, task), 0);
	looker_read_at(c, LOOKER_PID_AT, 8, BPF_REG_6, p->thread_pid);
	looker_insn(c, word, BPF_REG_8, BPF_REG_10, LOOKER_PID_AT, 0);
	looker_read_at(c, LOOKER_AT + (int)offsetof(struct proc_thread_look, level), 4, BPF_REG_8, p->level);
	looker_read_at(c, LOOKER_AT + (int)offsetof(struct proc_thread_look, tid), 4, BPF_REG_8,
		       (int64_t)p->numbers + (int64_t)level * LOOKER_UPID_BYTES);
	for (size_t i = 0; i < ARRAY_SIZE(looker_fields); i++)
		if (p->field[i] >= 0)
			looker_read_at(c, LOOKER_AT + looker_fields[i].at, looker_fields[i].bytes, BPF_REG_6,
				       p->field[i]);
	looker_move(c, BPF_REG_1, BPF_REG_7, 0);
	looker_move(c, BPF_REG_2, BPF_REG_10, LOOKER_AT);
	looker_insn(c, BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_3, 0, 0, sizeof(struct proc_thread_look));
	looker_insn(c, BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_seq_write);
	c->insns[skip].off = (int16_t)(c->n - skip - 1);
	looker_insn(c, BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 0);
	looker_insn(c, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

static int looker_load(const struct looker_places *p, uint32_t level)
{
	struct looker_code c = {.n = 0};
	looker_build(&c, p, level);
	union bpf_attr attr = {
		.prog_type = BPF_PROG_TYPE_TRACING,
		.expected_attach_type = BPF_TRACE_ITER,
		.insns = (uintptr_t)c.insns,
		.insn_cnt = c.n,
		.license = (uintptr_t) "Dual MIT/GPL",
		.attach_btf_id = p->function,
	};
	return sys_bpf(BPF_PROG_LOAD, &attr);
}

/* An open iterator over the threads of a process. */
static int looker_open(int program, pid_t pid)
{
	struct kern_bpf_iter_task of = {.pid = (uint32_t)pid};
	union bpf_attr link = {.link_create = {.prog_fd = (uint32_t)program,
					       .attach_type = BPF_TRACE_ITER,
					       .iter_info = (uintptr_t)&of,
					       .iter_info_len = sizeof(of)}};
	_cleanup_close_ int fd = sys_bpf(BPF_LINK_CREATE, &link);
	if (fd < 0)
		return fd;
	union bpf_attr iter = {.iter_create = {.link_fd = (uint32_t)fd}};
	return sys_bpf(BPF_ITER_CREATE, &iter);
}

static int compare_looks(const void *a, const void *b)
{
	const struct proc_thread_look *x = a, *y = b;
	return (x->tid > y->tid) - (x->tid < y->tid);
}

/* Threads in PID namespaces above ours, which a kernel without a filter tells of too, have no number here. */
static int looker_add(struct proc_looker *l, const char *bytes, size_t n)
{
	for (size_t at = 0; at + sizeof(*l->looks.v) <= n; at += sizeof(*l->looks.v)) {
		struct proc_thread_look look, *slot;
		memcpy(&look, bytes + at, sizeof(look));
		/* The list of children is its own neighbour when there are none. */
		if (look.children == look.task + l->children_at)
			look.children = 0;
		slot = look.level >= l->level ? vec_push(&l->looks) : &look;
		if (!slot)
			return -ENOMEM;
		*slot = look;
	}
	return n % sizeof(*l->looks.v) ? -EPROTO : 0;
}

static int looker_look(struct proc_looker *l, int program, pid_t pid)
{
	l->looks.n = 0;
	l->pid = pid;
	_cleanup_close_ int fd = looker_open(program, pid);
	_cleanup_free_ char *chunk = malloc(LOOKER_CHUNK);
	int r = fd < 0 ? fd : chunk ? 0 : -ENOMEM;
	for (ssize_t n = 1; n > 0 && r >= 0;) {
		n = read(fd, chunk, LOOKER_CHUNK);
		r = n < 0 ? -errno : looker_add(l, chunk, (size_t)n);
	}
	if (r >= 0 && l->looks.n > 1)
		qsort(l->looks.v, l->looks.n, sizeof(*l->looks.v), compare_looks);
	if (r < 0)
		l->looks.n = 0;
	return r;
}

/* Ferry itself lives at the level whose numbers it knows. */
static int looker_find_level(struct proc_looker *l, const struct looker_places *p)
{
	_cleanup_close_ int program = looker_load(p, 0);
	int r = program < 0 ? program : looker_look(l, program, getpid());
	if (r >= 0 && !l->looks.n)
		r = -EPROTO;
	if (r >= 0)
		l->level = l->looks.v[0].level;
	return r;
}

static int looker_get_ready(struct proc_looker *l)
{
	struct looker_places places;
	int r = looker_places(l->root, &places);
	if (r >= 0)
		l->children_at = (uint32_t)places.field[LOOKER_CHILDREN];
	if (r >= 0)
		r = looker_find_level(l, &places);
	if (r >= 0)
		r = l->program = looker_load(&places, l->level);
	/* What it tells of ferry has to be so. */
	if (r >= 0)
		r = looker_look(l, l->program, getpid());
	if (r >= 0 && !proc_looker_find(l, getpid(), (pid_t)syscall(SYS_gettid)))
		r = -EPROTO;
	if (r < 0 && l->program >= 0)
		close(l->program);
	if (r < 0)
		l->program = -1;
	return r;
}

/* --------------------------------------------------------------------- use */

struct proc_looker *proc_looker_new(void)
{
	struct proc_looker *l = calloc(1, sizeof(*l));
	if (l)
		*l = (struct proc_looker){.root = AT_FDCWD, .program = -1};
	return l;
}

void proc_looker_look_below(struct proc_looker *l, int root)
{
	l->root = root;
}

void proc_looker_free(struct proc_looker *l)
{
	if (!l)
		return;
	if (l->program >= 0)
		close(l->program);
	vec_release(&l->looks);
	free(l);
}

int proc_looker_read(struct proc_looker *l, pid_t pid, size_t n_threads)
{
	if (!l)
		return -EOPNOTSUPP;
	l->looks.n = 0;
	if (n_threads < LOOKER_THREADS)
		return -EOPNOTSUPP;
	if (!l->tried && looker_get_ready(l) < 0)
		l->program = -1;
	l->tried = true;
	return l->program < 0 ? -EOPNOTSUPP : looker_look(l, l->program, pid);
}

const struct proc_thread_look *proc_looker_find(const struct proc_looker *l, pid_t pid, pid_t tid)
{
	const struct proc_thread_look wanted = {.tid = (uint32_t)tid};
	return l && l->looks.n && l->pid == pid
		       ? bsearch(&wanted, l->looks.v, l->looks.n, sizeof(wanted), compare_looks)
		       : NULL;
}

void proc_looker_keep_parents(const struct proc_looker *l, pid_t pid, struct proc_pid_list *tids)
{
	size_t kept = 0;
	for (size_t i = 0; i < tids->v.n; i++) {
		const struct proc_thread_look *look = proc_looker_find(l, pid, tids->v.v[i]);
		if (!look || look->children)
			tids->v.v[kept++] = tids->v.v[i];
	}
	tids->v.n = kept;
}
