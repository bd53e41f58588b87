/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what a message of CRIU's remote calls asks for, as words of the command line. A field of the message is named as its option is,
 * with '_' for '-'; a table has those that are not.
 */
#include "compat/criu_rpc.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "kernel/uapi.h"

#include <linux/sched.h>

struct rpc_words {
	const CriuOpts *message;
	pid_t peer;
	criu_words *words;
};

static int rpc_add(struct rpc_words *w, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int rpc_add(struct rpc_words *w, const char *format, ...)
{
	char *text = NULL, **slot;
	va_list args;
	va_start(args, format);
	int n = vasprintf(&text, format, args);
	va_end(args);
	slot = n < 0 ? NULL : vec_push(w->words);
	if (slot)
		*slot = text;
	else if (n >= 0)
		free(text);
	return slot ? 0 : -ENOMEM;
}

/* ----------------------------------------------------------- fields of their own */

static int rpc_images(struct rpc_words *w)
{
	if (w->message->images_dir)
		return rpc_add(w, "--images-dir=%s", w->message->images_dir);
	return rpc_add(w, "--images-dir=/proc/%d/fd/%d", w->peer, w->message->images_dir_fd);
}

static int rpc_work(struct rpc_words *w)
{
	if (!w->message->has_work_dir_fd || w->message->work_dir_fd < 0)
		return 0;
	return rpc_add(w, "--work-dir=/proc/%d/fd/%d", w->peer, w->message->work_dir_fd);
}

static int rpc_page_server(struct rpc_words *w)
{
	const CriuPageServerInfo *ps = w->message->ps;
	int r = ps ? rpc_add(w, "--page-server") : 0;
	if (ps && r >= 0 && ps->address)
		r = rpc_add(w, "--address=%s", ps->address);
	if (ps && r >= 0 && ps->has_port)
		r = rpc_add(w, "--port=%d", ps->port);
	if (ps && r >= 0 && ps->has_fd)
		r = rpc_add(w, "--ps-socket=%d", ps->fd);
	return r;
}

static int rpc_level(struct rpc_words *w)
{
	return w->message->has_log_level ? rpc_add(w, "--verbosity=%d", w->message->log_level) : 0;
}

static int rpc_mounts(struct rpc_words *w)
{
	int r = 0;
	for (size_t i = 0; i < w->message->n_ext_mnt && r >= 0; i++)
		r = rpc_add(w, "--ext-mount-map=%s:%s", w->message->ext_mnt[i]->key,
			    w->message->ext_mnt[i]->val);
	return r;
}

static int rpc_own_mounts(struct rpc_words *w)
{
	return w->message->has_auto_ext_mnt && w->message->auto_ext_mnt ? rpc_add(w, "--ext-mount-map=auto")
									: 0;
}

static int rpc_veths(struct rpc_words *w)
{
	int r = 0;
	for (size_t i = 0; i < w->message->n_veths && r >= 0; i++)
		r = rpc_add(w, "--veth-pair=%s=%s", w->message->veths[i]->if_in,
			    w->message->veths[i]->if_out);
	return r;
}

static int rpc_cgroup_roots(struct rpc_words *w)
{
	int r = 0;
	for (size_t i = 0; i < w->message->n_cg_root && r >= 0; i++) {
		const CgroupRoot *root = w->message->cg_root[i];
		r = rpc_add(w, "--cgroup-root=%s%s%s", root->ctrl ? root->ctrl : "", root->ctrl ? ":" : "",
			    root->path);
	}
	return r;
}

static int rpc_inherited(struct rpc_words *w)
{
	int r = 0;
	for (size_t i = 0; i < w->message->n_inherit_fd && r >= 0; i++)
		r = rpc_add(w, "--inherit-fd=fd[%d]:%s", w->message->inherit_fd[i]->fd,
			    w->message->inherit_fd[i]->key);
	return r;
}

static int rpc_unix_sockets(struct rpc_words *w)
{
	int r = 0;
	for (size_t i = 0; i < w->message->n_unix_sk_ino && r >= 0; i++)
		r = rpc_add(w, "--external=unix[%" PRIu32 "]", w->message->unix_sk_ino[i]->inode);
	return r;
}

static int rpc_joined(struct rpc_words *w)
{
	int r = 0;
	for (size_t i = 0; i < w->message->n_join_ns && r >= 0; i++) {
		const JoinNamespace *ns = w->message->join_ns[i];
		r = rpc_add(w, "--join-ns=%s:%s%s%s", ns->ns, ns->ns_file, ns->extra_opt ? "," : "",
			    ns->extra_opt ? ns->extra_opt : "");
	}
	return r;
}

static int rpc_empty(struct rpc_words *w)
{
	return w->message->has_empty_ns && w->message->empty_ns & CLONE_NEWNET ? rpc_add(w, "--empty-ns=net")
									       : 0;
}

/* The mode says more; without one it is the default. */
static int rpc_cgroups(struct rpc_words *w)
{
	static const char *const modes[] = {
		[CRIU_CG_MODE__IGNORE] = "ignore", [CRIU_CG_MODE__CG_NONE] = "none",
		[CRIU_CG_MODE__PROPS] = "props",   [CRIU_CG_MODE__SOFT] = "soft",
		[CRIU_CG_MODE__FULL] = "full",     [CRIU_CG_MODE__STRICT] = "strict",
	};
	const CriuOpts *m = w->message;
	if (m->has_manage_cgroups_mode && (size_t)m->manage_cgroups_mode < ARRAY_SIZE(modes))
		return rpc_add(w, "--manage-cgroups=%s", modes[m->manage_cgroups_mode]);
	return m->has_manage_cgroups && m->manage_cgroups ? rpc_add(w, "--manage-cgroups") : 0;
}

static int rpc_lock(struct rpc_words *w)
{
	static const char *const ways[] = {[CRIU_NETWORK_LOCK_METHOD__IPTABLES] = "iptables",
					   [CRIU_NETWORK_LOCK_METHOD__NFTABLES] = "nftables",
					   [CRIU_NETWORK_LOCK_METHOD__SKIP] = "skip"};
	const CriuOpts *m = w->message;
	bool known =
		m->has_network_lock && (size_t)m->network_lock < ARRAY_SIZE(ways) && ways[m->network_lock];
	return known ? rpc_add(w, "--network-lock=%s", ways[m->network_lock]) : 0;
}

/* The bits that CRIU 4.2.1 looks at, found by what it refuses; without any of them nothing is compared. */
static int rpc_cpu(struct rpc_words *w)
{
	enum { RPC_CPU_FPU = 1, RPC_CPU_SAME = 2, RPC_CPU_INSTRUCTIONS = 4 };
	const CriuOpts *m = w->message;
	if (!m->has_cpu_cap)
		return 0;
	return rpc_add(w, "--cpu-cap=none%s%s%s", m->cpu_cap & RPC_CPU_FPU ? ",fpu" : "",
		       m->cpu_cap & RPC_CPU_SAME ? ",cpu" : "",
		       m->cpu_cap & RPC_CPU_INSTRUCTIONS ? ",ins" : "");
}

/* Told by the request's own means, or by another field. */
static int rpc_nothing(struct rpc_words *w unused)
{
	return 0;
}

struct rpc_field {
	const char *name, *word;          /* the option of another name, */
	int (*take)(struct rpc_words *w); /* or what makes words of it */
};

static const struct rpc_field rpc_fields[] = {
	{"images_dir_fd", .take = rpc_images},
	{"images_dir", .take = rpc_nothing},
	{"work_dir_fd", .take = rpc_work},
	{"pid", "tree"},
	{"parent_img", "prev-images-dir"},
	{"rst_sibling", "restore-sibling"},
	{"tcp_skip_in_flight", "skip-in-flight"},
	{"ext_sharing", "enable-external-sharing"},
	{"ext_masters", "enable-external-masters"},
	{"irmap_scan_paths", "irmap-scan-path"},
	{"log_level", .take = rpc_level},
	{"ps", .take = rpc_page_server},
	{"veths", .take = rpc_veths},
	{"ext_mnt", .take = rpc_mounts},
	{"auto_ext_mnt", .take = rpc_own_mounts},
	{"cg_root", .take = rpc_cgroup_roots},
	{"inherit_fd", .take = rpc_inherited},
	{"unix_sk_ino", .take = rpc_unix_sockets},
	{"join_ns", .take = rpc_joined},
	{"empty_ns", .take = rpc_empty},
	{"manage_cgroups", .take = rpc_cgroups},
	{"manage_cgroups_mode", .take = rpc_nothing},
	{"network_lock", .take = rpc_lock},
	{"pre_dump_mode", .take = rpc_nothing},
	{"config_file", .take = rpc_nothing},
	{"notify_scripts", .take = rpc_nothing},
	{"log_to_stderr", .take = rpc_nothing},
	{"pidfd_store_sk", .take = rpc_nothing},
	{"cpu_cap", .take = rpc_cpu},
	{"exec_cmd", .take = rpc_nothing},
};

/* ------------------------------------------------------------ all the others */

static int rpc_add_one(struct rpc_words *w, const char *word, const ProtobufCFieldDescriptor *field,
		       const void *value)
{
	switch (field->type) {
	case PROTOBUF_C_TYPE_BOOL:
		return rpc_add(w, "--%s%s", *(const protobuf_c_boolean *)value ? "" : "no-", word);
	case PROTOBUF_C_TYPE_STRING: return rpc_add(w, "--%s=%s", word, *(char *const *)value);
	case PROTOBUF_C_TYPE_INT32: return rpc_add(w, "--%s=%" PRId32, word, *(const int32_t *)value);
	case PROTOBUF_C_TYPE_UINT32: return rpc_add(w, "--%s=%" PRIu32, word, *(const uint32_t *)value);
	default: return -EPROTO;
	}
}

static int rpc_add_field(struct rpc_words *w, const char *word, const ProtobufCFieldDescriptor *field)
{
	const char *m = (const char *)w->message, *value = m + field->offset;
	if (field->label == PROTOBUF_C_LABEL_REPEATED) {
		size_t n = *(const size_t *)(const void *)(m + field->quantifier_offset);
		char *const *texts = *(char *const *const *)(const void *)value;
		int r = field->type == PROTOBUF_C_TYPE_STRING ? 0 : -EPROTO;
		for (size_t i = 0; i < n && r >= 0; i++)
			r = rpc_add_one(w, word, field, &texts[i]);
		return r;
	}
	bool has = field->type == PROTOBUF_C_TYPE_STRING
			   ? *(char *const *)(const void *)value != NULL
			   : *(const protobuf_c_boolean *)(const void *)(m + field->quantifier_offset);
	return has ? rpc_add_one(w, word, field, value) : 0;
}

static const struct rpc_field *rpc_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(rpc_fields); i++)
		if (!strcmp(rpc_fields[i].name, name))
			return &rpc_fields[i];
	return NULL;
}

int criu_rpc_words(const CriuOpts *message, pid_t peer, criu_words *ret, struct ferry_error *err)
{
	struct rpc_words w = {.message = message, .peer = peer, .words = ret};
	int r = 0;
	for (unsigned i = 0; i < criu_opts__descriptor.n_fields && r >= 0; i++) {
		const ProtobufCFieldDescriptor *field = &criu_opts__descriptor.fields[i];
		const struct rpc_field *own = rpc_find(field->name);
		char word[64];
		snprintf(word, sizeof(word), "%s", own && own->word ? own->word : field->name);
		for (char *c = word; *c; c++)
			*c = *c == '_' ? '-' : *c;
		r = own && own->take ? own->take(&w) : rpc_add_field(&w, word, field);
		if (r == -EPROTO)
			return error_set(err, FERRY_ERROR_INTERNAL, EPROTO, "the field %s has no words",
					 field->name);
	}
	return r < 0 ? error_memory(err) : 0;
}
