/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libcriu: dump and restore processes by calls of a library, as with CRIU 4.2's library of that name. Each call asks a service (`criu swrk`,
 * started by the call, unless another is named) and waits for its answer. What an option means is told in ferry-criu(7) and criu(8).
 *
 * There are two forms of everything: criu_X() works on options of the process, criu_local_X() on those that it is given. Options are made by
 * criu_init_opts() or criu_local_init_opts() first; what is set stays set for later calls. Text is copied. Different threads may use
 * different options at the same time.
 *
 * Functions that set something return 0, or a negative number: no memory, or a value that makes no sense. Those that ask for something
 * return what they say, or
 *   -EBADE         it failed; errno has the cause, where it has a number, and the log has its text
 *   -ECONNREFUSED  no service listens at the address
 *   -ECOMM         the service ended, or could not be started
 *   -EINVAL        the service does not know the request, or there are no options
 *   -EBADMSG       the answer makes no sense
 *
 * Since 0.1.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

#define CRIU_LOG_UNSET (-1)
#define CRIU_LOG_MSG 0
#define CRIU_LOG_ERROR 1
#define CRIU_LOG_WARN 2
#define CRIU_LOG_INFO 3
#define CRIU_LOG_DEBUG 4

enum criu_service_comm { CRIU_COMM_SK, CRIU_COMM_FD, CRIU_COMM_BIN };

enum criu_cg_mode {
	CRIU_CG_MODE_IGNORE,
	CRIU_CG_MODE_NONE,
	CRIU_CG_MODE_PROPS,
	CRIU_CG_MODE_SOFT,
	CRIU_CG_MODE_FULL,
	CRIU_CG_MODE_STRICT,
	CRIU_CG_MODE_DEFAULT,
};

enum criu_network_lock_method {
	CRIU_NETWORK_LOCK_IPTABLES = 1,
	CRIU_NETWORK_LOCK_NFTABLES = 2,
	CRIU_NETWORK_LOCK_SKIP = 3,
};

enum criu_pre_dump_mode { CRIU_PRE_DUMP_SPLICE = 1, CRIU_PRE_DUMP_READ = 2 };

typedef struct criu_opts criu_opts;
typedef struct CriuNotify *criu_notify_arg_t;
typedef void *criu_predump_info;

/* Told a stage ("pre-dump", "post-restore", ...), while the job waits. Anything but 0 lets the job fail, and is what the call returns. */
typedef int (*criu_notify_cb_t)(char *action, criu_notify_arg_t na);

/* The root task's PID, or 0 where the stage has none. */
int criu_notify_pid(criu_notify_arg_t na);

/* The master of a terminal whose slave alone was dumped, from the stage "orphan-pts-master" on; -1: none came. The caller closes it. */
int criu_get_orphan_pts_master_fd(void);

/*
 * Options as they are at first: images_dir_fd is -1, everything else unset. criu_init_opts() drops what was set before. ret_opts: freed
 * by criu_local_free_opts(); what it points to before is freed first, so it has to be NULL or options. 0, or -1 without memory.
 */
int criu_init_opts(void);
void criu_free_opts(void);
int criu_local_init_opts(criu_opts **opts);
void criu_local_free_opts(criu_opts *opts);

/*
 * Without a service, "criu" of PATH is started for each call. set_service_binary(): another program; NULL: that again. set_service_address():
 * a socket where `criu service` listens; NULL: criu_service.socket in the current directory. set_service_fd(): a connected
 * socket, good for one call, which closes it. criu_free_service(): forget the address or program.
 */
void criu_free_service(criu_opts *opts);

/* Which process: 0 or nothing means the one that calls (dump only). */
void criu_set_pid(int pid);
void criu_local_set_pid(criu_opts *opts, int pid);

/* Where the image is, an open directory; it has to stay open during the call. */
void criu_set_images_dir_fd(int fd);
void criu_local_set_images_dir_fd(criu_opts *opts, int fd);

/* Where log, pidfile and statistics go, an open directory; without it the images directory. */
void criu_set_work_dir_fd(int fd);
void criu_local_set_work_dir_fd(criu_opts *opts, int fd);

/* The image to build on, a path relative to the images directory. */
int criu_set_parent_images(const char *path);
int criu_local_set_parent_images(criu_opts *opts, const char *path);

/* A file in the work directory, and how much goes there: 0 messages to 4 everything. */
int criu_set_log_file(const char *log_file);
int criu_local_set_log_file(criu_opts *opts, const char *log_file);
void criu_set_log_level(int log_level);
void criu_local_set_log_level(criu_opts *opts, int log_level);

/* A configuration file that wins over what is set here. */
int criu_set_config_file(const char *path);
int criu_local_set_config_file(criu_opts *opts, const char *path);

