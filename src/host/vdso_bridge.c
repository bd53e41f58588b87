/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns leading calls of a vdso of another kernel to this kernel's: for each function that the old one exports the instructions to
 * put in its place. They jump to the function of the same name; where there is none, or where caller and kernel share state whose
 * layout may differ (getrandom), they make the system call that the function stands for, or say that there is no such call.
 *
 * Kernel interface: vdso(7): names and meanings of its functions, -errno as results.
 *
 * Does not handle: a call that is under way, out of which a dump lets a thread walk (inject/settle.c), or that a signal handler interrupted.
 */
#include "host/vdso_bridge.h"

#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/error.h"

#define BRIDGE_PREFIX "__vdso_"

enum {
	BRIDGE_ALIGN = 16, /* functions begin at such addresses; what lies between is padding */
	BRIDGE_CODE_BYTES = VDSO_PATCH_WORDS * sizeof(uint64_t),
	BRIDGE_JUMP_AT = 2,
	BRIDGE_CALL_AT = 1,
	BRIDGE_RANDOM_AT = 7,
};

/* movabs $target, %r11; jmp *%r11: no argument is passed in r11, and every call may change it. */
static const unsigned char bridge_jump[] = {0x49, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0, 0x41, 0xff, 0xe3};

/* mov $nr, %eax; syscall; ret: up to three arguments are where a system call has them. */
static const unsigned char bridge_call[] = {0xb8, 0, 0, 0, 0, 0x0f, 0x05, 0xc3};

/*
 * The same for getrandom(buffer, n, flags, state, state_bytes); asked with -1 for the layout of its state it is not there:
 * cmp $-1, %r8; je 1f; mov $nr, %eax; syscall; ret; 1: mov $-ENOSYS, %rax; ret.
 */
static const unsigned char bridge_random[] = {0x49, 0x83, 0xf8, 0xff, 0x74, 0x08, 0xb8, 0,
					      0,    0,    0,    0x0f, 0x05, 0xc3, 0x48, 0xc7,
					      0xc0, 0xda, 0xff, 0xff, 0xff, 0xc3};

/* mov $-ENOSYS, %rax; ret */
static const unsigned char bridge_missing[] = {0x48, 0xc7, 0xc0, 0xda, 0xff, 0xff, 0xff, 0xc3};

static const struct {
	const char *name;
	uint32_t nr;
} bridge_calls[] = {
	{"clock_gettime", SYS_clock_gettime},
	{"gettimeofday", SYS_gettimeofday},
	{"time", SYS_time},
	{"clock_getres", SYS_clock_getres},
	{"getcpu", SYS_getcpu},
};

/* An ELF image's table of dynamic symbols. */
struct bridge_elf {
	const unsigned char *bytes;
	size_t n;
	uint64_t symbols, n_symbols;
	uint64_t names, names_bytes;
};

struct bridge_function {
	const char *name; /* without the prefix */
	uint64_t at, bytes;
};

static bool bridge_inside(const struct bridge_elf *e, uint64_t at, uint64_t bytes)
{
	return at <= e->n && bytes <= e->n - at;
}

static bool bridge_section(const struct bridge_elf *e, uint64_t table, uint64_t index, Elf64_Shdr *ret)
{
	uint64_t at = table + index * sizeof(*ret);
	if (!bridge_inside(e, at, sizeof(*ret)))
		return false;
	memcpy(ret, e->bytes + at, sizeof(*ret));
	return bridge_inside(e, ret->sh_offset, ret->sh_type == SHT_NOBITS ? 0 : ret->sh_size);
}

static bool bridge_open(const unsigned char *bytes, size_t n, struct bridge_elf *ret)
{
	struct bridge_elf e = {.bytes = bytes, .n = n};
	Elf64_Ehdr head;
	Elf64_Shdr section, names;
	if (!vdso_elf_bytes(bytes, n) || vdso_is_32(bytes, n))
		return false;
	memcpy(&head, bytes, sizeof(head));
	for (unsigned i = 0; head.e_shentsize == sizeof(section) && head.e_shoff < n && i < head.e_shnum;
	     i++) {
		if (!bridge_section(&e, head.e_shoff, i, &section) || section.sh_type != SHT_DYNSYM)
			continue;
		if (section.sh_link >= head.e_shnum ||
		    !bridge_section(&e, head.e_shoff, section.sh_link, &names) || names.sh_type != SHT_STRTAB)
			return false;
		e.symbols = section.sh_offset;
		e.n_symbols = section.sh_size / sizeof(Elf64_Sym);
		e.names = names.sh_offset;
		e.names_bytes = names.sh_size;
		*ret = e;
		return true;
	}
	return false;
}

