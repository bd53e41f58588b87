/* SPDX-License-Identifier: Apache-2.0 */
/* A copy of this kernel's vdso, called as the vdso of another kernel would be: by its entries alone, all else of it spoilt. */
#include "unit.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "host/vdso_bridge.h"

enum { HEAD_BYTES = 0x200 };

struct copy {
	struct vdso now;
	unsigned char *code; /* executable once it is bridged */
	size_t bytes;
};

static struct copy copy_make(void)
{
	struct copy c;
	assert_int_equal(vdso_find(&c.now, NULL), 0);
	c.bytes = c.now.code_bytes;
	c.code = mmap(NULL, c.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(c.code, MAP_FAILED);
	memcpy(c.code, c.now.image, c.bytes);
	return c;
}

static Elf64_Shdr *copy_sections(const struct copy *c, size_t *ret_n)
{
	Elf64_Ehdr *head = (Elf64_Ehdr *)c->code;
	*ret_n = head->e_shnum;
	return (Elf64_Shdr *)(c->code + head->e_shoff);
}

/* The section of a type; for SHT_PROGBITS the one that is executed. */
static Elf64_Shdr *copy_section(const struct copy *c, uint32_t type)
{
	size_t n;
	Elf64_Shdr *s = copy_sections(c, &n);
	for (size_t i = 0; i < n; i++)
		if (s[i].sh_type == type && (type != SHT_PROGBITS || s[i].sh_flags & SHF_EXECINSTR))
			return &s[i];
	fail();
	return NULL;
}

/* Every symbol that has this name, with or without the prefix, is called something else. */
static void copy_rename(const struct copy *c, const char *name, const char *other)
{
	const Elf64_Shdr *symbols = copy_section(c, SHT_DYNSYM);
	size_t n_sections, renamed = 0;
	char *names = (char *)c->code + copy_sections(c, &n_sections)[symbols->sh_link].sh_offset;
	const Elf64_Sym *symbol = (const Elf64_Sym *)(c->code + symbols->sh_offset);
	assert_int_equal(strlen(name), strlen(other));
	for (size_t i = 0; i < symbols->sh_size / sizeof(*symbol); i++) {
		char *at = names + symbol[i].st_name,
		     *tail = strlen(at) > 7 && !strncmp(at, "__vdso_", 7) ? at + 7 : at;
		if (strcmp(tail, name) != 0)
			continue;
		memcpy(tail, other, strlen(other));
		renamed++;
	}
	assert_true(renamed > 0);
}

static void *copy_find(const struct copy *c, const char *name)
{
	const Elf64_Shdr *symbols = copy_section(c, SHT_DYNSYM);
	size_t n_sections;
	const char *names = (const char *)c->code + copy_sections(c, &n_sections)[symbols->sh_link].sh_offset;
	const Elf64_Sym *symbol = (const Elf64_Sym *)(c->code + symbols->sh_offset);
	for (size_t i = 0; i < symbols->sh_size / sizeof(*symbol); i++)
		if (!strcmp(names + symbol[i].st_name, name))
			return c->code + symbol[i].st_value;
	fail();
	return NULL;
}

/* All code but what the bridge writes is an illegal instruction. */
static void copy_bridge(const struct copy *c)
{
	struct vdso_bridge b;
	const Elf64_Shdr *text = copy_section(c, SHT_PROGBITS);
	assert_int_equal(vdso_bridge(c->code, c->bytes, &c->now, c->now.code, &b, NULL), 0);
	assert_true(b.n >= 4);
	for (size_t i = 0; i + 2 <= text->sh_size; i += 2)
		memcpy(c->code + text->sh_offset + i, "\x0f\x0b", 2);
	for (size_t i = 0; i < b.n; i++)
		memcpy(c->code + b.v[i].offset, b.v[i].words, b.v[i].n_words * sizeof(*b.v[i].words));
	assert_int_equal(mprotect(c->code, c->bytes, PROT_READ | PROT_EXEC), 0);
}

static void copy_release(const struct copy *c)
{
	munmap(c->code, c->bytes);
}

static int64_t ns(const struct timespec *t)
{
	return (int64_t)t->tv_sec * 1000000000 + t->tv_nsec;
}

static void clock_is_right(const struct copy *c)
{
	int (*get)(clockid_t, struct timespec *) = copy_find(c, "__vdso_clock_gettime");
	struct timespec before, now, after;
	syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &before);
	assert_int_equal(get(CLOCK_MONOTONIC, &now), 0);
	syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &after);
	assert_true(ns(&before) <= ns(&now) && ns(&now) <= ns(&after));
	assert_int_equal(get(12345, &now), -EINVAL);
}