/* --leave-running, --shell-job, --file-locks, --link-remap, --evasive-devices, --force-irmap, --skip-file-rwx-check, --unprivileged */
void criu_set_leave_running(bool leave_running);
void criu_local_set_leave_running(criu_opts *opts, bool leave_running);
void criu_set_shell_job(bool shell_job);
void criu_local_set_shell_job(criu_opts *opts, bool shell_job);
void criu_set_file_locks(bool file_locks);
void criu_local_set_file_locks(criu_opts *opts, bool file_locks);
void criu_set_link_remap(bool link_remap);
void criu_local_set_link_remap(criu_opts *opts, bool link_remap);
void criu_set_evasive_devices(bool evasive_devices);
void criu_local_set_evasive_devices(criu_opts *opts, bool evasive_devices);
void criu_set_force_irmap(bool force_irmap);
void criu_local_set_force_irmap(criu_opts *opts, bool force_irmap);
int criu_add_irmap_path(const char *path);
int criu_local_add_irmap_path(criu_opts *opts, const char *path);
void criu_set_skip_file_rwx_check(bool skip_file_rwx_check);
void criu_local_set_skip_file_rwx_check(criu_opts *opts, bool skip_file_rwx_check);
void criu_set_unprivileged(bool unprivileged);
void criu_local_set_unprivileged(criu_opts *opts, bool unprivileged);
void criu_set_weak_sysctls(bool weak_sysctls);
void criu_local_set_weak_sysctls(criu_opts *opts, bool weak_sysctls);
void criu_set_ghost_limit(unsigned int limit);
void criu_local_set_ghost_limit(criu_opts *opts, unsigned int limit);
void criu_set_timeout(unsigned int seconds);
void criu_local_set_timeout(criu_opts *opts, unsigned int seconds);
void criu_set_cpu_cap(unsigned int cap);
void criu_local_set_cpu_cap(criu_opts *opts, unsigned int cap);

/* Memory: tracking for the next image, freeing what an older one need not have any more, how a pre-dump reads. */
void criu_set_track_mem(bool track_mem);
void criu_local_set_track_mem(criu_opts *opts, bool track_mem);
void criu_set_auto_dedup(bool auto_dedup);
void criu_local_set_auto_dedup(criu_opts *opts, bool auto_dedup);
int criu_set_pre_dump_mode(enum criu_pre_dump_mode mode);
int criu_local_set_pre_dump_mode(criu_opts *opts, enum criu_pre_dump_mode mode);
int criu_set_page_server_address_port(const char *address, int port);
int criu_local_set_page_server_address_port(criu_opts *opts, const char *address, int port);
void criu_set_pidfd_store_sk(int sk);
void criu_local_set_pidfd_store_sk(criu_opts *opts, int sk);

/* Connections and sockets; add_unix_sk() names the inode of one whose peer may stay outside. */
void criu_set_tcp_established(bool tcp_established);
void criu_local_set_tcp_established(criu_opts *opts, bool tcp_established);
void criu_set_tcp_skip_in_flight(bool tcp_skip_in_flight);
void criu_local_set_tcp_skip_in_flight(criu_opts *opts, bool tcp_skip_in_flight);
void criu_set_tcp_close(bool tcp_close);
void criu_local_set_tcp_close(criu_opts *opts, bool tcp_close);
void criu_set_ext_unix_sk(bool ext_unix_sk);
void criu_local_set_ext_unix_sk(criu_opts *opts, bool ext_unix_sk);
int criu_add_unix_sk(unsigned int inode);
int criu_local_add_unix_sk(criu_opts *opts, unsigned int inode);
int criu_set_network_lock(enum criu_network_lock_method method);
int criu_local_set_network_lock(criu_opts *opts, enum criu_network_lock_method method);

/* What is not part of the image: resources outside, and descriptors that take their place at a restore. */
int criu_add_external(const char *key);
int criu_local_add_external(criu_opts *opts, const char *key);
int criu_add_inherit_fd(int fd, const char *key);
int criu_local_add_inherit_fd(criu_opts *opts, int fd, const char *key);
void criu_set_orphan_pts_master(bool orphan_pts_master);
void criu_local_set_orphan_pts_master(criu_opts *opts, bool orphan_pts_master);

/* Mounts. */
int criu_set_root(const char *root);
int criu_local_set_root(criu_opts *opts, const char *root);
int criu_add_ext_mount(const char *key, const char *val);
int criu_local_add_ext_mount(criu_opts *opts, const char *key, const char *val);
void criu_set_auto_ext_mnt(bool auto_ext_mnt);
void criu_local_set_auto_ext_mnt(criu_opts *opts, bool auto_ext_mnt);
void criu_set_ext_sharing(bool ext_sharing);
void criu_local_set_ext_sharing(criu_opts *opts, bool ext_sharing);
void criu_set_ext_masters(bool ext_masters);
void criu_local_set_ext_masters(criu_opts *opts, bool ext_masters);
int criu_add_skip_mnt(const char *mnt);
int criu_local_add_skip_mnt(criu_opts *opts, const char *mnt);
int criu_add_enable_fs(const char *fs);
int criu_local_add_enable_fs(criu_opts *opts, const char *fs);
void criu_set_mntns_compat_mode(bool mntns_compat_mode);
void criu_local_set_mntns_compat_mode(criu_opts *opts, bool mntns_compat_mode);

