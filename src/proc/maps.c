/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the text of /proc/PID/maps and /proc/PID/smaps and the answer of PROCMAP_QUERY. Kernel interface:
 * fs/proc/task_mmu.c. Of smaps only VmFlags, Shared_*, KernelPageSize and ProtectionKey are read.
 */
#include "proc/maps.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/error.h"
#include "kernel/uapi.h"
#include "proc/lex.h"

enum { MAPS_LINE_MAX = 1 << 20 };

struct kind_name {
	const char *name;
	enum proc_vma_kind kind;
	bool prefix;  /* the name only begins so */
	bool deleted; /* only if " (deleted)" follows */
};

static const struct kind_name kind_names[] = {
	{"[heap]", PROC_VMA_HEAP},
	{"[stack]", PROC_VMA_STACK},
	{"[stack:", PROC_VMA_ANON, .prefix = true}, /* stacks of threads, until 4.5 */
	{"[vdso]", PROC_VMA_VDSO},
	{"[vvar]", PROC_VMA_VVAR},
	{"[vvar_vclock]", PROC_VMA_VVAR_VCLOCK},
	{"[uprobes]", PROC_VMA_UPROBES},
	{"[anon:", PROC_VMA_ANON_NAMED, .prefix = true},
	{"[anon_shmem:", PROC_VMA_SHMEM_ANON, .prefix = true},
	{"[", PROC_VMA_SPECIAL, .prefix = true},
	{"/dev/zero", PROC_VMA_SHMEM_ANON, .deleted = true},
	{"/memfd:", PROC_VMA_MEMFD, .prefix = true, .deleted = true},
	{"/SYSV", PROC_VMA_SYSV, .prefix = true, .deleted = true},
	{"/secretmem", PROC_VMA_SECRETMEM, .deleted = true},
	{"/anon_hugepage", PROC_VMA_HUGETLB_ANON, .deleted = true},
	{"/[aio]", PROC_VMA_AIO, .deleted = true},
	{"/dmabuf:", PROC_VMA_DMABUF, .prefix = true},
	{"anon_inode:", PROC_VMA_ANON_INODE, .prefix = true},
	{"socket:[", PROC_VMA_SOCKET, .prefix = true},
};

static const char *const kind_words[] = {
	[PROC_VMA_ANON] = "anonymous memory",
	[PROC_VMA_ANON_NAMED] = "named anonymous memory",
	[PROC_VMA_HEAP] = "heap",
	[PROC_VMA_STACK] = "stack",
	[PROC_VMA_VDSO] = "vdso",
	[PROC_VMA_VVAR] = "vvar",
	[PROC_VMA_VVAR_VCLOCK] = "vvar_vclock",
	[PROC_VMA_UPROBES] = "uprobes",
	[PROC_VMA_SPECIAL] = "special mapping",
	[PROC_VMA_FILE] = "file",
	[PROC_VMA_SHMEM_ANON] = "shared anonymous memory",
	[PROC_VMA_MEMFD] = "memfd",
	[PROC_VMA_SECRETMEM] = "memfd_secret",
	[PROC_VMA_SYSV] = "System V shared memory",
	[PROC_VMA_HUGETLB_ANON] = "anonymous huge pages",
	[PROC_VMA_AIO] = "AIO ring",
	[PROC_VMA_ANON_INODE] = "anonymous inode",
	[PROC_VMA_DMABUF] = "dma-buf",
	[PROC_VMA_SOCKET] = "socket ring",
};

const char *proc_vma_kind_word(enum proc_vma_kind kind)
{
	return (unsigned)kind < ARRAY_SIZE(kind_words) ? kind_words[kind] : "mapping";
}

static const char vmflag_words[PROC_VMFLAG_COUNT][3] = {
#define VMFLAG(name, word, text) [PROC_VMFLAG_##name] = word,
#include "proc/vmflags.def"
#undef VMFLAG
};

