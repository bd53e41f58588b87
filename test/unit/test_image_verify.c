/* SPDX-License-Identifier: Apache-2.0 */
#include "image/show.h"

#include <errno.h>
#include <fcntl.h>

#include "base/cleanup.h"
#include "image/pages.h"
#include "image/proto/core.pb-c.h"
#include "image/proto/fdinfo.pb-c.h"
#include "image/proto/fs.pb-c.h"
#include "image/proto/inventory.pb-c.h"
#include "image/proto/memfd.pb-c.h"
#include "image/proto/mm.pb-c.h"
#include "image/proto/pipe-data.pb-c.h"
#include "image/proto/pstree.pb-c.h"
#include "image/proto/seccomp.pb-c.h"
#include "image/proto/sk-packet.pb-c.h"
#include "image/proto/tcp-stream.pb-c.h"
#include "image_tools.h"

/* A small image without contradictions; each test changes one of these. */
struct model {
	uint64_t fdinfo_id, cwd_id, root_id, exe_id, vma_shmid, memfd_inode, pipe_id, queue_for, filter, ppid,
		thread;
	uint64_t run_vaddr, second_vma;
	uint64_t fd_type;   /* FdTypes */
	uint64_t leave_out; /* enum image_kind; IMAGE_INVENTORY = nothing */
	uint64_t extra_pages, twice, parent_pages, two_entries; /* yes or no */
};

static const struct model consistent = {
	.fdinfo_id = 1,
	.cwd_id = 1,
	.root_id = 1,
	.exe_id = 1,
	.vma_shmid = 1,
	.memfd_inode = 3,
	.pipe_id = 55,
	.queue_for = 4,
	.thread = 11,
	.run_vaddr = 0x400000,
	.second_vma = 0x500000,
	.fd_type = FD_TYPES__REG,
};

static void put(struct image_dir *dir, const struct model *m, enum image_kind kind, uint64_t id,
		const ProtobufCMessage *message)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	if (m->leave_out == kind && kind != IMAGE_INVENTORY)
		return;
	if (image_put_one(dir, kind, id, message, &err) < 0)
		fail_msg("%s", err.message);
}

static void put_core(struct image_dir *dir, const struct model *m, uint32_t tid, bool leader)
{
	ThreadCoreEntry thread = THREAD_CORE_ENTRY__INIT;
	TaskCoreEntry task = TASK_CORE_ENTRY__INIT;
	CoreEntry core = CORE_ENTRY__INIT;
	core.mtype = CORE_ENTRY__MARCH__X86_64;
	thread.has_seccomp_filter = 1;
	thread.seccomp_filter = (uint32_t)m->filter;
	core.thread_core = &thread;
	task.task_state = 1;
	task.comm = (char *)"prog\x1b[31m";
	core.tc = leader ? &task : NULL;
	put(dir, m, IMAGE_CORE, tid, &core.base);
}

static void put_files(struct image_dir *dir, const struct model *m)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct image_writer *w = NULL;
	FownEntry fown = FOWN_ENTRY__INIT;
	SkOptsEntry opts = SK_OPTS_ENTRY__INIT;
	RegFileEntry reg = REG_FILE_ENTRY__INIT;
	PipeEntry pipe = PIPE_ENTRY__INIT;
	MemfdFileEntry memfd = MEMFD_FILE_ENTRY__INIT;
	InetSkEntry sk = INET_SK_ENTRY__INIT;
	uint32_t address = 0x0100007f;
	reg.fown = pipe.fown = memfd.fown = sk.fown = &fown;
	reg.name = (char *)"/bin/prog";
	pipe.pipe_id = 55;
	memfd.inode_id = (uint32_t)m->memfd_inode;
	sk.opts = &opts;
	sk.proto = 6;
	sk.state = 1;
	sk.ino = 0xabc;
	sk.src_port = 80;
	sk.dst_port = 1234;
	sk.src_addr = sk.dst_addr = &address;
	sk.n_src_addr = sk.n_dst_addr = 1;
	FileEntry files[] = {FILE_ENTRY__INIT, FILE_ENTRY__INIT, FILE_ENTRY__INIT, FILE_ENTRY__INIT};
	files[0].type = FD_TYPES__REG;
	files[0].reg = &reg;
	files[1].type = FD_TYPES__PIPE;
	files[1].pipe = &pipe;
	files[2].type = FD_TYPES__MEMFD;
	files[2].memfd = &memfd;
	files[3].type = FD_TYPES__INETSK;
	files[3].isk = &sk;
	assert_int_equal(image_create(dir, IMAGE_FILES, 0, &w, &err), 0);
	for (uint32_t i = ARRAY_SIZE(files); i-- > 0;) {
		files[i].id = m->twice && i ? 2 : i + 1;
		assert_int_equal(image_put(w, &files[i].base, &err), 0);
	}
	assert_int_equal(image_close(w, &err), 0);
}

