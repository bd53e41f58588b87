/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors that a dump refuses, as many as words follow, each with the number that its place in the list gives. What this
 * machine does not have is left out; the file "made" has the words of the others with their numbers. Proof: each is still
 * open and of the same kind.
 */
#include "program.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/kvm.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { FIRST = 30, OBSTACLES = 64, PATH_BYTES = 300 };
/* Newer than the headers may be. */
enum {
	THREAD_PIDFD = 0200,
	REPORT_MNT = 0x4000,
	MARK_MNTNS = 0x110,
	MNT_ATTACH = 0x1000000,
	ADD_AO_KEY = 38
};

static const char *folder;

/* A name in the program's folder. */
static const char *name(const char *last)
{
	static char path[PATH_BYTES];

	snprintf(path, sizeof(path), "%s/%s", folder, last);
	return path;
}

static int again(int fd, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return fd < 0 ? -1 : open(path, flags | O_CLOEXEC);
}

/* What is behind a descriptor by its path alone, which nothing else has open. */
static int path_of(int fd)
{
	int path = again(fd, O_PATH);

	close(fd);
	return path;
}

/* --------------------------------------------------------------------- BPF */

static int bpf(int command, union bpf_attr *attr)
{
	return (int)syscall(SYS_bpf, command, attr, sizeof(*attr));
}

static int make_bpf_map(void)
{
	union bpf_attr attr = {.map_type = BPF_MAP_TYPE_ARRAY,
			       .key_size = 4,
			       .value_size = 8,
			       .max_entries = 1,
			       .map_flags = BPF_F_RDONLY};

	return bpf(BPF_MAP_CREATE, &attr);
}

/* Types: one integer. */
static int make_btf(void)
{
	struct {
		uint16_t magic;
		uint8_t version, flags;
		uint32_t header, type_at, type_bytes, text_at, text_bytes;
		uint32_t type[4];
		char text[8];
	} btf = {0xeb9f, 1, 0, 24, 0, 16, 16, 5, {1, 1u << 24, 4, 32}, "\0int"};
	union bpf_attr attr = {.btf = (uintptr_t)&btf, .btf_size = 24 + 16 + 5};

	return bpf(BPF_BTF_LOAD, &attr);
}

/* A program that this network namespace has. */
static int make_bpf_link(void)
{
	const struct bpf_insn code[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K}, {.code = BPF_JMP | BPF_EXIT}};
	union bpf_attr load = {.prog_type = BPF_PROG_TYPE_FLOW_DISSECTOR,
			       .insn_cnt = 2,
			       .insns = (uintptr_t)code,
			       .license = (uintptr_t) "GPL",
			       .expected_attach_type = BPF_FLOW_DISSECTOR};
	int program = bpf(BPF_PROG_LOAD, &load), space = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	union bpf_attr attr = {.link_create.attach_type = BPF_FLOW_DISSECTOR};

	attr.link_create.prog_fd = (uint32_t)program;
	attr.link_create.target_fd = (uint32_t)space;
	int link = bpf(BPF_LINK_CREATE, &attr);
	close(program);
	close(space);
	return link;
}

/* ------------------------------------------------------------------- watches */

static int make_mount_watch(void)
{
	int fd = fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC | REPORT_MNT, O_RDONLY);
	int space = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	int r = fanotify_mark(fd, FAN_MARK_ADD | MARK_MNTNS, MNT_ATTACH, space, NULL);

	close(space);
	return r < 0 ? -1 : fd;
}

/* A mount that the next one at its place hides. */
static int make_hidden_watch(void)
{
	int fd = fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC, O_RDONLY);

	must(mkdir(name("hidden"), 0700));
	must(mount("none", name("hidden"), "tmpfs", 0, NULL));
	must(fanotify_mark(fd, FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_CLOSE_WRITE, AT_FDCWD, name("hidden")));
	must(mount("none", name("hidden"), "tmpfs", 0, NULL));
	return fd;
}

/* ------------------------------------------------------------- pipes and files */

static int make_packet_fifo(void)
{
	must(mkfifo(name("fifo"), 0600));
	int fd = must(open(name("fifo"), O_RDWR | O_CLOEXEC));
	must(fcntl(fd, F_SETFL, O_DIRECT));
	return fd;
}

static int make_pipe_path(void)
{
	int ends[2];

	must(pipe2(ends, O_CLOEXEC));
	close(ends[1]);
	return path_of(ends[0]);
}

