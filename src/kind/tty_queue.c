/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the bytes that wait in a pseudo terminal. The kernel has no way to look at them: they are taken out and put in
 * again. Taking out goes by splice(2) over a pipe into memory files, so that no byte is ever in nobody's hands, and a
 * warden that replays the log finds all of them. Putting in goes by TIOCSTI, which hands a byte to the line
 * discipline at once, under settings that leave every byte as it is. In line mode lines keep their ends. Ordinary users may
 * not do that: they write to the other side, and a character that stops the output tells that all before it has arrived.
 *
 * Kernel interface: ioctl_tty(2) TIOCSTI, TCSETS2, TIOCPKT, TCXONC, FIONREAD; splice(2) on terminals (5.10).
 * Between the read of a line that is an end of file alone and the entry of it lies one instruction; a SIGKILL there loses it.
 * Does not handle: the column that the echo of a line being typed has reached.
 */
#include "kind/tty_queue.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fault.h"
#include "host/warden.h"

enum {
	TTY_BUFFER = 4095, /* bytes that the line discipline holds; more wait unprocessed before it */
	TTY_CHUNK = 4096,
	TTY_WRITE = 64,
	TTY_LINES = 1 << 16,
	TTY_WAIT_MS = 200,
	TTY_QUEUE_MAX = 1 << 20,
};

/* Lies in a memory file that the warden can take. Descriptors are the worker's numbers. */
struct tty_undo {
	int32_t master, slave, out, in, input, output;
	struct termios2 settings;
	struct termios locked;
	int32_t packet;
	uint32_t draining_output; /* what is left in the pipe belongs to the output */
	uint32_t lines_taken;     /* every whole line */
	uint32_t putting;         /* everything was taken out, and some of it may be back */
	uint32_t probing;         /* output was let go to see why it was stopped */
	uint32_t stop;
	uint32_t n_lines;
	struct tty_line lines[TTY_LINES];
};

static short tty_poll(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};
	return poll(&p, 1, 0) < 0 ? 0 : p.revents;
}

/* Settings under which every byte stays what it is; flow control stays as it is, for changing it lets output go. */
static struct termios2 tty_plain(const struct termios2 *settings, bool lines)
{
	struct termios2 plain = *settings;
	plain.c_iflag &= IXON;
	plain.c_oflag = 0;
	plain.c_lflag = lines ? ICANON | (settings->c_lflag & IEXTEN) : 0;
	memset(plain.c_cc, 0, sizeof(plain.c_cc));
	if (lines) {
		plain.c_cc[VEOL] = settings->c_cc[VEOL];
		plain.c_cc[VEOL2] = settings->c_cc[VEOL2];
	}
	return plain;
}

static void tty_effect(const struct fault *fault, const char *what)
{
	if (fault)
		fault_effect(fault, "collect", what);
}

static int tty_set(int fd, const struct termios2 *settings)
{
	return ioctl(fd, TCSETS2, settings) < 0 ? -errno : 0;
}

/* ------------------------------------------------------------------------- putting in */

/* 0, or -EPERM where an ordinary user may not. */
static int tty_insert(int fd, uint8_t byte)
{
	char c = (char)byte;
	if (ioctl(fd, TIOCSTI, &c) == 0)
		return 0;
	return errno == EIO ? -EPERM : -errno; /* EIO: dev.tty.legacy_tiocsti is 0 */
}

static int tty_write(int fd, const uint8_t *bytes, size_t n)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	while (n) {
		int ready = poll(&p, 1, TTY_WAIT_MS);
		ssize_t done = ready > 0 ? write(fd, bytes, MIN(n, (size_t)TTY_WRITE)) : 0;
		if (ready == 0 || (done < 0 && errno != EINTR && errno != EAGAIN))
			return ready == 0 ? -ENOSPC : -errno;
		bytes += MAX(done, 0);
		n -= (size_t)MAX(done, 0);
	}
	return 0;
}

