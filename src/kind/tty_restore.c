/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns building pseudo terminals out of an image. A terminal is made when the first of its descriptions is asked for, with
 * all of them: masters are opened until the kernel gives out the wanted number, and what was hung up is opened
 * and hung up before the others are opened. What was opened as /dev/tty is opened by a process that has the terminal
 * as its own for that moment. A session leader takes its terminal before it has children of the session, since they get
 * it by inheritance alone.
 *
 * Kernel interface: ioctl_tty(2) TIOCGPTN, TIOCSPTLCK, TIOCSCTTY, TIOCSPGRP, TIOCNOTTY, TIOCVHANGUP, TIOCPKT, TIOCEXCL,
 * TCSETS2, TIOCSLCKTRMIOS.
 */
#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "host/terminal.h"
#include "image/dir.h"
#include "image/proto/regfile.pb-c.h"
#include "image/proto/tty.pb-c.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "kind/tty.h"
#include "kind/tty_queue.h"
#include "model/record.h"
#include "model/records.h"

enum { TTY_MODE_BITS = 07777 };

/* A pseudo terminal of the image. */
struct tty_plan {
	struct tty_plan *next;
	uint32_t id; /* of its terminal side's record */
	uint32_t index;
	char dir[PATH_MAX];      /* where its mount of devpts is */
	const char *master_path; /* NULL: "ptmx" there */
	const TtyInfoEntry *infos[TTY_SIDES];
	const FerryTtyEntry *extra;
	struct tty_queues queues;
	VEC(struct plan_file *) files;
	int slave; /* kept open until the tasks have their own; -1 */
	bool built, outside;
};

struct tty_plans {
	struct tty_plan *first;
	VEC(TtyInfoEntry *) infos;
};

/* ------------------------------------------------------------------ read */

static int tty_take_info(struct reader *r unused, struct image_reader *in, void *record, void *context,
			 struct ferry_error *err)
{
	struct tty_plans *all = context;
	TtyInfoEntry *info = record, **slot = vec_push(&all->infos);
	if (!slot)
		return error_memory(err);
	*slot = info;
	if ((info->termios && info->termios->n_c_cc < TTY_CC) ||
	    (info->termios_locked && info->termios_locked->n_c_cc < TTY_CC) ||
	    (info->pty && info->pty->index >= TTY_INDEX_MAX))
		return image_bad(in, err, "terminal record %u makes no sense", info->id);
	return 0;
}

static const TtyInfoEntry *tty_info_by_id(const struct tty_plans *all, uint32_t id)
{
	vec_foreach(info, &all->infos) {
		if ((*info)->id == id)
			return *info;
	}
	return NULL;
}

/* The terminal's own record for that of what was opened as /dev/tty. */
static const TtyInfoEntry *tty_info_of_ctty(const struct tty_plans *all, const TtyInfoEntry *ctty)
{
	const TtyInfoEntry *own =
		ctty->id & TTY_CTTY_ID ? tty_info_by_id(all, ctty->id & ~(uint32_t)TTY_CTTY_ID) : NULL;
	vec_foreach(info, &all->infos) {
		if (!own && (*info)->type == TTY_TYPE__PTY && ctty->sid && (*info)->sid == ctty->sid)
			own = *info;
	}
	return own;
}

static struct tty_plan *tty_plan(struct reader *r, struct tty_plans *all, const TtyInfoEntry *info)
{
	uint32_t id = info->id & ~1u;
	struct tty_plan *p = all->first;
	while (p && p->id != id)
		p = p->next;
	if (p)
		return p;
	p = arena_new(&r->plan->arena, struct tty_plan);
	if (!p)
		return NULL;
	p->id = id;
	p->index = info->pty->index;
	p->slave = -1;
	p->next = all->first;
	vec_foreach(other, &all->infos) {
		if ((*other)->type == TTY_TYPE__PTY && ((*other)->id & ~1u) == id)
			p->infos[(*other)->id & 1 ? TTY_MASTER : TTY_SLAVE] = *other;
	}
	return all->first = p;
}

