/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns which criu and which runtime an engine would start: by PATH, containers.conf(5), daemon.json and the loader's configuration. It
 * asks crun and criu for their versions; engines themselves are not started.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <link.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <json-c/json.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/spawn.h"
#include "doctor/doctor.h"

extern char **environ;

enum { ASK_MS = 500, ASK_BYTES = 4096, FILE_BYTES = 1 << 20 };

/* ---------------------------------------------------------------- looking things up */

/* A program by PATH; "" when there is none. */
static void find_program(const char *name, char ret[static 256])
{
	_cleanup_free_ char *found = NULL;
	int n = spawn_find(name, &found) < 0 ? 0 : snprintf(ret, 256, "%s", found);
	if (n <= 0 || n >= 256)
		*ret = '\0';
}

/* What a program answers, cut short; "" when it does not. */
static void ask_program(const char *path, char ret[static ASK_BYTES])
{
	char word[] = "--version";
	char *const argv[] = {(char *)path, word, NULL};
	int pair[2];
	pid_t pid = -1;
	size_t n = 0;
	*ret = '\0';
	if (pipe2(pair, O_CLOEXEC) < 0)
		return;
	const int stdio[] = {SPAWN_NULL, pair[1], SPAWN_NULL};
	if (spawn_program(argv, false, environ, stdio, &pid) < 0)
		pid = -1;
	close(pair[1]);
	struct pollfd p = {.fd = pair[0], .events = POLLIN};
	while (pid > 0 && n < ASK_BYTES - 1 && poll(&p, 1, ASK_MS) > 0) {
		ssize_t got = read(pair[0], ret + n, ASK_BYTES - 1 - n);
		if (got <= 0)
			break;
		n += (size_t)got;
	}
	ret[n] = '\0';
	close(pair[0]);
	if (pid > 0) {
		kill(pid, SIGKILL);
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			continue;
	}
}

/* The value of a key of a section of a TOML file, without its quotes; over what is in ret already. */
static void read_toml(const char *path, const char *section, const char *key, char ret[static 64])
{
	_cleanup_fclose_ FILE *in = fopen(path, "re");
	_cleanup_free_ char *line = NULL;
	size_t room = 0;
	bool inside = false;
	while (in && getline(&line, &room, in) >= 0) {
		char head[64], name[64], value[64];
		if (sscanf(line, " [%63[^]]]", head) == 1)
			inside = !strcmp(head, section);
		else if (inside && sscanf(line, " %63[a-z_] = \"%63[^\"]\"", name, value) == 2 &&
			 !strcmp(name, key))
			snprintf(ret, 64, "%s", value);
	}
}

static void read_toml_all(const char *pattern, const char *section, const char *key, char ret[static 64])
{
	glob_t found = {0};
	if (glob(pattern, 0, NULL, &found) == 0)
		for (size_t i = 0; i < found.gl_pathc; i++)
			read_toml(found.gl_pathv[i], section, key, ret);
	globfree(&found);
}

/* ---------------------------------------------------------------- what a runtime starts */

static void engine_criu(struct doctor *d, struct doctor_engine *e)
{
	char said[ASK_BYTES];
	find_program("criu", e->criu);
	if (!*e->criu) {
		doctor_find(d, DOCTOR_FAIL, e->name,
			    "make install CRIU_COMPAT=1, or install the package ferry-criu",
			    "there is no criu in PATH, which it starts for checkpoints");
		return;
	}
	ask_program(e->criu, said);
	const char *version = strstr(said, "Version: "), *ferry = strstr(said, "\nferry: ");
	if (version)
		snprintf(e->criu_version, sizeof(e->criu_version), "%.*s", (int)strcspn(version + 9, "\n"),
			 version + 9);
	e->is_ferry = ferry != NULL;
	if (!version)
		doctor_find(d, DOCTOR_FAIL, e->name, "look what it says: criu --version",
			    "'%s' does not tell its version", e->criu);
	else if (!ferry)
		doctor_find(
			d, DOCTOR_WARN, e->name,
			"put the folder of ferry's criu before that in PATH (make install CRIU_COMPAT=1 takes "
			"/usr/local/sbin), or install the package ferry-criu",
			"the criu that it starts is not ferry: '%s' (CRIU %s)", e->criu, e->criu_version);
}

/* Which one the loader takes. */
static void engine_library(struct doctor *d, struct doctor_engine *e)
{
	struct link_map *map = NULL;
	void *library = dlopen("libcriu.so.2", RTLD_LAZY | RTLD_LOCAL);
	if (!library) {
		doctor_find(d, DOCTOR_FAIL, e->name,
			    "make install CRIU_COMPAT=1 (and ldconfig), or install the package ferry-criu",
			    "the loader finds no libcriu.so.2, which it needs for checkpoints");
		return;
	}
	if (dlinfo(library, RTLD_DI_LINKMAP, &map) == 0)
		snprintf(e->library, sizeof(e->library), "%s", map->l_name);
	dlclose(library);
}

static bool cgroups_are_hybrid(void)
{
	return access("/sys/fs/cgroup/unified/cgroup.procs", F_OK) == 0;
}

