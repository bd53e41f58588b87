/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns pseudo terminals: master and terminal sides with their settings, size, owner, lock, exclusive and packet mode,
 * what waits in them in both directions, stopped output, terminals that were hung up, and which session has one as
 * its controlling terminal. A terminal keeps its number, since programs know it by its name. Where its master is outside
 * the tree, the terminal of the restoring command takes its place (--shell-job). Restored by tty_restore.c.
 *
 * Kernel interface: ioctl_tty(2) TIOCGPTN, TIOCGPTLCK, TIOCGPKT, TIOCGEXCL (3.8), TIOCGPTPEER (4.13), TIOCGDEV,
 * TCGETS2, TIOCGLCKTRMIOS, TIOCGWINSZ; /proc/PID/stat tty_nr and tpgid.
 * Does not handle: virtual consoles, serial lines and the system console, refused; line disciplines other than N_TTY,
 * refused; a status byte of packet mode that was not read, refused; what was typed into a terminal that nobody has
 * opened yet; the column that output has reached, by which tabs and erasing are computed.
 */
#include "kind/tty.h"

#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/dir.h"
#include "image/proto/regfile.pb-c.h"
#include "image/proto/tty.pb-c.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "kind/peers.h"
#include "kind/tty_queue.h"
#include "model/record.h"
#include "proc/read.h"

enum { TTY_MODE_BITS = 07777, TTY_TYPE_FLAGS = O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC };

#define TTY_DIR_BYTES 192

/* A pseudo terminal of the tree. */
struct tty_found {
	struct tty_found *next;
	uint64_t devpts; /* st_dev of the mount that it belongs to */
	uint32_t index, instance;
	char dir[TTY_DIR_BYTES]; /* where that is mounted */
	char who[64];            /* whoever was seen first with its terminal side */
	char holder[96];         /* a program outside that has its master side */
	bool has_master, has_slave;
	bool dumped;
	int master, slave; /* copies; -1 = none */
	uint64_t master_dev, slave_dev;
	pid_t sid, pgrp, leader;
	VEC(uint32_t) hung; /* ids of files that were hung up */
	VEC(uint32_t) without;
	struct stat node;
	FerryTtyEntry *extra;
	TtyInfoEntry *infos[TTY_SIDES]; /* NULL = none in the tree */
	bool has_ctty;
	struct tty_queues queues;
};

/* Where a task stands. */
struct tty_task {
	pid_t pid, sid, tpgid;
	int32_t tty_nr;
};

struct tty_table {
	struct tty_found *first;
	VEC(struct tty_task) tasks;
	uint32_t instances;
	bool shell_job, orphans;
};

/* What a description turns out to be. */
struct tty_view {
	bool master, hung;
	uint32_t index;
	char dir[TTY_DIR_BYTES];
	uint64_t devpts;
};

static bool tty_owns(const struct fd_view *view)
{
	unsigned number = major(view->stat.st_rdev);
	return S_ISCHR(view->stat.st_mode) &&
	       (tty_is_slave(view->stat.st_rdev) || (number >= 2 && number <= TTY_MAJOR_AUX));
}

/* ------------------------------------------------------------------ what it is */

static int tty_refuse(const struct fd_view *view, const char *why, const char *hint, struct ferry_error *err)
{
	char who[64];
	fd_view_name(view, who, sizeof(who));
	error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP, "%s: '%s' %s", who, view->link, why);
	if (hint)
		error_hint(err, "%s", hint);
	return -ENOTSUP;
}

/* The mount of devpts behind a path. */
static int tty_place(const struct fd_view *view, struct tty_view *t, struct ferry_error *err)
{
	struct stat st;
	struct statfs fs;
	const char *slash = strrchr(view->link, '/');
	size_t n = slash ? (size_t)(slash - view->link) : 0;
	if (!n || n + sizeof("/pts") > sizeof(t->dir))
		return tty_refuse(view, "has a path that cannot be followed", NULL, err);
	snprintf(t->dir, sizeof(t->dir), "%.*s", (int)n, view->link);
	if (statfs(t->dir, &fs) < 0 || fs.f_type != DEVPTS_SUPER_MAGIC)
		snprintf(t->dir, sizeof(t->dir), "%.*s/pts", (int)n, view->link);
	if (statfs(t->dir, &fs) < 0 || fs.f_type != DEVPTS_SUPER_MAGIC || stat(t->dir, &st) < 0 ||
	    (!t->master && !tty_is_ctty(view->stat.st_rdev) && st.st_dev != view->stat.st_dev))
		return tty_refuse(view, "is of a devpts mount that is not at its path", NULL, err);
	t->devpts = st.st_dev;
	return 0;
}

