/* SPDX-License-Identifier: Apache-2.0 */
/* Owns what every job needs first: faults, what the kernel offers, limits, the warden. */
#include "engine/engine.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <ferry/tcp.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "collect/collect.h"
#include "collect/namespaces.h"
#include "host/cpu.h"
#include "host/hook.h"
#include "host/netlock.h"
#include "host/netns.h"
#include "host/pause.h"
#include "host/userns.h"
#include "host/warden.h"
#include "kind/cgroup.h"
#include "kind/cgroup_groups.h"
#include "kind/external.h"
#include "kind/mqueue_take.h"
#include "kind/peers.h"
#include "kind/tty_queue.h"
#include "proc/looker.h"
#include "proc/mapper.h"
#include "proc/read.h"
#include "stream/tls.h"

/* A million: what nr_open is on every machine that nobody changed it on. */
enum { ENGINE_DESCRIPTORS = 1 << 20, ENGINE_PROPS_MAX = 1 << 20 };

/* How often a tree that may not be dumped is looked at, and for how long. */
enum { CHECK_LOOKS = 3, CHECK_PAUSE_NS = 5 * 1000 * 1000, CHECK_AGAIN_NS = 1000 * 1000 * 1000 };

static int engine_tcp_resume(int socket, const void *data)
{
	struct ferry_tcp_undo undo;
	memcpy(&undo, data, sizeof(undo));
	return ferry_tcp_resume(socket, &undo, 0, NULL);
}
_Static_assert(sizeof(struct ferry_tcp_undo) <= WARDEN_DATA_BYTES,
	       "the undo of a connection fits into a log entry");

static int engine_net_unlock(int netns, const char *id)
{
	return netlock_find_and_remove(netns, id, NULL);
}

static const struct warden_actions engine_actions = {
	.tcp_resume = engine_tcp_resume,
	.net_unlock = engine_net_unlock,
	.terminal_put_back = tty_queue_put_back,
	.messages_put_back = mqueue_put_back,
	.group_put = cgroup_put,
};

static void engine_raise_nofile(void)
{
	struct rlimit limit;
	const struct rlimit large = {ENGINE_DESCRIPTORS, ENGINE_DESCRIPTORS};
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= ENGINE_DESCRIPTORS ||
	    setrlimit(RLIMIT_NOFILE, &large) == 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		return; /* larger trees will say so */
}

static int engine_own_namespaces(struct proc_namespaces *ret, struct ferry_error *err)
{
	_cleanup_close_ int self = proc_open(getpid(), err);
	return self < 0 ? self : proc_read_namespaces(self, ret, err);
}

/*
 * Whoever stands in another user namespace can enter an IPC namespace that belongs to it, but not go back to the machine's. So
 * ferry stays in the tree's; which one it was started in does not change by that.
 */
static int engine_enter_ipc(pid_t pid, const struct proc_namespaces *own, struct ferry_error *err)
{
	struct proc_namespaces theirs;
	_cleanup_close_ int dir = proc_open_look(pid, err);
	int r = dir < 0 ? dir : proc_read_namespaces(dir, &theirs, err);
	if (r < 0 || theirs.ino[PROC_NS_IPC] == own->ino[PROC_NS_IPC])
		return r;
	_cleanup_close_ int fd = proc_open_namespace(dir, PROC_NS_IPC, err);
	if (fd < 0)
		return fd;
	if (setns(fd, CLONE_NEWIPC) < 0)
		return error_errno(err, FERRY_ERROR_PERMISSION, errno, "entering the ipc namespace of pid %d",
				   pid);
	return 0;
}

