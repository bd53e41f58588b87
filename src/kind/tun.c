/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns descriptors of /dev/net/tun: what they are attached to and how. A device that is not persistent ends with its last
 * descriptor, so the restore makes it again (tun_device.c); one that is there, because it is persistent or because somebody
 * else has a queue of it, is attached to and otherwise left as it is. In a network namespace that comes back with its contents it is
 * made with them (net_make.c), to stay, and no longer stays when it is attached to.
 *
 * Kernel interface: Documentation/networking/tuntap.rst; TUNGETIFF, TUNSETIFF, TUNSETIFINDEX (3.7), TUNSETQUEUE (3.8),
 * TUNGETDEVNETNS (5.0), SIOCGSKNS.
 * Does not handle: packets that wait to be read, which are lost, as on a full line, with a warning; the packet filter
 * of a tap device: TUNGETFILTER tells an address in the memory of whoever set it; what no call tells at all (Linux 6.18):
 * programs (TUNSETSTEERINGEBPF, TUNSETFILTEREBPF) and the addresses of TUNSETTXFILTER; which queue of a device has which
 * number. A device or descriptor of another network namespace. Filters and namespaces are refused by name.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/dir.h"
#include "image/file.h"
#include "image/proto/tun.pb-c.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "kind/netplace.h"
#include "kind/sockextra.h"
#include "kind/tun.h"
#include "model/record.h"
#include "model/records.h"

enum {
	TUN_MAJOR = 10,
	TUN_MINOR = 200,
	TUN_ATTACH_FLAGS = IFF_TUN | IFF_TAP | IFF_NAPI | IFF_NAPI_FRAGS | IFF_NO_PI | IFF_ONE_QUEUE |
			   IFF_VNET_HDR | IFF_MULTI_QUEUE,
};

/* A device while it is restored; in the plan's arena. */
struct tun_plan_device {
	struct tun_plan_device *next;
	const FerryDeviceEntry *entry;
	bool made;
	bool was_made; /* with the namespace that it is in, to stay until somebody is attached */
};

/* plan_file.data */
struct tun_plan {
	const FerryTunEntry *extra;
	struct tun_plan_device *device; /* NULL: attached to nothing */
};

/* -------------------------------------------------------------------- check */

static bool tun_owns(const struct fd_view *view)
{
	return S_ISCHR(view->stat.st_mode) && view->stat.st_rdev == makedev(TUN_MAJOR, TUN_MINOR) &&
	       !(view->info->flags & O_PATH);
}

static int tun_refuse(const char *who, int type, const char *what, const char *hint, struct ferry_error *err)
{
	error_set(err, type, ENOTSUP, "%s: %s", who, what);
	error_hint(err, "%s", hint);
	return -ENOTSUP;
}

/* 1: it is attached, *ret tells to what; 0: it is not. */
static int tun_attached(int fd, struct ifreq *ret)
{
	*ret = (struct ifreq){0};
	if (ioctl(fd, TUNGETIFF, ret) >= 0)
		return 1;
	return errno == EBADFD ? 0 : -errno;
}

static int tun_check_namespace(int fd, const char *who, struct ferry_error *err)
{
	struct stat own, theirs;
	_cleanup_close_ int ns = ioctl(fd, TUNGETDEVNETNS);
	if (ns < 0 || (fstat(ns, &theirs) >= 0 && stat("/proc/thread-self/ns/net", &own) >= 0 &&
		       own.st_ino == theirs.st_ino))
		return 0;
	return tun_refuse(who, FERRY_ERROR_UNSUPPORTED_NAMESPACE,
			  "its network device was moved to another network namespace",
			  "move the device back before the dump (ip link set DEVICE netns PID)", err);
}

