/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns descriptions of named pipes: what is in the pipe, its capacity, the flags and owner of each. The name, and what
 * becomes of a deleted one, is the business of regular files. While a pipe is built it is open for reading and writing, so
 * that nothing waits for a partner; a reader that never saw a writer is opened after that, so that it sees no hang-up.
 *
 * Kernel interface: fifo(7), fcntl(2) F_GETPIPE_SZ, F_SETPIPE_SZ (2.6.35), ioctl FIONREAD, tee(2), poll(2).
 * Does not handle: packet mode (O_DIRECT) and pipes that a process outside has open, refused; a pipe into which somebody
 * else has put bytes before the restore, which then fails.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/dir.h"
#include "image/proto/fifo.pb-c.h"
#include "image/proto/pipe-data.pb-c.h"
#include "image/proto/regfile.pb-c.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "kind/peers.h"
#include "kind/pipe.h"
#include "kind/regfile.h"
#include "model/record.h"
#include "model/records.h"

/* A named pipe of the frozen tree. */
struct fifo_found {
	struct fifo_found *next;
	uint64_t dev, ino;
	uint32_t id, bytes, size;
	char path[64]; /* in /proc, where it can be opened again while the tree is frozen */
	bool dumped;
};

/* A named pipe of the image. */
struct fifo_plan {
	struct fifo_plan *next;
	uint32_t id;
	struct pipe_bytes bytes;
	VEC(struct plan_file *) files;
	bool built;
};

/* Of a description: FifoEntry has no room for it. */
struct fifo_file {
	struct fifo_found *found;
	FerryFifoEntry *extra; /* NULL: nothing to say */
};

/* The same on the other side. */
struct fifo_open {
	struct fifo_plan *pipe;
	bool fresh;
};

static bool fifo_owns(const struct fd_view *view)
{
	return S_ISFIFO(view->stat.st_mode) && view->link[0] == '/';
}

static int fifo_check(const struct fd_view *view, const struct kind_options *options, struct ferry_error *err)
{
	if (view->info->flags & O_DIRECT) {
		char who[64];
		fd_view_name(view, who, sizeof(who));
		error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
			  "%s: '%s' is a named pipe in packet mode (O_DIRECT)", who, view->link);
		error_hint(err, "packets keep their bounds in pipes without a name only");
		return -ENOTSUP;
	}
	int r = regfile_check_name(view, options, err);
	if (r < 0 || options->criu_compat)
		return r;
	return peers_refuse_number(view, PEER_FIFO, peer_fifo(view->stat.st_dev, view->stat.st_ino), err);
}

/* ------------------------------------------------------------------ collect and dump */

static int fifo_measure(struct fifo_found *f, const struct fd_view *view, struct ferry_error *err)
{
	int bytes = 0, size = fcntl(view->copy, F_GETPIPE_SZ);
	if (size < 0 || ioctl(view->copy, FIONREAD, &bytes) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "fd %d of pid %d: measuring '%s'",
				   view->fd, view->pid, view->link);
	f->size = (uint32_t)size;
	f->bytes = (uint32_t)bytes;
	snprintf(f->path, sizeof(f->path), "/proc/%d/fd/%d", view->look, view->fd);
	return 0;
}

static int fifo_find(struct collect *c, const struct fd_view *view, struct fifo_found **ret,
		     struct ferry_error *err)
{
	struct fifo_found *f = c->kind_data[KIND_fifo];
	while (f && (f->dev != view->stat.st_dev || f->ino != view->stat.st_ino))
		f = f->next;
	*ret = f;
	if (f)
		return 0;
	f = arena_new(&c->snap->arena, struct fifo_found);
	if (!f)
		return error_memory(err);
	f->dev = view->stat.st_dev;
	f->ino = view->stat.st_ino;
	f->id = ++c->snap->next_object_id;
	f->next = c->kind_data[KIND_fifo];
	c->kind_data[KIND_fifo] = *ret = f;
	return fifo_measure(f, view, err);
}

/* A reader that nobody ever wrote to sees no hang-up, though there is no writer. */
static bool fifo_is_fresh(const struct fd_view *view)
{
	struct pollfd p = {.fd = view->copy, .events = POLLIN};
	if ((view->info->flags & O_ACCMODE) != O_RDONLY || poll(&p, 1, 0) < 0)
		return false;
	return !(p.revents & POLLHUP);
}