/* What the file says counts beside what the command line does, and after it. */
static int engine_read_props(struct engine *e, struct ferry_error *err)
{
	const char *path = e->options->cgroup_props_file, *given = e->options->cgroup_props;
	_cleanup_free_ char *text = NULL;
	size_t n;
	if (!path)
		return 0;
	int r = fd_read_path(AT_FDCWD, path, ENGINE_PROPS_MAX, &text, &n);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_USAGE, -r, "--cgroup-props-file '%s'", path);
	if (asprintf(&e->cgroup_props, "%s\n%s", given ? given : "", text) < 0) {
		e->cgroup_props = NULL;
		return error_memory(err);
	}
	e->kinds.cgroups.props = e->cgroup_props;
	return 0;
}

int engine_init(struct engine *e, const struct options *options, const struct log_sink *log,
		struct ferry_error *err)
{
	*e = (struct engine){.options = options,
			     .log = log,
			     .warden_actions = engine_actions,
			     .start_root = -1,
			     .start_dir = -1,
			     .start_mounts = -1,
			     .start_ns = time_now_ns()};
	int r = fault_init(&e->fault);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_USAGE, -r, "reading FERRY_FAULT and its kin");
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	engine_raise_nofile();
	if (options->user_ns) {
		r = options->tree ? userns_enter((pid_t)options->tree, err) : userns_new(err);
		if (r < 0)
			return r;
	}
	kern_caps_init(&e->caps);
	e->kinds = (struct kind_options){
		.tcp_established = options->tcp_established,
		.leave_running = options->leave_running || options->leave_stopped,
		.shell_job = options->shell_job,
		.orphan_pts_master = options->orphan_pts_master,
		.caps = &e->caps,
		.foreground = !options->restore_detached && !options->restore_sibling,
		.io_uring_max_replay = (uint64_t)options->io_uring_max_replay,
		.ghost_limit = (uint64_t)options->ghost_limit,
		.ext_unix_sk = options->ext_unix_sk,
		.service_socket = (uint32_t)options->service_socket,
		.external = (const char *const *)options->external.v.v,
		.n_external = options->external.v.n,
		.inherited = (const char *const *)options->inherit_fd.v.v,
		.n_inherited = options->inherit_fd.v.n,
		.skip_mnt = (const char *const *)options->skip_mnt.v.v,
		.n_skip_mnt = options->skip_mnt.v.n,
		.enable_fs = (const char *const *)options->enable_fs.v.v,
		.n_enable_fs = options->enable_fs.v.n,
		.ext_sharing = options->ext_sharing,
		.root = options->root,
		.home_mounts = -1,
		.home_root = -1,
		.home_proc = -1,
		.tcp_close = options->tcp_close,
		.skip_in_flight = options->skip_in_flight,
		.file_locks = options->file_locks,
		.criu_compat = options->criu_compat,
		.empty_net = options->empty_ns != NULL,
		.joined = (const char *const *)options->join_ns.v.v,
		.n_joined = options->join_ns.v.n,
		.home_net = -1,
		.file_validation = options->file_validation,
		.any_rights = options->skip_file_rwx_check,
		.cgroups = {.mode = options->manage_cgroups,
			    .roots = (const char *const *)options->cgroup_root.v.v,
			    .n_roots = options->cgroup_root.v.n,
			    .yard = options->cgroup_yard,
			    .controllers = (const char *const *)options->cgroup_dump_controller.v.v,
			    .n_controllers = options->cgroup_dump_controller.v.n,
			    .props = options->cgroup_props},
		.timeout_ms = (uint32_t)MIN(options->timeout, UINT32_MAX / 1000) * 1000,
	};
	e->kinds.looker = proc_looker_new();
	if (options->empty_ns && strcmp(options->empty_ns, "net") != 0)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--empty-ns %s: only 'net' can be empty",
				 options->empty_ns);
	r = cpu_caps_parse(options->cpu_cap, &e->cpu_caps, err);
	if (r >= 0)
		r = engine_tls(options, &e->tls, err);
	if (r >= 0)
		r = engine_read_props(e, err);
	if (r >= 0 && options->freeze_cgroup)
		r = pause_open(options->freeze_cgroup, &e->fault, log, &e->pause, err);
	e->kinds.cgroups.pause = e->pause;
	if (r >= 0)
		r = external_check(&e->kinds, err);
	return r < 0 ? r : cgroup_check_options(&e->kinds, err);
}