static void put_memory(struct image_dir *dir, const struct model *m)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct image_pages_writer *w = NULL;
	VmaEntry file = VMA_ENTRY__INIT, shared = VMA_ENTRY__INIT, *vmas[] = {&file, &shared};
	MmEntry mm = MM_ENTRY__INIT;
	file.start = 0x400000;
	file.end = 0x402000;
	file.status = 1 | 1 << 6;
	file.shmid = m->vma_shmid;
	shared.start = m->second_vma;
	shared.end = 0x501000;
	shared.status = 1 | 1 << 8;
	shared.shmid = 900;
	mm.exe_file_id = (uint32_t)m->exe_id;
	mm.vmas = vmas;
	mm.n_vmas = 2;
	put(dir, m, IMAGE_MM, 10, &mm.base);
	uint8_t page[IMAGE_PAGE_BYTES * 2] = {1};
	struct iovec iov = {page, sizeof(page)};
	if (m->leave_out != IMAGE_PAGEMAP) {
		assert_int_equal(image_pages_create(dir, IMAGE_PAGEMAP, 10, &w, &err), 0);
		assert_int_equal(image_pages_add(w, m->run_vaddr, 2, 0, &iov, 1, &err), 0);
		if (m->parent_pages)
			assert_int_equal(image_pages_add_reference(w, 0x500000, 1, IMAGE_PE_PARENT, &err), 0);
		assert_int_equal(image_pages_close(w, &err), 0);
	}
	if (m->leave_out != IMAGE_SHMEM_PAGEMAP) {
		assert_int_equal(image_pages_create(dir, IMAGE_SHMEM_PAGEMAP, 900, &w, &err), 0);
		assert_int_equal(image_pages_close(w, &err), 0);
	}
	struct image_writer *extra = NULL;
	if (m->extra_pages) {
		assert_int_equal(image_create(dir, IMAGE_PAGES, 99, &extra, &err), 0);
		assert_int_equal(image_close(extra, &err), 0);
	}
}

static void put_tree(struct image_dir *dir, const struct model *m)
{
	uint32_t threads[] = {10, (uint32_t)m->thread};
	PstreeEntry task = PSTREE_ENTRY__INIT;
	task.pid = 10;
	task.ppid = (uint32_t)m->ppid;
	task.threads = threads;
	task.n_threads = 2;
	put(dir, m, IMAGE_PSTREE, 0, &task.base);
	put_core(dir, m, 10, true);
	if (m->leave_out != IMAGE_CORE)
		put_core(dir, m, 11, false);
	TaskKobjIdsEntry ids = TASK_KOBJ_IDS_ENTRY__INIT;
	ids.files_id = 7;
	put(dir, m, IMAGE_IDS, 10, &ids.base);
	FsEntry fs = FS_ENTRY__INIT;
	fs.cwd_id = (uint32_t)m->cwd_id;
	fs.root_id = (uint32_t)m->root_id;
	put(dir, m, IMAGE_FS, 10, &fs.base);
	FdinfoEntry fd = FDINFO_ENTRY__INIT;
	fd.id = (uint32_t)m->fdinfo_id;
	fd.type = (FdTypes)m->fd_type;
	fd.fd = 3;
	put(dir, m, IMAGE_FDINFO, 7, &fd.base);
	SeccompFilter filter = SECCOMP_FILTER__INIT, *filters[] = {&filter};
	SeccompEntry seccomp = SECCOMP_ENTRY__INIT;
	seccomp.seccomp_filters = filters;
	seccomp.n_seccomp_filters = 1;
	put(dir, m, IMAGE_SECCOMP, 0, &seccomp.base);
}