static int fifo_collect(struct collect *c, struct fd_view *view, struct snap_file *file,
			struct ferry_error *err)
{
	struct arena *a = &c->snap->arena;
	FifoEntry *fifo = record_new(a, FifoEntry, fifo_entry);
	struct fifo_file *own = arena_new(a, struct fifo_file);
	uint32_t index;
	if (!fifo || !own)
		return error_memory(err);
	int r = fifo_check(view, c->options, err);
	if (r >= 0)
		r = fd_view_copy(view, err);
	if (r >= 0)
		r = fifo_find(c, view, &own->found, err);
	if (r >= 0)
		r = regfile_collect_name(c, view, &index, err);
	if (r >= 0)
		r = fdcommon_owner(c, view, &c->snap->files.v[index].entry->reg->fown, err);
	if (r < 0)
		return r;
	fifo->id = file->entry->id;
	fifo->pipe_id = own->found->id;
	record_set(fifo, regf_id, c->snap->files.v[index].entry->id);
	file->entry->fifo = fifo;
	file->data = own;
	if (!fifo_is_fresh(view))
		return 0;
	own->extra = record_new(a, FerryFifoEntry, ferry_fifo_entry);
	if (!own->extra)
		return error_memory(err);
	own->extra->id = fifo->id;
	own->extra->no_writer_seen = 1;
	return 0;
}

static int fifo_dump_bytes(struct image_writer *w, const struct fifo_found *f, struct ferry_error *err)
{
	_cleanup_close_ int copy = -1;
	/* A further reader; the tree stands, so nobody notices it. */
	_cleanup_close_ int reader = fd_open(AT_FDCWD, f->path, O_RDONLY | O_NONBLOCK, 0);
	if (reader < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -reader, "opening '%s' again", f->path);
	int r = pipe_copy(reader, f->bytes, f->size, f->path, &copy, err);
	return r < 0 ? r : image_put_from(w, copy, f->bytes, err);
}

static int fifo_dump(struct dump *d, struct snap_file *file, struct ferry_error *err)
{
	const struct fifo_file *own = file->data;
	struct fifo_found *f = own->found;
	PipeDataEntry entry = PIPE_DATA_ENTRY__INIT;
	struct image_writer *w;
	int r = own->extra ? fdcommon_writer(d, IMAGE_FERRY_FIFO, &w, err) : 0;
	if (r >= 0 && own->extra)
		r = image_put(w, &own->extra->base, err);
	if (r < 0 || f->dumped)
		return r;
	f->dumped = true;
	r = fdcommon_writer(d, IMAGE_FIFO_DATA, &w, err);
	if (r < 0)
		return r;
	entry.pipe_id = f->id;
	entry.bytes = f->bytes;
	record_set(&entry, size, f->size);
	r = image_put(w, &entry.base, err);
	return r < 0 || !f->bytes ? r : fifo_dump_bytes(w, f, err);
}

/* -------------------------------------------------------------------------- restore */

static struct fifo_plan *fifo_plan(const struct plan *p, uint32_t id)
{
	struct fifo_plan *pipe = p->kind_data[KIND_fifo];
	while (pipe && pipe->id != id)
		pipe = pipe->next;
	return pipe;
}

static struct plan_file *fifo_name(const struct plan *p, const struct plan_file *file)
{
	const FifoEntry *fifo = file->entry->fifo;
	/* Old images name the file by the id of the description. */
	return plan_file(p, fifo->has_regf_id ? fifo->regf_id : fifo->id);
}

static int fifo_read_file(struct reader *r, struct plan_file *file, struct ferry_error *err)
{
	struct plan *p = r->plan;
	const FifoEntry *fifo = file->entry->fifo;
	struct plan_file *name = fifo_name(p, file);
	if (!name || !name->entry->reg)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "file id %u: the named pipe has no name", fifo->id);
	/* Opening a name would wait for a partner. */
	name->kind = &kind_fifo;
	struct fifo_plan *pipe = fifo_plan(p, fifo->pipe_id);
	if (!pipe) {
		pipe = arena_new(&p->arena, struct fifo_plan);
		if (!pipe)
			return error_memory(err);
		pipe->id = fifo->pipe_id;
		pipe->next = p->kind_data[KIND_fifo];
		p->kind_data[KIND_fifo] = pipe;
	}
	struct fifo_open *own = arena_new(&p->arena, struct fifo_open);
	struct plan_file **slot = own ? vec_push(&pipe->files) : NULL;
	if (!slot)
		return error_memory(err);
	*slot = file;
	own->pipe = pipe;
	file->data = own;
	return 0;
}

static int fifo_take_bytes(struct reader *r, struct image_reader *in, void *record, void *context unused,
			   struct ferry_error *err)
{
	const PipeDataEntry *entry = record;
	struct fifo_plan *pipe = fifo_plan(r->plan, entry->pipe_id);
	if (!pipe)
		return image_bad(in, err, "there is no named pipe %u", entry->pipe_id);
	return pipe_read_bytes(&r->plan->arena, in, entry, &pipe->bytes, err);
}

static int fifo_take_extra(struct reader *r, struct image_reader *in, void *record, void *context unused,
			   struct ferry_error *err)
{
	const FerryFifoEntry *extra = record;
	const struct plan_file *file = plan_file(r->plan, extra->id);
	struct fifo_open *own = file && file->entry->fifo ? file->data : NULL;
	if (!own)
		return image_bad(in, err, "file id %u is no named pipe", extra->id);
	own->fresh = extra->no_writer_seen;
	return 0;
}

