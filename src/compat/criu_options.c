/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the words of CRIU's command line, and what each sets. */
#include "compat/criu_options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum criu_type {
	CRIU_BOOL, /* "--no-WORD" takes it back */
	CRIU_INT,
	CRIU_TEXT,
	CRIU_LIST,
	CRIU_SIZE,     /* bytes, with K, M or G behind the number */
	CRIU_LEVEL,    /* -v, -vvv, -v3, --verbosity=3 */
	CRIU_MODE,     /* what becomes of cgroups; alone it means "soft" */
	CRIU_CPU,      /* what a processor must have; alone it means "all" */
	CRIU_COMMAS,   /* a list in one word */
	CRIU_PAIR,     /* IN=OUT of a pair of network devices */
	CRIU_MOUNT,    /* KEY:VALUE of a mount from outside, or "auto" */
	CRIU_NEEDLESS, /* what it allows ferry does in any case, or it changes nothing that anybody sees */
	CRIU_MISSING,  /* ferry has nothing of it */
};

enum criu_argument {
	CRIU_ALONE = no_argument,
	CRIU_WITH = required_argument,
	CRIU_MAYBE = optional_argument
};

struct criu_word {
	const char *word;
	char letter;
	enum criu_type type;
	enum criu_argument argument;
	size_t offset;
};

#define AT(field) offsetof(struct criu_options, field)

