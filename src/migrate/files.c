/* SPDX-License-Identifier: Apache-2.0 */
/* Owns moving the files of an image over the wire. The checksum of each is computed while it comes in. */
#include "migrate/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/vec.h"
#include "image/files.h"
#include "image/hash.h"

enum {
	FILES_CHUNK_BYTES = 1 << 20, /* of CHANNEL_DATA_MAX at most; more would not stay in a cache */
	FILES_MAX = 1000000,
	FILES_TELL_NS = 250000000,
};

static const char files_inventory[] = "inventory.img";

struct files_list {
	VEC(char *) names;
};

static void files_list_release(struct files_list *l)
{
	vec_foreach(name, &l->names)
		free(*name);
	vec_release(&l->names);
}

#define _cleanup_files_list_ __attribute__((cleanup(files_list_release)))

static bool files_is_image(const char *name)
{
	enum image_kind kind;
	uint64_t id;
	return image_file_parse_name(name, &kind, &id) >= 0;
}

static int files_compare(const void *a, const void *b)
{
	const char *x = *(char *const *)a, *y = *(char *const *)b;
	int x_last = !strcmp(x, files_inventory), y_last = !strcmp(y, files_inventory);
	return x_last != y_last ? x_last - y_last : strcmp(x, y);
}

static int files_list(int dir_fd, struct files_list *ret, struct ferry_error *err)
{
	int fd = fd_open(dir_fd, ".", O_RDONLY | O_DIRECTORY, 0);
	_cleanup_closedir_ DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d)
		return error_errno(err, FERRY_ERROR_SYSTEM, fd < 0 ? -fd : errno,
				   "reading the images directory");
	for (struct dirent *entry; (entry = readdir(d));) {
		if (!files_is_image(entry->d_name))
			continue;
		char *copy = strdup(entry->d_name), **slot = copy ? vec_push(&ret->names) : NULL;
		if (!slot) {
			free(copy);
			return error_memory(err);
		}
		*slot = copy;
	}
	if (ret->names.n)
		qsort(ret->names.v, ret->names.n, sizeof(*ret->names.v), files_compare);
	return 0;
}

static int files_step(struct transfer *t, size_t n, struct ferry_error *err)
{
	t->bytes += n;
	t->offset += n;
	if (t->caller && getppid() != t->caller)
		return error_set(err, FERRY_ERROR_INTERRUPTED, EINTR,
				 "interrupted while the image was under way");
	uint64_t now = time_now_ns();
	if (now - t->told_ns < FILES_TELL_NS)
		return 0;
	t->told_ns = now;
	unsigned long long mib = t->bytes >> 20, of = t->expected_bytes >> 20;
	if (t->expected_bytes)
		log_write(t->log, LOG_PROGRESS, "progress", NULL, 0, "image: %llu of about %llu MiB", mib,
			  of);
	else
		log_write(t->log, LOG_PROGRESS, "progress", NULL, 0, "image: %llu MiB", mib);
	return 0;
}

/* While we send, the other side has nothing to say but that something is wrong. */
static int files_listen(struct wire *w, struct ferry_error *err)
{
	if (!channel_has_input(w->channel))
		return 0;
	int r = wire_receive(w, err);
	return r < 0 ? r : wire_unexpected(w, err);
}

/* Sending failed: what it said before tells more. */
static int files_last_words(struct wire *w, int r, struct ferry_error *err)
{
	struct ferry_error said = FERRY_ERROR_INIT;
	if (r >= 0)
		return r;
	if (err->id == FERRY_ERROR_PEER_GONE && files_listen(w, &said) < 0 &&
	    said.id != FERRY_ERROR_PEER_GONE)
		*err = said;
	return r;
}

/* ------------------------------------------------------------------ sending */

static int files_begin(void *context, const char *name, struct ferry_error *err)
{
	struct transfer *t = context;
	MigrateFile file = MIGRATE_FILE__INIT;
	MigrateMessage m = MIGRATE_MESSAGE__INIT;
	if (!t->files)
		t->start_ns = t->told_ns = time_now_ns();
	t->files++;
	t->offset = 0;
	file.name = (char *)name;
	m.file = &file;
	return files_last_words(t->wire, wire_send(t->wire, MIGRATE_KIND__FILE, &m, err), err);
}

static int files_put(struct transfer *t, const void *bytes, size_t n, struct ferry_error *err)
{
	MigrateData data = MIGRATE_DATA__INIT;
	MigrateMessage m = MIGRATE_MESSAGE__INIT;
	data.offset = t->offset;
	m.kind = MIGRATE_KIND__DATA;
	m.data = &data;
	int r = files_listen(t->wire, err);
	if (r < 0)
		return r;
	if (fault_hit(t->fault, FAULT_TRANSFER))
		return error_set(err, FERRY_ERROR_FAULT, EIO, "sending the image: fault injected");
	r = files_last_words(t->wire, wire_send_data(t->wire, &m, bytes, n, err), err);
	return r < 0 ? r : files_step(t, n, err);
}

static int files_write(void *context, const void *bytes, size_t n, struct ferry_error *err)
{
	int r = 0;
	for (size_t at = 0, piece; at < n && r >= 0; at += piece) {
		piece = MIN(n - at, (size_t)FILES_CHUNK_BYTES);
		r = files_put(context, (const char *)bytes + at, piece, err);
	}
	return r;
}

struct image_sink files_sink(struct transfer *t)
{
	return (struct image_sink){.begin = files_begin, .write = files_write, .context = t};
}

