/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the overview of an image for people. */
#include "image/show.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/objects.h"
#include "image/pages.h"
#include "image/proto/core.pb-c.h"
#include "image/proto/fdinfo.pb-c.h"
#include "image/proto/inventory.pb-c.h"
#include "image/proto/mm.pb-c.h"
#include "image/proto/pstree.pb-c.h"

static const char *size_text(uint64_t bytes, char text[32])
{
	static const char units[] = "KMGT";
	double value = (double)bytes;
	int unit = -1;
	while (value >= 1024 && unit < 3) {
		value /= 1024;
		unit++;
	}
	if (unit < 0)
		snprintf(text, 32, "%" PRIu64 " B", bytes);
	else
		snprintf(text, 32, "%.1f %ciB", value, units[unit]);
	return text;
}

static int written(FILE *out, struct ferry_error *err)
{
	if (fflush(out) == 0 && !ferror(out))
		return 0;
	return error_errno(err, FERRY_ERROR_SYSTEM, errno ? errno : EIO, "cannot write the output");
}

/* ---- info ---- */

/* Messages in a file; a pagemap's head does not count. */
static int count_entries(struct image_reader *r, enum image_kind kind, uint64_t *ret, struct ferry_error *err)
{
	const struct image_file_info *info = image_file_info(kind);
	uint64_t n = 0;
	for (;; n++) {
		_cleanup_message_ ProtobufCMessage *message = NULL;
		int r_code = image_get(r, image_type_at(info, (size_t)n), &message, err);
		if (r_code < 0)
			return r_code;
		if (r_code == 0)
			break;
		r_code = image_skip_payload(r, info, message, err);
		if (r_code < 0)
			return r_code;
	}
	*ret = n - (n && info->layout == IMAGE_LAYOUT_PAGEMAP);
	return 0;
}

int image_show_info(struct image_dir *dir, FILE *out, struct ferry_error *err)
{
	_cleanup_free_ struct image_dir_file *files = NULL;
	size_t n;
	int r = image_dir_list(dir, &files, &n, err);
	if (r < 0)
		return r;
	fprintf(out, "%-28s %-18s %10s %14s\n", "file", "magic", "entries", "bytes");
	for (size_t i = 0; i < n; i++) {
		const struct image_file_info *info = image_file_info(files[i].kind);
		char name[IMAGE_NAME_MAX];
		image_file_name(files[i].kind, files[i].id, name);
		if (info->layout == IMAGE_LAYOUT_RAW) {
			fprintf(out, "%-28s %-18s %10s %14" PRIu64 "\n", name, info->word, "-",
				files[i].size);
			continue;
		}
		_cleanup_reader_ struct image_reader *reader = NULL;
		uint64_t entries = 0;
		r = image_open(dir, files[i].kind, files[i].id, &reader, err);
		if (r == 0)
			r = count_entries(reader, files[i].kind, &entries, err);
		if (r < 0)
			return r;
		fprintf(out, "%-28s %-18s %10" PRIu64 " %14" PRIu64 "\n", name,
			image_file_magic_word(files[i].kind), entries, files[i].size);
	}
	return written(out, err);
}

int image_show_file_info(int at_fd, const char *path, FILE *out, struct ferry_error *err)
{
	_cleanup_reader_ struct image_reader *reader = NULL;
	enum image_kind kind;
	uint64_t entries = 0;
	int fd = fd_open(at_fd, path, O_RDONLY | O_NONBLOCK, 0);
	if (fd < 0)
		return error_errno(err, fd == -ENOENT ? FERRY_ERROR_IMAGE_MISSING : FERRY_ERROR_SYSTEM, -fd,
				   "cannot open '%s'", path);
	int r = image_open_any(fd, path, &kind, &reader, err);
	if (r < 0)
		return r;
	uint64_t bytes = image_reader_offset(reader) + image_reader_left(reader);
	fprintf(out, "{\n    \"magic\": \"%s\",\n", image_file_magic_word(kind));
	if (image_file_info(kind)->layout != IMAGE_LAYOUT_RAW) {
		r = count_entries(reader, kind, &entries, err);
		if (r < 0)
			return r;
		fprintf(out, "    \"count\": %" PRIu64 ",\n", entries);
	}
	fprintf(out, "    \"bytes\": %" PRIu64 "\n}\n", bytes);
	return written(out, err);
}