static bool tty_ends_line(const struct termios2 *settings, uint8_t byte)
{
	bool second = settings->c_lflag & IEXTEN;
	return byte == '\n' || (byte && byte == settings->c_cc[VEOL]) ||
	       (byte && second && byte == settings->c_cc[VEOL2]);
}

/* Characters that the input lacks. */
enum tty_chosen { TTY_END_OF_FILE, TTY_LITERALLY, TTY_STOP, TTY_START, TTY_CHOSEN };

static int tty_choose(const struct termios2 *settings, const struct tty_queues *q,
		      uint8_t ret_chosen[TTY_CHOSEN])
{
	bool used[256] = {true};
	size_t found = 0;
	for (size_t i = 0; i < q->n_input; i++)
		used[q->input[i]] = true;
	for (unsigned c = 1; c < 256 && found < TTY_CHOSEN; c++)
		if (!used[c] && !tty_ends_line(settings, (uint8_t)c))
			ret_chosen[found++] = (uint8_t)c;
	return found == TTY_CHOSEN ? 0 : -ENOSPC;
}

struct tty_put {
	int master, slave;
	const struct termios2 *settings;
	uint8_t chosen[TTY_CHOSEN];
	bool written; /* by way of the other side, so it may be under way */
	size_t room;
	const uint8_t *at; /* first byte that found no room */
};

static int tty_put_byte(struct tty_put *put, uint8_t byte)
{
	int r = put->written ? -EPERM : tty_insert(put->slave, byte);
	if (r != -EPERM || put->master == put->slave)
		return r;
	put->written = true;
	return tty_write(put->master, &byte, 1);
}

/* Wait until output is stopped, or is not; the one who stopped it is the last of what was written. */
static int tty_await_output(const struct tty_put *put, bool stopped)
{
	for (int left = TTY_WAIT_MS; left > 0; left--) {
		if (!(tty_poll(put->slave, POLLOUT) & POLLOUT) == stopped)
			return 0;
		poll(NULL, 0, 1);
	}
	return -ETIMEDOUT;
}

/* All that was written has reached the line discipline before its settings change. */
static int tty_put_end(struct tty_put *put, struct termios2 plain)
{
	uint8_t stop = put->chosen[TTY_STOP], start = put->chosen[TTY_START];
	if (!put->written)
		return 0;
	if (!stop || !(tty_poll(put->slave, POLLOUT) & POLLOUT)) {
		poll(NULL, 0, TTY_WAIT_MS / 4); /* stopped already: nothing tells */
		return 0;
	}
	plain.c_iflag |= IXON;
	plain.c_cc[VSTOP] = stop;
	plain.c_cc[VSTART] = start;
	int r = tty_set(put->master, &plain);
	if (r >= 0)
		r = tty_write(put->master, &stop, 1);
	if (r >= 0)
		r = tty_await_output(put, true);
	if (r >= 0)
		r = tty_write(put->master, &start, 1);
	return r < 0 ? r : tty_await_output(put, false);
}

static int tty_put_line(struct tty_put *put, const struct tty_line *line)
{
	int r = 0;
	for (size_t i = 0; i < line->length && put->room && r >= 0; i++, put->room--, put->at++) {
		bool last = i + 1 == line->length && !line->end_of_file;
		if (tty_ends_line(put->settings, *put->at) && !last)
			r = tty_put_byte(put, put->chosen[TTY_LITERALLY]);
		if (r >= 0)
			r = tty_put_byte(put, *put->at);
	}
	if (r >= 0 && line->end_of_file && put->room) {
		put->room--;
		r = tty_put_byte(put, put->chosen[TTY_END_OF_FILE]);
	}
	return r;
}