static int tty_number(const struct fd_view *view, int fd, struct tty_view *t, struct ferry_error *err)
{
	unsigned number = 0;
	if (t->master && ioctl(fd, TIOCGPTN, &t->index) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "fd %d of pid %d: asking for its number",
				   view->fd, view->pid);
	if (t->master || t->hung) {
		if (!t->master)
			t->index = minor(view->stat.st_rdev);
		return 0;
	}
	/* The kernel's own encoding of a device number, which is that of stat(2) below 2^32. */
	if (ioctl(fd, TIOCGDEV, &number) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "fd %d of pid %d: asking for its device",
				   view->fd, view->pid);
	if (!tty_is_slave(number))
		return tty_refuse(view, "is no pseudo terminal", NULL, err);
	t->index = minor(number);
	return 0;
}

static int tty_identify(const struct fd_view *view, int fd, struct tty_view *t, struct ferry_error *err)
{
	struct termios2 settings;
	int discipline = 0;
	t->master = tty_is_master(view->stat.st_rdev);
	t->hung = !t->master && ioctl(fd, TCGETS2, &settings) < 0 && errno == EIO;
	if (t->hung && tty_is_ctty(view->stat.st_rdev))
		return tty_refuse(view, "was hung up, and nothing tells which terminal it was", NULL, err);
	if (!t->hung && (ioctl(fd, TIOCGETD, &discipline) < 0 || discipline))
		return tty_refuse(view, "has another line discipline than a terminal's", NULL, err);
	int r = tty_number(view, fd, t, err);
	return r < 0 ? r : tty_place(view, t, err);
}

static int tty_refuse_kind(const struct fd_view *view, struct ferry_error *err)
{
	dev_t rdev = view->stat.st_rdev;
	if (view->info->flags & O_PATH)
		return tty_refuse(view, "was opened with O_PATH", NULL, err);
	if (!tty_is_master(rdev) && !tty_is_slave(rdev) && !tty_is_ctty(rdev))
		return tty_refuse(view, "is a console or a serial line",
				  "start the program in a pseudo terminal (script, tmux, ssh)", err);
	return 0;
}

/* ------------------------------------------------------------------ check */

static struct tty_table *tty_table(struct arena *a, void **slot)
{
	if (!*slot)
		*slot = arena_new(a, struct tty_table);
	return *slot;
}

static struct tty_found *tty_find(struct arena *a, struct tty_table *table, const struct tty_view *t)
{
	struct tty_found *f = table->first;
	uint32_t instance = table->instances;
	for (; f; f = f->next) {
		if (f->devpts == t->devpts && f->index == t->index)
			return f;
		if (f->devpts == t->devpts)
			instance = f->instance;
	}
	f = arena_new(a, struct tty_found);
	if (!f)
		return NULL;
	table->instances += instance == table->instances;
	f->devpts = t->devpts;
	f->index = t->index;
	f->instance = instance;
	f->master = f->slave = -1;
	snprintf(f->dir, sizeof(f->dir), "%s", t->dir);
	f->next = table->first;
	table->first = f;
	return f;
}

static struct tty_found *tty_note(const struct fd_view *view, const struct tty_view *t)
{
	struct tty_table *table = tty_table(view->arena, &view->kind_data[KIND_tty]);
	struct tty_found *f = table ? tty_find(view->arena, table, t) : NULL;
	if (!f)
		return NULL;
	f->has_master |= t->master;
	f->has_slave |= !t->master && !t->hung;
	if (!f->who[0])
		fd_view_name(view, f->who, sizeof(f->who));
	return f;
}

/* A session leader of the tree whose terminal is not: no other terminal can be given to it. */
static void tty_note_leader(const struct fd_view *view, struct tty_found *f)
{
	struct proc_stat st;
	_cleanup_close_ int dir = proc_open(view->pid, NULL);
	if (dir >= 0 && proc_read_stat(dir, &st, NULL) >= 0 && st.session == view->pid &&
	    tty_is_slave((uint32_t)st.tty_nr) && minor((uint32_t)st.tty_nr) == f->index)
		f->leader = view->pid;
}

