/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the text of /proc/PID/fdinfo. Kernel interface: fs/proc/fd.c and the show_fdinfo method of each kind of
 * file, proc(5). Lines that are not in the table are skipped; so are lines of a second kind.
 */
#include "proc/fdinfo.h"

#include <errno.h>

#include "base/error.h"
#include "proc/lex.h"

enum line_result { LINE_OK, LINE_BAD, LINE_MEMORY };

struct fdinfo_line {
	const char *key;
	enum line_result (*parse)(struct lex *l, struct proc_fdinfo *info, size_t at);
	size_t at; /* offset in struct proc_fdinfo, for the parsers of one number */
	enum proc_fdinfo_kind kind;
};

static enum line_result line_result(bool good)
{
	return good ? LINE_OK : LINE_BAD;
}

static void *line_at(struct proc_fdinfo *info, size_t at)
{
	return (char *)info + at;
}

static enum line_result line_u64(struct lex *l, struct proc_fdinfo *info, size_t at)
{
	return line_result(lex_u64(l, line_at(info, at)));
}

static enum line_result line_u32(struct lex *l, struct proc_fdinfo *info, size_t at)
{
	return line_result(lex_u32(l, line_at(info, at)));
}

static enum line_result line_i32(struct lex *l, struct proc_fdinfo *info, size_t at)
{
	return line_result(lex_i32(l, line_at(info, at)));
}

static enum line_result line_hex64(struct lex *l, struct proc_fdinfo *info, size_t at)
{
	return line_result(lex_hex(l, line_at(info, at)));
}

static enum line_result line_octal(struct lex *l, struct proc_fdinfo *info, size_t at)
{
	return line_result(lex_u32_base(l, 8, line_at(info, at)));
}

static enum line_result line_0xhex(struct lex *l, struct proc_fdinfo *info, size_t at)
{
	return line_result(lex_str(l, "0x") && lex_u32_base(l, 16, line_at(info, at)));
}

static enum line_result line_true(struct lex *l, struct proc_fdinfo *info, size_t at)
{
	l->p = l->end;
	*(bool *)line_at(info, at) = true;
	return LINE_OK;
}

/* The line alone says what it is. */
static enum line_result line_mark(struct lex *l, unused struct proc_fdinfo *info, unused size_t at)
{
	l->p = l->end;
	return LINE_OK;
}

static enum line_result line_pos(struct lex *l, struct proc_fdinfo *info, unused size_t at)
{
	int64_t pos; /* negative for a few devices, /proc/PID/mem */
	bool good = lex_i64(l, &pos);
	if (good)
		info->pos = (uint64_t)pos;
	return line_result(good);
}

static enum line_result line_mnt_id(struct lex *l, struct proc_fdinfo *info, unused size_t at)
{
	info->has_mnt_id = true;
	return line_result(lex_i32(l, &info->mnt_id));
}

static enum line_result line_ino(struct lex *l, struct proc_fdinfo *info, unused size_t at)
{
	info->has_ino = true;
	return line_result(lex_u64(l, &info->ino));
}

static enum line_result line_lock(struct lex *l, struct proc_fdinfo *info, unused size_t at)
{
	struct proc_lock *lock = vec_push(&info->locks);
	if (!lock)
		return LINE_MEMORY;
	int r = proc_lock_parse_line(l->p, lex_left(l), lock);
	l->p = l->end;
	return line_result(!r);
}

static enum line_result line_semaphore(struct lex *l, struct proc_fdinfo *info, unused size_t at)
{
	uint32_t value;
	if (!lex_u32(l, &value) || value > 1)
		return LINE_BAD;
	info->eventfd.semaphore = (int8_t)value;
	return LINE_OK;
}

/* "(seconds, nanoseconds)" */
static enum line_result line_timespec(struct lex *l, struct proc_fdinfo *info, size_t at)
{
	struct timespec *ts = line_at(info, at);
	uint64_t sec, nsec;
	if (!lex_char(l, '(') || !lex_u64(l, &sec) || !lex_str(l, ", ") || !lex_u64(l, &nsec) ||
	    !lex_char(l, ')') || sec > INT64_MAX || nsec >= 1000000000)
		return LINE_BAD;
	*ts = (struct timespec){.tv_sec = (time_t)sec, .tv_nsec = (long)nsec};
	return LINE_OK;
}