static int tun_check_copy(const struct fd_view *view, int fd, const char *who, struct ferry_error *err)
{
	struct ifreq ifr;
	struct sock_fprog filter = {0};
	int r = net_stand(view, fd, who, err);
	if (r < 0)
		return r;
	r = tun_attached(fd, &ifr);
	if (r <= 0)
		return r < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -r, "%s: asking for its network device",
					   who)
			     : 0;
	r = tun_check_namespace(fd, who, err);
	if (r < 0)
		return r;
	if (ifr.ifr_flags & IFF_TAP && ioctl(fd, TUNGETFILTER, &filter) >= 0 && filter.len)
		return tun_refuse(
			who, FERRY_ERROR_UNSUPPORTED_FD,
			"a tap device with a packet filter, which no call reads (Linux 6.18)",
			"let the program take its filter away (TUNDETACHFILTER) and make the device anew",
			err);
	return tun_device_check(ifr.ifr_name, who, err);
}

static int tun_check(const struct fd_view *view, const struct kind_options *options unused,
		     struct ferry_error *err)
{
	char who[64];
	_cleanup_loan_ struct fd_loan loan = {0};
	fd_view_name(view, who, sizeof(who));
	int r = fd_view_lend(view, &loan, err);
	return r < 0 ? r : tun_check_copy(view, loan.fd, who, err);
}

/* ------------------------------------------------------------------ collect */

static bool tun_seen(const struct snapshot *s, const char *name)
{
	vec_foreach(file, &s->files) {
		const FerryTunEntry *other = file->kind == &kind_tun ? file->data : NULL;
		if (other && other->device && !strcmp(other->device->name, name))
			return true;
	}
	return false;
}

static int tun_collect_attached(struct collect *c, int fd, const struct ifreq *ifr, FerryTunEntry *extra,
				TunfileEntry *tunf, struct ferry_error *err)
{
	int bytes = 0;
	struct arena *a = &c->snap->arena;
	tunf->netdev = arena_string(a, ifr->ifr_name);
	if (!tunf->netdev)
		return error_memory(err);
	if (ifr->ifr_flags & IFF_DETACH_QUEUE)
		record_set(tunf, detached, true);
	if (ioctl(fd, TUNGETSNDBUF, &bytes) >= 0)
		record_set(extra, send_bytes, (uint32_t)bytes);
	if (tun_seen(c->snap, ifr->ifr_name))
		return 0;
	return tun_device_collect(a, fd, ifr->ifr_name, (uint16_t)ifr->ifr_flags, &extra->device, err);
}

static int tun_collect(struct collect *c, struct fd_view *view, struct snap_file *file,
		       struct ferry_error *err)
{
	char who[64];
	struct ifreq ifr;
	struct pollfd waiting = {.events = POLLIN};
	struct arena *a = &c->snap->arena;
	TunfileEntry *tunf = record_new(a, TunfileEntry, tunfile_entry);
	FerryTunEntry *extra = record_new(a, FerryTunEntry, ferry_tun_entry);
	if (!tunf || !extra)
		return error_memory(err);
	fd_view_name(view, who, sizeof(who));
	tunf->id = extra->id = file->entry->id;
	extra->flags = fdcommon_flags(view);
	extra->path = arena_string(a, view->link);
	int r = extra->path ? fdcommon_owner(c, view, &extra->fown, err) : error_memory(err);
	if (r >= 0)
		r = fd_view_copy(view, err);
	if (r >= 0)
		r = tun_check_copy(view, view->copy, who, err);
	if (r < 0)
		return r;
	record_set(tunf, ns_id, net_here_id(c, view));
	if (tun_attached(view->copy, &ifr) > 0)
		r = tun_collect_attached(c, view->copy, &ifr, extra, tunf, err);
	if (r < 0)
		return r;
	waiting.fd = view->copy;
	if (!c->options->leave_running && poll(&waiting, 1, 0) > 0 && waiting.revents & POLLIN)
		log_write(c->log, LOG_WARN, "collect", "tun", view->pid,
			  "%s: packets wait in the tunnel, they are lost", who);
	file->entry->tunf = tunf;
	file->data = extra;
	return 0;
}

