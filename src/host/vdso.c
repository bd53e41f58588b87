/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what ferry knows about the vdso of its own process. Kernel interface: vdso(7), /proc/self/maps;
 * arch/x86/entry/vdso (the data mappings lie right below the code; mremap(2) of them is supported since 4.8).
 */
#include "host/vdso.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "proc/read.h"

enum { VDSO_SLACK_ALIGN = 16 };

size_t vdso_elf_bytes(const unsigned char *code, size_t n)
{
	Elf64_Ehdr head;
	if (n < sizeof(head))
		return 0;
	memcpy(&head, code, sizeof(head));
	if (memcmp(head.e_ident, ELFMAG, SELFMAG) || head.e_ident[EI_CLASS] != ELFCLASS64)
		return 0;
	size_t end = head.e_shoff + (size_t)head.e_shnum * head.e_shentsize;
	if (head.e_shoff > n || end > n)
		return 0;
	/* A section may reach beyond the section headers. */
	for (unsigned i = 0; i < head.e_shnum; i++) {
		Elf64_Shdr section;
		if (head.e_shentsize < sizeof(section))
			return 0;
		memcpy(&section, code + head.e_shoff + (size_t)i * head.e_shentsize, sizeof(section));
		if (section.sh_type != SHT_NOBITS && section.sh_offset + section.sh_size <= n)
			end = MAX(end, section.sh_offset + section.sh_size);
	}
	return end;
}

static void vdso_take(struct vdso *v, const struct proc_vma *vma)
{
	bool code = vma->kind == PROC_VMA_VDSO;
	bool data = vma->kind == PROC_VMA_VVAR || vma->kind == PROC_VMA_VVAR_VCLOCK;
	if ((!code && !data) || v->n_parts == VDSO_PARTS)
		return;
	v->parts[v->n_parts++] = (struct vdso_part){vma->start, vma->end - vma->start};
	if (!v->start)
		v->start = vma->start;
	v->end = vma->end;
	if (code) {
		v->code = vma->start;
		v->code_bytes = vma->end - vma->start;
	}
}

int vdso_find(struct vdso *ret, struct ferry_error *err)
{
	_cleanup_proc_maps_ struct proc_maps maps = {0};
	int r = proc_read_own_maps(&maps, err);
	if (r < 0)
		return r;
	struct vdso v = {0};
	vec_foreach(vma, &maps.vmas)
		vdso_take(&v, vma);
	size_t elf = v.code ? vdso_elf_bytes((const unsigned char *)v.code, v.code_bytes) : 0;
	if (!elf) {
		error_set(err, FERRY_ERROR_KERNEL_FEATURE, ENOENT, "this kernel maps no vdso into processes");
		error_hint(err, "boot without vdso=0");
		return -ENOENT;
	}
	v.slack = align_up(elf, VDSO_SLACK_ALIGN);
	*ret = v;
	return 0;
}

int vdso_write_slack(const struct vdso *v, const void *bytes, size_t n, uint64_t *ret_offset,
		     struct ferry_error *err)
{
	if (v->slack + n > v->code_bytes)
		return error_set(err, FERRY_ERROR_KERNEL_FEATURE, ENOSPC,
				 "the vdso has no room for %zu bytes behind its own", n);
	_cleanup_close_ int mem = fd_open(AT_FDCWD, "/proc/self/mem", O_RDWR, 0);
	int r = mem < 0 ? mem : fd_pwrite_all(mem, bytes, n, v->code + v->slack);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "writing to the vdso through /proc/self/mem");
	*ret_offset = v->code - v->start + v->slack;
	return 0;
}