/* Whose terminal it is. */
static int tty_note_holder(const struct fd_view *view, struct tty_found *f, struct ferry_error *err)
{
	struct peer peer;
	char comm[PROC_NAME_BYTES];
	int r = f->holder[0] ? 0
			     : peers_outside(view->peers, PEER_MASTER, peer_terminal(f->devpts, f->index),
					     &peer, err);
	_cleanup_close_ int dir = r > 0 ? proc_open(peer.pid, NULL) : -1;
	if (r > 0 && dir >= 0 && proc_read_comm(dir, comm, NULL) >= 0)
		snprintf(f->holder, sizeof(f->holder), "pid %d (%s)", peer.pid, comm);
	return MIN(r, 0);
}

static int tty_check(const struct fd_view *view, const struct kind_options *options, struct ferry_error *err)
{
	struct fd_view copied = *view;
	struct tty_view t = {0};
	int r = tty_refuse_kind(view, err);
	if (r >= 0)
		r = fd_view_copy(&copied, err);
	if (r < 0)
		return r;
	r = tty_identify(view, copied.copy, &t, err);
	if (view->copy < 0)
		close(copied.copy);
	if (r < 0)
		return r;
	struct tty_found *f = tty_note(view, &t);
	if (!f)
		return error_memory(err);
	struct tty_table *table = view->kind_data[KIND_tty];
	table->shell_job = options->shell_job;
	table->orphans = options->orphan_pts_master;
	if (!t.master && !t.hung) {
		tty_note_leader(view, f);
		r = tty_note_holder(view, f, err);
	}
	if (r < 0)
		return r;
	if (!t.master || options->criu_compat)
		return 0;
	r = peers_refuse_number(view, PEER_TERMINAL, peer_terminal(t.devpts, t.index), err);
	return r < 0 ? r : peers_refuse_number(view, PEER_MASTER, peer_terminal(t.devpts, t.index), err);
}

static int tty_refuse_leader(pid_t pid, uint32_t rdev, const char *holder, struct ferry_error *err)
{
	error_set(
		err, FERRY_ERROR_OUTSIDE_SESSION, ENOTSUP,
		"pid %d leads a session whose controlling terminal (device %u:%u) is of %s outside the tree",
		pid, major(rdev), minor(rdev), holder[0] ? holder : "a program");
	error_hint(
		err,
		"dump a job of that shell with --shell-job instead of the shell, or start the shell with ferry run --tty");
	return -ENOTSUP;
}

static int tty_refuse_outside(const struct tty_found *f, struct ferry_error *err)
{
	if (f->leader)
		return tty_refuse_leader(f->leader, makedev(TTY_MAJOR_PTS, f->index), f->holder, err);
	error_set(err, FERRY_ERROR_OUTSIDE_PEER, ENOTSUP,
		  "%s: the program behind the terminal %s/%u%s%s is outside the tree", f->who, f->dir,
		  f->index, f->holder[0] ? ", " : "", f->holder);
	error_hint(
		err,
		"use --shell-job: after the restore the terminal of the restoring command takes its place; or start the program with ferry run, or ferry run --tty");
	return -ENOTSUP;
}

static int tty_check_end(void *const *kind_data, size_t *at, struct ferry_error *err)
{
	const struct tty_table *table = kind_data[KIND_tty];
	size_t i = 0;
	for (const struct tty_found *f = table ? table->first : NULL; f; f = f->next, i++) {
		if (i < *at || f->has_master || !f->has_slave || table->orphans ||
		    (table->shell_job && !f->leader))
			continue;
		*at = i + 1;
		return tty_refuse_outside(f, err);
	}
	return 0;
}

/* ------------------------------------------------------------------ collect */