/* "word value" with blanks around; the value is read by the caller. */
static bool named(struct lex *l, const char *word)
{
	struct lex copy = *l;
	lex_blanks(&copy);
	if (!lex_str(&copy, word))
		return false;
	lex_blanks(&copy);
	*l = copy;
	return true;
}

static bool named_u64(struct lex *l, const char *word, uint64_t *ret_value)
{
	return named(l, word) && lex_hex(l, ret_value);
}

static bool named_u32(struct lex *l, const char *word, uint32_t *ret_value)
{
	return named(l, word) && lex_u32_base(l, 16, ret_value);
}

static bool named_dev(struct lex *l, uint64_t *ret_dev)
{
	return named(l, "sdev:") && lex_kernel_dev(l, ret_dev);
}

/* "tfd: 5 events: 19 data: 5  pos:0 ino:61af sdev:7"; the second half since 4.13 */
static enum line_result line_epoll(struct lex *l, struct proc_fdinfo *info, unused size_t at)
{
	struct proc_epoll_entry *e = vec_push(&info->epoll);
	if (!e)
		return LINE_MEMORY;
	if (!lex_i32(l, &e->fd) || !named_u32(l, "events:", &e->events) || !named_u64(l, "data:", &e->data))
		return LINE_BAD;
	if (!named(l, "pos:"))
		return LINE_OK;
	e->has_file = true;
	return line_result(lex_i64(l, &e->pos) && named_u64(l, "ino:", &e->ino) && named_dev(l, &e->dev));
}

/* "fhandle-bytes:8 fhandle-type:1 f_handle:1cd7f72f4c8ba5f5", or nothing where the file system has no handles */
static bool handle(struct lex *l, struct proc_handle *h)
{
	uint32_t n, type;
	if (lex_rest_blank(l))
		return true;
	if (!named_u32(l, "fhandle-bytes:", &n) || !named_u32(l, "fhandle-type:", &type) ||
	    !named(l, "f_handle:") || n > PROC_HANDLE_BYTES || lex_left(l) < (size_t)n * 2)
		return false;
	for (uint32_t i = 0; i < n; i++) {
		struct lex byte = lex_new(l->p, 2);
		uint64_t value;
		if (!lex_hex(&byte, &value) || !lex_done(&byte))
			return false;
		h->bytes[i] = (uint8_t)value;
		l->p += 2;
	}
	h->type = (int32_t)type;
	h->n = n;
	return true;
}

/* "inotify wd:3 ino:9e7e sdev:800013 mask:800afce ignored_mask:0 fhandle-..." */
static enum line_result line_inotify(struct lex *l, struct proc_fdinfo *info, unused size_t at)
{
	struct proc_inotify_watch *w = vec_push(&info->inotify);
	uint32_t wd;
	uint64_t ignored;
	if (!w)
		return LINE_MEMORY;
	if (!named_u32(l, "wd:", &wd) || wd > INT32_MAX || !named_u64(l, "ino:", &w->ino) ||
	    !named_dev(l, &w->dev) || !named_u32(l, "mask:", &w->mask) ||
	    !named_u64(l, "ignored_mask:", &ignored))
		return LINE_BAD;
	w->wd = (int32_t)wd;
	return line_result(handle(l, &w->handle));
}

static bool fanotify_target(struct lex *l, struct proc_fanotify_mark *m)
{
	if (named_u64(l, "ino:", &m->ino)) {
		m->target = PROC_FANOTIFY_INODE;
		return named_dev(l, &m->dev);
	}
	if (named_dev(l, &m->dev)) {
		m->target = PROC_FANOTIFY_SB;
		return true;
	}
	if (named_u64(l, "mnt_id:", &m->mnt_id)) {
		m->target = PROC_FANOTIFY_MOUNT;
		return true;
	}
	m->target = PROC_FANOTIFY_MNTNS;
	return named(l, "mnt_ns:") && lex_u64(l, &m->mnt_id);
}