int engine_tls(const struct options *o, struct tls **ret, struct ferry_error *err)
{
	const struct tls_options tls = {.cacert = o->tls_cacert,
					.cacrl = o->tls_cacrl,
					.cert = o->tls_cert,
					.key = o->tls_key,
					.any_name = o->tls_no_cn_verify};
	*ret = NULL;
	return o->tls ? tls_open(&tls, ret, err) : 0;
}

void engine_release(struct engine *e)
{
	hook_free(e->hook);
	e->hook = NULL;
	warden_stop(e->warden);
	e->warden = NULL;
	tls_close(e->tls);
	e->tls = NULL;
	free(e->cgroup_props);
	e->cgroup_props = NULL;
	pause_close(e->pause);
	e->pause = NULL;
	peers_free(e->peers);
	e->peers = NULL;
	vec_release(&e->large);
	proc_mapper_free(e->mapper);
	e->mapper = NULL;
	proc_looker_free(e->kinds.looker);
	e->kinds.looker = NULL;
	fault_release(&e->fault);
	proc_mounts_release(&e->mounts);
	if (e->kinds.home_net >= 0)
		close(e->kinds.home_net);
	if (e->start_root >= 0)
		close(e->start_root);
	if (e->start_dir >= 0)
		close(e->start_dir);
	if (e->start_mounts >= 0)
		close(e->start_mounts);
	if (e->kinds.home_proc >= 0)
		close(e->kinds.home_proc);
}

int engine_start_warden(struct engine *e, struct ferry_error *err)
{
	return e->warden ? 0 : warden_start(&e->warden_actions, &e->fault, &e->warden, err);
}

int engine_warden(struct engine *e, struct ferry_error *err)
{
	int r = engine_start_warden(e, err);
	return r < 0 ? r : warden_await(e->warden, err);
}

void engine_decided(struct engine *e)
{
	if (e->decided)
		e->decided(e->decided_context);
}

int engine_at_stage(struct engine *e, enum engine_stage stage, pid_t pid, struct ferry_error *err)
{
	return e->stage ? e->stage(e->stage_context, stage, pid, -1, err) : 0;
}

int engine_give_terminal(struct engine *e, int fd, struct ferry_error *err)
{
	if (e->stage)
		return e->stage(e->stage_context, ENGINE_ORPHAN_PTS_MASTER, 0, fd, err);
	return error_set(err, FERRY_ERROR_USAGE, EINVAL, "nobody is there who takes the tree's terminal");
}

void engine_phase(struct engine *e, const char *name, uint64_t start_ns)
{
	struct engine_report *r = &e->report;
	if (r->n_phases == ENGINE_PHASES)
		return;
	struct engine_phase *p = &r->phases[r->n_phases++];
	snprintf(p->name, sizeof(p->name), "%s", name);
	p->start_ns = start_ns;
	p->end_ns = time_now_ns();
}

int engine_at(const struct engine *e, const char **path)
{
	if (e->start_dir < 0)
		return AT_FDCWD;
	if (**path != '/')
		return e->start_dir;
	*path += strspn(*path, "/");
	if (!**path)
		*path = ".";
	return e->start_root;
}

int engine_keep_start(struct engine *e, struct ferry_error *err)
{
	if (e->start_root >= 0)
		return 0;
	int root = fd_open(AT_FDCWD, "/", O_PATH | O_DIRECTORY, 0);
	int dir = fd_open(AT_FDCWD, ".", O_PATH | O_DIRECTORY, 0);
	int mounts = fd_open(AT_FDCWD, "/proc/self/ns/mnt", O_RDONLY, 0);
	e->start_root = e->kinds.home_root = root;
	e->start_dir = dir;
	e->start_mounts = e->kinds.home_mounts = mounts;
	e->kinds.home_proc = fd_open(AT_FDCWD, "/proc", O_PATH | O_DIRECTORY, 0);
	if (mounts < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -mounts, "opening '/proc/self/ns/mnt'");
	return root < 0 || dir < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, root < 0 ? -root : -dir,
						 "opening the working directory")
				   : 0;
}

