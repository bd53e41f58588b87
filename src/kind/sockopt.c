/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the options of SOL_SOCKET that are in SkOptsEntry.
 *
 * Kernel interface: socket(7); SO_BUF_LOCK (5.14), SO_GET_FILTER (3.8). The kernel doubles a buffer size that
 * is set and tells the doubled one; images hold what it tells. Setting a size also fixes it, which
 * SO_BUF_LOCK takes back; before 5.14 the buffers of a restored socket no longer grow by themselves.
 *
 * Does not handle: eBPF filters (SO_ATTACH_BPF), which cannot be read back and are refused.
 */
#include "kind/sockopt.h"

#include <errno.h>
#include <linux/filter.h>
#include <net/if.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/time.h>

#include "base/error.h"
#include "model/record.h"

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif

enum {
	SOCKOPT_FILTER_MAX = 4096,             /* BPF_MAXINSNS */
	SOCKOPT_BUFFER_MAX = INT32_MAX / 2,    /* the kernel doubles it */
	SOCKOPT_ROOM_SLACK_BYTES = 256 * 1024, /* what the kernel keeps beside the bytes */
};

enum sockopt_flags {
	SOCKOPT_LOCAL = 1 << 0,   /* only unix sockets */
	SOCKOPT_NONZERO = 1 << 1, /* in the record only when it is not 0 */
	SOCKOPT_BOOL = 1 << 2,
};

/* Every field here is an int with an int before it that tells whether it is there. */
struct sockopt_field {
	const char *word;
	int name;
	unsigned flags;
	size_t has, field;
};

#define SOCKOPT(member, option, bits)                                                                       \
	{                                                                                                   \
		.word = #option, .name = option, .flags = bits, .has = offsetof(SkOptsEntry, has_##member), \
		.field = offsetof(SkOptsEntry, member)                                                      \
	}

static const struct sockopt_field sockopt_fields[] = {
	SOCKOPT(reuseaddr, SO_REUSEADDR, SOCKOPT_BOOL),
	SOCKOPT(so_priority, SO_PRIORITY, 0),
	SOCKOPT(so_rcvlowat, SO_RCVLOWAT, 0),
	SOCKOPT(so_mark, SO_MARK, SOCKOPT_NONZERO),
	SOCKOPT(so_passcred, SO_PASSCRED, SOCKOPT_BOOL | SOCKOPT_LOCAL),
	SOCKOPT(so_passsec, SO_PASSSEC, SOCKOPT_BOOL | SOCKOPT_LOCAL),
	SOCKOPT(so_dontroute, SO_DONTROUTE, SOCKOPT_BOOL),
	SOCKOPT(so_no_check, SO_NO_CHECK, SOCKOPT_BOOL),
	SOCKOPT(so_reuseport, SO_REUSEPORT, SOCKOPT_BOOL),
	SOCKOPT(so_broadcast, SO_BROADCAST, SOCKOPT_BOOL),
	SOCKOPT(so_keepalive, SO_KEEPALIVE, SOCKOPT_BOOL),
	SOCKOPT(so_oobinline, SO_OOBINLINE, SOCKOPT_BOOL),
};

int sock_get_bytes(int fd, int level, int name, void *ret_bytes, socklen_t *n)
{
	return getsockopt(fd, level, name, ret_bytes, n) < 0 ? -errno : 0;
}

int sock_set_bytes(int fd, int level, int name, const void *bytes, socklen_t n)
{
	return setsockopt(fd, level, name, bytes, n) < 0 ? -errno : 0;
}

int sock_get(int fd, int level, int name, int *ret_value)
{
	int value = 0;
	socklen_t n = sizeof(value);
	int r = sock_get_bytes(fd, level, name, &value, &n);
	if (r >= 0)
		*ret_value = value;
	return r;
}

int sock_set(int fd, int level, int name, int value)
{
	return sock_set_bytes(fd, level, name, &value, sizeof(value));
}

static int sockopt_unreadable(const char *word, int code, struct ferry_error *err)
{
	return error_errno(err, FERRY_ERROR_SYSTEM, code, "reading %s of a socket", word);
}

