/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A root file system of its own, as containers have: a folder with the program and its libraries, entered by pivot_root(2), with
 * proc, sysfs, tmpfs, devpts and mqueue mounted in it, read-only and masked paths, and the mailbox as a folder from outside. By
 * word: "plain"; "hidden" file systems with contents below others, in two ways; "groups" mounts that pass on to others what is
 * mounted in them; "sealed" a root that is read-only; "receives" a folder from outside that gets what is mounted there, and
 * "shares" one that also passes on what is mounted here; "files" without a name or with another,
 * sockets and a pipe with names; "below" a child in a mount namespace of its own, which has more and less than the others.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

enum { BYTES = 30000 };

struct state {
	const char *what;
	int in_root, in_tmpfs, folder;
	pid_t child;                                      /* "below" */
	int hidden[2];                                    /* "hidden" */
	int gone[2], renamed[2], listener, ends[2], fifo; /* "files" */
};

static unsigned char buffer[BYTES];

/* ------------------------------------------------------------- the way into it */

static void make_way(const char *root, const char *path)
{
	char folder[600];
	snprintf(folder, sizeof(folder), "%s%s", root, path);
	for (char *at = folder + strlen(root) + 1; (at = strchr(at, '/')) != NULL; *at++ = '/') {
		*at = '\0';
		if (mkdir(folder, 0755) < 0 && errno != EEXIST)
			must(-1);
	}
}

static void copy_file(const char *root, const char *path)
{
	char to[600];
	static char block[1 << 16];
	snprintf(to, sizeof(to), "%s%s", root, path);
	if (access(to, F_OK) == 0)
		return;
	make_way(root, path);
	int in = must(open(path, O_RDONLY | O_CLOEXEC));
	int out = must(open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0755));
	for (ssize_t n; (n = must(read(in, block, sizeof(block)))) > 0;)
		must(write(out, block, (size_t)n));
	close(in);
	close(out);
}

/* The program, its libraries, and what starts it. */
static void copy_program(const char *root)
{
	char line[700], path[600];
	FILE *f = fopen("/proc/self/maps", "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%*s %*s %*s %*s %*s %599s", path) == 1 && path[0] == '/')
			copy_file(root, path);
	if (f)
		fclose(f);
	copy_file(root, "/lib64/ld-linux-x86-64.so.2");
}

/* Libraries have other names by which they are looked for. */
static void link_folders(const char *root)
{
	static const char *const folders[] = {"/lib", "/lib64"};
	char path[600], target[200];
	for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
		ssize_t n = readlink(folders[i], target, sizeof(target) - 1);
		if (n < 0)
			continue;
		target[n] = '\0';
		snprintf(path, sizeof(path), "%s%s", root, folders[i]);
		must(symlink(target, path));
		snprintf(path, sizeof(path), "/%s/", target);
		make_way(root, path);
	}
}

static void write_words(const char *folder, const char *name, const char *text)
{
	char path[300];
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	FILE *f = fopen(path, "we");
	if (!f || fputs(text, f) < 0 || fclose(f))
		must(-1);
}

static void mount_at(const char *source, const char *point, const char *type, unsigned long flags,
		     const char *options)
{
	if (mkdir(point, 0755) < 0 && errno != EEXIST)
		must(-1);
	must(mount(source, point, type, flags, options));
}

static void bind_readonly(const char *what, const char *point, unsigned long flags)
{
	must(mount(what, point, NULL, MS_BIND, NULL));
	must(mount(NULL, point, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | flags, NULL));
}