/* Names of terminals are records of regular files, which nobody shall open. */
static int tty_read_name(struct reader *r, struct tty_plan *p, const TtyFileEntry *tty, bool slave,
			 struct ferry_error *err)
{
	struct plan_file *name = tty->has_regf_id ? plan_file(r->plan, tty->regf_id) : NULL;
	const char *path = name && name->entry->reg ? name->entry->reg->name : NULL;
	const char *slash = path ? strrchr(path, '/') : NULL;
	size_t n = slash ? (size_t)(slash - path) : 0;
	if (!n || n + sizeof("/pts/1048576") > sizeof(p->dir))
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "file id %u: the terminal has no name",
				 tty->id);
	name->entry->type = FD_TYPES__TTY;
	name->kind = &kind_tty;
	if (tty->tty_info_id & 1)
		p->master_path = path;
	if (slave)
		snprintf(p->dir, sizeof(p->dir), "%.*s", (int)n, path);
	else if (!p->dir[0] && n >= 4 && !strcmp(path + n - 4, "/pts/ptmx"))
		snprintf(p->dir, sizeof(p->dir), "%.*s", (int)n, path);
	else if (!p->dir[0])
		snprintf(p->dir, sizeof(p->dir), "%.*s/pts", (int)n, path);
	return 0;
}

static int tty_read_file(struct reader *r, struct tty_plans *all, struct plan_file *file,
			 struct ferry_error *err)
{
	const TtyFileEntry *tty = file->entry->tty;
	if (!tty)
		return fdcommon_no_record(file, err);
	const TtyInfoEntry *info = tty_info_by_id(all, tty->tty_info_id), *own = info;
	if (info && info->type == TTY_TYPE__CTTY)
		own = tty_info_of_ctty(all, info);
	if (!info || !own || (own->type == TTY_TYPE__PTY && !own->pty))
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "file id %u refers to terminal record %u, which is not there", tty->id,
				 tty->tty_info_id);
	if (own->type != TTY_TYPE__PTY)
		return error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
				 "file id %u is a console or a serial line", tty->id);
	struct tty_plan *p = tty_plan(r, all, own);
	struct plan_file **slot = p ? vec_push(&p->files) : NULL;
	if (!slot)
		return error_memory(err);
	*slot = file;
	file->data = p;
	return tty_read_name(r, p, tty, info->type == TTY_TYPE__PTY && !(info->id & 1), err);
}

static struct tty_plan *tty_plan_by_id(const struct tty_plans *all, uint32_t id)
{
	struct tty_plan *p = all->first;
	while (p && p->id != (id & ~1u))
		p = p->next;
	return p;
}

static int tty_take_data(struct reader *r unused, struct image_reader *in, void *record, void *context,
			 struct ferry_error *err)
{
	const struct tty_plans *all = context;
	TtyDataEntry *data = record;
	struct tty_plan *p = tty_plan_by_id(all, data->tty_id);
	if (!p)
		return image_bad(in, err, "there is no terminal %u", data->tty_id);
	bool output = data->tty_id & 1;
	*(output ? &p->queues.output : &p->queues.input) = data->data.data;
	*(output ? &p->queues.n_output : &p->queues.n_input) = data->data.len;
	return 0;
}

static int tty_take_extra(struct reader *r, struct image_reader *in, void *record, void *context,
			  struct ferry_error *err)
{
	FerryTtyEntry *extra = record;
	struct tty_plan *p = tty_plan_by_id(context, extra->id);
	if (!p)
		return image_bad(in, err, "there is no terminal %u", extra->id);
	uint64_t bytes = 0;
	p->extra = extra;
	p->queues.stop = extra->has_stopped ? extra->stopped : TTY_RUNS;
	p->queues.lines = arena_array(&r->plan->arena, struct tty_line, extra->n_lines + 1);
	if (!p->queues.lines)
		return error_memory(err);
	for (size_t i = 0; i < extra->n_lines; i++) {
		p->queues.lines[i].length = extra->lines[i]->length;
		p->queues.lines[i].end_of_file = extra->lines[i]->end_of_file;
		bytes += extra->lines[i]->length;
	}
	p->queues.n_lines = extra->n_lines;
	if (bytes > p->queues.n_input)
		return image_bad(in, err, "the lines of terminal %u are longer than its input", extra->id);
	return 0;
}

