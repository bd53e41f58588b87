/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices in a network namespace of its own, by word: "inside" a pair of virtual devices, one end of which is a port of a bridge; "layers"
 * devices that lie on others (macvlan, VXLAN); with addresses, routes, rules, neighbours, rules for packets and settings of each sort.
 * Proof: what ip(8) and nft(8) tell, line by line, and what the settings say; times of the moment left out.
 */
#include "program.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TEXT_BYTES = 64 * 1024, LOOKS = 60, LOOK_MS = 50 };

struct state {
	char text[TEXT_BYTES];
};

static const char *const inside[] = {
	"ip link set lo up",
	"ip link add v0 index 7 type veth peer name v1",
	"ip link set v0 address 02:00:00:00:00:0a up mtu 1400",
	"ip link set v1 address 02:00:00:00:00:0b up",
	"ip link add br0 address 02:00:00:00:00:0c type bridge",
	"ip link set v1 master br0",
	"ip link set br0 up",
	"ip addr add 10.1.1.1/24 dev v0",
	"ip addr add 10.1.1.9/32 dev v0",
	"ip addr add 10.2.0.1/16 brd + dev br0",
	"ip addr add fd00:1::1/64 dev v0",
	"ip route add 10.9.0.0/16 via 10.1.1.2 metric 7",
	"ip route add default via 10.2.0.9",
	"ip route add blackhole 10.77.0.0/16",
	"ip -6 route add fd00:9::/48 via fd00:1::9",
	"ip rule add from 10.1.1.0/24 table 77 priority 900",
	"nft add table ip mine",
	"nft add chain ip mine out '{ type filter hook output priority 0; }'",
	"nft add rule ip mine out ip daddr 10.66.0.1 drop",
	"echo 3 > /proc/sys/net/ipv4/conf/v0/arp_announce",
	"echo 1 > /proc/sys/net/ipv4/conf/all/forwarding",
	"echo 2 > /proc/sys/net/ipv4/conf/default/rp_filter",
	"echo 3 > /proc/sys/net/ipv6/conf/br0/accept_ra",
	"echo 33 > /proc/sys/net/unix/max_dgram_qlen",
	NULL,
};

/* What only ferry keeps. */
static const char *const inside_more[] = {
	"ip link set br0 txqueuelen 77 alias 'a bridge'",
	"ip link set br0 type bridge ageing_time 20000",
	"ip link set v1 type bridge_slave isolated on cost 55",
	"ip route add 10.44.0.0/16 via 10.1.1.3 table 77",
	"ip -6 rule add from fd00::/8 table 78",
	"ip neigh add 10.1.1.77 lladdr 02:00:00:00:00:77 dev v0 nud permanent",
	"echo 123 > /proc/sys/net/core/somaxconn",
	"echo '5000 6000' > /proc/sys/net/ipv4/ip_local_port_range",
	"echo 44 > /proc/sys/net/ipv4/neigh/v0/base_reachable_time",
	"ip link property add dev v0 altname another-name-of-this-device altname short",
	"ip link set v0 gso_max_segs 1000 gso_max_size 50000",
	"ip neigh add proxy 10.1.1.88 dev v0",
	"ip neigh add 10.1.1.77 lladdr 02:00:00:00:00:78 dev br0 nud permanent",
	"bridge fdb add 02:00:00:00:00:99 dev v1 master static",
	"bridge fdb add 02:00:00:00:00:9a dev v0 self permanent",
	"bridge fdb add 02:00:00:00:00:9b dev br0 self local",
	"ip addrlabel add prefix fd00:7::/32 label 77",
	"ip addrlabel del prefix 2001::/32 label 6",
	"ip maddr add 33:33:00:00:77:77 dev v0",
	"ip token set ::77 dev br0",
	"ip route add 10.45.0.0/16 dev v0 metric 3",
	"ip route add 10.45.0.0/16 dev br0 metric 4",
	NULL,
};

static const char *const layers[] = {
	"ip link set lo up",
	"ip link add v0 type veth peer name v1",
	"ip link set v0 up",
	"ip link set v1 up",
	"ip link add mv0 link v0 address 02:00:00:00:00:1a type macvlan mode bridge",
	"ip addr add 10.3.0.1/24 dev mv0",
	"ip link set mv0 up",
	NULL,
};