static int sockopt_unsettable(const char *word, int code, struct ferry_error *err)
{
	return error_errno(err, FERRY_ERROR_RESTORE_STEP, code, "setting %s of a socket", word);
}

/* ------------------------------------------------------------------ collect */

static int sockopt_collect_fields(int fd, bool local, SkOptsEntry *o, struct ferry_error *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(sockopt_fields); i++) {
		const struct sockopt_field *f = &sockopt_fields[i];
		int value;
		if (f->flags & SOCKOPT_LOCAL && !local)
			continue;
		int r = sock_get(fd, SOL_SOCKET, f->name, &value);
		if (r < 0)
			return sockopt_unreadable(f->word, -r, err);
		if (f->flags & SOCKOPT_NONZERO && !value)
			continue;
		/* SO_REUSEADDR is 2 in repair mode. */
		*(int *)((char *)o + f->field) = f->flags & SOCKOPT_BOOL ? !!value : value;
		*(int *)((char *)o + f->has) = 1;
	}
	return 0;
}

static int sockopt_collect_buffers(int fd, SkOptsEntry *o, struct ferry_error *err)
{
	int send, receive, lock;
	int r = sock_get(fd, SOL_SOCKET, SO_SNDBUF, &send);
	if (r >= 0)
		r = sock_get(fd, SOL_SOCKET, SO_RCVBUF, &receive);
	if (r < 0)
		return sockopt_unreadable("the buffer sizes", -r, err);
	o->so_sndbuf = (uint32_t)send;
	o->so_rcvbuf = (uint32_t)receive;
	if (sock_get(fd, SOL_SOCKET, SO_BUF_LOCK, &lock) >= 0)
		record_set(o, so_buf_lock, (uint32_t)lock);
	return 0;
}

static int sockopt_collect_times(int fd, SkOptsEntry *o, struct ferry_error *err)
{
	struct timeval send = {0}, receive = {0};
	struct linger linger = {0};
	socklen_t n = sizeof(send);
	int r = sock_get_bytes(fd, SOL_SOCKET, SO_SNDTIMEO, &send, &n);
	n = sizeof(receive);
	if (r >= 0)
		r = sock_get_bytes(fd, SOL_SOCKET, SO_RCVTIMEO, &receive, &n);
	n = sizeof(linger);
	if (r >= 0)
		r = sock_get_bytes(fd, SOL_SOCKET, SO_LINGER, &linger, &n);
	if (r < 0)
		return sockopt_unreadable("the time-outs", -r, err);
	o->so_snd_tmo_sec = (uint64_t)send.tv_sec;
	o->so_snd_tmo_usec = (uint64_t)send.tv_usec;
	o->so_rcv_tmo_sec = (uint64_t)receive.tv_sec;
	o->so_rcv_tmo_usec = (uint64_t)receive.tv_usec;
	if (linger.l_onoff)
		record_set(o, so_linger, (uint32_t)linger.l_linger);
	return 0;
}

static int sockopt_collect_device(int fd, struct arena *a, SkOptsEntry *o, struct ferry_error *err)
{
	char device[IFNAMSIZ] = "";
	socklen_t n = sizeof(device);
	int r = sock_get_bytes(fd, SOL_SOCKET, SO_BINDTODEVICE, device, &n);
	if (r == -ENODEV) {
		error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENODEV,
			  "a socket is bound to a network device that is gone");
		return r;
	}
	if (r < 0)
		return sockopt_unreadable("SO_BINDTODEVICE", -r, err);
	if (!n || !device[0])
		return 0;
	o->so_bound_dev = arena_string(a, device);
	return o->so_bound_dev ? 0 : error_memory(err);
}

uint64_t sockopt_instruction(const struct sock_filter *f)
{
	return (uint64_t)f->code << 48 | (uint64_t)f->jt << 40 | (uint64_t)f->jf << 32 | f->k;
}

struct sock_filter sockopt_instruction_of(uint64_t word)
{
	return (struct sock_filter){
		.code = (uint16_t)(word >> 48),
		.jt = (uint8_t)(word >> 40),
		.jf = (uint8_t)(word >> 32),
		.k = (uint32_t)word,
	};
}

