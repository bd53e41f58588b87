/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns finding room for the landing pad in a target: executable memory that nothing executes.
 *
 * First choice is the end of the vdso: behind its ELF image the last page is zero. It is the process's own
 * copy, in the page cache of no file. Otherwise the zero padding that ends the last page of an executable
 * file mapping (a private copy of that page is made by the write). A pad that a dead ferry left counts as
 * zero.
 *
 * Kernel interface: /proc/PID/auxv (AT_SYSINFO_EHDR), /proc/PID/maps, /proc/PID/mem.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "inject/internal.h"

#define PAGE 4096u
#define VDSO_MAX (1u << 20)
#define VECTOR_MAX 64
#define LOW_START 0x10000ull  /* vm.mmap_min_addr is not above it */
#define LOW_END 0xc0000000ull /* what a 32-bit program can have under any personality */

/*
 * Whether the program is one of 32 bits, as its auxiliary vector says, whose words are then of 32 bits: a type has never
 * more, whereas two such words read as one do. And the address of its vdso, or -ENOENT.
 */
static int vdso_address(struct ferry_inject *inject, uint64_t *ret)
{
	union {
		uint64_t wide[VECTOR_MAX * 2];
		uint32_t narrow[VECTOR_MAX * 4];
	} vector;
	_cleanup_close_ int fd = fd_openf(O_RDONLY, "/proc/%d/auxv", inject->tid);
	if (fd < 0)
		return fd;
	ssize_t got = read(fd, &vector, sizeof(vector));
	if (got < 0)
		return -errno;
	size_t n = (size_t)got / sizeof(uint64_t);
	for (size_t i = 0; i < n && vector.wide[i]; i += 2)
		inject->low = inject->low || vector.wide[i] > UINT32_MAX;
	for (size_t i = 0; i + 1 < (inject->low ? 2 * n : n); i += 2) {
		uint64_t type = inject->low ? vector.narrow[i] : vector.wide[i];
		if (type == AT_NULL)
			break;
		if (type == AT_SYSINFO_EHDR) {
			*ret = inject->low ? vector.narrow[i + 1] : vector.wide[i + 1];
			return 0;
		}
	}
	return -ENOENT;
}

/* What both widths of ELF say alike. */
struct elf_head {
	bool narrow;
	uint64_t segments_at, segment_bytes, sections_at, section_bytes;
	unsigned n_segments, n_sections;
};

static int elf_read_head(int mem_fd, uint64_t address, struct elf_head *ret)
{
	union {
		Elf64_Ehdr wide;
		Elf32_Ehdr narrow;
	} h;

	int r = fd_pread_all(mem_fd, &h, sizeof(h), address);
	if (r < 0)
		return r;
	if (memcmp(h.wide.e_ident, ELFMAG, SELFMAG) != 0)
		return -ENOEXEC;
	if (h.wide.e_ident[EI_CLASS] == ELFCLASS64)
		*ret = (struct elf_head){false,          h.wide.e_phoff,     h.wide.e_phentsize,
					 h.wide.e_shoff, h.wide.e_shentsize, h.wide.e_phnum,
					 h.wide.e_shnum};
	else
		*ret = (struct elf_head){true,
					 h.narrow.e_phoff,
					 h.narrow.e_phentsize,
					 h.narrow.e_shoff,
					 h.narrow.e_shentsize,
					 h.narrow.e_phnum,
					 h.narrow.e_shnum};
	return ret->segment_bytes != (ret->narrow ? sizeof(Elf32_Phdr) : sizeof(Elf64_Phdr)) ||
			       ret->segments_at > VDSO_MAX || ret->sections_at > VDSO_MAX
		       ? -ENOEXEC
		       : 0;
}

