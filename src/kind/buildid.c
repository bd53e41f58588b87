/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns finding the build id of an ELF file. Linkers put its note behind the program headers, so the first page has it.
 *
 * Kernel interface: elf(5), NT_GNU_BUILD_ID.
 */
#include "kind/buildid.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/macros.h"

enum { BUILDID_HEAD_BYTES = 4096 };

/* Looks through the notes of one segment; every length comes from the file. */
static size_t buildid_in_notes(const char *notes, size_t n, uint32_t *ret_words)
{
	Elf64_Nhdr note;
	while (n >= sizeof(note)) {
		memcpy(&note, notes, sizeof(note));
		size_t name = align_up(note.n_namesz, 4), bytes = align_up(note.n_descsz, 4);
		if (name > n - sizeof(note) || bytes > n - sizeof(note) - name)
			return 0;
		const char *text = notes + sizeof(note);
		size_t words = note.n_descsz / sizeof(uint32_t);
		if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && !memcmp(text, "GNU", 4) &&
		    words && words <= BUILDID_WORDS) {
			memcpy(ret_words, text + name, words * sizeof(uint32_t));
			return words;
		}
		notes += sizeof(note) + name + bytes;
		n -= sizeof(note) + name + bytes;
	}
	return 0;
}

/* Program headers: where they are. */
struct buildid_elf {
	bool narrow;
	uint64_t at;
	size_t n, bytes;
};

static bool buildid_read_head(const char *bytes, size_t n, struct buildid_elf *ret)
{
	Elf64_Ehdr wide;
	Elf32_Ehdr narrow;
	memcpy(&wide, bytes, sizeof(wide));
	memcpy(&narrow, bytes, sizeof(narrow));
	if (memcmp(wide.e_ident, ELFMAG, SELFMAG))
		return false;
	if (wide.e_ident[EI_CLASS] == ELFCLASS64)
		*ret = (struct buildid_elf){false, wide.e_phoff, wide.e_phnum, wide.e_phentsize};
	else
		*ret = (struct buildid_elf){true, narrow.e_phoff, narrow.e_phnum, narrow.e_phentsize};
	return ret->bytes == (ret->narrow ? sizeof(Elf32_Phdr) : sizeof(Elf64_Phdr)) && ret->at < n &&
	       ret->n <= (n - ret->at) / ret->bytes;
}

/* Where the notes of a segment lie in the file; false when it has none. */
static bool buildid_notes_at(const char *segment, bool narrow, uint64_t *ret_at, uint64_t *ret_bytes)
{
	Elf64_Phdr wide;
	Elf32_Phdr small;
	if (narrow) {
		memcpy(&small, segment, sizeof(small));
		*ret_at = small.p_offset;
		*ret_bytes = small.p_filesz;
		return small.p_type == PT_NOTE;
	}
	memcpy(&wide, segment, sizeof(wide));
	*ret_at = wide.p_offset;
	*ret_bytes = wide.p_filesz;
	return wide.p_type == PT_NOTE;
}

size_t buildid_read(const char *path, uint32_t ret_words[BUILDID_WORDS])
{
	char bytes[BUILDID_HEAD_BYTES];
	struct buildid_elf head;
	_cleanup_close_ int fd = fd_open(AT_FDCWD, path, O_RDONLY | O_NONBLOCK | O_NOATIME, 0);
	if (fd == -EPERM)
		fd = fd_open(AT_FDCWD, path, O_RDONLY | O_NONBLOCK, 0);
	ssize_t n = fd < 0 ? -1 : pread(fd, bytes, sizeof(bytes), 0);
	if (n < (ssize_t)sizeof(Elf64_Ehdr) || !buildid_read_head(bytes, (size_t)n, &head))
		return 0;
	for (size_t i = 0; i < head.n; i++) {
		uint64_t at, length;
		if (!buildid_notes_at(bytes + head.at + i * head.bytes, head.narrow, &at, &length) ||
		    at >= (size_t)n)
			continue;
		size_t words = buildid_in_notes(bytes + at, MIN(length, (size_t)n - at), ret_words);
		if (words)
			return words;
	}
	return 0;
}
