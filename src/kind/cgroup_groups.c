/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the settings of control groups: which there are, how they are read into records, and how they are written again. A setting that this
 * kernel has not is left out of an image, and so is what no file gives for reading.
 *
 * Kernel interface: Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst.
 * Does not handle: what was charged to a group and what it counted; settings of controllers that the table lacks.
 */
#include "kind/cgroup_groups.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/strbuf.h"
#include "base/vec.h"
#include "host/pause.h"
#include "kind/cgroup_props.h"
#include "model/record.h"

enum { CGROUP_VALUE_MAX = 1 << 20, CGROUP_DEPTH = 64 };

enum cgroup_how {
	CGROUP_PLAIN,    /* what is read is written */
	CGROUP_RIGHTS,   /* nothing is written; whose file it is counts */
	CGROUP_KEYED,    /* the first number of what is read */
	CGROUP_RULES,    /* devices.list: all is forbidden, then line by line allowed */
	CGROUP_ENABLES,  /* words that are taken with a sign before them */
	CGROUP_THREADED, /* "threaded" can be written, the others become so by themselves */
	CGROUP_LINES,    /* one write for each line */
	CGROUP_STANDS,   /* whether the group is frozen, which has a time of its own */
};

static const struct cgroup_setting {
	const char *controller; /* NULL: every hierarchy of v1; "": v2 */
	const char *file;
	enum cgroup_how how;
	enum cgroup_when when;
} cgroup_settings[] = {
	{"cpu", "cpu.shares", CGROUP_PLAIN, CGROUP_LATE},
	{"cpu", "cpu.cfs_period_us", CGROUP_PLAIN, CGROUP_LATE},
	{"cpu", "cpu.cfs_quota_us", CGROUP_PLAIN, CGROUP_LATE},
	{"cpu", "cpu.cfs_burst_us", CGROUP_PLAIN, CGROUP_LATE},
	{"cpu", "cpu.rt_period_us", CGROUP_PLAIN, CGROUP_EARLY},
	{"cpu", "cpu.rt_runtime_us", CGROUP_PLAIN, CGROUP_EARLY},
	{"cpu", "cpu.idle", CGROUP_PLAIN, CGROUP_LATE},
	{"memory", "memory.limit_in_bytes", CGROUP_PLAIN, CGROUP_LATE},
	{"memory", "memory.memsw.limit_in_bytes", CGROUP_PLAIN, CGROUP_LATE},
	{"memory", "memory.swappiness", CGROUP_PLAIN, CGROUP_LATE},
	{"memory", "memory.soft_limit_in_bytes", CGROUP_PLAIN, CGROUP_LATE},
	{"memory", "memory.move_charge_at_immigrate", CGROUP_PLAIN, CGROUP_LATE},
	{"memory", "memory.oom_control", CGROUP_KEYED, CGROUP_LATE},
	{"memory", "memory.use_hierarchy", CGROUP_PLAIN, CGROUP_EARLY},
	{"memory", "memory.kmem.limit_in_bytes", CGROUP_PLAIN, CGROUP_LATE},
	{"memory", "memory.kmem.tcp.limit_in_bytes", CGROUP_PLAIN, CGROUP_LATE},
	{"cpuset", "cpuset.cpus", CGROUP_PLAIN, CGROUP_EARLY},
	{"cpuset", "cpuset.mems", CGROUP_PLAIN, CGROUP_EARLY},
	{"cpuset", "cpuset.memory_migrate", CGROUP_PLAIN, CGROUP_EARLY},
	{"cpuset", "cpuset.cpu_exclusive", CGROUP_PLAIN, CGROUP_EARLY},
	{"cpuset", "cpuset.mem_exclusive", CGROUP_PLAIN, CGROUP_EARLY},
	{"cpuset", "cpuset.mem_hardwall", CGROUP_PLAIN, CGROUP_EARLY},
	{"cpuset", "cpuset.memory_spread_page", CGROUP_PLAIN, CGROUP_EARLY},
	{"cpuset", "cpuset.memory_spread_slab", CGROUP_PLAIN, CGROUP_EARLY},
	{"cpuset", "cpuset.sched_load_balance", CGROUP_PLAIN, CGROUP_EARLY},
	{"cpuset", "cpuset.sched_relax_domain_level", CGROUP_PLAIN, CGROUP_EARLY},
	{"blkio", "blkio.weight", CGROUP_PLAIN, CGROUP_LATE},
	{"blkio", "blkio.bfq.weight", CGROUP_PLAIN, CGROUP_LATE},
	{"blkio", "blkio.throttle.read_bps_device", CGROUP_LINES, CGROUP_LATE},
	{"blkio", "blkio.throttle.write_bps_device", CGROUP_LINES, CGROUP_LATE},
	{"blkio", "blkio.throttle.read_iops_device", CGROUP_LINES, CGROUP_LATE},
	{"blkio", "blkio.throttle.write_iops_device", CGROUP_LINES, CGROUP_LATE},
	{"net_cls", "net_cls.classid", CGROUP_PLAIN, CGROUP_EARLY},
	{"net_prio", "net_prio.ifpriomap", CGROUP_LINES, CGROUP_EARLY},
	{"pids", "pids.max", CGROUP_PLAIN, CGROUP_LATE},
	{"devices", "devices.list", CGROUP_RULES, CGROUP_LATE},
	{"hugetlb", "hugetlb.2MB.limit_in_bytes", CGROUP_PLAIN, CGROUP_LATE},
	{"hugetlb", "hugetlb.1GB.limit_in_bytes", CGROUP_PLAIN, CGROUP_LATE},
	{"rdma", "rdma.max", CGROUP_LINES, CGROUP_LATE},
	{"misc", "misc.max", CGROUP_LINES, CGROUP_LATE},
	{"freezer", "freezer.state", CGROUP_STANDS, CGROUP_LATE},
	{NULL, "cgroup.clone_children", CGROUP_PLAIN, CGROUP_EARLY},
	{NULL, "notify_on_release", CGROUP_PLAIN, CGROUP_EARLY},
	{NULL, "cgroup.procs", CGROUP_RIGHTS, CGROUP_EARLY},
	{NULL, "tasks", CGROUP_RIGHTS, CGROUP_EARLY},
	/* First of all: it makes files of others appear below. */
	{"", "cgroup.type", CGROUP_THREADED, CGROUP_EARLY},
	{"", "cgroup.subtree_control", CGROUP_ENABLES, CGROUP_EARLY},
	{"", "cgroup.freeze", CGROUP_STANDS, CGROUP_LATE},
	{"", "cgroup.max.descendants", CGROUP_PLAIN, CGROUP_LATE},
	{"", "cgroup.max.depth", CGROUP_PLAIN, CGROUP_LATE},
	{"", "cpu.weight", CGROUP_PLAIN, CGROUP_LATE},
	{"", "cpu.max", CGROUP_PLAIN, CGROUP_LATE},
	{"", "cpu.max.burst", CGROUP_PLAIN, CGROUP_LATE},
	{"", "cpu.idle", CGROUP_PLAIN, CGROUP_LATE},
	{"", "cpu.uclamp.min", CGROUP_PLAIN, CGROUP_LATE},
	{"", "cpu.uclamp.max", CGROUP_PLAIN, CGROUP_LATE},
	{"", "cpuset.cpus", CGROUP_PLAIN, CGROUP_EARLY},
	{"", "cpuset.mems", CGROUP_PLAIN, CGROUP_EARLY},
	{"", "io.weight", CGROUP_LINES, CGROUP_LATE},
	{"", "io.bfq.weight", CGROUP_LINES, CGROUP_LATE},
	{"", "io.max", CGROUP_LINES, CGROUP_LATE},
	{"", "io.latency", CGROUP_LINES, CGROUP_LATE},
	{"", "memory.min", CGROUP_PLAIN, CGROUP_LATE},
	{"", "memory.low", CGROUP_PLAIN, CGROUP_LATE},
	{"", "memory.high", CGROUP_PLAIN, CGROUP_LATE},
	{"", "memory.max", CGROUP_PLAIN, CGROUP_LATE},
	{"", "memory.oom.group", CGROUP_PLAIN, CGROUP_LATE},
	{"", "memory.swap.high", CGROUP_PLAIN, CGROUP_LATE},
	{"", "memory.swap.max", CGROUP_PLAIN, CGROUP_LATE},
	{"", "memory.zswap.max", CGROUP_PLAIN, CGROUP_LATE},
	{"", "pids.max", CGROUP_PLAIN, CGROUP_LATE},
	{"", "hugetlb.2MB.max", CGROUP_PLAIN, CGROUP_LATE},
	{"", "hugetlb.1GB.max", CGROUP_PLAIN, CGROUP_LATE},
	{"", "rdma.max", CGROUP_LINES, CGROUP_LATE},
	{"", "misc.max", CGROUP_LINES, CGROUP_LATE},
	{"", "cgroup.procs", CGROUP_RIGHTS, CGROUP_EARLY},
	{"", "cgroup.threads", CGROUP_RIGHTS, CGROUP_EARLY},
};

