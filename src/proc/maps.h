/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The mappings of a task: /proc/PID/maps, /proc/PID/smaps (VmFlags) and the PROCMAP_QUERY ioctl, all into one
 * structure of 64 bytes a mapping; names are interned.
 *
 * The x86 [vsyscall] gate is left out of every source: it belongs to the kernel, not to the task, and the ioctl
 * does not show it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "base/vec.h"
#include "proc/names.h"

enum proc_vmflag_bit {
#define VMFLAG(name, word, text) PROC_VMFLAG_##name,
#include "proc/vmflags.def"
#undef VMFLAG
	PROC_VMFLAG_COUNT,
	PROC_VMFLAG_OTHER = 63, /* the line had a word that this table lacks */
};

/* PROC_VM(LOCKED): the bit in proc_vma.vm_flags. */
#define PROC_VM(name) (1ULL << PROC_VMFLAG_##name)

_Static_assert((int)PROC_VMFLAG_COUNT < (int)PROC_VMFLAG_OTHER, "vm_flags has 64 bits");

/*
 * What the name says. Names of files can look like anything: whoever relies on MEMFD, SYSV, SHMEM_ANON or HUGETLB
 * compares device and inode (map_files) as well.
 */
enum proc_vma_kind {
	PROC_VMA_ANON = 0,   /* no name */
	PROC_VMA_ANON_NAMED, /* [anon:...], PR_SET_VMA_ANON_NAME */
	PROC_VMA_HEAP,
	PROC_VMA_STACK,
	PROC_VMA_VDSO,
	PROC_VMA_VVAR,
	PROC_VMA_VVAR_VCLOCK, /* since 6.13 split off from vvar */
	PROC_VMA_UPROBES,
	PROC_VMA_SPECIAL,      /* any other [name] without a file */
	PROC_VMA_FILE,         /* a path; also of devices */
	PROC_VMA_SHMEM_ANON,   /* /dev/zero (deleted), [anon_shmem:...]: MAP_SHARED | MAP_ANONYMOUS */
	PROC_VMA_MEMFD,        /* /memfd:name (deleted) */
	PROC_VMA_SECRETMEM,    /* /secretmem (deleted) */
	PROC_VMA_SYSV,         /* /SYSV<key> (deleted) */
	PROC_VMA_HUGETLB_ANON, /* /anon_hugepage (deleted) */
	PROC_VMA_AIO,          /* /[aio] */
	PROC_VMA_ANON_INODE,   /* anon_inode:[io_uring], [perf_event], [kvm-vcpu:0] ... */
	PROC_VMA_DMABUF,
	PROC_VMA_SOCKET, /* a packet ring */
};

#define PROC_COMMON_UNKNOWN UINT64_MAX

struct proc_vma {
	uint64_t start;
	uint64_t end;
	uint64_t offset; /* bytes */
	uint64_t ino;
	uint64_t dev;           /* st_dev as the superblock has it; stat may differ (btrfs, overlayfs) */
	uint64_t vm_flags;      /* PROC_VM(...); 0 unless read from smaps */
	uint64_t common_bytes;  /* from smaps: pages that others have mapped, too; or PROC_COMMON_UNKNOWN */
	uint32_t name;          /* proc_names_get(&maps->names, name); 0 = none */
	uint8_t prot;           /* PROT_READ | PROT_WRITE | PROT_EXEC */
	uint8_t page_shift : 7; /* 12, 21, 30: grain of the mapping; 0 = not known (maps without smaps) */
	uint8_t swapped : 1;    /* from smaps: some of its pages are swapped out */
	uint8_t pkey;           /* from smaps */
	uint8_t kind : 5;       /* enum proc_vma_kind */
	uint8_t shared : 1;     /* MAP_SHARED */
	uint8_t deleted : 1;    /* the name ended in " (deleted)", which is cut off */
	uint8_t has_flags : 1;  /* vm_flags is valid */
};

_Static_assert(sizeof(struct proc_vma) == 64, "100000 of them are kept");

struct proc_maps {
	VEC(struct proc_vma) vmas; /* ascending, disjoint */
	struct proc_names names;
};

void proc_maps_release(struct proc_maps *maps);
#define _cleanup_proc_maps_ __attribute__((cleanup(proc_maps_release)))

static inline const char *proc_vma_name(const struct proc_maps *maps, const struct proc_vma *vma)
{
	return proc_names_get(&maps->names, vma->name);
}

/* The mapping that holds addr, or NULL. */
const struct proc_vma *proc_maps_find(const struct proc_maps *maps, uint64_t addr);

/* Word of a kind for messages: "file", "heap", ... Never NULL. */
const char *proc_vma_kind_word(enum proc_vma_kind kind);

/*
 * Parse the whole text of maps or of smaps (told apart by what follows a mapping's line). *ret_maps is zeroed or
 * released; the caller releases it also after an error. -EBADMSG: not such a text. -EAGAIN: mappings overlap or
 * go back, which happens when a running task maps memory while its maps are read; read them again.
 *
 * In this text a newline in a name stands as \012, and so does a name that really holds these four characters;
 * the ioctl knows better, and so does /proc/PID/map_files.
 */
must_check int proc_maps_parse(const char *text, size_t n, struct proc_maps *ret_maps,
			       struct ferry_error *err);

/*
 * The same in pieces: any number of bytes at a time, a line may be cut anywhere. proc_maps_end() says whether the
 * text ended where it may.
 */
struct proc_maps_parser {
	struct proc_maps *maps;
	char *rest; /* an unfinished line */
	size_t n_rest;
	size_t cap_rest;
	uint64_t line;
	bool gate; /* the fields that follow belong to the gate and are left out */
};

void proc_maps_begin(struct proc_maps_parser *parser, struct proc_maps *maps);
must_check int proc_maps_feed(struct proc_maps_parser *parser, const char *bytes, size_t n,
			      struct ferry_error *err);
must_check int proc_maps_end(struct proc_maps_parser *parser, struct ferry_error *err);
void proc_maps_parser_release(struct proc_maps_parser *parser);

struct procmap_query;

/*
 * Append what one PROCMAP_QUERY answered. name: bytes of vma_name_addr; may be NULL when vma_name_size is 0.
 * -EAGAIN when it does not follow the mappings before it.
 */
must_check int proc_maps_add_query(struct proc_maps *maps, const struct procmap_query *query,
				   const char *name, struct ferry_error *err);
