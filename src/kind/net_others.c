/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the list of what a network namespace may have that is not brought back, and looks for each: one table. What is found is refused by name.
 *
 * Kernel interface: rtnetlink(7), NETLINK_XFRM, NETLINK_NETFILTER (ipset, nfacct, timeouts), generic netlink, bpf(2) BPF_PROG_QUERY,
 * /proc/net. Netlink loads modules for what nobody has asked before, so what is a module of its own is only asked if it is there.
 * Does not handle: rules of ebtables, since looking at them makes their tables; programs that BPF links have put into netfilter; actions of
 * traffic control that no filter has: not looked at (Linux 6.18). What lies below /sys/class/net, which is each mount's own: queues of a
 * device on processors (RPS, XPS).
 */
/* Before those of linux/, which then leave out what it has. */
#include <netinet/in.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/fou.h>
#include <linux/genetlink.h>
#include <linux/if_bridge.h>
#include <linux/ioam6_genl.h>
#include <linux/ip_vs.h>
#include <linux/l2tp.h>
#include <linux/mptcp.h>
#include <linux/netconf.h>
#include <linux/netfilter/ipset/ip_set.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_acct.h>
#include <linux/netfilter/nfnetlink_cttimeout.h>
#include <linux/nexthop.h>
#include <linux/rtnetlink.h>
#include <linux/seg6_genl.h>
#include <linux/xfrm.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "host/netlink.h"
#include "host/netns.h"
#include "kernel/syscalls.h"
#include "kind/net.h"
#include "kind/netlist.h"

enum {
	OTHERS_REQUEST_BYTES = 256,
	OTHERS_MODULES_BYTES = 4 << 20,
	OTHERS_FAMILIES = 256,
	OTHERS_BPF_SK_LOOKUP = 36,   /* Linux 5.9 */
	OTHERS_BPF_TCX_INGRESS = 46, /* 6.6 */
	OTHERS_BPF_TCX_EGRESS = 47,
};

/* ----------------------------------------------------------------- what counts */

static bool others_any(const struct nlmsghdr *h unused)
{
	return true;
}

/* The kernel's own choice of a queue has no number. */
static bool others_queue(const struct nlmsghdr *h)
{
	const struct tcmsg *m = netlink_body(h);
	return h->nlmsg_type == RTM_NEWQDISC && netlink_body_len(h) >= sizeof(*m) && m->tcm_handle;
}

static bool others_next_hop(const struct nlmsghdr *h)
{
	return h->nlmsg_type == RTM_NEWNEXTHOP;
}

/* Entries that were learned come again. */
static bool others_group(const struct nlmsghdr *h)
{
	if (netlink_body_len(h) < sizeof(struct br_port_msg))
		return false;
	netlink_for_each(outer, h, sizeof(struct br_port_msg)) {
		if (netlink_attr_type(outer) != MDBA_MDB)
			continue;
		netlink_for_each_nested(entries, outer) {
			netlink_for_each_nested(info, entries) {
				struct br_mdb_entry e = {0};
				if (netlink_attr_len(info) < sizeof(e))
					continue;
				memcpy(&e, netlink_attr_body(info), sizeof(e));
				if (e.state & MDB_PERMANENT)
					return true;
			}
		}
	}
	return false;
}

static bool others_routes_groups(const struct nlmsghdr *h)
{
	const struct nlattr *of = netlist_attribute(netlink_body(h), netlink_body_len(h),
						    sizeof(struct netconfmsg), NETCONFA_MC_FORWARDING);
	return h->nlmsg_type == RTM_NEWNETCONF && of && netlink_attr_len(of) >= sizeof(uint32_t) &&
	       netlink_attr_u32(of);
}

static bool others_xfrm_default(const struct nlmsghdr *h)
{
	const struct xfrm_userpolicy_default *m = netlink_body(h);
	return h->nlmsg_type == XFRM_MSG_GETDEFAULT && netlink_body_len(h) >= sizeof(*m) &&
	       (m->in == XFRM_USERPOLICY_BLOCK || m->fwd == XFRM_USERPOLICY_BLOCK ||
		m->out == XFRM_USERPOLICY_BLOCK);
}

/* ----------------------------------------------------------------------- table */

/* One question; head: what its message begins with, of head_bytes, zeroes behind what is told here. */
struct others_question {
	const char *what;
	bool (*counts)(const struct nlmsghdr *h);
	const char *module; /* that has to be there; NULL: it is asked in any case */
	const char *family; /* of generic netlink */
	uint16_t type;      /* the command, where there is a family */
	uint16_t head_bytes;
	uint8_t head[4];
	bool one; /* a single answer */
	uint16_t attr;
	int32_t value; /* of it */
	uint8_t attr_bytes;
};

