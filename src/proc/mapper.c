/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns reading mappings with their flags without smaps, whose text takes a walk over all page tables: 25 ms a GiB of small pages, and
 * several times what a small process takes otherwise. A BPF iterator tells start, end and vm_flags of each mapping; names and files come
 * from PROCMAP_QUERY or maps, and what the flags mean from examples: mappings of ferry's own of every kind that it can make, looked at in
 * both ways. Nobody else changes those, so that what is learned is certain; the task itself is no example, since it may change between
 * two looks. Flags that no example has, and two looks that do not fit, lead back to smaps.
 *
 * Kernel interface: bpf(2), iterator task_vma (5.12) for one task (6.1), CONFIG_DEBUG_INFO_BTF, CAP_BPF with CAP_PERFMON or
 * CAP_SYS_ADMIN. BPF programs that look into the kernel have to be under a licence compatible with the GPL, hence the string.
 */
#include "proc/mapper.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/bpf.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "kernel/caps.h"
#include "kernel/syscalls.h"
#include "kernel/uapi.h"
#include "proc/btf.h"
#include "proc/read.h"
#include "proc/vma_words.h"

enum {
	MAPPER_TRIES = 3,
	MAPPER_CHUNK = 1365 * 48, /* bytes of whole records, more than the kernel gives in one go */
	MAPPER_LOOKS_MAX = 1 << 22,
};

/* What the iterator tells of a mapping. */
struct mapper_look {
	uint64_t start, end, raw;
	uint64_t anon, root,
		children; /* its anon_vma; the root of that; how many have one below it, itself if it is the root */
};

_Static_assert(MAPPER_CHUNK % sizeof(struct mapper_look) == 0, "no record is cut");

typedef VEC(struct mapper_look) mapper_looks;

struct proc_mapper {
	const struct kern_caps *caps;
	int program;
	struct vma_words words;
	_Atomic uint64_t count;
};

/* ------------------------------------------------------------- the iterator */

/* The kernel's struct bpf_iter__task_vma. */
enum { MAPPER_CTX_META = 0, MAPPER_CTX_VMA = 16, MAPPER_META_SEQ = 0 };

struct mapper_places {
	uint32_t function;
	struct btf_field start, end, flags;
	struct btf_field anon, root, children;
	bool tells_alone; /* the last three are there */
};

static int mapper_find(const struct btf *b, struct mapper_places *ret)
{
	int id = btf_function(b, "bpf_iter_task_vma");
	int r = id < 0 ? id : btf_field(b, "vm_area_struct", "vm_start", &ret->start);
	if (r >= 0)
		r = btf_field(b, "vm_area_struct", "vm_end", &ret->end);
	if (r >= 0)
		r = btf_field(b, "vm_area_struct", "vm_flags", &ret->flags);
	/* More than 64 of them would be told by a field beside this one. */
	if (r >= 0 && ret->flags.around != sizeof(uint64_t))
		r = -EOPNOTSUPP;
	/* Not needed. */
	ret->tells_alone = btf_field(b, "vm_area_struct", "anon_vma", &ret->anon) >= 0 &&
			   btf_field(b, "anon_vma", "root", &ret->root) >= 0 &&
			   btf_field(b, "anon_vma", "num_children", &ret->children) >= 0;
	ret->function = (uint32_t)id;
	return r;
}

static int mapper_places(int root, struct mapper_places *ret)
{
	struct btf_kernel kernel;
	int r = btf_of_kernel(root, &kernel);
	if (r < 0)
		return r;
	r = mapper_find(&kernel.btf, ret);
	btf_kernel_release(&kernel);
	return r;
}

#define MAPPER_LOAD(to, from, at)                                                                            \
	{                                                                                                    \
		.code = BPF_LDX | BPF_MEM | BPF_DW, .dst_reg = (to), .src_reg = (from), .off = (int16_t)(at) \
	}
#define MAPPER_STORE(field, from)                                                                  \
	{                                                                                          \
		.code = BPF_STX | BPF_MEM | BPF_DW, .dst_reg = BPF_REG_10, .src_reg = (from),      \
		.off = (int16_t)(offsetof(struct mapper_look, field) - sizeof(struct mapper_look)) \
	}
#define MAPPER_MOVE(to, from)                                                           \
	{                                                                               \
		.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = (to), .src_reg = (from) \
	}
#define MAPPER_SET(to, value)                                                        \
	{                                                                            \
		.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = (to), .imm = (value) \
	}