void proc_maps_release(struct proc_maps *maps)
{
	vec_release(&maps->vmas);
	proc_names_release(&maps->names);
}

const struct proc_vma *proc_maps_find(const struct proc_maps *maps, uint64_t addr)
{
	size_t low = 0, high = maps->vmas.n;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (maps->vmas.v[middle].end <= addr)
			low = middle + 1;
		else
			high = middle;
	}
	return low < maps->vmas.n && maps->vmas.v[low].start <= addr ? &maps->vmas.v[low] : NULL;
}

/* Kind from the name, and whether it was deleted; name loses its mark. */
static enum proc_vma_kind classify(struct lex *name, bool *ret_deleted)
{
	if (lex_done(name))
		return PROC_VMA_ANON;
	*ret_deleted = *name->p != '[' && lex_cut_deleted(name);
	for (size_t i = 0; i < ARRAY_SIZE(kind_names); i++) {
		const struct kind_name *k = &kind_names[i];
		struct lex l = *name;
		if (lex_str(&l, k->name) && (k->prefix || lex_done(&l)) && (*ret_deleted || !k->deleted))
			return k->kind;
	}
	return PROC_VMA_FILE;
}

/* Append one mapping; name is raw, as the kernel knows it. */
static int maps_add(struct proc_maps *maps, const struct proc_vma *new, struct lex name,
		    struct ferry_error *err)
{
	bool deleted = false;
	uint32_t id;
	if (maps->vmas.n && new->start < maps->vmas.v[maps->vmas.n - 1].end)
		return error_set(err, FERRY_ERROR_TARGET_CHANGED, EAGAIN,
				 "mappings overlap at %#llx: the task changed them while they were read",
				 (unsigned long long)new->start);
	enum proc_vma_kind kind = classify(&name, &deleted);
	int r = proc_names_add(&maps->names, name.p, lex_left(&name), &id);
	if (r == -ENOMEM)
		return error_memory(err);
	if (r < 0)
		return lex_bad(err, "maps", &name);
	struct proc_vma *vma = vec_push(&maps->vmas);
	if (!vma)
		return error_memory(err);
	*vma = *new;
	vma->name = id;
	vma->kind = (uint8_t)kind & 0x1f;
	vma->deleted = deleted;
	return 0;
}

static bool perm(struct lex *l, char on, uint8_t bit, uint8_t *prot)
{
	if (lex_char(l, on))
		*prot |= bit;
	else if (!lex_char(l, '-'))
		return false;
	return true;
}

/* "start-end perms offset dev ino" */
static bool head_line(struct lex *l, struct proc_vma *vma)
{
	if (!lex_hex(l, &vma->start) || !lex_char(l, '-') || !lex_hex(l, &vma->end) ||
	    vma->start >= vma->end || !lex_char(l, ' '))
		return false;
	if (!perm(l, 'r', PROT_READ, &vma->prot) || !perm(l, 'w', PROT_WRITE, &vma->prot) ||
	    !perm(l, 'x', PROT_EXEC, &vma->prot))
		return false;
	if (lex_char(l, 's'))
		vma->shared = 1;
	else if (!lex_char(l, 'p'))
		return false;
	return lex_char(l, ' ') && lex_hex(l, &vma->offset) && lex_char(l, ' ') &&
	       lex_dev_pair(l, &vma->dev) && lex_char(l, ' ') && lex_u64(l, &vma->ino);
}

/* In maps only a newline is escaped. */
static size_t unescape_newline(char *s, size_t n)
{
	size_t out = 0;
	for (size_t in = 0; in < n; out++) {
		if (n - in >= 4 && !memcmp(s + in, "\\012", 4)) {
			s[out] = '\n';
			in += 4;
		} else {
			s[out] = s[in++];
		}
	}
	return out;
}

