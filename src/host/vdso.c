/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what ferry knows about the vdso of its own process, and the one that 32-bit programs get. Kernel interface: vdso(7), getauxval(3), /proc/self/maps;
 * arch/x86/entry/vdso (the data mappings lie right below the code; mremap(2) of them is supported since 4.8);
 * arch_prctl(2) ARCH_MAP_VDSO_32 (4.8).
 */
#include "host/vdso.h"

#include <asm/prctl.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "kernel/syscalls.h"
#include "proc/read.h"

enum { VDSO_SLACK_ALIGN = 16 };
#define VDSO_DATA_MOST (1ull << 20) /* no kernel has more below the code */
#define VDSO_SHOW_AT 0x10000000ull
#define VDSO_NR32_GETPID 20

/* What both widths of ELF say alike. */
struct vdso_elf {
	uint64_t sections_at;
	size_t n_sections, section_bytes;
};

static bool vdso_is_elf(const unsigned char *code, size_t n, unsigned char class)
{
	return n >= sizeof(Elf64_Ehdr) && !memcmp(code, ELFMAG, SELFMAG) && code[EI_CLASS] == class;
}

bool vdso_is_32(const unsigned char *code, size_t n)
{
	return vdso_is_elf(code, n, ELFCLASS32);
}

static bool vdso_read_head(const unsigned char *code, size_t n, struct vdso_elf *ret)
{
	Elf64_Ehdr wide;
	Elf32_Ehdr narrow;
	if (vdso_is_elf(code, n, ELFCLASS64)) {
		memcpy(&wide, code, sizeof(wide));
		*ret = (struct vdso_elf){wide.e_shoff, wide.e_shnum, wide.e_shentsize};
		return wide.e_shentsize >= sizeof(Elf64_Shdr);
	}
	if (!vdso_is_32(code, n))
		return false;
	memcpy(&narrow, code, sizeof(narrow));
	*ret = (struct vdso_elf){narrow.e_shoff, narrow.e_shnum, narrow.e_shentsize};
	return narrow.e_shentsize >= sizeof(Elf32_Shdr);
}

/* Where the contents of a section end; 0 when it has none. */
static uint64_t vdso_section_end(const unsigned char *section, bool narrow)
{
	Elf64_Shdr wide;
	Elf32_Shdr small;
	if (!narrow) {
		memcpy(&wide, section, sizeof(wide));
		return wide.sh_type == SHT_NOBITS || wide.sh_offset > VDSO_MAX_BYTES
			       ? 0
			       : wide.sh_offset + wide.sh_size;
	}
	memcpy(&small, section, sizeof(small));
	return small.sh_type == SHT_NOBITS ? 0 : (uint64_t)small.sh_offset + small.sh_size;
}

size_t vdso_elf_bytes(const unsigned char *code, size_t n)
{
	struct vdso_elf elf;
	if (!vdso_read_head(code, n, &elf))
		return 0;
	size_t end = elf.sections_at + elf.n_sections * elf.section_bytes;
	if (elf.sections_at > n || end > n)
		return 0;
	/* A section may reach beyond the section headers. */
	for (size_t i = 0; i < elf.n_sections; i++) {
		uint64_t to =
			vdso_section_end(code + elf.sections_at + i * elf.section_bytes, vdso_is_32(code, n));
		if (to <= n)
			end = MAX(end, to);
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
	uint64_t image = getauxval(AT_SYSINFO_EHDR);
	int r = proc_read_own_maps_from(image - MIN(image, VDSO_DATA_MOST), &maps, err);
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
	v.image = (const unsigned char *)v.code;
	*ret = v;
	return 0;
}

/* In a process of its own: exchange one vdso for the other. A process can have only one. */
static __attribute__((noreturn)) void vdso_show_32(const struct vdso *own, int answer)
{
	char byte;
	long r = 0;
	for (size_t i = 0; i < own->n_parts && r >= 0; i++)
		r = syscall(SYS_munmap, own->parts[i].start, own->parts[i].bytes);
	if (r >= 0)
		r = syscall(SYS_arch_prctl, ARCH_MAP_VDSO_32, VDSO_SHOW_AT);
	/* Its end tells as well: a kernel that was told not to run such programs has the vdso, but no such calls. */
	byte = r > 0 && sys_call_i386(VDSO_NR32_GETPID, 0, 0, 0) > 0;
	while (syscall(SYS_write, answer, &byte, 1) == 1)
		if (syscall(SYS_read, answer, &byte, 1) <= 0)
			break;
	for (;;)
		syscall(SYS_exit_group, 0);
}

static int vdso_look_32(pid_t pid, struct vdso32 *ret, struct ferry_error *err)
{
	_cleanup_proc_maps_ struct proc_maps maps = {0};
	_cleanup_close_ int dir = proc_open(pid, err);
	if (dir < 0)
		return dir;
	int r = proc_read_smaps(dir, &maps, err);
	if (r < 0)
		return r;
	ret->v = (struct vdso){.image = ret->bytes};
	vec_foreach(vma, &maps.vmas)
		vdso_take(&ret->v, vma);
	_cleanup_close_ int mem = fd_open(dir, "mem", O_RDONLY, 0);
	size_t elf = 0;
	if (mem >= 0 && ret->v.code && ret->v.code_bytes <= sizeof(ret->bytes) &&
	    !fd_pread_all(mem, ret->bytes, ret->v.code_bytes, ret->v.code) &&
	    vdso_is_32(ret->bytes, ret->v.code_bytes))
		elf = vdso_elf_bytes(ret->bytes, ret->v.code_bytes);
	if (!elf)
		return error_set(err, FERRY_ERROR_KERNEL_FEATURE, ENOEXEC,
				 "the vdso of 32-bit programs cannot be read");
	ret->v.slack = align_up(elf, VDSO_SLACK_ALIGN);
	return 0;
}

int vdso_find_32(struct vdso32 *ret, struct ferry_error *err)
{
	struct vdso own;
	int ends[2];
	char byte = 0;
	int r = vdso_find(&own, err);
	if (r < 0)
		return r;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a socket pair");
	pid_t pid = fork();
	int code = errno;
	if (!pid) {
		close(ends[0]);
		vdso_show_32(&own, ends[1]);
	}
	close(ends[1]);
	if (pid < 0) {
		r = error_errno(err, FERRY_ERROR_SYSTEM, code, "creating a process");
	} else if (read(ends[0], &byte, 1) != 1 || !byte) {
		error_set(err, FERRY_ERROR_KERNEL_FEATURE, ENOEXEC, "this kernel runs no 32-bit programs");
		error_hint(err, "it needs CONFIG_IA32_EMULATION, and a boot without ia32_emulation=off");
		r = -ENOEXEC;
	} else {
		r = vdso_look_32(pid, ret, err);
	}
	close(ends[0]);
	while (pid > 0 && waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
		continue;
	return r;
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
