/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is in a network namespace, between the kernel and the image: ns_net.c decides which namespaces are looked at and made, net_look.c
 * looks, net_make.c makes, net_sysctl.c has what is below /proc/sys/net, net_rules.c what other programs read and write as text, net_track.c
 * connections that are tracked.
 */
#pragma once

#include <stdint.h>

#include <linux/rtnetlink.h>

#include "image/files.h"
#include "image/proto/ferry.pb-c.h"
#include "image/proto/netdev.pb-c.h"
#include "model/kind.h"

enum { NET_LINKS_MAX = 4096, NET_TEXT_MAX = 64 << 20, NET_ADDRESS_BYTES = 32, NET_ALT_NAME_BYTES = 128 };

struct netlink_socket;
struct nlmsghdr;

/* A file that has what another program writes and reads. */
struct net_bytes {
	const void *bytes;
	size_t n;
};

/* Rules for packets, each in the text of the program that has them. */
enum net_rules { NET_RULES_NFT, NET_RULES_IPTABLES, NET_RULES_IP6TABLES, NET_RULES };

/* Connections that are tracked, and those that are expected of them; messages of ctnetlink. */
enum net_tracked { NET_TRACKED_CONNECTIONS, NET_TRACKED_EXPECTED, NET_TRACKED };

struct net_contents {
	NetnsEntry *netns;
	NetDeviceEntry **devices; /* those that the common format knows */
	size_t n_devices;
	FerryNetEntry *net; /* everything */
	bool whole;         /* the common format has neither all routes nor all rules */
	struct net_bytes rules[NET_RULES];
	struct net_bytes tracked[NET_TRACKED];
};

/* A kind of network device that can be made again. */
struct net_kind {
	const char *word;
	NdType type;
	bool common;             /* the common format knows it */
	const uint16_t *ignored; /* attributes of its data that tell of the moment; 0 ends; NULL = none */
	const uint16_t *flags;   /* that are told as a byte and set by being there */
	bool no_data;            /* what it tells is of no use */
	bool tuned;              /* its data are set when it is there, those that differ */
};

const struct net_kind *net_kind_of(const char *word);

/*
 * Look at the namespace in which the calling thread stands. who: for messages. What cannot be brought back is refused. Everything belongs
 * to the arena.
 */
must_check int net_look(struct arena *a, const char *who, struct net_contents *ret, struct ferry_error *err);
/* And in the words of the common format, when it is known where its devices lead. */
must_check int net_describe(struct arena *a, uint32_t id, struct net_contents *c);
/* What the kernel tells of one device; belongs to the arena. */
must_check int net_read_link(struct arena *a, const struct nlmsghdr *h, FerryNetEntry *net);
/* Whether a tunnel is there also without anybody who is attached to it. */
bool net_link_stays(const FerryLinkEntry *l);
/* NULL: none has the number. */
FerryLinkEntry *net_link_numbered(const FerryNetEntry *net, unsigned index);
/* The devices that are there now, by index; 0 or -errno. */
must_check int net_look_now(struct arena *a, struct netlink_socket *socket, FerryNetEntry *ret);

must_check int net_store(struct dump *d, uint32_t id, const struct net_contents *c, struct ferry_error *err);

/* What the image has of a namespace, in the form that ferry's own file has; belongs to the plan. */
must_check int net_load(struct reader *r, const struct plan_ns *ns, struct net_contents **ret,
			struct ferry_error *err);

/* A list as ip(8) saves it: a number, and messages of a type, which begin with head bytes. */
struct netlist;
must_check int net_parse_list(const struct net_bytes *b, uint32_t magic, uint16_t type, size_t head,
			      struct netlist *list);

/* A namespace of the plan that is there and empty, and what belongs in it. */
struct net_target {
	const struct plan_ns *ns;
	const struct net_contents *c;
};

/* Fill all of them; devices may lead from one into the other. The calling thread stands in one of them afterwards. */
must_check int net_make(struct opener *o, const struct net_target *v, size_t n, struct ferry_error *err);

/* net_others.c: *ret is what stands in the way, NULL: nothing. 0 or -errno. */
must_check int net_look_for_others(struct arena *a, const FerryNetEntry *net, const char **ret);

/* net_sysctl.c */
must_check int net_sysctl_look(struct arena *a, struct net_contents *c, struct ferry_error *err);
void net_sysctl_make(const struct net_contents *c, const struct log_sink *log);
/* One file of a device below ipv6/conf. 0 or -errno. */
must_check int net_sysctl_write(const char *family, const char *device, const char *name, const char *value);

/* What the settings of a device have for duplicate address detection. */
int net_sysctl_probes(const struct net_contents *c, const char *device);

/* net_rules.c: nothing in the namespace, or its text. */
must_check int net_rules_look(struct arena *a, const struct kind_options *options, const char *who,
			      struct net_contents *c, struct ferry_error *err);
/* Whether they can be made again of that text. */
must_check int net_rules_try(const struct kind_options *options, const char *who,
			     const struct net_contents *c, struct ferry_error *err);
must_check int net_rules_make(struct opener *o, const struct net_contents *c, struct ferry_error *err);
/* Take the lock away that a dump by CRIU with --network-lock iptables, its default, left in the namespace that ferry stands in. 0 or -errno. */
must_check int net_rules_unlock(const struct kind_options *options);
enum image_kind net_rules_file(enum net_rules which);

/* net_number.c: what a namespace calls others of the tree, and that which ferry was started in. */
/* What the one that the calling thread stands in calls another; -1: it has no name for it. 0 or -errno. */
must_check int net_number_of(int netns_fd, int *ret);
must_check int net_number_look(struct collect *c, struct net_contents *contents, struct ferry_error *err);
void net_number_make(struct opener *o, const struct net_target *t, struct netlink_socket *socket);

/* net_track.c: while the tree stands, since they come and go. */
must_check int net_track_look(struct arena *a, struct net_contents *c, struct ferry_error *err);
must_check int net_track_make(const struct net_contents *c, struct ferry_error *err);
bool net_track_valid(const struct net_bytes *b);

/* From what the kernel told, at most NETLIST_MESSAGE_BYTES, what makes it again; room has twice as much. */
struct nlmsghdr *net_track_request(const struct nlmsghdr *told, void *room);