static int tty_put_lines(struct tty_put *put, const struct tty_queues *q)
{
	int r = tty_choose(put->settings, q, put->chosen);
	if (r < 0)
		return r;
	struct termios2 plain = tty_plain(put->settings, true);
	plain.c_cc[VEOF] = put->chosen[TTY_END_OF_FILE];
	plain.c_cc[VLNEXT] = put->chosen[TTY_LITERALLY];
	if (!(plain.c_lflag & IEXTEN))
		plain.c_cc[VEOL2] = 0;
	plain.c_lflag |= IEXTEN;
	r = tty_set(put->master, &plain);
	for (size_t i = 0; i < q->n_lines && r >= 0; i++) {
		tty_effect(q->fault, "terminal: put a line back");
		r = tty_put_line(put, &q->lines[i]);
	}
	if (r < 0)
		return r;
	/* A line being typed has no end, so nothing in it may make one. */
	struct tty_line rest = {.length = (uint32_t)(q->input + q->n_input - put->at)};
	for (size_t i = 0; i < rest.length && put->room && r >= 0; i++, put->room--, put->at++) {
		if (tty_ends_line(put->settings, *put->at))
			r = tty_put_byte(put, put->chosen[TTY_LITERALLY]);
		if (r >= 0)
			r = tty_put_byte(put, *put->at);
	}
	return r < 0 ? r : tty_put_end(put, plain);
}

static int tty_put_bytes(struct tty_put *put, const struct tty_queues *q)
{
	struct termios2 plain = tty_plain(put->settings, false);
	int r = tty_choose(put->settings, q, put->chosen);
	/* Where all characters are in use, none can be told apart; root needs none. */
	if (r < 0)
		put->chosen[TTY_STOP] = put->chosen[TTY_START] = 0;
	r = tty_set(put->master, &plain);
	for (size_t i = 0; i < q->n_input && put->room && r >= 0; i++, put->room--, put->at++)
		r = tty_put_byte(put, *put->at);
	return r < 0 ? r : tty_put_end(put, plain);
}

static int tty_stop(int master, int slave, const struct termios2 *settings, uint32_t stop);

/* Output that is stopped goes on; what had stopped it. */
static uint32_t tty_let_go(int master, int slave, const struct termios2 *settings)
{
	if (tty_poll(slave, POLLOUT) & POLLOUT)
		return TTY_RUNS;
	if (ioctl(slave, TCXONC, TCOON) == 0 && tty_poll(slave, POLLOUT) & POLLOUT)
		return TTY_STOPPED_BY_CALL;
	struct termios2 plain = tty_plain(settings, settings->c_lflag & ICANON);
	plain.c_iflag &= ~(tcflag_t)IXON;
	return tty_set(master, &plain) < 0 ? TTY_RUNS : TTY_STOPPED_BY_CHARACTER;
}

/* Where nobody but root may insert it, it is written as the program wrote it, which takes a terminal that is not stopped. */
static int tty_write_output(int master, int slave, const struct termios2 *settings, const uint8_t *bytes,
			    size_t n)
{
	uint32_t stop = tty_let_go(master, slave, settings);
	int r = tty_write(slave, bytes, n);
	return r < 0 ? r : tty_stop(master, slave, settings, stop);
}

static int tty_put_output(int master, int slave, const struct termios2 *settings, const struct tty_queues *q)
{
	size_t direct = MIN(q->n_output, (size_t)TTY_BUFFER);
	for (size_t i = 0; i < direct; i++) {
		int r = tty_insert(master, q->output[i]);
		if (r == -EPERM)
			return tty_write_output(master, slave, settings, q->output + i, q->n_output - i);
		if (r < 0)
			return r;
	}
	return tty_write(slave, q->output + direct, q->n_output - direct);
}

static int tty_stop(int master, int slave, const struct termios2 *settings, uint32_t stop)
{
	if (stop == TTY_STOPPED_BY_CALL)
		return ioctl(slave, TCXONC, TCOOFF) < 0 ? -errno : 0;
	if (stop != TTY_STOPPED_BY_CHARACTER)
		return 0;
	struct termios2 plain = tty_plain(settings, settings->c_lflag & ICANON);
	plain.c_iflag |= IXON;
	plain.c_cc[VSTOP] = 'S' - '@';
	struct tty_put put = {.master = master, .slave = slave, .settings = settings};
	int r = tty_set(slave, &plain);
	if (r >= 0)
		r = tty_put_byte(&put, 'S' - '@');
	return r < 0 || !put.written ? r : tty_await_output(&put, true);
}