static int tun_dump(struct dump *d, struct snap_file *file, struct ferry_error *err)
{
	const FerryTunEntry *extra = file->data;
	struct image_writer *w;
	int r = fdcommon_writer(d, IMAGE_FERRY_TUN, &w, err);
	return r < 0 ? r : image_put(w, &extra->base, err);
}

/* ------------------------------------------------------------------ restore */

static int tun_take(struct reader *r, struct image_reader *in, void *record, void *context,
		    struct ferry_error *err)
{
	const FerryTunEntry *extra = record;
	struct tun_plan_device **devices = context;
	struct plan_file *file = plan_file(r->plan, extra->id);
	struct tun_plan *plan = arena_new(&r->plan->arena, struct tun_plan);
	if (!file || file->kind != &kind_tun || !file->entry->tunf || file->data)
		return image_bad(in, err, "file id %u is no tunnel", extra->id);
	if (extra->device && !tun_device_valid(extra->device))
		return image_bad(in, err, "the network device of file id %u makes no sense", extra->id);
	if (!plan)
		return error_memory(err);
	plan->extra = extra;
	file->data = plan;
	if (!extra->device)
		return 0;
	struct tun_plan_device *device = arena_new(&r->plan->arena, struct tun_plan_device);
	if (!device)
		return error_memory(err);
	*device = (struct tun_plan_device){.next = *devices, .entry = extra->device};
	*devices = device;
	return 0;
}

/* Every descriptor finds its device, which the record of another one may have. */
static int tun_link_files(struct reader *r, struct tun_plan_device *devices, struct ferry_error *err)
{
	for (size_t i = 0; i < r->plan->n_files; i++) {
		const struct plan_file *file = &r->plan->files[i];
		if (file->kind != &kind_tun)
			continue;
		struct tun_plan *plan = file->data;
		if (!plan || !file->entry->tunf)
			return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
					 "file id %u: ferry-tun.img does not tell of this tunnel",
					 file->entry->id);
		const char *name = file->entry->tunf->netdev;
		for (struct tun_plan_device *d = devices; name && d && !plan->device; d = d->next)
			if (!strcmp(d->entry->name, name))
				plan->device = d;
		if (name && !plan->device)
			return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
					 "file id %u: the image does not tell of its network device",
					 file->entry->id);
	}
	return 0;
}

static int tun_read(struct reader *r, struct ferry_error *err)
{
	struct tun_plan_device *devices = NULL;
	int ret = records_each(r, IMAGE_FERRY_TUN, 0, &ferry_tun_entry__descriptor, tun_take, &devices, err);
	return ret < 0 ? ret : tun_link_files(r, devices, err);
}

static int tun_attach(int fd, const FerryDeviceEntry *d, bool make, const struct log_sink *log)
{
	struct ifreq ifr = {.ifr_flags = (short)(d->mode & TUN_ATTACH_FLAGS)};
	unsigned index = d->index;
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", d->name);
	/* Sockets are bound to devices by number. */
	if (make && index && ioctl(fd, TUNSETIFINDEX, &index) < 0)
		return -errno;
	if (ioctl(fd, TUNSETIFF, &ifr) >= 0)
		return 0;
	if (errno != EBUSY || !make || !index)
		return -errno;
	index = 0;
	log_write(log, LOG_WARN, "restore", "tun", 0,
		  "number %u is taken: the network device '%s' gets another one", d->index, d->name);
	return ioctl(fd, TUNSETIFINDEX, &index) < 0 || ioctl(fd, TUNSETIFF, &ifr) < 0 ? -errno : 0;
}