/* Files that are commands. */
static const char *const cgroup_commands[] = {
	"cgroup.kill",          "cgroup.event_control", "cgroup.pressure",
	"cgroup.sane_behavior", "memory.force_empty",   "memory.reclaim",
	"release_agent",        "devices.allow",        "devices.deny",
};

/* v1, which says of a frozen group below another one the same, and v2. */
static const struct cgroup_stand {
	const char *file, *frozen, *runs, *own;
} cgroup_stands[] = {
	{"freezer.state", "FROZEN", "THAWED", "freezer.self_freezing"},
	{"cgroup.freeze", "1", "0", "cgroup.freeze"},
};

static const struct cgroup_setting *cgroup_setting(const char *file)
{
	for (size_t i = 0; i < ARRAY_SIZE(cgroup_settings); i++)
		if (!strcmp(cgroup_settings[i].file, file))
			return &cgroup_settings[i];
	return NULL;
}

/* ------------------------------------------------------------------------ read */

static bool cgroup_has_controller(const char *hierarchy, const char *controller)
{
	size_t n = strlen(controller);
	for (const char *at = hierarchy; at; at = strchr(at, ',')) {
		at += *at == ',';
		if (!strncmp(at, controller, n) && (at[n] == ',' || !at[n]))
			return true;
	}
	return false;
}