/* The name of a terminal is a file of its own in the common format. */
static int tty_collect_name(struct collect *c, const struct fd_view *view, uint32_t flags, uint32_t *ret_id,
			    struct ferry_error *err)
{
	static const char deleted[] = " (deleted)";
	FileEntry *entry = record_new(&c->snap->arena, FileEntry, file_entry);
	RegFileEntry *reg = record_new(&c->snap->arena, RegFileEntry, reg_file_entry);
	struct snap_file *file = entry && reg ? vec_push(&c->snap->files) : NULL;
	if (!file)
		return error_memory(err);
	reg->fown = fdcommon_no_owner(&c->snap->arena);
	reg->name = arena_string(&c->snap->arena, view->link);
	if (!reg->fown || !reg->name)
		return error_memory(err);
	size_t n = strlen(reg->name), tail = sizeof(deleted) - 1;
	if (n > tail && !strcmp(reg->name + n - tail, deleted))
		reg->name[n - tail] = '\0';
	reg->flags = flags;
	record_set(reg, mode, view->stat.st_mode);
	entry->type = FD_TYPES__REG;
	*ret_id = entry->id = reg->id = ++c->snap->next_file_id;
	entry->reg = reg;
	*file = (struct snap_file){
		.entry = entry, .kind = &kind_regfile, .copy = -1, .pid = view->pid, .fd = -1};
	return 0;
}

static uint32_t tty_info_id(const struct tty_found *f, enum tty_side side)
{
	return f->instance * TTY_SECOND + f->index * 2 + (side == TTY_MASTER) +
	       (side == TTY_CTTY ? TTY_CTTY_ID : 0);
}

static int tty_collect(struct collect *c, struct fd_view *view, struct snap_file *file,
		       struct ferry_error *err)
{
	struct tty_view t = {0};
	TtyFileEntry *tty = record_new(&c->snap->arena, TtyFileEntry, tty_file_entry);
	if (!tty)
		return error_memory(err);
	int r = tty_refuse_kind(view, err);
	if (r >= 0)
		r = fdcommon_owner(c, view, &tty->fown, err);
	if (r >= 0)
		r = fd_view_copy(view, err);
	if (r >= 0)
		r = tty_identify(view, view->copy, &t, err);
	if (r < 0)
		return r;
	struct tty_found *f = tty_note(view, &t);
	uint32_t *hung = f && t.hung ? vec_push(&f->hung) : NULL;
	if (!f || (t.hung && !hung))
		return error_memory(err);
	if (hung)
		*hung = file->entry->id;
	tty->id = file->entry->id;
	bool ctty = tty_is_ctty(view->stat.st_rdev);
	f->has_ctty |= ctty;
	tty->tty_info_id = tty_info_id(f, t.master ? TTY_MASTER : ctty ? TTY_CTTY : TTY_SLAVE);
	tty->flags = fdcommon_flags(view) & ~(uint32_t)TTY_TYPE_FLAGS;
	tty->has_regf_id = 1;
	r = tty_collect_name(c, view, tty->flags, &tty->regf_id, err);
	if (r < 0)
		return r;
	int *copy = t.master ? &f->master : &f->slave;
	if (!t.hung && *copy < 0) {
		*copy = file->copy = view->copy;
		view->copy = -1;
	}
	if (!ctty)
		*(t.master ? &f->master_dev : &f->slave_dev) = view->stat.st_dev;
	file->entry->tty = tty;
	file->data = f;
	return 0;
}

static int tty_collect_task(struct collect *c, struct snap_task *t, int proc_dir unused,
			    const struct answers *a unused, struct ferry_error *err)
{
	struct tty_table *table = tty_table(&c->snap->arena, &c->kind_data[KIND_tty]);
	struct tty_task *task = table ? vec_push(&table->tasks) : NULL;
	if (!task)
		return error_memory(err);
	table->shell_job = c->options->shell_job;
	table->orphans = c->options->orphan_pts_master;
	*task = (struct tty_task){
		.pid = t->pid, .sid = t->sid, .tty_nr = t->stat.tty_nr, .tpgid = t->stat.tpgid};
	return 0;
}

/* It comes back as a terminal of its own, also when its program is outside. */
static bool tty_is_whole(const struct tty_table *table, const struct tty_found *f)
{
	return f->has_master || (table->orphans && f->has_slave);
}

static struct tty_found *tty_of_session(const struct tty_table *table, pid_t sid)
{
	struct tty_found *f = table->first;
	while (f && f->sid != sid)
		f = f->next;
	return f;
}

