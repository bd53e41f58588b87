/* SPDX-License-Identifier: Apache-2.0 */
/* Owns which image files a snapshot becomes. */
#include "engine/dump_write.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/lanes.h"
#include "collect/namespaces.h"
#include "host/cpu.h"
#include "image/dir.h"
#include "image/proto/inventory.pb-c.h"
#include "image/proto/pstree.pb-c.h"
#include "image/proto/seccomp.pb-c.h"
#include "image/proto/stats.pb-c.h"
#include "image/proto/timens.pb-c.h"
#include "kind/kinds.h"
#include "model/record.h"

enum {
	WRITE_TASKS_EACH = 16,
	WRITE_IMG_VERSION = 2,
	WRITE_ROOT_IDS = 1,
	WRITE_ROOT_CG_SET = 1,
	WRITE_TIMENS_ID = 0
};

/* inventory_entry.network_lock_method */
enum { WRITE_LOCK_NFTABLES = 1, WRITE_LOCK_NONE = 2 };

/* Only if it says anything. */
static int write_mm_extra(struct image_dir *dir, const struct snap_task *t, struct ferry_error *err)
{
	FerryMmEntry *mm = t->mm_extra;
	size_t n = 0;
	vec_foreach(vma, &t->vmas)
		n += vma->extra != NULL;
	_cleanup_free_ FerryVmaEntry **vmas = calloc(n + 1, sizeof(FerryVmaEntry *));
	if (!vmas)
		return error_memory(err);
	mm->vmas = vmas;
	mm->n_vmas = 0;
	vec_foreach(vma, &t->vmas)
		if (vma->extra)
			mm->vmas[mm->n_vmas++] = vma->extra;
	bool says = ferry_mm_entry__get_packed_size(mm);
	int r = says ? image_put_one(dir, IMAGE_FERRY_MM, (uint64_t)t->inner_pid, &mm->base, err) : 0;
	mm->vmas = NULL;
	mm->n_vmas = 0;
	return r;
}

static int write_task(struct image_dir *dir, const struct snap_task *t, struct ferry_error *err)
{
	struct image_writer *extra;
	int r = image_create(dir, IMAGE_FERRY_TASK, (uint64_t)t->inner_pid, &extra, err);
	vec_foreach(th, &t->threads) {
		if (r >= 0)
			r = image_put_one(dir, IMAGE_CORE, (uint64_t)th->inner_tid, &th->core->base, err);
		if (r >= 0)
			r = image_put(extra, &th->extra->base, err);
	}
	if (r >= 0)
		r = image_close(extra, err);
	/* Of memory that several have, all have the record and one the pages. */
	if (r >= 0)
		r = image_put_one(dir, IMAGE_MM, (uint64_t)t->inner_pid, &t->memory->mm->base, err);
	if (r >= 0)
		r = image_put_one(dir, IMAGE_IDS, (uint64_t)t->inner_pid, &t->ids->base, err);
	return r < 0 ? r : image_put_one(dir, IMAGE_FS, (uint64_t)t->inner_pid, &t->fs->base, err);
}

static int write_fdinfo(struct image_dir *dir, const struct snapshot *snap, const struct snap_task *t,
			struct ferry_error *err)
{
	struct image_writer *w;
	int r = image_create(dir, IMAGE_FDINFO, t->ids->files_id, &w, err);
	for (size_t i = 0; i < t->fds.n && r >= 0; i++) {
		const FileEntry *file = snap->files.v[t->fds.v[i].file].entry;
		FdinfoEntry entry = FDINFO_ENTRY__INIT;
		entry.id = file->id;
		entry.flags = t->fds.v[i].cloexec ? FD_CLOEXEC : 0;
		entry.type = file->type;
		entry.fd = (uint32_t)t->fds.v[i].fd;
		r = image_put(w, &entry.base, err);
	}
	return r < 0 ? r : image_close(w, err);
}

/* Tasks whose files are written, some by each lane. */
struct write_tasks {
	struct image_dir *dir;
	const struct snapshot *snap;
	struct ferry_error errs[LANES_MAX];
};

static int write_some(void *context, struct lanes *l unused, unsigned lane, uint64_t number)
{
	struct write_tasks *w = context;
	struct ferry_error *err = &w->errs[lane];
	size_t at = (size_t)number * WRITE_TASKS_EACH, end = MIN(at + WRITE_TASKS_EACH, w->snap->tasks.n);
	int r = 0;
	for (; at < end && r >= 0; at++) {
		const struct snap_task *t = &w->snap->tasks.v[at];
		r = write_task(w->dir, t, err);
		if (r >= 0)
			r = write_mm_extra(w->dir, t, err);
		if (r >= 0 && !t->shares[SHARING_FILES])
			r = write_fdinfo(w->dir, w->snap, t, err);
	}
	return r;
}

