/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What bits of vm_flags mean, by examples; where the kernel's fields lie, by BTF; and mappings of children read in both ways.
 */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/btf.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kernel/caps.h"
#include "kernel/uapi.h"
#include "proc/btf.h"
#include "proc/mapper.h"
#include "proc/read.h"
#include "proc/vma_words.h"

#define W(name) PROC_VM(name)

/* ------------------------------------------------------------------ words */

static void words_told(unused void **state)
{
	/* 1 read, 2 write, 4 locked, 8 and 16 device memory, 32 nothing that shows */
	const struct vma_example examples[] = {
		{0x21, W(READ)},
		{0x23, W(READ) | W(WRITE)},
		{0x27, W(READ) | W(WRITE) | W(LOCKED)},
		{0x19, W(READ) | W(IO) | W(PFNMAP)},
		{0x00, 0},
		{0x20, 0},
	};
	struct vma_words w;
	uint64_t told;
	assert_int_equal(vma_words_learn(&w, examples, ARRAY_SIZE(examples)), 0);
	assert_true(vma_words_tell(&w, 0x06, &told));
	assert_int_equal(told, W(WRITE) | W(LOCKED));
	assert_true(vma_words_tell(&w, 0x3c, &told));
	assert_int_equal(told, W(LOCKED) | W(IO) | W(PFNMAP));
	assert_true(vma_words_tell(&w, 0x20, &told));
	assert_int_equal(told, 0);
	/* One of two that were seen together only, and one that was never seen. */
	assert_false(vma_words_tell(&w, 0x09, &told));
	assert_false(vma_words_tell(&w, 0x41, &told));
}

static void words_of_others(unused void **state)
{
	/* A word that this ferry does not know may stand for anything. */
	const struct vma_example examples[] = {
		{0x1, W(READ)},
		{0x3, W(READ) | 1ULL << PROC_VMFLAG_OTHER},
		{0x0, 0},
	};
	struct vma_words w;
	uint64_t told;
	assert_int_equal(vma_words_learn(&w, examples, ARRAY_SIZE(examples)), 0);
	assert_true(vma_words_tell(&w, 0x1, &told));
	assert_false(vma_words_tell(&w, 0x3, &told));
	assert_false(vma_words_tell(&w, 0x2, &told));
}

static void words_wrong(unused void **state)
{
	const struct vma_example same[] = {{0x1, W(READ)}, {0x1, W(WRITE)}};
	const struct vma_example more[] = {{0x1, W(READ) | W(WRITE)}, {0x0, 0}};
	const struct vma_example without[] = {{0x1, W(READ) | W(WRITE)}, {0x1, W(READ)}, {0x0, 0}};
	struct vma_words w;
	assert_int_equal(vma_words_learn(&w, same, ARRAY_SIZE(same)), -EPROTO);
	assert_int_equal(vma_words_learn(&w, more, ARRAY_SIZE(more)), -EPROTO);
	assert_int_equal(vma_words_learn(&w, without, ARRAY_SIZE(without)), -EPROTO);
}

/* Whatever the kernel's numbers are, and whatever examples there are, what is told is true. */
static void words_random(unused void **state)
{
	unsigned told_n = 0;
	srand(1);
	for (int round = 0; round < 300; round++) {
		uint64_t word_of[64] = {0}; /* by bit */
		int words = 0;
		for (int bit = 0; bit < 40; bit++)
			if (rand() % 4 && words < PROC_VMFLAG_COUNT)
				word_of[bit] = 1ULL << words++;
		struct vma_example examples[100];
		size_t n = 1 + (size_t)rand() % ARRAY_SIZE(examples);
		for (size_t i = 0; i < n + 50; i++) {
			struct vma_example e = {0};
			for (int bit = 0; bit < 40; bit++)
				if (!(rand() % 3)) {
					e.raw |= 1ULL << bit;
					e.words |= word_of[bit];
				}
			static struct vma_words w;
			uint64_t told;
			if (i < n)
				examples[i] = e;
			if (i == n)
				assert_int_equal(vma_words_learn(&w, examples, n), 0);
			if (i >= n && vma_words_tell(&w, e.raw, &told)) {
				assert_int_equal(told, e.words);
				told_n++;
			}
		}
	}
	assert_true(told_n > 5000);
}

/* -------------------------------------------------------------------- BTF */