/* The terminal of a session leader. Two mounts of devpts may both have the number; then the one that it holds. */
static int tty_lead(struct tty_table *table, const struct tty_task *task, struct ferry_error *err)
{
	struct tty_found *found = NULL;
	for (struct tty_found *f = table->first; f; f = f->next)
		if (tty_is_slave((dev_t)(uint32_t)task->tty_nr) &&
		    f->index == minor((uint32_t)task->tty_nr) && (f->has_master || f->has_slave))
			found = f;
	bool whole = found && tty_is_whole(table, found);
	if (whole) {
		found->sid = task->sid;
		found->pgrp = task->tpgid;
	}
	return whole ? 0 : tty_refuse_leader(task->pid, (uint32_t)task->tty_nr, "", err);
}

/* Of a terminal from outside, in whose foreground the tree may be. */
static void tty_note_foreground(struct tty_table *table, const struct tty_task *task)
{
	for (struct tty_found *f = table->first; f; f = f->next)
		if (!f->has_master && f->has_slave && tty_is_slave((dev_t)(uint32_t)task->tty_nr) &&
		    f->index == minor((uint32_t)task->tty_nr))
			f->pgrp = task->tpgid;
}

static int tty_sessions(const struct snapshot *s, struct tty_table *table, struct ferry_error *err)
{
	int r = 0;
	vec_foreach(task, &table->tasks) {
		if (task->tty_nr && task->pid == task->sid && r >= 0)
			r = tty_lead(table, task, err);
	}
	vec_foreach(task, &table->tasks)
		tty_note_foreground(table, task);
	vec_foreach(task, &table->tasks) {
		struct tty_found *f = task->tty_nr || r < 0 ? NULL : tty_of_session(table, task->sid);
		uint32_t *slot = f ? vec_push(&f->without) : NULL;
		if (f && !slot)
			return error_memory(err);
		if (slot)
			*slot = (uint32_t)snapshot_inner_pid(s, task->pid);
	}
	return r;
}

static TermiosEntry *tty_termios(struct arena *a, const void *settings)
{
	TermiosEntry *entry = record_new(a, TermiosEntry, termios_entry);
	const struct termios *t = settings; /* termios2 begins alike */
	if (!entry)
		return NULL;
	entry->c_iflag = t->c_iflag;
	entry->c_oflag = t->c_oflag;
	entry->c_cflag = t->c_cflag;
	entry->c_lflag = t->c_lflag;
	entry->c_line = t->c_line;
	entry->n_c_cc = TTY_CC;
	entry->c_cc = arena_array(a, uint32_t, TTY_CC);
	/* The format has one character in each byte, not in each word. */
	if (entry->c_cc)
		memcpy(entry->c_cc, t->c_cc, sizeof(t->c_cc));
	return entry->c_cc ? entry : NULL;
}

static int tty_collect_settings(struct arena *a, const struct tty_found *f, TtyInfoEntry *info,
				struct ferry_error *err)
{
	int fd = f->master >= 0 ? f->master : f->slave;
	struct termios2 settings;
	struct termios locked;
	struct winsize size;
	if (ioctl(fd, TCGETS2, &settings) < 0 || ioctl(fd, TIOCGLCKTRMIOS, &locked) < 0 ||
	    ioctl(fd, TIOCGWINSZ, &size) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno,
				   "reading the settings of the terminal %s/%u", f->dir, f->index);
	info->termios = tty_termios(a, &settings);
	info->termios_locked = tty_termios(a, &locked);
	info->winsize = record_new(a, WinsizeEntry, winsize_entry);
	if (!info->termios || !info->termios_locked || !info->winsize)
		return error_memory(err);
	info->winsize->ws_row = size.ws_row;
	info->winsize->ws_col = size.ws_col;
	info->winsize->ws_xpixel = size.ws_xpixel;
	info->winsize->ws_ypixel = size.ws_ypixel;
	record_set(f->extra, ispeed, settings.c_ispeed);
	record_set(f->extra, ospeed, settings.c_ospeed);
	return 0;
}

static uint32_t tty_rdev(const struct tty_found *f, enum tty_side side)
{
	if (side == TTY_SLAVE)
		return makedev(TTY_MAJOR_PTS, f->index);
	return makedev(TTY_MAJOR_AUX, side == TTY_MASTER ? TTY_MINOR_PTMX : TTY_MINOR_TTY);
}

static int tty_flag(int fd, unsigned long request)
{
	int value = 0;
	return fd >= 0 && ioctl(fd, request, &value) >= 0 && value;
}