static int fifo_read(struct reader *r, struct ferry_error *err)
{
	int ret = 0;
	for (size_t i = 0; i < r->plan->n_files && ret >= 0; i++) {
		struct plan_file *file = &r->plan->files[i];
		if (file->entry->type == FD_TYPES__FIFO)
			ret = file->entry->fifo ? fifo_read_file(r, file, err)
						: fdcommon_no_record(file, err);
	}
	if (ret >= 0)
		ret = records_each(r, IMAGE_FIFO_DATA, 0, &pipe_data_entry__descriptor, fifo_take_bytes, NULL,
				   err);
	if (ret >= 0)
		ret = records_each(r, IMAGE_FERRY_FIFO, 0, &ferry_fifo_entry__descriptor, fifo_take_extra,
				   NULL, err);
	return ret;
}

static int fifo_fill(const struct fifo_plan *pipe, int fd, const char *name, struct ferry_error *err)
{
	int there = 0;
	if (ioctl(fd, FIONREAD, &there) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "looking into '%s'", name);
	if (there) {
		error_set(err, FERRY_ERROR_FILES_CHANGED, EBUSY,
			  "there are %d bytes in the named pipe '%s' already", there, name);
		error_hint(err, "end the process that has it open, then restore");
		return -EBUSY;
	}
	uint32_t done = 0, size = MAX(pipe->bytes.size, pipe->bytes.n);
	int r = size && (int)size != fcntl(fd, F_GETPIPE_SZ) ? pipe_resize(fd, size, err) : 0;
	while (r >= 0 && done < pipe->bytes.n) {
		ssize_t n = write(fd, (const char *)pipe->bytes.data + done, pipe->bytes.n - done);
		if (n <= 0)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, n < 0 ? errno : EIO,
					   "putting %u bytes into '%s'", pipe->bytes.n, name);
		done += (uint32_t)n;
	}
	return r;
}

static int fifo_open_file(struct opener *o, struct plan_file *file, struct ferry_error *err)
{
	struct plan_file *name = fifo_name(o->plan, file);
	/* open(2) would note O_ASYNC and never ask the pipe for signals; it is set when the file has its owner. */
	int flags = (int)name->entry->reg->flags & ~O_ASYNC;
	int r = regfile_open(o, name, flags | O_NONBLOCK, &file->fd, err);
	return r < 0 ? r : fdcommon_set_flags(file->fd, (uint32_t)flags, err);
}

static int fifo_open_files(struct opener *o, const struct fifo_plan *pipe, bool fresh,
			   struct ferry_error *err)
{
	for (size_t i = 0; i < pipe->files.n; i++) {
		struct plan_file *file = pipe->files.v[i];
		const struct fifo_open *own = file->data;
		int r = own->fresh == fresh && file->fd < 0 ? fifo_open_file(o, file, err) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

static int fifo_build(struct opener *o, struct fifo_plan *pipe, struct ferry_error *err)
{
	struct plan_file *name = fifo_name(o->plan, pipe->files.v[0]);
	_cleanup_close_ int both = -1, holds = -1;
	pipe->built = true;
	int r = regfile_open(o, name, O_RDWR | O_NONBLOCK, &both, err);
	if (r >= 0)
		r = fifo_fill(pipe, both, name->entry->reg->name, err);
	if (r >= 0)
		r = fifo_open_files(o, pipe, false, err);
	/* The bytes stay as long as anybody has the pipe open. */
	if (r >= 0)
		r = regfile_open(o, name, O_RDONLY | O_NONBLOCK, &holds, err);
	if (r < 0)
		return r;
	close(take_fd(both));
	r = fifo_open_files(o, pipe, true, err);
	vec_release(&pipe->files);
	return r;
}

static int fifo_restore(struct opener *o, struct plan_file *file, int *ret_fd, struct ferry_error *err)
{
	struct fifo_open *own = file->data;
	if (!file->entry->fifo || !own)
		return 0; /* the name of one */
	int r = own->pipe->built ? 0 : fifo_build(o, own->pipe, err);
	if (r >= 0)
		*ret_fd = file->fd;
	return r;
}

static int fifo_settle(struct settle *s, struct plan_file *file, int fd, struct ferry_error *err)
{
	const struct plan_file *name = file->entry->fifo ? fifo_name(s->plan, file) : NULL;
	if (!name || !fdcommon_settle_once(s, file))
		return 0;
	return fdcommon_settle(name->entry->reg->fown, name->entry->reg->flags, fd, err);
}

const struct kind_ops kind_fifo = {
	.name = "fifo",
	.what = "named pipes with what is in them",
	.fd_type = FD_TYPES__FIFO,
	.image_file = IMAGE_FIFO_DATA,
	.owns = fifo_owns,
	.check = fifo_check,
	.collect = fifo_collect,
	.dump = fifo_dump,
	.read = fifo_read,
	.restore = fifo_restore,
	.settle = fifo_settle,
};
