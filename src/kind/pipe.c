/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns anonymous pipes: their capacity, the bytes in them, who may open them again by /proc, and the
 * descriptions of both ends with flags and owner. The bytes are copied by tee(2), which leaves them where
 * they are. A restore builds a pipe at once when the first of its descriptions is asked for: pipe2(2) gives
 * one description of each end, the others come from opening /proc/self/fd/N. Where the image has descriptions
 * of one end only, the other is closed and the reader sees the end of file, the writer EPIPE, as before. Packets
 * (O_DIRECT) keep their bounds, because a copy by tee(2) does.
 *
 * Kernel interface: fcntl(2) F_GETPIPE_SZ, F_SETPIPE_SZ (2.6.35), ioctl FIONREAD, tee(2), poll(2), fchown(2), pipe2(2)
 * O_DIRECT (3.4), ioctl IOC_WATCH_QUEUE_SET_SIZE (5.8) with a size that does nothing.
 * Does not handle: notification pipes (watch_queue), refused; packets in a pipe that is in packet mode no more, which
 * come back as bytes; the boundaries of pages in a pipe, which matter only to how full it can get; bytes in a pipe
 * that has no reader, which nobody can read.
 */
#include "kind/pipe.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/dir.h"
#include "image/proto/pipe-data.pb-c.h"
#include "kernel/syscalls.h"
#include "kind/external.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "kind/peers.h"
#include "model/record.h"
#include "model/records.h"

#ifndef IOC_WATCH_QUEUE_SET_SIZE /* linux/watch_queue.h */
#define IOC_WATCH_QUEUE_SET_SIZE _IO('W', 0x60)
#endif

enum { PIPE_BUCKETS = 1024, PIPE_MODE = 0600, PIPE_MODE_BITS = 07777 };

/* A pipe of the frozen tree. */
struct pipe_found {
	struct pipe_found *next; /* in its bucket */
	uint64_t ino;
	uint32_t bytes, size;
	uid_t uid;
	gid_t gid;
	mode_t mode;
	int reader;                  /* copy of a description that can be read, kept by its file; -1 = none */
	bool has_reader, has_writer; /* in the tree */
	bool any_reader, any_writer; /* anywhere, as the kernel says */
	bool in_packets;             /* some description is in packet mode */
	uint32_t *packets;           /* their lengths, in order */
	size_t n_packets;
	bool dumped;
};

struct pipe_table {
	struct pipe_found *buckets[PIPE_BUCKETS];
};

/* A pipe of the image. */
struct pipe_plan {
	uint32_t id;
	struct pipe_bytes bytes;
	const FerryPipeEntry *extra;
	struct plan_file **files; /* its descriptions */
	size_t n_files;
};

struct pipe_plans {
	struct pipe_plan *v; /* ascending by id */
	size_t n;
};

static bool pipe_owns(const struct fd_view *view)
{
	return S_ISFIFO(view->stat.st_mode) && !strncmp(view->link, "pipe:[", 6);
}

/* Every pipe knows the call, one of notifications alone refuses the size and not the pipe. */
static bool pipe_is_watch_queue(const struct fd_view *view)
{
	int fd = view->copy >= 0 ? fd_dup(view->copy, 3) : sys_pidfd_getfd(view->pidfd, view->fd);
	bool is =
		fd >= 0 && ioctl(fd, IOC_WATCH_QUEUE_SET_SIZE, 0) < 0 && (errno == EINVAL || errno == EBUSY);
	if (fd >= 0)
		close(fd);
	return is;
}

static int pipe_check(const struct fd_view *view, const struct kind_options *options, struct ferry_error *err)
{
	char who[64];
	fd_view_name(view, who, sizeof(who));
	if (view->info->flags & O_PATH)
		return error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP, "%s: '%s' was opened with O_PATH",
				 who, view->link);
	if (pipe_is_watch_queue(view)) {
		error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
			  "%s: '%s' is a pipe of notifications (watch_queue)", who, view->link);
		error_hint(err, "the kernel tells neither what it watches nor its filter");
		return -ENOTSUP;
	}
	/* CRIU dumps such a pipe; container engines rely on it and connect the other end themselves. */
	return options->criu_compat ? 0 : peers_refuse(view, PEER_PIPE, err);
}