static void engine_find_view(struct engine *e, pid_t tree)
{
	_cleanup_close_ int dir = proc_open_look(tree, NULL);
	e->kinds.view_pid = tree;
	if (dir < 0 || proc_read_namespace(dir, PROC_NS_MNT, &e->kinds.view_ns, NULL) < 0)
		e->kinds.view_ns = 0; /* it is told later */
}

static int engine_enter_view(struct engine *e, struct ferry_error *err)
{
	pid_t tree = (pid_t)e->options->tree;
	int r = engine_own_namespaces(&e->kinds.own_namespaces, err);
	if (r >= 0 && e->options->user_ns)
		r = engine_enter_ipc(tree, &e->kinds.own_namespaces, err);
	if (r >= 0)
		r = engine_keep_start(e, err);
	engine_find_view(e, tree);
	if (r >= 0)
		r = engine_keep_net(e, err);
	if (r >= 0)
		r = collect_enter_view(tree, &e->kinds, &e->mounts, err);
	e->kinds.outside_mounts = r > 0 ? &e->mounts : NULL;
	if (r > 0 && e->kinds.looker)
		proc_looker_look_below(e->kinds.looker, e->start_root);
	e->entered = r >= 0;
	if (r)
		return MIN(r, 0);
	close(e->start_root);
	close(e->start_dir);
	close(e->start_mounts);
	e->start_root = e->start_dir = e->start_mounts = -1;
	close(e->kinds.home_proc);
	e->kinds.home_mounts = e->kinds.home_root = e->kinds.home_proc = -1;
	return 0;
}

int engine_keep_net(struct engine *e, struct ferry_error *err)
{
	if (e->kinds.home_net >= 0)
		return 0;
	e->kinds.home_net = netns_open();
	return e->kinds.home_net < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -e->kinds.home_net,
						   "opening ferry's network namespace")
				     : 0;
}

struct netlocks *engine_netlocks(const struct engine *e)
{
	char id[64];
	if (!strcmp(e->options->network_lock, "skip"))
		return NULL;
	snprintf(id, sizeof(id), "job-%d-%llx", getpid(), (unsigned long long)time_now_ns());
	return netlocks_new(id, NETLOCK_IMAGE_MARK);
}

int engine_enter(struct engine *e, struct ferry_error *err)
{
	if (e->options->tree <= 0)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--tree PID is missing");
	return e->entered ? 0 : engine_enter_view(e, err);
}

static int engine_check_once(struct engine *e, struct obstacles *ret, struct ferry_error *err)
{
	if (!e->peers)
		e->peers = peers_new((pid_t)e->options->tree);
	if (!e->peers)
		return error_memory(err);
	return check_tree((pid_t)e->options->tree, &e->caps, &e->kinds, e->peers, ret, err);
}

int engine_check(struct engine *e, struct obstacles *ret, struct ferry_error *err)
{
	const struct timespec pause = {.tv_nsec = CHECK_PAUSE_NS};
	uint64_t until_ns = time_now_ns() + CHECK_AGAIN_NS;
	int r = engine_enter(e, err);
	if (r >= 0)
		r = engine_check_once(e, ret, err);
	/* What was read of a tree that moves does not fit together: an obstacle stays where it is when looked at again. */
	for (int looks = 1; looks < CHECK_LOOKS && r > 0 && time_now_ns() < until_ns; looks++) {
		nanosleep(&pause, NULL);
		obstacles_release(ret);
		peers_free(e->peers);
		e->peers = NULL;
		r = engine_check_once(e, ret, err);
	}
	return r;
}
