/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns cpuinfo.img: what the processor of an image could do, and comparing that with this machine's. A program that found an instruction
 * when it started goes on to use it.
 *
 * Does not handle: what a program was told by other ways than CPUID; that a program uses less than the processor had.
 */
#include "host/cpu.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/strbuf.h"
#include "image/file.h"
#include "image/proto/cpuinfo.pb-c.h"
#include "kernel/cpu.h"

enum { CPU_LAYOUT = 2, CPU_SSE_STATE = 1 << 1 };

#define CPU_FILE "cpuinfo.img"

static const struct cpu_instruction {
	unsigned word, bit;
	const char *name;
} cpu_instructions[] = {
#define CPU_INSTRUCTION(word, bit, name) {word, bit, name},
#include "host/cpu_instructions.def"
#undef CPU_INSTRUCTION
};

/* By bit of XCR0. */
static const char *const cpu_states[] = {"x87",
					 "sse",
					 "avx",
					 "bndregs",
					 "bndcsr",
					 "avx512-opmask",
					 "avx512-hi256",
					 "avx512-hi16",
					 "pt",
					 "pkru",
					 [17] = "amx-tilecfg",
					 [18] = "amx-tiledata"};

static const struct cpu_word {
	const char *word;
	unsigned caps;
} cpu_caps_words[] = {
	{"fpu", CPU_STATE}, {"ins", CPU_INSTRUCTIONS}, {"cpu", CPU_SAME}, {"all", CPU_ALL}, {"none", 0},
};

static int cpu_caps_add(const char *text, size_t n, unsigned *caps, struct ferry_error *err)
{
	bool away = n && text[0] == '^';
	for (size_t i = 0; i < ARRAY_SIZE(cpu_caps_words); i++) {
		const struct cpu_word *w = &cpu_caps_words[i];
		if (strlen(w->word) != n - away || strncmp(text + away, w->word, n - away) != 0)
			continue;
		if (away)
			*caps &= ~w->caps;
		else
			*caps = w->caps ? *caps | w->caps : 0;
		return 0;
	}
	return error_set(err, FERRY_ERROR_USAGE, EINVAL, "invalid argument for --cpu-cap: %.*s", (int)n,
			 text);
}

int cpu_caps_parse(const char *text, unsigned *ret_caps, struct ferry_error *err)
{
	unsigned caps = text ? CPU_USUAL : 0;
	int r = 0;
	for (const char *at = text && *text ? text : NULL; at && r >= 0; at = *at ? at + 1 : NULL) {
		size_t n = strcspn(at, ",");
		r = cpu_caps_add(at, n, &caps, err);
		at += n;
	}
	if (r >= 0)
		*ret_caps = caps;
	return r;
}

/* --------------------------------------------------------------------- writing */

/* The entry and what it points to: it stays where it is. */
struct cpu_described {
	struct kern_cpu cpu;
	CpuinfoX86Entry x86, *list[1];
	CpuinfoEntry entry;
};

static void cpu_describe(struct cpu_described *d)
{
	struct kern_cpu *cpu = &d->cpu;
	CpuinfoX86Entry *x86 = &d->x86;
	kern_cpu_read(cpu);
	cpuinfo_x86_entry__init(x86);
	x86->vendor_id = !strcmp(cpu->vendor, "GenuineIntel")   ? CPUINFO_X86_ENTRY__VENDOR__INTEL
			 : !strcmp(cpu->vendor, "AuthenticAMD") ? CPUINFO_X86_ENTRY__VENDOR__AMD
								: CPUINFO_X86_ENTRY__VENDOR__UNKNOWN;
	x86->cpu_family = cpu->family;
	x86->model = cpu->model;
	x86->stepping = cpu->stepping;
	x86->capability_ver = CPU_LAYOUT;
	x86->capability = cpu->words;
	x86->n_capability = KERN_CPU_WORDS;
	x86->model_id = cpu->name;
	/* As CRIU writes it: SSE is told by the words. */
	x86->has_xfeatures_mask = x86->has_xsave_size = x86->has_xsave_size_max = true;
	x86->xfeatures_mask = cpu->xfeatures & ~(uint64_t)CPU_SSE_STATE;
	x86->xsave_size = cpu->xsave_bytes;
	x86->xsave_size_max = cpu->xsave_bytes_max;
	d->list[0] = x86;
	cpuinfo_entry__init(&d->entry);
	d->entry.x86_entry = d->list;
	d->entry.n_x86_entry = ARRAY_SIZE(d->list);
}

int cpu_dump(struct image_dir *dir, struct ferry_error *err)
{
	struct cpu_described d;
	cpu_describe(&d);
	return image_put_one(dir, IMAGE_CPUINFO, 0, &d.entry.base, err);
}