struct cgroup_names_maker {
	struct arena *arena;
	const char *hierarchy;
	cgroup_names names;
	size_t n, room;
};

static int cgroup_add_name(struct cgroup_names_maker *m, const char *name)
{
	if (m->n + 1 >= m->room) {
		size_t room = m->room ? m->room * 2 : ARRAY_SIZE(cgroup_settings) + 1;
		cgroup_names bigger = arena_array(m->arena, const char *, room);
		if (!bigger)
			return -ENOMEM;
		if (m->n)
			memcpy(bigger, m->names, m->n * sizeof(*bigger));
		m->names = bigger;
		m->room = room;
	}
	for (size_t i = 0; i < m->n; i++)
		if (!strcmp(m->names[i], name))
			return 0;
	m->names[m->n++] = name;
	return 0;
}

/* In v2 the controllers have no hierarchies, and their files begin with their names. */
static bool cgroup_is_of(const struct cgroup_names_maker *m, const char *controller)
{
	return *m->hierarchy ? cgroup_has_controller(m->hierarchy, controller) : true;
}

static int cgroup_props_replace(void *context, const char *controller)
{
	struct cgroup_names_maker *m = context;
	size_t kept = 0, length = strlen(controller);
	for (size_t i = 0; i < m->n && cgroup_is_of(m, controller); i++)
		if (strncmp(m->names[i], controller, length) != 0 || m->names[i][length] != '.')
			m->names[kept++] = m->names[i];
	if (cgroup_is_of(m, controller))
		m->n = kept;
	return 0;
}

static int cgroup_props_property(void *context, const char *controller, const char *name)
{
	struct cgroup_names_maker *m = context;
	char *copy = cgroup_is_of(m, controller) ? arena_string(m->arena, name) : NULL;
	if (!cgroup_is_of(m, controller))
		return 0;
	return copy ? cgroup_add_name(m, copy) : -ENOMEM;
}

int cgroup_names_of(struct arena *a, const char *hierarchy, const char *props, cgroup_names *ret,
		    struct ferry_error *err)
{
	struct cgroup_names_maker m = {.arena = a, .hierarchy = hierarchy};
	const struct cgroup_props_take take = {cgroup_props_replace, cgroup_props_property, &m};
	int r = 0;
	for (size_t i = 0; i < ARRAY_SIZE(cgroup_settings) && r >= 0; i++) {
		const char *controller = cgroup_settings[i].controller;
		bool wanted = !controller  ? *hierarchy
			      : *hierarchy ? *controller && cgroup_has_controller(hierarchy, controller)
					   : !*controller;
		r = wanted ? cgroup_add_name(&m, cgroup_settings[i].file) : 0;
	}
	if (r < 0)
		return error_memory(err);
	if (props)
		r = cgroup_props_parse(props, &take, err);
	if (r >= 0 && (r = cgroup_add_name(&m, "cgroup.procs")) < 0)
		return error_memory(err);
	m.names[m.n] = NULL;
	*ret = m.names;
	return r;
}