/* ------------------------------------------------------------------ collect and dump */

static int pipe_measure(struct pipe_found *p, const struct fd_view *view, struct ferry_error *err)
{
	int bytes = 0, size = fcntl(view->copy, F_GETPIPE_SZ);
	struct pollfd poll_fd = {.fd = view->copy, .events = POLLIN | POLLOUT};
	if (size < 0 || ioctl(view->copy, FIONREAD, &bytes) < 0 || poll(&poll_fd, 1, 0) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "fd %d of pid %d: measuring the pipe",
				   view->fd, view->pid);
	int access = (int)view->info->flags & O_ACCMODE;
	p->size = (uint32_t)size;
	p->bytes = (uint32_t)bytes;
	p->in_packets |= view->info->flags & O_DIRECT;
	p->has_reader |= access != O_WRONLY;
	p->has_writer |= access != O_RDONLY;
	/* A reader sees POLLHUP when no writer is left, a writer POLLERR when no reader is. */
	p->any_writer |= access != O_RDONLY || !(poll_fd.revents & POLLHUP);
	p->any_reader |= access != O_WRONLY || !(poll_fd.revents & POLLERR);
	return 0;
}

static struct pipe_found *pipe_find(struct collect *c, const struct fd_view *view)
{
	struct pipe_table *table = c->kind_data[KIND_pipe];
	if (!table)
		c->kind_data[KIND_pipe] = table = arena_new(&c->snap->arena, struct pipe_table);
	if (!table)
		return NULL;
	struct pipe_found **slot = &table->buckets[view->stat.st_ino % PIPE_BUCKETS];
	while (*slot && (*slot)->ino != view->stat.st_ino)
		slot = &(*slot)->next;
	struct pipe_found *p = *slot;
	if (p)
		return p;
	p = *slot = arena_new(&c->snap->arena, struct pipe_found);
	if (p) {
		p->ino = view->stat.st_ino;
		p->uid = view->stat.st_uid;
		p->gid = view->stat.st_gid;
		p->mode = view->stat.st_mode & PIPE_MODE_BITS;
		p->reader = -1;
	}
	return p;
}

static int pipe_collect(struct collect *c, struct fd_view *view, struct snap_file *file,
			struct ferry_error *err)
{
	struct pipe_found *p = pipe_find(c, view);
	PipeEntry *entry = p ? record_new(&c->snap->arena, PipeEntry, pipe_entry) : NULL;
	if (!entry)
		return error_memory(err);
	entry->id = file->entry->id;
	entry->pipe_id = (uint32_t)p->ino;
	entry->flags = fdcommon_flags(view);
	int r = fdcommon_owner(c, view, &entry->fown, err);
	if (r >= 0)
		r = fd_view_copy(view, err);
	if (r >= 0)
		r = pipe_measure(p, view, err);
	if (r < 0)
		return r;
	if (p->bytes && p->reader < 0 && (entry->flags & O_ACCMODE) != O_WRONLY) {
		p->reader = file->copy = view->copy;
		view->copy = -1;
	}
	file->entry->pipe = entry;
	file->data = p;
	return 0;
}

/* Whoever has the other end is not in the tree and was not found in /proc either. */
static int pipe_check_hidden(const struct dump *d, const struct snap_file *file, struct ferry_error *err)
{
	const struct pipe_found *p = file->data;
	bool reader = p->any_reader && !p->has_reader, writer = p->any_writer && !p->has_writer;
	if (d->options->criu_compat || (!reader && !writer))
		return 0;
	error_set(err, FERRY_ERROR_OUTSIDE_PEER, ENOTSUP,
		  "fd %d of pid %d: something outside the tree %s pipe:[%llu]", file->fd, file->pid,
		  writer ? "writes to" : "reads from", (unsigned long long)p->ino);
	error_hint(err,
		   "a process of another PID namespace holds the other end, or a socket in which it waits");
	return -ENOTSUP;
}

int pipe_resize(int fd, uint32_t size, struct ferry_error *err)
{
	if (fcntl(fd, F_SETPIPE_SZ, size) >= 0)
		return 0;
	int r = error_errno(err, FERRY_ERROR_LIMIT, errno, "making a pipe %u bytes large", size);
	error_hint(err, "raise fs.pipe-max-size (sysctl)");
	return r;
}