/* An image of CRIU does not say where lines end. */
static int tty_find_lines(struct reader *r, struct tty_plan *p, struct ferry_error *err)
{
	struct tty_queues *q = &p->queues;
	size_t start = 0;
	if (p->extra || !q->n_input)
		return 0;
	q->lines = arena_array(&r->plan->arena, struct tty_line, q->n_input);
	if (!q->lines)
		return error_memory(err);
	for (size_t i = 0; i < q->n_input; i++) {
		if (q->input[i] != '\n')
			continue;
		q->lines[q->n_lines++].length = (uint32_t)(i + 1 - start);
		start = i + 1;
	}
	return 0;
}

static void tty_release_vectors(struct tty_plans *all)
{
	for (struct tty_plan *p = all->first; p; p = p->next)
		vec_release(&p->files);
	vec_release(&all->infos);
}

int tty_read(struct reader *r, struct ferry_error *err)
{
	struct tty_plans *all = arena_new(&r->plan->arena, struct tty_plans);
	if (!all)
		return error_memory(err);
	r->plan->kind_data[KIND_tty] = all;
	int ret = records_each(r, IMAGE_TTY_INFO, 0, &tty_info_entry__descriptor, tty_take_info, all, err);
	for (size_t i = 0; i < r->plan->n_files && ret >= 0; i++)
		if (r->plan->files[i].kind == &kind_tty && r->plan->files[i].entry->tty)
			ret = tty_read_file(r, all, &r->plan->files[i], err);
	if (ret >= 0)
		ret = records_each(r, IMAGE_TTY_DATA, 0, &tty_data_entry__descriptor, tty_take_data, all,
				   err);
	if (ret >= 0)
		ret = records_each(r, IMAGE_FERRY_TTY, 0, &ferry_tty_entry__descriptor, tty_take_extra, all,
				   err);
	for (struct tty_plan *p = all->first; p && ret >= 0; p = p->next)
		ret = tty_find_lines(r, p, err);
	if (ret < 0)
		tty_release_vectors(all);
	return ret;
}

/* ------------------------------------------------------------------ build */

static bool tty_is_hung(const struct tty_plan *p, const struct plan_file *file)
{
	for (size_t i = 0; p->extra && i < p->extra->n_hung_up; i++)
		if (p->extra->hung_up[i] == file->entry->id)
			return true;
	/* An image of CRIU has no settings for it. */
	return p->infos[TTY_SLAVE] && !p->infos[TTY_SLAVE]->termios;
}

/* open(2) would note O_ASYNC and never ask the terminal for signals; it is set when the file has its owner. */
static int tty_flags(const struct plan_file *file)
{
	return ((int)file->entry->tty->flags & ~O_ASYNC) | O_NOCTTY;
}

static bool tty_is_file_of(const struct plan_file *file, enum tty_side side)
{
	return (file->entry->tty->tty_info_id & 1) == (side == TTY_MASTER);
}

/* One that a mount needed is there already. */
static int tty_take_master(struct opener *o, const char *path, uint32_t index)
{
	struct stat st;
	return stat(path, &st) < 0 ? -1 : plan_take_terminal(o->plan, st.st_dev, index);
}

static int tty_open_master(struct opener *o, const struct tty_plan *p, int flags, int *ret_fd,
			   struct ferry_error *err)
{
	char path[PATH_MAX + 8];
	if (p->master_path)
		snprintf(path, sizeof(path), "%s", p->master_path);
	else
		snprintf(path, sizeof(path), "%s/ptmx", p->dir);
	int fd = tty_take_master(o, path, p->index);
	if (fd < 0)
		fd = terminal_open_master(AT_FDCWD, path, flags, p->index);
	*ret_fd = fd;
	if (fd >= 0)
		return 0;
	if (fd != -EEXIST)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -fd, "opening '%s'", path);
	error_set(err, FERRY_ERROR_RESTORE_STEP, EEXIST,
		  "the terminal %s/%u, which the image needs, is in use", p->dir, p->index);
	error_hint(
		err,
		"close the program that uses it, or restore where devpts is mounted anew (unshare -m; mount -t devpts -o newinstance)");
	return fd;
}