static const struct others_question others_route[] = {
	{.what = "next hops that are objects (ip nexthop)",
	 .counts = others_next_hop,
	 .type = RTM_GETNEXTHOP,
	 .head_bytes = sizeof(struct nhmsg)},
	{.what = "groups that somebody gave to a bridge (bridge mdb)",
	 .counts = others_group,
	 .type = RTM_GETMDB,
	 .head = {AF_BRIDGE},
	 .head_bytes = sizeof(struct br_port_msg)},
	{.what = "routing of multicast packets (MRT_INIT)",
	 .counts = others_routes_groups,
	 .type = RTM_GETNETCONF,
	 .head = {AF_INET},
	 .head_bytes = sizeof(struct netconfmsg),
	 .one = true,
	 .attr = NETCONFA_IFINDEX,
	 .value = NETCONFA_IFINDEX_ALL,
	 .attr_bytes = sizeof(int32_t)},
	{.what = "routing of multicast packets of IPv6 (MRT6_INIT)",
	 .counts = others_routes_groups,
	 .type = RTM_GETNETCONF,
	 .head = {AF_INET6},
	 .head_bytes = sizeof(struct netconfmsg),
	 .one = true,
	 .attr = NETCONFA_IFINDEX,
	 .value = NETCONFA_IFINDEX_ALL,
	 .attr_bytes = sizeof(int32_t)},
	/* At last: every namespace has an answer, and what is asked meanwhile is asked again. */
	{.what = "traffic control (tc) of its own",
	 .counts = others_queue,
	 .type = RTM_GETQDISC,
	 .head_bytes = sizeof(struct tcmsg)},
};

static const struct others_question others_xfrm[] = {
	{.what = "IPsec (ip xfrm)",
	 .counts = others_any,
	 .type = XFRM_MSG_GETPOLICY,
	 .head_bytes = sizeof(struct xfrm_userpolicy_id)},
	{.what = "IPsec (ip xfrm)", .counts = others_any, .type = XFRM_MSG_GETSA},
	{.what = "IPsec that blocks what has no policy (ip xfrm policy setdefault)",
	 .counts = others_xfrm_default,
	 .type = XFRM_MSG_GETDEFAULT,
	 .head_bytes = sizeof(struct xfrm_userpolicy_default),
	 .one = true},
};

static const struct others_question others_filter[] = {
	{.what = "sets of addresses (ipset)",
	 .counts = others_any,
	 .module = "ip_set",
	 .type = NFNL_SUBSYS_IPSET << 8 | IPSET_CMD_LIST,
	 .head_bytes = sizeof(struct nfgenmsg),
	 .attr = IPSET_ATTR_PROTOCOL,
	 .value = IPSET_PROTOCOL_MIN,
	 .attr_bytes = 1},
	{.what = "counters of packets (nfacct)",
	 .counts = others_any,
	 .module = "nfnetlink_acct",
	 .type = NFNL_SUBSYS_ACCT << 8 | NFNL_MSG_ACCT_GET,
	 .head_bytes = sizeof(struct nfgenmsg)},
	{.what = "times of its own for connections (nfct timeout)",
	 .counts = others_any,
	 .module = "nfnetlink_cttimeout",
	 .type = NFNL_SUBSYS_CTNETLINK_TIMEOUT << 8 | IPCTNL_MSG_TIMEOUT_GET,
	 .head_bytes = sizeof(struct nfgenmsg)},
};

static const struct others_question others_generic[] = {
	{.what = "addresses for Multipath TCP (ip mptcp endpoint)",
	 .counts = others_any,
	 .family = MPTCP_PM_NAME,
	 .type = MPTCP_PM_CMD_GET_ADDR},
	{.what = "virtual servers (ipvsadm)",
	 .counts = others_any,
	 .family = IPVS_GENL_NAME,
	 .type = IPVS_CMD_GET_SERVICE},
	{.what = "ports for packets within UDP (ip fou)",
	 .counts = others_any,
	 .family = FOU_GENL_NAME,
	 .type = FOU_CMD_GET},
	{.what = "tunnels of L2TP (ip l2tp)",
	 .counts = others_any,
	 .family = L2TP_GENL_NAME,
	 .type = L2TP_CMD_TUNNEL_GET},
	{.what = "keys for segment routing (ip sr hmac)",
	 .counts = others_any,
	 .family = SEG6_GENL_NAME,
	 .type = SEG6_CMD_DUMPHMAC},
	{.what = "namespaces of IOAM (ip ioam)",
	 .counts = others_any,
	 .family = IOAM6_GENL_NAME,
	 .type = IOAM6_CMD_DUMP_NAMESPACES},
	{.what = "schemas of IOAM (ip ioam)",
	 .counts = others_any,
	 .family = IOAM6_GENL_NAME,
	 .type = IOAM6_CMD_DUMP_SCHEMAS},
};