/* int 64 bits; struct inner { long a, b; }; struct outer { union { struct inner; long whole; } (unnamed); long c; int d; }; f() */
struct sample {
	struct btf_header head;
	struct {
		struct btf_type type;
		uint32_t encoding;
	} number;
	struct {
		struct btf_type type;
		uint32_t encoding;
	} small;
	struct {
		struct btf_type type;
		struct btf_member a, b;
	} inner;
	struct {
		struct btf_type type;
		struct btf_member inner, whole;
	} both;
	struct {
		struct btf_type type;
		struct btf_member both, c, d;
	} outer;
	struct btf_type proto, function;
	char strings[48];
};

enum { S_LONG = 1, S_A = 6, S_B = 8, S_WHOLE = 10, S_OUTER = 16, S_C = 22, S_D = 24, S_F = 26 };

static struct sample sample_make(void)
{
	struct sample s = {
		.head = {.magic = BTF_MAGIC,
			 .version = BTF_VERSION,
			 .hdr_len = sizeof(s.head),
			 .type_len = offsetof(struct sample, strings) - sizeof(s.head),
			 .str_off = offsetof(struct sample, strings) - sizeof(s.head),
			 .str_len = sizeof(s.strings)},
		.number = {.type = {S_LONG, BTF_KIND_INT << 24, {8}}, 64},
		.small = {.type = {0, BTF_KIND_INT << 24, {4}}, 32},
		.inner = {.type = {0, BTF_KIND_STRUCT << 24 | 2, {16}}, {S_A, 1, 0}, {S_B, 1, 64}},
		.both = {.type = {0, BTF_KIND_UNION << 24 | 2, {16}}, {0, 3, 0}, {S_WHOLE, 1, 0}},
		.outer = {.type = {S_OUTER, BTF_KIND_STRUCT << 24 | 3, {32}},
			  {0, 4, 64},
			  {S_C, 1, 0},
			  {S_D, 2, 192}},
		.proto = {0, BTF_KIND_FUNC_PROTO << 24, {0}},
		.function = {S_F, BTF_KIND_FUNC << 24, {6}},
	};
	memcpy(s.strings, "\0long\0a\0b\0whole\0outer\0c\0d\0f", 28);
	return s;
}

static void btf_told(unused void **state)
{
	struct sample s = sample_make();
	struct btf b;
	struct btf_field f;
	assert_int_equal(btf_parse(&s, sizeof(s), &b), 0);
	assert_int_equal(btf_function(&b, "f"), 7);
	assert_int_equal(btf_function(&b, "outer"), -ENOENT);
	assert_int_equal(btf_field(&b, "outer", "b", &f), 0);
	assert_true(f.offset == 16 && f.around == 16);
	assert_int_equal(btf_field(&b, "outer", "whole", &f), 0);
	assert_true(f.offset == 8 && f.around == 16);
	assert_int_equal(btf_field(&b, "outer", "c", &f), 0);
	assert_true(f.offset == 0 && f.around == 8);
	assert_int_equal(btf_field(&b, "outer", "d", &f), -ENOENT);
	assert_int_equal(btf_field(&b, "inner", "a", &f), -ENOENT);
	assert_int_equal(btf_field(&b, "outer", "uter", &f), -ENOENT);
	btf_release(&b);
}

/* Cut anywhere, or with any byte changed, it is refused or looked through without a fault. */
static void btf_broken(unused void **state)
{
	const struct sample s = sample_make();
	struct btf b;
	struct btf_field f;
	for (size_t n = 0; n < sizeof(s); n++) {
		char *cut = malloc(n + 1);
		memcpy(cut, &s, n);
		assert_int_equal(btf_parse(cut, n, &b), -EBADMSG);
		free(cut);
	}
	for (size_t at = 0; at < sizeof(s) * 256; at++) {
		struct sample *bad = malloc(sizeof(s));
		*bad = s;
		((unsigned char *)bad)[at / 256] = (unsigned char)at;
		if (btf_parse(bad, sizeof(*bad), &b) == 0) {
			(void)!btf_function(&b, "f");
			(void)!btf_field(&b, "outer", "b", &f);
			btf_release(&b);
		}
		free(bad);
	}
}

/* ------------------------------------------------------------------- live */

enum { PAGE = 4096 };

static char *map(int prot, int flags)
{
	return mmap(NULL, PAGE, prot, flags, flags & MAP_ANONYMOUS ? -1 : open("/proc/self/exe", O_RDONLY),
		    0);
}

