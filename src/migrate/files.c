/* SPDX-License-Identifier: Apache-2.0 */
/* Owns moving the files of an image over the wire. Checksums are the channel's; the image's own come on top. */
#include "migrate/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/vec.h"
#include "image/files.h"

enum {
	FILES_CHUNK_BYTES = 4 << 20, /* of CHANNEL_DATA_MAX at most; larger ones are no faster */
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
	if (t->caller && getppid() != t->caller)
		return error_set(err, FERRY_ERROR_INTERRUPTED, EINTR,
				 "interrupted while the image was under way");
	uint64_t now = time_now_ns();
	if (now - t->told_ns < FILES_TELL_NS)
		return 0;
	t->told_ns = now;
	unsigned long long mib = t->bytes >> 20, of = t->expected_bytes >> 20;
	if (t->expected_bytes)
		log_write(t->log, LOG_INFO, "progress", NULL, 0, "image: %llu of about %llu MiB", mib, of);
	else
		log_write(t->log, LOG_INFO, "progress", NULL, 0, "image: %llu MiB", mib);
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
	if (err->id == FERRY_ERROR_PEER_GONE && files_listen(w, &said) < 0 &&
	    said.id != FERRY_ERROR_PEER_GONE)
		*err = said;
	return r;
}

static int files_send_data(struct wire *w, int fd, const char *name, uint64_t size, char *buffer,
			   struct transfer *t, struct ferry_error *err)
{
	for (uint64_t offset = 0; offset < size;) {
		size_t n = (size_t)MIN(size - offset, (uint64_t)FILES_CHUNK_BYTES);
		MigrateData data = MIGRATE_DATA__INIT;
		MigrateMessage m = MIGRATE_MESSAGE__INIT;
		data.offset = offset;
		m.kind = MIGRATE_KIND__DATA;
		m.data = &data;
		int r = fd_pread_all(fd, buffer, n, offset);
		if (r < 0)
			return error_errno(err, FERRY_ERROR_SYSTEM, -r, "reading '%s' of the image", name);
		r = files_listen(w, err);
		if (r < 0)
			return r;
		r = fault_hit(t->fault, FAULT_TRANSFER)
			    ? error_set(err, FERRY_ERROR_FAULT, EIO, "sending the image: fault injected")
			    : wire_send_data(w, &m, buffer, n, err);
		if (r >= 0)
			r = files_step(t, n, err);
		if (r < 0)
			return r;
		offset += n;
	}
	return 0;
}

static int files_send_one(struct wire *w, int dir_fd, const char *name, char *buffer, struct transfer *t,
			  struct ferry_error *err)
{
	struct stat st;
	MigrateFile file = MIGRATE_FILE__INIT;
	MigrateMessage m = MIGRATE_MESSAGE__INIT;
	_cleanup_close_ int fd = fd_open(dir_fd, name, O_RDONLY | O_NOFOLLOW, 0);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -fd, "opening '%s' of the image", name);
	if (fstat(fd, &st) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "asking for the size of '%s'", name);
	file.name = (char *)name;
	file.size = (uint64_t)st.st_size;
	m.file = &file;
	int r = wire_send(w, MIGRATE_KIND__FILE, &m, err);
	t->files++;
	return r < 0 ? r : files_send_data(w, fd, name, file.size, buffer, t, err);
}

int files_send_image(struct wire *w, int dir_fd, struct transfer *t, struct ferry_error *err)
{
	_cleanup_files_list_ struct files_list list = {0};
	_cleanup_free_ char *buffer = malloc(FILES_CHUNK_BYTES);
	if (!buffer)
		return error_memory(err);
	t->told_ns = time_now_ns();
	int r = files_list(dir_fd, &list, err);
	for (size_t i = 0; i < list.names.n && r >= 0; i++)
		r = files_send_one(w, dir_fd, list.names.v[i], buffer, t, err);
	if (r < 0)
		return files_last_words(w, r, err);
	MigrateImageEnd end = MIGRATE_IMAGE_END__INIT;
	MigrateMessage m = MIGRATE_MESSAGE__INIT;
	end.files = t->files;
	end.bytes = t->bytes;
	m.image_end = &end;
	return wire_send(w, MIGRATE_KIND__IMAGE_END, &m, err);
}

/* ---------------------------------------------------------------- receiving */

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

static int files_receive_data(struct wire *w, int fd, uint64_t size, struct transfer *t,
			      struct ferry_error *err)
{
	for (uint64_t offset = 0; offset < size;) {
		int r = wire_expect(w, MIGRATE_KIND__DATA, err);
		if (r < 0)
			return r;
		const MigrateData *data = w->message->data;
		size_t n = w->frame.data_bytes;
		if (!data || data->offset != offset || !n || n > size - offset)
			return files_bad(err, "data that does not fit its file");
		r = fault_hit(t->fault, FAULT_RECEIVE) ? -ENOSPC
						       : fd_pwrite_all(fd, w->frame.data, n, offset);
		if (r < 0)
			return files_write_failed(err, -r);
		r = files_step(t, n, err);
		if (r < 0)
			return r;
		offset += n;
	}
	return 0;
}

static int files_receive_one(struct wire *w, int dir_fd, struct transfer *t, struct ferry_error *err)
{
	const MigrateFile *file = w->message->file;
	if (!file || !files_is_image(file->name))
		return files_bad(err, "a file that is none of an image");
	if (file->size > (uint64_t)INT64_MAX || t->files >= FILES_MAX)
		return files_bad(err, "too much");
	_cleanup_close_ int fd = fd_open(dir_fd, file->name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
	if (fd == -EEXIST)
		return files_bad(err, "a file twice, or the directory is not empty");
	if (fd < 0)
		return files_write_failed(err, -fd);
	t->files++;
	return files_receive_data(w, fd, file->size, t, err);
}

int files_receive_image(struct wire *w, int dir_fd, struct transfer *t, struct ferry_error *err)
{
	t->told_ns = time_now_ns();
	for (;;) {
		int r = wire_receive(w, err);
		if (r < 0)
			return r;
		if (w->message->kind == MIGRATE_KIND__IMAGE_END) {
			const MigrateImageEnd *end = w->message->image_end;
			return end && end->files == t->files && end->bytes == t->bytes
				       ? 0
				       : files_bad(err, "an end that does not fit");
		}
		if (w->message->kind == MIGRATE_KIND__ABORT)
			return error_set(err, FERRY_ERROR_INTERRUPTED, ECANCELED, "the source gave up");
		if (w->message->kind != MIGRATE_KIND__FILE)
			return wire_unexpected(w, err);
		r = files_receive_one(w, dir_fd, t, err);
		if (r < 0)
			return r;
	}
}