/* ------------------------------------------------------------------------ look */

struct others {
	struct {
		char name[GENL_NAMSIZ];
		uint16_t id;
	} families[OTHERS_FAMILIES]; /* that this kernel has now */
	size_t n_families;
	char *modules;    /* /proc/modules; NULL: this kernel has all that it will ever have */
	const char *what; /* the first that was found; NULL */
};

struct others_answer {
	struct others *o;
	const struct others_question *q;
};

static int others_each(const struct nlmsghdr *h, void *ctx)
{
	const struct others_answer *answer = ctx;
	if (!answer->o->what && answer->q->counts(h))
		answer->o->what = answer->q->what;
	return 0;
}

static bool others_has_module(const struct others *o, const char *name)
{
	size_t n = strlen(name);
	for (const char *line = o->modules; line && *line; line += strcspn(line, "\n"), line += *line == '\n')
		if (!strncmp(line, name, n) && line[n] == ' ')
			return true;
	return !o->modules;
}

static uint16_t others_family(const struct others *o, const char *name)
{
	for (size_t i = 0; i < o->n_families; i++)
		if (!strcmp(o->families[i].name, name))
			return o->families[i].id;
	return 0;
}

static struct nlmsghdr *others_request(const struct others_question *q, uint16_t type, void *room)
{
	struct nlmsghdr *h = netlink_begin(room);
	h->nlmsg_type = type;
	h->nlmsg_flags = NLM_F_REQUEST | (q->one ? NLM_F_ACK : NLM_F_DUMP);
	if (q->family) {
		struct genlmsghdr *g = netlink_append(h, sizeof(*g));
		*g = (struct genlmsghdr){.cmd = (uint8_t)q->type, .version = 1};
	} else if (q->head_bytes) {
		memcpy(netlink_append(h, q->head_bytes), q->head, MIN(sizeof(q->head), q->head_bytes));
	}
	if (q->attr)
		netlink_put(h, q->attr, q->attr_bytes, &q->value);
	return h;
}

/* A kernel that does not know what it is asked has none of it; in a user namespace of its own nobody may set what only the machine's root may. */
static bool others_is_absent(int code, bool generic)
{
	return code == -EOPNOTSUPP || code == -EPROTONOSUPPORT || code == -ENOENT || code == -EINVAL ||
	       code == -EAFNOSUPPORT || code == -ENODEV || (generic && code == -EPERM);
}

static int others_ask(struct others *o, int protocol, const struct others_question *table, size_t n)
{
	uint8_t requests[8][OTHERS_REQUEST_BYTES] __attribute__((aligned(8)));
	struct netlink_question questions[8];
	struct others_answer answers[8];
	_cleanup_netlink_ struct netlink_socket *socket = NULL;
	size_t asked = 0;
	_Static_assert(ARRAY_SIZE(others_generic) <= 8 && ARRAY_SIZE(others_route) <= 8, "room");
	for (size_t i = 0; i < n; i++) {
		const struct others_question *q = &table[i];
		uint16_t type = q->family ? others_family(o, q->family) : q->type;
		if (!type || (q->module && !others_has_module(o, q->module)))
			continue;
		answers[asked] = (struct others_answer){o, q};
		questions[asked] = (struct netlink_question){others_request(q, type, requests[asked]),
							     others_each, &answers[asked], 0};
		asked++;
	}
	int r = asked ? netlink_open(-1, protocol, &socket) : 0;
	if (r >= 0 && asked)
		r = netlink_ask_all(socket, questions, asked);
	for (size_t i = 0; i < asked && r >= 0; i++)
		r = others_is_absent(questions[i].result, answers[i].q->family) ? 0 : questions[i].result;
	return others_is_absent(r, false) ? 0 : r;
}