static int tty_info(struct snapshot *s, struct tty_found *f, enum tty_side side, struct ferry_error *err)
{
	struct arena *a = &s->arena;
	bool master = side == TTY_MASTER;
	TtyInfoEntry *info = record_new(a, TtyInfoEntry, tty_info_entry);
	TtyPtyEntry *pty = record_new(a, TtyPtyEntry, tty_pty_entry);
	if (!info || !pty)
		return error_memory(err);
	int fd = master ? f->master : f->slave;
	info->id = tty_info_id(f, side);
	info->type = side == TTY_CTTY ? TTY_TYPE__CTTY : TTY_TYPE__PTY;
	info->locked = master && tty_flag(fd, TIOCGPTLCK);
	info->exclusive = tty_flag(fd, TIOCGEXCL);
	info->packet_mode = master && tty_flag(fd, TIOCGPKT);
	info->sid = f->sid > 0 ? (uint32_t)snapshot_inner_pid(s, f->sid) : 0;
	info->pgrp = f->pgrp > 0 ? (uint32_t)snapshot_inner_pid(s, f->pgrp) : 0;
	info->rdev = tty_rdev(f, side);
	pty->index = f->index;
	info->pty = side == TTY_CTTY ? NULL : pty;
	record_set(info, dev, (uint32_t)(master ? f->master_dev : f->slave_dev));
	record_set(info, uid, f->node.st_uid);
	record_set(info, gid, f->node.st_gid);
	f->infos[side] = info;
	return f->master >= 0 || f->slave >= 0 ? tty_collect_settings(a, f, info, err) : 0;
}

static int tty_refuse_packet(const struct tty_found *f, struct ferry_error *err)
{
	struct pollfd p = {.fd = f->master, .events = POLLPRI};
	if (!tty_flag(f->master, TIOCGPKT) || poll(&p, 1, 0) <= 0 || !(p.revents & POLLPRI))
		return 0;
	error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
		  "the terminal %s/%u has a status byte of packet mode that was not read", f->dir, f->index);
	error_hint(err, "it is there for a moment only: dump again");
	return -ENOTSUP;
}