static int tty_open_slave(const struct tty_plan *p, int flags, struct ferry_error *err)
{
	char path[PATH_MAX + 16];
	snprintf(path, sizeof(path), "%s/%u", p->dir, p->index);
	int fd = fd_open(AT_FDCWD, path, flags | O_NOCTTY, 0);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -fd, "opening the terminal '%s'", path);
	return fd;
}

/* In a process of its own: make the terminal ours, open /dev/tty, hand it over. */
static __attribute__((noreturn)) void tty_ctty_main(const struct tty_plan *p, int flags, int socket)
{
	struct ferry_error ignored = FERRY_ERROR_INIT;
	signal(SIGHUP, SIG_IGN);
	int slave = setsid() < 0 ? -1 : tty_open_slave(p, O_RDWR, &ignored);
	int fd = slave < 0 || ioctl(slave, TIOCSCTTY, 0) < 0
			 ? -1
			 : fd_open(AT_FDCWD, "/dev/tty", flags | O_NOCTTY, 0);
	int r = fd < 0 ? -1 : fd_send(socket, "", 1, &fd, 1);
	if (slave >= 0)
		ioctl(slave, TIOCNOTTY);
	_exit(r < 0);
}

static int tty_open_ctty(const struct tty_plan *p, int flags, struct ferry_error *err)
{
	int ends[2], fd = -1, status;
	char byte;
	size_t n = 0;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a socket");
	pid_t pid = fork();
	if (!pid)
		tty_ctty_main(p, flags, ends[1]);
	close(ends[1]);
	ssize_t got = pid < 0 ? -errno : fd_recv(ends[0], &byte, 1, &fd, 1, &n);
	close(ends[0]);
	while (pid > 0 && waitpid(pid, &status, __WALL) < 0 && errno == EINTR)
		continue;
	if (got == 1 && n == 1)
		return fd;
	return error_errno(err, FERRY_ERROR_RESTORE_STEP, got < 0 ? (int)-got : EIO,
			   "opening /dev/tty for the terminal %s/%u", p->dir, p->index);
}

static bool tty_was_ctty(const struct opener *o, const struct plan_file *file)
{
	const struct plan_file *name = plan_file(o->plan, file->entry->tty->regf_id);
	return name && name->entry->reg && !strcmp(name->entry->reg->name, "/dev/tty");
}

static int tty_open_files(struct opener *o, struct tty_plan *p, bool hung, struct ferry_error *err)
{
	vec_foreach(slot, &p->files) {
		struct plan_file *file = *slot;
		int flags = tty_flags(file);
		if (tty_is_file_of(file, TTY_MASTER) || tty_is_hung(p, file) != hung)
			continue;
		int fd = tty_was_ctty(o, file) ? tty_open_ctty(p, flags, err) : tty_open_slave(p, flags, err);
		if (fd < 0)
			return fd;
		file->fd = fd;
		if (hung && p->infos[TTY_MASTER] && ioctl(fd, TIOCVHANGUP) < 0)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno,
					   "hanging the terminal %s/%u up", p->dir, p->index);
	}
	return 0;
}

static void tty_unpack(const TermiosEntry *entry, struct termios2 *ret)
{
	ret->c_iflag = entry->c_iflag;
	ret->c_oflag = entry->c_oflag;
	ret->c_cflag = entry->c_cflag;
	ret->c_lflag = entry->c_lflag;
	ret->c_line = (cc_t)entry->c_line;
	memcpy(ret->c_cc, entry->c_cc, sizeof(ret->c_cc));
}