static CgroupPerms *cgroup_rights(struct arena *a, int fd)
{
	struct stat st;
	CgroupPerms *perms = record_new(a, CgroupPerms, cgroup_perms);
	if (!perms || fstat(fd, &st) < 0)
		return NULL;
	perms->mode = st.st_mode;
	perms->uid = st.st_uid;
	perms->gid = st.st_gid;
	return perms;
}

/* What a file says, as it is compared and written. -errno: it says nothing. The caller frees *ret. */
static int cgroup_read_value(int fd, const char *file, char **ret)
{
	const struct cgroup_setting *s = cgroup_setting(file);
	size_t n = 0;
	if (s && s->how == CGROUP_RIGHTS) {
		*ret = strdup("");
		return *ret ? 0 : -ENOMEM;
	}
	int r = fd_read_whole(fd, CGROUP_VALUE_MAX, ret, &n);
	if (r < 0)
		return r;
	char *text = *ret;
	while (n && text[n - 1] == '\n')
		text[--n] = '\0';
	if (s && s->how == CGROUP_KEYED) {
		size_t word = strcspn(text, " \n"), gap = text[word] == ' ';
		size_t number = strcspn(text + word + gap, "\n");
		memmove(text, text + word + gap, number);
		text[number] = '\0';
	}
	return 0;
}

static const struct cgroup_stand *cgroup_stand(const char *file)
{
	for (size_t i = 0; i < ARRAY_SIZE(cgroup_stands); i++)
		if (!strcmp(cgroup_stands[i].file, file))
			return &cgroup_stands[i];
	return NULL;
}

/* What it was told itself. */
static int cgroup_read_stand(const struct cgroup_reading *r, int dir, const char *file, char **ret)
{
	const struct cgroup_stand *s = cgroup_stand(file);
	_cleanup_free_ char *own = NULL;
	size_t n;
	int code = s ? fd_read_path(dir, s->own, CGROUP_VALUE_MAX, &own, &n) : -EINVAL;
	if (code < 0)
		return code;
	*ret = strdup(pause_has(r->pause, dir) || *own == '1' ? s->frozen : s->runs);
	return *ret ? 0 : -ENOMEM;
}

static int cgroup_read_setting(const struct cgroup_reading *reading, int dir, const char *file,
			       CgroupDirEntry *record, struct ferry_error *err)
{
	struct arena *a = reading->arena;
	_cleanup_free_ char *value = NULL;
	_cleanup_close_ int fd = fd_open(dir, file, O_RDONLY, 0);
	/* The kernel lacks it, or its driver has nothing to say. */
	const struct cgroup_setting *s = cgroup_setting(file);
	bool stands = s && s->how == CGROUP_STANDS;
	if (fd < 0 || (stands ? cgroup_read_stand(reading, dir, file, &value)
			      : cgroup_read_value(fd, file, &value)) < 0)
		return 0;
	/* Without a line there is nothing to write. */
	if (s && s->how == CGROUP_LINES && !*value)
		return 0;
	CgroupPropEntry *entry = record_new(a, CgroupPropEntry, cgroup_prop_entry);
	if (!entry)
		return error_memory(err);
	entry->name = arena_string(a, file);
	entry->value = arena_string(a, value);
	entry->perms = cgroup_rights(a, fd);
	if (!entry->name || !entry->value || !entry->perms)
		return error_memory(err);
	record->properties[record->n_properties++] = entry;
	return 0;
}

static CgroupDirEntry *cgroup_record(struct arena *a, int dir, const char *name, size_t n_names)
{
	CgroupDirEntry *record = record_new(a, CgroupDirEntry, cgroup_dir_entry);
	if (!record)
		return NULL;
	record->dir_name = arena_string(a, name);
	record->dir_perms = cgroup_rights(a, dir);
	record->properties = arena_array(a, CgroupPropEntry *, n_names + 1);
	return record->dir_name && record->dir_perms && record->properties ? record : NULL;
}