/* One read gives one packet, of a page at most. */
static int pipe_dump_packets(struct dump *d, struct image_writer *w, struct pipe_found *p, int fd,
			     struct ferry_error *err)
{
	char packet[PIPE_BUF];
	p->packets = arena_array(&d->snap->arena, uint32_t, p->bytes);
	if (!p->packets)
		return error_memory(err);
	for (uint32_t done = 0; done < p->bytes;) {
		ssize_t n = read(fd, packet, sizeof(packet));
		int r = n <= 0 ? error_errno(err, FERRY_ERROR_SYSTEM, n < 0 ? errno : ENODATA,
					     "reading a packet of pipe:[%llu]", (unsigned long long)p->ino)
			       : image_put_raw(w, packet, (size_t)n, err);
		if (r < 0)
			return r;
		p->packets[p->n_packets++] = (uint32_t)n;
		done += (uint32_t)n;
	}
	return 0;
}

int pipe_copy(int reader, uint32_t bytes, uint32_t size, const char *name, int *ret_fd,
	      struct ferry_error *err)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a pipe");
	_cleanup_close_ int out = ends[0], in = ends[1];
	int r = pipe_resize(in, size, err);
	if (r < 0)
		return r;
	ssize_t n = tee(reader, in, bytes, SPLICE_F_NONBLOCK);
	if (n < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "copying what is in %s", name);
	if ((uint64_t)n != bytes)
		return error_set(err, FERRY_ERROR_TARGET_CHANGED, EAGAIN, "%s has %zd bytes and had %u", name,
				 n, bytes);
	*ret_fd = take_fd(out);
	return 0;
}

/* Copy the bytes into a pipe of our own and from there into the image. */
static int pipe_dump_bytes(struct dump *d, struct image_writer *w, struct pipe_found *p,
			   struct ferry_error *err)
{
	char name[32];
	_cleanup_close_ int out = -1;
	snprintf(name, sizeof(name), "pipe:[%llu]", (unsigned long long)p->ino);
	int r = pipe_copy(p->reader, p->bytes, p->size, name, &out, err);
	if (r < 0)
		return r;
	return p->in_packets ? pipe_dump_packets(d, w, p, out, err) : image_put_from(w, out, p->bytes, err);
}

static int pipe_dump_extra(struct dump *d, const struct pipe_found *p, struct ferry_error *err)
{
	FerryPipeEntry extra = FERRY_PIPE_ENTRY__INIT;
	struct image_writer *w;
	if (!p->uid && !p->gid && p->mode == PIPE_MODE && !p->n_packets)
		return 0;
	extra.pipe_id = (uint32_t)p->ino;
	extra.uid = p->uid;
	extra.gid = p->gid;
	extra.mode = p->mode;
	extra.packets = p->packets;
	extra.n_packets = p->n_packets;
	int r = fdcommon_writer(d, IMAGE_FERRY_PIPE, &w, err);
	return r < 0 ? r : image_put(w, &extra.base, err);
}

static int pipe_dump(struct dump *d, struct snap_file *file, struct ferry_error *err)
{
	struct pipe_found *p = file->data;
	PipeDataEntry entry = PIPE_DATA_ENTRY__INIT;
	struct image_writer *w;
	if (p->dumped)
		return 0;
	int r = pipe_check_hidden(d, file, err);
	if (r >= 0)
		r = fdcommon_writer(d, IMAGE_PIPES_DATA, &w, err);
	if (r < 0)
		return r;
	p->dumped = true;
	entry.pipe_id = (uint32_t)p->ino;
	entry.bytes = p->reader >= 0 ? p->bytes : 0;
	record_set(&entry, size, p->size);
	r = image_put(w, &entry.base, err);
	if (r >= 0 && entry.bytes)
		r = pipe_dump_bytes(d, w, p, err);
	return r < 0 ? r : pipe_dump_extra(d, p, err);
}

/* -------------------------------------------------------------------------- restore */

static int pipe_by_id(const void *a, const void *b)
{
	const struct pipe_plan *x = a, *y = b;
	return x->id < y->id ? -1 : x->id > y->id;
}