static const struct criu_word criu_table[] = {
	{"help", 'h', CRIU_BOOL, CRIU_ALONE, AT(help)},
	{"version", 'V', CRIU_BOOL, CRIU_ALONE, AT(version)},
	{"tree", 't', CRIU_INT, CRIU_WITH, AT(job.tree)},
	{"images-dir", 'D', CRIU_TEXT, CRIU_WITH, AT(job.images_dir)},
	{"work-dir", 'W', CRIU_TEXT, CRIU_WITH, AT(work_dir)},
	{"log-file", 'o', CRIU_TEXT, CRIU_WITH, AT(job.log_file)},
	{"verbosity", 'v', CRIU_LEVEL, CRIU_MAYBE, AT(log_level)},
	{"display-stats", 0, CRIU_BOOL, CRIU_ALONE, AT(display_stats)},
	{"pidfile", 0, CRIU_TEXT, CRIU_WITH, AT(job.pidfile)},
	{"config", 0, CRIU_TEXT, CRIU_WITH, AT(config)},
	{"no-default-config", 0, CRIU_BOOL, CRIU_ALONE, AT(no_default_config)},
	{"leave-running", 'R', CRIU_BOOL, CRIU_ALONE, AT(job.leave_running)},
	{"leave-stopped", 's', CRIU_BOOL, CRIU_ALONE, AT(job.leave_stopped)},
	{"restore-detached", 'd', CRIU_BOOL, CRIU_ALONE, AT(job.restore_detached)},
	{"daemon", 0, CRIU_BOOL, CRIU_ALONE, AT(job.restore_detached)},
	{"ps-socket", 0, CRIU_INT, CRIU_WITH, AT(ps_socket)},
	{"status-fd", 0, CRIU_INT, CRIU_WITH, AT(status_fd)},
	{"extra", 0, CRIU_BOOL, CRIU_ALONE, AT(all_features)},
	{"all", 0, CRIU_BOOL, CRIU_ALONE, AT(all_features)},
	{"unprivileged", 0, CRIU_BOOL, CRIU_ALONE, AT(unprivileged)},
	{"exec-cmd", 0, CRIU_BOOL, CRIU_ALONE, AT(exec_cmd)},
	{"restore-sibling", 'S', CRIU_BOOL, CRIU_ALONE, AT(job.restore_sibling)},
	{"shell-job", 'j', CRIU_BOOL, CRIU_ALONE, AT(job.shell_job)},
	{"orphan-pts-master", 0, CRIU_BOOL, CRIU_ALONE, AT(job.orphan_pts_master)},
	{"file-locks", 'l', CRIU_BOOL, CRIU_ALONE, AT(job.file_locks)},
	{"ext-unix-sk", 'x', CRIU_BOOL, CRIU_ALONE, AT(job.ext_unix_sk)},
	{"tcp-established", 0, CRIU_BOOL, CRIU_ALONE, AT(job.tcp_established)},
	{"tcp-close", 0, CRIU_BOOL, CRIU_ALONE, AT(job.tcp_close)},
	{"skip-in-flight", 0, CRIU_BOOL, CRIU_ALONE, AT(job.skip_in_flight)},
	{"external", 0, CRIU_LIST, CRIU_WITH, AT(job.external)},
	{"inherit-fd", 0, CRIU_LIST, CRIU_WITH, AT(job.inherit_fd)},
	{"ghost-limit", 0, CRIU_SIZE, CRIU_WITH, AT(job.ghost_limit)},
	{"timeout", 0, CRIU_INT, CRIU_WITH, AT(job.timeout)},
	{"track-mem", 0, CRIU_BOOL, CRIU_ALONE, AT(job.track_mem)},
	{"prev-images-dir", 0, CRIU_TEXT, CRIU_WITH, AT(job.prev_images_dir)},
	{"auto-dedup", 0, CRIU_BOOL, CRIU_ALONE, AT(job.auto_dedup)},
	{"page-server", 0, CRIU_BOOL, CRIU_ALONE, AT(page_server)},
	{"address", 0, CRIU_TEXT, CRIU_WITH, AT(address)},
	{"port", 0, CRIU_INT, CRIU_WITH, AT(port)},
	{"lazy-pages", 0, CRIU_BOOL, CRIU_ALONE, AT(job.lazy_pages)},
	{"feature", 0, CRIU_TEXT, CRIU_WITH, AT(job.feature)},
	{"network-lock", 0, CRIU_TEXT, CRIU_WITH, AT(job.network_lock)},
	{"empty-ns", 0, CRIU_TEXT, CRIU_WITH, AT(job.empty_ns)},
	{"veth-pair", 0, CRIU_PAIR, CRIU_WITH, AT(job.external)},
	{"join-ns", 0, CRIU_LIST, CRIU_WITH, AT(job.join_ns)},
	{"file-validation", 0, CRIU_TEXT, CRIU_WITH, AT(job.file_validation)},
	{"skip-file-rwx-check", 0, CRIU_BOOL, CRIU_ALONE, AT(job.skip_file_rwx_check)},
	{"freeze-cgroup", 0, CRIU_TEXT, CRIU_WITH, AT(job.freeze_cgroup)},
	{"manage-cgroups", 0, CRIU_MODE, CRIU_MAYBE, AT(job.manage_cgroups)},
	{"cpu-cap", 0, CRIU_CPU, CRIU_MAYBE, AT(job.cpu_cap)},
	{"cgroup-props", 0, CRIU_TEXT, CRIU_WITH, AT(job.cgroup_props)},
	{"cgroup-props-file", 0, CRIU_TEXT, CRIU_WITH, AT(job.cgroup_props_file)},
	{"cgroup-dump-controller", 0, CRIU_LIST, CRIU_WITH, AT(job.cgroup_dump_controller)},
	{"cgroup-yard", 0, CRIU_TEXT, CRIU_WITH, AT(job.cgroup_yard)},
	{"cgroup-root", 0, CRIU_LIST, CRIU_WITH, AT(job.cgroup_root)},
	{"action-script", 0, CRIU_LIST, CRIU_WITH, AT(action_scripts)},

	{"root", 'r', CRIU_TEXT, CRIU_WITH, AT(job.root)},
	{"ext-mount-map", 0, CRIU_MOUNT, CRIU_WITH, AT(job.external)},
	{"enable-external-sharing", 0, CRIU_BOOL, CRIU_ALONE, AT(job.ext_sharing)},
	{"skip-mnt", 0, CRIU_LIST, CRIU_WITH, AT(job.skip_mnt)},
	{"enable-fs", 0, CRIU_COMMAS, CRIU_WITH, AT(job.enable_fs)},
	{"enable-external-masters", 0, CRIU_NEEDLESS, CRIU_ALONE, 0},
	{"mntns-compat-mode", 0, CRIU_NEEDLESS, CRIU_ALONE, 0},
	{"evasive-devices", 0, CRIU_NEEDLESS, CRIU_ALONE, 0},
	{"link-remap", 0, CRIU_NEEDLESS, CRIU_ALONE, 0},
	{"ghost-fiemap", 0, CRIU_NEEDLESS, CRIU_ALONE, 0},
	{"force-irmap", 0, CRIU_NEEDLESS, CRIU_ALONE, 0},
	{"irmap-scan-path", 0, CRIU_NEEDLESS, CRIU_WITH, 0},
	{"pre-dump-mode", 0, CRIU_NEEDLESS, CRIU_WITH, 0},
	{"log-pid", 0, CRIU_NEEDLESS, CRIU_ALONE, 0},
	{"libdir", 'L', CRIU_NEEDLESS, CRIU_WITH, 0},
	{"deprecated", 0, CRIU_NEEDLESS, CRIU_ALONE, 0},
	{"weak-sysctls", 0, CRIU_NEEDLESS, CRIU_ALONE, 0},
	{"allow-uprobes", 0, CRIU_NEEDLESS, CRIU_ALONE, 0},

	{"stream", 0, CRIU_MISSING, CRIU_ALONE, 0},
	{"lsm-profile", 0, CRIU_MISSING, CRIU_WITH, 0},
	{"lsm-mount-context", 0, CRIU_MISSING, CRIU_WITH, 0},
	{"tls", 0, CRIU_BOOL, CRIU_ALONE, AT(job.tls)},
	{"tls-cacert", 0, CRIU_TEXT, CRIU_WITH, AT(job.tls_cacert)},
	{"tls-cacrl", 0, CRIU_TEXT, CRIU_WITH, AT(job.tls_cacrl)},
	{"tls-cert", 0, CRIU_TEXT, CRIU_WITH, AT(job.tls_cert)},
	{"tls-key", 0, CRIU_TEXT, CRIU_WITH, AT(job.tls_key)},
	{"tls-no-cn-verify", 0, CRIU_BOOL, CRIU_ALONE, AT(job.tls_no_cn_verify)},
	{"experimental", 0, CRIU_NEEDLESS, CRIU_ALONE, 0},
	{"ms", 0, CRIU_NEEDLESS, CRIU_ALONE, 0},
};

