/* SPDX-License-Identifier: Apache-2.0 */
/* What ferry knows of 32-bit programs: their files, their vdso, and which of them are none of this processor's. */
#include "unit.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "host/vdso.h"
#include "kind/buildid.h"
#include "kind/kinds.h"
#include "model/kind.h"
#include "proc/status.h"

enum { PATH_BYTES = 240 };

/* An ELF file of 32 bits with one segment, of notes, that has a build id. */
struct narrow_file {
	Elf32_Ehdr head;
	Elf32_Phdr segment;
	Elf32_Nhdr note;
	char name[4];
	unsigned char id[20];
};

static struct narrow_file narrow_file(uint16_t machine)
{
	struct narrow_file f = {
		.head = {.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS32, ELFDATA2LSB},
			 .e_type = ET_EXEC,
			 .e_machine = machine,
			 .e_phoff = offsetof(struct narrow_file, segment),
			 .e_phentsize = sizeof(Elf32_Phdr),
			 .e_phnum = 1},
		.segment = {.p_type = PT_NOTE,
			    .p_offset = offsetof(struct narrow_file, note),
			    .p_filesz = sizeof(struct narrow_file) - offsetof(struct narrow_file, note)},
		.note = {.n_namesz = 4, .n_descsz = 20, .n_type = NT_GNU_BUILD_ID},
		.name = "GNU",
	};

	for (unsigned i = 0; i < sizeof(f.id); i++)
		f.id[i] = (unsigned char)(3 * i + 1);
	return f;
}

/* A folder with a file of this name. */
static int folder_with(char path[static PATH_BYTES], const char *name, const struct narrow_file *f)
{
	unit_temporary(path, PATH_BYTES, "narrow");
	assert_non_null(mkdtemp(path));
	int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(dir >= 0);
	int fd = openat(dir, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, f, sizeof(*f)), sizeof(*f));
	close(fd);
	return dir;
}

static void folder_remove(const char *path, int dir, const char *name)
{
	unlinkat(dir, name, 0);
	close(dir);
	rmdir(path);
}

static void test_build_id(void **state)
{
	struct narrow_file f = narrow_file(EM_386);
	uint32_t words[BUILDID_WORDS] = {0};
	char path[PATH_BYTES], file[PATH_BYTES + 16];

	(void)state;
	int dir = folder_with(path, "program", &f);
	snprintf(file, sizeof(file), "%s/program", path);
	assert_int_equal(buildid_read(file, words), 5);
	assert_memory_equal(words, f.id, sizeof(f.id));
	folder_remove(path, dir, "program");

	f.head.e_phoff = 0xfffffff0u;
	dir = folder_with(path, "program", &f);
	snprintf(file, sizeof(file), "%s/program", path);
	assert_int_equal(buildid_read(file, words), 0);
	folder_remove(path, dir, "program");
}

/* x32: files of 32 bits for this processor's 64-bit code. */
static void test_machines(void **state)
{
	static const struct {
		uint16_t machine;
		int result;
	} cases[] = {{EM_386, 0}, {EM_X86_64, -ENOTSUP}};
	struct proc_status status = {.name = "narrow"};
	char path[PATH_BYTES];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct ferry_error err = FERRY_ERROR_INIT;
		const struct kind_options options = {0};
		const struct narrow_file f = narrow_file(cases[i].machine);
		int dir = folder_with(path, "exe", &f);
		assert_int_equal(kind_regs.check_task(7, dir, &status, &options, &err), cases[i].result);
		if (cases[i].result) {
			assert_int_equal(err.id, FERRY_ERROR_UNSUPPORTED_TASK);
			assert_non_null(strstr(err.message, "x32"));
		}
		folder_remove(path, dir, "exe");
	}
}

/* Length of an image: up to the last of section headers and contents. */
static void test_vdso_bytes(void **state)
{
	struct {
		Elf32_Ehdr head;
		Elf32_Shdr section;
		unsigned char rest[200];
	} image = {
		.head = {.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS32},
			 .e_shoff = sizeof(Elf32_Ehdr),
			 .e_shentsize = sizeof(Elf32_Shdr),
			 .e_shnum = 1},
		.section = {.sh_type = SHT_PROGBITS, .sh_offset = 150, .sh_size = 10},
	};
	const unsigned char *bytes = (const unsigned char *)&image;

	(void)state;
	assert_true(vdso_is_32(bytes, sizeof(image)));
	assert_int_equal(vdso_elf_bytes(bytes, sizeof(image)), 160);
	image.section.sh_type = SHT_NOBITS;
	assert_int_equal(vdso_elf_bytes(bytes, sizeof(image)), sizeof(Elf32_Ehdr) + sizeof(Elf32_Shdr));
	image.section.sh_type = SHT_PROGBITS;
	image.section.sh_size = 0xffffffffu;
	assert_int_equal(vdso_elf_bytes(bytes, sizeof(image)), sizeof(Elf32_Ehdr) + sizeof(Elf32_Shdr));
	image.head.e_shoff = sizeof(image);
	assert_int_equal(vdso_elf_bytes(bytes, sizeof(image)), 0);
	image.head.e_shentsize = 8;
	assert_int_equal(vdso_elf_bytes(bytes, sizeof(image)), 0);
	image.head.e_ident[EI_CLASS] = 9;
	assert_int_equal(vdso_elf_bytes(bytes, sizeof(image)), 0);
}

static void test_vdso(void **state)
{
	static struct vdso32 found;
	struct ferry_error err = FERRY_ERROR_INIT;
	struct vdso own;

	(void)state;
	if (vdso_find_32(&found, &err) < 0) {
		assert_int_equal(err.id, FERRY_ERROR_KERNEL_FEATURE);
		skip();
	}
	assert_true(vdso_is_32(found.v.image, found.v.code_bytes));
	assert_true(found.v.start < found.v.code && found.v.code < found.v.end);
	assert_true(found.v.slack && found.v.slack <= found.v.code_bytes);
	/* The look has left this process as it was. */
	assert_int_equal(vdso_find(&own, &err), 0);
	assert_false(vdso_is_32(own.image, own.code_bytes));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_build_id),
		cmocka_unit_test(test_machines),
		cmocka_unit_test(test_vdso_bytes),
		cmocka_unit_test(test_vdso),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