/* What waits. The terminal side is opened for that, which shows only where nobody ever opened it. */
static int tty_collect_queues(struct collect *c, struct tty_found *f, struct ferry_error *err)
{
	struct pollfd p = {.fd = f->master, .events = POLLIN};
	bool closed = poll(&p, 1, 0) > 0 && p.revents & POLLHUP;
	int r = tty_refuse_packet(f, err);
	if (closed)
		record_set(f->extra, closed, 1);
	if (r < 0 || (!closed && f->slave < 0))
		return r;
	_cleanup_close_ int slave = ioctl(f->master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	int fd = slave >= 0 ? slave : f->slave;
	if (fd < 0)
		return 0; /* locked, and nobody has it open */
	const struct tty_look look = {.master = f->master,
				      .slave = fd,
				      .arena = &c->snap->arena,
				      .warden = c->warden,
				      .fault = c->fault};
	r = tty_queue_look(&look, &f->queues, err);
	if (r >= 0 && f->queues.stop)
		record_set(f->extra, stopped, f->queues.stop);
	return r;
}

static int tty_collect_lines(struct arena *a, struct tty_found *f, struct ferry_error *err)
{
	const struct tty_queues *q = &f->queues;
	f->extra->lines = arena_array(a, FerryTtyLine *, q->n_lines + 1);
	FerryTtyLine *all = arena_array(a, FerryTtyLine, q->n_lines + 1);
	if (!all || !f->extra->lines)
		return error_memory(err);
	for (size_t i = 0; i < q->n_lines; i++) {
		ferry_tty_line__init(&all[i]);
		all[i].length = q->lines[i].length;
		all[i].end_of_file = q->lines[i].end_of_file;
		f->extra->lines[f->extra->n_lines++] = &all[i];
	}
	return 0;
}

static int tty_collect_extra(struct arena *a, const struct tty_table *table, struct tty_found *f,
			     struct ferry_error *err)
{
	bool whole = tty_is_whole(table, f);
	f->extra = record_new(a, FerryTtyEntry, ferry_tty_entry);
	if (!f->extra)
		return error_memory(err);
	f->extra->id = tty_info_id(f, TTY_SLAVE);
	f->extra->hung_up = f->hung.v;
	f->extra->n_hung_up = f->hung.n;
	f->extra->without = f->without.v;
	f->extra->n_without = f->without.n;
	char path[TTY_DIR_BYTES + 16];
	snprintf(path, sizeof(path), "%s/%u", f->dir, f->index);
	if (whole && stat(path, &f->node) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "looking at the terminal '%s'", path);
	if (whole)
		record_set(f->extra, mode, f->node.st_mode & TTY_MODE_BITS);
	return 0;
}

static int tty_collect_found(struct collect *c, struct tty_found *f, struct ferry_error *err)
{
	struct arena *a = &c->snap->arena;
	int r = tty_collect_extra(a, c->kind_data[KIND_tty], f, err);
	if (r >= 0 && (f->slave >= 0 || f->hung.n))
		r = tty_info(c->snap, f, TTY_SLAVE, err);
	if (r >= 0 && f->has_ctty)
		r = tty_info(c->snap, f, TTY_CTTY, err);
	if (r >= 0 && f->master >= 0)
		r = tty_info(c->snap, f, TTY_MASTER, err);
	if (r >= 0 && f->master >= 0)
		r = tty_collect_queues(c, f, err);
	return r < 0 ? r : tty_collect_lines(a, f, err);
}

static int tty_collect_end(struct collect *c, struct ferry_error *err)
{
	struct tty_table *table = c->kind_data[KIND_tty];
	int r = table ? tty_sessions(c->snap, table, err) : 0;
	for (struct tty_found *f = table ? table->first : NULL; f && r >= 0; f = f->next)
		r = tty_collect_found(c, f, err);
	return r;
}

/* ------------------------------------------------------------------ dump */

static int tty_dump_data(struct dump *d, uint32_t id, const void *bytes, size_t n, struct ferry_error *err)
{
	TtyDataEntry entry = TTY_DATA_ENTRY__INIT;
	struct image_writer *w;
	if (!n)
		return 0;
	entry.tty_id = id;
	entry.data = (ProtobufCBinaryData){.len = n, .data = (uint8_t *)(uintptr_t)bytes};
	int r = fdcommon_writer(d, IMAGE_TTY_DATA, &w, err);
	return r < 0 ? r : image_put(w, &entry.base, err);
}

static int tty_dump_found(struct dump *d, const struct tty_found *f, struct ferry_error *err)
{
	struct image_writer *w;
	int r = fdcommon_writer(d, IMAGE_TTY_INFO, &w, err);
	for (int side = 0; side < TTY_SIDES && r >= 0; side++)
		if (f->infos[side])
			r = image_put(w, &f->infos[side]->base, err);
	if (r >= 0)
		r = tty_dump_data(d, tty_info_id(f, TTY_MASTER), f->queues.output, f->queues.n_output, err);
	if (r >= 0)
		r = tty_dump_data(d, tty_info_id(f, TTY_SLAVE), f->queues.input, f->queues.n_input, err);
	if (r >= 0)
		r = fdcommon_writer(d, IMAGE_FERRY_TTY, &w, err);
	return r < 0 ? r : image_put(w, &f->extra->base, err);
}

static int tty_dump(struct dump *d, struct snap_file *file, struct ferry_error *err)
{
	struct tty_found *f = file->data;
	if (f->dumped)
		return 0;
	f->dumped = true;
	return tty_dump_found(d, f, err);
}

static int tty_after(struct collect *c, struct image_dir *dir unused, bool kill unused,
		     struct ferry_error *err unused)
{
	struct tty_table *table = c->kind_data[KIND_tty];
	for (struct tty_found *f = table ? table->first : NULL; f; f = f->next) {
		vec_release(&f->hung);
		vec_release(&f->without);
	}
	if (table)
		vec_release(&table->tasks);
	return 0;
}

const struct kind_ops kind_tty = {
	.name = "tty",
	.what = "pseudo terminals with what waits in them, controlling terminals",
	.fd_type = FD_TYPES__TTY,
	.image_file = IMAGE_TTY_INFO,
	.owns = tty_owns,
	.check = tty_check,
	.check_end = tty_check_end,
	.collect = tty_collect,
	.collect_task = tty_collect_task,
	.collect_end = tty_collect_end,
	.dump = tty_dump,
	.after = tty_after,
	.read = tty_read,
	.restore = tty_restore,
	.settle = tty_settle,
	.join_session = tty_join_session,
	.settle_task = tty_settle_task,
	.ready = tty_ready,
	.before_run = tty_before_run,
};