/* For this option the kernel counts instructions, not bytes. */
static int sockopt_collect_filter(int fd, struct arena *a, SkOptsEntry *o, struct ferry_error *err)
{
	struct sock_filter code[SOCKOPT_FILTER_MAX];
	socklen_t n = ARRAY_SIZE(code);
	int r = sock_get_bytes(fd, SOL_SOCKET, SO_GET_FILTER, code, &n);
	if (r == -EACCES) {
		error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
			  "a socket has an eBPF filter, which cannot be read");
		error_hint(err, "let the program use a classic filter (SO_ATTACH_FILTER)");
		return -ENOTSUP;
	}
	if (r < 0)
		return sockopt_unreadable("SO_GET_FILTER", -r, err);
	if (!n)
		return 0;
	o->so_filter = arena_array(a, uint64_t, n);
	if (!o->so_filter)
		return error_memory(err);
	for (o->n_so_filter = 0; o->n_so_filter < n; o->n_so_filter++)
		o->so_filter[o->n_so_filter] = sockopt_instruction(&code[o->n_so_filter]);
	return 0;
}

int sockopt_collect(int fd, bool local, struct arena *a, SkOptsEntry **ret, struct ferry_error *err)
{
	SkOptsEntry *o = record_new(a, SkOptsEntry, sk_opts_entry);
	if (!o)
		return error_memory(err);
	int r = sockopt_collect_fields(fd, local, o, err);
	if (r >= 0)
		r = sockopt_collect_buffers(fd, o, err);
	if (r >= 0)
		r = sockopt_collect_times(fd, o, err);
	if (r >= 0)
		r = sockopt_collect_device(fd, a, o, err);
	if (r >= 0)
		r = sockopt_collect_filter(fd, a, o, err);
	if (r >= 0)
		*ret = o;
	return r;
}

/* ------------------------------------------------------------------ restore */

static int sockopt_apply_int(int fd, int name, const char *word, int wanted, struct ferry_error *err)
{
	int now;
	int r = sock_get(fd, SOL_SOCKET, name, &now);
	if (r >= 0 && now != wanted)
		r = sock_set(fd, SOL_SOCKET, name, wanted);
	return r < 0 ? sockopt_unsettable(word, -r, err) : 0;
}

/* Beyond the system's limit where we may; the size asked for is half of what it will be. */
int sockopt_set_buffer(int fd, int name, int force, uint64_t bytes)
{
	int half = (int)MIN((bytes + 1) / 2, (uint64_t)SOCKOPT_BUFFER_MAX);
	int r = sock_set(fd, SOL_SOCKET, force, half);
	return r == -EPERM ? sock_set(fd, SOL_SOCKET, name, half) : r;
}

static int sockopt_apply_buffers(int fd, const SkOptsEntry *o, struct ferry_error *err)
{
	int send, receive, lock;
	int r = sock_get(fd, SOL_SOCKET, SO_SNDBUF, &send);
	if (r >= 0 && (uint32_t)send != o->so_sndbuf)
		r = sockopt_set_buffer(fd, SO_SNDBUF, SO_SNDBUFFORCE, o->so_sndbuf);
	if (r >= 0)
		r = sock_get(fd, SOL_SOCKET, SO_RCVBUF, &receive);
	if (r >= 0 && (uint32_t)receive != o->so_rcvbuf)
		r = sockopt_set_buffer(fd, SO_RCVBUF, SO_RCVBUFFORCE, o->so_rcvbuf);
	if (r < 0)
		return sockopt_unsettable("the buffer sizes", -r, err);
	bool known = o->has_so_buf_lock && sock_get(fd, SOL_SOCKET, SO_BUF_LOCK, &lock) >= 0;
	if (known && (uint32_t)lock != o->so_buf_lock)
		r = sock_set(fd, SOL_SOCKET, SO_BUF_LOCK, (int)o->so_buf_lock);
	return r < 0 ? sockopt_unsettable("SO_BUF_LOCK", -r, err) : 0;
}