/* Places in the program. */
enum { MAPPER_LOADS_ANON = 10, MAPPER_LOADS_ROOT = 12, MAPPER_LOADS_CHILDREN = 14 };

/* For each mapping a struct mapper_look; the end of a task, which comes without one, is nothing. */
static int mapper_load(const struct mapper_places *p)
{
	struct bpf_insn program[] = {
		MAPPER_LOAD(BPF_REG_6, BPF_REG_1, MAPPER_CTX_VMA),
		MAPPER_LOAD(BPF_REG_1, BPF_REG_1, MAPPER_CTX_META),
		{.code = BPF_JMP | BPF_JEQ | BPF_K, .dst_reg = BPF_REG_6, .off = 17},
		MAPPER_LOAD(BPF_REG_1, BPF_REG_1, MAPPER_META_SEQ),
		MAPPER_LOAD(BPF_REG_2, BPF_REG_6, p->start.offset),
		MAPPER_STORE(start, BPF_REG_2),
		MAPPER_LOAD(BPF_REG_2, BPF_REG_6, p->end.offset),
		MAPPER_STORE(end, BPF_REG_2),
		MAPPER_LOAD(BPF_REG_2, BPF_REG_6, p->flags.offset),
		MAPPER_STORE(raw, BPF_REG_2),
		/* Who reads through a pointer that is none reads 0. */
		[MAPPER_LOADS_ANON] = MAPPER_LOAD(BPF_REG_3, BPF_REG_6, p->anon.offset),
		MAPPER_STORE(anon, BPF_REG_3),
		[MAPPER_LOADS_ROOT] = MAPPER_LOAD(BPF_REG_2, BPF_REG_3, p->root.offset),
		MAPPER_STORE(root, BPF_REG_2),
		[MAPPER_LOADS_CHILDREN] = MAPPER_LOAD(BPF_REG_2, BPF_REG_3, p->children.offset),
		MAPPER_STORE(children, BPF_REG_2),
		MAPPER_MOVE(BPF_REG_2, BPF_REG_10),
		{.code = BPF_ALU64 | BPF_ADD | BPF_K,
		 .dst_reg = BPF_REG_2,
		 .imm = -(int32_t)sizeof(struct mapper_look)},
		MAPPER_SET(BPF_REG_3, sizeof(struct mapper_look)),
		{.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_seq_write},
		MAPPER_SET(BPF_REG_0, 0),
		{.code = BPF_JMP | BPF_EXIT},
	};
	static const struct bpf_insn not_alone[] = {
		[MAPPER_LOADS_ANON] = MAPPER_SET(BPF_REG_3, 1),
		[MAPPER_LOADS_ROOT] = MAPPER_SET(BPF_REG_2, 0),
		[MAPPER_LOADS_CHILDREN] = MAPPER_SET(BPF_REG_2, 0),
	};
	for (size_t i = MAPPER_LOADS_ANON; i <= MAPPER_LOADS_CHILDREN && !p->tells_alone; i += 2)
		program[i] = not_alone[i];
	union bpf_attr attr = {
		.prog_type = BPF_PROG_TYPE_TRACING,
		.expected_attach_type = BPF_TRACE_ITER,
		.insns = (uintptr_t)program,
		.insn_cnt = ARRAY_SIZE(program),
		.license = (uintptr_t) "Dual MIT/GPL",
		.attach_btf_id = p->function,
	};
	return sys_bpf(BPF_PROG_LOAD, &attr);
}

/* An iterator over the mappings of a task. */
static int mapper_link(const struct proc_mapper *m, const struct kern_bpf_iter_task *of)
{
	union bpf_attr link = {.link_create = {.prog_fd = (uint32_t)m->program,
					       .attach_type = BPF_TRACE_ITER,
					       .iter_info = (uintptr_t)of,
					       .iter_info_len = sizeof(*of)}};
	return sys_bpf(BPF_LINK_CREATE, &link);
}

/* Before 6.1 nobody can ask for one task, and asking for its thread alone would tell of all. To ask for both is wrong later. */
static bool mapper_has_filter(const struct proc_mapper *m)
{
	const struct kern_bpf_iter_task both = {.tid = (uint32_t)getpid(), .pid = (uint32_t)getpid()};
	_cleanup_close_ int fd = mapper_link(m, &both);
	return fd == -EINVAL;
}

static int mapper_open(const struct proc_mapper *m, pid_t look)
{
	const struct kern_bpf_iter_task of = {.tid = (uint32_t)look};
	_cleanup_close_ int fd = mapper_link(m, &of);
	if (fd < 0)
		return fd;
	union bpf_attr iter = {.iter_create = {.link_fd = (uint32_t)fd}};
	return sys_bpf(BPF_ITER_CREATE, &iter);
}