int cpu_dump_alone(const char *path, struct ferry_error *err)
{
	struct cpu_described d;
	struct image_writer *w = NULL;
	_cleanup_close_ int dir = fd_open(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
	int fd = dir < 0 ? dir : fd_open(dir, CPU_FILE, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_USAGE, -fd, "'%s/" CPU_FILE "'", path);
	cpu_describe(&d);
	int r = image_create_fd(fd, CPU_FILE, IMAGE_CPUINFO, &w, err);
	if (r >= 0)
		r = image_put(w, &d.entry.base, err);
	int closed = image_close(w, r < 0 ? NULL : err);
	return r < 0 ? r : closed;
}

/* ------------------------------------------------------------------- comparing */

static void cpu_name(struct strbuf *list, const char *name)
{
	strbuf_addf(list, "%s%s", strbuf_str(list)[0] ? ", " : "", name);
}

/* The bits of a word that they have and we lack; same: and those that we have and they lack. */
static uint32_t cpu_bits(const uint32_t *theirs, const uint32_t *ours, size_t word, bool same)
{
	return same ? theirs[word] ^ ours[word] : theirs[word] & ~ours[word];
}

static void cpu_compare(const uint32_t *theirs, const uint32_t *ours, bool same, struct strbuf *ret)
{
	uint32_t named[KERN_CPU_WORDS] = {0};
	for (size_t i = 0; i < ARRAY_SIZE(cpu_instructions); i++) {
		const struct cpu_instruction *in = &cpu_instructions[i];
		named[in->word] |= 1u << in->bit;
		if (cpu_bits(theirs, ours, in->word, same) >> in->bit & 1)
			cpu_name(ret, in->name);
	}
	for (size_t i = 0; same && i < KERN_CPU_WORDS; i++)
		for (uint32_t rest = cpu_bits(theirs, ours, i, same) & ~named[i]; rest; rest &= rest - 1) {
			char text[32];
			snprintf(text, sizeof(text), "bit %d of word %zu", __builtin_ctz(rest), i);
			cpu_name(ret, text);
		}
}

static int cpu_refuse(const char *what, const struct strbuf *list, struct ferry_error *err)
{
	error_set(err, FERRY_ERROR_CPU_FEATURE, ENOTSUP, "%s: %s", what, strbuf_str(list));
	error_hint(err, "restore on a processor that has them, or with --cpu-cap=none if the programs of the "
			"image make no use of them");
	return -ENOTSUP;
}

static int cpu_check_state(const CpuinfoX86Entry *x86, const struct kern_cpu *cpu, struct ferry_error *err)
{
	_cleanup_strbuf_ struct strbuf list = {0};
	uint64_t missing = x86->xfeatures_mask & ~cpu->xfeatures;
	for (; missing; missing &= missing - 1) {
		unsigned bit = (unsigned)__builtin_ctzll(missing);
		char text[16];
		snprintf(text, sizeof(text), "bit %u", bit);
		cpu_name(&list, bit < ARRAY_SIZE(cpu_states) && cpu_states[bit] ? cpu_states[bit] : text);
	}
	if (strbuf_str(&list)[0])
		return cpu_refuse("the image's processor has floating point state that this one lacks", &list,
				  err);
	if (x86->xsave_size <= cpu->xsave_bytes)
		return 0;
	strbuf_addf(&list, "%u bytes, and %u here", x86->xsave_size, cpu->xsave_bytes);
	return cpu_refuse("the floating point state of the image's processor is larger", &list, err);
}

static int cpu_check_x86(const CpuinfoX86Entry *x86, unsigned caps, struct ferry_error *err)
{
	_cleanup_strbuf_ struct strbuf missing = {0}, others = {0};
	struct kern_cpu cpu;
	kern_cpu_read(&cpu);
	if (x86->capability_ver != CPU_LAYOUT || x86->n_capability != KERN_CPU_WORDS)
		return error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
				 CPU_FILE
				 ": what the processor can do is told in a way (%u) that ferry does not know",
				 x86->capability_ver);
	int r = caps & CPU_STATE ? cpu_check_state(x86, &cpu, err) : 0;
	if (r >= 0 && caps & CPU_INSTRUCTIONS)
		cpu_compare(x86->capability, cpu.words, false, &missing);
	if (r >= 0 && strbuf_str(&missing)[0])
		r = cpu_refuse("the image's processor has instructions that this one lacks", &missing, err);
	if (r >= 0 && caps & CPU_SAME)
		cpu_compare(x86->capability, cpu.words, true, &others);
	if (r >= 0 && strbuf_str(&others)[0])
		r = cpu_refuse("the image's processor differs from this one", &others, err);
	return r;
}

static int cpu_check_file(struct image_reader *in, unsigned caps, struct ferry_error *err)
{
	CpuinfoEntry *entry = NULL;
	int r = image_need(in, &cpuinfo_entry__descriptor, &entry, err);
	if (r < 0)
		return r;
	if (entry->n_x86_entry)
		r = cpu_check_x86(entry->x86_entry[0], caps, err);
	else
		r = error_set(err, FERRY_ERROR_CPU_FEATURE, ENOEXEC,
			      "the image was made on a processor of another architecture");
	image_message_free(entry);
	return r < 0 ? r : 0;
}

static int cpu_missing(struct ferry_error *err)
{
	error_set(err, FERRY_ERROR_IMAGE_MISSING, ENOENT,
		  "the image says nothing of its processor (no " CPU_FILE ")");
	error_hint(err, "dump with --cpu-cap, or restore without");
	return -ENOENT;
}

int cpu_check(struct image_dir *dir, unsigned caps, struct ferry_error *err)
{
	struct image_reader *in = NULL;
	int r = caps ? image_open_optional(dir, IMAGE_CPUINFO, 0, &in, err) : 0;
	if (!caps || r < 0)
		return r;
	r = in ? cpu_check_file(in, caps, err) : cpu_missing(err);
	image_reader_free(in);
	return r;
}

int cpu_check_alone(const char *path, unsigned caps, struct ferry_error *err)
{
	struct image_reader *in = NULL;
	_cleanup_close_ int dir = fd_open(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
	if (dir < 0)
		return error_errno(err, FERRY_ERROR_USAGE, -dir, "images directory '%s'", path);
	int fd = fd_open(dir, CPU_FILE, O_RDONLY, 0);
	if (fd == -ENOENT)
		return cpu_missing(err);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -fd, "opening '%s/" CPU_FILE "'", path);
	int r = image_open_fd(fd, CPU_FILE, IMAGE_CPUINFO, &in, err);
	if (r >= 0)
		r = cpu_check_file(in, caps, err);
	image_reader_free(in);
	return r;
}