static void entries_lead_to_the_kernels(void **state unused)
{
	struct copy c = copy_make();
	copy_bridge(&c);
	clock_is_right(&c);
	int (*day)(struct timeval *, void *) = copy_find(&c, "__vdso_gettimeofday");
	time_t (*seconds)(time_t *) = copy_find(&c, "time");
	long (*cpu)(unsigned *, unsigned *, void *) = copy_find(&c, "__vdso_getcpu");
	struct timeval t;
	unsigned number = 9999;
	assert_int_equal(day(&t, NULL), 0);
	assert_true(labs(t.tv_sec - time(NULL)) <= 1);
	assert_true(labs(seconds(NULL) - time(NULL)) <= 1);
	assert_int_equal(cpu(&number, NULL, NULL), 0);
	assert_true(number < 4096);
	copy_release(&c);
}

/* Its state has the layout that the old kernel told. */
static void random_makes_the_call(void **state unused)
{
	struct copy c = copy_make();
	unsigned char a[32] = {0}, b[32] = {0}, parameters[64];
	copy_bridge(&c);
	ssize_t (*random)(void *, size_t, unsigned, void *, size_t) = copy_find(&c, "__vdso_getrandom");
	memset(parameters, 0x5a, sizeof(parameters));
	assert_int_equal(random(a, sizeof(a), 0, parameters, sizeof(parameters)), sizeof(a));
	assert_int_equal(random(b, sizeof(b), 0, parameters, sizeof(parameters)), sizeof(b));
	assert_memory_not_equal(a, b, sizeof(a));
	for (size_t i = 0; i < sizeof(parameters); i++)
		assert_int_equal(parameters[i], 0x5a);
	assert_int_equal(random(NULL, 0, 0, parameters, ~0ul), -ENOSYS);
	copy_release(&c);
}

/* Under a kernel that lacks one, the call is made; what nobody knows is not there. */
static void functions_that_the_kernel_lacks(void **state unused)
{
	struct copy c = copy_make(), other = copy_make();
	copy_rename(&other, "clock_gettime", "block_gettime");
	other.now.image = other.code;
	c.now.image = other.code;
	copy_bridge(&c);
	clock_is_right(&c);
	copy_release(&c);

	c = copy_make();
	copy_rename(&c, "getcpu", "getgnu");
	copy_bridge(&c);
	long (*nothing)(void) = copy_find(&c, "__vdso_getgnu");
	assert_int_equal(nothing(), -ENOSYS);
	clock_is_right(&c);
	copy_release(&c);
	copy_release(&other);
}

static void too_short_is_refused(void **state unused)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct copy c = copy_make();
	struct vdso_bridge b;
	const Elf64_Shdr *symbols = copy_section(&c, SHT_DYNSYM);
	Elf64_Sym *symbol = (Elf64_Sym *)(c.code + symbols->sh_offset);
	for (size_t i = 0; i < symbols->sh_size / sizeof(*symbol); i++)
		if (ELF64_ST_TYPE(symbol[i].st_info) == STT_FUNC) {
			symbol[i].st_value += 8;
			symbol[i].st_size = 8;
		}
	assert_int_equal(vdso_bridge(c.code, c.bytes, &c.now, c.now.code, &b, &err), -ENOTSUP);
	assert_int_equal(err.id, FERRY_ERROR_IMAGE_UNSUPPORTED);
	copy_release(&c);
}

/* Bytes of an image are whatever somebody wrote: never beyond them, and no patch beyond them either. */
static void hostile_bytes(void **state unused)
{
	struct copy c = copy_make();
	unsigned seed = 1;
	int refused = 0;
	for (int round = 0; round < 20000; round++) {
		struct vdso_bridge b;
		size_t n = round % 3 ? c.bytes : (size_t)rand_r(&seed) % c.bytes;
		unsigned char *copy = malloc(n + 1);
		assert_non_null(copy);
		memcpy(copy, c.code, n);
		for (int i = 0; i < 4 && n; i++) {
			Elf64_Ehdr *head = (Elf64_Ehdr *)copy;
			size_t tables = n > HEAD_BYTES ? (size_t)rand_r(&seed) % 2 * (head->e_shoff % n) : 0;
			copy[(tables + (size_t)rand_r(&seed) % 1024) % n] = (unsigned char)rand_r(&seed);
		}
		int r = vdso_bridge(copy, n, &c.now, c.now.code, &b, NULL);
		refused += r < 0;
		for (size_t i = 0; r >= 0 && i < b.n; i++)
			assert_true(b.v[i].offset + b.v[i].n_words * sizeof(*b.v[i].words) <= n);
		free(copy);
	}
	assert_true(refused > 1000);
	copy_release(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(entries_lead_to_the_kernels),
		cmocka_unit_test(random_makes_the_call),
		cmocka_unit_test(functions_that_the_kernel_lacks),
		cmocka_unit_test(too_short_is_refused),
		cmocka_unit_test(hostile_bytes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