/* Room for a chunk. */
static int mapper_room(mapper_looks *looks)
{
	size_t wanted = looks->n + MAPPER_CHUNK / sizeof(struct mapper_look);
	if (wanted <= looks->cap)
		return 0;
	size_t room = MAX(wanted, looks->cap * 2);
	struct mapper_look *more =
		wanted > MAPPER_LOOKS_MAX ? NULL : reallocarray(looks->v, room, sizeof(*more));
	if (!more)
		return -ENOMEM;
	looks->v = more;
	looks->cap = room;
	return 0;
}

/* The kernel gives what fits into a buffer of its own, and behind the end of many mappings may give the last ones again. */
static int mapper_read_all(int fd, mapper_looks *looks)
{
	for (looks->n = 0;;) {
		int r = mapper_room(looks);
		if (r < 0)
			return r;
		const struct mapper_look *before = looks->n ? &looks->v[looks->n - 1] : NULL;
		struct mapper_look *next = looks->v + looks->n;
		ssize_t n = read(fd, next, MAPPER_CHUNK);
		if (n < 0 || n % (ssize_t)sizeof(*next))
			return n < 0 ? -errno : -EPROTO;
		if (!n || (before && next->start < before->end))
			return 0;
		looks->n += (size_t)n / sizeof(*next);
	}
}

static int mapper_look(const struct proc_mapper *m, pid_t look, mapper_looks *looks)
{
	_cleanup_close_ int fd = mapper_open(m, look);
	int r = fd < 0 ? fd : mapper_read_all(fd, looks);
	if (r < 0)
		return r;
	for (size_t i = 1; i < looks->n; i++)
		if (looks->v[i].start < looks->v[i - 1].end)
			return -EPROTO;
	return 0;
}

/* ---------------------------------------------------------------- examples */

enum { MAPPER_PAGE = 4096, MAPPER_HUGE = 2 << 20, MAPPER_NO_ADVICE = -1 };

/* Mappings of every kind that can be made for nothing; what a kernel does not have no task has either. */
static const struct mapper_sample {
	int prot, flags, advice;
	bool own; /* of ferry's program */
} mapper_samples[] = {
#define SAMPLE(p, f, a)                                                  \
	{                                                                \
		.prot = (p), .flags = MAP_ANONYMOUS | (f), .advice = (a) \
	}
#define ADVISED(a) SAMPLE(PROT_READ | PROT_WRITE, MAP_PRIVATE, a)
	SAMPLE(PROT_NONE, MAP_PRIVATE, MAPPER_NO_ADVICE),
	SAMPLE(PROT_READ, MAP_PRIVATE, MAPPER_NO_ADVICE),
	SAMPLE(PROT_WRITE, MAP_PRIVATE, MAPPER_NO_ADVICE),
	SAMPLE(PROT_EXEC, MAP_PRIVATE, MAPPER_NO_ADVICE),
	SAMPLE(PROT_READ | PROT_WRITE, MAP_PRIVATE, MAPPER_NO_ADVICE),
	SAMPLE(PROT_READ | PROT_WRITE, MAP_SHARED, MAPPER_NO_ADVICE),
	SAMPLE(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, MAPPER_NO_ADVICE),
	SAMPLE(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_GROWSDOWN, MAPPER_NO_ADVICE),
	SAMPLE(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE | MAP_HUGETLB, MAPPER_NO_ADVICE),
	SAMPLE(PROT_READ | PROT_WRITE, MAP_DROPPABLE, MAPPER_NO_ADVICE),
	ADVISED(MADV_SEQUENTIAL),
	ADVISED(MADV_RANDOM),
	ADVISED(MADV_DONTFORK),
	ADVISED(MADV_DONTDUMP),
	ADVISED(MADV_WIPEONFORK),
	ADVISED(MADV_HUGEPAGE),
	ADVISED(MADV_NOHUGEPAGE),
	ADVISED(MADV_MERGEABLE),
	ADVISED(MADV_GUARD_INSTALL),
	{.prot = PROT_READ, .flags = MAP_SHARED, .advice = MAPPER_NO_ADVICE, .own = true},
#undef ADVISED
#undef SAMPLE
};

enum { MAPPER_LOCKED, MAPPER_LOCKED_ON_FAULT, MAPPER_WATCHED_WP, MAPPER_WATCHED_MISSING, MAPPER_FURTHER };