static enum line_result line_fanotify(struct lex *l, struct proc_fdinfo *info, unused size_t at)
{
	if (named_u32(l, "flags:", &info->fanotify.flags))
		return line_result(named_u32(l, "event-flags:", &info->fanotify.event_flags));
	struct proc_fanotify_mark *m = vec_push(&info->fanotify_marks);
	if (!m)
		return LINE_MEMORY;
	if (!fanotify_target(l, m) || !named_u32(l, "mflags:", &m->mflags) ||
	    !named_u64(l, "mask:", &m->mask) || !named_u64(l, "ignored_mask:", &m->ignored_mask))
		return LINE_BAD;
	return line_result(handle(l, &m->handle));
}

static enum line_result line_pids(struct lex *l, struct proc_fdinfo *info, size_t at)
{
	struct proc_pids *pids = line_at(info, at);
	for (pids->n = 0; pids->n < PROC_PID_DEPTH && !lex_rest_blank(l); pids->n++)
		if (!lex_i32(l, &pids->v[pids->n]))
			return LINE_BAD;
	return LINE_OK;
}

static enum line_result line_tun(struct lex *l, struct proc_fdinfo *info, unused size_t at)
{
	size_t n = lex_left(l);
	if (n >= sizeof(info->tun.name) || (n && memchr(l->p, '\0', n)))
		return LINE_BAD;
	if (n)
		memcpy(info->tun.name, l->p, n);
	info->tun.name[n] = '\0';
	l->p = l->end;
	return LINE_OK;
}

/* "aa:1:8000...": the number of the API, its features, its ioctls */
static enum line_result line_uffd_api(struct lex *l, struct proc_fdinfo *info, unused size_t at)
{
	uint64_t ioctls;
	return line_result(lex_hex(l, &info->uffd.api) && lex_char(l, ':') &&
			   lex_hex(l, &info->uffd.features) && lex_char(l, ':') && lex_hex(l, &ioctls));
}

#define LINE(key_, how, kind_)                                                \
	{                                                                     \
		.key = key_, .parse = line_##how, .kind = PROC_FDINFO_##kind_ \
	}
#define NUMBER(key_, how, kind_, member)                                       \
	{                                                                      \
		.key = key_, .parse = line_##how, .kind = PROC_FDINFO_##kind_, \
		.at = offsetof(struct proc_fdinfo, member)                     \
	}

static const struct fdinfo_line fdinfo_lines[] = {
	LINE("pos:", pos, PLAIN),
	NUMBER("flags:", octal, PLAIN, flags),
	LINE("mnt_id:", mnt_id, PLAIN),
	LINE("ino:", ino, PLAIN),
	LINE("lock:", lock, PLAIN),
	LINE("tfd:", epoll, EPOLL),
	LINE("inotify ", inotify, INOTIFY),
	LINE("fanotify ", fanotify, FANOTIFY),
	NUMBER("eventfd-count:", hex64, EVENTFD, eventfd.count),
	NUMBER("eventfd-id:", i32, EVENTFD, eventfd.id),
	LINE("eventfd-semaphore:", semaphore, EVENTFD),
	NUMBER("sigmask:", hex64, SIGNALFD, signalfd.mask),
	NUMBER("clockid:", i32, TIMERFD, timerfd.clockid),
	NUMBER("ticks:", u64, TIMERFD, timerfd.ticks),
	NUMBER("settime flags:", octal, TIMERFD, timerfd.settime_flags),
	NUMBER("it_value:", timespec, TIMERFD, timerfd.value.it_value),
	NUMBER("it_interval:", timespec, TIMERFD, timerfd.value.it_interval),
	NUMBER("Pid:", i32, PIDFD, pidfd.pid),
	NUMBER("NSpid:", pids, PIDFD, pidfd.ns_pid),
	LINE("iff:", tun, TUN),
	NUMBER("SqMask:", 0xhex, IO_URING, io_uring.sq_mask),
	NUMBER("SqHead:", u32, IO_URING, io_uring.sq_head),
	NUMBER("SqTail:", u32, IO_URING, io_uring.sq_tail),
	NUMBER("CachedSqHead:", u32, IO_URING, io_uring.cached_sq_head),
	NUMBER("CqMask:", 0xhex, IO_URING, io_uring.cq_mask),
	NUMBER("CqHead:", u32, IO_URING, io_uring.cq_head),
	NUMBER("CqTail:", u32, IO_URING, io_uring.cq_tail),
	NUMBER("CachedCqTail:", u32, IO_URING, io_uring.cached_cq_tail),
	NUMBER("SqThread:", i32, IO_URING, io_uring.sq_thread),
	NUMBER("UserFiles:", u32, IO_URING, io_uring.user_files),
	NUMBER("UserBufs:", u32, IO_URING, io_uring.user_bufs),
	NUMBER("  op=", true, IO_URING, io_uring.has_polls),
	NUMBER("  user_data=", true, IO_URING, io_uring.has_overflow),
	NUMBER("pending:", u64, UFFD, uffd.pending),
	NUMBER("total:", u64, UFFD, uffd.total),
	LINE("API:", uffd_api, UFFD),
	NUMBER("map_type:", u32, BPF_MAP, bpf.type),
	NUMBER("map_id:", u32, BPF_MAP, bpf.id),
	NUMBER("prog_type:", u32, BPF_PROG, bpf.type),
	NUMBER("prog_id:", u32, BPF_PROG, bpf.id),
	LINE("link_type:", mark, BPF_LINK),
	NUMBER("link_id:", u32, BPF_LINK, bpf.id),
	LINE("drm-driver:", mark, DRM),
	LINE("exp_name:", mark, DMABUF),
};