static int write_tasks(struct image_dir *dir, const struct snapshot *snap, struct ferry_error *err)
{
	struct write_tasks w = {.dir = dir, .snap = snap};
	for (size_t i = 0; i < LANES_MAX; i++)
		w.errs[i] = (struct ferry_error)FERRY_ERROR_INIT;
	int r = lanes_run(lanes_wanted(), (snap->tasks.n + WRITE_TASKS_EACH - 1) / WRITE_TASKS_EACH,
			  write_some, &w);
	for (size_t i = 0; i < LANES_MAX && r < 0; i++)
		error_pass(err, &w.errs[i]);
	return r;
}

static int write_files(struct image_dir *dir, const struct snapshot *snap, struct ferry_error *err)
{
	struct image_writer *w;
	int r = image_create(dir, IMAGE_FILES, 0, &w, err);
	/* Sockets outside of the tree first: CRIU wants to know them before those that are connected to them. */
	for (int outside = 1; outside >= 0; outside--)
		for (size_t i = 0; i < snap->files.n && r >= 0; i++) {
			const FileEntry *entry = snap->files.v[i].entry;
			if ((entry->usk && entry->usk->uflags) == (bool)outside)
				r = image_put(w, &entry->base, err);
		}
	return r < 0 ? r : image_close(w, err);
}

/* A zombie has no threads any more; its own number stands for them. */
static int write_relation(struct image_writer *w, struct snapshot *snap, const struct snap_relation *rel,
			  struct ferry_error *err)
{
	PstreeEntry entry = PSTREE_ENTRY__INIT;
	entry.pid = (uint32_t)snapshot_inner_pid(snap, rel->pid);
	entry.ppid = (uint32_t)(rel->ppid ? snapshot_inner_pid(snap, rel->ppid) : 0);
	entry.pgid = (uint32_t)snapshot_inner_pid(snap, rel->pgid);
	entry.sid = (uint32_t)snapshot_inner_pid(snap, rel->sid);
	entry.n_threads = rel->task ? rel->task->threads.n : 1;
	entry.threads = arena_array(&snap->arena, uint32_t, entry.n_threads);
	if (!entry.threads)
		return error_memory(err);
	entry.threads[0] = entry.pid;
	for (size_t i = 1; i < entry.n_threads; i++)
		entry.threads[i] = (uint32_t)rel->task->threads.v[i].inner_tid;
	return image_put(w, &entry.base, err);
}

static int write_pstree(struct image_dir *dir, struct snapshot *snap, struct ferry_error *err)
{
	struct image_writer *w;
	int r = image_create(dir, IMAGE_PSTREE, 0, &w, err);
	for (size_t i = 0; i < snap->n_relations && r >= 0; i++)
		r = write_relation(w, snap, &snap->relations[i], err);
	return r < 0 ? r : image_close(w, err);
}

static bool write_tree_says(const FerryTreeEntry *tree)
{
	return tree->has_exit_signal || tree->has_uid || tree->has_untold || tree->has_children_time_ns_id;
}

static int write_tree(struct image_dir *dir, const struct snapshot *snap, struct ferry_error *err)
{
	struct image_writer *w = NULL;
	int r = 0;
	for (size_t i = 0; i < snap->n_relations && r >= 0; i++) {
		const FerryTreeEntry *tree = snap->relations[i].tree;
		if (!write_tree_says(tree))
			continue;
		r = w ? 0 : image_create(dir, IMAGE_FERRY_TREE, 0, &w, err);
		if (r >= 0)
			r = image_put(w, &tree->base, err);
	}
	vec_foreach(z, &snap->zombies) {
		if (r >= 0)
			r = image_put_one(dir, IMAGE_CORE, (uint64_t)snapshot_inner_pid(snap, z->pid),
					  &z->core->base, err);
	}
	return r < 0 || !w ? r : image_close(w, err);
}