struct mapper_examples {
	struct {
		void *at;
		size_t bytes;
	} v[ARRAY_SIZE(mapper_samples) + MAPPER_FURTHER];
	size_t n;
	int uffd;
};

static void *mapper_map(struct mapper_examples *e, int prot, int flags, int fd)
{
	size_t bytes = flags & MAP_HUGETLB ? MAPPER_HUGE : MAPPER_PAGE;
	void *at = mmap(NULL, bytes, prot, flags, fd, 0);
	if (at == MAP_FAILED)
		return NULL;
	e->v[e->n].at = at;
	e->v[e->n++].bytes = bytes;
	return at;
}

/* Neighbours with the same flags become one mapping, which is an example as well. */
static void mapper_make_samples(struct mapper_examples *e)
{
	_cleanup_close_ int own = fd_open(AT_FDCWD, "/proc/self/exe", O_RDONLY, 0);
	for (size_t i = 0; i < ARRAY_SIZE(mapper_samples); i++) {
		const struct mapper_sample *s = &mapper_samples[i];
		void *at = mapper_map(e, s->prot, s->flags, s->own ? own : -1);
		/* What is not given is no example of it. */
		if (at && s->advice != MAPPER_NO_ADVICE && madvise(at, MAPPER_PAGE, s->advice) < 0)
			continue;
	}
}