/* What getopt_long(3) returns for a word: its row, and whether "no-" stands before it. */
enum { CRIU_FOUND = 1 << 16, CRIU_TAKEN_BACK = 1 << 17 };

enum { CRIU_LEVEL_DEFAULT = 2, CRIU_LEVEL_MAX = 4, CRIU_GHOST_LIMIT = 1 << 20, CRIU_TIMEOUT_S = 10 };

#define CRIU_CGROUP_MODE "soft"
#define CRIU_CPU_ALL "all"

struct criu_parser {
	struct option longs[2 * ARRAY_SIZE(criu_table) + 1];
	char no_words[ARRAY_SIZE(criu_table)][32];
	char shorts[3 * ARRAY_SIZE(criu_table) + 3];
};

/* ":" at first: getopt prints nothing, and tells a missing argument from a strange word. */
static void parser_make(struct criu_parser *p)
{
	size_t n = 0;
	char *letter = stpcpy(p->shorts, ":");
	for (size_t i = 0; i < ARRAY_SIZE(criu_table); i++) {
		const struct criu_word *w = &criu_table[i];
		p->longs[n++] = (struct option){w->word, (int)w->argument, NULL, CRIU_FOUND | (int)i};
		if (w->letter) {
			*letter++ = w->letter;
			for (enum criu_argument k = CRIU_ALONE; k < w->argument; k++)
				*letter++ = ':';
		}
		if (w->argument != CRIU_ALONE)
			continue;
		snprintf(p->no_words[i], sizeof(p->no_words[i]), "no-%s", w->word);
		p->longs[n++] = (struct option){p->no_words[i], no_argument, NULL,
						CRIU_FOUND | CRIU_TAKEN_BACK | (int)i};
	}
	*letter = '\0';
	p->longs[n] = (struct option){0};
}

static const struct criu_word *parser_find(int found)
{
	if (found & CRIU_FOUND)
		return &criu_table[found & ~(CRIU_FOUND | CRIU_TAKEN_BACK)];
	for (size_t i = 0; i < ARRAY_SIZE(criu_table); i++)
		if (criu_table[i].letter && criu_table[i].letter == found)
			return &criu_table[i];
	return NULL;
}

static int criu_bad(const struct criu_word *w, const char *value, struct ferry_error *err)
{
	return error_set(err, FERRY_ERROR_USAGE, EINVAL, "invalid argument for --%s: %s", w->word, value);
}

static int criu_set_int(const struct criu_word *w, int64_t *place, const char *value, bool is_size,
			struct ferry_error *err)
{
	static const char units[] = "KMG";
	char *end;
	errno = 0;
	long long number = strtoll(value, &end, 10);
	const char *unit = is_size && *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
	int shift = unit ? 10 * (int)(unit - units + 1) : 0;
	if (errno || end == value || number < 0 || end[unit != NULL] || number > INT64_MAX >> shift)
		return criu_bad(w, value, err);
	*place = number << shift;
	return 0;
}