static void make_devices(void)
{
	mount_at("tmpfs", "/dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=64k");
	must(mknod("/dev/null", S_IFCHR | 0666, makedev(1, 3)));
	must(chmod("/dev/null", 0666));
	must(symlink("pts/ptmx", "/dev/ptmx"));
	must(mkdir("/dev/shm", 0755));
	file_put("/dev/shm/under", 0600, 20, BYTES); /* hidden by the next */
	mount_at("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=256k");
	file_put("/dev/shm/file", 0640, 21, BYTES);
	mount_at("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
		 "newinstance,ptmxmode=0666,mode=0620");
	mount_at("mqueue", "/dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}

static void make_mounts(const struct state *s)
{
	mount_at("proc", "/proc", "proc", 0, NULL);
	make_devices();
	mount_at("sysfs", "/sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_at("tmpfs", "/sys/firmware", "tmpfs", MS_RDONLY, NULL);
	bind_readonly("/proc/sys", "/proc/sys", 0);
	must(mount("/dev/null", "/proc/keys", NULL, MS_BIND, NULL));
	mount_at("tmp", "/own", "tmpfs", MS_NODEV | MS_NOATIME, "mode=1777,size=1m");
	must(mkdir("/own/part", 0700));
	file_put("/own/part/file", 0604, 22, BYTES);
	must(mkdir("/srv", 0755));
	bind_readonly("/own/part", "/srv", MS_NOEXEC);
	must(mkdir("/again", 0755));
	must(mount("/stays", "/again", NULL, MS_BIND, NULL));
	if (!strcmp(s->what, "groups")) {
		mount_at("one", "/one", "tmpfs", 0, "size=1m");
		must(mkdir("/one/a", 0700));
		must(mkdir("/one/b", 0700));
		must(mount(NULL, "/one", NULL, MS_SHARED, NULL));
		must(mkdir("/peer", 0700));
		must(mkdir("/slave", 0700));
		must(mkdir("/both", 0700));
		must(mkdir("/alone", 0700));
		must(mount("/one", "/peer", NULL, MS_BIND, NULL));
		must(mount("/one", "/slave", NULL, MS_BIND, NULL));
		must(mount(NULL, "/slave", NULL, MS_SLAVE, NULL));
		must(mount("/slave", "/both", NULL, MS_BIND, NULL));
		must(mount(NULL, "/both", NULL, MS_SHARED, NULL));
		must(mount("/one", "/alone", NULL, MS_BIND, NULL));
		must(mount(NULL, "/alone", NULL, MS_PRIVATE, NULL));
	}
	if (!strcmp(s->what, "sealed"))
		must(mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NODEV, NULL));
}

/* A folder outside that passes on what is mounted in it. */
static void make_shared(const char *folder)
{
	char out[400];
	snprintf(out, sizeof(out), "%s/out", folder);
	mount_at("out", out, "tmpfs", 0, "size=1m");
	must(mount(NULL, out, NULL, MS_SHARED, NULL));
}

static void keep_shared(const char *folder, const char *root, const struct state *s)
{
	char from[400], to[500];
	snprintf(from, sizeof(from), "%s/out", folder);
	snprintf(to, sizeof(to), "%s/out", root);
	must(mkdir(to, 0755));
	must(mount(from, to, NULL, MS_BIND, NULL));
	if (!strcmp(s->what, "receives"))
		must(mount(NULL, to, NULL, MS_SLAVE, NULL));
	must(mount(NULL, from, NULL, MS_PRIVATE, NULL));
}

/* Mount the new root where it also is after a restore, and go there. */
static void enter(const char *folder, const struct state *s)
{
	char root[400], box[500], words[1000];
	snprintf(root, sizeof(root), "%s/root", folder);
	must(mkdir(root, 0755));
	link_folders(root);
	copy_program(root);
	bool goes_out = !strcmp(s->what, "receives") || !strcmp(s->what, "shares");
	must(mount(root, root, NULL, MS_BIND, NULL));
	if (goes_out)
		make_shared(folder);
	must(unshare(CLONE_NEWNS));
	if (goes_out)
		keep_shared(folder, root, s);
	else
		must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	write_words(folder, "words.dump",
		    goes_out ? "--external\nmnt[/box]:box\n--external\nmnt[/out]:out\n"
			     : "--external\nmnt[/box]:box\n");
	snprintf(words, sizeof(words), "--external\nmnt[box]:%s\n--root\n%s\n%s%s%s", folder, root,
		 goes_out ? "--external\nmnt[out]:" : "", goes_out ? folder : "", goes_out ? "/out\n" : "");
	write_words(folder, "words.restore", words);
	snprintf(box, sizeof(box), "%s/box", root);
	must(mkdir(box, 0755));
	snprintf(box, sizeof(box), "%s/proc", root);
	must(mkdir(box, 0755));
	snprintf(box, sizeof(box), "%s/sys", root);
	must(mkdir(box, 0755));
	snprintf(box, sizeof(box), "%s/box", root);
	must(mount(folder, box, NULL, MS_BIND, NULL));
	must(chdir(root));
	must(syscall(SYS_pivot_root, ".", "."));
	must(umount2(".", MNT_DETACH));
	must(chdir("/"));
	must(mkdir("/stays", 0755));
	file_put("/stays/file", 0600, 10, BYTES);
	make_mounts(s);
}

/* ---------------------------------------------------------------------- proofs */

static void expect_type(struct program *p, const char *point, long magic)
{
	struct statfs fs = {0};
	expect(p, statfs(point, &fs) == 0, "%s: %s", point, strerror(errno));
	expect_same(p, point, fs.f_type, magic);
}

static void expect_sealed(struct program *p, const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	expect(p, fd < 0 && errno == EROFS, "%s can be written to", path);
	if (fd >= 0)
		close(fd);
}

static void line_of_process(pid_t pid, const char *point, char *ret, size_t n)
{
	char line[1000], here[400];
	snprintf(line, sizeof(line), "/proc/%d/mountinfo", pid);
	FILE *f = fopen(line, "re");
	ret[0] = '\0';
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%*s %*s %*s %*s %399s", here) == 1 && !strcmp(here, point))
			snprintf(ret, n, "%s", strchr(strstr(line, here), ' '));
	if (f)
		fclose(f);
}

static void line_of(const char *point, char *ret, size_t n)
{
	line_of_process(getpid(), point, ret, n);
}

static void expect_mounted(struct program *p, const char *point, const char *word)
{
	char line[1000];
	line_of(point, line, sizeof(line));
	expect(p, strstr(line, word) != NULL, "'%s' lacks '%s': '%s'", point, word, line);
}

/* Both lead to the same file. */
static void expect_same_file(struct program *p, int fd, const char *path)
{
	struct stat mine = {0}, named = {0};
	expect(p, fstat(fd, &mine) == 0 && stat(path, &named) == 0, "%s: %s", path, strerror(errno));
	expect(p, mine.st_ino == named.st_ino && mine.st_dev == named.st_dev, "%s is another", path);
}

static void expect_contents(struct program *p, int fd, uint64_t seed)
{
	expect_same(p, "bytes", pread(fd, buffer, BYTES, 0), BYTES);
	expect(p, pattern_differs(buffer, BYTES, seed) < 0, "an open file differs");
}

static void verify_paths(struct program *p)
{
	struct stat st = {0};
	char cwd[100] = "", exe[600] = "";
	expect(p, getcwd(cwd, sizeof(cwd)) && !strcmp(cwd, "/own/part"), "working directory is '%s'", cwd);
	expect(p, readlink("/proc/self/root", exe, sizeof(exe) - 1) > 0 && !strcmp(exe, "/"), "root is '%s'",
	       exe);
	expect(p, stat("/proc/keys", &st) == 0 && st.st_rdev == makedev(1, 3), "/proc/keys is no /dev/null");
	expect(p, access("/proc/1/status", F_OK) == 0, "/proc shows nothing");
	expect(p, access("/etc/passwd", F_OK) < 0, "the old root is there");
	expect(p, access("/box/log", F_OK) == 0, "the folder from outside is not there");
}

static int connected(const char *path)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	snprintf(name.sun_path, sizeof(name.sun_path), "%s", path);
	int fd = must(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	if (connect(fd, (struct sockaddr *)&name, sizeof(name)) == 0)
		return fd;
	int code = errno;
	close(fd);
	errno = code;
	return -1;
}

static void verify_files(struct program *p, const struct state *s)
{
	static const char *const names[] = {"/stays", "/own"};
	char path[100];
	for (int i = 0; i < 2; i++) {
		struct stat st = {0};
		expect_contents(p, s->gone[i], 40);
		expect(p, fstat(s->gone[i], &st) == 0 && !st.st_nlink, "a deleted file has a name");
		snprintf(path, sizeof(path), "%s/gone", names[i]);
		expect(p, access(path, F_OK) < 0, "%s is there", path);
		expect_contents(p, s->renamed[i], 41);
		snprintf(path, sizeof(path), "%s/second", names[i]);
		expect_same_file(p, s->renamed[i], path);
		snprintf(path, sizeof(path), "%s/first", names[i]);
		expect(p, access(path, F_OK) < 0, "%s is there", path);
	}
	struct sockaddr_un name = {0};
	socklen_t n = sizeof(name);
	expect(p,
	       getsockname(s->ends[1], (struct sockaddr *)&name, &n) == 0 &&
		       !strcmp(name.sun_path, "/own/socket"),
	       "a socket is called '%s'", name.sun_path);
	char letter = 0;
	expect(p, write(s->ends[0], "x", 1) == 1 && read(s->ends[1], &letter, 1) == 1 && letter == 'x',
	       "a connection passes nothing on");
	int another = connected("/own/socket");
	expect(p, another >= 0, "nobody listens: %s", strerror(errno));
	int accepted = another < 0 ? -1 : accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
	expect(p, accepted >= 0, "nobody is accepted: %s", strerror(errno));
	close(accepted);
	close(another);
	expect_same_file(p, s->fifo, "/stays/fifo");
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	expect_type(p, "/proc", PROC_SUPER_MAGIC);
	expect_type(p, "/dev", TMPFS_MAGIC);
	expect_type(p, "/dev/pts", DEVPTS_SUPER_MAGIC);
	expect_type(p, "/dev/shm", TMPFS_MAGIC);
	expect_type(p, "/dev/mqueue", 0x19800202);
	expect_type(p, "/sys", SYSFS_MAGIC);
	expect_type(p, "/sys/firmware", TMPFS_MAGIC);
	expect_type(p, "/proc/sys", PROC_SUPER_MAGIC);
	verify_paths(p);
	expect_sealed(p, "/proc/sys/kernel/domainname");
	expect_sealed(p, "/sys/firmware/file");
	expect_sealed(p, "/srv/new");
	expect_mounted(p, "/", " - ");
	expect_mounted(p, "/dev", "rw,nosuid - tmpfs tmpfs rw,size=64k,mode=755");
	expect_mounted(p, "/own", "rw,nodev,noatime - tmpfs tmp rw,size=1024k");
	expect_mounted(p, "/sys", "ro,nosuid,nodev,noexec,relatime - sysfs sysfs");
	expect_mounted(p, "/srv", "ro,noexec");
	file_expect(p, "/stays/file", 0600, 10, BYTES);
	file_expect(p, "/again/file", 0600, 10, BYTES);
	file_expect(p, "/dev/shm/file", 0640, 21, BYTES);
	file_expect(p, "/srv/file", 0604, 22, BYTES);
	file_expect(p, "/own/part/file", 0604, 22, BYTES);
	expect_same_file(p, s->in_root, "/stays/file");
	expect_same_file(p, s->in_tmpfs, "/srv/file");
	expect_same_file(p, s->folder, "/dev");
	expect_same(p, "position", lseek(s->in_tmpfs, 0, SEEK_CUR), 77);
	if (!strcmp(s->what, "files"))
		verify_files(p, s);
	if (!strcmp(s->what, "hidden")) {
		file_expect(p, "/stack/file", 0600, 32, BYTES);
	}
	if (!strcmp(s->what, "hidden") && p->more) {
		expect_contents(p, s->hidden[0], 30);
		expect_contents(p, s->hidden[1], 31);
	}
	if (!strcmp(s->what, "sealed")) {
		expect_sealed(p, "/new");
		expect_mounted(p, "/", "ro,nodev");
	}
}

static bool is_mounted(const char *point)
{
	char line[1000];
	line_of(point, line, sizeof(line));
	return line[0];
}

/* What is mounted in one is there in those that it passes it on to, and nowhere else. */
static void prove_groups(struct program *p)
{
	must(mount("new", "/peer/a", "tmpfs", 0, NULL));
	expect(p, is_mounted("/one/a") && is_mounted("/slave/a") && is_mounted("/both/a"),
	       "a mount is not passed on");
	expect(p, !is_mounted("/alone/a"), "a private mount gets one");
	must(mount("new", "/both/b", "tmpfs", 0, NULL));
	expect(p, !is_mounted("/one/b") && !is_mounted("/slave/b"),
	       "a slave passes on what is mounted in it");
}

static void prove_below(struct program *p, const struct state *s)
{
	char line[1000];
	expect(p, is_mounted("/srv"), "the child has unmounted something here");
	must(mount("late", "/shared/late", "tmpfs", 0, NULL));
	line_of_process(s->child, "/shared/late", line, sizeof(line));
	expect(p, line[0], "what is mounted here does not arrive in the child's namespace");
}

static void prove_hidden(struct program *p, const struct state *s)
{
	must(umount2("/stack", MNT_DETACH));
	file_expect(p, "/stack/file", 0600, 31, BYTES);
	if (p->more)
		expect_same_file(p, s->hidden[1], "/stack/file");
	expect_mounted(p, "/stack", "noexec");
	must(umount2("/stack", MNT_DETACH));
	file_expect(p, "/stack/deep/file", 0600, 30, BYTES);
	if (p->more)
		expect_same_file(p, s->hidden[0], "/stack/deep/file");
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	verify(p, state);
	if (!strcmp(s->what, "groups"))
		prove_groups(p);
	if (!strcmp(s->what, "hidden"))
		prove_hidden(p, s);
	if (!strcmp(s->what, "below"))
		prove_below(p, s);
	if (!strcmp(s->what, "shares")) {
		must(mkdir("/out/ours", 0755));
		must(mount("ours", "/out/ours", "tmpfs", 0, NULL));
	}
	must(umount2("/dev/shm", MNT_DETACH));
	file_expect(p, "/dev/shm/under", 0600, 20, BYTES);
}

static void spoil(void *state unused)
{
	must(umount2("/own", MNT_DETACH));
}

static void make_hidden(const struct program *p, struct state *s)
{
	must(mkdir("/stack", 0755));
	must(mkdir("/stack/deep", 0755));
	mount_at("deep", "/stack/deep", "tmpfs", 0, "size=1m");
	file_put("/stack/deep/file", 0600, 30, BYTES);
	if (p->more)
		s->hidden[0] = must(open("/stack/deep/file", O_RDWR | O_CLOEXEC));
	mount_at("first", "/stack", "tmpfs", MS_NOEXEC, "size=1m");
	file_put("/stack/file", 0600, 31, BYTES);
	if (p->more)
		s->hidden[1] = must(open("/stack/file", O_RDONLY | O_CLOEXEC));
	mount_at("second", "/stack", "tmpfs", MS_NOSUID, "size=1m");
	file_put("/stack/file", 0600, 32, BYTES);
}

static void make_files(struct state *s)
{
	static const char *const folders[] = {"/stays", "/own"};
	struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "/own/socket"};
	for (int i = 0; i < 2; i++) {
		must(chdir(folders[i]));
		file_put("gone", 0640, 40, BYTES);
		s->gone[i] = must(open("gone", O_RDWR | O_CLOEXEC));
		must(unlink("gone"));
		file_put("first", 0640, 41, BYTES);
		s->renamed[i] = must(open("first", O_RDWR | O_CLOEXEC));
		must(link("first", "second"));
		must(unlink("first"));
	}
	s->listener = must(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	must(bind(s->listener, (struct sockaddr *)&name, sizeof(name)));
	must(listen(s->listener, 5));
	s->ends[0] = must(connected(name.sun_path));
	s->ends[1] = must(accept4(s->listener, NULL, NULL, SOCK_CLOEXEC));
	must(mkfifo("/stays/fifo", 0600));
	s->fifo = must(open("/stays/fifo", O_RDWR | O_CLOEXEC));
}

/* -------------------------------------------------------- a namespace below it */

static void verify_below(struct program *p, void *state)
{
	const struct state *s = state;
	char cwd[100] = "";
	file_expect(p, "/own/mine", 0600, 50, BYTES);
	file_expect(p, "/stays/file", 0600, 10, BYTES);
	expect_sealed(p, "/stays/new");
	expect_mounted(p, "/stays", "ro,nosuid");
	expect_mounted(p, "/shared", " master:");
	expect(p, access("/own/part", F_OK) < 0 && access("/srv/file", F_OK) < 0,
	       "the others' folders are there");
	expect_same_file(p, s->in_tmpfs, "/own/mine");
	expect_same(p, "position", lseek(s->in_tmpfs, 0, SEEK_CUR), 12);
	expect(p, getcwd(cwd, sizeof(cwd)) && !strcmp(cwd, "/own"), "working directory is '%s'", cwd);
	expect_type(p, "/dev/shm", TMPFS_MAGIC);
	file_expect(p, "/dev/shm/file", 0640, 21, BYTES);
}

static __attribute__((noreturn)) void live_below(const struct program *p)
{
	static const struct program_ops ops = {.verify = verify_below};
	static struct state s;
	struct program role = program_role(p, "below");
	must(unshare(CLONE_NEWNS));
	must(mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL));
	must(mount("private", "/own", "tmpfs", MS_NODEV, "size=1m,mode=1777"));
	file_put("/own/mine", 0600, 50, BYTES);
	must(umount2("/srv", MNT_DETACH));
	bind_readonly("/stays", "/stays", MS_NOSUID);
	must(chdir("/own"));
	s.in_tmpfs = must(open("mine", O_RDWR | O_CLOEXEC));
	must(lseek(s.in_tmpfs, 12, SEEK_SET));
	_exit(program_serve(&role, &ops, &s));
}

static void make_below(const struct program *p, struct state *s)
{
	mount_at("shared", "/shared", "tmpfs", 0, "size=1m");
	must(mkdir("/shared/late", 0755));
	must(mount(NULL, "/shared", NULL, MS_SHARED, NULL));
	s->child = must(fork());
	if (!s->child)
		live_below(p);
	program_await(p, "below");
}

/* Those that it was started with lead to files outside. */
static void take_descriptors(void)
{
	int in = must(open("/dev/null", O_RDONLY)), out = must(open("/box/log", O_WRONLY | O_APPEND));
	must(dup2(in, STDIN_FILENO));
	must(dup2(out, STDOUT_FILENO));
	must(dup2(out, STDERR_FILENO));
	must(syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, 0));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static const char *const words[] = {"plain",    "hidden", "groups", "sealed",
					    "receives", "shares", "files",  "below"};
	static struct state s;
	struct program p;
	program_start(&p, argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (program_told(argc, argv, words[i]))
			s.what = words[i];
	if (!program_told(argc, argv, "inside")) {
		char exe[500] = "";
		must(readlink("/proc/self/exe", exe, sizeof(exe) - 1));
		enter(p.folder, &s);
		execl(exe, exe, "/box", s.what, p.more ? "more" : "inside", "inside", NULL);
		must(-1);
	}
	take_descriptors();
	s.in_root = must(open("/stays/file", O_RDONLY | O_CLOEXEC));
	s.in_tmpfs = must(open("/srv/file", O_RDONLY | O_CLOEXEC));
	s.folder = must(open("/dev", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	must(lseek(s.in_tmpfs, 77, SEEK_SET));
	if (!strcmp(s.what, "files"))
		make_files(&s);
	if (!strcmp(s.what, "hidden"))
		make_hidden(&p, &s);
	if (!strcmp(s.what, "below"))
		make_below(&p, &s);
	must(chdir("/own/part"));
	return program_serve(&p, &ops, &s);
}