static const TtyInfoEntry *tty_any_info(const struct tty_plan *p)
{
	return p->infos[TTY_MASTER] ? p->infos[TTY_MASTER] : p->infos[TTY_SLAVE];
}

static bool tty_settings(const struct tty_plan *p, struct termios2 *ret)
{
	const TtyInfoEntry *info = tty_any_info(p);
	if (!info->termios)
		return false;
	tty_unpack(info->termios, ret);
	if (p->extra && p->extra->has_ispeed && p->extra->has_ospeed) {
		ret->c_ispeed = p->extra->ispeed;
		ret->c_ospeed = p->extra->ospeed;
	}
	return true;
}

/* Settings that another process may not change. */
static int tty_lock_settings(const struct tty_plan *p, int fd)
{
	const TtyInfoEntry *info = tty_any_info(p);
	struct termios2 locked = {0};
	struct termios plain = {0};
	if (!info->termios_locked)
		return 0;
	tty_unpack(info->termios_locked, &locked);
	memcpy(&plain, &locked, MIN(sizeof(plain), sizeof(locked)));
	/* It takes rights that ordinary users lack. */
	if (!memcmp(&plain, &(struct termios){0}, sizeof(plain)))
		return 0;
	return ioctl(fd, TIOCSLCKTRMIOS, &plain) < 0 ? -errno : 0;
}

static int tty_set_size(const struct tty_plan *p, int master)
{
	const WinsizeEntry *size = tty_any_info(p)->winsize;
	if (!size)
		return 0;
	const struct winsize wanted = {
		.ws_row = (unsigned short)size->ws_row,
		.ws_col = (unsigned short)size->ws_col,
		.ws_xpixel = (unsigned short)size->ws_xpixel,
		.ws_ypixel = (unsigned short)size->ws_ypixel,
	};
	return ioctl(master, TIOCSWINSZ, &wanted) < 0 ? -errno : 0;
}

static int tty_set_node(const struct tty_plan *p)
{
	char path[PATH_MAX + 16];
	const TtyInfoEntry *info = tty_any_info(p);
	snprintf(path, sizeof(path), "%s/%u", p->dir, p->index);
	if (info->has_uid && info->has_gid && chown(path, info->uid, info->gid) < 0)
		return -errno;
	if (p->extra && p->extra->has_mode && chmod(path, p->extra->mode & TTY_MODE_BITS) < 0)
		return -errno;
	return 0;
}

/* What forbids something comes last. */
static int tty_set_modes(const struct tty_plan *p, int master)
{
	const TtyInfoEntry *of_master = p->infos[TTY_MASTER], *of_slave = p->infos[TTY_SLAVE];
	int one = 1;
	if (of_master && of_master->packet_mode && ioctl(master, TIOCPKT, &one) < 0)
		return -errno;
	if (of_master && of_master->exclusive && ioctl(master, TIOCEXCL) < 0)
		return -errno;
	if (of_slave && of_slave->exclusive && p->slave >= 0 && ioctl(p->slave, TIOCEXCL) < 0)
		return -errno;
	return 0;
}

static int tty_set_all(struct tty_plan *p, int master)
{
	struct termios2 settings = {0};
	int r = tty_set_size(p, master);
	if (r >= 0)
		r = tty_set_node(p);
	if (r < 0 || !tty_settings(p, &settings))
		return r;
	if (p->slave >= 0)
		r = tty_queue_put(master, p->slave, &settings, &p->queues);
	else
		r = ioctl(master, TCSETS2, &settings) < 0 ? -errno : 0;
	if (r >= 0)
		r = tty_lock_settings(p, master);
	return r < 0 ? r : tty_set_modes(p, master);
}

static struct plan_file *tty_master_file(const struct tty_plan *p)
{
	vec_foreach(file, &p->files) {
		if (tty_is_file_of(*file, TTY_MASTER))
			return *file;
	}
	return NULL;
}

static bool tty_needs_slave(const struct tty_plan *p)
{
	bool closed = p->extra && p->extra->has_closed && p->extra->closed;
	bool waits = p->queues.n_input || p->queues.n_output || p->queues.n_lines || p->queues.stop;
	return p->infos[TTY_SLAVE] || closed || waits || tty_any_info(p)->sid;
}