/* ---- overview ---- */

struct overview {
	struct image_dir *dir;
	FILE *out;
	struct ferry_error *err;
	struct image_messages files;
	uint64_t stored_pages;
};

static const char *type_word(FdTypes type)
{
	const ProtobufCEnumValue *value =
		protobuf_c_enum_descriptor_get_value(&fd_types__descriptor, (int)type);
	return value ? value->name : "?";
}

static void show_address(FILE *out, const uint32_t *words, size_t n, uint32_t port)
{
	const uint8_t *b = (const uint8_t *)words;
	if (n == 1) {
		fprintf(out, "%u.%u.%u.%u:%u", b[0], b[1], b[2], b[3], port);
		return;
	}
	fputc('[', out);
	for (size_t i = 0; i + 1 < n * 4; i += 2)
		fprintf(out, "%s%x", i ? ":" : "", b[i] << 8 | b[i + 1]);
	fprintf(out, "]:%u", port);
}

/* Names come from the dumped programs: control characters must not reach a terminal. */
static void show_name(FILE *out, const void *name, size_t n)
{
	const uint8_t *p = name;
	for (size_t i = 0; i < n; i++) {
		if (p[i] >= ' ' && p[i] != 0x7f)
			fputc(p[i], out);
		else if (p[i] || i + 1 < n)
			fprintf(out, p[i] ? "\\x%02x" : "@", p[i]);
	}
}

static void show_inet(FILE *out, const InetSkEntry *sk)
{
	fprintf(out, "%s ", sk->proto == 6 ? "tcp" : sk->proto == 17 ? "udp" : "inet");
	show_address(out, sk->src_addr, sk->n_src_addr, sk->src_port);
	if (sk->dst_port) {
		fputs(" - ", out);
		show_address(out, sk->dst_addr, sk->n_dst_addr, sk->dst_port);
	}
}

static void show_file(FILE *out, const FileEntry *file)
{
	if (!file)
		fputs("(not in files.img)", out);
	else if (file->reg)
		show_name(out, file->reg->name, strlen(file->reg->name));
	else if (file->isk)
		show_inet(out, file->isk);
	else if (file->usk && file->usk->name.len)
		show_name(out, file->usk->name.data, file->usk->name.len);
	else if (file->usk)
		fprintf(out, "unnamed, inode %u, peer %u", file->usk->ino, file->usk->peer);
	else if (file->pipe)
		fprintf(out, "pipe %u, %s end", file->pipe->pipe_id,
			file->pipe->flags & O_WRONLY ? "write" : "read");
	else if (file->efd)
		fprintf(out, "counter %" PRIu64, file->efd->counter);
	else if (file->epfd)
		fprintf(out, "watches %zu", file->epfd->n_tfd);
	else if (file->tfd)
		fprintf(out, "clock %u", file->tfd->clockid);
	else if (file->sgfd)
		fprintf(out, "signals 0x%" PRIx64, file->sgfd->sigmask);
	else
		fprintf(out, "id %u", file->id);
}

static int show_descriptors(struct overview *o, uint32_t files_id)
{
	_cleanup_messages_ struct image_messages table = {0};
	int r = image_messages_read(o->dir, IMAGE_FDINFO, files_id, &table, o->err);
	if (r < 0)
		return r;
	fprintf(o->out, "  descriptors: %zu (table %u)\n", table.list.n, files_id);
	vec_foreach(message, &table.list) {
		const FdinfoEntry *fd = (const FdinfoEntry *)*message;
		fprintf(o->out, "    %5u  %-10s ", fd->fd, type_word(fd->type));
		show_file(o->out, image_files_find(&o->files, fd->id));
		fputc('\n', o->out);
	}
	return 0;
}