static int files_send_one(struct transfer *t, int dir_fd, const char *name, char *buffer,
			  struct ferry_error *err)
{
	struct stat st;
	_cleanup_close_ int fd = fd_open(dir_fd, name, O_RDONLY | O_NOFOLLOW, 0);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -fd, "opening '%s' of the image", name);
	if (fstat(fd, &st) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "asking for the size of '%s'", name);
	uint64_t size = (uint64_t)st.st_size;
	int r = files_begin(t, name, err);
	while (r >= 0 && t->offset < size) {
		size_t n = (size_t)MIN(size - t->offset, (uint64_t)FILES_CHUNK_BYTES);
		r = fd_pread_all(fd, buffer, n, t->offset);
		r = r < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -r, "reading '%s' of the image", name)
			  : files_put(t, buffer, n, err);
	}
	return r;
}

int files_send_image(struct transfer *t, int dir_fd, struct ferry_error *err)
{
	_cleanup_files_list_ struct files_list list = {0};
	_cleanup_free_ char *buffer = malloc(FILES_CHUNK_BYTES);
	if (!buffer)
		return error_memory(err);
	int r = files_list(dir_fd, &list, err);
	for (size_t i = 0; i < list.names.n && r >= 0; i++)
		r = files_send_one(t, dir_fd, list.names.v[i], buffer, err);
	if (r < 0)
		return r;
	MigrateImageEnd end = MIGRATE_IMAGE_END__INIT;
	MigrateMessage m = MIGRATE_MESSAGE__INIT;
	end.files = t->files;
	end.bytes = t->bytes;
	m.image_end = &end;
	return files_last_words(t->wire, wire_send(t->wire, MIGRATE_KIND__IMAGE_END, &m, err), err);
}

/* ---------------------------------------------------------------- receiving */

void transfer_release(struct transfer *t)
{
	vec_release(&t->seen);
}

static int files_bad(struct ferry_error *err, const char *what)
{
	return error_set(err, FERRY_ERROR_PROTOCOL, EBADMSG, "the other side sent %s", what);
}

static int files_write_failed(struct ferry_error *err, int code)
{
	if (code != ENOSPC && code != EDQUOT)
		return error_errno(err, FERRY_ERROR_SYSTEM, code, "writing the image");
	error_set(err, FERRY_ERROR_NO_SPACE, code, "the image does not fit: the file system is full");
	error_hint(err, "free some space, or choose another directory with --images-dir");
	return -code;
}

/* The file that comes in, and its checksum, so that nobody has to read it for that. */
struct incoming {
	struct transfer *t;
	int dir_fd;
	int fd; /* -1 before the first */
	struct image_hash *hash;
};

static void incoming_end(struct incoming *in)
{
	if (in->fd < 0)
		return;
	struct image_seen *seen = &in->t->seen.v[in->t->seen.n - 1];
	seen->size = in->t->offset;
	seen->checksum = image_hash_end(in->hash);
	close(in->fd);
	in->fd = -1;
}

static int incoming_begin(struct incoming *in, const MigrateFile *file, struct ferry_error *err)
{
	struct transfer *t = in->t;
	incoming_end(in);
	if (!file || !files_is_image(file->name))
		return files_bad(err, "a file that is none of an image");
	if (t->files >= FILES_MAX)
		return files_bad(err, "too much");
	in->fd = fd_open(in->dir_fd, file->name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
	if (in->fd == -EEXIST)
		return files_bad(err, "a file twice, or the directory is not empty");
	if (in->fd < 0)
		return files_write_failed(err, -in->fd);
	struct image_seen *seen = vec_push(&t->seen);
	if (!seen) {
		close(in->fd);
		in->fd = -1;
		return error_memory(err);
	}
	snprintf(seen->name, sizeof(seen->name), "%s", file->name);
	if (!t->files)
		t->start_ns = t->told_ns = time_now_ns();
	t->files++;
	t->offset = 0;
	return 0;
}

static int incoming_data(struct incoming *in, const MigrateData *data, struct ferry_error *err)
{
	struct transfer *t = in->t;
	const struct frame *frame = &t->wire->frame;
	size_t n = frame->data_bytes;
	if (!data || in->fd < 0 || data->offset != t->offset || !n || n > (uint64_t)INT64_MAX - t->offset)
		return files_bad(err, "data that does not fit its file");
	int r = fault_hit(t->fault, FAULT_RECEIVE) ? -ENOSPC
						   : fd_pwrite_all(in->fd, frame->data, n, t->offset);
	if (r < 0)
		return files_write_failed(err, -r);
	image_hash_add(in->hash, frame->data, n);
	return files_step(t, n, err);
}

/* 1: that was all. */
static int incoming_message(struct incoming *in, struct ferry_error *err)
{
	const MigrateMessage *m = in->t->wire->message;
	const MigrateImageEnd *end = m->image_end;
	switch (m->kind) {
	case MIGRATE_KIND__FILE: return incoming_begin(in, m->file, err);
	case MIGRATE_KIND__DATA: return incoming_data(in, m->data, err);
	case MIGRATE_KIND__IMAGE_END:
		if (!end || end->files != in->t->files || end->bytes != in->t->bytes)
			return files_bad(err, "an end that does not fit");
		incoming_end(in);
		return 1;
	case MIGRATE_KIND__ABORT:
		return error_set(err, FERRY_ERROR_INTERRUPTED, ECANCELED, "the source gave up");
	default: return wire_unexpected(in->t->wire, err);
	}
}

int files_receive_image(struct transfer *t, int dir_fd, struct ferry_error *err)
{
	_cleanup_image_hash_ struct image_hash *hash = image_hash_new();
	struct incoming in = {.t = t, .dir_fd = dir_fd, .fd = -1, .hash = hash};
	if (!hash)
		return error_memory(err);
	int r = 0;
	while (!r) {
		r = wire_receive(t->wire, err);
		if (r >= 0)
			r = incoming_message(&in, err);
	}
	if (in.fd >= 0)
		close(in.fd);
	return r < 0 ? r : 0;
}