int tty_queue_put(int master, int slave, const struct termios2 *settings, const struct tty_queues *q)
{
	struct tty_put put = {.master = master >= 0 ? master : slave,
			      .slave = slave,
			      .settings = settings,
			      .room = TTY_BUFFER,
			      .at = q->input};
	int r = 0;
	if (q->n_input || q->n_lines)
		r = settings->c_lflag & ICANON ? tty_put_lines(&put, q) : tty_put_bytes(&put, q);
	struct termios2 plain = tty_plain(settings, settings->c_lflag & ICANON);
	tty_effect(q->fault, "terminal: put output back");
	if (r >= 0 && q->n_output) {
		r = tty_set(put.master, &plain);
		if (r >= 0)
			r = tty_put_output(master, slave, settings, q);
	}
	if (r >= 0)
		r = tty_stop(put.master, slave, settings, q->stop);
	tty_effect(q->fault, "terminal: settings");
	if (r >= 0)
		r = tty_set(put.master, settings);
	/* What waited before the line discipline is still to be processed. */
	size_t rest = (size_t)(q->input + q->n_input - put.at);
	return r < 0 || !rest ? r : tty_write(master, put.at, rest);
}

/* ------------------------------------------------------------------------- taking out */

static int tty_move(int from, int to, size_t n)
{
	while (n) {
		ssize_t done = splice(from, NULL, to, NULL, n, 0);
		if (done <= 0)
			return done < 0 ? -errno : -EIO;
		n -= (size_t)done;
	}
	return 0;
}

/* What one read gives: a line, or bytes. counted: where that line is entered, at once. */
static ssize_t tty_take(struct tty_undo *u, const struct fault *fault, int from, int to, uint32_t *counted)
{
	tty_effect(fault, "terminal: take out");
	ssize_t n = splice(from, NULL, u->in, NULL, TTY_CHUNK, 0);
	if (n >= 0 && counted)
		u->lines[(*counted)++].length = (uint32_t)n;
	int r = n < 0 ? -errno : 0;
	tty_effect(fault, "terminal: under way");
	if (r >= 0 && n)
		r = tty_move(u->out, to, (size_t)n);
	return r == -EAGAIN ? 0 : r < 0 ? r : n;
}

static int tty_take_all(struct tty_undo *u, const struct fault *fault, int from, int to)
{
	while (tty_poll(from, POLLIN) & POLLIN) {
		ssize_t n = tty_take(u, fault, from, to, NULL);
		if (n <= 0)
			return (int)n;
		if (lseek(to, 0, SEEK_CUR) > TTY_QUEUE_MAX)
			return -EFBIG;
	}
	return 0;
}

static int tty_take_lines(struct tty_undo *u, const struct fault *fault)
{
	while (tty_poll(u->slave, POLLIN) & POLLIN) {
		if (u->n_lines >= TTY_LINES)
			return -EFBIG;
		ssize_t n = tty_take(u, fault, u->slave, u->input, &u->n_lines);
		if (n < 0)
			return (int)n;
	}
	return 0;
}

static int tty_take_input(struct tty_undo *u, const struct fault *fault)
{
	bool lines = u->settings.c_lflag & ICANON && !u->lines_taken;
	struct termios2 plain = tty_plain(&u->settings, lines);
	int r = tty_set(u->master, &plain);
	if (r >= 0 && lines) {
		r = tty_take_lines(u, fault);
		u->lines_taken = r >= 0;
		plain = tty_plain(&u->settings, false);
		if (r >= 0)
			r = tty_set(u->master, &plain);
	}
	return r < 0 ? r : tty_take_all(u, fault, u->slave, u->input);
}

/* A terminal whose output is not taken although there is room. */
static void tty_find_stop(struct tty_undo *u)
{
	if (tty_poll(u->slave, POLLOUT) & POLLOUT)
		return;
	u->stop = TTY_STOPPED_BY_CHARACTER;
	__atomic_store_n(&u->probing, 1, __ATOMIC_SEQ_CST);
	if (ioctl(u->slave, TCXONC, TCOON) == 0 && tty_poll(u->slave, POLLOUT) & POLLOUT) {
		u->stop = TTY_STOPPED_BY_CALL;
		ioctl(u->slave, TCXONC, TCOOFF);
	}
	__atomic_store_n(&u->probing, 0, __ATOMIC_SEQ_CST);
}