static struct pipe_plan *pipe_plan(const struct plan *p, uint32_t id)
{
	const struct pipe_plans *all = p->kind_data[KIND_pipe];
	struct pipe_plan key = {.id = id};
	return all && all->n ? bsearch(&key, all->v, all->n, sizeof(key), pipe_by_id) : NULL;
}

/* One pipe_plan for each id. */
static int pipe_read_ids(struct reader *r, struct pipe_plans *all, struct ferry_error *err)
{
	struct plan *p = r->plan;
	all->v = arena_array(&p->arena, struct pipe_plan, p->n_files + 1);
	if (!all->v)
		return error_memory(err);
	size_t n = 0;
	for (size_t i = 0; i < p->n_files; i++) {
		if (p->files[i].kind != &kind_pipe)
			continue;
		if (!p->files[i].entry->pipe)
			return fdcommon_no_record(&p->files[i], err);
		all->v[n++].id = p->files[i].entry->pipe->pipe_id;
	}
	qsort(all->v, n, sizeof(*all->v), pipe_by_id);
	for (size_t i = 0; i < n; i++) {
		if (!all->n || all->v[all->n - 1].id != all->v[i].id)
			all->v[all->n++].id = all->v[i].id;
		all->v[all->n - 1].n_files++;
	}
	return 0;
}

/* The descriptions of each pipe. */
static int pipe_read_files(struct reader *r, struct pipe_plans *all, struct ferry_error *err)
{
	struct plan *p = r->plan;
	for (size_t i = 0; i < all->n; i++) {
		all->v[i].files = arena_array(&p->arena, struct plan_file *, all->v[i].n_files);
		if (!all->v[i].files)
			return error_memory(err);
		all->v[i].n_files = 0;
	}
	for (size_t i = 0; i < p->n_files; i++) {
		struct plan_file *file = &p->files[i];
		if (file->kind != &kind_pipe)
			continue;
		struct pipe_plan *pipe = pipe_plan(p, file->entry->pipe->pipe_id);
		pipe->files[pipe->n_files++] = file;
		file->data = pipe;
	}
	return 0;
}

int pipe_read_bytes(struct arena *a, struct image_reader *in, const PipeDataEntry *entry,
		    struct pipe_bytes *ret, struct ferry_error *err)
{
	if (entry->bytes > image_reader_left(in))
		return image_bad(in, err, "%u bytes of pipe %u are missing", entry->bytes, entry->pipe_id);
	if (ret->data)
		return image_bad(in, err, "pipe %u appears twice", entry->pipe_id);
	void *data = arena_alloc(a, entry->bytes + 1u);
	if (!data)
		return error_memory(err);
	*ret = (struct pipe_bytes){data, entry->bytes, entry->has_size ? entry->size : 0};
	return image_get_raw(in, data, entry->bytes, err);
}

static int pipe_take_bytes(struct reader *r, struct image_reader *in, void *record, void *context unused,
			   struct ferry_error *err)
{
	const PipeDataEntry *entry = record;
	struct pipe_plan *pipe = pipe_plan(r->plan, entry->pipe_id);
	struct pipe_bytes unknown = {0}; /* of a pipe that nobody has */
	return pipe_read_bytes(&r->plan->arena, in, entry, pipe ? &pipe->bytes : &unknown, err);
}

static bool pipe_good_packets(const struct pipe_plan *pipe, const FerryPipeEntry *entry)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < entry->n_packets; i++) {
		bytes += entry->packets[i];
		if (!entry->packets[i] || entry->packets[i] > PIPE_BUF)
			return false;
	}
	return !entry->n_packets || bytes == pipe->bytes.n;
}

static int pipe_take_extra(struct reader *r, struct image_reader *in, void *record, void *context unused,
			   struct ferry_error *err)
{
	FerryPipeEntry *entry = record;
	struct pipe_plan *pipe = pipe_plan(r->plan, entry->pipe_id);
	if (!pipe)
		return image_bad(in, err, "there is no pipe %u", entry->pipe_id);
	if (!pipe_good_packets(pipe, entry))
		return image_bad(in, err, "the packets of pipe %u are not its bytes", entry->pipe_id);
	entry->mode &= PIPE_MODE_BITS;
	pipe->extra = entry;
	return 0;
}