static int show_pages(struct overview *o, enum image_kind kind, uint64_t id, uint64_t mapped)
{
	_cleanup_pages_reader_ struct image_pages_reader *reader = NULL;
	char a[32], b[32], c[32];
	if (!image_dir_has(o->dir, kind, id))
		return 0;
	int r = image_pages_open(o->dir, kind, id, &reader, o->err);
	if (r < 0)
		return r;
	uint64_t stored = 0, elsewhere = 0, runs = 0;
	struct image_run run;
	while ((r = image_pages_next(reader, &run, o->err)) > 0) {
		*(run.flags & IMAGE_PE_PRESENT ? &stored : &elsewhere) += run.nr_pages;
		runs++;
	}
	if (r < 0)
		return r;
	o->stored_pages += stored;
	if (kind == IMAGE_PAGEMAP && mapped)
		fprintf(o->out, "  memory: %s mapped, ", size_text(mapped, a));
	else
		fprintf(o->out, kind == IMAGE_PAGEMAP ? "task %" PRIu64 ": " : "shared object %" PRIu64 ": ",
			id);
	fprintf(o->out, "%s stored in %" PRIu64 " runs (pages-%u.img)",
		size_text(stored * IMAGE_PAGE_BYTES, b), runs, image_pages_id(reader));
	if (elsewhere)
		fprintf(o->out, ", %s elsewhere", size_text(elsewhere * IMAGE_PAGE_BYTES, c));
	fputc('\n', o->out);
	return 0;
}

static int show_memory(struct overview *o, uint32_t pid)
{
	_cleanup_messages_ struct image_messages mm = {0};
	int r = image_messages_read(o->dir, IMAGE_MM, pid, &mm, o->err);
	if (r < 0 || !mm.list.n)
		return r;
	const MmEntry *entry = (const MmEntry *)mm.list.v[0];
	uint64_t mapped = 0;
	for (size_t i = 0; i < entry->n_vmas; i++)
		mapped += entry->vmas[i]->end - entry->vmas[i]->start;
	fputs("  program: ", o->out);
	show_file(o->out, image_files_find(&o->files, entry->exe_file_id));
	fprintf(o->out, "\n  mappings: %zu\n", entry->n_vmas);
	if (!image_dir_has(o->dir, IMAGE_PAGEMAP, pid))
		fputs("  memory: that of another task\n", o->out);
	return show_pages(o, IMAGE_PAGEMAP, pid, mapped);
}

static const char *state_word(uint32_t state)
{
	return state == 1 ? "alive" : state == 2 || state == 3 ? "zombie" : state == 6 ? "stopped" : "?";
}

static int show_task(struct overview *o, const PstreeEntry *task)
{
	_cleanup_messages_ struct image_messages core = {0};
	_cleanup_messages_ struct image_messages ids = {0};
	int r = image_messages_read(o->dir, IMAGE_CORE, task->pid, &core, o->err);
	if (r == 0)
		r = image_messages_read(o->dir, IMAGE_IDS, task->pid, &ids, o->err);
	if (r < 0)
		return r;
	const CoreEntry *entry = core.list.n ? (const CoreEntry *)core.list.v[0] : NULL;
	fprintf(o->out, "task %u", task->pid);
	if (entry && entry->tc) {
		fputs(" (", o->out);
		show_name(o->out, entry->tc->comm, strlen(entry->tc->comm));
		fprintf(o->out, "), %s", state_word(entry->tc->task_state));
	}
	fprintf(o->out, ": parent %u, group %u, session %u, threads %zu\n", task->ppid, task->pgid, task->sid,
		task->n_threads);
	r = show_memory(o, task->pid);
	if (r < 0)
		return r;
	return ids.list.n ? show_descriptors(o, ((const TaskKobjIdsEntry *)ids.list.v[0])->files_id) : 0;
}