/* Namespaces: which are left empty (CLONE_NEWNET), which the tree joins; extra_opt may be NULL. */
void criu_set_empty_ns(int namespaces);
void criu_local_set_empty_ns(criu_opts *opts, int namespaces);
int criu_join_ns_add(const char *ns, const char *ns_file, const char *extra_opt);
int criu_local_join_ns_add(criu_opts *opts, const char *ns, const char *ns_file, const char *extra_opt);
int criu_add_veth_pair(const char *in, const char *out);
int criu_local_add_veth_pair(criu_opts *opts, const char *in, const char *out);

/* Cgroups; ctrl may be NULL, which means all controllers. */
void criu_set_manage_cgroups(bool manage);
void criu_local_set_manage_cgroups(criu_opts *opts, bool manage);
void criu_set_manage_cgroups_mode(enum criu_cg_mode mode);
void criu_local_set_manage_cgroups_mode(criu_opts *opts, enum criu_cg_mode mode);
int criu_set_freeze_cgroup(const char *name);
int criu_local_set_freeze_cgroup(criu_opts *opts, const char *name);
int criu_add_cg_root(const char *ctrl, const char *path);
int criu_local_add_cg_root(criu_opts *opts, const char *ctrl, const char *path);

/* Only in this form. */
int criu_local_add_cg_props(criu_opts *opts, const char *stream);
int criu_local_add_cg_props_file(criu_opts *opts, const char *path);
int criu_local_add_cg_dump_controller(criu_opts *opts, const char *name);
int criu_local_add_cg_yard(criu_opts *opts, const char *path);

/* Security modules. */
int criu_set_lsm_profile(const char *name);
int criu_local_set_lsm_profile(criu_opts *opts, const char *name);
int criu_set_lsm_mount_context(const char *name);
int criu_local_set_lsm_mount_context(criu_opts *opts, const char *name);

/* A program to run in place of the caller when a restore is done. */
int criu_set_exec_cmd(int argc, char *argv[]);
int criu_local_set_exec_cmd(criu_opts *opts, int argc, char *argv[]);

/* How the service is reached, see above. */
int criu_set_service_address(const char *path);
int criu_local_set_service_address(criu_opts *opts, const char *path);
void criu_set_service_fd(int fd);
void criu_local_set_service_fd(criu_opts *opts, int fd);
int criu_set_service_binary(const char *path);
int criu_local_set_service_binary(criu_opts *opts, const char *path);

/* Be told of stages. */
void criu_set_notify_cb(criu_notify_cb_t cb);
void criu_local_set_notify_cb(criu_opts *opts, criu_notify_cb_t cb);

/* To be asked for: true; answered: whether it is there. */
struct criu_feature_check {
	bool mem_track;
	bool lazy_pages;
	bool pidfd_store;
};

/*
 * check: 0, this machine can dump and restore. dump: 0, it was done; 1: the caller, who dumped himself, was restored just now. pre_dump: 0.
 * restore: the root task's PID; restore_child: the same, a child of the caller. dump_iters: pre-dumps as long as more() returns
 * a positive number, then the dump; a negative number ends it, and is returned. get_version: of the service, 40200 for 4.2.
 * check_version: 1, it is at least minimum; 0, it is older. feature_check: 0; size is that of the structure.
 */
int criu_check(void);
int criu_local_check(criu_opts *opts);
int criu_dump(void);
int criu_local_dump(criu_opts *opts);
int criu_pre_dump(void);
int criu_local_pre_dump(criu_opts *opts);
int criu_restore(void);
int criu_local_restore(criu_opts *opts);
int criu_restore_child(void);
int criu_local_restore_child(criu_opts *opts);
int criu_dump_iters(int (*more)(criu_predump_info info));
int criu_local_dump_iters(criu_opts *opts, int (*more)(criu_predump_info info));
int criu_get_version(void);
int criu_local_get_version(criu_opts *opts);
int criu_check_version(int minimum);
int criu_local_check_version(criu_opts *opts, int minimum);
int criu_feature_check(struct criu_feature_check *features, size_t size);
int criu_local_feature_check(criu_opts *opts, struct criu_feature_check *features, size_t size);

/* CRIU's version that this library is like. */
extern const char *criu_lib_version;

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