static int pipe_read(struct reader *r, struct ferry_error *err)
{
	struct pipe_plans *all = arena_new(&r->plan->arena, struct pipe_plans);
	if (!all)
		return error_memory(err);
	r->plan->kind_data[KIND_pipe] = all;
	int ret = pipe_read_ids(r, all, err);
	if (ret >= 0)
		ret = pipe_read_files(r, all, err);
	if (ret >= 0)
		ret = records_each(r, IMAGE_PIPES_DATA, 0, &pipe_data_entry__descriptor, pipe_take_bytes,
				   NULL, err);
	if (ret >= 0)
		ret = records_each(r, IMAGE_FERRY_PIPE, 0, &ferry_pipe_entry__descriptor, pipe_take_extra,
				   NULL, err);
	return ret;
}

/* How much the next write puts in: a packet, or all that is left. */
static uint32_t pipe_next_write(const struct pipe_plan *pipe, uint32_t done, size_t *packet)
{
	return pipe->extra && pipe->extra->n_packets ? pipe->extra->packets[(*packet)++]
						     : pipe->bytes.n - done;
}

/* More bytes than fit may come from pages that were spliced in and are larger than the kernel's own. */
static int pipe_write(const struct pipe_plan *pipe, int fd, struct ferry_error *err)
{
	uint32_t done = 0, size = (uint32_t)fcntl(fd, F_GETPIPE_SZ);
	size_t packet = 0;
	int r = 0;
	while (r >= 0 && done < pipe->bytes.n) {
		size_t at = packet;
		ssize_t n = write(fd, (const char *)pipe->bytes.data + done,
				  pipe_next_write(pipe, done, &packet));
		int code = errno;
		if (n <= 0)
			packet = at;
		if (n > 0) {
			done += (uint32_t)n;
		} else if (n < 0 && code == EAGAIN && size <= INT32_MAX / 2) {
			size *= 2;
			r = pipe_resize(fd, size, err);
		} else if (n < 0 && code != EINTR) {
			r = error_errno(err, FERRY_ERROR_RESTORE_STEP, code, "putting %u bytes into pipe %u",
					pipe->bytes.n, pipe->id);
		}
	}
	return r;
}

static int pipe_fill(const struct pipe_plan *pipe, int fd, struct ferry_error *err)
{
	int in_packets = pipe->extra && pipe->extra->n_packets ? O_DIRECT : 0;
	if (fcntl(fd, F_SETFL, O_NONBLOCK | in_packets) < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "preparing pipe %u", pipe->id);
	int r = pipe_write(pipe, fd, err);
	if (r >= 0 && fcntl(fd, F_SETFL, 0) < 0)
		r = error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "preparing pipe %u", pipe->id);
	return r;
}

static int pipe_make(const struct pipe_plan *pipe, int ends[2], struct ferry_error *err)
{
	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a pipe");
	int r = 0;
	if (pipe->bytes.size && (int)pipe->bytes.size != fcntl(ends[1], F_GETPIPE_SZ))
		r = pipe_resize(ends[1], pipe->bytes.size, err);
	if (r >= 0 && pipe->bytes.n)
		r = pipe_fill(pipe, ends[1], err);
	if (r >= 0 && pipe->extra &&
	    (fchown(ends[1], pipe->extra->uid, pipe->extra->gid) < 0 ||
	     fchmod(ends[1], pipe->extra->mode) < 0))
		r = error_errno(err, FERRY_ERROR_RESTORE_STEP, errno,
				"giving pipe %u to user %u and group %u", pipe->id, pipe->extra->uid,
				pipe->extra->gid);
	return r;
}

/* Made by pipe2(2) and not by a later open(2), which adds O_LARGEFILE. */
static bool pipe_is_first(const PipeEntry *entry, int access)
{
	return !(entry->flags & ~(uint32_t)(O_ACCMODE | O_NONBLOCK | O_ASYNC | O_DIRECT)) &&
	       (int)(entry->flags & O_ACCMODE) == access;
}