/* It takes rights that ordinary users lack; where nothing is locked it need not be done. */
static int tty_lock(const struct tty_undo *u, const struct termios *locked)
{
	static const struct termios none;
	if (!memcmp(&u->locked, &none, sizeof(none)))
		return 0;
	return ioctl(u->slave, TIOCSLCKTRMIOS, locked) < 0 ? -errno : 0;
}

static int tty_take_out(struct tty_undo *u, const struct fault *fault)
{
	int off = 0;
	if (u->packet && ioctl(u->master, TIOCPKT, &off) < 0)
		return -errno;
	int r = tty_lock(u, &(struct termios){0});
	if (r >= 0)
		r = tty_take_input(u, fault);
	u->draining_output = 1;
	if (r >= 0)
		r = tty_take_all(u, fault, u->master, u->output);
	if (r >= 0)
		tty_find_stop(u);
	return r;
}

/* --------------------------------------------------------------------------- both */

static int tty_load(int file, struct arena *a, uint8_t **ret, size_t *ret_n)
{
	off_t n = lseek(file, 0, SEEK_END);
	uint8_t *bytes = n < 0 ? NULL : arena_alloc(a, (size_t)n + 1);
	if (!bytes)
		return -ENOMEM;
	for (off_t done = 0; done < n;) {
		ssize_t got = pread(file, bytes + done, (size_t)(n - done), done);
		if (got <= 0)
			return got < 0 ? -errno : -EIO;
		done += got;
	}
	*ret = bytes;
	*ret_n = (size_t)n;
	return 0;
}

/* A line that does not end in one of the characters that end lines was ended by the end-of-file character. */
static int tty_end_lines(const struct termios2 *settings, struct tty_queues *q)
{
	size_t at = 0;
	for (size_t i = 0; i < q->n_lines; i++) {
		size_t n = q->lines[i].length;
		if (n > q->n_input - at)
			return -EIO;
		at += n;
		q->lines[i].end_of_file = !n || !tty_ends_line(settings, q->input[at - 1]);
	}
	return 0;
}

static int tty_result(struct arena *a, const struct tty_undo *u, struct tty_queues *ret)
{
	uint32_t n_lines = MIN(u->n_lines, (uint32_t)TTY_LINES);
	int r = tty_load(u->input, a, &ret->input, &ret->n_input);
	if (r >= 0)
		r = tty_load(u->output, a, &ret->output, &ret->n_output);
	ret->lines = arena_copy(a, u->lines, n_lines * sizeof(*u->lines) + 1);
	ret->n_lines = n_lines;
	ret->stop = u->stop;
	if (r >= 0 && !ret->lines)
		r = -ENOMEM;
	return r < 0 ? r : tty_end_lines(&u->settings, ret);
}

static int tty_put_all(struct tty_undo *u, const struct tty_queues *q)
{
	struct tty_queues all = *q;
	u->putting = 1;
	if (u->probing && tty_poll(u->slave, POLLOUT) & POLLOUT)
		ioctl(u->slave, TCXONC, TCOOFF);
	/* The stop itself was left alone. */
	all.stop = TTY_RUNS;
	int r = tty_queue_put(u->master, u->slave, &u->settings, &all);
	int locked = tty_lock(u, &u->locked);
	if (r >= 0)
		r = locked;
	if (u->packet && ioctl(u->master, TIOCPKT, &u->packet) < 0 && r >= 0)
		r = -errno;
	return r;
}

static int tty_prepare(struct tty_undo *u)
{
	if (ioctl(u->master, TCGETS2, &u->settings) < 0 || ioctl(u->slave, TIOCGLCKTRMIOS, &u->locked) < 0 ||
	    ioctl(u->master, TIOCGPKT, &u->packet) < 0)
		return -errno;
	return 0;
}