/* Everything for which the mapper has an example, and its own program besides. */
static void known_kinds(void)
{
	static const int advices[] = {MADV_SEQUENTIAL, MADV_RANDOM,   MADV_DONTFORK,  MADV_DONTDUMP,
				      MADV_WIPEONFORK, MADV_HUGEPAGE, MADV_NOHUGEPAGE};
	for (size_t i = 0; i < ARRAY_SIZE(advices); i++)
		madvise(map(PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS), PAGE, advices[i]);
	char *several = map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
	madvise(several, PAGE, MADV_DONTFORK);
	madvise(several, PAGE, MADV_DONTDUMP);
	madvise(several, PAGE, MADV_RANDOM);
	mlock(several, PAGE);
	map(PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS);
	map(PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS);
	map(PROT_READ, MAP_SHARED);
	map(PROT_READ | PROT_WRITE, MAP_PRIVATE);
	map(PROT_READ | PROT_EXEC, MAP_PRIVATE);
	map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN);
}

/* The mapper cannot make one of these: it could not be undone. */
static void unknown_kind(void)
{
	char *at = map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
	if (syscall(SYS_mseal, at, PAGE, 0) < 0)
		_exit(77);
}

struct child {
	pid_t pid;
	int dir, go[2], ready[2];
};

/* A child that does something, and something else when it is told to. */
static struct child child_start(void (*first)(void), void (*then)(void))
{
	struct child c;
	char byte;
	assert_int_equal(pipe2(c.go, O_CLOEXEC), 0);
	assert_int_equal(pipe2(c.ready, O_CLOEXEC), 0);
	c.pid = fork();
	if (!c.pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		first();
		(void)!write(c.ready[1], "x", 1);
		(void)!read(c.go[0], &byte, 1);
		then();
		(void)!write(c.ready[1], "x", 1);
		for (;;)
			pause();
	}
	close(c.ready[1]);
	assert_int_equal(read(c.ready[0], &byte, 1), 1);
	c.dir = proc_open(c.pid, NULL);
	assert_true(c.dir >= 0);
	return c;
}

/* False: it could not. */
static bool child_go(struct child *c)
{
	char byte;
	assert_int_equal(write(c->go[1], "x", 1), 1);
	return read(c->ready[0], &byte, 1) == 1;
}

static void child_end(struct child *c)
{
	kill(c->pid, SIGKILL);
	assert_int_equal(waitpid(c->pid, NULL, 0), c->pid);
	close(c->dir);
	close(c->go[0]);
	close(c->go[1]);
	close(c->ready[0]);
}

static struct proc_mapper *mapper_or_skip(struct kern_caps *caps)
{
	struct proc_mapper *m = NULL;
	kern_caps_init(caps);
	int r = proc_mapper_new(caps, AT_FDCWD, &m);
	if (r < 0) {
		print_message("no iterator over mappings: %s\n", strerror(-r));
		skip();
	}
	return m;
}

static void assert_same(const struct proc_maps *a, const struct proc_maps *b)
{
	assert_int_equal(a->vmas.n, b->vmas.n);
	for (size_t i = 0; i < a->vmas.n; i++) {
		struct proc_vma x = a->vmas.v[i], y = b->vmas.v[i];
		assert_string_equal(proc_vma_name(a, &x), proc_vma_name(b, &y));
		assert_int_equal(x.vm_flags, y.vm_flags);
		/* Others may have some of it only if that is not denied. */
		if (!x.shared && y.common_bytes && x.kind <= PROC_VMA_STACK)
			assert_true(x.common_bytes);
		/* The rest of the bytes, without what the mapper does not tell. */
		x.common_bytes = y.common_bytes = 0;
		x.swapped = y.swapped = 0;
		x.name = y.name = 0;
		assert_memory_equal(&x, &y, sizeof(x));
	}
}

/* Both ways tell the same. Returns whether the first was one of its own. */
static bool looks_same(struct proc_mapper *m, const struct child *c)
{
	_cleanup_proc_maps_ struct proc_maps a = {0}, b = {0};
	uint64_t count = proc_mapper_count(m);
	assert_int_equal(proc_mapper_read(m, c->dir, c->pid, &a, NULL), 0);
	assert_int_equal(proc_read_smaps(c->dir, &b, NULL), 0);
	assert_same(&a, &b);
	return proc_mapper_count(m) > count;
}

static void nothing(void)
{
}