static void engine_crun(struct doctor *d, struct doctor_engine *e)
{
	char said[ASK_BYTES];
	ask_program(e->runtime_path, said);
	if (!strstr(said, "+CRIU")) {
		doctor_find(d, DOCTOR_FAIL, e->name,
			    "use runc for it: --runtime runc, or runtime = \"runc\" in containers.conf",
			    "'%s' was built without checkpoints (as Debian 12's is)", e->runtime_path);
		return;
	}
	engine_library(d, e);
	if (cgroups_are_hybrid())
		doctor_find(
			d, DOCTOR_WARN, e->name,
			"unmount /sys/fs/cgroup/unified in a mount namespace of its own (unshare --mount), or use runc",
			"crun refuses to dump where cgroup v1 and v2 are mounted side by side");
}

static void engine_runtime(struct doctor *d, struct doctor_engine *e)
{
	find_program(e->runtime, e->runtime_path);
	if (!*e->runtime_path) {
		doctor_find(d, DOCTOR_FAIL, e->name, "install it, or name another one in the configuration",
			    "its runtime '%s' is not in PATH", e->runtime);
		return;
	}
	const char *name = strrchr(e->runtime_path, '/');
	if (!strcmp(name ? name + 1 : e->runtime_path, "crun"))
		engine_crun(d, e);
	engine_criu(d, e);
}

/* ---------------------------------------------------------------- engines */

static void engine_itself(struct doctor *d unused, struct doctor_engine *e)
{
	snprintf(e->runtime, sizeof(e->runtime), "%s", e->name);
}

/* crun before runc, unless files say something else; each over the one before. */
static void engine_podman(struct doctor *d unused, struct doctor_engine *e)
{
	char crun[256], path[512];
	const char *home = getenv("HOME"), *named = getenv("CONTAINERS_CONF");
	find_program("crun", crun);
	snprintf(e->runtime, sizeof(e->runtime), "%s", *crun ? "crun" : "runc");
	read_toml("/usr/share/containers/containers.conf", "engine", "runtime", e->runtime);
	read_toml("/etc/containers/containers.conf", "engine", "runtime", e->runtime);
	read_toml_all("/etc/containers/containers.conf.d/*.conf", "engine", "runtime", e->runtime);
	snprintf(path, sizeof(path), "%s/.config/containers/containers.conf", home ? home : "/root");
	read_toml(path, "engine", "runtime", e->runtime);
	if (named)
		read_toml(named, "engine", "runtime", e->runtime);
}

static void engine_docker(struct doctor *d, struct doctor_engine *e)
{
	struct json_object *o = json_object_from_file("/etc/docker/daemon.json"), *value, *one;
	bool experimental = false;
	snprintf(e->runtime, sizeof(e->runtime), "runc");
	if (o && json_object_object_get_ex(o, "experimental", &value))
		experimental = json_object_get_boolean(value);
	if (o && json_object_object_get_ex(o, "default-runtime", &value))
		snprintf(e->runtime, sizeof(e->runtime), "%s", json_object_get_string(value));
	if (o && json_object_object_get_ex(o, "runtimes", &value) &&
	    json_object_object_get_ex(value, e->runtime, &one) &&
	    json_object_object_get_ex(one, "path", &one))
		snprintf(e->runtime, sizeof(e->runtime), "%s", json_object_get_string(one));
	if (o)
		json_object_put(o);
	if (!experimental)
		doctor_find(
			d, DOCTOR_FAIL, e->name,
			"write {\"experimental\": true} to /etc/docker/daemon.json and restart it, or start dockerd --experimental",
			"docker checkpoint is there with dockerd's experimental features only");
}

static void engine_containerd(struct doctor *d unused, struct doctor_engine *e)
{
	snprintf(e->runtime, sizeof(e->runtime), "runc");
	read_toml("/etc/containerd/config.toml",
		  "plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options", "BinaryName",
		  e->runtime);
}

/* It starts criu by itself. */
static void engine_lxc(struct doctor *d unused, struct doctor_engine *e)
{
	e->runtime[0] = '\0';
}

static const struct {
	const char *name, *program;
	void (*look)(struct doctor *d, struct doctor_engine *e);
} engines[] = {
	{"runc", "runc", engine_itself},
	{"crun", "crun", engine_itself},
	{"podman", "podman", engine_podman},
	{"docker", "dockerd", engine_docker},
	{"containerd", "containerd", engine_containerd},
	{"lxc", "lxc-checkpoint", engine_lxc},
};

void doctor_look_at_engines(struct doctor *d)
{
	for (size_t i = 0; i < ARRAY_SIZE(engines); i++) {
		struct doctor_engine e = {0}, *slot;
		find_program(engines[i].program, e.path);
		if (!*e.path)
			continue;
		snprintf(e.name, sizeof(e.name), "%s", engines[i].name);
		engines[i].look(d, &e);
		if (*e.runtime)
			engine_runtime(d, &e);
		else
			engine_criu(d, &e);
		slot = vec_push(&d->engines);
		if (slot)
			*slot = e;
	}
}
