/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what is below /proc/sys/net of a namespace. The common format has values of some files by their place in a list; everything else that
 * differs from what a new namespace has goes into ferry's own file.
 *
 * Kernel interface: /proc/sys/net, which shows what the calling thread's network namespace has. The order of the lists was looked up by
 * giving each file another value and looking at what CRIU 4.2.1 writes.
 * Does not handle: ipv6/conf/NAME/stable_secret, which cannot be read where none was set.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/vec.h"
#include "kind/net.h"
#include "model/record.h"

#define SYSCTL_FOLDER "/proc/sys/net"

enum { SYSCTL_PATH_BYTES = 256, SYSCTL_VALUE_BYTES = 4096, SYSCTL_FILES_MAX = 1 << 16, SYSCTL_DEPTH = 5 };

static const char *const sysctl_ipv4[] = {
	"accept_local",
	"accept_redirects",
	"accept_source_route",
	"arp_accept",
	"arp_announce",
	"arp_filter",
	"arp_ignore",
	"arp_notify",
	"bootp_relay",
	"disable_policy",
	"disable_xfrm",
	"force_igmp_version",
	"forwarding",
	"igmpv2_unsolicited_report_interval",
	"igmpv3_unsolicited_report_interval",
	"log_martians",
	"medium_id",
	"promote_secondaries",
	"proxy_arp",
	"proxy_arp_pvlan",
	"route_localnet",
	"rp_filter",
	"secure_redirects",
	"send_redirects",
	"shared_media",
	"src_valid_mark",
	"tag",
	"ignore_routes_with_linkdown",
	"drop_gratuitous_arp",
	"drop_unicast_in_l2_multicast",
};

static const char *const sysctl_ipv6[] = {
	"accept_dad",
	"accept_ra",
	"accept_ra_defrtr",
	"accept_ra_from_local",
	"accept_ra_min_hop_limit",
	"accept_ra_mtu",
	"accept_ra_pinfo",
	"accept_ra_rt_info_max_plen",
	"accept_ra_rtr_pref",
	"accept_redirects",
	"accept_source_route",
	"autoconf",
	"dad_transmits",
	"disable_ipv6",
	"drop_unicast_in_l2_multicast",
	"drop_unsolicited_na",
	"force_mld_version",
	"force_tllao",
	"forwarding",
	"hop_limit",
	"ignore_routes_with_linkdown",
	"keep_addr_on_down",
	"max_addresses",
	"max_desync_factor",
	"mldv1_unsolicited_report_interval",
	"mldv2_unsolicited_report_interval",
	"mtu",
	"ndisc_notify",
	"optimistic_dad",
	"proxy_ndp",
	"regen_max_retry",
	"router_probe_interval",
	"router_solicitation_delay",
	"router_solicitation_interval",
	"router_solicitations",
	"stable_secret",
	"suppress_frag_ndisc",
	"temp_prefered_lft",
	"temp_valid_lft",
	"use_oif_addrs_only",
	"use_optimistic",
	"use_tempaddr",
};

static const char *const sysctl_unix[] = {"unix/max_dgram_qlen"};
static const char *const sysctl_plain[] = {"ipv4/ping_group_range"};

/* A place of the common format: files of a folder, and the member that has their values. */
struct sysctl_list {
	const char *folder; /* before the name of a device */
	const char *const *names;
	size_t n;
};

enum { SYSCTL_IPV4, SYSCTL_IPV6, SYSCTL_UNIX, SYSCTL_PLAIN };

static const struct sysctl_list sysctl_lists[] = {
	[SYSCTL_IPV4] = {"ipv4/conf/", sysctl_ipv4, ARRAY_SIZE(sysctl_ipv4)},
	[SYSCTL_IPV6] = {"ipv6/conf/", sysctl_ipv6, ARRAY_SIZE(sysctl_ipv6)},
	[SYSCTL_UNIX] = {NULL, sysctl_unix, ARRAY_SIZE(sysctl_unix)},
	[SYSCTL_PLAIN] = {NULL, sysctl_plain, ARRAY_SIZE(sysctl_plain)},
};

/* ------------------------------------------------------------------- one file */