/* What processes below the root's PID namespace are called there. */
static int write_nested(struct image_dir *dir, const struct snapshot *snap, struct ferry_error *err)
{
	struct image_writer *w = NULL;
	int r = 0;
	for (size_t i = 0; i < snap->tasks.n; i++)
		vec_foreach(th, &snap->tasks.v[i].threads) {
			const struct proc_pids *pids = &th->status.ns_pid;
			uint32_t nested[PROC_PID_DEPTH], n = 0;
			for (uint32_t level = snap->pid_level + 1; level < pids->n; level++)
				nested[n++] = (uint32_t)pids->v[level];
			const struct snap_task *t = &snap->tasks.v[i];
			uint64_t children = t->ns_ino[PROC_NS_PID_FOR_CHILDREN];
			const struct snap_ns *away = th == t->threads.v && children != t->ns_ino[PROC_NS_PID]
							     ? snapshot_ns(snap, PROC_NS_PID, children)
							     : NULL;
			if (!n && !away)
				continue;
			FerryNspidsEntry entry = FERRY_NSPIDS_ENTRY__INIT;
			if (away)
				record_set(&entry, children_ns_id, away->id);
			entry.pid = (uint32_t)snap->tasks.v[i].inner_pid;
			entry.tid = (uint32_t)th->inner_tid;
			entry.nested = nested;
			entry.n_nested = n;
			r = w ? 0 : image_create(dir, IMAGE_FERRY_NSPIDS, 0, &w, err);
			if (r >= 0)
				r = image_put(w, &entry.base, err);
			if (r < 0)
				return r;
		}
	return image_close(w, err);
}

static int write_namespaces(struct engine *e, struct collect *c, struct image_dir *dir,
			    struct ferry_error *err)
{
	struct dump d = {
		.snap = c->snap,
		.dir = dir,
		.options = &e->kinds,
		.fault = &e->fault,
		.log = e->log,
		.warden = e->warden,
	};
	int r = write_nested(dir, c->snap, err);
	for (size_t i = 0; i < KIND_COUNT; i++) {
		const struct kind_ops *kind = kind_table[i];
		for (size_t n = 0; n < c->snap->namespaces.n && r >= 0 && kind->ns && kind->ns->dump; n++)
			if (c->snap->namespaces.v[n].type == kind->ns->type)
				r = kind->ns->dump(&d, &c->snap->namespaces.v[n], err);
		if (r < 0) {
			error_context(err, "dump", kind->name, 0);
			break;
		}
	}
	return r;
}

static int write_clocks(struct image_dir *dir, const struct snapshot *snap, struct ferry_error *err)
{
	FerryClocksEntry clocks = FERRY_CLOCKS_ENTRY__INIT;
	clocks.monotonic_ns = snap->monotonic_ns;
	clocks.boottime_ns = snap->boottime_ns;
	clocks.realtime_ns = snap->realtime_ns;
	Timespec monotonic = TIMESPEC__INIT, boottime = TIMESPEC__INIT;
	monotonic.tv_sec = snap->monotonic_ns / 1000000000u;
	monotonic.tv_nsec = snap->monotonic_ns % 1000000000u;
	boottime.tv_sec = snap->boottime_ns / 1000000000u;
	boottime.tv_nsec = snap->boottime_ns % 1000000000u;
	TimensEntry timens = TIMENS_ENTRY__INIT;
	timens.monotonic = &monotonic;
	timens.boottime = &boottime;
	int r = image_put_one(dir, IMAGE_TIMENS, WRITE_TIMENS_ID, &timens.base, err);
	return r < 0 ? r : image_put_one(dir, IMAGE_FERRY_CLOCKS, 0, &clocks.base, err);
}

static int write_guards(struct engine *e, struct image_dir *dir, const struct snapshot *snap,
			struct ferry_error *err)
{
	struct image_writer *w;
	int r = image_create(dir, IMAGE_FERRY_FILE_GUARD, 0, &w, err);
	for (size_t i = 0; i < snap->guards.n && r >= 0; i++)
		r = image_put(w, &snap->guards.v[i]->base, err);
	for (size_t i = 0; i < e->options->guard.v.n && r >= 0; i++) {
		struct stat st;
		FerryFileGuardEntry guard = FERRY_FILE_GUARD_ENTRY__INIT;
		guard.path = e->options->guard.v.v[i];
		if (stat(guard.path, &st) < 0)
			return error_errno(err, FERRY_ERROR_USAGE, errno, "--guard '%s'", guard.path);
		guard.size = (uint64_t)st.st_size;
		guard.mtime_ns = st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec;
		guard.ctime_ns = st.st_ctim.tv_sec * 1000000000ll + st.st_ctim.tv_nsec;
		guard.dev = st.st_dev;
		guard.ino = st.st_ino;
		r = image_put(w, &guard.base, err);
	}
	return r < 0 ? r : image_close(w, err);
}