static int make_watch_queue(void)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC | O_EXCL) < 0)
		return -1;
	close(ends[1]);
	return ends[0];
}

static int make_memfd_path(void)
{
	return path_of(memfd_create("path", MFD_CLOEXEC));
}

static void *sleeper(void *context)
{
	*(_Atomic int *)context = (int)syscall(SYS_gettid);
	for (;;)
		pause();
	return NULL;
}

static int other_thread(void)
{
	static _Atomic int tid;
	pthread_t thread;

	if (!tid && pthread_create(&thread, NULL, sleeper, &tid))
		program_die("pthread_create");
	while (!tid)
		sleep_ms(1);
	return tid;
}

static int make_of_thread(void)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/task/%d/comm", other_thread());
	return open(path, O_RDONLY | O_CLOEXEC);
}

static int make_of_outside(void)
{
	return open("/proc/1/comm", O_RDONLY | O_CLOEXEC);
}

static int make_pressure(void)
{
	int fd = open("/proc/pressure/memory", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	static const char trigger[] = "some 150000 2000000";

	return fd < 0 || write(fd, trigger, sizeof(trigger)) < 0 ? -1 : fd;
}

static int make_events(void)
{
	if (access("/sys/kernel/tracing/trace_pipe", F_OK) < 0 &&
	    mount("none", "/sys/kernel/tracing", "tracefs", 0, NULL) < 0)
		return -1;
	return open("/sys/kernel/tracing/trace_pipe", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
}

static int make_leased(void)
{
	int fd = must(open(name("leased"), O_RDWR | O_CREAT | O_CLOEXEC, 0600));

	must(fcntl(fd, F_SETLEASE, F_WRLCK));
	must(unlink(name("leased")));
	return fd;
}

/* --------------------------------------------------------------- descriptors' owners */

static int make_owned_by_thread(void)
{
	const struct f_owner_ex owner = {.type = F_OWNER_TID, .pid = other_thread()};
	int fd = memfd_create("owned", MFD_CLOEXEC);

	must(fcntl(fd, F_SETOWN_EX, &owner));
	return fd;
}

static int make_owned_thread(void)
{
	int fd = (int)syscall(SYS_pidfd_open, other_thread(), THREAD_PIDFD);

	if (fd >= 0)
		must(fcntl(fd, F_SETOWN, getpid()));
	return fd;
}

/* ----------------------------------------------------------------------- sockets */

static int make_fanout(void)
{
	struct sock_filter {
		uint16_t code;
		uint8_t jt, jf;
		uint32_t k;
	} code = {.code = BPF_RET};
	struct {
		unsigned short len;
		struct sock_filter *filter;
	} program = {1, &code};
	int fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, htons(ETH_P_ARP));

	if (fd < 0)
		return -1;
	must(setsockopt(fd, SOL_PACKET, PACKET_FANOUT, &(int){77 | PACKET_FANOUT_CBPF << 16}, sizeof(int)));
	must(setsockopt(fd, SOL_PACKET, PACKET_FANOUT_DATA, &program, sizeof(program)));
	return fd;
}

static int make_old_packets(void)
{
	return socket(AF_INET, SOCK_PACKET | SOCK_CLOEXEC, htons(ETH_P_ARP));
}

static int make_sending_ring(void)
{
	struct tpacket_req3 ring = {
		.tp_block_size = 4096, .tp_block_nr = 2, .tp_frame_size = 2048, .tp_frame_nr = 4};
	int fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, htons(ETH_P_ARP));

	if (fd < 0)
		return -1;
	must(setsockopt(fd, SOL_PACKET, PACKET_VERSION, &(int){TPACKET_V3}, sizeof(int)));
	must(setsockopt(fd, SOL_PACKET, PACKET_TX_RING, &ring, sizeof(ring)));
	return fd;
}

static int make_xdp(void)
{
	return socket(44, SOCK_RAW | SOCK_CLOEXEC, 0);
}

static int make_crypto(void)
{
	return socket(38, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
}

static int make_sctp(void)
{
	return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_SCTP);
}