static void live_known(unused void **state)
{
	struct kern_caps caps;
	struct proc_mapper *m = mapper_or_skip(&caps);
	struct child c = child_start(nothing, known_kinds);
	assert_true(looks_same(m, &c));
	assert_true(child_go(&c));
	assert_true(looks_same(m, &c));
	/* Without the ioctl names come from the text. */
	caps.keeps = NULL;
	caps.state[KERN_CAP_PROCMAP_QUERY] = KERN_ABSENT;
	assert_true(looks_same(m, &c));
	child_end(&c);
	proc_mapper_free(m);
}

static void live_unknown(unused void **state)
{
	struct kern_caps caps;
	struct proc_mapper *m = mapper_or_skip(&caps);
	struct child c = child_start(known_kinds, unknown_kind);
	assert_true(looks_same(m, &c));
	if (child_go(&c))
		assert_false(looks_same(m, &c));
	child_end(&c);
	proc_mapper_free(m);
}

/* More than the kernel tells in one go. */
static void many(void)
{
	for (int i = 0; i < 5000; i++)
		map(i % 2 ? PROT_READ : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS);
}

static void live_many(unused void **state)
{
	struct kern_caps caps;
	struct proc_mapper *m = mapper_or_skip(&caps);
	struct child c = child_start(many, many);
	assert_true(looks_same(m, &c));
	assert_true(child_go(&c));
	assert_true(looks_same(m, &c));
	child_end(&c);
	proc_mapper_free(m);
}

static void fork_one(void)
{
	pid_t parent = getpid();
	if (!fork()) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (getppid() == parent)
			pause();
		_exit(0);
	}
}

static void own_program(void)
{
	execl("/proc/self/exe", "test_mapper", "pause", NULL);
}

/* Who has pages in common with others, and who has none of his own in common. */
static void live_alone(unused void **state)
{
	struct kern_caps caps;
	_cleanup_proc_maps_ struct proc_maps maps = {0}, of_exec = {0};
	struct proc_mapper *m = mapper_or_skip(&caps);
	struct child c = child_start(known_kinds, fork_one);
	size_t common = 0, alone = 0;
	assert_true(child_go(&c));
	assert_true(looks_same(m, &c));
	assert_int_equal(proc_mapper_read(m, c.dir, c.pid, &maps, NULL), 0);
	vec_foreach(vma, &maps.vmas)
		common += vma->kind == PROC_VMA_STACK && vma->common_bytes == PROC_COMMON_UNKNOWN;
	assert_int_equal(common, 1);
	child_end(&c);
	c = child_start(nothing, own_program);
	assert_int_equal(write(c.go[1], "x", 1), 1);
	/* Its stack is its own from when it executes a program on; the pipe closes then. */
	char byte;
	assert_int_equal(read(c.ready[0], &byte, 1), 0);
	assert_int_equal(proc_mapper_read(m, c.dir, c.pid, &of_exec, NULL), 0);
	vec_foreach(vma, &of_exec.vmas)
		alone += vma->kind == PROC_VMA_STACK && !vma->common_bytes;
	assert_int_equal(alone, 1);
	child_end(&c);
	proc_mapper_free(m);
}

/* Nobody there, and no mapper. */
static void live_none(unused void **state)
{
	struct kern_caps caps;
	_cleanup_proc_maps_ struct proc_maps maps = {0};
	struct proc_mapper *m = mapper_or_skip(&caps);
	struct child c = child_start(nothing, nothing);
	kill(c.pid, SIGKILL);
	waitpid(c.pid, NULL, 0);
	assert_int_equal(proc_mapper_read(m, c.dir, c.pid, &maps, NULL), -ESRCH);
	close(c.dir);
	c = child_start(nothing, nothing);
	assert_int_equal(proc_mapper_read(NULL, c.dir, c.pid, &maps, NULL), 0);
	assert_true(maps.vmas.n && maps.vmas.v[0].has_flags);
	assert_true(maps.vmas.v[0].common_bytes != PROC_COMMON_UNKNOWN);
	child_end(&c);
	proc_mapper_free(m);
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "pause"))
		for (;;)
			pause();
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(words_told),  cmocka_unit_test(words_of_others),
		cmocka_unit_test(words_wrong), cmocka_unit_test(words_random),
		cmocka_unit_test(btf_told),    cmocka_unit_test(btf_broken),
		cmocka_unit_test(live_known),  cmocka_unit_test(live_unknown),
		cmocka_unit_test(live_none),   cmocka_unit_test(live_alone),
		cmocka_unit_test(live_many),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