static int add_escaped(struct proc_maps *maps, const struct proc_vma *vma, struct lex name,
		       struct ferry_error *err)
{
	if (!memmem(name.p, lex_left(&name), "\\012", 4))
		return maps_add(maps, vma, name, err);
	char *copy = malloc(lex_left(&name) + 1);
	if (!copy)
		return error_memory(err);
	memcpy(copy, name.p, lex_left(&name));
	int r = maps_add(maps, vma, lex_new(copy, unescape_newline(copy, lex_left(&name))), err);
	free(copy);
	return r;
}

static int parse_head(struct proc_maps_parser *parser, const struct lex *line, struct ferry_error *err)
{
	struct lex l = *line;
	struct proc_vma vma = {0};
	if (!head_line(&l, &vma) || (!lex_done(&l) && *l.p != ' '))
		return lex_bad(err, "maps", line);
	lex_blanks(&l);
	parser->gate = lex_is(&l, "[vsyscall]");
	return parser->gate ? 0 : add_escaped(parser->maps, &vma, l, err);
}

static bool smaps_flags(struct lex *l, struct proc_vma *vma)
{
	struct lex word;
	for (lex_blanks(l); lex_word(l, &word); lex_blanks(l)) {
		unsigned bit = 0;
		while (bit < PROC_VMFLAG_COUNT && !lex_is(&word, vmflag_words[bit]))
			bit++;
		vma->vm_flags |= 1ULL << (bit < PROC_VMFLAG_COUNT ? bit : PROC_VMFLAG_OTHER);
	}
	vma->has_flags = 1;
	return true;
}

static bool smaps_kb(struct lex *l, uint64_t *ret_bytes)
{
	uint64_t kb;
	lex_blanks(l);
	if (!lex_u64(l, &kb) || kb > UINT64_MAX / 1024)
		return false;
	*ret_bytes = kb * 1024;
	lex_blanks(l);
	return lex_str(l, "kB");
}

/* Clean ones and dirty ones. */
static bool smaps_common(struct lex *l, struct proc_vma *vma)
{
	uint64_t bytes;
	return smaps_kb(l, &bytes) && !__builtin_add_overflow(vma->common_bytes, bytes, &vma->common_bytes);
}

static bool smaps_page_size(struct lex *l, struct proc_vma *vma)
{
	uint64_t bytes;
	if (!smaps_kb(l, &bytes) || !bytes || bytes & (bytes - 1))
		return false;
	vma->page_shift = __builtin_ctzll(bytes) & 63;
	return true;
}

static bool smaps_swap(struct lex *l, struct proc_vma *vma)
{
	uint64_t bytes;
	if (!smaps_kb(l, &bytes))
		return false;
	vma->swapped = bytes > 0;
	return true;
}

static bool smaps_pkey(struct lex *l, struct proc_vma *vma)
{
	uint32_t key;
	lex_blanks(l);
	if (!lex_u32(l, &key) || key > UINT8_MAX)
		return false;
	vma->pkey = (uint8_t)key;
	return true;
}

static const struct smaps_field {
	const char *key;
	bool (*parse)(struct lex *l, struct proc_vma *vma);
} smaps_fields[] = {
	{"Shared_Clean:", smaps_common},      {"Shared_Dirty:", smaps_common},
	{"KernelPageSize:", smaps_page_size}, {"Swap:", smaps_swap},
	{"ProtectionKey:", smaps_pkey},       {"VmFlags:", smaps_flags},
};

static int parse_field(struct proc_maps_parser *parser, const struct lex *line, struct ferry_error *err)
{
	if (parser->gate)
		return 0;
	if (!parser->maps->vmas.n)
		return lex_bad(err, "smaps", line);
	struct proc_vma *vma = &parser->maps->vmas.v[parser->maps->vmas.n - 1];
	for (size_t i = 0; i < ARRAY_SIZE(smaps_fields); i++) {
		struct lex l = *line;
		if (!lex_str(&l, smaps_fields[i].key))
			continue;
		return smaps_fields[i].parse(&l, vma) && lex_rest_blank(&l) ? 0 : lex_bad(err, "smaps", line);
	}
	return 0;
}

