/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns libcriu's options: each is a field of the request that will be sent. The options of the process are the one thing here that is not
 * a parameter: criu_X() has none.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "compat/libcriu/libcriu.h"

static criu_opts *libcriu_process;

criu_opts *libcriu__opts(void)
{
	return libcriu_process;
}

/* ---------------------------------------------------------------- making them */

void criu_free_service(criu_opts *opts)
{
	if (!opts)
		return;
	free(opts->service);
	opts->service = NULL;
}

void criu_local_free_opts(criu_opts *opts)
{
	if (!opts)
		return;
	criu_free_service(opts);
	if (opts->rpc)
		criu_opts__free_unpacked(opts->rpc, NULL);
	free(opts);
}

int criu_local_init_opts(criu_opts **opts)
{
	criu_opts *made = calloc(1, sizeof(*made));
	CriuOpts *rpc = made ? malloc(sizeof(*rpc)) : NULL;
	if (!rpc) {
		free(made);
		return -1;
	}
	criu_opts__init(rpc);
	*made = (criu_opts){.rpc = rpc, .comm = CRIU_COMM_BIN, .service_fd = -1};
	criu_local_free_opts(*opts);
	*opts = made;
	return 0;
}

int criu_init_opts(void)
{
	return criu_local_init_opts(&libcriu_process);
}

void criu_free_opts(void)
{
	criu_local_free_opts(libcriu_process);
	libcriu_process = NULL;
}

/* ---------------------------------------------------------------- kinds of fields */

static int set_text(char **place, const char *text)
{
	char *copy = strdup(text);
	if (!copy)
		return -ENOMEM;
	free(*place);
	*place = copy;
	return 0;
}

static char *copy_text(const char *text)
{
	return text ? strdup(text) : NULL;
}

/* A place at the end of a list of pointers, for one that is not NULL. */
static int add_to(void ***list, size_t *n, void *value)
{
	void **longer = value ? reallocarray(*list, *n + 1, sizeof(*longer)) : NULL;
	if (!longer)
		return -ENOMEM;
	longer[(*n)++] = value;
	*list = longer;
	return 0;
}

static int add_text(char ***list, size_t *n, const char *text)
{
	_cleanup_free_ char *copy = copy_text(text);
	int r = text ? add_to((void ***)(void *)list, n, copy) : -EINVAL;
	if (r >= 0)
		copy = NULL;
	return r;
}

/* A message becomes the last of a list, or is freed. */
static int add_message(void *list, size_t *n, ProtobufCMessage *message, bool is_whole)
{
	int r = is_whole ? add_to(list, n, message) : -ENOMEM;
	if (r < 0 && message)
		protobuf_c_message_free_unpacked(message, NULL);
	return r;
}

#define NEW_MESSAGE(type, prefix)                      \
	({                                             \
		type *message_ = malloc(sizeof(type)); \
		if (message_)                          \
			prefix##__init(message_);      \
		message_;                              \
	})

/* ---------------------------------------------------------------- one field each */

/* Both forms of what sets a number; field: its name in the request. */
#define SET(word, type, field)                                  \
	void criu_local_set_##word(criu_opts *opts, type value) \
	{                                                       \
		if (!opts)                                      \
			return;                                 \
		opts->rpc->has_##field = true;                  \
		opts->rpc->field = value;                       \
	}                                                       \
	void criu_set_##word(type value)                        \
	{                                                       \
		criu_local_set_##word(libcriu_process, value);  \
	}

#define SET_FLAG(word, field) SET(word, bool, field)

#define SET_TEXT(word, field)                                                      \
	int criu_local_set_##word(criu_opts *opts, const char *text)               \
	{                                                                          \
		return opts && text ? set_text(&opts->rpc->field, text) : -EINVAL; \
	}                                                                          \
	int criu_set_##word(const char *text)                                      \
	{                                                                          \
		return criu_local_set_##word(libcriu_process, text);               \
	}