/* orphan: the program is outside, and gets the master. */
static int tty_build_pair(struct opener *o, struct tty_plan *p, bool orphan, struct ferry_error *err)
{
	struct plan_file *file = tty_master_file(p);
	int unlocked = 0, fd = -1;
	int r = tty_open_master(o, p, file ? tty_flags(file) : O_RDWR, &fd, err);
	_cleanup_close_ unused int own = r < 0 || file ? -1 : fd;
	if (r < 0)
		return r;
	if (file)
		file->fd = fd;
	if (ioctl(fd, TIOCSPTLCK, &unlocked) < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "unlocking the terminal %s/%u",
				   p->dir, p->index);
	r = tty_open_files(o, p, true, err);
	if (r < 0 || (!file && !orphan))
		return r; /* without a master they are hung up when ours closes */
	if (tty_needs_slave(p))
		r = p->slave = tty_open_slave(p, O_RDWR | O_NONBLOCK, err);
	if (r < 0)
		return r;
	r = tty_set_all(p, fd);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -r, "setting the terminal %s/%u up", p->dir,
				   p->index);
	r = tty_open_files(o, p, false, err);
	return r < 0 || !orphan ? r : o->give_terminal(o, fd, err);
}

/* The terminal of whoever restores stands in for one whose master is not part of the image. */
static int tty_build_outside(struct opener *o, struct tty_plan *p, struct ferry_error *err)
{
	int own = 0;
	while (own < 3 && !isatty(own))
		own++;
	if (!o->options->shell_job || own == 3) {
		error_set(err, FERRY_ERROR_OUTSIDE_PEER, ENOTSUP,
			  "the program behind the terminal %s/%u is not part of the image", p->dir, p->index);
		error_hint(err, "restore with --shell-job from a shell in a terminal");
		return -ENOTSUP;
	}
	p->outside = true;
	vec_foreach(slot, &p->files) {
		struct plan_file *file = *slot;
		char path[64];
		snprintf(path, sizeof(path), "/proc/self/fd/%d", own);
		int fd = fd_open(AT_FDCWD, tty_was_ctty(o, file) ? "/dev/tty" : path, tty_flags(file), 0);
		if (fd < 0)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, -fd, "opening our own terminal");
		file->fd = fd;
	}
	return 0;
}

static int tty_build(struct opener *o, struct tty_plan *p, struct ferry_error *err)
{
	size_t masters = 0, hung = 0;
	vec_foreach(file, &p->files) {
		masters += tty_is_file_of(*file, TTY_MASTER);
		hung += tty_is_hung(p, *file);
	}
	p->built = true;
	if (masters > 1)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "the terminal %s/%u has %zu masters",
				 p->dir, p->index, masters);
	bool orphan = o->options->orphan_pts_master && !masters && hung < p->files.n;
	return masters || hung == p->files.n || orphan ? tty_build_pair(o, p, orphan, err)
						       : tty_build_outside(o, p, err);
}

int tty_restore(struct opener *o, struct plan_file *file, int *ret_fd, struct ferry_error *err)
{
	struct tty_plan *p = file->data;
	if (!p)
		return file->entry->reg ? 0 : fdcommon_no_record(file, err); /* the name of one */
	int r = p->built ? 0 : tty_build(o, p, err);
	if (r >= 0)
		r = fdcommon_set_flags(file->fd, file->entry->tty->flags, err);
	if (r >= 0)
		*ret_fd = file->fd;
	return r;
}

/* ------------------------------------------------------------------ in the tasks, and after */

int tty_settle(struct settle *s, struct plan_file *file, int fd, struct ferry_error *err)
{
	const TtyFileEntry *tty = file->entry->tty;
	return tty && fdcommon_settle_once(s, file) ? fdcommon_settle(tty->fown, tty->flags, fd, err) : 0;
}