static const char *const layers_more[] = {
	"ip addr add 10.4.0.1/24 dev v0",
	"ip link add vx0 type vxlan id 42 dstport 4789 local 10.4.0.1 dev v0 ttl 5",
	"ip addr add 10.5.0.1/24 dev vx0",
	"ip link set vx0 up",
	"bridge fdb append 00:00:00:00:00:00 dev vx0 dst 10.4.0.7 self permanent",
	"bridge fdb append 00:00:00:00:00:00 dev vx0 dst 10.4.0.8 self permanent",
	"bridge fdb add 02:00:00:00:00:77 dev vx0 dst 10.4.0.9 port 4790 self permanent",
	"ip link add mv1 link v1 address 02:00:00:00:00:1b type macvlan mode source",
	"ip link set mv1 type macvlan macaddr add 02:00:00:00:00:44",
	NULL,
};

static const char links[] =
	"ip -o -d link | sed -E 's/(forward_delay_timer|gc_timer|hello_timer|tcn_timer|topology_change_timer|hold_timer|message_age_timer|"
	"port_no|designated_[a-z]+|bridge_id|fdb_n_learned|mcast_n_groups) +[^ ]+//g; s/ state [a-z]+ priority/ priority/'";

static const char sysctls[] =
	"cd /proc/sys/net; grep . ipv4/conf/*/arp_announce ipv4/conf/*/forwarding ipv4/conf/*/rp_filter ipv6/conf/*/accept_ra "
	"ipv6/conf/*/accept_dad unix/* core/somaxconn ipv4/ip_local_port_range ipv4/neigh/*/base_reachable_time";

static const char *const tell[] = {
	links,
	"ip -o addr",
	"ip route show table all | sort",
	"ip -6 route show table all | sort",
	"ip rule",
	"ip -6 rule",
	"ip neigh show nud permanent | sort",
	"nft list ruleset",
	sysctls,
	"ip neigh show proxy | sort",
	"bridge fdb | sort",
	"ip addrlabel | sort",
	"ip maddr show | grep static | sort",
	"ip token",
	NULL,
};

static void run(const char *const *commands)
{
	for (; *commands; commands++)
		if (system(*commands) != 0) {
			fprintf(stderr, "%s\n", *commands);
			exit(77);
		}
}

static void look(char *text)
{
	size_t n = 0;
	for (const char *const *command = tell; *command; command++) {
		FILE *f = popen(*command, "re");
		if (!f)
			program_die("popen");
		n += fread(text + n, 1, TEXT_BYTES - 1 - n, f);
		pclose(f);
	}
	text[n] = '\0';
}

static bool is_settled(const char *text)
{
	return !strstr(text, "tentative") && !strstr(text, "LOWERLAYERDOWN");
}

/* The first line that differs. */
static void differ(struct program *p, const char *was, const char *is)
{
	while (*was && *is) {
		size_t n = strcspn(was, "\n"), m = strcspn(is, "\n");
		if (n != m || memcmp(was, is, n) != 0)
			break;
		was += n + (was[n] == '\n');
		is += m + (is[m] == '\n');
	}
	program_bad(p, "'%.*s' was '%.*s'", (int)MIN(strcspn(is, "\n"), 150u), is,
		    (int)MIN(strcspn(was, "\n"), 150u), was);
}

/* What the kernel finds out by itself takes its time. */
static void verify(struct program *p, void *state)
{
	static char now[TEXT_BYTES];
	const struct state *s = state;
	for (int i = 0; i < LOOKS; i++) {
		look(now);
		if (!strcmp(now, s->text))
			return;
		sleep_ms(LOOK_MS);
	}
	differ(p, s->text, now);
}

static void spoil(void *state)
{
	(void)state;
	if (system("ip link set lo mtu 1234") != 0)
		program_die("ip link set lo");
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	static struct state s;
	struct program p;
	bool layered = program_told(argc, argv, "layers");

	program_start(&p, argc, argv);
	must(unshare(CLONE_NEWNET));
	run(layered ? layers : inside);
	if (p.more)
		run(layered ? layers_more : inside_more);
	for (int i = 0; i < LOOKS; i++) {
		look(s.text);
		if (is_settled(s.text))
			break;
		sleep_ms(LOOK_MS);
	}
	return program_serve(&p, &ops, &s);
}