static void put_queues(struct image_dir *dir, const struct model *m)
{
	MemfdInodeEntry inode = MEMFD_INODE_ENTRY__INIT;
	inode.name = (char *)"m";
	inode.inode_id = 3;
	put(dir, m, IMAGE_MEMFD_INODE, 0, &inode.base);
	PipeDataEntry pipe = PIPE_DATA_ENTRY__INIT;
	pipe.pipe_id = (uint32_t)m->pipe_id;
	put(dir, m, IMAGE_PIPES_DATA, 0, &pipe.base);
	SkPacketEntry packet = SK_PACKET_ENTRY__INIT;
	packet.id_for = (uint32_t)m->queue_for;
	put(dir, m, IMAGE_SK_QUEUES, 0, &packet.base);
	TcpStreamEntry tcp = TCP_STREAM_ENTRY__INIT;
	put(dir, m, IMAGE_TCP_STREAM, 0xabc, &tcp.base);
}

static void make_image(const char *path, const struct model *m)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	_cleanup_image_dir_ struct image_dir *dir = NULL;
	const struct image_dir_create options = {.no_sync = true, .overwrite = true};
	assert_int_equal(image_dir_create(AT_FDCWD, path, &options, &dir, &err), 0);
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;
	inventory.img_version = 2;
	put(dir, m, IMAGE_INVENTORY, 0, &inventory.base);
	put_files(dir, m);
	put_memory(dir, m);
	put_tree(dir, m);
	put_queues(dir, m);
	struct image_writer *w = NULL;
	if (m->two_entries) {
		FsEntry fs = FS_ENTRY__INIT;
		assert_int_equal(image_create(dir, IMAGE_FS, 77, &w, &err), 0);
		assert_int_equal(image_put(w, &fs.base, &err), 0);
		assert_int_equal(image_put(w, &fs.base, &err), 0);
		assert_int_equal(image_close(w, &err), 0);
	}
	if (image_dir_finish(dir, &err) < 0)
		fail_msg("%s", err.message);
}

/* The verb's output, and its result. */
static char *run(int argc, const char **argv, int *ret, struct ferry_error *err)
{
	char *text = NULL;
	size_t n;
	FILE *out = open_memstream(&text, &n);
	error_clear(err);
	*ret = image_verb(argc, (char **)argv, out, NULL, err);
	fclose(out);
	return text;
}

static void no_contradiction(void **state)
{
	char path[256];
	int r;
	struct ferry_error err = FERRY_ERROR_INIT;
	scratch_path(*state, "a", path);
	make_image(path, &consistent);
	const char *argv[] = {"verify", path};
	_cleanup_free_ char *text = run(2, argv, &r, &err);
	if (r < 0)
		fail_msg("%s", text);
	assert_non_null(strstr(text, "1 tasks, 4 file descriptions: no contradiction"));
}

