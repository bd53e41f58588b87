/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns rules for packets (nftables, iptables), in the text of the programs that have them. The programs run where ferry was started, and in
 * the namespace in which it stands. Tables that engines make for the time of a dump are left out, also of images that have them.
 *
 * Kernel interface: nf_tables over NETLINK_NETFILTER, to see whether there are any; /proc/net/ip_tables_names.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "host/netlink.h"
#include "host/netlock.h"
#include "kind/mounts_tar.h"
#include "kind/net.h"

#define RULES_JOB_PREFIX NETLOCK_PREFIX "job-"

enum { RULES_SAID_BYTES = 200, RULES_NAMES_BYTES = 4096 };

static const struct rules_info {
	enum image_kind file;
	const char *names; /* a file with the names of its tables; NULL: the kernel is asked */
	const char *const save[4], *const restore[4];
} rules_infos[] = {
	[NET_RULES_NFT] = {IMAGE_NFTABLES, NULL, {"nft", "list", "ruleset"}, {"nft", "-f", "-"}},
	[NET_RULES_IPTABLES] = {IMAGE_IPTABLES,
				"ip_tables_names",
				{"iptables-legacy-save"},
				{"iptables-legacy-restore"}},
	[NET_RULES_IP6TABLES] = {IMAGE_IP6TABLES,
				 "ip6_tables_names",
				 {"ip6tables-legacy-save"},
				 {"ip6tables-legacy-restore"}},
};

enum image_kind net_rules_file(enum net_rules which)
{
	return rules_infos[which].file;
}

/* ------------------------------------------------------------------- programs */