static int criu_set_text(char **place, const char *value, struct ferry_error *err)
{
	char *copy = strdup(value);
	if (!copy)
		return error_memory(err);
	free(*place);
	*place = copy;
	return 0;
}

static int criu_add_text(struct text_list *list, const char *value, struct ferry_error *err)
{
	char *copy = strdup(value), **slot = copy ? vec_push(&list->v) : NULL;
	if (!slot) {
		free(copy);
		return error_memory(err);
	}
	*slot = copy;
	return 0;
}

static int criu_add_texts(struct text_list *list, const char *value, struct ferry_error *err)
{
	char *copy = strdup(value), *rest = copy, *word;
	int r = copy ? 0 : error_memory(err);
	while (r >= 0 && (word = strsep(&rest, ",")) != NULL)
		r = *word ? criu_add_text(list, word, err) : 0;
	free(copy);
	return r;
}

/* As a word of --external. */
static int criu_add_pair(struct text_list *list, const struct criu_word *w, const char *value,
			 struct ferry_error *err)
{
	const char *equals = strchr(value, '=');
	char *word = NULL;
	if (!equals || equals == value || !equals[1])
		return criu_bad(w, value, err);
	if (asprintf(&word, "veth[%.*s]:%s", (int)(equals - value), value, equals + 1) < 0)
		return error_memory(err);
	int r = criu_add_text(list, word, err);
	free(word);
	return r;
}

/* As a word of --external; "auto" is one without a key. */
static int criu_add_mount(struct text_list *list, const struct criu_word *w, const char *value,
			  struct ferry_error *err)
{
	const char *colon = strchr(value, ':');
	char *word = NULL;
	if (!colon && strcmp(value, "auto") != 0)
		return criu_bad(w, value, err);
	int n = colon ? asprintf(&word, "mnt[%.*s]:%s", (int)(colon - value), value, colon + 1)
		      : asprintf(&word, "mnt[]");
	int r = n < 0 ? error_memory(err) : criu_add_text(list, word, err);
	if (n >= 0)
		free(word);
	return r;
}

/* "v", "vvv", "v3", "-verbosity=3" with one dash: what follows the letter. */
static int criu_set_level(struct criu_options *o, const struct criu_word *w, const char *value,
			  struct ferry_error *err)
{
	static const char rest[] = "erbosity=";
	int64_t level;
	if (value && !strncmp(value, rest, strlen(rest)))
		value += strlen(rest);
	size_t more = value ? strspn(value, "v") : 0;
	if (value && !value[more]) {
		level = 1 + (int64_t)more;
	} else if (value) {
		int r = criu_set_int(w, &level, value, false, err);
		if (r < 0)
			return r;
	} else {
		level = o->log_level_given ? o->log_level + 1 : 1;
	}
	o->log_level = (int)MIN(level, CRIU_LEVEL_MAX);
	o->log_level_given = true;
	return 0;
}

static int criu_set(struct criu_options *o, const struct criu_word *w, bool taken_back, const char *value,
		    struct ferry_error *err)
{
	void *place = (char *)o + w->offset;
	switch (w->type) {
	case CRIU_BOOL: *(bool *)place = !taken_back; return 0;
	case CRIU_INT: return criu_set_int(w, place, value, false, err);
	case CRIU_SIZE: return criu_set_int(w, place, value, true, err);
	case CRIU_MODE: return criu_set_text(place, value ? value : CRIU_CGROUP_MODE, err);
	case CRIU_CPU: return criu_set_text(place, value ? value : CRIU_CPU_ALL, err);
	case CRIU_TEXT: return criu_set_text(place, value, err);
	case CRIU_LIST: return criu_add_text(place, value, err);
	case CRIU_COMMAS: return criu_add_texts(place, value, err);
	case CRIU_PAIR: return criu_add_pair(place, w, value, err);
	case CRIU_MOUNT: return criu_add_mount(place, w, value, err);
	case CRIU_LEVEL: return criu_set_level(o, w, value, err);
	case CRIU_NEEDLESS: return 0;
	case CRIU_MISSING: break;
	}
	if (taken_back)
		return 0;
	error_set(err, FERRY_ERROR_USAGE, ENOTSUP, "ferry does not know CRIU's --%s yet", w->word);
	error_hint(err, "leave it out where the job does not need it; CRIU itself knows it");
	return -ENOTSUP;
}

static int criu_unknown(int found, char *const *argv, struct ferry_error *err)
{
	const char *word = argv[optind - 1];
	if (found == ':')
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "'%s' wants an argument", word);
	error_set(err, FERRY_ERROR_USAGE, EINVAL, "unrecognized option '%s'", word);
	error_hint(err, "criu --help lists them");
	return -EINVAL;
}