/* The images that this one builds on, the youngest first. */
static int show_chain(struct overview *o)
{
	struct image_dir *dir = o->dir;
	int r;
	while ((r = image_dir_parent(dir, &dir, o->err)) == 0 && dir) {
		char target[PATH_MAX] = "";
		if (!realpath(image_dir_path(dir), target))
			snprintf(target, sizeof(target), "%s", image_dir_path(dir));
		fprintf(o->out, "  builds on %s", target);
		if (image_dir_has_manifest(dir)) {
			image_dir_id_text(dir, target);
			fprintf(o->out, ", id %s", target);
		}
		fputc('\n', o->out);
	}
	return r;
}

static int show_head(struct overview *o)
{
	_cleanup_messages_ struct image_messages inventory = {0};
	int r = image_messages_read(o->dir, IMAGE_INVENTORY, 0, &inventory, o->err);
	if (r < 0)
		return r;
	const InventoryEntry *entry = inventory.list.n ? (const InventoryEntry *)inventory.list.v[0] : NULL;
	fprintf(o->out, "image %s: format %u", image_dir_path(o->dir), entry ? entry->img_version : 0);
	if (image_dir_has_manifest(o->dir)) {
		char text[37];
		image_dir_id_text(o->dir, text);
		fprintf(o->out, ", id %s, checksums agree", text);
	} else {
		fputs(", no manifest", o->out);
	}
	fputs(image_dir_is_spent(o->dir) == 1 ? ", restored before\n" : "\n", o->out);
	return show_chain(o);
}

static int show_pagemaps(struct overview *o, enum image_kind kind)
{
	_cleanup_free_ struct image_dir_file *files = NULL;
	size_t n;
	int r = image_dir_list(o->dir, &files, &n, o->err);
	for (size_t i = 0; r == 0 && i < n; i++)
		if (files[i].kind == kind)
			r = show_pages(o, kind, files[i].id, 0);
	return r;
}

/* What a pre-dump leaves. */
static int show_round(struct overview *o)
{
	char text[32];
	int r = show_pagemaps(o, IMAGE_PAGEMAP);
	if (r == 0)
		r = show_pagemaps(o, IMAGE_SHMEM_PAGEMAP);
	if (r < 0)
		return r;
	fprintf(o->out, "a round before a dump, memory stored: %s\n",
		size_text(o->stored_pages * IMAGE_PAGE_BYTES, text));
	return written(o->out, o->err);
}

static int show_all(struct overview *o)
{
	_cleanup_messages_ struct image_messages tree = {0};
	int r = show_head(o);
	if (r == 0 && !image_dir_has(o->dir, IMAGE_PSTREE, 0) && !image_dir_has(o->dir, IMAGE_FILES, 0))
		return show_round(o);
	if (r == 0)
		r = image_messages_read(o->dir, IMAGE_FILES, 0, &o->files, o->err);
	if (r == 0)
		r = image_messages_read(o->dir, IMAGE_PSTREE, 0, &tree, o->err);
	if (r < 0)
		return r;
	image_files_sort(&o->files);
	vec_foreach(task, &tree.list) {
		r = show_task(o, (const PstreeEntry *)*task);
		if (r < 0)
			return r;
	}
	r = show_pagemaps(o, IMAGE_SHMEM_PAGEMAP);
	if (r < 0)
		return r;
	char text[32];
	fprintf(o->out, "tasks: %zu, file descriptions: %zu, memory stored: %s\n", tree.list.n,
		o->files.list.n, size_text(o->stored_pages * IMAGE_PAGE_BYTES, text));
	return written(o->out, o->err);
}

int image_show(struct image_dir *dir, FILE *out, struct ferry_error *err)
{
	struct overview o = {.dir = dir, .out = out, .err = err};
	int r = show_all(&o);
	image_messages_release(&o.files);
	return r;
}