static int make_smc(void)
{
	return socket(43, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static int make_tipc(void)
{
	return socket(30, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
}

static int make_can(void)
{
	return socket(29, SOCK_RAW | SOCK_CLOEXEC, 1);
}

static int make_bluetooth(void)
{
	return socket(31, SOCK_RAW | SOCK_CLOEXEC, 1);
}

static int make_key(void)
{
	return socket(15, SOCK_RAW | SOCK_CLOEXEC, 2);
}

static int make_multiplexor(void)
{
	return socket(41, SOCK_DGRAM | SOCK_CLOEXEC, 0);
}

static int listening(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));

	must(bind(fd, (struct sockaddr *)&address, sizeof(address)));
	must(listen(fd, 1));
	return fd;
}

/* Of a connection that has no other protocol when the kernel has none. */
static int make_upper(void)
{
	struct sockaddr_in address;
	socklen_t n = sizeof(address);
	int listener = listening(), fd = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));

	must(getsockname(listener, (struct sockaddr *)&address, &n));
	must(connect(fd, (struct sockaddr *)&address, n));
	if (setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", 4) == 0)
		return fd;
	close(fd);
	close(listener);
	return -1;
}

static int make_authenticated(void)
{
	char key[512] = "";
	int fd = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));

	/* Whoever has it says that the key makes no sense; whoever has not, that there is no such option. */
	if (setsockopt(fd, IPPROTO_TCP, ADD_AO_KEY, key, sizeof(key)) == 0)
		return fd;
	close(fd);
	return -1;
}

/* A datagram waits, and what a lost one was answered with. */
static int make_datagram_error(void)
{
	struct sockaddr_in own, nobody = {.sin_family = AF_INET,
					  .sin_port = htons(9),
					  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(own);
	int fd = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)),
	    other = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));

	own = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	must(bind(fd, (struct sockaddr *)&own, sizeof(own)));
	must(getsockname(fd, (struct sockaddr *)&own, &n));
	must(setsockopt(fd, IPPROTO_IP, IP_RECVERR, &(int){1}, sizeof(int)));
	must(sendto(other, "x", 1, 0, (struct sockaddr *)&own, sizeof(own)));
	close(other);
	must(sendto(fd, "x", 1, 0, (struct sockaddr *)&nobody, sizeof(nobody)));
	return fd;
}

/* ---------------------------------------------------------------------- terminals */

static int terminal(int *ret_master)
{
	int master = must(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));

	must(grantpt(master));
	must(unlockpt(master));
	*ret_master = master;
	return must(ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
}

/* The controlling terminal by its other name. */
static int make_hung_up(void)
{
	int master, slave = terminal(&master);

	signal(SIGHUP, SIG_IGN);
	must(ioctl(slave, TIOCSCTTY, 0));
	int fd = must(open("/dev/tty", O_RDWR | O_CLOEXEC));
	close(slave);
	close(master);
	return fd;
}

static int make_terminal_path(void)
{
	int master, slave = terminal(&master);

	return path_of(slave);
}

static int make_console(void)
{
	return open("/dev/tty63", O_RDWR | O_NOCTTY | O_CLOEXEC);
}

/* Another than a terminal's: whichever there is. */
static int make_line(void)
{
	int master, slave = terminal(&master);

	for (int line = 1; line < 31; line++)
		if (ioctl(slave, TIOCSETD, &line) == 0)
			return slave;
	close(master);
	close(slave);
	return -1;
}

/* ------------------------------------------------------------------------ devices */

static int device(mode_t type, unsigned major, unsigned minor)
{
	static int n;
	char last[16];

	snprintf(last, sizeof(last), "device%d", n++);
	if (mknod(name(last), type | 0600, makedev(major, minor)) < 0)
		return -1;
	int fd = open(name(last), O_RDWR | O_NONBLOCK | O_CLOEXEC);
	return fd < 0 ? open(name(last), O_RDONLY | O_NONBLOCK | O_CLOEXEC) : fd;
}

static int make_memory(void)
{
	return device(S_IFCHR, 1, 1);
}

static int make_faults(void)
{
	return open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
}

static int make_timer(void)
{
	return device(S_IFCHR, 10, 228);
}

static int make_vhost(void)
{
	return device(S_IFCHR, 10, 238);
}

static int make_clock(void)
{
	return device(S_IFCHR, 254, 0);
}

static int make_input(void)
{
	return device(S_IFCHR, 13, 63);
}

static int make_sound(void)
{
	return device(S_IFCHR, 116, 1);
}

static int make_camera(void)
{
	return device(S_IFCHR, 81, 0);
}

static int make_graphics(void)
{
	return device(S_IFCHR, 226, 0);
}

static int make_frames(void)
{
	return device(S_IFCHR, 29, 0);
}