/* Payloads of descriptor kinds: queues and contents. */
static int write_payloads(struct engine *e, struct collect *c, struct image_dir *dir, struct ferry_error *err)
{
	struct image_writer *writers[IMAGE_KIND_COUNT] = {0};
	struct dump d = {
		.snap = c->snap,
		.dir = dir,
		.options = &e->kinds,
		.fault = &e->fault,
		.log = e->log,
		.warden = e->warden,
		.writers = writers,
		.kind_data = c->kind_data,
	};
	int r = 0;
	for (size_t i = 0; i < c->snap->files.n && r >= 0; i++) {
		struct snap_file *file = &c->snap->files.v[i];
		r = file->kind->dump ? file->kind->dump(&d, file, err) : 0;
		if (r < 0)
			error_context(err, "dump", file->kind->name, file->pid);
	}
	for (size_t i = 0; i < KIND_COUNT && r >= 0; i++) {
		r = kind_table[i]->dump_end ? kind_table[i]->dump_end(&d, err) : 0;
		if (r < 0)
			error_context(err, "dump", kind_table[i]->name, 0);
	}
	for (size_t i = 0; i < IMAGE_KIND_COUNT && r >= 0; i++)
		if (writers[i])
			r = image_close(writers[i], err);
	return r;
}

int dump_write_stats(struct engine *e, struct image_dir *dir, struct ferry_error *err)
{
	DumpStatsEntry dump = DUMP_STATS_ENTRY__INIT;
	StatsEntry stats = STATS_ENTRY__INIT;
	dump.pages_scanned = e->report.pages_scanned;
	dump.pages_written = e->report.pages_written;
	stats.dump = &dump;
	return image_put_one(dir, IMAGE_STATS, IMAGE_STATS_DUMP, &stats.base, err);
}

/* Whether a lock waits for the restore, so that whoever restores removes it. */
static uint32_t write_lock_method(const struct engine *e, const struct snapshot *snap)
{
	for (size_t i = 0; i < snap->files.n && !e->kinds.leave_running; i++) {
		const InetSkEntry *isk = snap->files.v[i].entry->isk;
		if (isk && isk->proto == IPPROTO_TCP && isk->state != TCP_CLOSE && isk->state != TCP_LISTEN)
			return WRITE_LOCK_NFTABLES;
	}
	return WRITE_LOCK_NONE;
}

static int write_inventory(struct engine *e, struct image_dir *dir, const struct snapshot *snap,
			   struct ferry_error *err)
{
	char run_id[37];
	image_dir_id_text(dir, run_id);
	TaskKobjIdsEntry ids = *snap->tasks.v[0].ids;
	collect_own_namespace_ids(&ids);
	ids.vm_id = ids.files_id = ids.fs_id = ids.sighand_id = WRITE_ROOT_IDS;
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;
	inventory.img_version = WRITE_IMG_VERSION;
	record_set(&inventory, fdinfo_per_id, 1);
	record_set(&inventory, ns_per_id, 1);
	inventory.root_ids = &ids;
	record_set(&inventory, root_cg_set, WRITE_ROOT_CG_SET);
	record_set(&inventory, lsmtype, LSMTYPE__NO_LSM);
	record_set(&inventory, dump_uptime, snap->uptime_us);
	record_set(&inventory, network_lock_method, write_lock_method(e, snap));
	inventory.dump_criu_run_id = run_id;
	return image_put_one(dir, IMAGE_INVENTORY, 0, &inventory.base, err);
}

int dump_write_records(struct engine *e, struct collect *c, struct image_dir *dir, struct ferry_error *err)
{
	struct snapshot *snap = c->snap;
	SeccompEntry seccomp = SECCOMP_ENTRY__INIT;
	seccomp.seccomp_filters = snap->seccomp_filters.v;
	seccomp.n_seccomp_filters = snap->seccomp_filters.n;
	int r = write_tasks(dir, snap, err);
	if (r >= 0)
		r = write_payloads(e, c, dir, err);
	if (r >= 0)
		r = write_files(dir, snap, err);
	if (r >= 0)
		r = write_pstree(dir, snap, err);
	if (r >= 0)
		r = write_namespaces(e, c, dir, err);
	if (r >= 0)
		r = write_tree(dir, snap, err);
	if (r >= 0)
		r = write_clocks(dir, snap, err);
	if (r >= 0)
		r = write_guards(e, dir, snap, err);
	if (r >= 0)
		r = image_put_one(dir, IMAGE_SECCOMP, 0, &seccomp.base, err);
	if (r >= 0 && e->cpu_caps)
		r = cpu_dump(dir, err);
	return r < 0 ? r : write_inventory(e, dir, snap, err);
}

int dump_after(struct engine *e, struct collect *c, struct image_dir *dir, bool kill, struct ferry_error *err)
{
	int ret = 0;
	for (size_t i = 0; i < KIND_COUNT; i++) {
		int r = kind_table[i]->after ? kind_table[i]->after(c, dir, kill, ret < 0 ? NULL : err) : 0;
		if (r < 0 && !ret)
			ret = r;
	}
	(void)e;
	return ret;
}