static void criu_init(struct criu_options *o)
{
	*o = (struct criu_options){.log_level = CRIU_LEVEL_DEFAULT, .status_fd = -1, .ps_socket = -1};
	options_init(&o->job);
	o->job.criu_compat = true;
	o->job.overwrite = true; /* an image is written over an older one, */
	o->job.again = true;     /* and restored as often as anybody likes */
	o->job.ghost_limit = CRIU_GHOST_LIMIT;
	o->job.timeout = CRIU_TIMEOUT_S;
}

void criu_options_release(struct criu_options *o)
{
	options_release(&o->job);
	free(o->address);
	free(o->config);
	free(o->work_dir);
	vec_foreach(script, &o->action_scripts.v)
		free(*script);
	vec_release(&o->action_scripts.v);
	vec_foreach(word, &o->storage)
		free(*word);
	vec_release(&o->storage);
	*o = (struct criu_options){0};
}

/* argv is put in another order: what is no option comes last. */
static int criu_parse(int argc, char **argv, struct criu_options *o, struct ferry_error *err)
{
	struct criu_parser *p = malloc(sizeof(*p));
	int r = 0, found;
	if (!p)
		return error_memory(err);
	parser_make(p);
	optind = 0; /* GNU: from the beginning */
	while (r >= 0 && (found = getopt_long(argc, argv, p->shorts, p->longs, NULL)) >= 0) {
		const struct criu_word *w = found == '?' || found == ':' ? NULL : parser_find(found);
		r = w ? criu_set(o, w, found & CRIU_FOUND && found & CRIU_TAKEN_BACK, optarg, err)
		      : criu_unknown(found, argv, err);
	}
	free(p);
	o->n_words = argc - optind;
	o->words = argv + optind;
	return r;
}

static int criu_keep(struct criu_options *o, const char *word, struct ferry_error *err)
{
	char *copy = word ? strdup(word) : NULL, **slot = copy || !word ? vec_push(&o->storage) : NULL;
	if (!slot) {
		free(copy);
		return error_memory(err);
	}
	*slot = copy;
	return 0;
}

static int criu_keep_all(struct criu_options *o, char *const *words, size_t n, struct ferry_error *err)
{
	int r = 0;
	for (size_t i = 0; i < n && r >= 0; i++)
		r = criu_keep(o, words[i], err);
	return r;
}

/* The program's name, words in the order in which they count, and NULL. */
static int criu_join(int argc, char **argv, const criu_words *before, const criu_words *after,
		     struct criu_options *o, struct ferry_error *err)
{
	int r = criu_keep_all(o, argv, 1, err);
	if (r >= 0)
		r = criu_keep_all(o, before->v, before->n, err);
	if (r >= 0)
		r = criu_keep_all(o, argv + 1, (size_t)argc - 1, err);
	if (r >= 0)
		r = criu_keep_all(o, after->v, after->n, err);
	return r < 0 ? r : criu_keep(o, NULL, err);
}

/* Where the files are stands on the command line; what is wrong with that is told when all of it is read. */
static int criu_read_files(int argc, char **argv, criu_words *ret, struct ferry_error *err)
{
	const criu_words none = {0};
	struct criu_options first;
	struct ferry_error unread = FERRY_ERROR_INIT;
	criu_init(&first);
	int r = criu_join(argc, argv, &none, &none, &first, err);
	if (r >= 0 && criu_parse(argc, first.storage.v, &first, &unread) >= 0)
		r = criu_config_read(first.config, !first.no_default_config, ret, err);
	criu_options_release(&first);
	return r;
}

int criu_options_read_with(int argc, char **argv, const char *last_file, struct criu_options *ret,
			   struct ferry_error *err)
{
	criu_words before = {0}, after = {0};
	criu_init(ret);
	int r = criu_read_files(argc, argv, &before, err);
	if (r >= 0 && last_file)
		r = criu_config_read_file(last_file, &after, err);
	if (r >= 0)
		r = criu_join(argc, argv, &before, &after, ret, err);
	if (r >= 0)
		r = criu_parse((int)ret->storage.n - 1, ret->storage.v, ret, err);
	criu_words_release(&before);
	criu_words_release(&after);
	return r;
}

int criu_options_read(int argc, char **argv, struct criu_options *ret, struct ferry_error *err)
{
	return criu_options_read_with(argc, argv, NULL, ret, err);
}