static void every_contradiction_is_named(void **state)
{
	static const struct {
		const char *what;
		size_t field;
		uint64_t value;
	} cases[] = {
#define BREAK(what, field, value) {what, offsetof(struct model, field), value}
		BREAK("fdinfo-7.img: descriptor 3 names file id 9", fdinfo_id, 9),
		BREAK("descriptor 3 and files.img give file id 1 different types", fd_type, FD_TYPES__PIPE),
		BREAK("fs-10.img: the working directory names file id 8", cwd_id, 8),
		BREAK("fs-10.img: the root directory names file id 8", root_id, 8),
		BREAK("mm-10.img: the program names file id 8", exe_id, 8),
		BREAK("mm-10.img: mapping 0x400000 names file id 8", vma_shmid, 8),
		BREAK("file id 3 names memfd inode 4", memfd_inode, 4),
		BREAK("pipes-data.img has data of pipe 56", pipe_id, 56),
		BREAK("sk-queues.img: a packet names file id 5", queue_for, 5),
		BREAK("core-10.img names seccomp filter 1", filter, 1),
		BREAK("the parent 5 of task 10 is not in the tree", ppid, 5),
		BREAK("core-12.img is missing", thread, 12),
		BREAK("page 0x402000 lies in no mapping", run_vaddr, 0x401000),
		BREAK("mapping 0x401000 overlaps", second_vma, 0x401000),
		BREAK("mapping 0x502000-0x501000 cannot be", second_vma, 0x502000),
		BREAK("mapping 0x500001-0x501000 cannot be", second_vma, 0x500001),
		BREAK("pages-99.img is named by no pagemap", extra_pages, true),
		BREAK("files.img has id 2 twice", twice, true),
		BREAK("refers to pages of a parent image, but there is none", parent_pages, true),
		BREAK("fs-77.img has 2 entries instead of one", two_entries, true),
		BREAK("mm-10.img is missing", leave_out, IMAGE_MM),
		BREAK("pagemap-10.img is missing", leave_out, IMAGE_PAGEMAP),
		BREAK("pagemap-shmem-900.img is missing", leave_out, IMAGE_SHMEM_PAGEMAP),
		BREAK("core-10.img is missing", leave_out, IMAGE_CORE),
		BREAK("ids-10.img is missing", leave_out, IMAGE_IDS),
		BREAK("fs-10.img is missing", leave_out, IMAGE_FS),
		BREAK("fdinfo-7.img is missing", leave_out, IMAGE_FDINFO),
		BREAK("tcp-stream-abc.img is missing", leave_out, IMAGE_TCP_STREAM),
		BREAK("pstree.img lists no task", leave_out, IMAGE_PSTREE),
	};
	char path[256];
	scratch_path(*state, "a", path);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		int r;
		struct ferry_error err = FERRY_ERROR_INIT;
		struct model m = consistent;
		memcpy((char *)&m + cases[i].field, &cases[i].value, sizeof(cases[i].value));
		make_image(path, &m);
		const char *argv[] = {"verify", path};
		_cleanup_free_ char *text = run(2, argv, &r, &err);
		assert_int_equal(r, -EBADMSG);
		assert_int_equal(err.id, FERRY_ERROR_IMAGE_BAD);
		if (!strstr(text, cases[i].what))
			fail_msg("case %zu: '%s' is not in: %s", i, cases[i].what, text);
		/* The first finding is the error. */
		assert_memory_equal(text, err.message, strlen(err.message));
	}
}

static void damaged_files_are_findings(void **state)
{
	char path[256], file[512];
	int r;
	struct ferry_error err = FERRY_ERROR_INIT;
	scratch_path(*state, "a", path);
	make_image(path, &consistent);
	snprintf(file, sizeof(file), "%s/ferry-manifest.img", path);
	assert_int_equal(unlink(file), 0); /* it would see the damage first */
	snprintf(file, sizeof(file), "%s/mm-10.img", path);
	assert_int_equal(truncate(file, 20), 0);
	const char *argv[] = {"verify", path};
	_cleanup_free_ char *text = run(2, argv, &r, &err);
	assert_int_equal(r, -EBADMSG);
	assert_non_null(strstr(text, "mm-10.img, offset"));
}

static void overview_and_info(void **state)
{
	char path[256];
	int r;
	struct ferry_error err = FERRY_ERROR_INIT;
	scratch_path(*state, "a", path);
	make_image(path, &consistent);
	const char *show[] = {"show", path}, *info[] = {"info", path};
	_cleanup_free_ char *text = run(2, show, &r, &err), *list = NULL;
	assert_int_equal(r, 0);
	assert_non_null(strstr(text, "task 10 (prog\\x1b[31m), alive: parent 0"));
	assert_non_null(strstr(text, "program: /bin/prog"));
	assert_non_null(strstr(text, "mappings: 2"));
	assert_non_null(strstr(text, "12.0 KiB mapped, 8.0 KiB stored in 1 runs (pages-1.img)"));
	assert_non_null(strstr(text, "    3  REG        /bin/prog"));
	assert_non_null(strstr(text, "tasks: 1, file descriptions: 4, memory stored: 8.0 KiB"));
	assert_null(strchr(text, '\x1b'));
	list = run(2, info, &r, &err);
	assert_int_equal(r, 0);
	assert_non_null(strstr(list, "files.img                    FILES                       4"));
	assert_non_null(
		strstr(list, "pages-1.img                  PAGES                       -           8192"));
	assert_non_null(strstr(list, "pagemap-10.img               PAGEMAP                     1"));
}