static void mapper_make_further(struct mapper_examples *e)
{
	static const uint64_t modes[MAPPER_FURTHER] = {
		[MAPPER_WATCHED_WP] = UFFDIO_REGISTER_MODE_WP,
		[MAPPER_WATCHED_MISSING] = UFFDIO_REGISTER_MODE_MISSING,
	};
	struct uffdio_api api = {.api = UFFD_API};
	e->uffd = sys_userfaultfd(O_CLOEXEC | UFFD_USER_MODE_ONLY);
	bool watches = e->uffd >= 0 && ioctl(e->uffd, UFFDIO_API, &api) == 0;
	for (int i = 0; i < MAPPER_FURTHER; i++) {
		void *at = mapper_map(e, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
		struct uffdio_register reg = {.range = {(uintptr_t)at, MAPPER_PAGE}, .mode = modes[i]};
		int r = 0;
		if (at && i == MAPPER_LOCKED)
			r = mlock(at, MAPPER_PAGE);
		else if (at && i == MAPPER_LOCKED_ON_FAULT)
			r = mlock2(at, MAPPER_PAGE, MLOCK_ONFAULT);
		else if (at && watches)
			r = ioctl(e->uffd, UFFDIO_REGISTER, &reg);
		/* As above. */
		(void)r;
	}
}

static void mapper_drop(struct mapper_examples *e)
{
	for (size_t i = 0; i < e->n; i++)
		munmap(e->v[i].at, e->v[i].bytes);
	if (e->uffd >= 0)
		close(e->uffd);
}

/* Mappings of ours that both looks have. */
static int mapper_learn_from(struct proc_mapper *m, const mapper_looks *looks, const struct proc_maps *maps)
{
	struct vma_example *examples = calloc(maps->vmas.n, sizeof(*examples));
	size_t n = 0, at = 0;
	if (!examples)
		return -ENOMEM;
	vec_foreach(vma, &maps->vmas) {
		while (at < looks->n && looks->v[at].start < vma->start)
			at++;
		if (at < looks->n && looks->v[at].start == vma->start && looks->v[at].end == vma->end &&
		    vma->has_flags)
			examples[n++] = (struct vma_example){looks->v[at].raw, vma->vm_flags};
	}
	int r = n ? vma_words_learn(&m->words, examples, n) : -EOPNOTSUPP;
	free(examples);
	return r;
}

static int mapper_learn(struct proc_mapper *m)
{
	_cleanup_proc_maps_ struct proc_maps maps = {0};
	struct mapper_examples examples = {.uffd = -1};
	mapper_looks looks = {0};
	_cleanup_close_ int self = proc_open_self(NULL);
	mapper_make_samples(&examples);
	mapper_make_further(&examples);
	int r = self < 0 ? self : mapper_look(m, getpid(), &looks);
	/* What reading itself maps comes behind the look, and is in no way as it was seen there. */
	if (r >= 0)
		r = proc_read_smaps(self, &maps, NULL);
	mapper_drop(&examples);
	if (r >= 0)
		r = mapper_learn_from(m, &looks, &maps);
	vec_release(&looks);
	return r;
}

int proc_mapper_new(const struct kern_caps *caps, int root, struct proc_mapper **ret)
{
	struct mapper_places places;
	struct proc_mapper *m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	*m = (struct proc_mapper){.caps = caps, .program = -1};
	union bpf_attr nothing = {.prog_type = BPF_PROG_TYPE_TRACING};
	/* Who may not load programs need not look for places. */
	int r = sys_bpf(BPF_PROG_LOAD, &nothing) == -EPERM ? -EPERM : mapper_places(root, &places);
	if (r >= 0)
		r = m->program = mapper_load(&places);
	if (r >= 0)
		r = mapper_has_filter(m) ? mapper_learn(m) : -EOPNOTSUPP;
	if (r < 0) {
		proc_mapper_free(m);
		return r;
	}
	*ret = m;
	return 0;
}

void proc_mapper_free(struct proc_mapper *m)
{
	if (!m)
		return;
	if (m->program >= 0)
		close(m->program);
	free(m);
}

/* ----------------------------------------------------------------- reading */

/* Protection shows in both looks: who changes it between them is looked at again. */
static bool mapper_fits(const struct proc_vma *vma, uint64_t words)
{
	static const struct {
		uint64_t word;
		int prot;
	} prots[] = {{PROC_VM(READ), PROT_READ}, {PROC_VM(WRITE), PROT_WRITE}, {PROC_VM(EXEC), PROT_EXEC}};
	for (size_t i = 0; i < ARRAY_SIZE(prots); i++)
		if (!(words & prots[i].word) != !(vma->prot & prots[i].prot))
			return false;
	return !(words & PROC_VM(MAYSHARE)) == !vma->shared;
}

/*
 * Whether nobody else can have pages of it: it has none of its own, or the lists of those who might have them, which forks make, name
 * nobody else (mm/rmap.c), and equal pages are not made one. An error would cost memory and nothing else.
 */
static bool mapper_is_alone(const struct mapper_look *look, uint64_t words)
{
	return !look->anon ||
	       (look->root == look->anon && look->children <= 1 && !(words & PROC_VM(MERGEABLE)));
}

/* 1: everything is known; 0: something is not; -EAGAIN: the two looks do not fit. */
static int mapper_join(const struct proc_mapper *m, const mapper_looks *looks, struct proc_maps *maps)
{
	if (maps->vmas.n != looks->n)
		return -EAGAIN;
	for (size_t i = 0; i < maps->vmas.n; i++) {
		struct proc_vma *vma = &maps->vmas.v[i];
		const struct mapper_look *look = &looks->v[i];
		uint64_t words;
		if (vma->start != look->start || vma->end != look->end)
			return -EAGAIN;
		if (!vma_words_tell(&m->words, look->raw, &words))
			return 0;
		if (!mapper_fits(vma, words))
			return -EAGAIN;
		/* Before 6.11 only smaps tells the size of huge pages. */
		if (!vma->page_shift && words & PROC_VM(HUGETLB))
			return 0;
		if (!vma->page_shift)
			vma->page_shift = __builtin_ctz(MAPPER_PAGE);
		vma->vm_flags = words;
		vma->has_flags = 1;
		vma->common_bytes = !vma->shared && mapper_is_alone(look, words) ? 0 : PROC_COMMON_UNKNOWN;
	}
	return 1;
}

/* 1: *ret_maps is filled; else smaps has to tell. */
static int mapper_try(const struct proc_mapper *m, int dirfd, pid_t look, struct proc_maps *ret_maps)
{
	struct proc_maps maps = {0};
	mapper_looks looks = {0};
	if (proc_read_maps(dirfd, m->caps, &maps, NULL) < 0)
		return 0;
	int r = mapper_look(m, look, &looks);
	if (r >= 0)
		r = mapper_join(m, &looks, &maps);
	vec_release(&looks);
	if (r == 1)
		*ret_maps = maps;
	else
		proc_maps_release(&maps);
	return r;
}

int proc_mapper_read(struct proc_mapper *m, int dirfd, pid_t look, struct proc_maps *ret_maps,
		     struct ferry_error *err)
{
	int r = m ? -EAGAIN : 0;
	for (int tries = 0; tries < MAPPER_TRIES && r == -EAGAIN; tries++)
		r = mapper_try(m, dirfd, look, ret_maps);
	if (r != 1)
		return proc_read_smaps(dirfd, ret_maps, err);
	m->count++;
	return 0;
}

uint64_t proc_mapper_count(const struct proc_mapper *m)
{
	return m->count;
}