static int sockopt_apply_times(int fd, const SkOptsEntry *o, struct ferry_error *err)
{
	const struct timeval send = {(time_t)o->so_snd_tmo_sec, (suseconds_t)o->so_snd_tmo_usec};
	const struct timeval receive = {(time_t)o->so_rcv_tmo_sec, (suseconds_t)o->so_rcv_tmo_usec};
	const struct linger linger = {.l_onoff = 1, .l_linger = (int)o->so_linger};
	int r = sock_set_bytes(fd, SOL_SOCKET, SO_SNDTIMEO, &send, sizeof(send));
	if (r >= 0)
		r = sock_set_bytes(fd, SOL_SOCKET, SO_RCVTIMEO, &receive, sizeof(receive));
	if (r >= 0 && o->has_so_linger)
		r = sock_set_bytes(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	return r < 0 ? sockopt_unsettable("the time-outs", -r, err) : 0;
}

static int sockopt_apply_device(int fd, const SkOptsEntry *o, struct ferry_error *err)
{
	if (!o->so_bound_dev || !o->so_bound_dev[0])
		return 0;
	size_t n = strnlen(o->so_bound_dev, IFNAMSIZ);
	int r = sock_set_bytes(fd, SOL_SOCKET, SO_BINDTODEVICE, o->so_bound_dev, (socklen_t)n);
	if (r >= 0)
		return 0;
	error_errno(err, FERRY_ERROR_ADDRESS_TAKEN, -r, "binding a socket to network device '%s'",
		    o->so_bound_dev);
	error_hint(err, "the device must be there, with that name, in this network namespace");
	return r;
}

int sockopt_before_bind(int fd, const SkOptsEntry *o, bool share, struct ferry_error *err)
{
	int r = sockopt_apply_device(fd, o, err);
	if (r >= 0)
		r = sockopt_apply_int(fd, SO_REUSEADDR, "SO_REUSEADDR",
				      share || (o->has_reuseaddr && o->reuseaddr), err);
	if (r >= 0 && o->has_so_reuseport)
		r = sockopt_apply_int(fd, SO_REUSEPORT, "SO_REUSEPORT", o->so_reuseport, err);
	return r;
}

int sockopt_apply(int fd, const SkOptsEntry *o, struct ferry_error *err)
{
	int r = 0;
	for (size_t i = 0; i < ARRAY_SIZE(sockopt_fields) && r >= 0; i++) {
		const struct sockopt_field *f = &sockopt_fields[i];
		if (*(const int *)((const char *)o + f->has))
			r = sockopt_apply_int(fd, f->name, f->word,
					      *(const int *)((const char *)o + f->field), err);
	}
	if (r >= 0)
		r = sockopt_apply_buffers(fd, o, err);
	return r < 0 ? r : sockopt_apply_times(fd, o, err);
}

int sockopt_apply_filter(int fd, const SkOptsEntry *o, struct ferry_error *err)
{
	struct sock_filter code[SOCKOPT_FILTER_MAX];
	if (!o->n_so_filter)
		return 0;
	if (o->n_so_filter > ARRAY_SIZE(code))
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "a socket's filter has %zu instructions", o->n_so_filter);
	for (size_t i = 0; i < o->n_so_filter; i++)
		code[i] = sockopt_instruction_of(o->so_filter[i]);
	const struct sock_fprog program = {.len = (unsigned short)o->n_so_filter, .filter = code};
	int r = sock_set_bytes(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program));
	return r < 0 ? sockopt_unsettable("SO_ATTACH_FILTER", -r, err) : 0;
}

int sockopt_make_room(int fd, size_t bytes, struct ferry_error *err)
{
	/* Small messages cost the kernel more beside them than they hold. */
	int r = sockopt_set_buffer(fd, SO_SNDBUF, SO_SNDBUFFORCE,
				   (uint64_t)bytes * 4 + SOCKOPT_ROOM_SLACK_BYTES);
	return r < 0 ? sockopt_unsettable("SO_SNDBUF", -r, err) : 0;
}