/* One that no list has: what the machine has first. */
static int make_other_device(void)
{
	static const char *const paths[] = {"/dev/cpu_dma_latency", "/dev/vga_arbiter", "/dev/btrfs-control"};
	int fd = -1;

	for (size_t i = 0; i < ARRAY_SIZE(paths) && fd < 0; i++)
		fd = open(paths[i], O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	return fd;
}

static int make_machine(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int fd = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);

	if (kvm >= 0)
		close(kvm);
	return fd;
}

/* Of protocols that no list has: what the kernel has first. */
static int make_other_socket(void)
{
	static const int families[] = {42, 45, 21, 26, 35, 24, 33, 36, 37, 9, 5, 4, 3};
	static const int types[] = {SOCK_DGRAM, SOCK_STREAM, SOCK_SEQPACKET, SOCK_RAW};
	int fd = -1;

	for (size_t i = 0; i < ARRAY_SIZE(families) && fd < 0; i++)
		for (size_t k = 0; k < ARRAY_SIZE(types) && fd < 0; k++)
			fd = socket(families[i], types[k] | SOCK_CLOEXEC, 0);
	return fd;
}

/* Of a filter that never asks. */
static int make_listener(void)
{
	struct {
		uint16_t code;
		uint8_t jt, jf;
		uint32_t k;
	} allow = {BPF_RET, 0, 0, 0x7fff0000};
	struct {
		unsigned short len;
		void *filter;
	} program = {1, &allow};

	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	return (int)syscall(SYS_seccomp, 1, 8, &program);
}

static const struct {
	const char *word;
	int (*make)(void);
} makers[] = {
	{"bpf-map", make_bpf_map},
	{"btf", make_btf},
	{"bpf-link", make_bpf_link},
	{"hidden-watch", make_hidden_watch},
	{"packet-fifo", make_packet_fifo},
	{"pipe-path", make_pipe_path},
	{"watch-queue", make_watch_queue},
	{"memfd-path", make_memfd_path},
	{"of-thread", make_of_thread},
	{"of-outside", make_of_outside},
	{"pressure", make_pressure},
	{"events", make_events},
	{"leased", make_leased},
	{"owned-by-thread", make_owned_by_thread},
	{"owned-thread", make_owned_thread},
	{"fanout", make_fanout},
	{"old-packets", make_old_packets},
	{"sending-ring", make_sending_ring},
	{"xdp", make_xdp},
	{"crypto", make_crypto},
	{"sctp", make_sctp},
	{"smc", make_smc},
	{"tipc", make_tipc},
	{"can", make_can},
	{"bluetooth", make_bluetooth},
	{"key", make_key},
	{"multiplexor", make_multiplexor},
	{"upper", make_upper},
	{"authenticated", make_authenticated},
	{"datagram-error", make_datagram_error},
	{"hung-up", make_hung_up},
	{"terminal-path", make_terminal_path},
	{"console", make_console},
	{"line", make_line},
	{"memory", make_memory},
	{"faults", make_faults},
	{"timer", make_timer},
	{"vhost", make_vhost},
	{"clock", make_clock},
	{"input", make_input},
	{"sound", make_sound},
	{"camera", make_camera},
	{"graphics", make_graphics},
	{"frames", make_frames},
	{"other-socket", make_other_socket},
	{"listener", make_listener},
	{"other-device", make_other_device},
	{"machine", make_machine},
	/* The last: others mount. */
	{"mount-watch", make_mount_watch},
};

static struct stat was[OBSTACLES];

static void verify(struct program *p, void *state)
{
	const int *n = state;
	struct stat st;

	for (int i = 0; i < *n; i++)
		expect(p,
		       !fstat(FIRST + i, &st) && st.st_ino == was[i].st_ino && st.st_dev == was[i].st_dev &&
			       st.st_mode == was[i].st_mode,
		       "fd %d is another", FIRST + i);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify};
	struct program p;
	int n = 0;

	program_start(&p, argc, argv);
	folder = p.folder;
	FILE *made = fopen(name("made"), "we");
	for (size_t i = 0; i < ARRAY_SIZE(makers) && made; i++) {
		int fd = program_told(argc, argv, makers[i].word) ? makers[i].make() : -1;
		if (fd < 0)
			continue;
		must(dup3(fd, FIRST + n, O_CLOEXEC));
		close(fd);
		must(fstat(FIRST + n, &was[n]));
		fprintf(made, "%s %d\n", makers[i].word, FIRST + n++);
	}
	fclose(made);
	return program_serve(&p, &ops, &n);
}