static int sysctl_read(const char *path, char ret_value[SYSCTL_VALUE_BYTES])
{
	char name[SYSCTL_PATH_BYTES];
	snprintf(name, sizeof(name), SYSCTL_FOLDER "/%s", path);
	_cleanup_close_ int fd = open(name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	ssize_t n = fd < 0 ? -1 : read(fd, ret_value, SYSCTL_VALUE_BYTES - 1);
	if (n < 0)
		return -errno;
	while (n && ret_value[n - 1] == '\n')
		n--;
	ret_value[n] = '\0';
	return 0;
}

/* What is as it should be is not written: a user namespace may not be allowed to. */
static int sysctl_write(const char *path, const char *value)
{
	char name[SYSCTL_PATH_BYTES], now[SYSCTL_VALUE_BYTES];
	if (sysctl_read(path, now) >= 0 && !strcmp(now, value))
		return 0;
	snprintf(name, sizeof(name), SYSCTL_FOLDER "/%s", path);
	_cleanup_close_ int fd = open(name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? -errno : fd_write_all(fd, value, strlen(value));
}

/* False: it is too long. */
static bool sysctl_path(const struct sysctl_list *l, const char *device, size_t i,
			char ret_path[SYSCTL_PATH_BYTES])
{
	int n = l->folder ? snprintf(ret_path, SYSCTL_PATH_BYTES, "%s%s/%s", l->folder, device, l->names[i])
			  : snprintf(ret_path, SYSCTL_PATH_BYTES, "%s", l->names[i]);
	return n < SYSCTL_PATH_BYTES;
}

int net_sysctl_write(const char *family, const char *device, const char *name, const char *value)
{
	char path[SYSCTL_PATH_BYTES];
	int n = snprintf(path, sizeof(path), "%s/conf/%s/%s", family, device, name);
	return n < SYSCTL_PATH_BYTES ? sysctl_write(path, value) : -ENAMETOOLONG;
}

/* ------------------------------------------------------------- the common format */

static bool sysctl_is_text(const struct sysctl_list *l, size_t i)
{
	return l == &sysctl_lists[SYSCTL_PLAIN] || !strcmp(l->names[i], "stable_secret");
}

static int sysctl_look_list(struct arena *a, const struct sysctl_list *l, const char *device,
			    SysctlEntry ***ret, size_t *ret_n)
{
	char path[SYSCTL_PATH_BYTES], value[SYSCTL_VALUE_BYTES];
	SysctlEntry **v = arena_array(a, SysctlEntry *, l->n);
	for (size_t i = 0; v && i < l->n; i++) {
		SysctlEntry *e = v[i] = record_new(a, SysctlEntry, sysctl_entry);
		if (!e)
			return -ENOMEM;
		e->type = sysctl_is_text(l, i) ? SYSCTL_TYPE__CTL_STR : SYSCTL_TYPE__CTL_32;
		if (!sysctl_path(l, device, i, path) || sysctl_read(path, value) < 0)
			continue;
		if (e->type == SYSCTL_TYPE__CTL_32)
			record_set(e, iarg, (int32_t)strtol(value, NULL, 10));
		else if (!(e->sarg = arena_string(a, value)))
			return -ENOMEM;
	}
	*ret = v;
	*ret_n = v ? l->n : 0;
	return v ? 0 : -ENOMEM;
}

static int sysctl_look_netns(struct arena *a, NetnsEntry *e)
{
	const struct {
		int list;
		const char *device;
		SysctlEntry ***v;
		size_t *n;
	} places[] = {
		{SYSCTL_IPV4, "default", &e->def_conf4, &e->n_def_conf4},
		{SYSCTL_IPV4, "all", &e->all_conf4, &e->n_all_conf4},
		{SYSCTL_IPV6, "default", &e->def_conf6, &e->n_def_conf6},
		{SYSCTL_IPV6, "all", &e->all_conf6, &e->n_all_conf6},
		{SYSCTL_UNIX, NULL, &e->unix_conf, &e->n_unix_conf},
		{SYSCTL_PLAIN, NULL, &e->ipv4_sysctl, &e->n_ipv4_sysctl},
	};
	int r = 0;
	for (size_t i = 0; i < ARRAY_SIZE(places) && r >= 0; i++)
		r = sysctl_look_list(a, &sysctl_lists[places[i].list], places[i].device, places[i].v,
				     places[i].n);
	return r;
}

/* Older images have numbers alone; what an image does not tell stays as it is. */
static void sysctl_make_list(const struct sysctl_list *l, const char *device, SysctlEntry *const *v, size_t n,
			     const struct log_sink *log)
{
	char path[SYSCTL_PATH_BYTES], value[SYSCTL_VALUE_BYTES];
	for (size_t i = 0; i < MIN(n, l->n); i++) {
		if (v[i]->has_iarg)
			snprintf(value, sizeof(value), "%d", v[i]->iarg);
		else if (v[i]->sarg && v[i]->sarg[0])
			snprintf(value, sizeof(value), "%s", v[i]->sarg);
		else
			continue;
		value[strcspn(value, "\n")] = '\0';
		int r = sysctl_path(l, device, i, path) ? sysctl_write(path, value) : -ENAMETOOLONG;
		if (r < 0)
			log_write(log, LOG_WARN, "restore", "netns", 0, "setting %s to %s: %s, ignoring",
				  path, value, strerror(-r));
	}
}

/* ------------------------------------------------------------- everything else */

struct sysctl_file {
	char *path, *value;
};

typedef VEC(struct sysctl_file) sysctl_files;

static void sysctl_files_release(sysctl_files *files)
{
	vec_foreach(f, files) {
		free(f->path);
		free(f->value);
	}
	vec_release(files);
}

static int sysctl_keep(sysctl_files *files, const char *path)
{
	char value[SYSCTL_VALUE_BYTES];
	if (sysctl_read(path, value) < 0)
		return 0;
	struct sysctl_file *f = vec_push(files);
	if (!f)
		return -ENOMEM;
	*f = (struct sysctl_file){strdup(path), strdup(value)};
	return f->path && f->value ? 0 : -ENOMEM;
}

/* What can be read and written, by name. */
static int sysctl_walk(sysctl_files *files, const char *folder, int depth)
{
	char path[SYSCTL_PATH_BYTES], full[SYSCTL_PATH_BYTES + sizeof(SYSCTL_FOLDER)];
	struct dirent **names;
	struct stat st;
	int r = 0;
	snprintf(full, sizeof(full), SYSCTL_FOLDER "/%s", folder);
	int n = depth ? scandir(full, &names, NULL, alphasort) : 0;
	for (int i = 0; i < n; i++) {
		const char *name = names[i]->d_name;
		int bytes = snprintf(path, sizeof(path), "%s%s%s", folder, *folder ? "/" : "", name);
		snprintf(full, sizeof(full), SYSCTL_FOLDER "/%s", path);
		bool good = r >= 0 && name[0] != '.' && bytes < SYSCTL_PATH_BYTES && lstat(full, &st) == 0 &&
			    files->n < SYSCTL_FILES_MAX;
		if (good && S_ISDIR(st.st_mode))
			r = sysctl_walk(files, path, depth - 1);
		else if (good && S_ISREG(st.st_mode) &&
			 (st.st_mode & (S_IRUSR | S_IWUSR)) == (S_IRUSR | S_IWUSR))
			r = sysctl_keep(files, path);
		free(names[i]);
	}
	if (n > 0)
		free(names);
	return r;
}

struct sysctl_fresh {
	sysctl_files files;
	int result;
};

/* In a thread of its own: a namespace that nobody has touched. */
static void *sysctl_look_fresh(void *context)
{
	struct sysctl_fresh *fresh = context;
	fresh->result = unshare(CLONE_NEWNET) < 0 ? -errno : sysctl_walk(&fresh->files, "", SYSCTL_DEPTH);
	return NULL;
}

static int sysctl_compare(const void *a, const void *b)
{
	return strcmp(((const struct sysctl_file *)a)->path, ((const struct sysctl_file *)b)->path);
}

static const struct sysctl_file *sysctl_find(const sysctl_files *files, const char *path)
{
	const struct sysctl_file key = {.path = (char *)(uintptr_t)path};
	return files->n ? bsearch(&key, files->v, files->n, sizeof(key), sysctl_compare) : NULL;
}

/* Of a device that the new namespace lacks: what a device gets there; below neigh it has no defaults, but the loopback device. */
static const struct sysctl_file *sysctl_usual(const sysctl_files *fresh, const char *path)
{
	static const char *const others[] = {"default", "lo"};
	char family[16], what[16], name[SYSCTL_PATH_BYTES], usual[2 * SYSCTL_PATH_BYTES];
	const struct sysctl_file *found = sysctl_find(fresh, path);
	bool of_device = sscanf(path, "%15[^/]/%15[^/]/%*[^/]/%255s", family, what, name) == 3;
	for (size_t i = 0; i < ARRAY_SIZE(others) && of_device && !found; i++) {
		snprintf(usual, sizeof(usual), "%s/%s/%s/%s", family, what, others[i], name);
		found = sysctl_find(fresh, usual);
	}
	return found;
}

static int sysctl_note(struct arena *a, FerryNetEntry *net, const struct sysctl_file *f)
{
	FerryNetSetting *s = record_new(a, FerryNetSetting, ferry_net_setting);
	if (!s)
		return -ENOMEM;
	s->path = arena_string(a, f->path);
	s->value = arena_string(a, f->value);
	net->settings[net->n_settings++] = s;
	return s->path && s->value ? 0 : -ENOMEM;
}

static int sysctl_look_others(struct arena *a, FerryNetEntry *net)
{
	struct sysctl_fresh fresh = {0};
	sysctl_files here = {0};
	pthread_t thread;
	int r = -pthread_create(&thread, NULL, sysctl_look_fresh, &fresh);
	if (r >= 0) {
		pthread_join(thread, NULL);
		r = fresh.result;
	}
	if (r >= 0)
		r = sysctl_walk(&here, "", SYSCTL_DEPTH);
	if (r >= 0 && fresh.files.n)
		qsort(fresh.files.v, fresh.files.n, sizeof(*fresh.files.v), sysctl_compare);
	net->settings = arena_array(a, FerryNetSetting *, here.n + 1);
	if (r >= 0 && !net->settings)
		r = -ENOMEM;
	for (size_t i = 0; i < here.n && r >= 0; i++) {
		const struct sysctl_file *usual = sysctl_usual(&fresh.files, here.v[i].path);
		if (usual && strcmp(usual->value, here.v[i].value) != 0)
			r = sysctl_note(a, net, &here.v[i]);
	}
	sysctl_files_release(&fresh.files);
	sysctl_files_release(&here);
	return r;
}

/* ------------------------------------------------------------------- both ways */

int net_sysctl_look(struct arena *a, struct net_contents *c, struct ferry_error *err)
{
	int r = sysctl_look_netns(a, c->netns);
	for (size_t i = 0; i < c->n_devices && r >= 0; i++) {
		NetDeviceEntry *d = c->devices[i];
		r = sysctl_look_list(a, &sysctl_lists[SYSCTL_IPV4], d->name, &d->conf4, &d->n_conf4);
		if (r >= 0)
			r = sysctl_look_list(a, &sysctl_lists[SYSCTL_IPV6], d->name, &d->conf6, &d->n_conf6);
	}
	if (r >= 0)
		r = sysctl_look_others(a, c->net);
	return r < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -r, "reading " SYSCTL_FOLDER) : 0;
}

/* Those of all devices first: some of them set every device. */
void net_sysctl_make(const struct net_contents *c, const struct log_sink *log)
{
	const NetnsEntry *e = c->netns;
	sysctl_make_list(&sysctl_lists[SYSCTL_IPV4], "all", e->all_conf4, e->n_all_conf4, log);
	sysctl_make_list(&sysctl_lists[SYSCTL_IPV4], "default", e->def_conf4, e->n_def_conf4, log);
	sysctl_make_list(&sysctl_lists[SYSCTL_IPV6], "all", e->all_conf6, e->n_all_conf6, log);
	sysctl_make_list(&sysctl_lists[SYSCTL_IPV6], "default", e->def_conf6, e->n_def_conf6, log);
	sysctl_make_list(&sysctl_lists[SYSCTL_UNIX], NULL, e->unix_conf, e->n_unix_conf, log);
	sysctl_make_list(&sysctl_lists[SYSCTL_PLAIN], NULL, e->ipv4_sysctl, e->n_ipv4_sysctl, log);
	for (size_t i = 0; i < c->n_devices; i++) {
		const NetDeviceEntry *d = c->devices[i];
		sysctl_make_list(&sysctl_lists[SYSCTL_IPV4], d->name, d->conf4, d->n_conf4, log);
		sysctl_make_list(&sysctl_lists[SYSCTL_IPV6], d->name, d->conf6, d->n_conf6, log);
	}
	for (size_t i = 0; c->net && i < c->net->n_settings; i++) {
		const FerryNetSetting *s = c->net->settings[i];
		int r = strstr(s->path, "..") || s->path[0] == '/' ? -EINVAL
								   : sysctl_write(s->path, s->value);
		if (r < 0)
			log_write(log, LOG_WARN, "restore", "netns", 0, "setting %.200s: %s, ignoring",
				  s->path, strerror(-r));
	}
}

int net_sysctl_probes(const struct net_contents *c, const char *device)
{
	for (size_t i = 0; i < c->n_devices; i++)
		if (!strcmp(c->devices[i]->name, device) && c->devices[i]->n_conf6 &&
		    c->devices[i]->conf6[0]->has_iarg)
			return c->devices[i]->conf6[0]->iarg;
	return 1;
}