/* A further description of the pipe behind fd. */
static int pipe_open_again(const struct plan_file *file, int fd, int *ret_fd, struct ferry_error *err)
{
	char path[64];
	int access = (int)file->entry->pipe->flags & O_ACCMODE;
	if (access == O_ACCMODE)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "file id %u: flags 0x%x of a pipe make no sense", file->entry->id,
				 file->entry->pipe->flags);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	int again = fd_open(AT_FDCWD, path, access, 0);
	if (again < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -again,
				   "opening a pipe again for file id %u", file->entry->id);
	*ret_fd = again;
	return 0;
}

/* Every description of the pipe behind base, except those that are there already. */
static int pipe_open_all(struct pipe_plan *pipe, int base, struct ferry_error *err)
{
	for (size_t i = 0; i < pipe->n_files; i++) {
		struct plan_file *file = pipe->files[i];
		if (file->fd >= 0)
			continue;
		int r = pipe_open_again(file, base, &file->fd, err);
		if (r >= 0)
			r = fdcommon_set_flags(file->fd, file->entry->pipe->flags, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Who has the other end of a pipe to the outside gives one that stands for it, or anything else; what was in the pipe is with the other end. */
static int pipe_take_given(struct pipe_plan *pipe, int given, struct ferry_error *err)
{
	struct stat st;
	int flags = fcntl(given, F_GETFL);
	if (flags < 0 || fstat(given, &st) < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "the descriptor %d for pipe %u",
				   given, pipe->id);
	for (size_t i = 0; i < pipe->n_files; i++) {
		struct plan_file *file = pipe->files[i];
		int wanted = (int)file->entry->pipe->flags & O_ACCMODE, have = flags & O_ACCMODE;
		bool fits = !S_ISFIFO(st.st_mode) || have == O_RDWR || have == wanted;
		int r = fits ? fd_dup(given, 3) : pipe_open_again(file, given, &file->fd, err);
		if (fits && r < 0)
			return error_errno(err, FERRY_ERROR_SYSTEM, -r, "copying descriptor %d", given);
		if (r < 0)
			return r;
		file->fd = fits ? r : file->fd;
	}
	return 0;
}

static int pipe_build(const struct opener *o, struct pipe_plan *pipe, struct ferry_error *err)
{
	char name[32];
	for (size_t i = 0; i < pipe->n_files; i++)
		if (pipe->files[i]->fd >= 0)
			return 0; /* all of it is there */
	snprintf(name, sizeof(name), "pipe:[%u]", pipe->id);
	int given = external_inherited(o->options, name);
	if (given >= 0)
		return pipe_take_given(pipe, given, err);
	int ends[2] = {-1, -1};
	int r = pipe_make(pipe, ends, err);
	_cleanup_close_ int out = ends[0], in = ends[1];
	int base = in;
	if (r < 0)
		return r;
	for (size_t i = 0; i < pipe->n_files; i++) {
		struct plan_file *file = pipe->files[i];
		if (out >= 0 && pipe_is_first(file->entry->pipe, O_RDONLY))
			file->fd = take_fd(out);
		else if (in >= 0 && pipe_is_first(file->entry->pipe, O_WRONLY))
			file->fd = take_fd(in);
		else
			continue;
		r = fdcommon_set_flags(file->fd, file->entry->pipe->flags, err);
		if (r < 0)
			return r;
	}
	return pipe_open_all(pipe, base, err);
}

static int pipe_restore(struct opener *o, struct plan_file *file, int *ret_fd, struct ferry_error *err)
{
	int r = file->data ? pipe_build(o, file->data, err) : fdcommon_no_record(file, err);
	if (r >= 0)
		*ret_fd = file->fd;
	return r;
}

static int pipe_settle(struct settle *s, struct plan_file *file, int fd, struct ferry_error *err)
{
	const PipeEntry *entry = file->entry->pipe;
	return fdcommon_settle_once(s, file) ? fdcommon_settle(entry->fown, entry->flags, fd, err) : 0;
}

const struct kind_ops kind_pipe = {
	.name = "pipe",
	.what = "anonymous pipes with what is in them",
	.fd_type = FD_TYPES__PIPE,
	.image_file = IMAGE_PIPES_DATA,
	.owns = pipe_owns,
	.check = pipe_check,
	.collect = pipe_collect,
	.dump = pipe_dump,
	.read = pipe_read,
	.restore = pipe_restore,
	.is_alone = true,
	.settle = pipe_settle,
};