static struct tty_plan *tty_of_session(const struct settle *s)
{
	const struct tty_plans *all = s->plan->kind_data[KIND_tty];
	struct tty_plan *p = all->first;
	while (p && (p->outside || !s->task->sid || tty_any_info(p)->sid != (uint32_t)s->task->sid))
		p = p->next;
	return p;
}

int tty_join_session(struct settle *s, struct ferry_error *err)
{
	const struct tty_plan *p = tty_of_session(s);
	if (!p || p->slave < 0 || ioctl(p->slave, TIOCSCTTY, 0) >= 0)
		return 0;
	return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno,
			   "taking %s/%u as the controlling terminal of session %d", p->dir, p->index,
			   s->task->sid);
}

static bool tty_lacks(const struct tty_plan *p, pid_t pid)
{
	for (size_t i = 0; p->extra && i < p->extra->n_without; i++)
		if (p->extra->without[i] == (uint32_t)pid)
			return true;
	return false;
}

int tty_settle_task(struct settle *s, struct ferry_error *err)
{
	const struct tty_plan *p = tty_of_session(s);
	pid_t group = p ? plan_number(s->plan, s->task, (pid_t)tty_any_info(p)->pgrp) : 0;
	bool lacks = p && tty_lacks(p, s->task->pid), leads = s->task->pid == s->task->sid;
	if (!p || p->slave < 0 || (!lacks && (!leads || !group || group == getpgrp())))
		return 0;
	_cleanup_close_ int fd = fd_open(AT_FDCWD, "/dev/tty", O_RDWR, 0);
	int r = fd < 0 ? fd : ioctl(fd, lacks ? TIOCNOTTY : TIOCSPGRP, &group) < 0 ? -errno : 0;
	/* A group that has no member any more cannot be put in the foreground. */
	return r >= 0 || r == -ESRCH ? 0
				     : error_errno(err, FERRY_ERROR_RESTORE_STEP, -r,
						   "setting the foreground process group %d of %s/%u", group,
						   p->dir, p->index);
}

/* Tasks have their own descriptors: what ours alone keeps open closes, and locks are set. */
int tty_ready(struct opener *o, struct ferry_error *err)
{
	struct tty_plans *all = o->plan->kind_data[KIND_tty];
	int one = 1;
	for (struct tty_plan *p = all->first; p; p = p->next) {
		const TtyInfoEntry *info = p->infos[TTY_MASTER];
		const struct plan_file *file = tty_master_file(p);
		if (p->slave >= 0)
			close(p->slave);
		p->slave = -1;
		if (file && info && info->locked && ioctl(file->fd, TIOCSPTLCK, &one) < 0)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "locking the terminal %s/%u",
					   p->dir, p->index);
	}
	return 0;
}

/* What was in the foreground of its terminal is in that of ours, as long as ferry waits for it. */
static void tty_take_foreground(struct opener *o, const struct tty_plan *p)
{
	int fd = p->files.v[0]->fd;
	const struct plan_task *t = plan_task(o->plan, (pid_t)tty_any_info(p)->pgrp);
	pid_t group = getpgid(o->pid_of(o, t ? t : o->plan->tasks));
	/* Ferry blocks SIGTTOU; and stays where it is if it is in the background itself. */
	if (group > 0 && tcgetpgrp(fd) == getpgrp() && tcsetpgrp(fd, group) < 0)
		log_write(o->log, LOG_WARN, "restore", "tty", 0,
			  "process group %d could not be put in the foreground, ignoring", group);
}

void tty_before_run(struct opener *o)
{
	struct tty_plans *all = o->plan->kind_data[KIND_tty];
	for (struct tty_plan *p = all->first; p; p = p->next) {
		struct termios2 settings = {0};
		if (p->outside && p->files.n && o->options->foreground)
			tty_take_foreground(o, p);
		if (p->outside && p->files.n && tty_settings(p, &settings) &&
		    ioctl(p->files.v[0]->fd, TCSETS2, &settings) < 0)
			log_write(o->log, LOG_WARN, "restore", "tty", 0,
				  "the settings of the terminal could not be restored, ignoring");
	}
	tty_release_vectors(all);
}