static int others_each_family(const struct nlmsghdr *h, void *ctx)
{
	struct others *o = ctx;
	size_t n = netlink_body_len(h);
	const struct nlattr *name = netlist_attribute(netlink_body(h), n, sizeof(struct genlmsghdr),
						      CTRL_ATTR_FAMILY_NAME),
			    *id = netlist_attribute(netlink_body(h), n, sizeof(struct genlmsghdr),
						    CTRL_ATTR_FAMILY_ID);
	if (!name || !id || netlink_attr_len(id) < sizeof(uint16_t) || o->n_families == OTHERS_FAMILIES)
		return 0;
	snprintf(o->families[o->n_families].name, GENL_NAMSIZ, "%.*s", (int)netlink_attr_len(name),
		 netlink_attr_string(name));
	memcpy(&o->families[o->n_families++].id, netlink_attr_body(id), sizeof(uint16_t));
	return 0;
}

/* By the list of those that are there: asking for one by its name would load it. */
static int others_look_for_families(struct others *o)
{
	const struct genlmsghdr all = {.cmd = CTRL_CMD_GETFAMILY, .version = 2};
	_cleanup_netlink_ struct netlink_socket *socket = NULL;
	int r = netlink_open(-1, NETLINK_GENERIC, &socket);
	return r < 0 ? r : netlink_list(socket, GENL_ID_CTRL, &all, sizeof(all), others_each_family, o);
}

static int others_read_modules(struct arena *a, struct others *o)
{
	_cleanup_free_ char *text = NULL;
	size_t n = 0;
	int r = fd_read_path(AT_FDCWD, "/proc/modules", OTHERS_MODULES_BYTES, &text, &n);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	o->modules = arena_string(a, text);
	return o->modules ? 0 : -ENOMEM;
}

/* Programs that the namespace, or a device in it, runs for its packets. */
static bool others_has_program(uint32_t type, uint32_t of)
{
	union bpf_attr attr = {.query = {.target_fd = of, .attach_type = type}};
	return sys_bpf(BPF_PROG_QUERY, &attr) >= 0 && attr.query.prog_cnt;
}

static void others_look_for_programs(struct others *o, const FerryNetEntry *net)
{
	static const uint32_t of_namespace[] = {BPF_FLOW_DISSECTOR, OTHERS_BPF_SK_LOOKUP};
	static const uint32_t of_device[] = {OTHERS_BPF_TCX_INGRESS, OTHERS_BPF_TCX_EGRESS};
	_cleanup_close_ int here = netns_open();
	for (size_t i = 0; i < ARRAY_SIZE(of_namespace) && here >= 0; i++)
		if (!o->what && others_has_program(of_namespace[i], (uint32_t)here))
			o->what = "programs of eBPF that find sockets or take packets apart";
	for (size_t i = 0; i < net->n_links; i++)
		for (size_t k = 0; k < ARRAY_SIZE(of_device) && !o->what; k++)
			if (others_has_program(of_device[k], net->links[i]->index))
				o->what = "programs of eBPF on a network device (tcx)";
}

/* A file with one line for each, behind a head; or, of MPLS, a number that is not 0. */
static bool others_has_line(const char *path, const char *none)
{
	char text[128] = "";
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
	return n > 0 && strcmp(text, none) != 0;
}

static void others_look_for_files(struct others *o)
{
	static const struct {
		const char *what, *path, *none;
	} files[] = {
		{.what = "rules of arptables", .path = "/proc/thread-self/net/arp_tables_names", .none = ""},
		{.what = "labels of MPLS", .path = "/proc/sys/net/mpls/platform_labels", .none = "0\n"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(files) && !o->what; i++)
		if (others_has_line(files[i].path, files[i].none))
			o->what = files[i].what;
}

int net_look_for_others(struct arena *a, const FerryNetEntry *net, const char **ret)
{
	struct others *o = arena_new(a, struct others);
	int r = o ? others_read_modules(a, o) : -ENOMEM;
	if (r >= 0)
		r = others_look_for_families(o);
	if (r >= 0)
		r = others_ask(o, NETLINK_ROUTE, others_route, ARRAY_SIZE(others_route));
	if (r >= 0)
		r = others_ask(o, NETLINK_XFRM, others_xfrm, ARRAY_SIZE(others_xfrm));
	if (r >= 0)
		r = others_ask(o, NETLINK_NETFILTER, others_filter, ARRAY_SIZE(others_filter));
	if (r >= 0)
		r = others_ask(o, NETLINK_GENERIC, others_generic, ARRAY_SIZE(others_generic));
	if (r < 0)
		return r;
	others_look_for_programs(o, net);
	others_look_for_files(o);
	*ret = o->what;
	return 0;
}