/* Where the bytes of a segment end in the image. */
static int elf_segment_end(int mem_fd, uint64_t address, bool narrow, uint64_t *ret)
{
	union {
		Elf64_Phdr wide;
		Elf32_Phdr narrow;
	} s;

	int r = fd_pread_all(mem_fd, &s, narrow ? sizeof(s.narrow) : sizeof(s.wide), address);
	if (r < 0)
		return r;
	uint64_t offset = narrow ? s.narrow.p_offset : s.wide.p_offset;
	uint64_t bytes = narrow ? s.narrow.p_filesz : s.wide.p_filesz;
	if (offset > VDSO_MAX || bytes > VDSO_MAX)
		return -ENOEXEC;
	*ret = offset + bytes;
	return 0;
}

/* Length of the ELF image in memory at address, all parts counted. */
static int elf_bytes(int mem_fd, uint64_t address, uint64_t *ret)
{
	struct elf_head head;

	int r = elf_read_head(mem_fd, address, &head);
	if (r < 0)
		return r;
	uint64_t end = head.segments_at + head.n_segments * head.segment_bytes;
	end = MAX(end, head.sections_at + head.n_sections * head.section_bytes);
	for (unsigned i = 0; i < head.n_segments; i++) {
		uint64_t to = 0;
		r = elf_segment_end(mem_fd, address + head.segments_at + i * head.segment_bytes, head.narrow,
				    &to);
		if (r < 0)
			return r;
		end = MAX(end, to);
	}
	*ret = end;
	return 0;
}

static bool is_magic(uint64_t word)
{
	return word == PAD_MAGIC || word == PAD_NARROW_MAGIC;
}

static uint64_t needed(const struct ferry_inject *inject)
{
	return (uint64_t)slots_of(inject) * slot_bytes(inject);
}

/*
 * How many bytes at the end of a page are free: zero, or left by a pad. Reads backwards over zeros, then
 * looks for the pad's magic number, which is at a multiple of 8 and has only zeros before it.
 */
static size_t free_tail(const uint64_t words[static PAGE / 8])
{
	size_t free_from = 0;

	while (free_from < PAGE / 8 && !is_magic(words[free_from]))
		free_from++;
	while (free_from > 0 && !words[free_from - 1])
		free_from--;
	return PAGE - free_from * 8;
}

/* Try the last page before 'end'; bytes before 'used' are taken. 0 when there is room. */
static int place_try(struct ferry_inject *inject, uint64_t used, uint64_t end)
{
	union {
		unsigned char bytes[PAGE];
		uint64_t words[PAGE / 8];
	} page;

	int r = fd_pread_all(inject->mem_fd, page.bytes, PAGE, end - PAGE);
	if (r < 0)
		return r;
	uint64_t area = MAX(used, end - free_tail(page.words));
	if (area > end - needed(inject))
		return -ENOSPC;
	inject->place = (struct place){.address = end - needed(inject), .area = area, .area_end = end};
	return 0;
}

/* One answer of PROCMAP_QUERY (Linux 6.11), as linux/fs.h has it. */
struct mapping_query {
	uint64_t size, query_flags, query_addr;
	uint64_t vma_start, vma_end, vma_flags, vma_page_size, vma_offset, inode;
	uint32_t dev_major, dev_minor, name_size, build_id_size;
	uint64_t name_addr, build_id_addr;
};

#define MAPPING_QUERY _IOWR('f', 17, struct mapping_query)
#define MAPPING_EXECUTABLE 4u

/* A line of /proc/PID/maps: addresses, and a pointer to the flags ("r-xp"); NULL when it is none. */
static const char *parse_line(const char *line, uint64_t *ret_start, uint64_t *ret_end)
{
	char *end;

	*ret_start = strtoull(line, &end, 16);
	if (*end != '-')
		return NULL;
	*ret_end = strtoull(end + 1, &end, 16);
	return *end == ' ' && strlen(end) > 4 ? end + 1 : NULL;
}

/*
 * Whether a range is executable memory of one mapping: a vdso that was moved leaves its old address behind.
 */