/* 1, 0: symbol i is no function, -EBADMSG. */
static int bridge_function(const struct bridge_elf *e, uint64_t i, struct bridge_function *ret)
{
	Elf64_Sym symbol;
	memcpy(&symbol, e->bytes + e->symbols + i * sizeof(symbol), sizeof(symbol));
	if (ELF64_ST_TYPE(symbol.st_info) != STT_FUNC || symbol.st_shndx == SHN_UNDEF)
		return 0;
	if (symbol.st_name >= e->names_bytes || !bridge_inside(e, symbol.st_value, symbol.st_size))
		return -EBADMSG;
	const char *name = (const char *)e->bytes + e->names + symbol.st_name;
	if (!memchr(name, 0, e->names_bytes - symbol.st_name))
		return -EBADMSG;
	if (!strncmp(name, BRIDGE_PREFIX, sizeof(BRIDGE_PREFIX) - 1))
		name += sizeof(BRIDGE_PREFIX) - 1;
	*ret = (struct bridge_function){name, symbol.st_value, symbol.st_size};
	return 1;
}

static uint64_t bridge_find(const struct bridge_elf *e, const char *name)
{
	struct bridge_function f;
	for (uint64_t i = 0; i < e->n_symbols; i++)
		if (bridge_function(e, i, &f) > 0 && !strcmp(f.name, name))
			return f.at;
	return 0;
}

static uint32_t bridge_number(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(bridge_calls); i++)
		if (!strcmp(bridge_calls[i].name, name))
			return bridge_calls[i].nr;
	return 0;
}

/* The instructions for a function: target is the address of this kernel's, 0 = it has none. Returns their length. */
static size_t bridge_write(const char *name, uint64_t target, unsigned char code[BRIDGE_CODE_BYTES])
{
	uint32_t nr = bridge_number(name), random = SYS_getrandom;
	if (!strcmp(name, "getrandom")) {
		memcpy(code, bridge_random, sizeof(bridge_random));
		memcpy(code + BRIDGE_RANDOM_AT, &random, sizeof(random));
		return sizeof(bridge_random);
	}
	if (target) {
		memcpy(code, bridge_jump, sizeof(bridge_jump));
		memcpy(code + BRIDGE_JUMP_AT, &target, sizeof(target));
		return sizeof(bridge_jump);
	}
	if (nr) {
		memcpy(code, bridge_call, sizeof(bridge_call));
		memcpy(code + BRIDGE_CALL_AT, &nr, sizeof(nr));
		return sizeof(bridge_call);
	}
	memcpy(code, bridge_missing, sizeof(bridge_missing));
	return sizeof(bridge_missing);
}

/* Whole words are stored. What they reach beyond the instructions stays as it is, and is nobody else's. */
static bool bridge_patch(const struct bridge_elf *old, const struct bridge_function *f, uint64_t target,
			 struct vdso_patch *ret)
{
	unsigned char code[BRIDGE_CODE_BYTES];
	uint64_t room = align_up(f->at + f->bytes, BRIDGE_ALIGN) - f->at;
	size_t n = bridge_write(f->name, target, code);
	size_t n_words = (n + sizeof(*ret->words) - 1) / sizeof(*ret->words);
	if (n_words * sizeof(*ret->words) > room || !bridge_inside(old, f->at, n_words * sizeof(*ret->words)))
		return false;
	*ret = (struct vdso_patch){.offset = f->at, .n_words = n_words};
	memcpy(ret->words, old->bytes + f->at, n_words * sizeof(*ret->words));
	memcpy(ret->words, code, n);
	return true;
}

static bool bridge_has(const struct vdso_bridge *b, uint64_t offset)
{
	for (size_t i = 0; i < b->n; i++)
		if (b->v[i].offset == offset)
			return true;
	return false;
}

int vdso_bridge(const unsigned char *old, size_t n, const struct vdso *now, uint64_t code,
		struct vdso_bridge *ret, struct ferry_error *err)
{
	struct bridge_elf from, to;
	struct bridge_function f;
	struct vdso_bridge b = {0};
	int r = bridge_open(old, n, &from) ? 0 : -EBADMSG;
	if (!bridge_open(now->image, now->code_bytes, &to))
		return error_set(err, FERRY_ERROR_KERNEL_FEATURE, ENOTSUP,
				 "this kernel's vdso has no table of functions");
	for (uint64_t i = 0; r >= 0 && i < from.n_symbols; i++) {
		r = bridge_function(&from, i, &f);
		if (r <= 0 || bridge_has(&b, f.at))
			continue;
		uint64_t there = bridge_find(&to, f.name);
		if (b.n == VDSO_PATCHES)
			r = -EBADMSG;
		else if (!bridge_patch(&from, &f, there ? code + there : 0, &b.v[b.n++]))
			return error_set(
				err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
				"the vdso in the image is of another kernel, and its function %s is too short "
				"to be replaced",
				f.name);
	}
	if (r < 0)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "the vdso in the image makes no sense");
	*ret = b;
	return 0;
}