static int cgroup_read_below(const struct cgroup_reading *reading, int dir, const char *name, int depth,
			     CgroupDirEntry **ret, struct ferry_error *err);

struct cgroup_below {
	struct cgroup_below *next;
	CgroupDirEntry *record;
};

/* A group that goes away while we look is none. */
static int cgroup_read_children(const struct cgroup_reading *reading, int dir, int depth,
				CgroupDirEntry *record, struct ferry_error *err)
{
	struct arena *a = reading->arena;
	struct cgroup_below *first = NULL;
	int own = fd_open(dir, ".", O_RDONLY | O_DIRECTORY, 0);
	_cleanup_closedir_ DIR *d = own < 0 ? NULL : fdopendir(own);
	if (!d) {
		int code = own < 0 ? -own : errno;
		if (own >= 0)
			close(own);
		return error_errno(err, FERRY_ERROR_SYSTEM, code, "reading cgroup '%s'", record->dir_name);
	}
	int r = 0;
	for (struct dirent *entry; r >= 0 && (entry = readdir(d));) {
		if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
			continue;
		_cleanup_close_ int child = fd_open(dir, entry->d_name, O_RDONLY | O_DIRECTORY, 0);
		struct cgroup_below *below = arena_new(a, struct cgroup_below);
		if (child < 0)
			continue;
		if (!below)
			return error_memory(err);
		r = cgroup_read_below(reading, child, entry->d_name, depth + 1, &below->record, err);
		below->next = first;
		first = below;
		record->n_children++;
	}
	record->children = arena_array(a, CgroupDirEntry *, record->n_children + 1);
	if (!record->children)
		return error_memory(err);
	for (size_t i = record->n_children; i-- > 0; first = first->next)
		record->children[i] = first->record;
	return r;
}

static int cgroup_read_below(const struct cgroup_reading *reading, int dir, const char *name, int depth,
			     CgroupDirEntry **ret, struct ferry_error *err)
{
	struct arena *a = reading->arena;
	size_t n = 0;
	while (reading->names[n])
		n++;
	if (depth > CGROUP_DEPTH)
		return error_set(err, FERRY_ERROR_LIMIT, ELOOP, "cgroup '%s' lies more than %d levels deep",
				 name, CGROUP_DEPTH);
	CgroupDirEntry *record = cgroup_record(a, dir, name, n);
	if (!record)
		return error_memory(err);
	int r = 0;
	for (size_t i = 0; i < n && r >= 0; i++)
		r = cgroup_read_setting(reading, dir, reading->names[i], record, err);
	if (r >= 0)
		r = cgroup_read_children(reading, dir, depth, record, err);
	*ret = record;
	return r;
}

int cgroup_read_group(const struct cgroup_reading *r, int dir, const char *name, CgroupDirEntry **ret,
		      struct ferry_error *err)
{
	return cgroup_read_below(r, dir, name, 0, ret, err);
}

int cgroup_read_root(struct arena *a, int dir, CgroupDirEntry **ret, struct ferry_error *err)
{
	*ret = cgroup_record(a, dir, "", 0);
	return *ret ? 0 : error_memory(err);
}

bool cgroup_is_threaded(int dir)
{
	_cleanup_free_ char *text = NULL;
	size_t n;
	return fd_read_path(dir, "cgroup.type", CGROUP_VALUE_MAX, &text, &n) >= 0 &&
	       !strncmp(text, "threaded", strlen("threaded"));
}

/* ----------------------------------------------------------------------- write */

static int cgroup_write(int dir, const char *file, const char *text)
{
	_cleanup_close_ int fd = fd_open(dir, file, O_WRONLY, 0);
	if (fd < 0)
		return fd;
	/* In one piece: each write is a value of its own. */
	ssize_t n = write(fd, text, strlen(text));
	return n < 0 ? -errno : 0;
}

static int cgroup_write_lines(int dir, const char *file, const char *text)
{
	_cleanup_free_ char *copy = strdup(text);
	char *save = NULL;
	int r = copy ? 0 : -ENOMEM;
	for (char *line = copy ? strtok_r(copy, "\n", &save) : NULL; line && r >= 0;
	     line = strtok_r(NULL, "\n", &save))
		r = cgroup_write(dir, file, line);
	return r;
}