static int parse_line(struct proc_maps_parser *parser, const struct lex *line, struct ferry_error *err)
{
	parser->line++;
	/* addresses are in small letters, keys begin with a capital */
	if (!lex_done(line) && *line->p >= 'A' && *line->p <= 'Z')
		return parse_field(parser, line, err);
	return parse_head(parser, line, err);
}

void proc_maps_begin(struct proc_maps_parser *parser, struct proc_maps *maps)
{
	*parser = (struct proc_maps_parser){.maps = maps};
}

void proc_maps_parser_release(struct proc_maps_parser *parser)
{
	free(parser->rest);
	*parser = (struct proc_maps_parser){0};
}

/* Keep the beginning of a line until the rest of it comes. */
static int keep_rest(struct proc_maps_parser *parser, const char *bytes, size_t n, struct ferry_error *err)
{
	if (n > MAPS_LINE_MAX - parser->n_rest)
		return lex_short(err, "maps", "the end of a line");
	if (parser->cap_rest - parser->n_rest < n) {
		size_t cap = MAX(parser->cap_rest * 2, parser->n_rest + n);
		char *rest = realloc(parser->rest, cap);
		if (!rest)
			return error_memory(err);
		parser->rest = rest;
		parser->cap_rest = cap;
	}
	if (n)
		memcpy(parser->rest + parser->n_rest, bytes, n);
	parser->n_rest += n;
	return 0;
}

int proc_maps_feed(struct proc_maps_parser *parser, const char *bytes, size_t n, struct ferry_error *err)
{
	struct lex l = lex_new(bytes, n), line;
	while (lex_line(&l, &line)) {
		if (parser->n_rest) {
			int r = keep_rest(parser, line.p, lex_left(&line), err);
			if (r < 0)
				return r;
			line = lex_new(parser->rest, parser->n_rest);
			parser->n_rest = 0;
		}
		int r = parse_line(parser, &line, err);
		if (r < 0)
			return r;
	}
	return keep_rest(parser, l.p, lex_left(&l), err);
}

int proc_maps_end(struct proc_maps_parser *parser, struct ferry_error *err)
{
	return parser->n_rest ? lex_short(err, "maps", "the end of its last line") : 0;
}

int proc_maps_parse(const char *text, size_t n, struct proc_maps *ret_maps, struct ferry_error *err)
{
	struct proc_maps_parser parser;
	proc_maps_begin(&parser, ret_maps);
	int r = proc_maps_feed(&parser, text, n, err);
	if (!r)
		r = proc_maps_end(&parser, err);
	proc_maps_parser_release(&parser);
	return r;
}

int proc_maps_add_query(struct proc_maps *maps, const struct procmap_query *query, const char *name,
			struct ferry_error *err)
{
	static const struct {
		uint64_t query;
		uint8_t prot;
	} prots[] = {
		{PROCMAP_QUERY_VMA_READABLE, PROT_READ},
		{PROCMAP_QUERY_VMA_WRITABLE, PROT_WRITE},
		{PROCMAP_QUERY_VMA_EXECUTABLE, PROT_EXEC},
	};
	struct proc_vma vma = {
		.start = query->vma_start,
		.end = query->vma_end,
		.offset = query->vma_offset,
		.ino = query->inode,
		.dev = makedev(query->dev_major, query->dev_minor),
		.shared = !!(query->vma_flags & PROCMAP_QUERY_VMA_SHARED),
	};
	if (vma.start >= vma.end)
		return lex_short(err, "maps", "a sound range");
	for (size_t i = 0; i < ARRAY_SIZE(prots); i++)
		if (query->vma_flags & prots[i].query)
			vma.prot |= prots[i].prot;
	if (query->vma_page_size)
		vma.page_shift = (uint8_t)__builtin_ctzll(query->vma_page_size);
	/* the length counts the NUL */
	return maps_add(maps, &vma, lex_new(name, query->vma_name_size ? query->vma_name_size - 1 : 0), err);
}