static void verbs_on_files(void **state)
{
	char path[256], file[512], json[256], image[256];
	int r;
	struct ferry_error err = FERRY_ERROR_INIT;
	scratch_path(*state, "a", path);
	scratch_path(*state, "j", json);
	scratch_path(*state, "i", image);
	make_image(path, &consistent);
	snprintf(file, sizeof(file), "%s/fs-10.img", path);

	const char *decode[] = {"decode", "-i", file, "-o", json};
	_cleanup_free_ char *nothing = run(5, decode, &r, &err);
	assert_int_equal(r, 0);
	assert_string_equal(nothing, "");
	size_t n, m;
	_cleanup_free_ uint8_t *text = slurp(json, &n);
	const char *want = "{\"magic\": \"FS\", \"entries\": [{\"cwd_id\": 1, \"root_id\": 1}]}\n";
	assert_int_equal(n, strlen(want));
	assert_memory_equal(text, want, n);

	const char *encode[] = {"encode", json, "-o", image};
	unused _cleanup_free_ char *none = run(4, encode, &r, &err);
	assert_int_equal(r, 0);
	_cleanup_free_ uint8_t *a = slurp(file, &n), *b = slurp(image, &m);
	assert_int_equal(n, m);
	assert_memory_equal(a, b, n);

	const char *info[] = {"info", file}, *show[] = {"show", file};
	_cleanup_free_ char *brief = run(2, info, &r, &err);
	assert_string_equal(brief, "{\n    \"magic\": \"FS\",\n    \"count\": 1,\n    \"bytes\": 16\n}\n");
	_cleanup_free_ char *pretty = run(2, show, &r, &err);
	assert_non_null(strstr(pretty, "            \"cwd_id\": 1,\n"));
}

static void verbs_that_are_refused(void **state)
{
	static const struct {
		const char *argv[4];
		int code;
		enum ferry_error_id id;
	} cases[] = {
		{{"peel"}, -EINVAL, FERRY_ERROR_USAGE},
		{{"decode", "--nope"}, -EINVAL, FERRY_ERROR_USAGE},
		{{"decode", "-o"}, -EINVAL, FERRY_ERROR_USAGE},
		{{"decode", "a", "b"}, -EINVAL, FERRY_ERROR_USAGE},
		{{"decode", "/"}, -EISDIR, FERRY_ERROR_USAGE},
		{{"verify"}, -EINVAL, FERRY_ERROR_USAGE},
		{{"verify", "/nonexistent/x"}, -ENOENT, FERRY_ERROR_IMAGE_MISSING},
		{{"show", "/nonexistent/x"}, -ENOENT, FERRY_ERROR_IMAGE_MISSING},
		{{"encode", "/dev/null"}, -EBADMSG, FERRY_ERROR_IMAGE_BAD},
		{{"decode", "/dev/null"}, -EBADMSG, FERRY_ERROR_IMAGE_BAD},
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		int r, argc = 0;
		struct ferry_error err = FERRY_ERROR_INIT;
		while (argc < 4 && cases[i].argv[argc])
			argc++;
		unused _cleanup_free_ char *text = run(argc, (const char **)cases[i].argv, &r, &err);
		assert_int_equal(r, cases[i].code);
		assert_int_equal(err.id, cases[i].id);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)
	const struct CMUnitTest tests[] = {
		TEST(no_contradiction),
		TEST(every_contradiction_is_named),
		TEST(damaged_files_are_findings),
		TEST(overview_and_info),
		TEST(verbs_on_files),
		TEST(verbs_that_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