/* What a line that an older kernel lacks counts as. */
static void fdinfo_set_kind(struct proc_fdinfo *info, enum proc_fdinfo_kind kind)
{
	if (info->kind == (uint8_t)kind)
		return;
	info->kind = (uint8_t)kind;
	if (kind == PROC_FDINFO_EVENTFD) {
		info->eventfd.id = -1;
		info->eventfd.semaphore = -1;
	} else if (kind == PROC_FDINFO_IO_URING) {
		info->io_uring.sq_thread = -1;
	}
}

static enum line_result fdinfo_line(struct lex *line, struct proc_fdinfo *info, bool *ret_pos,
				    bool *ret_flags)
{
	for (size_t i = 0; i < ARRAY_SIZE(fdinfo_lines); i++) {
		const struct fdinfo_line *f = &fdinfo_lines[i];
		struct lex l = *line;
		if (!lex_str(&l, f->key))
			continue;
		if (f->kind != PROC_FDINFO_PLAIN) {
			if (info->kind != PROC_FDINFO_PLAIN && info->kind != (uint8_t)f->kind)
				return LINE_OK;
			fdinfo_set_kind(info, f->kind);
		}
		lex_blanks(&l);
		enum line_result result = f->parse(&l, info, f->at);
		*ret_pos |= f->parse == line_pos;
		*ret_flags |= f->parse == line_octal && f->kind == PROC_FDINFO_PLAIN;
		return result == LINE_OK && !lex_rest_blank(&l) ? LINE_BAD : result;
	}
	return LINE_OK;
}

void proc_fdinfo_release(struct proc_fdinfo *info)
{
	vec_release(&info->epoll);
	vec_release(&info->inotify);
	vec_release(&info->fanotify_marks);
	vec_release(&info->locks);
}

int proc_fdinfo_parse(const char *text, size_t n, struct proc_fdinfo *ret_info, struct ferry_error *err)
{
	struct lex l = lex_new(text, n), line;
	bool has_pos = false, has_flags = false;
	*ret_info = (struct proc_fdinfo){0};
	while (lex_line(&l, &line)) {
		enum line_result result = fdinfo_line(&line, ret_info, &has_pos, &has_flags);
		if (result == LINE_MEMORY)
			return error_memory(err);
		if (result == LINE_BAD)
			return lex_bad(err, "fdinfo", &line);
	}
	if (!lex_done(&l))
		return lex_bad(err, "fdinfo", &l);
	return has_pos && has_flags ? 0 : lex_short(err, "fdinfo", "pos or flags");
}