static int range_is_executable(pid_t tid, uint64_t start, uint64_t end)
{
	struct mapping_query query = {.size = sizeof(query), .query_addr = start};
	_cleanup_free_ char *line = NULL;
	uint64_t from, to;
	char path[48];
	size_t room = 0;

	snprintf(path, sizeof(path), "/proc/%d/maps", tid);
	_cleanup_fclose_ FILE *maps = fopen(path, "re");
	if (!maps)
		return -errno;
	if (!ioctl(fileno(maps), MAPPING_QUERY, &query))
		return query.vma_start <= start && query.vma_end >= end &&
		       (query.vma_flags & MAPPING_EXECUTABLE);
	if (errno == ENOENT)
		return 0;
	while (getline(&line, &room, maps) > 0) {
		const char *flags = parse_line(line, &from, &to);
		if (flags && from <= start && to >= end)
			return flags[2] == 'x';
	}
	return 0;
}

static int place_in_vdso(struct ferry_inject *inject)
{
	uint64_t address, bytes;

	int r = vdso_address(inject, &address);
	if (r < 0)
		return r;
	if (address % PAGE)
		return -ENOEXEC;
	r = elf_bytes(inject->mem_fd, address, &bytes);
	if (r < 0)
		return r;
	/*
	 * What follows the image in its last page is padding by construction, whatever a dead ferry left
	 * there.
	 */
	uint64_t used = address + align_up(bytes, 16), end = address + align_up(bytes, PAGE);
	if (end - used < needed(inject))
		return -ENOSPC;
	r = range_is_executable(inject->tid, address, end);
	if (r <= 0)
		return r < 0 ? r : -ENOEXEC;
	inject->place = (struct place){.address = end - needed(inject),
				       .area = used,
				       .area_end = end,
				       .vdso = address,
				       .vdso_end = used};
	return 0;
}

/* Private executable mappings of files, until one has room. */
static int place_in_text(struct ferry_inject *inject)
{
	_cleanup_free_ char *line = NULL;
	_cleanup_fclose_ FILE *maps = NULL;
	uint64_t start, end;
	char path[48];
	size_t room = 0;

	snprintf(path, sizeof(path), "/proc/%d/maps", inject->tid);
	maps = fopen(path, "re");
	if (!maps)
		return -errno;
	while (getline(&line, &room, maps) > 0) {
		const char *flags = parse_line(line, &start, &end);
		if (flags && !strncmp(flags, "r-xp", 4) && strchr(line, '/') &&
		    !place_try(inject, start, end))
			return 0;
	}
	return -ENOSPC;
}

int place_find_low(const struct ferry_inject *inject, uint64_t bytes, uint64_t *ret_address)
{
	_cleanup_free_ char *line = NULL;
	uint64_t start, end, free_end = LOW_END, free_start = LOW_START;
	char path[48];
	size_t room = 0;

	snprintf(path, sizeof(path), "/proc/%d/maps", inject->tid);
	_cleanup_fclose_ FILE *maps = fopen(path, "re");
	if (!maps)
		return -errno;
	while (free_start < LOW_END && getline(&line, &room, maps) > 0) {
		if (!parse_line(line, &start, &end))
			continue;
		free_end = MIN(start, LOW_END);
		if (free_end > free_start && free_end - free_start >= bytes)
			break;
		free_start = MAX(free_start, end);
		free_end = LOW_END;
	}
	if (free_end <= free_start || free_end - free_start < bytes)
		return -ENOMEM;
	*ret_address = free_end - bytes;
	return 0;
}

int place_find(struct ferry_inject *inject, struct ferry_error *err)
{
	int r = place_in_vdso(inject);

	if (inject->opts.fault && inject->opts.fault(inject->opts.context, "inject-place"))
		r = -ENOSPC;
	if (r < 0)
		r = place_in_text(inject);
	if (r >= 0)
		return 0;
	return error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, EOPNOTSUPP,
			 "task %d has neither a vdso nor a program with %zu free executable bytes",
			 inject->tid, (size_t)needed(inject));
}