/* What is enabled and not named is disabled: the words that are there get the other sign. */
static int cgroup_write_enabled(int dir, const char *file, const char *text)
{
	_cleanup_free_ char *now = NULL, *wanted = strdup(text);
	_cleanup_strbuf_ struct strbuf line = {0};
	size_t n;
	int r = fd_read_path(dir, file, CGROUP_VALUE_MAX, &now, &n);
	if (r < 0 || !wanted)
		return r < 0 ? r : -ENOMEM;
	char *save = NULL;
	for (char *word = strtok_r(now, " \n", &save); word; word = strtok_r(NULL, " \n", &save))
		strbuf_addf(&line, "-%s ", word);
	for (char *word = strtok_r(wanted, " \n", &save); word; word = strtok_r(NULL, " \n", &save))
		strbuf_addf(&line, "+%s ", word);
	if (line.failed)
		return -ENOMEM;
	return line.n ? cgroup_write(dir, file, strbuf_str(&line)) : 0;
}

static int cgroup_write_rules(int dir, const char *text)
{
	int r = cgroup_write(dir, "devices.deny", "a");
	return r < 0 ? r : cgroup_write_lines(dir, "devices.allow", text);
}

int cgroup_put(int dir, const char *file, const char *text)
{
	const struct cgroup_setting *s = cgroup_setting(file);
	switch (s ? s->how : CGROUP_PLAIN) {
	case CGROUP_RIGHTS: return 0;
	case CGROUP_RULES: return cgroup_write_rules(dir, text);
	case CGROUP_ENABLES: return cgroup_write_enabled(dir, file, text);
	case CGROUP_LINES: return cgroup_write_lines(dir, file, text);
	case CGROUP_THREADED: return strcmp(text, "threaded") ? 0 : cgroup_write(dir, file, text);
	case CGROUP_PLAIN:
	case CGROUP_STANDS:
	case CGROUP_KEYED: break;
	}
	return cgroup_write(dir, file, text);
}