#define ADD_LOCAL_TEXT(word, field)                                                               \
	int criu_local_add_##word(criu_opts *opts, const char *text)                              \
	{                                                                                         \
		return opts ? add_text(&opts->rpc->field, &opts->rpc->n_##field, text) : -EINVAL; \
	}

#define ADD_TEXT(word, field)                                        \
	ADD_LOCAL_TEXT(word, field)                                  \
	int criu_add_##word(const char *text)                        \
	{                                                            \
		return criu_local_add_##word(libcriu_process, text); \
	}

SET(pid, int, pid)
SET(work_dir_fd, int, work_dir_fd)
SET(log_level, int, log_level)
SET(ghost_limit, unsigned, ghost_limit)
SET(timeout, unsigned, timeout)
SET(cpu_cap, unsigned, cpu_cap)
SET(pidfd_store_sk, int, pidfd_store_sk)
SET_FLAG(leave_running, leave_running)
SET_FLAG(shell_job, shell_job)
SET_FLAG(file_locks, file_locks)
SET_FLAG(link_remap, link_remap)
SET_FLAG(evasive_devices, evasive_devices)
SET_FLAG(force_irmap, force_irmap)
SET_FLAG(skip_file_rwx_check, skip_file_rwx_check)
SET_FLAG(unprivileged, unprivileged)
SET_FLAG(weak_sysctls, weak_sysctls)
SET_FLAG(track_mem, track_mem)
SET_FLAG(auto_dedup, auto_dedup)
SET_FLAG(tcp_established, tcp_established)
SET_FLAG(tcp_skip_in_flight, tcp_skip_in_flight)
SET_FLAG(tcp_close, tcp_close)
SET_FLAG(ext_unix_sk, ext_unix_sk)
SET_FLAG(orphan_pts_master, orphan_pts_master)
SET_FLAG(auto_ext_mnt, auto_ext_mnt)
SET_FLAG(ext_sharing, ext_sharing)
SET_FLAG(ext_masters, ext_masters)
SET_FLAG(mntns_compat_mode, mntns_compat_mode)
SET_FLAG(manage_cgroups, manage_cgroups)
SET_TEXT(parent_images, parent_img)
SET_TEXT(log_file, log_file)
SET_TEXT(config_file, config_file)
SET_TEXT(root, root)
SET_TEXT(freeze_cgroup, freeze_cgroup)
SET_TEXT(lsm_profile, lsm_profile)
SET_TEXT(lsm_mount_context, lsm_mount_context)
ADD_TEXT(irmap_path, irmap_scan_paths)
ADD_TEXT(external, external)
ADD_TEXT(skip_mnt, skip_mnt)
ADD_TEXT(enable_fs, enable_fs)
ADD_LOCAL_TEXT(cg_dump_controller, cgroup_dump_controller)

/* ---------------------------------------------------------------- what is not just a field */

void criu_local_set_images_dir_fd(criu_opts *opts, int fd)
{
	if (opts)
		opts->rpc->images_dir_fd = fd;
}

void criu_set_images_dir_fd(int fd)
{
	criu_local_set_images_dir_fd(libcriu_process, fd);
}

void criu_local_set_empty_ns(criu_opts *opts, int namespaces)
{
	if (!opts)
		return;
	opts->rpc->has_empty_ns = true;
	opts->rpc->empty_ns = (uint32_t)namespaces;
}

void criu_set_empty_ns(int namespaces)
{
	criu_local_set_empty_ns(libcriu_process, namespaces);
}

void criu_local_set_manage_cgroups_mode(criu_opts *opts, enum criu_cg_mode mode)
{
	if (!opts)
		return;
	opts->rpc->has_manage_cgroups_mode = true;
	opts->rpc->manage_cgroups_mode = (CriuCgMode)mode;
}

void criu_set_manage_cgroups_mode(enum criu_cg_mode mode)
{
	criu_local_set_manage_cgroups_mode(libcriu_process, mode);
}

int criu_local_set_network_lock(criu_opts *opts, enum criu_network_lock_method method)
{
	if (!opts || method < CRIU_NETWORK_LOCK_IPTABLES || method > CRIU_NETWORK_LOCK_SKIP)
		return -1;
	opts->rpc->has_network_lock = true;
	opts->rpc->network_lock = (CriuNetworkLockMethod)method;
	return 0;
}

int criu_set_network_lock(enum criu_network_lock_method method)
{
	return criu_local_set_network_lock(libcriu_process, method);
}

int criu_local_set_pre_dump_mode(criu_opts *opts, enum criu_pre_dump_mode mode)
{
	if (!opts || (mode != CRIU_PRE_DUMP_SPLICE && mode != CRIU_PRE_DUMP_READ))
		return -1;
	opts->rpc->has_pre_dump_mode = true;
	opts->rpc->pre_dump_mode = (CriuPreDumpMode)mode;
	return 0;
}

int criu_set_pre_dump_mode(enum criu_pre_dump_mode mode)
{
	return criu_local_set_pre_dump_mode(libcriu_process, mode);
}

int criu_local_add_cg_props(criu_opts *opts, const char *stream)
{
	return opts && stream ? set_text(&opts->rpc->cgroup_props, stream) : -EINVAL;
}

int criu_local_add_cg_props_file(criu_opts *opts, const char *path)
{
	return opts && path ? set_text(&opts->rpc->cgroup_props_file, path) : -EINVAL;
}

int criu_local_add_cg_yard(criu_opts *opts, const char *path)
{
	return opts && path ? set_text(&opts->rpc->cgroup_yard, path) : -EINVAL;
}

int criu_local_add_unix_sk(criu_opts *opts, unsigned int inode)
{
	UnixSk *socket = opts ? NEW_MESSAGE(UnixSk, unix_sk) : NULL;
	if (!opts)
		return -EINVAL;
	if (socket)
		socket->inode = inode;
	criu_local_set_ext_unix_sk(opts, true);
	return add_message(&opts->rpc->unix_sk_ino, &opts->rpc->n_unix_sk_ino, &socket->base, socket);
}

int criu_add_unix_sk(unsigned int inode)
{
	return criu_local_add_unix_sk(libcriu_process, inode);
}

int criu_local_add_inherit_fd(criu_opts *opts, int fd, const char *key)
{
	InheritFd *one = opts && key ? NEW_MESSAGE(InheritFd, inherit_fd) : NULL;
	if (!opts || !key)
		return -EINVAL;
	if (one) {
		one->fd = fd;
		one->key = copy_text(key);
	}
	return add_message(&opts->rpc->inherit_fd, &opts->rpc->n_inherit_fd, &one->base, one && one->key);
}

int criu_add_inherit_fd(int fd, const char *key)
{
	return criu_local_add_inherit_fd(libcriu_process, fd, key);
}

int criu_local_add_ext_mount(criu_opts *opts, const char *key, const char *val)
{
	ExtMountMap *one = opts && key && val ? NEW_MESSAGE(ExtMountMap, ext_mount_map) : NULL;
	if (!opts || !key || !val)
		return -EINVAL;
	if (one) {
		one->key = copy_text(key);
		one->val = copy_text(val);
	}
	return add_message(&opts->rpc->ext_mnt, &opts->rpc->n_ext_mnt, &one->base,
			   one && one->key && one->val);
}

int criu_add_ext_mount(const char *key, const char *val)
{
	return criu_local_add_ext_mount(libcriu_process, key, val);
}

int criu_local_add_veth_pair(criu_opts *opts, const char *in, const char *out)
{
	CriuVethPair *one = opts && in && out ? NEW_MESSAGE(CriuVethPair, criu_veth_pair) : NULL;
	if (!opts || !in || !out)
		return -EINVAL;
	if (one) {
		one->if_in = copy_text(in);
		one->if_out = copy_text(out);
	}
	return add_message(&opts->rpc->veths, &opts->rpc->n_veths, &one->base,
			   one && one->if_in && one->if_out);
}

int criu_add_veth_pair(const char *in, const char *out)
{
	return criu_local_add_veth_pair(libcriu_process, in, out);
}

int criu_local_add_cg_root(criu_opts *opts, const char *ctrl, const char *path)
{
	CgroupRoot *one = opts && path ? NEW_MESSAGE(CgroupRoot, cgroup_root) : NULL;
	if (!opts || !path)
		return -EINVAL;
	if (one) {
		one->ctrl = copy_text(ctrl);
		one->path = copy_text(path);
	}
	return add_message(&opts->rpc->cg_root, &opts->rpc->n_cg_root, &one->base,
			   one && one->path && (one->ctrl || !ctrl));
}

int criu_add_cg_root(const char *ctrl, const char *path)
{
	return criu_local_add_cg_root(libcriu_process, ctrl, path);
}

int criu_local_join_ns_add(criu_opts *opts, const char *ns, const char *ns_file, const char *extra_opt)
{
	JoinNamespace *one = opts && ns && ns_file ? NEW_MESSAGE(JoinNamespace, join_namespace) : NULL;
	if (!opts || !ns || !ns_file)
		return -1;
	if (one) {
		one->ns = copy_text(ns);
		one->ns_file = copy_text(ns_file);
		one->extra_opt = copy_text(extra_opt);
	}
	return add_message(&opts->rpc->join_ns, &opts->rpc->n_join_ns, &one->base,
			   one && one->ns && one->ns_file && (one->extra_opt || !extra_opt));
}

int criu_join_ns_add(const char *ns, const char *ns_file, const char *extra_opt)
{
	return criu_local_join_ns_add(libcriu_process, ns, ns_file, extra_opt);
}

int criu_local_set_page_server_address_port(criu_opts *opts, const char *address, int port)
{
	CriuPageServerInfo *ps =
		opts && address ? NEW_MESSAGE(CriuPageServerInfo, criu_page_server_info) : NULL;
	if (!opts || !address)
		return -EINVAL;
	char *copy = ps ? strdup(address) : NULL;
	if (!copy) {
		free(ps);
		return -ENOMEM;
	}
	ps->address = copy;
	ps->has_port = true;
	ps->port = port;
	if (opts->rpc->ps)
		criu_page_server_info__free_unpacked(opts->rpc->ps, NULL);
	opts->rpc->ps = ps;
	return 0;
}

int criu_set_page_server_address_port(const char *address, int port)
{
	return criu_local_set_page_server_address_port(libcriu_process, address, port);
}

/* Over what was there before. */
int criu_local_set_exec_cmd(criu_opts *opts, int argc, char *argv[])
{
	if (!opts || argc < 0)
		return -EINVAL;
	for (size_t i = 0; i < opts->rpc->n_exec_cmd; i++)
		free(opts->rpc->exec_cmd[i]);
	opts->rpc->n_exec_cmd = 0;
	int r = 0;
	for (int i = 0; i < argc && r >= 0; i++)
		r = add_text(&opts->rpc->exec_cmd, &opts->rpc->n_exec_cmd, argv[i]);
	return r;
}

int criu_set_exec_cmd(int argc, char *argv[])
{
	return criu_local_set_exec_cmd(libcriu_process, argc, argv);
}

/* ---------------------------------------------------------------- the service, and being told */

static int set_service(criu_opts *opts, enum criu_service_comm comm, const char *text)
{
	char *copy = opts ? copy_text(text) : NULL;
	if (!opts)
		return -EINVAL;
	if (text && !copy)
		return -ENOMEM;
	criu_free_service(opts);
	opts->service = copy;
	opts->comm = comm;
	return 0;
}

int criu_local_set_service_address(criu_opts *opts, const char *path)
{
	return set_service(opts, CRIU_COMM_SK, path);
}

int criu_set_service_address(const char *path)
{
	return criu_local_set_service_address(libcriu_process, path);
}

int criu_local_set_service_binary(criu_opts *opts, const char *path)
{
	return set_service(opts, CRIU_COMM_BIN, path);
}

int criu_set_service_binary(const char *path)
{
	return criu_local_set_service_binary(libcriu_process, path);
}

void criu_local_set_service_fd(criu_opts *opts, int fd)
{
	if (!opts)
		return;
	opts->comm = CRIU_COMM_FD;
	opts->service_fd = fd;
}

void criu_set_service_fd(int fd)
{
	criu_local_set_service_fd(libcriu_process, fd);
}

void criu_local_set_notify_cb(criu_opts *opts, criu_notify_cb_t cb)
{
	if (!opts)
		return;
	opts->notify = cb;
	opts->rpc->has_notify_scripts = true;
	opts->rpc->notify_scripts = true;
}

void criu_set_notify_cb(criu_notify_cb_t cb)
{
	criu_local_set_notify_cb(libcriu_process, cb);
}