static int tun_restore_device(struct opener *o, int fd, uint32_t net, struct tun_plan_device *device,
			      struct ferry_error *err)
{
	const FerryDeviceEntry *d = device->entry;
	const struct plan_ns *ns = net ? plan_ns(o->plan, PROC_NS_NET, net) : NULL;
	bool there = tun_device_exists(d->name), ours = there && ns && !ns->given;
	if (there && !ours && !device->made && !(d->mode & (IFF_PERSIST | IFF_MULTI_QUEUE))) {
		error_set(err, FERRY_ERROR_RESTORE_STEP, EEXIST,
			  "there is a network device '%s' already, which is not that of the image", d->name);
		error_hint(err, "take it away first: ip link delete %s", d->name);
		return -EEXIST;
	}
	int r = tun_attach(fd, d, !there, o->log);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -r, "attaching to the network device '%s'",
				   d->name);
	if (there && (!ours || device->made))
		return 0;
	device->made = true;
	device->was_made = ours;
	return tun_device_restore(fd, d, !ours, o->log, err);
}

static int tun_restore(struct opener *o, struct plan_file *file, int *ret_fd, struct ferry_error *err)
{
	const struct tun_plan *plan = file->data;
	struct ifreq detach = {.ifr_flags = IFF_DETACH_QUEUE};
	_cleanup_close_ int fd = fd_open(AT_FDCWD, plan->extra->path, O_RDWR | O_NOCTTY, 0);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISCHR(st.st_mode) ||
	    st.st_rdev != makedev(TUN_MAJOR, TUN_MINOR))
		return error_set(err, FERRY_ERROR_RESTORE_STEP, ENODEV,
				 "'%s' is not the device of tunnels here", plan->extra->path);
	int r = plan->device ? tun_restore_device(o, fd, file->net, plan->device, err) : 0;
	if (r < 0)
		return r;
	int bytes = (int)plan->extra->send_bytes;
	if (plan->device && plan->extra->has_send_bytes && ioctl(fd, TUNSETSNDBUF, &bytes) < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "setting the buffer of '%s'",
				   plan->device->entry->name);
	if (plan->device && file->entry->tunf->detached && ioctl(fd, TUNSETQUEUE, &detach) < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "detaching a queue of '%s'",
				   plan->device->entry->name);
	r = fdcommon_set_flags(fd, plan->extra->flags, err);
	if (r >= 0)
		*ret_fd = take_fd(fd);
	return r;
}

static int tun_settle(struct settle *s, struct plan_file *file, int fd, struct ferry_error *err)
{
	const struct tun_plan *plan = file->data;
	if (!fdcommon_settle_once(s, file))
		return 0;
	return fdcommon_settle(plan->extra->fown, plan->extra->flags, fd, err);
}

/* Not before nothing can fail any more: it would stay. */
static void tun_before_run(struct opener *o)
{
	for (size_t i = 0; i < o->plan->n_files; i++) {
		const struct plan_file *file = &o->plan->files[i];
		const struct tun_plan *plan = file->kind == &kind_tun ? file->data : NULL;
		if (!plan || !plan->device || !plan->device->made || file->fd < 0)
			continue;
		unsigned long stays = plan->device->entry->mode & IFF_PERSIST ? 1 : 0;
		if (stays == plan->device->was_made)
			continue;
		if (ioctl(file->fd, TUNSETPERSIST, stays) < 0)
			log_write(o->log, LOG_WARN, "restore", "tun", 0, "the network device '%s' %s",
				  plan->device->entry->name,
				  stays ? "is not persistent any more" : "stays without the program");
	}
}

const struct kind_ops kind_tun = {
	.name = "tun",
	.what = "tunnels (tun, tap) with their network devices, addresses and routes",
	.fd_type = FD_TYPES__TUNF,
	.image_file = IMAGE_FERRY_TUN,
	.owns = tun_owns,
	.check = tun_check,
	.collect = tun_collect,
	.dump = tun_dump,
	.read = tun_read,
	.restore = tun_restore,
	.settle = tun_settle,
	.before_run = tun_before_run,
};