static int cgroup_compare_lines(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The same lines, in whatever order. Changes both. */
static bool cgroup_same_lines(char *a, char *b)
{
	VEC(char *) lines[2] = {0};
	char *texts[2] = {a, b}, *save = NULL;
	bool same = true;
	for (int i = 0; i < 2; i++) {
		for (char *line = strtok_r(texts[i], "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
			char **slot = vec_push(&lines[i]);
			same &= slot != NULL;
			if (slot)
				*slot = line;
		}
		if (lines[i].n)
			qsort(lines[i].v, lines[i].n, sizeof(char *), cgroup_compare_lines);
	}
	same &= lines[0].n == lines[1].n;
	for (size_t i = 0; same && i < lines[0].n; i++)
		same = !strcmp(lines[0].v[i], lines[1].v[i]);
	vec_release(&lines[0]);
	vec_release(&lines[1]);
	return same;
}

static bool cgroup_is_as(const char *now, const char *wanted)
{
	_cleanup_free_ char *a = strdup(now), *b = strdup(wanted);
	return a && b && cgroup_same_lines(a, b);
}

static bool cgroup_is_command(const char *file)
{
	for (size_t i = 0; i < ARRAY_SIZE(cgroup_commands); i++)
		if (!strcmp(cgroup_commands[i], file))
			return true;
	return false;
}

static int cgroup_give_rights(int fd, const CgroupPerms *perms, const char *name, struct ferry_error *err)
{
	struct stat st;
	if (!perms || fstat(fd, &st) < 0)
		return 0;
	if ((st.st_uid != perms->uid || st.st_gid != perms->gid) && fchown(fd, perms->uid, perms->gid) < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "giving '%s' to user %u", name,
				   perms->uid);
	mode_t mode = perms->mode & 07777;
	if ((st.st_mode & 07777) != mode && fchmod(fd, mode) < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "setting the permissions of '%s'",
				   name);
	return 0;
}

static int cgroup_write_failed(const CgroupDirEntry *record, const CgroupPropEntry *p, int code,
			       struct ferry_error *err)
{
	error_errno(err, FERRY_ERROR_RESTORE_STEP, code, "setting '%s' of cgroup '%s' to '%.60s'", p->name,
		    record->dir_name, p->value);
	error_hint(err, "--manage-cgroups=none leaves settings to who makes the groups");
	return -code;
}

/* *ret_again: others have to be set first. */
static int cgroup_write_setting(int dir, const CgroupDirEntry *record, const CgroupPropEntry *p,
				const struct cgroup_undo *undo, struct ferry_error *err)
{
	_cleanup_free_ char *now = NULL;
	_cleanup_close_ int fd = fd_open(dir, p->name, O_RDONLY, 0);
	const struct cgroup_setting *s = cgroup_setting(p->name);
	if (cgroup_is_command(p->name) || fd == -ENOENT ||
	    (s && (s->how == CGROUP_RIGHTS || s->how == CGROUP_STANDS)))
		return 0;
	int r = fd < 0 ? fd : cgroup_read_value(fd, p->name, &now);
	if (r >= 0 && cgroup_is_as(now, p->value))
		return 0;
	if (r >= 0 && undo) {
		r = undo->note(undo->context, dir, p->name, now, err);
		if (r < 0)
			return r;
	}
	r = cgroup_put(dir, p->name, p->value);
	return r < 0 ? cgroup_write_failed(record, p, -r, err) : 0;
}

static enum cgroup_when cgroup_when_of(const char *file)
{
	const struct cgroup_setting *s = cgroup_setting(file);
	return s ? s->when : CGROUP_LATE;
}

static int cgroup_write_rights(int dir, const CgroupDirEntry *record, struct ferry_error *err)
{
	int r = cgroup_give_rights(dir, record->dir_perms, record->dir_name, err);
	for (size_t i = 0; i < record->n_properties && r >= 0; i++) {
		const CgroupPropEntry *p = record->properties[i];
		/* Some have a word in the record's place that says nothing. */
		_cleanup_close_ int fd = p->perms && S_ISREG(p->perms->mode) && !cgroup_is_command(p->name) &&
							 !cgroup_stand(p->name)
						 ? fd_open(dir, p->name, O_RDONLY, 0)
						 : -1;
		r = fd < 0 ? 0 : cgroup_give_rights(fd, p->perms, p->name, err);
	}
	return r;
}

/* One limit may stand in another's way: what is refused is tried once more when the others are set. */
int cgroup_write_group(int dir, const CgroupDirEntry *record, enum cgroup_when when,
		       const struct cgroup_undo *undo, struct ferry_error *err)
{
	bool again = false;
	int r = 0;
	for (int round = 0; round < 2 && (!round || again) && r >= 0; round++)
		for (size_t i = 0; i < record->n_properties && r >= 0; i++) {
			const CgroupPropEntry *p = record->properties[i];
			if (cgroup_when_of(p->name) != when)
				continue;
			r = cgroup_write_setting(dir, record, p, undo, round ? err : NULL);
			if (r < 0 && !round) {
				again = true;
				r = 0;
			}
		}
	if (r >= 0 && when == CGROUP_EARLY)
		r = cgroup_write_rights(dir, record, err);
	return r;
}

bool cgroup_was_frozen(const CgroupDirEntry *record)
{
	bool frozen = false;
	for (size_t i = 0; i < record->n_properties; i++) {
		const struct cgroup_stand *s = cgroup_stand(record->properties[i]->name);
		frozen |= s && !strcmp(record->properties[i]->value, s->frozen);
	}
	return frozen;
}

int cgroup_freeze(int dir)
{
	for (size_t i = 0; i < ARRAY_SIZE(cgroup_stands); i++) {
		int r = cgroup_write(dir, cgroup_stands[i].file, cgroup_stands[i].frozen);
		if (r != -ENOENT)
			return r;
	}
	return -ENOENT;
}

int cgroup_inherit_cpuset(int above, int dir, struct ferry_error *err)
{
	static const char *const files[] = {"cpuset.cpus", "cpuset.mems"};
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		_cleanup_free_ char *now = NULL, *text = NULL;
		size_t n;
		if (fd_read_path(dir, files[i], CGROUP_VALUE_MAX, &now, &n) < 0 || strcmp(now, "\n"))
			continue;
		int r = fd_read_path(above, files[i], CGROUP_VALUE_MAX, &text, &n);
		if (r >= 0)
			r = cgroup_write(dir, files[i], text);
		if (r < 0)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, -r, "setting '%s' of a new cgroup",
					   files[i]);
	}
	return 0;
}
