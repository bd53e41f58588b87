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
#define NEEDED (INJECT_SLOTS * PAD_BYTES)
#define VDSO_MAX (1u << 20)

static int vdso_address(pid_t tid, uint64_t *ret)
{
	Elf64_auxv_t entry;
	_cleanup_close_ int fd = fd_openf(O_RDONLY, "/proc/%d/auxv", tid);
	if (fd < 0)
		return fd;
	while (read(fd, &entry, sizeof(entry)) == (ssize_t)sizeof(entry) && entry.a_type != AT_NULL) {
		if (entry.a_type == AT_SYSINFO_EHDR) {
			*ret = entry.a_un.a_val;
			return 0;
		}
	}
	return -ENOENT;
}

/* Length of the ELF image in memory at address, all parts counted. */
static int elf_bytes(int mem_fd, uint64_t address, uint64_t *ret)
{
	Elf64_Ehdr header;
	Elf64_Phdr segment;

	int r = fd_pread_all(mem_fd, &header, sizeof(header), address);
	if (r < 0)
		return r;
	if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
	    header.e_phentsize != sizeof(segment) || header.e_phoff > VDSO_MAX || header.e_shoff > VDSO_MAX)
		return -ENOEXEC;
	uint64_t end = header.e_phoff + (uint64_t)header.e_phnum * sizeof(segment);
	end = MAX(end, header.e_shoff + (uint64_t)header.e_shnum * header.e_shentsize);
	for (unsigned i = 0; i < header.e_phnum; i++) {
		r = fd_pread_all(mem_fd, &segment, sizeof(segment),
				 address + header.e_phoff + i * sizeof(segment));
		if (r < 0)
			return r;
		if (segment.p_offset > VDSO_MAX || segment.p_filesz > VDSO_MAX)
			return -ENOEXEC;
		end = MAX(end, segment.p_offset + segment.p_filesz);
	}
	*ret = end;
	return 0;
}

/*
 * How many bytes at the end of a page are free: zero, or left by a pad. Reads backwards over zeros, then
 * looks for the pad's magic number, which is at a multiple of 8 and has only zeros before it.
 */
static size_t free_tail(const uint64_t words[static PAGE / 8])
{
	size_t free_from = 0;

	while (free_from < PAGE / 8 && words[free_from] != PAD_MAGIC)
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
	if (area > end - NEEDED)
		return -ENOSPC;
	inject->place = (struct place){.address = end - NEEDED, .area = area, .area_end = end};
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

	int r = vdso_address(inject->tid, &address);
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
	if (end - used < NEEDED)
		return -ENOSPC;
	r = range_is_executable(inject->tid, address, end);
	if (r <= 0)
		return r < 0 ? r : -ENOEXEC;
	inject->place = (struct place){.address = end - NEEDED, .area = used, .area_end = end};
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

int place_find(struct ferry_inject *inject, struct ferry_error *err)
{
	int r = -ENOSPC;

	if (!inject->opts.fault || !inject->opts.fault(inject->opts.context, "inject-place"))
		r = place_in_vdso(inject);
	if (r < 0)
		r = place_in_text(inject);
	if (r >= 0)
		return 0;
	return error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, EOPNOTSUPP,
			 "task %d has neither a vdso nor a program with %zu free executable bytes",
			 inject->tid, (size_t)NEEDED);
}