static void tty_close(const struct tty_undo *u)
{
	const int fds[] = {u->in, u->out, u->input, u->output};
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

static int tty_open(struct tty_undo *u)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	u->out = ends[0];
	u->in = ends[1];
	u->input = memfd_create("ferry-tty-input", MFD_CLOEXEC);
	u->output = memfd_create("ferry-tty-output", MFD_CLOEXEC);
	return u->input < 0 || u->output < 0 ? -errno : 0;
}

static int tty_look(const struct tty_look *look, struct tty_undo *u, int memory, struct tty_queues *ret)
{
	int r = tty_open(u);
	if (r >= 0)
		r = tty_prepare(u);
	int entry = r < 0 ? r : warden_arm(look->warden, WARDEN_TERMINAL, memory, 0, NULL, 0);
	if (entry < 0)
		return entry;
	r = tty_take_out(u, look->fault);
	struct tty_queues found = {.fault = look->fault};
	int loaded = tty_result(look->arena, u, &found);
	int put = loaded < 0 ? loaded : tty_put_all(u, &found);
	warden_disarm(look->warden, entry);
	if (r >= 0 && put >= 0)
		*ret = found;
	return r < 0 ? r : put;
}

int tty_queue_look(const struct tty_look *look, struct tty_queues *ret, struct ferry_error *err)
{
	_cleanup_close_ int memory = memfd_create("ferry-tty", MFD_CLOEXEC);
	if (memory < 0 || ftruncate(memory, sizeof(struct tty_undo)) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a memory file");
	struct tty_undo *u =
		mmap(NULL, sizeof(struct tty_undo), PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	if (u == MAP_FAILED)
		return error_memory(err);
	u->master = look->master;
	u->slave = look->slave;
	u->in = u->out = u->input = u->output = -1;
	int r = tty_look(look, u, memory, ret);
	tty_close(u);
	munmap(u, sizeof(*u));
	return r < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -r, "looking at what waits in a terminal") : 0;
}

static int tty_getfd(int worker_pidfd, int32_t *fd)
{
	if (*fd >= 0)
		*fd = (int)syscall(SYS_pidfd_getfd, worker_pidfd, *fd, 0);
	return *fd < 0 ? -EBADF : 0;
}

/* What was under way from the terminal into a memory file. */
static void tty_finish_move(const struct tty_undo *u)
{
	int to = u->draining_output ? u->output : u->input;
	lseek(to, 0, SEEK_END);
	while (tty_poll(u->out, POLLIN) & POLLIN)
		if (splice(u->out, NULL, to, NULL, TTY_CHUNK, SPLICE_F_NONBLOCK) <= 0)
			break;
}

/* The rest comes out as well, or what is back already goes: then everything is put back in its order. */
static int tty_gather(struct tty_undo *u)
{
	if (!u->putting) {
		tty_finish_move(u);
		return tty_take_out(u, NULL);
	}
	return ioctl(u->slave, TCFLSH, TCIFLUSH) < 0 || ioctl(u->master, TCFLSH, TCIFLUSH) < 0 ? -errno : 0;
}

int tty_queue_put_back(int worker_pidfd, int memory)
{
	struct tty_undo *u =
		mmap(NULL, sizeof(struct tty_undo), PROT_READ | PROT_WRITE, MAP_PRIVATE, memory, 0);
	if (u == MAP_FAILED)
		return -ENOMEM;
	struct arena a = {0};
	struct tty_queues found = {0};
	int32_t *const fds[] = {&u->master, &u->slave, &u->out, &u->in, &u->input, &u->output};
	int r = 0;
	for (size_t i = 0; i < ARRAY_SIZE(fds) && r >= 0; i++)
		r = tty_getfd(worker_pidfd, fds[i]);
	if (r >= 0)
		r = tty_gather(u);
	if (r >= 0)
		r = tty_result(&a, u, &found);
	if (r >= 0)
		r = tty_put_all(u, &found);
	arena_release(&a);
	return r;
}