static __attribute__((noreturn)) void rules_exec(const struct kind_options *options, const char *const *argv,
						 int in, int out)
{
	static char path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
	char *environment[] = {path, NULL};
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	putenv(path);
	if (mounts_tar_go_home(options) < 0 || dup2(in, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 ||
	    dup2(out, STDERR_FILENO) < 0)
		_exit(126);
	execvpe(argv[0], (char *const *)(uintptr_t)argv, environment);
	_exit(127);
}

/*
 * Run a program with an input and take what it says. Both go through memory files, so neither waits for the other. Returns its exit status,
 * or -errno.
 */
static int rules_run(const struct kind_options *options, const char *const *argv,
		     const struct net_bytes *input, char **ret_said, size_t *ret_n)
{
	_cleanup_close_ int in = memfd_create("ferry-rules", MFD_CLOEXEC),
			    out = memfd_create("ferry-rules", MFD_CLOEXEC);
	int status = 0;
	if (in < 0 || out < 0)
		return -errno;
	int r = input->n ? fd_write_all(in, input->bytes, input->n) : 0;
	if (r < 0 || lseek(in, 0, SEEK_SET) < 0)
		return r < 0 ? r : -errno;
	pid_t pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid)
		rules_exec(options, argv, in, out);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	off_t n = lseek(out, 0, SEEK_END);
	if (n < 0 || n > NET_TEXT_MAX)
		return n < 0 ? -errno : -E2BIG;
	char *said = malloc((size_t)n + 1);
	if (!said)
		return -ENOMEM;
	r = (int)pread(out, said, (size_t)n, 0);
	if (r != n) {
		free(said);
		return -EIO;
	}
	said[n] = '\0';
	*ret_said = said;
	*ret_n = (size_t)n;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ------------------------------------------------------------------------ look */

static int rules_each_table(const struct nlmsghdr *h, void *ctx)
{
	netlink_for_each(attr, h, sizeof(struct nfgenmsg)) {
		if (netlink_attr_type(attr) == NFTA_TABLE_NAME &&
		    strncmp(netlink_attr_string(attr), RULES_JOB_PREFIX, strlen(RULES_JOB_PREFIX)) != 0)
			*(bool *)ctx = true;
	}
	return 0;
}

static int rules_has_tables(bool *ret)
{
	const struct nfgenmsg all = {.version = NFNETLINK_V0};
	_cleanup_netlink_ struct netlink_socket *socket = NULL;
	int r = netlink_open(-1, NETLINK_NETFILTER, &socket);
	if (r >= 0)
		r = netlink_list(socket, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE, &all, sizeof(all),
				 rules_each_table, ret);
	/* A kernel without nf_tables has none. */
	return r == -EOPNOTSUPP || r == -EPROTONOSUPPORT || r == -EINVAL ? 0 : r;
}

static bool rules_has_names(const char *file)
{
	char path[64], byte;
	snprintf(path, sizeof(path), "/proc/thread-self/net/%s", file);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd >= 0 && read(fd, &byte, 1) == 1;
}

/* "table inet CRIU-...", of an engine's own. */
static bool rules_is_table(const char *line)
{
	char name[128];
	return sscanf(line, "table %*31s %127s", name) == 1 &&
	       (!strncmp(name, NETLOCK_IMAGE_PREFIX, strlen(NETLOCK_IMAGE_PREFIX)) ||
		!strncmp(name, RULES_JOB_PREFIX, strlen(RULES_JOB_PREFIX)));
}

/* A line of nft's or iptables' that belongs to the lock of CRIU, which makes a chain of that name in the tables of iptables. */
static bool rules_is_jump(const char *line, size_t n)
{
	static const char *const words[] = {"jump CRIU\n", "-j CRIU\n", ":CRIU ", "-A CRIU "};
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (memmem(line, n, words[i], strlen(words[i])))
			return true;
	return false;
}

/* A line that does nothing by itself. */
static bool rules_is_frame(const char *line, size_t n)
{
	static const char *const frames[] = {"table ", "\tchain ", "\t\ttype ", "\t}", "}", "\n"};
	for (size_t i = 0; i < ARRAY_SIZE(frames); i++)
		if (n >= strlen(frames[i]) && !memcmp(line, frames[i], strlen(frames[i])))
			return true;
	return false;
}

/*
 * Without what engines have made for the time of a dump: whole tables, or a chain in that of iptables, and the table with it if nothing
 * else is in there. In place; returns what is left.
 */
static size_t rules_filter(char *text, size_t n)
{
	size_t kept = 0, table = 0;
	bool in_table = false, in_chain = false, had_chain = false, has_rules = false;
	for (char *line = text, *end = text + n; line < end;) {
		const char *stop = memchr(line, '\n', (size_t)(end - line));
		size_t bytes = stop ? (size_t)(stop - line) + 1 : (size_t)(end - line);
		if (!strncmp(line, "table ", 6)) {
			table = kept;
			in_table = rules_is_table(line);
			had_chain = has_rules = false;
		}
		in_chain |= bytes > 13 && !strncmp(line, "\tchain CRIU {\n", 14);
		had_chain |= in_chain;
		bool skip = in_table || in_chain || rules_is_jump(line, bytes), ends = line[0] == '}';
		has_rules |= !skip && !rules_is_frame(line, bytes);
		if (in_chain && !strncmp(line, "\t}", 2))
			in_chain = false;
		if (!skip) {
			memmove(text + kept, line, bytes);
			kept += bytes;
		}
		if (ends && had_chain && !has_rules)
			kept = table;
		line += bytes;
		in_table &= !ends;
	}
	text[kept] = '\0';
	return kept;
}

static int rules_look_one(struct arena *a, const struct kind_options *options, const char *who,
			  const struct rules_info *info, struct net_bytes *ret, struct ferry_error *err)
{
	_cleanup_free_ char *said = NULL;
	const struct net_bytes none = {0};
	bool has = false;
	size_t n = 0;
	int r = info->names ? 0 : rules_has_tables(&has);
	if (info->names)
		has = rules_has_names(info->names);
	if (r >= 0 && !has)
		return 0;
	r = r < 0 ? r : rules_run(options, info->save, &none, &said, &n);
	if (r) {
		error_set(
			err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP,
			"%s lives in a network namespace with rules for packets, which '%s' does not tell (%d)",
			who, info->save[0], r);
		error_hint(err, "install it, or leave the namespace to whoever restores it: --empty-ns net");
		return -ENOTSUP;
	}
	n = rules_filter(said, n);
	char *text = arena_copy(a, said, n + 1);
	*ret = (struct net_bytes){text, n};
	return text ? 0 : error_memory(err);
}

/* What iptables has made in its own way nft tells, and takes from nobody. Nothing is changed by this. */
int net_rules_try(const struct kind_options *options, const char *who, const struct net_contents *c,
		  struct ferry_error *err)
{
	static const char *const try[5] = {"nft", "-c", "-f", "-"};
	static const char flush[] = "flush ruleset\n";
	const struct net_bytes *text = &c->rules[NET_RULES_NFT];
	_cleanup_free_ char *said = NULL, *all = malloc(sizeof(flush) + text->n);
	size_t n = 0;
	if (!text->n)
		return 0;
	if (!all)
		return error_memory(err);
	memcpy(all, flush, sizeof(flush) - 1);
	memcpy(all + sizeof(flush) - 1, text->bytes, text->n);
	const struct net_bytes input = {all, sizeof(flush) - 1 + text->n};
	int r = rules_run(options, try, &input, &said, &n);
	if (!r)
		return 0;
	error_set(
		err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP,
		"%s lives in a network namespace with rules for packets that 'nft' does not take again (%d): %.*s",
		who, r, (int)strcspn(said ? said : "", "\n"), said ? said : "");
	error_hint(
		err,
		"write them as rules of nft(8), or leave the namespace to whoever restores it: --empty-ns net");
	return -ENOTSUP;
}

int net_rules_look(struct arena *a, const struct kind_options *options, const char *who,
		   struct net_contents *c, struct ferry_error *err)
{
	int r = 0;
	for (size_t i = 0; i < NET_RULES && r >= 0; i++)
		r = rules_look_one(a, options, who, &rules_infos[i], &c->rules[i], err);
	return r;
}

/* --------------------------------------------------------------------- restore */

/* CRIU's chain in the rules of one family, if it is there. 0 or -errno. */
static int rules_unlock_one(const struct kind_options *options, const char *const *save,
			    const char *const *restore)
{
	static const char lock[] = "*filter\n-D INPUT -j CRIU\n-D OUTPUT -j CRIU\n-F CRIU\n-X CRIU\nCOMMIT\n";
	const struct net_bytes none = {0}, input = {lock, sizeof(lock) - 1};
	_cleanup_free_ char *rules = NULL, *said = NULL;
	size_t n = 0;
	int r = rules_run(options, save, &none, &rules, &n);
	if (r || !strstr(rules, "\n:CRIU "))
		return MIN(r, 0);
	r = rules_run(options, restore, &input, &said, &n);
	return r > 0 ? -EIO : r;
}

int net_rules_unlock(const struct kind_options *options)
{
	static const char *const save[][4] = {{"iptables-save", "-t", "filter"},
					      {"ip6tables-save", "-t", "filter"}};
	static const char *const restore[][4] = {{"iptables-restore", "--noflush"},
						 {"ip6tables-restore", "--noflush"}};
	int code = 0;
	for (size_t i = 0; i < ARRAY_SIZE(save); i++) {
		int r = rules_unlock_one(options, save[i], restore[i]);
		code = code < 0 ? code : r;
	}
	return code;
}

static int rules_make_one(struct opener *o, const struct rules_info *info, const struct net_bytes *text,
			  struct ferry_error *err)
{
	_cleanup_free_ char *said = NULL, *copy = malloc(text->n + 1);
	size_t n = 0;
	if (!copy)
		return error_memory(err);
	memcpy(copy, text->bytes, text->n);
	copy[text->n] = '\0';
	struct net_bytes input = {copy, rules_filter(copy, text->n)};
	if (!input.n)
		return 0;
	int r = rules_run(o->options, info->restore, &input, &said, &n);
	if (!r)
		return 0;
	return error_set(err, FERRY_ERROR_RESTORE_STEP, EIO,
			 "'%s' does not take the rules for packets (%d): %.*s", info->restore[0], r,
			 (int)MIN(n, (size_t)RULES_SAID_BYTES), said ? said : "");
}

int net_rules_make(struct opener *o, const struct net_contents *c, struct ferry_error *err)
{
	int r = 0;
	for (size_t i = 0; i < NET_RULES && r >= 0; i++)
		r = c->rules[i].n ? rules_make_one(o, &rules_infos[i], &c->rules[i], err) : 0;
	return r;
}
