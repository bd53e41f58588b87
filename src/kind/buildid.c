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

static bool buildid_is_elf(const Elf64_Ehdr *head, size_t n)
{
	return !memcmp(head->e_ident, ELFMAG, SELFMAG) && head->e_ident[EI_CLASS] == ELFCLASS64 &&
	       head->e_phentsize == sizeof(Elf64_Phdr) && head->e_phoff < n &&
	       head->e_phnum <= (n - head->e_phoff) / sizeof(Elf64_Phdr);
}

size_t buildid_read(const char *path, uint32_t ret_words[BUILDID_WORDS])
{
	char bytes[BUILDID_HEAD_BYTES];
	Elf64_Ehdr head;
	_cleanup_close_ int fd = fd_open(AT_FDCWD, path, O_RDONLY | O_NONBLOCK | O_NOATIME, 0);
	if (fd == -EPERM)
		fd = fd_open(AT_FDCWD, path, O_RDONLY | O_NONBLOCK, 0);
	ssize_t n = fd < 0 ? -1 : pread(fd, bytes, sizeof(bytes), 0);
	if (n < (ssize_t)sizeof(head))
		return 0;
	memcpy(&head, bytes, sizeof(head));
	if (!buildid_is_elf(&head, (size_t)n))
		return 0;
	for (size_t i = 0; i < head.e_phnum; i++) {
		Elf64_Phdr segment;
		memcpy(&segment, bytes + head.e_phoff + i * sizeof(segment), sizeof(segment));
		if (segment.p_type != PT_NOTE || segment.p_offset >= (size_t)n)
			continue;
		size_t there = MIN(segment.p_filesz, (size_t)n - segment.p_offset);
		size_t words = buildid_in_notes(bytes + segment.p_offset, there, ret_words);
		if (words)
			return words;
	}
	return 0;
}
